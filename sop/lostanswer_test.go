package sop

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/sop/soptest"
	"aegis.io/aegis/ticket"
)

// sourceOfEach answers for each node by itself.
type sourceOfEach struct {
	gone atomic.Pointer[string]
	rest *fakeSource
}

func (s *sourceOfEach) Last(k prom.Key) prom.Finding {
	if name := s.gone.Load(); name != nil && *name == k.Node {
		return prom.Finding{Evidence: prom.EvidenceAbsent, Permission: prom.PermissionUnlisted, Seen: time.Now()}
	}
	return s.rest.Last(k)
}

func (s *sourceOfEach) Observe(_ context.Context, k prom.Key) prom.Finding { return s.Last(k) }

// bootsAtOnce returns how many reboots are ordered and have not ended.
func (w *world) bootsAtOnce() (n int) {
	w.cluster.Do(func() {
		for _, j := range w.cluster.Jobs {
			if j.Request.Action == protocol.ActionReboot && !j.Ended {
				n++
			}
		}
	})
	return n
}

// lateJob refuses the first order of a reboot, which arrives all the same some seconds later.
func (w *world) lateJob(after time.Duration) (arrived *atomic.Bool) {
	arrived = new(atomic.Bool)
	var once atomic.Bool
	w.client.Before = func(call soptest.Call) error {
		if call.Resource != "jobs" || call.Verb != soptest.VerbCreate || !slices.Contains(w.journaled(), "reboot Running") || !once.CompareAndSwap(false, true) {
			return w.before(call)
		}
		r := w.record()
		request := jobs.Request{
			Action: protocol.ActionReboot, Node: nodeA, Incident: r.Ticket.ID, Attempt: r.Ticket.Count(ticket.Reboot),
			Args: []string{"--boot-id", r.Ticket.BootID}, Deadline: w.policy.RebootDeadline, NotAfter: time.Now().Add(w.policy.RebootDeadline + jobGrace),
		}
		other := w.cluster.NewClient()
		time.AfterFunc(after, func() {
			_, _, err := other.Jobs().Ensure(context.Background(), request)
			arrived.Store(err == nil)
		})
		return soptest.ErrLost
	}
	return arrived
}

// A step whose order got through, and whose answer was lost, is not taken for one that was never ordered when its condition goes away.
func TestWithdrawnStepWhoseJobIsThereIsFollowed(t *testing.T) {
	for name, way := range map[string]struct{ hold, permit func(w *world) }{
		"further drain": {
			func(w *world) {
				w.cluster.Do(func() { w.cluster.AddPod(testPod("worker", func(p *corev1.Pod) { p.Labels["held"] = "pdb" })) })
			},
			func(*world) {},
		},
		"held": {
			func(w *world) {
				w.edit(func(n *corev1.Node) { n.Labels = map[string]string{policy.DisableLabel: "true"} })
			},
			func(w *world) { w.edit(func(n *corev1.Node) { n.Labels = nil }) },
		},
	} {
		inNamedBubble(t, name, func(t *testing.T) {
			w := newWorld(t, testPolicy(), testNode(nodeA, nodeUID), testNode("gpu-0002", "uid-2"))
			w.setSettings(func(s *policy.Settings) { s.Pools[0].MaxDestructive = 1 })
			source := &sourceOfEach{rest: w.source}
			w.asks = source
			arrived := w.lateJob(20 * time.Second)
			w.jobs.stuck = true // The operation takes long.
			w.raise("Reboot")
			stop := w.start()
			defer stop()
			w.awaitRunning(ticket.Reboot)
			way.hold(w)
			time.Sleep(time.Minute)
			require.True(t, arrived.Load())
			require.Equal(t, 1, w.jobs.count(protocol.ActionReboot))
			source.gone.Store(new(nodeA))
			way.permit(w)
			w.raiseOn("gpu-0002", "Reboot")
			for began := time.Now(); time.Since(began) < 20*time.Minute; time.Sleep(10 * time.Second) {
				require.LessOrEqual(t, w.bootsAtOnce(), 1, "%v", w.journaled())
			}
		})
	}
}
