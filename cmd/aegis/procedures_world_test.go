package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
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
	"aegis.io/aegis/queue"
	"aegis.io/aegis/rules"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

const (
	siteNode = "gpu-0001"
	// jobTime is what every operation takes, bootTime what a boot takes, and podTime what a DaemonSet takes for a new pod.
	jobTime  = time.Minute
	bootTime = 2 * time.Minute
	podTime  = 20 * time.Second
	// runTime is how long the workload of the node runs before it ends by itself.
	runTime = 20 * time.Minute
	// siteTimeout is more than the longest deadline of the catalogue.
	siteTimeout = 10 * 24 * time.Hour
)

// story is what happens at a site besides what the procedure does. The operations are named as their Jobs are: a remedy or a repair by
// its own name, all others by their action; restartpod is the new pod of a DaemonSet.
type story struct {
	// cure is the operation that ends the fault, and at which of its runs does it, the first if zero. No cure: none does.
	cure string
	at   int
	// after is when the fault ends by itself. Zero: never.
	after time.Duration
	// silent is when the alert ends, as those of events do, although the fault has not. A healthcheck still finds it. Zero: never.
	silent time.Duration
	// again is when the fault comes back, counted from when it was dealt with. Zero: never.
	again time.Duration
	// fails are operations whose Jobs fail, except for the run that is the cure. lost are those of which nobody learns the outcome.
	fails, lost string
	// broken is the exit code of every healthcheck until the cure. Zero: the node is found fit.
	broken int
	// asks is what the driver of a GPU asks for, as the diagnosis tells it.
	asks string
	// busy workload never ends by itself. Its pods are held by a disruption budget as well if it is held.
	busy, held bool
	// full nodes have no free GPU, bare ones no pod of the DaemonSet that the procedure restarts.
	full, bare bool
	// poweredOff is when the power of the node goes, and its power supply says so. Zero: never.
	poweredOff time.Duration
	// device and xid are those of the alert, where the usual ones will not do.
	device string
	xid    int
	// history are the past incidents of the node.
	history []ticket.Incident
}

// site is a cluster in virtual time: an API server in memory, one node with its workload, faults that raise alerts, and the real
// catalogue, queue, tickets, limits and dispatcher with the table of all procedures.
type site struct {
	t          *testing.T
	story      story
	client     *fake.Clientset
	objects    k8stesting.ObjectTracker
	queue      *queue.Queue
	store      *rules.Store
	translator *rules.Resolver
	timing     sop.Timing
	book       *sop.Book
	// plans are what will happen later, unless closed ends the test before.
	plans  sync.WaitGroup
	closed chan struct{}

	mu sync.Mutex
	// faults are those that were raised, by the key of their condition, firing is which of their alerts fire.
	faults map[prom.Key]bool
	firing map[prom.Key]prom.Alert
	// cured is the fault that the story ends.
	cured prom.Key
	// orders are the operations in the order in which they were asked for, requests the Jobs among them by name.
	orders   []string
	requests map[string]order
	// fixed is true once the cure has been applied.
	fixed bool
	// journal are the steps of the last ticket, in the order in which they began. It outlives the ticket, and what the ticket leaves
	// out for size.
	journal []step
	id      string
	// evicted counts the pods that were evicted.
	evicted int
}

// order is a Job, and which of its operation's it is.
type order struct {
	jobs.Request
	n int
}

// step is the n-th call of an action, and how it ended.
type step struct {
	action ticket.Action
	n      int
	status ticket.StepStatus
}

