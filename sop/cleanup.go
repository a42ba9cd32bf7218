package sop

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// errNothingToDo says that the node has changed and the cleanup is not needed any more.
var errNothingToDo = errors.New("nothing to do")

// cleanup is a write that keeps what Aegis noted on a node true. It never disturbs workload.
type cleanup struct {
	why string
	// absent is a condition that has to be gone at its source first. Nil when there is none.
	absent *prom.Key
	// after are Jobs that have to have ended first.
	after []string
	// event tells people what was done. Empty tells them nothing.
	event string
	// fresh says that the node of the cache does not do.
	fresh  bool
	change func(r ticket.Record, c *ticket.Change) error
}

// cleanup returns what is to be put right on the node before anything is decided on it, nil for nothing.
func (d *Dispatcher) cleanup(node *corev1.Node, r ticket.Record, statuses []prom.AegisNodeStatus) *cleanup {
	t := r.Ticket
	ours := t != nil && t.Open() && t.Owned()
	if u := d.requestCleanup(node); u != nil {
		return u
	}
	switch {
	case r.Broken != nil:
		return nil
	case unproven(r):
		return d.startsAnew(r)
	case t == nil && node.Annotations[ticket.RecordAnnotation] != "":
		return &cleanup{why: "ticket was removed", change: dropRecord, after: d.jobsOf(r)}
	case closedEarly(r):
		return &cleanup{why: "ticket was closed while a step ran", change: dropClosed, after: d.jobsOf(r)}
	case released(t):
		return &cleanup{why: "ticket was given back", change: d.closeIncident(t.ID, released, outcomeReleased)}
	case t != nil && d.gone(t, statuses):
		key := prom.Key{Node: node.Name, Condition: t.Condition, ID: t.Device}
		team := t.Supervisor
		isNote := func(t *ticket.Ticket) bool { return noted(t, team) }
		return &cleanup{why: "noted condition is gone", absent: &key, change: d.closeIncident(t.ID, isNote, "withdrawn")}
	case ours:
		return nil
	}
	return leftOver(node)
}

// leftOver returns the write that takes away what no ticket needs any more, nil when there is nothing.
func leftOver(node *corev1.Node) *cleanup {
	switch {
	case !node.Spec.Unschedulable && node.Annotations[ticket.OwnerAnnotation] != "":
		return &cleanup{why: "owner note without a cordon", change: dropOwnerNote}
	case staleTaint(node):
		return &cleanup{why: "taint of a node that is ready", change: dropTaint}
	}
	return nil
}

// gone reports whether the ticket only told people about a condition that nothing reports any more.
func (d *Dispatcher) gone(t *ticket.Ticket, statuses []prom.AegisNodeStatus) bool {
	for _, s := range statuses {
		if s.Condition == t.Condition && s.ID == t.Device {
			return false
		}
	}
	return d.isNote(t)
}

// maintain carries out the cleanup and returns when the node is looked at again. What holds on the node says meanwhile why nothing is decided.
func (d *Dispatcher) maintain(ctx context.Context, node *corev1.Node, u *cleanup, statuses []prom.AegisNodeStatus) time.Duration {
	logger := d.services.Logger.With("node", node.Name, "reason", u.why)
	if u.absent != nil && !policy.Withdrawn(d.services.Source.Observe(ctx, *u.absent)) {
		return d.services.Timing.Hold
	}
	if left := d.runningOf(ctx, u.after); left != "" {
		d.awaits(statuses, fmt.Sprintf("%s; awaits the end of Job %s", u.why, left))
		return d.services.Timing.Hold
	}
	if run, boots := d.booting(ctx, node, u); boots {
		d.awaits(statuses, fmt.Sprintf("%s; awaits the reboot that ticket %s ordered", u.why, run.Ticket))
		return d.services.Timing.Hold
	}
	base := node
	if u.fresh {
		base = nil
	}
	record, err := d.services.Tickets.Update(ctx, node.Name, base, u.change)
	switch {
	case err == nil:
		d.wrote(record.Node)
		logger.InfoContext(ctx, "node cleaned up")
		if u.event != "" {
			d.services.Recorder.Event(nodeReference(record.Node), corev1.EventTypeWarning, "AegisTicketNotProven", u.event)
		}
		d.queue.Enqueue(node.Name)
	case errors.Is(err, errNothingToDo), ctx.Err() != nil:
	default:
		logger.ErrorContext(ctx, "node not cleaned up, trying again", "err", err)
		d.tellEach(statuses, errorVerdict(err))
	}
	return d.services.Timing.Hold
}

