package chaos

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"aegis.io/aegis/e2e/aegis"
	"aegis.io/aegis/e2e/cluster"
	"aegis.io/aegis/e2e/monitoring"
	"aegis.io/aegis/e2e/testenv"
	"aegis.io/aegis/ticket"
)

const (
	stormNodes = 200
	// stormBudget is how many of them may be out of service.
	stormBudget   = 5
	stormPool     = "all"
	stormRelease  = 5 * time.Second
	stormWithin   = 2 * time.Minute
	stormWatching = 15 * time.Second
)

// wrongRule fires on every node.
const wrongRule = `
groups:
- name: wrong
  rules:
  - alert: GpuHung
    expr: max by (node) (kube_node_info)
    labels: {condition: GpuHung, severity: critical}
    annotations: {summary: GPU hangs., description: "A rule that is wrong fires on node {{ $labels.node }}."}
`

// TestStorm loads a rule that fires on each of 200 nodes. No more than the budget is touched, nothing is booted, people are told
// once, also over a crash, and when the rule is put right everything is given free.
func TestStorm(t *testing.T) {
	s := newStorm(t)
	require.NoError(t, s.env.Monitoring.SetExtraRules(t.Context(), wrongRule))
	s.eventually("the storm is seen", func() bool { return s.active() })
	s.eventually("it holds the others", func() bool { return s.held() >= stormNodes-stormBudget })
	s.watch()
	require.NoError(t, s.env.Aegis[0].Kill9())
	require.NoError(t, s.env.Aegis[0].Start(t.Context()))
	s.eventually("the storm is still known", func() bool { return s.active() && s.held() >= stormNodes-stormBudget })
	s.watch()
	require.NoError(t, s.env.Monitoring.SetExtraRules(t.Context(), ""))
	s.eventually("the storm is over and everything is free", func() bool { return !s.active() && len(s.touched()) == 0 })
	s.eventually("people are told that it is over", func() bool { return len(s.notices("AegisStormOver")) == 1 })
	s.judge()
}

type storm struct {
	*world
}

func newStorm(t *testing.T) storm {
	t.Helper()
	var nodes []cluster.Node
	for i := range stormNodes {
		nodes = append(nodes, cluster.Node{Name: fmt.Sprintf("storm-%03d", i), Pool: stormPool})
	}
	w := &world{t: t, service: newService(t)}
	dir := logDir(t)
	var err error
	w.env, err = testenv.Start(t.Context(), testenv.Options{
		BinDir: withRaceDetector(t, dir), Dir: dir, Nodes: nodes, Compress: monitoring.FastRules(), Interval: 2 * time.Second,
		Heartbeat: 30 * time.Second, NodeMonitorGrace: 2 * time.Minute,
		Config: func(c *aegis.Config) {
			c.Overlay = policies
			c.Pools = []aegis.Pool{{
				Name: stormPool, MaxOutOfServicePercent: new(100), MaxOutOfService: stormBudget, MaxDestructive: new(2),
				StormPercent: new(20), StormWindow: time.Minute, StormRelease: stormRelease,
			}}
		},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.env.Stop()) })
	w.client = w.env.Cluster.Client()
	w.service.forwardTo(w.env.Aegis)
	return storm{w}
}

func (s storm) eventually(what string, holds func() bool) {
	s.t.Helper()
	began := time.Now()
	for !holds() {
		if time.Since(began) > stormWithin {
			s.dump()
			s.t.Fatalf("waited %s until %s: active %t, %d nodes held, touched %v", stormWithin, what, s.active(), s.held(), s.touched())
		}
		require.NoError(s.t, pause(s.t.Context(), tick))
	}
	s.t.Logf("%s after %s", what, time.Since(began).Round(tick))
}

// active reports whether the metric shows the storm. It is not there when there is none.
func (s storm) active() bool {
	value, err := s.env.Aegis[0].Value(s.t.Context(), "aegis_storm_active", map[string]string{"condition": "GpuHung", "pool": stormPool})
	return err == nil && value == 1
}

// held counts the nodes whose verdict is the storm.
func (s storm) held() int {
	views, err := s.views()
	if err != nil {
		return 0
	}
	n := 0
	for _, v := range views {
		for _, c := range v.Conditions {
			if c.Condition == "GpuHung" && c.Verdict == "storm" {
				n++
			}
		}
	}
	return n
}

// touched names the nodes that are cordoned or have a ticket.
func (s storm) touched() []string {
	list, err := s.client.CoreV1().Nodes().List(s.t.Context(), metav1.ListOptions{})
	require.NoError(s.t, err)
	var names []string
	for i := range list.Items {
		if n := &list.Items[i]; n.Spec.Unschedulable || n.Annotations[ticket.Annotation] != "" {
			names = append(names, n.Name)
		}
	}
	return names
}

// notices returns the Events of that reason about the Lease.
func (s storm) notices(reason string) []corev1.Event {
	list, err := s.client.CoreV1().Events(metav1.NamespaceAll).List(s.t.Context(), metav1.ListOptions{FieldSelector: "reason=" + reason})
	require.NoError(s.t, err)
	for _, e := range list.Items {
		require.Equal(s.t, "Lease", e.InvolvedObject.Kind)
	}
	return list.Items
}

// watch makes sure for a while that the storm goes on and nothing more is touched.
func (s storm) watch() {
	s.t.Helper()
	for end := time.Now().Add(stormWatching); time.Now().Before(end); {
		require.True(s.t, s.active())
		require.LessOrEqual(s.t, len(s.touched()), stormBudget)
		require.NoError(s.t, pause(s.t.Context(), tick))
	}
}

// judge reads from the audit log what was touched.
func (s storm) judge() {
	s.t.Helper()
	events, err := s.env.Cluster.Audit()
	require.NoError(s.t, err)
	h := readHistory(s.t, events, &podPlaces{})
	touched := make(map[string]bool)
	for _, v := range h.all {
		if v.byAegis {
			touched[v.node.Name] = true
		}
	}
	require.LessOrEqual(s.t, len(touched), stormBudget)
	for _, a := range h.acts {
		require.True(s.t, touched[a.node], "%s on %s", a.what, a.node)
	}
	require.Empty(s.t, slices.DeleteFunc(h.acts, func(a act) bool { return !a.destructive() }))
	require.Empty(s.t, h.denied)
	s.searchLog(s.env.Aegis[0].LogFile)
	for _, m := range s.env.Sim.States() {
		require.Equal(s.t, 1, m.Boots, m.Node)
	}
	notices := s.notices("AegisStorm")
	require.Len(s.t, notices, 1)
	require.EqualValues(s.t, 1, max(1, notices[0].Count))
	require.True(s.t, strings.HasPrefix(notices[0].Message, "GpuHung"), notices[0].Message)
	s.t.Logf("%d nodes were touched; %s", len(touched), notices[0].Message)
}
