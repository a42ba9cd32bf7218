package sop

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// preemptionWorld has a node that is being drained of a pod which does not go, for a condition of the band Emergency.
func preemptionWorld(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, testPolicy(), testPod("worker", func(p *corev1.Pod) { p.Labels["held"] = "pdb" }))
	w.priorities = map[string]int{"Ready": 0, "Cordon": 1, "Note": 200}
	return w
}

func (w *world) awaitRunning(action ticket.Action) {
	w.t.Helper()
	w.await(string(action)+" runs", func(r ticket.Record) bool {
		if r.Ticket == nil {
			return false
		}
		last, known := r.Ticket.Outcome(action, r.Ticket.Count(action))
		return known && last.Status == ticket.Running
	})
}

// A kubelet that falls silent during a drain takes the ticket over: evictions from it have no effect. The node stays cordoned, and
// returns only after a healthcheck of its own.
func TestMoreUrgentConditionPreempts(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := preemptionWorld(t)
		w.raise("Reboot")
		stop := w.start()
		w.awaitRunning(ticket.Drain)
		id := w.record().Ticket.ID
		w.edit(func(n *corev1.Node) { setReady(n, corev1.ConditionUnknown) })
		w.raise("Ready")
		w.await("taken over", func(r ticket.Record) bool { return r.Ticket != nil && r.Ticket.Condition == "Ready" })
		r := w.record()
		require.Equal(t, id, r.Ticket.ID)
		require.Equal(t, []string{"cordon Succeeded", "diagnose Succeeded", "drain Canceled"}, steps(r)[:3])
		require.Contains(t, r.Ticket.Workflows[2].Message, "interrupted: Ready is more urgent")
		time.Sleep(time.Minute)
		w.source.gone()
		w.withdraw(prom.Key{Node: nodeA, Condition: "Ready"})
		w.withdraw(prom.Key{Node: nodeA, Condition: "Reboot"})
		w.edit(func(n *corev1.Node) { setReady(n, corev1.ConditionTrue) })
		w.await("resolved", resolved)
		require.Equal(t, []string{
			"cordon Succeeded", "diagnose Succeeded", "drain Canceled", "wait Succeeded", "healthcheck Succeeded", "uncordon Succeeded",
		}, w.journaled())
		require.Zero(t, w.jobs.count(protocol.ActionReboot))
		stop()
	})
}

// A ticket that was taken over names the source of the condition that took it. After a restart, the one of the condition before would
// be asked for something that it has never found, and the node would not return.
func TestPreemptionTakesTheSourceAlong(t *testing.T) {
	t.Parallel()
	for name, next := range map[string]string{"an alert": "", "a source": "kubelets"} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := preemptionWorld(t)
				w.raiseBy("temperatures", "Reboot")
				stop := w.start()
				w.awaitRunning(ticket.Drain)
				require.Equal(t, "temperatures", w.record().Ticket.Source)
				w.edit(func(n *corev1.Node) { setReady(n, corev1.ConditionUnknown) })
				w.raiseBy(next, "Ready")
				w.await("taken over", func(r ticket.Record) bool { return r.Ticket != nil && r.Ticket.Condition == "Ready" })
				require.Equal(t, next, w.record().Ticket.Source)
				stop()
			})
		})
	}
}

// What is more urgent by its number but of the same band waits, and so does an alert about a kubelet that is not silent.
func TestNothingElsePreempts(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, condition string
		priority        int
	}{
		{"the same band", "Reset", 2},
		{"a less urgent band", "Cordon", 1},
		{"not ready, says an alert that is late", "Ready", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := preemptionWorld(t)
				w.priorities[tt.condition] = tt.priority
				w.raise("Reboot")
				stop := w.start()
				w.awaitRunning(ticket.Drain)
				w.raise(tt.condition)
				time.Sleep(10 * time.Minute)
				require.Equal(t, "Reboot", w.record().Ticket.Condition)
				require.Equal(t, []string{"cordon Succeeded", "diagnose Succeeded", "drain Running"}, steps(w.record()))
				stop()
			})
		})
	}
}

// A repair that may not begin keeps no other condition of its node waiting.
func TestHeldBeforeItsFirstStep(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := testPolicy()
		p.Selector, p.Workload = "app=plugin", prom.WorkloadKeep
		w := newWorld(t, p, testPod("plugin", nil))
		w.priorities = map[string]int{"Plugin": 50, "Ready": 0}
		require.NoError(t, w.setWindow("23:00", "23:30"))
		w.raise("Plugin")
		stop := w.start()
		defer stop()
		w.await("held", func(ticket.Record) bool { return w.verdict("Plugin") == policy.VerdictPaused })
		since := w.verdicts.Node(nodeA)[0].Since
		time.Sleep(time.Hour)
		require.Equal(t, since, w.verdicts.Node(nodeA)[0].Since, "it is the same verdict however often it is tried")
		require.Nil(t, w.record().Ticket)
		w.edit(func(n *corev1.Node) { setReady(n, corev1.ConditionFalse) })
		w.raise("Ready")
		w.await("isolated", func(r ticket.Record) bool { return r.Node.Spec.Unschedulable })
		require.Equal(t, "Ready", w.record().Ticket.Condition)
	})
}

