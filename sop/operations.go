package sop

import (
	"context"
	"fmt"
	"time"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/ticket"
)

// operations has privileged operations carried out on the node, each as a Job.
type operations struct{ *machine }

func (o *operations) request(action string, attempt int, deadline time.Duration, args ...string) jobs.Request {
	return jobs.Request{
		Action:   action,
		Node:     o.node,
		Incident: o.journal.incident.id,
		Attempt:  attempt,
		Args:     args,
		Deadline: deadline,
	}
}

// runJob runs the Job of the request, or follows the one that is there, and judges how it ended. A gated one names its action.
func (o *operations) runJob(ctx context.Context, c call, gated ticket.Action, req jobs.Request) (outcome, error) {
	err := o.order(ctx, c, gated, req, func(context.Context) (bool, error) { return false, nil })
	if err != nil {
		return outcome{}, err
	}
	f := following{operations: o, call: c, name: req.Name(), end: req.Deadline + jobGrace}
	result, err := o.services.Jobs.Follow(ctx, f.name, func(r jobs.Result) error { return f.look(ctx, r) })
	_, isStep := AsStepError(err)
	switch {
	case ctx.Err() != nil:
		return outcome{}, o.leave(ctx, f.name, context.Cause(ctx))
	case isStep, interrupted(err), err != nil && left(err):
		return outcome{}, o.leave(ctx, f.name, err)
	case err != nil:
		return outcome{}, inconclusive("the Job could not be followed: %v", err)
	case f.replaced(result):
		return outcome{}, inconclusive("Job %s was replaced by another one", f.name)
	}
	return judgeJob(result)
}

// order makes sure that the Job of a step exists. Who takes a step over, or does not know what became of an order, finds the Job,
// or finds that nothing is left to order, or asks for permission again: the one that was given may be old by now.
func (o *operations) order(ctx context.Context, c call, gated ticket.Action, req jobs.Request, settled func(context.Context) (bool, error)) error {
	permitted := !c.resumed || gated == ""
	var last error
	var refused time.Time
	return c.time.poll(ctx, req.Deadline, func(ctx context.Context, late bool) (bool, error) {
		if !permitted {
			if done, err := o.ordered(ctx, req, settled); done || err != nil {
				return done, err
			}
		}
		switch {
		case late && last != nil:
			return false, inconclusive("the Job could not be created: %v", last)
		case late && !permitted:
			return false, inconclusive("Job %s is gone, and its time was up", req.Name())
		case last != nil && c.time.spent > jobWaits:
			if err := c.time.tellJob(ctx, "it cannot be created: "+last.Error()); err != nil {
				return false, err
			}
		}
		if !permitted {
			if err := c.time.admit(ctx); err != nil {
				return false, err
			}
			if err := o.empty(ctx, gated); err != nil {
				return false, err
			}
		}
		permitted = gated == ""
		// Whoever starts it later than that would do it behind the back of everybody.
		req.NotAfter = o.services.Clock.Now().Add(req.Deadline + jobGrace)
		_, created, err := o.services.Jobs.Ensure(ctx, req)
		switch {
		case err == nil && created:
			// A Job that is ordered late has its time from then.
			c.time.restart()
			return true, nil
		case err == nil:
			return true, nil
		case ctx.Err() != nil:
			return false, context.Cause(ctx)
		case !jobs.Permanent(err):
			refused = time.Time{}
		case refused.IsZero():
			refused = o.services.Clock.Now()
		case o.services.Clock.Since(refused) > refusedFor:
			return false, inconclusive("the Job could not be created: %v", err)
		}
		last = err
		o.logger.WarnContext(ctx, "job not made, trying again", "err", err)
		return false, nil
	})
}

// refusedFor is how long the API server has to refuse a Job for good. One that has just started forbids what it will allow.
const refusedFor = time.Minute

// ordered reports whether the Job exists, or nothing is left to order. It does not return before the API server has answered.
func (o *operations) ordered(ctx context.Context, req jobs.Request, settled func(context.Context) (bool, error)) (bool, error) {
	done := false
	err := o.poll(ctx, func(ctx context.Context) (bool, error) {
		result, err := o.services.Jobs.Status(ctx, req.Name())
		if err != nil {
			o.logger.WarnContext(ctx, "job not read, trying again", "err", err)
			return false, nil
		}
		if done = result.Phase != jobs.PhaseMissing; done {
			return true, nil
		}
		done, err = settled(ctx)
		return true, err
	})
	return done, err
}

// judgeJob tells apart what an operation found from that it could not find out.
func judgeJob(r jobs.Result) (outcome, error) {
	switch {
	case r.Phase == jobs.PhaseSucceeded && r.ExitCode > 0:
		return outcome{}, inconclusive("Job %s is said to be complete, but its operation ended with exit code %d: %s", r.Job, r.ExitCode, r.Message)
	case r.Phase == jobs.PhaseSucceeded:
		return outcome{message: r.Message, findings: findings(r)}, nil
	case r.Phase == jobs.PhaseMissing:
		return outcome{}, inconclusive("Job %s is gone, its outcome is unknown", r.Job)
	case !r.Conclusive() && findings(r).Refused:
		// Its code says nothing about the node.
		return outcome{}, &StepError{Status: ticket.Canceled, Findings: ticket.Findings{Refused: true}, Message: r.Message}
	case !r.Conclusive():
		return outcome{}, inconclusive("Job %s: %s", r.Job, r.Message)
	}
	return outcome{}, foundBadly(r)
}

// foundBadly is the failure of a step whose operation was carried out and ended badly.
func foundBadly(r jobs.Result) error {
	message := fmt.Sprintf("exit code %d: %s", r.ExitCode, r.Message)
	if r.Report.Hardware != "" {
		message = fmt.Sprintf("%s (exit code %d): %s", r.Report.Hardware, r.ExitCode, r.Message)
	}
	return &StepError{Status: ticket.Failed, Findings: findings(r), Message: message}
}

// findings returns what the operation of the Job reports.
func findings(r jobs.Result) ticket.Findings {
	if r.Report == nil {
		return ticket.Findings{}
	}
	return ticket.Findings{
		Code:     int(r.ExitCode),
		Hardware: r.Report.Hardware,
		Recovery: r.Report.Recovery,
		Refused:  len(r.Report.Refusals) > 0,
		Unneeded: r.Report.Unneeded,
	}
}
