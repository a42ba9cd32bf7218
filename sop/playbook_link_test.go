package sop_test

import (
	"context"
	"os"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/gpu"
	"aegis.io/aegis/sop/playbook"
)

// TestMain gives the tests inside the package the plays of package playbook, which imports it.
func TestMain(m *testing.M) {
	link()
	os.Exit(m.Run())
}

func link() {
	p := &sop.Playbook
	p.RebootLadder, p.ResetLadder, p.AwaitReady = playbook.RebootLadder, playbook.ResetLadder, playbook.AwaitReady
	p.IsolateAndHandOver, p.VerifyCordoned, p.Exhausted = playbook.IsolateAndHandOver, playbook.VerifyCordoned, playbook.Exhausted
	p.XID = gpu.XID
	p.ExamineThenReturn, p.Note, p.Tell = playbook.ExamineThenReturn, playbook.Note, playbook.Notify
	p.RelievePressure = func(ctx context.Context, b *sop.ApiBridge) error { return playbook.RelievePressure(ctx, b) }
	p.Remedy = func(name string) playbook.Steps {
		return func(ctx context.Context, b *sop.ApiBridge) error {
			return playbook.Remediation{Name: name}.Isolated(ctx, b, playbook.Climb)
		}
	}
	p.RestartDevicePlugin = func(resource corev1.ResourceName) playbook.Steps {
		return func(ctx context.Context, b *sop.ApiBridge) error {
			return playbook.RestartDevicePlugin(ctx, b, resource)
		}
	}
}
