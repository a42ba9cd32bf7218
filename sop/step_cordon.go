package sop

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// isolator takes the node out of service, returns it, and has its volumes released.
type isolator struct{ *machine }

// Cordon isolates the node: ticket, owner note and spec.unschedulable in one write. A node that is cordoned already keeps
// the cordon that it has, and whose it is. Taking one more node out of service needs room in the pool's budget.
func (b *ApiBridge) Cordon(ctx context.Context) error {
	return b.do(ctx, step{action: ticket.Cordon, write: isolator{b.operations.machine}.cordon})
}

func (i isolator) cordon(ctx context.Context, n int) error {
	defer i.settled()
	if err := i.services.Orders.Confirm(ctx, 2*i.services.Timing.Hold); err != nil {
		return err
	}
	message := ""
	err := i.journal.update(ctx, func(t *ticket.Ticket, r ticket.Record, c *ticket.Change) error {
		message = ""
		// Asked before every try: a write that an outage delays must not land where it is forbidden by then.
		if v := i.gate.isolation(r); v.Name != "" {
			return cmp.Or[error](i.gate.unnoted(v, r), &heldError{v})
		}
		switch {
		case policy.OwnCordon(r.Node):
			message = "was cordoned by Aegis already"
		case policy.Lent(r.Node, t.Cordon):
			message = "was cordoned already by who asked for the check"
		default:
			c.Unschedulable = new(true)
			c.Annotations = map[string]*string{ticket.OwnerAnnotation: new(policy.OwnerPrefix + t.ID)}
		}
		t.Status = ticket.StatusResolving
		t.Hold = ""
		// The guards have judged the node as it was read, which a cache may show late.
		c.Unchanged = true
		return t.Record(ticket.Cordon, n, ticket.Succeeded, i.services.Clock.Now(), message)
	})
	if err != nil {
		return err
	}
	i.begun()
	i.keeps.Store(true)
	if message == "" {
		i.measureIsolation()
	}
	i.logger.InfoContext(ctx, "step ended", "action", ticket.Cordon, "call", n, "status", ticket.Succeeded, "detail", message)
	i.event(corev1.EventTypeWarning, "AegisCordoned", "%s: cordoned, ticket %s", i.status.Condition, i.journal.incident.id)
	return nil
}

// Uncordon returns the node to service after a passed healthcheck. It waits a while for other conditions that would take
// the node out again; if one stays, the node is left cordoned and the step is canceled.
func (b *ApiBridge) Uncordon(ctx context.Context) error {
	if !b.checked {
		return fmt.Errorf("uncordon node %s: no healthcheck has passed since the last repair", b.node)
	}
	return b.do(ctx, step{action: ticket.Uncordon, act: isolator{b.operations.machine}.uncordon})
}

// UncordonUnharmed returns a node to service whose hardware was never in doubt, so that no healthcheck is needed.
func (b *ApiBridge) UncordonUnharmed(ctx context.Context) error {
	if !b.Unharmed() {
		return fmt.Errorf("uncordon node %s: a healthcheck has to pass first", b.node)
	}
	return b.do(ctx, step{action: ticket.Uncordon, act: isolator{b.operations.machine}.uncordon})
}

// uncordon tries to return the node until what was asked is fresh enough when it is written.
func (i isolator) uncordon(ctx context.Context, c call) (outcome, error) {
	own := i.recurrence()
	for {
		message, err := i.uncordonOnce(ctx, c, own)
		if !errors.Is(err, errPermissionOld) {
			return outcome{message: message}, err
		}
	}
}

func (i isolator) uncordonOnce(ctx context.Context, c call, own *recurrence) (message string, err error) {
	if err := i.awaitNoBlocker(ctx, c, own); err != nil {
		return "", err
	}
	asked := i.services.Clock.Now()
	i.keeps.Store(false)
	err = i.journal.update(ctx, func(t *ticket.Ticket, r ticket.Record, change *ticket.Change) (err error) {
		if i.services.Clock.Since(asked) > permissionAge {
			return errPermissionOld
		}
		message, err = i.putBack(t, r.Node, change)
		return err
	})
	switch {
	case errors.Is(err, errPermissionOld):
		i.keeps.Store(true)
	case err == nil && message == "":
		i.measureReturn()
	}
	return message, err
}

// stillCordoned says why a node that has passed a check has a cordon which nobody is known to have lent.
const stillCordoned = "still cordoned: a person may have cordoned it after the request; uncordon the node, or request a check again"

// putBack makes the change that takes away what keeps workload off the node, as far as it is not of people.
func (i isolator) putBack(t *ticket.Ticket, node *corev1.Node, change *ticket.Change) (message string, err error) {
	intake := i.intakeTaints(node)
	lent := policy.Lent(node, t.Cordon)
	switch {
	case policy.OwnCordon(node), lent && !policy.Excluded(node):
		change.Unschedulable = new(false)
		change.Annotations = map[string]*string{ticket.OwnerAnnotation: nil}
	case !node.Spec.Unschedulable:
		message = "was schedulable already"
	default:
		if message, err = whyCordoned(t, node, lent); err != nil {
			return "", err
		}
	}
	stays := node.Spec.Unschedulable && change.Unschedulable == nil
	if stays && len(intake) == 0 {
		return "", inconclusive("%s", message)
	}
	change.RemoveTaints = intake
	for _, taint := range intake {
		message = strings.TrimPrefix(message+"; taint "+taint.ToString()+" removed", "; ")
	}
	return message, nil
}

