package sop

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/ticket"
)

// A drain says that a node was empty when it ended. Whether it is so when something is destroyed is asked right before that, whoever has
// drained it and whenever.

// occupiedError says that a destructive step would meet workload that the policy wants to be gone.
type occupiedError struct{ pods []corev1.Pod }

func (e *occupiedError) Error() string { return "workload is on the node: " + podNames(e.pods) }

// unlistedError says that nobody knows whether a step would meet workload: the pods of the node cannot be listed.
type unlistedError struct{ error }

// listed carries out a step that has to know the pods of its node. While they cannot be listed it waits, without a place that the step
// needs, and in the end a team has the node.
func (b *ApiBridge) listed(ctx context.Context, carryOut func() error) error {
	q := b.question(b.status.Policy.DrainDeadline)
	for {
		err := carryOut()
		var unlisted *unlistedError
		if !errors.As(err, &unlisted) {
			return err
		}
		for why := unlisted.error; why != nil; _, why = b.operations.workloadPods(ctx, anyPod) {
			err := q.unanswered(ctx, why)
			if err == nil {
				err = sleep(ctx, b.services.Clock, b.services.Timing.Poll)
			}
			switch {
			case errors.Is(err, errNoAnswer):
				return &StepError{Action: ticket.Drain, Status: ticket.Failed, Message: "cannot tell whether workload is on the node: " + why.Error()}
			case err != nil:
				return err
			}
		}
		q.answered()
	}
}

// maxDrains is how often a node is drained again for one step.
const maxDrains = 3

// destroy carries out a destructive step, and drains the node again first if workload is on it.
func (b *ApiBridge) destroy(ctx context.Context, s step) error {
	s.gone = b.operations.mustBeGone(s.action)
	return b.onEmptied(ctx, s)
}

// onEmptied carries out a step, and drains the node again first if workload has come to it that has to be gone.
func (b *ApiBridge) onEmptied(ctx context.Context, s step) error {
	for drains := 0; ; {
		err := b.do(ctx, s)
		var occupied *occupiedError
		switch {
		case !errors.As(err, &occupied):
			return err
		case drains == maxDrains:
			return &StepError{
				Action: ticket.Drain, Status: ticket.Failed,
				Message: fmt.Sprintf("workload comes back however often the node is drained: %s", podNames(occupied.pods)),
			}
		}
		b.logger.WarnContext(ctx, "node is drained again", "action", s.action, "pods", podNames(occupied.pods))
		before := drainsOf(b.journal.ticket())
		err = b.drainAgain(ctx, s.action)
		if errors.Is(err, ErrWithdrawn) {
			err = b.executor.withdraw(ctx, s.action, err)
		}
		if err != nil {
			return err
		}
		if drainsOf(b.journal.ticket()) > before { // Else an earlier process has made it, maybe for an earlier step.
			drains++
		}
	}
}

// drainsOf counts the calls of the actions that drain.
func drainsOf(t *ticket.Ticket) (n int) {
	if t == nil {
		return 0
	}
	for _, action := range drainActions() {
		n += t.Count(action)
	}
	return n
}

func (b *ApiBridge) drainAgain(ctx context.Context, before ticket.Action) error {
	switch before {
	case ticket.Reset:
		return b.DrainGPU(ctx)
	case ticket.Remedy, ticket.Repair:
		return b.cleared.again(ctx)
	}
	b.drained = false
	return b.ClearWorkload(ctx)
}

// clearance is what the procedure has cleared off the node: the pods that have to be gone from then on, and how they are cleared again.
type clearance struct {
	gone  func(*corev1.Pod) bool
	again func(context.Context) error
	all   bool
}

// clears notes what a step has cleared, unless more was.
func (b *ApiBridge) clears(c clearance, err error) error {
	if err == nil && (c.all || !b.cleared.all) {
		b.cleared = c
	}
	return err
}

// whileEmpty lists the pods first and asks for permission second, since a list may take hours and a permission grows old meanwhile. If the
// permission takes long, it lists the pods again, and finds workload that has come. In the end neither is older than permissionAge, but for a
// list that takes longer than that to make.
func (m *machine) whileEmpty(ctx context.Context, wanted func(*corev1.Pod) bool, admit func(context.Context) error) error {
	if wanted == nil {
		return admit(ctx)
	}
	var admitted time.Time
	for {
		began := m.services.Clock.Now()
		if err := m.empty(ctx, wanted); err != nil {
			return err
		}
		listed := m.services.Clock.Now()
		good := max(permissionAge, listed.Sub(began))
		if !admitted.IsZero() && listed.Sub(admitted) <= permissionAge {
			return nil
		}
		if err := admit(ctx); err != nil {
			return err
		}
		if admitted = m.services.Clock.Now(); admitted.Sub(listed) <= good {
			return nil
		}
	}
}

// empty returns an occupiedError while pods are on the node that are wanted to be gone, and an unlistedError while nobody knows.
func (m *machine) empty(ctx context.Context, wanted func(*corev1.Pod) bool) error {
	if wanted == nil {
		return nil
	}
	pods, err := m.workloadPods(ctx, wanted)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return &unlistedError{err}
	case len(pods) > 0:
		return &occupiedError{pods}
	}
	// What an earlier run began when it drained the node again is over: the node is empty, so this run does not drain it.
	return m.journal.endDrains(ctx)
}

// mustBeGone says which pods have to be gone before the action. Nil stands for none.
func (m *machine) mustBeGone(action ticket.Action) func(*corev1.Pod) bool {
	workload := m.status.Policy.Workload
	switch action {
	case ticket.Reboot, ticket.Shutdown:
		switch workload {
		case prom.WorkloadDrain, prom.WorkloadWaitIdle:
			return anyPod
		case prom.WorkloadDrainGPU:
			return holdsGPU
		case prom.WorkloadKeep:
		}
	case ticket.Reset:
		if workload != prom.WorkloadKeep {
			return holdsGPU
		}
	}
	return nil
}
