package sop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	amlabels "github.com/prometheus/alertmanager/pkg/labels"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	"aegis.io/aegis/queue"
	"aegis.io/aegis/queue/source"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// simProcess is one run of Aegis, from its start to its end: queue, resync, dispatcher and limits are the real ones. Nothing
// but the cluster outlives it.
type simProcess struct {
	*cluster
	id         int
	ctx        context.Context
	stop       context.CancelCauseFunc
	ended      chan struct{}
	requests   sync.WaitGroup
	queue      *queue.Queue
	resync     *queue.Resync
	limits     *Limits
	book       *Book
	cache      *simCache
	dispatcher *Dispatcher
	began      time.Time

	// dead processes do not reach the API server any more. Guarded by the cluster's lock, as all below.
	dead bool
	// deposed is since when another process holds the Lease, ordering on which nodes it writes what a person has ordered, paused
	// since when it was told of a pause.
	deposed  time.Time
	ordering map[string]int
	paused   time.Time
	writes   int
	// crashAt is the number of the write at which the process dies, landed whether the API server still takes that one.
	crashAt int
	landed  bool
	running map[string]int
	// begun are the running procedures.
	begun  map[string]simRun
	meters map[string]*simMeter
	// wrote are the nodes as the process knows that it has written them.
	wrote map[string]simWrite
	told  map[prom.Key]*simTold
}

// simRun is a procedure that runs: the machine that it is about, and since when.
type simRun struct {
	machine types.UID
	at      time.Time
}

// simWrite is a node as a process has written it.
type simWrite struct {
	node *corev1.Node
	at   time.Time
}

// simTold is what a process was told about a condition.
type simTold struct {
	// finding is the last answer of the sources, present when one was last that the condition is not absent.
	finding prom.Finding
	present time.Time
	// webhook is when a webhook last said that the alert fires, startsAt since when it said so, contested since when the queue
	// doubts it.
	webhook, startsAt, contested time.Time
	// fires and listed are when Prometheus and Alertmanager last had the alert in an answer to resync, known since when any
	// source says so.
	fires, listed, known time.Time
}

// startProcess starts Aegis.
func (c *cluster) startProcess() *simProcess {
	c.mu.Lock()
	p := &simProcess{
		cluster: c, id: len(c.processes) + 1, ended: make(chan struct{}), queue: queue.New(queue.Options{Registerer: prometheus.NewRegistry()}),
		running: make(map[string]int), begun: make(map[string]simRun), meters: make(map[string]*simMeter), wrote: make(map[string]simWrite),
		told: make(map[prom.Key]*simTold), began: time.Now(), ordering: make(map[string]int),
	}
	c.take(p)
	p.ctx, p.stop = context.WithCancelCause(context.Background())
	p.cache = newSimCache(p)
	c.processes = append(c.processes, p)
	c.logf("p%d starts", p.id)
	c.mu.Unlock()
	p.wire()
	go p.run()
	return p
}

func (p *simProcess) identity() string { return fmt.Sprint("p", p.id) }

// wire makes the parts of the process.
func (p *simProcess) wire() {
	metrics := NewMetrics(prometheus.NewRegistry())
	p.book = NewBook(metrics)
	p.limits = NewLimits(p.cache, p.currentSettings)
	kube := simKube{p: p}
	logger := slog.New(slog.DiscardHandler)
	if p.verbose {
		logger = slog.New(slog.NewTextHandler(simLog{p}, &slog.HandlerOptions{ReplaceAttr: dropTime}))
	}
	var err error
	p.resync, err = queue.NewResync(queue.ResyncOptions{
		Queue: p.queue, Prometheus: simAlerts{p: p, firing: true}, Alertmanagers: map[string]queue.AlertSource{"am": simAlerts{p: p}},
		Translator: simTranslator{p}, Interval: 45 * time.Second,
	})
	if err != nil {
		p.invariants.violated("p%d has no resync: %v", p.id, err)
	}
	orders := NewOrderStore(OrderStoreOptions{Client: kube.CoordinationV1(), Namespace: "monitoring", Name: simLease, Identity: p.identity})
	p.dispatcher = NewDispatcher(Services{
		Orders: orders, Kube: kube, Nodes: p.cache, Tickets: ticket.NewStore(ticket.StoreOptions{Client: kube.CoreV1(), Logger: logger}), Jobs: simJobs{p}, Source: p,
		Conditions: p.queue, Recorder: &record.FakeRecorder{}, Limits: p.limits, Book: p.book,
		Settings: p.currentSettings, Timing: Timing{Poll: 5 * time.Second, Hold: 20 * time.Second, LeaseStale: time.Minute},
		Metrics: metrics, Logger: logger,
	}, testQueue{p.queue}, simCatalogue{}, p.table())
}

