package sop

import (
	"errors"
	"fmt"
	"hash/crc64"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
)

// The simulated world: nodes that fall ill, boot, and are replaced; pods; the sources that report all that; and the state
// in which all of it is.

const (
	simPool  = "pool"
	simLease = "aegis"
	// simPending is how long a condition holds until its alert fires, simListed how long Alertmanager lists it afterwards.
	simPending = 20 * time.Second
	simListed  = 40 * time.Second
	// simMaxLag is the most by which a cache of nodes is behind, unless its watch is broken.
	simMaxLag = 8 * time.Second
	// simPlugin selects the pods of the device plugin.
	simPlugin = "app"
)

// The conditions of the simulation. Each has the procedure of its name.
const (
	simReady   = "Ready"
	simCordon  = "Cordon"
	simReboot  = "Reboot"
	simReset   = "Reset"
	simRemedy  = "Remedy"
	simIsolate = "Isolate"
	simRelieve = "Relieve"
	simNote    = "Note"
	simDevices = "Plugin"
)

var (
	errSimDead   = errors.New("the process is dead")
	errSimLost   = errors.New("connection reset by peer")
	errSimOutage = errors.New("connection refused")
)

// cluster is the simulated world. Everything in it is guarded by mu.
type cluster struct {
	seed  uint64
	start time.Time

	mu         sync.Mutex
	dice       map[string]uint64
	nodes      map[string]*corev1.Node
	version    int
	pods       map[string]*corev1.Pod
	plugins    map[string]simDaemon
	settings   policy.Settings
	conditions map[prom.Key]*simCondition
	jobs       map[string]*simJob
	processes  []*simProcess
	faulty     faultiness
	states     map[string]time.Time
	meddlers   map[string][]*simMeddler
	invariants *invariants
	// mended is when a watch or the API server came back last.
	mended time.Time
	// modeSet is when the mode of a condition last became what it is.
	modeSet map[string]time.Time
	// lease is the Lease of the election, which holds the orders.
	lease   *coordinationv1.Lease
	lines   []string
	verbose bool
}

// faultiness says how badly the world behaves at present.
type faultiness struct {
	// failing is the share of calls that are refused, losing that of calls whose answer is lost, slow that of slow calls.
	failing, losing, slow float64
	outage                bool
	lag                   time.Duration
	// badChecks is the share of healthchecks and remedies that go wrong, badPower that of power operations.
	badChecks, badPower float64
}

// simCondition is the truth about one condition.
type simCondition struct {
	holds   bool
	changed time.Time
	// fired is when the alert of the episode that has ended began to fire. Zero if it never did.
	fired time.Time
	// remedies are how many more of the operations it takes to fix the fault, by the name of the operation.
	remedies map[string]int
	// unseen faults are none that a healthcheck finds.
	unseen bool
}

// firing returns since when the alert fires, zero if it does not.
func (s *simCondition) firing() time.Time {
	if since := s.changed.Add(simPending); s.holds && !time.Now().Before(since) {
		return since
	}
	return time.Time{}
}

// listed returns since when Alertmanager lists the alert, zero if it does not.
func (s *simCondition) listed() time.Time {
	if !s.holds && !s.fired.IsZero() && time.Since(s.changed) < simListed {
		return s.fired
	}
	return s.firing()
}

func newCluster(seed uint64) *cluster {
	c := &cluster{
		seed: seed, start: time.Now(), dice: make(map[string]uint64), nodes: make(map[string]*corev1.Node),
		pods: make(map[string]*corev1.Pod), plugins: make(map[string]simDaemon), conditions: make(map[prom.Key]*simCondition),
		jobs: make(map[string]*simJob), states: make(map[string]time.Time),
		meddlers: make(map[string][]*simMeddler), modeSet: make(map[string]time.Time),
		lease: &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: simLease}},
	}
	c.invariants = newInvariants(c)
	return c
}

// chance draws a number in [0,1) for the next event of the kind. Numbers of different kinds do not depend on each other, so
// that a schedule stays the same however the goroutines of one instant interleave.
func (c *cluster) chance(kind string) float64 {
	c.dice[kind]++
	sum := crc64.Checksum([]byte(kind), crc64.MakeTable(crc64.ECMA))
	return rand.New(rand.NewPCG(c.seed^sum, c.dice[kind])).Float64()
}

