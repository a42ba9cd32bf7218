// Package memory holds the procedures for conditions of memory.
package memory

import (
	"context"

	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/playbook"
)

// Pressure is for a node that runs out of memory: keep new pods away until the pressure has gone.
func Pressure() sop.SOP { return sop.NewProcedure(relieve) }

// KubeletPressure is for pods that use nearly all of their memory: drop the caches, once, and keep new pods away if that is not it.
func KubeletPressure() sop.SOP {
	return sop.NewProcedure(func(ctx context.Context, b *sop.ApiBridge) error {
		return playbook.Remediation{Name: "DropCache", Tries: 1}.InPlace(ctx, b, relieve)
	})
}

// Unhealthy is for memory that is broken: empty the node, power it off, and leave it to people.
func Unhealthy() sop.SOP { return sop.NewProcedure(playbook.IsolateAndHandOver) }

func relieve(ctx context.Context, b *sop.ApiBridge) error { return playbook.RelievePressure(ctx, b) }
