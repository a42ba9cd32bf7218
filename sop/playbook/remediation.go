package playbook

import (
	"context"
	"errors"

	"aegis.io/aegis/sop"
	"aegis.io/aegis/ticket"
)

// Remediation is something that is done on a node that needs no boot.
type Remediation struct {
	// Name is that of the remedy, or the repair, as the operation on the host knows it.
	Name string
	// Repair takes a repair instead of a remedy.
	Repair bool
	// OnDevice applies it to the device of the condition.
	OnDevice bool
	// GPUs evicts the pods that hold a GPU first.
	GPUs bool
	// Empty does with the pods what the policy says first.
	Empty bool
	// Tries is how often it is tried before the next rung. Zero stands for twice.
	Tries int
}

// InPlace applies the remediation under the workload of a node that stays in service, and goes on otherwise if it does not help.
func (r Remediation) InPlace(ctx context.Context, b *sop.ApiBridge, otherwise Steps) error {
	fixed, err := r.try(ctx, b, Gone)
	switch {
	case err != nil:
		return err
	case fixed && b.HasCordoned():
		return VerifyCordoned(ctx, b)
	case fixed:
		return b.Resolve(ctx)
	}
	return otherwise(ctx, b)
}

// Isolated applies the remediation to the isolated node, and goes on otherwise if it does not help.
func (r Remediation) Isolated(ctx context.Context, b *sop.ApiBridge, otherwise Steps) error {
	if err := Isolate(ctx, b); err != nil {
		return err
	}
	if err := r.makeRoom(ctx, b); err != nil {
		if errors.Is(err, sop.ErrWithdrawn) {
			return ReturnToService(ctx, b)
		}
		return err
	}
	fixed, err := r.try(ctx, b, Return)
	switch {
	case err != nil:
		return err
	case fixed:
		return b.Resolve(ctx)
	}
	return otherwise(ctx, b)
}

// makeRoom clears what the remediation would tear down.
func (r Remediation) makeRoom(ctx context.Context, b *sop.ApiBridge) error {
	switch {
	case r.GPUs:
		return b.DrainGPU(ctx)
	case r.Empty:
		return b.ClearWorkload(ctx)
	}
	return nil
}

// try applies the remediation until the proof accepts the node, and reports whether it did.
func (r Remediation) try(ctx context.Context, b *sop.ApiBridge, proof func(context.Context, *sop.ApiBridge) (*sop.StepError, error)) (fixed bool, err error) {
	times := r.Tries
	if times == 0 {
		times = tries
	}
	for range times {
		err := stands(r.apply(ctx, b))
		failure, isStep := sop.AsStepError(err)
		if err != nil && (!isStep || unavailable(failure) || !applied(failure)) {
			return false, err
		}
		if isStep {
			b.Suspect(failure.Error())
			continue
		}
		sick, err := proof(ctx, b)
		if sick == nil {
			return err == nil, err
		}
		b.Suspect(sick.Error())
	}
	return false, nil
}

// unavailable reports whether the host has no such operation that it may run: one that was refused without a word on the hardware.
// Trying again would not change it, and the next rung would take the place of what the site wants to be done.
func unavailable(failure *sop.StepError) bool { return failure.Refused && failure.Code == 0 }

// applied reports whether the failure is that of the remediation itself, and not of a drain that went before it.
func applied(failure *sop.StepError) bool {
	return failure.Action == ticket.Remedy || failure.Action == ticket.Repair
}

// apply carries out the remediation once.
func (r Remediation) apply(ctx context.Context, b *sop.ApiBridge) error {
	var args []string
	if r.OnDevice && b.Status().ID != "" {
		args = []string{"--device", b.Status().ID}
	}
	if r.Repair {
		return b.Repair(ctx, r.Name, args...)
	}
	return b.Remedy(ctx, r.Name, args...)
}
