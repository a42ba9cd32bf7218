package queue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/rules/prom"
)

// firing is an alert that began when it is made, unless the test says otherwise.
func firing(fingerprint, node, condition string) prom.Observation {
	return prom.Observation{
		Fingerprint: fingerprint,
		Status:      prom.AegisNodeStatus{Node: node, Condition: condition, Priority: 10, Origin: prom.OriginAlert},
		Firing:      true,
		StartsAt:    time.Now(),
	}
}

// resolved is the end of the alert.
func resolved(o prom.Observation) prom.Observation {
	o.Firing = false
	return o
}

// with returns the observation with a priority.
func with(o prom.Observation, priority int) prom.Observation {
	o.Status.Priority = priority
	return o
}

// take returns the node that is due now; an empty item when there is none.
func take(t *testing.T, q *Queue) item {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	node, statuses, err := q.Next(ctx)
	if err != nil {
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
	return item{Node: node, Statuses: statuses}
}

// nodesOf returns the names in order.
func nodesOf(items []item) []string {
	names := make([]string, 0, len(items))
	for _, item := range items {
		names = append(names, item.Node)
	}
	return names
}

// conditionsOf returns the conditions, with the device where there is one, in order.
func conditionsOf(statuses []prom.AegisNodeStatus) []string {
	names := make([]string, 0, len(statuses))
	for _, s := range statuses {
		names = append(names, s.Condition+s.ID)
	}
	return names
}

// only returns the one status of the node.
func only(t *testing.T, q *Queue, node string) prom.AegisNodeStatus {
	t.Helper()
	statuses := q.Statuses(node)
	require.Len(t, statuses, 1)
	return statuses[0]
}

func TestStatusesAreOrderedByUrgency(t *testing.T) {
	t.Parallel()
	at := time.Unix(1000, 0)
	status := func(priority int, age time.Duration, condition, id string) prom.AegisNodeStatus {
		return prom.AegisNodeStatus{Condition: condition, ID: id, Priority: priority, FirstSeen: at.Add(-age)}
	}
	want := []prom.AegisNodeStatus{
		status(0, 0, "NotReady", ""),
		status(2, 0, "Emergency", ""),
		status(99, time.Hour, "LateEmergency", ""),
		status(1, time.Hour, "Cordon", ""), // An emergency comes before the healthcheck that may end in uncordon.
		status(100, time.Minute, "Older", ""),
		status(100, 0, "Same", "0"),
		status(100, 0, "Same", "1"),
		status(100, 0, "Then", ""),
		status(999, 0, "Unknown", ""),
		status(1000, time.Hour, "MustIgnore", ""),
	}
	for i := range want {
		for j := range want {
			got := compareStatuses(want[i], want[j])
			require.Equal(t, i < j, got < 0, "%s and %s", want[i].Condition, want[j].Condition)
			require.Equal(t, i == j, got == 0)
		}
	}
}

func TestNextHandsOutTheMostUrgentNode(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := New(Options{})
		q.Enqueue("a-touched")
		q.Observe(with(firing("1", "cordon", "C"), 1), with(firing("2", "ignore", "I"), 500), with(firing("3", "ready", "N"), 0))
		q.Observe(with(firing("4", "emergency", "E"), 50), with(firing("5", "emergency", "I"), 500))
		want := []string{"ready", "emergency", "cordon", "ignore", "a-touched"}
		require.Equal(t, want, nodesOf(q.Snapshot()))
		for _, name := range want {
			item := take(t, q)
			require.Equal(t, name, item.Node)
			require.Equal(t, q.Statuses(name), item.Statuses)
		}
		require.Empty(t, take(t, q).Node)
		require.Equal(t, want, nodesOf(q.Snapshot()), "those in flight are shown")
		require.Len(t, q.Snapshot(), 5)
	})
}

func TestNodesByCondition(t *testing.T) {
	t.Parallel()
	q := New(Options{})
	require.Empty(t, q.NodesByCondition())
	again := firing("2", "n1", "A")
	again.Status.ID = "3"
	q.Observe(firing("1", "n1", "A"), again, firing("3", "n2", "A"), firing("4", "n2", "B"))
	q.Enqueue("n3")
	require.Equal(t, map[string]int{"A": 2, "B": 1}, q.NodesByCondition(), "two devices are of one node")
	q.Observe(resolved(firing("4", "n2", "B")))
	require.Equal(t, map[string]int{"A": 2}, q.NodesByCondition())
}

func TestANodeMovesUpWhileItWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := New(Options{})
		q.Observe(with(firing("1", "n1", "A"), 20), with(firing("2", "n2", "A"), 30))
		q.Observe(with(firing("3", "n2", "B"), 0))
		item := take(t, q)
		require.Equal(t, "n2", item.Node)
		require.Equal(t, []string{"B", "A"}, conditionsOf(item.Statuses))
	})
}

func TestManyAlertsFeedOneCondition(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := New(Options{})
		first := firing("b", "n1", "A")
		first.Status.Msg = "one"
		q.Observe(first)
		time.Sleep(time.Minute)
		second := firing("a", "n1", "A")
		second.StartsAt = first.StartsAt.Add(-time.Hour)
		second.Status.Msg, second.Status.Value, second.Status.Origin = "two", "2", prom.OriginResync
		q.Observe(second)
		s := only(t, q, "n1")
		require.Equal(t, []string{"a", "b"}, s.Alerts)
		require.Equal(t, second.StartsAt, s.FirstSeen)
		require.Equal(t, time.Now(), s.LastSeen)
		require.Equal(t, "two", s.Msg)
		require.Equal(t, prom.OriginAlert, s.Origin, "who was first")

		q.Observe(resolved(second))
		s = only(t, q, "n1")
		require.Equal(t, []string{"b"}, s.Alerts)
		require.Equal(t, first.StartsAt, s.FirstSeen)
		q.Observe(resolved(first))
		require.Empty(t, q.Statuses("n1"))
	})
}

func TestConditionsAreKeptApartByDevice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := New(Options{})
		gpu0, gpu1 := firing("0", "n1", "A"), firing("1", "n1", "A")
		gpu0.Status.ID, gpu1.Status.ID = "0", "1"
		q.Observe(gpu1, gpu0)
		require.Equal(t, []string{"A0", "A1"}, conditionsOf(q.Statuses("n1")))
		q.Observe(resolved(gpu0))
		require.Equal(t, []string{"A1"}, conditionsOf(q.Statuses("n1")))
	})
}

func TestAHeartbeatRefreshesAndChangesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := New(Options{})
		o := firing("1", "n1", "A")
		q.Observe(o)
		take(t, q)
		time.Sleep(time.Minute)
		beat := o
		beat.Status.Msg, beat.Status.Value = "still", "7"
		q.Observe(beat)
		q.Done("n1", 0)
		require.Empty(t, take(t, q).Node)
		s := only(t, q, "n1")
		require.Equal(t, "still", s.Msg)
		require.Equal(t, "7", s.Value)
		require.Equal(t, o.StartsAt, s.FirstSeen)
		require.Equal(t, o.StartsAt.Add(time.Minute), s.LastSeen.Truncate(time.Minute))
		require.Equal(t, []string{"1"}, s.Alerts)
	})
}

func TestAHeartbeatWithANewPriorityIsAChange(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := New(Options{})
		o := firing("1", "n1", "A")
		q.Observe(o, firing("2", "n1", "B"))
		take(t, q)
		q.Observe(with(o, 90))
		q.Done("n1", 0)
		require.Equal(t, []string{"B", "A"}, conditionsOf(take(t, q).Statuses))
	})
}

func TestAnEarlierStartIsTheSameEpisode(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := New(Options{})
		o := firing("1", "n1", "A")
		q.Observe(o)
		earlier := o
		earlier.StartsAt = o.StartsAt.Add(-time.Minute)
		later := o
		later.StartsAt = o.StartsAt.Add(time.Minute)
		q.Observe(earlier, later)
		s := only(t, q, "n1")
		require.Equal(t, earlier.StartsAt, s.FirstSeen)
		require.False(t, s.Contested)
		// Whichever replica says that it resolved, the episode has ended up to its latest start.
		q.Observe(resolved(earlier))
		require.Empty(t, q.Statuses("n1"))
		q.Observe(later)
		require.True(t, only(t, q, "n1").Contested)
	})
}