// between draws a duration for the next event of the kind.
func (c *cluster) between(kind string, least, most time.Duration) time.Duration {
	return least + time.Duration(c.chance(kind)*float64(most-least))
}

// logf notes what happened, for a schedule that fails.
func (c *cluster) logf(format string, args ...any) {
	if c.verbose {
		c.lines = append(c.lines, fmt.Sprintf("%9s ", time.Since(c.start).Truncate(time.Millisecond))+fmt.Sprintf(format, args...))
	}
}

// later has something happen under the cluster's lock after a while.
func (c *cluster) later(after time.Duration, do func()) {
	time.AfterFunc(after, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		do()
	})
}

// enter and leave begin and end a state of the world, such as a silence; began returns since when it lasts, zero if it does not.
func (c *cluster) enter(state string) {
	if _, on := c.states[state]; !on {
		c.states[state] = time.Now()
	}
	c.logf("world: %s", state)
}

func (c *cluster) leave(state string) {
	delete(c.states, state)
	c.logf("world: not %s", state)
}

// set enters the state or leaves it.
func (c *cluster) set(state string, on bool) {
	switch {
	case on == c.on(state):
	case on:
		c.enter(state)
	default:
		c.leave(state)
	}
}

func (c *cluster) began(state string) time.Time { return c.states[state] }

func (c *cluster) on(state string) bool { return !c.states[state].IsZero() }

const (
	statePrometheusDown   = "Prometheus down"
	stateAlertmanagerDown = "Alertmanager down"
	stateUnlisted         = "Alertmanager restarted"
	statePaused           = "paused"
	statePauseOrdered     = "pause ordered"
	stateOrdersBroken     = "orders cannot be read"
)

func modeState(condition string, mode prom.Mode) string {
	return fmt.Sprint("mode ", mode, " of ", condition)
}

// simOrdered are the conditions whose mode people set.
func simOrdered() []string { return []string{simReboot, simReset, simRemedy, simIsolate, simDevices} }

const silenceFormat = "silence of %s on %s"

func silenceOf(key prom.Key) string { return fmt.Sprintf(silenceFormat, key.Condition, key.Node) }

func excludedState(node string) string { return node + " excluded" }

// put stores a node as the API server has it now, and lets the caches know, in a while.
func (c *cluster) put(node *corev1.Node) {
	before := c.nodes[node.Name]
	c.version++
	node.ResourceVersion = fmt.Sprint(c.version)
	c.nodes[node.Name] = node
	c.hold(prom.Key{Node: node.Name, Condition: simReady}, !IsReady(node))
	c.hold(prom.Key{Node: node.Name, Condition: simCordon}, node.Spec.Unschedulable)
	c.publish(node.Name)
	c.invariants.changed(before, node)
}

// publish sends what the API server has of the node to the caches.
func (c *cluster) publish(name string) {
	for _, p := range c.processes {
		if !p.dead {
			p.cache.push(name, c.nodes[name])
		}
	}
}

// edit changes a node, if it is there, as a person or its kubelet does.
func (c *cluster) edit(name string, change func(n *corev1.Node)) {
	if c.nodes[name] == nil {
		return
	}
	node := c.nodes[name].DeepCopy()
	change(node)
	manage(c.nodes[name], node, "kubectl")
	c.put(node)
}

// deleteNode takes a node out of the cluster, with its pods, the operations on it, and all that was reported of it.
func (c *cluster) deleteNode(name string) {
	if c.nodes[name] == nil {
		return
	}
	c.logf("world: %s is deleted", name)
	c.set(excludedState(name), false)
	for key, s := range c.conditions {
		if key.Node == name {
			s.remedies = nil
			c.hold(key, false)
		}
	}
	maps.DeleteFunc(c.pods, func(_ string, p *corev1.Pod) bool { return p.Spec.NodeName == name })
	for _, job := range c.jobs {
		if job.request.Node == name {
			job.expire("the node is gone")
		}
	}
	c.invariants.deleted(c.nodes[name])
	delete(c.nodes, name)
	c.publish(name)
}

