package sop

import (
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

// verifying has node A booted, and its fault gone, while its ticket verifies that. Nothing reports anything on it any more. Nodes that are
// cordoned are only observed.
func verifying(t *testing.T) (w *world, stop func()) {
	t.Helper()
	w = newWorld(t, testPolicy())
	w.table["test/nodecordon"], w.priorities = w.table["test/cordon"], map[string]int{policy.CheckedCondition: 1}
	w.jobs.effect = func(r jobs.Request) {
		if r.Action == protocol.ActionReboot {
			w.source.gone()
		}
	}
	w.raise("Reboot")
	stop = w.start()
	require.NoError(t, w.d.SetMode(t.Context(), policy.CheckedCondition, prom.ModeObserve, policy.Order{By: "alice"}))
	w.awaitRunning(ticket.Verify)
	w.withdraw(prom.Key{Node: nodeA, Condition: "Reboot"})
	return w, stop
}

// inService reports whether the node has come back and no ticket is left.
func inService(r ticket.Record) bool { return r.Ticket == nil && !r.Node.Spec.Unschedulable }

// A node that Aegis has cordoned, and that no ticket is about any more, comes back by a check, whatever has become of its ticket, and however
// far Aegis goes with cordoned nodes.
func TestAegisLeavesNoNodeCordoned(t *testing.T) {
	edit := func(old, with string) func(w *world) {
		return func(w *world) {
			w.edit(func(n *corev1.Node) {
				n.Annotations[ticket.Annotation] = strings.Replace(n.Annotations[ticket.Annotation], old, with, 1)
			})
		}
	}
	remove := func(w *world) { w.edit(func(n *corev1.Node) { delete(n.Annotations, ticket.Annotation) }) }
	for name, end := range map[string]func(w *world){
		"a version without records has written it": func(w *world) {
			w.edit(func(n *corev1.Node) { delete(n.Annotations, ticket.RecordAnnotation) })
		},
		"edited":  edit("workflows:\n", "workflows:\n  - {action: healthcheck, status: Succeeded}\n"),
		"removed": remove,
		"closed":  edit("status: resolving", "status: closed"),
		"taken over and removed": func(w *world) {
			edit("supervisor: aegis", "supervisor: alice")(w)
			w.queue.Enqueue(nodeA)
			time.Sleep(time.Hour)
			remove(w)
		},
		"canceled and released": func(w *world) {
			o := policy.NodeOrder{Node: nodeA, By: "alice"}
			require.NoError(w.t, w.d.Cancel(w.t.Context(), o))
			time.Sleep(time.Hour)
			require.NoError(w.t, w.d.Release(w.t.Context(), o))
		},
		"removed while the node is excluded": func(w *world) {
			w.edit(func(n *corev1.Node) { n.Labels = map[string]string{policy.DisableLabel: "true"} })
			remove(w)
			w.queue.Enqueue(nodeA)
			time.Sleep(3 * time.Hour)
			require.True(w.t, w.node().Spec.Unschedulable, "nobody touches an excluded node")
			require.Equal(w.t, policy.VerdictExcluded, w.verdict(policy.CheckedCondition))
			w.edit(func(n *corev1.Node) { n.Labels = nil })
		},
	} {
		for leader, changes := range map[string]bool{"": false, ", under another leader": true} {
			t.Run(name+leader, func(t *testing.T) {
				inBubble(t, func(t *testing.T) {
					w, stop := verifying(t)
					if changes {
						stop()
						stop = w.start()
					}
					end(w)
					defer stop()
					w.queue.Enqueue(nodeA)
					w.await("back in service", inService)
					require.Equal(t, 1, w.jobs.count(protocol.ActionReboot))
					require.Contains(t, w.journaled(), "healthcheck Succeeded", "by a check")
				})
			})
		}
	}
}

// A request for a check that comes while a person has the check of Aegis does not keep that one from going on once it is given back.
func TestRequestOutlivesTheCheckThatGoesOn(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w, stop := verifying(t)
		defer stop()
		w.edit(func(n *corev1.Node) { delete(n.Annotations, ticket.Annotation) })
		w.queue.Enqueue(nodeA)
		w.awaitRunning(ticket.Healthcheck)
		require.Equal(t, policy.CheckedCondition, w.record().Ticket.Condition)
		require.NoError(t, w.d.TakeOver(t.Context(), policy.NodeOrder{Node: nodeA, By: "alice"}))
		w.edit(func(n *corev1.Node) { n.Annotations[policy.CheckAnnotation] = policy.CheckRequested })
		time.Sleep(time.Hour)
		require.NoError(t, w.d.Release(t.Context(), policy.NodeOrder{Node: nodeA, By: "alice"}))
		w.await("back in service, and checked", func(r ticket.Record) bool {
			return inService(r) && r.Node.Annotations[policy.CheckAnnotation] == ""
		})
	})
}

