package soptest

import (
	"fmt"
	"hash/crc64"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"

	"aegis.io/aegis/rules/prom"
)

// Options say what a cluster is like from its beginning to its end.
type Options struct {
	// GuardsRecords has the API server refuse what the admission policy for records refuses.
	GuardsRecords bool
	// Seed is what chance is drawn from.
	Seed uint64
	// Verbose clusters keep the lines of Logf.
	Verbose bool
	// Election is the name of the Lease of the leader election.
	Election string
	// Pace is how long things take.
	Pace Pace
	// Delivery is how reliably webhooks arrive.
	Delivery Delivery
	// Rules are the conditions that follow from what the API server says of a node.
	Rules []NodeRule
}

// NodeRule is an alerting rule about what the API server says of a node.
type NodeRule struct {
	// Condition is what its alert is called.
	Condition string
	// Holds reports whether the condition holds on the node.
	Holds func(node *corev1.Node) bool
}

// Span is how long something takes: at least the one, at most the other.
type Span struct{ Least, Most time.Duration }

// Exactly returns the span of things that always take the same time.
func Exactly(d time.Duration) Span { return Span{d, d} }

// Pace is how long things take.
type Pace struct {
	// Call is the time of a call to the API server, Answer that of a query to a source.
	Call, Answer Span
	// JobStart is the time until a Job runs, JobRun the time for which it does, Boot that of a boot, and PodStart that in which a
	// DaemonSet replaces a pod.
	JobStart, JobRun, Boot, PodStart Span
	// PowerDown is the time from a power operation until the node is silent.
	PowerDown time.Duration
	// Pending is how long a condition holds until its alert fires, Listed how long Alertmanager lists it once it is over.
	Pending, Listed time.Duration
}

// Weather is how badly the cluster behaves at present.
type Weather struct {
	// Failing is the share of calls that are refused, Losing that of calls whose answer is lost, Slow that of slow calls.
	Failing, Losing, Slow float64
	// Outage clusters answer no call.
	Outage bool
	// Lag is by how much the caches are behind at most.
	Lag time.Duration
	// BadChecks is the share of Jobs that go wrong for no fault of the node, BadPower that of power operations.
	BadChecks, BadPower float64
	// PodsCollected is the share of ended Jobs of the product's own runner whose pod is gone before anybody has read it, JobsForgotten that
	// of those that are deleted themselves soon after, and JobsGivenUp that of power operations whose Job is called failed before they
	// happen.
	PodsCollected, JobsForgotten, JobsGivenUp float64
}

// Delivery is how reliably webhooks arrive. With its zero value each comes once, at once.
type Delivery struct {
	// Lost is the share of firing alerts of which no webhook comes, Late that of those whose webhook is late, and Again that of
	// those whose webhook comes once more, long after.
	Lost, Late, Again float64
	// ResolvedLost is the share of resolved alerts of which no webhook comes, ResolvedDelay how late the others are at most.
	ResolvedLost  float64
	ResolvedDelay time.Duration
}

// Cluster is the fake cluster. Its lock guards all of it; Do and the hooks of the observer hold it.
type Cluster struct {
	// Observer is told what happens.
	Observer Observer
	// Weather is how badly the cluster behaves at present.
	Weather Weather
	// Nodes, Pods and Lease are what the API server has. The objects are replaced, never changed: Edit does that. A test may take the
	// Lease of the election away by nil.
	Nodes map[string]*corev1.Node
	Pods  map[string]*corev1.Pod
	Lease *coordinationv1.Lease
	// NodeLeases are those of nodes whose kubelets do not renew them as they should.
	NodeLeases map[string]*coordinationv1.Lease
	// Budgets are the disruption budgets, as a process reads them. What holds a pod is its label; see HoldPod.
	Budgets []policyv1.PodDisruptionBudget
	// Daemons are the pods that a DaemonSet keeps on a node.
	Daemons map[string]Daemon
	// Faults is the truth about the conditions.
	Faults map[prom.Key]*Fault
	// Jobs are those that were made, by name.
	Jobs map[string]*Job
	// Clients are those that reach the API server, in the order in which they were made.
	Clients []*Client
	// Operate decides how a Job ends, instead of chance and the faults of its node. False leaves it to those.
	Operate func(job *Job) (Outcome, bool)
	outages meter
	// Mended is when a watch or the API server came back last.
	Mended time.Time

	mu      sync.Mutex
	options Options
	start   time.Time
	dice    map[string]uint64
	version int
	states  map[string]time.Time
	// stops are the rules that are not evaluated, by their condition. off are the nodes without power.
	// resumed is when each was last evaluated again.
	stops   map[string]*stop
	resumed map[string]time.Time
	off     map[string]bool
	moments map[string][]*moment
	// silentSince is since when the kubelets of nodes are silent.
	silentSince map[string]time.Time
	lines       []string
}

var _ sync.Locker = (*Cluster)(nil)

