// Package ib holds the procedures for conditions of InfiniBand.
package ib

import (
	"context"

	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/playbook"
)

// Lost is for an adapter that fell off the bus: empty the node and leave it to people, or boot it where the policy allows that.
func Lost() sop.SOP {
	return sop.NewProcedure(func(ctx context.Context, b *sop.ApiBridge) error {
		if b.Policy().MaxReboots > 0 {
			return playbook.RebootLadder(ctx, b)
		}
		return playbook.IsolateAndHandOver(ctx, b)
	})
}

// Driver is for an adapter without its driver: load it anew on the empty node, and leave the node to people if that fails.
func Driver() sop.SOP {
	return sop.NewProcedure(func(ctx context.Context, b *sop.ApiBridge) error {
		return playbook.Remediation{Name: "ReloadIBDriver", OnDevice: true, Empty: true, Tries: 1}.Isolated(ctx, b, playbook.LeaveToPeople)
	})
}

// Down is for a port without a working link: empty the node, and let people look at cable, switch and subnet manager.
func Down() sop.SOP { return sop.NewProcedure(playbook.IsolateAndHandOver) }

// SlowPort is for a link below its speed: let the jobs end, then hand cable and peer to the network team.
func SlowPort() sop.SOP { return sop.NewProcedure(playbook.IsolateAndHandOver) }

// SlowPCIe is for an adapter whose PCIe link was trained badly: boot the node when its jobs have ended.
func SlowPCIe() sop.SOP { return sop.NewProcedure(playbook.RebootLadder) }

// Misconfigured is for a setting that is wrong: no new work, and people set it.
func Misconfigured() sop.SOP { return sop.NewProcedure(playbook.IsolateAndHandOver) }

// LinkFlapping is for a link that goes down again and again: let the jobs end, then hand the cable to the network team.
func LinkFlapping() sop.SOP { return sop.NewProcedure(playbook.IsolateAndHandOver) }

// Errors is for counters that grow while the link works.
func Errors() sop.SOP { return sop.NewNotice(playbook.Note) }

// RegisterFailed is for adapters that the kubelet does not offer: restart the device plugin, boot the node if they stay away.
func RegisterFailed() sop.SOP {
	return sop.NewProcedure(func(ctx context.Context, b *sop.ApiBridge) error {
		// The names of the resources are the site's, so the alert says when they are back.
		return playbook.RestartDevicePlugin(ctx, b, "")
	})
}
