package sop

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/utils/clock"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/queue"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

const (
	nodeA       = "gpu-0001"
	nodeUID     = types.UID("uid-1")
	bootTime    = 2 * time.Minute
	testTimeout = 6 * time.Hour
)

// world is a cluster in virtual time: an API server in memory, nodes that boot when told to, and the real queue, dispatcher,
// journal and limits.
type world struct {
	t      *testing.T
	client *fake.Clientset
	// objects is what the client reaches.
	objects  k8stesting.ObjectTracker
	queue    *queue.Queue
	source   *fakeSource
	jobs     *fakeJobs
	verdicts *VerdictCache
	table    Table
	// metrics are those of all processes together, as Prometheus adds them up.
	metrics  *Metrics
	registry *prometheus.Registry
	events   *record.FakeRecorder

	mu       sync.Mutex
	settings policy.Settings
	policy   prom.Policy
	// writes counts the writes to nodes. onWrite is called before the n-th is applied; its error keeps it from being applied.
	writes  int
	onWrite func(n int) error
	// d is the process that was started last.
	d *Dispatcher
	// priorities are those of conditions that are no emergencies.
	priorities map[string]int
	// inhibits names the condition that a condition explains.
	inhibits map[string]string
	// unknown names the conditions that the catalogue does not have. Nil means none.
	unknown func(condition string) bool
	// identity is that of the process in the election. Empty means that there is none.
	identity string
	// journal is the last ticket that was written, as its steps.
	journal []string
	// read is what record has last read, and text what it was read from.
	reading sync.Mutex
	read    ticket.Record
	text    string
}

func newWorld(t *testing.T, p prom.Policy, objects ...runtime.Object) *world {
	t.Helper()
	w := &world{t: t, policy: p, source: &fakeSource{}, events: record.NewFakeRecorder(1000)}
	if !slices.ContainsFunc(objects, isNode) {
		objects = append(objects, testNode(nodeA, nodeUID))
	}
	w.client, w.objects = newClient(t, objects...)
	w.client.PrependReactor("patch", "nodes", w.patch)
	w.client.PrependReactor("create", "pods", w.evict)
	w.jobs = &fakeJobs{world: w, made: make(map[string]jobs.Request)}
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

// newClient returns an API server in memory that does not keep track of who has set a field, which makes up most of the work of the
// usual one.
func newClient(t *testing.T, objects ...runtime.Object) (*fake.Clientset, k8stesting.ObjectTracker) {
	t.Helper()
	tracker := k8stesting.NewObjectTracker(scheme.Scheme, scheme.Codecs.UniversalDecoder())
	for _, o := range objects {
		require.NoError(t, tracker.Add(o))
	}
	client := &fake.Clientset{}
	client.AddReactor("*", "*", k8stesting.ObjectReaction(tracker))
	return client, tracker
}

func isNode(o runtime.Object) bool {
	_, ok := o.(*corev1.Node)
	return ok
}

func testNode(name string, uid types.UID) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: uid, ResourceVersion: "1"},
		Status: corev1.NodeStatus{
			NodeInfo:   corev1.NodeSystemInfo{BootID: "boot-0"},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}
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
func (w *world) InhibitedBy(_ time.Time, status prom.AegisNodeStatus, others []prom.AegisNodeStatus) string {
	for _, o := range others {
		if w.inhibits[o.Condition] == status.Condition {
			return o.Condition + " explains it"
		}
	}
	return ""
}

func (w *world) Status(node, condition, device string, _ int) prom.AegisNodeStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.unknown != nil && w.unknown(condition) {
		return prom.AegisNodeStatus{Node: node, Condition: condition, ID: device}
	}
	priority, found := w.priorities[condition]
	if !found {
		priority = 3
	}
	return prom.AegisNodeStatus{
		Node: node, Condition: condition, ID: device, Type: "gpu", Priority: priority, Policy: w.policy,
		SOP: "test/" + strings.ToLower(condition), FirstSeen: time.Now(), LastSeen: time.Now(), Origin: prom.OriginAlert,
	}
}

// raise reports a condition on node A.
func (w *world) raise(condition string) { w.raiseOn(nodeA, condition) }

