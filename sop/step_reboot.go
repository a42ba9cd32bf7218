package sop

import (
	"context"
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// Reboot boots the node anew. The proof is the node's boot ID and its readiness, not the end of the Job, whose pod dies
// with the old boot.
func (b *ApiBridge) Reboot(ctx context.Context) error {
	return b.destroy(ctx, step{action: ticket.Reboot, gated: true, act: b.operations.reboot})
}

func (o *operations) reboot(ctx context.Context, c call) (outcome, error) {
	var boot string
	old := o.journal.bootID()
	power := powerStep{
		operations: o,
		action:     ticket.Reboot,
		request:    o.request(protocol.ActionReboot, c.n, o.status.Policy.RebootDeadline, "--boot-id", old),
		done: func(_ context.Context, node *corev1.Node) (bool, string) {
			boot = node.Status.NodeInfo.BootID
			if boot == old {
				return false, "the boot ID has not changed"
			}
			return policy.IsReady(node), "the node has rebooted but is not ready"
		},
	}
	message, err := power.run(ctx, c)
	if err != nil {
		return outcome{}, err
	}
	return outcome{message: message, update: func(t *ticket.Ticket) { t.BootID = boot }}, nil
}

// Shutdown powers the node off, so that nothing is scheduled or running on broken hardware. The proof is a Lease that is
// no longer renewed on a node that is not ready; an API server that gives no answer proves nothing.
func (b *ApiBridge) Shutdown(ctx context.Context) error {
	return b.destroy(ctx, step{action: ticket.Shutdown, gated: true, act: b.operations.shutdown})
}

func (o *operations) shutdown(ctx context.Context, c call) (outcome, error) {
	power := powerStep{
		operations: o,
		action:     ticket.Shutdown,
		request:    o.request(protocol.ActionShutdown, c.n, o.status.Policy.RebootDeadline, "--boot-id", o.journal.bootID()),
		done: func(ctx context.Context, node *corev1.Node) (bool, string) {
			if policy.IsReady(node) {
				return false, "the node is still ready"
			}
			return o.leaseStale(ctx)
		},
	}
	power.unbegun = power.cutOff
	message, err := power.run(ctx, c)
	return outcome{message: message}, err
}

// powerStep is a reboot or a shutdown: an operation whose success shows on the node, while its Job may never report.
type powerStep struct {
	*operations
	action  ticket.Action
	request jobs.Request
	// done reports whether the node shows that the work is done, else in words what is missing.
	done func(context.Context, *corev1.Node) (bool, string)
	// unbegun judges work that seems to be done while nothing tells that the operation was begun. Nil needs no operation: the node shows it.
	unbegun func(context.Context, jobs.Result) error
}

// run makes or resumes the Job and waits until the work is done.
func (p *powerStep) run(ctx context.Context, c call) (string, error) {
	if err := p.order(ctx, c, p.action, p.request, p.finished); err != nil {
		return "", err
	}
	err := c.time.poll(ctx, p.request.Deadline, func(ctx context.Context, late bool) (bool, error) {
		ok, missing, err := p.look(ctx)
		switch {
		case err != nil:
			return false, err
		case ok:
			if ok, err = p.proven(ctx); ok || err != nil {
				return ok, err
			}
			missing = "nothing tells whether its operation was begun"
		}
		switch {
		case late:
			return false, p.giveUp(ctx, c, missing)
		}
		return false, p.refused(ctx, c)
	})
	if err != nil {
		return "", p.leave(ctx, p.request.Name(), err)
	}
	return "took " + p.services.Clock.Since(c.began).Round(time.Second).String(), nil
}

// finished reports whether the step needs no order any more: its work is done.
func (p *powerStep) finished(ctx context.Context) (bool, error) {
	ok, _, err := p.look(ctx)
	return ok, err
}

// proven reports whether the operation was begun whose work seems to be done.
func (p *powerStep) proven(ctx context.Context) (bool, error) {
	if p.unbegun == nil {
		return true, nil
	}
	result, err := p.services.Jobs.Status(ctx, p.request.Name())
	switch {
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case err != nil:
		p.logger.WarnContext(ctx, "job not read, trying again", "err", err)
		return false, nil
	case result.Phase == jobs.PhaseFailed && result.Report != nil:
		return false, foundBadly(result)
	case result.Begun || result.Phase == jobs.PhaseSucceeded:
		return true, nil
	}
	return false, p.unbegun(ctx, result)
}

// cutOff ends a shutdown of a node that is silent although nothing has powered it off. A Job that has not begun is taken back first: it
// would power the node off in the hands of people, as soon as its network is back. It returns nothing while that is not settled.
func (p *powerStep) cutOff(ctx context.Context, r jobs.Result) error {
	if r.Phase == jobs.PhaseActive {
		withdrawn, err := p.services.Jobs.Withdraw(ctx, r.Job)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			p.logger.WarnContext(ctx, "job not withdrawn, trying again", "job", r.Job, "err", err)
			return nil
		case !withdrawn:
			return nil // It has begun, or has ended.
		}
	}
	return failed("the node is silent, and nothing tells that its operation was begun: it may be cut off and running")
}

// look asks the node itself. A node that cannot be read has not proven anything.
func (p *powerStep) look(ctx context.Context) (bool, string, error) {
	node, err := p.liveNode(ctx)
	switch {
	case errors.Is(err, ticket.ErrNodeGone), errors.Is(err, ticket.ErrRecreated):
		return false, "", err
	case err != nil:
		return false, err.Error(), nil //nolint:nilerr // It is what is missing.
	}
	ok, missing := p.done(ctx, node)
	return ok, missing, nil
}

// giveUp deletes the Job, so that it does not take effect in the hands of people, and says what is missing.
func (p *powerStep) giveUp(ctx context.Context, c call, missing string) error {
	if stopped, err := p.stop(ctx, c, p.request.Name()); err != nil || !stopped {
		return err
	}
	return failed("not done within the deadline: %s", missing)
}

// refused returns an error when the operation itself reported that it could not do it. It says on the ticket what the Job waits for.
func (p *powerStep) refused(ctx context.Context, c call) error {
	result, err := p.services.Jobs.Status(ctx, p.request.Name())
	if err != nil {
		p.logger.DebugContext(ctx, "job not read, trying again", "err", err)
		return nil
	}
	switch {
	case result.Phase == jobs.PhaseFailed && result.Report != nil:
		return foundBadly(result)
	case result.Phase == jobs.PhaseActive && !result.Begun && c.time.spent > jobWaits:
		return c.time.tellJob(ctx, result.Message)
	}
	return nil
}
