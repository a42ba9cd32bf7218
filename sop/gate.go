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

// freshAlert is how long the word of a webhook stands for itself while the sources cannot be asked.
const freshAlert = 2 * time.Minute

// recentFinding is how long a confirmation is good for isolating a node.
const recentFinding = 5 * time.Second

// holdNoteEvery is the least time between two notes on a ticket that say the same in other words.
const holdNoteEvery = 5 * time.Minute

// permissionAge is how long a permission is good for.
const permissionAge = 5 * time.Second

// errUncordoned ends a procedure whose isolation a person undid.
var errUncordoned = errors.New("a person uncordoned the node while it was being repaired")

// heldError ends a run that cannot go on now, before anything is begun that would need a wait in place.
type heldError struct{ verdict policy.Verdict }

func (e *heldError) Error() string { return fmt.Sprintf("%s: %s", e.verdict.Name, e.verdict.Reason) }

// Confirm asks the sources anew whether the condition holds and may be acted on. An incident that has begun, or that a
// person asked for, needs no confirmation: each of its disruptive steps asks for itself.
func (b *ApiBridge) Confirm(ctx context.Context) bool { return b.executor.confirm(ctx) }

func (e *journaled) confirm(ctx context.Context) bool { return e.bridge.confirm(ctx) }

func (b *ApiBridge) confirm(ctx context.Context) bool {
	if b.journal.opened() || b.healing() {
		return true
	}
	b.refusal = confirm(time.Now(), b.status, b.findingForCordon(ctx))
	b.confirmed = time.Now()
	return b.refusal.Name == policy.VerdictExecute
}

// findingForCordon asks the sources, unless they have confirmed the condition a moment ago: when hundreds of nodes fall ill
// at once they are isolated on the same answer. Each disruptive step asks anew.
func (b *ApiBridge) findingForCordon(ctx context.Context) prom.Finding {
	last := b.services.Source.Last(b.status.Key())
	if time.Since(last.At) < recentFinding && judge(last).Name == policy.VerdictExecute {
		return last
	}
	return b.services.Source.Observe(ctx, b.status.Key())
}

// confirm judges what the sources say of a condition for which nothing has been done yet. A webhook that has just come in
// is enough to isolate the node when the sources cannot be asked, never more than that.
func confirm(now time.Time, status prom.AegisNodeStatus, f prom.Finding) policy.Verdict {
	fresh := status.Origin == prom.OriginAlert && now.Sub(status.LastSeen) < freshAlert
	v := judge(f)
	switch {
	case v.Name == policy.VerdictUnverifiable && fresh:
		return policy.Verdict{Name: policy.VerdictExecute, Reason: "the alert has just come in; " + f.Reason}
	case f.Evidence == prom.EvidenceFiring && f.Permission == prom.PermissionUnlisted && fresh:
		return policy.Verdict{Name: policy.VerdictExecute, Reason: "the alert has just come in"}
	}
	return v
}

// judge turns a finding into the verdict on a disruptive step.
func judge(f prom.Finding) policy.Verdict {
	reason := func(text string) string {
		if f.Reason == "" {
			return text
		}
		return text + ": " + f.Reason
	}
	switch {
	case f.Permission == prom.PermissionSilenced:
		return policy.Verdict{Name: policy.VerdictSilenced, Reason: reason("the alert is suppressed in Alertmanager")}
	case f.Evidence == prom.EvidenceUnknown:
		return policy.Verdict{Name: policy.VerdictUnverifiable, Reason: reason("Prometheus gives no answer that can be relied on")}
	case f.Permission == prom.PermissionUnknown:
		return policy.Verdict{Name: policy.VerdictUnverifiable, Reason: reason("Alertmanager gives no answer that can be relied on")}
	case f.Evidence == prom.EvidencePending:
		return policy.Verdict{Name: policy.VerdictUnconfirmed, Reason: reason("the alert is pending and does not fire")}
	case f.Evidence == prom.EvidenceAbsent:
		return policy.Verdict{Name: policy.VerdictUnconfirmed, Reason: reason("Prometheus does not report the condition")}
	case f.Permission == prom.PermissionUnlisted:
		return policy.Verdict{Name: policy.VerdictUnconfirmed, Reason: reason("no Alertmanager lists the alert")}
	default:
		return policy.Verdict{Name: policy.VerdictExecute, Reason: "the condition is confirmed"}
	}
}

