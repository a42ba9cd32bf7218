package sop_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/rules"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/sop/soptest"
)

// The simulated world: a cluster, its conditions, how it is configured, and the processes that have worked on it.

const (
	simPool  = "pool"
	simLease = "aegis"
	// simMaxLag is the most by which a cache of nodes is behind, unless its watch is broken.
	simMaxLag = 8 * time.Second
	// simAway is how long no Alertmanager has to answer until nodes may be isolated.
	simAway = 2 * time.Minute
	// simPlugin selects the pods of the device plugin.
	simPlugin = "app"
)

// The conditions of the simulation. Each has the procedure of its name.
const (
	simReady   = "Ready"
	simCordon  = "NodeCordon" // The name is the product's: what is asked for is a check of such a node.
	simReboot  = "Reboot"
	simReset   = "Reset"
	simRemedy  = "Remedy"
	simIsolate = "Isolate"
	simRelieve = "Relieve"
	simNote    = "Note"
	simDevices = "Plugin"
	// A reboot repairs these, of which one is as urgent as an emergency can be, the other as little.
	simUrgent  = "Urgent"
	simPatient = "Patient"
)

// cluster is the simulated world. Everything in it is guarded by its lock.
type cluster struct {
	*soptest.Cluster
	pools []simPoolSettings
	// bounds are the limits of the whole cluster. Without a name there are none.
	bounds simPoolSettings
	halted bool
	// clocks are how far those of the processes are ahead. None stands for clocks that are right.
	clocks []time.Duration
	// large is true for many nodes over days.
	large bool
	// productPools are the pools as the product is configured by them, made for settingsOf.
	productPools []policy.Pool
	settingsOf   []simPoolSettings
	// isolates is true where nodes are isolated while Alertmanager is away.
	isolates bool
	// observes is true where nothing is done by itself about a node that is cordoned.
	observes  bool
	processes []*simProcess
	// catalogue are the rules that every process has, managesControl says whether it may repair control-plane nodes.
	catalogue      *rules.Catalogue
	managesControl bool
	// earlier are the pools as they were configured before.
	earlier []simEarlier
	oracle  *oracle
	// modeSet is when the mode of a condition last became what it is.
	modeSet map[string]time.Time
	// holder is who holds the Lease, and heldSince since when. elected is called with the lock held when that is one of the processes.
	holder    string
	heldSince time.Time
	elected   func(p *simProcess)
	// stands is true where processes stand for leader, and watched the one that led a minute ago.
	stands  bool
	watched *simProcess
}

// simPoolSettings are those of a pool: the product is configured by them, and judged.
type simPoolSettings struct {
	name                       string
	maxPercent, maxDestructive int
	stormNodes                 int
	stormWindow, stormRelease  time.Duration
	maxIncidents, maxRepeats   int
	incidentWindow             time.Duration
	opens, closes              int // The maintenance window in minutes of the day; always open if both are 0.
}

// allowed returns how many nodes of a pool of that size may be out of service.
func (p simPoolSettings) allowed(size int) int { return max(1, size*p.maxPercent/100) }

// poolOf returns the pool of the node.
func (c *cluster) poolOf(node *corev1.Node) simPoolSettings {
	for _, p := range c.pools {
		if node.Labels[simPool] == p.name {
			return p
		}
	}
	return simPoolSettings{}
}

func newCluster(seed uint64, verbose bool) *cluster {
	c := &cluster{catalogue: simRules()[false].asIs, modeSet: make(map[string]time.Time), Cluster: soptest.New(soptest.Options{
		GuardsRecords: true,
		Seed:          seed, Verbose: verbose, Election: simLease,
		Pace: soptest.Pace{
			Call:     soptest.Span{Least: time.Millisecond, Most: 20 * time.Millisecond},
			Answer:   soptest.Span{Least: 50 * time.Millisecond, Most: 500 * time.Millisecond},
			JobStart: soptest.Span{Least: 2 * time.Second, Most: 15 * time.Second},
			JobRun:   soptest.Span{Least: 5 * time.Second, Most: time.Minute},
			Boot:     soptest.Span{Least: time.Minute, Most: 4 * time.Minute},
			PodStart: soptest.Span{Least: time.Second, Most: 20 * time.Second},
			Pending:  simPending, Listed: 40 * time.Second,
		},
		Delivery: soptest.Delivery{Lost: 0.25, Late: 0.25, Again: 0.2, ResolvedLost: 0.3, ResolvedDelay: 30 * time.Second},
		Rules: []soptest.NodeRule{
			{Condition: simReady, Holds: func(n *corev1.Node) bool { return !soptest.Ready(n) }},
			{Condition: simCordon, Holds: func(n *corev1.Node) bool { return n.Spec.Unschedulable }},
		},
	})}
	c.oracle = newOracle(c)
	c.Observer = c.observer()
	return c
}

