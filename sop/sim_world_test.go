package sop

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc64"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	policyclient "k8s.io/client-go/kubernetes/typed/policy/v1"
	"k8s.io/client-go/tools/record"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/queue"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/ticket"
)

// The misbehaviour of the simulated world: an API server that is slow, fails, and loses answers after it has applied the
// request; a node cache that lags; sources that are late, silenced, deaf or restarted; operations that fail or never end.

const (
	simPool  = "pool"
	simLease = "aegis"
	// simPending is how long a condition holds until its alert fires, simListed how long Alertmanager lists it afterwards.
	simPending = 20 * time.Second
	simListed  = 40 * time.Second
	// simMaxLag is the most by which a cache of nodes is behind, but for a watch that broke.
	simMaxLag = 8 * time.Second
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
	settings   Settings
	conditions map[prom.Key]*simCondition
	jobs       map[string]*simJob
	processes  []*simProcess
	faulty     faultiness
	states     map[string]time.Time
	meddlers   map[string]*simMeddler
	invariants *invariants
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
	// remedies are how many more of the operations it takes to fix the fault, by the name of the operation.
	remedies map[string]int
}

func newCluster(seed uint64) *cluster {
	c := &cluster{
		seed: seed, start: time.Now(), dice: make(map[string]uint64), nodes: make(map[string]*corev1.Node),
		pods: make(map[string]*corev1.Pod), conditions: make(map[prom.Key]*simCondition),
		jobs: make(map[string]*simJob), states: make(map[string]time.Time),
		meddlers: make(map[string]*simMeddler), lease: &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: simLease}},
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

// enter and leave begin and end a state of the world, such as a silence; since returns how long it has lasted, 0 if it does not.
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

func (c *cluster) since(state string) time.Duration {
	if at, on := c.states[state]; on {
		return time.Since(at) + 1
	}
	return 0
}

// put stores a node as the API server has it now, and lets the caches know, in a while.
func (c *cluster) put(node *corev1.Node) {
	before := c.nodes[node.Name]
	c.version++
	node.ResourceVersion = fmt.Sprint(c.version)
	c.nodes[node.Name] = node
	c.hold(prom.Key{Node: node.Name, Condition: "Ready"}, !IsReady(node))
	c.hold(prom.Key{Node: node.Name, Condition: "Cordon"}, node.Spec.Unschedulable)
	for _, p := range c.processes {
		if !p.dead {
			p.cache.push(node)
		}
	}
	c.invariants.changed(before, node)
}

// edit changes a node as a person or its kubelet does.
func (c *cluster) edit(name string, change func(n *corev1.Node)) {
	node := c.nodes[name].DeepCopy()
	change(node)
	c.put(node)
}

// patch applies a JSON patch as the API server does.
func (c *cluster) patch(p *simProcess, name string, body []byte) (*corev1.Node, error) {
	before := c.nodes[name]
	text, err := json.Marshal(before)
	if err != nil {
		return nil, err
	}
	patch, err := jsonpatch.DecodePatch(body)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if text, err = patch.Apply(text); err != nil {
		c.logf("p%d patch %s conflicts: %v", p.id, name, err)
		return nil, apierrors.NewInvalid(schema.GroupKind{Kind: "Node"}, name, nil)
	}
	after := new(corev1.Node)
	if err := json.Unmarshal(text, after); err != nil {
		return nil, err
	}
	c.invariants.written(p, before, after)
	c.put(after)
	c.meddlers[name].written()
	return after, nil
}

// simMeddler waits for a number of writes to a node.
type simMeddler struct {
	writes int
	do     func()
}

func (m *simMeddler) written() {
	if m == nil {
		return
	}
	if m.writes--; m.writes == 0 {
		m.do()
	}
}

