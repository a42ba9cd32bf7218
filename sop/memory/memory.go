// Package memory holds the runbooks for conditions of memory.
package memory

import (
	"context"

	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/playbook"
)

// KubeletPressure is for pods that use nearly all of their memory: drop the caches, once, and keep new pods away if that is not it.
func KubeletPressure(ctx context.Context, b *sop.ApiBridge) error {
	drop := playbook.Remediation{Name: "DropCache", Tries: 1}
	return drop.InPlace(ctx, b, playbook.AwaitRelief)
}