func (w *world) raiseOn(node, condition string) {
	w.queue.Observe(prom.Observation{
		Fingerprint: node + condition, Status: w.Status(node, condition, "", 0), Firing: true, StartsAt: time.Now(),
	})
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

// patch applies a patch as the API server does: a failed test is an invalid request.
func (w *world) patch(action k8stesting.Action) (bool, runtime.Object, error) {
	if p, ok := action.(k8stesting.PatchAction); ok && p.GetPatchType() == types.MergePatchType {
		// The marks of the node. They are no part of any incident.
		return false, nil, nil
	}
	w.mu.Lock()
	w.writes++
	n, hook := w.writes, w.onWrite
	w.mu.Unlock()
	if hook != nil {
		if err := hook(n); err != nil {
			return true, nil, err
		}
	}
	handled, object, err := k8stesting.ObjectReaction(w.objects)(action)
	if err != nil && !apierrors.IsNotFound(err) {
		err = apierrors.NewInvalid(schema.GroupKind{Kind: "Node"}, nodeA, nil)
	}
	if node, ok := object.(*corev1.Node); ok && err == nil {
		if r := ticket.ReadNode(node); r.Ticket != nil {
			w.mu.Lock()
			w.journal = steps(r)
			w.mu.Unlock()
		}
	}
	return handled, object, err
}

// evict ends a pod at once, unless a label holds it as a disruption budget would.
func (w *world) evict(action k8stesting.Action) (bool, runtime.Object, error) {
	if action.GetSubresource() != "eviction" {
		return false, nil, nil
	}
	create, ok := action.(k8stesting.CreateAction)
	if !ok {
		return false, nil, nil
	}
	eviction, ok := create.GetObject().(*policyv1.Eviction)
	if !ok {
		return true, nil, errors.New("not an eviction")
	}
	object, err := w.objects.Get(corev1.SchemeGroupVersion.WithResource("pods"), eviction.Namespace, eviction.Name)
	if err != nil {
		return true, nil, err
	}
	if pod, ok := object.(*corev1.Pod); ok && pod.Labels["held"] != "" {
		return true, nil, apierrors.NewTooManyRequests("the disruption budget "+pod.Labels["held"]+" needs it", 1)
	}
	return true, nil, w.objects.Delete(corev1.SchemeGroupVersion.WithResource("pods"), eviction.Namespace, eviction.Name)
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
	metrics := w.metrics
	lister := liveNodes{w.client}
	w.verdicts = NewVerdictCache(metrics, clock.RealClock{})
	orders := NewOrderStore(OrderStoreOptions{
		Client: w.client.CoordinationV1(), Namespace: "monitoring", Name: ticket.Self, Identity: func() string { return w.identity },
	})
	return NewDispatcher(Services{
		Orders: orders,
		Kube:   w.client, Nodes: lister, Tickets: ticket.NewStore(ticket.StoreOptions{Client: w.client.CoreV1()}), Jobs: w.jobs,
		Source: w.source, Conditions: w.queue, Recorder: w.events, Verdicts: w.verdicts,
		Settings: w.currentSettings, Timing: DefaultTiming(), Metrics: metrics, Logger: slog.New(slog.DiscardHandler),
	}, w.queue, w, w.table)
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

func (w *world) node() *corev1.Node {
	w.t.Helper()
	node, err := w.client.CoreV1().Nodes().Get(w.t.Context(), nodeA, metav1.GetOptions{})
	require.NoError(w.t, err)
	return node
}

func (w *world) record() ticket.Record {
	w.t.Helper()
	node := w.node()
	text := node.Annotations[ticket.Annotation] + "\n" + node.Annotations[ticket.HistoryAnnotation]
	w.reading.Lock()
	defer w.reading.Unlock()
	if w.read.Node == nil || w.text != text {
		w.read, w.text = ticket.ReadNode(node), text
		require.NoError(w.t, w.read.HistoryBroken)
	}
	r := w.read
	if r.Node = node; r.Ticket != nil {
		r.Ticket = r.Ticket.Clone()
	}
	return r
}

// edit changes node A as a person or a kubelet does.
func (w *world) edit(change func(*corev1.Node)) {
	w.t.Helper()
	node := w.node()
	change(node)
	_, err := w.client.CoreV1().Nodes().Update(w.t.Context(), node, metav1.UpdateOptions{})
	require.NoError(w.t, err)
}

// boot gives node A another boot, after the time that a machine takes.
func (w *world) boot(node string) {
	object, err := w.client.CoreV1().Nodes().Get(context.Background(), node, metav1.GetOptions{})
	if err != nil {
		w.t.Error(err)
		return
	}
	object.Status.NodeInfo.BootID += "+"
	if _, err := w.client.CoreV1().Nodes().Update(context.Background(), object, metav1.UpdateOptions{}); err != nil {
		w.t.Error(err)
	}
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

// liveNodes is a cache that never lags.
type liveNodes struct{ client kubernetes.Interface }

func (l liveNodes) Get(name string) (*corev1.Node, error) {
	node, err := l.client.CoreV1().Nodes().Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return node, nil
}

func (l liveNodes) List(selector labels.Selector) ([]*corev1.Node, error) {
	list, err := l.client.CoreV1().Nodes().List(context.Background(), metav1.ListOptions{LabelSelector: selector.String()})
	if err != nil {
		return nil, err
	}
	var nodes []*corev1.Node
	for i := range list.Items {
		nodes = append(nodes, &list.Items[i])
	}
	return nodes, nil
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

// Last has the answer of the last pass, which is old, so that every question is asked.
func (s *fakeSource) Last(prom.Key) prom.Finding {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.finding
}

func (s *fakeSource) Observe(context.Context, prom.Key) prom.Finding {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.finding
}

// fakeJobs carries out operations on the nodes of the world.
type fakeJobs struct {
	world *world

	mu sync.Mutex
	// made are the Jobs by name, order their requests in the order in which they were made.
	made  map[string]jobs.Request
	order []jobs.Request
	// result says how an operation ends, the n-th of its action from 1. Nil means well.
	result func(r jobs.Request, n int) (jobs.Result, bool)
	// effect is what the end of an operation brings about. Nil means nothing.
	effect func(r jobs.Request)
	// stuck reboots never happen.
	stuck bool
}

func (f *fakeJobs) Ensure(ctx context.Context, r jobs.Request) (string, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ctx.Err() != nil {
		return "", false, ctx.Err()
	}
	if _, found := f.made[r.Name()]; found {
		return r.Name(), false, nil
	}
	f.made[r.Name()] = r
	f.order = append(f.order, r)
	if r.Action == protocol.ActionReboot && !f.stuck {
		go func() {
			time.Sleep(bootTime)
			f.world.boot(r.Node)
			f.ended(r)
		}()
	}
	return r.Name(), true, nil
}

func (f *fakeJobs) Status(_ context.Context, name string) (jobs.Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r, found := f.made[name]
	if !found {
		return jobs.Result{Job: name, Phase: jobs.PhaseMissing, ExitCode: -1}, nil
	}
	if result, set := f.judge(r); set {
		return result, nil
	}
	return jobs.Result{Job: name, Phase: jobs.PhaseActive, ExitCode: -1}, nil
}

// Follow takes a minute for every operation.
func (f *fakeJobs) Follow(ctx context.Context, name string) (jobs.Result, error) {
	if err := sleep(ctx, clock.RealClock{}, time.Minute); err != nil {
		return jobs.Result{}, err
	}
	f.mu.Lock()
	r, found := f.made[name]
	f.mu.Unlock()
	if !found {
		return jobs.Result{Job: name, Phase: jobs.PhaseMissing, ExitCode: -1}, nil
	}
	f.ended(r)
	f.mu.Lock()
	defer f.mu.Unlock()
	if result, set := f.judge(r); set {
		return result, nil
	}
	return jobs.Result{Job: name, Phase: jobs.PhaseSucceeded, Report: &protocol.Report{Result: protocol.ResultPassed}}, nil
}

func (f *fakeJobs) ended(r jobs.Request) {
	f.mu.Lock()
	effect := f.effect
	f.mu.Unlock()
	if effect != nil {
		effect(r)
	}
}

func (f *fakeJobs) judge(r jobs.Request) (jobs.Result, bool) {
	if f.result == nil {
		return jobs.Result{}, false
	}
	n := 0
	for _, other := range f.order {
		if other.Action == r.Action {
			n++
		}
		if other.Name() == r.Name() {
			break
		}
	}
	return f.result(r, n)
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
