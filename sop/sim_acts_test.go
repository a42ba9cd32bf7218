package sop_test

import (
	"maps"
	"slices"
	"strings"
	"time"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/soptest"
)

// The checks of what is ordered, evicted or deleted: it is permitted, journaled, and within the limits.

// ordersOnce judges the creation of a Job: the journal said so before, and says so once.
func ordersOnce(o *oracle, m moment) {
	p, r, order := m.p, m.job, m.what
	most := 1
	if !disturbs(r) { // Nobody knows any more what it has found.
		most += o.forgotten[order]
	}
	if o.orders[order] > most {
		m.violated("p%d orders %s on %s again", p.id, order, r.Node)
	}
	owner := o.owned[r.Node]
	if since := latest(owner.at, o.edited[r.Incident]); owner.id == r.Incident && !o.runs(r) && p.idle(r.Node, since) > simThought {
		m.violated("p%d orders %s on %s, which is not in the journal", p.id, order, r.Node)
	}
	if earlier, found := o.boots[bootOf(r)]; found && r.Action == actReboot {
		m.violated("p%d orders %s on %s, which was to end the same boot as %s", p.id, order, r.Node, earlier)
	}
}

// ordersForItsTicket judges the creation of a Job by whose node it is for: that of its ticket, on the boot that it was meant for.
func ordersForItsTicket(o *oracle, m moment) {
	p, r := m.p, m.job
	if owner := o.owned[r.Node]; disturbs(r) && owner.aegis && owner.id != r.Incident && p.idle(r.Node, owner.at) > simThought {
		m.violated("p%d orders %s on %s, whose ticket is %s", p.id, m.what, r.Node, owner.id)
	}
	booted := !slices.Contains(r.Args, o.c.Nodes[r.Node].Status.NodeInfo.BootID)
	if r.Action == actReboot && booted && p.idle(r.Node, o.bootSince[r.Node]) > simThought {
		m.violated("p%d orders %s on %s, which is on another boot", p.id, m.what, r.Node)
	}
}

// runs reports whether the ticket on the node shows the step of the Job as running.
func (o *oracle) runs(r jobs.Request) bool {
	t := recordOf(o.c.Nodes[r.Node]).ticket
	if t == nil {
		return false
	}
	return t.outcome(stepOf(r), r.Attempt%resetJobs).Status == isRunning
}

// keepsTheReboots judges how often the node is booted, and how soon again. What people have looked at since is forgotten; whoever
// removes a ticket, or writes one, has not.
func keepsTheReboots(o *oracle, m moment) {
	p, r := m.p, m.job
	if r.Action != actReboot {
		return
	}
	incident := o.incidents[r.Incident]
	bounds := policyOf(incident.key.Condition)
	n := 1
	for _, earlier := range o.reboots[r.Node] {
		age := time.Since(earlier.at)
		if o.lookedAt(r.Node, earlier.at) || age >= bounds.AttemptWindow {
			continue
		}
		n++
		if earlier.incident != r.Incident && !incident.requested && age < bounds.Cooldown {
			m.violated("p%d boots %s again after %s", p.id, r.Node, age)
		}
	}
	if n > bounds.MaxReboots {
		m.violated("p%d boots %s for the %d. time within %s, %d allowed", p.id, r.Node, n, bounds.AttemptWindow, bounds.MaxReboots)
	}
}

// lookedAt reports whether an incident of the node went to people after that, who have given the node back since.
func (o *oracle) lookedAt(node string, after time.Time) bool {
	return slices.ContainsFunc(recordOf(o.c.Nodes[node]).history(), func(in simIncidentPast) bool {
		given := !slices.Contains([]string{closedWell, "removed", "unproven"}, in.Outcome)
		return given && in.repaired() && in.closed().Add(o.c.skew()).After(after)
	})
}

// deletesOnce judges the deletion of a pod of the device plugin: the step deletes the pod that was there when it began, and no other.
func deletesOnce(o *oracle, m moment) {
	if o.orders[m.what] > 1 {
		m.violated("p%d deletes another pod on %s for %s", m.p.id, m.node, m.what)
	}
}

