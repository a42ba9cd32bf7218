package sop

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// A ticket that somebody writes with the ID of a past incident does not take its place in the history.
func TestForgedTicketReplacesNoIncident(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.raise("Reboot")
		w.jobs.effect = func(r jobs.Request) {
			if r.Action == protocol.ActionReboot {
				w.source.gone()
			}
		}
		w.run("resolved", resolved)
		r := w.record()
		id := r.History.Incidents[0].ID
		since := time.Now().Add(-24 * time.Hour)
		require.Equal(t, 1, policy.RebootsSince(r.History, since, ""))
		w.withdraw(w.queue.Statuses(nodeA)[0].Key())
		w.annotate(fmt.Sprintf("id: %s\ncondition: Other\nsupervisor: aegis\nstatus: resolving\nworkflows:\n- {action: reset, status: Succeeded}\n", id))
		w.queue.Enqueue(nodeA)
		w.run("closed", func(r ticket.Record) bool { return r.Ticket == nil })
		require.Equal(t, 1, policy.RebootsSince(w.record().History, since, ""), "the reboot counts still")
	})
}

// Somebody who applies the record as it is owns it besides Aegis, which the API server permits. What was done is not forgotten for that.
func TestRecordOwnedByTwoForgetsNothing(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.raise("Reboot")
		stop := w.start()
		w.await("boots", func(r ticket.Record) bool {
			if r.Ticket == nil {
				return false
			}
			s, _ := r.Ticket.Outcome(ticket.Reboot, 1)
			return s.Status == ticket.Succeeded
		})
		stop()
		w.source.gone()
		w.edit(func(n *corev1.Node) {
			n.ManagedFields = append(n.ManagedFields, metav1.ManagedFieldsEntry{
				Manager: "gitops", Operation: metav1.ManagedFieldsOperationApply, APIVersion: "v1", FieldsType: "FieldsV1",
				FieldsV1: metav1.NewFieldsV1(`{"f:metadata":{"f:annotations":{"f:aegis.io/record":{}}}}`),
			})
			delete(n.Annotations, ticket.Annotation)
		})
		w.queue.Enqueue(nodeA)
		stop = w.start()
		defer stop()
		w.await("record gone", func(r ticket.Record) bool { return r.Node.Annotations[ticket.RecordAnnotation] == "" })
		require.Equal(t, 1, policy.RebootsSince(w.record().History, time.Now().Add(-24*time.Hour), ""), "the reboot counts still")
	})
}

// Nothing is begun beside a Job that runs, whatever becomes of its ticket.
func TestNothingIsBegunBesideARunningJob(t *testing.T) {
	for name, edit := range map[string]func(n *corev1.Node){
		"edited": func(n *corev1.Node) {
			text := n.Annotations[ticket.Annotation]
			n.Annotations[ticket.Annotation] = text[:strings.Index(text, "  - action: remedy")]
		},
		"made old": func(n *corev1.Node) {
			text := n.Annotations[ticket.Annotation]
			n.Annotations[ticket.Annotation] = strings.Replace(text, "status: Running\n    at: 2", "status: Running\n    at: 1", 1)
		},
		"removed": func(n *corev1.Node) { delete(n.Annotations, ticket.Annotation) },
		"closed": func(n *corev1.Node) {
			n.Annotations[ticket.Annotation] = strings.Replace(n.Annotations[ticket.Annotation], "status: resolving", "status: resolved", 1)
		},
		"of an earlier version whose clock was ahead": func(n *corev1.Node) {
			text := n.Annotations[ticket.Annotation]
			n.Annotations[ticket.Annotation] = strings.Replace(text, "Running\n    at: 2000-01-01T00:0", "Running\n    at: 2000-01-01T00:1", 1)
			delete(n.Annotations, ticket.RecordAnnotation)
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := newWorld(t, testPolicy())
				stop := w.start()
				w.raise("Remedy")
				w.await("ordered", func(ticket.Record) bool { return w.jobs.count(protocol.ActionRemedy) > 0 })
				ordered := time.Now()
				stop()
				before := w.node().Annotations[ticket.Annotation]
				w.edit(edit)
				require.NotEqual(t, before, w.node().Annotations[ticket.Annotation])
				stop = w.start()
				defer stop()
				w.queue.Enqueue(nodeA)
				time.Sleep(time.Until(ordered.Add(jobTime - time.Second)))
				require.Empty(t, w.record().History.Incidents, "closed while its Job runs")
				w.await("closed", func(r ticket.Record) bool { return r.Ticket == nil || strings.Contains(r.Ticket.ID, "t0002") })
			})
		})
	}
}

// Who has approved one repair has not approved another, however often its steps are edited away.
func TestApprovalIsGoodForOneRepair(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := testPolicy()
		p.Mode = prom.ModeApprove
		w := newWorld(t, p)
		w.raise("Reset")
		stop := w.start()
		defer stop()
		w.await("waits", func(ticket.Record) bool { return w.verdict("Reset") == policy.VerdictAwaitingApproval })
		_, err := w.d.Approve(t.Context(), policy.NodeOrder{Node: nodeA, Condition: "Reset", By: "alice"})
		require.NoError(t, err)
		w.await("reset", func(r ticket.Record) bool { return r.Ticket != nil && r.Ticket.Count(ticket.Reset) > 0 })
		w.edit(func(n *corev1.Node) {
			text := n.Annotations[ticket.Annotation]
			n.Annotations[ticket.Annotation] = text[:strings.Index(text, "workflows:")]
		})
		w.queue.Enqueue(nodeA)
		w.await("closed", func(r ticket.Record) bool { return r.Ticket == nil })
		time.Sleep(2 * time.Hour)
		require.Equal(t, 1, w.jobs.count(protocol.ActionRemedy))
		require.Equal(t, policy.VerdictAwaitingApproval, w.verdict("Reset"))
	})
}

// Whoever removes ticket after ticket drives nothing that was done out of the history: a node whose reboots are used up is not booted again.
func TestRemovedTicketsDriveNoRebootsOutOfTheHistory(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		h := &ticket.History{}
		for i := range 2 {
			at := time.Now().Add(-time.Duration(2-i) * time.Hour)
			h.Add(ticket.Incident{
				ID: fmt.Sprint("past-", i), Condition: "Reboot", Opened: at, Closed: at, Outcome: ticket.Resolved, Isolated: true,
				Destructive: []ticket.Destructive{{Action: ticket.Reboot, At: at}},
			})
		}
		text, err := h.Encode()
		require.NoError(t, err)
		w.edit(func(n *corev1.Node) { n.Annotations = map[string]string{ticket.HistoryAnnotation: text} })
		w.raise("Reboot")
		stop := w.start()
		defer stop()
		for range ticket.MaxIncidents + 4 {
			var id string
			w.await("cordoned", func(r ticket.Record) bool {
				if r.Ticket == nil || r.Ticket.Count(ticket.Cordon) == 0 {
					return false
				}
				id = r.Ticket.ID
				return true
			})
			w.edit(func(n *corev1.Node) { delete(n.Annotations, ticket.Annotation) })
			w.queue.Enqueue(nodeA)
			w.await("gone", func(r ticket.Record) bool { return r.Ticket == nil || r.Ticket.ID != id })
		}
		time.Sleep(2 * time.Hour)
		past := w.record().History.Incidents
		require.Equal(t, []string{"past-0", "past-1"}, []string{past[0].ID, past[1].ID})
		require.Zero(t, w.jobs.count(protocol.ActionReboot))
	})
}