// What is reported while a repair runs has a verdict, although nothing is decided on it before the repair has ended.
func TestReportedDuringARepair(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy(), testPod("worker", func(p *corev1.Pod) { p.Labels["held"] = "workers" }))
		w.raise("Reboot")
		stop := w.start()
		defer stop()
		w.await("draining", func(r ticket.Record) bool { return r.Ticket != nil && r.Ticket.Count(ticket.Drain) > 0 })
		w.raise("Reset")
		time.Sleep(time.Minute)
		require.Equal(t, policy.VerdictInProgress, w.verdict("Reset"))
		require.Equal(t, policy.VerdictExecute, w.verdict("Reboot"))
	})
}

// A reboot is never left in the middle, although the node is not ready meanwhile and an alert says so.
func TestDestructiveStepIsNotPreempted(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.priorities = map[string]int{"Ready": 0}
		w.jobs.stuck = true
		w.raise("Reboot")
		stop := w.start()
		w.awaitRunning(ticket.Reboot)
		w.edit(func(n *corev1.Node) { setReady(n, corev1.ConditionUnknown) })
		w.raise("Ready")
		time.Sleep(20 * time.Minute)
		r := w.record()
		require.Equal(t, "Reboot", r.Ticket.Condition)
		last, _ := r.Ticket.Outcome(ticket.Reboot, 1)
		require.Equal(t, ticket.Running, last.Status)
		stop()
	})
}

// A node whose return is being checked is taken by an emergency; nothing that the check found counts for it.
func TestEmergencyPreemptsTheReturnOfANode(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.priorities = map[string]int{policy.CheckedCondition: 1}
		w.table["test/nodecordon"] = w.table["test/cordon"]
		w.cordonAsAegis("aegis/earlier")
		w.raise(policy.CheckedCondition)
		stop := w.start()
		w.awaitRunning(ticket.Healthcheck)
		w.raise("Reboot")
		w.await("taken over", func(r ticket.Record) bool { return r.Ticket != nil && r.Ticket.Condition == "Reboot" })
		w.jobs.effect = func(r jobs.Request) {
			if r.Action == protocol.ActionReboot {
				w.source.gone()
				w.withdraw(prom.Key{Node: nodeA, Condition: "Reboot"})
				w.withdraw(prom.Key{Node: nodeA, Condition: policy.CheckedCondition})
			}
		}
		w.await("resolved", resolved)
		require.Equal(t, 1, w.jobs.count(protocol.ActionReboot))
		require.Equal(t, 2, w.jobs.count(protocol.ActionHealthcheck), "the first one was interrupted and proves nothing")
		stop()
	})
}

// Pressure on a node that is cordoned for its hardware's sake does not return it without a healthcheck.
func TestPressureDoesNotReturnAnotherIncidentsNode(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.cordonAsAegis("aegis/earlier")
		w.raise("Relieve")
		stop := w.start()
		w.awaitRunning(ticket.Verify)
		w.source.gone()
		w.await("resolved", resolved)
		require.Equal(t, 1, w.jobs.count(protocol.ActionHealthcheck))
		stop()
	})
}

// The clock of the API server may be behind ours: the successor of a pod is told by its UID, not by its age.
func TestRestartedPodIsNotDeletedAgain(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := testPolicy()
		p.Selector, p.Workload = "app=plugin", prom.WorkloadKeep
		plugin := func(uid types.UID) *corev1.Pod {
			return testPod("plugin", func(p *corev1.Pod) {
				p.UID = uid
				p.OwnerReferences = []metav1.OwnerReference{{Kind: "DaemonSet", Name: "plugin", UID: "d", Controller: new(true)}}
				p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
				p.CreationTimestamp = metav1.NewTime(time.Now().Add(-time.Hour))
			})
		}
		w := newWorld(t, p, plugin("uid-old"))
		w.edit(func(n *corev1.Node) {
			n.Status.Capacity = corev1.ResourceList{"nvidia.com/gpu": *gpus(8)}
			n.Status.Allocatable = n.Status.Capacity
		})
		w.raise("Plugin")
		stop := w.start()
		w.await("deleted", func(ticket.Record) bool { return len(w.pods()) == 0 })
		w.cluster.Do(func() { w.cluster.AddPod(plugin("uid-new")) })
		w.source.gone()
		w.await("resolved", resolved)
		require.Equal(t, []string{"plugin"}, w.pods(), "the successor is still there")
		stop()
	})
}

// The clock of a node may be wrong by an hour: its Lease is stale when it has not changed for a while by our own clock.
func TestStaleLeaseIsToldByOurClock(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		renewed := func() *coordinationv1.Lease {
			return &coordinationv1.Lease{
				ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: nodeA},
				Spec:       coordinationv1.LeaseSpec{RenewTime: &metav1.MicroTime{Time: time.Now().Add(-time.Hour)}},
			}
		}
		w := newWorld(t, testPolicy(), renewed())
		b := newBridge(w.dispatcher().services, assignment{
			status: w.Status(nodeA, "Ready", "", 0), record: ticket.ReadNode(w.node()), incident: incident{id: "t1"},
		})
		stale := func() bool {
			is, why := b.operations.leaseStale(t.Context())
			require.NotEmpty(t, why)
			return is
		}
		require.False(t, stale(), "seen for the first time")
		time.Sleep(59 * time.Second)
		require.False(t, stale())
		w.cluster.Do(func() { w.add(renewed()) })
		time.Sleep(time.Second)
		require.False(t, stale(), "renewed meanwhile")
		time.Sleep(time.Minute)
		require.True(t, stale())
	})
}
