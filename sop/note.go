package sop

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/ticket"
)

// NoteSOP names the procedure for what is only written down, as events that have not come often enough to be acted on.
const NoteSOP = "node/noted"

// NewNotice returns a procedure that tells people about a condition and never touches the node.
func NewNotice(steps func(ctx context.Context, b *ApiBridge) error) *Procedure {
	return &Procedure{steps: steps, tells: true}
}

// Note closes the incident as noted. It is the only step of its procedure, and one write.
func (b *ApiBridge) Note(ctx context.Context) error {
	return b.do(ctx, step{action: noteStep, ends: true, write: b.note})
}

// noteStep names the step in a plan. No ticket has it, because a note leaves none open.
const noteStep ticket.Action = "note"

func (b *ApiBridge) note(ctx context.Context, _ int) error {
	b.begun()
	err := b.journal.update(ctx, func(t *ticket.Ticket, r ticket.Record, c *ticket.Change) error {
		if err := b.journal.leavesNote(r); err != nil {
			return err
		}
		c.Ticket, c.RemoveTicket = nil, r.Ticket != nil
		c.History = entered(r.History, t, ticket.Noted, time.Now())
		return nil
	})
	if err != nil {
		return fmt.Errorf("note: %w", err)
	}
	b.ended(ctx, ticket.Noted)
	b.event(corev1.EventTypeNormal, "AegisNoted", "%s", Describe(b.status))
	return nil
}
