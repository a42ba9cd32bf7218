package main

import (
	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/baseboard"
	"aegis.io/aegis/sop/cpu"
	"aegis.io/aegis/sop/disk"
	"aegis.io/aegis/sop/gpfs"
	"aegis.io/aegis/sop/gpu"
	"aegis.io/aegis/sop/ib"
	"aegis.io/aegis/sop/memory"
	"aegis.io/aegis/sop/network"
	"aegis.io/aegis/sop/node"
	"aegis.io/aegis/sop/peermem"
	"aegis.io/aegis/sop/process"
	"aegis.io/aegis/sop/roce"
	"aegis.io/aegis/sop/system"
)

// procedures is the one table of SOP plugins. The names are those of conditions.yaml.
func procedures() sop.Table {
	return sop.Table{
		"baseboard/critical":      baseboard.Critical,
		"cpu/pressure":            cpu.Pressure,
		"cpu/unhealthy":           cpu.Unhealthy,
		"disk/pressure":           disk.Pressure,
		"disk/unhealthy":          disk.Unhealthy,
		"gpfs/deadlock":           gpfs.Deadlock,
		"gpfs/down":               gpfs.Down,
		"gpfs/inactive":           gpfs.Inactive,
		"gpfs/mount-lost":         gpfs.MountLost,
		"gpfs/not-healthy":        gpfs.NotHealthy,
		"gpfs/test-failed":        gpfs.TestFailed,
		"gpu/degraded":            gpu.Degraded,
		"gpu/fabric-manager":      gpu.FabricManager,
		"gpu/hung":                gpu.Hung,
		"gpu/lost":                gpu.Lost,
		"gpu/metrics-hang":        gpu.MetricsHang,
		"gpu/misconfigured":       gpu.Misconfigured,
		"gpu/persistence":         gpu.Persistence,
		"gpu/register-failed":     gpu.RegisterFailed,
		"gpu/replace":             gpu.Replace,
		"gpu/reset":               gpu.Reset,
		"gpu/throttled":           gpu.Throttled,
		"gpu/watch":               gpu.Watch,
		"gpu/xid":                 gpu.XID,
		"ib/down":                 ib.Down,
		"ib/driver":               ib.Driver,
		"ib/errors":               ib.Errors,
		"ib/link-flapping":        ib.LinkFlapping,
		"ib/lost":                 ib.Lost,
		"ib/misconfigured":        ib.Misconfigured,
		"ib/register-failed":      ib.RegisterFailed,
		"ib/slow-pcie":            ib.SlowPCIe,
		"ib/slow-port":            ib.SlowPort,
		"memory/kubelet-pressure": memory.KubeletPressure,
		"memory/pressure":         memory.Pressure,
		"memory/unhealthy":        memory.Unhealthy,
		"network/link-down":       network.LinkDown,
		"network/link-flapping":   network.LinkFlapping,
		"network/tx-timeout":      network.TxTimeout,
		"network/watch":           network.Watch,
		"node/cordon":             node.Cordoned,
		"node/frequent-down":      node.FrequentDown,
		"node/included":           node.Included,
		"node/kubelet":            node.Kubelet,
		"node/not-ready":          node.NotReady,
		"node/restarted":          node.Restarted,
		"node/terminating-pod":    node.TerminatingPod,
		"peermem/configure":       peermem.Configure,
		"process/stuck":           process.Stuck,
		"roce/device-broken":      roce.DeviceBroken,
		"roce/host-offline":       roce.HostOffline,
		"roce/label-missing":      roce.LabelMissing,
		"roce/misconfigured":      roce.Misconfigured,
		"roce/register-failed":    roce.RegisterFailed,
		"system/high-load":        system.HighLoad,
		"system/panic":            system.Panic,
		sop.ExhaustedSOP:          node.AttemptsExhausted,
		sop.NoteSOP:               node.Noted,
	}
}
