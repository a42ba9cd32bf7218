package sop

import (
	"testing"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/ticket"
)

// cordonedByUs leaves the node with a cordon of Aegis that nobody works on.
func (w *world) cordonedByUs() {
	w.cordonAsAegis("aegis/t0")
}

// What a healthcheck finds on a cordoned node is repaired as that condition, on the same ticket, although no alert reports it.
func TestHealthcheckOpensItsCondition(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.table["test/gpunvlinkerror"] = func() SOP { return NewProcedure(Playbook.ResetLadder) }
		w.jobs.result = func(r jobs.Request, n int) (jobs.Result, bool) {
			return failedJob(r, 24, "gpu"), r.Action == protocol.ActionHealthcheck && n == 1
		}
		w.cordonedByUs()
		w.raise("Cordon")
		stop := w.start()
		defer stop()
		w.await("begun", func(r ticket.Record) bool { return r.Ticket != nil })
		id := w.record().Ticket.ID
		w.await("found", func(r ticket.Record) bool { return r.Ticket != nil && r.Ticket.Condition == "GpuNvlinkError" })
		w.source.gone()
		w.withdraw(prom.Key{Node: nodeA, Condition: "Cordon"})
		require.Equal(t, id, w.record().Ticket.ID)
		w.await("repaired", func(r ticket.Record) bool { return resolved(r) && len(r.History.Incidents) == 1 })
		incident := w.record().History.Incidents[0]
		require.Equal(t, "GpuNvlinkError", incident.Condition)
		require.Equal(t, id, incident.ID)
		require.Len(t, incident.Destructive, 1)
		require.Equal(t, 1, w.jobs.count(protocol.ActionRemedy))
		require.Equal(t, 2, w.jobs.count(protocol.ActionHealthcheck))
		require.False(t, w.node().Spec.Unschedulable)
	})
}

// A finding that Aegis may not act on goes to those who look after the hardware.
func TestHealthcheckOpensNothingThatIsOnlyObserved(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.jobs.result = func(r jobs.Request, _ int) (jobs.Result, bool) {
			return failedJob(r, 3, "gpfs"), r.Action == protocol.ActionHealthcheck
		}
		w.cordonedByUs()
		w.raise("Cordon")
		w.run("handed over", handedTo("storage"))
		require.Equal(t, "Cordon", w.record().Ticket.Condition)
	})
}
