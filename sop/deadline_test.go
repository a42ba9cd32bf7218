package sop

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/sop/soptest"
	"aegis.io/aegis/ticket"
)

// runs reports whether the ticket has the action Running.
func running(a ticket.Action) func(ticket.Record) bool {
	return func(r ticket.Record) bool {
		return r.Ticket != nil && r.Ticket.Open() && len(r.Ticket.Running()) == 1 && r.Ticket.Running()[0].Action == a
	}
}

// stepOf returns the last call of the action.
func (w *world) stepOf(a ticket.Action) ticket.Step {
	t := w.record().Ticket
	require.NotNil(w.t, t)
	s, _ := t.Outcome(a, t.Count(a))
	return s
}

// paused orders a pause, or ends it.
func (w *world) paused(now bool) {
	w.setSettings(func(s *policy.Settings) { s.Paused = now })
}

// noReboot refuses the order of a reboot, as an API server does that is being restarted.
func (w *world) noReboot(call soptest.Call) error {
	if call.Resource == "jobs" && call.Verb == soptest.VerbCreate && slices.Contains(w.journaled(), "reboot Running") {
		return errors.New("the API server is being restarted")
	}
	return w.before(call)
}

// A reboot that was journaled and not ordered waits through a pause that is longer than its deadline. Then it has its whole time.
func TestAdoptedRebootHasItsTimeFromItsPermission(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.jobs.effect = func(r jobs.Request) {
			if r.Action == protocol.ActionReboot {
				w.source.gone()
			}
		}
		w.client.Before = w.noReboot
		w.raise("Reboot")
		w.run("the reboot is journaled", running(ticket.Reboot))
		require.Zero(t, w.jobs.count(protocol.ActionReboot))
		w.client.Before = w.before

		w.paused(true)
		w.queue.Enqueue(nodeA)
		stop := w.start()
		time.Sleep(2 * testPolicy().RebootDeadline)
		require.Zero(t, w.jobs.count(protocol.ActionReboot))
		require.True(t, strings.HasPrefix(w.record().Ticket.Hold, "paused: "), w.record().Ticket.Hold)
		w.paused(false)
		w.await("resolved", resolved)
		stop()
		require.Contains(t, w.journaled(), "reboot Succeeded")
		require.Equal(t, 1, w.jobs.count(protocol.ActionReboot))
	})
}

// A drain that is paused for longer than its deadline goes on with the time that it had left, whoever leads.
func TestDrainThatWasHeldGoesOnAfterAChangeOfLeader(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		busy(w)
		w.raise("Reboot")
		stop := w.start()
		w.await("the drain runs", running(ticket.Drain))
		time.Sleep(10 * time.Minute)
		w.paused(true)
		time.Sleep(time.Hour)
		stop()
		stop = w.start()
		w.queue.Enqueue(nodeA)
		time.Sleep(time.Hour)
		w.paused(false)
		time.Sleep(15 * time.Minute)
		require.Equal(t, ticket.Running, w.stepOf(ticket.Drain).Status)
		require.Empty(t, w.record().Ticket.Hold, "it is not held any more")
		w.await("given up", handedTo(teamKubernetes))
		stop()
		require.Equal(t, ticket.Failed, w.stepOf(ticket.Drain).Status)
	})
}
