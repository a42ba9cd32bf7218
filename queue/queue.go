// Package queue holds the conditions of all nodes and hands out the most urgent node. Alerts are merged into it as
// they arrive, and resync keeps it true to Prometheus and Alertmanager.
package queue

import (
	"cmp"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/clock"

	"aegis.io/aegis/rules/prom"
)

const (
	defaultContestedMemory = 8192
	// The bounds of what is held. A node has some hundred devices at most, and what fires on every node of a large cluster is one fault.
	defaultNodeConditions = 256
	defaultConditions     = 32768
	defaultAlerts         = 65536
	// conditionAlerts is how many alerts feed one condition. More say nothing new.
	conditionAlerts = 64
)

// Options configure a Queue.
type Options struct {
	// Registerer takes the metrics. Nil means none.
	Registerer prometheus.Registerer
	// Logger hears when resolved alerts cannot be remembered. Nil discards.
	Logger *slog.Logger
	// Clock tells the time and wakes nodes that are due later. Nil means the wall clock.
	Clock clock.WithDelayedExecution
	// ContestedMemory is how many resolved alerts are remembered, to notice those that fire again with an old start.
	// 0 means 8192.
	ContestedMemory int
	// MaxNodeConditions is how many conditions of one node are held, MaxConditions how many of all nodes, and MaxAlerts how many alerts feed
	// them. The least urgent are dropped. 0 means 256, 32768 and 65536.
	MaxNodeConditions, MaxConditions, MaxAlerts int
	// Cluster says which label of an alert names its cluster.
	Cluster prom.Cluster
	// KnownCondition reports whether the catalogue has the condition. The metrics count the others together. It must
	// not call the queue. Nil means that all are known.
	KnownCondition func(name string) bool
}

// Queue is the one place where conditions are merged. It is safe for concurrent use, and nothing that holds its lock
// does I/O or waits.
type Queue struct {
	clock   clock.WithDelayedExecution
	metrics *metrics
	cluster prom.Cluster
	// most are the bounds.
	most bounds

	mu       sync.Mutex
	nodes    map[string]*node
	ready    *heap[string, *node]        // Due and not in flight, the most urgent first.
	waiting  *heap[string, *node]        // Due later and not in flight, the earliest first.
	overdue  *heap[string, *node]        // Those of ready, the one that has been due longest first.
	fed      map[string]prom.Key         // Which condition an alert feeds, by fingerprint.
	urgency  *heap[prom.Key, *condition] // All conditions, the least urgent first.
	resolved *lru.Cache[string, resolution]
	changed  func(node string)
	timer    clock.Timer // Fires when the first of waiting is due.
	moreDue  *sync.Cond
}

// node is a node that has conditions, or is due, or in flight.
type node struct {
	name       string
	conditions *heap[prom.Key, *condition]
	inFlight   bool
	// changed is true when something has happened since the node was handed out.
	changed bool
	dueAt   time.Time // From when on it is due: in the future while it waits.
}

// resolution is what is remembered of an alert that resolved.
type resolution struct {
	startsAt time.Time // The latest start of the episode that ended.
	at       time.Time // When the queue learned that it ended.
}

// item is a node with its conditions, the most urgent first. There are none when a ticket is all that is left.
type item struct {
	Node     string
	Statuses []prom.AegisNodeStatus
}

// New returns an empty queue.
func New(o Options) *Queue {
	size := o.ContestedMemory
	if size <= 0 {
		size = defaultContestedMemory
	}
	// The only error is a size that is not positive.
	resolved, err := lru.New[string, resolution](size)
	if err != nil {
		logger := cmp.Or(o.Logger, slog.New(slog.DiscardHandler)).With("component", "queue")
		logger.Error("no memory of resolved alerts", "err", err)
	}
	q := &Queue{
		clock:    cmp.Or[clock.WithDelayedExecution](o.Clock, clock.RealClock{}),
		cluster:  o.Cluster,
		most:     boundsOf(o),
		urgency:  newHeap[prom.Key](func(a, b *condition) bool { return compareStatuses(a.status, b.status) > 0 }),
		nodes:    make(map[string]*node),
		ready:    newHeap[string](func(a, b *node) bool { return a.compare(b) < 0 }),
		waiting:  newHeap[string](func(a, b *node) bool { return a.dueAt.Before(b.dueAt) }),
		overdue:  newHeap[string](func(a, b *node) bool { return a.dueAt.Before(b.dueAt) }),
		fed:      make(map[string]prom.Key),
		resolved: resolved,
		changed:  func(string) {},
	}
	q.moreDue = sync.NewCond(&q.mu)
	q.metrics = newMetrics(o.Registerer, q, o.KnownCondition)
	return q
}

