package sop

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/ticket"
)

func testPod(name string, change func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "train", Labels: map[string]string{"app": name}},
		Spec:       corev1.PodSpec{NodeName: nodeA},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
	if change != nil {
		change(pod)
	}
	return pod
}

func TestRebootLadderHeals(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy(), testPod("worker", nil))
		w.jobs.effect = func(r jobs.Request) {
			if r.Action == protocol.ActionReboot {
				w.source.gone()
			}
		}
		w.raise("Reboot")
		w.run("resolved", func(r ticket.Record) bool {
			if r.Ticket != nil {
				require.True(t, r.Node.Spec.Unschedulable || r.Ticket.Count(ticket.Uncordon) > 0, "the ticket comes with the cordon")
			}
			return resolved(r)
		})
		require.Equal(t, []string{
			"cordon Succeeded", "diagnose Succeeded", "drain Succeeded", "reboot Succeeded", "verify Succeeded",
			"healthcheck Succeeded", "uncordon Succeeded",
		}, w.journaled())
		require.False(t, w.node().Spec.Unschedulable)
		require.Empty(t, w.node().Annotations[ticket.OwnerAnnotation])
		require.Equal(t, 1, w.jobs.count(protocol.ActionReboot))
		require.Len(t, w.record().History.Incidents[0].Destructive, 1)
		require.Empty(t, w.pods())
	})
}

func TestRebootLadderRepeatsThenHandsOver(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.raise("Reboot")
		w.run("handed over", handedTo("gpu"))
		require.Equal(t, []string{
			"cordon Succeeded", "diagnose Succeeded", "drain Succeeded", "reboot Succeeded", "verify Failed",
			"reboot Succeeded", "verify Failed", "handover Succeeded",
		}, steps(w.record()))
		require.True(t, w.node().Spec.Unschedulable)
		require.Contains(t, w.record().Ticket.Reason, "all 2 reboots within 24h0m0s are used up")
	})
}

// The drain is over once; a second rung does not ask for it again, and a healthcheck's finding outweighs a silent alert.
func TestFailedHealthcheckClimbsOn(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.jobs.effect = func(r jobs.Request) {
			if r.Action == protocol.ActionReboot {
				w.source.gone()
			}
		}
		w.jobs.result = func(r jobs.Request, n int) (jobs.Result, bool) {
			return failedJob(r, 2, "gpu"), r.Action == protocol.ActionHealthcheck && n == 1
		}
		w.raise("Reboot")
		w.run("resolved", resolved)
		require.Equal(t, 2, w.jobs.count(protocol.ActionReboot))
		require.Equal(t, 2, w.jobs.count(protocol.ActionHealthcheck))
	})
}

func TestHealthcheckThatCannotBeMadeSaysNothing(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.jobs.effect = func(r jobs.Request) { w.source.gone() }
		w.jobs.result = func(r jobs.Request, _ int) (jobs.Result, bool) {
			return jobs.Result{Job: r.Name(), Phase: jobs.PhaseFailed, ExitCode: 70, Message: "tool crashed"}, r.Action == protocol.ActionHealthcheck
		}
		w.raise("Reboot")
		w.run("handed over", handedTo("host"))
		require.LessOrEqual(t, w.jobs.count(protocol.ActionReboot), 1, "not knowing is no reason to boot again")
		require.Equal(t, 2, w.jobs.count(protocol.ActionHealthcheck))
		require.True(t, w.node().Spec.Unschedulable)
	})
}

func TestRebootThatDoesNotHappenHandsOver(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.jobs.stuck = true
		w.raise("Reboot")
		w.run("handed over", handedTo("gpu"))
		require.Equal(t, 1, w.jobs.count(protocol.ActionReboot))
		require.Contains(t, w.record().Ticket.Reason, "the boot ID has not changed")
	})
}

func TestDrainNamesWhatBlocksIt(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		held := testPod("worker", func(p *corev1.Pod) { p.Labels["held"] = "keep-one" })
		budget := &policyv1.PodDisruptionBudget{
			ObjectMeta: metav1.ObjectMeta{Name: "keep-one", Namespace: "train"},
			Spec: policyv1.PodDisruptionBudgetSpec{
				Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "worker"}}, MinAvailable: new(intstr.FromInt32(1)),
			},
		}
		w := newWorld(t, testPolicy(), held, budget, testPod("free", nil))
		w.raise("Reboot")
		w.run("handed over", handedTo("k8s"))
		require.Equal(t, []string{"cordon Succeeded", "diagnose Succeeded", "drain Failed", "handover Succeeded"}, steps(w.record()))
		require.Contains(t, w.record().Ticket.Reason, "train/worker is held by PodDisruptionBudget keep-one")
		require.Zero(t, w.jobs.count(protocol.ActionReboot))
	})
}

