package sop

import (
	"fmt"
	"slices"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// What has to hold in the end: nothing is left undone, and nothing was lost.

// unfinished names what is left to do once the world has settled: conditions without a verdict that is true, tickets that
// nobody owns, and nodes that were forgotten.
func (i *invariants) unfinished(p *simProcess) []string {
	left := append(i.lost(), i.withheld(p)...)
	for name, node := range i.c.nodes {
		left = append(left, i.unfinishedOn(p, name, ticket.ReadNode(node))...)
		if !node.Spec.Unschedulable && node.Annotations[ticket.OwnerAnnotation] != "" {
			left = append(left, fmt.Sprintf("%s is in service and has the owner note %s", name, node.Annotations[ticket.OwnerAnnotation]))
		}
	}
	slices.Sort(left)
	return left
}

// unfinishedOn names what is left to do on one node.
func (i *invariants) unfinishedOn(p *simProcess, name string, r ticket.Record) []string {
	verdicts := make(map[prom.Key]policy.Verdict)
	for _, d := range p.book.Node(name) {
		verdicts[prom.Key{Node: name, Condition: d.Condition, ID: d.ID}] = d.Verdict
	}
	t := r.Ticket
	if t != nil && t.Open() && t.Owned() {
		// Its verdict is that of the node: the other conditions are decided on when it has ended.
		key := prom.Key{Node: name, Condition: t.Condition, ID: t.Device}
		if v := verdicts[key]; i.over(t, key) || !i.justified(v, key, r) {
			return []string{fmt.Sprintf("ticket %s for %s on %s is open, verdict %v", t.ID, t.Condition, name, v)}
		}
		return i.undecided(name, verdicts)
	}
	var left []string
	for key, s := range i.c.conditions {
		if key.Node == name && s.holds && !i.justified(verdicts[key], key, r) {
			left = append(left, fmt.Sprintf("%s %s holds on %s, verdict %v", key.Condition, key.ID, name, verdicts[key]))
		}
	}
	if t == nil && hasTaint(r.Node) && IsReady(r.Node) {
		left = append(left, name+" is ready and has the out-of-service taint")
	}
	return left
}

// undecided names what holds on the node without any verdict.
func (i *invariants) undecided(name string, verdicts map[prom.Key]policy.Verdict) []string {
	var left []string
	for key, s := range i.c.conditions {
		if key.Node == name && s.holds && verdicts[key].Name == "" {
			left = append(left, fmt.Sprintf("nothing is said of %s %s on %s", key.Condition, key.ID, name))
		}
	}
	return left
}

// over reports whether the condition of the ticket has gone away, so that nothing holds the return of the node.
func (i *invariants) over(t *ticket.Ticket, key prom.Key) bool {
	s, incident := i.c.conditions[key], i.incidents[t.ID]
	return incident != nil && !incident.suspect && !incident.requested && (s == nil || !s.holds)
}

// withheld names what runs that have ended have not given back.
func (i *invariants) withheld(p *simProcess) []string {
	p.limits.mu.Lock()
	defer p.limits.mu.Unlock()
	var left []string
	for name, r := range p.limits.reserved {
		if r.released.IsZero() && p.running[name] == 0 {
			left = append(left, "the reservation of "+name+" was not given back")
		}
	}
	for name := range p.limits.inFlight {
		if p.running[name] == 0 {
			left = append(left, "the destructive slot of "+name+" was not given back")
		}
	}
	return left
}

// lost names the tickets of Aegis that are neither open nor in the history, and that neither went with their node nor were
// removed by anybody.
func (i *invariants) lost() []string {
	var lost []string
	for id, incident := range i.incidents {
		node := i.c.nodes[incident.key.Node]
		if node == nil || node.UID != incident.uid || incident.removed {
			continue
		}
		r := ticket.ReadNode(node)
		closed := slices.ContainsFunc(r.History.Incidents, func(in ticket.Incident) bool { return in.ID == id })
		open := r.Ticket != nil && r.Ticket.ID == id && r.Ticket.Open()
		if !closed && !open {
			lost = append(lost, fmt.Sprintf("ticket %s on %s was lost", id, incident.key.Node))
		}
	}
	return lost
}

// justified reports whether the verdict is a reason to do nothing that is true of the node.
func (i *invariants) justified(v policy.Verdict, key prom.Key, r ticket.Record) bool {
	name := r.Node.Name
	pool := i.c.settings.PoolOf(r.Node)
	switch v.Name {
	case policy.VerdictIgnored, policy.VerdictObserve, policy.VerdictAwaitingApproval:
		modes := map[policy.VerdictName]prom.Mode{
			policy.VerdictIgnored: prom.ModeOff, policy.VerdictObserve: prom.ModeObserve, policy.VerdictAwaitingApproval: prom.ModeApprove,
		}
		return i.c.mode(key.Condition) == modes[v.Name]
	case policy.VerdictPaused:
		return !i.closed(pool).IsZero()
	case policy.VerdictStorm:
		return i.widespread(key.Condition, pool)
	case policy.VerdictHumanOwned:
		return r.Broken != nil || r.Ticket != nil && r.Ticket.Open() && !r.Ticket.Owned()
	case policy.VerdictInProgress, policy.VerdictDuplicate:
		return r.Ticket != nil && r.Ticket.Open()
	case policy.VerdictHumanCordoned:
		return r.Node.Spec.Unschedulable && i.cordoner[name].person
	case policy.VerdictTolerated:
		return i.urgent(name)
	case policy.VerdictBudget:
		return i.full(name)
	}
	return false
}

// widespread reports whether the condition still holds on so many nodes that its storm goes on.
func (i *invariants) widespread(condition string, pool policy.Pool) bool {
	n := 0
	for key, s := range i.c.conditions {
		if s.holds && key.Condition == condition && i.c.settings.PoolOf(i.c.nodes[key.Node]).Name == pool.Name {
			n++
		}
	}
	return n > pool.StormNodes/2
}

// urgent reports whether a condition holds on the node that goes before others.
func (i *invariants) urgent(name string) bool {
	for key, s := range i.c.conditions {
		if key.Node == name && s.holds && key.Condition != simCordon && key.Condition != simNote {
			return true
		}
	}
	return false
}

// full reports whether the pool has no room for the node.
func (i *invariants) full(name string) bool {
	pool := i.c.settings.PoolOf(i.c.nodes[name])
	size, out := 0, 0
	for other, node := range i.c.nodes {
		if i.c.settings.PoolOf(node).Name != pool.Name {
			continue
		}
		size++
		if _, isOut := i.outSince[other]; isOut && other != name {
			out++
		}
	}
	return out >= pool.Allowed(size)
}
