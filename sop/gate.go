package sop

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// recentFinding is how long a confirmation is good for isolating a node.
const recentFinding = 5 * time.Second

// sharedFinding is how old an answer may be that others on the node have waited for: a pass over slow sources takes a while.
const sharedFinding = 30 * time.Second

// holdNoteEvery is the least time between two notes on a ticket that say the same in other words.
const holdNoteEvery = 5 * time.Minute

// permissionAge is how long a permission is good for.
const permissionAge = 5 * time.Second

// errUncordoned ends a procedure whose isolation a person undid.
var errUncordoned = errors.New("a person uncordoned the node while it was being repaired")

// errUnnoted ends a procedure before it disturbs a node any further of which nobody tells any more who has cordoned it.
var errUnnoted = errors.New("the repair has ended")

// heldError ends a run that cannot go on now, before anything is begun that would need a wait in place.
type heldError struct{ verdict policy.Verdict }

func (e *heldError) Error() string { return fmt.Sprintf("%s: %s", e.verdict.Name, e.verdict.Reason) }

// gate asks the guards on behalf of one incident: it collects what they have to know, and waits while one of them objects. What may
// stand against an act is in the table of package policy alone.
type gate struct {
	services environment
	node     string
	status   prom.AegisNodeStatus
	journal  *journal
	// suspicion is why the node is sick although its alert may be silent: a check of Aegis failed.
	suspicion string
	// asked is when this visit to the node began to ask the sources. Zero when nobody else on the node waits for the same answer.
	asked time.Time
	// confirmed is when the sources were asked before anything was done, refusal is why they, or the guards, said no.
	confirmed time.Time
	refusal   policy.Verdict
	// booted is the boot ID of a boot that Aegis did not order, once one was seen.
	booted string
	// noted is when the ticket was last told in new words why it waits.
	noted time.Time
	// during is the time of the step that runs. Nil between steps.
	during *permittedTime
}

func newGate(s environment, status prom.AegisNodeStatus, j *journal) *gate {
	g := &gate{services: s, node: status.Node, status: status, journal: j}
	if t := j.ticket(); t != nil && t.Origin == originHealthcheck {
		g.suspicion = t.Reason
	}
	return g
}

// origin returns why Aegis acts.
func (g *gate) origin() policy.Origins {
	switch t := g.journal.ticket(); {
	case g.journal.incident.asked():
		return policy.Check
	case g.journal.incident.left():
		return policy.Left
	case g.journal.incident.requested():
		return policy.Requested
	case t == nil:
		return policy.Alert
	case t.ApprovedBy != "":
		return policy.Approved
	}
	return policy.Begun
}

// confirm asks the sources anew whether the condition holds and may be acted on. An incident that has begun, or that a
// person asked for, needs no confirmation: each of its disruptive steps asks for itself. Nor does a cordon of Aegis itself.
func (g *gate) confirm(ctx context.Context) bool {
	if i := g.journal.incident; g.journal.opened() || i.requested() || i.left() {
		return true
	}
	finding := g.findingForCordon(ctx)
	g.refusal = policy.Ask(policy.Isolate, policy.Situation{Now: g.services.Clock.Now(), Origin: policy.Alert, Status: g.status, Finding: &finding})
	g.confirmed = g.services.Clock.Now()
	return g.refusal.Name == ""
}

// findingForCordon asks the sources, unless they have answered already: when hundreds of nodes fall ill at once they are isolated on the
// same answer, and one that began after the visit to the node is good for all that the visit asks about. Each disruptive step asks anew.
func (g *gate) findingForCordon(ctx context.Context) prom.Finding {
	last := g.services.Source.Last(g.status.Key())
	age := g.services.Clock.Since(last.At)
	if age < recentFinding && policy.Judge(last).Name == policy.VerdictExecute {
		return last
	}
	if !g.asked.IsZero() && last.At.After(g.asked) && age < sharedFinding {
		return last
	}
	return g.services.Source.Observe(ctx, g.status.Key())
}

// isolation says what stands against taking the node out of service now. It takes a place in the pool's budget if nothing does, unless
// the node is out of service already.
func (g *gate) isolation(r ticket.Record) policy.Verdict {
	s := g.situation(r)
	orders := g.services.Orders.Last()
	s.Orders, s.Confirmed, s.Finding = &orders, g.confirmed, g.toldSince()
	if v := policy.Ask(policy.Isolate, s); v.Name != "" || r.Node.Spec.Unschedulable {
		g.services.limits.stepBack(g.node, policy.LimitBudget)
		return v
	}
	room := g.services.limits.reserve(policy.ClaimOf(g.status))
	s.Room = &room
	return policy.Ask(policy.Isolate, s)
}

