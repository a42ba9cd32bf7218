// Package disk holds the runbooks for conditions of local disks.
package disk

import (
	"context"

	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/playbook"
)

// Pressure is for a disk that is full: keep new pods away, remove images that nothing uses, and wait until there is room.
func Pressure(ctx context.Context, b *sop.ApiBridge) error {
	return playbook.RelievePressure(ctx, b, playbook.Remediation{Name: "PruneImages"})
}
