package sop

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// approvalWorld is one in which every repair waits for a person.
func approvalWorld(t *testing.T) *world {
	t.Helper()
	p := testPolicy()
	p.Mode = prom.ModeApprove
	w := newWorld(t, p)
	w.jobs.effect = func(r jobs.Request) {
		if r.Action == protocol.ActionReboot {
			w.source.gone()
		}
	}
	return w
}

func TestApprovalLetsARepairBegin(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := approvalWorld(t)
		w.raise("Reboot")
		stop := w.start()
		w.await("awaiting", func(ticket.Record) bool { return w.verdict("Reboot") == policy.VerdictAwaitingApproval })
		time.Sleep(time.Hour)
		require.Nil(t, w.record().Ticket)
		result, err := w.d.Approve(t.Context(), policy.NodeOrder{Node: nodeA, Condition: "Reboot", By: "alice", Reason: "go"})
		require.NoError(t, err)
		require.Equal(t, "cordon", result.Plan[0])
		require.Equal(t, result.Ticket, w.record().Ticket.ID)
		require.Equal(t, "alice", w.record().Ticket.ApprovedBy)
		w.await("resolved", resolved)
		stop()
		require.Equal(t, 1, w.jobs.count(protocol.ActionReboot))
	})
}

// An approval is no order: a silence holds the repair all the same, and an alert that has gone away ends it.
func TestApprovalDoesNotOverruleTheSources(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := approvalWorld(t)
		w.raise("Reboot")
		stop := w.start()
		w.await("awaiting", func(ticket.Record) bool { return w.verdict("Reboot") == policy.VerdictAwaitingApproval })
		w.source.set(prom.Finding{Evidence: prom.EvidenceFiring, Permission: prom.PermissionSilenced})
		_, err := w.d.Approve(t.Context(), policy.NodeOrder{Node: nodeA, Condition: "Reboot", By: "alice"})
		require.NoError(t, err)
		w.await("held", func(ticket.Record) bool { return w.verdict("Reboot") == policy.VerdictSilenced })
		time.Sleep(time.Hour)
		require.Zero(t, w.jobs.count(protocol.ActionReboot))
		w.source.gone()
		w.await("resolved", resolved)
		require.Zero(t, w.jobs.count(protocol.ActionReboot))
		stop()
	})
}

func TestApprovalsThatAreRefused(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name      string
		mode      prom.Mode
		prepare   func(w *world)
		condition string
		says      string
	}{
		{"nothing waits", prom.ModeApprove, func(*world) {}, "Reboot", "unconfirmed: the condition is not reported on the node"},
		{"another condition", prom.ModeApprove, func(w *world) { w.raise("Reboot") }, "Reset", "unconfirmed: the condition is not reported on the node"},
		{"mode auto", prom.ModeAuto, func(w *world) { w.raise("Reboot") }, "Reboot", "execute: runs test/reboot"},
		{"mode observe", prom.ModeObserve, func(w *world) { w.raise("Reboot") }, "Reboot", "observe: mode observe"},
		{"people own the ticket", prom.ModeApprove, func(w *world) {
			w.raise("Reboot")
			w.edit(func(n *corev1.Node) {
				n.Annotations = map[string]string{ticket.Annotation: "supervisor: bob\nstatus: assigned\n"}
			})
		}, "Reboot", `human_owned: ticket "" belongs to "bob"`},
		{"excluded", prom.ModeApprove, func(w *world) {
			w.raise("Reboot")
			w.edit(func(n *corev1.Node) { n.Labels = map[string]string{policy.DisableLabel: "true"} })
		}, "Reboot", "excluded: "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				p := testPolicy()
				p.Mode = tt.mode
				w := newWorld(t, p)
				tt.prepare(w)
				d := w.dispatcher()
				_, err := d.Approve(t.Context(), policy.NodeOrder{Node: nodeA, Condition: tt.condition, By: "alice"})
				require.ErrorIs(t, err, policy.ErrRefused)
				require.ErrorContains(t, err, tt.says)
				_, err = d.Approve(t.Context(), policy.NodeOrder{Node: "nobody", Condition: tt.condition})
				require.ErrorIs(t, err, ticket.ErrNodeGone)
			})
		})
	}
}

