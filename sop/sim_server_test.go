package sop

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"

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

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/ticket"
)

// The API server of the simulation. It is slow, refuses requests, loses answers after it has applied the request, and is
// away. What the steps do not use is not there.

// The verbs that a call is made with.
const (
	verbGet     = "get"
	verbPatch   = "patch"
	verbObserve = "observe"
	verbCreate  = "create"
	verbEvict   = "evict"
	verbDelete  = "delete"
	verbList    = "list"
)

// simMeddler waits until a process has made a number of calls about a node, or has journaled there that a step runs.
type simMeddler struct {
	verb  string
	calls int
	step  ticket.Action
	do    func()
}

// called lets happen what waits for the call: after it was answered, and before the process can do anything about it.
func (c *cluster) called(verb, node string) {
	for _, m := range c.meddlers[node] {
		if m.verb != verb {
			continue
		}
		if m.calls--; m.calls == 0 {
			m.do()
		}
	}
}

// journaled lets happen what waits for the step that the write has begun.
func (c *cluster) journaled(before, after *corev1.Node) {
	for _, m := range c.meddlers[after.Name] {
		if m.step != "" && underway(after, m.step) && !underway(before, m.step) {
			m.step = ""
			m.do()
		}
	}
}

// underway reports whether the ticket on the node shows that a step of the action runs.
func underway(node *corev1.Node, action ticket.Action) bool {
	t := ticket.ReadNode(node).Ticket
	return t != nil && slices.ContainsFunc(t.Running(), func(s ticket.Step) bool { return s.Action == action })
}

// simMeter adds up the time that the calls of a process about a node take.
type simMeter struct {
	open  int
	since time.Time
	spans []simSpan
}

type simSpan struct{ from, to time.Time }

func (m *simMeter) enter() {
	if m.open++; m.open == 1 {
		m.since = time.Now()
	}
}

func (m *simMeter) leave() {
	if m.open--; m.open == 0 {
		m.spans = append(m.spans, simSpan{m.since, time.Now()})
	}
}

// spent returns how much of the time since then calls were under way.
func (m *simMeter) spent(since time.Time) time.Duration {
	total := time.Duration(0)
	if m.open > 0 {
		total = time.Since(latest(m.since, since))
	}
	for _, span := range slices.Backward(m.spans) {
		if !span.to.After(since) {
			break
		}
		total += span.to.Sub(latest(span.from, since))
	}
	return total
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// meter returns that of the calls about the node.
func (p *simProcess) meter(node string) *simMeter {
	if p.meters[node] == nil {
		p.meters[node] = &simMeter{}
	}
	return p.meters[node]
}

// idle returns how long the process has had no call about the node under way since then: what happens during a call, it cannot
// know before the answer.
func (p *simProcess) idle(node string, since time.Time) time.Duration {
	return time.Since(since) - p.meter(node).spent(since) - p.meter(simLease).spent(since)
}

// call makes one call to the API server, with all that can happen to it on its way. apply learns when it was sent.
func (p *simProcess) call(ctx context.Context, verb, node string, apply func(sent time.Time) error) error {
	p.mu.Lock()
	meter := p.meter(node)
	meter.enter()
	kind, sent := verb+" "+node, time.Now()
	delay := p.between(kind, time.Millisecond, 20*time.Millisecond)
	if p.chance("slow "+kind) < p.faulty.slow {
		delay += p.between("slow by "+kind, time.Second, 8*time.Second)
	}
	refused, lost := p.chance("fail "+kind) < p.faulty.failing, p.chance("lose "+kind) < p.faulty.losing
	p.mu.Unlock()
	ended := sleep(ctx, delay)
	p.mu.Lock()
	defer p.mu.Unlock()
	defer meter.leave()
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
	if p.dies(verb, node) && !p.landed {
		return errSimDead
	}
	err := apply(sent)
	p.invariants.letGo(p)
	p.called(verb, node)
	if ended != nil || lost || p.dead {
		p.logf("p%d %s: answer lost", p.id, kind)
		return cmp.Or(ended, errSimLost)
	}
	return err
}

// dies lets the process die at the write at which it is to.
func (p *simProcess) dies(verb, node string) bool {
	if verb == verbGet || verb == verbList {
		return false
	}
	if p.writes++; p.writes != p.crashAt {
		return false
	}
	p.logf("p%d dies at write %d, %s %s, landed %t", p.id, p.writes, verb, node, p.landed)
	p.dead = true
	p.stop(errSimDead)
	return true
}

// simKube is the API server as one process reaches it.
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
	err = n.p.call(ctx, verbGet, name, func(time.Time) error {
		if node = n.p.nodes[name]; node == nil {
			return apierrors.NewNotFound(corev1.Resource("nodes"), name)
		}
		return nil
	})
	return node, err
}