// run works until the process ends. Its first resync comes before its first decision, as that of a new leader does.
func (p *simProcess) run() {
	defer close(p.ended)
	var gone sync.WaitGroup
	defer gone.Wait()
	gone.Go(func() {
		if err := p.resync.Run(p.ctx); err != nil {
			p.violated("p%d: resync ends: %v", p.id, err)
		}
	})
	for !p.resync.Synced() {
		if sleep(p.ctx, 100*time.Millisecond) != nil {
			return
		}
	}
	p.touchAll()
	err := p.dispatcher.Run(p.ctx)
	if p.ctx.Err() == nil && !errors.Is(err, ErrLeaseLost) {
		p.violated("p%d stops by itself: %v", p.id, err)
	}
}

func (p *simProcess) violated(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.invariants.violated(format, args...)
}

func (p *simProcess) touchAll() {
	p.mu.Lock()
	names := slices.Sorted(maps.Keys(p.cache.shown))
	p.mu.Unlock()
	for _, name := range names {
		if node, err := p.cache.Get(name); err == nil && NeedsVisit(node) {
			p.queue.Touch(name)
		}
	}
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
	p.requests.Wait()
	<-p.ended
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dead = true
}

func (p *simProcess) currentSettings() policy.Settings {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.settings
}

// report brings a webhook to the process, which drops what is about a node that it does not know.
func (p *simProcess) report(key prom.Key, startsAt time.Time, firing bool) {
	if p.dead || p.cache.shown[key.Node] == nil || !p.resync.Synced() {
		return
	}
	p.queue.Observe(prom.Observation{
		Fingerprint: fingerprintOf(key), Status: simCatalogue{}.Status(key.Node, key.Condition, key.ID, 0), Firing: firing, StartsAt: startsAt,
		Labels: labelsOf(key),
	})
	told := p.tellOf(key)
	told.contested = time.Time{}
	if !firing {
		told.known = time.Time{}
		return
	}
	told.webhook, told.startsAt = time.Now(), startsAt
	told.learn()
	for _, s := range p.queue.Statuses(key.Node) {
		if s.Key() == key && s.Contested {
			told.contested = time.Now()
		}
	}
}

func (t *simTold) learn() {
	if t.known.IsZero() {
		t.known = time.Now()
	}
}

func labelsOf(key prom.Key) map[string]string {
	return map[string]string{"node": key.Node, "condition": key.Condition, "device": key.ID}
}

func fingerprintOf(key prom.Key) string { return key.Node + "/" + key.Condition + "/" + key.ID }

func (p *simProcess) tellOf(key prom.Key) *simTold {
	if p.told[key] == nil {
		p.told[key] = &simTold{}
	}
	return p.told[key]
}

// heal asks the process for a repair, as a person does over the API.
func (p *simProcess) heal(key prom.Key) {
	p.requests.Go(func() {
		result, err := p.dispatcher.Heal(p.ctx, HealRequest{
			Status: simCatalogue{}.Status(key.Node, key.Condition, key.ID, 0), By: "alice", Reason: "it looks sick",
		})
		p.mu.Lock()
		defer p.mu.Unlock()
		p.logf("p%d was asked to repair %s of %s: %s %v", p.id, key.Condition, key.Node, result.Ticket, err)
		if err == nil {
			p.invariants.accepted(p, result)
		}
	})
}

// obey has the process do what a person orders over the API.
func (p *simProcess) obey(what, node string, order func(ctx context.Context) error) {
	p.requests.Go(func() {
		p.mu.Lock()
		p.ordering[node]++
		p.mu.Unlock()
		err := order(p.ctx)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.ordering[node]--
		p.logf("p%d was ordered: %s %s: %v", p.id, what, node, err)
	})
}

// answered notes a write that the process knows to be its own.
func (p *simProcess) answered(node *corev1.Node) {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := p.wrote[node.Name].node
	if last == nil || last.UID != node.UID || newer(node.ResourceVersion, last.ResourceVersion) {
		p.wrote[node.Name] = simWrite{node: node, at: time.Now()}
	}
}

// Observe asks the sources in a pass of resync.
func (p *simProcess) Observe(ctx context.Context, key prom.Key) prom.Finding {
	p.mu.Lock()
	meter := p.meter(key.Node)
	meter.enter()
	p.mu.Unlock()
	f := p.resync.Observe(ctx, key)
	p.mu.Lock()
	defer p.mu.Unlock()
	meter.leave()
	told := p.tellOf(key)
	told.finding = f
	if f.Evidence != prom.EvidenceAbsent {
		told.present = time.Now()
	}
	p.invariants.letGo(p)
	p.called(verbObserve, key.Node)
	return f
}

