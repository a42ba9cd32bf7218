package sop

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"k8s.io/utils/clock"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/ticket"
)

// hooks are how a run tells its dispatcher how it gets on.
type hooks struct {
	// begun is called when the first step of the run begins or is resumed.
	begun func()
	// settled is called once the node is cordoned, or another step begins: then nobody has to give way to it any more.
	settled func()
}

// assignment is what a run is to do.
type assignment struct {
	status prom.AegisNodeStatus
	// record is the node as it was last seen.
	record   ticket.Record
	incident incident
	// note is the ticket that the incident may take the place of. Empty when there is none.
	note  string
	hooks hooks
	// asked is when the visit began to ask the sources. Zero when it asks about this condition alone.
	asked time.Time
}

// scene is what all steps of one incident share: the node, its condition, and its ticket.
type scene struct {
	services environment
	node     string
	status   prom.AegisNodeStatus
	logger   *slog.Logger
	journal  *journal
	// gate asks for permission.
	gate *gate
	hooks
	// result is how the incident ended. Empty while it has not.
	result string
	// interruptible is true while the run may be left for something more urgent.
	interruptible atomic.Bool
	// keeps is true while the incident has the node cordoned.
	keeps atomic.Bool
}

func newScene(e environment, a assignment) *scene {
	s := &scene{
		services: e,
		node:     a.status.Node,
		status:   a.status,
		logger:   e.Logger.With("node", a.status.Node, "condition", a.status.Condition, "ticket", a.incident.id),
		journal:  &journal{store: e.Tickets, node: a.status.Node, incident: a.incident, record: a.record, note: a.note, clock: e.Clock, written: e.wrote},
		hooks:    a.hooks,
	}
	s.journal.untaken = func(why error) {
		s.journal.refusal = why
		e.tell(s.status, errorVerdict(why))
	}
	s.journal.taken = func() { e.Verdicts.Succeeded(s.node) }
	s.gate = newGate(e, a.status, s.journal)
	s.gate.asked = a.asked
	return s
}

// healing reports whether no alert has to vouch for the repair: a person or a script asked for it, or Aegis has left the cordon.
func (s *scene) healing() bool { return s.journal.incident.requested() || s.journal.incident.left() }

// event tells people who look at the node what happened.
func (s *scene) event(kind, reason, format string, args ...any) {
	s.services.Recorder.Eventf(nodeReference(s.journal.record.Node), kind, reason, format, args...)
}

// poll calls done until it says true, fails, or the context ends. Errors that may pass are done's own business.
func (s *scene) poll(ctx context.Context, done func(context.Context) (bool, error)) error {
	for {
		ok, err := done(ctx)
		if ok || err != nil {
			return err
		}
		if err := sleep(ctx, s.services.Clock, s.services.Timing.Poll); err != nil {
			return err
		}
	}
}

// sleep waits and returns the cause when the context ends first.
func sleep(ctx context.Context, c clock.Clock, d time.Duration) error {
	timer := c.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C():
		return nil
	}
}
