// Package gpu holds the runbooks for conditions of GPUs.
package gpu

import (
	"context"

	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/playbook"
)

// RegisterFailed is for GPUs that the kubelet does not offer: restart the device plugin, boot the node if they stay away.
func RegisterFailed(ctx context.Context, b *sop.ApiBridge) error {
	return playbook.RestartDevicePlugin(ctx, b, "nvidia.com/gpu")
}

// FabricManager is for NVLink switches that nobody manages: restart the fabric manager once the jobs that it would kill are gone,
// boot the node if that fails.
func FabricManager(ctx context.Context, b *sop.ApiBridge) error {
	restart := playbook.Remediation{Name: "RestartFabricManager", GPUs: true}
	return restart.Isolated(ctx, b, playbook.ClimbEmpty)
}

// Persistence is for a driver that lets go of idle GPUs: switch the persistence mode on, under the workload.
func Persistence(ctx context.Context, b *sop.ApiBridge) error {
	enable := playbook.Remediation{Name: "EnableGpuPersistence"}
	return enable.InPlace(ctx, b, playbook.IsolateAndHandOver)
}