func (n simNodes) Patch(ctx context.Context, name string, kind types.PatchType, body []byte, _ metav1.PatchOptions, _ ...string) (
	node *corev1.Node, err error,
) {
	err = n.p.call(ctx, verbPatch, name, func(sent time.Time) error {
		if kind == types.MergePatchType {
			node, err = n.p.merge(name, body)
			return err
		}
		node, err = n.p.patch(name, body, sent)
		return err
	})
	if err == nil {
		n.p.answered(node)
	}
	return node, err
}

// patch applies a JSON patch to a node as the API server does.
func (p *simProcess) patch(name string, body []byte, sent time.Time) (*corev1.Node, error) {
	before := p.nodes[name]
	if before == nil {
		return nil, apierrors.NewNotFound(corev1.Resource("nodes"), name)
	}
	text, err := json.Marshal(before)
	if err != nil {
		return nil, err
	}
	patch, err := jsonpatch.DecodePatch(body)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if text, err = patch.Apply(text); err != nil {
		p.logf("p%d patch %s conflicts: %v", p.id, name, err)
		return nil, apierrors.NewInvalid(schema.GroupKind{Kind: "Node"}, name, nil)
	}
	after := new(corev1.Node)
	if err := json.Unmarshal(text, after); err != nil {
		return nil, err
	}
	p.invariants.written(p, before, after, sent)
	manage(before, after, "aegis")
	p.put(after)
	p.journaled(before, after)
	return after, nil
}

// merge applies the patch that marks a node.
func (p *simProcess) merge(name string, body []byte) (*corev1.Node, error) {
	before := p.nodes[name]
	if before == nil {
		return nil, apierrors.NewNotFound(corev1.Resource("nodes"), name)
	}
	text, err := json.Marshal(before)
	if err != nil {
		return nil, err
	}
	if text, err = jsonpatch.MergePatch(text, body); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	after := new(corev1.Node)
	if err := json.Unmarshal(text, after); err != nil {
		return nil, err
	}
	if after.UID != before.UID {
		return nil, apierrors.NewConflict(corev1.Resource("nodes"), name, errors.New("it is another node"))
	}
	p.invariants.marked(p, before, after)
	p.put(after)
	return after, nil
}

// manage notes on a node who cordoned it, as the API server does for every field.
func manage(before, after *corev1.Node, manager string) {
	switch {
	case before.Spec.Unschedulable == after.Spec.Unschedulable:
	case after.Spec.Unschedulable:
		fields := metav1.NewFieldsV1(`{"f:spec":{"f:unschedulable":{}}}`)
		after.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate, FieldsV1: fields}}
	default:
		after.ManagedFields = nil
	}
}

type simPods struct {
	coreclient.PodInterface
	p *simProcess
}

func (s simPods) List(ctx context.Context, o metav1.ListOptions) (list *corev1.PodList, err error) {
	field, err := fields.ParseSelector(o.FieldSelector)
	if err != nil {
		return nil, err
	}
	label, err := labels.Parse(o.LabelSelector)
	if err != nil {
		return nil, err
	}
	node, _ := field.RequiresExactMatch("spec.nodeName")
	err = s.p.call(ctx, verbList, node, func(time.Time) error {
		list = &corev1.PodList{}
		for _, name := range slices.Sorted(maps.Keys(s.p.pods)) {
			if pod := s.p.pods[name]; pod.Spec.NodeName == node && label.Matches(labels.Set(pod.Labels)) {
				list.Items = append(list.Items, *pod)
			}
		}
		return nil
	})
	return list, err
}