func TestContested(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		shift     time.Duration // Of the start after the resolution.
		unknown   bool          // The start is unknown after the resolution.
		strayOnly bool          // The alert never fired here before.
		want      bool
	}{
		"the same start":                           {want: true},
		"an earlier start":                         {shift: -time.Second, want: true},
		"an unknown start":                         {unknown: true, want: true},
		"a later start is a new episode":           {shift: time.Second},
		"late firing, the resolution came first":   {strayOnly: true, want: true},
		"new episode after a resolution alone":     {strayOnly: true, shift: time.Second},
		"earlier start, the resolution came first": {strayOnly: true, shift: -time.Second, want: true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				q := New(Options{})
				o := firing("1", "n1", "A")
				if !tt.strayOnly {
					q.Observe(o)
				}
				q.Observe(resolved(o))
				again := o
				again.StartsAt = o.StartsAt.Add(tt.shift)
				if tt.unknown {
					again.StartsAt = time.Time{}
				}
				q.Observe(again)
				require.Equal(t, tt.want, only(t, q, "n1").Contested)
				q.Observe(again)
				require.Equal(t, tt.want, only(t, q, "n1").Contested, "a heartbeat settles nothing")
			})
		})
	}
}

func TestConfirmEndsTheContest(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		fingerprint string
		early       bool // The sources were read no later than when the doubt arose.
		want        bool
	}{
		"of the alert":                      {fingerprint: "1"},
		"of another alert":                  {fingerprint: "2", want: true},
		"from before the alert fired again": {fingerprint: "1", early: true, want: true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				q := New(Options{})
				o := firing("1", "n1", "A")
				q.Observe(o, resolved(o), o)
				take(t, q)
				if !tt.early {
					time.Sleep(time.Second)
				}
				q.confirm(o.Status.Key(), time.Now(), tt.fingerprint)
				require.Equal(t, tt.want, only(t, q, "n1").Contested)
				q.Done("n1", 0)
				require.Equal(t, tt.want, take(t, q).Node == "", "a confirmation is a change")
			})
		})
	}
}

func TestOneAlertBeyondDoubtIsEnough(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := New(Options{})
		o, sure := firing("1", "n1", "A"), firing("2", "n1", "A")
		q.Observe(o, resolved(o), o)
		require.True(t, only(t, q, "n1").Contested)
		q.Observe(sure)
		require.False(t, only(t, q, "n1").Contested)
		q.Observe(resolved(sure))
		require.True(t, only(t, q, "n1").Contested)
		time.Sleep(time.Second)
		q.confirm(prom.Key{Node: "n2"}, time.Now(), "1")
		q.confirm(prom.Key{Node: "n1", Condition: "B"}, time.Now(), "1")
		require.True(t, only(t, q, "n1").Contested)
	})
}

func TestTheContestedMemoryIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := New(Options{ContestedMemory: 2})
		alerts := []prom.Observation{firing("0", "n0", "A"), firing("1", "n1", "A"), firing("2", "n2", "A")}
		for _, o := range alerts {
			q.Observe(o, resolved(o))
		}
		q.Observe(alerts...)
		require.False(t, only(t, q, "n0").Contested, "forgotten")
		require.True(t, only(t, q, "n1").Contested)
		require.True(t, only(t, q, "n2").Contested)
	})
}

func TestAnAlertThatMeansAnotherConditionNowMoves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := New(Options{})
		o := firing("1", "n1", "A")
		q.Observe(o)
		moved := o
		moved.Status.Node, moved.Status.Condition = "n2", "B"
		q.Observe(moved)
		require.Empty(t, q.Statuses("n1"))
		s := only(t, q, "n2")
		require.Equal(t, o.StartsAt, s.FirstSeen)
		require.False(t, s.Contested)
		q.Observe(resolved(o))
		require.Empty(t, q.Statuses("n2"), "the resolution follows the alert")
	})
}

