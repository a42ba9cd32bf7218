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

// The procedure families. A step that fails ends a procedure with its error, and the dispatcher hands the node over to the
// team that can help, with the error as the reason. Only what leads elsewhere is spelled out here.

// Isolate keeps new work off the node and collects what people will want to see.
func Isolate(ctx context.Context, b *ApiBridge) error {
	if err := b.Cordon(ctx); err != nil {
		return err
	}
	return b.Diagnose(ctx)
}

// IsolateAndHandOver keeps new work off the node, clears it as the policy says, and leaves the rest to people.
func IsolateAndHandOver(ctx context.Context, b *ApiBridge) error {
	if err := Isolate(ctx, b); err != nil {
		return err
	}
	return LeaveToPeople(ctx, b)
}

// LeaveToPeople is the end of a procedure on an isolated node that has nothing more to try.
func LeaveToPeople(ctx context.Context, b *ApiBridge) error {
	why := "needs people: " + describe(b.Status())
	if b.suspicion != "" {
		why += "; " + b.suspicion
	}
	err := b.ClearWorkload(ctx)
	busy, isStep := stepFailure(err)
	switch {
	case err == nil && b.vanished(ctx), errors.Is(err, ErrWithdrawn):
		return ReturnToService(ctx, b)
	case err == nil:
		return GiveUp(ctx, b, why)
	case isStep && busy.Action == ticket.WaitIdle:
		// The jobs have had their time. People decide about what still runs, so the node stays powered.
		return b.HandOver(ctx, b.Policy().Team, why+"; "+busy.Message)
	}
	return err
}

// RebootLadder empties the node and boots it, again if that did not help and the policy allows, until it is fit.
func RebootLadder(ctx context.Context, b *ApiBridge) error {
	if err := Isolate(ctx, b); err != nil {
		return err
	}
	return Climb(ctx, b)
}

// Climb is the reboot ladder of a node that is isolated.
func Climb(ctx context.Context, b *ApiBridge) error {
	for b.RebootsLeft() {
		err := b.ClearWorkload(ctx)
		if err == nil {
			err = b.Reboot(ctx)
		}
		if err != nil && !errors.Is(err, ErrWithdrawn) {
			return err
		}
		// It has booted, or the condition went away before: either way the node has to prove that it is fit.
		sick, err := prove(ctx, b)
		if err != nil {
			return err
		}
		if sick == nil {
			return finish(ctx, b)
		}
		b.Suspect(sick.Error())
	}
	return GiveUp(ctx, b, b.exhausted())
}

// ClimbEmpty is Climb for a node of which only some pods have gone so far.
func ClimbEmpty(ctx context.Context, b *ApiBridge) error {
	b.Clear(prom.WorkloadDrain)
	return Climb(ctx, b)
}

// ResetLadder resets the GPU after the pods that use one have gone, and goes on to the reboot ladder if that did not help.
func ResetLadder(ctx context.Context, b *ApiBridge) error {
	if err := Isolate(ctx, b); err != nil {
		return err
	}
	return Reset(ctx, b)
}

// Reset is the reset ladder of a node that is isolated.
func Reset(ctx context.Context, b *ApiBridge) error {
	err := clearGPU(ctx, b)
	if err == nil {
		err = b.ResetGPU(ctx)
	}
	refused, isStep := stepFailure(err)
	switch {
	case isStep && refused.Action == ticket.Reset:
		b.Suspect(refused.Error())
	case err != nil && !errors.Is(err, ErrWithdrawn):
		return err
	default:
		sick, err := prove(ctx, b)
		if err != nil {
			return err
		}
		if sick == nil {
			return finish(ctx, b)
		}
		b.Suspect(sick.Error())
	}
	// What a reset could not do takes a boot, and for that the whole node has to be empty.
	return ClimbEmpty(ctx, b)
}

// clearGPU waits for the pods that hold a GPU, where the policy lets them end by themselves, and evicts those that stay.
func clearGPU(ctx context.Context, b *ApiBridge) error {
	if b.Policy().Workload == prom.WorkloadWaitIdle {
		if err := b.WaitIdle(ctx); err != nil && !isStepFailure(err) {
			return err
		}
	}
	return b.DrainGPU(ctx)
}

