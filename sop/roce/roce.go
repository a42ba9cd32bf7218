// Package roce holds the runbooks for conditions of RoCE, RDMA over Ethernet.
package roce

import (
	"context"

	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/playbook"
)

// RegisterFailed is for virtual functions that the kubelet does not offer: restart the device plugin, boot the node if they stay
// away. The names of the resources are the site's, so the alert says when they are back.
func RegisterFailed(ctx context.Context, b *sop.ApiBridge) error {
	return playbook.RestartDevicePlugin(ctx, b, "")
}
