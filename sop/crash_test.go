package sop

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// A process that dies at any write, before or after the API server has taken it, leaves a journal from which the next one
// ends the incident in the same way: one boot, one Job of each kind, nothing twice.
func TestCrashAtEveryWrite(t *testing.T) {
	t.Parallel()
	for _, landed := range []bool{false, true} {
		for at := 1; at <= 15; at++ {
			t.Run(fmt.Sprintf("write %d, landed %t", at, landed), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { crashAt(t, at, landed) })
			})
		}
	}
}

func crashAt(t *testing.T, at int, landed bool) {
	w := newWorld(t, testPolicy(), testPod("worker", nil))
	w.jobs.effect = func(r jobs.Request) {
		if r.Action == protocol.ActionReboot {
			w.source.gone()
		}
	}
	w.raise("Reboot")
	w.crash(at, landed)
	w.run("resolved", resolved)
	require.Equal(t, []string{
		"cordon Succeeded", "diagnose Succeeded", "drain Succeeded", "reboot Succeeded", "verify Succeeded",
		"healthcheck Succeeded", "uncordon Succeeded",
	}, w.journaled())
	require.Equal(t, 1, w.jobs.count(protocol.ActionReboot))
	require.Equal(t, 1, w.jobs.count(protocol.ActionHealthcheck))
	require.Equal(t, "boot-0+", w.node().Status.NodeInfo.BootID)
	require.Len(t, w.record().History.Incidents, 1)
	require.False(t, w.node().Spec.Unschedulable)
	counted := w.value("aegis_repairs_total", "resolved")
	require.LessOrEqual(t, counted, 1.0)
	if at < w.writes || !landed {
		require.InDelta(t, 1, counted, 0, "only a process that dies right after the last write takes its count with it")
	}
	for _, metric := range []string{"aegis_repair_seconds", "aegis_isolate_seconds", "aegis_return_seconds"} {
		require.LessOrEqual(t, w.value(metric), 1.0, metric)
	}
	require.LessOrEqual(t, w.value("aegis_step_total", string(ticket.Reboot)), 1.0)
}

// The same holds for a procedure that returns the node without a healthcheck: the cordon that it set is never left behind.
func TestCrashAtEveryWriteOfARelief(t *testing.T) {
	t.Parallel()
	for _, landed := range []bool{false, true} {
		for at := 1; at <= 7; at++ {
			t.Run(fmt.Sprintf("write %d, landed %t", at, landed), func(t *testing.T) {
				inBubble(t, func(t *testing.T) {
					w := newWorld(t, testPolicy())
					w.raise("Relieve")
					time.AfterFunc(10*time.Minute, w.source.gone)
					w.crash(at, landed)
					w.run("resolved", resolved)
					require.Equal(t, []string{"cordon Succeeded", "verify Succeeded", "uncordon Succeeded"}, w.journaled())
					require.Len(t, w.record().History.Incidents, 1)
					require.Empty(t, w.jobs.order)
					require.False(t, w.node().Spec.Unschedulable)
				})
			})
		}
	}
}

// crash runs a process that dies at one of its writes, before or after it has landed.
func (w *world) crash(at int, landed bool) {
	ctx, crash := context.WithCancelCause(w.t.Context())
	w.onWrite = func(n int) error {
		if n != at {
			return nil
		}
		crash(ErrLeaseLost)
		if landed {
			return nil
		}
		return errors.New("the process died")
	}
	ended := w.process(ctx)
	for ctx.Err() == nil && !resolved(w.record()) {
		time.Sleep(time.Second)
	}
	crash(ErrLeaseLost)
	require.ErrorIs(w.t, <-ended, ErrLeaseLost)
	w.queue.Enqueue(nodeA)
}

// What goes away while its first step still waits for permission leaves no trace: nothing was resolved.
func TestWithdrawnBeforeAnythingWasDone(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.source.set(prom.Finding{Evidence: prom.EvidenceUnknown, Permission: prom.PermissionUnknown})
		w.raise("Plugin")
		time.AfterFunc(10*time.Minute, w.source.gone)
		stop := w.start()
		defer stop()
		time.Sleep(time.Hour)
		require.Zero(t, w.writes)
		require.Nil(t, w.record().Ticket)
		require.Empty(t, w.record().History.Incidents)
	})
}

