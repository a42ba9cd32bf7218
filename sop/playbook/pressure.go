package playbook

import (
	"context"

	"aegis.io/aegis/sop"
)

// AwaitRelief keeps new pods away until the pressure has gone.
func AwaitRelief(ctx context.Context, b *sop.ApiBridge) error { return RelievePressure(ctx, b) }

// RelievePressure keeps new pods away until the pressure has gone, and does what helps. The hardware is not in doubt, so nothing is
// drained and no healthcheck is needed.
func RelievePressure(ctx context.Context, b *sop.ApiBridge, relief ...Remediation) error {
	full, err := b.Full(ctx)
	if err != nil {
		return err
	}
	if !full {
		if err := b.Cordon(ctx); err != nil {
			return err
		}
	}
	for _, r := range relief {
		if err := stands(r.apply(ctx, b)); err != nil && !isStepError(err) {
			return err
		}
	}
	if err := b.VerifyWithin(ctx, b.Policy().HandOverAfter); err != nil {
		return err
	}
	switch {
	case !b.HasCordoned():
		return b.Resolve(ctx)
	case !b.Unharmed():
		return VerifyCordoned(ctx, b)
	}
	if err := tolerateLeftCordoned(ctx, b, b.UncordonUnharmed(ctx)); err != nil {
		return err
	}
	return b.Resolve(ctx)
}
