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

// IsolateAndHandOver keeps new work off the node, clears it as the policy says, and leaves the rest to people.
func IsolateAndHandOver(ctx context.Context, b *ApiBridge) error {
	err := isolate(ctx, b)
	if err == nil {
		err = b.ClearWorkload(ctx)
	}
	why := "needs people: " + describe(b.Status())
	busy, isStep := stepFailure(err)
	switch {
	case err == nil:
		return GiveUp(ctx, b, why)
	case errors.Is(err, ErrWithdrawn):
		return ReturnToService(ctx, b)
	case isStep && busy.Action == ticket.WaitIdle:
		// The jobs have had their time. People decide about what still runs, so the node stays powered.
		return b.HandOver(ctx, b.Policy().Team, why+"; "+busy.Message)
	}
	return err
}

// RebootLadder empties the node and boots it, again if that did not help and the policy allows, until it is fit.
func RebootLadder(ctx context.Context, b *ApiBridge) error {
	if err := isolate(ctx, b); err != nil {
		return err
	}
	return climb(ctx, b)
}

// climb is the reboot ladder of a node that is isolated.
func climb(ctx context.Context, b *ApiBridge) error {
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

// ResetLadder resets the GPU after the pods that use one have gone, and goes on to the reboot ladder if that did not help.
func ResetLadder(ctx context.Context, b *ApiBridge) error {
	if err := isolate(ctx, b); err != nil {
		return err
	}
	err := b.DrainGPU(ctx)
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
	b.RequireDrain()
	return climb(ctx, b)
}

// remedyTries is how often a remedy in place is tried before the next rung.
const remedyTries = 2

// RemedyThenReboot applies a remedy to the isolated node, and goes on to the reboot ladder if it does not help.
func RemedyThenReboot(ctx context.Context, b *ApiBridge, remedy string) error {
	if err := isolate(ctx, b); err != nil {
		return err
	}
	for range remedyTries {
		err := b.Remedy(ctx, remedy)
		failure, isStep := stepFailure(err)
		if err != nil && !isStep && !errors.Is(err, ErrWithdrawn) {
			return err
		}
		if isStep {
			b.Suspect(failure.Error())
			continue
		}
		sick, err := prove(ctx, b)
		if err != nil {
			return err
		}
		if sick == nil {
			return finish(ctx, b)
		}
		b.Suspect(sick.Error())
	}
	return climb(ctx, b)
}

// RestartDevicePlugin restarts the pod that registers the node's devices, which disturbs no workload, and goes on to the
// reboot ladder if the devices do not come back. A pod that cannot be restarted is no matter of the node.
func RestartDevicePlugin(ctx context.Context, b *ApiBridge, resource corev1.ResourceName) error {
	for range remedyTries {
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
	b.RequireDrain()
	return RebootLadder(ctx, b)
}

// RelievePressure keeps new pods away until the pressure has gone. The hardware is not in doubt, so nothing is drained and
// no healthcheck is needed.
func RelievePressure(ctx context.Context, b *ApiBridge) error {
	if err := b.Cordon(ctx); err != nil {
		return err
	}
	if err := b.VerifyWithin(ctx, b.Policy().HandOverAfter); err != nil {
		return err
	}
	if !b.Unharmed() {
		return VerifyCordoned(ctx, b)
	}
	if err := tolerateLeftCordoned(ctx, b, b.UncordonUnharmed(ctx)); err != nil {
		return err
	}
	return b.Resolve(ctx)
}

// VerifyCordoned finds out whether a node that Aegis had cordoned can be returned.
func VerifyCordoned(ctx context.Context, b *ApiBridge) error {
	if err := checkHealth(ctx, b); err != nil {
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
	case err == nil && b.tookOver():
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
	if err := checkHealth(ctx, b); err != nil {
		return err
	}
	return finish(ctx, b)
}

// tookOver reports whether the procedure found the node cordoned by its own incident, as after a preemption.
func (b *ApiBridge) tookOver() bool {
	t := b.journal.ticket()
	return t != nil && t.Count(ticket.Cordon) > 0
}

// Note tells people about a condition that leaves the node usable.
func Note(ctx context.Context, b *ApiBridge) error {
	return b.HandOver(ctx, b.Policy().Team, describe(b.Status()))
}

// Exhausted isolates a node that was repaired too often and leaves it to people.
func Exhausted(ctx context.Context, b *ApiBridge) error {
	if err := isolate(ctx, b); err != nil {
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

// GiveUp hands the node over, powered off before if the policy wants that.
func GiveUp(ctx context.Context, b *ApiBridge, why string) error {
	if b.Policy().Shutdown {
		err := b.Shutdown(ctx)
		failure, isStep := stepFailure(err)
		switch {
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

// isolate keeps new work off the node and collects what people will want to see.
func isolate(ctx context.Context, b *ApiBridge) error {
	if err := b.Cordon(ctx); err != nil {
		return err
	}
	return b.Diagnose(ctx)
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

// Suspect remembers that a check of ours found the node sick. From here on a silent alert is no reason to stop, because the
// alert's source may be what is broken.
func (b *ApiBridge) Suspect(why string) { b.suspicion = why }

// RequireDrain makes ClearWorkload empty the whole node, as a boot needs it.
func (b *ApiBridge) RequireDrain() {
	b.drained = false
	b.status.Policy.Workload = prom.WorkloadDrain
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
	if b.suspicion != "" {
		why += "; " + b.suspicion
	}
	return why
}