// A node that is left cordoned and not fit reaches a team.
func TestLeftNodeThatIsNotFitIsHandedOver(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w, stop := verifying(t)
		w.jobs.result = func(r jobs.Request, _ int) (jobs.Result, bool) {
			return failedJob(r, 99, protocol.HardwareGPU), r.Action == protocol.ActionHealthcheck
		}
		stop()
		w.edit(func(n *corev1.Node) { delete(n.Annotations, ticket.RecordAnnotation) })
		stop = w.start()
		defer stop()
		w.queue.Enqueue(nodeA)
		w.await("handed over", handedTo("gpu"))
		require.True(t, w.node().Spec.Unschedulable)
	})
}

// A node that is left cordoned returns only once the sources see that nothing holds there.
func TestLeftNodeWaitsForTheSources(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w, stop := verifying(t)
		stop()
		w.edit(func(n *corev1.Node) { delete(n.Annotations, ticket.RecordAnnotation) })
		w.source.set(prom.Finding{Evidence: prom.EvidenceUnknown, Permission: prom.PermissionUnknown})
		stop = w.start()
		defer stop()
		w.queue.Enqueue(nodeA)
		time.Sleep(3 * time.Hour)
		require.True(t, w.node().Spec.Unschedulable)
		require.Contains(t, w.record().Ticket.Hold, "unverifiable")
		w.source.gone()
		w.await("back in service", inService)
	})
}

// What is reported on a node that is left cordoned comes first: it is repaired, or people decide.
func TestLeftNodeStaysWhileAnotherConditionHolds(t *testing.T) {
	t.Run("that waits for an approval", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			w, stop := verifying(t)
			defer stop()
			require.NoError(t, w.d.SetMode(t.Context(), "Reset", prom.ModeApprove, policy.Order{By: "alice"}))
			w.raise("Reset")
			w.edit(func(n *corev1.Node) { delete(n.Annotations, ticket.Annotation) })
			w.queue.Enqueue(nodeA)
			time.Sleep(2 * time.Hour)
			require.True(t, w.node().Spec.Unschedulable)
			require.Nil(t, w.record().Ticket)
			require.Equal(t, policy.VerdictTolerated, w.verdict(policy.CheckedCondition))
			w.withdraw(prom.Key{Node: nodeA, Condition: "Reset"})
			w.await("back in service", inService)
		})
	})
	t.Run("that is observed", func(t *testing.T) {
		inBubble(t, func(t *testing.T) {
			w, stop := verifying(t)
			defer stop()
			require.NoError(t, w.d.SetMode(t.Context(), "Reset", prom.ModeObserve, policy.Order{By: "alice"}))
			w.raise("Reset")
			w.edit(func(n *corev1.Node) { delete(n.Annotations, ticket.Annotation) })
			w.queue.Enqueue(nodeA)
			w.await("handed over", handedTo("gpu"))
			require.Contains(t, w.record().Ticket.Reason, "the healthcheck has passed, but Reset holds on the node")
		})
	})
}

// A cordon that a person has set or claimed is left to them, whatever note of Aegis is there.
func TestLeftCordonOfAPersonIsTheirs(t *testing.T) {
	for name, note := range map[string]string{"set": policy.OwnerPrefix + "t0001", "claimed": "alice"} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := newWorld(t, testPolicy())
				w.table["test/nodecordon"] = w.table["test/cordon"]
				w.cordonAsAegis(note)
				if name == "set" {
					w.edit(func(n *corev1.Node) {
						n.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubectl", FieldsV1: metav1.NewFieldsV1(`{"f:spec":{"f:unschedulable":{}}}`)}}
					})
				}
				stop := w.start()
				defer stop()
				w.queue.Enqueue(nodeA)
				time.Sleep(3 * time.Hour)
				require.True(t, w.node().Spec.Unschedulable)
				require.Zero(t, w.jobs.total())
			})
		})
	}
}

// A healthcheck that runs is waited for: two at a time would find each other's work.
func TestLeftNodeIsNotCheckedTwiceAtATime(t *testing.T) {
	for name, end := range map[string]func(n *corev1.Node){
		"a version without records has written it": func(n *corev1.Node) { delete(n.Annotations, ticket.RecordAnnotation) },
		"removed": func(n *corev1.Node) { delete(n.Annotations, ticket.Annotation) },
		"closed": func(n *corev1.Node) {
			n.Annotations[ticket.Annotation] = strings.Replace(n.Annotations[ticket.Annotation], "status: resolving", "status: closed", 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w, stop := verifying(t)
				w.await("ordered", func(ticket.Record) bool { return w.jobs.count(protocol.ActionHealthcheck) == 1 })
				ordered := time.Now()
				stop()
				w.edit(end)
				stop = w.start()
				defer stop()
				w.queue.Enqueue(nodeA)
				time.Sleep(time.Until(ordered.Add(jobTime - 2*time.Second)))
				require.Equal(t, 1, w.jobs.count(protocol.ActionHealthcheck))
				w.await("back in service", inService)
				require.Equal(t, 2, w.jobs.count(protocol.ActionHealthcheck))
			})
		})
	}
}
