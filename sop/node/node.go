// Package node holds the runbooks for conditions of a node as a whole.
package node

import (
	"context"

	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/playbook"
)

// Kubelet is for a kubelet that fails to create pods: restart it, and boot the node if that does not help.
func Kubelet(ctx context.Context, b *sop.ApiBridge) error {
	restart := playbook.Remediation{Name: "RestartKubelet"}
	return restart.Isolated(ctx, b, playbook.Climb)
}
