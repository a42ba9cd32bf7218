package sop

import (
	"context"
	"errors"
	"fmt"

	"aegis.io/aegis/ticket"
)

// errNeverBegan is ErrWithdrawn of an incident that has left no trace on its node yet, and leaves none.
var errNeverBegan = errors.New("condition withdrawn before anything was done")

// Errors that end or redirect a procedure. None of them is a failure of a step.
var (
	// ErrWithdrawn is returned by a step that was not begun because the condition no longer holds, or because the
	// node has booted since. The procedure goes on to prove that the node is healthy.
	ErrWithdrawn = errors.New("condition withdrawn")
	// ErrTakenOver is returned when people own the ticket now, or removed it.
	ErrTakenOver = errors.New("ticket is in other hands")
	// ErrStopping is the cause of a context that ends because this process stops. Running steps stay in the journal
	// and the next leader resumes them.
	ErrStopping = errors.New("stopping")
	// ErrLeaseLost is the cause of a context that ends because this process is no longer the leader.
	ErrLeaseLost = errors.New("lost the lease")
)

// StepError is a step that was tried and did not succeed. Only it lets a procedure escalate or hand over.
type StepError struct {
	Action ticket.Action
	Status ticket.StepStatus
	// Findings are what the operation on the node found out. Whoever decides by a failure reads them.
	ticket.Findings
	// Message is for people alone.
	Message string
}

// Error says which step did not succeed, and why.
func (e *StepError) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("step %s: %s", e.Action, e.Status)
	}
	return fmt.Sprintf("step %s: %s: %s", e.Action, e.Status, e.Message)
}

// Inconclusive reports whether the step could not be carried out, as opposed to carried out with a bad result.
func (e *StepError) Inconclusive() bool { return e.Status == ticket.Canceled }

// failed returns the failure of a step, to be journaled as Failed.
func failed(format string, args ...any) error {
	return &StepError{Status: ticket.Failed, Message: fmt.Sprintf(format, args...)}
}

// inconclusive returns the result of a step that could not be carried out, to be journaled as Canceled.
func inconclusive(format string, args ...any) error {
	return &StepError{Status: ticket.Canceled, Message: fmt.Sprintf(format, args...)}
}

// AsStepError returns the StepError in err, if there is one. Any other error means that the procedure is to end with it: it was
// interrupted, or people have taken the node.
func AsStepError(err error) (*StepError, bool) {
	var step *StepError
	ok := errors.As(err, &step)
	return step, ok
}

// interrupted reports whether err ends the procedure without a verdict on the node, so that it runs again from the
// top later, here or at another leader.
func interrupted(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, ErrStopping) || errors.Is(err, ErrLeaseLost)
}
