package sop

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// The outcomes of an incident, as its history and the metrics name them.
const (
	outcomeHandedOver = "handed_over"
	outcomeReleased   = "released"
	outcomeCanceled   = "canceled"
	outcomeSuperseded = "superseded" // A note gave way to a repair.
)

// ending closes the incident, each way in one write.
type ending struct{ *scene }

// HandOver gives the node to people: the team becomes the supervisor of the ticket, and Aegis does nothing more on the node
// until they give it back.
func (b *ApiBridge) HandOver(ctx context.Context, team, why string) error {
	return b.do(ctx, step{action: ticket.HandOver, detail: "team " + team, ends: true, write: func(ctx context.Context, _ int) error {
		return ending{b.scene}.handOver(ctx, team, why)
	}})
}

func (e ending) handOver(ctx context.Context, team, why string) error {
	team = someTeam(team)
	var last ended
	err := e.journal.update(ctx, func(t *ticket.Ticket, r ticket.Record, c *ticket.Change) error {
		if err := e.journal.leavesNote(r); err != nil {
			return err
		}
		now := e.services.Clock.Now()
		if err := t.CancelRunning(now, why); err != nil {
			return err
		}
		if err := t.Record(ticket.HandOver, t.Count(ticket.HandOver)+1, ticket.Succeeded, now, why); err != nil {
			return err
		}
		t.Supervisor = team
		t.Status = ticket.StatusAssigned
		t.Reason = why
		t.Hold = ""
		c.History = entered(r.History, t, outcomeHandedOver, now)
		last = ended{t, r.History}
		return nil
	})
	if err != nil {
		return fmt.Errorf("hand over to team %s: %w", team, err)
	}
	e.services.count(last, outcomeOf(last.ticket))
	e.ended(ctx, outcomeHandedOver)
	e.event(corev1.EventTypeWarning, "AegisHandedOver", "%s: handed over to team %s: %s", e.status.Condition, team, why)
	return nil
}

// someTeam returns the team, or the one for what nobody looks after: a ticket without a supervisor would be nobody's, and one of Aegis
// would begin anew.
func someTeam(team string) string {
	t := ticket.Ticket{Supervisor: team}
	if len(t.Supervisors()) == 0 || t.Owned() {
		return teamHost
	}
	return team
}

// Resolve closes the incident: a summary goes into the history and the ticket is removed, in one write.
func (b *ApiBridge) Resolve(ctx context.Context) error {
	return b.do(ctx, step{action: ticket.Resolve, ends: true, write: ending{b.scene}.resolve})
}

func (e ending) resolve(ctx context.Context, _ int) error {
	if e.journal.incident.asked() {
		return e.pass(ctx)
	}
	took := e.services.Clock.Since(e.journal.ticketCreated())
	var last ended
	err := e.journal.update(ctx, func(t *ticket.Ticket, r ticket.Record, c *ticket.Change) error {
		c.Ticket, c.RemoveTicket = nil, true
		c.History = entered(r.History, t, ticket.Resolved, e.services.Clock.Now())
		last = ended{t, r.History}
		askAgain(r, t, c)
		return nil
	})
	if err != nil {
		return fmt.Errorf("resolve: %w", err)
	}
	e.services.Metrics.healed(took)
	e.services.count(last, repairResolved)
	e.ended(ctx, ticket.Resolved)
	e.event(corev1.EventTypeNormal, "AegisResolved", "%s: resolved after %s", e.status.Condition, took.Round(time.Second))
	return nil
}

// pass closes a check that found nothing. A request that was made meanwhile was one for the same check, unless the node was cordoned
// anew.
func (e ending) pass(ctx context.Context) error {
	err := e.journal.update(ctx, func(t *ticket.Ticket, r ticket.Record, c *ticket.Change) error {
		c.Ticket, c.RemoveTicket = nil, true
		c.History = entered(r.History, t, ticket.Passed, e.services.Clock.Now())
		if _, again := r.Node.Annotations[policy.CheckAnnotation]; again && !r.Node.Spec.Unschedulable {
			c.Annotations = withoutRequest()
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("close the check: %w", err)
	}
	e.ended(ctx, ticket.Passed)
	how := "in service"
	switch node := e.journal.record.Node; {
	case node.Spec.Unschedulable && strings.HasPrefix(e.journal.incident.origin, checkPrefix) && !policy.Lent(node, e.journal.incident.lent):
		how = stillCordoned
	case node.Spec.Unschedulable:
		how = "still cordoned"
	}
	e.event(corev1.EventTypeNormal, "AegisChecked", "%s: passed the check that %s requested (%s), and is %s",
		e.status.Condition, e.journal.incident.requestedBy, cmp.Or(e.journal.incident.reason, "no reason given"), how)
	return nil
}

func (e ending) ended(ctx context.Context, how string) {
	e.result = how
	e.logger.InfoContext(ctx, "incident ended", "outcome", how, "reason", e.journal.incident.reason)
}

// entered returns the history with the incident of the ticket in it.
func entered(h *ticket.History, t *ticket.Ticket, how string, now time.Time) *ticket.History {
	history := h.Clone()
	history.Add(ticket.Incident{
		ID:          t.ID,
		Condition:   t.Condition,
		Device:      t.Device,
		SOP:         t.SOP,
		Opened:      t.CreatedAt,
		StartsAt:    t.StartsAt,
		Closed:      now,
		Outcome:     how,
		Isolated:    t.Count(ticket.Cordon) > 0,
		XID:         t.XID,
		By:          t.RequestedBy,
		Reason:      requestReason(t),
		Destructive: t.Destructive(now),
	})
	return history
}

// mostReason bounds what a history keeps of the reason of a request.
const mostReason = 200

// requestReason returns why the check was requested that the ticket is of.
func requestReason(t *ticket.Ticket) string {
	if !(incident{origin: t.Origin}).asked() {
		return ""
	}
	return ticket.Clip(t.Reason, mostReason)
}
