package sop

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/sop/soptest"
	"aegis.io/aegis/ticket"
)

// lostNotes are the ways in which the API server comes to note nobody as the one who has cordoned a node.
func lostNotes() map[string]func(n *corev1.Node) {
	return map[string]func(n *corev1.Node){
		"taken away": func(n *corev1.Node) { n.ManagedFields = nil },
		"reset":      func(n *corev1.Node) { n.ManagedFields = []metav1.ManagedFieldsEntry{{}} },
		"merged with those of other writers": func(n *corev1.Node) {
			for i := range n.ManagedFields {
				n.ManagedFields[i].Manager = "ancient-changes"
			}
		},
	}
}

// Where nobody is noted any more to have cordoned a node that is fit again, it stays cordoned, and people are told.
func TestCordonThatNobodyNotedIsHandedOver(t *testing.T) {
	for name, lose := range lostNotes() {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := newWorld(t, testPolicy())
				w.jobs.effect = func(r jobs.Request) {
					if r.Action == protocol.ActionReboot {
						w.source.gone()
					}
				}
				w.raise("Reboot")
				stop := w.start()
				defer stop()
				w.awaitRunning(ticket.Verify)
				w.edit(lose)
				w.queue.Enqueue(nodeA)
				w.await("ended", func(r ticket.Record) bool { return r.Ticket == nil || !r.Ticket.Owned() })
				require.True(t, w.node().Spec.Unschedulable)
				require.NotNil(t, w.record().Ticket, "ended with a node that stays cordoned, and told nobody")
				require.Contains(t, w.record().Ticket.Reason, "the node is fit and stays cordoned: nobody is noted to have cordoned the node")
			})
		})
	}
}

// A node of which nobody is noted to have cordoned it is not disturbed any more, and people learn the reason.
func TestCordonThatNobodyNotedEndsTheRepair(t *testing.T) {
	for name, lose := range lostNotes() {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := newWorld(t, testPolicy(), testPod("worker", func(p *corev1.Pod) { p.Labels["held"] = "pdb" }))
				w.raise("Reboot")
				stop := w.start()
				defer stop()
				w.awaitRunning(ticket.Drain)
				w.edit(lose)
				w.await("ended", func(r ticket.Record) bool { return r.Ticket == nil || !r.Ticket.Owned() })
				require.NotNil(t, w.record().Ticket)
				require.Contains(t, w.record().Ticket.Reason, "nobody is noted to have cordoned the node")
				require.NotContains(t, w.record().Ticket.Reason, "a person")
				require.Zero(t, w.jobs.count(protocol.ActionReboot))
			})
		})
	}
}

// A node that Aegis has left cordoned, and of which nobody is noted to have done it, is no more silent than another one.
func TestLeftCordonThatNobodyNotedIsHandedOver(t *testing.T) {
	for name, lose := range lostNotes() {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w, stop := verifying(t)
				defer stop()
				w.edit(func(n *corev1.Node) {
					delete(n.Annotations, ticket.Annotation)
					lose(n)
				})
				w.queue.Enqueue(nodeA)
				w.await("handed over", handedTo("gpu"))
				require.True(t, w.node().Spec.Unschedulable)
				require.Contains(t, w.record().Ticket.Reason, "nobody is noted to have cordoned the node")
			})
		})
	}
}

// A cordon that the API server notes as nobody's, and that has no note of Aegis, is not one of Aegis, and not said to be one of a person.
func TestCordonThatNobodyNotedHoldsARepair(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.cluster.Do(func() {
			w.cluster.EditAs(nodeA, soptest.ManagerPerson, func(n *corev1.Node) { n.Spec.Unschedulable = true })
		})
		w.edit(func(n *corev1.Node) { n.ManagedFields = nil })
		w.raise("Reboot")
		stop := w.start()
		defer stop()
		time.Sleep(time.Hour)
		require.Zero(t, w.jobs.total())
		require.Equal(t, policy.VerdictHumanCordoned, w.verdict("Reboot"))
		require.Contains(t, w.verdicts.Node(nodeA)[0].Verdict.Reason, "nobody is noted to have cordoned the node")
	})
}

// A fault on a node that Aegis has left cordoned, and of which nobody is noted to have done it, waits for people who know of it.
func TestFaultUnderALeftCordonThatNobodyNotedIsHandedOver(t *testing.T) {
	for name, lose := range lostNotes() {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w, stop := verifying(t)
				defer stop()
				w.edit(func(n *corev1.Node) {
					delete(n.Annotations, ticket.Annotation)
					lose(n)
				})
				w.raise("Reset")
				w.source.set(prom.Finding{Evidence: prom.EvidenceFiring, Permission: prom.PermissionGranted})
				w.queue.Enqueue(nodeA)
				w.await("handed over", handedTo("gpu"))
				require.Contains(t, w.record().Ticket.Reason, "the healthcheck has passed, but Reset holds on the node")
			})
		})
	}
}

// A repair that was accepted while the cordon was known to be one of Aegis ends with people as well.
func TestRequestUnderACordonThatNobodyNotedIsHandedOver(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w, stop := verifying(t)
		stop()
		w.edit(func(n *corev1.Node) {
			delete(n.Annotations, ticket.Annotation)
			delete(n.Annotations, ticket.RecordAnnotation)
		})
		_, err := w.d.Heal(t.Context(), policy.HealRequest{Status: w.Status(nodeA, "Reset", "", 0), By: "alice"})
		require.NoError(t, err)
		w.edit(func(n *corev1.Node) { n.ManagedFields = nil })
		stop = w.start()
		defer stop()
		w.queue.Enqueue(nodeA)
		w.await("handed over", handedTo("gpu"))
		require.Equal(t, "Reset", w.record().Ticket.Condition)
		require.Contains(t, w.record().Ticket.Reason, "nobody is noted to have cordoned the node")
		require.Zero(t, w.jobs.count(protocol.ActionRemedy))
	})
}
