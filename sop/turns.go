package sop

import (
	"context"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// How places are handed over as they become free, and how a new leader learns who waits for them.

// start begins a term: nobody waits yet. Nodes on which something is to be decided may have waited under the leader before, so that for
// a while no place is given that one of them may be the first to have.
func (l *limits) start(open func(*entry) bool) {
	l.census.catchUp()
	entries := slices.DeleteFunc(l.census.all(), func(e *entry) bool { return !open(e) })
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forget()
	l.settled = l.clock.Now().Add(l.hold)
	for _, e := range entries {
		name := e.node.Name
		if !e.out() && !l.holds(name, e) {
			l.expect(limitOf{policy.LimitBudget, e.pool}, name)
		}
		if !e.held.followed {
			l.expect(limitOf{policy.LimitDestructive, e.pool}, name)
		}
	}
	l.wake()
}

func (l *limits) expect(of limitOf, node string) {
	if l.unheard[of] == nil {
		l.unheard[of] = make(map[string]bool)
	}
	l.unheard[of][node] = true
}

// stop ends a term.
func (l *limits) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forget()
}

func (l *limits) forget() {
	clear(l.waiting.lists)
	l.unheard, l.settled = make(map[limitOf]map[string]bool), time.Time{}
}

// heard notes that it is known whether the node waits.
func (l *limits) heard(limit policy.Limit, node string) {
	for of, names := range l.unheard {
		if of.limit != limit || !names[node] {
			continue
		}
		if delete(names, node); len(names) == 0 {
			delete(l.unheard, of)
		}
	}
}

// stepBack says that nothing is known for which the node could use a place in the limits, at present or any more.
func (l *limits) stepBack(node string, of ...policy.Limit) {
	settings := l.census.catchUp()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, limit := range of {
		l.waiting.stepBack(limit, node)
		l.heard(limit, node)
		l.offer(limit, settings)
	}
}

// bell returns what wakes the step that waits for a place in the limit, nil if none does.
func (l *limits) bell(limit policy.Limit, node string) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, w := l.waiting.find(limit, node); w != nil && !w.away {
		return w.bell
	}
	return nil
}

// nodeChanged notes that the cache shows a node differently, which may have freed a place. It takes no lock.
func (l *limits) nodeChanged(before, after *corev1.Node) {
	out := func(n *corev1.Node) bool { return n.Spec.Unschedulable || !policy.IsReady(n) }
	if before == nil || after == nil || !maps.Equal(before.Labels, after.Labels) || out(before) && !out(after) ||
		before.Annotations[ticket.Annotation] != after.Annotations[ticket.Annotation] ||
		before.Annotations[ticket.RecordAnnotation] != after.Annotations[ticket.RecordAnnotation] {
		l.wake()
	}
}

// wake has the waiting lists tended.
func (l *limits) wake() {
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// tend offers the places that have become free, and those that were offered and not taken. It returns when to look again.
func (l *limits) tend() time.Time {
	settings := l.census.catchUp()
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock.Now()
	if !l.settled.IsZero() && !now.Before(l.settled) {
		l.unheard, l.settled = make(map[limitOf]map[string]bool), time.Time{}
	}
	l.waiting.tend(now) // Who is passed over makes room for others.
	for _, limit := range policy.Limits() {
		l.offer(limit, settings)
	}
	next := l.waiting.tend(now)
	for _, at := range []time.Time{l.settled, l.lapse(now)} {
		if !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return next
}

// claims returns who waits for a place in the limit of the pool, or of the cluster, in their order.
func (l *limits) claims(limit policy.Limit, pool string) []policy.Claim {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waiting.claims(limit, pool, l.clock.Now())
}

// NodeChanged notes that the cache shows a node differently from now on; before is nil for a new one, after for one that is gone. It
// neither waits nor asks anything.
func (d *Dispatcher) NodeChanged(before, after *corev1.Node) {
	d.services.census.see(before, after)
	d.services.limits.nodeChanged(before, after)
	d.requests.changed(before, after)
}

// Limits returns the limits of all pools and of the cluster, with who has a place in them and who waits for one.
func (d *Dispatcher) Limits() ([]policy.LimitState, error) { return d.services.limits.states(), nil }

// keepTurns hands places over as they become free.
func (d *Dispatcher) keepTurns(ctx context.Context) error {
	for ctx.Err() == nil {
		wait := time.Hour
		if next := d.services.limits.tend(); !next.IsZero() {
			wait = next.Sub(d.services.Clock.Now())
		}
		timer := d.services.Clock.NewTimer(max(0, wait))
		select {
		case <-ctx.Done():
		case <-d.services.limits.changed:
		case <-timer.C():
		}
		timer.Stop()
	}
	return nil
}

// mayWait reports whether something is to be decided on the node, so that it may be one that waits.
func (d *Dispatcher) mayWait(e *entry) bool {
	t := e.held.ticket
	return t != nil && t.Owned() || len(d.services.Conditions.Statuses(e.node.Name)) > 0
}
