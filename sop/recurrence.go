package sop

import (
	"context"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// A fault may come back while the healthcheck runs, or while nobody leads. The sources have the last word before a node returns.

// recurrence watches whether the condition of an incident is back, or has never gone. Nil stands for one that nothing reports.
type recurrence struct {
	verification
	// verified says that the condition was verified to be gone, so that one which fires is back.
	verified bool
	// vouched says that a person has asked for the repair: no source has to know the node.
	vouched bool
}

// recurrence returns nil where the alert may go on firing by design, or where there is none: it tells of an event or of the cordon itself, or
// a person has asked for a check. What is ordered now counts, not what was when the repair began.
func (i isolator) recurrence() *recurrence {
	status := i.gate.current(i.services.Orders.Last())
	p := status.Policy
	r := &recurrence{
		verification: verification{scene: i.scene, clearFor: p.ClearFor, within: p.VerifyWithin, repaired: i.journal.lastRepair()},
		vouched:      i.healing(),
	}
	t := i.journal.ticket()
	last, made := t.Outcome(ticket.Verify, t.Count(ticket.Verify))
	switch {
	case i.journal.incident.asked():
		return nil
	case made && t.Count(ticket.Verify) > t.Past[ticket.Verify] && last.Status == ticket.Succeeded:
		r.verified = true
		at := last.At
		if now := i.services.Clock.Now(); at.After(now) {
			at = now // By the clock of another process.
		}
		r.clearSince = at.Add(-r.clearFor)
	case p.Once, p.OwnBoot > 0, !policy.Blocks(status):
		return nil
	}
	return r
}

// gone reports whether the node is seen, and the condition is not. One that is back ends the step.
func (r *recurrence) gone(ctx context.Context, c call, late bool) (bool, error) {
	if r == nil {
		return true, nil
	}
	finding := r.since(r.services.Source.Observe(ctx, r.status.Key()))
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	clear := r.observe(finding)
	c.time.nears = !r.clearSince.IsZero()
	switch {
	case finding.Evidence == prom.EvidenceUnknown && r.vouched && !r.verified:
		return true, nil
	case finding.Evidence == prom.EvidenceUnknown:
		return false, c.time.unverifiable(ctx, finding)
	case finding.Evidence == prom.EvidenceFiring && r.verified, finding.Evidence != prom.EvidenceAbsent && late:
		return false, &StepError{
			Status: ticket.Failed, Findings: ticket.Findings{Recurred: true},
			Message: r.status.Condition + " is " + string(finding.Evidence) + " at its source, so the node does not return",
		}
	case late && !clear && r.broken(c):
		return false, r.breaks(c)
	}
	return clear, nil
}
