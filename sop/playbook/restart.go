package playbook

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop"
	"aegis.io/aegis/ticket"
)

// RestartDevicePlugin restarts the pod that registers the node's devices, which disturbs no workload, and goes on to the
// reboot ladder if the devices do not come back. A pod that cannot be restarted is no matter of the node.
func RestartDevicePlugin(ctx context.Context, b *sop.ApiBridge, resource corev1.ResourceName) error {
	for range tries {
		err := b.RestartPod(ctx, b.Policy().Selector, resource)
		if err == nil {
			err = b.Verify(ctx)
		}
		failure, isStep := sop.AsStepError(err)
		switch {
		case err == nil, errors.Is(err, sop.ErrWithdrawn):
			return b.Resolve(ctx)
		case !isStep, failure.Action == ticket.RestartPod:
			return err
		}
		b.Suspect(failure.Error())
	}
	b.Clear(prom.WorkloadDrain)
	return RebootLadder(ctx, b)
}

// RestartExporter restarts a pod of the node's monitoring. What it does not bring back is no matter of the node.
func RestartExporter(ctx context.Context, b *sop.ApiBridge) error {
	err := b.RestartPod(ctx, b.Policy().Selector, "")
	if err == nil {
		err = b.Verify(ctx)
	}
	if err := stands(err); err != nil {
		return err
	}
	return b.Resolve(ctx)
}
