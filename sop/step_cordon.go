package sop

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/ticket"
)

// ownerPrefix begins the owner note of a node that Aegis cordoned.
const ownerPrefix = ticket.Self + "/"

// ownCordon reports whether the node is cordoned by Aegis.
func ownCordon(node *corev1.Node) bool {
	return node.Spec.Unschedulable && strings.HasPrefix(node.Annotations[ticket.OwnerAnnotation], ownerPrefix)
}

// Cordon isolates the node: ticket, owner note and spec.unschedulable in one write. A node that is cordoned already keeps
// the cordon that it has, and whose it is. Taking one more node out of service needs room in the pool's budget.
func (b *ApiBridge) Cordon(ctx context.Context) error {
	b.calls[ticket.Cordon]++
	n := b.calls[ticket.Cordon]
	if b.plan != nil {
		*b.plan = append(*b.plan, planned(step{action: ticket.Cordon}))
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if prior, known := b.journal.outcome(ticket.Cordon, n); known {
		return replay(step{action: ticket.Cordon}, prior)
	}
	defer b.settled()
	message := ""
	err := b.journal.update(ctx, func(t *ticket.Ticket, r ticket.Record, c *ticket.Change) error {
		message = ""
		if excluded(r.Node) {
			return &heldError{Verdict{VerdictExcluded, excludedReason()}}
		}
		switch {
		case ownCordon(r.Node):
			message = "was cordoned by Aegis already"
		case r.Node.Spec.Unschedulable:
			return &heldError{Verdict{VerdictHumanCordoned, humanCordonedReason()}}
		default:
			// Asked before every try: a write that an outage delays must not land in a budget that is full by then.
			if reason := b.services.Limits.Reserve(b.node); reason != "" {
				return &heldError{Verdict{VerdictBudget, reason}}
			}
			c.Unschedulable = new(true)
			c.Annotations = map[string]*string{ticket.OwnerAnnotation: new(ownerPrefix + t.ID)}
		}
		t.Status = ticket.StatusResolving
		t.Hold = ""
		return t.Record(ticket.Cordon, n, ticket.Succeeded, time.Now(), message)
	})
	if err != nil {
		return err
	}
	b.keeps.Store(true)
	b.services.Metrics.step(ticket.Cordon, ticket.Succeeded)
	b.logger.InfoContext(ctx, "step ended", "action", ticket.Cordon, "call", n, "status", ticket.Succeeded, "detail", message)
	b.event(corev1.EventTypeWarning, "AegisCordoned", "%s: cordoned, ticket %s", b.status.Condition, b.journal.incident.id)
	return nil
}

// Uncordon returns the node to service after a passed healthcheck. It waits a while for other conditions that would take
// the node out again; if one stays, the node is left cordoned and the step is canceled.
func (b *ApiBridge) Uncordon(ctx context.Context) error {
	if b.plan == nil && !b.checked {
		return fmt.Errorf("uncordon node %s: no healthcheck has passed since the last repair", b.node)
	}
	return b.uncordon(ctx)
}

// UncordonUnharmed returns a node to service whose hardware was never in doubt, so that no healthcheck is needed.
func (b *ApiBridge) UncordonUnharmed(ctx context.Context) error {
	if b.plan == nil && b.disrupted() {
		return fmt.Errorf("uncordon node %s: a destructive step was taken, a healthcheck has to pass first", b.node)
	}
	return b.uncordon(ctx)
}

func (b *ApiBridge) uncordon(ctx context.Context) error {
	return b.do(ctx, step{action: ticket.Uncordon, act: func(ctx context.Context, c call) (outcome, error) {
		if err := b.awaitNoBlocker(ctx, c.began.Add(b.status.Policy.VerifyWithin)); err != nil {
			return outcome{}, err
		}
		message := ""
		b.keeps.Store(false)
		err := b.journal.update(ctx, func(_ *ticket.Ticket, r ticket.Record, change *ticket.Change) error {
			message = ""
			switch {
			case ownCordon(r.Node):
				change.Unschedulable = new(false)
				change.Annotations = map[string]*string{ticket.OwnerAnnotation: nil}
			case r.Node.Spec.Unschedulable:
				return inconclusive("a person has cordoned the node, it is left cordoned")
			default:
				message = "was schedulable already"
			}
			return nil
		})
		return outcome{message: message}, err
	}})
}

// awaitNoBlocker waits until no other condition keeps the node out of service.
func (b *ApiBridge) awaitNoBlocker(ctx context.Context, deadline time.Time) error {
	return b.poll(ctx, func(context.Context) (bool, error) {
		name := b.blocker()
		if name != "" && time.Now().After(deadline) {
			return false, inconclusive("left cordoned: %s holds on the node", name)
		}
		return name == "", nil
	})
}

// blocker names another condition of the node that would take it out of service again, empty when there is none.
func (b *ApiBridge) blocker() string {
	for _, s := range b.services.Conditions.Statuses(b.node) {
		if s.Condition != b.status.Condition && blocks(s) {
			return s.Condition
		}
	}
	return ""
}

// blocks reports whether the condition forbids workload on its node.
func blocks(s prom.AegisNodeStatus) bool {
	band := prom.BandOf(s.Priority)
	acting := s.Policy.Mode == prom.ModeAuto || s.Policy.Mode == prom.ModeApprove
	return acting && (band == prom.BandNotReady || band == prom.BandEmergency && s.Policy.Workload != prom.WorkloadKeep)
}

// disrupted reports whether the incident has taken a destructive step.
func (b *ApiBridge) disrupted() bool {
	t := b.journal.ticket()
	if t == nil {
		return false
	}
	return t.Count(ticket.Reboot)+t.Count(ticket.Reset)+t.Count(ticket.Shutdown) > 0
}

// outOfServiceTaint makes Kubernetes release the volumes and delete the pods of a node that is down.
func outOfServiceTaint() *corev1.Taint {
	return &corev1.Taint{Key: corev1.TaintNodeOutOfService, Value: "nodeshutdown", Effect: corev1.TaintEffectNoExecute}
}

// TaintOutOfService lets volumes and StatefulSets move away from a node that is proven to be powered off.
func (b *ApiBridge) TaintOutOfService(ctx context.Context) error {
	return b.do(ctx, step{action: ticket.Taint, detail: corev1.TaintNodeOutOfService, act: func(ctx context.Context, _ call) (outcome, error) {
		down, why := b.provenDown(ctx)
		if !down {
			return outcome{}, failed("not proven down any more: %s", why)
		}
		return outcome{message: why}, b.journal.update(ctx, func(_ *ticket.Ticket, _ ticket.Record, c *ticket.Change) error {
			c.AddTaint = outOfServiceTaint()
			return nil
		})
	}})
}

// UntaintOutOfService takes the taint away again.
func (b *ApiBridge) UntaintOutOfService(ctx context.Context) error {
	return b.do(ctx, step{action: ticket.Untaint, detail: corev1.TaintNodeOutOfService, act: func(ctx context.Context, _ call) (outcome, error) {
		return outcome{}, b.journal.update(ctx, func(_ *ticket.Ticket, _ ticket.Record, c *ticket.Change) error {
			c.RemoveTaint = outOfServiceTaint()
			return nil
		})
	}})
}
