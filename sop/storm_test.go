package sop

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// noon returns the instant at which the tables begin.
func noon() time.Time { return time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC) }

// onsets returns the times at which a condition began on nodes, in minutes.
func onsets(minutes ...int) []time.Time {
	var list []time.Time
	for _, m := range minutes {
		list = append(list, noon().Add(time.Duration(m)*time.Minute))
	}
	return list
}

func TestStormBeginsWithASurge(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		onsets []time.Time
		storm  int
	}{
		{"few", onsets(0, 1, 2), 0},
		{"at once", onsets(0, 0, 0, 0), 4},
		{"within the window", onsets(0, 3, 7, 10), 4},
		{"long ago, but at once", onsets(-600, -601, -602, -603), 4},
		{"one after the other over days", onsets(0, 60, 120, 180, 240, 300), 0},
		{"a surge after some", onsets(-600, -300, 0, 1, 2, 3), 4},
		{"in any order", onsets(10, 0, 7, 3), 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			pool := policy.Pool{Name: "p", StormNodes: 3, StormWindow: 10 * time.Minute}
			f := front{condition: "GpuHung", pool: pool, size: 100, onsets: tt.onsets}
			storms := new(forecast).next(noon(), nil, []front{f}, policy.Settings{Pools: []policy.Pool{pool}})
			if tt.storm == 0 {
				require.Empty(t, storms)
				return
			}
			require.Equal(t, []policy.Storm{{Condition: "GpuHung", Pool: "p", Since: noon(), Nodes: tt.storm, Limit: 3}}, storms)
		})
	}
}

// A storm is over once it has abated for a while, and not between two gusts.
func TestStormEndsWithHysteresis(t *testing.T) {
	t.Parallel()
	pool := policy.Pool{Name: "p", StormNodes: 4, StormWindow: time.Minute, StormRelease: 5 * time.Minute}
	settings := policy.Settings{Pools: []policy.Pool{pool}}
	var c forecast
	var storms []policy.Storm
	at := func(minute, nodes int) bool {
		f := front{condition: "GpuHung", pool: pool, size: 100, onsets: slices.Repeat(onsets(0), nodes)}
		storms = c.next(noon().Add(time.Duration(minute)*time.Minute), storms, []front{f}, settings)
		return len(storms) > 0
	}
	require.False(t, at(0, 4))
	require.True(t, at(0, 5))
	require.True(t, at(60, 3), "more than half of the limit")
	require.True(t, at(61, 2), "abating")
	require.True(t, at(65, 2))
	require.True(t, at(66, 3), "a gust")
	require.True(t, at(67, 2))
	require.True(t, at(71, 0))
	storms = c.next(noon().Add(72*time.Minute), storms, nil, settings)
	require.Empty(t, storms, "abated for five minutes")
}

func TestReleasedStormDoesNotComeBackUntilItIsOver(t *testing.T) {
	t.Parallel()
	pool := policy.Pool{Name: "p", StormNodes: 3, StormWindow: time.Minute, StormRelease: time.Minute}
	settings := policy.Settings{Pools: []policy.Pool{pool}}
	f := front{condition: "GpuHung", pool: pool, size: 100, onsets: slices.Repeat(onsets(0), 10)}
	var c forecast
	storms := c.next(noon(), nil, []front{f}, settings)
	storms[0].Released = &policy.Order{By: "alice"}
	storms = c.next(noon().Add(time.Hour), storms, []front{f}, settings)
	require.Len(t, storms, 1)
	require.NotNil(t, storms[0].Released)
}

func TestWhatPeopleHaveSaidOfAStormCounts(t *testing.T) {
	t.Parallel()
	ours := []policy.Storm{{Condition: "A", Pool: "p", Nodes: 9}}
	written := []policy.Storm{{Condition: "A", Pool: "p", Released: &policy.Order{By: "alice"}}, {Condition: "B", Pool: "p"}}
	all := joined(ours, written)
	require.Len(t, all, 2)
	require.Equal(t, 9, all[0].Nodes)
	require.Equal(t, "alice", all[0].Released.By)
	require.Nil(t, ours[0].Released, "the list is another one")
}

// stormWorld is a pool of 20 nodes of which two may be out of service; more than 5 are a storm.
func stormWorld(t *testing.T) *world {
	t.Helper()
	return stormWorldWith(t, testPolicy())
}

func stormWorldWith(t *testing.T, p prom.Policy) *world {
	t.Helper()
	var nodes []runtime.Object
	for i := range 20 {
		name := fmt.Sprintf("n%02d", i)
		if i == 0 {
			name = nodeA
		}
		nodes = append(nodes, testNode(name, types.UID(name)))
	}
	w := newWorld(t, p, nodes...)
	w.setSettings(func(s *policy.Settings) {
		pool := &s.Pools[0]
		pool.MaxPercent, pool.StormNodes, pool.StormWindow, pool.StormRelease = 10, 5, time.Minute, 2*time.Minute
	})
	return w
}