func TestDrainLeavesWhatBelongsToTheNode(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		daemon := testPod("daemon", func(p *corev1.Pod) {
			p.OwnerReferences = []metav1.OwnerReference{{Kind: "DaemonSet", Name: "d", Controller: new(true)}}
		})
		static := testPod("static", func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"} })
		finished := testPod("finished", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })
		critical := testPod("critical", func(p *corev1.Pod) { p.Spec.PriorityClassName = "system-cluster-critical" })
		w := newWorld(t, testPolicy(), daemon, static, finished, critical, testPod("worker", nil))
		w.jobs.effect = func(jobs.Request) { w.source.gone() }
		w.source.set(prom.Finding{Evidence: prom.EvidenceFiring, Permission: prom.PermissionGranted})
		w.jobs.effect = func(r jobs.Request) {
			if r.Action == protocol.ActionReboot {
				w.source.gone()
			}
		}
		w.raise("Reboot")
		w.run("resolved", resolved)
		require.ElementsMatch(t, []string{"daemon", "static", "finished"}, w.pods())
	})
}

func TestResetLadderFallsToReboot(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.jobs.effect = func(r jobs.Request) {
			if r.Action == protocol.ActionReboot {
				w.source.gone()
			}
		}
		w.jobs.result = func(r jobs.Request, _ int) (jobs.Result, bool) {
			return failedJob(r, 2, "gpu"), r.Action == protocol.ActionRemedy
		}
		w.raise("Reset")
		w.run("resolved", resolved)
		require.Equal(t, []string{
			"cordon Succeeded", "diagnose Succeeded", "draingpu Succeeded", "reset Failed", "drain Succeeded", "reboot Succeeded",
			"verify Succeeded", "healthcheck Succeeded", "uncordon Succeeded",
		}, w.journaled())
	})
}

func TestRemedyIsTriedTwiceBeforeTheReboot(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.jobs.effect = func(r jobs.Request) {
			if r.Action == protocol.ActionReboot {
				w.source.gone()
			}
		}
		w.raise("Remedy")
		w.run("resolved", resolved)
		require.Equal(t, 2, w.jobs.count(protocol.ActionRemedy))
		require.Equal(t, 1, w.jobs.count(protocol.ActionReboot))
	})
}

func TestIsolateAndHandOverPowersOffOnlyIfAllowed(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.raise("Isolate")
		w.run("handed over", handedTo("gpu"))
		require.Zero(t, w.jobs.count(protocol.ActionShutdown))
		require.True(t, w.node().Spec.Unschedulable)
	})
}

func TestUnprovenShutdownIsSaid(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		policy := testPolicy()
		policy.Shutdown = true
		w := newWorld(t, policy)
		w.jobs.stuck = true
		w.raise("Isolate")
		w.run("handed over", handedTo("gpu"))
		require.Equal(t, 1, w.jobs.count(protocol.ActionShutdown))
		require.Contains(t, w.record().Ticket.Reason, "power state unknown")
	})
}

func TestPressureIsWaitedFor(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy(), testPod("worker", nil))
		w.raise("Relieve")
		go func() {
			time.Sleep(30 * time.Minute)
			w.source.gone()
		}()
		w.run("resolved", resolved)
		require.Empty(t, w.jobs.order, "nothing is run on the node")
		require.Equal(t, []string{"worker"}, w.pods(), "nothing is evicted")
		require.False(t, w.node().Spec.Unschedulable)
	})
}

func TestNoteLeavesTheNodeInService(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.raise("Note")
		w.run("handed over", handedTo("gpu"))
		require.False(t, w.node().Spec.Unschedulable)

		// Once the fault is gone the ticket goes too: nobody has to clean up after a cable that was plugged in again.
		w.source.gone()
		w.withdraw(prom.Key{Node: nodeA, Condition: "Note"})
		w.run("closed", func(r ticket.Record) bool { return r.Ticket == nil })
		require.Equal(t, "withdrawn", w.record().History.Incidents[0].Outcome)
	})
}

// unseenNote is a source that gives no answer about the notes.
type unseenNote struct{ *fakeSource }

func (s unseenNote) Observe(ctx context.Context, key prom.Key) prom.Finding {
	if key.Condition == "Note" {
		return prom.Finding{Evidence: prom.EvidenceUnknown, Permission: prom.PermissionUnlisted}
	}
	return s.fakeSource.Observe(ctx, key)
}

// A note that nobody reports, and whose end nobody sees either, holds up no repair.
func TestNoteWhoseEndNobodySeesHoldsNoRepair(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.raise("Note")
		w.run("handed over", handedTo("gpu"))
		w.asks = unseenNote{w.source}
		w.withdraw(prom.Key{Node: nodeA, Condition: "Note"})
		w.rebootHelps()
		w.raise("Reboot")
		w.run("repaired", resolved)
	})
}

