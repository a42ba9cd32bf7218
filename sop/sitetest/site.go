package sitetest

import (
	"cmp"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/utils/clock"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/record"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/queue"
	"aegis.io/aegis/rules"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/sop/procedures"
	"aegis.io/aegis/sop/soptest"
	"aegis.io/aegis/ticket"
)

const (
	// Node is the name of the node.
	Node = "gpu-0001"
	// JobTime is what every operation takes.
	JobTime = time.Minute
	// BootTime is what a boot takes, podTime what a DaemonSet takes for a new pod.
	BootTime = 2 * time.Minute
	podTime  = 20 * time.Second
	// runTime is how long the workload of the node runs before it ends by itself.
	runTime = 20 * time.Minute
	// timeout is more than the longest deadline of the catalogue.
	timeout = 10 * 24 * time.Hour
)

// Site is a cluster in virtual time with one node and its workload, faults that raise alerts, and the real catalogue, queue, tickets,
// limits and dispatcher with the table of all procedures.
type Site struct {
	// changed tells the process that runs what its cache shows. Nil before one runs.
	changed func(before, after *corev1.Node)
	// Cluster is what is around Aegis.
	Cluster *soptest.Cluster
	// Procedures are those of the product. A test may add its own before it starts Aegis.
	Procedures sop.Table
	// Settings are those of the product. A test may set them before it starts Aegis.
	Settings policy.Settings
	// Queue is what Aegis works off.
	Queue *queue.Queue
	// Dispatcher is the one that runs.
	Dispatcher *sop.Dispatcher
	// Fault is the fault that the story ends.
	Fault prom.Key

	t          *testing.T
	story      Story
	client     *soptest.Client
	store      *rules.Store
	classifier *rules.Classifier
	timing     sop.Timing
	verdicts   *sop.VerdictCache
	orderStore *sop.OrderStore
	// resync is nil when the cluster answers for the sources.
	resync *queue.Resync

	// All below is guarded by the cluster's lock.

	// faults are those that were raised, by the key of their condition, firing is which of their alerts fire.
	faults map[prom.Key]bool
	firing map[prom.Key]prom.Alert
	// orders are the operations in the order in which they were asked for, runs tells which of its operation's each Job is.
	orders []string
	made   []jobs.Request
	runs   map[string]int
	// away is true while Alertmanager is down.
	away bool
	// fixed is true once the operation that fixes the fault has run.
	fixed bool
	// journal are the steps of the last ticket, in the order in which they began. It outlives the ticket, and what the ticket leaves
	// out for size.
	journal []step
	id      string
	// evicted counts the pods that were evicted.
	evicted int
	// written is told every ticket that Aegis has written. May be nil.
	written func(t *ticket.Ticket)
}

// step is the n-th call of an action, and how it ended.
type step struct {
	action ticket.Action
	n      int
	status ticket.StepStatus
}

// New returns the site of a story about the condition.
func New(t *testing.T, catalogue *rules.Catalogue, condition string, s Story) *Site {
	t.Helper()
	known, found := catalogue.Lookup(condition)
	require.True(t, found, condition)
	w := &Site{
		t: t, story: s, store: rules.NewStore(catalogue), verdicts: sop.NewVerdictCache(sop.NewMetrics(prometheus.NewRegistry()), clock.RealClock{}),
		Queue: queue.New(queue.Options{}), Procedures: procedures.Table(), timing: pace(known.Policy, s), runs: make(map[string]int),
		faults: make(map[prom.Key]bool), firing: make(map[prom.Key]prom.Alert),
		Cluster: soptest.New(soptest.Options{Election: ticket.Self, Pace: soptest.Pace{
			JobRun: soptest.Exactly(JobTime), Boot: soptest.Exactly(BootTime), PowerDown: BootTime / 4, PodStart: soptest.Exactly(podTime),
		}}),
	}
	nodes := rules.NewNodeIndex()
	nodes.Set(rules.NodeInfo{Name: Node})
	w.classifier = rules.NewClassifier(rules.ClassifierOptions{Store: w.store, Nodes: nodes})
	w.client = w.Cluster.NewClient()
	w.orderStore = sop.NewOrderStore(sop.OrderStoreOptions{
		Client: w.client.CoordinationV1(), Namespace: "monitoring", Name: ticket.Self, Identity: func() string { return "" },
	})
	w.Cluster.Observer, w.Cluster.Operate = w.observer(), w.operate
	w.Cluster.Do(func() { w.furnish(known) })
	return w
}