// withdrawn reports whether the condition is gone at both sources. A silence that goes on after its alert keeps no node from
// returning to service.
func withdrawn(f prom.Finding) bool {
	return f.Evidence == prom.EvidenceAbsent && (f.Permission == prom.PermissionUnlisted || f.Unlisted)
}

// admit waits until the step may begin: the node and its ticket are as they were left, nobody forbids it, the sources
// confirm the condition, and a slot for a destructive step is free. It returns ErrWithdrawn when the condition is gone. A run that has
// not begun anything does not wait here but ends, so that what else is reported on the node has its turn.
func (b *ApiBridge) admit(ctx context.Context, action ticket.Action) (release func(), err error) {
	for {
		verdict, err := b.permission(ctx)
		if err != nil {
			return func() {}, err
		}
		if verdict.Name == policy.VerdictExecute {
			release, reason := b.services.limits.begin(b.journal.record.Node, action)
			if reason == "" {
				b.services.Book.Set(b.status.Key(), policy.Verdict{Name: policy.VerdictExecute, Reason: string(action)})
				return release, nil
			}
			verdict = policy.Verdict{Name: policy.VerdictBudget, Reason: reason}
		}
		if !b.journal.opened() {
			return func() {}, &heldError{verdict}
		}
		if err := b.hold(ctx, verdict); err != nil {
			return func() {}, err
		}
	}
}

// permission says whether a disruptive step may begin right now. An API server that does not answer means no.
func (b *ApiBridge) permission(ctx context.Context) (policy.Verdict, error) {
	record, err := b.services.Tickets.Get(ctx, b.node)
	switch {
	case errors.Is(err, ticket.ErrNodeGone):
		return policy.Verdict{}, err
	case err != nil && ctx.Err() != nil:
		return policy.Verdict{}, context.Cause(ctx)
	case err != nil:
		return policy.Verdict{Name: policy.VerdictUnverifiable, Reason: "the API server gives no answer: " + err.Error()}, nil //nolint:nilerr // It is a reason to wait.
	case record.Node.UID != b.journal.record.Node.UID:
		return policy.Verdict{}, ticket.ErrRecreated
	}
	begun := b.journal.opened()
	if err := b.stillOurs(record, begun); err != nil {
		return policy.Verdict{}, err
	}
	forbidden, err := b.forbidden(ctx, record)
	switch {
	case err != nil, forbidden.Name == policy.VerdictExcluded:
		return forbidden, err
	case begun && record.Node.Status.NodeInfo.BootID != record.Ticket.BootID:
		b.booted = record.Node.Status.NodeInfo.BootID
		return policy.Verdict{}, fmt.Errorf("%w: the node has booted since the incident began", ErrWithdrawn)
	}
	// Nothing that forbids a repair holds up the return of a node that needs none.
	sources, err := b.sources(ctx)
	if err != nil || forbidden.Name == "" {
		return sources, err
	}
	return forbidden, nil
}

// stillOurs takes the record of the node over, provided that people have taken neither the ticket nor the cordon.
func (b *ApiBridge) stillOurs(r ticket.Record, begun bool) error {
	if _, err := b.journal.own(r, begun); err != nil || !begun {
		return err
	}
	if b.isolated() && uncordoned(r.Node) {
		return errUncordoned
	}
	b.journal.record = r
	return nil
}

