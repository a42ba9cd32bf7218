package sop

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// line is a pool with one slot for destructive steps and one place in its budget, and the nodes that were woken for it.
type line struct {
	*limits
	nodes   map[string]*corev1.Node
	woken   []string
	version int
}

func newLine(size int) *line {
	w := &line{nodes: make(map[string]*corev1.Node)}
	w.limits = fleet(size, policy.Pool{MaxPercent: 1, MaxDestructive: 1}, func(_ int, n *corev1.Node) { w.nodes[n.Name] = n })
	w.waiting.visit = func(node string) { w.woken = append(w.woken, node) }
	return w
}

// claimed returns the claim of a node that fell ill at noon.
func claimed(node string, priority int) policy.Claim {
	return policy.Claim{Node: node, Condition: "GpuHung", Priority: priority, FirstSeen: noon()}
}

// slot asks for a slot as a step that does not wait in place.
func (w *line) slot(c policy.Claim) (release func(), reason string) {
	return w.begin(w.nodes[c.Node], ticket.Reboot, c, takes)
}

// rung returns who was woken since the last call.
func (w *line) rung() []string {
	woken := w.woken
	w.woken = nil
	return woken
}

func TestAFreedSlotGoesToTheMostUrgent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newLine(5)
		release, reason := w.slot(claimed("n0", 50))
		require.Empty(t, reason)
		for _, c := range []policy.Claim{claimed("n1", 99), claimed("n2", 2), claimed("n3", 1)} {
			_, reason := w.slot(c)
			require.NotEmpty(t, reason)
		}
		_, reason = w.slot(claimed("n1", 99))
		require.Equal(t, "1 of 1 destructive steps are running in pool p: n0; 2nd of 3 that wait, after n2 (priority 2)", reason)
		_, reason = w.slot(claimed("n3", 1))
		require.Equal(t, "1 of 1 destructive steps are running in pool p: n0; 3rd of 3 that wait, after n1 (priority 99)", reason,
			"the band Cordon comes after Emergency")
		require.Empty(t, w.rung())
		release()
		require.Equal(t, []string{"n2"}, w.rung(), "at once")
		_, reason = w.slot(claimed("n4", 99))
		require.Equal(t, "0 of 1 destructive steps are running in pool p; 3rd of 4 that wait, after n1 (priority 99)", reason)
		_, reason = w.slot(claimed("n2", 2))
		require.Empty(t, reason)
	})
}

func TestAPlaceInTheBudgetGoesToTheMostUrgent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newLine(3)
		require.Empty(t, w.reserve(claimed("n0", 3)))
		require.NotEmpty(t, w.vacancy(claimed("n1", 99), true))
		require.NotEmpty(t, w.vacancy(claimed("n2", 2), false), "who only looks does not wait")
		w.release("n0", false)
		require.Equal(t, []string{"n1"}, w.rung())
		require.Empty(t, w.vacancy(claimed("n2", 2), true), "it comes in time to go first")
		require.NotEmpty(t, w.reserve(claimed("n1", 99)))
		require.Empty(t, w.reserve(claimed("n2", 2)))
		require.Empty(t, w.reserve(claimed("n2", 2)), "it has its place")
	})
}

// A node that does not take its place, cannot use it, or never comes back, holds nobody up for long.
func TestAPlaceIsPassedOn(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		happens func(w *line)
		after   time.Duration
	}{
		"it does not come":      {func(*line) {}, DefaultTiming().Hold / 2},
		"it cannot use it now":  {func(w *line) { w.stepBack("n2", policy.LimitDestructive) }, 0},
		"it has left, and says": {func(w *line) { w.stepBack("n2", policy.Limits()...) }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newLine(3)
				release, _ := w.slot(claimed("n0", 3))
				for _, c := range []policy.Claim{claimed("n1", 99), claimed("n2", 2)} {
					_, reason := w.slot(c)
					require.NotEmpty(t, reason)
				}
				release()
				require.Equal(t, []string{"n2"}, w.rung())
				tt.happens(w)
				time.Sleep(tt.after)
				w.tend()
				require.Equal(t, []string{"n1"}, w.rung())
				_, reason := w.slot(claimed("n1", 99))
				require.Empty(t, reason)
			})
		})
	}
}

func TestANodeThatStopsAskingLeavesTheList(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newLine(3)
		_, _ = w.slot(claimed("n0", 3))
		_, _ = w.slot(claimed("n2", 2))
		time.Sleep(2 * DefaultTiming().Hold)
		require.Len(t, w.claims(policy.LimitDestructive, "p"), 1)
		time.Sleep(time.Second)
		_, reason := w.slot(claimed("n1", 99))
		require.Equal(t, "1 of 1 destructive steps are running in pool p: n0", reason)
		require.Len(t, w.claims(policy.LimitDestructive, "p"), 1)
	})
}

// Every five minutes count as one priority, so that a node of priority 99 goes before all of priority 2 that come more than 97 times five
// minutes after it, and not before the others.
func TestNobodyWaitsForEver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const bound = 97 * policy.WaitingStep
		w := newLine(10)
		release, _ := w.slot(claimed("n0", 2))
		began := time.Now()
		patient := policy.Claim{Node: "n1", Priority: 99, FirstSeen: began}
		// Whenever the slot becomes free, a node of priority 2 has just come.
		for i := 0; ; i++ {
			require.LessOrEqual(t, time.Since(began), bound+time.Minute)
			urgent := policy.Claim{Node: fmt.Sprint("n", 2+i%8), Priority: 2, FirstSeen: time.Now()}
			_, reason := w.slot(urgent)
			require.NotEmpty(t, reason)
			_, reason = w.slot(patient)
			require.NotEmpty(t, reason)
			release()
			if w.rung()[0] == patient.Node {
				break
			}
			release, reason = w.slot(urgent)
			require.Empty(t, reason)
			w.rung()
			for range 4 { // It asks again in time.
				time.Sleep(15 * time.Second)
				_, _ = w.slot(patient)
			}
		}
		require.GreaterOrEqual(t, time.Since(began), bound-time.Minute)
	})
}

