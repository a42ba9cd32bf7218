package sop

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// pooled returns limits over nodes named p0-n0, p0-n1, ... of pools p0, p1, ..., each as wide as can be, and of the cluster.
func pooled(pools, size int, cluster policy.Pool) *line {
	settings := policy.Settings{Cluster: cluster}
	settings.Cluster.Name = policy.ClusterName
	for i := range pools {
		name := fmt.Sprint("p", i)
		settings.Pools = append(settings.Pools, policy.Pool{
			Name: name, Selector: labels.SelectorFromSet(labels.Set{"pool": name}), MaxPercent: 100, MaxDestructive: size,
		})
	}
	w := &line{nodes: make(map[string]*corev1.Node)}
	for i := range pools {
		for k := range size {
			node := testNode(fmt.Sprintf("p%d-n%d", i, k), "")
			node.Labels = map[string]string{"pool": fmt.Sprint("p", i)}
			w.nodes[node.Name] = node
		}
	}
	w.limits = fleet(1, policy.Pool{}, nil)
	w.census.see(testNode("n0", ""), nil)
	for _, node := range w.nodes {
		w.census.see(nil, node)
	}
	w.census.settings = func() policy.Settings { return settings }
	w.waiting.visit = func(node string) { w.woken = append(w.woken, node) }
	return w
}

// Pools that are too small for limits of their own do not add up: the cluster has as many places as its share, and one slot.
func TestTheClusterBoundsItsPools(t *testing.T) {
	t.Parallel()
	w := pooled(30, 3, policy.DefaultCluster())
	var out, destroying int
	for i, name := range slices.Sorted(maps.Keys(w.nodes)) {
		if w.reserve(claimed(name, 3)) == "" {
			out++
		}
		if _, reason := w.slot(claimed(name, 3)); reason == "" {
			destroying++
		} else if i > 0 {
			require.Contains(t, reason, "1 of 1 destructive steps are running in the cluster: p0-n0")
		}
	}
	require.Equal(t, 9, out)
	require.Equal(t, 1, destroying)
	require.Contains(t, w.vacancy(claimed("p9-n2", 3), false),
		"9 of 90 nodes of the cluster are out of service, 9 allowed: p0-n0, p0-n1, p0-n2 and 6 more; 81st of 81 that wait, after p9-n1")
}

func TestSlotsOfTheCluster(t *testing.T) {
	t.Parallel()
	for size, want := range map[int]int{0: 1, 3: 1, 90: 1, 100: 2, 5000: 100} {
		require.Equal(t, want, policy.DefaultCluster().Slots(size), size)
	}
	require.Equal(t, 3, policy.Pool{MaxDestructive: 3, MaxDestructivePercent: 10}.Slots(100))
	require.Equal(t, 3, policy.Pool{MaxDestructive: 3}.Slots(1))
	require.Equal(t, 1, policy.DefaultCluster().Allowed(5))
}

// A place of the cluster that becomes free goes to the most urgent node of all pools that can use it.
func TestAPlaceOfTheClusterGoesToTheMostUrgent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := pooled(3, 2, policy.Pool{MaxNodes: 2, MaxPercent: 100, MaxDestructive: 1})
		settings := w.census.settings()
		settings.Pools[0].MaxNodes = 1 // There is one place in the pool p0.
		require.Empty(t, w.reserve(claimed("p0-n0", 3)))
		require.Empty(t, w.reserve(claimed("p1-n0", 3)))
		require.NotEmpty(t, w.vacancy(claimed("p2-n0", 99), true))
		require.NotEmpty(t, w.vacancy(claimed("p0-n1", 2), true))
		require.NotEmpty(t, w.vacancy(claimed("p1-n1", 50), true))
		require.Empty(t, w.rung())
		w.release("p1-n0", false)
		require.Equal(t, []string{"p1-n1"}, w.rung(), "the more urgent node of the pool p0 has no place there")
		require.Contains(t, w.reserve(claimed("p2-n0", 99)), "1 of 6 nodes of the cluster are out of service, 2 allowed: p0-n0; 3rd of 3 that wait, after p1-n1 (priority 50)")
		require.Empty(t, w.reserve(claimed("p1-n1", 50)))
		w.release("p0-n0", false)
		require.Equal(t, []string{"p0-n1"}, w.rung())
		require.NotEmpty(t, w.reserve(claimed("p2-n0", 99)))
		time.Sleep(DefaultTiming().Hold / 2)
		w.tend()
		require.Equal(t, []string{"p2-n0"}, w.rung(), "the other one did not come")
		require.Empty(t, w.reserve(claimed("p2-n0", 99)))
	})
}

