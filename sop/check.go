package sop

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// A check of a node that a person asks for, or a taint: the node proves that it is fit and goes into service, or its incident goes on
// with what was found.

const (
	// checkPrefix marks the origin of a check that a person asked for. What follows is who.
	checkPrefix = "check:"
	// intakeOrigin is that of a check which a taint of the node asked for.
	intakeOrigin = "intake"
)

// asked reports whether the incident is a check that somebody asked for. It is no more once it goes on with what was found.
func (i incident) asked() bool {
	return strings.HasPrefix(i.origin, checkPrefix) || i.origin == intakeOrigin
}

// Check accepts or refuses the request of a person for a check of the node. An accepted one is on the node as an open ticket before
// Check returns; one that is made again meanwhile is the same. The error is policy.ErrRefused, ticket.ErrNodeGone,
// ticket.ErrRecreated, or one of the API server.
func (d *Dispatcher) Check(ctx context.Context, o policy.NodeOrder) (policy.HealResult, error) {
	status := d.checkStatus(o.Node, prom.OriginCheck)
	status.Msg = o.Reason
	node, err := d.Node(o.Node)
	if err == nil {
		if t := d.services.Tickets.Read(node).Ticket; isCheck(t) {
			return policy.HealResult{Ticket: t.ID, Verdict: policy.Verdict{Name: policy.VerdictDuplicate, Reason: "the check runs already, ticket " + t.ID}}, nil
		}
	}
	record, verdict, err := d.considerRequest(status)
	if err != nil {
		return policy.HealResult{Verdict: verdict}, err
	}
	// The cache may not show yet that the person has just cordoned the node.
	read, err := d.services.Tickets.Get(ctx, o.Node)
	if err != nil {
		return policy.HealResult{Verdict: verdict}, err
	}
	q := checkRequest{status: status, uid: record.Node.UID, by: o.By, lends: policy.LentTo(record.Node, read.Node, status.FirstSeen)}
	_, id, err := d.openCheck(ctx, q)
	return policy.HealResult{Ticket: id, Verdict: verdict}, err
}

// isCheck reports whether the ticket is that of a check which runs.
func isCheck(t *ticket.Ticket) bool {
	return t != nil && t.Open() && t.Owned() && (incident{origin: t.Origin}).asked()
}

// checkStatus is what stands for a request in decisions.
func (d *Dispatcher) checkStatus(node string, origin prom.Origin) prom.AegisNodeStatus {
	status := d.catalogue.Status(node, policy.CheckedCondition, "", 0)
	status.Origin = origin
	status.FirstSeen, status.LastSeen = d.services.Clock.Now(), d.services.Clock.Now()
	return d.services.Orders.Last().Apply(status)
}

// withRequest adds the request for a check that is on the node to what holds there, in the place of its urgency. It stands for an alert
// that tells of the same cordon, and it waits while a ticket of Aegis about that cordon is open.
func (d *Dispatcher) withRequest(node *corev1.Node, r ticket.Record, statuses []prom.AegisNodeStatus) []prom.AegisNodeStatus {
	request, found := d.services.Settings().CheckRequestOf(node)
	if !found {
		return statuses
	}
	origin := prom.OriginIntake
	if request.Value != "" {
		origin = prom.OriginCheck
	}
	status := d.checkStatus(node.Name, origin)
	if t := r.Ticket; t != nil && t.Open() && t.Owned() && t.Condition == status.Condition {
		return statuses
	}
	return byUrgency(statuses, status)
}

// isRequest reports whether the status stands for a request for a check.
func isRequest(s prom.AegisNodeStatus) bool {
	return s.Origin == prom.OriginCheck || s.Origin == prom.OriginIntake
}

// takeUp makes a ticket of the request that is on the node, and returns when the node is looked at again.
func (d *Dispatcher) takeUp(ctx context.Context, node *corev1.Node, status prom.AegisNodeStatus) time.Duration {
	_, id, err := d.openCheck(ctx, checkRequest{status: status, uid: node.UID, found: true})
	switch {
	case err == nil:
		d.tell(status, policy.Verdict{Name: policy.VerdictExecute, Reason: "ticket " + id})
	case errors.Is(err, errNothingToDo), errors.Is(err, policy.ErrRefused), errors.Is(err, ticket.ErrNodeGone), errors.Is(err, ticket.ErrRecreated), ctx.Err() != nil:
	default:
		d.services.Logger.ErrorContext(ctx, "check not begun, trying again", "node", status.Node, "err", err)
		d.tell(status, errorVerdict(err))
	}
	return d.services.Timing.Hold
}

