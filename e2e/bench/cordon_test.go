// Package bench measures Aegis on the end-to-end cluster, each time next to the bare cost in the same run. It has a cluster of
// its own, so that nothing else is measured with it.
package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"aegis.io/aegis/e2e/aegis"
	"aegis.io/aegis/e2e/cluster"
	"aegis.io/aegis/e2e/monitoring"
	"aegis.io/aegis/e2e/nodesim"
	"aegis.io/aegis/e2e/testenv"
	"aegis.io/aegis/sop"
	"aegis.io/aegis/ticket"
)

const (
	benchNodes = 200
	// startWithin includes a build from nothing on a small machine.
	startWithin = 40 * time.Minute
	within      = 2 * time.Minute
)

// TestTimeToCordon prints how long it takes, on 200 nodes whose alerts come at once, from a node's webhook until it is
// cordoned and carries its ticket, next to the bare PATCH that does the same, 200 at once in the same run. The ratio has no
// bound here, because two numbers from a shared machine are no test; what is tested is that every node is cordoned, in one
// write each.
func TestTimeToCordon(t *testing.T) {
	var nodes []cluster.Node
	for i := range benchNodes {
		// Without GPUs, whose thousands of series Prometheus would scrape every second on the same cores.
		nodes = append(nodes, cluster.Node{Name: fmt.Sprintf("bench-%03d", i)})
	}
	ctx, cancel := context.WithTimeout(t.Context(), startWithin)
	defer cancel()
	r := newRelay(t)
	l, err := testenv.Start(ctx, testenv.Options{
		Dir: t.TempDir(), Nodes: nodes, Compress: monitoring.FastRules(),
		Heartbeat: 30 * time.Second, NodeMonitorGrace: 2 * time.Minute, Webhook: r.through,
		Config: func(c *aegis.Config) {
			// So many nodes that fall ill at once would be a storm, which holds them.
			c.Pools = []aegis.Pool{{Name: "all", MaxOutOfServicePercent: new(100), StormPercent: new(100)}}
			// The webhook is to be the only way in, and nothing but it the load.
			c.ResyncInterval, c.PollInterval = time.Hour, 10*time.Second
		},
	})
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Stop()) }()

	client := l.Cluster.Client()
	watch, unwatch := context.WithCancel(ctx)
	defer unwatch()
	w := watchNodes(watch, t, client)
	bare := barePatches(t, client, nodes)
	for _, n := range nodes {
		require.NoError(t, l.Sim.Inject(n.Name, nodesim.Injection{Fault: nodesim.MemoryPressure}))
	}
	healed := w.cordoned(t, r)
	unwatch()

	t.Logf("%d nodes at once      p50        p99", benchNodes)
	t.Logf("bare PATCH            %-10s %s", percentile(bare, 50), percentile(bare, 99))
	t.Logf("webhook to cordoned   %-10s %s", percentile(healed, 50), percentile(healed, 99))
	t.Logf("ratio                 %-10.2f %.2f", ratio(healed, bare, 50), ratio(healed, bare, 99))
	requireOneWriteEach(t, l)
}

// barePatches makes the same change to every node at once and returns how long each took from the start.
func barePatches(t *testing.T, client kubernetes.Interface, nodes []cluster.Node) []time.Duration {
	t.Helper()
	var mu sync.Mutex
	var took []time.Duration
	patch := func(name string, unschedulable bool, note any) error {
		body, err := json.Marshal(map[string]any{
			"metadata": map[string]any{"annotations": map[string]any{"bench.aegis.io/note": note}},
			"spec":     map[string]any{"unschedulable": unschedulable},
		})
		if err != nil {
			return err
		}
		_, err = client.CoreV1().Nodes().Patch(t.Context(), name, types.MergePatchType, body, metav1.PatchOptions{})
		return err
	}
	began := time.Now()
	errs := make(chan error, len(nodes))
	for _, n := range nodes {
		go func() {
			err := patch(n.Name, true, strings.Repeat("x", 400))
			mu.Lock()
			took = append(took, time.Since(began))
			mu.Unlock()
			errs <- err
		}()
	}
	for range nodes {
		require.NoError(t, <-errs)
	}
	for _, n := range nodes {
		require.NoError(t, patch(n.Name, false, nil))
	}
	slices.Sort(took)
	return took
}

// relay passes the notifications of Alertmanager on to Aegis and notes when the first one of each node came.
type relay struct {
	server *httptest.Server
	mu     sync.Mutex
	target string
	first  map[string]time.Time
	// refused counts the notifications that Aegis asked to be sent again.
	refused int
	failed  error
}

// notification is what the relay reads of a webhook. Alertmanager groups by node, so its alerts are of one.
type notification struct {
	CommonLabels map[string]string `json:"commonLabels"`
}