// pace polls in steps that suit the longest wait, so that a wait of a week costs no more than one of hours.
func pace(p prom.Policy, s Story) sop.Timing {
	longest := max(p.VerifyWithin, p.HandOverAfter)
	if s.Busy {
		longest = max(longest, p.DrainDeadline)
	}
	poll := max(20*time.Second, (longest / 60).Truncate(10*time.Second))
	return sop.Timing{Poll: poll, Hold: 4 * poll, LeaseStale: time.Minute}
}

// furnish puts the node into the cluster, its workload, and the pod that a procedure may restart.
func (w *Site) furnish(c rules.Condition) {
	w.t.Helper()
	node := soptest.NewNode(Node)
	node.Annotations = make(map[string]string)
	node.Status.Capacity, node.Status.Allocatable = soptest.GPUs(8), soptest.GPUs(8)
	if len(w.story.History) > 0 {
		text, err := (&ticket.History{Incidents: w.story.History}).Encode()
		require.NoError(w.t, err)
		node.Annotations[ticket.HistoryAnnotation] = text
	}
	if selector := c.Policy.Selector; selector != "" {
		set, err := labels.ConvertSelectorToLabelsMap(selector)
		require.NoError(w.t, err)
		daemon := soptest.Daemon{Labels: set, Pods: 1}
		if w.story.Bare {
			daemon.Pods = 0
		}
		w.Cluster.Daemons[Node] = daemon
	}
	w.Cluster.AddNode(node)
	if c.Name == "NodeCordon" {
		w.cordonAsAegis()
	}
	used := int64(4)
	if w.story.Full {
		used = 8
	}
	for name, gpus := range map[string]int64{"train": used, "web": 0} {
		w.Cluster.AddPod(soptest.NewPod("site", name, Node, gpus))
		w.Cluster.HoldPod("site", name, w.story.Held)
	}
}

// cordonAsAegis gives the node a cordon of an incident that has ended.
func (w *Site) cordonAsAegis() {
	w.Cluster.EditAs(Node, soptest.ManagerAegis, func(n *corev1.Node) {
		n.Spec.Unschedulable = true
		n.Annotations[ticket.OwnerAnnotation] = ticket.Self + "/earlier"
	})
}

// observer follows what happens in the cluster.
func (w *Site) observer() soptest.Observer {
	return soptest.Observer{
		NodeChanged: func(before, after *corev1.Node) {
			if before == nil || before.Annotations[ticket.Annotation] != after.Annotations[ticket.Annotation] {
				w.read(ticket.ReadNode(after).Ticket)
			}
			if w.changed != nil {
				w.changed(before, after)
			}
			if before != nil && sop.RelevantChange(before, after) {
				w.Queue.Enqueue(Node)
			}
		},
		PodEvicted:  func(*soptest.Client, *corev1.Pod) { w.evicted++ },
		PodDeleted:  func(*soptest.Client, *corev1.Pod) { w.ask(soptest.RestartPod) },
		PodReplaced: func(string) { w.ended(soptest.RestartPod, w.asked(soptest.RestartPod)) },
		JobOrdered: func(_ *soptest.Client, r jobs.Request) {
			w.allowed(soptest.Operation(r))
			w.order(r)
		},
		JobEnded: func(job *soptest.Job) {
			if r := job.Request; job.Result.Phase == jobs.PhaseSucceeded || r.Action == protocol.ActionReboot {
				w.ended(soptest.Operation(r), w.runs[r.Name()])
			}
		},
	}
}

// order notes a Job.
func (w *Site) order(r jobs.Request) {
	w.made = append(w.made, r)
	w.runs[r.Name()] = w.ask(soptest.Operation(r))
}

// ask notes that an operation was asked for, and returns which of its kind it is.
func (w *Site) ask(operation string) (n int) {
	w.orders = append(w.orders, operation)
	return w.asked(operation)
}