// checkRequest is a request for a check that nothing stands against.
type checkRequest struct {
	status prom.AegisNodeStatus
	// uid is that of the node on which it was decided.
	uid types.UID
	by  string
	// lends returns the cordon of the node that may be undone. Nil when none may.
	lends func(*corev1.Node) string
	// found says that the request is on the node, as are the other fields then.
	found bool
}

// read completes a request that is on the node.
func (q *checkRequest) read(node *corev1.Node, request policy.CheckRequest) error {
	if q.status.Origin == prom.OriginIntake {
		switch {
		case len(request.Taints) == 0:
			return fmt.Errorf("the taint is gone: %w", errNothingToDo)
		case request.Value != "":
			return fmt.Errorf("a person asks by now: %w", errNothingToDo)
		}
		q.by = "taint " + request.Taints[0].Key
		q.status.Msg = "the node waits for a check before it goes into service"
		return nil
	}
	if request.Value != policy.CheckRequested {
		return fmt.Errorf("the annotation has changed: %w", errNothingToDo)
	}
	if policy.NewRequest(node) {
		return fmt.Errorf("what the request lends is not noted yet: %w", errNothingToDo)
	}
	q.by, q.lends = policy.RequesterOf(node), policy.LentByNote
	q.status.Msg = "annotation " + policy.CheckAnnotation
	return nil
}

// open returns the ticket of the check.
func (q checkRequest) open(i incident, r ticket.Record, now time.Time) *ticket.Ticket {
	if i.origin = intakeOrigin; q.status.Origin == prom.OriginCheck {
		i.origin = checkPrefix + q.by
	}
	i.reason = q.status.Msg
	t := i.open(now, r.Node.Status.NodeInfo.BootID)
	t.Status, t.RequestedBy, t.Attended = ticket.StatusCreated, q.by, q.status.Origin == prom.OriginCheck
	if q.lends != nil {
		t.Cordon = q.lends(r.Node)
	}
	return t
}

// openCheck writes the ticket of the check and takes the request off the node, in one write, so that it is neither lost nor taken up
// twice. It reads the node past the cache, which lags behind, and does not have who has set the annotation.
func (d *Dispatcher) openCheck(ctx context.Context, q checkRequest) (ticket.Record, string, error) {
	opened := d.newIncident(q.status, q.status.SOP, "")
	written, err := d.services.Tickets.Update(ctx, q.status.Node, nil, func(r ticket.Record, c *ticket.Change) error {
		request, _ := d.services.Settings().CheckRequestOf(r.Node)
		if r.Node.UID != q.uid {
			return ticket.ErrRecreated
		}
		if q.found {
			if err := q.read(r.Node, request); err != nil {
				return err
			}
		}
		if v := d.blocked(r, q.status); v.Name != "" {
			return refused(v)
		}
		d.makeRoomForCheck(r, c)
		c.Ticket = q.open(opened, r, d.services.Clock.Now())
		if request.Value != "" {
			c.Annotations = withoutRequest()
		}
		return nil
	})
	if err != nil {
		return written, "", err
	}
	d.wrote(written.Node)
	t := written.Ticket
	d.services.Logger.InfoContext(ctx, "check requested", "node", q.status.Node, "ticket", opened.id, "by", t.RequestedBy)
	d.services.Recorder.Eventf(nodeReference(written.Node), corev1.EventTypeNormal, "AegisCheckRequested",
		"%s: check requested by %s, ticket %s", q.status.Condition, t.RequestedBy, opened.id)
	d.queue.Enqueue(q.status.Node)
	return written, opened.id, nil
}

// withoutRequest takes a request, and what belongs to it, off a node.
func withoutRequest() map[string]*string {
	return map[string]*string{policy.CheckAnnotation: nil, policy.CheckByAnnotation: nil, policy.CheckCordonAnnotation: nil}
}

