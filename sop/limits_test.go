package sop

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/utils/clock"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"aegis.io/aegis/ticket"

	"aegis.io/aegis/sop/policy"
)

// fleet returns limits over nodes named n0, n1, ... of one pool.
func fleet(size int, pool policy.Pool, change func(i int, n *corev1.Node)) *limits {
	var nodes []*corev1.Node
	for i := range size {
		node := testNode(fmt.Sprintf("n%d", i), "")
		if change != nil {
			change(i, node)
		}
		nodes = append(nodes, node)
	}
	pool.Name, pool.Selector = "p", labels.Everything()
	settings := func() policy.Settings { return policy.Settings{Pools: []policy.Pool{pool}} }
	census := newCensus(nodesOf(nodes...), ticket.NewStore(ticket.StoreOptions{}), settings)
	if err := census.load(); err != nil {
		panic(err)
	}
	return newLimits(Services{Clock: clock.RealClock{}, Timing: DefaultTiming(), Metrics: NewMetrics(prometheus.NewRegistry())}, census, func(string) {})
}

func TestBudgetCountsWhateverIsOutOfService(t *testing.T) {
	t.Parallel()
	l := fleet(20, policy.Pool{MaxPercent: 10}, func(i int, n *corev1.Node) {
		switch i {
		case 0:
			n.Spec.Unschedulable = true
		case 1:
			setReady(n, corev1.ConditionUnknown)
		}
	})
	require.Equal(t, "2 of 20 nodes of pool p are out of service, 2 allowed: n0, n1", l.reserve(policy.Claim{Node: "n2"}))
	require.Empty(t, l.reserve(policy.Claim{Node: "n0"}), "it is out of service already")
	require.Empty(t, l.reserve(policy.Claim{Node: "n1"}))
}

// Whoever asks at the same time, the budget holds.
func TestReservationIsAtomic(t *testing.T) {
	t.Parallel()
	l := fleet(50, policy.Pool{MaxPercent: 10}, nil)
	var granted atomic.Int32
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			if l.reserve(policy.Claim{Node: fmt.Sprintf("n%d", i)}) == "" {
				granted.Add(1)
			}
		})
	}
	all.Wait()
	require.EqualValues(t, 5, granted.Load())
}

// A reservation outlives its procedure until the cache shows the cordon, and no longer than a grace.
func TestReservationBridgesTheCache(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := fleet(2, policy.Pool{MaxPercent: 10}, nil)
		require.Empty(t, l.reserve(policy.Claim{Node: "n0"}))
		require.NotEmpty(t, l.reserve(policy.Claim{Node: "n1"}))
		l.release("n0", true)
		require.NotEmpty(t, l.reserve(policy.Claim{Node: "n1"}), "the cordon is written, the cache does not show it yet")
		time.Sleep(reservationGrace + time.Second)
		require.Empty(t, l.reserve(policy.Claim{Node: "n1"}))
		l.release("n1", false)
		require.Empty(t, l.reserve(policy.Claim{Node: "n0"}), "n1 was left in service")
	})
}

func TestDestructiveStepsInFlight(t *testing.T) {
	t.Parallel()
	running := ownTicket("GpuHung")
	require.NoError(t, running.Record(ticket.Reboot, 1, ticket.Running, time.Now(), ""))
	text, err := running.Encode()
	require.NoError(t, err)
	l := fleet(3, policy.Pool{MaxDestructive: 2}, func(i int, n *corev1.Node) {
		if i == 2 {
			n.Annotations = map[string]string{ticket.Annotation: text}
		}
	})
	n0, n1 := testNode("n0", ""), testNode("n1", "")
	release, reason := begin(l, n0, ticket.Reboot)
	require.Empty(t, reason)
	_, reason = begin(l, n1, ticket.Reset)
	require.Equal(t, "2 of 2 destructive steps are running in pool p: n0, n2", reason, "the journal of another process counts")
	_, reason = begin(l, n1, ticket.Drain)
	require.Empty(t, reason, "a drain is not destructive")
	release()
	_, reason = begin(l, n1, ticket.Reset)
	require.Empty(t, reason)
	l.resume("n0", ticket.Reboot)
	_, reason = begin(l, testNode("n1", ""), ticket.Reset)
	require.NotEmpty(t, reason, "a step that an earlier process began is in flight, room or not")
}