// New returns an empty cluster in good weather.
func New(o Options) *Cluster {
	c := &Cluster{
		options: o, start: time.Now(), dice: make(map[string]uint64), Nodes: make(map[string]*corev1.Node),
		Pods: make(map[string]*corev1.Pod), Daemons: make(map[string]Daemon), Faults: make(map[prom.Key]*Fault),
		Jobs: make(map[string]*Job), states: make(map[string]time.Time), stops: make(map[string]*stop), resumed: make(map[string]time.Time), off: make(map[string]bool), moments: make(map[string][]*moment),
		NodeLeases: make(map[string]*coordinationv1.Lease), silentSince: make(map[string]time.Time), Lease: &coordinationv1.Lease{},
	}
	c.Lease.Name = o.Election
	return c
}

// Lock takes the cluster's lock.
func (c *Cluster) Lock() { c.mu.Lock() }

// Unlock gives the cluster's lock back.
func (c *Cluster) Unlock() { c.mu.Unlock() }

// Do calls the function with the lock held.
func (c *Cluster) Do(do func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	do()
}

// held panics when nobody holds the lock, which would be a race.
func (c *Cluster) held() {
	if c.mu.TryLock() {
		c.mu.Unlock()
		panic("soptest: the lock of the cluster is not held; see Cluster.Do")
	}
}

// Start returns when the cluster came to be.
func (c *Cluster) Start() time.Time { return c.start }

// Chance draws a number in [0,1) for the next event of the kind. Numbers of different kinds do not depend on each other, so that
// a run repeats itself however the goroutines of one instant interleave.
func (c *Cluster) Chance(kind string) float64 {
	c.held()
	c.dice[kind]++
	sum := crc64.Checksum([]byte(kind), crc64.MakeTable(crc64.ECMA))
	return rand.New(rand.NewPCG(c.options.Seed^sum, c.dice[kind])).Float64()
}

// Between draws a duration for the next event of the kind.
func (c *Cluster) Between(kind string, least, most time.Duration) time.Duration {
	return least + time.Duration(c.Chance(kind)*float64(most-least))
}

// span draws a duration for the next event of the kind.
func (c *Cluster) span(kind string, s Span) time.Duration { return c.Between(kind, s.Least, s.Most) }

// Logf notes what happened, if the cluster is verbose.
func (c *Cluster) Logf(format string, args ...any) {
	if c.options.Verbose {
		c.lines = append(c.lines, fmt.Sprintf("%9s ", time.Since(c.start).Truncate(time.Millisecond))+fmt.Sprintf(format, args...))
	}
}

// Verbose reports whether the cluster keeps the lines of Logf.
func (c *Cluster) Verbose() bool { return c.options.Verbose }

// Lines returns what was noted, the latest last.
func (c *Cluster) Lines() []string { return c.lines }

// LogWriter returns a writer that notes every line behind the prefix. It takes the lock itself.
func (c *Cluster) LogWriter(prefix string) *LogWriter { return &LogWriter{c, prefix} }

// LogWriter notes what is written to it among the events of the cluster.
type LogWriter struct {
	cluster *Cluster
	prefix  string
}

// Write notes a line.
func (w *LogWriter) Write(line []byte) (int, error) {
	w.cluster.Do(func() { w.cluster.Logf("%s%s", w.prefix, strings.TrimSpace(string(line))) })
	return len(line), nil
}

// Later has something happen under the lock after a while.
func (c *Cluster) Later(after time.Duration, do func()) {
	time.AfterFunc(after, func() { c.Do(do) })
}

// The states of the sources.
const (
	// PrometheusDown is while Prometheus gives no answers.
	PrometheusDown = "Prometheus down"
	// AlertmanagerDown is while Alertmanager gives no answers.
	AlertmanagerDown = "Alertmanager down"
	// AlertmanagerForgot is while Alertmanager has restarted and does not list any alert yet.
	AlertmanagerForgot = "Alertmanager restarted"
)

// Enter begins a state of the cluster, such as PrometheusDown or a silence.
func (c *Cluster) Enter(state string) {
	c.held()
	if !c.On(state) {
		c.states[state] = time.Now()
	}
	c.Logf("world: %s", state)
}

// Leave ends a state of the cluster.
func (c *Cluster) Leave(state string) {
	c.held()
	delete(c.states, state)
	c.Logf("world: not %s", state)
}

// Set enters the state or leaves it.
func (c *Cluster) Set(state string, on bool) {
	switch {
	case on == c.On(state):
	case on:
		c.Enter(state)
	default:
		c.Leave(state)
	}
}

// Began returns since when the state lasts, zero if it does not.
func (c *Cluster) Began(state string) time.Time { return c.states[state] }

// On reports whether the state lasts.
func (c *Cluster) On(state string) bool { return !c.states[state].IsZero() }

// States returns the states that last, in no order.
func (c *Cluster) States() []string {
	states := make([]string, 0, len(c.states))
	for state := range c.states {
		states = append(states, state)
	}
	return states
}

// Away returns for how much of the time since then the API server was away.
func (c *Cluster) Away(since time.Time) time.Duration { return c.outages.spent(since) }

// SetOutage takes the API server away, or brings it back, with the watches on it.
func (c *Cluster) SetOutage(on bool) {
	if was := c.Weather.Outage; was != on {
		c.Weather.Outage = on
		if on {
			c.outages.enter()
		} else {
			c.outages.leave()
		}
	}
	c.Logf("world: API server down %t", on)
	if on {
		return
	}
	c.Mended = time.Now()
	for _, client := range c.Clients {
		if client.cache != nil && !client.cache.broken {
			client.cache.Mend()
		}
	}
}
