package sop

import (
	"fmt"
	"slices"
	"time"

	"aegis.io/aegis/sop/policy"
)

// waitingLists are the nodes that wait for a place in the limits of their pools and of the cluster, one list for each limit of a pool. A
// place that is free is offered to the first that can use it, who is woken, and stays with it for a while. Who does not take it in that
// time is passed over. It is not safe for concurrent use: limits guards it.
type waitingLists struct {
	// keep is how long a node that does not ask any more stays in its list, offer how long a place is kept for who was offered it.
	keep, offer time.Duration
	// visit has a node looked at.
	visit func(node string)
	// offered is called when a place is offered.
	offered func()
	lists   map[limitOf]map[string]*waiter
}

// limitOf is a limit of a pool.
type limitOf struct {
	limit policy.Limit
	pool  string
}

// waiter is a node in a list.
type waiter struct {
	policy.Claim
	pool string
	// asked is when the node asked last, offered when it was offered a place, zero while it is not.
	asked, offered time.Time
	// passed says that it did not take its place in time, away that something else stands against it at present.
	passed, away bool
	// bell wakes a step that waits in place. Nodes that are visited again have none.
	bell chan struct{}
}

// stands reports whether the node takes a place before those behind it.
func (w *waiter) stands() bool { return !w.away && !w.passed }

func newWaitingLists(hold time.Duration, visit func(node string), offered func()) *waitingLists {
	return &waitingLists{
		keep: 2 * hold, offer: hold / 2, visit: visit, offered: offered, lists: make(map[limitOf]map[string]*waiter),
	}
}

// join has the node wait, or says that it still does.
func (l *waitingLists) join(of limitOf, c policy.Claim, inPlace bool, now time.Time) *waiter {
	l.sweep(of, now)
	for other := range l.lists {
		if other.limit == of.limit && other.pool != of.pool {
			delete(l.lists[other], c.Node)
		}
	}
	if l.lists[of] == nil {
		l.lists[of] = make(map[string]*waiter)
	}
	w := l.lists[of][c.Node]
	if w == nil {
		w = &waiter{Claim: policy.Claim{Since: now}, pool: of.pool}
		l.lists[of][c.Node] = w
	}
	c.Since = w.Since
	w.Claim, w.asked, w.away = c, now, false
	if inPlace != (w.bell != nil) {
		w.bell = nil
		if inPlace {
			w.bell = make(chan struct{}, 1)
		}
	}
	return w
}

// leave takes the node out of the lists of the limit.
func (l *waitingLists) leave(limit policy.Limit, node string) {
	for of, list := range l.lists {
		if of.limit == limit {
			delete(list, node)
		}
	}
}

// find returns the node in the lists of the limit, nil if it does not wait.
func (l *waitingLists) find(limit policy.Limit, node string) (limitOf, *waiter) {
	for of, list := range l.lists {
		if w := list[node]; w != nil && of.limit == limit {
			return of, w
		}
	}
	return limitOf{}, nil
}

// stepBack has a node that cannot use a place at present let others go first. It keeps the time that it has waited if it soon asks again.
func (l *waitingLists) stepBack(limit policy.Limit, node string) {
	if _, w := l.find(limit, node); w != nil && !w.away {
		w.away, w.passed, w.offered = true, false, time.Time{}
	}
}

// standing returns those who take places in the limit before those behind them, in all pools, in their order.
func (l *waitingLists) standing(limit policy.Limit, now time.Time) []*waiter {
	return l.ordered(limit, policy.ClusterName, (*waiter).stands, now)
}

// ring offers a place to a waiter and wakes it, unless it was offered one before.
func (l *waitingLists) ring(w *waiter, now time.Time) {
	if !w.offered.IsZero() {
		return
	}
	w.offered = now
	l.offered()
	if w.bell == nil {
		l.visit(w.Node)
		return
	}
	select {
	case w.bell <- struct{}{}:
	default:
	}
}

// sweep drops who has not asked for long, and passes over who did not take the place that it was offered.
func (l *waitingLists) sweep(of limitOf, now time.Time) {
	for node, w := range l.lists[of] {
		switch {
		case now.Sub(w.asked) > l.keep:
			delete(l.lists[of], node)
		case !w.offered.IsZero() && now.Sub(w.offered) >= l.offer:
			w.passed = true
		}
	}
	if len(l.lists[of]) == 0 {
		delete(l.lists, of)
	}
}

// tend passes over who did not take a place in time, and returns when to look again, zero if nothing is offered.
func (l *waitingLists) tend(now time.Time) (next time.Time) {
	for of := range l.lists {
		l.sweep(of, now)
		for _, w := range l.lists[of] {
			if w.offered.IsZero() || w.passed {
				continue
			}
			if lapses := w.offered.Add(l.offer); next.IsZero() || lapses.Before(next) {
				next = lapses
			}
		}
	}
	return next
}

// ordered returns the waiters in the pool, or in all of them, of whom that is true, in their order.
func (l *waitingLists) ordered(limit policy.Limit, pool string, is func(*waiter) bool, now time.Time) []*waiter {
	var all []*waiter
	for of := range l.lists {
		if of.limit != limit || of.pool != pool && pool != policy.ClusterName {
			continue
		}
		l.sweep(of, now)
		for _, w := range l.lists[of] {
			if is(w) {
				all = append(all, w)
			}
		}
	}
	slices.SortFunc(all, func(a, b *waiter) int {
		if a.Before(b.Claim, now) {
			return -1
		}
		return 1
	})
	return all
}

// claims returns who waits in the pool, or in all of them, in their order.
func (l *waitingLists) claims(limit policy.Limit, pool string, now time.Time) []policy.Claim {
	var claims []policy.Claim
	for _, w := range l.ordered(limit, pool, func(w *waiter) bool { return !w.away }, now) {
		claims = append(claims, w.Claim)
	}
	return claims
}

// place says in words where the claim stands among those who wait in the pool, or in all of them. Empty when nobody else waits.
func (l *waitingLists) place(limit policy.Limit, pool string, c policy.Claim, now time.Time) string {
	before, others := 0, 0
	var last *waiter
	for of, list := range l.lists {
		if of.limit != limit || of.pool != pool && pool != policy.ClusterName {
			continue
		}
		for _, w := range list {
			if w.away || w.Node == c.Node {
				continue
			}
			others++
			if !w.Before(c, now) {
				continue
			}
			before++
			if last == nil || last.Before(w.Claim, now) {
				last = w
			}
		}
	}
	switch {
	case others == 0:
		return ""
	case last == nil:
		return fmt.Sprintf("; 1st of %d that wait", others+1)
	}
	return fmt.Sprintf("; %s of %d that wait, after %s (priority %d)", ordinal(before+1), others+1, last.Node, last.Priority)
}

func ordinal(n int) string {
	suffix := "th"
	if tens := n / 10 % 10; tens != 1 {
		switch n % 10 {
		case 1:
			suffix = "st"
		case 2:
			suffix = "nd"
		case 3:
			suffix = "rd"
		}
	}
	return fmt.Sprint(n, suffix)
}
