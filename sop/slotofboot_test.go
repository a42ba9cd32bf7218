package sop

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// The operation of a boot ends as the host goes down, and its Job with it, long before the host is up again. The slot is that of the boot.
func TestSlotOfABootOutlivesItsJob(t *testing.T) {
	for name, edit := range map[string]func(n *corev1.Node){
		"removed": func(n *corev1.Node) { delete(n.Annotations, ticket.Annotation) },
		"edited": func(n *corev1.Node) {
			n.Annotations[ticket.Annotation] = strings.Replace(n.Annotations[ticket.Annotation], "attempts: 1", "attempts: 7", 1)
		},
		"closed": func(n *corev1.Node) {
			n.Annotations[ticket.Annotation] = strings.Replace(n.Annotations[ticket.Annotation], "status: resolving", "status: resolved", 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := newWorld(t, testPolicy(), testNode(nodeA, nodeUID), testNode("gpu-0002", "uid-2"))
				w.setSettings(func(s *policy.Settings) { s.Pools[0].MaxDestructive = 1 })
				c := w.withController()
				c.work[protocol.ActionReboot] = func(job *batchv1.Job) {
					if job.Annotations["aegis.io/node"] != nodeA {
						return
					}
					// "systemctl reboot was accepted, and this container was then told to end": exit code 0.
					time.AfterFunc(10*time.Second, func() { c.end(job, batchv1.JobComplete, 0) })
					time.AfterFunc(20*time.Second, func() { w.edit(func(n *corev1.Node) { setReady(n, corev1.ConditionUnknown) }) })
					time.AfterFunc(10*time.Minute, func() { w.boot(nodeA) })
				}
				boot := w.node().Status.NodeInfo.BootID
				stop := w.start()
				defer stop()
				w.raise("Reboot")
				w.awaitRunning(ticket.Reboot)
				w.raiseOn("gpu-0002", "Reboot")
				time.Sleep(time.Minute)
				w.edit(edit)
				w.queue.Enqueue(nodeA)
				for began := time.Now(); w.node().Status.NodeInfo.BootID == boot; time.Sleep(time.Second) {
					beside := slices.DeleteFunc(c.names(), func(name string) bool {
						return !strings.HasPrefix(name, "aegis-reboot") && !strings.HasPrefix(name, "aegis-restart") || strings.Contains(name, nodeA)
					})
					require.Empty(t, beside, "after %s a second node boots, in a pool that lets one, while the first is down", time.Since(began))
					require.Less(t, time.Since(began), time.Hour)
				}
				w.await("the second node has its turn", func(ticket.Record) bool {
					return slices.ContainsFunc(c.names(), func(name string) bool {
						return strings.HasPrefix(name, "aegis-reboot") && !strings.Contains(name, nodeA)
					})
				})
			})
		})
	}
}

// A node that does not come back from a boot whose ticket somebody has removed is decided on when the reboot would have failed, and its
// conditions say until then what is awaited.
func TestBootWhoseTicketIsGoneIsAwaitedForAsLongAsAnyBoot(t *testing.T) {
	for name, ends := range map[string]corev1.ConditionStatus{"down": corev1.ConditionUnknown, "never went down": corev1.ConditionTrue} {
		t.Run(name, func(t *testing.T) { awaitBootOf(t, ends) })
	}
}

func awaitBootOf(t *testing.T, ready corev1.ConditionStatus) {
	t.Helper()
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		c := w.withController()
		c.work[protocol.ActionReboot] = func(job *batchv1.Job) {
			c.addPod(job, corev1.PodRunning, corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}) // Nobody hears of it again.
			time.AfterFunc(10*time.Second, func() { w.edit(func(n *corev1.Node) { setReady(n, ready) }) })
			time.AfterFunc(w.policy.RebootDeadline, func() { c.conclude(job, batchv1.JobFailed) })
		}
		stop := w.start()
		defer stop()
		w.raise("Reboot")
		w.awaitRunning(ticket.Reboot)
		time.Sleep(time.Minute)
		began := time.Now()
		w.edit(func(n *corev1.Node) { delete(n.Annotations, ticket.Annotation) })
		w.queue.Enqueue(nodeA)
		time.Sleep(5 * time.Minute)
		verdicts := w.verdicts.Node(nodeA)
		require.Len(t, verdicts, 1)
		require.Equal(t, policy.VerdictInProgress, verdicts[0].Verdict.Name)
		require.Contains(t, verdicts[0].Verdict.Reason, "ticket was removed")
		w.await("decided on", func(r ticket.Record) bool {
			return r.Node.Annotations[ticket.RecordAnnotation] == "" || r.Ticket != nil
		})
		require.LessOrEqual(t, time.Since(began), w.policy.RebootDeadline+jobGrace+5*time.Minute)
	})
}