func TestAlertsWithoutFingerprintAreToldApartByKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := New(Options{})
		a, b := firing("", "n1", "A"), firing("", "n1", "B")
		q.Observe(a, b, resolved(a))
		require.Equal(t, []string{"B"}, conditionsOf(q.Statuses("n1")))
	})
}

func TestWhatNamesNoNodeOrConditionIsRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := New(Options{})
		q.Observe(firing("1", "", "A"), firing("2", "n1", ""))
		require.Empty(t, q.Snapshot())
	})
}

func TestWithdrawIsAsIfEveryAlertResolved(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := New(Options{})
		a, b := firing("1", "n1", "A"), firing("2", "n1", "A")
		q.Observe(a, b)
		take(t, q)
		time.Sleep(time.Second)
		require.False(t, q.withdraw(prom.Key{Node: "n1", Condition: "B"}, time.Now()))
		require.True(t, q.withdraw(a.Status.Key(), time.Now()))
		require.Empty(t, q.Statuses("n1"))
		q.Done("n1", 0)
		require.Equal(t, "n1", take(t, q).Node)
		q.Observe(b)
		require.True(t, only(t, q, "n1").Contested)
	})
}

func TestWithdrawSparesWhatWasReportedSince(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := New(Options{})
		o := firing("1", "n1", "A")
		q.Observe(o)
		require.False(t, q.withdraw(o.Status.Key(), time.Now()))
		require.Len(t, q.Statuses("n1"), 1)
		time.Sleep(time.Second)
		require.True(t, q.withdraw(o.Status.Key(), time.Now()))
		require.Empty(t, q.Statuses("n1"))
	})
}

func TestDone(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		meanwhile func(q *Queue) // While the node is in flight.
		after     time.Duration
		then      func(q *Queue) // After it was given back.
		want      time.Duration  // Until it is due; negative: never.
	}{
		"without a time, never":                {want: -1},
		"with a negative time, never":          {after: -time.Second, want: -1},
		"after a time":                         {after: time.Minute, want: time.Minute},
		"a change in flight is due at once":    {meanwhile: func(q *Queue) { q.Observe(resolved(firing("1", "n1", "A"))) }, after: time.Minute},
		"and without a time":                   {meanwhile: func(q *Queue) { q.Observe(firing("2", "n1", "B")) }},
		"a touch in flight is due at once":     {meanwhile: func(q *Queue) { q.Enqueue("n1") }, after: time.Minute},
		"a change afterwards is due at once":   {after: time.Minute, then: func(q *Queue) { q.Observe(firing("2", "n1", "B")) }},
		"a resolution afterwards too":          {then: func(q *Queue) { q.Observe(resolved(firing("1", "n1", "A"))) }},
		"a touch afterwards too":               {then: func(q *Queue) { q.Enqueue("n1") }},
		"the same priority is no change":       {meanwhile: func(q *Queue) { q.Reprioritise(same) }, want: -1},
		"another priority is a change":         {meanwhile: func(q *Queue) { q.Reprioritise(urgent) }},
		"it is given back once":                {after: time.Minute, then: func(q *Queue) { q.Done("n1", 0) }, want: time.Minute},
		"a node that was never there is no-op": {after: time.Minute, then: func(q *Queue) { q.Done("n9", time.Second) }, want: time.Minute},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				q := New(Options{})
				q.Observe(firing("1", "n1", "A"))
				require.Equal(t, "n1", take(t, q).Node)
				if tt.meanwhile != nil {
					tt.meanwhile(q)
				}
				require.Empty(t, take(t, q).Node, "in flight")
				start := time.Now()
				q.Done("n1", tt.after)
				if tt.then != nil {
					tt.then(q)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				node, _, err := q.Next(ctx)
				if tt.want < 0 {
					require.ErrorIs(t, err, context.DeadlineExceeded)
					return
				}
				require.NoError(t, err)
				require.Equal(t, "n1", node)
				require.Equal(t, tt.want, time.Since(start))
			})
		})
	}
}

func same(s prom.AegisNodeStatus) prom.AegisNodeStatus { return s }

func urgent(s prom.AegisNodeStatus) prom.AegisNodeStatus {
	s.Priority = 2
	return s
}

