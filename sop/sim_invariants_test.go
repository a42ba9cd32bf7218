package sop

import (
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/ticket"
)

// What has to hold whatever happens. All but the last part is checked at every write, by the truth of that instant.

// simRace is how old the knowledge may be on which a write is based: a cache that lags, or a permission whose use was held
// up by slow calls. What has been forbidden for longer must not be done.
const simRace = 30 * time.Second

// invariants watches over a cluster. The cluster's lock guards it.
type invariants struct {
	c          *cluster
	violations []string
	// cordoner is who cordoned a node; owned is since when its ticket is whose it is.
	cordoner map[string]cordon
	owned    map[string]ownership
	// outSince is since when a node is out of service, readySince since when it is not.
	outSince map[string]time.Time
	inSince  map[string]time.Time
	// conditions are those of the tickets that Aegis has opened, nodes their nodes.
	conditions, nodes map[string]string
	// removed are the tickets that people have removed.
	removed map[string]bool
	orders  map[string]int
	boots   map[string]string
	reboots map[string][]simReboot
	// destroying is which process journaled that a destructive step runs on the node, and when.
	destroying map[string]simStep
}

// cordon is who took a node out of service. One of a person that came right after they had undone one of Aegis cannot be told
// from that.
type cordon struct {
	person, ambiguous bool
	process           int
}

type ownership struct {
	id    string
	aegis bool
	at    time.Time
}

type simReboot struct {
	incident string
	at       time.Time
}

type simStep struct {
	process int
	at      time.Time
}

func newInvariants(c *cluster) *invariants {
	return &invariants{
		c: c, cordoner: make(map[string]cordon), owned: make(map[string]ownership), outSince: make(map[string]time.Time),
		inSince: make(map[string]time.Time), conditions: make(map[string]string), nodes: make(map[string]string),
		removed: make(map[string]bool), orders: make(map[string]int), boots: make(map[string]string),
		reboots: make(map[string][]simReboot), destroying: make(map[string]simStep),
	}
}

func (i *invariants) violated(format string, args ...any) {
	i.violations = append(i.violations, time.Since(i.c.start).Truncate(time.Millisecond).String()+": "+fmt.Sprintf(format, args...))
	i.c.logf("VIOLATED: "+format, args...)
}

// changed follows what a node has become, whoever wrote it.
func (i *invariants) changed(before, after *corev1.Node) {
	name := after.Name
	switch out := after.Spec.Unschedulable || !IsReady(after); {
	case out && i.outSince[name].IsZero():
		i.outSince[name] = time.Now()
		delete(i.inSince, name)
	case !out:
		delete(i.outSince, name)
		if i.inSince[name].IsZero() {
			i.inSince[name] = time.Now()
		}
	}
	if before != nil && before.Annotations[ticket.Annotation] == after.Annotations[ticket.Annotation] {
		return
	}
	now := ownership{at: time.Now()}
	if t := ticket.ReadNode(after).Ticket; t != nil {
		now.id, now.aegis = t.ID, t.Open() && t.Owned()
	}
	if was := i.owned[name]; was.id != now.id || was.aegis != now.aegis {
		i.owned[name] = now
	}
	if !now.aegis {
		delete(i.destroying, name)
	}
}

// written judges a write by Aegis to a node.
func (i *invariants) written(p *simProcess, before, after *corev1.Node) {
	name := before.Name
	switch was, is := before.Spec.Unschedulable, after.Spec.Unschedulable; {
	case was && !is:
		i.c.logf("p%d uncordons %s", p.id, name)
		if by := i.cordoner[name]; by.person && !by.ambiguous {
			i.violated("p%d undoes the cordon of a person on %s", p.id, name)
		}
		delete(i.cordoner, name)
	case !was && is:
		i.c.logf("p%d cordons %s", p.id, name)
		i.cordoned(p, name)
		i.cordoner[name] = cordon{process: p.id}
	}
	if before.Annotations[ticket.Annotation] == after.Annotations[ticket.Annotation] {
		return
	}
	old, current := ticket.ReadNode(before), ticket.ReadNode(after)
	i.ticketWritten(p, old, current)
	if t := current.Ticket; t != nil && t.Open() && t.Owned() {
		if i.conditions[t.ID] == "" {
			i.c.logf("p%d opens ticket %s for %s on %s", p.id, t.ID, t.Condition, name)
		}
		i.conditions[t.ID], i.nodes[t.ID] = t.Condition, name
	}
	if _, runs := runningDestructive(after); !runs {
		delete(i.destroying, name)
	} else if _, ran := runningDestructive(before); !ran {
		i.destroying[name] = simStep{process: p.id, at: time.Now()}
	}
}

