package sop

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/soptest"
	"aegis.io/aegis/ticket"
)

// dieAfter runs a process until the ticket has the step, and leaves what it did.
func (w *world) dieAfter(step string) {
	w.t.Helper()
	ctx, die := context.WithCancelCause(w.t.Context())
	w.onWrite = func(int) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if slices.Contains(w.journaled(), step) {
			die(ErrLeaseLost)
			return ErrLeaseLost
		}
		return nil
	}
	gone := w.process(ctx)
	require.ErrorIs(w.t, <-gone, ErrLeaseLost)
	w.onWrite = nil
}

// died reports whether the process of the world is dead.
func (w *world) died() (dead bool) {
	w.cluster.Do(func() { dead = w.client.Dead })
	return dead
}

// A drain is not believed when something is destroyed: workload that has come since is evicted first, whoever drained the node.
func TestDrainIsCheckedBeforeADestructiveStep(t *testing.T) {
	for name, tt := range map[string]struct {
		condition, drain, operation string
		workload                    prom.Workload
	}{
		"reboot":   {"Reboot", "drain Succeeded", protocol.ActionReboot, prom.WorkloadDrain},
		"of GPUs":  {"Reboot", "draingpu Succeeded", protocol.ActionReboot, prom.WorkloadDrainGPU},
		"reset":    {"Reset", "draingpu Succeeded", protocol.ActionRemedy, prom.WorkloadDrain},
		"shutdown": {"Isolate", "drain Succeeded", protocol.ActionShutdown, prom.WorkloadDrain},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				p := testPolicy()
				p.Workload, p.Shutdown = tt.workload, true
				w := newWorld(t, p)
				w.raise(tt.condition)
				w.dieAfter(tt.drain)
				w.cluster.Do(func() {
					w.cluster.AddPod(testPod("train", func(p *corev1.Pod) {
						p.Spec.Containers = []corev1.Container{{Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"nvidia.com/gpu": *gpus(8)}}}}
					}))
				})
				under, asked := 0, false
				ordered := w.cluster.Observer.JobOrdered
				w.cluster.Observer.JobOrdered = func(c *soptest.Client, r jobs.Request) {
					ordered(c, r)
					if r.Action == tt.operation {
						under, asked = len(w.cluster.PodsOn(nodeA)), true
					}
				}
				w.queue.Enqueue(nodeA)
				w.run("ordered", func(ticket.Record) bool { return w.jobs.count(tt.operation) > 0 })
				require.True(t, asked)
				require.Zero(t, under)
			})
		})
	}
}

// A further drain that a process did not finish is over once the node is empty, whoever orders the next step.
func TestUnfinishedFurtherDrainEnds(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.raise("Reboot")
		w.dieAfter("drain Succeeded")
		w.cluster.Do(func() { w.cluster.AddPod(testPod("train", func(*corev1.Pod) {})) })
		w.queue.Enqueue(nodeA)
		w.onWrite = func(int) error {
			if slices.Contains(w.journaled(), "drain Running") {
				return ErrLeaseLost
			}
			return nil
		}
		ctx, die := context.WithCancelCause(t.Context())
		gone := w.process(ctx)
		w.await("a further drain", running(ticket.Drain))
		die(ErrLeaseLost)
		require.ErrorIs(t, <-gone, ErrLeaseLost)
		w.onWrite = nil
		w.cluster.Do(func() { w.cluster.DeletePod("train", "train") })
		w.queue.Enqueue(nodeA)
		beside := 0
		w.jobs.effect = func(r jobs.Request) {
			if r.Action == protocol.ActionReboot {
				beside = len(runningDrains(w.record().Ticket))
				w.source.gone()
			}
		}
		w.run("resolved", resolved)
		require.Zero(t, beside, "no step runs beside the reboot")
	})
}

// A step that was journaled and not ordered yet is ordered on an empty node, and beside no further drain that a process did not finish.
func TestUnfinishedFurtherDrainEndsBeforeAnOrderThatIsResumed(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		drainsAgain := func(r ticket.Record) bool { return len(r.Ticket.Running()) == 2 }
		w.client.Before = w.noReboot
		w.raise("Reboot")
		w.run("the reboot is journaled", running(ticket.Reboot))
		w.client.Before = w.before

		w.cluster.Do(func() { w.cluster.AddPod(testPod("train", func(*corev1.Pod) {})) })
		w.queue.Enqueue(nodeA)
		ctx, die := context.WithCancelCause(t.Context())
		w.onWrite = func(int) error {
			if drainsAgain(w.record()) {
				return ErrLeaseLost
			}
			return nil
		}
		gone := w.process(ctx)
		w.await("a further drain", drainsAgain)
		die(ErrLeaseLost)
		require.ErrorIs(t, <-gone, ErrLeaseLost)
		w.onWrite = nil
		require.Zero(t, w.jobs.count(protocol.ActionReboot))

		w.cluster.Do(func() { w.cluster.DeletePod("train", "train") })
		w.queue.Enqueue(nodeA)
		beside := 0
		w.jobs.effect = func(r jobs.Request) {
			if r.Action == protocol.ActionReboot {
				beside = len(runningDrains(w.record().Ticket))
				w.source.gone()
			}
		}
		w.run("resolved", resolved)
		require.Equal(t, 1, w.jobs.count(protocol.ActionReboot))
		require.Zero(t, beside, "no step runs beside the reboot")
	})
}

