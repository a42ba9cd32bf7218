package sop

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/utils/clock"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/queue"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/sop/soptest"
	"aegis.io/aegis/ticket"
)

const (
	nodeA       = "gpu-0001"
	nodeUID     = types.UID("uid-1")
	bootTime    = 2 * time.Minute
	testTimeout = 6 * time.Hour
	// jobTime is no multiple of the pace at which Jobs are followed: their effect comes before anybody sees their end.
	jobTime = 58 * time.Second
)

// world is the fake cluster in virtual time, with the real queue, dispatcher, journal and limits. Every condition has the procedure
// that its name says, and the sources say of all of them what the test sets.
type world struct {
	t       *testing.T
	cluster *soptest.Cluster
	client  *soptest.Client
	queue   *queue.Queue
	source  *fakeSource
	// asks takes the place of the source, and stopAsking ends it. Nil means that nothing does.
	asks       Source
	stopAsking func()
	jobs       *fakeJobs
	// runner takes the place of the cluster's own Jobs. Nil means those.
	runner   JobRunner
	verdicts *VerdictCache
	table    Table
	// metrics are those of all processes together, as Prometheus adds them up.
	metrics  *Metrics
	registry *prometheus.Registry
	events   *record.FakeRecorder
	reader   *ticket.Store
	// nodes is the cache of the processes, which never lags unless a test has it do so.
	nodes corelisters.NodeLister

	mu       sync.Mutex
	settings policy.Settings
	policy   prom.Policy
	// writes counts the writes to nodes. onWrite is called before the n-th is applied; its error keeps it from being applied.
	writes  int
	onWrite func(n int) error
	// d is the process that was started last.
	d *Dispatcher
	// processes are all that were made. The lock of the cluster guards them.
	processes []*Dispatcher
	// priorities are those of conditions that are no emergencies.
	priorities map[string]int
	// xid is the one that every condition is about.
	xid prom.XID
	// aliases has other names of conditions.
	aliases map[string]string
	// inhibits names the condition that a condition explains.
	inhibits map[string]string
	// inhibitors is how often the catalogue was asked what explains the conditions of a node.
	inhibitors atomic.Int32
	// unknown names the conditions that the catalogue does not have. Nil means none.
	unknown func(condition string) bool
	// identity is that of the process in the election. Empty means that there is none.
	identity string
	// journal is the last ticket that was written, as its steps.
	journal []string
}

