package policy

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// DisableLabel excludes a node while its value is "true".
const DisableLabel = "aegis.io/disable"

// Settings is what operators set for all conditions. They may change while procedures run.
type Settings struct {
	// Paused holds everything that may disturb workload, on every node.
	Paused bool
	// ManageControlPlane allows Aegis to repair control-plane nodes.
	ManageControlPlane bool
	// IntakeTaints wait for a check on nodes of all pools.
	IntakeTaints []IntakeTaint
	// Pools are the groups of nodes with limits of their own. A node belongs to the first one that selects it.
	Pools []Pool
	// Cluster bounds all nodes together, whatever their pools. One without a name sets no bound.
	Cluster Pool
}

// The names that no configured pool may have: DefaultName is that of the nodes that no pool selects, ClusterName that of all nodes.
const (
	DefaultName = "default"
	ClusterName = "cluster"
)

// Pool is a group of nodes with limits of its own.
type Pool struct {
	// Name is told to people and to the healthcheck.
	Name string
	// Selector finds the nodes of the pool by their labels.
	Selector labels.Selector
	// MaxPercent and MaxNodes bound how many nodes of the pool may be out of service, whoever took them out. The smaller
	// one wins, but one node is always allowed. Zero MaxNodes sets no absolute bound.
	MaxPercent, MaxNodes int
	// MaxDestructive bounds how many destructive steps may run in the pool at the same time, MaxDestructivePercent by the share of its
	// nodes. The smaller one wins, but one step is always allowed. Zero sets no such bound.
	MaxDestructive, MaxDestructivePercent int
	// StormPercent and StormNodes are how many nodes one condition may begin on within StormWindow; on more it is a storm. The
	// smaller one wins; zero sets no bound. A storm is over when for StormRelease the condition holds on no more than half of that.
	StormPercent, StormNodes  int
	StormWindow, StormRelease time.Duration
	// MaxIncidents bounds how often a node is repaired within IncidentWindow before people look at it, MaxRepeats how often in a
	// row for the same condition. Zero sets no bound.
	MaxIncidents, MaxRepeats int
	IncidentWindow           time.Duration
	// Windows are when disruptive steps may begin. None means at any time.
	Windows []Window
	// Profile says what a healthcheck of these nodes has to find.
	Profile string
	// IntakeTaints wait for a check on nodes of this pool, besides those of all pools.
	IntakeTaints []IntakeTaint
}

// DefaultPool holds the nodes that no configured pool selects, with the limits of a pool that sets none.
func DefaultPool() Pool {
	return Pool{
		Name: DefaultName, Selector: labels.Everything(), MaxPercent: 10, MaxDestructive: 1,
		StormPercent: 20, StormWindow: 10 * time.Minute, StormRelease: 5 * time.Minute,
		MaxIncidents: 5, MaxRepeats: 3, IncidentWindow: 7 * 24 * time.Hour, Profile: "default",
	}
}

// DefaultCluster bounds all nodes together where nothing else is configured.
func DefaultCluster() Pool {
	p := DefaultPool()
	return Pool{
		Name: ClusterName, Selector: labels.Everything(), MaxPercent: p.MaxPercent, MaxDestructivePercent: 2,
		StormPercent: p.StormPercent, StormWindow: p.StormWindow, StormRelease: p.StormRelease,
	}
}

// PoolOf returns the pool of the node.
func (s Settings) PoolOf(node *corev1.Node) Pool {
	for _, p := range s.Pools {
		if p.Selector.Matches(labels.Set(node.Labels)) {
			return p
		}
	}
	return DefaultPool()
}

// PoolNamed returns the pool of the name, the default one if there is none. The whole cluster has a name as well.
func (s Settings) PoolNamed(name string) Pool {
	if name == ClusterName {
		return s.Cluster
	}
	for _, p := range s.Pools {
		if p.Name == name {
			return p
		}
	}
	return DefaultPool()
}

// Allowed is how many of the pool's nodes may be out of service.
func (p Pool) Allowed(size int) int {
	n := size * p.MaxPercent / 100
	if p.MaxNodes > 0 {
		n = min(n, p.MaxNodes)
	}
	return max(1, n)
}

// Slots is how many destructive steps may run in the pool at the same time.
func (p Pool) Slots(size int) int {
	n := p.MaxDestructive
	if p.MaxDestructivePercent > 0 {
		share := size * p.MaxDestructivePercent / 100
		if n = min(n, share); p.MaxDestructive == 0 {
			n = share
		}
	}
	return max(1, n)
}

// Title names the pool, or the cluster, in a sentence.
func (p Pool) Title() string {
	if p.Name == ClusterName {
		return "the cluster"
	}
	return "pool " + p.Name
}

// Excluded reports whether a person has taken the node out of the hands of Aegis.
func Excluded(node *corev1.Node) bool { return node.Labels[DisableLabel] == "true" }

// IsControlPlane reports whether the node runs, or may run, the control plane.
func IsControlPlane(node *corev1.Node) bool {
	for _, key := range []string{
		"node-role.kubernetes.io/control-plane",
		"node-role.kubernetes.io/master",
		"node-role.kubernetes.io/controlplane",
		"node-role.kubernetes.io/etcd",
		"node.kubernetes.io/control-plane",
	} {
		if _, found := node.Labels[key]; found {
			return true
		}
		for _, taint := range node.Spec.Taints {
			if taint.Key == key {
				return true
			}
		}
	}
	role := node.Labels["kubernetes.io/role"]
	return role == "master" || role == "control-plane"
}

// IsReady reports whether the kubelet says that the node can run pods.
func IsReady(node *corev1.Node) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
