// Package gpu holds the procedures for conditions of GPUs.
package gpu

import (
	"context"

	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/playbook"
)

// resource is what the device plugin registers a GPU as.
const resource = "nvidia.com/gpu"

// Hung is for a GPU that computes nothing while its job believes it does: empty the node and boot it.
func Hung() sop.SOP { return sop.NewProcedure(playbook.RebootLadder) }

// Lost is for a GPU that fell off the bus: only a boot can bring it back.
func Lost() sop.SOP { return sop.NewProcedure(playbook.RebootLadder) }

// Reset is for errors that a reset of the GPU clears: reset it once its pods are gone, boot the node if that fails.
func Reset() sop.SOP { return sop.NewProcedure(playbook.ResetLadder) }

// Replace is for a part that is worn out: nothing that Aegis can do helps, so the node is emptied for those who replace it.
func Replace() sop.SOP { return sop.NewProcedure(playbook.IsolateAndHandOver) }

// Degraded is for a GPU that works, but slower than it should: boot the node when its jobs have ended.
func Degraded() sop.SOP { return sop.NewProcedure(playbook.RebootLadder) }

// Throttled is for a GPU that the hardware slows down: no new work, and people look at its power and its cooling.
func Throttled() sop.SOP { return sop.NewProcedure(playbook.IsolateAndHandOver) }

// Misconfigured is for options of the driver that are not as the site wants them: no new work, and people set them.
func Misconfigured() sop.SOP { return sop.NewProcedure(playbook.IsolateAndHandOver) }

// Watch is for what says something about the future of a GPU and nothing about now.
func Watch() sop.SOP { return sop.NewNotice(playbook.Note) }

// RegisterFailed is for GPUs that the kubelet does not offer: restart the device plugin, boot the node if they stay away.
func RegisterFailed() sop.SOP {
	return sop.NewProcedure(func(ctx context.Context, b *sop.ApiBridge) error {
		return playbook.RestartDevicePlugin(ctx, b, resource)
	})
}

// MetricsHang is for an exporter that tells nothing of GPUs that are there: restart it.
func MetricsHang() sop.SOP { return sop.NewProcedure(playbook.RestartExporter) }