// asked returns how often the operation was asked for.
func (w *Site) asked(operation string) (n int) {
	for _, o := range w.orders {
		if o == operation {
			n++
		}
	}
	return n
}

// allowed makes sure that nothing is done to a node that the workload on it would suffer from.
func (w *Site) allowed(operation string) {
	isolated := []string{"RestartKubelet", "StartGpfs", "MountGpfs"}
	emptyOfGPU := []string{"ResetGPU", "RestartFabricManager"}
	empty := []string{protocol.ActionReboot, protocol.ActionShutdown, "ReloadIBDriver"}
	all := slices.Concat(isolated, emptyOfGPU, empty)
	if slices.Contains(all, operation) && !w.Cluster.Cordoned(Node) {
		w.t.Errorf("%s on a node that is not cordoned", operation)
	}
	for _, pod := range w.workload() {
		usesGPU := len(pod.Spec.Containers[0].Resources.Limits) > 0
		if slices.Contains(empty, operation) || usesGPU && slices.Contains(emptyOfGPU, operation) {
			w.t.Errorf("%s under pod %s", operation, pod.Name)
		}
	}
}

// operate decides how a Job ends, as the story has it.
func (w *Site) operate(job *soptest.Job) (soptest.Outcome, bool) {
	r := job.Request
	name := soptest.Operation(r)
	power := r.Action == protocol.ActionReboot || r.Action == protocol.ActionShutdown
	switch {
	case w.story.Fails == name && !w.story.fixes(name, w.runs[r.Name()]):
		return soptest.Outcome{Code: 1, Message: "broken"}, true
	case w.story.Absent == name:
		return soptest.Outcome{Code: protocol.ExitUsage, Refused: name + " is not on this host"}, true
	case w.story.Lost == name && power:
		return soptest.Outcome{Stuck: true}, true
	case w.story.Lost == name:
		return soptest.Outcome{Code: protocol.ExitUnknown, Message: "a tool crashed"}, true
	case r.Action == protocol.ActionHealthcheck:
		code := w.health()
		// A code that nobody knows is of a tool for GPUs.
		hardware := cmp.Or(protocol.HardwareOf(int(code)), protocol.HardwareGPU)
		return soptest.Outcome{Code: code, Hardware: hardware, Message: "checked"}, true
	case r.Action == protocol.ActionDiagnose:
		return soptest.Outcome{Recovery: w.story.Asks, Message: "9 of 9 sections collected"}, true
	}
	return soptest.Outcome{}, true
}

// health returns the exit code of a healthcheck that is made now.
func (w *Site) health() int32 {
	switch {
	case w.story.Broken != 0 && !w.fixed:
		return int32(w.story.Broken)
	case w.story.Silent > 0 && w.faults[w.Fault]:
		return protocol.ExitGPUCheck
	}
	return 0
}

// ended ends the fault if the n-th run of an operation fixes it.
func (w *Site) ended(operation string, n int) {
	if w.story.fixes(operation, n) {
		w.fixed = true
		w.end(w.Fault)
	}
}

// Play runs Aegis until the incident of the condition has ended and the story is over, and returns the steps and the end.
func (w *Site) Play(condition string) (steps, end string) {
	w.t.Helper()
	defer w.Start()()
	fault := w.Raise(condition, w.story.Device, w.story.XID)
	w.Cluster.Do(func() { w.Fault = fault })
	w.unfold()
	w.Await(condition+" has ended", w.Over)
	for began := time.Now(); w.story.After > 0 && time.Since(began) < w.story.After; {
		time.Sleep(w.timing.Poll)
	}
	if w.story.Again > 0 {
		w.End(w.Fault)
		time.Sleep(w.story.Again)
		before := len(w.Record().History.Incidents)
		w.Raise(condition, w.story.Device, w.story.XID)
		w.Await(condition+" has ended again", func(r ticket.Record) bool { return len(r.History.Incidents) > before && w.Over(r) })
	}
	time.Sleep(5 * w.timing.Hold)
	w.Await(condition+" has ended for good", w.Over)
	w.Inspect()
	return w.Steps(), w.Outcome()
}