func (w *world) names() []string {
	w.t.Helper()
	var names []string
	w.cluster.Do(func() { names = slices.Sorted(maps.Keys(w.cluster.Nodes)) })
	return names
}

// A rule that fires on every node: at most the budget is touched, nothing is evicted or booted, it is told once, a restart forgets
// nothing, and all is released when the rule is mended.
func TestRuleThatFiresEverywhereIsAStorm(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := stormWorld(t)
		stop := w.start()
		time.Sleep(time.Minute)
		for _, name := range w.names() {
			w.raiseOn(name, "Reboot")
		}
		time.Sleep(time.Hour)
		require.Equal(t, policy.VerdictStorm, w.verdicts.Node("n19")[0].Verdict.Name)
		require.Contains(t, w.verdicts.Node("n19")[0].Verdict.Reason, "nodes of pool test at once, and more than 5 are a storm")
		stop()
		stop = w.start()
		time.Sleep(time.Hour)
		require.Equal(t, policy.VerdictStorm, w.verdicts.Node("n19")[0].Verdict.Name)
		require.LessOrEqual(t, w.cordoned(), 2)
		require.Zero(t, w.jobs.count(protocol.ActionReboot))
		require.Len(t, w.d.Storms(), 1)

		w.source.gone()
		for _, name := range w.names() {
			w.withdraw(prom.Key{Node: name, Condition: "Reboot"})
		}
		time.Sleep(time.Hour)
		require.Zero(t, w.cordoned())
		require.Empty(t, w.d.Storms())
		require.Empty(t, w.d.Orders().Storms)
		require.Zero(t, w.jobs.count(protocol.ActionReboot))
		stop()
		require.Equal(t, []string{
			"Warning AegisStorm Reboot: its repair is held: it began on", "Warning AegisStormOver Reboot: the storm in pool test is o",
		}, w.toldOfStorms())
	})
}

// Whatever lets Aegis act on a condition that holds on many nodes meets the storm at once, however lately Aegis has looked for storms.
func TestStormIsSeenWhenMoreMayBeActedOn(t *testing.T) {
	for name, tt := range map[string]struct {
		mode        prom.Mode
		before, let func(w *world)
	}{
		"by its mode": {
			prom.ModeObserve,
			func(w *world) { w.setSettings(func(s *policy.Settings) { s.Pools[0].MaxPercent = 100 }) },
			func(w *world) {
				require.NoError(w.t, w.d.SetMode(w.t.Context(), "Reboot", prom.ModeAuto, policy.Order{By: "alice"}))
			},
		},
		"by the settings of its pool": {
			prom.ModeAuto,
			func(w *world) { w.setSettings(func(s *policy.Settings) { s.Pools[0].StormNodes = 0 }) },
			func(w *world) {
				w.setSettings(func(s *policy.Settings) { s.Pools[0].StormNodes, s.Pools[0].MaxPercent = 5, 100 })
				for _, node := range w.names() {
					w.queue.Enqueue(node)
				}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := stormWorld(t)
				tt.before(w)
				stop := w.start()
				synctest.Wait()
				require.NoError(t, w.d.SetMode(t.Context(), "Reboot", tt.mode, policy.Order{By: "alice"}))
				for _, node := range w.names() {
					w.raiseOn(node, "Reboot")
				}
				time.Sleep(30 * time.Second)
				out := w.cordoned()
				w.queue.Enqueue(nodeA)
				synctest.Wait()
				tt.let(w)
				time.Sleep(time.Hour)
				require.Equal(t, policy.VerdictStorm, w.verdicts.Node("n19")[0].Verdict.Name)
				require.Equal(t, out, w.cordoned())
				stop()
			})
		})
	}
}

// Alerts that come within one second, and need no time to be confirmed, are a storm before the first node too many is cordoned.
func TestStormOfOneSecond(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := testPolicy()
		p.ConfirmFor = 0
		w := stormWorldWith(t, p)
		w.setSettings(func(s *policy.Settings) { s.Pools[0].MaxPercent = 100 })
		stop := w.start()
		for _, node := range w.names() {
			w.raiseOn(node, "Reboot")
			synctest.Wait()
		}
		time.Sleep(time.Hour)
		require.Equal(t, policy.VerdictStorm, w.verdicts.Node("n19")[0].Verdict.Name)
		require.LessOrEqual(t, w.cordoned(), 5)
		stop()
	})
}

func TestPersonReleasesAStorm(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := stormWorld(t)
		for _, name := range w.names() {
			w.raiseOn(name, "Reboot")
		}
		stop := w.start()
		time.Sleep(time.Hour)
		require.Zero(t, w.jobs.count(protocol.ActionReboot))
		require.ErrorIs(t, w.d.ReleaseStorm(t.Context(), "Reboot", "other", policy.Order{By: "alice"}), policy.ErrNoStorm)
		require.NoError(t, w.d.ReleaseStorm(t.Context(), "Reboot", "test", policy.Order{By: "alice"}))
		time.Sleep(10 * time.Minute)
		require.NotZero(t, w.jobs.count(protocol.ActionReboot))
		require.Equal(t, "alice", w.d.Orders().Storms[0].Released.By, "it is remembered, so that it is not found again")
		stop()
	})
}