// ticketWritten makes sure that nothing was written over a ticket of people, except that one which only told them of a
// condition, and which Aegis itself had given to them, may go. Steps of one ticket follow each other, and none is left open.
func (i *invariants) ticketWritten(p *simProcess, old, current ticket.Record) {
	t := old.Ticket
	if current.Ticket != nil && len(current.Ticket.Running()) > 1 {
		i.violated("p%d runs several steps of ticket %s: %v", p.id, current.Ticket.ID, current.Ticket.Running())
	}
	if t != nil && t.Owned() && !released(t) && current.Ticket == nil && len(t.Running()) > 0 {
		i.violated("p%d closes ticket %s while it runs %v", p.id, t.ID, t.Running())
	}
	switch {
	case old.Broken != nil:
		i.violated("p%d writes over the broken ticket on %s", p.id, old.Node.Name)
	case t == nil || !t.Open() || t.Owned():
	case current.Ticket == nil && noted(t, t.Supervisor):
	default:
		i.violated("p%d writes over the ticket of %s on %s", p.id, t.Supervisor, old.Node.Name)
	}
}

// cordoned judges a cordon by Aegis: the node was allowed to be touched, and the pool had room. Other nodes count that
// were out of service long enough to be known, and those that the same process took out.
func (i *invariants) cordoned(p *simProcess, name string) {
	if i.c.since(excludedState(name)) > simRace {
		i.violated("p%d cordons the excluded node %s", p.id, name)
	}
	if since, in := i.inSince[name]; !in || time.Since(since) <= simRace {
		return
	}
	pool := i.c.settings.PoolOf(i.c.nodes[name])
	size, out := 0, []string{}
	for _, other := range slices.Sorted(maps.Keys(i.c.nodes)) {
		if i.c.settings.PoolOf(i.c.nodes[other]).Name != pool.Name {
			continue
		}
		size++
		since, isOut := i.outSince[other]
		by, cordoned := i.cordoner[other]
		if other != name && isOut && (time.Since(since) > simRace || cordoned && by.process == p.id) {
			out = append(out, other)
		}
	}
	if len(out) >= pool.allowed(size) {
		i.violated("p%d cordons %s beyond the budget %d of %d of pool %s, out of service: %v", p.id, name, pool.allowed(size), size, pool.Name, out)
	}
}

// ordered judges the creation of a Job.
func (i *invariants) ordered(p *simProcess, r jobs.Request) {
	order := fmt.Sprintf("%s attempt %d of ticket %s", r.Action, r.Attempt, r.Incident)
	if i.orders[order]++; i.orders[order] > 1 {
		i.violated("p%d orders %s on %s again", p.id, order, r.Node)
	}
	if !destructiveJob(r) {
		return
	}
	i.disruptive(p, r.Node, order)
	i.destroys(p, r.Node)
	if r.Action != jobs.ActionReboot {
		return
	}
	boot := fmt.Sprint(r.Incident, r.Args)
	if earlier, found := i.boots[boot]; found {
		i.violated("p%d orders %s on %s, which was to end the same boot as %s", p.id, order, r.Node, earlier)
	}
	i.boots[boot] = order
	i.rebooted(p, r)
}

func destructiveJob(r jobs.Request) bool {
	return r.Action == jobs.ActionReboot || r.Action == jobs.ActionShutdown || r.Action == jobs.ActionRemedy && r.Args[0] == "ResetGPU"
}

// rebooted judges how often the node is booted: those of tickets that people removed are forgotten with them.
func (i *invariants) rebooted(p *simProcess, r jobs.Request) {
	i.reboots[r.Node] = append(i.reboots[r.Node], simReboot{incident: r.Incident, at: time.Now()})
	policy := simCatalogue{}.Status(r.Node, i.conditions[r.Incident], "").Policy
	n := 0
	for _, boot := range i.reboots[r.Node] {
		if !i.removed[boot.incident] && time.Since(boot.at) < policy.AttemptWindow {
			n++
		}
	}
	if n > policy.MaxReboots {
		i.violated("p%d boots %s for the %d. time within %s, %d allowed", p.id, r.Node, n, policy.AttemptWindow, policy.MaxReboots)
	}
}