// Observe merges alerts, from the webhook or from resync.
func (q *Queue) Observe(obs ...prom.Observation) { q.merge(time.Time{}, obs) }

// merge merges observations. If asOf is set, they were read at that time or later, from the sources of truth: they
// are not contested, and those that resolved since are skipped.
func (q *Queue) merge(asOf time.Time, obs []prom.Observation) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.clock.Now()
	for _, o := range obs {
		q.metrics.observations[q.observe(o, asOf, now)].Inc()
	}
}

// observe merges one observation and says what it was.
func (q *Queue) observe(o prom.Observation, asOf, now time.Time) result {
	switch {
	case o.Status.Node == "" || o.Status.Condition == "":
		return resultInvalid
	case o.Firing:
		return q.fire(o, asOf, now)
	default:
		return q.resolve(identity(o), o.StartsAt, now)
	}
}

// identity returns the fingerprint, or the key when there is none. It is the same for firing and resolved.
func identity(o prom.Observation) string {
	if o.Fingerprint != "" {
		return o.Fingerprint
	}
	return o.Status.Node + "/" + o.Status.Condition + "/" + o.Status.ID
}

// fire makes the alert feed its condition.
func (q *Queue) fire(o prom.Observation, asOf, now time.Time) result {
	fingerprint, key := identity(o), o.Status.Key()
	prior, open := q.fed[fingerprint]
	f := feed{}
	old, ended := q.resolved.Get(fingerprint)
	switch {
	case open:
		f = q.nodes[prior.Node].feed(prior, fingerprint)
	case ended && !asOf.IsZero() && !old.at.Before(asOf):
		return resultOutdated
	case ended && asOf.IsZero() && !o.StartsAt.After(old.startsAt):
		f.contestedAt = now
	}
	if o.StartsAt.IsZero() {
		o.StartsAt = cmp.Or(f.earliest, now)
	}
	if open && prior != key {
		// The catalogue has changed, and the alert means another condition now.
		q.detach(prior, fingerprint)
		open = false
	}
	f.cluster = q.cluster.Of(o.Labels)
	return q.attach(o, f.extended(o.StartsAt), now, open)
}

// attach merges a firing alert into its condition, which it may feed already.
func (q *Queue) attach(o prom.Observation, f feed, now time.Time, heartbeat bool) result {
	key := o.Status.Key()
	_, c, known := q.find(key)
	if !known {
		c = newCondition(o.Status)
		c.status.FirstSeen = f.earliest
	}
	if !heartbeat && !q.makeRoom(c, known) {
		return resultDropped
	}
	n := q.node(o.Status.Node)
	before := essenceOf(c.status)
	fingerprint := identity(o)
	previous := c.feeds[fingerprint]
	c.feeds[fingerprint] = f
	q.fed[fingerprint] = key
	c.merge(o.Status, now)
	if !heartbeat || f != previous {
		c.derive()
	}
	if heartbeat && essenceOf(c.status) == before {
		return resultHeartbeat
	}
	q.put(n, key, c)
	q.change(n)
	switch {
	case heartbeat:
		return resultHeartbeat
	case !f.contestedAt.IsZero():
		return resultContested
	case known:
		return resultJoined
	default:
		return resultOpened
	}
}

// newCondition returns a condition that nothing feeds yet.
func newCondition(s prom.AegisNodeStatus) *condition {
	if s.Origin == "" {
		s.Origin = prom.OriginAlert
	}
	return &condition{status: s, feeds: make(map[string]feed, 1)}
}

// resolve ends the alert's episode and remembers it.
func (q *Queue) resolve(fingerprint string, startsAt, now time.Time) result {
	key, open := q.fed[fingerprint]
	if open {
		startsAt = later(startsAt, q.nodes[key.Node].feed(key, fingerprint).latest)
		q.detach(key, fingerprint)
	}
	if old, ok := q.resolved.Peek(fingerprint); ok {
		startsAt = later(startsAt, old.startsAt)
	}
	q.resolved.Add(fingerprint, resolution{startsAt: startsAt, at: now})
	if open {
		return resultResolved
	}
	return resultStray
}

// detach takes the alert away from the condition, which goes with its last one.
func (q *Queue) detach(key prom.Key, fingerprint string) {
	n := q.nodes[key.Node]
	c, ok := n.conditions.Get(key)
	if !ok {
		return
	}
	delete(q.fed, fingerprint)
	delete(c.feeds, fingerprint)
	q.settle(n, key, c)
}

