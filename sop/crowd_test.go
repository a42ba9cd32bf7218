package sop

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/ticket"
)

// One node with very many conditions, as a rule whose device label is never the same twice makes them, costs the decisions on all others no
// more than its share: the work grows with the conditions, not with their square.
func TestCrowdOfConditionsCostsItsShare(t *testing.T) { //nolint:paralleltest // It measures what the process allocates.
	allocated := func(n int) uint64 {
		w := newWorld(t, testPolicy())
		d := w.dispatcher()
		node := w.node()
		statuses := make([]prom.AegisNodeStatus, n)
		for i := range statuses {
			statuses[i] = w.Status(nodeA, "Isolate", fmt.Sprintf("process-%06d", i), 0)
		}
		record := ticket.ReadNode(node)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		candidates, verdicts, _ := d.choose(node, record, statuses)
		d.judgeAll(nodeA, statuses, verdicts, candidates)
		runtime.ReadMemStats(&after)
		require.Equal(t, int32(1), w.inhibitors.Load(), "what explains the conditions is found once for all of them")
		return after.TotalAlloc - before.TotalAlloc
	}
	few, many := allocated(100), allocated(1000)
	t.Logf("a visit with 100 conditions allocates %d bytes, one with 1,000 %d", few, many)
	require.Less(t, many, 20*few)
}

// What is reported while a procedure runs is looked at with the same care.
func TestCrowdThatComesDuringARepairIsLookedAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testPolicy())
	d := w.dispatcher()
	for i := range 100 {
		s := w.Status(nodeA, "Isolate", fmt.Sprint("process-", i), 0)
		w.queue.Observe(prom.Observation{Fingerprint: s.ID, Status: s, Firing: true, StartsAt: s.FirstSeen})
	}
	b := &scene{services: d.services, node: nodeA, journal: &journal{incident: incident{condition: "Reboot"}}}
	d.judgeNew(b, ticket.ReadNode(w.node()))
	d.judgeNew(b, ticket.ReadNode(w.node()))
	require.Len(t, d.services.Verdicts.Node(nodeA), 100)
	require.Equal(t, int32(1), w.inhibitors.Load())
}
