// Package cpu holds the procedures for conditions of processors.
package cpu

import (
	"context"

	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/playbook"
)

// Pressure is for processors without idle time: keep new pods away until the pressure has gone.
func Pressure() sop.SOP {
	return sop.NewProcedure(func(ctx context.Context, b *sop.ApiBridge) error { return playbook.RelievePressure(ctx, b) })
}

// Unhealthy is for a processor that is broken: empty the node, power it off, and leave it to people.
func Unhealthy() sop.SOP { return sop.NewProcedure(playbook.IsolateAndHandOver) }
