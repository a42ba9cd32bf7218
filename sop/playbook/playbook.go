// Package playbook holds the ladders and remediations that procedures are made of. It is written on the exported API of package sop
// alone, so that a plugin from outside can do all that the product's own procedures can.
//
// A step that fails ends a procedure with its error, and the dispatcher hands the node over to the team that can help, with the error
// as the reason. Only what leads elsewhere is spelled out here.
package playbook

import (
	"context"
	"errors"

	"aegis.io/aegis/sop"
)

// Steps is one play: what a procedure does, or goes on with.
type Steps = func(ctx context.Context, b *sop.ApiBridge) error

// tries is how often something is tried in place before the next rung.
const tries = 2

// isStepError reports whether err says that a step was tried and did not succeed.
func isStepError(err error) bool {
	failure, is := sop.AsStepError(err)
	return is && failure != nil
}

// stands returns err unless it only says that the condition has gone.
func stands(err error) error {
	if errors.Is(err, sop.ErrWithdrawn) {
		return nil
	}
	return err
}
