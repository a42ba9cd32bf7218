package sop_test

import (
	"slices"
	"strings"
	"time"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/soptest"
)

// The checks of a node that is taken out of service, returned, or given up.

// isolates reports whether the write begins the step cordon.
func (m moment) isolates() bool {
	before := 0
	if !m.begins {
		before = m.old.ticket.count(actCordon)
	}
	return m.now.ticket.count(actCordon) > before
}

// takesNoCordonOfTheirs judges that nobody else's cordon is taken for an own one, and that no ticket that people have given back is
// handed to them again.
func takesNoCordonOfTheirs(o *oracle, m moment) {
	p, name := m.p, m.node
	foreign, by := p.seen(name).foreign, o.cordoner[name]
	// What it sees may be the cordon of a person that came before this one.
	sees := !foreign.IsZero() && !foreign.Before(by.at)
	if m.isolates() && by.person && !by.lent() && sees && p.idle(name, foreign) > simThought {
		m.violated("p%d takes the cordon of a person on %s for its own", p.id, name)
	}
	if m.begins {
		return
	}
	if n := m.old.ticket.count(actHandOver); n > 0 && m.now.ticket.count(actHandOver) > n && p.ordering[name] == 0 {
		m.violated("p%d hands ticket %s over again, which people had given back", p.id, m.now.ticket.ID)
	}
}

// lent reports whether a person has asked for a check since they set the cordon, so that a passed one may undo it. The time of a cordon is
// known to the second, and a request over the API is for the node as it is when the answer is written.
func (c cordon) lent() bool {
	return !c.asked.IsZero() && !c.at.Truncate(time.Second).After(c.asked.Add(simAnswer))
}

// isolatesWhenAsked judges that a pause that the process knows of keeps it from isolating nodes.
func isolatesWhenAsked(_ *oracle, m moment) {
	if p := m.p; m.isolates() && !p.toldOff.IsZero() && p.idle(m.node, p.toldOff) > simThought {
		m.violated("p%d cordons %s although everything is paused", p.id, m.node)
	}
}

// isolatesNoStorm judges an incident that begins with a cordon by whether its condition has come over many nodes.
func isolatesNoStorm(o *oracle, m moment) {
	if m.isolates() && m.begins && !m.incident.requested {
		o.stormy(m, m.incident.key, "cordons "+m.node)
	}
}

// isolatesWhatIsConfirmed judges that the sources and the labels, as the process knows them, do not forbid to isolate the node.
func isolatesWhatIsConfirmed(o *oracle, m moment) {
	if !m.isolates() {
		return
	}
	excluded := m.p.seen(m.node).excluded
	if !excluded.IsZero() && m.p.idle(m.node, excluded) > simThought && o.c.On(excludedState(m.node)) {
		m.violated("p%d cordons the excluded node %s", m.p.id, m.node)
	}
	if since := o.c.ofControlPlane(m.node); !since.IsZero() && m.p.idle(m.node, since) > simThought {
		m.violated("p%d cordons %s, which is of the control plane", m.p.id, m.node)
	}
	if m.begins && !m.incident.requested {
		o.founded(m)
	}
}

// founded judges an incident that begins with a cordon: it rests on the word of the sources, or on a webhook that has just come
// in while they give none.
func (o *oracle) founded(m moment) {
	p, incident, name := m.p, m.incident, m.node
	told := p.tellOf(incident.key)
	f := told.finding
	// What both sources have is as good as a webhook, until one of them is silent.
	both := told.fires
	if told.listed.Before(both) {
		both = told.listed
	}
	fresh := time.Since(latest(told.webhook, both)) < freshAlert+simThought+recentFinding
	created := o.c.Nodes[name].CreationTimestamp.Time
	if told.startsAt.Before(created) && p.clock.Now().Sub(created) < newNode && told.webhook.After(both) {
		// It may be about a machine that had the name before.
		fresh = false
	}
	unclear := f.Evidence == prom.EvidenceUnknown || f.Permission == prom.PermissionUnknown ||
		f.Evidence == prom.EvidenceFiring && f.Permission == prom.PermissionUnlisted
	confirmed := f.Evidence == prom.EvidenceFiring && (f.Permission == prom.PermissionGranted || o.away(p, f))
	if f.Permission == prom.PermissionSilenced || !confirmed && (!unclear || !fresh) {
		m.violated("p%d isolates %s although it was told %s, %s", p.id, name, f.Evidence, f.Permission)
	}
	if p.idle(name, f.At) > freshAlert+simThought {
		m.violated("p%d isolates %s on an answer that is %s old", p.id, name, time.Since(f.At))
	}
}

// away reports whether the answer lets a node be isolated because Alertmanager has been away for long, as people have set.
func (o *oracle) away(p *simProcess, f prom.Finding) bool {
	silent := f.At.Sub(latest(p.began, p.heardAlertmanager))
	return o.c.isolates && f.Permission == prom.PermissionIsolate && silent >= simAway-simThought
}

// verifiesForLong judges the end of a verification: every answer for long enough was that the condition is gone.
func verifiesForLong(_ *oracle, m moment) {
	p, incident := m.p, m.incident
	verifies := m.old.ticket != nil && slices.ContainsFunc(m.old.ticket.running(), func(s simStep) bool { return s.Action == actVerify })
	if !verifies || m.now.ticket.last(actVerify).Status != isSucceeded {
		return
	}
	policy := policyOf(incident.key.Condition)
	if clear := time.Since(latest(p.tellOf(incident.key).present, p.began)); clear < policy.ClearFor {
		m.violated("p%d takes %s on %s for repaired after %s", p.id, incident.key.Condition, incident.key.Node, clear)
	}
}

