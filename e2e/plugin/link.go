// Package plugin is a procedure that is not part of the product. It is in a module of its own, so that it can only use what the
// product exports.
package plugin

import (
	"context"
	"errors"
	"fmt"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/playbook"
)

// LinkSOP names the procedure in conditions.yaml.
const LinkSOP = "site/link"

// Link repairs a link between GPUs that a site has found to be down with a check of its own: reset the GPUs, boot the node, and leave
// it to people when neither helps.
type Link struct{ bridge *sop.ApiBridge }

var _ sop.SOP = (*Link)(nil)

// New makes the procedure of one incident.
func New() sop.SOP { return &Link{} }

// CreateInstance keeps the bridge.
func (l *Link) CreateInstance(_ context.Context, bridge *sop.ApiBridge) error {
	l.bridge = bridge
	return nil
}

// Evaluate asks whether the condition still holds and may be acted on.
func (l *Link) Evaluate(ctx context.Context, _ string, _ *prom.AegisNodeStatus) bool {
	return l.bridge.Confirm(ctx)
}

// Execute climbs the ladder on the isolated node. It is called again from the top after a restart.
func (l *Link) Execute(ctx context.Context, _ string, _ *prom.AegisNodeStatus) error {
	if err := playbook.Isolate(ctx, l.bridge); err != nil {
		return err
	}
	rungs := []playbook.Steps{reset}
	if l.bridge.RebootsLeft() {
		rungs = append(rungs, reboot)
	}
	for _, rung := range rungs {
		fit, err := try(ctx, l.bridge, rung)
		if err != nil {
			return err
		}
		if fit {
			return l.bridge.Resolve(ctx)
		}
	}
	why := fmt.Sprintf("nothing has helped: %s; %s", sop.Describe(l.bridge.Status()), l.bridge.Suspicion())
	return l.bridge.HandOver(ctx, l.bridge.Policy().Team, why)
}

// try takes one rung, and reports whether the node has proven to be fit, and is back in service.
func try(ctx context.Context, b *sop.ApiBridge, rung playbook.Steps) (fit bool, err error) {
	err = rung(ctx, b)
	sick, failed := sop.AsStepError(err)
	switch {
	case errors.Is(err, sop.ErrWithdrawn), err == nil:
		sick, err = playbook.Return(ctx, b)
	case failed:
		err = nil
	}
	if sick != nil {
		b.Suspect(sick.Error())
	}
	return sick == nil, err
}

// reset resets the GPUs once the pods that hold one have gone.
func reset(ctx context.Context, b *sop.ApiBridge) error {
	if err := b.DrainGPU(ctx); err != nil {
		return err
	}
	return b.ResetGPU(ctx)
}

// reboot boots the node once it is empty.
func reboot(ctx context.Context, b *sop.ApiBridge) error {
	if err := b.Drain(ctx); err != nil {
		return err
	}
	return b.Reboot(ctx)
}
