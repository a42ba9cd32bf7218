package playbook

import (
	"cmp"
	"context"
	"fmt"

	"aegis.io/aegis/sop"
	"aegis.io/aegis/ticket"
)

// Remediate applies the remedy or the repair that the policy of the condition names to the isolated node, once the workload has gone
// as the policy says. What it does not help, a boot may, where the policy allows one.
func Remediate(ctx context.Context, b *sop.ApiBridge) error {
	r, err := named(b)
	if err != nil {
		return err
	}
	if b.Policy().MaxReboots > 0 {
		return r.Isolated(ctx, b, ClimbEmpty)
	}
	return r.Isolated(ctx, b, LeaveToPeople)
}

// RemediateInPlace applies it under the workload of a node that stays in service. A node that it does not help is isolated and left to
// people.
func RemediateInPlace(ctx context.Context, b *sop.ApiBridge) error {
	r, err := named(b)
	if err != nil {
		return err
	}
	return r.InPlace(ctx, b, IsolateAndHandOver)
}

// named returns what the policy of the condition names. It may name nothing where a ticket outlives a change of the catalogue.
func named(b *sop.ApiBridge) (Remediation, error) {
	p := b.Policy()
	if p.Remedy == "" && p.Repair == "" {
		why := fmt.Sprintf("the policy of %s names no remedy and no repair", b.Status().Condition)
		return Remediation{}, &sop.StepError{Action: ticket.Remedy, Status: ticket.Canceled, Message: why}
	}
	return Remediation{Name: cmp.Or(p.Remedy, p.Repair), Repair: p.Remedy == "", OnDevice: true, Empty: true}, nil
}
