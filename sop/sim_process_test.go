package sop_test

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

	"aegis.io/aegis/sop/policy"

	"github.com/prometheus/client_golang/prometheus"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/queue"
	"aegis.io/aegis/rules"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/playbook"
	"aegis.io/aegis/sop/soptest"
	"aegis.io/aegis/ticket"
)

// simProcess is one run of Aegis, from its start to its end: queue, resync, dispatcher and limits are the real ones. Nothing
// but the cluster outlives it.
type simProcess struct {
	*cluster
	client     *soptest.Client
	clock      simClock
	id         int
	ctx        context.Context
	stop       context.CancelCauseFunc
	ended      chan struct{}
	requests   sync.WaitGroup
	queue      *queue.Queue
	resync     *queue.Resync
	verdicts   *sop.VerdictCache
	intake     simIntake
	cache      *soptest.Cache
	dispatcher *sop.Dispatcher
	orders     *sop.OrderStore
	// began is since when it leads, first when it first did.
	began, first time.Time
	// stands is true for a process that stands for leader, leading while it leads, and replaced once another process was started for it.
	stands, leading, replaced bool

	// sight is since when the cache shows what matters. Guarded by the cluster's lock, as all below.
	sight map[string]*simSight
	// deposed is since when another process holds the Lease, ordering on which nodes it writes what a person has ordered, paused
	// since when it was told of a pause.
	deposed time.Time
	// heardAlertmanager is when Alertmanager last answered.
	heardAlertmanager time.Time
	ordering          map[string]int
	// asking are the machines that repairs are being asked for, as the process saw them when it was asked, by their names.
	asking map[string][]types.UID
	// visited is when the process last took the node from its queue.
	visited map[string]time.Time
	// met are the machines that its cache has shown.
	met     map[types.UID]bool
	toldOff time.Time
	running map[string]int
	// interrupted is when a run on the node last ended for another reason than that there was no room.
	interrupted map[string]time.Time
	// begun are the running procedures.
	begun map[string]simRun
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

// startProcess starts Aegis, which leads at once.
func (c *cluster) startProcess() *simProcess {
	p := c.newProcess()
	c.Do(func() { c.take(p) })
	go func() {
		defer close(p.ended)
		if err := p.work(p.ctx); p.ctx.Err() == nil && !errors.Is(err, sop.ErrLeaseLost) {
			p.violated("p%d stops by itself: %v", p.id, err)
		}
	}()
	return p
}

// newProcess returns a process that does nothing yet.
func (c *cluster) newProcess() *simProcess {
	c.Lock()
	client := c.Join()
	its := c.clockOf(client.ID)
	p := &simProcess{
		cluster: c, client: client, clock: its, ended: make(chan struct{}),
		queue:   queue.New(queue.Options{Registerer: prometheus.NewRegistry(), Clock: its}),
		running: make(map[string]int), interrupted: make(map[string]time.Time), begun: make(map[string]simRun), wrote: make(map[string]simWrite), sight: make(map[string]*simSight),
		told: make(map[prom.Key]*simTold), began: time.Now(), first: time.Now(), ordering: make(map[string]int),
		asking: make(map[string][]types.UID), met: make(map[types.UID]bool), visited: make(map[string]time.Time),
	}
	p.id = p.client.ID
	p.intake = newIntake(c.catalogue, its)
	p.ctx, p.stop = context.WithCancelCause(context.Background())
	p.client.Died = func() { p.stop(soptest.ErrDead) }
	c.processes = append(c.processes, p)
	p.cache = p.client.NewCache(p.sees)
	c.Logf("p%d starts", p.id)
	c.Unlock()
	p.wire()
	return p
}

func (p *simProcess) identity() string { return fmt.Sprint("p", p.id) }

// wire makes the parts of the process.
func (p *simProcess) wire() {
	metrics := sop.NewMetrics(prometheus.NewRegistry())
	p.verdicts = sop.NewVerdictCache(metrics, p.clock)
	logger := p.logger()
	p.orders = sop.NewOrderStore(sop.OrderStoreOptions{Client: p.client.CoordinationV1(), Namespace: "monitoring", Name: simLease, Identity: p.identity, Clock: p.clock})
	away := queue.AwayHold
	if p.isolates {
		away = queue.AwayIsolate
	}
	var err error
	p.resync, err = queue.NewResync(queue.ResyncOptions{
		Queue: p.queue, Prometheus: p.client.Source(soptest.Prometheus),
		Alertmanagers: map[string]queue.AlertSource{"am": p.client.Source(soptest.Alertmanager)},
		Classifier:    p.intake.classifier, Interval: 45 * time.Second, Silences: p.orders,
		Away: away, AwayAfter: simAway, Clock: p.clock,
	})
	if err != nil {
		p.oracle.violated(single, "p%d has no resync: %v", p.id, err)
	}
	p.dispatcher = sop.NewDispatcher(sop.Services{
		Orders: p.orders, Kube: p.client, Nodes: p.cache, Source: p, Jobs: p.runner(logger),
		Tickets:    ticket.NewStore(ticket.StoreOptions{Client: p.client.CoreV1(), Logger: logger}),
		Conditions: p.queue, Recorder: &record.FakeRecorder{}, Verdicts: p.verdicts,
		Settings: p.settings, Timing: sop.Timing{Poll: 5 * time.Second, Hold: 20 * time.Second, LeaseStale: time.Minute},
		Metrics: metrics, Logger: logger, Clock: p.clock,
	}, watchedQueue{p.queue, p}, p.intake.store, p.table())
	if err := p.wireIntake(); err != nil {
		p.oracle.violated(single, "p%d has no handler: %v", p.id, err)
	}
}

// runner is the product's own. Its Jobs are those that the product ships.
func (p *simProcess) runner(logger *slog.Logger) *jobs.Runner {
	return jobs.NewRunner(jobs.RunnerOptions{
		Client: p.client, Templates: simTemplates(), Image: "aegis", PollInterval: 5 * time.Second, Logger: logger,
	})
}

// simTemplates are read once: every schedule has the same.
var simTemplates = sync.OnceValue(func() *jobs.Templates {
	templates, err := jobs.LoadTemplates("")
	if err != nil {
		panic(err)
	}
	return templates
})

// work decides until the context ends, or the dispatcher does. The first resync comes before the first decision.
func (p *simProcess) work(ctx context.Context) error {
	var gone sync.WaitGroup
	defer gone.Wait()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p.remember()
	gone.Go(func() {
		if err := p.resync.Run(ctx); err != nil {
			p.violated("p%d: resync ends: %v", p.id, err)
		}
	})
	for !p.resync.Synced() {
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	p.enqueueAll()
	gone.Go(func() { p.recount(ctx) })
	return p.dispatcher.Run(ctx)
}

// remember tells resync since when what the open tickets are about has been there, by a cache that has caught up.
func (p *simProcess) remember() {
	p.Lock()
	nodes := slices.Collect(maps.Values(p.Nodes))
	p.Unlock()
	reader := ticket.NewReader().Named(p.intake.store.Names)
	for _, node := range nodes {
		if begun, open := sop.BegunOn(node, reader); open {
			p.resync.Began(begun.Key, begun.Since)
		}
	}
}

func (p *simProcess) violated(format string, args ...any) {
	p.Lock()
	defer p.Unlock()
	p.oracle.violated(single, format, args...)
}

func (p *simProcess) enqueueAll() {
	p.Lock()
	names := slices.Sorted(maps.Keys(p.cache.Shown))
	p.Unlock()
	for _, name := range names {
		if node, err := p.cache.Get(name); err == nil && sop.NeedsVisit(node, p.settings()) {
			p.queue.Enqueue(name)
		}
	}
}

// logger notes what the process says among the events, where they are kept.
func (p *simProcess) logger() *slog.Logger {
	if !p.Verbose() {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(p.LogWriter(p.identity()+" "), &slog.HandlerOptions{ReplaceAttr: dropTime}))
}

func dropTime(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

// end ends the process: by a crash it does not get to write a last word, else the cause says what it may still do.
func (p *simProcess) end(cause error) {
	p.Lock()
	p.Logf("p%d ends: %v", p.id, cause)
	p.client.Dead = p.client.Dead || errors.Is(cause, soptest.ErrDead)
	p.Unlock()
	p.stop(cause)
	p.requests.Wait()
	<-p.ended
	p.Lock()
	defer p.Unlock()
	p.client.Dead = true
}

// settings are those of the product.
func (p *simProcess) settings() policy.Settings {
	p.Lock()
	defer p.Unlock()
	return p.configured()
}

func (p *simProcess) configured() policy.Settings {
	if !slices.Equal(p.pools, p.settingsOf) {
		p.settingsOf, p.productPools = slices.Clone(p.pools), nil
		for _, pool := range p.pools {
			p.productPools = append(p.productPools, pool.settings())
		}
	}
	s := policy.Settings{Paused: p.halted, ManageControlPlane: p.managesControl, Pools: slices.Clone(p.productPools)}
	if p.bounds.name != "" {
		s.Cluster = p.bounds.settings()
	}
	return s
}

func (p simPoolSettings) settings() policy.Pool {
	pool := policy.Pool{
		Name: p.name, Selector: labels.SelectorFromSet(labels.Set{simPool: p.name}), Profile: p.name,
		MaxPercent: p.maxPercent, MaxDestructive: p.maxDestructive,
		StormNodes: p.stormNodes, StormWindow: p.stormWindow, StormRelease: p.stormRelease,
		MaxIncidents: p.maxIncidents, MaxRepeats: p.maxRepeats, IncidentWindow: p.incidentWindow,
	}
	if p.closes > 0 {
		pool.Windows = []policy.Window{{From: p.opens, To: p.closes, Location: time.UTC}}
	}
	return pool
}

// report brings a webhook to the process, which drops what is about a node that it does not know.
func (p *simProcess) report(key prom.Key, startsAt time.Time, firing bool) {
	if p.client.Dead || p.client.Frozen() || !p.leads() || p.cache.Shown[key.Node] == nil || !p.resync.Synced() {
		return
	}
	if !p.webhook(key, startsAt, firing) {
		p.oracle.violated(ended, "p%d refuses the alert of %s on %s, which it knows", p.id, key.Condition, key.Node)
	}
	told := p.tellOf(key)
	told.contested = time.Time{}
	if !firing {
		told.known = time.Time{}
		return
	}
	told.webhook, told.startsAt = time.Now(), startsAt
	told.learn()
	for _, s := range p.holds(key.Node) {
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

// holds returns what holds on the node, as the process knows, by the names of the oracle.
func (p *simProcess) holds(node string) []prom.AegisNodeStatus {
	statuses := p.queue.Statuses(node)
	for i := range statuses {
		statuses[i].Condition = simName(statuses[i].Condition)
	}
	return statuses
}

// decisions returns what the process has decided on the node, by the names of the oracle and the clock of the world.
func (p *simProcess) decisions(node string) []policy.Decision {
	decisions := p.verdicts.Node(node)
	for i := range decisions {
		decisions[i].Condition, decisions[i].Since = simName(decisions[i].Condition), p.clock.world(decisions[i].Since)
	}
	return decisions
}

func (p *simProcess) tellOf(key prom.Key) *simTold {
	key.Condition = simName(key.Condition)
	if p.told[key] == nil {
		p.told[key] = &simTold{}
	}
	return p.told[key]
}

// heal asks the process for a repair, as a person does over the API.
func (p *simProcess) heal(key prom.Key) {
	var machine types.UID
	if shown := p.cache.Shown[key.Node]; shown != nil {
		machine = shown.UID
		p.asking[key.Node] = append(p.asking[key.Node], machine)
	}
	p.oracle.requests[key] = true
	p.requests.Go(func() {
		result, err := p.dispatcher.Heal(p.ctx, policy.HealRequest{
			Status: p.intake.store.Status(key.Node, key.Condition, key.ID, 0), By: "alice", Reason: "it looks sick",
		})
		p.Lock()
		defer p.Unlock()
		p.Logf("p%d was asked to repair %s of %s: %s %v", p.id, key.Condition, key.Node, result.Ticket, err)
		if i := slices.Index(p.asking[key.Node], machine); i >= 0 {
			p.asking[key.Node] = slices.Delete(p.asking[key.Node], i, i+1)
		}
		if err == nil {
			p.oracle.accepted(p, result)
		}
	})
}

// check asks the process for a check, as a person does over the API. It waits no longer than the API does.
func (p *simProcess) check(name string) {
	p.requests.Go(func() {
		ctx, cancel := context.WithTimeout(p.ctx, simAnswer)
		defer cancel()
		p.Lock()
		p.ordering[name]++
		p.Unlock()
		result, err := p.dispatcher.Check(ctx, policy.NodeOrder{Node: name, By: "alice", Reason: "the card is replaced"})
		p.Lock()
		defer p.Unlock()
		p.ordering[name]--
		p.Logf("p%d was asked to check %s: %s %v", p.id, name, result.Ticket, err)
		if err == nil {
			p.oracle.accepted(p, result)
		}
	})
}

// obey has the process do what a person orders over the API.
func (p *simProcess) obey(what, node string, order func(ctx context.Context) error) {
	p.requests.Go(func() {
		p.Lock()
		p.ordering[node]++
		p.Unlock()
		err := order(p.ctx)
		p.Lock()
		defer p.Unlock()
		p.ordering[node]--
		p.Logf("p%d was ordered: %s %s: %v", p.id, what, node, err)
	})
}

// answered notes a write that the process knows to be its own.
func (p *simProcess) answered(node *corev1.Node) {
	last := p.wrote[node.Name].node
	if last == nil || last.UID != node.UID || soptest.Newer(node.ResourceVersion, last.ResourceVersion) {
		p.wrote[node.Name] = simWrite{node: node, at: time.Now()}
	}
}

// Observe asks the sources in a pass of resync.
func (p *simProcess) Observe(ctx context.Context, key prom.Key) prom.Finding {
	answered := p.client.Measure(key.Node)
	f := p.resync.Observe(ctx, key)
	answered()
	p.Lock()
	defer p.Unlock()
	told := p.tellOf(key)
	told.finding = p.clock.dated(f)
	if f.Evidence != prom.EvidenceAbsent {
		told.present = time.Now()
	}
	p.client.Happened(soptest.Call{Verb: soptest.VerbObserve, Name: key.Node})
	return f
}

// Last returns what the last pass of resync found.
func (p *simProcess) Last(key prom.Key) prom.Finding {
	f := p.resync.Last(key)
	p.Lock()
	defer p.Unlock()
	// The same pass says something else once a silence of Aegis' own has begun or ended.
	if told := p.tellOf(key); !p.clock.dated(f).At.Before(told.finding.At) {
		told.finding = p.clock.dated(f)
	}
	return f
}

// simSight is since when a cache shows something of a node; zero while it does not.
type simSight struct{ excluded, foreign, out, destroyed, taken time.Time }

// look notes since when the cache shows what matters.
func (p *simProcess) look(node *corev1.Node) {
	p.met[node.UID] = true
	if p.sight[node.Name] == nil {
		p.sight[node.Name] = &simSight{}
	}
	s := p.sight[node.Name]
	note := func(since *time.Time, is bool) {
		switch {
		case !is:
			*since = time.Time{}
		case since.IsZero():
			*since = time.Now()
		}
	}
	note(&s.excluded, excluded(node))
	note(&s.foreign, !slices.Contains([]string{"", aegisSelf}, soptest.CordonManager(node)) || node.Annotations[soptest.OwnerAnnotation] == "alice")
	note(&s.out, node.Spec.Unschedulable || !soptest.Ready(node))
	note(&s.destroyed, destroys(node))
	note(&s.taken, taken(recordOf(node)))
}

// taken reports whether people have taken the node out of the hands of Aegis amid an incident: its ticket, or its isolation.
func taken(r simRecord) bool {
	t := r.ticket
	if t == nil || !t.open() || t.Status == "assigned" {
		return r.broken
	}
	returns := slices.ContainsFunc(t.outcomes(actUncordon), func(s simStep) bool { return !s.Recurred && !s.Outdated })
	isolated := t.last(actCordon).Status == isSucceeded && !returns
	return !t.owned() || isolated && !r.node.Spec.Unschedulable
}

// seen returns since when the cache shows what matters of the node.
func (p *simProcess) seen(name string) simSight {
	if s := p.sight[name]; s != nil {
		return *s
	}
	return simSight{}
}

// gaveBack reports whether the process itself has written since that the node is in the hands of Aegis, as when it is ordered to release
// it, which the cache does not show yet.
func (p *simProcess) gaveBack(name string, since time.Time) bool {
	last := p.wrote[name]
	return last.node != nil && last.at.After(since) && !taken(recordOf(last.node))
}

// sees notes what the cache shows from now on, and tells the queue as the handlers of the informer do.
func (p *simProcess) sees(name string, before, after *corev1.Node) {
	if after == nil {
		delete(p.sight, name)
		p.intake.index.Delete(name)
	} else {
		p.look(after)
		p.intake.index.Set(rules.NodeInfo{Name: name})
	}
	if p.client.Dead || p.ctx.Err() != nil {
		return
	}
	if p.dispatcher != nil {
		p.dispatcher.NodeChanged(before, after)
	}
	relevant := after == nil || before == nil && sop.NeedsVisit(after, p.configured()) ||
		before != nil && sop.RelevantChange(before, after) && (sop.NeedsVisit(after, p.configured()) || len(p.queue.Statuses(name)) > 0)
	if relevant {
		p.queue.Enqueue(name)
	}
}

// hears notes what a source says of a condition.
func (p *simProcess) hears(from soptest.SourceKind, key prom.Key, alert *prom.Alert) {
	told := p.tellOf(key)
	if from == soptest.Alertmanager {
		p.heardAlertmanager = time.Now()
	}
	switch {
	case from == soptest.Prometheus:
		if alert != nil && alert.State == prom.StateFiring {
			told.fires = time.Now()
		}
	case alert == nil:
		told.known = time.Time{}
	default:
		told.listed = time.Now()
		if !slices.ContainsFunc(p.holds(key.Node), func(s prom.AegisNodeStatus) bool { return s.Key() == key }) {
			told.known = time.Time{} // It had let it go.
		}
		told.learn()
	}
}

// learned notes since when the process knows that everything is paused. Orders that cannot be read are a pause.
func (p *simProcess) learned(lease *coordinationv1.Lease) {
	orders, err := ordersOf(lease)
	switch paused := err != nil || orders.paused; {
	case !paused:
		p.toldOff = time.Time{}
	case p.toldOff.IsZero():
		p.toldOff = time.Now()
	}
}

// idle returns for how much of the time since then the process could have known what happened on the node.
func (p *simProcess) idle(node string, since time.Time) time.Duration {
	return p.client.Idle(node, since)
}

// sleep waits and returns the cause when the context ends first.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// table holds the procedures of the simulation, watched.
func (p *simProcess) table() sop.Table {
	steps := map[string]playbook.Steps{
		simReboot: playbook.RebootLadder, simReset: playbook.ResetLadder, simIsolate: playbook.IsolateAndHandOver,
		simReady: playbook.AwaitReady, simCordon: playbook.VerifyCordoned,
		simRelieve: func(ctx context.Context, b *sop.ApiBridge) error { return playbook.RelievePressure(ctx, b) },
		simRemedy: func(ctx context.Context, b *sop.ApiBridge) error {
			return playbook.Remediation{Name: "Restart"}.Isolated(ctx, b, playbook.Climb)
		},
		simDevices: func(ctx context.Context, b *sop.ApiBridge) error {
			return playbook.RestartDevicePlugin(ctx, b, soptest.GPU)
		},
	}
	table := sop.Table{
		sop.ExhaustedSOP:                  p.watched(func() sop.SOP { return sop.NewProcedure(playbook.Exhausted) }),
		"sim/" + strings.ToLower(simNote): p.watched(func() sop.SOP { return sop.NewNotice(playbook.Notify) }),
	}
	for name, procedure := range steps {
		table["sim/"+strings.ToLower(name)] = p.watched(func() sop.SOP { return sop.NewProcedure(procedure) })
	}
	return table
}

// watched notes when a procedure begins and ends.
func (p *simProcess) watched(factory sop.Factory) sop.Factory {
	return func() sop.SOP { return &simProcedure{SOP: factory(), p: p} }
}

// simProcedure is a procedure whose runs are judged.
type simProcedure struct {
	sop.SOP
	p      *simProcess
	bridge *sop.ApiBridge
}

// OnlyNotifies reports whether the procedure never touches the node.
func (s *simProcedure) OnlyNotifies() bool {
	notifier, ok := s.SOP.(interface{ OnlyNotifies() bool })
	return ok && notifier.OnlyNotifies()
}

// CreateInstance keeps the bridge.
func (s *simProcedure) CreateInstance(ctx context.Context, bridge *sop.ApiBridge) error {
	s.bridge = bridge
	return s.SOP.CreateInstance(ctx, bridge)
}

// Execute runs the procedure, watched.
func (s *simProcedure) Execute(ctx context.Context, node string, status *prom.AegisNodeStatus) (err error) {
	if begins := s.bridge.Snapshot(); begins != nil {
		s.p.Do(func() { s.p.oracle.entered(s.p, begins) })
		defer func() { s.p.Do(func() { s.p.oracle.left(s.p, node, err) }) }()
	}
	return s.SOP.Execute(ctx, node, status)
}
