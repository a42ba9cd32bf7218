package sop_test

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/sop/soptest"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/rules/prom"
)

// What has to hold whatever happens. Most of it is checked at every write, by the truth of that instant and by what
// the process could know of it. It cannot know what happens while its calls are under way, nor what its cache does not show yet.

const (
	// simThought is how long a process may think between an answer and the act that rests on it. It holds the two seconds for
	// which a step gives way to the isolation of other nodes, and the pauses after a failed write or two.
	simThought = 5 * time.Second
	// simHeard is how long it takes until what was ordered or reported for all nodes is known: it is looked at every 20 seconds.
	simHeard = 30 * time.Second
)

// invariants watches over a cluster. The cluster's lock guards it.
type invariants struct {
	c          *cluster
	violations []string
	// cordoner is who cordoned a node; owned is since when its ticket is whose it is.
	cordoner map[string]cordon
	owned    map[string]ownership
	// outSince is since when a node is out of service, aliveSince since when it is not proven to be down, recreated since when
	// another machine has the name.
	outSince, aliveSince, recreated map[string]time.Time
	// bootSince is since when the node is on its boot, harmed when an operation last shook it, passed when a healthcheck passed.
	bootSince, harmed, passed map[string]time.Time
	incidents                 map[string]*simIncident
	orders                    map[string]int
	boots                     map[string]string
	reboots                   map[string][]simBoot
	// destroying is which process journaled that a destructive step runs on the node, and when.
	destroying map[string]simDestroying
}

// cordon is who took a node out of service.
type cordon struct {
	person  bool
	process int
	// sent is when the write of the process was sent.
	sent time.Time
}

type ownership struct {
	id    string
	aegis bool
	at    time.Time
}

// simIncident is a ticket of Aegis.
type simIncident struct {
	key       prom.Key
	uid       types.UID
	requested bool
	// suspect says that a check has found the node sick, removed that a person has taken the ticket away, approved that one has
	// allowed the repair.
	suspect, removed, approved bool
}

type simBoot struct {
	incident string
	at       time.Time
}

type simDestroying struct {
	process int
	at      time.Time
}

func newInvariants(c *cluster) *invariants {
	return &invariants{
		c: c, cordoner: make(map[string]cordon), owned: make(map[string]ownership), outSince: make(map[string]time.Time),
		aliveSince: make(map[string]time.Time), recreated: make(map[string]time.Time), incidents: make(map[string]*simIncident),
		bootSince: make(map[string]time.Time), harmed: make(map[string]time.Time), passed: make(map[string]time.Time),
		orders: make(map[string]int), boots: make(map[string]string), reboots: make(map[string][]simBoot),
		destroying: make(map[string]simDestroying),
	}
}

func (i *invariants) violated(format string, args ...any) {
	i.violations = append(i.violations, time.Since(i.c.Start()).Truncate(time.Millisecond).String()+": "+fmt.Sprintf(format, args...))
	i.c.Logf("VIOLATED: "+format, args...)
}

// since notes in the map since when something is so.
func since(at map[string]time.Time, name string, is bool) {
	switch _, was := at[name]; {
	case !is:
		delete(at, name)
	case !was:
		at[name] = time.Now()
	}
}

// changed follows what a node has become, whoever wrote it.
func (i *invariants) changed(before, after *corev1.Node) {
	name := after.Name
	since(i.outSince, name, after.Spec.Unschedulable || !soptest.Ready(after))
	since(i.aliveSince, name, soptest.Ready(after) || after.Annotations[soptest.PowerAnnotation] != "off")
	if before == nil || before.Status.NodeInfo.BootID != after.Status.NodeInfo.BootID {
		i.bootSince[name] = time.Now()
	}
	if before != nil && before.Annotations[soptest.TicketAnnotation] == after.Annotations[soptest.TicketAnnotation] {
		return
	}
	now := ownership{at: time.Now()}
	if t := recordOf(after).ticket; t != nil {
		now.id, now.aegis = t.ID, t.open() && t.owned()
	}
	if was := i.owned[name]; was.id != now.id || was.aegis != now.aegis {
		i.owned[name] = now
	}
	if !now.aegis {
		delete(i.destroying, name)
	}
}

