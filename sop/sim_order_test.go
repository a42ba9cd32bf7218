package sop_test

import (
	"context"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/rules/prom"
)

// The checks of who goes first: a place in a limit that becomes free is for the most urgent node that waits for it.

const (
	// simHold is how often a node that waits asks again, simOffer how long a place is kept for who was offered it.
	simHold  = 20 * time.Second
	simOffer = simHold / 2
	// simUnanswered is for how long a step may wait for the API server with its slot.
	simUnanswered = time.Minute
	// simAging is how long a node waits until it counts as one priority more urgent.
	simAging = 5 * time.Minute
)

// rank orders conditions as nodes are served: the lower, the sooner. The priority 1 comes after those of emergencies.
func rank(condition string) int {
	switch priority := (simCatalogue{}).Status("", condition, "", 0).Priority; {
	case priority == 1:
		return 100
	case priority >= 100:
		return priority + 1
	default:
		return priority
	}
}

// cordonsTheMostUrgent judges a cordon that takes the last place in the budget of the pool, which was decided on before it was sent.
func cordonsTheMostUrgent(o *oracle, m moment) {
	p := m.p
	if out := p.seen(m.node).out; !out.IsZero() && !out.After(m.sent) {
		return
	}
	t := recordOf(m.after).ticket
	for _, pool := range o.c.limitsOf(m.before) {
		size, out := o.outOfService(m, pool)
		if t != nil && len(out)+1 >= pool.allowed(size) {
			o.overtakes(m, pool, t, p.begun[m.node].at, "cordons", p.waitsForBudget, o.roomFor)
		}
	}
}

// destroysOnTheMostUrgent judges a destructive step that takes the last slot of the pool.
func destroysOnTheMostUrgent(o *oracle, m moment) {
	p := m.p
	t := recordOf(o.c.Nodes[m.node]).ticket
	if _, begun := o.destroying[m.node]; begun || t == nil {
		return // It has its slot already.
	}
	if time.Since(p.client.Failed(m.node)) < simUnanswered {
		return // It has asked for its slot more than once, and the verdict tells of the last time alone.
	}
	admitted := time.Time{}
	for _, d := range p.decisions(m.node) {
		if d.Condition == t.Condition && d.Verdict.Name == "execute" {
			admitted = d.Since
		}
	}
	for _, pool := range o.c.limitsOf(o.c.Nodes[m.node]) {
		if len(o.busy(p, m.node, pool))+1 >= pool.maxDestructive {
			o.overtakes(m, pool, t, admitted, "destroys on", p.waitsForSlot, o.slotFor)
		}
	}
}

// overtakes reports a node that takes the last place of the pool, or of the cluster, which another one, more urgent, has waited for since
// before this one asked for it. One whose own pool has no room cannot use a place of the cluster.
func (o *oracle) overtakes(
	m moment, pool simPoolSettings, t *simTicket, asked time.Time, what string, waits func(*corev1.Node) (string, time.Time),
	usable func(moment, *corev1.Node) bool,
) {
	p := m.p
	if time.Since(o.c.Mended) < time.Minute {
		return // Who could use the place may not know that the API server is back.
	}
	asked = latest(asked, o.journaledAt[m.node])
	began := o.c.Start()
	if incident := o.incidents[t.ID]; incident != nil {
		began = incident.opened
	}
	if f := o.c.Faults[simKey(m.node, t.Condition, t.Device)]; f != nil {
		began = f.Changed
	}
	aged := 1 + int(time.Since(latest(began, p.began))/simAging)
	for name, node := range p.cache.Shown {
		if name == m.node || !o.c.has(pool, node) || pool.name == simEverywhere && !usable(m, node) {
			continue
		}
		condition, since := waits(node)
		idle := p.idle(name, time.Now().Add(-simOffer)) > simOffer/2
		if condition != "" && idle && asked.Sub(since) > simThought && rank(t.Condition)-aged > rank(condition) {
			m.violated("p%d %s %s for %s, while %s has waited for %s because of %s", p.id, what, m.node, t.Condition, name, time.Since(since), condition)
		}
	}
}