// A storm goes on under the new name of its condition, told once, and one that a person has released stays released.
func TestStormOutlivesARename(t *testing.T) {
	for name, released := range map[string]bool{"held": false, "released": true} {
		inNamedBubble(t, name, func(t *testing.T) {
			w := stormWorld(t)
			w.table["test/newname"] = w.table["test/reboot"]
			for _, name := range w.names() {
				w.raiseOn(name, "Reboot")
			}
			stop := w.start()
			time.Sleep(time.Minute)
			if released {
				require.NoError(t, w.d.ReleaseStorm(t.Context(), "Reboot", "test", policy.Order{By: "alice"}))
			}
			w.alias(map[string]string{"Reboot": "NewName"})
			w.queue.Reprioritise(func(s prom.AegisNodeStatus) prom.AegisNodeStatus { return w.Status(s.Node, s.Condition, s.ID, 0) })
			for _, called := range []string{"NewName", "Reboot"} {
				require.Equal(t, released, w.d.storms.holds(called, "test") == "", "at once, and for a run that has begun as "+called)
			}
			for range 60 {
				time.Sleep(time.Minute)
				storms := w.d.Storms()
				require.Len(t, storms, 1)
				require.Equal(t, "NewName", storms[0].Condition)
				require.Equal(t, released, storms[0].Released != nil)
				require.Len(t, w.d.Orders().Storms, 1)
			}
			require.Equal(t, !released, w.verdicts.Node("n19")[0].Verdict.Name == policy.VerdictStorm)
			stop()
			require.Equal(t, []string{"Warning AegisStorm Reboot: its repair is held: it began on"}, w.toldOfStorms())
		})
	}
}

// Two conditions become one. That one was released does not release the other.
func TestStormsThatBecomeOne(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := stormWorld(t)
		w.table["test/other"] = w.table["test/reboot"]
		for _, name := range w.names() {
			w.raiseOn(name, "Reboot")
			w.raiseOn(name, "Other")
		}
		stop := w.start()
		defer stop()
		time.Sleep(time.Minute)
		require.NoError(t, w.d.ReleaseStorm(t.Context(), "Other", "test", policy.Order{By: "alice"}))
		require.NotEmpty(t, w.d.storms.holds("Reboot", "test"))
		w.alias(map[string]string{"Other": "Reboot"})
		require.NotEmpty(t, w.d.storms.holds("Reboot", "test"), "nobody has released it")
	})
}

// A storm does not hold what a person asks for on one node, nor the return of a node.
func TestStormHoldsNeitherRequestsNorRecovery(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := stormWorld(t)
		for _, name := range w.names() {
			w.raiseOn(name, "Reboot")
		}
		stop := w.start()
		time.Sleep(time.Hour)
		healed := ""
		for _, name := range w.names() {
			if w.verdicts.Node(name)[0].Verdict.Name == policy.VerdictStorm && ticket.ReadNode(w.nodeNamed(name)).Ticket == nil {
				healed = name
				break
			}
		}
		w.setSettings(func(s *policy.Settings) { s.Pools[0].MaxPercent = 50 })
		_, err := w.d.Heal(t.Context(), policy.HealRequest{Status: w.Status(healed, "Reboot", "", 0), By: "alice", Reason: "it really is"})
		require.NoError(t, err)
		w.await("booted", func(ticket.Record) bool { return w.jobs.count(protocol.ActionReboot) == 1 })
		time.Sleep(2 * bootTime)
		stop()
	})
	require.False(t, canStorm(prom.AegisNodeStatus{Priority: 1, Policy: prom.Policy{Mode: prom.ModeAuto}}), "the return of cordoned nodes")
	require.False(t, canStorm(prom.AegisNodeStatus{Priority: 3, Policy: prom.Policy{Mode: prom.ModeObserve}}))
	require.True(t, canStorm(prom.AegisNodeStatus{Priority: 0, Policy: prom.Policy{Mode: prom.ModeAuto}}))
}

// cordoned returns how many nodes are.
func (w *world) cordoned() int {
	n := 0
	for _, name := range w.names() {
		if w.nodeNamed(name).Spec.Unschedulable {
			n++
		}
	}
	return n
}

// toldOfStorms returns the beginnings of the Events about storms.
func (w *world) toldOfStorms() []string {
	var told []string
	for {
		select {
		case e := <-w.events.Events:
			if strings.Contains(e, "AegisStorm") {
				told = append(told, e[:min(len(e), 58)])
			}
		default:
			return told
		}
	}
}
