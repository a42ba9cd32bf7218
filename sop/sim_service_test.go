package sop_test

import (
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/rules/prom"
)

// What has to hold when a node is taken out of service, returned, or given up.

// isolated judges the step cordon: nobody else's cordon is taken for an own one, and what the process knows does not forbid it.
func (i *invariants) isolated(p *simProcess, incident *simIncident, begins bool) {
	name := incident.key.Node
	sight := p.seen(name)
	if by := i.cordoner[name]; by.person && !sight.foreign.IsZero() && p.idle(name, sight.foreign) > simThought {
		i.violated("p%d takes the cordon of a person on %s for its own", p.id, name)
	}
	if !sight.excluded.IsZero() && p.idle(name, sight.excluded) > simThought && i.c.On(excludedState(name)) {
		i.violated("p%d cordons the excluded node %s", p.id, name)
	}
	if !p.toldOff.IsZero() && p.idle(name, p.toldOff) > simThought {
		i.violated("p%d cordons %s although everything is paused", p.id, name)
	}
	if begins && !incident.requested {
		i.stormy(p, incident.key, "cordons "+name)
		i.founded(p, incident)
	}
}

// founded judges an incident that begins with a cordon: it rests on the word of the sources, or on a webhook that has just come
// in while they give none.
func (i *invariants) founded(p *simProcess, incident *simIncident) {
	name := incident.key.Node
	told := p.tellOf(incident.key)
	f := told.finding
	// What both sources have is as good as a webhook, until one of them is silent.
	both := told.fires
	if told.listed.Before(both) {
		both = told.listed
	}
	fresh := time.Since(latest(told.webhook, both)) < freshAlert+simThought+recentFinding
	created := i.c.Nodes[name].CreationTimestamp.Time
	if told.startsAt.Before(created) && time.Since(created) < newNode && told.webhook.After(both) {
		// It may be about a machine that had the name before.
		fresh = false
	}
	unclear := f.Evidence == prom.EvidenceUnknown || f.Permission == prom.PermissionUnknown ||
		f.Evidence == prom.EvidenceFiring && f.Permission == prom.PermissionUnlisted
	confirmed := f.Evidence == prom.EvidenceFiring && f.Permission == prom.PermissionGranted
	if f.Permission == prom.PermissionSilenced || !confirmed && (!unclear || !fresh) {
		i.violated("p%d isolates %s although it was told %s, %s", p.id, name, f.Evidence, f.Permission)
	}
	if p.idle(name, f.At) > freshAlert+simThought {
		i.violated("p%d isolates %s on an answer that is %s old", p.id, name, time.Since(f.At))
	}
}

// verified judges the end of a verification: every answer for long enough was that the condition is gone.
func (i *invariants) verified(p *simProcess, incident *simIncident) {
	policy := policyOf(incident.key.Condition)
	if clear := time.Since(latest(p.tellOf(incident.key).present, p.began)); clear < policy.ClearFor {
		i.violated("p%d takes %s on %s for repaired after %s", p.id, incident.key.Condition, incident.key.Node, clear)
	}
}

// cordoned judges a cordon by Aegis: the pool had room. The other nodes count that the cache of the process showed out of
// service when it sent the write, and those that it had taken out itself.
func (i *invariants) cordoned(p *simProcess, name string, sent time.Time) {
	known := func(node string) bool {
		at := p.seen(node).out
		return !at.IsZero() && at.Before(sent)
	}
	if out := p.seen(name).out; !out.IsZero() && !out.After(sent) {
		return
	}
	pool := i.c.poolOf(i.c.Nodes[name])
	size, out := 0, []string{}
	for _, other := range slices.Sorted(maps.Keys(p.cache.Shown)) {
		if i.c.poolOf(p.cache.Shown[other]).name != pool.name {
			continue
		}
		size++
		_, isOut := i.outSince[other]
		by, cordoned := i.cordoner[other]
		ours := cordoned && by.process == p.id && by.sent.Before(sent)
		if other != name && isOut && (known(other) || ours) {
			out = append(out, other)
		}
	}
	if len(out) >= pool.allowed(size) {
		i.violated("p%d cordons %s beyond the budget %d of %d of pool %s, out of service: %v", p.id, name, pool.allowed(size), size, pool.name, out)
	}
}

// uncordoned judges the return of a node: its cordon was that of Aegis, it is proven to be fit, and nothing else that the
// process knows of keeps it out of service.
func (i *invariants) uncordoned(p *simProcess, node *corev1.Node) {
	name := node.Name
	i.c.Logf("p%d uncordons %s", p.id, name)
	if by := i.cordoner[name]; by.person {
		i.violated("p%d undoes the cordon of a person on %s", p.id, name)
	}
	delete(i.cordoner, name)
	t := recordOf(node).ticket
	if t == nil {
		i.violated("p%d uncordons %s without a ticket", p.id, name)
		return
	}
	if t.Condition != simRelieve && (!fit(t) || !i.passed[name].After(i.harmed[name])) {
		i.violated("p%d uncordons %s, which no healthcheck has found fit", p.id, name)
	}
	if t.Condition != simCordon && t.Condition != simReady && !cleared(t) {
		i.violated("p%d uncordons %s, and has not verified that %s is gone", p.id, name, t.Condition)
	}
	i.kept(p, name, t)
}

// kept judges a return by what the process knows of the node besides.
func (i *invariants) kept(p *simProcess, name string, t *simTicket) {
	for _, s := range p.queue.Statuses(name) {
		keeps := s.Priority < 100 && s.Policy.Workload != prom.WorkloadKeep && s.Condition != simCordon
		other := s.Condition != t.Condition || s.ID != t.Device
		known := p.tellOf(s.Key()).known
		if keeps && other && i.c.mode(s.Condition).Acts() && !known.IsZero() && p.idle(name, known) > simThought {
			i.violated("p%d uncordons %s while %s %s holds", p.id, name, s.Condition, s.ID)
		}
	}
}

// fit reports whether the last word on the node of the ticket is a passed healthcheck.
func fit(t *simTicket) bool {
	passed := false
	for _, s := range t.Workflows {
		switch {
		case s.Action == actHealthcheck:
			passed = s.Status == isSucceeded
		case destructive(s.Action), s.Action == actCordon:
			passed = false
		}
	}
	return passed
}

// cleared reports whether the condition of the ticket was seen to be gone since the node was last shaken or isolated.
func cleared(t *simTicket) bool {
	gone := false
	for _, s := range t.Workflows {
		switch {
		case s.Action == actVerify:
			gone = s.Status == isSucceeded
		case destructive(s.Action), s.Action == actCordon:
			gone = false
		}
	}
	return gone
}

// tainted judges the taint that has Kubernetes give up what runs on the node: it is proven to be powered off.
func (i *invariants) tainted(p *simProcess, node *corev1.Node) {
	i.c.Logf("p%d taints %s", p.id, node.Name)
	if alive, is := i.aliveSince[node.Name]; is && p.idle(node.Name, alive) > simThought {
		i.violated("p%d taints %s, which is not down", p.id, node.Name)
	}
	i.disruptive(p, node.Name, "taint")
}