// Workload that comes back however often it is evicted is a matter for people, and nothing is destroyed under it.
func TestWorkloadThatComesBackKeepsTheNodeUp(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		written := w.cluster.Observer.NodeWritten
		w.cluster.Observer.NodeWritten = func(c *soptest.Client, before, after *corev1.Node, at time.Time) {
			written(c, before, after, at)
			if was, is := ticket.ReadNode(before).Ticket, ticket.ReadNode(after).Ticket; was != nil && is != nil && drains(is) > drains(was) {
				w.cluster.AddPod(testPod("train", func(*corev1.Pod) {}))
			}
		}
		w.raise("Reboot")
		w.run("handed over", handedTo("k8s"))
		require.Zero(t, w.jobs.count(protocol.ActionReboot))
	})
}

// drains counts the drains that went well.
func drains(t *ticket.Ticket) (n int) {
	for _, s := range t.Workflows {
		if s.Action == ticket.Drain && s.Status == ticket.Succeeded {
			n++
		}
	}
	return n
}

// A remedy that tears down what the pods use, as a restart of the fabric manager or of the IB driver does, is as bad for them as a reset: a
// drain is not believed before it either.
func TestDrainIsCheckedBeforeARemedyThatNeedsIt(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.table["test/fabric"] = func() SOP { // What playbook.Remediation{Name: "RestartFabricManager", GPUs: true} does.
			return NewProcedure(cordonAnd(func(b *ApiBridge, ctx context.Context) error {
				if err := b.DrainGPU(ctx); err != nil {
					return err
				}
				return b.Remedy(ctx, "RestartFabricManager")
			}))
		}
		w.raise("Fabric")
		w.dieAfter("draingpu Succeeded")
		w.cluster.Do(func() {
			w.cluster.AddPod(testPod("train", func(p *corev1.Pod) {
				p.Spec.Containers = []corev1.Container{{Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"nvidia.com/gpu": *gpus(8)}}}}
			}))
		})
		under, asked := 0, false
		ordered := w.cluster.Observer.JobOrdered
		w.cluster.Observer.JobOrdered = func(c *soptest.Client, r jobs.Request) {
			ordered(c, r)
			if r.Action == protocol.ActionRemedy {
				under, asked = len(w.cluster.PodsOn(nodeA)), true
			}
		}
		w.queue.Enqueue(nodeA)
		w.run("ordered", func(ticket.Record) bool { return w.jobs.count(protocol.ActionRemedy) > 0 })
		require.True(t, asked)
		require.Zero(t, under, "the fabric manager is restarted under a training that began after the drain")
	})
}

// A permission that comes after twenty seconds is not one for what has come to the node meanwhile.
func TestWorkloadThatComesBeforeThePermissionIsFound(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		before := w.client.Before
		var listed atomic.Bool
		w.client.Before = func(call soptest.Call) error {
			drained := slices.Contains(w.journaled(), "drain Succeeded")
			if call.Resource == "pods" && call.Verb == soptest.VerbList && drained && listed.CompareAndSwap(false, true) {
				w.paused(true)
				time.AfterFunc(10*time.Second, func() { w.cluster.Do(func() { w.cluster.AddPod(testPod("train", func(*corev1.Pod) {})) }) })
				time.AfterFunc(20*time.Second, func() { w.paused(false) })
			}
			return before(call)
		}
		under := w.countUnderReboot()
		w.raise("Reboot")
		w.run("ordered", func(ticket.Record) bool { return w.jobs.count(protocol.ActionReboot) > 0 })
		require.True(t, listed.Load())
		require.Zero(t, under(), "pods were listed before the pause")
	})
}

// countUnderReboot returns how many pods were on the node when the first reboot was ordered.
func (w *world) countUnderReboot() func() int {
	under, ordered := -1, w.cluster.Observer.JobOrdered
	w.cluster.Observer.JobOrdered = func(c *soptest.Client, r jobs.Request) {
		ordered(c, r)
		if r.Action == protocol.ActionReboot && under < 0 {
			under = len(w.cluster.PodsOn(nodeA))
		}
	}
	return func() int { return under }
}

