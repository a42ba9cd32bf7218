package sop_test

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/sop/soptest"
)

// The oracle follows what happens, and has the invariants judge it.

const (
	// simThought is how long a process may think between an answer and the act that rests on it. It holds the two seconds for
	// which a step gives way to the isolation of other nodes, and the pauses after a failed write or two.
	simThought = 5 * time.Second
	// simAnswer is how long the API takes for an answer at most.
	simAnswer = 10 * time.Second
	// simHeard is how long it takes until what was ordered or reported for all nodes is known: it is looked at every 20 seconds.
	simHeard = 30 * time.Second
)

// oracle knows what has happened in a cluster. The cluster's lock guards it.
type oracle struct {
	c          *cluster
	all        []Invariant
	violations []string
	// cordoner is who cordoned a node; owned is since when its ticket is whose it is.
	cordoner map[string]cordon
	owned    map[string]ownership
	// outSince is since when a node is out of service, aliveSince since when it is not proven to be down, recreated since when
	// another machine has the name.
	outSince, aliveSince, recreated map[string]time.Time
	// bootSince is since when the node is on its boot, harmed when an operation last shook it, passed when a healthcheck passed.
	bootSince, harmed, passed map[string]time.Time
	// timed is the step that runs on a node.
	timed map[string]*simTimed
	// asked is when a person last asked for a check of a node.
	asked     map[string]time.Time
	incidents map[string]*simIncident
	orders    map[string]int
	// forgotten is how often the Job of an order was taken away.
	forgotten map[string]int
	boots     map[string]string
	reboots   map[string][]simBoot
	// destroying is which process journaled that a destructive step runs on the node, and when.
	destroying map[string]simDestroying
	// journaledAt is when Aegis last wrote the ticket of the node.
	journaledAt map[string]time.Time
	authority
}

// cordon is who took a node out of service.
type cordon struct {
	person  bool
	process int
	// at is when a person did, asked when one then asked for a check of the node.
	at, asked time.Time
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
	// destroyed says that a destructive step was ordered for it.
	destroyed bool
	opened    time.Time
}

type simBoot struct {
	incident string
	at       time.Time
}

type simDestroying struct {
	process int
	at      time.Time
}