func newWorld(t *testing.T, p prom.Policy, objects ...runtime.Object) *world {
	t.Helper()
	w := &world{t: t, policy: p, source: &fakeSource{}, events: record.NewFakeRecorder(1000), reader: ticket.NewStore(ticket.StoreOptions{})}
	w.cluster = soptest.New(soptest.Options{Election: ticket.Self, Pace: soptest.Pace{
		JobRun: soptest.Exactly(jobTime), Boot: soptest.Exactly(bootTime), PowerDown: bootTime / 4,
	}})
	isNode := func(o runtime.Object) bool { _, is := o.(*corev1.Node); return is }
	if !slices.ContainsFunc(objects, isNode) {
		objects = append(objects, testNode(nodeA, nodeUID))
	}
	// The tests themselves replace what a DaemonSet would.
	w.cluster.Daemons[nodeA] = soptest.Daemon{Late: true}
	w.cluster.Do(func() { w.add(objects...) })
	w.client = w.cluster.NewClient()
	w.client.Before = w.before
	w.jobs = &fakeJobs{world: w}
	w.cluster.Operate = w.jobs.operate
	w.cluster.Observer = soptest.Observer{
		NodeWritten: func(_ *soptest.Client, _, after *corev1.Node, _ time.Time) { w.written(after) },
		JobOrdered:  func(_ *soptest.Client, r jobs.Request) { w.jobs.ordered(r) },
		JobEnded:    func(job *soptest.Job) { w.jobs.ended(job.Request) },
		NodeChanged: func(before, after *corev1.Node) { w.tell(before, after) },
		NodeDeleted: func(node *corev1.Node) { w.tell(node, nil) },
	}
	w.nodes = w.cluster.Live()
	w.registry = prometheus.NewRegistry()
	w.metrics = NewMetrics(w.registry)
	w.queue = queue.New(queue.Options{Registerer: prometheus.NewRegistry()})
	w.settings.Pools = []policy.Pool{{Name: "test", Selector: labels.Everything(), MaxPercent: 100, MaxDestructive: 10, Profile: "test"}}
	w.source.set(prom.Finding{Evidence: prom.EvidenceFiring, Permission: prom.PermissionGranted})
	w.table = Table{
		"test/reboot":  func() SOP { return NewProcedure(Playbook.RebootLadder) },
		"test/reset":   func() SOP { return NewProcedure(Playbook.ResetLadder) },
		"test/isolate": func() SOP { return NewProcedure(Playbook.IsolateAndHandOver) },
		"test/relieve": func() SOP { return NewProcedure(Playbook.RelievePressure) },
		"test/ready":   func() SOP { return NewProcedure(Playbook.AwaitReady) },
		"test/xid":     func() SOP { return NewProcedure(Playbook.XID) },
		"test/cordon":  func() SOP { return NewProcedure(Playbook.VerifyCordoned) },
		"test/note":    func() SOP { return NewNotice(Playbook.Tell) },
		"test/remedy":  func() SOP { return NewProcedure(Playbook.Remedy("RestartKubelet")) },
		"test/plugin":  func() SOP { return NewProcedure(Playbook.RestartDevicePlugin("nvidia.com/gpu")) },
		ExhaustedSOP:   func() SOP { return NewProcedure(Playbook.Exhausted) },
	}
	return w
}

// add puts objects into the cluster, whose lock is held.
func (w *world) add(objects ...runtime.Object) {
	for _, o := range objects {
		switch o := o.(type) {
		case *corev1.Node:
			w.cluster.AddNode(o)
		case *corev1.Pod:
			w.cluster.AddPod(o)
		case *policyv1.PodDisruptionBudget:
			w.cluster.Budgets = append(w.cluster.Budgets, *o)
		case *coordinationv1.Lease:
			w.cluster.NodeLeases[o.Name] = o
		default:
			w.t.Errorf("the cluster has no %T", o)
		}
	}
}

// tell has the processes know of a change as their caches do. The lock of the cluster is held.
func (w *world) tell(before, after *corev1.Node) {
	for _, d := range w.processes {
		d.services.census.see(before, after)
	}
}

// nodesOf returns a cache of the nodes of a cluster that has no others.
func nodesOf(nodes ...*corev1.Node) corelisters.NodeLister {
	c := soptest.New(soptest.Options{})
	c.Do(func() {
		for _, n := range nodes {
			c.AddNode(n)
		}
	})
	return c.Live()
}

func testNode(name string, uid types.UID) *corev1.Node {
	node := soptest.NewNode(name)
	node.UID = uid
	return node
}

// testPolicy is that of a condition which Aegis may repair by all means.
func testPolicy() prom.Policy {
	return prom.Policy{
		Mode: prom.ModeAuto, Workload: prom.WorkloadDrain, Team: "gpu", MaxReboots: 2,
		Cooldown: 30 * time.Minute, AttemptWindow: 24 * time.Hour, Grace: 3 * time.Minute, PowerOffAfter: 15 * time.Minute,
		HandOverAfter: time.Hour, ClearFor: 2 * time.Minute, VerifyWithin: 10 * time.Minute, DrainDeadline: 30 * time.Minute,
		HealthcheckDeadline: 20 * time.Minute, RebootDeadline: 30 * time.Minute, RemedyDeadline: 10 * time.Minute,
	}
}

