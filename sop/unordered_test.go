package sop

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// A boot that was journaled and never ordered, and that something forbids for long, does not keep the only slot of the pool. It is begun anew
// when it is permitted, once, and as the first boot of its ticket.
func TestHeldBootThatWasNeverOrderedLeavesTheSlot(t *testing.T) {
	exclude := func(label string) func(w *world) {
		return func(w *world) {
			w.edit(func(n *corev1.Node) { n.Labels = map[string]string{policy.DisableLabel: label} })
		}
	}
	for name, tt := range map[string]struct{ hold, permit func(w *world) }{
		"excluded": {exclude("true"), exclude("false")},
		"silenced": {
			func(w *world) {
				w.source.set(prom.Finding{Evidence: prom.EvidenceFiring, Permission: prom.PermissionSilenced})
			},
			func(w *world) { w.source.firing() },
		},
	} {
		inNamedBubble(t, name, func(t *testing.T) {
			p := testPolicy()
			p.MaxReboots = 1
			w := newWorld(t, p, testNode(nodeA, nodeUID), testNode("gpu-0002", "uid-2"))
			w.setSettings(func(s *policy.Settings) { s.Pools[0].MaxDestructive = 1 })
			w.client.Before = w.noReboot
			w.raise("Reboot")
			w.run("the reboot is journaled", running(ticket.Reboot))
			w.client.Before = w.before
			tt.hold(w)
			w.queue.Enqueue(nodeA)
			stop := w.start()
			time.Sleep(time.Minute)
			_, slots := w.d.Held()
			require.Equal(t, []string{nodeA}, slots)
			time.Sleep(slotKept)
			_, slots = w.d.Held()
			require.Empty(t, slots)
			require.Zero(t, w.jobs.count(protocol.ActionReboot))
			require.Empty(t, w.record().Ticket.Running())
			require.Zero(t, w.record().Ticket.Attempts)

			// The next process knows as well that nothing was begun.
			stop()
			w.queue.Enqueue(nodeA)
			stop = w.start()
			defer stop()
			time.Sleep(time.Hour)
			w.jobs.effect = func(r jobs.Request) {
				if r.Action == protocol.ActionReboot {
					w.source.gone()
				}
			}
			tt.permit(w)
			w.await("resolved", resolved)
			require.Equal(t, 1, w.jobs.count(protocol.ActionReboot), "%v", w.journaled())
			require.Len(t, w.record().History.Incidents[0].Destructive, 1)
		})
	}
}
