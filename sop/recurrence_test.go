package sop

import (
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

// firing says that the sources report the condition, and permit to act on it.
func (s *fakeSource) firing() {
	s.set(prom.Finding{Evidence: prom.EvidenceFiring, Permission: prom.PermissionGranted})
}

// A node whose fault has come back while its healthcheck ran does not return to service.
func TestFaultThatComesBackDuringTheHealthcheckKeepsTheNode(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		var returned atomic.Bool
		written := w.cluster.Observer.NodeWritten
		w.cluster.Observer.NodeWritten = func(c *soptest.Client, before, after *corev1.Node, at time.Time) {
			written(c, before, after, at)
			if before.Spec.Unschedulable && !after.Spec.Unschedulable {
				returned.Store(w.source.Last(prom.Key{}).Evidence == prom.EvidenceFiring)
			}
		}
		w.jobs.effect = func(r jobs.Request) {
			if r.Action == protocol.ActionReboot {
				w.source.gone()
			}
		}
		w.raise("Reboot")
		stop := w.start()
		defer stop()
		w.await("the healthcheck runs", running(ticket.Healthcheck))
		// The link flaps again, which the check of this minute does not see. The alert has never left the queue, and both sources have it.
		w.source.firing()
		w.raise("Reboot")
		w.await("the end of the incident", func(r ticket.Record) bool { return r.Ticket == nil || !r.Ticket.Owned() || returned.Load() })
		time.Sleep(time.Minute)
		require.False(t, returned.Load(), "the node is in service, Prometheus reports the condition and Alertmanager lists it: %v, unschedulable %t, verdict %s",
			w.journaled(), w.node().Spec.Unschedulable, w.verdict("Reboot"))
	})
}

// A check that passed before a night without a leader says nothing of the morning.
func TestCheckOfYesterdayReturnsNoNodeToday(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.jobs.effect = func(r jobs.Request) {
			if r.Action == protocol.ActionReboot {
				w.source.gone()
			}
		}
		w.raise("Reboot")
		w.dieAfter("healthcheck Succeeded")
		time.Sleep(10 * time.Hour)
		w.source.firing()
		w.raise("Reboot")
		var returned atomic.Bool
		written := w.cluster.Observer.NodeWritten
		w.cluster.Observer.NodeWritten = func(c *soptest.Client, before, after *corev1.Node, at time.Time) {
			written(c, before, after, at)
			if before.Spec.Unschedulable && !after.Spec.Unschedulable {
				returned.Store(true)
			}
		}
		w.queue.Enqueue(nodeA)
		stop := w.start()
		defer stop()
		time.Sleep(time.Minute)
		require.False(t, returned.Load(), "it was verified ten hours ago, and its condition fires: %v", w.journaled())
	})
}

// bootHelps has the sources say that the fault is gone once the node has booted.
func bootHelps(w *world) {
	w.jobs.effect = func(r jobs.Request) {
		if r.Action == protocol.ActionReboot {
			w.source.gone()
		}
	}
}

// A fault that is back before the node could return goes on with the repair of the same incident, whoever leads by then.
func TestFaultThatComesBackGoesOnWithTheRepair(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		bootHelps(w)
		w.raise("Reboot")
		w.run("the healthcheck runs", running(ticket.Healthcheck))
		w.source.firing()
		w.queue.Enqueue(nodeA)
		w.dieAfter("uncordon Failed")
		w.queue.Enqueue(nodeA)
		w.run("resolved", resolved)
		require.Equal(t, 2, w.jobs.count(protocol.ActionReboot), w.journaled())
		require.Len(t, w.record().History.Incidents, 1)
		require.False(t, w.node().Spec.Unschedulable)
	})
}

// Sources that give no answer keep the node, and the ticket tells why, until they say that the condition is gone.
func TestNodeReturnsWhenItsConditionIsSeenToBeGone(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		bootHelps(w)
		w.raise("Reboot")
		stop := w.start()
		defer stop()
		w.await("the healthcheck runs", running(ticket.Healthcheck))
		w.source.set(prom.Finding{Evidence: prom.EvidenceUnknown, Reason: "no such host"})
		w.await("the node is to return", running(ticket.Uncordon))
		time.Sleep(3 * time.Hour)
		require.True(t, w.node().Spec.Unschedulable)
		require.Contains(t, w.record().Ticket.Hold, "no such host")
		w.source.gone()
		w.await("resolved", resolved)
		require.Equal(t, 1, w.jobs.count(protocol.ActionReboot))
	})
}

// An alert of an event goes on firing when the node is fit again.
func TestEventThatGoesOnFiringKeepsNoNode(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := testPolicy()
		p.Once, p.Workload = true, prom.WorkloadDrain
		w := newWorld(t, p)
		w.table["test/panic"] = func() SOP { return NewProcedure(Playbook.ExamineThenReturn) }
		w.raise("Panic")
		w.run("resolved", resolved)
		require.False(t, w.node().Spec.Unschedulable)
	})
}

// What the sources have said before a write that takes long is asked again.
func TestFaultThatComesBackDuringTheWriteKeepsTheNode(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		bootHelps(w)
		before := w.client.Before
		var began atomic.Int64 // When the write was refused for the first time.
		w.client.Before = func(call soptest.Call) error {
			if call.Resource == "nodes" && call.Verb == soptest.VerbPatch && slices.Contains(w.journaled(), "uncordon Running") {
				if began.CompareAndSwap(0, time.Now().UnixNano()) {
					w.source.firing()
				}
				if time.Since(time.Unix(0, began.Load())) < 10*time.Minute {
					return apierrors.NewServiceUnavailable("no leader")
				}
			}
			return before(call)
		}
		w.raise("Reboot")
		w.run("the repair goes on", func(ticket.Record) bool {
			require.True(t, began.Load() == 0 || w.node().Spec.Unschedulable || w.jobs.count(protocol.ActionReboot) == 2)
			return w.jobs.count(protocol.ActionReboot) == 2
		})
	})
}