// requestCleanup returns the write that notes what a new request lends, before anything can hold it, or takes away what is left of one
// that was withdrawn. It is nil when there is nothing to do.
func (d *Dispatcher) requestCleanup(node *corev1.Node) *cleanup {
	switch {
	case policy.NewRequest(node):
		// Who has set the annotation is not in the cache.
		return &cleanup{why: "request for a check is new", fresh: true, change: d.noteLent(node)}
	case policy.RequestLeftOver(node):
		return &cleanup{why: "request for a check was withdrawn", change: dropRequest}
	}
	return nil
}

// noteLent notes which cordon the request lends. One that has come since the request was seen is none.
func (d *Dispatcher) noteLent(seen *corev1.Node) func(ticket.Record, *ticket.Change) error {
	return func(r ticket.Record, c *ticket.Change) error {
		if !policy.NewRequest(r.Node) {
			return fmt.Errorf("request for a check: %w", errNothingToDo)
		}
		lent := ""
		if policy.CordonOf(seen) == policy.CordonOf(r.Node) {
			lent = policy.LentAtSight(r.Node, d.requests.cordoned(r.Node))
		}
		c.Unchanged = true
		c.Annotations = map[string]*string{policy.CheckCordonAnnotation: new(cmp.Or(lent, policy.CheckLendsNone))}
		return nil
	}
}

func dropRequest(r ticket.Record, c *ticket.Change) error {
	if !policy.RequestLeftOver(r.Node) {
		return fmt.Errorf("request for a check: %w", errNothingToDo)
	}
	c.Annotations = map[string]*string{policy.CheckCordonAnnotation: nil}
	if r.Node.Annotations[policy.CheckAnnotation] == "" {
		c.Annotations[policy.CheckByAnnotation] = nil
	}
	return nil
}

// sights remembers, by node, the cordon that was there when a request for a check was seen to come.
type sights struct{ seen sync.Map }

// changed notes a request that comes to a node which was cordoned before.
func (s *sights) changed(before, after *corev1.Node) {
	switch {
	case after == nil || after.Annotations[policy.CheckAnnotation] == "":
		if before != nil {
			s.seen.Delete(before.Name)
		}
	case before == nil || before.UID != after.UID || before.Annotations[policy.CheckAnnotation] != "" || !before.Spec.Unschedulable:
	case slices.Equal(ticket.CordonManagers(before), ticket.CordonManagers(after)):
		// Not the time: it changes when who has cordoned the node asks.
		s.seen.Store(after.Name, policy.CordonOf(after))
	}
}

// cordoned reports whether the cordon of the node is the one that was there when the request came.
func (s *sights) cordoned(node *corev1.Node) bool {
	cordon, found := s.seen.Load(node.Name)
	return found && cordon == policy.CordonOf(node)
}

// makeRoomForCheck closes the ticket that gives way to the check.
func (d *Dispatcher) makeRoomForCheck(r ticket.Record, c *ticket.Change) {
	if t := r.Ticket; t != nil && t.Open() {
		how := outcomeSuperseded
		if d.failedCheck(t) {
			how = outcomeReleased
		}
		c.History = enteredIf(r, how, d.services.Clock.Now())
	}
}

// givesWayToCheck reports whether the ticket is that of a check after which a person asks for another one, which gives it back. A taint,
// which is there all the time, gives back nothing.
func (d *Dispatcher) givesWayToCheck(t *ticket.Ticket, s prom.AegisNodeStatus) bool {
	return s.Origin == prom.OriginCheck && d.failedCheck(t)
}

// failedCheck reports whether Aegis has handed the ticket of a check to a team, and nobody has made it theirs since.
func (d *Dispatcher) failedCheck(t *ticket.Ticket) bool {
	if t == nil || !t.Open() || t.RequestedBy == "" || t.Status != ticket.StatusAssigned || t.Count(ticket.HandOver) == 0 {
		return false
	}
	team := d.catalogue.Status("", t.Condition, "", t.XID).Policy.Team
	return t.Supervisor == team || slices.Contains(teams(), t.Supervisor)
}
