package sop_test

import (
	"fmt"
	"slices"
	"time"

	"aegis.io/aegis/sop/soptest"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/rules/prom"
)

// What has to hold when something is ordered, evicted or deleted: it is permitted, journaled, and within the limits.

// ordered judges the creation of a Job: the journal said so before, and says so once.
func (i *invariants) ordered(p *simProcess, r jobs.Request) {
	order := orderOf(r.Action, r.Attempt, r.Incident)
	if i.orders[order]++; i.orders[order] > 1 {
		i.violated("p%d orders %s on %s again", p.id, order, r.Node)
	}
	if owner := i.owned[r.Node]; owner.id == r.Incident && !i.runs(r) && p.idle(r.Node, owner.at) > simThought {
		i.violated("p%d orders %s on %s, which is not in the journal", p.id, order, r.Node)
	}
	action := stepOf(r)
	if destructive(action) {
		i.harmed[r.Node] = time.Now()
	}
	if action == actHealthcheck || action == actDiagnose {
		return
	}
	i.disruptive(p, r.Node, order)
	if owner := i.owned[r.Node]; owner.aegis && owner.id != r.Incident && p.idle(r.Node, owner.at) > simThought {
		i.violated("p%d orders %s on %s, whose ticket is %s", p.id, order, r.Node, owner.id)
	}
	if !destructive(action) {
		return
	}
	i.tooMany(p, r.Node)
	if action == actReboot {
		i.booted(p, r, order)
	}
}

// runs reports whether the ticket on the node shows the step of the Job as running.
func (i *invariants) runs(r jobs.Request) bool {
	t := recordOf(i.c.Nodes[r.Node]).ticket
	if t == nil {
		return false
	}
	return t.outcome(stepOf(r), r.Attempt%resetJobs).Status == isRunning
}

// stepOf returns the step that a Job carries out.
func stepOf(r jobs.Request) string {
	if r.Action == jobs.ActionRemedy && r.Args[0] == "ResetGPU" {
		return actReset
	}
	return r.Action
}

// booted judges how often the node is booted, and how soon again. What people removed, or have looked at since, is forgotten.
func (i *invariants) booted(p *simProcess, r jobs.Request, order string) {
	if !slices.Contains(r.Args, i.c.Nodes[r.Node].Status.NodeInfo.BootID) && p.idle(r.Node, i.bootSince[r.Node]) > simThought {
		i.violated("p%d orders %s on %s, which is on another boot", p.id, order, r.Node)
	}
	boot := fmt.Sprint(r.Incident, r.Args)
	if earlier, found := i.boots[boot]; found {
		i.violated("p%d orders %s on %s, which was to end the same boot as %s", p.id, order, r.Node, earlier)
	}
	i.boots[boot] = order
	incident := i.incidents[r.Incident]
	policy := policyOf(incident.key.Condition)
	n := 1
	for _, earlier := range i.reboots[r.Node] {
		age := time.Since(earlier.at)
		if i.lookedAt(r.Node, earlier.at) {
			continue
		}
		if i.incidents[earlier.incident].removed || age >= policy.AttemptWindow {
			continue
		}
		n++
		if earlier.incident != r.Incident && !incident.requested && age < policy.Cooldown {
			i.violated("p%d boots %s again after %s", p.id, r.Node, age)
		}
	}
	i.reboots[r.Node] = append(i.reboots[r.Node], simBoot{incident: r.Incident, at: time.Now()})
	if n > policy.MaxReboots {
		i.violated("p%d boots %s for the %d. time within %s, %d allowed", p.id, r.Node, n, policy.AttemptWindow, policy.MaxReboots)
	}
}

// lookedAt reports whether an incident of the node went to people after that, who have given the node back since.
func (i *invariants) lookedAt(node string, after time.Time) bool {
	return slices.ContainsFunc(recordOf(i.c.Nodes[node]).history, func(in simIncidentPast) bool {
		return in.Outcome != closedWell && in.repaired() && in.closed().After(after)
	})
}

// restarted judges the deletion of a pod of the device plugin: the step deletes the pod that was there when it began, and no other.
func (i *invariants) restarted(p *simProcess, pod *corev1.Pod) {
	node := pod.Spec.NodeName
	i.disruptive(p, node, "restart of "+pod.Name)
	t := recordOf(i.c.Nodes[node]).ticket
	if t == nil {
		return
	}
	restart := fmt.Sprintf("restart %d of ticket %s", t.count(actRestartPod), t.ID)
	if i.orders[restart]++; i.orders[restart] > 1 {
		i.violated("p%d deletes another pod on %s for %s", p.id, node, restart)
	}
}

// disruptive judges what disturbs workload by whether it was permitted.
func (i *invariants) disruptive(p *simProcess, node, what string) {
	forbidden := map[string]time.Time{
		"paused": i.c.Began(statePaused), statePauseOrdered: i.c.Began(statePauseOrdered), stateOrdersBroken: i.c.Began(stateOrdersBroken),
		"excluded": i.c.Began(excludedState(node)), "it leads no more": p.deposed,
	}
	owner := i.owned[node]
	if !owner.aegis {
		forbidden["its ticket is not that of Aegis"] = owner.at
	}
	incident := i.incidents[owner.id]
	if incident != nil && !incident.requested {
		i.unconfirmed(incident, forbidden)
		i.unwanted(p, incident, forbidden)
		i.stormy(p, incident.key, what)
	}
	for why, since := range forbidden {
		if !since.IsZero() && p.idle(node, since) > simThought {
			i.violated("p%d: %s on %s although for %s: %s", p.id, what, node, time.Since(since), why)
		}
	}
}

