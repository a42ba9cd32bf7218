package sop

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"

	"aegis.io/aegis/ticket"
)

// requestedPrefix marks the origin of an incident that a person or a script asked for.
const requestedPrefix = "heal:"

// incident says what a ticket is opened with.
type incident struct {
	id        string
	condition string
	device    string
	sop       string
	origin    string
	source    string
	reason    string
	xid       int
	startsAt  time.Time // When its alert began, by the clock of whoever evaluates that.
	// requestedBy is who asked for the check that it began with, lent the cordon of theirs that it may undo.
	requestedBy, lent string
}

// incidentOf returns what the ticket was opened with.
func incidentOf(t *ticket.Ticket) incident {
	return incident{
		id: t.ID, condition: t.Condition, device: t.Device, sop: t.SOP, origin: t.Origin, source: t.Source, reason: t.Reason, xid: t.XID,
		startsAt: t.StartsAt, requestedBy: t.RequestedBy, lent: t.Cordon,
	}
}

func (i incident) requested() bool { return strings.HasPrefix(i.origin, requestedPrefix) || i.asked() }

// open returns the ticket of an incident that begins now.
func (i incident) open(now time.Time, bootID string) *ticket.Ticket {
	return &ticket.Ticket{
		ID:         i.id,
		Condition:  i.condition,
		Device:     i.device,
		SOP:        i.sop,
		Origin:     i.origin,
		Source:     i.source,
		Reason:     i.reason,
		XID:        i.xid,
		Supervisor: ticket.Self,
		Status:     ticket.StatusResolving,
		CreatedAt:  now,
		StartsAt:   i.startsAt.UTC().Truncate(time.Second),
		BootID:     bootID,
	}
}

// journal writes the steps of one incident on its ticket. The first write opens the ticket.
type journal struct {
	store    *ticket.Store
	clock    clock.PassiveClock
	node     string
	incident incident
	// record is the node as it was last read or written here.
	record ticket.Record
	// note is the ticket that this incident may take the place of: it only told people about another condition.
	note string
	// untaken is told why the API server takes no write for long, taken of each write that it has taken.
	untaken func(why error)
	taken   func()
	// written is told of the node as each write has left it: the slot of a step that runs counts before the cache shows it.
	written func(*corev1.Node)
	// refusal is why it took no write for long. Nil while that has not happened in this run.
	refusal error
}

// supersedes reports whether the incident would take the place of the ticket on the node.
func (j *journal) supersedes(r ticket.Record) bool {
	return j.note != "" && r.Ticket != nil && r.Ticket.ID == j.note && r.Ticket.Open()
}

// leavesNote refuses what would only put one note in the place of another.
func (j *journal) leavesNote(r ticket.Record) error {
	if j.supersedes(r) {
		return fmt.Errorf("%w: people have been told of %s", ErrTakenOver, r.Ticket.Condition)
	}
	return nil
}

// opened reports whether the ticket of this incident was on the node when it was last seen.
func (j *journal) opened() bool {
	t := j.record.Ticket
	return t != nil && t.ID == j.incident.id
}

// ticket returns the ticket of this incident as it was last seen, nil before it is opened.
func (j *journal) ticket() *ticket.Ticket {
	if !j.opened() {
		return nil
	}
	return j.record.Ticket
}

// ticketCreated returns when the incident began: now, if it has not.
func (j *journal) ticketCreated() time.Time {
	if t := j.ticket(); t != nil {
		return t.CreatedAt
	}
	return j.clock.Now()
}

// outcome returns the n-th call of the action as the ticket records it.
func (j *journal) outcome(action ticket.Action, n int) (ticket.Step, bool) {
	if !j.opened() {
		return ticket.Step{}, false
	}
	return j.record.Ticket.Outcome(action, n)
}

// isolated reports whether this incident has cordoned the node and not uncordoned it.
func (j *journal) isolated() bool {
	t := j.ticket()
	if t == nil {
		return false
	}
	last, cordoned := t.Outcome(ticket.Cordon, t.Count(ticket.Cordon))
	return cordoned && last.Status == ticket.Succeeded && !uncordons(t)
}