// RestartDevicePlugin restarts the pod that registers the node's devices, which disturbs no workload, and goes on to the
// reboot ladder if the devices do not come back. A pod that cannot be restarted is no matter of the node.
func RestartDevicePlugin(ctx context.Context, b *ApiBridge, resource corev1.ResourceName) error {
	for range cureTries {
		err := b.RestartPod(ctx, b.Policy().Selector, resource)
		if err == nil {
			err = b.Verify(ctx)
		}
		failure, isStep := stepFailure(err)
		switch {
		case err == nil, errors.Is(err, ErrWithdrawn):
			return b.Resolve(ctx)
		case !isStep, failure.Action == ticket.RestartPod:
			return err
		}
		b.Suspect(failure.Error())
	}
	b.Clear(prom.WorkloadDrain)
	return RebootLadder(ctx, b)
}

// RestartExporter restarts a pod of the node's monitoring. What it does not bring back is no matter of the node.
func RestartExporter(ctx context.Context, b *ApiBridge) error {
	err := b.RestartPod(ctx, b.Policy().Selector, "")
	if err == nil {
		err = b.Verify(ctx)
	}
	if err == nil || errors.Is(err, ErrWithdrawn) {
		return b.Resolve(ctx)
	}
	return err
}

// RelievePressure keeps new pods away until the pressure has gone, and does what helps. The hardware is not in doubt, so nothing is
// drained and no healthcheck is needed.
func RelievePressure(ctx context.Context, b *ApiBridge, relief ...Cure) error {
	full, err := b.full(ctx)
	if err != nil {
		return err
	}
	if !full {
		if err := b.Cordon(ctx); err != nil {
			return err
		}
	}
	for _, c := range relief {
		err := c.apply(ctx, b)
		if err != nil && !isStepFailure(err) && !errors.Is(err, ErrWithdrawn) {
			return err
		}
	}
	if err := b.VerifyWithin(ctx, b.Policy().HandOverAfter); err != nil {
		return err
	}
	if b.plan == nil && !b.hasCordoned() {
		return b.Resolve(ctx)
	}
	if !b.Unharmed() {
		return VerifyCordoned(ctx, b)
	}
	if err := tolerateLeftCordoned(ctx, b, b.UncordonUnharmed(ctx)); err != nil {
		return err
	}
	return b.Resolve(ctx)
}

// IsolateAndWait gives a fault the time to go away that the policy allows, with new work kept off the node.
func IsolateAndWait(ctx context.Context, b *ApiBridge) error {
	if err := Isolate(ctx, b); err != nil {
		return err
	}
	if err := b.VerifyWithin(ctx, b.Policy().HandOverAfter); err != nil {
		return err
	}
	return VerifyCordoned(ctx, b)
}

// WaitThenEvacuate is for a node whose workload may live on for a while: it is emptied when the fault has not gone in time.
func WaitThenEvacuate(ctx context.Context, b *ApiBridge) error {
	if err := Isolate(ctx, b); err != nil {
		return err
	}
	err := b.VerifyWithin(ctx, b.Policy().HandOverAfter)
	lasting, isStep := stepFailure(err)
	switch {
	case err == nil:
		return VerifyCordoned(ctx, b)
	case !isStep || lasting.Inconclusive():
		return err
	}
	if err := b.Drain(ctx); err != nil {
		if errors.Is(err, ErrWithdrawn) {
			return ReturnToService(ctx, b)
		}
		return err
	}
	return b.HandOver(ctx, b.Policy().Team, "needs people: "+describe(b.Status())+"; "+lasting.Message)
}

// ExamineThenReturn isolates a node that may have come out of a fault by itself, and returns it if it is fit.
func ExamineThenReturn(ctx context.Context, b *ApiBridge) error {
	if err := Isolate(ctx, b); err != nil {
		return err
	}
	return VerifyCordoned(ctx, b)
}

