package sop

import (
	"context"
	"errors"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/ticket"
)

const (
	// jobGrace is what an operation has beyond its deadline: whoever ends its Job by then needs a while for that.
	jobGrace = 2 * time.Minute
	// jobWaits is for how long a Job may wait for its start before the ticket says so.
	jobWaits = time.Minute
	// stopsWithin is for how long the API server is asked to delete a Job whose time is up. Its operation refuses to begin by then.
	stopsWithin = 10 * time.Minute
	// leaveWithin bounds how long a run that people have ended sees to its Job.
	leaveWithin = 30 * time.Second
)

// following is a Job that is waited for. Every one has an end: a Job that is suspended, or whose controller is away, has no deadline
// of its own.
type following struct {
	*operations
	call call
	name string
	// end is the time after which nobody waits for the Job any more.
	end time.Duration
	// uid is that of the Job at the first look.
	uid types.UID
}

// look adds up the time of an unfinished Job, says on the ticket what it waits for, and ends it once its time is up.
func (f *following) look(ctx context.Context, r jobs.Result) error {
	late, err := f.call.time.look(ctx, f.end)
	switch {
	case err != nil:
		return err
	case f.replaced(r):
		return inconclusive("Job %s was replaced by another one", f.name)
	case late:
		return f.giveUp(ctx, r)
	case !r.Begun && f.call.time.spent > jobWaits:
		return f.call.time.tellJob(ctx, r.Message)
	}
	return nil
}

// replaced reports whether the Job is another one than at the first look.
func (f *following) replaced(r jobs.Result) bool {
	if f.uid == "" {
		f.uid = r.UID
	}
	return r.UID != "" && r.UID != f.uid
}

// giveUp deletes the Job, so that it takes no effect later, and says that nothing is known of the node. It returns nothing while the
// API server does not take that.
func (f *following) giveUp(ctx context.Context, r jobs.Result) error {
	stopped, err := f.stop(ctx, f.call, f.name)
	if err != nil || !stopped {
		return err
	}
	return inconclusive("Job %s has not ended within %s: %s", f.name, f.end, r.Message)
}

// stop deletes the Job of a step whose time is up. It reports whether that is settled: an API server that gives no answer is asked
// again for a while, one that forbids it is not.
func (o *operations) stop(ctx context.Context, c call, name string) (settled bool, err error) {
	if c.time.kept != c.time.spent {
		// Whoever goes on with the step must not take a Job that is gone for one that was never made.
		if err := c.time.write(ctx, false); err != nil {
			return false, gone(ctx, err)
		}
	}
	err = o.services.Jobs.Stop(ctx, name)
	switch {
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case err != nil && !jobs.Permanent(err) && c.time.stopping() < stopsWithin:
		o.logger.WarnContext(ctx, "job not deleted, trying again", "job", name, "err", err)
		return false, c.time.tellJob(ctx, "its time is up, and it cannot be deleted: "+err.Error())
	case err != nil:
		o.logger.ErrorContext(ctx, "job not deleted; its operation refuses to begin this late", "job", name, "err", err)
	}
	return true, nil
}

// gone returns the error of a write if it ends the run.
func gone(ctx context.Context, err error) error {
	if left(err) || ctx.Err() != nil {
		return err
	}
	return nil
}

// left reports whether the node is no longer in the hands of the run.
func left(err error) bool {
	return errors.Is(err, ErrTakenOver) || errors.Is(err, errUncordoned) || errors.Is(err, errUnnoted) || errors.Is(err, ticket.ErrNodeGone) || errors.Is(err, ticket.ErrRecreated)
}

// leave takes back the Job of a run that people have ended, if its operation has not been started: it must not take effect in their
// hands. It returns the error that ended the run.
func (o *operations) leave(ctx context.Context, name string, why error) error {
	if !left(why) {
		return why
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveWithin)
	defer cancel()
	withdrawn, err := o.services.Jobs.Withdraw(ctx, name)
	o.logger.InfoContext(ctx, "job left to itself", "job", name, "withdrawn", withdrawn, "err", err)
	return why
}
