// Package node holds the procedures for conditions of a node as a whole.
package node

import (
	"context"

	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/playbook"
)

// NotReady is for a node whose kubelet is silent: wait, isolate, wait longer, and return it once it is ready and healthy.
func NotReady() sop.SOP { return sop.NewProcedure(playbook.AwaitReady) }

// Cordoned is for a node that Aegis cordoned and nobody works on: a healthcheck decides whether it is returned.
func Cordoned() sop.SOP { return sop.NewProcedure(playbook.VerifyCordoned) }

// Included is for a node that people had excluded: whatever they did to it, it has to prove that it is fit.
func Included() sop.SOP { return sop.NewProcedure(playbook.VerifyCordoned) }

// FrequentDown is for a node that keeps leaving the cluster: empty it and boot it, once.
func FrequentDown() sop.SOP { return sop.NewProcedure(playbook.RebootLadder) }

// AttemptsExhausted is for a node that has used up its reboots: isolate it and leave it to people.
func AttemptsExhausted() sop.SOP { return sop.NewProcedure(playbook.Exhausted) }

// Noted is for what is only written down, as events that have not come often enough to be acted on.
func Noted() sop.SOP { return sop.NewNotice(playbook.Note) }

// Kubelet is for a kubelet that fails to create pods: restart it, and boot the node if that does not help.
func Kubelet() sop.SOP {
	return sop.NewProcedure(func(ctx context.Context, b *sop.ApiBridge) error {
		return playbook.Remediation{Name: "RestartKubelet"}.Isolated(ctx, b, playbook.Climb)
	})
}

// TerminatingPod is for pods that do not end: no new work, and people look at them if they do not go. They are never deleted by
// force, because what still runs would go on without its object.
func TerminatingPod() sop.SOP { return sop.NewProcedure(playbook.IsolateAndWait) }

// Restarted is for a node that has booted by itself.
func Restarted() sop.SOP { return sop.NewNotice(playbook.Note) }
