package sop

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// Heal accepts or refuses a request. An accepted one is written on the node as an open ticket before Heal returns, so that
// it survives a restart. The error is policy.ErrRefused, ticket.ErrNodeGone, or one of the API server.
func (d *Dispatcher) Heal(ctx context.Context, r policy.HealRequest) (policy.HealResult, error) {
	status := r.Status
	status.Origin = prom.OriginHeal
	status.Msg = r.Reason
	record, verdict, err := d.considerRequest(status)
	if err != nil {
		return policy.HealResult{Verdict: verdict}, err
	}
	plan, err := d.Plan(ctx, status)
	if err != nil {
		return policy.HealResult{Verdict: verdict}, err
	}
	result := policy.HealResult{Verdict: verdict, Plan: plan, Skipped: d.skipped(record, status)}
	if r.DryRun {
		return result, nil
	}
	opened := d.newIncident(status, status.SOP, requestedPrefix+r.By)
	written, err := d.services.Tickets.Update(ctx, status.Node, record.Node, func(current ticket.Record, c *ticket.Change) error {
		if v := d.blocked(current, status); v.Name != "" {
			result.Verdict = v
			return refused(v)
		}
		if note := current.Ticket; note != nil && note.Open() {
			c.History = enteredIf(current, outcomeSuperseded, d.services.Clock.Now())
		}
		c.Ticket = opened.open(d.services.Clock.Now(), current.Node.Status.NodeInfo.BootID)
		c.Ticket.Status = ticket.StatusCreated
		// The cache may not show yet what stands against it.
		c.Unchanged = true
		return nil
	})
	if err != nil {
		return result, err
	}
	d.wrote(written.Node)
	result.Ticket = opened.id
	d.services.Logger.InfoContext(ctx, "repair requested", "node", status.Node, "condition", status.Condition, "ticket", opened.id, "by", r.By)
	d.services.Recorder.Eventf(nodeReference(record.Node), corev1.EventTypeNormal, "AegisRequested",
		"%s: repair requested by %s, ticket %s", status.Condition, r.By, opened.id)
	d.queue.Enqueue(status.Node)
	return result, nil
}

// considerRequest decides on a request with what the cache shows.
func (d *Dispatcher) considerRequest(status prom.AegisNodeStatus) (ticket.Record, policy.Verdict, error) {
	record, err := d.cached(status.Node)
	switch {
	case errors.Is(err, ticket.ErrNodeGone):
		return record, policy.Decide(policy.Situation{Status: status}), err
	case err != nil:
		return record, policy.Verdict{}, err
	}
	_, hasSOP := d.table.Lookup(status.SOP)
	orders := d.services.Orders.Last()
	verdict := policy.Decide(policy.Situation{
		Now:      d.services.Clock.Now(),
		Node:     record.Node,
		Record:   record,
		Status:   status,
		HasSOP:   hasSOP,
		Note:     d.makesRoom(record.Ticket, status),
		Settings: d.services.Settings(),
		Orders:   &orders,
	})
	if verdict.Name != policy.VerdictExecute {
		return record, verdict, refused(verdict)
	}
	return record, verdict, nil
}

// skipped says what the request goes ahead in spite of.
func (d *Dispatcher) skipped(r ticket.Record, status prom.AegisNodeStatus) []string {
	if status.FirstSeen.IsZero() {
		status.FirstSeen = d.services.Clock.Now()
	}
	statuses := []prom.AegisNodeStatus{d.services.Orders.Last().Apply(status)}
	for _, s := range d.services.statuses(status.Node) {
		if s.Key() != status.Key() {
			statuses = append(statuses, s)
		}
	}
	s := d.survey(r.Node, r, statuses).situation(statuses[0])
	if last := d.services.Source.Last(status.Key()); !last.At.IsZero() {
		s.Finding = &last
	}
	return policy.Skipped(s)
}

// blocked says what stands against the ticket of a request when it is written.
func (d *Dispatcher) blocked(r ticket.Record, status prom.AegisNodeStatus) policy.Verdict {
	if d.makesRoom(r.Ticket, status) {
		r.Ticket = nil
	}
	return policy.Ask(policy.Entry, d.entry(r, status))
}

// entry sums up what is known when a ticket that somebody asks for is written.
func (d *Dispatcher) entry(r ticket.Record, status prom.AegisNodeStatus) policy.Situation {
	orders := d.services.Orders.Last()
	origin := map[prom.Origin]policy.Origins{
		prom.OriginHeal: policy.Requested, prom.OriginCheck: policy.Check, prom.OriginIntake: policy.Intake,
	}[status.Origin]
	return policy.Situation{
		Now: d.services.Clock.Now(), Origin: cmp.Or(origin, policy.Approved), Node: r.Node, Record: r, Status: status,
		Settings: d.services.Settings(), Orders: &orders,
	}
}

// makesRoom reports whether the ticket gives way to the repair that is asked for.
func (d *Dispatcher) makesRoom(t *ticket.Ticket, s prom.AegisNodeStatus) bool {
	if d.givesWayToCheck(t, s) {
		return true
	}
	return d.givesWay(t, s) && !onlyNotifies(d.table, s.SOP)
}

// Plan returns the steps that the procedure of the condition takes when each of them goes well.
func (d *Dispatcher) Plan(ctx context.Context, status prom.AegisNodeStatus) ([]string, error) {
	factory, found := d.table.Lookup(status.SOP)
	if !found {
		return nil, fmt.Errorf("there is no procedure %q", status.SOP)
	}
	plan := dryRun{steps: []string{}}
	sop := factory()
	if err := sop.CreateInstance(ctx, newPlan(d.services, status, &plan)); err != nil {
		return nil, fmt.Errorf("create procedure %s: %w", status.SOP, err)
	}
	if err := sop.Execute(ctx, status.Node, &status); err != nil {
		return nil, fmt.Errorf("plan procedure %s: %w", status.SOP, err)
	}
	return plan.steps, nil
}