// unfold lets happen what the story says will happen at its time.
func (w *Site) unfold() {
	at := func(after time.Duration, what func()) {
		if after > 0 {
			w.Cluster.Later(after, what)
		}
	}
	at(w.story.After, func() { w.end(w.Fault) })
	at(w.story.Silent, func() { w.silence(w.Fault) })
	at(w.story.PoweredOff, func() { w.Cluster.SetPower(Node, "off") })
	if !w.story.Busy {
		at(runTime, w.endWorkload)
	}
}

// process returns a new process of Aegis, which knows nothing but what is in the cluster and in the queue.
func (w *Site) process() *sop.Dispatcher {
	lister := w.Cluster.Live()
	settings := func() policy.Settings { return w.Settings }
	d := sop.NewDispatcher(sop.Services{
		Kube:       w.client,
		Nodes:      lister,
		Tickets:    ticket.NewStore(ticket.StoreOptions{Client: w.client.CoreV1()}),
		Jobs:       w.client.Jobs(),
		Source:     w.source(),
		Conditions: w.Queue,
		Recorder:   &record.FakeRecorder{},
		Orders:     w.orderStore,
		Verdicts:   w.verdicts,
		Settings:   settings,
		Timing:     w.timing,
		Metrics:    sop.NewMetrics(prometheus.NewRegistry()),
		Logger:     slog.New(slog.DiscardHandler),
	}, w.Queue, w.store, w.Procedures)
	w.Cluster.Do(func() { w.changed = d.NodeChanged })
	return d
}

// Plan returns the steps that the procedure of the condition takes when each of them goes well.
func (w *Site) Plan(condition string) ([]string, error) {
	return w.process().Plan(w.t.Context(), w.store.Current().Status(Node, condition, ""))
}

// Start runs Aegis. The returned function stops it.
func (w *Site) Start() (stop func()) {
	d := w.process()
	ctx, cancel := context.WithCancelCause(w.t.Context())
	ended := make(chan error, 1)
	settled := w.resynced(ctx)
	go func() { ended <- d.Run(ctx) }()
	w.Dispatcher = d
	return func() {
		w.t.Helper()
		cancel(sop.ErrStopping)
		settled()
		require.ErrorIs(w.t, <-ended, sop.ErrStopping)
	}
}

