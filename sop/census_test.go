package sop

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"

	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// Miscounted says what the account of the nodes has otherwise than a count of all of them, as they were last seen or written. What
// changes meanwhile is no difference.
func (d *Dispatcher) Miscounted() (differences []string) {
	for range 5 {
		if differences = d.recount(); len(differences) == 0 {
			return nil
		}
	}
	return differences
}

func (c *census) hasLoaded() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.loaded
}

func (d *Dispatcher) recount() (differences []string) {
	nodes, err := d.services.Nodes.List(labels.Everything())
	if err != nil {
		return []string{err.Error()}
	}
	for i := range nodes {
		nodes[i] = d.latest(nodes[i])
	}
	settings := d.services.census.catchUp()
	if !d.services.census.hasLoaded() {
		return nil // Nobody goes by the counts before the term has read what people have ordered.
	}
	for pool, want := range countOf(nodes, settings) {
		if got := d.services.census.sumOf(pool); fmt.Sprint(got) != fmt.Sprint(*want) {
			differences = append(differences, fmt.Sprintf("pool %q: counted %+v, has %+v", pool, got, *want))
		}
	}
	return differences
}

// countOf counts the nodes of each pool from scratch.
func countOf(nodes []*corev1.Node, settings policy.Settings) map[string]*headcount {
	counts := map[string]*headcount{policy.ClusterName: new(headcount)}
	for _, p := range settings.Pools {
		counts[p.Name] = new(headcount)
	}
	for _, node := range nodes {
		pool := settings.PoolOf(node).Name
		if counts[pool] == nil {
			counts[pool] = new(headcount)
		}
		t := ticket.ReadNode(node).Ticket
		runs := func(s ticket.Step) bool { return s.Action.Destructive() }
		for _, h := range []*headcount{counts[pool], counts[policy.ClusterName]} {
			h.size++
			if node.Spec.Unschedulable || !policy.IsReady(node) {
				h.out = append(h.out, node.Name)
			}
			if t != nil && t.Open() && slices.ContainsFunc(t.Running(), runs) || recorded(node) {
				h.destroying = append(h.destroying, node.Name)
			}
		}
	}
	for _, h := range counts {
		slices.Sort(h.out)
		slices.Sort(h.destroying)
	}
	return counts
}

// recorded reports whether a destructive step runs by the record of the node.
func recorded(node *corev1.Node) bool {
	return slices.ContainsFunc(ticket.Record{Node: node}.Runs(), func(r ticket.Run) bool { return r.Action.Destructive() })
}

// fickle is a cluster whose nodes change at random, and the account of them.
type fickle struct {
	*census
	rng      *rand.Rand
	nodes    map[string]*corev1.Node
	version  int
	texts    []string
	settings policy.Settings
}

func newFickle(t *testing.T, seed uint64) *fickle {
	t.Helper()
	destroying, theirs := ownTicket("GpuHung"), ownTicket("GpuHung")
	require.NoError(t, destroying.Record(ticket.Reboot, 1, ticket.Running, time.Now(), ""))
	theirs.Supervisor = "alice"
	taken := destroying.Clone()
	taken.Supervisor = "alice"
	f := &fickle{
		rng: rand.New(rand.NewPCG(seed, 1)), nodes: make(map[string]*corev1.Node),
		texts: []string{"", "{hands off", encoded(t, ownTicket("GpuHung")), encoded(t, destroying), encoded(t, theirs), encoded(t, taken)},
	}
	f.census = newCensus(nil, ticket.NewStore(ticket.StoreOptions{}), func() policy.Settings { return f.settings })
	f.pools(2)
	return f
}

// pools sets as many pools, by the label of that name.
func (f *fickle) pools(n int) {
	f.settings.Pools = nil
	for i := range n {
		name := fmt.Sprint("p", i)
		f.settings.Pools = append(f.settings.Pools, policy.Pool{Name: name, Selector: labels.SelectorFromSet(labels.Set{"pool": name})})
	}
}