// Last returns what the last pass of resync found.
func (p *simProcess) Last(key prom.Key) prom.Finding {
	f := p.resync.Last(key)
	p.mu.Lock()
	defer p.mu.Unlock()
	if told := p.tellOf(key); f.At.After(told.finding.At) {
		told.finding = f
	}
	return f
}

// simAlerts is Prometheus, which has the alerts that fire or are pending, or Alertmanager, which lists them.
type simAlerts struct {
	p      *simProcess
	firing bool
}

// Alerts answers from the truth, as far as the source shows it.
func (s simAlerts) Alerts(ctx context.Context) ([]prom.Alert, error) {
	p := s.p
	p.mu.Lock()
	delay := p.between(fmt.Sprint("alerts ", s.firing), 50*time.Millisecond, 500*time.Millisecond)
	p.mu.Unlock()
	if err := sleep(ctx, delay); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.firing && p.on(statePrometheusDown) || !s.firing && p.on(stateAlertmanagerDown) {
		return nil, errSimOutage
	}
	var alerts []prom.Alert
	for key, c := range p.conditions {
		if a, found := s.alert(key, c); found {
			alerts = append(alerts, a)
		}
	}
	return alerts, nil
}

func (s simAlerts) alert(key prom.Key, c *simCondition) (prom.Alert, bool) {
	a := prom.Alert{
		Labels:      labelsOf(key),
		Fingerprint: fingerprintOf(key), StartsAt: c.firing(), State: prom.StateFiring,
	}
	told := s.p.tellOf(key)
	if s.firing {
		if a.StartsAt.IsZero() {
			a.State = prom.StatePending
		} else {
			told.fires = time.Now()
		}
		return a, c.holds
	}
	a.StartsAt, a.State = c.listed(), prom.StateActive
	if a.StartsAt.IsZero() || s.p.on(stateUnlisted) {
		told.known = time.Time{}
		return a, false
	}
	told.listed = time.Now()
	told.learn()
	if s.p.on(silenceOf(key)) {
		a.State, a.SuppressedBy = prom.StateSuppressed, []string{"silence"}
	}
	return a, true
}

// Silences lists the active silences of Alertmanager.
func (s simAlerts) Silences(context.Context) ([]source.Silence, error) {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	if s.p.on(stateAlertmanagerDown) {
		return nil, errSimOutage
	}
	var silences []source.Silence
	for state := range s.p.states {
		var condition, node string
		if n, err := fmt.Sscanf(state, silenceFormat, &condition, &node); n != 2 || err != nil {
			continue
		}
		byCondition, errCondition := amlabels.NewMatcher(amlabels.MatchEqual, "condition", condition)
		byNode, errNode := amlabels.NewMatcher(amlabels.MatchEqual, "node", node)
		if err := errors.Join(errCondition, errNode); err != nil {
			return nil, err
		}
		silences = append(silences, source.Silence{ID: state, Matchers: amlabels.Matchers{byCondition, byNode}})
	}
	return silences, nil
}

// simTranslator knows the conditions of the nodes that the process knows.
type simTranslator struct{ p *simProcess }

// Resolve translates an alert.
func (t simTranslator) Resolve(a prom.Alert) (prom.Observation, error) {
	if _, err := t.p.cache.Get(a.Labels["node"]); err != nil {
		return prom.Observation{}, err
	}
	return prom.Observation{
		Fingerprint: a.Fingerprint, Firing: true, StartsAt: a.StartsAt, Labels: a.Labels,
		Status: simCatalogue{}.Status(a.Labels["node"], a.Labels["condition"], a.Labels["device"], 0),
	}, nil
}

// simCache is the node cache of a process. It shows what the API server had some time ago, and nothing new while its watch is
// broken or the API server is away.
type simCache struct {
	p     *simProcess
	shown map[string]*corev1.Node
	sight map[string]*simSight
	// upTo is until when updates are under way; they never overtake each other.
	upTo   time.Time
	broken bool
	// lists counts how often the cache was filled anew; updates from before are void.
	lists int
}

// simSight is since when a cache shows something of a node; zero while it does not.
type simSight struct{ excluded, foreign, out, destroyed, taken time.Time }

func newSimCache(p *simProcess) *simCache {
	c := &simCache{p: p, shown: make(map[string]*corev1.Node), sight: make(map[string]*simSight)}
	for name, node := range p.nodes {
		c.show(name, node)
	}
	return c
}

