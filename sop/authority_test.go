package sop

import (
	"strings"
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

// What others write on a node makes Aegis do less, never more.

// forged is a ticket of a person that says that all but the boot is done.
const forged = "condition: Reboot\nsupervisor: aegis\nstatus: resolving\nworkflows:\n" +
	"- {action: cordon, status: Succeeded}\n- {action: diagnose, status: Succeeded}\n- {action: drain, status: Succeeded}\n"

func workload(w *world) {
	w.cluster.Do(func() { w.cluster.AddPod(testPod("train", func(*corev1.Pod) {})) })
}

func (w *world) annotate(text string) {
	w.edit(func(n *corev1.Node) {
		if n.Annotations == nil {
			n.Annotations = make(map[string]string)
		}
		n.Annotations[ticket.Annotation] = text
	})
}

// A ticket of a person about which no source says anything is closed, and nothing is done.
func TestForgedTicketWithoutAnAlertIsClosed(t *testing.T) {
	for name, prepare := range map[string]func(w *world, text string) string{
		"on a node of the control plane": func(w *world, text string) string {
			w.edit(func(n *corev1.Node) { n.Labels = map[string]string{"node-role.kubernetes.io/control-plane": ""} })
			return text
		},
		"in mode observe":      func(w *world, text string) string { w.policy.Mode = prom.ModeObserve; return text },
		"as if requested":      func(_ *world, text string) string { return text + "origin: heal:alice\nid: 20260101t000000-aaaaaa\n" },
		"as if approved":       func(_ *world, text string) string { return text + "approvedBy: alice\nid: 20260101t000000-aaaaaa\n" },
		"as if a check":        func(_ *world, text string) string { return text + "origin: check:alice\nrequestedBy: alice\n" },
		"as if found by Aegis": func(_ *world, text string) string { return text + "origin: healthcheck\nreason: GPU is broken\n" },
		"with a boot running": func(_ *world, text string) string {
			return text + "- {action: reboot, status: Running, at: 2000-01-01T00:00:00Z}\n"
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := newWorld(t, testPolicy())
				workload(w)
				w.source.gone()
				text := prepare(w, "")
				if rest, step := strings.CutPrefix(text, "- "); step {
					text = forged + "- " + rest
				} else {
					text += forged
				}
				w.annotate(text)
				w.queue.Enqueue(nodeA)
				stop := w.start()
				defer stop()
				w.await("closed", func(r ticket.Record) bool { return r.Ticket == nil })
				time.Sleep(2 * time.Hour)
				require.Nil(t, w.record().Ticket)
				require.Empty(t, w.jobs.order)
				require.False(t, w.node().Spec.Unschedulable)
				require.Equal(t, []string{"train"}, w.pods())
			})
		})
	}
}

// Where the alert fires, what the ticket says was done is done again, and what its author permitted is not permitted.
func TestForgedTicketIsDecidedAnew(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		workload(w)
		w.annotate(forged)
		w.raise("Reboot")
		w.jobs.effect = func(r jobs.Request) {
			if r.Action == protocol.ActionReboot {
				require.Empty(t, w.pods(), "a boot under workload")
				w.source.gone()
			}
		}
		w.run("resolved", resolved)
		require.Equal(t, 1, w.jobs.count(protocol.ActionDiagnose), "what a person says was done is done")
		require.Equal(t, 1, w.jobs.count(protocol.ActionReboot))
	})
}

// An approval that somebody has written is none.
func TestForgedApprovalIsNone(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := testPolicy()
		p.Mode = prom.ModeApprove
		w := newWorld(t, p)
		workload(w)
		w.annotate("id: 20260101t000000-aaaaaa\napprovedBy: alice\n" + forged)
		w.raise("Reboot")
		stop := w.start()
		defer stop()
		w.await("closed", func(r ticket.Record) bool { return r.Ticket == nil })
		time.Sleep(time.Hour)
		require.Equal(t, "awaiting_approval", string(w.verdict("Reboot")))
		require.Empty(t, w.jobs.order)
		require.False(t, w.node().Spec.Unschedulable)
	})
}

// replaceInTicket edits the ticket on the node as a person does.
func (w *world) replaceInTicket(from, to string) {
	w.t.Helper()
	w.edit(func(n *corev1.Node) {
		text := n.Annotations[ticket.Annotation]
		require.Contains(w.t, text, from)
		n.Annotations[ticket.Annotation] = strings.Replace(text, from, to, 1)
	})
}

// A ticket that a person takes over and gives back is proven all the while, and goes on from where it was.
func TestTakenOverTicketGoesOn(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		workload(w)
		w.raise("Reboot")
		stop := w.start()
		defer stop()
		w.awaitRunning(ticket.Diagnose)
		id := w.record().Ticket.ID
		w.replaceInTicket("supervisor: aegis", "supervisor: alice")
		time.Sleep(time.Hour)
		require.Equal(t, "human_owned", string(w.verdict("Reboot")))
		require.Zero(t, w.jobs.count(protocol.ActionReboot))
		w.replaceInTicket("supervisor: alice", "supervisor: aegis")
		w.queue.Enqueue(nodeA)
		w.awaitRunning(ticket.Reboot)
		require.Equal(t, id, w.record().Ticket.ID)
		require.Equal(t, 1, w.jobs.count(protocol.ActionDiagnose))
	})
}

