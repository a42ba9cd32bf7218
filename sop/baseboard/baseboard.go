// Package baseboard holds the runbooks for conditions of the machine around the processors.
package baseboard

import (
	"context"

	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/playbook"
)

// Critical is for a critical sensor: empty the node, power it off, and leave it to people. Power supplies are there twice, so a
// node that lost one stays in service.
func Critical(ctx context.Context, b *sop.ApiBridge) error {
	switch b.Status().ID {
	case "power", "current":
		return playbook.Notify(ctx, b)
	}
	return playbook.IsolateAndHandOver(ctx, b)
}
