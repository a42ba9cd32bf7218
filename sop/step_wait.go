package sop

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// Verify waits until the condition has been gone at its source for as long as the policy says. Time in which the source
// gives no answer proves nothing: it restarts that clock and does not count against the time that verification may take.
func (b *ApiBridge) Verify(ctx context.Context) error {
	return b.VerifyWithin(ctx, b.status.Policy.VerifyWithin)
}

// VerifyWithin is Verify with a time of its own.
func (b *ApiBridge) VerifyWithin(ctx context.Context, within time.Duration) error {
	v := verification{scene: b.scene, clearFor: b.status.Policy.ClearFor, within: within}
	return b.do(ctx, step{action: ticket.Verify, detail: fmt.Sprintf("gone for %s, within %s", v.clearFor, within), act: v.run})
}

// verification adds up what the source said.
type verification struct {
	*scene
	clearFor, within time.Duration
	// repaired is when the last step that may have mended the node ended. What was seen before proves nothing.
	repaired time.Time
	// clearSince is when the node was seen first in the row of answers that the condition is gone.
	clearSince time.Time
	// unknown is when the source gave no answer last.
	unknown time.Time
}

// moreRows is for how long after its time a verification may still be passed, at the least: the row of answers that has begun may take its
// clearFor to the end, and one break more.
const moreRows = 5 * time.Minute

// run asks the source until the condition has been gone for long enough, or the time is up while it holds. One that is gone may take
// its clearFor to the end.
func (v *verification) run(ctx context.Context, c call) (outcome, error) {
	v.repaired = v.journal.lastRepair()
	err := c.time.watch(ctx, v.within, func(ctx context.Context, late bool) (bool, error) {
		held := c.time.told
		finding := v.since(v.services.Source.Observe(ctx, v.status.Key()))
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		clear := v.observe(finding)
		c.time.nears = !v.clearSince.IsZero()
		switch {
		case finding.Evidence == prom.EvidenceUnknown:
			v.unknown = v.services.Clock.Now()
			return false, c.time.unverifiable(ctx, finding)
		case late && v.clearSince.IsZero():
			return false, failed("still %s after %s", finding.Evidence, c.time.spent.Round(time.Second))
		case late && !clear && v.broken(c):
			return false, v.breaks(c)
		case !clear && v.flaps(finding):
			// It still waits for the source, which has answered just now.
			c.time.told = true
		case !held:
			v.services.Verdicts.Set(v.status.Key(), policy.Verdict{Name: policy.VerdictExecute, Reason: "verify: the source says " + string(finding.Evidence)})
		}
		return clear, nil
	})
	return outcome{message: "gone for " + v.clearFor.String()}, err
}

// broken reports whether the row of answers breaks off again and again: it had its time, and more.
func (v *verification) broken(c call) bool {
	return c.time.spent >= v.within+max(moreRows, 2*v.clearFor)
}

func (v *verification) breaks(c call) error {
	return failed("not seen to be gone for %s without a break within %s: the source answers now and then", v.clearFor, c.time.spent.Round(time.Second))
}

// flaps reports whether the answer that the condition is gone may be one of a source that answers now and then.
func (v *verification) flaps(f prom.Finding) bool {
	return f.Evidence == prom.EvidenceAbsent && !v.unknown.IsZero() && v.services.Clock.Since(v.unknown) < v.clearFor
}

// since doubts an answer that rests on what was seen before the repair.
func (v *verification) since(f prom.Finding) prom.Finding {
	if f.Evidence == prom.EvidenceAbsent && f.Seen.Before(v.repaired) {
		f.Evidence = prom.EvidenceUnknown
		f.Reason = "the node was seen last at " + f.Seen.UTC().Format(time.RFC3339) + ", before the repair ended"
	}
	return f
}

// observe takes one answer and reports whether the condition has been gone for long enough, by when the node was seen.
func (v *verification) observe(f prom.Finding) bool {
	if f.Evidence == prom.EvidenceUnknown {
		v.clearSince = time.Time{}
		return false
	}
	if f.Evidence != prom.EvidenceAbsent {
		v.clearSince = time.Time{}
		return false
	}
	if v.clearSince.IsZero() {
		v.clearSince = f.Seen
	}
	return f.Seen.Sub(v.clearSince) >= v.clearFor
}

// WaitReady waits until the node has been ready for as long as the policy's ClearFor. It fails when the node is not ready
// once the time of all such waits of the incident is up. With stopWhenDown it is inconclusive as soon as the node is proven to be
// powered off, and the policy's PowerOffAfter has passed.
func (b *ApiBridge) WaitReady(ctx context.Context, within time.Duration, stopWhenDown bool) error {
	r := readiness{machine: b.operations.machine, within: within, stopWhenDown: stopWhenDown}
	detail := fmt.Sprintf("ready for %s, within %s", b.status.Policy.ClearFor, within)
	return b.do(ctx, step{action: ticket.Wait, detail: detail, act: r.run})
}

// readiness waits for the kubelet of the node.
type readiness struct {
	*machine
	within       time.Duration
	stopWhenDown bool
	// readySince is since when the node has been ready. Zero while it is not.
	readySince time.Time
}

func (r *readiness) run(ctx context.Context, c call) (outcome, error) {
	before := r.journal.waited(c.n)
	return outcome{}, c.time.watch(ctx, r.within-before, func(ctx context.Context, late bool) (bool, error) {
		node, err := r.nodeToWaitFor(ctx, late)
		if err != nil {
			return false, err
		}
		done, err := r.look(ctx, node, before+c.time.spent, late)
		c.time.nears = !r.readySince.IsZero()
		return done, err
	})
}

// look reports whether the node has been ready for long enough. The incident has waited for that for so long.
func (r *readiness) look(ctx context.Context, node *corev1.Node, waited time.Duration, late bool) (bool, error) {
	now := r.services.Clock.Now()
	if policy.IsReady(node) {
		if r.readySince.IsZero() {
			r.readySince = now
		}
		return now.Sub(r.readySince) >= r.status.Policy.ClearFor, nil
	}
	r.readySince = time.Time{}
	if r.stopWhenDown && waited >= r.status.Policy.PowerOffAfter {
		if down, why := r.provenDown(ctx); down {
			return false, inconclusive("%s", why)
		}
	}
	if late {
		return false, failed("not ready for %s", waited.Round(time.Second))
	}
	return false, nil
}

// WaitIdle waits until no workload pod runs on the node. A node whose pods cannot be listed counts as busy.
func (b *ApiBridge) WaitIdle(ctx context.Context) error {
	return b.clears(clearance{anyPod, b.WaitIdle, true}, b.do(ctx, step{action: ticket.WaitIdle, act: b.operations.waitIdle}))
}

func (m *machine) waitIdle(ctx context.Context, c call) (outcome, error) {
	return outcome{}, c.time.watch(ctx, m.status.Policy.DrainDeadline, func(ctx context.Context, late bool) (bool, error) {
		pods, err := m.workloadPods(ctx, anyPod)
		if err == nil && len(pods) == 0 {
			return true, nil
		}
		if !late {
			return false, nil
		}
		if err != nil {
			return false, failed("cannot tell whether the node is idle: %v", err)
		}
		return false, failed("%d pods still run: %s", len(pods), podNames(pods))
	})
}