// situation sums up what is known of the node without a question to the cluster.
func (g *gate) situation(r ticket.Record) policy.Situation {
	settings := g.services.Settings()
	g.services.storms.look()
	return policy.Situation{
		Now: g.services.Clock.Now(), Origin: g.origin(), Node: r.Node, Record: r, Status: g.current(g.services.Orders.Last()),
		Settings: settings, Suspicion: g.suspicion,
		Lent:  g.journal.incident.lent,
		Storm: g.services.storms.holds(g.status.Condition, settings.PoolOf(r.Node).Name),
	}
}

// current returns the condition as the catalogue and the orders have it now, which may have changed since the repair began.
func (g *gate) current(orders policy.Orders) prom.AegisNodeStatus {
	now := g.services.catalogue.Status(g.node, g.status.Condition, g.status.ID, g.status.XID.Code)
	current := g.status
	current.Condition, current.Priority, current.XID, current.Policy = now.Condition, now.Priority, now.XID, now.Policy
	return orders.Apply(current)
}

// toldSince returns what the sources have said since they confirmed the condition, nil if nothing: a pass over them may have come in
// between, or a person has silenced it. Sources that give no answer say nothing.
func (g *gate) toldSince() *prom.Finding {
	last := g.services.Source.Last(g.status.Key())
	if last.Permission == prom.PermissionSilenced || last.Permission == prom.PermissionAmbiguous {
		return &last
	}
	if !last.At.After(g.confirmed) || policy.Judge(last).Name == policy.VerdictUnverifiable {
		return nil
	}
	return &last
}

// admit waits until the step may begin: the node and its ticket are as they were left, nobody forbids it, the sources
// confirm the condition, and a slot for a destructive step is free. It returns ErrWithdrawn when the condition is gone. A run that has
// not begun anything does not wait here but ends, so that what else is reported on the node has its turn.
func (g *gate) admit(ctx context.Context, action ticket.Action) (release func(), err error) {
	for {
		release, blocked, err := g.permission(ctx, action)
		if err != nil {
			return func() {}, err
		}
		if blocked.Name != "" && blocked.Name != policy.VerdictBudget {
			g.services.limits.stepBack(g.node, policy.LimitDestructive)
		}
		if blocked.Name == "" {
			g.services.Verdicts.Set(g.status.Key(), policy.Verdict{Name: policy.VerdictExecute, Reason: string(action)})
			return release, nil
		}
		if !g.journal.opened() || blocked.Name == policy.VerdictUnknownCondition {
			return func() {}, &heldError{blocked}
		}
		if err := g.hold(ctx, blocked); err != nil {
			return func() {}, err
		}
	}
}

// permission says what stands against a disruptive step right now, and takes a slot for it if nothing does. An API server that does
// not answer means no.
func (g *gate) permission(ctx context.Context, action ticket.Action) (release func(), blocked policy.Verdict, err error) {
	record, unread, err := g.look(ctx)
	if err != nil || unread != "" {
		return nil, policy.Ask(policy.Step, policy.Situation{Origin: g.origin(), Unread: unread}), err
	}
	s := g.situation(record)
	// The cordon of a person may stay for ever, and the incident must not wait for that once its condition is gone.
	if v := policy.Ask(policy.Step, s); v.Name != "" && v.Name != policy.VerdictHumanCordoned {
		return nil, v, nil
	}
	if err := g.askOrders(ctx, &s); err != nil {
		return nil, policy.Verdict{}, err
	}
	// Nothing that forbids a repair holds up the return of a node that needs none.
	if err := g.ended(ctx, &s); err != nil {
		return nil, policy.Verdict{}, err
	}
	v := policy.Ask(policy.Step, s)
	if err := g.unnoted(v, record); err != nil {
		return nil, policy.Verdict{}, err
	}
	if v.Name != "" {
		return nil, v, nil
	}
	how := takes
	if g.journal.opened() {
		how = inPlace
	}
	release, room := g.services.limits.begin(g.journal.record.Node, action, policy.ClaimOf(g.status), how)
	s.Room = &room
	return release, policy.Ask(policy.Step, s), nil
}

// unnoted ends the incident that would wait for the cordon of a person, when that is probably the one of Aegis of which nobody tells any more
// who has set it: nothing that happens on the node would end the wait.
func (g *gate) unnoted(v policy.Verdict, r ticket.Record) error {
	why, t := policy.Unnoted(r.Node), g.journal.ticket()
	if v.Name != policy.VerdictHumanCordoned || why == "" || t == nil || t.Count(ticket.Cordon) == 0 && !policy.LeftBehind(r.Node) {
		return nil
	}
	return fmt.Errorf("%w: %s", errUnnoted, why)
}

