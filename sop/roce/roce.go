// Package roce holds the procedures for conditions of RoCE, RDMA over Ethernet.
package roce

import (
	"context"

	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/playbook"
)

// DeviceBroken is for an adapter that is gone or dead: empty the node and leave it to people.
func DeviceBroken() sop.SOP { return sop.NewProcedure(playbook.IsolateAndHandOver) }

// HostOffline is for links that are down: jobs that do not need them may go on for a while, then the node is emptied for people.
func HostOffline() sop.SOP { return sop.NewProcedure(playbook.WaitThenEvacuate) }

// Misconfigured is for addresses, routes and virtual functions that are not as they should be: no new work, and people set them.
func Misconfigured() sop.SOP { return sop.NewProcedure(playbook.IsolateAndHandOver) }

// LabelMissing is for a label that schedulers need: whoever sets it may be late, so people are told after a while.
func LabelMissing() sop.SOP { return sop.NewNotice(playbook.TellIfLasting) }

// RegisterFailed is for virtual functions that the kubelet does not offer: restart the device plugin, boot the node if they stay away.
func RegisterFailed() sop.SOP {
	return sop.NewProcedure(func(ctx context.Context, b *sop.ApiBridge) error {
		// The names of the resources are the site's, so the alert says when they are back.
		return playbook.RestartDevicePlugin(ctx, b, "")
	})
}