// hold sets whether the condition holds. Its alert fires some time later, and its webhook may be lost.
func (c *cluster) hold(key prom.Key, holds bool) {
	s := c.conditions[key]
	if s == nil {
		if !holds {
			return
		}
		s = &simCondition{}
		c.conditions[key] = s
	}
	if s.holds == holds {
		return
	}
	s.holds, s.changed = holds, time.Now()
	c.logf("world: %s on %s: %t", key.Condition, key.Node, holds)
	if !holds || c.chance("webhook") < 0.3 {
		return
	}
	at := s.changed
	time.AfterFunc(simPending, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if !s.holds || !s.changed.Equal(at) {
			return
		}
		for _, p := range c.processes {
			p.report(key, at, prom.OriginAlert)
		}
	})
}

// finding is what the sources say of the condition now.
func (c *cluster) finding(key prom.Key) prom.Finding {
	f := prom.Finding{Evidence: prom.EvidenceAbsent, Permission: prom.PermissionUnlisted, At: time.Now()}
	if s := c.conditions[key]; s != nil {
		age := time.Since(s.changed)
		switch {
		case s.holds && age >= simPending:
			f.Evidence = prom.EvidenceFiring
			f.Permission = prom.PermissionGranted
		case s.holds:
			f.Evidence = prom.EvidencePending
		case age < simListed:
			f.Permission = prom.PermissionGranted
		}
	}
	switch {
	case c.since(stateAlertmanagerDown) > 0:
		f.Permission = prom.PermissionUnknown
	case f.Permission == prom.PermissionUnlisted:
	case c.since(silenceOf(key)) > 0:
		f.Permission = prom.PermissionSilenced
	case c.since(stateUnlisted) > 0:
		f.Permission = prom.PermissionUnlisted
	}
	if c.since(statePrometheusDown) > 0 {
		f.Evidence = prom.EvidenceUnknown
	}
	return f
}

const (
	statePrometheusDown   = "Prometheus down"
	stateAlertmanagerDown = "Alertmanager down"
	stateUnlisted         = "Alertmanager restarted"
	statePaused           = "paused"
)

func silenceOf(key prom.Key) string { return "silence of " + key.Condition + " on " + key.Node }

// simCatalogue knows the conditions of the simulation.
type simCatalogue struct{}

func (simCatalogue) Status(node, condition, device string) prom.AegisNodeStatus {
	policy := testPolicy()
	policy.Cooldown, policy.Grace, policy.PowerOffAfter, policy.HandOverAfter = 20*time.Minute, 2*time.Minute, 10*time.Minute, 30*time.Minute
	policy.ClearFor, policy.VerifyWithin, policy.DrainDeadline = time.Minute, 5*time.Minute, 15*time.Minute
	policy.HealthcheckDeadline, policy.RebootDeadline, policy.RemedyDeadline = 10*time.Minute, 15*time.Minute, 5*time.Minute
	s := prom.AegisNodeStatus{
		Node: node, Condition: condition, ID: device, Type: "gpu", SOP: "sim/" + strings.ToLower(condition), Policy: policy,
		FirstSeen: time.Now(), LastSeen: time.Now(), Origin: prom.OriginAlert,
	}
	switch condition {
	case "Ready":
		s.Priority, s.Policy.MaxReboots = 0, 0
	case "Cordon":
		s.Priority, s.Policy.MaxReboots = 1, 0
	case "Isolate":
		s.Priority, s.Policy.Shutdown = 4, true
	case "Relieve":
		s.Priority, s.Policy.Workload, s.Policy.MaxReboots = 50, prom.WorkloadKeep, 0
	case "Note":
		s.Priority, s.Policy.Workload, s.Policy.MaxReboots = 200, prom.WorkloadKeep, 0
	case "Remedy":
		s.Priority, s.Policy.MaxReboots = 10, 1
	default:
		s.Priority = 3
	}
	return s
}

// simProcess is one run of Aegis, from its start to its end. Nothing but the cluster outlives it.
type simProcess struct {
	*cluster
	id    int
	ctx   context.Context
	stop  context.CancelCauseFunc
	ended chan struct{}
	queue *queue.Queue
	book  *Book
	cache *simCache

	// dead processes do not reach the API server any more. Guarded by the cluster's lock, as all below.
	dead   bool
	writes int
	// crashAt is the number of the write at which the process dies, landed whether the API server still takes that one.
	crashAt int
	landed  bool
	running map[string]int
	last    map[prom.Key]prom.Finding
}