// A process that stops while a Job runs leaves the Job; the next one follows it instead of making another.
func TestStopDuringEachStepIsResumed(t *testing.T) {
	t.Parallel()
	for _, action := range []ticket.Action{ticket.Diagnose, ticket.Reboot, ticket.Verify, ticket.Healthcheck} {
		t.Run(string(action), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := newWorld(t, testPolicy())
				w.jobs.effect = func(r jobs.Request) {
					if r.Action == protocol.ActionReboot {
						w.source.gone()
					}
				}
				w.raise("Reboot")
				w.run("the step runs", func(r ticket.Record) bool {
					if r.Ticket == nil {
						return false
					}
					last, known := r.Ticket.Outcome(action, 1)
					return known && last.Status == ticket.Running
				})
				w.queue.Enqueue(nodeA)
				w.run("resolved", resolved)
				require.Equal(t, 1, w.jobs.count(protocol.ActionReboot))
				require.Equal(t, 1, w.jobs.count(protocol.ActionHealthcheck))
				require.Equal(t, 1, w.jobs.count(protocol.ActionDiagnose))
			})
		})
	}
}

// Nothing disruptive is begun without permission, whatever withholds it, and the reason is on the ticket.
func TestDisruptiveStepsWaitForPermission(t *testing.T) {
	t.Parallel()
	granted := prom.Finding{Evidence: prom.EvidenceFiring, Permission: prom.PermissionGranted}
	tests := []struct {
		name    string
		forbid  func(w *world)
		permit  func(w *world)
		verdict policy.VerdictName
	}{
		{
			"silenced",
			func(w *world) {
				w.source.set(prom.Finding{Evidence: prom.EvidenceFiring, Permission: prom.PermissionSilenced})
			},
			func(w *world) { w.source.set(granted) },
			policy.VerdictSilenced,
		},
		{
			"Prometheus gone",
			func(w *world) {
				w.source.set(prom.Finding{Evidence: prom.EvidenceUnknown, Permission: prom.PermissionGranted})
			},
			func(w *world) { w.source.set(granted) },
			policy.VerdictUnverifiable,
		},
		{
			"Alertmanager restarted",
			func(w *world) {
				w.source.set(prom.Finding{Evidence: prom.EvidenceFiring, Permission: prom.PermissionUnlisted})
			},
			func(w *world) { w.source.set(granted) },
			policy.VerdictUnconfirmed,
		},
		{
			"paused",
			func(w *world) { w.setSettings(func(s *policy.Settings) { s.Paused = true }) },
			func(w *world) { w.setSettings(func(s *policy.Settings) { s.Paused = false }) },
			policy.VerdictPaused,
		},
		{
			"excluded",
			func(w *world) {
				w.edit(func(n *corev1.Node) { n.Labels = map[string]string{policy.DisableLabel: "true"} })
			},
			func(w *world) { w.edit(func(n *corev1.Node) { n.Labels = nil }) },
			policy.VerdictExcluded,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := newWorld(t, testPolicy(), testPod("worker", nil))
				w.jobs.effect = func(r jobs.Request) {
					switch r.Action {
					case protocol.ActionDiagnose:
						tt.forbid(w)
					case protocol.ActionReboot:
						w.source.gone()
					}
				}
				w.raise("Reboot")
				stop := w.start()
				w.await("held", func(ticket.Record) bool { return w.verdict("Reboot") == tt.verdict })
				time.Sleep(time.Hour)
				require.Zero(t, w.jobs.count(protocol.ActionReboot))
				require.Contains(t, w.record().Ticket.Hold, string(tt.verdict))
				require.Equal(t, []string{"worker"}, w.pods(), "nothing was evicted")
				tt.permit(w)
				w.await("resolved", resolved)
				require.Equal(t, 1, w.jobs.count(protocol.ActionReboot))
				stop()
			})
		})
	}
}

