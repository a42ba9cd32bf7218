// Package storage holds the procedures of a site for its parallel file system.
package storage

import (
	"context"

	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/playbook"
)

// RemountSOP names the procedure in conditions.yaml.
const RemountSOP = "storage/remount"

// NewRemount makes the procedure of one incident.
func NewRemount() sop.SOP { return sop.NewProcedure(Remount) }

// Remount is for a file system that is not mounted any more. Pods that use it fail already, so it is mounted under them first; an
// executable of the site on its nodes does that. If it does not stay mounted, the node is isolated, emptied and booted.
func Remount(ctx context.Context, b *sop.ApiBridge) error {
	mount := playbook.Remediation{Name: "RemountLustre", OnDevice: true, Tries: 1}
	return mount.InPlace(ctx, b, playbook.RebootLadder)
}