// startProcess starts Aegis. Its first resync comes before its first decision, as that of a new leader does.
func (c *cluster) startProcess() *simProcess {
	c.mu.Lock()
	p := &simProcess{
		cluster: c, id: len(c.processes) + 1, ended: make(chan struct{}), queue: queue.New(queue.Options{Registerer: prometheus.NewRegistry()}),
		running: make(map[string]int), last: make(map[prom.Key]prom.Finding),
	}
	holder := fmt.Sprint("p", p.id)
	c.lease.Spec.HolderIdentity = &holder
	p.ctx, p.stop = context.WithCancelCause(context.Background())
	p.cache = newSimCache(p)
	c.processes = append(c.processes, p)
	c.logf("p%d starts", p.id)
	names := slices.Sorted(maps.Keys(c.nodes))
	c.mu.Unlock()
	metrics := NewMetrics(prometheus.NewRegistry())
	p.book = NewBook(metrics)
	kube := simKube{p: p}
	logger := slog.New(slog.DiscardHandler)
	if c.verbose {
		logger = slog.New(slog.NewTextHandler(simLog{p}, &slog.HandlerOptions{ReplaceAttr: dropTime}))
	}
	orders := NewOrderStore(OrderStoreOptions{
		Client: kube.CoordinationV1(), Namespace: "monitoring", Name: simLease, Identity: func() string { return fmt.Sprint("p", p.id) },
	})
	d := NewDispatcher(Services{
		Orders: orders, Kube: kube, Nodes: p.cache, Tickets: ticket.NewStore(ticket.StoreOptions{Client: kube.CoreV1(), Logger: logger}), Jobs: simJobs{p}, Source: p,
		Conditions: p.queue, Recorder: &record.FakeRecorder{}, Limits: NewLimits(p.cache, p.currentSettings), Book: p.book,
		Settings: p.currentSettings, Timing: Timing{Poll: 5 * time.Second, Hold: 20 * time.Second, LeaseStale: time.Minute},
		Metrics: metrics, Logger: logger,
	}, testQueue{p.queue}, simCatalogue{}, p.table())
	p.resync(nil)
	for _, name := range names {
		p.queue.Touch(name)
	}
	go func() {
		var gone sync.WaitGroup
		gone.Go(p.resyncForever)
		err := d.Run(p.ctx)
		gone.Wait()
		p.mu.Lock()
		if p.ctx.Err() == nil {
			p.invariants.violated("p%d stops by itself: %v", p.id, err)
		}
		p.mu.Unlock()
		close(p.ended)
	}()
	return p
}