// Status makes the world the catalogue: every condition is an emergency with the procedure that its name says.
func (w *world) Status(node, condition, device string, _ int) prom.AegisNodeStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	if name, alias := w.aliases[condition]; alias {
		condition = name
	}
	if w.unknown != nil && w.unknown(condition) {
		return prom.AegisNodeStatus{Node: node, Condition: condition, ID: device}
	}
	priority, found := w.priorities[condition]
	if !found {
		priority = 3
	}
	return prom.AegisNodeStatus{
		Node: node, Condition: condition, ID: device, Type: "gpu", Priority: priority, Policy: w.policy, XID: w.xid,
		SOP: "test/" + strings.ToLower(condition), FirstSeen: time.Now(), LastSeen: time.Now(), Origin: prom.OriginAlert,
	}
}

// InhibitedBy explains conditions as the test has set it.
func (w *world) InhibitedBy(_ time.Time, statuses []prom.AegisNodeStatus) func(prom.AegisNodeStatus) string {
	w.inhibitors.Add(1)
	by := make(map[string]string)
	for _, s := range statuses {
		if of := w.inhibits[s.Condition]; of != "" {
			by[of] = s.Condition + " explains it"
		}
	}
	return func(s prom.AegisNodeStatus) string { return by[s.Condition] }
}

// raise reports a condition on node A.
func (w *world) raise(condition string) { w.raiseOn(nodeA, condition) }

func (w *world) raiseOn(node, condition string) {
	w.queue.Observe(prom.Observation{
		Fingerprint: node + condition, Status: w.Status(node, condition, "", 0), Firing: true, StartsAt: time.Now(),
	})
}

// raiseBy reports a condition on node A that the named source has found.
func (w *world) raiseBy(source, condition string) {
	s := w.Status(nodeA, condition, "", 0)
	s.Source = source
	w.queue.Observe(prom.Observation{Fingerprint: nodeA + condition, Status: s, Firing: true, StartsAt: time.Now()})
}

// withdraw ends every alert that feeds the condition.
func (w *world) withdraw(key prom.Key) {
	for _, s := range w.queue.Statuses(key.Node) {
		if s.Key() != key {
			continue
		}
		for _, fingerprint := range s.Alerts {
			w.queue.Observe(prom.Observation{Fingerprint: fingerprint, Status: s})
		}
	}
}

// before lets the test interfere with writes to nodes.
func (w *world) before(call soptest.Call) error {
	if call.Resource != "nodes" || call.Patch != types.JSONPatchType {
		return nil // A merge patch is of the marks of the node. They are no part of any incident.
	}
	w.mu.Lock()
	w.writes++
	n, hook := w.writes, w.onWrite
	w.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(n)
}

// written remembers the steps of a ticket, which may be closed later.
func (w *world) written(node *corev1.Node) {
	if r := ticket.ReadNode(node); r.Ticket != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.journal = steps(r)
	}
}

func (w *world) setSettings(change func(*policy.Settings)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	// Those who have the old settings keep them.
	w.settings.Pools = slices.Clone(w.settings.Pools)
	change(&w.settings)
}

func (w *world) currentSettings() policy.Settings {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.settings
}

// dispatcher returns a new process: nothing but the cluster and the queue is carried over.
func (w *world) dispatcher() *Dispatcher {
	w.verdicts = NewVerdictCache(w.metrics, clock.RealClock{})
	orders := NewOrderStore(OrderStoreOptions{
		Client: w.client.CoordinationV1(), Namespace: "monitoring", Name: ticket.Self, Identity: func() string { return w.identity },
	})
	d := NewDispatcher(Services{
		Orders: orders,
		Kube:   w.client, Nodes: w.nodes, Tickets: ticket.NewStore(ticket.StoreOptions{Client: w.client.CoreV1()}), Jobs: cmp.Or[JobRunner](w.runner, w.client.Jobs()),
		Source: cmp.Or[Source](w.asks, w.source), Conditions: w.queue, Recorder: w.events, Verdicts: w.verdicts,
		Settings: w.currentSettings, Timing: DefaultTiming(), Metrics: w.metrics, Logger: slog.New(slog.DiscardHandler),
	}, w.queue, w, w.table)
	w.cluster.Do(func() { w.processes = append(w.processes, d) })
	require.NoError(w.t, d.services.census.load())
	return d
}