func newRelay(t *testing.T) *relay {
	t.Helper()
	r := &relay{first: make(map[string]time.Time)}
	r.server = httptest.NewServer(http.HandlerFunc(r.pass))
	t.Cleanup(r.server.Close)
	return r
}

// through makes the relay stand before Aegis.
func (r *relay) through(aegis string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.target = aegis
	return r.server.URL
}

func (r *relay) pass(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	var n notification
	err = errors.Join(err, json.Unmarshal(body, &n))
	r.mu.Lock()
	if node := n.CommonLabels["node"]; n.CommonLabels["condition"] == "MemoryPressure" && r.first[node].IsZero() {
		r.first[node] = time.Now()
	}
	r.failed = errors.Join(r.failed, err)
	r.mu.Unlock()
	resp, err := http.Post(r.target, "application/json", bytes.NewReader(body))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	if resp.StatusCode == http.StatusServiceUnavailable {
		r.mu.Lock()
		r.refused++
		r.mu.Unlock()
	}
	w.WriteHeader(resp.StatusCode)
	if err := resp.Body.Close(); err != nil {
		r.mu.Lock()
		r.failed = errors.Join(r.failed, err)
		r.mu.Unlock()
	}
}

// came returns when the first notification of the node came.
func (r *relay) came(t *testing.T, node string) time.Time {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	require.NoError(t, r.failed)
	require.Contains(t, r.first, node)
	return r.first[node]
}

// nodeWatch notes when each node is first seen cordoned with a ticket.
type nodeWatch struct {
	mu   sync.Mutex
	seen map[string]time.Time
}

func watchNodes(ctx context.Context, t *testing.T, client kubernetes.Interface) *nodeWatch {
	t.Helper()
	w := &nodeWatch{seen: make(map[string]time.Time)}
	factory := informers.NewSharedInformerFactory(client, 0)
	informer := factory.Core().V1().Nodes().Informer()
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{UpdateFunc: func(_, object any) {
		if node, ok := object.(*corev1.Node); ok && node.Spec.Unschedulable && node.Annotations[ticket.Annotation] != "" {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.seen[node.Name].IsZero() {
				w.seen[node.Name] = time.Now()
			}
		}
	}})
	require.NoError(t, err)
	factory.Start(ctx.Done())
	require.True(t, cache.WaitForCacheSync(ctx.Done(), informer.HasSynced))
	return w
}

// cordoned waits for all nodes and returns how long each took since its notification. A node whose alert a resync saw before
// its notification came took no time.
func (w *nodeWatch) cordoned(t *testing.T, r *relay) []time.Duration {
	t.Helper()
	require.Eventually(t, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.seen) == benchNodes
	}, within, 10*time.Millisecond)
	w.mu.Lock()
	defer w.mu.Unlock()
	var took []time.Duration
	early := 0
	for node, at := range w.seen {
		d := at.Sub(r.came(t, node))
		if d < 0 {
			early++
		}
		took = append(took, max(d, 0))
	}
	t.Logf("%d of %d nodes were cordoned before their own notification came, %d notifications were put off", early, benchNodes, r.refused)
	slices.Sort(took)
	return took
}

// requireOneWriteEach reads from the journals that cordon, owner note and ticket came together: the cordon is the first step
// of every ticket, and the note names that very ticket.
func requireOneWriteEach(t *testing.T, l *testenv.Environment) {
	t.Helper()
	events, err := l.Cluster.Audit()
	require.NoError(t, err)
	writes := make(map[string]int)
	for _, e := range events {
		// The marks of the node are written apart, and when there is time for it.
		marks := bytes.Contains(e.Request, []byte(sop.LoadAffectedLabel))
		if e.User == cluster.AegisUser && e.Verb == "patch" && e.Resource == "nodes" && e.Code == http.StatusOK && !marks {
			writes[e.Name]++
		}
	}
	for i := range benchNodes {
		name := fmt.Sprintf("bench-%03d", i)
		node, err := l.Cluster.Client().CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
		require.NoError(t, err)
		r := ticket.ReadNode(node)
		require.NoError(t, r.Broken)
		require.NotNil(t, r.Ticket)
		require.Equal(t, "aegis/"+r.Ticket.ID, node.Annotations[ticket.OwnerAnnotation])
		require.LessOrEqual(t, writes[name], 2, "one write cordons, one begins the next step")
	}
}

func percentile(sorted []time.Duration, p int) time.Duration {
	return sorted[(len(sorted)-1)*p/100].Round(time.Millisecond)
}

func ratio(ours, bare []time.Duration, p int) float64 {
	return float64(percentile(ours, p)) / float64(max(percentile(bare, p), time.Millisecond))
}