func dropTime(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

// simLog writes the log of a process among the events of the schedule.
type simLog struct{ p *simProcess }

func (l simLog) Write(line []byte) (int, error) {
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	l.p.logf("p%d %s", l.p.id, strings.TrimSpace(string(line)))
	return len(line), nil
}

// end ends the process: by a crash it does not get to write a last word, else the cause says what it may still do.
func (p *simProcess) end(cause error) {
	p.mu.Lock()
	p.logf("p%d ends: %v", p.id, cause)
	p.dead = p.dead || errors.Is(cause, errSimDead)
	p.mu.Unlock()
	p.stop(cause)
	<-p.ended
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dead = true
}

func (p *simProcess) currentSettings() Settings {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.settings
}

// report tells the queue of the process of a firing alert.
func (p *simProcess) report(key prom.Key, since time.Time, origin prom.Origin) {
	if p.dead {
		return
	}
	status := simCatalogue{}.Status(key.Node, key.Condition, key.ID)
	status.Origin = origin
	p.queue.Observe(prom.Observation{Fingerprint: key.Node + key.Condition, Status: status, Firing: true, StartsAt: since})
}

func (p *simProcess) resyncForever() {
	absent := make(map[prom.Key]int)
	for sleep(p.ctx, 45*time.Second) == nil {
		p.resync(absent)
	}
}

// resync brings the queue in line with the sources: what fires and is listed enters, what is gone twice in a row leaves.
func (p *simProcess) resync(absent map[prom.Key]int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, s := range p.conditions {
		f := p.finding(key)
		switch {
		case f.Evidence == prom.EvidenceUnknown || f.Permission == prom.PermissionUnknown:
			delete(absent, key)
		case f.Evidence == prom.EvidenceFiring && f.Permission != prom.PermissionUnlisted:
			delete(absent, key)
			p.report(key, s.changed, prom.OriginResync)
			p.queue.Confirm(key)
		case withdrawn(f) && absent != nil:
			if absent[key]++; absent[key] >= 2 {
				p.queue.Withdraw(key)
			}
		}
	}
}

// Observe answers from the truth, as far as the sources show it.
func (p *simProcess) Observe(ctx context.Context, key prom.Key) prom.Finding {
	p.mu.Lock()
	delay := p.between("observe "+key.Node, 50*time.Millisecond, 500*time.Millisecond)
	p.mu.Unlock()
	if sleep(ctx, delay) != nil {
		return prom.Finding{Evidence: prom.EvidenceUnknown, Permission: prom.PermissionUnknown}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last[key] = p.finding(key)
	return p.last[key]
}

// Last returns what Observe found before.
func (p *simProcess) Last(key prom.Key) prom.Finding {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last[key]
}

// call makes one call to the API server, with all that can happen to it on its way.
func (p *simProcess) call(ctx context.Context, verb, node string, write bool, apply func() error) error {
	p.mu.Lock()
	kind := verb + " " + node
	delay := p.between(kind, time.Millisecond, 20*time.Millisecond)
	if p.chance("slow "+kind) < p.faulty.slow {
		delay += p.between("slow by "+kind, time.Second, 8*time.Second)
	}
	refused, lost := p.chance("fail "+kind) < p.faulty.failing, p.chance("lose "+kind) < p.faulty.losing
	p.mu.Unlock()
	ended := sleep(ctx, delay)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.dead:
		return errSimDead
	case p.faulty.outage:
		return errSimOutage
	case ended != nil && !lost:
		return ended
	case refused:
		return apierrors.NewInternalError(errors.New("etcdserver: leader changed"))
	}
	if write {
		if p.writes++; p.writes == p.crashAt {
			p.logf("p%d dies at write %d, %s, landed %t", p.id, p.writes, kind, p.landed)
			p.dead = true
			p.stop(errSimDead)
			if !p.landed {
				return errSimDead
			}
		}
	}
	err := apply()
	if ended != nil || lost || p.dead {
		p.logf("p%d %s: answer lost", p.id, kind)
		return cmp.Or(ended, errSimLost)
	}
	return err
}

// simCache is the node cache of a process. It shows what the API server had some time ago.
type simCache struct {
	p     *simProcess
	shown map[string]*corev1.Node
	// upTo is until when updates are under way; they never overtake each other.
	upTo time.Time
}

func newSimCache(p *simProcess) *simCache { return &simCache{p: p, shown: maps.Clone(p.nodes)} }

// push brings an update on its way. The caller holds the cluster's lock.
func (c *simCache) push(node *corev1.Node) {
	at := time.Now().Add(c.p.between(fmt.Sprint("lag ", c.p.id), 0, max(c.p.faulty.lag, time.Millisecond)))
	if at.Before(c.upTo) {
		at = c.upTo
	}
	c.upTo = at
	time.AfterFunc(time.Until(at), func() {
		c.p.mu.Lock()
		before := c.shown[node.Name]
		if newer(node.ResourceVersion, before.ResourceVersion) {
			c.shown[node.Name] = node
		}
		dead := c.p.dead
		c.p.mu.Unlock()
		if !dead && RelevantChange(before, node) && (NeedsVisit(node) || len(c.p.queue.Statuses(node.Name)) > 0) {
			c.p.queue.Touch(node.Name)
		}
	})
}

// Get returns the node as the cache has it.
func (c *simCache) Get(name string) (*corev1.Node, error) {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	if node, found := c.shown[name]; found {
		return node, nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("nodes"), name)
}

// List returns all nodes as the cache has them.
func (c *simCache) List(labels.Selector) ([]*corev1.Node, error) {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	return slices.Collect(maps.Values(c.shown)), nil
}

// simKube is the API server as one process reaches it. What the steps do not use is not there.
type simKube struct {
	kubernetes.Interface
	p *simProcess
}

func (k simKube) CoreV1() coreclient.CoreV1Interface       { return simCore{p: k.p} }
func (k simKube) PolicyV1() policyclient.PolicyV1Interface { return simPolicy{p: k.p} }
func (k simKube) CoordinationV1() coordinationclient.CoordinationV1Interface {
	return simCoordination{p: k.p}
}

type simCore struct {
	coreclient.CoreV1Interface
	p *simProcess
}

func (c simCore) Nodes() coreclient.NodeInterface     { return simNodes{p: c.p} }
func (c simCore) Pods(string) coreclient.PodInterface { return simPods{p: c.p} }

type simNodes struct {
	coreclient.NodeInterface
	p *simProcess
}

func (n simNodes) Get(ctx context.Context, name string, _ metav1.GetOptions) (node *corev1.Node, err error) {
	err = n.p.call(ctx, "get", name, false, func() error {
		node = n.p.nodes[name]
		return nil
	})
	return node, err
}

func (n simNodes) Patch(ctx context.Context, name string, _ types.PatchType, body []byte, _ metav1.PatchOptions, _ ...string) (
	node *corev1.Node, err error,
) {
	err = n.p.call(ctx, "patch", name, true, func() error {
		node, err = n.p.patch(n.p, name, body)
		return err
	})
	return node, err
}

type simPods struct {
	coreclient.PodInterface
	p *simProcess
}

func (s simPods) List(ctx context.Context, o metav1.ListOptions) (list *corev1.PodList, err error) {
	selector, err := fields.ParseSelector(o.FieldSelector)
	if err != nil {
		return nil, err
	}
	node, _ := selector.RequiresExactMatch("spec.nodeName")
	err = s.p.call(ctx, "list pods", node, false, func() error {
		list = &corev1.PodList{}
		for _, name := range slices.Sorted(maps.Keys(s.p.pods)) {
			if pod := s.p.pods[name]; pod.Spec.NodeName == node {
				list.Items = append(list.Items, *pod)
			}
		}
		return nil
	})
	return list, err
}

type simPolicy struct {
	policyclient.PolicyV1Interface
	p *simProcess
}

func (s simPolicy) Evictions(string) policyclient.EvictionInterface { return simEvictions{p: s.p} }
func (s simPolicy) PodDisruptionBudgets(string) policyclient.PodDisruptionBudgetInterface {
	return simBudgets{p: s.p}
}

type simEvictions struct {
	policyclient.EvictionInterface
	p *simProcess
}

func (e simEvictions) Evict(ctx context.Context, eviction *policyv1.Eviction) error {
	return e.p.call(ctx, "evict", eviction.Name, true, func() error {
		pod, found := e.p.pods[eviction.Name]
		switch {
		case !found:
			return apierrors.NewNotFound(corev1.Resource("pods"), eviction.Name)
		case pod.Labels["held"] != "":
			return apierrors.NewTooManyRequests("the disruption budget needs it", 1)
		}
		e.p.invariants.disruptive(e.p, pod.Spec.NodeName, "eviction of "+pod.Name)
		delete(e.p.pods, eviction.Name)
		return nil
	})
}

type simBudgets struct {
	policyclient.PodDisruptionBudgetInterface
	p *simProcess
}

func (b simBudgets) List(ctx context.Context, _ metav1.ListOptions) (*policyv1.PodDisruptionBudgetList, error) {
	return &policyv1.PodDisruptionBudgetList{}, b.p.call(ctx, "list budgets", "", false, func() error { return nil })
}

type simCoordination struct {
	coordinationclient.CoordinationV1Interface
	p *simProcess
}

func (c simCoordination) Leases(string) coordinationclient.LeaseInterface { return simLeases{p: c.p} }

type simLeases struct {
	coordinationclient.LeaseInterface
	p *simProcess
}

func (l simLeases) Get(ctx context.Context, name string, _ metav1.GetOptions) (lease *coordinationv1.Lease, err error) {
	err = l.p.call(ctx, "get lease", name, false, func() error {
		if name == simLease {
			lease = l.p.lease.DeepCopy()
			return nil
		}
		renewed := time.Now()
		if s := l.p.conditions[prom.Key{Node: name, Condition: "Ready"}]; s != nil && s.holds {
			renewed = s.changed
		}
		lease = &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{RenewTime: &metav1.MicroTime{Time: renewed}}}
		return nil
	})
	return lease, err
}