// whyCordoned says why a node that is fit stays cordoned. The incident must not end well with one that Aegis took out of service and that nobody
// returns, which is an error.
func whyCordoned(t *ticket.Ticket, node *corev1.Node, lent bool) (message string, err error) {
	unnoted := policy.Unnoted(node)
	switch {
	case lent:
		return "a person has excluded the node, so it stays cordoned", nil
	case unnoted != "" && (t.Count(ticket.Cordon) > 0 || policy.LeftBehind(node)):
		return "", failed("the node is fit and stays cordoned: %s; uncordon it", unnoted)
	case strings.HasPrefix(t.Origin, checkPrefix):
		return stillCordoned, nil
	case unnoted != "":
		return unnoted + ", so it stays cordoned", nil
	}
	return "a person has cordoned the node, so it stays cordoned", nil
}

// intakeTaints returns the taints of the node that a passed check takes away.
func (i isolator) intakeTaints(node *corev1.Node) []corev1.Taint {
	if !i.journal.incident.asked() {
		return nil
	}
	return i.services.Settings().IntakeTaintsOf(node)
}

// awaitNoBlocker waits until neither the condition of the incident nor another one keeps the node out of service.
func (i isolator) awaitNoBlocker(ctx context.Context, c call, own *recurrence) error {
	asked, left := i.journal.incident.asked(), i.journal.incident.left()
	return c.time.watch(ctx, i.status.Policy.VerifyWithin, func(ctx context.Context, late bool) (bool, error) {
		if c.resumed {
			if back, err := i.backAlready(ctx); back || err != nil {
				return back, err
			}
		}
		if left {
			if seen, err := i.seen(ctx, c); !seen || err != nil {
				return false, err
			}
		}
		clear, err := own.gone(ctx, c, late)
		if err != nil {
			return false, err
		}
		name, repaired := i.blocker()
		late = late && name != ""
		switch {
		case late && (asked || left && !repaired):
			// Somebody waits for the answer, or nobody else looks after the node, and no ticket but this one tells them.
			return false, failed("the healthcheck has passed, but %s holds on the node", name)
		case late:
			return false, inconclusive("left cordoned: %s holds on the node", name)
		}
		return clear && name == "", nil
	})
}

// backAlready reports whether the node is in service since an earlier run: what comes now is a matter of a new incident.
func (i isolator) backAlready(ctx context.Context) (bool, error) {
	node, err := i.liveNode(ctx)
	switch {
	case err == nil:
		return !node.Spec.Unschedulable, nil
	case left(err):
		return false, err
	}
	return false, nil //nolint:nilerr // A node that cannot be read is kept, and cannot be written either.
}

// blocker names another condition of the node that keeps it out of service, empty when there is none, and says whether Aegis repairs that.
func (i isolator) blocker() (name string, repaired bool) {
	blocks := policy.Blocks
	if i.journal.incident.asked() || i.journal.incident.left() {
		blocks = policy.Reported
	}
	for _, s := range i.services.statuses(i.node) {
		if s.Key() != i.status.Key() && blocks(s) {
			return s.Condition, policy.Blocks(s) && policy.OwnCordon(i.journal.record.Node)
		}
	}
	return "", false
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
	return b.do(ctx, step{action: ticket.Taint, detail: corev1.TaintNodeOutOfService, gated: true, act: isolator{b.operations.machine}.taint})
}

// taint tries to set the taint until what was proven and permitted is fresh enough when it is written.
func (i isolator) taint(ctx context.Context, _ call) (outcome, error) {
	for {
		why, err := i.taintOnce(ctx)
		if !errors.Is(err, errPermissionOld) {
			return outcome{message: why}, err
		}
	}
}

// errPermissionOld says that the API server has taken no write for so long that what was permitted, and proven, may be so no more.
var errPermissionOld = errors.New("the permission is too old")

// taintOnce sets the taint once the node is proven down. The proof may take longer than the permission of the step is good for, and the
// write longer than both.
func (i isolator) taintOnce(ctx context.Context) (why string, err error) {
	if why, err = i.awaitProvenDown(ctx); err != nil {
		return "", err
	}
	if _, err := i.gate.admit(ctx, ticket.Taint); err != nil {
		return "", err
	}
	admitted := i.services.Clock.Now()
	return why, i.journal.update(ctx, func(_ *ticket.Ticket, _ ticket.Record, c *ticket.Change) error {
		if i.services.Clock.Since(admitted) > permissionAge {
			return errPermissionOld
		}
		c.AddTaint = outOfServiceTaint()
		return nil
	})
}

// UntaintOutOfService takes the taint away again.
func (b *ApiBridge) UntaintOutOfService(ctx context.Context) error {
	return b.do(ctx, step{action: ticket.Untaint, detail: corev1.TaintNodeOutOfService, act: isolator{b.operations.machine}.untaint})
}

func (i isolator) untaint(ctx context.Context, _ call) (outcome, error) {
	return outcome{}, i.journal.update(ctx, func(_ *ticket.Ticket, _ ticket.Record, c *ticket.Change) error {
		c.RemoveTaint = outOfServiceTaint()
		return nil
	})
}