// Examine looks at a node that is to stay in service unless its hardware is found broken, and tells people in any case.
func Examine(ctx context.Context, b *ApiBridge) error {
	if err := b.Diagnose(ctx); err != nil {
		return err
	}
	err := checkHealth(ctx, b)
	sick, isStep := stepFailure(err)
	switch {
	case err != nil && !isStep:
		return err
	case isStep && !sick.Inconclusive():
		if err := b.Cordon(ctx); err != nil {
			return err
		}
		return b.HandOver(ctx, b.Policy().Team, describe(b.Status())+"; "+sick.Error())
	}
	return Tell(ctx, b)
}

// VerifyCordoned finds out whether a node that Aegis had cordoned can be returned. What it finds broken is the next condition of the
// incident.
func VerifyCordoned(ctx context.Context, b *ApiBridge) error {
	err := checkHealth(ctx, b)
	if sick, isStep := stepFailure(err); isStep && !sick.Inconclusive() {
		return b.reopen(ctx, sick)
	}
	if err != nil {
		return err
	}
	return finish(ctx, b)
}

// AwaitReady isolates a node whose kubelet is silent and waits for it. Not being ready proves nothing about what runs on
// the node, so nothing is forced: volumes are released only when the power is proven to be off.
func AwaitReady(ctx context.Context, b *ApiBridge) error {
	policy := b.Policy()
	err := b.WaitReady(ctx, policy.Grace, false)
	switch {
	case err == nil && b.hasCordoned():
		// It took over an incident that has the node cordoned.
		return VerifyCordoned(ctx, b)
	case err == nil:
		return b.Resolve(ctx)
	}
	var silent, down *StepError
	if !errors.As(err, &silent) {
		return err
	}
	if err := b.Cordon(ctx); err != nil {
		return err
	}
	err = b.WaitReady(ctx, policy.HandOverAfter, true)
	tainted := errors.As(err, &down) && down.Inconclusive()
	if tainted {
		// One that is not reported any more needs no taint, and is waited for all the same.
		if err := b.TaintOutOfService(ctx); err != nil && !errors.Is(err, ErrWithdrawn) {
			return err
		}
		err = b.WaitReady(ctx, policy.HandOverAfter, false)
	}
	if err != nil {
		return err
	}
	if tainted {
		if err := b.UntaintOutOfService(ctx); err != nil {
			return err
		}
	}
	if err := b.Diagnose(ctx); err != nil {
		return err
	}
	return VerifyCordoned(ctx, b)
}

// hasCordoned reports whether this incident has cordoned the node, be it for the condition that it was about before a preemption,
// and whatever became of that cordon.
func (b *ApiBridge) hasCordoned() bool {
	t := b.journal.ticket()
	return t != nil && t.Count(ticket.Cordon) > 0
}

// Exhausted isolates a node that was repaired too often and leaves it to people.
func Exhausted(ctx context.Context, b *ApiBridge) error {
	if err := Isolate(ctx, b); err != nil {
		return err
	}
	return b.HandOver(ctx, b.Policy().Team, b.status.Condition+": "+b.journal.incident.reason)
}

// ReturnToService proves that an isolated node is fit and returns it.
func ReturnToService(ctx context.Context, b *ApiBridge) error {
	sick, err := prove(ctx, b)
	if err != nil {
		return err
	}
	if sick != nil {
		return sick
	}
	return finish(ctx, b)
}

// GiveUp hands the node over, powered off before if the policy wants that and the workload has gone.
func GiveUp(ctx context.Context, b *ApiBridge, why string) error {
	if b.Policy().Shutdown {
		if b.Policy().Workload != prom.WorkloadWaitIdle {
			// What may stay on a node that people look at may not be powered off with it.
			b.Clear(prom.WorkloadDrain)
		}
		err := b.ClearWorkload(ctx)
		if err == nil {
			err = b.Shutdown(ctx)
		}
		failure, isStep := stepFailure(err)
		switch {
		case isStep && failure.Action != ticket.Shutdown:
			return err
		case isStep:
			why += "; power state unknown: " + failure.Message
		case errors.Is(err, ErrWithdrawn):
			return ReturnToService(ctx, b)
		case err != nil:
			return err
		default:
			why += "; powered off"
		}
	}
	return b.HandOver(ctx, b.Policy().Team, why)
}

