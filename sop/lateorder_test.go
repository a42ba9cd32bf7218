package sop

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/sop/soptest"
	"aegis.io/aegis/ticket"
)

// lateBoot has a boot that was journaled, waited through a pause of three hours, and was ordered right now.
func lateBoot(t *testing.T) (w *world, stop func()) {
	t.Helper()
	return lateOrder(t, "Reboot", ticket.Reboot, protocol.ActionReboot)
}

// lateOrder does so with any step.
func lateOrder(t *testing.T, condition string, action ticket.Action, operation string) (w *world, stop func()) {
	t.Helper()
	w = newWorld(t, testPolicy(), testNode(nodeA, nodeUID), testNode("gpu-0002", "uid-2"))
	w.setSettings(func(s *policy.Settings) { s.Pools[0].MaxDestructive = 1 })
	before := w.client.Before
	w.client.Before = func(call soptest.Call) error {
		if call.Resource == "jobs" && call.Verb == soptest.VerbCreate && slices.Contains(w.journaled(), string(action)+" Running") {
			return errors.New("the API server is being restarted")
		}
		return before(call)
	}
	w.raise(condition)
	w.run("the step is journaled", running(action))
	w.client.Before = before
	w.paused(true)
	w.queue.Enqueue(nodeA)
	stop = w.start()
	time.Sleep(3 * time.Hour)
	require.Zero(t, w.jobs.count(operation))
	w.paused(false)
	for w.jobs.count(operation) == 0 {
		time.Sleep(time.Second)
	}
	time.Sleep(10 * time.Second) // Its operation runs, which nobody can take back.
	return w, stop
}

// A boot that was ordered late goes on as long as any other. Its slot and its Job count from its order, and not from its place in the journal.
func TestBootThatWasOrderedLateKeepsItsSlot(t *testing.T) {
	for name, edit := range map[string]func(n *corev1.Node){
		"taken":   takeOver,
		"removed": func(n *corev1.Node) { delete(n.Annotations, ticket.Annotation) },
		"edited": func(n *corev1.Node) {
			n.Annotations[ticket.Annotation] = strings.Replace(n.Annotations[ticket.Annotation], "attempts: 1", "attempts: 7", 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w, stop := lateBoot(t)
				defer stop()
				boot := w.node().Status.NodeInfo.BootID
				w.edit(edit)
				w.queue.Enqueue(nodeA)
				w.raiseOn("gpu-0002", "Reboot")
				for began := time.Now(); w.node().Status.NodeInfo.BootID == boot; time.Sleep(time.Second) {
					require.LessOrEqual(t, w.jobs.count(protocol.ActionReboot), 1, "after %s: a second boot beside the first, ticket %v", time.Since(began), w.record().Ticket)
					require.Less(t, time.Since(began), time.Hour)
				}
			})
		})
	}
}

// A ticket that is removed while its late boot goes on: the node is not booted again at once.
func TestBootThatWasOrderedLateIsNotRepeated(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w, stop := lateBoot(t)
		defer stop()
		boot := w.node().Status.NodeInfo.BootID
		w.edit(func(n *corev1.Node) { delete(n.Annotations, ticket.Annotation) })
		w.queue.Enqueue(nodeA)
		for began := time.Now(); w.node().Status.NodeInfo.BootID == boot; time.Sleep(time.Second) {
			r := w.record()
			require.Nil(t, r.Ticket, "after %s, the first boot goes on and a new incident begins: %v", time.Since(began), w.journaled())
		}
		time.Sleep(20 * time.Minute) // Less than the cooldown.
		require.Equal(t, 1, w.jobs.count(protocol.ActionReboot), "%v", w.journaled())
	})
}

// A remedy that was ordered late is waited for as any other, should its ticket be edited.
func TestRemedyThatWasOrderedLateIsWaitedFor(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w, stop := lateOrder(t, "Remedy", ticket.Remedy, protocol.ActionRemedy)
		defer stop()
		made := w.jobs.total()
		w.edit(func(n *corev1.Node) {
			text := n.Annotations[ticket.Annotation]
			n.Annotations[ticket.Annotation] = text[:strings.Index(text, "  - action: remedy")]
		})
		w.queue.Enqueue(nodeA)
		time.Sleep(jobTime - 20*time.Second)
		require.Empty(t, w.record().History.Incidents, "closed while its Job runs")
		require.Equal(t, made, w.jobs.total())
	})
}