// look reads the node and its ticket past the cache, provided that they are as they were left. It says why they could not be read.
func (g *gate) look(ctx context.Context) (r ticket.Record, unread string, err error) {
	r, err = g.services.Tickets.Get(ctx, g.node)
	switch {
	case errors.Is(err, ticket.ErrNodeGone):
		return r, "", err
	case err != nil && ctx.Err() != nil:
		return r, "", context.Cause(ctx)
	case err != nil:
		return r, "the API server gives no answer: " + err.Error(), nil //nolint:nilerr // It is a reason to wait.
	case r.Node.UID != g.journal.record.Node.UID:
		return r, "", ticket.ErrRecreated
	}
	return r, "", g.stillOurs(r)
}

// stillOurs takes the record of the node over, provided that people have taken neither the ticket nor the cordon.
func (g *gate) stillOurs(r ticket.Record) error {
	begun := g.journal.opened()
	if _, err := g.journal.own(r, begun); err != nil || !begun {
		return err
	}
	if g.journal.isolated() && policy.Uncordoned(r.Node, g.journal.incident.lent) {
		return errUncordoned
	}
	g.journal.record = r
	return nil
}

// askOrders reads what people have ordered, and the mode of the condition by it.
func (g *gate) askOrders(ctx context.Context, s *policy.Situation) error {
	orders, err := g.services.Orders.Read(ctx)
	switch {
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, ErrLeaseLost):
		return err
	case err != nil:
		s.OrdersLost = err.Error()
		return nil //nolint:nilerr // It is a reason to wait.
	}
	s.Orders = &orders
	s.Status = g.current(orders)
	return nil
}

// ended asks Prometheus and Alertmanager, and says why the incident is over: the node has booted, or its condition is gone. What a check
// of ours found on the node itself outweighs a silent alert.
func (g *gate) ended(ctx context.Context, s *policy.Situation) error {
	if boot := s.Node.Status.NodeInfo.BootID; g.journal.opened() && boot != s.Record.Ticket.BootID {
		g.booted = boot
		return fmt.Errorf("%w: the node has booted since the incident began", ErrWithdrawn)
	}
	if s.Origin == policy.Requested || s.Origin == policy.Check {
		return nil
	}
	finding := g.services.Source.Observe(ctx, g.status.Key())
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case g.suspicion == "" && policy.Withdrawn(finding):
		return fmt.Errorf("%w: no source reports it any more", ErrWithdrawn)
	}
	s.Finding = &finding
	return nil
}

// standing says what stands against doing anything on the node now, without a question to the cluster or the sources.
func (g *gate) standing() policy.Verdict {
	node, err := g.services.Nodes.Get(g.node)
	if err != nil || !g.journal.opened() {
		return policy.Verdict{}
	}
	r := g.journal.record
	r.Node = node
	s, orders := g.situation(r), g.services.Orders.Last()
	s.Orders = &orders
	return policy.Ask(policy.Watch, s)
}

// hold makes the reason for waiting visible and waits a while, or until it is the node's turn for a slot.
func (g *gate) hold(ctx context.Context, v policy.Verdict) error {
	if err := g.tellHold(ctx, v); err != nil {
		return err
	}
	timer := g.services.Clock.NewTimer(g.services.Timing.Hold)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-g.services.limits.bell(policy.LimitDestructive, g.node):
	case <-timer.C():
	}
	return nil
}

// tellHold makes the reason for waiting visible.
func (g *gate) tellHold(ctx context.Context, v policy.Verdict) error {
	if g.services.Verdicts.Set(g.status.Key(), v) {
		g.services.Recorder.Eventf(nodeReference(g.journal.record.Node), corev1.EventTypeNormal, "AegisHeld",
			"%s: held: %s: %s", g.status.Condition, v.Name, v.Reason)
	}
	return g.noteHold(ctx, v)
}

// noteHold writes on the ticket why it waits. A reason that only changes its words is written anew when it has done so for long.
func (g *gate) noteHold(ctx context.Context, v policy.Verdict) error {
	return g.note(ctx, string(v.Name), v.Reason)
}

// note writes on the ticket what the run waits for, and why.
func (g *gate) note(ctx context.Context, what, why string) error {
	t := g.journal.ticket()
	text := ticket.Clip(what+": "+why, ticket.MaxHold)
	same := t != nil && strings.HasPrefix(t.Hold, what+": ")
	if t == nil || t.Hold == text || same && g.services.Clock.Since(g.noted) < holdNoteEvery {
		return nil
	}
	err := g.journal.update(ctx, func(t *ticket.Ticket, _ ticket.Record, _ *ticket.Change) error {
		t.Hold = text
		if g.during != nil {
			g.during.enter(t)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("note on the ticket why it waits: %w", err)
	}
	g.noted = g.services.Clock.Now()
	if g.during != nil {
		g.during.kept = g.during.spent
	}
	return nil
}