func (l simLeases) Patch(ctx context.Context, name string, _ types.PatchType, body []byte, _ metav1.PatchOptions, _ ...string) (
	lease *coordinationv1.Lease, err error,
) {
	err = l.p.call(ctx, "patch lease", name, true, func() error {
		lease, err = l.p.patchLease(body)
		return err
	})
	return lease, err
}

// patchLease applies a merge patch to the Lease of the election, if it is meant for the present version.
func (c *cluster) patchLease(body []byte) (*coordinationv1.Lease, error) {
	var patch coordinationv1.Lease
	if err := json.Unmarshal(body, &patch); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if patch.ResourceVersion != c.lease.ResourceVersion {
		return nil, apierrors.NewConflict(coordinationv1.Resource("leases"), simLease, errors.New("it has changed"))
	}
	before, err := json.Marshal(c.lease)
	if err != nil {
		return nil, err
	}
	after, err := jsonpatch.MergePatch(before, body)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	lease := new(coordinationv1.Lease)
	if err := json.Unmarshal(after, lease); err != nil {
		return nil, err
	}
	c.version++
	lease.ResourceVersion = fmt.Sprint(c.version)
	c.lease = lease
	return lease.DeepCopy(), nil
}

// simJob is one Job on a node.
type simJob struct {
	request jobs.Request
	// ended is false while it runs.
	ended  bool
	result jobs.Result
}