func newSite(t *testing.T, catalogue *rules.Catalogue, condition string, s story) *site {
	t.Helper()
	known, found := catalogue.Lookup(condition)
	require.True(t, found, condition)
	w := &site{
		t: t, story: s, store: rules.NewStore(catalogue), book: sop.NewBook(sop.NewMetrics(prometheus.NewRegistry())),
		queue: queue.New(queue.Options{}), timing: pace(known.Policy, s), closed: make(chan struct{}),
		faults: make(map[prom.Key]bool), firing: make(map[prom.Key]prom.Alert), requests: make(map[string]order),
	}
	nodes := rules.NewNodeIndex()
	nodes.Set(rules.NodeInfo{Name: siteNode})
	w.translator = rules.NewResolver(rules.ResolverOptions{Store: w.store, Nodes: nodes})
	w.client, w.objects = newClient(t, w.inventory(known)...)
	w.client.PrependReactor("patch", "nodes", w.patchNode)
	w.client.PrependReactor("create", "pods", w.evict)
	w.client.PrependReactor("delete", "pods", w.replace)
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

// pace polls in steps that suit the longest wait, so that a wait of a week costs no more than one of hours.
func pace(p prom.Policy, s story) sop.Timing {
	longest := max(p.VerifyWithin, p.HandOverAfter)
	if s.busy {
		longest = max(longest, p.DrainDeadline)
	}
	poll := max(20*time.Second, (longest / 60).Truncate(10*time.Second))
	return sop.Timing{Poll: poll, Hold: 4 * poll, LeaseStale: time.Minute}
}

// inventory is the node, its Lease, its workload, and the pod that a procedure may restart.
func (w *site) inventory(c rules.Condition) []runtime.Object {
	gpus := corev1.ResourceList{"nvidia.com/gpu": *resource.NewQuantity(8, resource.DecimalSI)}
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: siteNode, UID: "uid-1", ResourceVersion: "1", Annotations: make(map[string]string)},
		Status: corev1.NodeStatus{
			NodeInfo:    corev1.NodeSystemInfo{BootID: "boot"},
			Conditions:  readiness(true),
			Capacity:    gpus,
			Allocatable: gpus,
		},
	}
	if c.Name == "NodeCordon" {
		node.Spec.Unschedulable = true
		node.Annotations[ticket.OwnerAnnotation] = ticket.Self + "/earlier"
	}
	if len(w.story.history) > 0 {
		text, err := (&ticket.History{Incidents: w.story.history}).Encode()
		require.NoError(w.t, err)
		node.Annotations[ticket.HistoryAnnotation] = text
	}
	used := int64(4)
	if w.story.full {
		used = 8
	}
	lease := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: siteNode, Namespace: corev1.NamespaceNodeLease},
		Spec:       coordinationv1.LeaseSpec{RenewTime: &metav1.MicroTime{Time: time.Now()}},
	}
	objects := []runtime.Object{node, lease, w.pod("train", used), w.pod("web", 0)}
	if selector := c.Policy.Selector; selector != "" && !w.story.bare {
		set, err := labels.ConvertSelectorToLabelsMap(selector)
		require.NoError(w.t, err)
		objects = append(objects, daemon(set, "first"))
	}
	return objects
}

func readiness(ready bool) []corev1.NodeCondition {
	status := corev1.ConditionTrue
	if !ready {
		status = corev1.ConditionUnknown
	}
	return []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status}}
}

func (w *site) pod(name string, gpus int64) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "site", UID: types.UID(name)},
		Spec:       corev1.PodSpec{NodeName: siteNode, Containers: []corev1.Container{{Name: "main"}}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
	if gpus > 0 {
		pod.Spec.Containers[0].Resources.Limits = corev1.ResourceList{"nvidia.com/gpu": *resource.NewQuantity(gpus, resource.DecimalSI)}
	}
	return pod
}

func daemon(set map[string]string, uid types.UID) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: "daemon", Namespace: "kube-system", UID: uid, Labels: set,
			OwnerReferences: []metav1.OwnerReference{{Kind: "DaemonSet", Name: "daemon", Controller: new(true)}},
		},
		Spec: corev1.PodSpec{NodeName: siteNode},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		},
	}
}

// play runs Aegis until the incident of the condition has ended and the story is over, and returns the steps and the end.
func (w *site) play(condition string) (steps, end string) {
	w.t.Helper()
	stop := w.start()
	defer stop()
	w.cured = w.raise(condition, w.story.device, w.story.xid)
	w.unfold()
	w.await(condition+" has ended", w.over)
	for began := time.Now(); w.story.after > 0 && time.Since(began) < w.story.after; {
		time.Sleep(w.timing.Poll)
	}
	if w.story.again > 0 {
		w.end(w.cured)
		time.Sleep(w.story.again)
		before := len(w.record().History.Incidents)
		w.raise(condition, w.story.device, w.story.xid)
		w.await(condition+" has ended again", func(r ticket.Record) bool { return len(r.History.Incidents) > before && w.over(r) })
	}
	time.Sleep(5 * w.timing.Hold)
	w.await(condition+" has ended for good", w.over)
	w.inspect()
	return w.steps(), w.outcome()
}

