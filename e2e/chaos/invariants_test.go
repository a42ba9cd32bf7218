package chaos

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"aegis.io/aegis/e2e/nodesim"
	"aegis.io/aegis/ticket"
)

const (
	// hearing is how long Aegis may take to hear of what forbids an act: a hold, a slow answer of the API server, and the
	// time that a call takes which was permitted before.
	hearing = 16 * time.Second
	// lag is how old what Aegis knows of others' cordons may be.
	lag = 10 * time.Second
	// decideWithin is how long a replica may lead without a decision, or none lead.
	decideWithin = time.Minute
	// maxReboots is the most that any policy of the catalogue allows an incident.
	maxReboots = 2
)

// evidence is all that the invariants are read from.
type evidence struct {
	history  history
	eventLog *eventLog
	machines map[string]nodesim.State
	// allowed is how many nodes of a pool may be out of service.
	allowed map[string]int
}

// invariant is something that must hold whatever happens. It returns where it did not.
type invariant struct {
	name  string
	check func(evidence) []string
}

func invariants() []invariant {
	return []invariant{
		{"each Job is made once", jobsOnce},
		{"no more reboots than the policy allows", rebootsAllowed},
		{"each boot was ordered by one Job", bootsOrdered},
		{"the budget is kept", budgetKept},
		{"cordons of people stay", cordonsOfPeopleStay},
		{"nodes return only after a passed healthcheck", returnsChecked},
		{"no ticket is lost", ticketsKept},
		{"nothing destructive is done where it is forbidden", nothingForbidden},
		{"Aegis uses no right that it lacks", nothingDenied},
		{"whoever leads decides", leaderDecides},
	}
}

// jobsOnce allows that a Job which does nothing to the node is made again after Aegis has deleted it, as it does when people take the node over.
func jobsOnce(e evidence) []string {
	names, attempts := make(map[string]int), make(map[string]int)
	var wrong []string
	for _, a := range e.history.acts {
		if a.what == "eviction" {
			continue
		}
		most := 1
		for _, at := range e.history.withdrawn[a.name] {
			if !a.destructive() && at.Before(a.at) {
				most++
			}
		}
		key := fmt.Sprintf("%s of %s, incident %s, attempt %s", a.what, a.node, a.incident, a.attempt)
		names[a.name]++
		attempts[key]++
		if names[a.name] > most || attempts[key] > most {
			wrong = append(wrong, fmt.Sprintf("%s was made again: %s", key, a.name))
		}
	}
	return wrong
}

func rebootsAllowed(e evidence) []string {
	reboots := make(map[string]int)
	var wrong []string
	for _, a := range e.history.acts {
		if a.what != "reboot" {
			continue
		}
		if reboots[a.incident]++; reboots[a.incident] > maxReboots {
			wrong = append(wrong, fmt.Sprintf("incident %s of %s: reboot number %d", a.incident, a.node, reboots[a.incident]))
		}
	}
	return wrong
}

// bootsOrdered counts the boots of the machines themselves: the first one, those that the script made, and one for each Job.
func bootsOrdered(e evidence) []string {
	ordered := make(map[string]int)
	for _, a := range e.history.acts {
		if a.what == "reboot" {
			ordered[a.node]++
		}
	}
	var wrong []string
	for _, name := range slices.Sorted(maps.Keys(e.machines)) {
		boots, most := e.machines[name].Boots, 1+e.eventLog.boots[name]+ordered[name]
		if boots > most {
			wrong = append(wrong, fmt.Sprintf("%s booted %d times: %d Jobs, %d boots of others", name, boots, ordered[name], e.eventLog.boots[name]))
		}
		pods := make(map[string]bool)
		for _, op := range e.machines[name].Ops {
			if pods[op.Pod] {
				wrong = append(wrong, fmt.Sprintf("%s ran pod %s twice", name, op.Pod))
			}
			pods[op.Pod] = true
		}
	}
	return wrong
}

// budgetKept replays the nodes and looks at each cordon of Aegis. What Aegis did itself counts at once, what others did once
// Aegis can have heard of it. A node that was not ready takes no room: it was out of service already.
func budgetKept(e evidence) []string {
	now := make(map[string]version)
	out := make(map[string]time.Time)
	var wrong []string
	for _, v := range e.history.all {
		name := v.node.Name
		before, known := now[name]
		if known && v.sets(true) && !before.outOfService() {
			if others := e.others(now, out, v); len(others) >= e.allowed[poolOf(v.node)] {
				wrong = append(wrong, fmt.Sprintf("%s %s cordoned while %d of %d were out of service: %v",
					v.at.Format(time.TimeOnly), name, len(others), e.allowed[poolOf(v.node)], others))
			}
		}
		now[name] = v
		switch {
		case !v.outOfService():
			delete(out, name)
		case out[name].IsZero():
			out[name] = v.at
		}
	}
	return wrong
}

// others names the other nodes of the pool that Aegis knows to be out of service when it makes this version.
func (e evidence) others(now map[string]version, out map[string]time.Time, v version) []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(out)) {
		other := now[name]
		known := other.own() || v.at.Sub(out[name]) > lag
		if name != v.node.Name && poolOf(other.node) == poolOf(v.node) && known {
			names = append(names, name)
		}
	}
	return names
}