// A condition that goes away before the first disruptive step costs no boot; the node proves its health and returns.
func TestWithdrawnConditionReturnsTheNode(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.jobs.effect = func(r jobs.Request) {
			if r.Action == protocol.ActionDiagnose {
				w.source.gone()
			}
		}
		w.raise("Reboot")
		w.run("resolved", resolved)
		require.Zero(t, w.jobs.count(protocol.ActionReboot))
		require.Equal(t, 1, w.jobs.count(protocol.ActionHealthcheck))
		require.Contains(t, w.journaled(), "drain Canceled")
		require.Empty(t, w.record().History.Incidents[0].Destructive)
	})
}

// A node that has booted by itself since the incident began is not booted again for it.
func TestForeignBootCancelsTheReboot(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.jobs.effect = func(r jobs.Request) {
			if r.Action == protocol.ActionDiagnose {
				w.boot(nodeA)
				time.AfterFunc(5*time.Minute, w.source.gone)
			}
		}
		w.raise("Reboot")
		w.run("resolved", resolved)
		require.Zero(t, w.jobs.count(protocol.ActionReboot))
	})
}

// What people do to the ticket or the cordon in the middle of a procedure ends it, and what they set stays.
func TestPeopleTakeOver(t *testing.T) {
	t.Parallel()
	takeOver := func(n *corev1.Node) {
		n.Annotations[ticket.Annotation] = "supervisor: alice,bob\nstatus: resolving\ncondition: Reboot\n"
	}
	tests := []struct {
		name string
		edit func(n *corev1.Node)
		ends func(r ticket.Record) bool
	}{
		{"another supervisor", takeOver, handedTo("alice,bob")},
		{
			"broken ticket",
			func(n *corev1.Node) { n.Annotations[ticket.Annotation] = "{hands off" },
			func(r ticket.Record) bool { return r.Broken != nil },
		},
		{
			"ticket removed and excluded",
			func(n *corev1.Node) {
				delete(n.Annotations, ticket.Annotation)
				n.Labels = map[string]string{policy.DisableLabel: "true"}
			},
			func(r ticket.Record) bool { return r.Ticket == nil },
		},
		{"uncordoned", func(n *corev1.Node) { n.Spec.Unschedulable = false }, handedTo("gpu")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := newWorld(t, testPolicy())
				w.jobs.effect = func(r jobs.Request) {
					if r.Action == protocol.ActionDiagnose {
						w.edit(tt.edit)
					}
				}
				w.raise("Reboot")
				stop := w.start()
				w.await("diagnosed", func(ticket.Record) bool { return w.jobs.count(protocol.ActionDiagnose) == 1 })
				time.Sleep(3 * time.Hour)
				require.True(t, tt.ends(w.record()), w.node().Annotations[ticket.Annotation])
				require.Zero(t, w.jobs.count(protocol.ActionReboot))
				stop()
			})
		})
	}
}

// Verification never escalates while the source is silent, however long that lasts.
func TestUnknownIsNeitherHealthyNorSick(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.jobs.effect = func(r jobs.Request) {
			if r.Action == protocol.ActionReboot {
				w.source.set(prom.Finding{Evidence: prom.EvidenceUnknown})
				time.AfterFunc(5*time.Hour, w.source.gone)
			}
		}
		w.raise("Reboot")
		w.run("resolved", resolved)
		require.Equal(t, 1, w.jobs.count(protocol.ActionReboot))
	})
}

