package sop

import (
	"context"
	"errors"
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
	p := b.status.Policy
	detail := fmt.Sprintf("gone for %s, within %s", p.ClearFor, within)
	return b.do(ctx, step{action: ticket.Verify, detail: detail, act: func(ctx context.Context, _ call) (outcome, error) {
		v := verification{clearFor: p.ClearFor, within: within}
		err := b.poll(ctx, func(ctx context.Context) (bool, error) {
			finding := b.services.Source.Observe(ctx, b.status.Key())
			if ctx.Err() != nil {
				return false, context.Cause(ctx)
			}
			clear := v.observe(time.Now(), finding)
			b.showVerification(finding)
			if v.expired() {
				return false, failed("still %s after %s", finding.Evidence, v.known.Round(time.Second))
			}
			return clear, nil
		})
		return outcome{message: "gone for " + p.ClearFor.String()}, err
	}})
}

// showVerification says in the verdict book when verification waits for its source.
func (b *ApiBridge) showVerification(f prom.Finding) {
	v := policy.Verdict{Name: policy.VerdictExecute, Reason: "verify: the source says " + string(f.Evidence)}
	if f.Evidence == prom.EvidenceUnknown {
		v = policy.Verdict{Name: policy.VerdictUnverifiable, Reason: policy.Judge(f).Reason}
	}
	b.services.Book.Set(b.status.Key(), v)
}

// verification adds up what the source said.
type verification struct {
	clearFor, within time.Duration
	// last is when the source was asked before; zero before the first time and after an answer that was none.
	last time.Time
	// clearSince is since when every answer was that the condition is gone.
	clearSince time.Time
	// known is the time over which the source gave answers.
	known time.Duration
}

// observe takes one answer and reports whether the condition has been gone for long enough.
func (v *verification) observe(now time.Time, f prom.Finding) bool {
	if f.Evidence == prom.EvidenceUnknown {
		v.last, v.clearSince = time.Time{}, time.Time{}
		return false
	}
	if !v.last.IsZero() {
		v.known += now.Sub(v.last)
	}
	v.last = now
	if f.Evidence != prom.EvidenceAbsent {
		v.clearSince = time.Time{}
		return false
	}
	if v.clearSince.IsZero() {
		v.clearSince = now
	}
	return now.Sub(v.clearSince) >= v.clearFor
}

// expired reports whether the time is up while the condition still holds. A condition that is gone may take its clearFor
// to the end.
func (v *verification) expired() bool { return v.known >= v.within && v.clearSince.IsZero() }

// WaitReady waits until the node has been ready for as long as the policy's ClearFor. It fails when the node is not ready
// once the time since the first such wait of the incident is up. With stopWhenDown it is inconclusive as soon as the node is proven to be
// powered off, and the policy's PowerOffAfter has passed.
func (b *ApiBridge) WaitReady(ctx context.Context, within time.Duration, stopWhenDown bool) error {
	p := b.status.Policy
	detail := fmt.Sprintf("ready for %s, within %s", p.ClearFor, within)
	return b.do(ctx, step{action: ticket.Wait, detail: detail, act: func(ctx context.Context, _ call) (outcome, error) {
		opened := b.firstWait()
		var readySince time.Time
		err := b.poll(ctx, func(ctx context.Context) (bool, error) {
			node, err := b.nodeToWaitFor(ctx, opened.Add(within))
			if err != nil {
				return false, err
			}
			now := time.Now()
			if policy.IsReady(node) {
				if readySince.IsZero() {
					readySince = now
				}
				return now.Sub(readySince) >= p.ClearFor, nil
			}
			readySince = time.Time{}
			if stopWhenDown && now.Sub(opened) >= p.PowerOffAfter {
				if down, why := b.provenDown(ctx); down {
					return false, inconclusive("%s", why)
				}
			}
			if now.Sub(opened) >= within {
				return false, failed("not ready for %s", now.Sub(opened).Round(time.Second))
			}
			return false, nil
		})
		return outcome{}, err
	}})
}

// nodeToWaitFor returns the node as the cache has it. Once the time is up the API server has the last word.
func (b *ApiBridge) nodeToWaitFor(ctx context.Context, until time.Time) (*corev1.Node, error) {
	cached, err := b.services.Nodes.Get(b.node)
	if err != nil {
		return nil, ticket.ErrNodeGone
	}
	if policy.IsReady(cached) || time.Now().Before(until) {
		return cached, nil
	}
	live, err := b.liveNode(ctx)
	switch {
	case errors.Is(err, ticket.ErrNodeGone), errors.Is(err, ticket.ErrRecreated):
		return nil, err
	case err != nil && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return cached, nil //nolint:nilerr // Both know nothing better than the cache.
	}
	return live, nil
}

// firstWait returns when the procedure began to wait for the node.
func (b *ApiBridge) firstWait() time.Time {
	t := b.journal.ticket()
	first, _ := t.Outcome(ticket.Wait, t.Past[ticket.Wait]+1)
	if first.At.IsZero() {
		// It was left out for size.
		return t.CreatedAt
	}
	return first.At
}

// WaitIdle waits until no workload pod runs on the node. A node whose pods cannot be listed counts as busy.
func (b *ApiBridge) WaitIdle(ctx context.Context) error {
	return b.do(ctx, step{action: ticket.WaitIdle, act: func(ctx context.Context, c call) (outcome, error) {
		deadline := c.began.Add(b.status.Policy.DrainDeadline)
		err := b.poll(ctx, func(ctx context.Context) (bool, error) {
			pods, err := b.workloadPods(ctx, anyPod)
			if err == nil && len(pods) == 0 {
				return true, nil
			}
			if time.Now().Before(deadline) {
				return false, nil
			}
			if err != nil {
				return false, failed("cannot tell whether the node is idle: %v", err)
			}
			return false, failed("%d pods still run: %s", len(pods), podNames(pods))
		})
		return outcome{}, err
	}})
}
