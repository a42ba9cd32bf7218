package sop

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// series returns the samples of a metric that have all these values of labels.
func (w *world) series(metric string, values ...string) (found []*dto.Metric) {
	w.t.Helper()
	families, err := w.registry.Gather()
	require.NoError(w.t, err)
	for _, family := range families {
		if family.GetName() != metric {
			continue
		}
		for _, m := range family.GetMetric() {
			has := func(value string) bool {
				return slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetValue() == value })
			}
			if !slices.ContainsFunc(values, func(value string) bool { return !has(value) }) {
				found = append(found, m)
			}
		}
	}
	return found
}

// value adds the samples up: what a counter has, and how many observations a histogram.
func (w *world) value(metric string, values ...string) (sum float64) {
	w.t.Helper()
	for _, m := range w.series(metric, values...) {
		sum += m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
	}
	return sum
}

// seconds returns the sum of what a histogram observed.
func (w *world) seconds(metric string, values ...string) (sum float64) {
	w.t.Helper()
	for _, m := range w.series(metric, values...) {
		sum += m.GetHistogram().GetSampleSum()
	}
	return sum
}

// counts returns how a repair of the condition was counted.
func (w *world) counts(condition string) map[string]float64 {
	counts := map[string]float64{}
	for _, outcome := range repairOutcomes() {
		if n := w.value("aegis_repairs_total", condition, outcome); n > 0 {
			counts[outcome] = n
		}
	}
	for _, metric := range []string{"first_time", "unattended", "false_alarm"} {
		if n := w.value("aegis_repairs_"+metric+"_total", condition); n > 0 {
			counts[metric] = n
		}
	}
	return counts
}

// curedBy has an operation end the alert.
func (w *world) curedBy(action string) {
	w.jobs.effect = func(r jobs.Request) {
		if r.Action == action {
			w.source.gone()
			w.withdraw(prom.Key{Node: nodeA, Condition: "Reboot"})
		}
	}
}

func (w *world) begun(action ticket.Action) func(ticket.Record) bool {
	return func(r ticket.Record) bool { return r.Ticket != nil && r.Ticket.Count(action) > 0 }
}

type counted = map[string]float64