// unfold lets happen what the story says will happen at its time.
func (w *site) unfold() {
	at := func(after time.Duration, what func()) {
		if after > 0 {
			w.later(after, what)
		}
	}
	at(w.story.after, func() { w.end(w.cured) })
	at(w.story.silent, func() { w.silence(w.cured) })
	at(w.story.poweredOff, func() {
		w.edit("bmc", map[string]any{"metadata": map[string]any{"annotations": map[string]string{sop.PowerStateAnnotation: "off"}}})
	})
	if !w.story.busy {
		at(runTime, w.endWorkload)
	}
}

// later lets something happen, unless the test has ended by then.
func (w *site) later(after time.Duration, what func()) {
	w.plans.Go(func() {
		select {
		case <-w.closed:
		case <-time.After(after):
			what()
		}
	})
}

// dispatcher returns a new process of Aegis, which knows nothing but what is in the cluster and in the queue.
func (w *site) dispatcher() *sop.Dispatcher {
	lister := siteNodes{w.client}
	metrics := sop.NewMetrics(prometheus.NewRegistry())
	settings := func() policy.Settings { return policy.Settings{} }
	return sop.NewDispatcher(sop.Services{
		Kube:       w.client,
		Nodes:      lister,
		Tickets:    ticket.NewStore(ticket.StoreOptions{Client: w.client.CoreV1()}),
		Jobs:       siteJobs{w},
		Source:     siteSource{w},
		Conditions: w.queue,
		Recorder:   &record.FakeRecorder{},
		Orders: sop.NewOrderStore(sop.OrderStoreOptions{
			Client: w.client.CoordinationV1(), Namespace: "monitoring", Name: ticket.Self, Identity: func() string { return "" },
		}),
		Book:     w.book,
		Settings: settings,
		Timing:   w.timing,
		Metrics:  metrics,
		Logger:   slog.New(slog.DiscardHandler),
	}, nodeQueue{w.queue}, currentCatalogue{w.store}, procedures())
}

// start runs Aegis. The returned function ends the test.
func (w *site) start() (stop func()) {
	d := w.dispatcher()
	ctx, cancel := context.WithCancelCause(w.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	return func() {
		w.t.Helper()
		cancel(sop.ErrStopping)
		require.ErrorIs(w.t, <-ended, sop.ErrStopping)
		close(w.closed)
		w.plans.Wait()
	}
}

// raise begins a fault with its alert, as a rule of the site would word it.
func (w *site) raise(condition, device string, xid int) prom.Key {
	w.t.Helper()
	known, found := w.store.Current().Lookup(condition)
	require.True(w.t, found, condition)
	alert := prom.Alert{
		Labels: map[string]string{"alertname": condition, "node": siteNode}, State: prom.StateFiring, StartsAt: time.Now(),
	}
	switch known.Device {
	case prom.DeviceIndex:
		alert.Labels["gpu"] = "3"
	case prom.DeviceID:
		alert.Labels["id"] = "device0"
	}
	if device != "" {
		alert.Labels["id"] = device
	}
	if xid > 0 {
		alert.Labels["xid"] = strconv.Itoa(xid)
	}
	o, err := w.translator.Resolve(alert)
	require.NoError(w.t, err)
	key := o.Status.Key()
	w.mu.Lock()
	w.faults[key], w.firing[key] = true, alert
	w.mu.Unlock()
	if condition == "NodeNotReady" {
		w.ready(false)
	}
	w.queue.Observe(o)
	return key
}

// end ends a fault, and its alert with it.
func (w *site) end(key prom.Key) {
	w.mu.Lock()
	w.faults[key] = false
	w.mu.Unlock()
	if key.Condition == "NodeNotReady" {
		w.ready(true)
	}
	w.silence(key)
}

// silence ends the alert of a fault.
func (w *site) silence(key prom.Key) {
	w.mu.Lock()
	alert, fires := w.firing[key]
	delete(w.firing, key)
	w.mu.Unlock()
	if !fires {
		return
	}
	alert.EndsAt = time.Now()
	o, err := w.translator.Resolve(alert)
	if err != nil {
		w.t.Error(err)
	}
	w.queue.Observe(o)
}

// health returns the exit code of a healthcheck that is made now.
func (w *site) health() int32 {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.story.broken != 0 && !w.fixed:
		return int32(w.story.broken)
	case w.story.silent > 0 && w.faults[w.cured]:
		return 23
	}
	return 0
}

