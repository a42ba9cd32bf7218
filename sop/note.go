package sop

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/ticket"
)

// NewNotice returns a procedure that tells people about a condition and never touches the node.
func NewNotice(steps func(ctx context.Context, b *ApiBridge) error) *Procedure {
	return &Procedure{steps: steps, onlyNotifies: true}
}

// Note closes the incident as noted. It is the only step of its procedure, and one write.
func (b *ApiBridge) Note(ctx context.Context) error {
	return b.do(ctx, step{action: noteStep, ends: true, write: ending{b.scene}.note})
}

// noteStep names the step in a plan. No ticket has it, because a note leaves none open.
const noteStep ticket.Action = "note"

// released reports whether people gave the ticket back after it had been handed over to them.
func released(t *ticket.Ticket) bool {
	if t == nil || !t.Open() || !t.Owned() {
		return false
	}
	last, handed := t.Outcome(ticket.HandOver, t.Count(ticket.HandOver))
	return handed && last.Status == ticket.Succeeded
}

// noted reports whether the ticket only told the team about the condition, and the team has not taken it in hand.
func noted(t *ticket.Ticket, team string) bool {
	return t != nil && t.Supervisor == team && onlyTold(t)
}

// onlyTold reports whether the ticket was handed over from a node that was left in service and is not in doubt: nothing was tried on
// it, and no healthcheck has failed, or could not be made.
func onlyTold(t *ticket.Ticket) bool {
	tried := slices.ContainsFunc(ticket.Actions(), func(a ticket.Action) bool {
		switch a {
		case ticket.HandOver, ticket.Wait, ticket.Verify, ticket.Diagnose, ticket.Healthcheck:
			return false
		}
		return t.Count(a) > 0
	})
	doubtful := slices.ContainsFunc(t.Workflows, func(s ticket.Step) bool {
		return s.Action == ticket.Healthcheck && s.Status != ticket.Succeeded
	})
	return t.Status == ticket.StatusAssigned && t.Count(ticket.HandOver) > 0 && !tried && !doubtful
}

func (e ending) note(ctx context.Context, _ int) error {
	e.begun()
	var last ended
	err := e.journal.update(ctx, func(t *ticket.Ticket, r ticket.Record, c *ticket.Change) error {
		if err := e.journal.leavesNote(r); err != nil {
			return err
		}
		c.Ticket, c.RemoveTicket = nil, r.Ticket != nil
		c.History = entered(r.History, t, ticket.Noted, e.services.Clock.Now())
		last = ended{t, r.History}
		return nil
	})
	if err != nil {
		return fmt.Errorf("note: %w", err)
	}
	e.services.count(last, repairNoted)
	e.ended(ctx, ticket.Noted)
	e.event(corev1.EventTypeNormal, "AegisNoted", "%s", Describe(e.status))
	return nil
}