// awaits tells that nothing is decided on the node before something has ended that an earlier ticket began.
func (d *Dispatcher) awaits(statuses []prom.AegisNodeStatus, why string) {
	d.tellEach(statuses, policy.Verdict{Name: policy.VerdictInProgress, Reason: why})
}

// tellEach gives all that holds on the node the same verdict.
func (d *Dispatcher) tellEach(statuses []prom.AegisNodeStatus, v policy.Verdict) {
	for _, s := range statuses {
		d.tell(s, v)
	}
}

// booting returns the reboot that the cleanup would forget and that is not over: its Job ends as the host goes down, long before the node has
// another boot and is ready. An operation that has reported why it did not reboot the node, or was never ordered, has left it as it was.
func (d *Dispatcher) booting(ctx context.Context, node *corev1.Node, u *cleanup) (ticket.Run, bool) {
	if len(u.after) == 0 {
		return ticket.Run{}, false
	}
	for _, run := range ticket.ReadNode(node).Runs() {
		if run.Action == ticket.Reboot && !d.bootOver(ctx, node, run) {
			return run, true
		}
	}
	return ticket.Run{}, false
}

// bootOver reports whether the reboot is over, as far as the node shows it. One that has not happened by the time the step would have failed is given up.
func (d *Dispatcher) bootOver(ctx context.Context, node *corev1.Node, run ticket.Run) bool {
	ready := policy.IsReady(node)
	if ready && (run.Boot == "" || node.Status.NodeInfo.BootID != run.Boot) {
		return true
	}
	request := jobs.Request{Action: protocol.ActionReboot, Node: node.Name, Incident: run.Ticket, Attempt: run.N}
	result, err := d.services.Jobs.Status(ctx, request.Name())
	switch {
	case err != nil:
		return false
	case result.Phase == jobs.PhaseMissing, result.Phase == jobs.PhaseFailed && result.Report != nil:
		return ready
	}
	return !result.NotAfter.IsZero() && d.services.Clock.Now().After(result.NotAfter)
}

// closeIncident moves a ticket into the history, provided that it still is as it was found.
func (d *Dispatcher) closeIncident(id string, still func(*ticket.Ticket) bool, how string) func(ticket.Record, *ticket.Change) error {
	return func(r ticket.Record, c *ticket.Change) error {
		if r.Ticket == nil || r.Ticket.ID != id || !still(r.Ticket) {
			return fmt.Errorf("ticket %s has changed: %w", id, errNothingToDo)
		}
		c.RemoveTicket = true
		c.History = enteredIf(r, how, d.services.Clock.Now())
		askAgain(r, r.Ticket, c)
		return nil
	}
}

// askAgain keeps the request for a check that the ticket began with and that its end does not answer: the node still has the cordon that
// was lent with it.
func askAgain(r ticket.Record, t *ticket.Ticket, c *ticket.Change) {
	if policy.Lent(r.Node, t.Cordon) {
		c.Unchanged = true
		c.Annotations = map[string]*string{
			policy.CheckAnnotation: new(policy.CheckRequested), policy.CheckByAnnotation: new(t.RequestedBy),
			policy.CheckCordonAnnotation: new(t.Cordon),
		}
	}
}