// createNode brings another machine into the cluster under the name of one that was deleted.
func (c *cluster) createNode(name, pool string) {
	if c.nodes[name] != nil {
		return
	}
	c.version++
	node := testNode(name, types.UID(fmt.Sprint("uid-", name, "-", c.version)))
	node.Labels = map[string]string{simPool: pool}
	node.CreationTimestamp = metav1.NewTime(time.Now().Truncate(time.Second))
	node.Status.NodeInfo.BootID = fmt.Sprint("boot-", c.version)
	node.Status.Capacity = corev1.ResourceList{"nvidia.com/gpu": *gpus(8)}
	node.Status.Allocatable = corev1.ResourceList{"nvidia.com/gpu": *gpus(8)}
	c.logf("world: %s is created", name)
	c.put(node)
	c.startPlugins(name)
}

// simDaemon says how the device plugin of a node fares.
type simDaemon struct {
	// pods is how many there are; one is as it should be.
	pods int
	// unready successors never become ready, late ones never come.
	unready, late bool
}

// startPlugins makes the pods of the device plugin of a node.
func (c *cluster) startPlugins(node string) {
	for range c.plugins[node].pods {
		c.startPlugin(node, corev1.ConditionTrue)
	}
}

func (c *cluster) startPlugin(node string, ready corev1.ConditionStatus) {
	c.version++
	name := fmt.Sprint(node, "-plugin-", c.version)
	isController := true
	c.pods[name] = &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: "kube-system", UID: types.UID(name), Labels: map[string]string{simPlugin: "plugin"},
			CreationTimestamp: metav1.NewTime(time.Now().Truncate(time.Second)),
			OwnerReferences:   []metav1.OwnerReference{{Kind: "DaemonSet", Name: "plugin", Controller: &isController}},
		},
		Spec: corev1.PodSpec{NodeName: node},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}},
		},
	}
}

// restartPlugin has the DaemonSet replace a pod that was deleted.
func (c *cluster) restartPlugin(node string) {
	daemon := c.plugins[node]
	if daemon.late {
		return
	}
	c.later(c.between("plugin "+node, time.Second, 20*time.Second), func() {
		if c.nodes[node] == nil {
			return
		}
		if daemon.unready {
			c.startPlugin(node, corev1.ConditionFalse)
			return
		}
		c.startPlugin(node, corev1.ConditionTrue)
		c.fix(node, "plugin")
	})
}

// hold sets whether the condition holds. Its alert fires some time later. The webhooks about that may be lost, late, in the
// wrong order, or sent again when all is over.
func (c *cluster) hold(key prom.Key, holds bool) {
	s := c.conditions[key]
	if s == nil {
		if !holds {
			return
		}
		s = &simCondition{}
		c.conditions[key] = s
	}
	if s.holds == holds || holds && c.nodes[key.Node] == nil {
		return
	}
	fired := s.firing()
	s.holds, s.changed, s.fired = holds, time.Now(), fired
	c.logf("world: %s %s on %s: %t", key.Condition, key.ID, key.Node, holds)
	if key.Condition == simDevices {
		c.offer(key.Node, holds)
	}
	if holds {
		c.announce(key, s)
		return
	}
	if !fired.IsZero() && c.chance(fmt.Sprint("resolved ", key)) > 0.3 {
		c.later(c.between(fmt.Sprint("resolved late ", key), 0, 30*time.Second), func() { c.webhook(key, fired, false) })
	}
}

// offer sets whether the node offers its devices.
func (c *cluster) offer(name string, missing bool) {
	devices := gpus(8)
	if missing {
		devices = gpus(0)
	}
	c.edit(name, func(n *corev1.Node) { n.Status.Allocatable = corev1.ResourceList{"nvidia.com/gpu": *devices} })
}

// announce sends the webhooks of a condition whose alert comes to fire.
func (c *cluster) announce(key prom.Key, s *simCondition) {
	began, startsAt := s.changed, s.changed.Add(simPending)
	c.later(simPending, func() {
		if !s.changed.Equal(began) {
			return
		}
		switch luck := c.chance(fmt.Sprint("firing ", key)); {
		case luck < 0.25:
		case luck < 0.75:
			c.webhook(key, startsAt, true)
		default:
			c.later(c.between(fmt.Sprint("firing late ", key), 0, 40*time.Second), func() { c.webhook(key, startsAt, true) })
		}
		if c.chance(fmt.Sprint("again ", key)) < 0.2 {
			c.later(c.between(fmt.Sprint("again late ", key), time.Minute, 20*time.Minute), func() { c.webhook(key, startsAt, true) })
		}
	})
}