// What each kind of repair counts as.
func TestRepairsAreCounted(t *testing.T) {
	t.Parallel()
	order := policy.NodeOrder{Node: nodeA, Condition: "Reboot", By: "alice"}
	for name, tt := range map[string]struct {
		mode prom.Mode
		play func(t *testing.T, w *world)
		want counted
	}{
		"one boot": {"", func(_ *testing.T, w *world) {
			w.await("resolved", resolved)
		}, counted{repairResolved: 1, "first_time": 1, "unattended": 1}},
		"two boots": {"", func(_ *testing.T, w *world) {
			w.jobs.effect = func(jobs.Request) {
				if w.jobs.count(protocol.ActionReboot) == 2 {
					w.source.gone()
				}
			}
			w.await("resolved", resolved)
		}, counted{repairResolved: 1, "unattended": 1}},
		"no boot helps": {"", func(_ *testing.T, w *world) {
			w.jobs.effect = nil
			w.await("handed over", handedTo("gpu"))
		}, counted{repairHandedOver: 1}},
		"gone before the boot, and the machine is in order": {"", func(_ *testing.T, w *world) {
			w.await("it is cordoned", w.begun(ticket.Cordon))
			w.source.gone()
			w.await("resolved", resolved)
		}, counted{repairResolved: 1, "unattended": 1, "false_alarm": 1}},
		"approved": {prom.ModeApprove, func(t *testing.T, w *world) {
			w.await("awaiting", func(ticket.Record) bool { return w.verdict("Reboot") == policy.VerdictAwaitingApproval })
			_, err := w.d.Approve(t.Context(), order)
			require.NoError(t, err)
			w.await("resolved", resolved)
		}, counted{repairResolved: 1, "first_time": 1}},
		"requested": {prom.ModeObserve, func(t *testing.T, w *world) {
			_, err := w.d.Heal(t.Context(), policy.HealRequest{Status: w.Status(nodeA, "Reboot", "", 0), By: "alice"})
			require.NoError(t, err)
			w.await("resolved", resolved)
		}, counted{repairResolved: 1, "first_time": 1}},
		"taken over and given back": {"", func(t *testing.T, w *world) {
			w.await("it boots", w.begun(ticket.Reboot))
			require.NoError(t, w.d.TakeOver(t.Context(), order))
			require.NoError(t, w.d.Release(t.Context(), order))
			w.await("resolved", resolved)
		}, counted{repairResolved: 1, "first_time": 1}},
		"edited with kubectl": {"", func(_ *testing.T, w *world) {
			w.await("it boots", w.begun(ticket.Reboot))
			w.edit(func(n *corev1.Node) {
				n.Annotations[ticket.Annotation] += "note: seen\n"
				n.ManagedFields = append(n.ManagedFields, metav1.ManagedFieldsEntry{
					Manager: "kubectl-edit", FieldsV1: metav1.NewFieldsV1(`{"f:metadata":{"f:annotations":{"f:aegis.io/ticketing":{}}}}`),
				})
			})
			w.await("resolved", resolved)
		}, counted{repairResolved: 1, "first_time": 1}},
		"canceled, then given back": {"", func(t *testing.T, w *world) {
			w.await("it boots", w.begun(ticket.Reboot))
			require.NoError(t, w.d.Cancel(t.Context(), order))
			w.withdraw(prom.Key{Node: nodeA, Condition: "Reboot"})
			require.NoError(t, w.d.Release(t.Context(), order))
			w.await("closed", func(r ticket.Record) bool { return r.Ticket == nil })
			time.Sleep(time.Hour)
		}, counted{repairCanceled: 1}},
		"it comes back": {"", func(t *testing.T, w *world) {
			for n := 1; n <= 2; n++ {
				w.await("resolved", func(r ticket.Record) bool { return resolved(r) && len(r.History.Incidents) == n })
				time.Sleep(time.Hour)
				if n == 1 {
					w.source.set(prom.Finding{Evidence: prom.EvidenceFiring, Permission: prom.PermissionGranted})
					w.raise("Reboot")
				}
			}
		}, counted{repairResolved: 2, "first_time": 1, "unattended": 2}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				p := testPolicy()
				if tt.mode != "" {
					p.Mode = tt.mode
				}
				w := newWorld(t, p)
				w.curedBy(protocol.ActionReboot)
				w.raise("Reboot")
				stop := w.start()
				tt.play(t, w)
				stop()
				require.Equal(t, tt.want, w.counts("Reboot"))
				require.InDelta(t, w.value("aegis_repairs_total"), w.value("aegis_repair_seconds"), 0)
			})
		})
	}
}

// A check that somebody asked for is no repair, nor a false alarm, when it finds nothing.
func TestChecksAreNoRepairs(t *testing.T) {
	t.Parallel()
	for origin, want := range map[string]string{checkPrefix + "alice": repairChecked, intakeOrigin: repairChecked, string(prom.OriginAlert): repairResolved} {
		w := newWorld(t, testPolicy())
		own := ownTicket("Cordon")
		own.Origin = origin
		require.NoError(t, own.Record(ticket.Healthcheck, 1, ticket.Succeeded, time.Now(), ""))
		w.dispatcher().services.count(ended{ticket: own}, repairResolved)
		require.InDelta(t, 1, w.value("aegis_repairs_total", "Cordon", want), 0, origin)
		require.Equal(t, want == repairResolved, w.counts("Cordon")["false_alarm"] == 1, origin)
	}
}

// People who are only told of a condition repair nothing through Aegis, and neither does a note.
func TestNoticesAreNoRepairs(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.raise("Note")
		w.run("handed over", handedTo("gpu"))
		require.Equal(t, counted{repairNotified: 1}, w.counts("Note"))
	})
}

// An operation that finds nothing to do has found a false alarm, if the healthcheck agrees.
func TestNothingToDoIsAFalseAlarm(t *testing.T) {
	t.Parallel()
	for _, unneeded := range []bool{true, false} {
		t.Run(fmt.Sprintf("unneeded %t", unneeded), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := newWorld(t, testPolicy())
				w.jobs.result = func(r jobs.Request, _ int) (jobs.Result, bool) {
					report := &protocol.Report{Result: protocol.ResultPassed, Unneeded: unneeded && r.Action == protocol.ActionRemedy}
					return jobs.Result{Job: r.Name(), Phase: jobs.PhaseSucceeded, Report: report}, true
				}
				w.jobs.effect = func(r jobs.Request) {
					if r.Action == protocol.ActionRemedy {
						w.source.gone()
					}
				}
				w.raise("Remedy")
				w.run("resolved", resolved)
				require.Equal(t, unneeded, w.value("aegis_repairs_false_alarm_total", "Remedy") == 1, "%v", w.journaled())
				require.Equal(t, !unneeded, w.value("aegis_repairs_first_time_total", "Remedy") == 1)
			})
		})
	}
}

