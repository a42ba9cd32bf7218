package playbook

import (
	"context"

	"aegis.io/aegis/sop"
)

// Note writes the condition into the history of a node that stays in service. It leaves no ticket open, so it keeps no other
// condition waiting.
func Note(ctx context.Context, b *sop.ApiBridge) error {
	if b.HasCordoned() {
		return VerifyCordoned(ctx, b)
	}
	return b.Note(ctx)
}

// Notify gives people a ticket about a condition that leaves the node usable.
func Notify(ctx context.Context, b *sop.ApiBridge) error {
	return b.HandOver(ctx, b.Policy().Team, sop.Describe(b.Status()))
}

// NotifyIfLasting is Notify for what often goes away by itself.
func NotifyIfLasting(ctx context.Context, b *sop.ApiBridge) error {
	lasting, err := finding(b.VerifyWithin(ctx, b.Policy().HandOverAfter))
	switch {
	case err != nil:
		return err
	case lasting == nil:
		return b.Resolve(ctx)
	}
	return Notify(ctx, b)
}