// forbids reports an act on a node that the process could have known to be forbidden, by why and since when it is.
func (m moment) forbids(reasons map[string]time.Time) {
	for why, since := range reasons {
		if !since.IsZero() && m.p.idle(m.node, since) > simThought {
			m.violated("p%d: %s on %s although for %s: %s", m.p.id, m.what, m.node, time.Since(since), why)
		}
	}
}

// alerted returns the incident of the node, nil if it has none, or one that a person asked for, which needs no alert.
func (o *oracle) alerted(node string) *simIncident {
	if incident := o.incidents[o.owned[node].id]; incident != nil && !incident.requested {
		return incident
	}
	return nil
}

// disturbsWhatIsConfirmed judges an act by the pauses, the labels, the ticket and the sources.
func disturbsWhatIsConfirmed(o *oracle, m moment) {
	reasons := map[string]time.Time{
		"paused": o.c.Began(statePaused), statePauseOrdered: o.c.Began(statePauseOrdered), stateOrdersBroken: o.c.Began(stateOrdersBroken),
		"excluded": o.c.Began(excludedState(m.node)), "of the control plane": o.c.ofControlPlane(m.node),
	}
	if owner := o.owned[m.node]; !owner.aegis {
		reasons["its ticket is not that of Aegis"] = owner.at
	}
	if incident := o.alerted(m.node); incident != nil {
		o.unconfirmed(incident, reasons)
	}
	m.forbids(reasons)
}

// disturbsAsLeader judges an act by who leads.
func disturbsAsLeader(_ *oracle, m moment) {
	m.forbids(map[string]time.Time{"it leads no more": m.p.deposed})
}

// disturbsWhatIsWanted judges an act by what people have ordered for the condition and the pool.
func disturbsWhatIsWanted(o *oracle, m moment) {
	incident := o.alerted(m.node)
	if incident == nil {
		return
	}
	reasons := make(map[string]time.Time)
	for _, mode := range lowModes() {
		if mode != prom.ModeApprove || !incident.approved {
			state := modeState(incident.key.Condition, mode)
			reasons[state] = o.c.Began(state)
		}
	}
	if incident.key.Condition == simReboot {
		reasons[stateRemoved] = o.c.Began(stateRemoved)
	}
	if node := o.c.Nodes[incident.key.Node]; node != nil {
		reasons["the maintenance window is closed"] = m.p.clock.world(o.closed(o.c.poolOf(node), m.p.clock))
	}
	m.forbids(reasons)
}

// disturbsNoStorm judges an act by whether its condition has come over many nodes.
func disturbsNoStorm(o *oracle, m moment) {
	if incident := o.alerted(m.node); incident != nil {
		o.stormy(m, incident.key, m.what)
	}
}

// unconfirmed adds since when the sources do not permit to act on the condition of the incident.
func (o *oracle) unconfirmed(incident *simIncident, forbidden map[string]time.Time) {
	forbidden[soptest.PrometheusDown] = o.c.Began(soptest.PrometheusDown)
	forbidden[soptest.AlertmanagerDown] = o.c.Began(soptest.AlertmanagerDown)
	forbidden["silenced"] = o.c.Began(soptest.SilenceOf(incident.key))
	forbidden["silenced at Aegis"] = o.c.Began(silencedState(incident.key.Node))
	s := o.c.Faults[incident.key]
	if s == nil || incident.suspect {
		// What a check of Aegis has found outweighs a silent alert.
		return
	}
	forbidden[soptest.AlertmanagerForgot] = o.c.Began(soptest.AlertmanagerForgot)
	if began := o.c.Stuck(incident.key); !began.IsZero() {
		// It is shown as it was, and believed for as long as a sample is fresh.
		if stale := began.Add(soptest.MaxAge); time.Now().After(stale) {
			forbidden["the rule of the alert is not evaluated"] = stale
		}
		return
	}
	if s.Firing().IsZero() {
		forbidden["the alert does not fire"] = latest(s.Changed, o.c.Resumed(incident.key.Condition))
		return
	}
	if bounds := policyOf(incident.key.Condition); !incident.approved && time.Since(s.Changed) < bounds.ConfirmFor-simThought {
		forbidden["the alert has just begun to fire"] = o.c.Start()
	}
}

