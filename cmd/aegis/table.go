package main

import (
	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/gpu"
	"aegis.io/aegis/sop/ib"
	"aegis.io/aegis/sop/memory"
	"aegis.io/aegis/sop/network"
	"aegis.io/aegis/sop/node"
)

// procedures is the one table of SOP plugins. The names are those of conditions.yaml.
func procedures() sop.Table {
	return sop.Table{
		"gpu/hung":            gpu.Hung,
		"gpu/lost":            gpu.Lost,
		"gpu/register-failed": gpu.RegisterFailed,
		"gpu/reset":           gpu.Reset,
		"ib/link-flapping":    ib.LinkFlapping,
		"memory/pressure":     memory.Pressure,
		"network/link-down":   network.LinkDown,
		"node/cordon":         node.Cordoned,
		"node/kubelet":        node.Kubelet,
		"node/not-ready":      node.NotReady,
		sop.ExhaustedSOP:      node.AttemptsExhausted,
	}
}
