package sop

import (
	"context"
	"errors"
	"time"

	"aegis.io/aegis/ticket"
)

// A destructive step is journaled before it is ordered, and has a slot from then on. What forbids its order may last: a label, a silence, a
// pause. Then it gives the slot back, and is begun anew once it is permitted.

// slotKept is for how long a step keeps its slot while its order is forbidden. It is longer than any call of the API server may be on its way
// that would order it after all.
const slotKept = 5 * time.Minute

// errNotOrdered says that the order of a step has been forbidden for longer than it keeps its slot.
var errNotOrdered = errors.New("its order is forbidden for long")

// beginAnew journals that the n-th call of the step's action has come to nothing, and makes the next one.
func (e *journaled) beginAnew(ctx context.Context, s step, n int) error {
	err := e.journal.update(ctx, func(t *ticket.Ticket, _ ticket.Record, _ *ticket.Change) error {
		if prior, known := t.Outcome(s.action, n); known && prior.Status == ticket.Running {
			t.Outdate(s.action, n)
			t.Attempts--
		}
		return nil
	})
	if err != nil {
		return err
	}
	e.logger.InfoContext(ctx, "step is begun anew once it is permitted", "action", s.action, "call", n)
	return e.execute(ctx, s)
}
