// Package gpu holds the procedures for conditions of GPUs.
package gpu

import (
	"context"

	"aegis.io/aegis/sop"
)

// resource is what the device plugin registers a GPU as.
const resource = "nvidia.com/gpu"

// Hung is for a GPU that computes nothing while its job believes it does: empty the node and boot it.
func Hung() sop.SOP { return sop.NewProcedure(sop.RebootLadder) }

// Lost is for a GPU that fell off the bus: only a boot can bring it back.
func Lost() sop.SOP { return sop.NewProcedure(sop.RebootLadder) }

// Reset is for errors that a reset of the GPU clears: reset it once its pods are gone, boot the node if that fails.
func Reset() sop.SOP { return sop.NewProcedure(sop.ResetLadder) }

// RegisterFailed is for GPUs that the kubelet does not offer: restart the device plugin, boot the node if they stay away.
func RegisterFailed() sop.SOP {
	return sop.NewProcedure(func(ctx context.Context, b *sop.ApiBridge) error {
		return sop.RestartDevicePlugin(ctx, b, resource)
	})
}
