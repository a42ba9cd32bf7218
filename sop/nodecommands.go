package sop

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// What people order for one node.

// Approve lets the repair of a condition begin that waits for a person, or go on. Its sources are asked before each step all the
// same. The error is policy.ErrRefused when nothing waits for an approval.
func (d *Dispatcher) Approve(ctx context.Context, o policy.NodeOrder) (policy.HealResult, error) {
	status, record, verdict, err := d.considerApproval(o)
	if err != nil {
		return policy.HealResult{Verdict: verdict}, err
	}
	result := policy.HealResult{Verdict: policy.Verdict{Name: policy.VerdictExecute, Reason: o.Of("approved")}}
	if result.Plan, err = d.Plan(ctx, status); err != nil {
		return result, err
	}
	opened := d.newIncident(status, status.SOP, string(status.Origin))
	record, err = d.services.Tickets.Update(ctx, o.Node, record.Node, func(r ticket.Record, c *ticket.Change) error {
		if v := policy.Ask(policy.Entry, d.entry(r, status)); v.Name != "" {
			return refused(v)
		}
		switch t := r.Ticket; {
		case t == nil || !t.Open():
			c.Ticket = opened.open(d.services.Clock.Now(), r.Node.Status.NodeInfo.BootID)
			c.Ticket.Status = ticket.StatusCreated
		default:
			c.Ticket = t.Clone()
		}
		c.Ticket.ApprovedBy = o.By
		// The cache may not show yet what stands against it.
		c.Unchanged = true
		result.Ticket = c.Ticket.ID
		return nil
	})
	if err != nil {
		return result, err
	}
	d.wrote(record.Node)
	d.tellOrder(ctx, record.Node, o, "AegisApproved", o.Condition+": "+o.Of("approved"))
	return result, nil
}

func refused(v policy.Verdict) error {
	return fmt.Errorf("%w: %s: %s", policy.ErrRefused, v.Name, v.Reason)
}

// considerApproval finds the condition that waits for an approval.
func (d *Dispatcher) considerApproval(o policy.NodeOrder) (prom.AegisNodeStatus, ticket.Record, policy.Verdict, error) {
	record, err := d.cached(o.Node)
	if err != nil {
		return prom.AegisNodeStatus{}, record, policy.Decide(policy.Situation{}), err
	}
	statuses := d.services.Orders.Last().ApplyAll(d.withTicket(record, d.services.Conditions.Statuses(o.Node)))
	verdict := policy.Verdict{Name: policy.VerdictUnconfirmed, Reason: "the condition is not reported on the node"}
	survey := d.survey(record.Node, record, statuses)
	for _, s := range statuses {
		if s.Condition != o.Condition || s.ID != o.Device {
			continue
		}
		verdict = d.consider(survey.situation(s))
		goesOn := record.Ticket != nil && record.Ticket.Open() && verdict.Name == policy.VerdictExecute && s.Policy.Mode == prom.ModeApprove
		if verdict.Name == policy.VerdictAwaitingApproval || goesOn {
			return s, record, verdict, nil
		}
	}
	return prom.AegisNodeStatus{}, record, verdict, refused(verdict)
}

// cached reads the record of a node from the cache.
func (d *Dispatcher) cached(name string) (ticket.Record, error) {
	node, err := d.services.Nodes.Get(name)
	switch {
	case apierrors.IsNotFound(err):
		return ticket.Record{}, ticket.ErrNodeGone
	case err != nil:
		return ticket.Record{}, fmt.Errorf("node %s: %w", name, err)
	}
	return d.services.Tickets.Read(node), nil
}

