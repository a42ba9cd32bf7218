package sop

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/protocol"
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
