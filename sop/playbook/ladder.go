package playbook

import (
	"context"
	"fmt"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop"
	"aegis.io/aegis/ticket"
)

// RebootLadder empties the node and boots it, again if that did not help and the policy allows, until it is fit.
func RebootLadder(ctx context.Context, b *sop.ApiBridge) error {
	if err := Isolate(ctx, b); err != nil {
		return err
	}
	return Climb(ctx, b)
}

// Climb is the reboot ladder of a node that is isolated.
func Climb(ctx context.Context, b *sop.ApiBridge) error {
	for b.RebootsLeft() {
		err := b.ClearWorkload(ctx)
		if err == nil {
			err = b.Reboot(ctx)
		}
		if err := stands(err); err != nil {
			return err
		}
		// It has booted, or the condition went away before: either way the node has to prove that it is fit.
		sick, err := Return(ctx, b)
		if err != nil {
			return err
		}
		if sick == nil {
			return b.Resolve(ctx)
		}
		b.Suspect(sick.Error())
	}
	return GiveUp(ctx, b, exhausted(b))
}

// ClimbEmpty is Climb for a node of which only some pods have gone so far.
func ClimbEmpty(ctx context.Context, b *sop.ApiBridge) error {
	b.Clear(prom.WorkloadDrain)
	return Climb(ctx, b)
}

// exhausted says why no further repair is tried.
func exhausted(b *sop.ApiBridge) string {
	condition, policy := b.Status().Condition, b.Policy()
	why := fmt.Sprintf("%s: all %d reboots within %s are used up", condition, policy.MaxReboots, policy.AttemptWindow)
	if policy.MaxReboots == 0 {
		why = condition + ": its policy allows no reboot"
	}
	if suspicion := b.Suspicion(); suspicion != "" {
		why += "; " + suspicion
	}
	return why
}

// ResetLadder resets the GPU after the pods that use one have gone, and goes on to the reboot ladder if that did not help.
func ResetLadder(ctx context.Context, b *sop.ApiBridge) error {
	if err := Isolate(ctx, b); err != nil {
		return err
	}
	return Reset(ctx, b)
}

// Reset is the reset ladder of a node that is isolated.
func Reset(ctx context.Context, b *sop.ApiBridge) error {
	err := clearGPU(ctx, b)
	if err == nil {
		err = b.ResetGPU(ctx)
	}
	sick, isStep := sop.AsStepError(err)
	if !isStep || sick.Action != ticket.Reset {
		if err := stands(err); err != nil {
			return err
		}
		if sick, err = Return(ctx, b); err != nil {
			return err
		}
	}
	if sick == nil {
		return b.Resolve(ctx)
	}
	b.Suspect(sick.Error())
	// What a reset could not do takes a boot, and for that the whole node has to be empty.
	return ClimbEmpty(ctx, b)
}

// clearGPU waits for the pods that hold a GPU, where the policy lets them end by themselves, and evicts those that stay.
func clearGPU(ctx context.Context, b *sop.ApiBridge) error {
	if b.Policy().Workload == prom.WorkloadWaitIdle {
		if err := b.WaitIdle(ctx); err != nil && !isStepError(err) {
			return err
		}
	}
	return b.DrainGPU(ctx)
}
