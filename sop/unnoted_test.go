package sop

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/ticket"
)

// Where nobody is noted any more to have cordoned a node that is fit again, it stays cordoned, and people are told.
func TestCordonThatNobodyNotedIsHandedOver(t *testing.T) {
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
		w.edit(func(n *corev1.Node) { n.ManagedFields = nil })
		w.queue.Enqueue(nodeA)
		w.await("ended", func(r ticket.Record) bool { return r.Ticket == nil || !r.Ticket.Owned() })
		require.True(t, w.node().Spec.Unschedulable)
		require.NotNil(t, w.record().Ticket, "ended with a node that stays cordoned, and told nobody")
		require.Contains(t, w.record().Ticket.Reason, "nobody is noted to have cordoned the node")
	})
}
