package sop_test

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/soptest"
)

// The checks of the end: nothing is left undone, and nothing was lost.

// leavesNothing judges the world once it has settled.
func leavesNothing(o *oracle, m moment) {
	for _, left := range append(o.unfinished(m.p), o.withheld(m.p, m.reserved, m.inFlight)...) {
		m.violated("%s", left)
	}
}

// unfinished names what is left to do once the world has settled: conditions without a verdict that is true, tickets that
// nobody owns, and nodes that were forgotten.
func (o *oracle) unfinished(p *simProcess) []string {
	left := o.lost()
	for name, node := range o.c.Nodes {
		left = append(left, o.unfinishedOn(p, name, recordOf(node))...)
		if !node.Spec.Unschedulable && node.Annotations[soptest.OwnerAnnotation] != "" {
			left = append(left, fmt.Sprintf("%s is in service and has the owner note %s", name, node.Annotations[soptest.OwnerAnnotation]))
		}
	}
	slices.Sort(left)
	return left
}

// unfinishedOn names what is left to do on one node.
func (o *oracle) unfinishedOn(p *simProcess, name string, r simRecord) []string {
	verdicts := make(map[prom.Key]string)
	for _, d := range p.decisions(name) {
		verdicts[prom.Key{Node: name, Condition: d.Condition, ID: d.ID}] = string(d.Verdict.Name)
	}
	t := r.ticket
	if t != nil && t.open() && t.owned() {
		// Its verdict is that of the node: the other conditions are decided on when it has ended.
		key := prom.Key{Node: name, Condition: t.Condition, ID: t.Device}
		if v := verdicts[key]; o.over(t, key) || !o.justified(v, key, r) {
			return []string{fmt.Sprintf("ticket %s for %s on %s is open, verdict %v", t.ID, t.Condition, name, v)}
		}
		return o.undecided(name, verdicts)
	}
	left := o.silent(r)
	for key, s := range o.c.Faults {
		if key.Node == name && s.Holds && !o.justified(verdicts[key], key, r) {
			left = append(left, fmt.Sprintf("%s %s holds on %s, verdict %v", key.Condition, key.ID, name, verdicts[key]))
		}
	}
	if t == nil && hasTaint(r.node) && soptest.Ready(r.node) {
		left = append(left, name+" is ready and has the out-of-service taint")
	}
	return left
}

// silent names a node that Aegis has cordoned, that no ticket is about, and that nothing else keeps out of service.
func (o *oracle) silent(r simRecord) []string {
	name := r.node.Name
	told := r.broken || r.ticket != nil && r.ticket.open()
	if by, known := o.cordoner[name]; !known || by.person || told || o.urgent(name) {
		return nil
	}
	return []string{fmt.Sprintf("%s is left cordoned by Aegis, and no ticket is about that", name)}
}

// undecided names what holds on the node without any verdict.
func (o *oracle) undecided(name string, verdicts map[prom.Key]string) []string {
	var left []string
	for key, s := range o.c.Faults {
		if key.Node == name && s.Holds && verdicts[key] == "" {
			left = append(left, fmt.Sprintf("nothing is said of %s %s on %s", key.Condition, key.ID, name))
		}
	}
	return left
}

// over reports whether the condition of the ticket has gone away, so that nothing holds the return of the node.
func (o *oracle) over(t *simTicket, key prom.Key) bool {
	s, incident := o.c.Faults[key], o.incidents[t.ID]
	return incident != nil && !incident.suspect && !incident.requested && (s == nil || !s.Holds)
}

// withheld names what runs that have ended have not given back.
func (o *oracle) withheld(p *simProcess, reserved, inFlight []string) []string {
	var left []string
	for _, name := range reserved {
		if p.running[name] == 0 {
			left = append(left, "the reservation of "+name+" was not given back")
		}
	}
	for _, name := range inFlight {
		if p.running[name] == 0 {
			left = append(left, "the destructive slot of "+name+" was not given back")
		}
	}
	return left
}

// simRemembered is how many incidents the history of a node has. Beyond that those that have destroyed nothing are forgotten first.
const simRemembered = 20