func TestDueAgainEvenWithoutConditions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := New(Options{})
		q.Enqueue("n1")
		take(t, q)
		q.Done("n1", time.Minute)
		start := time.Now()
		node, _, err := q.Next(t.Context())
		require.NoError(t, err)
		require.Equal(t, "n1", node)
		require.Equal(t, time.Minute, time.Since(start))
		q.Done("n1", 0)
		require.Empty(t, q.Snapshot())
	})
}

// How long a node has been due does not depend on whether anybody asks, nor on what happens to it meanwhile.
func TestOldestDue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := New(Options{})
		age := func() time.Duration {
			since, found := q.OldestDue()
			if !found {
				return -1
			}
			return time.Since(since)
		}
		require.EqualValues(t, -1, age())
		q.Observe(with(firing("1", "n1", "Mild"), 500))
		time.Sleep(10 * time.Second)
		q.Observe(with(firing("2", "n2", "Grave"), 1))
		q.Observe(with(firing("3", "n1", "Graver"), 0))
		q.Enqueue("n1")
		require.Equal(t, 10*time.Second, age(), "a change does not make it younger")

		require.Equal(t, "n1", take(t, q).Node)
		require.Zero(t, age(), "who is being decided on waits for nobody")
		q.Enqueue("n1")
		time.Sleep(time.Minute)
		require.Equal(t, "n2", take(t, q).Node)
		require.EqualValues(t, -1, age())
		q.Done("n1", time.Hour)
		require.Zero(t, age(), "it has changed meanwhile, and is due only now")
		require.Equal(t, "n1", take(t, q).Node)

		q.Done("n1", time.Minute)
		time.Sleep(time.Minute - 1)
		require.EqualValues(t, -1, age(), "it is not due yet")
		time.Sleep(6 * time.Second)
		require.Equal(t, 6*time.Second-1, age())
		require.Equal(t, "n1", take(t, q).Node)
		q.Done("n1", 0)
		q.Done("n2", 0)
		require.EqualValues(t, -1, age())
	})
}

func TestSeveralNodesWaitForTheirTimes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := New(Options{})
		delays := map[string]time.Duration{"n1": 30 * time.Second, "n2": 10 * time.Second, "n3": 20 * time.Second, "n4": 20 * time.Second}
		for name := range delays {
			q.Enqueue(name)
		}
		for range delays {
			name := take(t, q).Node
			q.Done(name, delays[name])
		}
		start := time.Now()
		for _, want := range []string{"n2", "n3", "n4", "n1"} {
			node, _, err := q.Next(t.Context())
			require.NoError(t, err)
			require.Equal(t, want, node)
			require.InDelta(t, delays[want].Seconds(), time.Since(start).Seconds(), 0.001)
		}
	})
}

func TestReprioritise(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := New(Options{})
		o := firing("1", "n1", "A")
		q.Observe(o, firing("2", "n1", "B"), with(firing("3", "n2", "A"), 5))
		require.Equal(t, []string{"n2", "n1"}, nodesOf(q.Snapshot()))
		q.Reprioritise(func(s prom.AegisNodeStatus) prom.AegisNodeStatus {
			hostile := prom.AegisNodeStatus{Node: "x", Condition: s.Condition, ID: s.ID, Origin: prom.OriginHeal, Contested: true}
			hostile.Priority, hostile.SOP = 100, "node/new"
			if s.Condition == "B" {
				hostile.Priority = 0
			}
			s.Alerts[0] = "x"
			return hostile
		})
		item := take(t, q)
		require.Equal(t, "n1", item.Node)
		require.Equal(t, []string{"B", "A"}, conditionsOf(item.Statuses))
		s := item.Statuses[1]
		require.Equal(t, "node/new", s.SOP)
		require.Equal(t, o.Status.Key(), s.Key(), "only what the catalogue decides is taken")
		require.Equal(t, []string{"1"}, s.Alerts)
		require.Equal(t, prom.OriginAlert, s.Origin)
		require.False(t, s.Contested)
	})
}

