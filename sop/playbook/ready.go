package playbook

import (
	"context"

	"aegis.io/aegis/sop"
)

// AwaitReady isolates a node whose kubelet is silent and waits for it. Not being ready proves nothing about what runs on
// the node, so nothing is forced: volumes are released only when the power is proven to be off.
func AwaitReady(ctx context.Context, b *sop.ApiBridge) error {
	policy := b.Policy()
	err := b.WaitReady(ctx, policy.Grace, false)
	switch {
	case err == nil && b.HasCordoned():
		// It took over an incident that has the node cordoned.
		return VerifyCordoned(ctx, b)
	case err == nil:
		return b.Resolve(ctx)
	case !isStepError(err):
		return err
	}
	if err := b.Cordon(ctx); err != nil {
		return err
	}
	if err := awaitReturn(ctx, b); err != nil {
		return err
	}
	if err := b.Diagnose(ctx); err != nil {
		return err
	}
	return VerifyCordoned(ctx, b)
}

// awaitReturn waits for an isolated node, and has its volumes released while its power is proven to be off.
func awaitReturn(ctx context.Context, b *sop.ApiBridge) error {
	within := b.Policy().HandOverAfter
	err := b.WaitReady(ctx, within, true)
	down, isStep := sop.AsStepError(err)
	if !isStep || !down.Inconclusive() {
		return err
	}
	// One that is not reported any more needs no taint, and is waited for all the same.
	if err := stands(b.TaintOutOfService(ctx)); err != nil {
		return err
	}
	if err := b.WaitReady(ctx, within, false); err != nil {
		return err
	}
	return b.UntaintOutOfService(ctx)
}