// simJobs makes Jobs as the runner does: by their name, at most once each.
type simJobs struct{ p *simProcess }

// Ensure creates the Job or adopts it.
func (j simJobs) Ensure(ctx context.Context, r jobs.Request) (name string, created bool, err error) {
	name = r.Name()
	err = j.p.call(ctx, "create "+r.Action, r.Node, true, func() error {
		if _, found := j.p.jobs[name]; found {
			return nil
		}
		job := &simJob{request: r}
		j.p.logf("p%d Job %s of ticket %s, attempt %d on %s %v", j.p.id, r.Action, r.Incident, r.Attempt, r.Node, r.Args)
		j.p.invariants.ordered(j.p, r)
		j.p.jobs[name] = job
		created = true
		time.AfterFunc(j.p.between("begin "+r.Node, 2*time.Second, 15*time.Second), func() { j.p.begin(job) })
		time.AfterFunc(r.Deadline, func() { j.p.expire(job) })
		return nil
	})
	return name, created, err
}

// Status reads the Job.
func (j simJobs) Status(ctx context.Context, name string) (result jobs.Result, err error) {
	err = j.p.call(ctx, "get job", name, false, func() error {
		job, found := j.p.jobs[name]
		switch {
		case !found:
			result = jobs.Result{Job: name, Phase: jobs.PhaseMissing, ExitCode: -1}
		case !job.ended:
			result = jobs.Result{Job: name, Phase: jobs.PhaseActive, ExitCode: -1}
		default:
			result = job.result
		}
		return nil
	})
	return result, err
}