func cordonsOfPeopleStay(e evidence) []string {
	return e.eachWrite(func(before, v version) string {
		switch {
		case before.cordonedByPeople() && v.sets(false):
			return "a person's cordon was undone"
		case before.cordonedByPeople() && v.byAegis && v.own():
			return "a person's cordon was claimed"
		}
		return ""
	})
}

// eachWrite looks at each version of a node next to the one before.
func (e evidence) eachWrite(look func(before, v version) string) []string {
	var wrong []string
	for _, name := range slices.Sorted(maps.Keys(e.history.nodes)) {
		versions := e.history.nodes[name]
		for i := 1; i < len(versions); i++ {
			if what := look(versions[i-1], versions[i]); what != "" {
				wrong = append(wrong, fmt.Sprintf("%s %s: %s", versions[i].at.Format(time.TimeOnly), name, what))
			}
		}
	}
	return wrong
}

func returnsChecked(e evidence) []string {
	return e.eachWrite(func(before, v version) string {
		t := before.record.Ticket
		if !v.sets(false) || !before.node.Spec.Unschedulable {
			return ""
		}
		if t == nil {
			return "returned without a ticket"
		}
		checked := true
		for _, s := range t.Workflows {
			switch {
			case s.Action.Destructive() && s.Status != ticket.Canceled:
				checked = false
			case s.Action == ticket.Healthcheck:
				checked = s.Status == ticket.Succeeded
			}
		}
		if !checked {
			return "returned without a passed healthcheck:\n" + before.node.Annotations[ticket.Annotation]
		}
		return ""
	})
}

// ticketsKept looks at each write after which a ticket is not on the node any more: it has to be in the history, or a person
// has taken it away.
func ticketsKept(e evidence) []string {
	return e.eachWrite(func(before, v version) string {
		t, now := before.record.Ticket, v.record.Ticket
		if t == nil || t.ID == "" || now != nil && now.ID == t.ID || !v.byAegis {
			return ""
		}
		known := slices.ContainsFunc(v.record.History.Incidents, func(i ticket.Incident) bool { return i.ID == t.ID })
		if !known {
			return "ticket " + t.ID + " has gone without a trace"
		}
		return ""
	})
}

// nothingForbidden looks at each destructive Job and each eviction, and at what had been forbidding it for long enough to
// be heard.
func nothingForbidden(e evidence) []string {
	var wrong []string
	for _, a := range e.history.acts {
		if !a.destructive() || a.node == "" {
			continue
		}
		for _, f := range e.prohibitions(a) {
			if from, holds := f.since(); holds && a.at.Sub(from) > hearing {
				wrong = append(wrong, fmt.Sprintf("%s %s of %s (%s) on a node that was %s since %s",
					a.at.Format(time.TimeOnly), a.what, a.node, a.name, f.why, from.Format(time.TimeOnly)))
			}
		}
	}
	return wrong
}

type prohibition struct {
	why   string
	since func() (time.Time, bool)
}

// prohibitions are what may forbid the act.
func (e evidence) prohibitions(a act) []prohibition {
	node := func(so func(version) bool) func() (time.Time, bool) {
		return func() (time.Time, bool) { return e.history.since(a.node, a.at, so) }
	}
	period := func(periods []period) func() (time.Time, bool) {
		return func() (time.Time, bool) { return covers(periods, a.at) }
	}
	return []prohibition{
		{"cordoned by a person", node(version.cordonedByPeople)},
		{"excluded", node(version.excluded)},
		{"with people", node(version.withPeople)},
		{"silenced", period(e.eventLog.silences(a.node))},
		{"paused", period(e.eventLog.paused)},
		{"without a source to ask", period(e.eventLog.blind)},
	}
}

// leaderDecides looks for times in which something went wrong all the time, and Aegis wrote nothing about any node. The times do not count in
// which it was paused or had no source to ask.
func leaderDecides(e evidence) []string {
	if e.eventLog.ended.IsZero() {
		return nil
	}
	last := e.eventLog.started
	var wrong []string
	look := func(at time.Time) {
		if idle := at.Sub(last) - within(last, at, e.eventLog.paused, e.eventLog.blind); idle > decideWithin {
			wrong = append(wrong, fmt.Sprintf("nothing was written for %s from %s on", idle, last.Format(time.TimeOnly)))
		}
	}
	for _, v := range e.history.all {
		if v.byAegis && v.at.After(last) && v.at.Before(e.eventLog.ended) {
			look(v.at)
			last = v.at
		}
	}
	look(e.eventLog.ended)
	return wrong
}

// within adds up how much of the time the periods cover.
func within(from, to time.Time, lists ...[]period) (sum time.Duration) {
	for _, p := range slices.Concat(lists...) {
		begin, end := p.from, p.to
		if begin.Before(from) {
			begin = from
		}
		if end.IsZero() || end.After(to) {
			end = to
		}
		sum += max(0, end.Sub(begin))
	}
	return sum
}

func nothingDenied(e evidence) []string {
	var wrong []string
	for _, d := range e.history.denied {
		if _, starting := covers(e.eventLog.starts, d.At); starting {
			// An API server denies everything until it has read its roles.
			continue
		}
		wrong = append(wrong, fmt.Sprintf("%s %s/%s in %q", d.Verb, d.Resource, d.Subresource, d.Namespace))
	}
	return wrong
}
