package sop

import (
	"context"
	"errors"
	"time"

	"aegis.io/aegis/sop/policy"
)

// What a step has to know before it begins is asked of the API server, which may refuse to say it for ever. Every question has an end, as
// every step has.

// question is asked until it is answered, or the time for that is up. Time counts as for a step, and while Aegis may do nothing on the node
// it stands still.
type question struct {
	*scene
	within time.Duration
	spent  permittedTime
	// told says that the ticket has been told what the step waits for.
	told bool
}

func (s *scene) question(within time.Duration) *question {
	return &question{scene: s, within: within, spent: permittedTime{scene: s}}
}

// errNoAnswer ends a question.
var errNoAnswer = errors.New("no answer within the time for it")

// unanswered takes note that there is no answer yet, and why. It returns errNoAnswer once the time is up. A run that has not begun anything
// does not wait but ends, so that what else is reported on the node has its turn.
func (q *question) unanswered(ctx context.Context, why error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	q.logger.WarnContext(ctx, "no answer, asking again", "err", why)
	v := policy.Verdict{Name: policy.VerdictUnverifiable, Reason: why.Error()}
	if !q.journal.opened() {
		return &heldError{v}
	}
	held := q.gate.standing()
	switch {
	case held.Name == policy.VerdictUnknownCondition:
		return &heldError{held}
	case held.Name != "":
		q.spent.stop()
		v = held
	default:
		q.spent.add()
	}
	switch {
	case q.spent.spent >= q.within:
		return errNoAnswer
	case held.Name == "" && q.spent.spent < jobWaits:
		return nil
	}
	q.told = true
	return gone(ctx, q.gate.tellHold(ctx, v))
}

// answered stops the time until the question is asked again.
func (q *question) answered() {
	q.spent.skip()
	if q.told {
		q.told = false
		q.services.Verdicts.Set(q.status.Key(), policy.Verdict{Name: policy.VerdictExecute, Reason: "the API server answers"})
	}
}
