// Package gpfs holds the runbooks for conditions of GPFS (IBM Storage Scale). Pods that use a dead file system hang and do not
// drain, so the file system is repaired under them.
package gpfs

import (
	"context"

	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/playbook"
)

// Down is for a daemon that does not run: start it, twice, and leave the node to people if it does not stay.
func Down(ctx context.Context, b *sop.ApiBridge) error {
	start := playbook.Remediation{Name: "StartGpfs", Repair: true}
	return start.Isolated(ctx, b, playbook.LeaveToPeople)
}

// Inactive is for a daemon that runs and is no member of the active cluster: start it once. The rest is a matter of the cluster.
func Inactive(ctx context.Context, b *sop.ApiBridge) error {
	start := playbook.Remediation{Name: "StartGpfs", Repair: true, Tries: 1}
	return start.Isolated(ctx, b, playbook.LeaveToPeople)
}

// MountLost is for a file system that is not mounted: mount it, twice, and boot the node if that does not help.
func MountLost(ctx context.Context, b *sop.ApiBridge) error {
	mount := playbook.Remediation{Name: "MountGpfs", Repair: true, OnDevice: true}
	return mount.Isolated(ctx, b, playbook.Climb)
}