func TestWhatIsHandedOutIsACopy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := New(Options{})
		q.Observe(firing("1", "n1", "A"))
		for _, statuses := range [][]prom.AegisNodeStatus{q.Statuses("n1"), q.Snapshot()[0].Statuses, take(t, q).Statuses} {
			statuses[0].Alerts[0] = "spoilt"
		}
		require.Equal(t, []string{"1"}, only(t, q, "n1").Alerts)
	})
}

func TestNextEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := New(Options{})
		ctx, cancel := context.WithCancelCause(t.Context())
		ended := make(chan error)
		go func() {
			_, _, err := q.Next(ctx)
			ended <- err
		}()
		synctest.Wait()
		cancel(errors.New("lost the lease"))
		require.ErrorIs(t, <-ended, context.Canceled)

		q.Enqueue("n1")
		_, _, err := q.Next(ctx)
		require.ErrorIs(t, err, context.Canceled, "nothing is handed out to those who must stop")
		require.Equal(t, "n1", take(t, q).Node)
	})
}

func TestWorkersShareTheNodes(t *testing.T) {
	t.Parallel()
	const nodes, workers = 50, 8
	synctest.Test(t, func(t *testing.T) {
		q := New(Options{})
		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex
		busy, taken := make(map[string]bool), 0
		var group sync.WaitGroup
		for range workers {
			group.Go(func() {
				for node, _, err := q.Next(ctx); err == nil; node, _, err = q.Next(ctx) {
					mu.Lock()
					if busy[node] {
						t.Errorf("%s has two workers", node)
					}
					busy[node] = true
					taken++
					mu.Unlock()
					time.Sleep(time.Second)
					mu.Lock()
					busy[node] = false
					mu.Unlock()
					q.Done(node, 0)
				}
			})
		}
		for i := range nodes {
			q.Observe(firing(fmt.Sprint("a", i), fmt.Sprint("n", i), "A"))
		}
		time.Sleep(time.Minute)
		mu.Lock()
		require.Equal(t, nodes, taken)
		mu.Unlock()
		for i := range nodes {
			q.Observe(firing(fmt.Sprint("b", i), fmt.Sprint("n", i), "B"))
		}
		time.Sleep(time.Minute)
		cancel()
		group.Wait()
		require.Equal(t, 2*nodes, taken)
	})
}

func BenchmarkObserve(b *testing.B) {
	const nodes = 10_000
	alerts := make([]prom.Observation, nodes)
	for i := range alerts {
		alerts[i] = with(firing(fmt.Sprintf("%016x", i), fmt.Sprintf("node-%05d", i), "A"), i%1000)
	}
	full := New(Options{})
	full.Observe(alerts...)
	b.Run("heartbeat", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			full.Observe(alerts[i%nodes])
		}
	})
	b.Run("flap", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			o := alerts[(i/2)%nodes]
			o.Firing = i%2 == 1
			full.Observe(o)
		}
	})
	b.Run("first", func(b *testing.B) {
		b.ReportAllocs()
		q := New(Options{})
		for i := 0; b.Loop(); i++ {
			if i%nodes == 0 {
				q = New(Options{})
			}
			q.Observe(alerts[i%nodes])
		}
	})
}

// A catalogue that renames a condition, or takes its device away, moves it, together with what is under the new name already.
func TestReprioritiseRenames(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := New(Options{})
		q.Observe(firing("1", "n1", "Old"), firing("2", "n1", "New"), firing("3", "n2", "Old"))
		q.Reprioritise(func(s prom.AegisNodeStatus) prom.AegisNodeStatus {
			s.Condition = "New"
			return s
		})
		for node, alerts := range map[string][]string{"n1": {"1", "2"}, "n2": {"3"}} {
			statuses := q.Statuses(node)
			require.Len(t, statuses, 1)
			require.Equal(t, "New", statuses[0].Condition)
			require.Equal(t, alerts, statuses[0].Alerts)
		}
		// The alerts still end what they had begun.
		for n, node := range []string{"n1", "n1", "n2"} {
			o := firing(fmt.Sprint(n+1), node, "New")
			o.Firing = false
			q.Observe(o)
		}
		require.Empty(t, q.Statuses("n1"))
		require.Empty(t, q.Statuses("n2"))
	})
}