// change changes a node, or lets it come or go, as the cache or a write of ours tells it.
func (f *fickle) change() {
	name := fmt.Sprint("n", f.rng.IntN(12))
	before := f.nodes[name]
	f.version++
	if before != nil && f.rng.IntN(8) == 0 {
		delete(f.nodes, name)
		f.see(before, nil)
		f.wrote(before)
		return
	}
	after := testNode(name, types.UID(fmt.Sprint(name, "-", f.version)))
	if before != nil {
		after = before.DeepCopy()
	}
	after.ResourceVersion = fmt.Sprint(100 + f.version)
	after.Labels = map[string]string{"pool": fmt.Sprint("p", f.rng.IntN(4))}
	after.Spec.Unschedulable = f.rng.IntN(2) == 0
	setReady(after, []corev1.ConditionStatus{corev1.ConditionTrue, corev1.ConditionUnknown}[f.rng.IntN(2)])
	after.Annotations = nil
	if text := f.texts[f.rng.IntN(len(f.texts))]; text != "" {
		after.Annotations = map[string]string{ticket.Annotation: text}
	}
	f.nodes[name] = after
	switch {
	case before == nil || f.rng.IntN(2) == 0:
		f.see(before, after)
	default:
		f.wrote(after)
		f.see(nil, before) // The cache is behind.
	}
}

// Whatever is told of nodes, by the cache or by our own writes, and whenever the pools change: the account is what a count of all nodes is.
func TestTheAccountIsThatOfARecount(t *testing.T) {
	t.Parallel()
	for seed := range uint64(30) {
		f := newFickle(t, seed)
		for range 200 {
			for range 1 + f.rng.IntN(5) {
				f.change()
			}
			if f.rng.IntN(10) == 0 {
				f.pools(f.rng.IntN(4))
			}
			f.catchUp()
			var nodes []*corev1.Node
			for _, node := range f.nodes {
				nodes = append(nodes, node)
			}
			want := countOf(nodes, f.settings)
			for _, pool := range append(f.inhabited(), "p0", "p1", "p2", policy.ClusterName) {
				if want[pool] == nil {
					want[pool] = new(headcount)
				}
				require.Equal(t, fmt.Sprint(*want[pool]), fmt.Sprint(f.sumOf(pool)), "seed %d pool %s", seed, pool)
			}
		}
	}
}

// A machine that has the name of one that is gone is counted by itself, however late the news of the old one come.
func TestNewsOfAnotherMachineAreNotCounted(t *testing.T) {
	t.Parallel()
	f := newFickle(t, 1)
	old, new := testNode("n0", "uid-1"), testNode("n0", "uid-2")
	old.ResourceVersion, new.ResourceVersion = "5", "9"
	f.see(nil, new)
	f.catchUp()
	f.see(old, nil)
	f.catchUp()
	require.Len(t, f.all(), 1, "the old one is gone, not the new one")
	cordoned := old.DeepCopy()
	cordoned.ResourceVersion, cordoned.Spec.Unschedulable = "11", true
	f.wrote(cordoned)
	f.catchUp()
	require.False(t, f.of("n0").out())
}

// countingNodes counts how often all nodes are listed.
type countingNodes struct {
	corelisters.NodeLister
	lists atomic.Int64
}

func (c *countingNodes) List(s labels.Selector) ([]*corev1.Node, error) {
	c.lists.Add(1)
	return c.NodeLister.List(s)
}