// settle puts a changed condition in its place, or removes it when nothing feeds it any more.
func (q *Queue) settle(n *node, key prom.Key, c *condition) {
	if len(c.feeds) > 0 {
		c.derive()
		q.put(n, key, c)
	} else {
		q.remove(n, key)
	}
	q.change(n)
}

// confirm ends the doubt about an alert that fired again with an old start, if it arose before asOf, when the sources of truth were
// read and had the alert: later doubts are not theirs to settle.
func (q *Queue) confirm(key prom.Key, asOf time.Time, fingerprint string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, c, ok := q.find(key)
	if !ok {
		return
	}
	f, feeds := c.feeds[fingerprint]
	if !feeds || !f.contestedAt.Before(asOf) {
		return
	}
	before := essenceOf(c.status)
	f.contestedAt = time.Time{}
	c.feeds[fingerprint] = f
	c.derive()
	if essenceOf(c.status) != before {
		q.change(n)
	}
}

// withdraw removes every alert that feeds the condition, as if each had resolved, unless the condition was reported at asOf or later.
// It reports whether it did.
func (q *Queue) withdraw(key prom.Key, asOf time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	_, c, ok := q.find(key)
	if !ok || !c.status.LastSeen.Before(asOf) {
		return false
	}
	now := q.clock.Now()
	for _, fingerprint := range c.status.Alerts {
		q.resolve(fingerprint, time.Time{}, now)
	}
	return true
}

// Reprioritise applies a new catalogue to every status. The function returns the status with the fields that the
// catalogue decides, must not call the queue, and must be quick: ingest waits for it.
func (q *Queue) Reprioritise(classify func(prom.AegisNodeStatus) prom.AegisNodeStatus) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, n := range q.nodes {
		q.reprioritiseNode(n, classify)
	}
}

// reprioritiseNode applies a new catalogue to the statuses of one node.
func (q *Queue) reprioritiseNode(n *node, classify func(prom.AegisNodeStatus) prom.AegisNodeStatus) {
	changed := false
	for _, c := range n.list() {
		before, old := essenceOf(c.status), c.status.Key()
		reclassify(&c.status, classify(c.status.Clone()))
		if c.status.Key() != old {
			q.rename(n, c, old)
			changed = true
			continue
		}
		if essenceOf(c.status) != before {
			q.put(n, c.status.Key(), c)
			changed = true
		}
	}
	if changed {
		q.change(n)
	}
}

// rename puts a condition in the place of its new name, together with what is there already.
func (q *Queue) rename(n *node, c *condition, old prom.Key) {
	q.remove(n, old)
	if there, taken := n.conditions.Get(c.status.Key()); taken {
		maps.Copy(there.feeds, c.feeds)
		c = there
	}
	for fingerprint := range c.feeds {
		q.fed[fingerprint] = c.status.Key()
	}
	c.derive()
	q.put(n, c.status.Key(), c)
}

// has reports whether the condition is in the queue.
func (q *Queue) has(key prom.Key) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	_, _, found := q.find(key)
	return found
}

// clustersOf returns the clusters that the alerts of the condition name.
func (q *Queue) clustersOf(key prom.Key) (names []string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	_, c, found := q.find(key)
	if !found {
		return nil
	}
	for _, f := range c.feeds {
		if f.cluster != "" && !slices.Contains(names, f.cluster) {
			names = append(names, f.cluster)
		}
	}
	slices.Sort(names)
	return names
}

// Statuses returns the conditions of a node, the most urgent first.
func (q *Queue) Statuses(node string) []prom.AegisNodeStatus {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, ok := q.nodes[node]
	if !ok {
		return nil
	}
	return n.statuses()
}

// NodesByCondition returns, by condition, the number of nodes on which it holds.
func (q *Queue) NodesByCondition() map[string]int {
	q.mu.Lock()
	defer q.mu.Unlock()
	counts := make(map[string]int)
	for _, n := range q.nodes {
		held := make(map[string]bool, n.conditions.Len())
		for _, c := range n.list() {
			held[c.status.Condition] = true
		}
		for name := range held {
			counts[name]++
		}
	}
	return counts
}

// items copies every node, in no order.
func (q *Queue) items() []item {
	q.mu.Lock()
	defer q.mu.Unlock()
	items := make([]item, 0, len(q.nodes))
	for _, n := range q.nodes {
		items = append(items, item{Node: n.name, Statuses: n.statuses()})
	}
	return items
}