// Delete ends a pod of the device plugin, which its DaemonSet replaces.
func (s simPods) Delete(ctx context.Context, name string, o metav1.DeleteOptions) error {
	return s.p.call(ctx, verbDelete, s.p.nodeOf(name), func(time.Time) error {
		pod, found := s.p.pods[name]
		switch {
		case !found:
			return apierrors.NewNotFound(corev1.Resource("pods"), name)
		case o.Preconditions != nil && o.Preconditions.UID != nil && *o.Preconditions.UID != pod.UID:
			return apierrors.NewConflict(corev1.Resource("pods"), name, errors.New("another pod has the name"))
		}
		s.p.invariants.restarted(s.p, pod)
		delete(s.p.pods, name)
		s.p.restartPlugin(pod.Spec.NodeName)
		return nil
	})
}

// nodeOf returns the node of the pod, empty when there is no such pod.
func (p *simProcess) nodeOf(pod string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if found := p.pods[pod]; found != nil {
		return found.Spec.NodeName
	}
	return ""
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
	return e.p.call(ctx, verbEvict, e.p.nodeOf(eviction.Name), func(time.Time) error {
		pod, found := e.p.pods[eviction.Name]
		switch {
		case !found:
			return apierrors.NewNotFound(corev1.Resource("pods"), eviction.Name)
		case *eviction.DeleteOptions.Preconditions.UID != pod.UID:
			return apierrors.NewConflict(corev1.Resource("pods"), eviction.Name, errors.New("another pod has the name"))
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
	return &policyv1.PodDisruptionBudgetList{}, b.p.call(ctx, verbList, "", func(time.Time) error { return nil })
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

// Get returns the Lease of the election, or that of a node, which its kubelet renews while it is ready.
func (l simLeases) Get(ctx context.Context, name string, _ metav1.GetOptions) (lease *coordinationv1.Lease, err error) {
	if name == simLease {
		err = l.p.call(ctx, verbGet, simLease, func(time.Time) error {
			lease = l.p.lease.DeepCopy()
			return nil
		})
		if err == nil {
			l.p.learned(lease)
		}
		return lease, err
	}
	err = l.p.call(ctx, verbGet, name, func(time.Time) error {
		if l.p.nodes[name] == nil {
			return apierrors.NewNotFound(coordinationv1.Resource("leases"), name)
		}
		renewed := time.Now()
		if s := l.p.conditions[prom.Key{Node: name, Condition: simReady}]; s != nil && s.holds {
			renewed = s.changed
		}
		lease = &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{RenewTime: &metav1.MicroTime{Time: renewed}}}
		return nil
	})
	return lease, err
}

// learned notes since when the process knows that everything is paused. Orders that cannot be read are a pause.
func (p *simProcess) learned(lease *coordinationv1.Lease) {
	p.mu.Lock()
	defer p.mu.Unlock()
	orders, err := parseOrders(lease.Annotations)
	switch paused := err != nil || orders.Pause != nil; {
	case !paused:
		p.paused = time.Time{}
	case p.paused.IsZero():
		p.paused = time.Now()
	}
}

// Patch writes orders on the Lease of the election.
func (l simLeases) Patch(ctx context.Context, _ string, _ types.PatchType, body []byte, _ metav1.PatchOptions, _ ...string) (
	lease *coordinationv1.Lease, err error,
) {
	err = l.p.call(ctx, verbPatch, simLease, func(time.Time) error {
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
	c.putLease(lease)
	return lease.DeepCopy(), nil
}

// simJobs makes Jobs as the runner does: by their name, at most once each.
type simJobs struct{ p *simProcess }

// Ensure creates the Job or adopts it.
func (j simJobs) Ensure(ctx context.Context, r jobs.Request) (name string, created bool, err error) {
	name = r.Name()
	err = j.p.call(ctx, verbCreate, r.Node, func(time.Time) error {
		if _, found := j.p.jobs[name]; found {
			return nil
		}
		job := &simJob{request: r}
		j.p.logf("p%d Job %s of ticket %s, attempt %d on %s %v", j.p.id, r.Action, r.Incident, r.Attempt, r.Node, r.Args)
		j.p.invariants.ordered(j.p, r)
		j.p.jobs[name] = job
		created = true
		j.p.later(j.p.between("begin "+r.Node, 2*time.Second, 15*time.Second), func() { j.p.begin(job) })
		j.p.later(r.Deadline, func() { job.expire("DeadlineExceeded") })
		return nil
	})
	return name, created, err
}

// Status reads the Job.
func (j simJobs) Status(ctx context.Context, name string) (result jobs.Result, err error) {
	err = j.p.call(ctx, verbGet, name, func(time.Time) error {
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
