package sop

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/ticket"
)

// raiseAhead reports a condition on node A that began so much later than now, by the clock of Prometheus.
func (w *world) raiseAhead(condition string, ahead time.Duration) {
	s, at := w.Status(nodeA, condition, "", 0), time.Now().Add(ahead)
	s.FirstSeen = at
	w.queue.Observe(prom.Observation{Fingerprint: nodeA + condition, Status: s, Firing: true, StartsAt: at})
}

// One event is one event, whosever clock is ahead: a leader whose clock is a few minutes behind that of Prometheus does not count it again
// at each look until it is often enough to boot the node.
func TestAnEventIsCountedOnceByAnyClock(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := testPolicy()
		p.Threshold = prom.Threshold{Count: 3, Within: 24 * time.Hour}
		w := newWorld(t, p)
		watching(w)
		stop := w.start()
		defer stop()
		w.raiseAhead("Reboot", 3*time.Minute)
		time.Sleep(time.Hour)
		require.Zero(t, w.jobs.count(protocol.ActionReboot), "one event, told by one alert, and its policy allows two: %v", outcomes(w.record()))
	})
}

// An alert that claims to be from another age opens its ticket all the same.
func TestAnAlertFromAnotherAgeOpensATicket(t *testing.T) {
	for name, ahead := range map[string]time.Duration{"past": -100 * 365 * 24 * time.Hour, "future": 200 * 365 * 24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := newWorld(t, testPolicy())
				stop := w.start()
				defer stop()
				w.raiseAhead("Reboot", ahead)
				w.await("the ticket", func(r ticket.Record) bool { return r.Ticket != nil })
				require.Zero(t, w.record().Ticket.StartsAt)
			})
		})
	}
}

// A node that has restarted once is examined once.
func TestAnEventIsDealtWithOnceByAnyClock(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := testPolicy()
		p.Once, p.Workload = true, prom.WorkloadKeep
		w := newWorld(t, p)
		w.table["test/panic"] = func() SOP { return NewProcedure(Playbook.ExamineThenReturn) }
		stop := w.start()
		defer stop()
		w.raiseAhead("Panic", 3*time.Minute)
		time.Sleep(24 * time.Hour)
		require.Equal(t, 1, w.jobs.count(protocol.ActionHealthcheck), outcomes(w.record()))
	})
}