// closed returns since when the windows of the pool are closed by the clock, zero while one is open. Those of the simulation open and close
// on the same day.
func (o *oracle) closed(pool simPoolSettings, its simClock) time.Time {
	now, start := its.Now(), o.c.Start()
	midnight := start.Add(now.Sub(start).Truncate(24 * time.Hour))
	opens, closes := midnight.Add(time.Duration(pool.opens)*time.Minute), midnight.Add(time.Duration(pool.closes)*time.Minute)
	switch {
	case pool.closes == 0, !now.Before(opens) && now.Before(closes):
		return time.Time{}
	case now.Before(opens):
		closes = closes.Add(-24 * time.Hour)
	}
	return latest(start, closes)
}

// stormy judges whether the condition has come over so many nodes at once that it is held. The nodes count of which the process
// has known for long enough.
func (o *oracle) stormy(m moment, key prom.Key, what string) {
	p := m.p
	node := p.cache.Shown[key.Node]
	incident := o.incidents[o.owned[key.Node].id]
	if node == nil || incident != nil && incident.approved || o.c.mode(key.Condition) != prom.ModeAuto {
		return
	}
	for _, pool := range o.c.limitsOf(node) {
		if o.calmed(key.Condition, pool.name) || p.idle(key.Node, o.c.modeSet[key.Condition]) < simHeard {
			return
		}
		limit, onsets := pool.stormNodes, o.onsets(p, key, pool)
		if limit == 0 || pool.name == simEverywhere && !o.crossesPools(p, maps.Keys(onsets)) {
			continue
		}
		if most := crowd(slices.Collect(maps.Values(onsets)), pool.stormWindow); most > limit {
			m.violated("p%d %s although %s came over %d nodes of %s at once, %d allowed", p.id, what, key.Condition, most, pool.name, limit)
		}
	}
}

// onsets returns when the condition began on the nodes of the pool on which the process knows it for long enough.
func (o *oracle) onsets(p *simProcess, key prom.Key, pool simPoolSettings) map[string]time.Time {
	onsets := make(map[string]time.Time)
	for name, node := range p.cache.Shown {
		if !o.c.has(pool, node) || inCareOfPeople(node) || time.Since(o.owned[name].at) < simHeard {
			continue
		}
		is := func(s prom.AegisNodeStatus) bool { return s.Condition == key.Condition }
		statuses := p.holds(name)
		first := slices.IndexFunc(statuses, is)
		if first < 0 {
			continue
		}
		if known := p.tellOf(statuses[first].Key()).known; !known.IsZero() && p.client.Told(key.Node, known) > simThought {
			onsets[name] = statuses[first].FirstSeen
		}
	}
	return onsets
}