// observer hands what happens to those who judge it.
func (c *cluster) observer() soptest.Observer {
	by := func(client *soptest.Client) *simProcess { return c.processes[client.ID-1] }
	o := c.oracle
	return soptest.Observer{
		NodeChanged: o.changed,
		NodeDeleted: o.deleted,
		NodeWritten: func(p *soptest.Client, before, after *corev1.Node, sent time.Time) {
			o.written(by(p), before, after, sent)
		},
		NodeMerged:   func(p *soptest.Client, before, after *corev1.Node) { o.marked(by(p), before, after) },
		NodeAnswered: func(p *soptest.Client, node *corev1.Node) { by(p).answered(node) },
		PodDeleted:   func(p *soptest.Client, pod *corev1.Pod) { o.restarted(by(p), pod) },
		PodEvicted:   func(p *soptest.Client, pod *corev1.Pod) { o.evicted(by(p), pod) },
		JobOrdered:   func(p *soptest.Client, r jobs.Request) { o.ordered(by(p), r) },
		JobEnded:     o.jobEnded,
		JobForgotten: o.jobForgotten,
		LeaseChanged: c.follow,
		LeaseRead:    func(p *soptest.Client, lease *coordinationv1.Lease) { by(p).learned(lease) },
		Called:       func(p *soptest.Client) { o.called(by(p)) },
		FaultChanged: func(key prom.Key, holds bool) {
			if key.Condition == simDevices {
				c.offer(key.Node, holds)
			}
		},
		Webhook: func(key prom.Key, startsAt time.Time, firing bool) {
			for _, p := range c.processes {
				p.report(key, startsAt, firing)
			}
		},
		Answered: func(p *soptest.Client, from soptest.SourceKind, key prom.Key, alert *prom.Alert) {
			by(p).hears(from, key, alert)
		},
	}
}

const (
	// simPending is how long a condition holds until its alert fires.
	simPending = 20 * time.Second

	statePaused       = "paused"
	statePauseOrdered = "pause ordered"
	stateOrdersBroken = "orders cannot be read"
	orderedMode       = "mode "
	orderedSilence    = "silence at Aegis of "
)

func modeState(condition string, mode prom.Mode) string {
	return fmt.Sprint(orderedMode, mode, " of ", condition)
}

// simOrdered are the conditions whose mode people set.
func simOrdered() []string { return []string{simReboot, simReset, simRemedy, simIsolate, simDevices} }

// lowModes are the modes in which nothing is done by itself.
func lowModes() []prom.Mode { return []prom.Mode{prom.ModeOff, prom.ModeObserve, prom.ModeApprove} }

func excludedState(node string) string { return node + " excluded" }

// offer sets whether the node offers its devices.
func (c *cluster) offer(name string, missing bool) {
	devices := soptest.GPUs(8)
	if missing {
		devices = soptest.GPUs(0)
	}
	c.Edit(name, func(n *corev1.Node) { n.Status.Allocatable = devices })
}

// simCatalogue knows the conditions of the simulation. It may have nodes that are cordoned observed.
type simCatalogue struct{ observes bool }

func (simCatalogue) InhibitedBy(time.Time, []prom.AegisNodeStatus) func(prom.AegisNodeStatus) string {
	return func(prom.AegisNodeStatus) string { return "" }
}