func gpus(n int64) *resource.Quantity { return resource.NewQuantity(n, resource.DecimalSI) }

func setReady(n *corev1.Node, status corev1.ConditionStatus) { n.Status.Conditions[0].Status = status }

func TestNotReadyWithinGraceIsLeftInService(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.edit(func(n *corev1.Node) { setReady(n, corev1.ConditionUnknown) })
		w.raise("Ready")
		go func() {
			time.Sleep(time.Minute)
			w.edit(func(n *corev1.Node) { setReady(n, corev1.ConditionTrue) })
		}()
		w.run("resolved", func(r ticket.Record) bool {
			require.False(t, r.Node.Spec.Unschedulable)
			return resolved(r)
		})
		require.Empty(t, w.jobs.order)
	})
}

func TestNotReadyIsIsolatedAndReturned(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.edit(func(n *corev1.Node) { setReady(n, corev1.ConditionFalse) })
		w.raise("Ready")
		go func() {
			time.Sleep(40 * time.Minute)
			w.edit(func(n *corev1.Node) { setReady(n, corev1.ConditionTrue) })
			w.source.gone()
		}()
		w.run("resolved", func(r ticket.Record) bool {
			require.Empty(t, r.Node.Spec.Taints, "a node that is merely silent is not declared dead")
			return resolved(r)
		})
		require.Equal(t, 1, w.jobs.count(protocol.ActionHealthcheck))
		require.Zero(t, w.jobs.count(protocol.ActionReboot), "a kubelet that is silent cannot run the Job")
	})
}

func TestNotReadyIsHandedOverInTheEnd(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.edit(func(n *corev1.Node) { setReady(n, corev1.ConditionFalse) })
		w.raise("Ready")
		w.run("handed over", handedTo("gpu"))
		require.Equal(t, []string{"wait Failed", "cordon Succeeded", "wait Failed", "handover Succeeded"}, steps(w.record()))
		require.Empty(t, w.node().Spec.Taints)
	})
}

func TestDevicePluginIsRestartedOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		policy := testPolicy()
		policy.Selector, policy.Workload = "app=plugin", prom.WorkloadKeep
		plugin := testPod("plugin", func(p *corev1.Pod) { p.CreationTimestamp = metav1.NewTime(time.Now().Add(-time.Hour)) })
		w := newWorld(t, policy, plugin)
		go func() {
			// The DaemonSet's part, and the kubelet's.
			for len(w.pods()) > 0 {
				time.Sleep(time.Second)
			}
			successor := testPod("plugin", func(p *corev1.Pod) {
				p.CreationTimestamp = metav1.Now()
				p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
			})
			w.cluster.Do(func() { w.cluster.AddPod(successor) })
			w.edit(func(n *corev1.Node) {
				n.Status.Capacity = corev1.ResourceList{"nvidia.com/gpu": *gpus(8)}
				n.Status.Allocatable = corev1.ResourceList{"nvidia.com/gpu": *gpus(8)}
			})
			w.source.gone()
		}()
		w.raise("Plugin")
		w.run("resolved", func(r ticket.Record) bool {
			require.False(t, r.Node.Spec.Unschedulable)
			return resolved(r)
		})
		require.Empty(t, w.jobs.order)
	})
}

// A device plugin that is not there, or there twice, is a matter of the cluster: the node is neither cordoned nor booted.
func TestDevicePluginThatIsNotThereIsNoReasonToBoot(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		policy := testPolicy()
		policy.Selector = "app=plugin"
		w := newWorld(t, policy)
		w.raise("Plugin")
		w.run("handed over", handedTo("k8s"))
		require.Contains(t, w.record().Ticket.Reason, "no pod matches app=plugin")
		require.False(t, w.node().Spec.Unschedulable)
		require.Empty(t, w.jobs.order)
	})
}

// A healthcheck that finds hardware broken on a cordoned node goes to those who look after that hardware.
func TestHealthcheckNamesTheTeam(t *testing.T) {
	t.Parallel()
	teams := map[string]string{"gpu": "gpu", "ib": "network", "gpfs": "storage", "memory": "host", "": "host"}
	for hardware, team := range teams {
		t.Run(hardware, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := newWorld(t, testPolicy())
				w.jobs.result = func(r jobs.Request, _ int) (jobs.Result, bool) { return failedJob(r, 2, hardware), true }
				w.cordonAsAegis("aegis/t0")
				w.raise("Cordon")
				w.run("handed over", handedTo(team))
				require.True(t, w.node().Spec.Unschedulable)
			})
		})
	}
}
