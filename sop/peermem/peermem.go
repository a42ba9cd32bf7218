// Package peermem holds the procedures for the kernel module nvidia-peermem.
package peermem

import (
	"context"

	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/playbook"
)

// Configure is for a module that is not loaded, or would not be after a boot: load it and note it for the next boot, under the
// workload.
func Configure() sop.SOP {
	return sop.NewProcedure(func(ctx context.Context, b *sop.ApiBridge) error {
		return playbook.Remediation{Name: "ConfigPeerMem"}.InPlace(ctx, b, playbook.IsolateAndHandOver)
	})
}
