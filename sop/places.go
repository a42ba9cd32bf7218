package sop

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// Who gets which of the places that are free. A node needs one in its pool and one in the cluster; those who wait in all pools stand in one
// line, and each has its turn when there is a place in both that nobody before it can use.

// places are those of a limit of one pool, or of the cluster, as one node finds them.
type places struct {
	limit         policy.Limit
	pool          policy.Pool
	size, allowed int
	// taken are the nodes that have one.
	taken []string
}

// free returns how many are free.
func (p places) free() int { return p.allowed - len(p.taken) }

// words say how the places are taken.
func (p places) words() string {
	if p.limit == policy.LimitBudget {
		return fmt.Sprintf("%d of %d nodes of %s are out of service, %d allowed%s", len(p.taken), p.size, p.pool.Title(), p.allowed, someOf(p.taken))
	}
	return fmt.Sprintf("%d of %d destructive steps are running in %s%s", len(p.taken), p.allowed, p.pool.Title(), someOf(p.taken))
}

// places returns those of the limit in the pool, or in the cluster, for a node whose ticket says that.
func (l *limits) places(limit policy.Limit, pool policy.Pool, node string, own holding) places {
	p := places{limit: limit, pool: pool}
	if pool.Name == "" { // No bound is set.
		p.allowed = math.MaxInt
		return p
	}
	if limit == policy.LimitBudget {
		p.size, p.taken = l.outOfService(pool.Name)
		p.allowed = pool.Allowed(p.size)
		return p
	}
	p.size, p.taken = l.census.size(pool.Name), l.destructive(pool.Name, node, own)
	p.allowed = pool.Slots(p.size)
	return p
}

// outOfService returns how many nodes the pool has, and names those that are out of service or about to be.
func (l *limits) outOfService(pool string) (size int, out []string) {
	sum := l.census.sumOf(pool)
	out = sum.out
	for name := range l.reserved {
		if e := l.census.of(name); e != nil && e.in(pool) && l.holds(name, e) {
			out = with(out, name)
		}
	}
	return sum.size, out
}

// destructive names the other nodes of the pool on which a destructive step runs, by this process or by one before it. Of two
// steps in the journals that both wait for their order, as two leaders may leave them behind, the one that began earlier goes first.
func (l *limits) destructive(pool, node string, own holding) []string {
	return slices.DeleteFunc(l.destroying(pool), func(other string) bool {
		e := l.census.of(other)
		both := own.followed && e != nil && e.held.followed
		return other == node || both && cmp.Or(own.step.At.Compare(e.held.step.At), cmp.Compare(node, other)) < 0
	})
}

// destroying names the nodes of the pool on which a destructive step runs. That of a ticket which people have taken over or removed counts
// for as long as its Job may run.
func (l *limits) destroying(pool string) []string {
	now := l.clock.Now()
	busy := slices.DeleteFunc(l.census.sumOf(pool).destroying, func(name string) bool {
		e := l.census.of(name)
		return e != nil && e.held.lapsed(now)
	})
	for name := range l.inFlight {
		if e := l.census.of(name); e != nil && e.in(pool) {
			busy = with(busy, name)
		}
	}
	return busy
}

// handout walks along those who wait for a place in the limit and could use one, the most urgent first, and gives each a place in its pool and
// in the cluster as long as there is one. Of each place it keeps free for nodes that have not said whether they wait, if unheard is set.
type handout struct {
	*limits
	limit    policy.Limit
	settings policy.Settings
	unheard  bool
	// given is how many places were given in each pool, and in the cluster.
	given map[string]int
	// budgets are those of the pools that were looked at. They are the same for all who wait, who are in service.
	budgets map[string]places
}

func (l *limits) handout(limit policy.Limit, settings policy.Settings, unheard bool) *handout {
	return &handout{limits: l, limit: limit, settings: settings, unheard: unheard, given: make(map[string]int), budgets: make(map[string]places)}
}

// left returns how many of the places are left.
func (l *handout) left(p places) int {
	left := p.free() - l.given[p.pool.Name]
	if l.unheard {
		left -= l.silent(p.limit, p.pool.Name)
	}
	return left
}

// at returns the places in the pool as the waiter finds them.
func (l *handout) at(pool policy.Pool, w *waiter) places {
	if l.limit != policy.LimitBudget {
		own := holding{}
		if e := l.census.of(w.Node); e != nil {
			own = e.held
		}
		return l.places(l.limit, pool, w.Node, own)
	}
	p, known := l.budgets[pool.Name]
	if !known {
		p = l.places(l.limit, pool, w.Node, holding{})
		l.budgets[pool.Name] = p
	}
	return p
}

// give gives the waiter a place if there is one for it.
func (l *handout) give(w *waiter) bool {
	if l.left(l.at(l.settings.Cluster, w)) <= 0 || l.left(l.at(l.settings.PoolNamed(w.pool), w)) <= 0 {
		return false
	}
	l.given[w.pool]++
	l.given[l.settings.Cluster.Name]++
	return true
}