// Whatever makes room, the first is woken, once; and no other change wakes anybody.
func TestWhatFreesAPlace(t *testing.T) {
	t.Parallel()
	destroying := ownTicket("GpuHung")
	require.NoError(t, destroying.Record(ticket.Reboot, 1, ticket.Running, time.Now(), ""))
	text := encoded(t, destroying)
	fine := func(*corev1.Node) {}
	cordoned := func(n *corev1.Node) { n.Spec.Unschedulable = true }
	silent := func(n *corev1.Node) { setReady(n, corev1.ConditionUnknown) }
	busy := func(n *corev1.Node) { n.Annotations = map[string]string{ticket.Annotation: text} }
	out := func(n *corev1.Node) { cordoned(n); busy(n) }
	for name, tt := range map[string]struct {
		before, after func(*corev1.Node)
		rung          []string
	}{
		"an uncordon":                    {cordoned, fine, []string{"n1"}},
		"readiness":                      {silent, fine, []string{"n1"}},
		"a deletion":                     {out, nil, []string{"n1", "n2"}},
		"a ticket":                       {busy, fine, []string{"n2"}},
		"a node in other hands":          {busy, func(n *corev1.Node) { busy(n); n.Annotations[ticket.Annotation] = "theirs" }, []string{"n2"}},
		"a cordon of one that is silent": {silent, cordoned, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newLine(4)
				before := w.change("n0", tt.before)
				_ = w.vacancy(claimed("n1", 2), true)
				_, _ = w.slot(claimed("n2", 2))
				w.rung()
				if tt.after == nil {
					w.census.see(before, nil)
				} else {
					w.change("n0", tt.after)
				}
				w.tend()
				require.ElementsMatch(t, tt.rung, w.rung())
				w.tend()
				require.Empty(t, w.rung(), "once: the offer stands")
			})
		})
	}
}

// change changes a node as it was in the beginning, and tells the account of it.
func (w *line) change(name string, change func(*corev1.Node)) *corev1.Node {
	w.version++
	node := testNode(name, w.nodes[name].UID)
	node.ResourceVersion = fmt.Sprint(1000 + w.version)
	change(node)
	w.census.see(w.nodes[name], node)
	w.nodes[name] = node
	return node
}

// More room by the settings wakes as many as there is room for.
func TestSettingsMakeRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newLine(6)
		require.Empty(t, w.reserve(claimed("n0", 2)))
		for _, node := range []string{"n1", "n2", "n3"} {
			require.NotEmpty(t, w.vacancy(claimed(node, 3), true))
		}
		settings := w.census.settings()
		settings.Pools[0].MaxPercent = 50
		w.census.settings = func() policy.Settings { return settings }
		w.tend()
		require.Equal(t, []string{"n1", "n2"}, w.rung())
	})
}

// A step that waits in place hears its bell; it is not visited.
func TestAStepThatWaitsInPlaceIsWoken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newLine(2)
		release, _ := w.slot(claimed("n0", 3))
		_, reason := w.begin(w.nodes["n1"], ticket.Reboot, claimed("n1", 3), inPlace)
		require.NotEmpty(t, reason)
		bell := w.bell(policy.LimitDestructive, "n1")
		release()
		select {
		case <-bell:
		default:
			require.Fail(t, "it is not woken")
		}
		require.Empty(t, w.rung())
		w.stepBack("n1", policy.LimitDestructive)
		require.Nil(t, w.bell(policy.LimitDestructive, "n1"), "who waits for something else has no bell")
	})
}

// A fresh leader does not give the only place to the first that asks, unless it has heard of all others, or has waited long enough.
func TestAFreshLeaderLearnsWhoWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newLine(4)
		sick := map[string]bool{"n1": true, "n2": true}
		w.start(func(e *entry) bool { return sick[e.node.Name] })
		require.Contains(t, w.reserve(claimed("n1", 99)), "0 of 4 nodes of pool p are out of service, 1 allowed; Aegis has just begun to lead")
		require.Empty(t, w.reserve(claimed("n2", 2)), "all have been heard")

		_, reason := w.slot(claimed("n1", 99))
		require.Contains(t, reason, "Aegis has just begun to lead")
		w.rung()
		time.Sleep(DefaultTiming().Hold)
		w.tend()
		require.Equal(t, []string{"n1"}, w.rung(), "the other did not say that it waits")
		_, reason = w.slot(claimed("n1", 99))
		require.Empty(t, reason)

		w.start(func(e *entry) bool { return sick[e.node.Name] })
		_, reason = w.slot(claimed("n3", 50))
		require.NotEmpty(t, reason)
		w.stop()
		require.Empty(t, w.claims(policy.LimitDestructive, "p"), "a new term begins with empty lists")
	})
}

func TestOrdinals(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]string{1: "1st", 2: "2nd", 3: "3rd", 4: "4th", 11: "11th", 12: "12th", 21: "21st", 103: "103rd", 112: "112th"} {
		require.Equal(t, want, ordinal(n))
	}
}