func (w *site) ready(ready bool) {
	w.edit("kubelet", map[string]any{"status": map[string]any{"conditions": readiness(ready)}})
}

// edit changes the node as somebody else than Aegis does, which the cache of nodes tells the queue.
func (w *site) edit(who string, change map[string]any) {
	body, err := json.Marshal(change)
	if err == nil {
		_, err = w.client.CoreV1().Nodes().Patch(context.Background(), siteNode, types.MergePatchType, body, metav1.PatchOptions{FieldManager: who})
	}
	if err != nil {
		w.t.Error(err)
	}
	w.queue.Touch(siteNode)
}

// patchNode applies a patch as the API server does, to which a failed test is an invalid request, and reads the journal in it.
func (w *site) patchNode(action k8stesting.Action) (bool, runtime.Object, error) {
	handled, object, err := k8stesting.ObjectReaction(w.objects)(action)
	if err != nil && !apierrors.IsNotFound(err) {
		err = apierrors.NewInvalid(schema.GroupKind{Kind: "Node"}, siteNode, nil)
	}
	if node, ok := object.(*corev1.Node); ok && err == nil {
		w.read(ticket.ReadNode(node).Ticket)
	}
	return handled, object, err
}

// read takes the steps of a ticket into the journal.
func (w *site) read(t *ticket.Ticket) {
	if t == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if t.ID != w.id {
		w.id, w.journal = t.ID, nil
	}
	for _, action := range ticket.Actions() {
		for n := 1; n <= t.Count(action); n++ {
			call, _ := t.Outcome(action, n)
			i := slices.IndexFunc(w.journal, func(s step) bool { return s.action == action && s.n == n })
			if i < 0 {
				i = len(w.journal)
				w.journal = append(w.journal, step{action: action, n: n})
			}
			w.journal[i].status = call.Status
		}
	}
}

// evict ends a pod at once, unless a disruption budget holds it.
func (w *site) evict(action k8stesting.Action) (bool, runtime.Object, error) {
	create, ok := action.(k8stesting.CreateAction)
	if !ok || action.GetSubresource() != "eviction" {
		return false, nil, nil
	}
	eviction, ok := create.GetObject().(*policyv1.Eviction)
	if !ok {
		return true, nil, errors.New("not an eviction")
	}
	if w.story.held {
		return true, nil, apierrors.NewTooManyRequests("the disruption budget needs it", 1)
	}
	w.mu.Lock()
	w.evicted++
	w.mu.Unlock()
	return true, nil, w.objects.Delete(podResource(), eviction.Namespace, eviction.Name)
}

// replace lets a DaemonSet make a new pod for the one that is deleted.
func (w *site) replace(action k8stesting.Action) (bool, runtime.Object, error) {
	remove, ok := action.(k8stesting.DeleteAction)
	if !ok {
		return false, nil, nil
	}
	object, err := w.objects.Get(podResource(), remove.GetNamespace(), remove.GetName())
	if err != nil {
		return true, nil, err
	}
	if old, ok := object.(*corev1.Pod); ok {
		n := w.ask(string(ticket.RestartPod))
		w.later(podTime, func() {
			if err := w.objects.Add(daemon(old.Labels, old.UID+"+")); err != nil {
				w.t.Error(err)
			}
			w.ended(string(ticket.RestartPod), n)
		})
	}
	return true, nil, w.objects.Delete(podResource(), remove.GetNamespace(), remove.GetName())
}

func podResource() schema.GroupVersionResource { return corev1.SchemeGroupVersion.WithResource("pods") }

