package gpu

import (
	"context"

	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/playbook"
)

// FabricManager is for NVLink switches that nobody manages: restart the fabric manager once the jobs that it would kill are gone,
// boot the node if that fails.
func FabricManager() sop.SOP {
	return sop.NewProcedure(func(ctx context.Context, b *sop.ApiBridge) error {
		return playbook.Remediation{Name: "RestartFabricManager", GPUs: true}.Isolated(ctx, b, playbook.ClimbEmpty)
	})
}

// Persistence is for a driver that lets go of idle GPUs: switch the persistence mode on, under the workload.
func Persistence() sop.SOP {
	return sop.NewProcedure(func(ctx context.Context, b *sop.ApiBridge) error {
		return playbook.Remediation{Name: "EnableGpuPersistence"}.InPlace(ctx, b, playbook.IsolateAndHandOver)
	})
}