func newOracle(c *cluster) *oracle {
	return &oracle{
		authority: newAuthority(),
		c:         c, all: simInvariants(), cordoner: make(map[string]cordon), owned: make(map[string]ownership), outSince: make(map[string]time.Time),
		aliveSince: make(map[string]time.Time), recreated: make(map[string]time.Time), incidents: make(map[string]*simIncident),
		bootSince: make(map[string]time.Time), harmed: make(map[string]time.Time), passed: make(map[string]time.Time),
		asked: make(map[string]time.Time), timed: make(map[string]*simTimed),
		orders: make(map[string]int), forgotten: make(map[string]int), boots: make(map[string]string), reboots: make(map[string][]simBoot),
		destroying: make(map[string]simDestroying), journaledAt: make(map[string]time.Time),
	}
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
func (o *oracle) changed(before, after *corev1.Node) {
	name := after.Name
	since(o.outSince, name, after.Spec.Unschedulable || !soptest.Ready(after))
	since(o.aliveSince, name, soptest.Ready(after) || !o.c.Off(name))
	if before == nil || before.Status.NodeInfo.BootID != after.Status.NodeInfo.BootID {
		o.bootSince[name] = time.Now()
	}
	if before != nil && before.Annotations[soptest.TicketAnnotation] == after.Annotations[soptest.TicketAnnotation] {
		return
	}
	now := ownership{at: time.Now()}
	if t := recordOf(after).ticket; t != nil {
		now.id, now.aegis = t.ID, t.open() && t.owned()
	}
	if was := o.owned[name]; was.id != now.id || was.aegis != now.aegis {
		o.owned[name] = now
	}
	if !destroys(after) {
		delete(o.destroying, name)
	}
}

// deleted forgets what goes with a node.
func (o *oracle) deleted(node *corev1.Node) {
	name := node.Name
	delete(o.cordoner, name)
	delete(o.outSince, name)
	delete(o.aliveSince, name)
	delete(o.destroying, name)
	delete(o.reboots, name)
	o.owned[name] = ownership{at: time.Now()}
	o.recreated[name] = time.Now()
}

// written follows a write by Aegis to a node.
func (o *oracle) written(p *simProcess, before, after *corev1.Node, sent time.Time) {
	name := before.Name
	m := moment{p: p, node: name, before: before, after: after, sent: sent}
	switch was, is := before.Spec.Unschedulable, after.Spec.Unschedulable; {
	case was && !is:
		o.c.Logf("p%d uncordons %s", p.id, name)
		o.judge(nodeUncordoned, m)
		delete(o.cordoner, name)
	case !was && is:
		o.c.Logf("p%d cordons %s", p.id, name)
		o.judge(nodeCordoned, m)
		o.cordoner[name] = cordon{process: p.id, sent: sent}
	}
	if hasTaint(after) && !hasTaint(before) {
		o.c.Logf("p%d taints %s", p.id, name)
		o.judge(nodeTainted, m)
		o.judge(workDisturbed, moment{p: p, node: name, what: "taint"})
	}
	if before.Annotations[soptest.TicketAnnotation] == after.Annotations[soptest.TicketAnnotation] {
		return
	}
	o.journaled(p, recordOf(before), recordOf(after))
	if !destroys(after) {
		delete(o.destroying, name)
	} else if !destroys(before) {
		o.judge(destructionBegun, moment{p: p, node: name})
		o.destroying[name] = simDestroying{process: p.id, at: time.Now()}
	}
	o.journaledAt[name] = time.Now()
}

func hasTaint(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

// marked follows a write of marks.
func (o *oracle) marked(p *simProcess, before, after *corev1.Node) {
	o.judge(nodeMarked, moment{p: p, node: before.Name, before: before, after: after})
}

// journaled follows a write to the ticket of a node.
func (o *oracle) journaled(p *simProcess, old, now simRecord) {
	m := moment{p: p, node: now.node.Name, old: old, now: now}
	o.judge(ticketWritten, m)
	if now.ticket == nil || !now.ticket.open() {
		return
	}
	same := old.ticket != nil && old.ticket.ID == now.ticket.ID
	m.incident = o.incidentOf(m)
	if same {
		o.turned(p, old.ticket, now.ticket, m.incident)
	}
	for _, action := range []string{actVerify, actHealthcheck, actReset, actRemedy, actReboot, actUncordon} {
		if now.ticket.last(action).Status == isFailed && now.ticket.count(action) > now.ticket.Past[action] {
			m.incident.suspect = true
		}
	}
	m.begins = !same
	o.judge(stepsWritten, m)
}

// incidentOf returns the incident that the ticket is about, which may be a new one.
func (o *oracle) incidentOf(m moment) *simIncident {
	t := m.now.ticket
	if known := o.incidents[t.ID]; known != nil {
		m.incident = known
		o.judge(ticketGoesOn, m)
		known.approved = t.ApprovedBy != ""
		return known
	}
	o.c.Logf("p%d opens ticket %s for %s %s on %s", m.p.id, t.ID, t.Condition, t.Device, m.node)
	m.incident = &simIncident{
		key: prom.Key{Node: m.node, Condition: t.Condition, ID: t.Device}, uid: m.now.node.UID,
		opened: time.Now(), requested: asksItself(t), approved: t.ApprovedBy != "",
		// What people have written is theirs. Aegis owes it no end.
		removed: m.old.ticket != nil && m.old.ticket.ID == t.ID,
	}
	o.incidents[t.ID] = m.incident
	o.judge(ticketOpened, m)
	return m.incident
}

// asksItself reports whether a person asked for what the ticket is about, so that no alert has to vouch for it.
func asksItself(t *simTicket) bool {
	return strings.HasPrefix(t.Origin, askedFor) || strings.HasPrefix(t.Origin, checkAskedFor)
}

// turned follows a ticket that goes over to another condition.
func (o *oracle) turned(p *simProcess, old, now *simTicket, incident *simIncident) {
	if old.Condition != now.Condition || old.Device != now.Device {
		o.c.Logf("p%d turns ticket %s from %s to %s", p.id, now.ID, old.Condition, now.Condition)
		incident.key.Condition, incident.key.ID, incident.suspect = now.Condition, now.Device, false
		// What a check goes on with is no longer what was asked for.
		incident.requested = asksItself(now)
	}
}

// ordered follows the creation of a Job.
func (o *oracle) ordered(p *simProcess, r jobs.Request) {
	m := moment{p: p, node: r.Node, job: r, what: orderOf(r.Action, r.Attempt, r.Incident)}
	action := stepOf(r)
	o.orders[m.what]++
	o.judge(jobOrdered, m)
	if action == actReboot {
		o.boots[bootOf(r)] = m.what
		o.reboots[r.Node] = append(o.reboots[r.Node], simBoot{incident: r.Incident, at: time.Now()})
	}
	if destructive(action) {
		if incident := o.incidents[r.Incident]; incident != nil {
			incident.destroyed = true
		}
		o.harmed[r.Node] = time.Now()
		o.judge(destructionBegun, moment{p: p, node: r.Node})
	}
	if disturbs(r) {
		o.judge(workDisturbed, moment{p: p, node: r.Node, what: m.what})
	}
}

// disturbs reports whether the Job may disturb the workload of its node.
func disturbs(r jobs.Request) bool { return r.Action != actHealthcheck && r.Action != actDiagnose }

// bootOf names the boot that a Job is to end.
func bootOf(r jobs.Request) string { return fmt.Sprint(r.Incident, r.Args) }

// orderOf names an order.
func orderOf(action string, attempt int, incident string) string {
	return fmt.Sprintf("%s attempt %d of ticket %s", action, attempt, incident)
}

// stepOf returns the step that a Job carries out.
func stepOf(r jobs.Request) string {
	if r.Action == protocol.ActionRemedy && r.Args[0] == "ResetGPU" {
		return actReset
	}
	return r.Action
}

// restarted follows the deletion of a pod of the device plugin.
func (o *oracle) restarted(p *simProcess, pod *corev1.Pod) {
	node := pod.Spec.NodeName
	o.judge(workDisturbed, moment{p: p, node: node, what: "restart of " + pod.Name})
	if t := recordOf(o.c.Nodes[node]).ticket; t != nil {
		m := moment{p: p, node: node, what: fmt.Sprintf("restart %d of ticket %s", t.count(actRestartPod), t.ID)}
		o.orders[m.what]++
		o.judge(podDeleted, m)
	}
}

// evicted follows an eviction.
func (o *oracle) evicted(p *simProcess, pod *corev1.Pod) {
	o.judge(workDisturbed, moment{p: p, node: pod.Spec.NodeName, what: "eviction of " + pod.Name})
}

// entered follows the beginning of a run, left its end.
func (o *oracle) entered(p *simProcess, begins *corev1.Node) {
	p.running[begins.Name]++
	p.begun[begins.Name] = simRun{machine: begins.UID, at: time.Now()}
	o.judge(procedureBegun, moment{p: p, node: begins.Name, before: begins})
}

func (o *oracle) left(p *simProcess, node string, err error) {
	p.running[node]--
	if err != nil && !strings.HasPrefix(err.Error(), "budget: ") {
		p.interrupted[node] = time.Now()
	}
	delete(p.begun, node)
}

// accepted follows the answer to a request.
func (o *oracle) accepted(p *simProcess, r policy.HealResult) {
	o.judge(requestAccepted, moment{p: p, what: r.Ticket})
}

// called follows a call that has taken effect.
func (o *oracle) called(p *simProcess) { o.judge(callMade, moment{p: p}) }

// jobForgotten notes that nobody can ask any more what became of an order. One that was taken back before it had a pod was never carried out.
func (o *oracle) jobForgotten(job *soptest.Job) {
	r := job.Request
	order := orderOf(r.Action, r.Attempt, r.Incident)
	if o.forgotten[order]++; job.Placed() {
		return
	}
	o.orders[order]--
	if stepOf(r) != actReboot {
		return
	}
	delete(o.boots, bootOf(r))
	last := func(b simBoot) bool { return b.incident == r.Incident }
	if i := slices.IndexFunc(o.reboots[r.Node], last); i >= 0 {
		o.reboots[r.Node] = slices.Delete(o.reboots[r.Node], i, i+1)
	}
}

// jobEnded notes when a healthcheck has found the node fit.
func (o *oracle) jobEnded(job *soptest.Job) {
	if job.Request.Action == protocol.ActionHealthcheck && job.Result.Phase == jobs.PhaseSucceeded {
		o.passed[job.Request.Node] = time.Now()
	}
}