// endWorkload lets the workload of the node end by itself.
func (w *site) endWorkload() {
	for _, pod := range w.workload() {
		if err := w.objects.Delete(podResource(), pod.Namespace, pod.Name); err != nil && !apierrors.IsNotFound(err) {
			w.t.Error(err)
		}
	}
}

// workload lists the pods of the node that are no part of it.
func (w *site) workload() []corev1.Pod {
	list, err := w.client.CoreV1().Pods("site").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		w.t.Error(err)
		return nil
	}
	return list.Items
}

// ask notes that an operation was asked for, and returns which of its kind it is.
func (w *site) ask(operation string) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.orders = append(w.orders, operation)
	for _, o := range w.orders {
		if o == operation {
			n++
		}
	}
	return n
}

// cures reports whether the n-th run of an operation is the one that ends the fault.
func (s story) cures(operation string, n int) bool { return s.cure == operation && n >= max(1, s.at) }

// ended ends the fault if the n-th run of an operation cures it.
func (w *site) ended(operation string, n int) {
	if w.story.cures(operation, n) {
		w.mu.Lock()
		w.fixed = true
		w.mu.Unlock()
		w.end(w.cured)
	}
}

// boot gives the node another boot ID after the time that a machine takes.
func (w *site) boot(n int) {
	w.later(bootTime/4, func() { w.ready(false) })
	w.later(bootTime, func() {
		node := w.record().Node
		w.edit("kubelet", map[string]any{"status": map[string]any{
			"nodeInfo": map[string]any{"bootID": node.Status.NodeInfo.BootID + "+"}, "conditions": readiness(true),
		}})
		w.ended(jobs.ActionReboot, n)
	})
}

// shutDown takes the power from the node, which nobody can see but by its silence.
func (w *site) shutDown() { w.later(jobTime, func() { w.ready(false) }) }

// record reads the node.
func (w *site) record() ticket.Record {
	node, err := w.client.CoreV1().Nodes().Get(context.Background(), siteNode, metav1.GetOptions{})
	if err != nil {
		w.t.Error(err)
		return ticket.Record{Node: &corev1.Node{}, History: &ticket.History{}}
	}
	return ticket.ReadNode(node)
}

// await lets virtual time pass until the record is as wanted.
func (w *site) await(what string, until func(ticket.Record) bool) {
	w.t.Helper()
	for began := time.Now(); !until(w.record()); time.Sleep(w.timing.Hold) {
		if time.Since(began) > siteTimeout {
			require.Fail(w.t, "nothing more happens", "waited for %q\nsteps: %s\nannotations: %v\nverdicts: %+v",
				what, w.steps(), w.record().Node.Annotations, w.book.Node(siteNode))
		}
	}
}

// over reports whether the last incident has ended: it is closed, or with people.
func (w *site) over(r ticket.Record) bool {
	if r.Ticket != nil {
		return !r.Ticket.Owned()
	}
	return len(r.History.Incidents) > len(w.story.history)
}

// steps returns the journal of the last ticket in words. Steps that went well are only named.
func (w *site) steps() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var words []string
	for _, s := range w.journal {
		word := string(s.action)
		if s.status != ticket.Succeeded {
			word += " " + strings.ToLower(string(s.status))
		}
		words = append(words, word)
	}
	return strings.Join(words, ", ")
}

// outcome returns how the incidents ended, in words.
func (w *site) outcome() string {
	r := w.record()
	var ends []string
	for _, i := range r.History.Incidents[len(w.story.history):] {
		ends = append(ends, i.Outcome)
	}
	if r.Ticket == nil {
		return strings.Join(ends, ", ")
	}
	ends[len(ends)-1] = "handed over to " + r.Ticket.Supervisor
	if last, known := r.Ticket.Outcome(ticket.Shutdown, r.Ticket.Count(ticket.Shutdown)); known {
		ends = append(ends, map[bool]string{true: "powered off", false: "power state unknown"}[last.Status == ticket.Succeeded])
	}
	return strings.Join(ends, ", ")
}