// prove finds out whether the node is fit: the condition is gone at its source, and a healthcheck passes. It returns what
// was found wrong; an error means that it could not be found out.
func prove(ctx context.Context, b *ApiBridge) (*StepError, error) {
	err := b.Verify(ctx)
	if err == nil {
		err = checkHealth(ctx, b)
	}
	if sick, isStep := stepFailure(err); isStep && !sick.Inconclusive() {
		return sick, nil
	}
	return nil, err
}

// checkHealth runs the healthcheck, and once more when it could not be made.
func checkHealth(ctx context.Context, b *ApiBridge) error {
	err := b.Healthcheck(ctx)
	if failure, isStep := stepFailure(err); isStep && failure.Inconclusive() {
		err = b.Healthcheck(ctx)
	}
	return err
}

// finish returns a node that is fit, and closes the incident.
func finish(ctx context.Context, b *ApiBridge) error {
	if err := tolerateLeftCordoned(ctx, b, b.Uncordon(ctx)); err != nil {
		return err
	}
	return b.Resolve(ctx)
}

// tolerateLeftCordoned drops the error of a node that is fit but stays cordoned for another reason: this incident is over.
func tolerateLeftCordoned(ctx context.Context, b *ApiBridge, err error) error {
	if failure, isStep := stepFailure(err); isStep && failure.Inconclusive() {
		b.Logger().InfoContext(ctx, "node is fit and stays cordoned", "reason", failure.Message)
		return nil
	}
	return err
}

// describe says in a sentence what is wrong with the node.
func describe(s prom.AegisNodeStatus) string {
	text := s.Condition
	if s.ID != "" {
		text += " (" + s.ID + ")"
	}
	if s.Msg != "" {
		text += ": " + s.Msg
	}
	return text
}

// vanished reports whether the fault has gone while the procedure waited, so that nobody has to be called for it. What was decided
// before a restart is not decided anew.
func (b *ApiBridge) vanished(ctx context.Context) bool {
	if b.plan != nil || b.healing() || b.suspicion != "" {
		return false
	}
	if _, returning := b.journal.outcome(ticket.Verify, b.calls[ticket.Verify]+1); returning {
		return true
	}
	if t := b.journal.ticket(); t != nil && len(t.Running()) > 0 {
		return false
	}
	if _, leaving := b.journal.outcome(ticket.Shutdown, b.calls[ticket.Shutdown]+1); leaving {
		return false
	}
	return withdrawn(b.services.Source.Observe(ctx, b.status.Key()))
}

// Suspect remembers that a check of ours found the node sick. From here on a silent alert is no reason to stop, because the
// alert's source may be what is broken.
func (b *ApiBridge) Suspect(why string) { b.suspicion = why }

// Clear says what happens to the pods from here on, instead of what the policy says.
func (b *ApiBridge) Clear(w prom.Workload) {
	b.drained = b.drained && b.status.Policy.Workload == w
	b.status.Policy.Workload = w
}

// RebootsLeft reports whether the incident may boot the node once more: reboots of other incidents within the attempt
// window count. A reboot that was begun is always gone on with.
func (b *ApiBridge) RebootsLeft() bool {
	if b.plan != nil {
		return true
	}
	t := b.journal.ticket()
	next := b.calls[ticket.Reboot] + 1
	if _, begun := b.journal.outcome(ticket.Reboot, next); begun {
		return true
	}
	if t == nil {
		return false
	}
	used := rebootsSince(b.journal.record.History, time.Now().Add(-b.Policy().AttemptWindow), t.ID)
	for n := 1; n <= t.Count(ticket.Reboot); n++ {
		if s, _ := t.Outcome(ticket.Reboot, n); s.Status != ticket.Canceled {
			used++
		}
	}
	return used < b.Policy().MaxReboots
}

// exhausted says why no further repair is tried.
func (b *ApiBridge) exhausted() string {
	why := fmt.Sprintf("%s: all %d reboots within %s are used up", b.status.Condition, b.Policy().MaxReboots, b.Policy().AttemptWindow)
	if b.Policy().MaxReboots == 0 {
		why = b.status.Condition + ": no reboot is allowed for it"
	}
	if b.suspicion != "" {
		why += "; " + b.suspicion
	}
	return why
}