// uncordons reports whether the node was uncordoned, or is being, by its ticket: no fault was back before that.
func uncordons(t *ticket.Ticket) bool {
	for n := 1; n <= t.Count(ticket.Uncordon); n++ {
		if s, _ := t.Outcome(ticket.Uncordon, n); !s.Recurred && !s.Outdated {
			return true
		}
	}
	return false
}

// disrupted reports whether the incident has taken a destructive step.
func (j *journal) disrupted() bool {
	t := j.ticket()
	return t != nil && t.Count(ticket.Reboot)+t.Count(ticket.Reset)+t.Count(ticket.Shutdown) > 0
}

// lastRepair returns when the last step of the incident ended that may have mended the node, by no clock that is ahead of this one. Zero when
// there has been none.
func (j *journal) lastRepair() time.Time {
	t := j.ticket()
	if t == nil {
		return time.Time{}
	}
	var last time.Time
	for _, s := range t.Workflows {
		mends := s.Action.Destructive() || s.Action == ticket.Remedy || s.Action == ticket.Repair || s.Action == ticket.RestartPod
		if mends && s.At.After(last) {
			last = s.At
		}
	}
	if now := j.clock.Now(); last.After(now) {
		return now
	}
	return last
}

// waited returns for how long the procedure has waited for the node before its n-th wait.
func (j *journal) waited(n int) time.Duration {
	t := j.ticket()
	var all time.Duration
	for earlier := t.Past[ticket.Wait] + 1; earlier < n; earlier++ {
		s, _ := t.Outcome(ticket.Wait, earlier)
		all += s.Spent
	}
	return all
}

// bootID returns the boot that the incident is about.
func (j *journal) bootID() string {
	if j.opened() {
		return j.record.Ticket.BootID
	}
	return j.record.Node.Status.NodeInfo.BootID
}

// openFor is how long the write that opens a ticket may take before the decision behind it is too old.
const openFor = 2 * time.Minute

// errDecidedLongAgo ends a run that has not begun anything because the API server took no write for long. The next one decides anew.
var errDecidedLongAgo = errors.New("the API server has taken no write for long, and what was decided before that is decided anew")

// update changes the ticket in one write. It opens the ticket when there is none, and returns ErrTakenOver when the one on
// the node is not, or no longer, this incident's.
func (j *journal) update(ctx context.Context, change func(t *ticket.Ticket, r ticket.Record, c *ticket.Change) error) error {
	begun, asked := j.opened(), j.clock.Now()
	record, err := j.store.UpdateTelling(ctx, j.node, j.record.Node, j.untaken, func(r ticket.Record, c *ticket.Change) error {
		t, err := j.own(r, begun)
		if err != nil {
			return err
		}
		if opens := r.Ticket == nil || r.Ticket.ID != t.ID; opens && !j.incident.requested() && j.clock.Since(asked) > openFor {
			return errDecidedLongAgo
		}
		c.Ticket = t
		if j.supersedes(r) {
			r.History = enteredIf(r, outcomeSuperseded, j.clock.Now())
			c.History = r.History
		}
		return change(t, r, c)
	})
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	j.record = record
	j.written(record.Node)
	j.taken()
	return nil
}