// calmed reports whether a person has released the storm.
func (o *oracle) calmed(condition, pool string) bool {
	if o.c.Lease == nil {
		return true
	}
	orders, err := ordersOf(o.c.Lease)
	if err != nil {
		return true
	}
	for _, s := range orders.storms {
		if simName(s.Condition) == condition && s.Pool == pool && s.Released != nil {
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

// keepsTheSlots judges how many destructive steps are in flight in the pool and in the cluster.
func keepsTheSlots(o *oracle, m moment) {
	p, node := m.p, m.node
	for _, pool := range o.c.limitsOf(o.c.Nodes[node]) {
		pool = o.c.loosest(pool, p.begun[node].at)
		if busy := o.busy(p, node, pool); len(busy) >= pool.maxDestructive {
			m.violated("p%d destroys on %s while %v are being destroyed, %d allowed in %s", p.id, node, busy, pool.maxDestructive, pool.name)
		}
	}
}

// The checks of what is written into a ticket.

// takesStepsInTurn judges that the steps of a ticket follow each other. The node may be drained again while a destructive step waits for its
// order.
func takesStepsInTurn(o *oracle, m moment) {
	t := m.now.ticket
	if t == nil || len(t.running()) <= 1 {
		return
	}
	drains, waits := 0, 0
	for _, s := range t.running() {
		action, attempt := jobOfStep(s.Action, t.count(s.Action))
		switch {
		case drainsNode(s.Action):
			drains++
		case destructive(s.Action) && o.orders[orderOf(action, attempt, t.ID)] == 0:
			waits++
		}
	}
	if len(t.running()) != 2 || drains != 1 || waits != 1 {
		m.violated("p%d runs several steps of ticket %s: %v", m.p.id, t.ID, t.running())
	}
}

// destroysNothingItDrains judges that nothing is ordered that destroys while the ticket says that the node is being drained.
func destroysNothingItDrains(o *oracle, m moment) {
	t := recordOf(o.c.Nodes[m.node]).ticket
	if !destructive(stepOf(m.job)) || t == nil || t.ID != m.job.Incident {
		return
	}
	if slices.ContainsFunc(t.running(), func(s simStep) bool { return drainsNode(s.Action) }) {
		m.violated("p%d orders %s while it drains the node: %v", m.p.id, m.what, t.running())
	}
}

func drainsNode(action string) bool {
	return action == actDrain || action == actDrainGPU || action == actWaitIdle
}

// jobOfStep returns the action and the attempt of the Job that carries out the n-th call of an action.
func jobOfStep(action string, n int) (operation string, attempt int) {
	if action == actReset {
		return protocol.ActionRemedy, resetJobs + n
	}
	return action, n
}

// closesNothingThatRuns judges that no step is left open, but for a ticket that people have written or edited: it is not gone on with.
func closesNothingThatRuns(o *oracle, m moment) {
	if t := m.old.ticket; t != nil && o.edited[t.ID].IsZero() && o.incidents[t.ID] != nil && t.owned() && !t.handedOver() && m.now.ticket == nil && len(t.running()) > 0 {
		m.violated("p%d closes ticket %s while it runs %v", m.p.id, t.ID, t.running())
	}
}

// leavesTheirTicket makes sure that nothing was written over a ticket of people, except that one which only told them of a condition, and
// which Aegis itself had given to them, may go, as may that of a check when they ask for another one, and that the API writes what they
// have ordered.
func leavesTheirTicket(o *oracle, m moment) {
	p, name, t, now := m.p, m.node, m.old.ticket, m.now.ticket
	switch {
	case m.old.broken:
		m.violated("p%d writes over the broken ticket on %s", p.id, name)
	case t == nil || !t.open() || t.owned() || p.ordering[name] > 0:
	case now == nil && t.onlyTold(policyOf(t.Condition).Team):
	case gaveWay(t, now) && now.count(actHandOver) == 0:
	case t.failedCheck() && now != nil && strings.HasPrefix(now.Origin, checkAskedFor) && !o.asked[name].IsZero():
	default:
		m.violated("p%d writes over the ticket of %s on %s", p.id, t.Supervisor, name)
	}
}

// writesMarksOnly makes sure that the marks are all that their patch changes.
func writesMarksOnly(_ *oracle, m moment) {
	before, after := m.before, m.after
	same := after.Spec.Unschedulable == before.Spec.Unschedulable && len(after.Spec.Taints) == len(before.Spec.Taints)
	for _, key := range []string{soptest.TicketAnnotation, soptest.HistoryAnnotation, soptest.OwnerAnnotation} {
		same = same && after.Annotations[key] == before.Annotations[key]
	}
	if !same {
		m.violated("p%d changes more than the marks of %s", m.p.id, before.Name)
	}
}

// gaveWay reports whether the ticket that only told people of a condition was replaced by that of a repair.
func gaveWay(note, repair *simTicket) bool {
	return repair != nil && repair.ID != note.ID && repair.owned() && note.onlyTold(policyOf(note.Condition).Team)
}

// staysOnTheMachine judges that a ticket is not written on another machine of the name.
func staysOnTheMachine(_ *oracle, m moment) {
	if m.incident.uid != m.now.node.UID {
		m.violated("p%d writes ticket %s of another machine on %s", m.p.id, m.now.ticket.ID, m.node)
	}
}

// opensWhatIsCertain judges the beginning of an incident: the alert is beyond doubt, and no other machine is meant.
func opensWhatIsCertain(o *oracle, m moment) {
	p, t := m.p, m.now.ticket
	if !decidedOn(m) && !o.beginsAgain(m) {
		m.violated("p%d opens ticket %s on %s, which is another machine than it decided on", p.id, t.ID, m.node)
	}
	told := p.tellOf(m.incident.key)
	if m.incident.requested || told.contested.IsZero() {
		return
	}
	settled := told.fires.After(told.contested) && told.listed.After(told.contested)
	knew := p.begun[m.node].at.After(told.contested) || p.idle(m.node, told.contested) > simThought
	if !settled && knew {
		m.violated("p%d opens ticket %s for %s although the alert is contested", p.id, t.ID, t.Condition)
	}
}

// decidedOn reports whether the machine is the one that the process decided on: that of the run, or the one that it saw under the name when a
// person asked it for a repair. The run on the machine before may not have ended then.
func decidedOn(m moment) bool {
	p, machine := m.p, m.now.node.UID
	begun, runs := p.begun[m.node]
	switch origin := m.now.ticket.Origin; {
	case strings.HasPrefix(origin, askedFor):
		return slices.Contains(p.asking[m.node], machine)
	case strings.HasPrefix(origin, checkAskedFor):
		return p.met[machine]
	}
	return !runs || begun.machine == machine
}

// beginsAgain reports whether the ticket takes the place of one that somebody had asked for on this machine, and that people have edited.
func (o *oracle) beginsAgain(m moment) bool {
	old := m.old.ticket
	if old == nil || old.Origin != m.now.ticket.Origin {
		return false
	}
	before := o.incidents[old.ID]
	return before != nil && before.requested && before.uid == m.now.node.UID
}

// opensWhatIsWanted judges the beginning of an incident by the mode of its condition: the process follows what people order.
func opensWhatIsWanted(o *oracle, m moment) {
	p, incident := m.p, m.incident
	if incident.requested {
		return
	}
	for _, mode := range lowModes() {
		at := o.c.Began(modeState(incident.key.Condition, mode))
		if at.IsZero() || mode == prom.ModeApprove && incident.approved {
			continue
		}
		// It looks at the orders again and again; in an outage, for as long as that lasts, it cannot.
		if p.idle(incident.key.Node, latest(at, o.c.Mended)) > simHeard && !o.c.Weather.Outage {
			m.violated("p%d opens a ticket for %s on %s in mode %s", p.id, incident.key.Condition, incident.key.Node, mode)
		}
	}
}

// leavesRepeatOffenders judges the beginning of an incident by how often the node was repaired: too often, and people look at it.
func leavesRepeatOffenders(o *oracle, m moment) {
	p, r, t := m.p, m.now, m.now.ticket
	status := simCatalogue{}.Status(r.node.Name, t.Condition, t.Device, 0)
	pool := o.c.poolOf(r.node)
	if m.incident.requested || status.Policy.Workload == prom.WorkloadKeep || status.Priority == 1 || t.SOP == sop.ExhaustedSOP || t.ApprovedBy != "" {
		return
	}
	all, same := repairsOf(r.history(), t.Condition, pool.incidentWindow)
	if pool.maxIncidents > 0 && all >= pool.maxIncidents || pool.maxRepeats > 0 && same >= pool.maxRepeats {
		m.violated("p%d repairs the repeat offender %s again, %d times before, %d for %s", p.id, r.node.Name, all, same, t.Condition)
	}
}

// repairsOf counts the repairs of a node since people last had it: all, and the last ones in a row for the condition.
func repairsOf(history []simIncidentPast, condition string, within time.Duration) (all, same int) {
	for _, past := range slices.Backward(history) {
		if !past.repaired() {
			continue
		}
		if past.Outcome != closedWell || time.Since(past.closed()) > within {
			break
		}
		if all++; same == all-1 && past.Condition == condition {
			same++
		}
	}
	return all, same
}

// yieldsToTheUrgent judges that a ticket goes over to another condition only if that is more urgent, and never amid an act.
func yieldsToTheUrgent(_ *oracle, m moment) {
	p, old, t := m.p, m.old.ticket, m.now.ticket
	if m.begins || old.Condition == t.Condition && (old.Device == t.Device || t.Device == "") {
		return // A person may have written a device where the condition has none.
	}
	if urgency(t.Condition) >= urgency(old.Condition) {
		m.violated("p%d leaves %s of ticket %s for %s", p.id, old.Condition, t.ID, t.Condition)
	}
	for _, s := range old.running() {
		if destructive(s.Action) || s.Action == actRemedy || s.Action == actRestartPod || s.Action == actUncordon {
			m.violated("p%d leaves ticket %s in the middle of %s", p.id, t.ID, s.Action)
		}
	}
}

// concludesByItsJob judges the end of a step that is carried out by a Job: it rests on the Job that was ordered for it.
func concludesByItsJob(o *oracle, m moment) {
	p, old, t := m.p, m.old.ticket, m.now.ticket
	if m.begins {
		return
	}
	for _, running := range old.running() {
		action, attempt := jobOfStep(running.Action, old.count(running.Action))
		switch running.Action {
		case actHealthcheck, actDiagnose, actRemedy, actReset:
		default:
			continue
		}
		end := t.outcome(running.Action, old.count(running.Action))
		concluded := end.Status == isSucceeded || end.Code != 0
		if concluded && end.Status != isRunning && o.orders[orderOf(action, attempt, t.ID)] == 0 {
			m.violated("p%d ends step %s of ticket %s by a Job that was not ordered for it", p.id, running.Action, t.ID)
		}
	}
}

// runsAlone judges that a run is the only one on its node.
func runsAlone(_ *oracle, m moment) {
	if m.p.running[m.node] > 1 {
		m.violated("p%d runs two procedures on %s", m.p.id, m.node)
	}
}

// knowsItsWrites judges that a run begins with what the process itself wrote on the node last.
func knowsItsWrites(_ *oracle, m moment) {
	p, begins := m.p, m.before
	last := p.wrote[m.node]
	if last.node == nil || last.node.UID != begins.UID || time.Since(last.at) < time.Second {
		return
	}
	if soptest.Newer(last.node.ResourceVersion, begins.ResourceVersion) {
		m.violated("p%d begins on %s from version %s, and wrote %s itself", p.id, m.node, begins.ResourceVersion, last.node.ResourceVersion)
	}
}

// letsGo judges that a procedure ends soon after people have taken its node out of the hands of Aegis, and the process sees it.
func letsGo(o *oracle, m moment) {
	p := m.p
	if p.client.Dead || o.c.Weather.Outage {
		return
	}
	for name, run := range p.begun {
		taken := p.seen(name).taken
		if taken.IsZero() || p.gaveBack(name, taken) {
			continue
		}
		if since := latest(latest(taken, o.c.Mended), run.at); p.idle(name, since) > simHeard {
			m.violated("p%d goes on with %s, which people have taken out of its hands", p.id, name)
		}
	}
}

// keepsPromises judges the answer to a request: what was promised is on the node.
func keepsPromises(o *oracle, m moment) {
	if o.incidents[m.what] == nil {
		m.violated("p%d promised ticket %q, which was never written", m.p.id, m.what)
	}
}