// deleted forgets what goes with a node.
func (i *invariants) deleted(node *corev1.Node) {
	name := node.Name
	delete(i.cordoner, name)
	delete(i.outSince, name)
	delete(i.aliveSince, name)
	delete(i.destroying, name)
	delete(i.reboots, name)
	i.owned[name] = ownership{at: time.Now()}
	i.recreated[name] = time.Now()
}

// written judges a write by Aegis to a node.
func (i *invariants) written(p *simProcess, before, after *corev1.Node, sent time.Time) {
	name := before.Name
	switch was, is := before.Spec.Unschedulable, after.Spec.Unschedulable; {
	case was && !is:
		i.uncordoned(p, before)
	case !was && is:
		i.c.Logf("p%d cordons %s", p.id, name)
		i.cordoned(p, name, sent)
		i.cordoner[name] = cordon{process: p.id, sent: sent}
	}
	if hasTaint(after) && !hasTaint(before) {
		i.tainted(p, before)
	}
	if before.Annotations[soptest.TicketAnnotation] == after.Annotations[soptest.TicketAnnotation] {
		return
	}
	i.ticketWritten(p, recordOf(before), recordOf(after))
	if !destroys(after) {
		delete(i.destroying, name)
	} else if !destroys(before) {
		i.tooMany(p, name)
		i.destroying[name] = simDestroying{process: p.id, at: time.Now()}
	}
}

