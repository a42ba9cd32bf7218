// Package procedures is the one table of SOPs, by the names that conditions.yaml and the tickets have for them. It reads as a runbook.
package procedures

import (
	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/baseboard"
	"aegis.io/aegis/sop/disk"
	"aegis.io/aegis/sop/gpfs"
	"aegis.io/aegis/sop/gpu"
	"aegis.io/aegis/sop/ib"
	"aegis.io/aegis/sop/memory"
	"aegis.io/aegis/sop/node"
	"aegis.io/aegis/sop/peermem"
	"aegis.io/aegis/sop/playbook"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/sop/roce"
)

// repair makes the procedure of a play; notice that of one which never touches its node.
func repair(steps playbook.Steps) sop.Factory {
	return func() sop.SOP { return sop.NewProcedure(steps) }
}

// remediation makes the procedure of a play that carries out what the policy of its condition names.
func remediation(how sop.Remediation, steps playbook.Steps) sop.Factory {
	return func() sop.SOP { return sop.NewRemediating(how, steps) }
}

func notice(steps playbook.Steps) sop.Factory { return func() sop.SOP { return sop.NewNotice(steps) } }

// Table returns the procedures. A play that serves many conditions is named as it is, with what is special about the condition beside
// it.
func Table() sop.Table {
	return sop.Table{
		sop.ExhaustedSOP: repair(playbook.Exhausted), // A node that has used up its reboots is isolated and left to people.
		policy.NoteSOP:   notice(playbook.Note),      // What has not come often enough to be acted on is only written down.

		"node/cordon":          repair(playbook.VerifyCordoned), // Aegis cordoned it and nobody works on it: a healthcheck decides.
		"node/frequent-down":   repair(playbook.RebootLadder),   // It keeps leaving the cluster, and is booted once.
		"node/included":        repair(playbook.VerifyCordoned), // Whatever people did to a node that they had excluded, it has to prove that it is fit.
		"node/kubelet":         repair(node.Kubelet),
		"node/not-ready":       repair(playbook.AwaitReady),        // A silent kubelet: wait, isolate, wait longer, return it once it is ready and healthy.
		"node/restarted":       notice(playbook.Note),              // It has booted by itself.
		"node/terminating-pod": repair(playbook.IsolateAndWait),    // Never by force: what still runs would go on without its Pod.
		"process/stuck":        repair(playbook.RebootLadder),      // Only a boot ends such a process; it waits for the jobs.
		"system/high-load":     notice(playbook.Note),              // The load says little by itself.
		"system/panic":         repair(playbook.ExamineThenReturn), // Back from a kernel panic: keep the traces.

		"baseboard/critical":      repair(baseboard.Critical),
		"cpu/pressure":            repair(playbook.AwaitRelief),        // Processors without idle time.
		"cpu/unhealthy":           repair(playbook.IsolateAndHandOver), // A broken processor; the node is powered off.
		"disk/pressure":           repair(disk.Pressure),
		"disk/unhealthy":          repair(playbook.IsolateAndHandOver), // A broken disk.
		"memory/kubelet-pressure": repair(memory.KubeletPressure),
		"memory/pressure":         repair(playbook.AwaitRelief),        // A node that runs out of memory.
		"memory/unhealthy":        repair(playbook.IsolateAndHandOver), // Broken memory; the node is powered off.

		"gpu/degraded":        repair(playbook.RebootLadder), // It works, but slower than it should: the boot waits for the jobs.
		"gpu/fabric-manager":  repair(gpu.FabricManager),
		"gpu/hung":            repair(playbook.RebootLadder),       // It computes nothing while its job believes that it does.
		"gpu/lost":            repair(playbook.RebootLadder),       // Only a boot brings back what fell off the bus.
		"gpu/metrics-hang":    repair(playbook.RestartExporter),    // The exporter tells nothing of GPUs that are there.
		"gpu/misconfigured":   repair(playbook.IsolateAndHandOver), // People set options of the driver.
		"gpu/persistence":     repair(gpu.Persistence),
		"gpu/register-failed": repair(gpu.RegisterFailed),
		"gpu/replace":         repair(playbook.IsolateAndHandOver), // Worn out: nothing that Aegis can do helps.
		"gpu/reset":           repair(playbook.ResetLadder),        // Errors that a reset of the GPU clears.
		"gpu/throttled":       repair(playbook.IsolateAndHandOver), // The hardware slows it down: people look at its power and its cooling.
		"gpu/watch":           notice(playbook.Note),               // It says something about the future of a GPU and nothing about now.
		"gpu/xid":             repair(gpu.XID),
		"peermem/configure":   repair(peermem.Configure),

		"gpfs/deadlock":    notice(playbook.Note), // Restarting the daemon is a decision of people.
		"gpfs/down":        repair(gpfs.Down),
		"gpfs/inactive":    repair(gpfs.Inactive),
		"gpfs/mount-lost":  repair(gpfs.MountLost),
		"gpfs/not-healthy": repair(playbook.IsolateAndHandOver), // Its configuration or its network is wrong.
		"gpfs/test-failed": repair(playbook.IsolateAndWait),     // It often passes the test later, so people are called after a while.

		// What a site names in the policy of its condition: an executable of its own, or what is built in and serves no condition.
		"host/remediate":          remediation(sop.RemediatesIsolated, playbook.Remediate),
		"host/remediate-in-place": remediation(sop.RemediatesInPlace, playbook.RemediateInPlace),

		"ib/down":            repair(playbook.IsolateAndHandOver), // People look at cable, switch and subnet manager.
		"ib/driver":          repair(ib.Driver),
		"ib/errors":          notice(playbook.Note),               // Counters grow while the link works.
		"ib/link-flapping":   repair(playbook.IsolateAndHandOver), // Once the jobs have ended, the network team looks at the cable.
		"ib/lost":            repair(ib.Lost),
		"ib/misconfigured":   repair(playbook.IsolateAndHandOver), // People set it.
		"ib/register-failed": repair(ib.RegisterFailed),
		"ib/slow-pcie":       repair(playbook.RebootLadder),       // A boot trains the PCIe link of the adapter anew, once the jobs have ended.
		"ib/slow-port":       repair(playbook.IsolateAndHandOver), // Once the jobs have ended, the network team looks at cable and peer.

		"network/link-down":     notice(playbook.Notify),             // One link of a bond that still works.
		"network/link-flapping": repair(playbook.IsolateAndHandOver), // The network team looks at the cable.
		"network/tx-timeout":    repair(playbook.RebootLadder),       // A boot loads the firmware of the adapter anew.
		"network/watch":         notice(playbook.Note),               // Mostly a matter of the network around the node.
		"roce/device-broken":    repair(playbook.IsolateAndHandOver), // The adapter is gone or dead.
		"roce/host-offline":     repair(playbook.WaitThenEvacuate),   // Jobs that do not need the links may go on for a while.
		"roce/label-missing":    notice(playbook.NotifyIfLasting),    // Whoever sets the label that schedulers need may be late.
		"roce/misconfigured":    repair(playbook.IsolateAndHandOver), // People set addresses, routes and virtual functions.
		"roce/register-failed":  repair(roce.RegisterFailed),
	}
}
