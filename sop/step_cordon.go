package sop

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// ownerPrefix begins the owner note of a node that Aegis cordoned.
const ownerPrefix = ticket.Self + "/"

// ownCordon reports whether the node is cordoned by Aegis.
func ownCordon(node *corev1.Node) bool {
	noted := strings.HasPrefix(node.Annotations[ticket.OwnerAnnotation], ownerPrefix)
	return node.Spec.Unschedulable && noted && !ticket.CordonedByOthers(node)
}

// uncordoned reports whether a person has undone the cordon of Aegis, though they may have set one of their own since.
func uncordoned(node *corev1.Node) bool {
	return !node.Spec.Unschedulable || ticket.CordonedByOthers(node)
}

// Cordon isolates the node: ticket, owner note and spec.unschedulable in one write. A node that is cordoned already keeps
// the cordon that it has, and whose it is. Taking one more node out of service needs room in the pool's budget.
func (b *ApiBridge) Cordon(ctx context.Context) error {
	return b.do(ctx, step{action: ticket.Cordon, write: b.cordon})
}

func (b *ApiBridge) cordon(ctx context.Context, n int) error {
	defer b.settled()
	if err := b.services.Orders.Confirm(ctx, 2*b.services.Timing.Hold); err != nil {
		return err
	}
	message := ""
	err := b.journal.update(ctx, func(t *ticket.Ticket, r ticket.Record, c *ticket.Change) error {
		message = ""
		// Asked before every try: a write that an outage delays must not land where it is forbidden by then.
		if v := b.objection(r.Node); v.Name != "" {
			return &heldError{v}
		}
		switch {
		case ownCordon(r.Node):
			message = "was cordoned by Aegis already"
		case r.Node.Spec.Unschedulable:
			return &heldError{policy.Verdict{Name: policy.VerdictHumanCordoned, Reason: policy.HumanCordonedReason()}}
		default:
			if reason := b.services.limits.reserve(b.node); reason != "" {
				return &heldError{policy.Verdict{Name: policy.VerdictBudget, Reason: reason}}
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
	b.begun()
	b.keeps.Store(true)
	b.services.Metrics.step(ticket.Cordon, ticket.Succeeded)
	b.logger.InfoContext(ctx, "step ended", "action", ticket.Cordon, "call", n, "status", ticket.Succeeded, "detail", message)
	b.event(corev1.EventTypeWarning, "AegisCordoned", "%s: cordoned, ticket %s", b.status.Condition, b.journal.incident.id)
	return nil
}

// objection says what is known to forbid touching the node now. The zero Verdict is nothing.
func (b *ApiBridge) objection(node *corev1.Node) policy.Verdict {
	if policy.Excluded(node) {
		return policy.Verdict{Name: policy.VerdictExcluded, Reason: policy.ExcludedReason()}
	}
	settings := b.services.Settings()
	if v := pausedBy(settings, b.services.Orders.Last()); v.Name != "" {
		return v
	}
	if !b.journal.opened() && !b.confirmed.IsZero() && time.Since(b.confirmed) > freshAlert {
		return policy.Verdict{Name: policy.VerdictUnverifiable, Reason: "the API server took no write since the condition was confirmed, which is too long ago"}
	}
	if v := b.toldSince(); v.Name != "" {
		return v
	}
	reason := b.services.storms.holds(b.status.Condition, settings.PoolOf(node).Name)
	if reason != "" && !b.journal.opened() && !b.healing() {
		return policy.Verdict{Name: policy.VerdictStorm, Reason: reason}
	}
	return policy.Verdict{}
}

// toldSince says what the sources have against isolating the node that they did not say when they confirmed it: a pass over them may
// have come in between. The zero Verdict is nothing.
func (b *ApiBridge) toldSince() policy.Verdict {
	last := b.services.Source.Last(b.status.Key())
	if b.journal.opened() || b.healing() || !last.At.After(b.confirmed) {
		return policy.Verdict{}
	}
	v := confirm(time.Now(), b.status, last)
	if v.Name == policy.VerdictExecute || v.Name == policy.VerdictUnverifiable {
		return policy.Verdict{}
	}
	return v
}

// Uncordon returns the node to service after a passed healthcheck. It waits a while for other conditions that would take
// the node out again; if one stays, the node is left cordoned and the step is canceled.
func (b *ApiBridge) Uncordon(ctx context.Context) error {
	if !b.checked {
		return fmt.Errorf("uncordon node %s: no healthcheck has passed since the last repair", b.node)
	}
	return b.uncordon(ctx)
}

// UncordonUnharmed returns a node to service whose hardware was never in doubt, so that no healthcheck is needed.
func (b *ApiBridge) UncordonUnharmed(ctx context.Context) error {
	if !b.Unharmed() {
		return fmt.Errorf("uncordon node %s: a healthcheck has to pass first", b.node)
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
	for _, s := range b.services.statuses(b.node) {
		if s.Key() != b.status.Key() && blocks(s) {
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

// outOfServiceTaint makes Kubernetes release the volumes and delete the pods of a node that is down. Kubernetes does not look at
// the value; it tells the taint of Aegis from one that a person set.
func outOfServiceTaint() *corev1.Taint {
	return &corev1.Taint{Key: corev1.TaintNodeOutOfService, Value: ticket.Self, Effect: corev1.TaintEffectNoExecute}
}

// staleTaint reports whether a node that is ready has the taint of Aegis still, as when its ticket was removed meanwhile.
func staleTaint(node *corev1.Node) bool {
	return policy.IsReady(node) && slices.Contains(node.Spec.Taints, *outOfServiceTaint())
}

// TaintOutOfService lets volumes and StatefulSets move away from a node that is proven to be powered off.
func (b *ApiBridge) TaintOutOfService(ctx context.Context) error {
	return b.do(ctx, step{action: ticket.Taint, detail: corev1.TaintNodeOutOfService, gated: true, act: func(ctx context.Context, _ call) (outcome, error) {
		for {
			why, err := b.taint(ctx)
			if !errors.Is(err, errPermissionOld) {
				return outcome{message: why}, err
			}
		}
	}})
}

// errPermissionOld says that the API server has taken no write for so long that what was permitted, and proven, may be so no more.
var errPermissionOld = errors.New("the permission is too old")

// taint sets the taint once the node is proven down. The proof may take longer than the permission of the step is good for, and the
// write longer than both.
func (b *ApiBridge) taint(ctx context.Context) (why string, err error) {
	if why, err = b.awaitProvenDown(ctx); err != nil {
		return "", err
	}
	if _, err := b.admit(ctx, ticket.Taint); err != nil {
		return "", err
	}
	admitted := time.Now()
	return why, b.journal.update(ctx, func(_ *ticket.Ticket, _ ticket.Record, c *ticket.Change) error {
		if time.Since(admitted) > permissionAge {
			return errPermissionOld
		}
		c.AddTaint = outOfServiceTaint()
		return nil
	})
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