// own returns a copy of the ticket to change, or a new one if the incident has not begun.
func (j *journal) own(r ticket.Record, begun bool) (*ticket.Ticket, error) {
	t := r.Ticket
	switch {
	case r.Broken != nil:
		return nil, fmt.Errorf("%w: %w", ErrTakenOver, r.Broken)
	case t == nil && begun:
		return nil, fmt.Errorf("%w: somebody removed ticket %s", ErrTakenOver, j.incident.id)
	case t == nil:
		return j.incident.open(j.clock.Now(), r.Node.Status.NodeInfo.BootID), nil
	case j.supersedes(r) && onlyTold(t):
		return j.incident.open(j.clock.Now(), r.Node.Status.NodeInfo.BootID), nil
	case t.ID != j.incident.id && t.Open():
		return nil, fmt.Errorf("%w: ticket %q is open on the node", ErrTakenOver, t.ID)
	case t.ID != j.incident.id && begun:
		return nil, fmt.Errorf("%w: ticket %s was replaced by %q", ErrTakenOver, j.incident.id, t.ID)
	case t.ID != j.incident.id:
		return j.incident.open(j.clock.Now(), r.Node.Status.NodeInfo.BootID), nil
	}
	if err := takenOver(r); err != nil {
		return nil, err
	}
	ours := t.Clone()
	ours.Attended = ours.Attended || ticket.EditedByOthers(r.Node)
	return ours, nil
}

// takenOver says why the ticket is not to be worked on any more. Nil means that it is.
func takenOver(r ticket.Record) error {
	switch t := r.Ticket; {
	case !t.Open():
		return fmt.Errorf("%w: somebody set ticket %s to %s", ErrTakenOver, t.ID, t.Status)
	case !t.Owned():
		return fmt.Errorf("%w: ticket %s belongs to %q", ErrTakenOver, t.ID, t.Supervisor)
	case !r.Proven.Whole():
		return fmt.Errorf("%w: ticket %s is not as Aegis has written it", ErrTakenOver, t.ID)
	}
	return nil
}

// begin journals the call of the step as Running.
func (j *journal) begin(ctx context.Context, s step, c call) error {
	return j.update(ctx, func(t *ticket.Ticket, _ ticket.Record, _ *ticket.Change) error {
		t.Status, t.Hold = ticket.StatusResolving, ""
		if s.action.Destructive() {
			t.Attempts++
		}
		if c.outdated > 0 {
			t.Outdate(s.action, c.outdated)
		}
		return t.RecordStep(c.n, ticket.Step{
			Action:  s.action,
			Status:  ticket.Running,
			At:      c.began,
			Message: s.detail,
			Pod:     c.target.name,
			UID:     c.target.uid,
		})
	})
}

// endDrains journals that the drains that run have ended, in one write if there are any.
func (j *journal) endDrains(ctx context.Context) error {
	var running []drainCall
	if t := j.ticket(); t != nil {
		running = runningDrains(t)
	}
	if len(running) == 0 {
		return nil
	}
	return j.update(ctx, func(t *ticket.Ticket, _ ticket.Record, _ *ticket.Change) error {
		for _, d := range running {
			ended := ticket.Step{Action: d.action, Status: ticket.Succeeded, At: j.clock.Now(), Message: "the workload is gone"}
			if err := t.RecordStep(d.n, ended); err != nil {
				return err
			}
		}
		return nil
	})
}

// drainCall is one call of an action that drains.
type drainCall struct {
	action ticket.Action
	n      int
}

// drainActions are the actions that drain.
func drainActions() []ticket.Action {
	return []ticket.Action{ticket.Drain, ticket.DrainGPU, ticket.WaitIdle}
}

func runningDrains(t *ticket.Ticket) (running []drainCall) {
	for _, action := range drainActions() {
		for n := 1; n <= t.Count(action); n++ {
			if s, _ := t.Outcome(action, n); s.Status == ticket.Running {
				running = append(running, drainCall{action, n})
			}
		}
	}
	return running
}

// finish journals how the n-th call of the step's action ended.
func (j *journal) finish(ctx context.Context, n int, ended ticket.Step, change func(t *ticket.Ticket)) error {
	return j.update(ctx, func(t *ticket.Ticket, _ ticket.Record, _ *ticket.Change) error {
		if done, known := t.Outcome(ended.Action, n); known && done.Status != ticket.Running {
			// The answer to this very write was lost on the way.
			return nil
		}
		t.Hold = ""
		if change != nil {
			change(t)
		}
		ended.At = j.clock.Now()
		return t.RecordStep(n, ended)
	})
}
