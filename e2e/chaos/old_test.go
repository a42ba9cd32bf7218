package chaos

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"aegis.io/aegis/e2e/aegis"
	"aegis.io/aegis/e2e/cluster"
	"aegis.io/aegis/e2e/monitoring"
	"aegis.io/aegis/e2e/nodesim"
	"aegis.io/aegis/e2e/testenv"
	"aegis.io/aegis/ticket"
)

const (
	oldNodes, youngNodes = 2000, 20
	// decidesWithin is how long a decision may be due.
	decidesWithin = time.Second
	oldWithin     = 3 * time.Minute
	oldLeads      = 30 * time.Second
	askEvery      = 250 * time.Millisecond
)

// TestDecidesBesideOldHistories lets nodes fall ill beside 2,000 that have been repaired as often as a history holds. No decision is due for
// longer than a second, neither then nor after the leader was killed.
func TestDecidesBesideOldHistories(t *testing.T) {
	w := oldWorld(t)
	for i := range youngNodes {
		require.NoError(t, w.env.Sim.Inject(young(i), nodesim.Injection{Fault: nodesim.MemoryPressure}))
	}
	due := w.dueUntil("every sick node has a ticket", w.ticketed)
	t.Logf("the oldest decision was due for %s", due)
	require.Less(t, due, decidesWithin)
	require.NoError(t, w.env.Aegis[0].Kill9())
	require.NoError(t, w.env.Aegis[0].Start(t.Context()))
	began := time.Now()
	due = w.dueUntil("the new leader has led for a while", func(context.Context) bool { return time.Since(began) > oldLeads })
	t.Logf("after a crash the oldest decision was due for %s", due)
	require.Less(t, due, decidesWithin)
}

func young(i int) string { return fmt.Sprintf("young-%02d", i) }

func oldWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, service: newService(t)}
	var nodes []cluster.Node
	for i := range youngNodes {
		nodes = append(nodes, cluster.Node{Name: young(i)})
	}
	var err error
	w.env, err = testenv.Start(t.Context(), testenv.Options{
		Dir: logDir(t), Nodes: nodes, Compress: monitoring.FastRules(), Interval: 2 * time.Second,
		// The old nodes report nothing, and are believed for so long.
		Heartbeat: 30 * time.Second, NodeMonitorGrace: time.Hour,
		Config: func(c *aegis.Config) {
			c.Overlay = policies
			c.Pools = []aegis.Pool{{Name: "all", MaxOutOfServicePercent: new(100), StormPercent: new(100)}}
		},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.env.Stop()) })
	w.client = w.env.Cluster.Client()
	w.addOldNodes()
	return w
}

// addOldNodes adds nodes that are ready and have full histories, and waits until Aegis counts them.
func (w *world) addOldNodes() {
	w.t.Helper()
	var old []cluster.Node
	for i := range oldNodes {
		old = append(old, cluster.Node{
			Name: fmt.Sprintf("old-%04d", i), Annotations: map[string]string{ticket.HistoryAnnotation: past(i)},
		})
	}
	require.NoError(w.t, w.env.Cluster.AddNodes(w.t.Context(), old))
	var writers sync.WaitGroup
	errs := make(chan error, len(old))
	for k := range 8 {
		writers.Go(func() {
			for i := k; i < len(old); i += 8 {
				errs <- w.ready(old[i].Name)
			}
		})
	}
	writers.Wait()
	close(errs)
	for err := range errs {
		require.NoError(w.t, err)
	}
}

// ready says of a node without a machine that it is ready.
func (w *world) ready(name string) error {
	const ready = `{"status":{"conditions":[{"type":"Ready","status":"True","reason":"Old","lastHeartbeatTime":%[1]q,"lastTransitionTime":%[1]q}]}}`
	_, err := w.client.CoreV1().Nodes().Patch(w.t.Context(), name, types.StrategicMergePatchType,
		fmt.Appendf(nil, ready, time.Now().UTC().Format(time.RFC3339)), metav1.PatchOptions{}, "status")
	return err
}

// dueUntil waits for the condition, and returns for how long a decision was due meanwhile at most.
func (w *world) dueUntil(what string, holds func(context.Context) bool) (most time.Duration) {
	w.t.Helper()
	for began := time.Now(); !holds(w.t.Context()); {
		if time.Since(began) > oldWithin {
			w.t.Fatalf("waited %s until %s", oldWithin, what)
		}
		if value, err := w.env.Aegis[0].Value(w.t.Context(), "aegis_queue_oldest_due_seconds", nil); err == nil {
			most = max(most, time.Duration(value*float64(time.Second)))
		}
		require.NoError(w.t, pause(w.t.Context(), askEvery))
	}
	return most
}

// ticketed reports whether every sick node has had a ticket.
func (w *world) ticketed(ctx context.Context) bool {
	return w.youngNodesAre(ctx, func(n *corev1.Node) bool {
		r := ticket.ReadNode(n)
		return r.Ticket != nil || n.Annotations[ticket.HistoryAnnotation] != ""
	})
}

func (w *world) youngNodesAre(ctx context.Context, is func(*corev1.Node) bool) bool {
	for i := range youngNodes {
		node, err := w.client.CoreV1().Nodes().Get(ctx, young(i), metav1.GetOptions{})
		if err != nil || !is(node) {
			return false
		}
	}
	return true
}
