package playbook

import (
	"context"
	"errors"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop"
	"aegis.io/aegis/ticket"
)

// VerifyCordoned finds out whether a node that Aegis had cordoned can be returned. What it finds broken is the next condition of the
// incident.
func VerifyCordoned(ctx context.Context, b *sop.ApiBridge) error {
	err := CheckHealth(ctx, b)
	if sick, isStep := sop.AsStepError(err); isStep && !sick.Inconclusive() {
		return b.Reopen(ctx, sick)
	}
	if err != nil {
		return err
	}
	return Finish(ctx, b)
}

// ReturnToService proves that an isolated node is fit and returns it.
func ReturnToService(ctx context.Context, b *sop.ApiBridge) error {
	sick, err := Return(ctx, b)
	if err != nil {
		return err
	}
	if sick != nil {
		return sick
	}
	return b.Resolve(ctx)
}

// Return proves that the node is fit and puts it back in service. It returns what was found wrong, which a fault that was back before the
// node could return is as well; an error means that it could not be found out.
func Return(ctx context.Context, b *sop.ApiBridge) (sick *sop.StepError, err error) {
	if sick, err = Prove(ctx, b); sick != nil || err != nil {
		return sick, err
	}
	err = tolerateLeftCordoned(ctx, b, b.Uncordon(ctx))
	if back, isStep := sop.AsStepError(err); isStep && back.Recurred {
		return back, nil
	}
	return nil, err
}

// GiveUp hands the node over, powered off before if the policy wants that and the workload has gone.
func GiveUp(ctx context.Context, b *sop.ApiBridge, why string) error {
	if b.Policy().Shutdown {
		err := powerOff(ctx, b)
		failure, isStep := sop.AsStepError(err)
		switch {
		case isStep && failure.Action != ticket.Shutdown:
			return err
		case isStep:
			why += "; power state unknown: " + failure.Message
		case errors.Is(err, sop.ErrWithdrawn):
			return ReturnToService(ctx, b)
		case err != nil:
			return err
		default:
			why += "; powered off"
		}
	}
	return b.HandOver(ctx, b.Policy().Team, why)
}

// powerOff powers the node off once its workload has gone.
func powerOff(ctx context.Context, b *sop.ApiBridge) error {
	if b.Policy().Workload != prom.WorkloadWaitIdle {
		// What may stay on a node that people look at may not be powered off with it.
		b.Clear(prom.WorkloadDrain)
	}
	if err := b.ClearWorkload(ctx); err != nil {
		return err
	}
	return b.Shutdown(ctx)
}

// Examine looks at a node that is to stay in service unless its hardware is found broken, and tells people in any case.
func Examine(ctx context.Context, b *sop.ApiBridge) error {
	if err := b.Diagnose(ctx); err != nil {
		return err
	}
	err := CheckHealth(ctx, b)
	sick, isStep := sop.AsStepError(err)
	switch {
	case err != nil && !isStep:
		return err
	case isStep && !sick.Inconclusive():
		if err := b.Cordon(ctx); err != nil {
			return err
		}
		return b.HandOver(ctx, b.Policy().Team, sop.Describe(b.Status())+"; "+sick.Error())
	}
	return Notify(ctx, b)
}

// Prove finds out whether the node is fit: the condition is gone at its source, and a healthcheck passes. It returns what
// was found wrong; an error means that it could not be found out.
func Prove(ctx context.Context, b *sop.ApiBridge) (sick *sop.StepError, err error) {
	err = b.Verify(ctx)
	if err == nil {
		err = CheckHealth(ctx, b)
	}
	return finding(err)
}

// Gone finds out whether the condition has gone at its source. It returns what the source says otherwise; an error means that it
// could not be found out.
func Gone(ctx context.Context, b *sop.ApiBridge) (lasting *sop.StepError, err error) {
	return finding(b.Verify(ctx))
}

// finding tells what a step found wrong from that it could not find out.
func finding(err error) (*sop.StepError, error) {
	if sick, isStep := sop.AsStepError(err); isStep && !sick.Inconclusive() {
		return sick, nil
	}
	return nil, err
}

// CheckHealth runs the healthcheck, and once more when it could not be made.
func CheckHealth(ctx context.Context, b *sop.ApiBridge) error {
	err := b.Healthcheck(ctx)
	if failure, isStep := sop.AsStepError(err); isStep && failure.Inconclusive() {
		err = b.Healthcheck(ctx)
	}
	return err
}

// Finish returns a node that is fit, and closes the incident.
func Finish(ctx context.Context, b *sop.ApiBridge) error {
	if err := tolerateLeftCordoned(ctx, b, b.Uncordon(ctx)); err != nil {
		return err
	}
	return b.Resolve(ctx)
}

// tolerateLeftCordoned drops the error of a node that is fit but stays cordoned for another reason: this incident is over.
func tolerateLeftCordoned(ctx context.Context, b *sop.ApiBridge, err error) error {
	if failure, isStep := sop.AsStepError(err); isStep && failure.Inconclusive() {
		b.Logger().InfoContext(ctx, "node is fit and stays cordoned", "reason", failure.Message)
		return nil
	}
	return err
}