// inspect makes sure that the node is as the end of its incident says.
func (w *site) inspect() {
	w.t.Helper()
	r := w.record()
	require.NoError(w.t, r.Broken)
	require.NoError(w.t, r.HistoryBroken)
	cordoned := slices.ContainsFunc(w.journal, func(s step) bool { return s.action == ticket.Cordon })
	switch {
	case r.Ticket == nil:
		require.False(w.t, r.Node.Spec.Unschedulable, "a node whose incident is closed is in service")
		require.Empty(w.t, r.Node.Annotations[ticket.OwnerAnnotation])
		require.Empty(w.t, r.Node.Spec.Taints)
		require.True(w.t, policy.IsReady(r.Node))
	case cordoned:
		require.True(w.t, r.Node.Spec.Unschedulable, "people decide when the node returns")
	}
	drained := slices.ContainsFunc(w.journal, func(s step) bool { return s.action == ticket.Drain || s.action == ticket.DrainGPU })
	require.True(w.t, drained || w.evicted == 0, "pods are evicted by the steps that say so")
}

// untouched reports whether nothing was written about the node, nor done to it. Its marks do not count.
func (w *site) untouched() bool {
	r := w.record()
	return w.steps() == "" && r.Ticket == nil && len(r.History.Incidents) == len(w.story.history) &&
		r.Node.Annotations[ticket.OwnerAnnotation] == "" && w.evicted == 0 && len(w.ordered()) == 0
}

// ordered lists the operations that were asked for.
func (w *site) ordered() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.orders)
}

// verdict returns the last decision on a condition.
func (w *site) verdict(condition string) policy.Verdict {
	for _, d := range w.book.Node(siteNode) {
		if d.Condition == condition {
			return d.Verdict
		}
	}
	return policy.Verdict{}
}

// siteNodes is a cache that never lags.
type siteNodes struct{ client kubernetes.Interface }

func (n siteNodes) Get(name string) (*corev1.Node, error) {
	return n.client.CoreV1().Nodes().Get(context.Background(), name, metav1.GetOptions{})
}

func (n siteNodes) List(labels.Selector) ([]*corev1.Node, error) {
	node, err := n.Get(siteNode)
	return []*corev1.Node{node}, err
}

// siteSource answers with the alerts that fire.
type siteSource struct{ *site }

var _ sop.Source = siteSource{}

func (s siteSource) Last(key prom.Key) prom.Finding { return s.Observe(context.Background(), key) }

func (s siteSource) Observe(_ context.Context, key prom.Key) prom.Finding {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, fires := s.firing[key]; fires {
		return prom.Finding{Evidence: prom.EvidenceFiring, Permission: prom.PermissionGranted, At: time.Now()}
	}
	return prom.Finding{Evidence: prom.EvidenceAbsent, Permission: prom.PermissionUnlisted, Unlisted: true, At: time.Now()}
}

// siteJobs carries out operations on the node.
type siteJobs struct{ *site }

var _ sop.JobRunner = siteJobs{}

// operation names what a Job does.
func operation(r jobs.Request) string {
	if (r.Action == jobs.ActionRemedy || r.Action == jobs.ActionRepair) && len(r.Args) > 0 {
		return r.Args[0]
	}
	return r.Action
}

func (j siteJobs) Ensure(ctx context.Context, r jobs.Request) (string, bool, error) {
	if ctx.Err() != nil {
		return "", false, ctx.Err()
	}
	if _, found := j.find(r.Name()); found {
		return r.Name(), false, nil
	}
	j.allowed(operation(r))
	made := order{r, j.ask(operation(r))}
	j.mu.Lock()
	j.requests[r.Name()] = made
	j.mu.Unlock()
	j.carryOut(made)
	return r.Name(), true, nil
}

// carryOut does what shows on the node before a Job has ended.
func (w *site) carryOut(o order) {
	works := !siteJobs{w}.fails(o) && w.story.lost != operation(o.Request)
	switch {
	case o.Action == jobs.ActionReboot && works:
		w.boot(o.n)
	case o.Action == jobs.ActionShutdown && works:
		w.shutDown()
	}
}