// webhook tells those who lead of an alert.
func (c *cluster) webhook(key prom.Key, startsAt time.Time, firing bool) {
	c.logf("webhook: %s %s on %s, firing %t", key.Condition, key.ID, key.Node, firing)
	for _, p := range c.processes {
		p.report(key, startsAt, firing)
	}
}

// fix takes one operation off what it takes to end the faults of the node.
func (c *cluster) fix(node, how string) {
	for key, s := range c.conditions {
		if key.Node != node || !s.holds || s.remedies[how] == 0 {
			continue
		}
		if s.remedies[how]--; s.remedies[how] == 0 {
			c.hold(key, false)
		}
	}
}

// sick reports whether a fault that a healthcheck sees is on the node.
func (c *cluster) sick(node string) bool {
	for key, s := range c.conditions {
		if key.Node == node && s.holds && !s.unseen && len(s.remedies) > 0 && key.Condition != simDevices {
			return true
		}
	}
	return false
}

// simCatalogue knows the conditions of the simulation.
type simCatalogue struct{}

func (simCatalogue) HiddenBy(time.Time, prom.AegisNodeStatus, []prom.AegisNodeStatus) string {
	return ""
}

func (simCatalogue) Status(node, condition, device string, _ int) prom.AegisNodeStatus {
	p := testPolicy()
	p.Cooldown, p.Grace, p.PowerOffAfter, p.HandOverAfter = 20*time.Minute, 2*time.Minute, 10*time.Minute, 30*time.Minute
	p.ClearFor, p.VerifyWithin, p.DrainDeadline = time.Minute, 5*time.Minute, 15*time.Minute
	p.HealthcheckDeadline, p.RebootDeadline, p.RemedyDeadline = 10*time.Minute, 15*time.Minute, 5*time.Minute
	s := prom.AegisNodeStatus{
		Node: node, Condition: condition, ID: device, Type: "gpu", SOP: "sim/" + strings.ToLower(condition), Policy: p,
		FirstSeen: time.Now(), LastSeen: time.Now(), Origin: prom.OriginAlert, Priority: 3, DeviceMode: prom.DeviceNone,
	}
	switch condition {
	case simReady:
		s.Priority, s.Policy.MaxReboots = 0, 0
	case simCordon:
		s.Priority, s.Policy.MaxReboots = 1, 0
	case simIsolate:
		s.Priority, s.Policy.Shutdown = 4, true
	case simRelieve:
		s.Priority, s.Policy.Workload, s.Policy.MaxReboots = 50, prom.WorkloadKeep, 0
	case simNote:
		s.Priority, s.Policy.Workload, s.Policy.MaxReboots = 200, prom.WorkloadKeep, 0
	case simRemedy:
		s.Priority, s.Policy.MaxReboots = 10, 1
	case simReset:
		s.DeviceMode = prom.DeviceIndex
	case simDevices:
		s.Priority, s.Policy.MaxReboots, s.Policy.Workload = 50, 1, prom.WorkloadKeep
		s.Policy.Selector = simPlugin + "=plugin"
	}
	return s
}

// simJob is one Job on a node.
type simJob struct {
	request jobs.Request
	// ended is false while it runs.
	ended  bool
	result jobs.Result
}

// end is how the Job ended by itself, expire how it was ended.
func (j *simJob) end(code int32, hardware, message string) {
	j.ended = true
	if code == 0 {
		j.result = jobs.Result{Job: j.request.Name(), Phase: jobs.PhaseSucceeded, Report: &jobs.Report{Result: jobs.ResultPassed}}
		return
	}
	j.result = failedJob(j.request, code, hardware)
	j.result.Message = message
}

func (j *simJob) expire(why string) {
	if !j.ended {
		j.ended = true
		j.result = jobs.Result{Job: j.request.Name(), Phase: jobs.PhaseFailed, ExitCode: -1, Message: why}
	}
}

// begin lets the Job run on its node, which takes a kubelet that works.
func (c *cluster) begin(job *simJob) {
	r := job.request
	switch node := c.nodes[r.Node]; {
	case job.ended:
	case node == nil || !IsReady(node):
		c.later(20*time.Second, func() { c.begin(job) })
	case r.Action == jobs.ActionReboot, r.Action == jobs.ActionShutdown:
		c.power(job)
	default:
		c.later(c.between("take "+r.Node, 5*time.Second, time.Minute), func() { c.finish(job) })
	}
}