// A write that takes long is as much time as a lost leader: what came to the node meanwhile is found before the boot.
func TestWorkloadThatComesWhileTheStepIsWrittenIsFound(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		before := w.client.Before
		var began time.Time
		w.client.Before = func(call soptest.Call) error {
			if call.Resource == "nodes" && call.Verb == soptest.VerbPatch && slices.Contains(w.journaled(), "drain Succeeded") && !slices.Contains(w.journaled(), "reboot Running") {
				if began.IsZero() {
					began = time.Now()
				}
				if time.Since(began) < 10*time.Minute { // An admission webhook for Nodes gives no answer. Pods are made all the same.
					return apierrors.NewInternalError(errors.New("failed calling webhook"))
				}
				w.cluster.Do(func() { w.cluster.AddPod(testPod("train", func(*corev1.Pod) {})) })
			}
			return before(call)
		}
		under := w.countUnderReboot()
		w.raise("Reboot")
		w.run("ordered", func(ticket.Record) bool { return w.jobs.count(protocol.ActionReboot) > 0 })
		require.Zero(t, under(), "pods were listed before the write, ten minutes ago")
	})
}

// A step that waits for its order ends with the further drain that is made for it, when the condition goes away meanwhile. The node is not
// taken for one that is being destroyed, and the next process goes on from there.
func TestStepThatWaitsEndsWithItsFurtherDrain(t *testing.T) {
	for name, again := range map[string]bool{"it stays away": false, "it comes back": true} {
		inNamedBubble(t, name, func(t *testing.T) {
			w := newWorld(t, testPolicy())
			before, refuses := w.client.Before, true
			w.client.Before = func(call soptest.Call) error {
				if refuses && call.Resource == "jobs" && call.Verb == soptest.VerbCreate && slices.Contains(w.journaled(), "reboot Running") {
					return errors.New("the API server is being restarted")
				}
				return before(call)
			}
			w.raise("Reboot")
			stop := w.start()
			w.awaitRunning(ticket.Reboot)
			w.cluster.Do(func() { w.cluster.AddPod(testPod("worker", func(p *corev1.Pod) { p.Labels["held"] = "pdb" })) })
			w.await("drained again", func(r ticket.Record) bool { return r.Ticket.Count(ticket.Drain) == 2 })
			reported := w.source.finding
			w.source.gone()
			w.awaitRunning(ticket.Verify)
			require.Len(t, w.record().Ticket.Running(), 1, "%v", steps(w.record()))
			refuses = false
			stop()
			if again {
				w.source.set(reported)
				w.jobs.effect = func(r jobs.Request) {
					if r.Action == protocol.ActionReboot {
						w.source.gone()
					}
				}
				w.letGo()
			}
			stop = w.start()
			w.await("resolved", resolved)
			stop()
			require.Equal(t, again, w.jobs.count(protocol.ActionReboot) == 1)
			require.Len(t, w.record().History.Incidents, 1)
		})
	}
}

// next starts another process with a client of its own, which dies at that write, zero for none.
func (w *world) next(crashAt int, landed bool) (stop func()) {
	w.cluster.Do(func() { w.client = w.cluster.Join() })
	w.client.Before, w.client.CrashAt, w.client.Landed = w.before, crashAt, landed
	w.queue.Enqueue(nodeA)
	return w.start()
}

// Whenever a process dies around the withdrawal of a step, it ends.
func TestProcessThatDiesAroundAWithdrawal(t *testing.T) {
	for n := 1; n <= 8; n++ {
		for _, landed := range []bool{false, true} {
			for name, then := range map[string]func(w *world){
				"stays away": func(*world) {},
				"comes back": func(w *world) { w.source.firing() },
				"comes back, empty": func(w *world) {
					w.source.firing()
					w.letGo()
				},
			} {
				inNamedBubble(t, fmt.Sprint(n, landed, name), func(t *testing.T) {
					w := newWorld(t, testPolicy())
					w.client.Before = w.noReboot
					w.raise("Reboot")
					w.run("the reboot is journaled", running(ticket.Reboot))
					w.client.Before = w.before
					w.cluster.Do(func() { w.cluster.AddPod(testPod("worker", func(p *corev1.Pod) { p.Labels["held"] = "pdb" })) })
					stop := w.next(n, landed)
					w.await("drained again", func(r ticket.Record) bool { return w.died() || r.Ticket.Count(ticket.Drain) == 2 })
					w.source.gone()
					time.Sleep(time.Minute)
					stop()
					then(w)
					w.jobs.effect = func(r jobs.Request) {
						if r.Action == protocol.ActionReboot {
							w.source.gone()
						}
					}
					stop = w.next(0, false)
					time.Sleep(3 * time.Minute)
					if w.record().Ticket != nil && len(w.pods()) > 0 {
						w.letGo()
					}
					w.await("ended", func(r ticket.Record) bool { return r.Ticket == nil || !r.Ticket.Owned() })
					stop()
					require.True(t, resolved(w.record()), "%v %v", w.journaled(), w.record().Ticket)
					require.LessOrEqual(t, w.jobs.count(protocol.ActionReboot), 1)
				})
			}
		}
	}
}

