package sop

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/soptest"
	"aegis.io/aegis/ticket"
)

// replace puts another machine in the place of node A, which has its name.
func (w *world) replace() {
	w.cluster.DeleteNode(nodeA)
	w.cluster.AddNode(testNode(nodeA, "uid-2"))
}

// heldPod is a pod on node A that a disruption budget holds, so that a drain waits for it.
func heldPod() *corev1.Pod {
	pod := soptest.NewPod("train", "held", nodeA, 8)
	pod.Labels[soptest.HeldLabel] = "budget"
	return pod
}

// A person may ask for the repair of the machine that has taken a name while the run on the machine before has not ended: the request is
// about the machine that the person sees. The run writes nothing on it, orders nothing for it, and gives the name back.
func TestRequestForTheMachineAfterOneThatIsRepaired(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy(), testNode(nodeA, nodeUID), heldPod())
		stop := w.start()
		defer stop()
		w.raise("Reboot")
		w.await("drain", func(r ticket.Record) bool { return r.Ticket != nil && r.Ticket.Count(ticket.Drain) == 1 })
		before := w.record().Ticket.ID
		w.cluster.Do(w.replace)
		w.withdraw(prom.Key{Node: nodeA, Condition: "Reboot"})
		w.source.gone()
		result, err := w.d.Heal(t.Context(), w.request("Reboot"))
		require.NoError(t, err)
		require.Equal(t, result.Ticket, w.record().Ticket.ID)
		w.await("resolved", resolved)
		require.Equal(t, []string{result.Ticket}, incidentsOf(w.record()))
		require.Equal(t, 1, w.jobs.count(protocol.ActionReboot))
		w.cluster.Do(func() {
			for _, job := range w.cluster.Jobs {
				require.False(t, job.Request.Incident == before && !job.Ended, "a Job of the machine before is still there")
			}
		})
	})
}

func incidentsOf(r ticket.Record) (ids []string) {
	for _, in := range r.History.Incidents {
		ids = append(ids, in.ID)
	}
	return ids
}

// What a person asked of one machine is not written on another one that takes its name meanwhile.
func TestRequestIsNotWrittenOnAnotherMachine(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.onWrite = func(n int) error {
			if n == 1 {
				w.cluster.Do(w.replace)
			}
			return nil
		}
		_, err := w.dispatcher().Heal(t.Context(), w.request("Reboot"))
		require.ErrorIs(t, err, ticket.ErrRecreated)
		require.Nil(t, w.record().Ticket)
	})
}