// run works until the condition on node A holds, in virtual time.
func (w *world) run(what string, until func(r ticket.Record) bool) {
	w.t.Helper()
	stop := w.start()
	w.await(what, until)
	stop()
}

// start runs a new process. The returned function stops it as an upgrade does.
func (w *world) start() (stop func()) {
	ctx, cancel := context.WithCancelCause(w.t.Context())
	ended := w.process(ctx)
	return func() {
		w.t.Helper()
		cancel(ErrStopping)
		require.ErrorIs(w.t, <-ended, ErrStopping)
	}
}

// process runs a new process until the context ends.
func (w *world) process(ctx context.Context) (ended chan error) {
	w.d = w.dispatcher()
	ended = make(chan error, 1)
	go func() { ended <- w.d.Run(ctx) }()
	return ended
}

// await lets virtual time pass until the condition holds.
func (w *world) await(what string, until func(r ticket.Record) bool) {
	w.t.Helper()
	for began := time.Now(); !until(w.record()); time.Sleep(time.Second) {
		if time.Since(began) > testTimeout {
			r := w.record()
			w.t.Fatalf("waited %s for %q\nticket: %s\nhistory: %s\nverdicts: %+v", testTimeout, what,
				r.Node.Annotations[ticket.Annotation], r.Node.Annotations[ticket.HistoryAnnotation], w.verdicts.Node(nodeA))
		}
	}
}

func (w *world) node() *corev1.Node { return w.nodeNamed(nodeA) }

func (w *world) nodeNamed(name string) (node *corev1.Node) {
	w.t.Helper()
	w.cluster.Do(func() { node = w.cluster.Nodes[name].DeepCopy() })
	require.NotNil(w.t, node, name)
	return node
}

func (w *world) record() ticket.Record {
	w.t.Helper()
	r := w.reader.Read(w.node())
	require.NoError(w.t, r.HistoryBroken)
	return r
}

// edit changes node A as a person or a kubelet does. Nobody notes who has cordoned it unless the change does.
func (w *world) edit(change func(*corev1.Node)) { w.editNode(nodeA, change) }

func (w *world) editNode(name string, change func(*corev1.Node)) {
	w.cluster.Do(func() {
		var managed []metav1.ManagedFieldsEntry
		w.cluster.Edit(name, func(n *corev1.Node) {
			change(n)
			managed = n.ManagedFields
		})
		w.cluster.Amend(name, func(n *corev1.Node) { n.ManagedFields = managed })
	})
}

// cordonAsAegis cordons node A as Aegis does, with the note.
func (w *world) cordonAsAegis(note string) {
	w.cluster.Do(func() {
		w.cluster.EditAs(nodeA, soptest.ManagerAegis, func(n *corev1.Node) {
			n.Spec.Unschedulable = true
			n.Annotations = map[string]string{ticket.OwnerAnnotation: note}
		})
	})
}

// annotateAsAegis puts a ticket on the node with the record that Aegis would write beside it.
func annotateAsAegis(t *testing.T, n *corev1.Node, text string) {
	t.Helper()
	record, err := ticket.RecordOf(n, text, time.Now())
	require.NoError(t, err)
	if n.Annotations == nil {
		n.Annotations = make(map[string]string)
	}
	n.Annotations[ticket.Annotation], n.Annotations[ticket.RecordAnnotation] = text, record
}

// boot gives a node another boot.
func (w *world) boot(node string) { w.cluster.Do(func() { w.cluster.Reboot(node) }) }

// pods returns the names of the pods on node A.
func (w *world) pods() (names []string) {
	w.cluster.Do(func() {
		for _, p := range w.cluster.PodsOn(nodeA) {
			names = append(names, p.Name)
		}
	})
	return names
}

func (w *world) verdict(condition string) policy.VerdictName {
	for _, d := range w.verdicts.Node(nodeA) {
		if d.Condition == condition {
			return d.Verdict.Name
		}
	}
	return ""
}

