package sop

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/ticket"
)

// A ticket that says it is of Aegis and is not as Aegis has written it: by hand, edited, or by a version that wrote no record. Nothing is
// done because of it. It is closed, what may have been done counts as done, and what still holds on the node is decided anew.

// unproven reports whether the open ticket says that it is of Aegis and is not proven to be.
func unproven(r ticket.Record) bool {
	t := r.Ticket
	return t != nil && t.Open() && t.Owned() && !r.Proven.Whole()
}

// startsAnew returns the write that closes the ticket, which waits for the Jobs that it may have running.
func (d *Dispatcher) startsAnew(r ticket.Record) *cleanup {
	t := r.Ticket
	return &cleanup{
		why: "ticket is not as Aegis has written it", change: d.startAnew, after: d.jobsOf(r),
		event: fmt.Sprintf("%s: ticket %q is not as Aegis has written it; what holds on the node is decided anew", t.Condition, t.ID),
	}
}

// startAnew closes the ticket. What was asked for or approved, and is proven to have been, is begun anew with it, unless a repair was
// tried: who has asked for one repair has not asked for another.
func (d *Dispatcher) startAnew(r ticket.Record, c *ticket.Change) error {
	if !unproven(r) {
		return fmt.Errorf("ticket has changed: %w", errNothingToDo)
	}
	now := d.services.Clock.Now()
	c.RemoveTicket = true
	if did := r.Ticket.Destructive(now); len(did) > 0 {
		c.History = withUnproven(r, did, now)
	}
	if t := r.Ticket; r.Proven.Identity && !r.Tried() && (t.ApprovedBy != "" || incidentOf(t).requested()) {
		c.Ticket, c.RemoveTicket = againAsked(t, r.Node, now), false
	}
	return nil
}

// againAsked returns the ticket with which an incident of which only the steps are in doubt begins again.
func againAsked(t *ticket.Ticket, node *corev1.Node, now time.Time) *ticket.Ticket {
	i := incidentOf(t)
	i.id = ticket.NewID(now)
	again := i.open(now, node.Status.NodeInfo.BootID)
	again.Status, again.Attended = ticket.StatusCreated, true
	again.ApprovedBy, again.RequestedBy, again.Cordon = t.ApprovedBy, t.RequestedBy, t.Cordon
	return again
}

// mostUnproven bounds how many steps of an action a history takes from tickets that are not proven.
const mostUnproven = 5

// withUnproven returns the history with the destructive steps that the ticket tells of. When they were is not proven, so that they count
// from now on. All of such tickets make one incident: whoever writes many drives nothing out of the history.
func withUnproven(r ticket.Record, did []ticket.Destructive, now time.Time) *ticket.History {
	history := r.History.Clone()
	history.Incidents = slices.DeleteFunc(history.Incidents, func(i ticket.Incident) bool {
		if i.Outcome == ticket.Unproven {
			did = append(slices.Clone(i.Destructive), did...)
		}
		return i.Outcome == ticket.Unproven
	})
	id := r.Ticket.ID
	if slices.ContainsFunc(history.Incidents, func(i ticket.Incident) bool { return i.ID == id && !withPeople(i) }) {
		id = "" // It is that of an incident which is over, and keeps its place.
	}
	history.Add(ticket.Incident{
		ID: id, Condition: ticket.Clip(r.Ticket.Condition, mostReason), Closed: now, Outcome: ticket.Unproven,
		Destructive: lastOfEach(did, now),
	})
	return history
}

// withPeople reports whether the incident is one of which people may have the ticket still.
func withPeople(i ticket.Incident) bool {
	return i.Outcome == outcomeHandedOver || i.Outcome == outcomeCanceled
}

// lastOfEach keeps the last steps of each action, and dates them.
func lastOfEach(did []ticket.Destructive, now time.Time) []ticket.Destructive {
	var kept []ticket.Destructive
	for _, d := range slices.Backward(did) {
		same := 0
		for _, k := range kept {
			if k.Action == d.Action {
				same++
			}
		}
		if same < mostUnproven {
			kept = append(kept, ticket.Destructive{Action: d.Action, At: now})
		}
	}
	slices.Reverse(kept)
	return kept
}

// jobsAwaited is how long the Jobs of a ticket that is not proven are waited for.
const jobsAwaited = 2 * time.Hour

// jobsOf names the Jobs that may run on the node and change or check it, by its ticket or by its record: nothing else is begun beside them. A clock
// that was ahead when a step began makes it no older.
func (d *Dispatcher) jobsOf(r ticket.Record) []string {
	var names []string
	now := d.services.Clock.Now()
	for _, run := range r.Runs() {
		o := operationOf(run.Action)
		request := jobs.Request{Action: o.name, Node: r.Node.Name, Incident: run.Ticket, Attempt: o.offset + run.N}
		if o.name != "" && now.Sub(run.At).Abs() < jobsAwaited && !slices.Contains(names, request.Name()) {
			names = append(names, request.Name())
		}
	}
	return names
}

// operation is one on the host, and what the numbers of its Jobs begin after.
type operation struct {
	name   string
	offset int
}

// operationOf returns the operation by which a step changes the node, or checks it, none for one that does neither. Two checks at a time would
// find each other's work.
func operationOf(a ticket.Action) operation {
	switch a {
	case ticket.Reboot:
		return operation{protocol.ActionReboot, 0}
	case ticket.Shutdown:
		return operation{protocol.ActionShutdown, 0}
	case ticket.Reset:
		return operation{protocol.ActionRemedy, resetAttempts}
	case ticket.Remedy:
		return operation{protocol.ActionRemedy, 0}
	case ticket.Repair:
		return operation{protocol.ActionRepair, 0}
	case ticket.Healthcheck:
		return operation{protocol.ActionHealthcheck, 0}
	}
	return operation{}
}

// running names those of the Jobs that have not ended. An API server that gives no answer has not said so.
func (d *Dispatcher) runningOf(ctx context.Context, names []string) string {
	var left []string
	for _, name := range names {
		result, err := d.services.Jobs.Status(ctx, name)
		if err != nil || result.Phase == jobs.PhaseActive {
			left = append(left, name)
		}
	}
	return strings.Join(left, ", ")
}

// enteredIf returns the history with the incident of the ticket in it, if the ticket is proven: what others have written goes into no
// history.
func enteredIf(r ticket.Record, how string, now time.Time) *ticket.History {
	if !r.Proven.Whole() {
		return r.History.Clone()
	}
	return entered(r.History, r.Ticket, how, now)
}
