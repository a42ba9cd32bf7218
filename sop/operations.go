package sop

import (
	"context"
	"errors"
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
	var ended *StepError
	switch {
	case ctx.Err() != nil:
		return outcome{}, o.leave(ctx, f.name, context.Cause(ctx))
	case errors.As(err, &ended), interrupted(err), err != nil && left(err):
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
	w := ordering{operations: o, call: c, gated: gated, req: req, settled: settled, permitted: c.permitted(gated), dated: c.effective}
	return c.time.poll(ctx, req.Deadline, w.try)
}

// permitted reports whether the call needs no new permission to order its Job.
func (c call) permitted(gated ticket.Action) bool {
	return gated == "" || !c.resumed && c.time.services.Clock.Since(c.admitted) <= permissionAge
}

// ordering is the order of one Job, which may take several tries.
type ordering struct {
	*operations
	call    call
	gated   ticket.Action
	req     jobs.Request
	settled func(context.Context) (bool, error)
	// permitted says that the next try needs no new permission.
	permitted bool
	// dated is by when the ticket says that the step takes effect.
	dated time.Time
	// last is why the last try went wrong, refused since when the API server refuses the Job for good.
	last    error
	refused time.Time
}

// try orders the Job once. Late says that the time of the step is up.
func (w *ordering) try(ctx context.Context, late bool) (done bool, err error) {
	if !w.permitted {
		if done, err := w.ordered(ctx, w.req, w.settled); done || err != nil {
			return done, err
		}
	}
	if err := w.overdue(ctx, late); err != nil {
		return false, err
	}
	if !w.permitted {
		dated, err := w.permit(ctx)
		if errors.Is(err, ErrWithdrawn) {
			// An order may have got through although its answer was lost. What was ordered is followed to its end.
			if done, err := w.ordered(ctx, w.req, neverSettled); done || err != nil {
				return done, err
			}
		}
		if err != nil || !dated {
			return false, err
		}
	}
	w.permitted = w.gated == ""
	return w.create(ctx)
}

// overdue ends the step when its time is up, and tells why there is no Job when that takes long.
func (w *ordering) overdue(ctx context.Context, late bool) error {
	switch {
	case late && w.last != nil:
		return inconclusive("the Job could not be created: %v", w.last)
	case late && !w.permitted:
		return inconclusive("Job %s is gone, and its time was up", w.req.Name())
	case w.last != nil && w.call.time.spent > jobWaits:
		return w.call.time.tellJob(ctx, "it cannot be created: "+w.last.Error())
	}
	return nil
}

// orderedLate is the age from which a step is dated anew when it is ordered.
const orderedLate = time.Minute

// permit asks for permission anew. It reports whether the ticket says by then that the step takes effect now: what has waited for hours for
// its order runs as long as any other from then on.
func (w *ordering) permit(ctx context.Context) (dated bool, err error) {
	for {
		if err := w.whileEmpty(ctx, w.call.gone, w.call.time.admit); err != nil {
			return false, err
		}
		now := w.services.Clock.Now()
		if now.Sub(w.dated) < orderedLate {
			return true, nil
		}
		err := w.journal.update(ctx, func(t *ticket.Ticket, _ ticket.Record, _ *ticket.Change) error {
			t.Order(w.gated, w.call.n, now)
			return nil
		})
		if err != nil {
			w.last = fmt.Errorf("its order is not journaled: %w", err)
			w.logger.WarnContext(ctx, "order not journaled, trying again", "err", err)
			return false, gone(ctx, err)
		}
		w.dated = now
	}
}

// create creates the Job, or finds it.
func (w *ordering) create(ctx context.Context) (done bool, err error) {
	// Whoever starts it later than that would do it behind the back of everybody.
	w.req.NotAfter = w.services.Clock.Now().Add(w.req.Deadline + jobGrace)
	_, created, err := w.services.Jobs.Ensure(ctx, w.req)
	switch {
	case err == nil && created:
		// A Job that is ordered late has its time from then.
		w.call.time.restart()
		return true, nil
	case err == nil:
		return true, nil
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case !jobs.Permanent(err):
		w.refused = time.Time{}
	case w.refused.IsZero():
		w.refused = w.services.Clock.Now()
	case w.services.Clock.Since(w.refused) > refusedFor:
		return false, inconclusive("the Job could not be created: %v", err)
	}
	w.last = err
	w.logger.WarnContext(ctx, "job not made, trying again", "err", err)
	return false, nil
}

// refusedFor is how long the API server has to refuse a Job for good. One that has just started forbids what it will allow.
const refusedFor = time.Minute

// ordered reports whether the Job exists, or nothing is left to order. It is inconclusive if the API server gives no answer for longer than
// the Job may take.
func (o *operations) ordered(ctx context.Context, req jobs.Request, settled func(context.Context) (bool, error)) (bool, error) {
	done, q := false, o.question(req.Deadline+jobGrace)
	err := o.poll(ctx, func(ctx context.Context) (bool, error) {
		result, err := o.services.Jobs.Status(ctx, req.Name())
		if err != nil {
			if ended := q.unanswered(ctx, err); !errors.Is(ended, errNoAnswer) {
				return false, ended
			}
			return false, inconclusive("the Job could not be read: %v", err)
		}
		q.answered()
		if done = result.Phase != jobs.PhaseMissing; done {
			return true, nil
		}
		done, err = settled(ctx)
		return true, err
	})
	return done, err
}

// neverSettled asks for the Job alone.
func neverSettled(context.Context) (bool, error) { return false, nil }

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