// Raise begins a fault with its alert, as a rule of the site would word it.
func (w *Site) Raise(condition, device string, xid int) prom.Key {
	w.t.Helper()
	known, found := w.store.Current().Lookup(condition)
	require.True(w.t, found, condition)
	alert := prom.Alert{
		Labels: map[string]string{"alertname": condition, "node": Node}, State: prom.StateFiring, StartsAt: time.Now(),
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
	o, err := w.classifier.Classify(alert)
	require.NoError(w.t, err)
	key := o.Status.Key()
	w.Cluster.Do(func() {
		w.faults[key], w.firing[key] = true, alert
		w.Cluster.Hold(key, true)
		if condition == "NodeNotReady" {
			w.Cluster.Silent(Node)
		}
	})
	if w.resync == nil {
		w.Queue.Observe(o)
	}
	return key
}

// End ends a fault, and its alert with it.
func (w *Site) End(key prom.Key) { w.Cluster.Do(func() { w.end(key) }) }

func (w *Site) end(key prom.Key) {
	w.faults[key] = false
	if key.Condition == "NodeNotReady" {
		w.Cluster.Edit(Node, func(n *corev1.Node) { soptest.SetReady(n, true) })
	}
	w.silence(key)
}

// silence ends the alert of a fault.
func (w *Site) silence(key prom.Key) {
	alert, fires := w.firing[key]
	delete(w.firing, key)
	if !fires {
		return
	}
	w.Cluster.Hold(key, false)
	alert.EndsAt = time.Now()
	o, err := w.classifier.Classify(alert)
	if err != nil {
		w.t.Error(err)
	}
	if w.resync == nil {
		w.Queue.Observe(o)
	}
}

// read takes the steps of a ticket into the journal.
func (w *Site) read(t *ticket.Ticket) {
	if t == nil {
		return
	}
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
	if w.written != nil {
		w.written(t)
	}
}

// endWorkload lets the workload of the node end by itself.
func (w *Site) endWorkload() {
	for _, pod := range w.workload() {
		w.Cluster.DeletePod(pod.Namespace, pod.Name)
	}
}

// workload lists the pods of the node that are no part of it.
func (w *Site) workload() []*corev1.Pod {
	return slices.DeleteFunc(w.Cluster.PodsOn(Node), func(p *corev1.Pod) bool { return p.Namespace != "site" })
}

// Record reads the node.
func (w *Site) Record() (r ticket.Record) {
	w.Cluster.Do(func() { r = ticket.ReadNode(w.Cluster.Nodes[Node]) })
	return r
}

// Await lets virtual time pass until the record is as wanted.
func (w *Site) Await(what string, until func(ticket.Record) bool) {
	w.t.Helper()
	for began := time.Now(); !until(w.Record()); time.Sleep(w.timing.Hold) {
		if time.Since(began) > timeout {
			require.Fail(w.t, "nothing more happens", "waited for %q\nsteps: %s\nannotations: %v\nverdicts: %+v",
				what, w.Steps(), w.Record().Node.Annotations, w.verdicts.Node(Node))
		}
	}
}

// Over reports whether the last incident has ended: it is closed, or with people.
func (w *Site) Over(r ticket.Record) bool {
	if r.Ticket != nil {
		return !r.Ticket.Owned()
	}
	return len(r.History.Incidents) > len(w.story.History)
}

// Steps returns the journal of the last ticket in words. Steps that went well are only named.
func (w *Site) Steps() string {
	w.Cluster.Lock()
	defer w.Cluster.Unlock()
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

// Outcome returns how the incidents ended, in words.
func (w *Site) Outcome() string {
	r := w.Record()
	var ends []string
	for _, i := range r.History.Incidents[len(w.story.History):] {
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

// Inspect makes sure that the node is as the end of its incident says.
func (w *Site) Inspect() {
	w.t.Helper()
	r := w.Record()
	require.NoError(w.t, r.Broken)
	require.NoError(w.t, r.HistoryBroken)
	w.Cluster.Lock()
	defer w.Cluster.Unlock()
	cordoned := slices.ContainsFunc(w.journal, func(s step) bool { return s.action == ticket.Cordon })
	switch {
	case r.Ticket == nil:
		require.False(w.t, r.Node.Spec.Unschedulable, "a node whose incident is closed is in service")
		require.Empty(w.t, r.Node.Annotations[ticket.OwnerAnnotation])
		require.Empty(w.t, r.Node.Spec.Taints)
		require.True(w.t, soptest.Ready(r.Node))
	case cordoned:
		require.True(w.t, r.Node.Spec.Unschedulable, "people decide when the node returns")
	}
	drained := slices.ContainsFunc(w.journal, func(s step) bool { return s.action == ticket.Drain || s.action == ticket.DrainGPU })
	require.True(w.t, drained || w.evicted == 0, "pods are evicted by the steps that say so")
}

// Untouched reports whether nothing was written about the node, nor done to it. Its marks do not count.
func (w *Site) Untouched() bool {
	r := w.Record()
	return w.Steps() == "" && r.Ticket == nil && len(r.History.Incidents) == len(w.story.History) &&
		r.Node.Annotations[ticket.OwnerAnnotation] == "" && w.Evicted() == 0 && len(w.Ordered()) == 0
}

// Evicted returns how many pods were evicted.
func (w *Site) Evicted() (n int) {
	w.Cluster.Do(func() { n = w.evicted })
	return n
}

// Ordered lists the operations that were asked for.
func (w *Site) Ordered() (orders []string) {
	w.Cluster.Do(func() { orders = slices.Clone(w.orders) })
	return orders
}

// Verdict returns the last decision on a condition.
func (w *Site) Verdict(condition string) policy.Verdict {
	for _, d := range w.verdicts.Node(Node) {
		if d.Condition == condition {
			return d.Verdict
		}
	}
	return policy.Verdict{}
}

// write puts the text into a file of the test, and returns its name.
func write(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}