// dropRecord removes the record of a ticket that somebody has removed. What it says was done goes into the history with that write.
func dropRecord(r ticket.Record, c *ticket.Change) error {
	if r.Ticket != nil || r.Broken != nil || r.Node.Annotations[ticket.RecordAnnotation] == "" {
		return fmt.Errorf("record: %w", errNothingToDo)
	}
	c.RemoveTicket = true
	return nil
}

// closedEarly reports whether somebody has closed the ticket of Aegis while a step of it ran.
func closedEarly(r ticket.Record) bool {
	t := r.Ticket
	return t != nil && !t.Open() && r.Node.Annotations[ticket.RecordAnnotation] != "" && len(r.Runs()) > 0
}

// dropClosed removes such a ticket. What was done goes into the history.
func dropClosed(r ticket.Record, c *ticket.Change) error {
	if !closedEarly(r) {
		return fmt.Errorf("closed ticket: %w", errNothingToDo)
	}
	c.RemoveTicket = true
	return nil
}

// dropOwnerNote removes the note of a cordon that a person has undone.
func dropOwnerNote(r ticket.Record, c *ticket.Change) error {
	if t := r.Ticket; t != nil && t.Open() && t.Owned() || r.Node.Spec.Unschedulable || r.Node.Annotations[ticket.OwnerAnnotation] == "" {
		return fmt.Errorf("owner note: %w", errNothingToDo)
	}
	c.Annotations = map[string]*string{ticket.OwnerAnnotation: nil}
	return nil
}

// dropTaint removes the taint of a node that has come back while no procedure of Aegis ran on it.
func dropTaint(r ticket.Record, c *ticket.Change) error {
	if t := r.Ticket; t != nil && t.Open() && t.Owned() || !staleTaint(r.Node) {
		return fmt.Errorf("taint: %w", errNothingToDo)
	}
	c.RemoveTaint = outOfServiceTaint()
	return nil
}

// RelevantChange reports whether an update of a Node may change a verdict, or shows an edit by a person.
func RelevantChange(before, after *corev1.Node) bool {
	return before.Spec.Unschedulable != after.Spec.Unschedulable ||
		ticket.CordonedByOthers(before) != ticket.CordonedByOthers(after) ||
		before.Annotations[ticket.Annotation] != after.Annotations[ticket.Annotation] ||
		before.Annotations[ticket.RecordAnnotation] != after.Annotations[ticket.RecordAnnotation] ||
		before.Annotations[ticket.OwnerAnnotation] != after.Annotations[ticket.OwnerAnnotation] ||
		before.Annotations[policy.CheckAnnotation] != after.Annotations[policy.CheckAnnotation] ||
		policy.NewRequest(before) != policy.NewRequest(after) ||
		policy.RequestLeftOver(before) != policy.RequestLeftOver(after) ||
		!slices.Equal(taintsOf(before), taintsOf(after)) ||
		policy.Excluded(before) != policy.Excluded(after) ||
		policy.IsControlPlane(before) != policy.IsControlPlane(after) ||
		policy.IsReady(before) != policy.IsReady(after) ||
		before.UID != after.UID
}

// taintsOf names the taints of the node.
func taintsOf(node *corev1.Node) []string {
	var names []string
	for _, t := range node.Spec.Taints {
		names = append(names, t.ToString())
	}
	return names
}

// NeedsVisit reports whether a node is to be looked at even though no condition is reported on it.
func NeedsVisit(node *corev1.Node, settings policy.Settings) bool {
	_, asked := settings.CheckRequestOf(node)
	return asked || policy.RequestLeftOver(node) || policy.LeftBehind(node) || node.Annotations[ticket.Annotation] != "" || staleTaint(node) ||
		node.Annotations[ticket.RecordAnnotation] != "" ||
		node.Annotations[ticket.OwnerAnnotation] != "" && !node.Spec.Unschedulable
}