// lacks returns which of the places are not for the claim, nil if it has its turn.
func (l *handout) lacks(c policy.Claim, in, all places, now time.Time) *places {
	lacking := func() *places {
		switch {
		case l.left(in) <= 0:
			return &in
		case l.left(all) <= 0:
			return &all
		}
		return nil
	}
	if lacking() != nil {
		return lacking()
	}
	for _, w := range l.waiting.standing(l.limit, now) {
		if w.Node == c.Node {
			continue
		}
		if !w.Before(c, now) {
			break
		}
		if l.give(w) && lacking() != nil {
			return lacking()
		}
	}
	return nil
}

// offer wakes those who have their turn, once each.
func (l *limits) offer(limit policy.Limit, settings policy.Settings) {
	now := l.clock.Now()
	waiting := l.waiting.standing(limit, now)
	if len(waiting) == 0 {
		return
	}
	given := l.handout(limit, settings, true)
	for _, w := range waiting {
		if limit == policy.LimitBudget && given.left(given.at(settings.Cluster, w)) <= 0 {
			return
		}
		if given.give(w) {
			l.waiting.ring(w, now)
		}
	}
}

// silent returns how many nodes of the pool, or of the cluster, may wait and have not said so yet.
func (l *limits) silent(limit policy.Limit, pool string) (n int) {
	for of, names := range l.unheard {
		if of.limit == limit && (of.pool == pool || pool == policy.ClusterName) {
			n += len(names)
		}
	}
	return n
}

// turn says why the claim of a node of the pool, whose ticket says that, has no place: there are not enough for it and for those before it.
func (l *limits) turn(of limitOf, c policy.Claim, how manner, own holding, settings policy.Settings) (reason string) {
	now := l.clock.Now()
	in, all := l.places(of.limit, settings.PoolNamed(of.pool), c.Node, own), l.places(of.limit, settings.Cluster, c.Node, own)
	switch how {
	case looks:
		if lacks := l.handout(of.limit, settings, false).lacks(c, in, all, now); lacks != nil {
			return lacks.words() + l.waiting.place(of.limit, lacks.pool.Name, c, now)
		}
		return ""
	case stays:
		for _, p := range []places{in, all} {
			if p.free() <= 0 {
				return p.words()
			}
		}
		return ""
	}
	l.heard(of.limit, c.Node)
	w := l.waiting.join(of, c, how == inPlace, now)
	c = w.Claim // It knows since when the node waits.
	if lacks := l.handout(of.limit, settings, true).lacks(c, in, all, now); lacks != nil {
		w.offered, w.passed = time.Time{}, false
		return lacks.words() + l.waiting.place(of.limit, lacks.pool.Name, c, now) + l.settling(*lacks)
	}
	switch {
	case how != comes:
		l.metrics.waited(of.limit, now.Sub(w.Since))
		l.waiting.leave(of.limit, c.Node)
	case w.offered.IsZero():
		w.offered = now
		l.wake()
	}
	return ""
}

// settling says until when a free place is not given because it is not known yet who waits.
func (l *limits) settling(p places) string {
	if p.free() <= 0 || l.silent(p.limit, p.pool.Name) == 0 {
		return ""
	}
	return "; Aegis has just begun to lead, and gives places once it knows who waits, at " + l.settled.UTC().Format(time.RFC3339) + " at the latest"
}

// states returns the limits of all pools that have nodes, or are configured, and those of the cluster.
func (l *limits) states() []policy.LimitState {
	settings := l.census.catchUp()
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock.Now()
	var states []policy.LimitState
	for _, name := range l.bounded(settings) {
		for _, limit := range policy.Limits() {
			p := l.places(limit, settings.PoolNamed(name), "", holding{})
			states = append(states, policy.LimitState{
				Pool: name, Limit: limit, Allowed: p.allowed, Taken: p.taken, Waiting: l.waiting.claims(limit, name, now),
			})
		}
	}
	return states
}

// bounded returns the pools of the configuration, those that have nodes, and the cluster if it has limits, sorted.
func (l *limits) bounded(settings policy.Settings) []string {
	names := l.census.inhabited()
	for _, p := range settings.Pools {
		names = append(names, p.Name)
	}
	if settings.Cluster.Name != "" {
		names = append(names, policy.ClusterName)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// lapse returns when the next of the steps that Aegis does not follow counts no more, zero if there is none.
func (l *limits) lapse(now time.Time) (next time.Time) {
	for _, name := range l.census.sumOf(policy.ClusterName).destroying {
		e := l.census.of(name)
		if e == nil || e.held.lapsed(now) {
			continue
		}
		if at := e.held.lapses(); !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return next
}

// recordedDestructive returns the destructive step that runs by the record of the node, whatever has become of its ticket.
func recordedDestructive(node *corev1.Node) (ticket.Step, bool) {
	for _, run := range (ticket.Record{Node: node}).Runs() {
		if run.Action.Destructive() {
			return ticket.Step{Action: run.Action, At: run.At}, true
		}
	}
	return ticket.Step{}, false
}

// runningDestructive returns the destructive step that the ticket shows as Running, if there is one.
func runningDestructive(t *ticket.Ticket) (ticket.Step, bool) {
	for _, s := range t.Running() {
		if s.Action.Destructive() {
			return s, true
		}
	}
	return ticket.Step{}, false
}
