package sop

import (
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"

	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// census counts the nodes of each pool: how many there are, which are out of service, and on which a destructive step runs. It is kept
// up by what the node cache shows and by what is written here, so that no decision about one node reads the others: the ticket of a
// node is parsed once for each of its texts, outside the lock, and the counts are sums. It is safe for concurrent use.
type census struct {
	nodes    corelisters.NodeLister
	ticketOf func(*corev1.Node) (*ticket.Ticket, error)
	settings func() policy.Settings
	// changed is told of each node of which something else is counted from now on. It must be quick.
	changed func(node string)

	mu sync.Mutex
	// heard is what was heard of nodes and is not counted yet.
	heard   map[string]*news
	entries map[string]*entry
	// pools are those by which the nodes are counted, round how often what is counted has changed.
	pools  []policy.Pool
	counts map[string]*headcount
	round  int
	// loaded is true once a term has taken all nodes. Until then only those are counted of which something was heard.
	loaded bool
}

// news is what was heard of a node. It is replaced, never changed.
type news struct {
	// seen is the node as the cache shows it, gone one that it shows no more.
	seen, gone *corev1.Node
	// written is the node as a write has left it.
	written *corev1.Node
}

// entry is what is counted of a node. It is replaced, never changed.
type entry struct {
	node *corev1.Node
	pool string
	held holding
}

// holding is what the ticket of a node says, and its record.
type holding struct {
	text, record string
	// ticket is nil where there is none that is open, broken why it cannot be read.
	ticket *ticket.Ticket
	broken error
	// step is the destructive step that runs on the node, or may do so, if destroys.
	step     ticket.Step
	destroys bool
	// followed says that Aegis follows the step until it ends, so that it may wait for its order still. Nobody tells when the step of a
	// ticket ends that people have taken over or removed.
	followed bool
}

// lapses returns when the step of a ticket that Aegis does not follow counts no more, zero for one that it follows.
func (h holding) lapses() time.Time {
	if !h.destroys || h.followed {
		return time.Time{}
	}
	return h.step.Effective().Add(jobsAwaited)
}

// lapsed reports whether the step counts no more. One that begins in a far future, as people may write, does not count either.
func (h holding) lapsed(now time.Time) bool {
	return h.destroys && !h.followed && now.Sub(h.step.Effective()).Abs() >= jobsAwaited
}

// headcount sums up a pool, or the cluster. The names are sorted.
type headcount struct {
	size            int
	out, destroying []string
}

func newCensus(nodes corelisters.NodeLister, tickets *ticket.Store, settings func() policy.Settings) *census {
	return &census{
		nodes: nodes, ticketOf: tickets.Ticket, settings: settings, changed: func(string) {},
		heard: make(map[string]*news), entries: make(map[string]*entry), counts: make(map[string]*headcount),
	}
}

// see notes how the cache shows a node from now on; after is nil for one that is gone. It only notes it: it is called where nothing may
// take long.
func (c *census) see(before, after *corev1.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case after != nil:
		n := &news{seen: after}
		if last := c.heard[after.Name]; last != nil {
			n.written = last.written
		}
		c.heard[after.Name] = n
	case before != nil:
		c.heard[before.Name] = &news{gone: before}
	}
}

// wrote notes a node as a write has left it.
func (c *census) wrote(node *corev1.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := news{}
	if last := c.heard[node.Name]; last != nil {
		n = *last
	}
	if n.gone != nil || n.written != nil && n.written.UID == node.UID && !newer(node.ResourceVersion, n.written.ResourceVersion) {
		return
	}
	n.written = node
	c.heard[node.Name] = &n
}