// A ticket that people give back is closed; what the alert says then is a new incident.
func TestReleasedTicketBeginsAnew(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.jobs.stuck = true
		w.raise("Reboot")
		w.run("handed over", handedTo("gpu"))
		first := w.record().Ticket.ID
		w.jobs.stuck = false
		w.jobs.effect = func(r jobs.Request) {
			if r.Action == protocol.ActionReboot {
				w.source.gone()
			}
		}
		time.Sleep(time.Hour)
		w.edit(func(n *corev1.Node) {
			text := n.Annotations[ticket.Annotation]
			parsed, err := ticket.Parse(text)
			require.NoError(t, err)
			parsed.Supervisor = ticket.Self
			n.Annotations[ticket.Annotation], err = parsed.Encode()
			require.NoError(t, err)
		})
		w.queue.Enqueue(nodeA)
		w.run("resolved", resolved)
		incidents := w.record().History.Incidents
		require.Len(t, incidents, 2)
		require.Equal(t, first, incidents[0].ID)
		require.Equal(t, outcomeReleased, incidents[0].Outcome)
		require.NotEqual(t, first, incidents[1].ID)
	})
}

// The note of a cordon that a person has undone goes, also where nothing notes who sets the next one.
func TestOwnerNoteOfAnUndoneCordonGoes(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.edit(func(n *corev1.Node) { n.Annotations = map[string]string{ticket.OwnerAnnotation: "aegis/t0"} })
		require.True(t, NeedsVisit(w.node(), w.currentSettings()))
		w.queue.Enqueue(nodeA)
		w.run("note gone", func(r ticket.Record) bool { return r.Node.Annotations[ticket.OwnerAnnotation] == "" })
	})
}

// A silence counts even when the alert is silent for the moment, as its exporter is when the reboot did not help.
func TestSilenceOfASilentAlertHoldsTheNextRung(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		unlisted := prom.Finding{Evidence: prom.EvidenceAbsent, Permission: prom.PermissionUnlisted, Unlisted: true}
		silenced := prom.Finding{Evidence: prom.EvidenceAbsent, Permission: prom.PermissionSilenced, Unlisted: true}
		w.jobs.effect = func(r jobs.Request) {
			switch r.Action {
			case protocol.ActionReboot:
				w.source.set(unlisted)
			case protocol.ActionHealthcheck:
				w.source.set(silenced)
			}
		}
		w.jobs.result = func(r jobs.Request, n int) (jobs.Result, bool) {
			return failedJob(r, 2, "gpu"), r.Action == protocol.ActionHealthcheck && n == 1
		}
		w.raise("Reboot")
		stop := w.start()
		w.await("held", func(ticket.Record) bool { return w.verdict("Reboot") == policy.VerdictSilenced })
		time.Sleep(time.Hour)
		require.Equal(t, 1, w.jobs.count(protocol.ActionReboot))
		w.source.set(unlisted)
		w.await("booted again", func(ticket.Record) bool { return w.jobs.count(protocol.ActionReboot) == 2 })
		w.await("resolved", resolved)
		stop()
	})
}

// A silence that outlasts its alert keeps no node from returning.
func TestSilenceOfAWithdrawnAlertHoldsNoReturn(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.jobs.effect = func(r jobs.Request) {
			if r.Action == protocol.ActionDiagnose {
				w.source.set(prom.Finding{Evidence: prom.EvidenceAbsent, Permission: prom.PermissionSilenced, Unlisted: true})
			}
		}
		w.raise("Reboot")
		w.run("resolved", resolved)
		require.Zero(t, w.jobs.count(protocol.ActionReboot))
	})
}

// A drain that is held for an hour has its time to drain all the same.
func TestHeldDrainKeepsItsTime(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy(), testPod("worker", func(p *corev1.Pod) { p.Labels["held"] = "pdb" }))
		w.jobs.effect = func(r jobs.Request) {
			if r.Action == protocol.ActionReboot {
				w.source.gone()
			}
		}
		w.raise("Reboot")
		stop := w.start()
		w.awaitRunning(ticket.Drain)
		require.NoError(t, w.d.Pause(t.Context(), policy.Order{By: "alice"}))
		time.Sleep(time.Hour)
		require.NoError(t, w.d.Resume(t.Context(), "alice"))
		time.Sleep(time.Minute)
		w.cluster.Do(func() { w.cluster.DeletePod("train", "worker") })
		w.await("resolved", resolved)
		stop()
	})
}