// A hand-over that a person writes is none: what was tried on the node is not forgotten for it.
func TestForgedHandOverForgetsNoAttempts(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		text, err := (&ticket.History{Incidents: []ticket.Incident{{
			ID: "a", Condition: "Reboot", Outcome: ticket.Resolved, Isolated: true, Opened: time.Now().Add(-2 * time.Hour), Closed: time.Now().Add(-time.Hour),
			Destructive: []ticket.Destructive{{Action: ticket.Reboot, At: time.Now().Add(-2 * time.Hour)}, {Action: ticket.Reboot, At: time.Now().Add(-time.Hour)}},
		}}}).Encode()
		require.NoError(t, err)
		w.edit(func(n *corev1.Node) { n.Annotations = map[string]string{ticket.HistoryAnnotation: text} })
		w.annotate("id: 20260101t000000-aaaaaa\n" + forged + "- {action: handover, status: Succeeded}\n")
		w.raise("Reboot")
		w.run("handed over", handedTo("gpu"))
		require.Zero(t, w.jobs.count(protocol.ActionReboot))
		require.Contains(t, w.record().Ticket.Reason, "2 reboots")
	})
}

// Steps that a person edits are taken again. The repair that somebody asked for over the API begins again, the one that an alert began is
// decided anew, and a boot that may have been ordered counts and is waited for.
func TestEditedStepsAreTakenAgain(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		workload(w)
		stop := w.start()
		defer stop()
		_, err := w.d.Heal(t.Context(), policy.HealRequest{Status: w.Status(nodeA, "Reboot", "", 0), By: "alice", Reason: "hangs"})
		require.NoError(t, err)
		w.awaitRunning(ticket.Diagnose)
		id := w.record().Ticket.ID
		w.replaceInTicket("workflows:\n", "workflows:\n  - {action: drain, status: Succeeded}\n")
		w.queue.Enqueue(nodeA)
		w.await("begun again", func(r ticket.Record) bool { return r.Ticket != nil && r.Ticket.ID != id })
		require.Equal(t, "heal:alice", w.record().Ticket.Origin)
		w.awaitRunning(ticket.Reboot)
		require.Empty(t, w.pods())
		w.replaceInTicket("action: drain\n    status: Succeeded", "action: drain\n    status: Failed")
		w.queue.Enqueue(nodeA)
		w.await("closed", func(r ticket.Record) bool { return r.Ticket == nil })
		require.Contains(t, w.node().Status.NodeInfo.BootID, "+", "the boot that was ordered is waited for")
		past := w.record().History.Incidents
		require.Equal(t, ticket.Unproven, past[len(past)-1].Outcome)
		require.Len(t, past[len(past)-1].Destructive, 1)
	})
}

// Many tickets of people drive nothing out of the history.
func TestForgedTicketsDriveNothingOutOfTheHistory(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.source.gone()
		text, err := (&ticket.History{Incidents: []ticket.Incident{{ID: "a", Condition: "Reboot", Outcome: ticket.Resolved}}}).Encode()
		require.NoError(t, err)
		w.edit(func(n *corev1.Node) { n.Annotations = map[string]string{ticket.HistoryAnnotation: text} })
		stop := w.start()
		defer stop()
		for range 2 * ticket.MaxIncidents {
			w.annotate("id: " + ticket.NewID(time.Now()) + "\n" + forged + "- {action: reset, status: Succeeded, at: 2000-01-01T00:00:00Z}\n")
			w.queue.Enqueue(nodeA)
			w.await("closed", func(r ticket.Record) bool { return r.Ticket == nil })
		}
		require.Len(t, w.record().History.Incidents, 2)
		require.Equal(t, "a", w.record().History.Incidents[0].ID)
		require.Len(t, w.record().History.Incidents[1].Destructive, mostUnproven)
	})
}

// An approval of one repair is none of the more urgent one that takes the ticket over.
func TestApprovalDoesNotOutliveAPreemption(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := testPolicy()
		p.Mode = prom.ModeApprove
		w := newWorld(t, p)
		w.priorities = map[string]int{"Reboot": 0}
		workload(w)
		busy(w)
		w.raise("Isolate")
		stop := w.start()
		defer stop()
		w.await("waits", func(ticket.Record) bool { return w.verdict("Isolate") == policy.VerdictAwaitingApproval })
		_, err := w.d.Approve(t.Context(), policy.NodeOrder{Node: nodeA, Condition: "Isolate", By: "alice"})
		require.NoError(t, err)
		w.awaitRunning(ticket.Drain)
		w.mu.Lock()
		w.policy.Mode = prom.ModeAuto
		w.mu.Unlock()
		w.edit(func(n *corev1.Node) { setReady(n, corev1.ConditionFalse) })
		w.raise("Reboot")
		w.await("taken over", func(r ticket.Record) bool { return r.Ticket != nil && r.Ticket.Condition == "Reboot" })
		require.Empty(t, w.record().Ticket.ApprovedBy)
	})
}

// A cordon that nobody is noted to have set is not one of Aegis, whatever the note on the node says.
func TestCordonThatNobodyNotedIsNotOurs(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.edit(func(n *corev1.Node) {
			n.Spec.Unschedulable = true
			n.Annotations = map[string]string{ticket.OwnerAnnotation: "aegis/t0"}
		})
		w.raise("Cordon")
		stop := w.start()
		defer stop()
		w.await("left alone", func(ticket.Record) bool { return w.verdict("Cordon") == policy.VerdictHumanCordoned })
		time.Sleep(time.Hour)
		require.True(t, w.node().Spec.Unschedulable)
		require.Empty(t, w.jobs.order)
	})
}