// agedFleet returns a world of nodes with full histories, some of them with people.
func agedFleet(t *testing.T, size int) (*world, *countingNodes) {
	t.Helper()
	theirs := ownTicket("GpuHung")
	theirs.Supervisor = "alice"
	var nodes []runtime.Object
	for i := range size {
		node := testNode(fmt.Sprintf("n%04d", i), types.UID(fmt.Sprint("uid-", i)))
		if i == 0 {
			node = testNode(nodeA, nodeUID)
		}
		node.Annotations = map[string]string{ticket.HistoryAnnotation: agedHistory(t, node.Name)}
		if i%10 == 9 {
			node.Annotations[ticket.Annotation] = strings.Replace(encoded(t, theirs), "t1", "t-"+node.Name, 1)
		}
		nodes = append(nodes, node)
	}
	w := newWorld(t, testPolicy(), nodes...)
	w.setSettings(func(s *policy.Settings) {
		s.Pools = []policy.Pool{
			{Name: "even", Selector: labels.Everything(), MaxPercent: 100, MaxNodes: 4, MaxDestructive: 1, StormNodes: 50, StormWindow: time.Hour},
		}
	})
	counting := &countingNodes{NodeLister: w.nodes}
	w.nodes = counting
	return w, counting
}

// agedHistory returns a history that is full, of incidents of months ago.
func agedHistory(t testing.TB, node string) string {
	t.Helper()
	h := &ticket.History{}
	for i := range ticket.MaxIncidents {
		at := time.Date(1999, 6, 1, i, 0, 0, 0, time.UTC)
		h.Add(ticket.Incident{
			ID: fmt.Sprintf("%s-%d", node, i), Condition: "GpuHung", Device: "GPU-0", SOP: "gpu/reboot", Opened: at, Closed: at.Add(time.Hour),
			Outcome: ticket.Resolved, Isolated: true, Destructive: []ticket.Destructive{{Action: ticket.Reboot, At: at}},
		})
	}
	text, err := h.Encode()
	require.NoError(t, err)
	return text
}

// Six nodes fall ill, wait for each other, are repaired and return, beside 4 others or 994, all with histories that are full: as many
// texts are parsed, and the nodes are listed as often. Nothing is parsed of the others.
func TestParsesDoNotGrowWithTheNodes(t *testing.T) {
	t.Parallel()
	type cost struct{ tickets, histories, lists int64 }
	costs := make(map[int]cost)
	for _, size := range []int{10, 1000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, lister := agedFleet(t, size)
				stop := w.start()
				time.Sleep(time.Minute)
				tickets, histories := w.d.services.Tickets.Parsed()
				lists := lister.lists.Load()
				for i, name := range w.names() {
					if i < 6 {
						w.raiseOn(name, "Reboot")
					}
				}
				time.Sleep(10 * time.Minute)
				after, afterwards := w.d.services.Tickets.Parsed()
				costs[size] = cost{int64(after - tickets), int64(afterwards - histories), lister.lists.Load() - lists}
				require.NotZero(t, w.jobs.total(), "%v", w.verdicts.Node(w.names()[0]))
				stop()
			})
		})
	}
	require.InDelta(t, costs[10].tickets, costs[1000].tickets, 12)
	require.InDelta(t, costs[10].histories, costs[1000].histories, 12, "runs of one node may parse a text at the same time")
	require.InDelta(t, costs[10].lists, costs[1000].lists, 5, "the marks are kept by themselves")
}

// BenchmarkAdmission takes the time of a look for storms and of a destructive admission beside nodes with full histories.
func BenchmarkAdmission(b *testing.B) {
	for _, size := range []int{100, 5000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			l := fleet(size, policy.Pool{MaxPercent: 10, MaxDestructive: 1}, func(i int, n *corev1.Node) {
				n.Annotations = map[string]string{ticket.HistoryAnnotation: agedHistory(b, n.Name)}
				n.Spec.Unschedulable = i%20 == 0
			})
			node := testNode("n1", "")
			for b.Loop() {
				if reason := l.vacancy(policy.Claim{Node: "n1"}, false); reason != "" {
					b.Fatal(reason)
				}
				release, reason := begin(l, node, ticket.Reboot)
				if reason != "" {
					b.Fatal(reason)
				}
				release()
			}
		})
	}
}
