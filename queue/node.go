package queue

import (
	"cmp"
	"context"
	"slices"
	"time"

	"aegis.io/aegis/rules/prom"
)

// Next waits for a node that is due and returns the most urgent one with its conditions, the most urgent first. There are none
// when a ticket is all that is left. Nobody else gets the node until Done. The error is that of the context.
func (q *Queue) Next(ctx context.Context) (name string, statuses []prom.AegisNodeStatus, err error) {
	// The lock makes sure that a waiter either sees the end of the context or hears of it.
	stop := context.AfterFunc(ctx, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.moreDue.Broadcast()
	})
	defer stop()
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		if err := ctx.Err(); err != nil {
			return "", nil, err
		}
		if n, ok := q.ready.Pop(); ok {
			q.overdue.Delete(n.name)
			n.inFlight, n.changed = true, false
			return n.name, n.statuses(), nil
		}
		q.moreDue.Wait()
	}
}

// Done gives the node back. It is due again after the given time, whatever happens, or sooner when something changes;
// without a time, only when something changes. If something has changed since Next, it is due at once.
func (q *Queue) Done(node string, after time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, ok := q.nodes[node]
	if !ok || !n.inFlight {
		return
	}
	n.inFlight = false
	switch {
	case n.changed:
		q.makeDue(n, q.clock.Now())
	case after > 0:
		n.dueAt = q.clock.Now().Add(after)
		q.waiting.Set(n.name, n)
		q.arm()
	case n.conditions.Len() == 0:
		delete(q.nodes, n.name)
	}
}

// Enqueue makes the node due now, even without conditions.
func (q *Queue) Enqueue(node string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.change(q.node(node))
}

// Subscribe has the function told of each node whose conditions have changed, instead of the one before it. It is called while the queue
// is locked, so it must be quick and must not call the queue.
func (q *Queue) Subscribe(changed func(node string)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.changed = changed
}

// change notes that something has happened to the node: it is due now, or as soon as it is given back.
func (q *Queue) change(n *node) {
	q.changed(n.name)
	if n.inFlight {
		n.changed = true
		return
	}
	q.makeDue(n, q.clock.Now())
}

// makeDue puts the node among those that are due, or in its new place there. It is due since the given time, unless it was before.
func (q *Queue) makeDue(n *node, since time.Time) {
	q.waiting.Delete(n.name)
	if _, already := q.ready.Get(n.name); !already {
		n.dueAt = since
		q.overdue.Set(n.name, n)
	}
	q.ready.Set(n.name, n)
	// Not Signal: it could wake a waiter whose context has just ended.
	q.moreDue.Broadcast()
}

// wake makes due what has waited long enough.
func (q *Queue) wake() {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.clock.Now()
	for n, ok := q.waiting.Peek(); ok && !n.dueAt.After(now); n, ok = q.waiting.Peek() {
		q.makeDue(n, n.dueAt)
	}
	q.arm()
}

// OldestDue returns since when the node has been due that nobody has taken for longest. Nobody needs to take one for it to be told.
func (q *Queue) OldestDue() (since time.Time, found bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	// A node that waits is due at its time, whether the timer has fired or not.
	for _, h := range []*heap[string, *node]{q.overdue, q.waiting} {
		n, some := h.Peek()
		if some && !n.dueAt.After(q.clock.Now()) && (!found || n.dueAt.Before(since)) {
			since, found = n.dueAt, true
		}
	}
	return since, found
}

// arm sets the timer to the first node that waits. A timer that fires too early does no harm.
func (q *Queue) arm() {
	n, ok := q.waiting.Peek()
	if !ok {
		return
	}
	if q.timer != nil {
		q.timer.Stop()
	}
	// In a goroutine of its own: a clock that a test or a replay moves calls back while it holds its lock.
	q.timer = q.clock.AfterFunc(n.dueAt.Sub(q.clock.Now()), func() { go q.wake() })
}

// node returns the node of that name, a new one if need be. A new one must be made due, or it stays for ever.
func (q *Queue) node(name string) *node {
	n, ok := q.nodes[name]
	if !ok {
		n = &node{name: name, conditions: newHeap[prom.Key](func(a, b *condition) bool {
			return compareStatuses(a.status, b.status) < 0
		})}
		q.nodes[name] = n
	}
	return n
}

// find returns the condition of the key and its node.
func (q *Queue) find(key prom.Key) (*node, *condition, bool) {
	n, ok := q.nodes[key.Node]
	if !ok {
		return nil, nil, false
	}
	c, ok := n.conditions.Get(key)
	return n, c, ok
}

// compare orders nodes by their most urgent condition. Those without any come last.
func (n *node) compare(other *node) int {
	a, hasA := n.conditions.Peek()
	b, hasB := other.conditions.Peek()
	switch {
	case hasA && hasB:
		return cmp.Or(compareStatuses(a.status, b.status), cmp.Compare(n.name, other.name))
	case hasA:
		return -1
	case hasB:
		return 1
	default:
		return cmp.Compare(n.name, other.name)
	}
}

// feed returns the alert that feeds the condition, or a zero one.
func (n *node) feed(key prom.Key, fingerprint string) feed {
	c, ok := n.conditions.Get(key)
	if !ok {
		return feed{}
	}
	return c.feeds[fingerprint]
}

// list returns the conditions in no order.
func (n *node) list() []*condition {
	list := make([]*condition, 0, n.conditions.Len())
	for _, item := range n.conditions.items {
		list = append(list, item.value)
	}
	return list
}

// statuses copies the conditions, the most urgent first.
func (n *node) statuses() []prom.AegisNodeStatus {
	list := make([]prom.AegisNodeStatus, 0, n.conditions.Len())
	for _, c := range n.list() {
		list = append(list, c.status.Clone())
	}
	slices.SortFunc(list, compareStatuses)
	return list
}