// Cancel ends the incident of the node and gives it to the one who canceled it: nothing more is done on the node until they give
// it back. What has been ordered from the node already, such as a boot, cannot be recalled.
func (d *Dispatcher) Cancel(ctx context.Context, o policy.NodeOrder) error {
	var last ended
	givenBack := false
	err := d.take(ctx, o, "AegisCanceled", "canceled", func(t *ticket.Ticket, r ticket.Record, c *ticket.Change) error {
		why, now := o.Of("canceled"), d.services.Clock.Now()
		if err := t.CancelRunning(now, why); err != nil {
			return err
		}
		if err := t.Record(ticket.HandOver, t.Count(ticket.HandOver)+1, ticket.Succeeded, now, why); err != nil {
			return err
		}
		t.Status, t.Reason, t.Hold = ticket.StatusAssigned, why, ""
		// Who cancels a check wants the cordon back.
		t.Cordon = ""
		c.History = entered(r.History, t, outcomeCanceled, now)
		last = ended{t, r.History}
		givenBack = released(r.Ticket)
		return nil
	})
	if err == nil && !givenBack {
		// One that was handed over before has been counted.
		d.services.count(last, repairCanceled)
	}
	return err
}

// TakeOver makes the one who orders it the supervisor of the ticket, as an edit with kubectl would. The incident goes on from
// where it was when they release it.
func (d *Dispatcher) TakeOver(ctx context.Context, o policy.NodeOrder) error {
	return d.take(ctx, o, "AegisTakenOver", "taken over", func(*ticket.Ticket, ticket.Record, *ticket.Change) error { return nil })
}

// take changes the open ticket of Aegis, gives it to who ordered that, and ends the procedure that runs.
func (d *Dispatcher) take(ctx context.Context, o policy.NodeOrder, event, what string,
	change func(*ticket.Ticket, ticket.Record, *ticket.Change) error,
) error {
	record, err := d.services.Tickets.Update(ctx, o.Node, nil, func(r ticket.Record, c *ticket.Change) error {
		if v := policy.Ask(policy.Entry, policy.Situation{Origin: policy.Begun, Record: r}); v.Name != "" {
			return refused(v)
		}
		t := r.Ticket
		if t == nil || !t.Open() {
			return fmt.Errorf("%w: the node has no open ticket", policy.ErrRefused)
		}
		c.Ticket = t.Clone()
		if err := change(c.Ticket, r, c); err != nil {
			return err
		}
		c.Ticket.Supervisor, c.Ticket.Attended = supervisor(o.By), true
		return nil
	})
	if err != nil {
		return err
	}
	d.wrote(record.Node)
	d.interrupt(o.Node, fmt.Errorf("%w: %s", ErrTakenOver, o.Of(what)))
	d.tellOrder(ctx, record.Node, o, event, o.Of(what))
	return nil
}

// supervisor returns a supervisor that is not Aegis itself, nor several.
func supervisor(by string) string {
	name := strings.TrimSpace(strings.ReplaceAll(by, ",", " "))
	if name == "" || name == ticket.Self {
		return "people"
	}
	return name
}

// Release gives a ticket of people back to Aegis. One that had been handed over is closed, and what still holds is decided anew;
// one that was taken over goes on.
func (d *Dispatcher) Release(ctx context.Context, o policy.NodeOrder) error {
	record, err := d.services.Tickets.Update(ctx, o.Node, nil, func(r ticket.Record, c *ticket.Change) error {
		t := r.Ticket
		switch {
		case r.Broken != nil:
			return fmt.Errorf("%w: %w", policy.ErrRefused, r.Broken)
		case t == nil || !t.Open():
			return fmt.Errorf("%w: the node has no open ticket", policy.ErrRefused)
		case t.Owned():
			return fmt.Errorf("%w: ticket %s belongs to Aegis", policy.ErrRefused, t.ID)
		}
		c.Ticket = t.Clone()
		c.Ticket.Supervisor, c.Ticket.Attended = ticket.Self, true
		return nil
	})
	if err != nil {
		return err
	}
	d.wrote(record.Node)
	d.tellOrder(ctx, record.Node, o, "AegisReleased", o.Of("released"))
	return nil
}

// tellOrder logs an order for a node, makes an Event of it, and has the node looked at.
func (d *Dispatcher) tellOrder(ctx context.Context, node *corev1.Node, o policy.NodeOrder, event, text string) {
	d.services.Logger.InfoContext(ctx, "order accepted", "node", o.Node, "order", text, "by", o.By)
	d.services.Recorder.Eventf(nodeReference(node), corev1.EventTypeNormal, event, "%s", text)
	d.queue.Enqueue(o.Node)
}
