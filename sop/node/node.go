// Package node holds the procedures for conditions of a node as a whole.
package node

import (
	"context"

	"aegis.io/aegis/sop"
)

// NotReady is for a node whose kubelet is silent: wait, isolate, wait longer, and return it once it is ready and healthy.
func NotReady() sop.SOP { return sop.NewProcedure(sop.AwaitReady) }

// Cordoned is for a node that Aegis cordoned and nobody works on: a healthcheck decides whether it is returned.
func Cordoned() sop.SOP { return sop.NewProcedure(sop.VerifyCordoned) }

// AttemptsExhausted is for a node that has used up its reboots: isolate it and leave it to people.
func AttemptsExhausted() sop.SOP { return sop.NewProcedure(sop.Exhausted) }

// Kubelet is for a kubelet that fails to create pods: restart it, and boot the node if that does not help.
func Kubelet() sop.SOP {
	return sop.NewProcedure(func(ctx context.Context, b *sop.ApiBridge) error {
		return sop.RemedyThenReboot(ctx, b, "RestartKubelet")
	})
}
