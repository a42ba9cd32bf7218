// Package ib holds the runbooks for conditions of InfiniBand.
package ib

import (
	"context"

	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/playbook"
)

// Lost is for an adapter that fell off the bus: empty the node and leave it to people, or boot it where the policy allows that.
func Lost(ctx context.Context, b *sop.ApiBridge) error {
	if b.Policy().MaxReboots > 0 {
		return playbook.RebootLadder(ctx, b)
	}
	return playbook.IsolateAndHandOver(ctx, b)
}

// Driver is for an adapter without its driver: load it anew on the empty node, and leave the node to people if that fails.
func Driver(ctx context.Context, b *sop.ApiBridge) error {
	reload := playbook.Remediation{Name: "ReloadIBDriver", OnDevice: true, Empty: true, Tries: 1}
	return reload.Isolated(ctx, b, playbook.LeaveToPeople)
}

// RegisterFailed is for adapters that the kubelet does not offer: restart the device plugin, boot the node if they stay away. The
// names of the resources are the site's, so the alert says when they are back.
func RegisterFailed(ctx context.Context, b *sop.ApiBridge) error {
	return playbook.RestartDevicePlugin(ctx, b, "")
}