func hasTaint(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

// ticketWritten judges a write to the ticket of a node. Steps of one ticket follow each other, and none is left open.
func (i *invariants) ticketWritten(p *simProcess, old, current simRecord) {
	t := old.ticket
	if current.ticket != nil && len(current.ticket.running()) > 1 {
		i.violated("p%d runs several steps of ticket %s: %v", p.id, current.ticket.ID, current.ticket.running())
	}
	if t != nil && t.owned() && !t.handedOver() && current.ticket == nil && len(t.running()) > 0 {
		i.violated("p%d closes ticket %s while it runs %v", p.id, t.ID, t.running())
	}
	i.replaced(p, old, current)
	if current.ticket == nil || !current.ticket.open() {
		return
	}
	i.opened(p, current)
	i.journaled(p, t, current)
}

// replaced makes sure that nothing was written over a ticket of people, except that one which only told them of a condition, and
// which Aegis itself had given to them, may go, and that the API writes what they have ordered.
func (i *invariants) replaced(p *simProcess, old, current simRecord) {
	name, t := old.node.Name, old.ticket
	switch {
	case old.broken:
		i.violated("p%d writes over the broken ticket on %s", p.id, name)
	case t == nil || !t.open() || t.owned() || p.ordering[name] > 0:
	case current.ticket == nil && t.onlyTold(policyOf(t.Condition).Team):
	case gaveWay(t, current.ticket) && current.ticket.count(actHandOver) == 0:
	default:
		i.violated("p%d writes over the ticket of %s on %s", p.id, t.Supervisor, name)
	}
}

// marked makes sure that the marks are all that their patch changes.
func (i *invariants) marked(p *simProcess, before, after *corev1.Node) {
	same := after.Spec.Unschedulable == before.Spec.Unschedulable && len(after.Spec.Taints) == len(before.Spec.Taints)
	for _, key := range []string{soptest.TicketAnnotation, soptest.HistoryAnnotation, soptest.OwnerAnnotation} {
		same = same && after.Annotations[key] == before.Annotations[key]
	}
	if !same {
		i.violated("p%d changes more than the marks of %s", p.id, before.Name)
	}
}

// gaveWay reports whether the ticket that only told people of a condition was replaced by that of a repair.
func gaveWay(note, repair *simTicket) bool {
	return repair != nil && repair.ID != note.ID && repair.owned() && note.onlyTold(policyOf(note.Condition).Team)
}

// opened judges the beginning of an incident: the alert is beyond doubt, and no other machine is meant.
func (i *invariants) opened(p *simProcess, r simRecord) {
	t, name := r.ticket, r.node.Name
	if known := i.incidents[t.ID]; known != nil {
		if known.uid != r.node.UID {
			i.violated("p%d writes ticket %s of another machine on %s", p.id, t.ID, name)
		}
		known.approved = t.ApprovedBy != ""
		return
	}
	i.c.Logf("p%d opens ticket %s for %s %s on %s", p.id, t.ID, t.Condition, t.Device, name)
	incident := &simIncident{
		key: prom.Key{Node: name, Condition: t.Condition, ID: t.Device}, uid: r.node.UID,
		requested: strings.HasPrefix(t.Origin, askedFor), approved: t.ApprovedBy != "",
	}
	i.incidents[t.ID] = incident
	if begun, runs := p.begun[name]; runs && begun.machine != r.node.UID {
		i.violated("p%d opens ticket %s on %s, which is another machine than it decided on", p.id, t.ID, name)
	}
	if incident.requested {
		return
	}
	i.allowed(p, incident)
	i.repeated(p, r)
	told := p.tellOf(incident.key)
	if told.contested.IsZero() {
		return
	}
	settled := told.fires.After(told.contested) && told.listed.After(told.contested)
	knew := p.begun[name].at.After(told.contested) || time.Since(told.contested) > simThought
	if !settled && knew {
		i.violated("p%d opens ticket %s for %s although the alert is contested", p.id, t.ID, t.Condition)
	}
}

// allowed judges the beginning of an incident by the mode of its condition: the process follows what people order.
func (i *invariants) allowed(p *simProcess, incident *simIncident) {
	for _, mode := range lowModes() {
		at := i.c.Began(modeState(incident.key.Condition, mode))
		if at.IsZero() || mode == prom.ModeApprove && incident.approved {
			continue
		}
		// It looks at the orders again and again; in an outage, for as long as that lasts, it cannot.
		if p.idle(incident.key.Node, latest(at, i.c.Mended)) > simHeard && !i.c.Weather.Outage {
			i.violated("p%d opens a ticket for %s on %s in mode %s", p.id, incident.key.Condition, incident.key.Node, mode)
		}
	}
}

// repeated judges the beginning of an incident by how often the node was repaired: too often, and people look at it.
func (i *invariants) repeated(p *simProcess, r simRecord) {
	t := r.ticket
	status := simCatalogue{}.Status(r.node.Name, t.Condition, t.Device, 0)
	pool := i.c.poolOf(r.node)
	if status.Policy.Workload == prom.WorkloadKeep || status.Priority == 1 || t.SOP == sop.ExhaustedSOP || t.ApprovedBy != "" {
		return
	}
	all, same := repairsOf(r.history, t.Condition, pool.incidentWindow)
	if pool.maxIncidents > 0 && all >= pool.maxIncidents || pool.maxRepeats > 0 && same >= pool.maxRepeats {
		i.violated("p%d repairs the lemon %s again, %d times before, %d for %s", p.id, r.node.Name, all, same, t.Condition)
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

// preempted judges that a ticket goes over to another condition: one that is more urgent, and never in the middle of an act.
func (i *invariants) preempted(p *simProcess, old, t *simTicket, incident *simIncident) {
	if old == nil || old.ID != t.ID || old.Condition == t.Condition && old.Device == t.Device {
		return
	}
	i.c.Logf("p%d turns ticket %s from %s to %s", p.id, t.ID, old.Condition, t.Condition)
	if urgency(t.Condition) >= urgency(old.Condition) {
		i.violated("p%d leaves %s of ticket %s for %s", p.id, old.Condition, t.ID, t.Condition)
	}
	for _, s := range old.running() {
		if destructive(s.Action) || s.Action == actRemedy || s.Action == actRestartPod || s.Action == actUncordon {
			i.violated("p%d leaves ticket %s in the middle of %s", p.id, t.ID, s.Action)
		}
	}
	incident.key.Condition, incident.key.ID, incident.suspect = t.Condition, t.Device, false
}

// journaled judges the steps that a write adds or ends.
func (i *invariants) journaled(p *simProcess, old *simTicket, r simRecord) {
	t, incident := r.ticket, i.incidents[r.ticket.ID]
	i.preempted(p, old, t, incident)
	count := func(a string) int {
		if old == nil || old.ID != t.ID {
			return 0
		}
		return old.count(a)
	}
	if t.count(actCordon) > count(actCordon) {
		i.isolated(p, incident, count(actCordon) == 0 && (old == nil || old.ID != t.ID))
	}
	for _, action := range []string{actVerify, actHealthcheck, actReset, actRemedy, actReboot} {
		if t.last(action).Status == isFailed && t.count(action) > t.Past[action] {
			incident.suspect = true
		}
	}
	i.concluded(p, old, t)
	if n := count(actHandOver); n > 0 && t.count(actHandOver) > n && p.ordering[r.node.Name] == 0 {
		i.violated("p%d hands ticket %s over again, which people had given back", p.id, t.ID)
	}
	running := old != nil && slices.ContainsFunc(old.running(), func(s simStep) bool { return s.Action == actVerify })
	if running && t.last(actVerify).Status == isSucceeded {
		i.verified(p, incident)
	}
}

// concluded judges the end of a step that is carried out by a Job: it rests on the Job that was ordered for it.
func (i *invariants) concluded(p *simProcess, old, t *simTicket) {
	if old == nil || old.ID != t.ID {
		return
	}
	for _, running := range old.running() {
		action, attempt := running.Action, old.count(running.Action)
		switch running.Action {
		case actHealthcheck, actDiagnose, actRemedy:
		case actReset:
			action, attempt = jobs.ActionRemedy, resetJobs+attempt
		default:
			continue
		}
		end := t.outcome(running.Action, old.count(running.Action))
		concluded := end.Status == isSucceeded || end.Code != 0
		if concluded && end.Status != isRunning && i.orders[orderOf(action, attempt, t.ID)] == 0 {
			i.violated("p%d ends step %s of ticket %s by a Job that was not ordered for it", p.id, running.Action, t.ID)
		}
	}
}

// orderOf names an order.
func orderOf(action string, attempt int, incident string) string {
	return fmt.Sprintf("%s attempt %d of ticket %s", action, attempt, incident)
}

// entered judges the beginning of a run: it is the only one on its node, and it knows what the process wrote there last.
func (i *invariants) entered(p *simProcess, begins *corev1.Node) {
	node := begins.Name
	if p.running[node]++; p.running[node] > 1 {
		i.violated("p%d runs two procedures on %s", p.id, node)
	}
	p.begun[node] = simRun{machine: begins.UID, at: time.Now()}
	last := p.wrote[node]
	if last.node == nil || last.node.UID != begins.UID || time.Since(last.at) < time.Second {
		return
	}
	if soptest.Newer(last.node.ResourceVersion, begins.ResourceVersion) {
		i.violated("p%d begins on %s from version %s, and wrote %s itself", p.id, node, begins.ResourceVersion, last.node.ResourceVersion)
	}
}

// letGo judges that a procedure ends soon after people have taken its node out of the hands of Aegis, and the process sees it.
func (i *invariants) letGo(p *simProcess) {
	if p.client.Dead || i.c.Weather.Outage {
		return
	}
	for name, run := range p.begun {
		taken := p.seen(name).taken
		if taken.IsZero() {
			continue
		}
		if since := latest(latest(taken, i.c.Mended), run.at); p.idle(name, since) > simHeard {
			i.violated("p%d goes on with %s, which people have taken out of its hands", p.id, name)
		}
	}
}

func (i *invariants) left(p *simProcess, node string) {
	p.running[node]--
	delete(p.begun, node)
}

// accepted judges the answer to a request: what was promised is on the node.
func (i *invariants) accepted(p *simProcess, r policy.HealResult) {
	if i.incidents[r.Ticket] == nil {
		i.violated("p%d promised ticket %q, which was never written", p.id, r.Ticket)
	}
}

// jobEnded notes when a healthcheck has found the node fit.
func (i *invariants) jobEnded(job *soptest.Job) {
	if job.Request.Action == jobs.ActionHealthcheck && job.Result.Phase == jobs.PhaseSucceeded {
		i.passed[job.Request.Node] = time.Now()
	}
}