// disruptive judges what disturbs workload by whether it was permitted.
func (i *invariants) disruptive(p *simProcess, node, what string) {
	owner := i.owned[node]
	if !owner.aegis && time.Since(owner.at) > simRace {
		i.violated("p%d: %s on %s, whose ticket is not that of Aegis", p.id, what, node)
	}
	forbidden := []string{statePaused, excludedState(node), statePrometheusDown, stateAlertmanagerDown}
	key := prom.Key{Node: node, Condition: i.conditions[owner.id]}
	if s := i.c.conditions[key]; s != nil && s.holds && time.Since(s.changed) > simPending+simRace {
		// Alertmanager shows a silence only on an alert that it lists.
		forbidden = append(forbidden, silenceOf(key))
	}
	for _, state := range forbidden {
		if lasts := i.c.since(state); lasts > simRace {
			i.violated("p%d: %s on %s although since %s: %s", p.id, what, node, lasts, state)
		}
	}
}

// destroys judges how many destructive steps are in flight in the pool.
func (i *invariants) destroys(p *simProcess, node string) {
	pool := i.c.settings.PoolOf(i.c.nodes[node])
	var busy []string
	for other, step := range i.destroying {
		known := step.process == p.id || time.Since(step.at) > simRace
		if other != node && known && i.c.settings.PoolOf(i.c.nodes[other]).Name == pool.Name {
			busy = append(busy, other)
		}
	}
	if len(busy) >= pool.MaxDestructive {
		i.violated("p%d destroys on %s while %v are being destroyed, %d allowed", p.id, node, busy, pool.MaxDestructive)
	}
}

// entered and left follow the procedures of a process.
func (i *invariants) entered(p *simProcess, node string) {
	if p.running[node]++; p.running[node] > 1 {
		i.violated("p%d runs two procedures on %s", p.id, node)
	}
}

func (i *invariants) left(p *simProcess, node string) { p.running[node]-- }

// unfinished names what is left to do once the world has settled: conditions without a verdict that is true, tickets that
// nobody owns, and nodes that were forgotten.
func (i *invariants) unfinished(book *Book) []string {
	left := i.lost()
	for name, node := range i.c.nodes {
		verdicts := make(map[string]Verdict)
		for _, d := range book.Node(name) {
			verdicts[d.Condition] = d.Verdict
		}
		r := ticket.ReadNode(node)
		if t := r.Ticket; t != nil && t.Open() && t.Owned() && !i.justified(verdicts[t.Condition], r) {
			left = append(left, fmt.Sprintf("ticket %s for %s on %s is open, verdict %v", t.ID, t.Condition, name, verdicts[t.Condition]))
		}
		for key, s := range i.c.conditions {
			if key.Node == name && s.holds && !i.justified(verdicts[key.Condition], r) {
				left = append(left, fmt.Sprintf("%s holds on %s, verdict %v", key.Condition, name, verdicts[key.Condition]))
			}
		}
	}
	slices.Sort(left)
	return left
}

// lost names the tickets of Aegis that are neither open nor in the history, and that nobody has removed.
func (i *invariants) lost() []string {
	var lost []string
	for id, name := range i.nodes {
		r := ticket.ReadNode(i.c.nodes[name])
		closed := slices.ContainsFunc(r.History.Incidents, func(in ticket.Incident) bool { return in.ID == id })
		open := r.Ticket != nil && r.Ticket.ID == id && r.Ticket.Open()
		if !closed && !open && !i.removed[id] {
			lost = append(lost, fmt.Sprintf("ticket %s on %s was lost", id, name))
		}
	}
	return lost
}

// justified reports whether the verdict is a reason to do nothing that is true of the node.
func (i *invariants) justified(v Verdict, r ticket.Record) bool {
	name := r.Node.Name
	switch v.Name {
	case VerdictHumanOwned:
		return r.Broken != nil || r.Ticket != nil && r.Ticket.Open() && !r.Ticket.Owned()
	case VerdictInProgress, VerdictDuplicate:
		return r.Ticket != nil && r.Ticket.Open()
	case VerdictHumanCordoned:
		return r.Node.Spec.Unschedulable && i.cordoner[name].person
	case VerdictTolerated:
		return i.urgent(name)
	case VerdictBudget:
		return i.full(name)
	}
	return false
}

// urgent reports whether a condition holds on the node that goes before others.
func (i *invariants) urgent(name string) bool {
	for key, s := range i.c.conditions {
		if key.Node == name && s.holds && key.Condition != "Cordon" && key.Condition != "Note" {
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
	return out >= pool.allowed(size)
}
