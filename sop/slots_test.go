package sop

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

func takeOver(n *corev1.Node) {
	n.Annotations[ticket.Annotation] = strings.Replace(n.Annotations[ticket.Annotation], "supervisor: aegis", "supervisor: alice", 1)
}

// bootsAlone has two nodes whose pool lets one boot at a time, one of which boots, and the other waits for that.
func bootsAlone(t *testing.T) (w *world, stop func()) {
	t.Helper()
	w = newWorld(t, testPolicy(), testNode(nodeA, nodeUID), testNode("gpu-0002", "uid-2"))
	w.setSettings(func(s *policy.Settings) { s.Pools[0].MaxDestructive = 1 })
	stop = w.start()
	w.raise("Reboot")
	w.awaitRunning(ticket.Reboot)
	w.raiseOn("gpu-0002", "Reboot")
	time.Sleep(5 * time.Second)
	return w, stop
}

// A boot that was ordered keeps its slot while it goes on, whoever takes the ticket over or removes it, and whoever leads from then on.
func TestOrderedBootKeepsItsSlot(t *testing.T) {
	for name, edit := range map[string]func(n *corev1.Node){
		"taken":   takeOver,
		"removed": func(n *corev1.Node) { delete(n.Annotations, ticket.Annotation) },
		"garbled": func(n *corev1.Node) { n.Annotations[ticket.Annotation] = "{hands off" },
	} {
		for leader, changes := range map[string]bool{"": false, ", under another leader": true} {
			t.Run(name+leader, func(t *testing.T) {
				inBubble(t, func(t *testing.T) {
					w, stop := bootsAlone(t)
					boot := w.node().Status.NodeInfo.BootID
					if changes {
						stop()
					}
					w.edit(edit)
					w.queue.Enqueue(nodeA)
					if changes {
						stop = w.start()
					}
					defer stop()
					for began := time.Now(); w.node().Status.NodeInfo.BootID == boot; time.Sleep(time.Second) {
						require.LessOrEqual(t, w.jobs.count(protocol.ActionReboot), 1, "after %s: a second boot beside the first", time.Since(began))
						require.Less(t, time.Since(began), time.Hour)
					}
				})
			})
		}
	}
}

// Nobody tells when the boot of a ticket ends that a person has taken over, so that its slot is free again after two hours.
func TestSlotOfATakenTicketIsFreeInTheEnd(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w, stop := bootsAlone(t)
		defer stop()
		began := w.stepOf(ticket.Reboot).At
		w.edit(takeOver)
		w.queue.Enqueue(nodeA)
		time.Sleep(time.Until(began.Add(2*time.Hour - time.Second)))
		require.Equal(t, 1, w.jobs.count(protocol.ActionReboot))
		require.Contains(t, w.verdicts.Node("gpu-0002")[0].Verdict.Reason, "1 of 1 destructive steps are running in")
		time.Sleep(time.Minute)
		require.Equal(t, 2, w.jobs.count(protocol.ActionReboot))
	})
}