// lost names the tickets of Aegis that are neither open nor in the history, and that neither went with their node nor were
// removed by anybody.
func (o *oracle) lost() []string {
	var lost []string
	for id, incident := range o.incidents {
		node := o.c.Nodes[incident.key.Node]
		if node == nil || node.UID != incident.uid || incident.removed {
			continue
		}
		r := recordOf(node)
		closed := slices.ContainsFunc(r.history(), func(in simIncidentPast) bool { return in.ID == id })
		open := r.ticket != nil && r.ticket.ID == id && r.ticket.open()
		forgettable := !incident.destroyed && len(r.history()) == simRemembered
		if !closed && !open && !forgettable {
			lost = append(lost, fmt.Sprintf("ticket %s on %s was lost", id, incident.key.Node))
		}
	}
	return lost
}

// justified reports whether the verdict is a reason to do nothing that is true of the node.
func (o *oracle) justified(verdict string, key prom.Key, r simRecord) bool {
	name := r.node.Name
	pool := o.c.poolOf(r.node)
	switch verdict {
	case "ignored", "observe", "awaiting_approval":
		modes := map[string]prom.Mode{"ignored": prom.ModeOff, "observe": prom.ModeObserve, "awaiting_approval": prom.ModeApprove}
		return o.c.mode(key.Condition) == modes[verdict]
	case "paused":
		return !o.closed(pool, simClock{}).IsZero()
	case "storm":
		return o.widespread(key.Condition, pool) || o.c.bounds.stormNodes > 0 && o.widespread(key.Condition, o.c.bounds)
	case "human_owned":
		return r.broken || r.ticket != nil && r.ticket.open() && !r.ticket.owned()
	case "in_progress", "duplicate":
		return r.ticket != nil && r.ticket.open()
	case "unverifiable", "human_cordoned":
		return o.awaitsPeople(verdict, r)
	case "tolerated":
		return o.urgent(name)
	case "budget":
		return o.full(name)
	}
	return false
}

// awaitsPeople reports whether a node is out of service by a person, or a check of it waits until it is ready: one that was requested, or
// one of a node that Aegis has left cordoned, while another condition says why it is not.
func (o *oracle) awaitsPeople(verdict string, r simRecord) bool {
	if verdict == "human_cordoned" {
		return r.node.Spec.Unschedulable && (o.cordoner[r.node.Name].person || !notedToBeAegis(r.node))
	}
	by, cordoned := o.cordoner[r.node.Name]
	left := cordoned && !by.person && o.urgent(r.node.Name)
	return (left || r.node.Annotations[soptest.CheckAnnotation] != "") && !soptest.Ready(r.node)
}

// notedToBeAegis reports whether the API server has it that Aegis has cordoned the node.
func notedToBeAegis(node *corev1.Node) bool {
	return slices.ContainsFunc(node.ManagedFields, func(m metav1.ManagedFieldsEntry) bool {
		return m.Manager == "aegis" && m.FieldsV1 != nil && strings.Contains(m.FieldsV1.GetRawString(), "f:unschedulable")
	})
}

// widespread reports whether the condition still holds on so many nodes that its storm goes on.
func (o *oracle) widespread(condition string, pool simPoolSettings) bool {
	n := 0
	for key, s := range o.c.Faults {
		if s.Holds && key.Condition == condition && o.c.has(pool, o.c.Nodes[key.Node]) {
			n++
		}
	}
	return n > pool.stormNodes/2
}

// urgent reports whether a condition holds on the node that goes before others.
func (o *oracle) urgent(name string) bool {
	for key, s := range o.c.Faults {
		if key.Node == name && s.Holds && key.Condition != simCordon && key.Condition != simNote {
			return true
		}
	}
	return false
}

// full reports whether the pool, or the cluster, has no room for the node.
func (o *oracle) full(name string) bool {
	isFull := func(pool simPoolSettings) bool { return o.filled(name, pool) }
	return slices.ContainsFunc(o.c.limitsOf(o.c.Nodes[name]), isFull)
}

func (o *oracle) filled(name string, pool simPoolSettings) bool {
	size, out := 0, 0
	for other, node := range o.c.Nodes {
		if !o.c.has(pool, node) {
			continue
		}
		size++
		if _, isOut := o.outSince[other]; isOut && other != name {
			out++
		}
	}
	return out >= pool.allowed(size)
}
