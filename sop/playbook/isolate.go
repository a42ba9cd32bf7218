package playbook

import (
	"context"
	"errors"

	"aegis.io/aegis/sop"
	"aegis.io/aegis/ticket"
)

// Isolate keeps new work off the node and collects what people will want to see.
func Isolate(ctx context.Context, b *sop.ApiBridge) error {
	if err := b.Cordon(ctx); err != nil {
		return err
	}
	return b.Diagnose(ctx)
}

// IsolateAndHandOver keeps new work off the node, clears it as the policy says, and leaves the rest to people.
func IsolateAndHandOver(ctx context.Context, b *sop.ApiBridge) error {
	if err := Isolate(ctx, b); err != nil {
		return err
	}
	return LeaveToPeople(ctx, b)
}

// LeaveToPeople is the end of a procedure on an isolated node that has nothing more to try.
func LeaveToPeople(ctx context.Context, b *sop.ApiBridge) error {
	why := "needs people: " + sop.Describe(b.Status())
	if suspicion := b.Suspicion(); suspicion != "" {
		why += "; " + suspicion
	}
	err := b.ClearWorkload(ctx)
	busy, isStep := sop.AsStepError(err)
	switch {
	case err == nil && b.Vanished(ctx), errors.Is(err, sop.ErrWithdrawn):
		return ReturnToService(ctx, b)
	case err == nil:
		return GiveUp(ctx, b, why)
	case isStep && busy.Action == ticket.WaitIdle:
		// The jobs have had their time. People decide about what still runs, so the node stays powered.
		return b.HandOver(ctx, b.Policy().Team, why+"; "+busy.Message)
	}
	return err
}

// IsolateAndWait gives a fault the time to go away that the policy allows, with new work kept off the node.
func IsolateAndWait(ctx context.Context, b *sop.ApiBridge) error {
	if err := Isolate(ctx, b); err != nil {
		return err
	}
	if err := b.VerifyWithin(ctx, b.Policy().HandOverAfter); err != nil {
		return err
	}
	return VerifyCordoned(ctx, b)
}

// WaitThenEvacuate is for a node whose workload may live on for a while: it is emptied when the fault has not gone in time.
func WaitThenEvacuate(ctx context.Context, b *sop.ApiBridge) error {
	if err := Isolate(ctx, b); err != nil {
		return err
	}
	err := b.VerifyWithin(ctx, b.Policy().HandOverAfter)
	lasting, isStep := sop.AsStepError(err)
	switch {
	case err == nil:
		return VerifyCordoned(ctx, b)
	case !isStep || lasting.Inconclusive():
		return err
	}
	if err := b.Drain(ctx); err != nil {
		if errors.Is(err, sop.ErrWithdrawn) {
			return ReturnToService(ctx, b)
		}
		return err
	}
	return b.HandOver(ctx, b.Policy().Team, "needs people: "+sop.Describe(b.Status())+"; "+lasting.Message)
}

// ExamineThenReturn isolates a node that may have come out of a fault by itself, and returns it if it is fit.
func ExamineThenReturn(ctx context.Context, b *sop.ApiBridge) error {
	if err := Isolate(ctx, b); err != nil {
		return err
	}
	return VerifyCordoned(ctx, b)
}

// Exhausted isolates a node that was repaired too often and leaves it to people.
func Exhausted(ctx context.Context, b *sop.ApiBridge) error {
	if err := Isolate(ctx, b); err != nil {
		return err
	}
	return b.HandOver(ctx, b.Policy().Team, b.Status().Condition+": "+b.Reason())
}