// power boots the node or powers it off, unless it is on another boot than it should be.
func (c *cluster) power(job *simJob) {
	r := job.request
	luck := c.chance("power " + r.Node)
	switch boot := c.nodes[r.Node].Status.NodeInfo.BootID; {
	case !slices.Contains(r.Args, boot):
		job.end(1, "", "the node is on boot "+boot)
		return
	case luck < c.faulty.badPower/2:
		job.end(1, "", "the kernel refused")
		return
	case luck < c.faulty.badPower:
		c.logf("world: %s does not react", r.Node)
		return
	}
	c.edit(r.Node, func(n *corev1.Node) { setReady(n, corev1.ConditionUnknown) })
	if r.Action == jobs.ActionReboot {
		c.later(c.between("boot "+r.Node, time.Minute, 4*time.Minute), func() { c.boot(job) })
	}
}

// boot brings the node up again, if it is there.
func (c *cluster) boot(job *simJob) {
	if job.ended {
		return
	}
	c.fix(job.request.Node, "reboot")
	c.edit(job.request.Node, func(n *corev1.Node) {
		n.Status.NodeInfo.BootID = bootAfter(n)
		setReady(n, corev1.ConditionTrue)
	})
	c.logf("world: %s has booted", job.request.Node)
	job.expire("the pod was lost")
}

// bootAfter returns the boot ID that follows that of the node.
func bootAfter(n *corev1.Node) string { return n.Status.NodeInfo.BootID + "+" }

// finish ends a Job that leaves the node up.
func (c *cluster) finish(job *simJob) {
	r := job.request
	if job.ended {
		return
	}
	luck := c.chance("finish " + r.Node)
	switch {
	case luck < c.faulty.badChecks/3:
		job.end(protocol.ExitUnknown, "", "the tool crashed")
	case luck < c.faulty.badChecks:
		job.end(2, "gpu", "it is broken")
	case r.Action == jobs.ActionHealthcheck && c.sick(r.Node):
		job.end(2, "gpu", "it is sick")
	default:
		if r.Action == jobs.ActionRemedy {
			c.fix(r.Node, r.Args[0])
		}
		job.end(0, "", "")
		if r.Action == jobs.ActionHealthcheck {
			c.invariants.passed[r.Node] = time.Now()
		}
	}
	c.logf("world: Job %s on %s %s %s", r.Action, r.Node, job.result.Phase, job.result.Message)
}

// putLease stores the Lease of the election, and notes since when its orders stand.
func (c *cluster) putLease(lease *coordinationv1.Lease) {
	c.version++
	lease.ResourceVersion = fmt.Sprint(c.version)
	c.lease = lease
	orders, err := parseOrders(lease.Annotations)
	c.set(stateOrdersBroken, err != nil)
	if err != nil {
		return
	}
	c.set(statePauseOrdered, orders.Pause != nil)
	for _, condition := range simOrdered() {
		order, found := orders.Modes[condition]
		for _, mode := range []prom.Mode{prom.ModeOff, prom.ModeObserve, prom.ModeApprove} {
			if state, is := modeState(condition, mode), found && order.Mode == mode; is != c.on(state) {
				c.set(state, is)
				c.modeSet[condition] = time.Now()
			}
		}
	}
}

// editLease changes the Lease as a person does with kubectl.
func (c *cluster) editLease(key, value string) {
	lease := c.lease.DeepCopy()
	lease.Annotations = cloned(lease.Annotations)
	if lease.Annotations[key] = value; value == "" {
		delete(lease.Annotations, key)
	}
	c.putLease(lease)
}

// take makes the process the holder of the Lease.
func (c *cluster) take(p *simProcess) {
	lease := c.lease.DeepCopy()
	holder := p.identity()
	lease.Spec.HolderIdentity = &holder
	c.putLease(lease)
	for _, other := range c.processes {
		if other.deposed.IsZero() {
			other.deposed = time.Now()
		}
	}
}

// mode returns the mode of the condition that people have ordered.
func (c *cluster) mode(condition string) prom.Mode {
	for _, mode := range []prom.Mode{prom.ModeOff, prom.ModeObserve, prom.ModeApprove} {
		if c.on(modeState(condition, mode)) {
			return mode
		}
	}
	return prom.ModeAuto
}