// load takes all nodes from the cache, which may be ahead of those that tell of its changes.
func (c *census) load() error {
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return err
	}
	exists := make(map[string]bool, len(nodes))
	c.mu.Lock()
	for _, node := range nodes {
		exists[node.Name] = true
		e, n := c.entries[node.Name], c.heard[node.Name]
		if e != nil && !newer(node.ResourceVersion, e.node.ResourceVersion) ||
			n != nil && n.seen != nil && !newer(node.ResourceVersion, n.seen.ResourceVersion) {
			continue
		}
		loaded := &news{seen: node}
		if n != nil {
			loaded.written = n.written
		}
		c.heard[node.Name] = loaded
	}
	for name, e := range c.entries {
		if !exists[name] {
			c.heard[name] = &news{gone: e.node}
		}
	}
	c.loaded = true
	c.mu.Unlock()
	c.catchUp()
	return nil
}

// catchUp counts what was heard since the last time, by the pools of now, and returns the settings that they are from.
func (c *census) catchUp() policy.Settings {
	for {
		settings := c.settings()
		if c.recounted(settings.Pools) && c.counted(settings) {
			return settings
		}
	}
}

// counted counts what was heard, and reports whether the nodes are counted by these settings still.
func (c *census) counted(settings policy.Settings) bool {
	for {
		name, n, before := c.next()
		if n == nil {
			return true
		}
		if !c.enter(name, n, before, c.judge(n, before, settings), settings.Pools) {
			return false
		}
	}
}

// next returns something that was heard and is not counted yet, nil if there is nothing.
func (c *census) next() (name string, n *news, before *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, n := range c.heard {
		return name, n, c.entries[name]
	}
	return "", nil, nil
}

// newest returns the newest of what is counted of the node, what the cache has shown, and what was written here. It is nil when none is.
func (n *news) newest(before *entry) *corev1.Node {
	var node *corev1.Node
	if before != nil {
		node = before.node
	}
	if n.seen != nil && (node == nil || !newer(node.ResourceVersion, n.seen.ResourceVersion)) {
		node = n.seen
	}
	if w := n.written; w != nil && node != nil && node.UID == w.UID && newer(w.ResourceVersion, node.ResourceVersion) {
		node = w
	}
	return node
}

// judge returns what is to be counted of a node after the news, nil if it is gone.
func (c *census) judge(n *news, before *entry, settings policy.Settings) *entry {
	if n.gone != nil {
		if before != nil && before.node.UID != n.gone.UID {
			return before
		}
		return nil
	}
	node := n.newest(before)
	if node == nil || before != nil && node == before.node {
		return before
	}
	after := &entry{node: node, pool: settings.PoolOf(node).Name}
	if before != nil && before.held.text == node.Annotations[ticket.Annotation] &&
		before.held.record == node.Annotations[ticket.RecordAnnotation] {
		after.held = before.held
	} else {
		after.held = c.read(node)
	}
	return after
}

// read parses the ticket of a node. A step that was ordered goes on whoever has taken the ticket over since, or removed it.
func (c *census) read(node *corev1.Node) holding {
	h := holding{text: node.Annotations[ticket.Annotation], record: node.Annotations[ticket.RecordAnnotation]}
	t, broken := c.ticketOf(node)
	if h.broken = broken; broken == nil && t != nil && t.Open() {
		h.ticket = t
		h.step, h.destroys = runningDestructive(t)
		h.followed = h.destroys && t.Owned()
	}
	if !h.destroys && h.record != "" {
		h.step, h.destroys = recordedDestructive(node)
	}
	return h
}

// enter counts a node, unless something else was heard of it or counted meanwhile. It reports whether the pools are still those.
func (c *census) enter(name string, n *news, before, after *entry, pools []policy.Pool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !samePools(c.pools, pools) {
		return false
	}
	if c.heard[name] != n || c.entries[name] != before {
		return true
	}
	delete(c.heard, name)
	if before == after {
		return true
	}
	c.round++
	if before != nil {
		c.pool(before.pool).remove(name, before)
		c.pool(policy.ClusterName).remove(name, before)
		delete(c.entries, name)
	}
	if after != nil {
		c.pool(after.pool).add(name, after)
		c.pool(policy.ClusterName).add(name, after)
		c.entries[name] = after
	}
	if before == nil || after == nil || before.pool != after.pool || before.inCareOfPeople() != after.inCareOfPeople() {
		c.changed(name)
	}
	return true
}