// keepsTheBudget judges a cordon by Aegis: the pool had room. The other nodes count that the cache of the process showed out of
// service when it sent the write, and those that it had taken out itself.
func keepsTheBudget(o *oracle, m moment) {
	p, name, sent := m.p, m.node, m.sent
	if out := p.seen(name).out; !out.IsZero() && !out.After(sent) || !soptest.Ready(m.before) {
		return // It is out of service already, as the cache shows or the answer to an earlier write.
	}
	for _, pool := range o.c.limitsOf(o.c.Nodes[name]) {
		pool = o.c.loosest(pool, p.begun[name].at)
		if size, out := o.outOfService(m, pool); len(out) >= pool.allowed(size) {
			m.violated("p%d cordons %s beyond the budget %d of %d of %s, out of service: %v", p.id, name, pool.allowed(size), size, pool.name, out)
		}
	}
}

// leavesTheirCordon judges that a node which returns was cordoned by Aegis, or by a person who has asked for a check since, which it has
// passed.
func leavesTheirCordon(o *oracle, m moment) {
	switch by := o.cordoner[m.node]; {
	case !by.person:
	case !by.lent():
		m.violated("p%d undoes the cordon of a person on %s", m.p.id, m.node)
	case !o.passed[m.node].After(by.asked):
		m.violated("p%d undoes the cordon of a person on %s, which has passed no check since they asked for one", m.p.id, m.node)
	}
}

// returnsWhatIsFit judges the return of a node: it is proven to be fit, and nothing else that the process knows of keeps it out of
// service.
func returnsWhatIsFit(o *oracle, m moment) {
	p, name := m.p, m.node
	t := recordOf(m.before).ticket
	if t == nil {
		m.violated("p%d uncordons %s without a ticket", p.id, name)
		return
	}
	if t.Condition != simRelieve && (!fit(t) || !o.passed[name].After(o.harmed[name])) {
		m.violated("p%d uncordons %s, which no healthcheck has found fit", p.id, name)
	}
	if t.Condition != simCordon && t.Condition != simReady && !cleared(t) {
		m.violated("p%d uncordons %s, and has not verified that %s is gone", p.id, name, t.Condition)
	}
	if t.Origin == simLeft {
		o.overseen(m)
	}
	o.kept(m, t)
	seenToBeGone(o, m, t)
}

// simLeft is the origin of the check of a node that Aegis has cordoned, and that no ticket was about.
const simLeft = "cordon"

// overseen judges the return of a node of which nobody remembers what was wrong: Prometheus sees it.
func (o *oracle) overseen(m moment) {
	for _, state := range []string{soptest.PrometheusDown, soptest.PrometheusEmpty, soptest.UnseenOf(m.node)} {
		if o.c.On(state) && m.p.idle(m.node, o.c.Began(state)) > simThought {
			m.violated("p%d uncordons %s, of which no ticket was, although %s", m.p.id, m.node, state)
		}
	}
}

// kept judges a return by what the process knows of the node besides.
func (o *oracle) kept(m moment, t *simTicket) {
	p, name := m.p, m.node
	for _, s := range p.holds(name) {
		keeps := s.Priority < 100 && s.Policy.Workload != prom.WorkloadKeep && s.Condition != simCordon
		other := s.Condition != t.Condition || s.ID != t.Device || o.c.reports(t)
		known := p.tellOf(s.Key()).known
		if keeps && other && o.c.mode(s.Condition).Acts() && !known.IsZero() && p.client.Told(name, known) > simThought {
			m.violated("p%d uncordons %s while %s %s holds", p.id, name, s.Condition, s.ID)
		}
	}
}

// seenToBeGone judges a return by the last word of the sources on the condition of the ticket: it is gone, and that was asked right before.
func seenToBeGone(o *oracle, m moment, t *simTicket) {
	key := prom.Key{Node: m.node, Condition: t.Condition, ID: t.Device}
	f := m.p.tellOf(key).finding
	if !o.c.reports(t) || strings.HasPrefix(t.Origin, askedFor) && !cleared(t) && f.Evidence == prom.EvidenceUnknown {
		return
	}
	if f.Evidence != prom.EvidenceAbsent || m.p.idle(m.node, f.At) > simThought+simAsked {
		m.violated("p%d uncordons %s, of which it was told %s ago that %s is %s", m.p.id, m.node, time.Since(f.At), t.Condition, f.Evidence)
	}
}

// simAsked is how long an answer is good for.
const simAsked = 5 * time.Second

// reports reports whether an alert tells of what the ticket is about, and ends with it.
func (c *cluster) reports(t *simTicket) bool {
	return t.Condition != simCordon && t.Condition != simNote && !strings.HasPrefix(t.Origin, checkAskedFor) && c.mode(t.Condition).Acts()
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

// taintsWhatIsDown judges the taint that has Kubernetes give up what runs on the node: it is proven to be powered off.
func taintsWhatIsDown(o *oracle, m moment) {
	if alive, is := o.aliveSince[m.node]; is && m.p.idle(m.node, alive) > simThought {
		m.violated("p%d taints %s, which is not down", m.p.id, m.node)
	}
}