// A node that waits in the cluster is the most urgent one day, whatever comes in other pools.
func TestNobodyWaitsForEverInTheCluster(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := pooled(4, 10, policy.Pool{MaxPercent: 100, MaxDestructive: 1})
		release, reason := w.slot(claimed("p0-n0", 2))
		require.Empty(t, reason)
		patient := policy.Claim{Node: "p3-n0", Priority: 12, FirstSeen: time.Now()}
		for i := 0; ; i++ {
			require.Less(t, i, 100)
			urgent := policy.Claim{Node: fmt.Sprintf("p%d-n%d", i%3, 1+i%8), Priority: 2, FirstSeen: time.Now()}
			for _, c := range []policy.Claim{urgent, patient} {
				_, reason := w.slot(c)
				require.NotEmpty(t, reason)
			}
			release()
			if w.rung()[0] == patient.Node {
				return
			}
			release, reason = w.slot(urgent)
			require.Empty(t, reason)
			w.rung()
			for range 4 {
				time.Sleep(15 * time.Second)
				_, _ = w.slot(patient)
			}
		}
	})
}

// One wrong rule on all nodes of thirty pools, each too small for a storm or a budget of its own, is a storm of the cluster.
func TestARuleThatFiresInAllSmallPoolsIsAStorm(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var nodes []runtime.Object
		var pools []policy.Pool
		for i := range 30 {
			pool := policy.DefaultPool()
			pool.Name = fmt.Sprint("p", i)
			pool.Selector = labels.SelectorFromSet(labels.Set{"pool": pool.Name})
			pools = append(pools, pool)
			for k := range 3 {
				name := fmt.Sprintf("p%d-n%d", i, k)
				if len(nodes) == 0 {
					name = nodeA
				}
				node := testNode(name, types.UID(name))
				node.Labels = map[string]string{"pool": pool.Name}
				nodes = append(nodes, node)
			}
		}
		w := newWorld(t, testPolicy(), nodes...)
		w.setSettings(func(s *policy.Settings) { s.Pools, s.Cluster = pools, policy.DefaultCluster() })
		stop := w.start()
		most := 0
		watch := func(minutes int) {
			for range minutes * 60 {
				time.Sleep(time.Second)
				most = max(most, w.cordoned())
				destroying := 0
				for _, name := range w.names() {
					if r := ticket.ReadNode(w.nodeNamed(name)); r.Ticket != nil {
						if _, destroys := runningDestructive(r.Ticket); destroys {
							destroying++
						}
					}
				}
				require.LessOrEqual(t, destroying, 2)
			}
		}
		for i, name := range w.names() {
			w.raiseOn(name, "Reboot")
			if i%20 == 19 {
				watch(1)
			}
		}
		watch(20)
		require.LessOrEqual(t, most, 9)
		require.LessOrEqual(t, w.jobs.count(protocol.ActionReboot), 3, "those of before it was seen to be a storm")
		require.Len(t, w.d.Storms(), 1)
		require.Equal(t, policy.ClusterName, w.d.Storms()[0].Pool)
		require.Contains(t, w.d.Storms()[0].Why(), "nodes of the cluster at once, and more than 18 are a storm")

		require.NoError(t, w.d.ReleaseStorm(t.Context(), "Reboot", policy.ClusterName, policy.Order{By: "alice"}))
		watch(10)
		require.NotZero(t, w.jobs.count(protocol.ActionReboot))
		require.LessOrEqual(t, most, 9)
		w.source.gone()
		for _, name := range w.names() {
			w.withdraw(prom.Key{Node: name, Condition: "Reboot"})
		}
		time.Sleep(time.Hour)
		require.Empty(t, w.d.Storms())
		stop()
	})
}

// In a cluster of one pool the storm is that of the pool: nobody has to release two.
func TestAStormOfOnePoolIsNoneOfTheCluster(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := stormWorld(t)
		w.setSettings(func(s *policy.Settings) { s.Cluster = policy.DefaultCluster() })
		for _, name := range w.names() {
			w.raiseOn(name, "Reboot")
		}
		stop := w.start()
		time.Sleep(time.Hour)
		require.Len(t, w.d.Storms(), 1)
		require.Equal(t, "test", w.d.Storms()[0].Pool)
		stop()
	})
}