// push brings an update on its way, nil when the node is gone. The caller holds the cluster's lock.
func (c *simCache) push(name string, node *corev1.Node) {
	at := time.Now().Add(c.p.between(fmt.Sprint("lag ", c.p.id), 0, max(c.p.faulty.lag, time.Millisecond)))
	if !at.After(c.upTo) {
		at = c.upTo.Add(time.Nanosecond)
	}
	c.upTo = at
	list := c.lists
	c.p.later(time.Until(at), func() {
		if list == c.lists && !c.broken && !c.p.faulty.outage {
			c.show(name, node)
		}
	})
}

// mend lets the watch work again: what was missed comes at once, as by a new list.
func (c *simCache) mend() {
	c.broken = false
	c.lists++
	if c.p.faulty.outage || c.p.dead {
		return
	}
	for name := range c.shown {
		if c.p.nodes[name] == nil {
			c.show(name, nil)
		}
	}
	for name, node := range c.p.nodes {
		c.show(name, node)
	}
}

// show makes the update visible, and tells the queue as the handlers of the informer do.
func (c *simCache) show(name string, node *corev1.Node) {
	before := c.shown[name]
	switch {
	case node == nil:
		delete(c.shown, name)
		delete(c.sight, name)
	case before == nil || newer(node.ResourceVersion, before.ResourceVersion):
		c.shown[name] = node
		c.look(node)
	default:
		return
	}
	if c.p.dead || c.p.ctx.Err() != nil {
		return
	}
	relevant := node == nil || before == nil && NeedsVisit(node) ||
		before != nil && RelevantChange(before, node) && (NeedsVisit(node) || len(c.p.queue.Statuses(name)) > 0)
	if relevant {
		c.p.queue.Touch(name)
	}
}

// look notes since when the cache shows what matters.
func (c *simCache) look(node *corev1.Node) {
	if c.sight[node.Name] == nil {
		c.sight[node.Name] = &simSight{}
	}
	s := c.sight[node.Name]
	note := func(since *time.Time, is bool) {
		switch {
		case !is:
			*since = time.Time{}
		case since.IsZero():
			*since = time.Now()
		}
	}
	note(&s.excluded, policy.Excluded(node))
	note(&s.foreign, len(node.ManagedFields) > 0 && node.ManagedFields[0].Manager != "aegis" || node.Annotations[ticket.OwnerAnnotation] == "alice")
	note(&s.out, node.Spec.Unschedulable || !IsReady(node))
	_, runs := runningDestructive(node)
	note(&s.destroyed, runs)
	note(&s.taken, taken(ticket.ReadNode(node)))
}

// taken reports whether people have taken the node out of the hands of Aegis amid an incident: its ticket, or its isolation.
func taken(r ticket.Record) bool {
	t := r.Ticket
	if t == nil || !t.Open() || t.Status == ticket.StatusAssigned {
		return r.Broken != nil
	}
	last, cordoned := t.Outcome(ticket.Cordon, t.Count(ticket.Cordon))
	isolated := cordoned && last.Status == ticket.Succeeded && t.Count(ticket.Uncordon) == 0
	return !t.Owned() || isolated && !r.Node.Spec.Unschedulable
}

// sees returns what the cache shows of the node.
func (c *simCache) sees(name string) simSight {
	if s := c.sight[name]; s != nil {
		return *s
	}
	return simSight{}
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

// table holds the procedures of the simulation, watched.
func (p *simProcess) table() Table {
	steps := map[string]func(context.Context, *ApiBridge) error{
		simReboot: Playbook.RebootLadder, simReset: Playbook.ResetLadder, simIsolate: Playbook.IsolateAndHandOver,
		simReady: Playbook.AwaitReady, simCordon: Playbook.VerifyCordoned, simRelieve: Playbook.RelievePressure,
		simRemedy: Playbook.Remedy("Restart"), simDevices: Playbook.RestartDevicePlugin("nvidia.com/gpu"),
	}
	table := Table{ExhaustedSOP: p.watched(Playbook.Exhausted)}
	for name, procedure := range steps {
		table["sim/"+strings.ToLower(name)] = p.watched(procedure)
	}
	table["sim/"+strings.ToLower(simNote)] = func() SOP {
		watched, ok := p.watched(Playbook.Tell)().(*Procedure)
		return &Procedure{steps: watched.steps, tells: ok}
	}
	return table
}

// watched notes when a procedure begins and ends.
func (p *simProcess) watched(procedure func(context.Context, *ApiBridge) error) Factory {
	return func() SOP {
		return NewProcedure(func(ctx context.Context, b *ApiBridge) error {
			if b.plan != nil {
				return procedure(ctx, b)
			}
			p.mu.Lock()
			p.invariants.entered(p, b)
			p.mu.Unlock()
			defer func() {
				p.mu.Lock()
				defer p.mu.Unlock()
				p.invariants.left(p, b.Node())
			}()
			return procedure(ctx, b)
		})
	}
}