// allowed makes sure that nothing is done to a node that the workload on it would suffer from.
func (j siteJobs) allowed(operation string) {
	isolated := []string{"RestartKubelet", "StartGpfs", "MountGpfs"}
	emptyOfGPU := []string{"ResetGPU", "RestartFabricManager"}
	empty := []string{jobs.ActionReboot, jobs.ActionShutdown, "ReloadIBDriver"}
	all := slices.Concat(isolated, emptyOfGPU, empty)
	if slices.Contains(all, operation) && !j.record().Node.Spec.Unschedulable {
		j.t.Errorf("%s on a node that is not cordoned", operation)
	}
	for _, pod := range j.workload() {
		usesGPU := len(pod.Spec.Containers[0].Resources.Limits) > 0
		if slices.Contains(empty, operation) || usesGPU && slices.Contains(emptyOfGPU, operation) {
			j.t.Errorf("%s under pod %s", operation, pod.Name)
		}
	}
}

// fails reports whether the Job fails as the story says. The run that is the cure does not.
func (j siteJobs) fails(o order) bool {
	return j.story.fails == operation(o.Request) && !j.story.cures(operation(o.Request), o.n)
}

// find returns the Job of the name.
func (j siteJobs) find(name string) (o order, found bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	o, found = j.requests[name]
	return o, found
}

func (j siteJobs) Status(_ context.Context, name string) (jobs.Result, error) {
	o, found := j.find(name)
	switch {
	case !found:
		return jobs.Result{Job: name, Phase: jobs.PhaseMissing, ExitCode: -1}, nil
	case j.fails(o):
		return broken(name, 1, ""), nil
	}
	return jobs.Result{Job: name, Phase: jobs.PhaseActive, ExitCode: -1}, nil
}

func (j siteJobs) Follow(ctx context.Context, name string) (jobs.Result, error) {
	select {
	case <-ctx.Done():
		return jobs.Result{}, context.Cause(ctx)
	case <-time.After(jobTime):
	}
	o, found := j.find(name)
	switch {
	case !found:
		return jobs.Result{Job: name, Phase: jobs.PhaseMissing, ExitCode: -1}, nil
	case j.story.lost == operation(o.Request):
		return jobs.Result{Job: name, Phase: jobs.PhaseFailed, ExitCode: 70, Message: "a tool crashed"}, nil
	case j.fails(o):
		return broken(name, 1, ""), nil
	case o.Action == jobs.ActionHealthcheck && j.health() != 0:
		return broken(name, j.health(), hardware(j.story.broken)), nil
	}
	j.ended(operation(o.Request), o.n)
	result := jobs.Result{Job: name, Phase: jobs.PhaseSucceeded, Report: &jobs.Report{Result: jobs.ResultPassed}}
	if o.Action == jobs.ActionDiagnose {
		result.Message = "9 of 9 sections collected"
		if j.story.asks != "" {
			result.Report.Recovery = j.story.asks
		}
	}
	return result, nil
}

// hardware names what an exit code of the healthcheck is about.
func hardware(code int) string {
	names := []string{1: "ib", 3: "gpfs", 4: "cpu", 5: "memory", 6: "disk", 7: "network"}
	if code < len(names) && names[code] != "" {
		return names[code]
	}
	return "gpu"
}

func broken(job string, code int32, hardware string) jobs.Result {
	return jobs.Result{
		Job: job, Phase: jobs.PhaseFailed, ExitCode: code, Message: "broken",
		Report: &jobs.Report{Result: jobs.ResultFailed, Hardware: hardware, ExitCode: int(code)},
	}
}

// autoCatalogue is the embedded catalogue with every condition in mode auto, and what the operator's text says besides.
func autoCatalogue(t *testing.T, text string) *rules.Catalogue {
	t.Helper()
	embedded, err := loadCatalogue(rules.Options{})
	require.NoError(t, err)
	own := "conditions:\n"
	for _, c := range embedded.Conditions() {
		own += fmt.Sprintf("- {name: %s, policy: {mode: auto}}\n", c.Name)
	}
	files := []string{write(t, "auto.yaml", own)}
	if text != "" {
		files = append(files, write(t, "operator.yaml", text))
	}
	catalogue, err := loadCatalogue(rules.Options{Files: files})
	require.NoError(t, err)
	return catalogue
}

// atSite runs a test in virtual time.
func atSite(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, test)
}
