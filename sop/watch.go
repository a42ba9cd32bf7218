package sop

import (
	"context"
	"fmt"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// preemptedError ends a run because a strictly more urgent condition holds on the node.
type preemptedError struct{ by prom.AegisNodeStatus }

func (e *preemptedError) Error() string {
	return fmt.Sprintf("interrupted: %s is more urgent", e.by.Condition)
}

// interruptible reports whether a step of the action may be left in the middle for something more urgent: it waits or evicts,
// and what it has done so far is no harm.
func interruptible(a ticket.Action) bool {
	switch a {
	case ticket.Wait, ticket.WaitIdle, ticket.Drain, ticket.DrainGPU, ticket.Verify, ticket.Healthcheck, ticket.Diagnose:
		return true
	}
	return false
}

// watch ends a run while a step waits: when people take the ticket over or undo the cordon, and for a more urgent condition.
func (d *Dispatcher) watch(ctx context.Context, b *scene, cancel context.CancelCauseFunc) {
	for sleep(ctx, b.services.Clock, b.services.Timing.Poll) == nil {
		node, err := b.services.Nodes.Get(b.node)
		if err != nil {
			continue
		}
		if d.renamedSince(b) {
			cancel(errRenamed)
			return
		}
		record := b.services.Tickets.Read(node)
		d.judgeNew(b, record)
		if u := d.requestCleanup(node); u != nil && u.fresh {
			d.maintain(ctx, node, u, nil)
		}
		if err := b.edited(ctx, record); err != nil {
			cancel(err)
			return
		}
		if next, found := d.moreUrgent(ctx, b, record); found {
			cancel(&preemptedError{by: next})
			return
		}
	}
}

// judgeNew enters a verdict on what is reported on the node since the procedure began. It is decided on when that has ended.
func (d *Dispatcher) judgeNew(b *scene, r ticket.Record) {
	statuses, repaired := d.services.statuses(b.node), b.journal.incident
	survey := sync.OnceValue(func() *survey { return d.survey(r.Node, r, statuses) })
	for _, s := range statuses {
		own := s.Condition == repaired.condition && s.ID == repaired.device
		if own || d.services.Verdicts.Has(s.Key()) {
			continue
		}
		v := d.consider(survey().situation(s))
		if runs(v) {
			v = policy.Verdict{Name: policy.VerdictInProgress, Reason: repaired.condition + " is being worked on"}
		}
		d.tell(s, v)
	}
}

// edited says how people have taken the node out of our hands. The cache may lag behind our own writes, so what looks like
// somebody else's is read from the API server before it counts.
func (s *scene) edited(ctx context.Context, seen ticket.Record) error {
	if !s.lostSight(seen) && !s.undone(seen.Node) {
		return nil
	}
	record, err := s.services.Tickets.Get(ctx, s.node)
	switch {
	case err != nil:
		return nil //nolint:nilerr // The next look will tell, and no step begins without one.
	case s.undone(record.Node):
		return errUncordoned
	case s.lostSight(record):
		return fmt.Errorf("%w: the ticket was edited by hand", ErrTakenOver)
	}
	return nil
}

// undone reports whether a person has undone the cordon of this incident.
func (s *scene) undone(node *corev1.Node) bool {
	return s.keeps.Load() && policy.Uncordoned(node, s.journal.incident.lent)
}

// lostSight reports whether the ticket on the node is one that people have taken or broken. A ticket that is not there, or
// is another one, says nothing here: it may be a write of Aegis that this reading does not know yet.
func (s *scene) lostSight(r ticket.Record) bool {
	if r.Broken != nil {
		return true
	}
	t := r.Ticket
	if t == nil || t.ID != s.journal.incident.id || !t.Open() {
		return false
	}
	return unproven(r) || !t.Owned() && t.Status != ticket.StatusAssigned
}

// moreUrgent returns a condition of a strictly more urgent band that would be repaired now if the node had no ticket. Until the
// ticket is there, the next visit decides by itself.
func (d *Dispatcher) moreUrgent(ctx context.Context, b *scene, r ticket.Record) (prom.AegisNodeStatus, bool) {
	t := r.Ticket
	if !b.interruptible.Load() || t == nil || t.ID != b.journal.incident.id || !t.Open() || !t.Owned() {
		return prom.AegisNodeStatus{}, false
	}
	r.Ticket = nil
	// Only what never changes is read of a status that the procedure may be changing.
	urgency := prom.BandOf(b.status.Priority).Urgency()
	statuses := d.services.statuses(b.node)
	survey := sync.OnceValue(func() *survey { return d.survey(r.Node, r, statuses) })
	for _, s := range statuses {
		if prom.BandOf(s.Priority) == prom.BandCordon {
			// The cordon is that of this incident, which takes it back itself.
			continue
		}
		if urgencyOf(s) >= urgency || !present(s, r.Node) {
			continue
		}
		situation := survey().situation(s)
		situation.Lent = t.Cordon
		if d.consider(situation).Name != policy.VerdictExecute {
			continue
		}
		if policy.Judge(d.services.Source.Observe(ctx, s.Key())).Name == policy.VerdictExecute {
			return s, true
		}
	}
	return prom.AegisNodeStatus{}, false
}

func urgencyOf(s prom.AegisNodeStatus) int { return prom.BandOf(s.Priority).Urgency() }

// present doubts an alert about a silent kubelet while the node says that it is ready: it may be what is left of a boot.
func present(s prom.AegisNodeStatus, node *corev1.Node) bool {
	return prom.BandOf(s.Priority) != prom.BandNotReady || !policy.IsReady(node)
}

// yield gives the ticket of a run to the more urgent condition that interrupted it. What keeps work off the node is kept; all
// other steps are that condition's own. A step that must not be left in the middle is gone on with first.
func (j *journal) yield(ctx context.Context, e *preemptedError) error {
	next := e.by
	return j.update(ctx, func(t *ticket.Ticket, r ticket.Record, _ *ticket.Change) error {
		if slices.ContainsFunc(t.Running(), func(s ticket.Step) bool { return !interruptible(s.Action) }) {
			return errNothingToDo
		}
		if err := t.CancelRunning(j.clock.Now(), e.Error()); err != nil {
			return err
		}
		t.Past, t.Attended = pastOf(t), attended(t)
		t.Condition, t.Device, t.SOP, t.Origin, t.Source = next.Condition, next.ID, next.SOP, string(next.Origin), next.Source
		t.Reason = next.Msg
		t.XID, t.Recovery = next.XID.Code, ""
		// Who approved one repair has not approved another.
		t.ApprovedBy = ""
		t.BootID = r.Node.Status.NodeInfo.BootID
		t.Hold = ""
		return nil
	})
}

// pastOf counts the calls that a new procedure on the ticket does not see. It sees the last cordon and drain if they went well.
func pastOf(t *ticket.Ticket) map[ticket.Action]int {
	past := make(map[ticket.Action]int)
	for _, a := range ticket.Actions() {
		n := t.Count(a)
		if kept := a == ticket.Cordon || a == ticket.Drain || a == ticket.DrainGPU; kept {
			if last, known := t.Outcome(a, n); known && last.Status == ticket.Succeeded {
				n--
			}
		}
		if n > 0 {
			past[a] = n
		}
	}
	return past
}