// waitsForBudget returns what the node has waited for a place in the budget for, and since when. A run that was interrupted asks again
// only after a while.
func (p *simProcess) waitsForBudget(node *corev1.Node) (condition string, since time.Time) {
	if p.running[node.Name] > 0 || time.Since(p.interrupted[node.Name]) < simHold+simThought {
		return "", time.Time{}
	}
	return p.waits(node.Name, "out of service")
}

// waitsForSlot returns what the node has waited for a destructive slot for, in its run, and since when. A run that has just begun may not
// have asked yet.
func (p *simProcess) waitsForSlot(node *corev1.Node) (condition string, since time.Time) {
	t := recordOf(node).ticket
	condition, since = p.waits(node.Name, "destructive")
	run, runs := p.begun[node.Name]
	if !runs || time.Since(run.at) < simHold+simOffer || t == nil || t.Condition != condition {
		return "", time.Time{}
	}
	return condition, since
}

// waits returns the most urgent condition of the node that waits for a limit, and since when. One that Aegis only watches would wait.
func (p *simProcess) waits(node, limit string) (condition string, since time.Time) {
	for _, d := range p.decisions(node) {
		waits := d.Verdict.Name == "budget" && strings.Contains(d.Verdict.Reason, limit) && p.mode(d.Condition) == prom.ModeAuto
		if waits && (condition == "" || rank(d.Condition) < rank(condition)) {
			condition, since = d.Condition, d.Since
		}
	}
	return condition, since
}

func simKey(node, condition, device string) prom.Key {
	return prom.Key{Node: node, Condition: condition, ID: device}
}

// drawRush has urgent and patient nodes fall ill at about the same time, so that they wait for each other: for the budget, or, where all
// may be out of service at once, for a slot.
func (s *schedule) drawRush() {
	begin, within := s.instant(), 5*time.Minute
	conditions := []string{simUrgent, simPatient, simPatient, ""}
	if s.rng.IntN(2) == 0 {
		within, conditions = 2*time.Minute, conditions[:3]
		for i := range s.pools {
			s.pools[i].maxPercent, s.pools[i].maxDestructive, s.pools[i].stormNodes = 100, 1, 0
		}
	}
	for _, name := range s.names {
		if condition := conditions[s.rng.IntN(len(conditions))]; condition != "" {
			at := begin + s.within(within)
			s.sick = append(s.sick, simOutbreak{node: name, condition: condition, at: at})
			s.drawCourse(simKey(name, condition, ""), at)
		}
	}
}

// outOfService returns how many nodes of the pool the process knows of, and which others are out of service, as it knew when it sent the
// write, or by its own doing.
func (o *oracle) outOfService(m moment, pool simPoolSettings) (size int, out []string) {
	p := m.p
	for other, node := range p.cache.Shown {
		if !o.c.has(pool, node) {
			continue
		}
		size++
		_, isOut := o.outSince[other]
		seen := p.seen(other).out
		by, cordoned := o.cordoner[other]
		known := !seen.IsZero() && seen.Before(m.sent) || cordoned && by.process == p.id && by.sent.Before(m.sent)
		if other != m.node && isOut && known {
			out = append(out, other)
		}
	}
	slices.Sort(out)
	return size, out
}

// busy names the other nodes of the pool on which the process knows that a destructive step runs.
func (o *oracle) busy(p *simProcess, node string, pool simPoolSettings) (busy []string) {
	for other, step := range o.destroying {
		seen := p.seen(other).destroyed
		known := step.process == p.id || !seen.IsZero() && p.idle(node, seen) > simThought
		if other != node && known && o.c.has(pool, o.c.Nodes[other]) && destroys(o.c.Nodes[other]) {
			busy = append(busy, other)
		}
	}
	return busy
}

// simRecount is how often a process is asked for a count of all nodes.
const simRecount = 90 * time.Second

// recount has all nodes counted from time to time while the process runs.
func (p *simProcess) recount(ctx context.Context) {
	every := simRecount
	if p.large { // It parses what every node has.
		every = simRecountLarge
	}
	for sleep(ctx, every) == nil {
		miscounted := p.dispatcher.Miscounted()
		p.Lock()
		p.oracle.judge(nodesRecounted, moment{p: p, miscounted: miscounted})
		p.Unlock()
	}
}

// countsAsARecount judges what the limits go by.
func countsAsARecount(_ *oracle, m moment) {
	for _, difference := range m.miscounted {
		m.violated("p%d: %s", m.p.id, difference)
	}
}