func (c simCatalogue) Status(node, condition, device string, _ int) prom.AegisNodeStatus {
	policy := prom.Policy{
		Mode: prom.ModeAuto, Workload: prom.WorkloadDrain, Team: "gpu", MaxReboots: 2, AttemptWindow: 24 * time.Hour, RepairWindow: 72 * time.Hour,
		Cooldown: 20 * time.Minute, Grace: 2 * time.Minute, PowerOffAfter: 10 * time.Minute, HandOverAfter: 30 * time.Minute,
		ClearFor: time.Minute, VerifyWithin: 5 * time.Minute, DrainDeadline: 15 * time.Minute,
		HealthcheckDeadline: 10 * time.Minute, RebootDeadline: 15 * time.Minute, RemedyDeadline: 5 * time.Minute,
	}
	s := prom.AegisNodeStatus{
		Node: node, Condition: condition, ID: device, Type: "gpu", SOP: "sim/" + strings.ToLower(condition), Policy: policy,
		FirstSeen: time.Now(), LastSeen: time.Now(), Origin: prom.OriginAlert, Priority: 3, DeviceMode: prom.DeviceNone,
	}
	switch condition {
	case simReady:
		s.Priority, s.Policy.MaxReboots = 0, 0
	case simCordon:
		if s.Priority, s.Policy.MaxReboots = 1, 0; c.observes {
			s.Policy.Mode = prom.ModeObserve
		}
	case simIsolate:
		s.Priority, s.Policy.Shutdown = 4, true
	case simRelieve:
		s.Priority, s.Policy.Workload, s.Policy.MaxReboots = 50, prom.WorkloadKeep, 0
	case simNote:
		s.Priority, s.Policy.Workload, s.Policy.MaxReboots = 200, prom.WorkloadKeep, 0
	case simRemedy:
		s.Priority, s.Policy.MaxReboots = 10, 1
	case simUrgent:
		s.Priority, s.SOP = 2, "sim/reboot"
	case simPatient:
		s.Priority, s.SOP = 99, "sim/reboot"
	case simReset:
		s.DeviceMode, s.Policy.ConfirmFor = prom.DeviceIndex, 3*time.Minute
	case simDevices:
		s.Priority, s.Policy.MaxReboots, s.Policy.Workload = 50, 1, prom.WorkloadKeep
		s.Policy.Selector = simPlugin + "=plugin"
	}
	return s
}

// policyOf returns what may be done about the condition.
func policyOf(condition string) prom.Policy {
	return simCatalogue{}.Status("", condition, "", 0).Policy
}

// urgency orders the conditions: the lower, the sooner.
func urgency(condition string) int {
	switch priority := (simCatalogue{}).Status("", condition, "", 0).Priority; priority {
	case 0:
		return 0
	case 1:
		return 2
	case 200:
		return 3
	}
	return 1
}

// follow notes who holds the Lease of the election, and since when the orders on it stand. Those of people stand until people change them,
// whatever becomes of the Lease: one that is deleted, or made anew without them, takes none back that any process has had the time to read.
func (c *cluster) follow(before, after *coordinationv1.Lease) {
	c.depose()
	if after == nil {
		c.unheard()
	}
	if after == nil || before == nil || maps.Equal(before.Annotations, after.Annotations) {
		return
	}
	c.obey(after)
}

// unheard forgets the orders that went with the Lease before every process had the time to read them.
func (c *cluster) unheard() {
	for _, state := range slices.Sorted(slices.Values(c.States())) {
		ordered := state == statePauseOrdered || state == stateOrdersBroken || strings.HasPrefix(state, orderedMode) || strings.HasPrefix(state, orderedSilence)
		if ordered && time.Since(c.Began(state)) < simHeard {
			c.Leave(state)
		}
	}
	for condition, at := range c.modeSet {
		if time.Since(at) < simHeard {
			c.modeSet[condition] = time.Now()
		}
	}
}

// obey notes since when the orders on the Lease stand.
func (c *cluster) obey(lease *coordinationv1.Lease) {
	orders, err := ordersOf(lease)
	c.Set(stateOrdersBroken, err != nil)
	if err != nil {
		return
	}
	c.Set(statePauseOrdered, orders.paused)
	for _, condition := range simConditions() {
		order, found := orders.modes[condition]
		for _, mode := range lowModes() {
			if state, is := modeState(condition, mode), found && order.Mode == string(mode); is != c.On(state) {
				c.Set(state, is)
				c.modeSet[condition] = time.Now()
			}
		}
	}
}

// take makes the process the holder of the Lease.
func (c *cluster) take(p *simProcess) { c.Elect(p.identity()) }

// depose notes since when each process does not hold the Lease, and since when somebody does.
func (c *cluster) depose() {
	holder := c.Holder()
	if holder != c.holder {
		c.holder, c.heldSince = holder, time.Now()
	}
	for _, p := range c.processes {
		switch holds := p.identity() == holder; {
		case holds:
			p.deposed = time.Time{}
			if c.elected != nil {
				c.elected(p)
			}
		case p.deposed.IsZero():
			p.deposed = time.Now()
		}
	}
}

// mode returns the mode of the condition that people have ordered.
func (c *cluster) mode(condition string) prom.Mode {
	if condition == simCordon && c.observes {
		return prom.ModeObserve
	}
	for _, mode := range lowModes() {
		if c.On(modeState(condition, mode)) {
			return mode
		}
	}
	return prom.ModeAuto
}