// Follow waits for the end of the Job.
func (j simJobs) Follow(ctx context.Context, name string) (jobs.Result, error) {
	for {
		result, err := j.Status(ctx, name)
		if err == nil && result.Phase != jobs.PhaseActive {
			return result, nil
		}
		if err := sleep(ctx, 5*time.Second); err != nil {
			return jobs.Result{}, err
		}
	}
}

// begin lets the Job run on its node, which takes a kubelet that works.
func (c *cluster) begin(job *simJob) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := job.request
	if job.ended {
		return
	}
	if !IsReady(c.nodes[r.Node]) {
		time.AfterFunc(20*time.Second, func() { c.begin(job) })
		return
	}
	switch r.Action {
	case jobs.ActionReboot, jobs.ActionShutdown:
		c.power(job)
	default:
		time.AfterFunc(c.between("take "+r.Node, 5*time.Second, time.Minute), func() { c.finish(job) })
	}
}

// expire ends a Job that has not ended within its deadline.
func (c *cluster) expire(job *simJob) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !job.ended {
		job.ended = true
		job.result = jobs.Result{Job: job.request.Name(), Phase: jobs.PhaseFailed, ExitCode: -1, Message: "DeadlineExceeded"}
	}
}

// power boots the node or powers it off, unless it is on another boot than it should be.
func (c *cluster) power(job *simJob) {
	r := job.request
	luck := c.chance("power " + r.Node)
	switch boot := c.nodes[r.Node].Status.NodeInfo.BootID; {
	case !slices.Contains(r.Args, boot):
		job.fail(1, "", "the node is on boot "+boot)
		return
	case luck < c.faulty.badPower/2:
		job.fail(1, "", "the kernel refused")
		return
	case luck < c.faulty.badPower:
		c.logf("world: %s does not react", r.Node)
		return
	}
	c.edit(r.Node, func(n *corev1.Node) { setReady(n, corev1.ConditionUnknown) })
	if r.Action == jobs.ActionReboot {
		time.AfterFunc(c.between("boot "+r.Node, time.Minute, 4*time.Minute), func() { c.boot(job) })
	}
}

// boot brings the node up again.
func (c *cluster) boot(job *simJob) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fix(job.request.Node, "reboot")
	c.edit(job.request.Node, func(n *corev1.Node) {
		n.Status.NodeInfo.BootID = bootAfter(n)
		setReady(n, corev1.ConditionTrue)
	})
	c.logf("world: %s has booted", job.request.Node)
	job.ended, job.result = true, jobs.Result{Job: job.request.Name(), Phase: jobs.PhaseFailed, ExitCode: -1, Message: "the pod was lost"}
}

// bootAfter returns the boot ID that follows that of the node.
func bootAfter(n *corev1.Node) string { return n.Status.NodeInfo.BootID + "+" }

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

// finish ends a Job that leaves the node up.
func (c *cluster) finish(job *simJob) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := job.request
	luck := c.chance("finish " + r.Node)
	switch {
	case luck < c.faulty.badChecks/3:
		job.fail(exitUnknown, "", "the tool crashed")
	case luck < c.faulty.badChecks:
		job.fail(2, "gpu", "it is broken")
	case r.Action == jobs.ActionHealthcheck && c.sick(r.Node):
		job.fail(2, "gpu", "it is sick")
	default:
		if r.Action == jobs.ActionRemedy {
			c.fix(r.Node, r.Args[0])
		}
		job.ended = true
		job.result = jobs.Result{Job: r.Name(), Phase: jobs.PhaseSucceeded, Report: &jobs.Report{Result: jobs.ResultPassed}}
	}
	c.logf("world: Job %s on %s %s %s", r.Action, r.Node, job.result.Phase, job.result.Message)
}

func (j *simJob) fail(code int32, hardware, message string) {
	j.ended, j.result = true, failedJob(j.request, code, hardware)
	j.result.Message = message
}

// sick reports whether a fault of the hardware is on the node.
func (c *cluster) sick(node string) bool {
	for key, s := range c.conditions {
		if key.Node == node && s.holds && len(s.remedies) > 0 {
			return true
		}
	}
	return false
}
