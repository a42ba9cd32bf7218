// Package gpfs holds the procedures for conditions of GPFS (IBM Storage Scale). Pods that use a dead file system hang and do not
// drain, so the file system is repaired under them.
package gpfs

import (
	"context"

	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/playbook"
)

// Down is for a daemon that does not run: start it, twice, and leave the node to people if it does not stay.
func Down() sop.SOP {
	return sop.NewProcedure(func(ctx context.Context, b *sop.ApiBridge) error {
		return start().Isolated(ctx, b, playbook.LeaveToPeople)
	})
}

// Inactive is for a daemon that runs and is no member of the active cluster: start it once. The rest is a matter of the cluster.
func Inactive() sop.SOP {
	return sop.NewProcedure(func(ctx context.Context, b *sop.ApiBridge) error {
		once := start()
		once.Tries = 1
		return once.Isolated(ctx, b, playbook.LeaveToPeople)
	})
}

// MountLost is for a file system that is not mounted: mount it, twice, and boot the node if that does not help.
func MountLost() sop.SOP {
	return sop.NewProcedure(func(ctx context.Context, b *sop.ApiBridge) error {
		return mount().Isolated(ctx, b, playbook.Climb)
	})
}

// NotHealthy is for what is wrong with the configuration or the network of GPFS: no new work, and people look at it.
func NotHealthy() sop.SOP { return sop.NewProcedure(playbook.IsolateAndHandOver) }

// TestFailed is for a file system that does not pass a test: it often does later, so people are called after a while.
func TestFailed() sop.SOP { return sop.NewProcedure(playbook.IsolateAndWait) }

// Deadlock is for requests that wait for very long: restarting the daemon is a decision of people.
func Deadlock() sop.SOP { return sop.NewNotice(playbook.Note) }

func start() playbook.Remediation { return playbook.Remediation{Name: "StartGpfs", Repair: true} }

func mount() playbook.Remediation {
	return playbook.Remediation{Name: "MountGpfs", Repair: true, OnDevice: true}
}