// The names of the first version are the only ones that a linter may find fault with.
func TestMetricsAreLintClean(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewPedanticRegistry()
	m := NewMetrics(reg)
	m.step(ticket.Reboot, ticket.Succeeded, time.Minute)
	m.healed(time.Minute)
	owned, theirs, broken := ownTicket("GpuHung"), ownTicket("GpuHung"), "{hands off"
	theirs.Supervisor = "alice"
	teams := ownTicket("GpuHung")
	teams.Supervisor = "gpu"
	var nodes []*corev1.Node
	for i, text := range []string{encoded(t, owned), encoded(t, theirs), encoded(t, teams), broken, ""} {
		node := testNode(fmt.Sprintf("n%d", i), "")
		if text != "" {
			node.Annotations = map[string]string{ticket.Annotation: text}
		}
		nodes = append(nodes, node)
	}
	census := newCensus(nodesOf(nodes...), ticket.NewStore(ticket.StoreOptions{}), func() policy.Settings { return policy.Settings{} })
	require.NoError(t, census.load())
	reg.MustRegister(NewTicketCollector(&Dispatcher{services: environment{census: census, catalogue: &world{policy: testPolicy()}}}))
	problems, err := testutil.GatherAndLint(reg)
	require.NoError(t, err)
	require.Len(t, problems, 1)
	require.Equal(t, "aegis_ticket_open_total", problems[0].Metric)

	open, err := testutil.GatherAndCount(reg, "aegis_tickets_open")
	require.NoError(t, err)
	require.Equal(t, 2, open)
	require.NoError(t, testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP aegis_tickets_waiting Nodes whose open ticket is with people, by team. The team other stands for a person, and for a ticket that cannot be read.
# TYPE aegis_tickets_waiting gauge
aegis_tickets_waiting{team="gpu"} 1
aegis_tickets_waiting{team="host"} 0
aegis_tickets_waiting{team="k8s"} 0
aegis_tickets_waiting{team="network"} 0
aegis_tickets_waiting{team="other"} 2
aegis_tickets_waiting{team="storage"} 0
# HELP aegis_nodes Nodes of the cluster.
# TYPE aegis_nodes gauge
aegis_nodes 5
`), "aegis_tickets_waiting", "aegis_nodes"))
	families, err := reg.Gather()
	require.NoError(t, err)
	for _, family := range families {
		if family.GetName() == "aegis_ticket_open_total" {
			require.InDelta(t, 4, family.GetMetric()[0].GetGauge().GetValue(), 0)
		}
	}
}

// The collector counts what the limits count: what others took out of service, and the steps of other processes.
func TestLimitsAreShown(t *testing.T) {
	t.Parallel()
	running := ownTicket("GpuHung")
	require.NoError(t, running.Record(ticket.Reboot, 1, ticket.Running, time.Now(), ""))
	l := fleet(20, policy.Pool{MaxPercent: 10, MaxDestructive: 3}, func(i int, n *corev1.Node) {
		switch i {
		case 0:
			n.Spec.Unschedulable = true
		case 1:
			n.Annotations = map[string]string{ticket.Annotation: encoded(t, running)}
		}
	})
	require.Empty(t, l.reserve(policy.Claim{Node: "n2"}))
	release, reason := l.begin(testNode("n2", ""), ticket.Reset, policy.Claim{Node: "n2"}, takes)
	require.Empty(t, reason)
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(NewLimitCollector(&Dispatcher{services: environment{limits: l}}))
	shows := func(out, busy int) {
		require.NoError(t, testutil.GatherAndCompare(reg, strings.NewReader(fmt.Sprintf(`
# HELP aegis_limit_places Places of a limit of a pool: nodes that may be out of service (budget), and destructive steps that may run (destructive).
# TYPE aegis_limit_places gauge
aegis_limit_places{limit="budget",pool="p"} 2
aegis_limit_places{limit="destructive",pool="p"} 3
# HELP aegis_limit_taken Places of a limit that are taken. People and faults take places of the budget as well, so it may be more than there are.
# TYPE aegis_limit_taken gauge
aegis_limit_taken{limit="budget",pool="p"} %d
aegis_limit_taken{limit="destructive",pool="p"} %d
`, out, busy))))
	}
	shows(2, 2)
	release()
	shows(2, 1)
}

func encoded(t *testing.T, tk *ticket.Ticket) string {
	t.Helper()
	text, err := tk.Encode()
	require.NoError(t, err)
	return text
}

// What a run wrote last counts until the cache shows it, and no longer.
func TestOwnWriteIsNewerThanALaggingCache(t *testing.T) {
	t.Parallel()
	version := func(v, boot string) *corev1.Node {
		n := testNode(nodeA, nodeUID)
		n.ResourceVersion, n.Status.NodeInfo.BootID = v, boot
		return n
	}
	w := newOwnWrites(func(*corev1.Node) {})
	w.wrote(version("100", "ours"))
	require.Equal(t, "ours", w.latest(version("99", "cached")).Status.NodeInfo.BootID)
	require.Equal(t, "cached", w.latest(version("101", "cached")).Status.NodeInfo.BootID)
	require.Empty(t, w.nodes)
	w.wrote(version("100", "ours"))
	recreated := version("99", "cached")
	recreated.UID = "another"
	require.Equal(t, "cached", w.latest(recreated).Status.NodeInfo.BootID)
	w.wrote(version("x", "ours"))
	require.Equal(t, "cached", w.latest(version("99", "cached")).Status.NodeInfo.BootID, "what cannot be compared is not trusted")
}

// Two leaders that overlapped may leave two steps behind that both wait for their order. They do not wait for each other: the one
// that began earlier goes first.
func TestStepsThatWaitForEachOther(t *testing.T) {
	t.Parallel()
	running := func(at time.Time) map[string]string {
		own := ownTicket("GpuHung")
		require.NoError(t, own.Record(ticket.Reboot, 1, ticket.Running, at, ""))
		text, err := own.Encode()
		require.NoError(t, err)
		return map[string]string{ticket.Annotation: text}
	}
	for _, tt := range []struct {
		name         string
		first, later time.Time
		begins       []bool
	}{
		{"the earlier one", noon(), noon().Add(time.Second), []bool{true, false}},
		{"the later one", noon().Add(time.Second), noon(), []bool{false, true}},
		{"at once", noon(), noon(), []bool{true, false}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			nodes := []*corev1.Node{testNode("n0", ""), testNode("n1", "")}
			nodes[0].Annotations, nodes[1].Annotations = running(tt.first), running(tt.later)
			for i, begins := range tt.begins {
				l := fleet(2, policy.Pool{MaxDestructive: 1}, func(i int, n *corev1.Node) { n.Annotations = nodes[i].Annotations })
				_, reason := begin(l, nodes[i], ticket.Reboot)
				require.Equal(t, begins, reason == "", reason)
			}
		})
	}
}

// ownTicket returns a ticket of Aegis that is being worked on.
func ownTicket(condition string) *ticket.Ticket {
	return &ticket.Ticket{ID: "t1", Condition: condition, Supervisor: ticket.Self, Status: ticket.StatusResolving}
}

// A request that waits for room in the budget says so since it began to wait, however often it is tried again.
func TestVerdictOfAHeldTicketStays(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy(), testNode(nodeA, nodeUID), testNode("b", "uid-b"))
		w.setSettings(func(s *policy.Settings) { s.Pools[0].MaxPercent = 1 })
		w.cluster.Do(func() { w.cluster.Cordon("b") })
		stop := w.start()
		_, err := w.d.Heal(t.Context(), policy.HealRequest{Status: w.Status(nodeA, "Reboot", "", 0), By: "alice"})
		require.NoError(t, err)
		w.await("held", func(ticket.Record) bool { return w.verdict("Reboot") == policy.VerdictBudget })
		since := w.verdicts.Node(nodeA)[0].Since
		time.Sleep(time.Hour)
		require.Equal(t, policy.VerdictBudget, w.verdict("Reboot"))
		require.Equal(t, since, w.verdicts.Node(nodeA)[0].Since)
		require.Equal(t, "budget: 1 of 2 nodes of pool test are out of service, 1 allowed: b", w.record().Ticket.Hold)
		stop()
	})
}

// begin takes a slot for a step of the node, and does not wait for one.
func begin(l *limits, node *corev1.Node, action ticket.Action) (release func(), reason string) {
	return l.begin(node, action, policy.Claim{Node: node.Name}, takes)
}
