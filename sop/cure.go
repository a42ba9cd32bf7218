package sop

import (
	"context"
	"errors"
)

// Cure is something that is done on a node that needs no boot.
type Cure struct {
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

// cureTries is how often a cure is tried that does not say so.
const cureTries = 2

// apply carries out the cure once.
func (c Cure) apply(ctx context.Context, b *ApiBridge) error {
	var args []string
	if c.OnDevice && b.Status().ID != "" {
		args = []string{"--device", b.Status().ID}
	}
	if c.Repair {
		return b.Repair(ctx, c.Name, args...)
	}
	return b.Remedy(ctx, c.Name, args...)
}

// try applies the cure until the proof accepts the node, and reports whether it did.
func (c Cure) try(ctx context.Context, b *ApiBridge, proof func(context.Context, *ApiBridge) (*StepError, error)) (cured bool, err error) {
	tries := c.Tries
	if tries == 0 {
		tries = cureTries
	}
	for range tries {
		err := c.apply(ctx, b)
		failure, isStep := stepFailure(err)
		if err != nil && !isStep && !errors.Is(err, ErrWithdrawn) {
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

// InPlace applies the cure under the workload of a node that stays in service, and goes on otherwise if it does not help.
func (c Cure) InPlace(ctx context.Context, b *ApiBridge, otherwise func(context.Context, *ApiBridge) error) error {
	cured, err := c.try(ctx, b, gone)
	switch {
	case err != nil:
		return err
	case cured && b.hasCordoned():
		return VerifyCordoned(ctx, b)
	case cured:
		return b.Resolve(ctx)
	}
	return otherwise(ctx, b)
}

// Isolated applies the cure to the isolated node, and goes on otherwise if it does not help.
func (c Cure) Isolated(ctx context.Context, b *ApiBridge, otherwise func(context.Context, *ApiBridge) error) error {
	if err := Isolate(ctx, b); err != nil {
		return err
	}
	if err := c.makeRoom(ctx, b); err != nil {
		if errors.Is(err, ErrWithdrawn) {
			return ReturnToService(ctx, b)
		}
		return err
	}
	cured, err := c.try(ctx, b, prove)
	switch {
	case err != nil:
		return err
	case cured:
		return finish(ctx, b)
	}
	return otherwise(ctx, b)
}

// makeRoom clears what the cure would tear down.
func (c Cure) makeRoom(ctx context.Context, b *ApiBridge) error {
	switch {
	case c.GPUs:
		return b.DrainGPU(ctx)
	case c.Empty:
		return b.ClearWorkload(ctx)
	}
	return nil
}

// gone finds out whether the condition has gone at its source.
func gone(ctx context.Context, b *ApiBridge) (*StepError, error) {
	err := b.Verify(ctx)
	if sick, isStep := stepFailure(err); isStep && !sick.Inconclusive() {
		return sick, nil
	}
	return nil, err
}