// pool returns the sums of the pool. The lock is held.
func (c *census) pool(pool string) *headcount {
	t := c.counts[pool]
	if t == nil {
		t = new(headcount)
		c.counts[pool] = t
	}
	return t
}

// recounted counts all nodes anew if the pools are others than those by which they are counted, outside the lock. It reports whether
// the counts are right.
func (c *census) recounted(pools []policy.Pool) bool {
	c.mu.Lock()
	if samePools(c.pools, pools) {
		c.mu.Unlock()
		return true
	}
	round, entries, all := c.round, maps.Clone(c.entries), c.counts[policy.ClusterName]
	c.mu.Unlock()
	counts, moved := make(map[string]*headcount), []string(nil)
	for name, e := range entries {
		if pool := (policy.Settings{Pools: pools}).PoolOf(e.node).Name; pool != e.pool {
			e = &entry{node: e.node, pool: pool, held: e.held}
			entries[name], moved = e, append(moved, name)
		}
		if counts[e.pool] == nil {
			counts[e.pool] = new(headcount)
		}
		counts[e.pool].add(name, e)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.round != round {
		return false
	}
	if all != nil {
		counts[policy.ClusterName] = all // The same nodes as before.
	}
	c.pools, c.entries, c.counts, c.round = pools, entries, counts, round+1
	for _, name := range moved {
		c.changed(name)
	}
	return true
}

// samePools reports whether nodes belong to the same pools by both lists.
func samePools(a, b []policy.Pool) bool {
	if len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0]) {
		return true
	}
	return slices.EqualFunc(a, b, func(a, b policy.Pool) bool { return a.Name == b.Name && a.Selector.String() == b.Selector.String() })
}

func (t *headcount) add(name string, e *entry) {
	t.size++
	if e.out() {
		t.out = with(t.out, name)
	}
	if e.held.destroys {
		t.destroying = with(t.destroying, name)
	}
}

func (t *headcount) remove(name string, e *entry) {
	t.size--
	if e.out() {
		t.out = without(t.out, name)
	}
	if e.held.destroys {
		t.destroying = without(t.destroying, name)
	}
}

// with returns the sorted names with one more.
func with(names []string, name string) []string {
	i, found := slices.BinarySearch(names, name)
	if found {
		return names
	}
	return slices.Insert(names, i, name)
}

// without returns the sorted names without one of them.
func without(names []string, name string) []string {
	i, found := slices.BinarySearch(names, name)
	if !found {
		return names
	}
	return slices.Delete(names, i, i+1)
}

// out reports whether the node is out of service, whoever took it out.
func (e *entry) out() bool { return e.node.Spec.Unschedulable || !policy.IsReady(e.node) }

// in reports whether the node belongs to the pool. To the cluster they all do.
func (e *entry) in(pool string) bool { return e.pool == pool || pool == policy.ClusterName }

// inCareOfPeople reports whether people look after the node.
func (e *entry) inCareOfPeople() bool {
	return policy.Excluded(e.node) ||
		policy.OwnedByPeople(policy.Situation{Record: ticket.Record{Ticket: e.held.ticket, Broken: e.held.broken}}) != ""
}

// of returns what is counted of a node, nil if nothing is known of it.
func (c *census) of(node string) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.entries[node]
}

// size returns how many nodes the pool has.
func (c *census) size(pool string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pool(pool).size
}

// sumOf returns the sums of the pool. They are the caller's own.
func (c *census) sumOf(pool string) headcount {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.pool(pool)
	return headcount{size: t.size, out: slices.Clone(t.out), destroying: slices.Clone(t.destroying)}
}

// inhabited returns the pools that have nodes, in no order.
func (c *census) inhabited() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var names []string
	for name, t := range c.counts {
		if t.size > 0 && name != policy.ClusterName {
			names = append(names, name)
		}
	}
	return names
}

// all returns what is counted of each node.
func (c *census) all() []*entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]*entry, 0, len(c.entries))
	for _, e := range c.entries {
		list = append(list, e)
	}
	return list
}