// A node that Aegis saw down was no false alarm, although it came back by itself and is in order.
func TestNodeThatWasDownIsNoFalseAlarm(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testPolicy())
	down := ownTicket("Ready")
	require.NoError(t, down.Record(ticket.Wait, 1, ticket.Failed, time.Now(), ""))
	require.NoError(t, down.Record(ticket.Healthcheck, 1, ticket.Succeeded, time.Now(), ""))
	w.dispatcher().services.count(ended{ticket: down}, repairResolved)
	require.Equal(t, counted{repairResolved: 1, "first_time": 1, "unattended": 1}, w.counts("Ready"))
}

// The times are those of the ticket, however many processes worked on it.
func TestRepairsAreMeasured(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.curedBy(protocol.ActionReboot)
		w.source.set(prom.Finding{Evidence: prom.EvidenceFiring, Permission: prom.PermissionSilenced})
		w.raise("Reboot")
		time.AfterFunc(5*time.Minute, func() {
			w.source.set(prom.Finding{Evidence: prom.EvidenceFiring, Permission: prom.PermissionGranted})
		})
		w.run("it boots", func(r ticket.Record) bool { return w.begun(ticket.Reboot)(r) && len(r.Ticket.Running()) == 1 })
		stopped := time.Now()
		time.Sleep(time.Minute)
		w.run("resolved", resolved)
		incident := w.record().History.Incidents[0]
		whole := incident.Closed.Sub(incident.Opened).Seconds()
		require.InDelta(t, whole, w.seconds("aegis_repair_seconds", "Reboot", repairResolved), 2)
		require.InDelta(t, 300, w.seconds("aegis_isolate_seconds", string(prom.BandEmergency)), 15)
		require.InDelta(t, whole, w.seconds("aegis_return_seconds", string(prom.BandEmergency)), 5)
		require.Greater(t, w.seconds("aegis_step_seconds", string(ticket.Reboot), "succeeded"), 60.0, "the time between the processes is in it, from %s", stopped)
		require.InDelta(t, 1, w.value("aegis_step_total", string(ticket.Reboot), "succeeded"), 0)
		require.InDelta(t, 1, w.value("aegis_step_total", string(ticket.Resolve), "succeeded"), 0)
	})
}

// A ticket is a text that people may write, so no name in it makes a series of its own.
func TestLabelsAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.unknown = func(condition string) bool { return condition != "Reboot" }
		e := w.dispatcher().services
		for i := range 1000 {
			own := ownTicket(fmt.Sprintf("Condition%d", i))
			own.SOP = fmt.Sprintf("sop/%d", i)
			e.count(ended{ticket: own}, repairResolved)
			w.metrics.step(ticket.Action(fmt.Sprintf("action%d", i)), ticket.Succeeded, time.Second)
		}
		known := ownTicket("Reboot")
		known.SOP = "test/reboot"
		e.count(ended{ticket: known}, repairHandedOver)
		require.Len(t, w.series("aegis_repairs_total"), 2*len(repairOutcomes()))
		require.InDelta(t, 1000, w.value("aegis_repairs_total", otherLabel, repairResolved), 0)
		require.Len(t, w.series("aegis_repair_seconds"), 4)
		require.Len(t, w.series("aegis_step_total", otherLabel), 1)
		require.InDelta(t, 1, w.value("aegis_repairs_total", "Reboot", "test/reboot", repairHandedOver), 0)
	})
}

// The first repair is an increase: its series are there, at zero, from when it begins.
func TestSeriesBeginAtZero(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.raise("Reboot")
		stop := w.start()
		w.await("it is cordoned", w.begun(ticket.Cordon))
		stop()
		require.Len(t, w.series("aegis_repairs_total", "Reboot", "test/reboot"), len(repairOutcomes()))
		require.Zero(t, w.value("aegis_repairs_total"))
	})
}

func TestRepairMetricsAreLintClean(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewPedanticRegistry()
	m := NewMetrics(reg)
	m.repaired(tally{condition: "GpuHung", sop: "gpu/hung", outcome: repairResolved, firstTime: true, unattended: true, falseAlarm: true})
	problems, err := testutil.GatherAndLint(reg)
	require.NoError(t, err)
	require.Empty(t, problems)
}
