// Package peermem holds the runbooks for the kernel module nvidia-peermem.
package peermem

import (
	"context"

	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/playbook"
)

// Configure is for a module that is not loaded, or would not be after a boot: load it and note it for the next boot, under the
// workload.
func Configure(ctx context.Context, b *sop.ApiBridge) error {
	load := playbook.Remediation{Name: "ConfigPeerMem"}
	return load.InPlace(ctx, b, playbook.IsolateAndHandOver)
}