// Cancel ends what runs at once, in the middle of any step, and the node stays as it is until the person gives it back.
func TestCancelInTheMiddleOfEachStep(t *testing.T) {
	t.Parallel()
	for _, action := range []ticket.Action{ticket.Diagnose, ticket.Drain, ticket.Reboot, ticket.Verify, ticket.Healthcheck} {
		t.Run(string(action), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				held := map[string]string{"app": "worker"}
				if action == ticket.Drain {
					held["held"] = "pdb"
				}
				w := newWorld(t, testPolicy(), testPod("worker", func(p *corev1.Pod) { p.Labels = held }))
				w.jobs.effect = func(r jobs.Request) {
					if r.Action == protocol.ActionReboot {
						w.source.gone()
					}
				}
				w.raise("Reboot")
				stop := w.start()
				w.await("the step runs", func(r ticket.Record) bool {
					if r.Ticket == nil {
						return false
					}
					last, known := r.Ticket.Outcome(action, 1)
					return known && last.Status == ticket.Running
				})
				id := w.record().Ticket.ID
				require.NoError(t, w.d.Cancel(t.Context(), policy.NodeOrder{Node: nodeA, By: "alice", Reason: "mine"}))
				made := w.jobs.total()
				time.Sleep(3 * time.Hour)
				r := w.record()
				require.Equal(t, made, w.jobs.total(), "nothing more is ordered")
				require.Equal(t, []string{"alice", id}, []string{r.Ticket.Supervisor, r.Ticket.ID})
				require.Equal(t, ticket.StatusAssigned, r.Ticket.Status)
				require.Empty(t, r.Ticket.Running())
				last, _ := r.Ticket.Outcome(action, 1)
				// A boot cannot be recalled, so it counts.
				ended := map[bool]ticket.StepStatus{false: ticket.Canceled, true: ticket.Failed}[action.Destructive()]
				require.Equal(t, ended, last.Status)
				if action.Destructive() {
					require.Len(t, r.History.Incidents[0].Destructive, 1)
				}
				require.Equal(t, "canceled by alice: mine", last.Message)
				require.Equal(t, outcomeCanceled, r.History.Incidents[0].Outcome)
				require.True(t, r.Node.Spec.Unschedulable, "a node whose repair was canceled is not returned")
				require.ErrorIs(t, w.d.Cancel(t.Context(), policy.NodeOrder{Node: nodeA, By: "bob"}), policy.ErrRefused)

				require.NoError(t, w.d.Release(t.Context(), policy.NodeOrder{Node: nodeA, By: "alice"}))
				w.await("closed", func(r ticket.Record) bool { return r.History.Incidents[0].Outcome == outcomeReleased })
				stop()
			})
		})
	}
}

// A ticket that people take over and give back goes on from where it was, and repeats nothing.
func TestTakeOverAndRelease(t *testing.T) {
	t.Parallel()
	for _, action := range []ticket.Action{ticket.Drain, ticket.Reboot, ticket.Healthcheck} {
		t.Run(string(action), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := newWorld(t, testPolicy(), testPod("worker", func(p *corev1.Pod) {
					if action == ticket.Drain {
						p.Labels["held"] = "pdb"
					}
				}))
				w.jobs.effect = func(r jobs.Request) {
					if r.Action == protocol.ActionReboot {
						w.source.gone()
					}
				}
				w.raise("Reboot")
				stop := w.start()
				w.await("the step runs", func(r ticket.Record) bool {
					return r.Ticket != nil && r.Ticket.Count(action) == 1 && len(r.Ticket.Running()) == 1
				})
				time.Sleep(10 * time.Second) // Its operation has been started, and nobody takes that back.
				require.NoError(t, w.d.TakeOver(t.Context(), policy.NodeOrder{Node: nodeA, By: "alice,bob"}))
				require.Equal(t, "alice bob", w.record().Ticket.Supervisor)
				time.Sleep(20 * time.Minute)
				require.Equal(t, policy.VerdictHumanOwned, w.verdict("Reboot"))
				if action == ticket.Drain {
					w.cluster.Do(func() { w.cluster.DeletePod("train", "worker") })
				}
				require.NoError(t, w.d.Release(t.Context(), policy.NodeOrder{Node: nodeA, By: "alice"}))
				require.ErrorIs(t, w.d.Release(t.Context(), policy.NodeOrder{Node: nodeA, By: "alice"}), policy.ErrRefused)
				w.await("resolved", resolved)
				require.Equal(t, 1, w.jobs.count(protocol.ActionReboot))
				checks := 1
				if action == ticket.Healthcheck {
					checks++ // What was proven before people had the node proves nothing of it after that.
				}
				require.Equal(t, checks, w.jobs.count(protocol.ActionHealthcheck), "%v", w.journaled())
				require.Len(t, w.record().History.Incidents, 1)
				stop()
			})
		})
	}
}

func TestOrdersForANodeWithoutTicketAreRefused(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		d := w.dispatcher()
		for _, order := range []func(context.Context, policy.NodeOrder) error{d.Cancel, d.TakeOver, d.Release} {
			require.ErrorContains(t, order(t.Context(), policy.NodeOrder{Node: nodeA, By: "alice"}), "the node has no open ticket")
			require.ErrorIs(t, order(t.Context(), policy.NodeOrder{Node: "nobody", By: "alice"}), ticket.ErrNodeGone)
		}
		w.edit(func(n *corev1.Node) { n.Annotations = map[string]string{ticket.Annotation: "{hands off"} })
		for _, order := range []func(context.Context, policy.NodeOrder) error{d.Cancel, d.TakeOver, d.Release} {
			require.ErrorIs(t, order(t.Context(), policy.NodeOrder{Node: nodeA, By: "alice"}), policy.ErrRefused)
		}
		require.Equal(t, "{hands off", w.node().Annotations[ticket.Annotation])
	})
}
