package sop

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// held returns what the metric shows in hours, by verdict, without those that hold nothing.
func (w *world) held(reg *prometheus.Registry) map[string]int {
	families, err := reg.Gather()
	require.NoError(w.t, err)
	hours := make(map[string]int)
	for _, m := range families[0].GetMetric() {
		if age := m.GetGauge().GetValue(); age > 0 {
			hours[m.GetLabel()[0].GetValue()] = int(age) / 3600
		}
	}
	return hours
}

// What held a step holds nothing any more once its condition has gone away, and nobody is told that it does.
func TestHoldEndsWithItsStep(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy(), testNode(nodeA, "a"), testNode("gpu-0002", "b"))
		w.setSettings(func(s *policy.Settings) { s.Pools[0].MaxDestructive = 1 })
		w.table["test/reboot"] = func() SOP {
			return NewProcedure(func(ctx context.Context, b *ApiBridge) error {
				if err := cordonAnd((*ApiBridge).Reboot)(ctx, b); !errors.Is(err, ErrWithdrawn) {
					return err
				}
				return b.Healthcheck(ctx)
			})
		}
		stop := w.start()
		synctest.Wait()
		release := w.d.services.limits.resume("gpu-0002", ticket.Reboot)
		w.raise("Reboot")
		w.await("held", func(ticket.Record) bool {
			return w.verdict("Reboot") == policy.VerdictBudget && w.record().Ticket != nil
		})
		w.source.gone()
		w.await("checked", running(ticket.Healthcheck))
		require.Equal(t, policy.VerdictExecute, w.verdict("Reboot"), "%+v", w.verdicts.Node(nodeA))
		release()
		stop()
	})
}

// A ticket that waits in the middle of its repair is held like one that has not begun.
func TestHeldTicketShowsItsAge(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.jobs.effect = func(r jobs.Request) {
			switch r.Action {
			case protocol.ActionDiagnose:
				if err := w.d.SetMode(t.Context(), "Reboot", prom.ModeApprove, policy.Order{By: "alice"}); err != nil {
					t.Error(err)
				}
			case protocol.ActionReboot:
				w.source.gone()
			}
		}
		w.raise("Reboot")
		stop := w.start()
		defer stop()
		reg := prometheus.NewRegistry()
		reg.MustRegister(NewHoldCollector(w.d))
		w.await("held", func(r ticket.Record) bool { return r.Ticket != nil && r.Ticket.Hold != "" })
		time.Sleep(30*time.Hour + time.Minute)
		require.Equal(t, map[string]int{"awaiting_approval": 30}, w.held(reg))
		_, err := w.d.Approve(t.Context(), policy.NodeOrder{Node: nodeA, Condition: "Reboot", By: "alice"})
		require.NoError(t, err)
		w.await("resolved", resolved)
		require.Empty(t, w.held(reg))
	})
}

// A repair that waits for what may never come shows for how long it does, until it goes on.
func TestHoldsShowTheirAge(t *testing.T) {
	t.Parallel()
	order := policy.Order{By: "alice", Reason: "racks"}
	tests := map[policy.VerdictName]struct{ holds, ends func(w *world) error }{
		policy.VerdictAwaitingApproval: {
			func(w *world) error { w.policy.Mode = prom.ModeApprove; return nil },
			func(w *world) error {
				_, err := w.d.Approve(w.t.Context(), policy.NodeOrder{Node: nodeA, Condition: "Reboot", By: "alice"})
				return err
			},
		},
		policy.VerdictPaused: {
			func(w *world) error { return w.d.Pause(w.t.Context(), order) },
			func(w *world) error { return w.d.Resume(w.t.Context(), "alice") },
		},
		policy.VerdictExcluded: {
			func(w *world) error {
				w.edit(func(n *corev1.Node) { n.Labels = map[string]string{policy.DisableLabel: "true"} })
				return nil
			},
			func(w *world) error {
				w.edit(func(n *corev1.Node) { delete(n.Labels, policy.DisableLabel) })
				return nil
			},
		},
		policy.VerdictHumanCordoned: {
			func(w *world) error { w.edit(func(n *corev1.Node) { n.Spec.Unschedulable = true }); return nil },
			func(w *world) error { w.edit(func(n *corev1.Node) { n.Spec.Unschedulable = false }); return nil },
		},
	}
	for verdict, tt := range tests {
		t.Run(string(verdict), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := newWorld(t, testPolicy())
				stop := w.start()
				defer stop()
				time.Sleep(time.Second)
				reg := prometheus.NewRegistry()
				reg.MustRegister(NewHoldCollector(w.d))
				require.NoError(t, tt.holds(w))
				w.raise("Reboot")
				w.await("held", func(ticket.Record) bool { return w.verdict("Reboot") == verdict })
				time.Sleep(30*time.Hour + time.Minute)
				require.Equal(t, map[string]int{string(verdict): 30}, w.held(reg))
				require.NoError(t, tt.ends(w))
				w.await("begun", func(ticket.Record) bool { return w.verdict("Reboot") == policy.VerdictExecute })
				require.Empty(t, w.held(reg))
			})
		})
	}
}

// A hold that goes on under another reason is as old as before; what is not held for a moment begins anew, and so does another leader.
func TestHoldIsAsOldAsItsFirstReason(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.d = w.dispatcher()
		reg := prometheus.NewRegistry()
		reg.MustRegister(NewHoldCollector(w.d))
		problems, err := testutil.GatherAndLint(reg)
		require.NoError(t, err)
		require.Empty(t, problems)
		key := func(device string) prom.Key { return prom.Key{Node: nodeA, Condition: "Reboot", ID: device} }
		set := func(device string, name policy.VerdictName) {
			w.d.services.Verdicts.Set(key(device), policy.Verdict{Name: name})
			time.Sleep(time.Hour)
		}
		set("0", policy.VerdictPaused)
		set("0", policy.VerdictUnverifiable)
		set("1", policy.VerdictUnverifiable)
		require.Equal(t, map[string]int{"unverifiable": 3}, w.held(reg))
		set("0", policy.VerdictExecute)
		require.Equal(t, map[string]int{"unverifiable": 2}, w.held(reg))
		set("0", policy.VerdictBudget)
		require.Equal(t, map[string]int{"unverifiable": 3, "budget": 1}, w.held(reg))
		w.d.services.Verdicts.Keep(nodeA, []prom.Key{key("0")})
		require.Equal(t, map[string]int{"budget": 1}, w.held(reg))
		var want strings.Builder
		for _, name := range policy.VerdictNames() {
			if name.Holds() {
				fmt.Fprintf(&want, "aegis_oldest_hold_seconds{verdict=%q} %d\n", name, map[bool]int{true: 3600}[name == policy.VerdictBudget])
			}
		}
		require.NoError(t, testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP aegis_oldest_hold_seconds For how long the repair that has waited longest has been held, by the verdict that holds it now; 0 if none is held.
# TYPE aegis_oldest_hold_seconds gauge
`+want.String())))
	})
}
