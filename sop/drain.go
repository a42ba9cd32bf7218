package sop

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/ticket"
)

const (
	// evictionMinDelay and evictionMaxDelay bound how long a pod whose eviction was refused is left alone.
	evictionMinDelay = 100 * time.Millisecond
	evictionMaxDelay = 10 * time.Second
	// evictionBurst is how many evictions one pass over a node may ask for; the rest waits for the next pass.
	evictionBurst = 20
	// namedPods is how many pods a message names.
	namedPods = 3
)

// Drain evicts all pods from the node, except those that belong to the node itself. It fails at the deadline: a node from
// which pods do not go is not drained, and the message names the pods and the disruption budgets that hold them.
func (b *ApiBridge) Drain(ctx context.Context) error {
	return b.clears(clearance{anyPod, b.Drain, true}, b.drain(ctx, ticket.Drain, anyPod))
}

// DrainGPU evicts the pods that hold a GPU of the node.
func (b *ApiBridge) DrainGPU(ctx context.Context) error {
	return b.clears(clearance{holdsGPU, b.DrainGPU, false}, b.drain(ctx, ticket.DrainGPU, holdsGPU))
}

// ClearWorkload does with the node's pods what the policy of the condition says. Once done it is not repeated: nothing new
// is scheduled onto a cordoned node.
func (b *ApiBridge) ClearWorkload(ctx context.Context) error {
	if b.drained {
		return nil
	}
	var err error
	switch b.status.Policy.Workload {
	case prom.WorkloadDrain:
		err = b.Drain(ctx)
	case prom.WorkloadDrainGPU:
		err = b.DrainGPU(ctx)
	case prom.WorkloadWaitIdle:
		err = b.WaitIdle(ctx)
	}
	b.drained = err == nil
	return err
}

func (b *ApiBridge) drain(ctx context.Context, action ticket.Action, wanted func(*corev1.Pod) bool) error {
	d := drainer{machine: b.operations.machine, wanted: wanted, refusals: make(map[types.UID]*refusal)}
	return b.do(ctx, step{action: action, gated: true, act: d.run})
}

// drainer evicts the pods of one node, pass by pass.
type drainer struct {
	*machine
	wanted  func(*corev1.Pod) bool
	evicted int
	// left are the pods that the last pass found on the node.
	left     []corev1.Pod
	refusals map[types.UID]*refusal
}

// refusal is the last answer to an eviction that was not carried out.
type refusal struct {
	reason string
	delay  time.Duration
	next   time.Time
}

// run evicts the pods until none is left, or the deadline has passed.
func (d *drainer) run(ctx context.Context, c call) (outcome, error) {
	age := permissionAge
	err := c.time.poll(ctx, d.status.Policy.DrainDeadline, func(ctx context.Context, late bool) (bool, error) {
		// The permission is asked for before each pass: a silence, a person or the end of the fault stops the eviction.
		if err := d.permit(ctx, &c, age); err != nil {
			return false, err
		}
		age = 0
		left, err := d.pass(ctx, &c)
		var denied *deniedError
		if errors.As(err, &denied) {
			return false, denied.error
		}
		if err == nil && left == 0 {
			return true, nil
		}
		if late {
			return false, d.giveUp(ctx, err)
		}
		return false, nil
	})
	return outcome{message: fmt.Sprintf("evicted %d pods", d.evicted)}, err
}

// permit asks for permission unless the one that was given is no older than that.
func (d *drainer) permit(ctx context.Context, c *call, age time.Duration) error {
	if d.services.Clock.Since(c.admitted) <= age {
		return nil
	}
	err := c.time.admit(ctx)
	c.admitted = d.services.Clock.Now()
	return err
}

// pass asks for the eviction of the pods that are left, the critical ones only when no others are, and returns how many
// pods there are.
func (d *drainer) pass(ctx context.Context, c *call) (int, error) {
	pods, err := d.workloadPods(ctx, d.wanted)
	if err != nil {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		return 0, err
	}
	d.left = pods
	budget := evictionBurst
	for i := range pods {
		pod := &pods[i]
		if budget == 0 || isCritical(pod) && !isCritical(&pods[0]) {
			break
		}
		if pod.DeletionTimestamp != nil || d.resting(pod) {
			continue
		}
		budget--
		// The list, or the evictions before, may have taken long.
		if err := d.permit(ctx, c, permissionAge); err != nil {
			return len(pods), &deniedError{err}
		}
		if err := d.evict(ctx, pod); err != nil {
			return len(pods), err
		}
	}
	return len(pods), nil
}

func (d *drainer) resting(pod *corev1.Pod) bool {
	r := d.refusals[pod.UID]
	return r != nil && d.services.Clock.Now().Before(r.next)
}

// evict asks the API server to evict the pod. A refusal is remembered, so that the pod is left alone for a while.
func (d *drainer) evict(ctx context.Context, pod *corev1.Pod) error {
	eviction := &policyv1.Eviction{
		ObjectMeta:    metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace},
		DeleteOptions: &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pod.UID}},
	}
	err := d.services.Kube.PolicyV1().Evictions(pod.Namespace).Evict(ctx, eviction)
	switch {
	case err == nil:
		d.evicted++
		delete(d.refusals, pod.UID)
		d.logger.InfoContext(ctx, "pod evicted", "pod", pod.Namespace+"/"+pod.Name)
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		// It is gone, or another pod has its name now.
	case ctx.Err() != nil:
		return context.Cause(ctx)
	default:
		d.refuse(pod, err)
	}
	return nil
}