// resolved and handedTo are how incidents end.
func resolved(r ticket.Record) bool {
	return r.Ticket == nil && len(r.History.Incidents) > 0 && r.History.Incidents[len(r.History.Incidents)-1].Outcome == ticket.Resolved
}

func handedTo(team string) func(ticket.Record) bool {
	return func(r ticket.Record) bool { return r.Ticket != nil && r.Ticket.Supervisor == team }
}

// steps renders what a ticket has journaled.
func steps(r ticket.Record) []string {
	var list []string
	for _, s := range r.Ticket.Workflows {
		list = append(list, string(s.Action)+" "+string(s.Status))
	}
	return list
}

// journaled returns the steps of the last ticket, which may have been closed since.
func (w *world) journaled() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.journal
}

// inBubble runs a test in virtual time.
func inBubble(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, test)
}

// fakeSource answers what the test sets.
type fakeSource struct {
	mu      sync.Mutex
	finding prom.Finding
}

func (s *fakeSource) set(f prom.Finding) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finding = f
}

// gone makes the sources say that there is no such alert any more.
func (s *fakeSource) gone() {
	s.set(prom.Finding{Evidence: prom.EvidenceAbsent, Permission: prom.PermissionUnlisted})
}

// Last has the answer of the last pass, which is old, so that every question is asked. The node is seen while the condition is absent.
func (s *fakeSource) Last(prom.Key) prom.Finding {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.finding
	if f.Evidence == prom.EvidenceAbsent && f.Seen.IsZero() {
		f.Seen = time.Now()
	}
	return f
}

func (s *fakeSource) Observe(_ context.Context, key prom.Key) prom.Finding { return s.Last(key) }

// fakeJobs decides how the Jobs of the world end, and what that brings about.
type fakeJobs struct {
	world *world

	mu sync.Mutex
	// order are the requests in the order in which they were made.
	order []jobs.Request
	// result says how an operation ends, the n-th of its action from 1. Nil means well.
	result func(r jobs.Request, n int) (jobs.Result, bool)
	// effect is what the end of an operation brings about. Nil means nothing.
	effect func(r jobs.Request)
	// stuck reboots and shutdowns never happen.
	stuck bool
}

func (f *fakeJobs) ordered(r jobs.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.order = append(f.order, r)
}

// ended is called with the lock of the cluster held, which the effect may need.
func (f *fakeJobs) ended(r jobs.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.effect != nil {
		go f.effect(r)
	}
}

func (f *fakeJobs) operate(job *soptest.Job) (soptest.Outcome, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := job.Request
	if f.stuck && (r.Action == protocol.ActionReboot || r.Action == protocol.ActionShutdown) {
		return soptest.Outcome{Stuck: true}, true
	}
	if f.result == nil {
		return soptest.Outcome{}, true
	}
	result, set := f.result(r, f.nth(r))
	if !set {
		return soptest.Outcome{}, true
	}
	o := soptest.Outcome{Code: result.ExitCode, Message: result.Message}
	if report := result.Report; report != nil {
		o.Hardware, o.Recovery, o.Refusals, o.Unneeded = report.Hardware, report.Recovery, report.Refusals, report.Unneeded
	}
	return o, true
}

// nth returns which of its action the Job is.
func (f *fakeJobs) nth(r jobs.Request) int {
	n := 0
	for _, other := range f.order {
		if other.Action == r.Action {
			n++
		}
		if other.Name() == r.Name() {
			break
		}
	}
	return n
}

// total returns how many Jobs were made.
func (f *fakeJobs) total() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.order)
}

// count returns how many Jobs of the action were made.
func (f *fakeJobs) count(action string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, r := range f.order {
		if r.Action == action {
			n++
		}
	}
	return n
}

func failedJob(r jobs.Request, code int32, hardware string) jobs.Result {
	return jobs.Result{
		Job: r.Name(), Phase: jobs.PhaseFailed, ExitCode: code, Message: "broken",
		Report: &protocol.Report{Result: protocol.ResultFailed, Hardware: hardware, ExitCode: int(code)},
	}
}