// forbidden says what people, or the state of the cluster, have against a disruptive step now. The zero Verdict is nothing.
func (b *ApiBridge) forbidden(ctx context.Context, r ticket.Record) (policy.Verdict, error) {
	if policy.Excluded(r.Node) {
		return policy.Verdict{Name: policy.VerdictExcluded, Reason: policy.ExcludedReason()}, nil
	}
	orders, err := b.services.Orders.Read(ctx)
	switch {
	case err != nil && ctx.Err() != nil:
		return policy.Verdict{}, context.Cause(ctx)
	case errors.Is(err, ErrLeaseLost):
		return policy.Verdict{}, err
	case err != nil:
		return policy.Verdict{Name: policy.VerdictUnverifiable, Reason: err.Error()}, nil //nolint:nilerr // It is a reason to wait.
	}
	settings := b.services.Settings()
	if v := pausedBy(settings, orders); v.Name != "" {
		return v, nil
	}
	if b.healing() {
		return policy.Verdict{}, nil
	}
	pool := settings.PoolOf(r.Node)
	if reason := pool.OutsideWindows(time.Now()); reason != "" {
		return policy.Verdict{Name: policy.VerdictPaused, Reason: reason}, nil
	}
	approved := r.Ticket != nil && r.Ticket.ApprovedBy != ""
	if reason := b.services.storms.holds(b.status.Condition, pool.Name); reason != "" && !approved {
		return policy.Verdict{Name: policy.VerdictStorm, Reason: reason}, nil
	}
	return b.modeNow(orders, approved), nil
}

// modeNow lets a change of the mode reach a procedure that has begun.
func (b *ApiBridge) modeNow(orders policy.Orders, approved bool) policy.Verdict {
	status := orders.Apply(b.services.catalogue.Status(b.node, b.status.Condition, b.status.ID, b.status.XID.Code))
	switch mode := status.Policy.Mode; {
	case mode == prom.ModeApprove && !approved:
		return awaitingApproval()
	case mode == prom.ModeObserve:
		return policy.Verdict{Name: policy.VerdictObserve, Reason: "its mode has become observe"}
	case mode == prom.ModeOff:
		return policy.Verdict{Name: policy.VerdictIgnored, Reason: "its mode has become off"}
	}
	return policy.Verdict{}
}

// sources asks Prometheus and Alertmanager. What a check of ours found on the node itself outweighs a silent alert, but not
// a silence.
func (b *ApiBridge) sources(ctx context.Context) (policy.Verdict, error) {
	if b.healing() {
		return policy.Verdict{Name: policy.VerdictExecute, Reason: "requested"}, nil
	}
	finding := b.services.Source.Observe(ctx, b.status.Key())
	if ctx.Err() != nil {
		return policy.Verdict{}, context.Cause(ctx)
	}
	v := judge(finding)
	switch {
	case b.suspicion != "" && (v.Name == policy.VerdictSilenced || v.Name == policy.VerdictUnverifiable):
		return v, nil
	case b.suspicion != "":
		return policy.Verdict{Name: policy.VerdictExecute, Reason: b.suspicion}, nil
	case withdrawn(finding):
		return policy.Verdict{}, fmt.Errorf("%w: neither Prometheus nor Alertmanager reports it any more", ErrWithdrawn)
	}
	return v, nil
}

// isolated reports whether this incident has cordoned the node and not uncordoned it.
func (b *ApiBridge) isolated() bool {
	t := b.journal.ticket()
	if t == nil {
		return false
	}
	last, cordoned := t.Outcome(ticket.Cordon, t.Count(ticket.Cordon))
	return cordoned && last.Status == ticket.Succeeded && t.Count(ticket.Uncordon) == 0
}

// hold makes the reason for waiting visible and waits a while.
func (b *ApiBridge) hold(ctx context.Context, v policy.Verdict) error {
	if b.services.Book.Set(b.status.Key(), v) {
		b.event(corev1.EventTypeNormal, "AegisHeld", "%s: held: %s: %s", b.status.Condition, v.Name, v.Reason)
	}
	if err := b.noteHold(ctx, v); err != nil {
		return err
	}
	return sleep(ctx, b.services.Timing.Hold)
}

// noteHold writes on the ticket why it waits. A reason that only changes its words is written anew when it has done so for long.
func (b *ApiBridge) noteHold(ctx context.Context, v policy.Verdict) error {
	t := b.journal.ticket()
	text := fmt.Sprintf("%s: %s", v.Name, v.Reason)
	same := t != nil && strings.HasPrefix(t.Hold, string(v.Name)+": ")
	if t == nil || t.Hold == text || same && time.Since(b.noted) < holdNoteEvery {
		return nil
	}
	err := b.journal.update(ctx, func(t *ticket.Ticket, _ ticket.Record, _ *ticket.Change) error {
		t.Hold = text
		return nil
	})
	if err != nil {
		return fmt.Errorf("note on the ticket why it waits: %w", err)
	}
	b.noted = time.Now()
	return nil
}