func (d *drainer) refuse(pod *corev1.Pod, err error) {
	r := d.refusals[pod.UID]
	if r == nil {
		r = &refusal{delay: evictionMinDelay / 2}
		d.refusals[pod.UID] = r
	}
	r.delay = min(2*r.delay, evictionMaxDelay)
	r.next = d.services.Clock.Now().Add(r.delay)
	r.reason = err.Error()
}

// giveUp says which pods are left and what holds them.
func (d *drainer) giveUp(ctx context.Context, err error) error {
	if err != nil {
		return failed("the pods of the node cannot be listed: %v", err)
	}
	var held []string
	for i := range d.left[:min(len(d.left), namedPods)] {
		held = append(held, d.why(ctx, &d.left[i]))
	}
	if more := len(d.left) - len(held); more > 0 {
		held = append(held, fmt.Sprintf("and %d more", more))
	}
	return failed("%d pods remain at the deadline: %s", len(d.left), strings.Join(held, "; "))
}

// why names a pod and what keeps it.
func (d *drainer) why(ctx context.Context, pod *corev1.Pod) string {
	name := pod.Namespace + "/" + pod.Name
	if pod.DeletionTimestamp != nil {
		return name + " does not end"
	}
	budgets, err := d.budgetsOf(ctx, pod)
	switch {
	case err != nil:
		d.logger.WarnContext(ctx, "disruption budgets not read", "pod", name, "err", err)
	case len(budgets) > 0:
		return fmt.Sprintf("%s is held by PodDisruptionBudget %s", name, strings.Join(budgets, ", "))
	}
	if r := d.refusals[pod.UID]; r != nil {
		return name + ": " + r.reason
	}
	return name + " waits for other pods"
}

// budgetsOf names the PodDisruptionBudgets that select the pod and allow no disruption.
func (d *drainer) budgetsOf(ctx context.Context, pod *corev1.Pod) ([]string, error) {
	list, err := d.services.Kube.PolicyV1().PodDisruptionBudgets(pod.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var names []string
	for i := range list.Items {
		pdb := &list.Items[i]
		selector, err := metav1.LabelSelectorAsSelector(pdb.Spec.Selector)
		if err != nil {
			return nil, fmt.Errorf("PodDisruptionBudget %s: %w", pdb.Name, err)
		}
		if selector.Matches(labels.Set(pod.Labels)) && pdb.Status.DisruptionsAllowed == 0 {
			names = append(names, pdb.Name)
		}
	}
	return names, nil
}

// isWorkload reports whether the pod is to leave a node that is drained. Pods that are part of the node stay: static pods,
// those of DaemonSets, which would only come back, and our own operations. Pods that have finished do not count. Anybody may give a pod
// the labels of an operation, but only those who may make one in the namespace of the Jobs are trusted there.
func isWorkload(pod *corev1.Pod, jobs string) bool {
	if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return false
	}
	if _, static := pod.Annotations[corev1.MirrorPodAnnotationKey]; static {
		return false
	}
	owner := metav1.GetControllerOfNoCopy(pod)
	if owner != nil && owner.Kind == "DaemonSet" {
		return false
	}
	operation := pod.Labels["app.kubernetes.io/name"] == ticket.Self && pod.Labels["app.kubernetes.io/component"] == "op"
	ordered := owner != nil && owner.Kind == "Job" && strings.HasPrefix(owner.Name, ticket.Self+"-")
	return !operation || !ordered || pod.Namespace != jobs
}

func anyPod(*corev1.Pod) bool { return true }

// holdsGPU reports whether a GPU is allocated to the pod.
func holdsGPU(pod *corev1.Pod) bool {
	containers := slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers)
	return slices.ContainsFunc(containers, func(c corev1.Container) bool {
		for name, quantity := range c.Resources.Limits {
			if isGPU(name) && !quantity.IsZero() {
				return true
			}
		}
		return false
	})
}

// isGPU knows the extended resources of the vendors' device plugins, slices of a GPU included.
func isGPU(name corev1.ResourceName) bool {
	vendor, device, found := strings.Cut(string(name), "/")
	if !found {
		return false
	}
	return vendor == "nvidia.com" || strings.HasPrefix(device, "gpu")
}

// isCritical reports whether the cluster itself depends on the pod.
func isCritical(pod *corev1.Pod) bool {
	return pod.Spec.PriorityClassName == "system-cluster-critical" || pod.Spec.PriorityClassName == "system-node-critical"
}

func podNames(pods []corev1.Pod) string {
	var names []string
	for i := range pods[:min(len(pods), namedPods)] {
		names = append(names, pods[i].Namespace+"/"+pods[i].Name)
	}
	if more := len(pods) - len(names); more > 0 {
		names = append(names, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(names, ", ")
}