// unconfirmed adds since when the sources do not permit to act on the condition of the incident.
func (i *invariants) unconfirmed(incident *simIncident, forbidden map[string]time.Time) {
	forbidden[soptest.PrometheusDown] = i.c.Began(soptest.PrometheusDown)
	forbidden[soptest.AlertmanagerDown] = i.c.Began(soptest.AlertmanagerDown)
	forbidden["silenced"] = i.c.Began(soptest.SilenceOf(incident.key))
	s := i.c.Faults[incident.key]
	if s == nil || incident.suspect {
		// What a check of ours has found outweighs a silent alert.
		return
	}
	forbidden[soptest.AlertmanagerForgot] = i.c.Began(soptest.AlertmanagerForgot)
	if s.Firing().IsZero() {
		forbidden["the alert does not fire"] = s.Changed
	}
}

// unwanted adds since when people do not want the condition of the incident to be acted on.
func (i *invariants) unwanted(p *simProcess, incident *simIncident, forbidden map[string]time.Time) {
	for _, mode := range []prom.Mode{prom.ModeOff, prom.ModeObserve, prom.ModeApprove} {
		if mode != prom.ModeApprove || !incident.approved {
			state := modeState(incident.key.Condition, mode)
			forbidden[state] = i.c.Began(state)
		}
	}
	if node := i.c.Nodes[incident.key.Node]; node != nil {
		forbidden["the maintenance window is closed"] = i.closed(i.c.poolOf(node))
	}
}

// closed returns since when the windows of the pool are closed, zero while one is open. Those of the simulation open and close
// on the same day, as all of it happens on one.
func (i *invariants) closed(pool simPoolSettings) time.Time {
	since := i.c.Start()
	opens, closes := since.Add(time.Duration(pool.opens)*time.Minute), since.Add(time.Duration(pool.closes)*time.Minute)
	switch now := time.Now(); {
	case pool.closes == 0, !now.Before(opens) && now.Before(closes):
		return time.Time{}
	case !now.Before(closes):
		return closes
	}
	return since
}

// stormy judges whether the condition has come over so many nodes at once that it is held. The nodes count of which the process
// has known for long enough.
func (i *invariants) stormy(p *simProcess, key prom.Key, what string) {
	node := p.cache.Shown[key.Node]
	incident := i.incidents[i.owned[key.Node].id]
	if node == nil || incident != nil && incident.approved || i.c.mode(key.Condition) != prom.ModeAuto {
		return
	}
	pool := i.c.poolOf(node)
	if i.calmed(key.Condition, pool.name) || p.idle(key.Node, i.c.modeSet[key.Condition]) < simHeard {
		return
	}
	limit := pool.stormNodes
	if most := crowd(i.onsets(p, key, pool), pool.stormWindow); limit > 0 && most > limit {
		i.violated("p%d %s although %s came over %d nodes of pool %s at once, %d allowed", p.id, what, key.Condition, most, pool.name, limit)
	}
}

// onsets returns when the condition began on the nodes of the pool on which the process knows it for long enough.
func (i *invariants) onsets(p *simProcess, key prom.Key, pool simPoolSettings) []time.Time {
	var onsets []time.Time
	for name, node := range p.cache.Shown {
		if i.c.poolOf(node).name != pool.name || inCareOfPeople(node) || time.Since(i.owned[name].at) < simHeard {
			continue
		}
		is := func(s prom.AegisNodeStatus) bool { return s.Condition == key.Condition }
		statuses := p.queue.Statuses(name)
		first := slices.IndexFunc(statuses, is)
		if first < 0 {
			continue
		}
		if known := p.tellOf(statuses[first].Key()).known; !known.IsZero() && p.idle(key.Node, known) > simHeard {
			onsets = append(onsets, statuses[first].FirstSeen)
		}
	}
	return onsets
}

// calmed reports whether a person has released the storm.
func (i *invariants) calmed(condition, pool string) bool {
	orders, err := ordersOf(i.c.Lease)
	if err != nil {
		return true
	}
	for _, s := range orders.storms {
		if s.Condition == condition && s.Pool == pool && s.Released != nil {
			return true
		}
	}
	return false
}

// crowd returns how many of the times lie within one span at most.
func crowd(times []time.Time, span time.Duration) int {
	most := 0
	for _, from := range times {
		n := 0
		for _, at := range times {
			if !at.Before(from) && at.Sub(from) <= span {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}

// tooMany judges how many destructive steps are in flight in the pool.
func (i *invariants) tooMany(p *simProcess, node string) {
	pool := i.c.poolOf(i.c.Nodes[node])
	var busy []string
	for other, step := range i.destroying {
		seen := p.seen(other).destroyed
		known := step.process == p.id || !seen.IsZero() && p.idle(node, seen) > simThought
		if other != node && known && i.c.poolOf(i.c.Nodes[other]).name == pool.name {
			busy = append(busy, other)
		}
	}
	if len(busy) >= pool.maxDestructive {
		i.violated("p%d destroys on %s while %v are being destroyed, %d allowed", p.id, node, busy, pool.maxDestructive)
	}
}