// The further drains that an earlier step needed are none of the next one, which another leader goes on with.
func TestFurtherDrainsOfAnEarlierBootDoNotCount(t *testing.T) {
	for name, another := range map[string]bool{"same leader": false, "another leader": true} {
		inNamedBubble(t, name, func(t *testing.T) {
			w := newWorld(t, testPolicy())
			written, came := w.cluster.Observer.NodeWritten, 0
			w.cluster.Observer.NodeWritten = func(c *soptest.Client, before, after *corev1.Node, at time.Time) {
				written(c, before, after, at)
				if was, is := ticket.ReadNode(before).Ticket, ticket.ReadNode(after).Ticket; was != nil && is != nil && drains(is) > drains(was) && came < maxDrains {
					came++
					w.cluster.AddPod(testPod("train", func(*corev1.Pod) {}))
				}
			}
			boots := 0
			w.jobs.effect = func(r jobs.Request) {
				if r.Action == protocol.ActionReboot {
					if boots++; boots == 2 {
						w.source.gone()
					}
				}
			}
			w.raise("Reboot")
			stop := w.start()
			w.await("verifies", func(r ticket.Record) bool {
				return r.Ticket != nil && r.Ticket.Count(ticket.Verify) == 1
			})
			require.Equal(t, 1, w.jobs.count(protocol.ActionReboot))
			require.Equal(t, 1+maxDrains, drains(w.record().Ticket))
			if another {
				stop()
				stop = w.next(0, false)
			}
			w.cluster.Do(func() { w.cluster.AddPod(testPod("late", func(*corev1.Pod) {})) })
			w.await("ended", func(r ticket.Record) bool { return r.Ticket == nil || !r.Ticket.Owned() })
			stop()
			require.True(t, resolved(w.record()), "%v %v", w.journaled(), w.record().Ticket)
			require.Equal(t, 2, w.jobs.count(protocol.ActionReboot))
		})
	}
}

// A boot whose further drain was withdrawn before the boot was journaled is not taken by the next leader for the boot that came after the
// verification: it is verified by what comes after it, and not repeated because of what was found before it.
func TestWithdrawalBeforeTheStepIsJournaledIsReplayed(t *testing.T) {
	for name, another := range map[string]bool{"same leader": false, "another leader": true} {
		inNamedBubble(t, name, func(t *testing.T) {
			w := newWorld(t, testPolicy())
			written, came := w.cluster.Observer.NodeWritten, false
			w.cluster.Observer.NodeWritten = func(c *soptest.Client, before, after *corev1.Node, at time.Time) {
				written(c, before, after, at)
				if is := ticket.ReadNode(after).Ticket; is != nil && drains(is) == 1 && !came {
					came = true
					w.cluster.AddPod(testPod("worker", func(p *corev1.Pod) { p.Labels["held"] = "pdb" }))
				}
			}
			w.jobs.effect = func(r jobs.Request) {
				if r.Action == protocol.ActionReboot {
					time.AfterFunc(bootTime+time.Minute, w.source.gone) // The alert ends a while after the boot.
				}
			}
			w.raise("Reboot")
			stop := w.start()
			w.await("drained again", func(r ticket.Record) bool { return r.Ticket != nil && r.Ticket.Count(ticket.Drain) == 2 })
			require.Zero(t, w.record().Ticket.Count(ticket.Reboot))
			w.source.gone()
			w.awaitRunning(ticket.Verify)
			w.source.firing()
			w.letGo()
			w.await("boots", func(ticket.Record) bool { return w.jobs.count(protocol.ActionReboot) == 1 })
			if another {
				time.Sleep(10 * time.Second)
				stop()
				stop = w.next(0, false)
			}
			w.await("ended", func(r ticket.Record) bool { return r.Ticket == nil || !r.Ticket.Owned() })
			stop()
			require.Equal(t, 1, w.jobs.count(protocol.ActionReboot), "%v", w.journaled())
			require.True(t, resolved(w.record()), "%v %v", w.journaled(), w.record().Ticket)
		})
	}
}
