package sop

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// Reboot boots the node anew. The proof is the node's boot ID and its readiness, not the end of the Job, whose pod dies
// with the old boot.
func (b *ApiBridge) Reboot(ctx context.Context) error {
	return b.do(ctx, step{action: ticket.Reboot, gated: true, act: b.reboot})
}

func (b *ApiBridge) reboot(ctx context.Context, c call) (outcome, error) {
	old := b.journal.bootID()
	power := powerStep{
		bridge:   b,
		action:   ticket.Reboot,
		request:  b.request(jobs.ActionReboot, c.n, b.status.Policy.RebootDeadline, "--boot-id", old),
		deadline: c.began.Add(b.status.Policy.RebootDeadline),
	}
	var boot string
	message, err := power.run(ctx, c, func(_ context.Context, node *corev1.Node) (bool, string) {
		boot = node.Status.NodeInfo.BootID
		if boot == old {
			return false, "the boot ID has not changed"
		}
		return policy.IsReady(node), "the node has booted and is not ready"
	})
	if err != nil {
		return outcome{}, err
	}
	return outcome{message: message, update: func(t *ticket.Ticket) { t.BootID = boot }}, nil
}

// Shutdown powers the node off, so that nothing is scheduled or running on broken hardware. The proof is a Lease that is
// no longer renewed on a node that is not ready; an API server that gives no answer proves nothing.
func (b *ApiBridge) Shutdown(ctx context.Context) error {
	return b.do(ctx, step{action: ticket.Shutdown, gated: true, act: func(ctx context.Context, c call) (outcome, error) {
		power := powerStep{
			bridge:   b,
			action:   ticket.Shutdown,
			request:  b.request(jobs.ActionShutdown, c.n, b.status.Policy.RebootDeadline, "--boot-id", b.journal.bootID()),
			deadline: c.began.Add(b.status.Policy.RebootDeadline),
		}
		message, err := power.run(ctx, c, func(ctx context.Context, node *corev1.Node) (bool, string) {
			if policy.IsReady(node) {
				return false, "the node is still ready"
			}
			return b.leaseStale(ctx)
		})
		return outcome{message: message}, err
	}})
}

// powerStep is a reboot or a shutdown: an operation whose success shows on the node, while its Job may never report.
type powerStep struct {
	bridge   *ApiBridge
	action   ticket.Action
	request  jobs.Request
	deadline time.Time
	done     func(context.Context, *corev1.Node) (bool, string)
}

// run makes or adopts the Job and waits until done says so. done returns in words what is missing.
func (p *powerStep) run(ctx context.Context, c call, done func(context.Context, *corev1.Node) (bool, string)) (string, error) {
	p.done = done
	if err := p.bridge.order(ctx, c, p.action, p.request, p.settled); err != nil {
		return "", err
	}
	missing := ""
	err := p.bridge.poll(ctx, func(ctx context.Context) (bool, error) {
		var ok bool
		var err error
		if ok, missing, err = p.look(ctx); ok || err != nil {
			return ok, err
		}
		if time.Now().After(p.deadline) {
			return false, failed("not done within the deadline: %s", missing)
		}
		return false, p.refused(ctx)
	})
	if err != nil {
		return "", err
	}
	return "took " + time.Since(c.began).Round(time.Second).String(), nil
}

// settled reports whether the step needs no order any more: its work is done. A step that is ordered late has its time from then.
func (p *powerStep) settled(ctx context.Context) (bool, error) {
	p.deadline = time.Now().Add(p.bridge.status.Policy.RebootDeadline)
	ok, _, err := p.look(ctx)
	return ok, err
}

// look asks the node itself. A node that cannot be read has not proven anything.
func (p *powerStep) look(ctx context.Context) (bool, string, error) {
	node, err := p.bridge.liveNode(ctx)
	switch {
	case errors.Is(err, ticket.ErrNodeGone), errors.Is(err, ticket.ErrRecreated):
		return false, "", err
	case err != nil:
		return false, err.Error(), nil //nolint:nilerr // It is what is missing.
	}
	ok, missing := p.done(ctx, node)
	return ok, missing, nil
}

// refused returns an error when the operation itself reported that it could not do it.
func (p *powerStep) refused(ctx context.Context) error {
	result, err := p.bridge.services.Jobs.Status(ctx, p.request.Name())
	if err != nil {
		p.bridge.logger.DebugContext(ctx, "job not read, trying again", "err", err)
		return nil
	}
	if result.Phase == jobs.PhaseFailed && result.Report != nil {
		return foundBadly(result)
	}
	return nil
}

// leaseStale reports whether the kubelet has stopped renewing the Lease of the node: for a while, by our own clock, it has been
// the same. The clock of the node may be wrong.
func (b *ApiBridge) leaseStale(ctx context.Context) (bool, string) {
	lease, err := b.services.Kube.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(ctx, b.node, metav1.GetOptions{})
	if err != nil {
		return false, fmt.Sprintf("the Lease of the node cannot be read: %v", err)
	}
	if lease.Spec.RenewTime == nil {
		return false, "the Lease of the node has no renewal time"
	}
	if renewed := lease.Spec.RenewTime.Time; b.leaseSeen.IsZero() || !renewed.Equal(b.leaseRenewed) {
		b.leaseRenewed, b.leaseSeen = renewed, time.Now()
	}
	age := time.Since(b.leaseSeen)
	text := fmt.Sprintf("the Lease of the node has not been renewed for %s", age.Round(time.Second))
	return age >= b.services.Timing.LeaseStale, text
}

// PowerStateAnnotation is set on a Node by whoever can see its power supply, such as a BMC integration. The value off is
// proof that nothing runs on it.
const PowerStateAnnotation = "aegis.io/power-state"

// provenDown reports whether nothing can be running on the node: its power is reported off, its kubelet is not ready, and
// its Lease is not renewed. A node that is merely not ready may be cut off from the network and working.
func (b *ApiBridge) provenDown(ctx context.Context) (bool, string) {
	node, err := b.liveNode(ctx)
	if err != nil {
		return false, err.Error()
	}
	if power := node.Annotations[PowerStateAnnotation]; power != "off" {
		return false, fmt.Sprintf("annotation %s is %q", PowerStateAnnotation, power)
	}
	if policy.IsReady(node) {
		return false, "the node is ready"
	}
	stale, why := b.leaseStale(ctx)
	return stale, "its power is reported off, it is not ready, and " + why
}

// awaitProvenDown waits until the node is proven down. A process that has just taken over has to watch its Lease for a while.
func (b *ApiBridge) awaitProvenDown(ctx context.Context) (why string, err error) {
	deadline := time.Now().Add(2 * b.services.Timing.LeaseStale)
	err = b.poll(ctx, func(ctx context.Context) (bool, error) {
		var down bool
		if down, why = b.provenDown(ctx); !down && time.Now().After(deadline) {
			return false, failed("not proven down any more: %s", why)
		}
		return down, nil
	})
	return why, err
}
