package sop

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"aegis.io/aegis/ticket"
)

// podTarget is the pod that a step has chosen: its namespace and name, and its UID.
type podTarget struct{ name, uid string }

// RestartPod deletes the one pod on the node that the selector finds, such as the node's device plugin, and waits until its
// successor is ready and the resource, if one is named, is wholly allocatable again. It fails when there is not exactly one
// pod, or no successor in time. Whether a resource that stays short is a fault, the condition's own alert tells.
func (b *ApiBridge) RestartPod(ctx context.Context, selector string, resource corev1.ResourceName) error {
	r := podRestart{machine: b.operations.machine, selector: selector, resource: resource}
	return b.do(ctx, step{action: ticket.RestartPod, detail: selector, gated: true, prepare: r.choose, act: func(ctx context.Context, c call) (outcome, error) {
		r.chosen = c.target
		r.time = c.time
		var missing string
		r.permitted = c.admitted
		err := c.time.watch(ctx, b.status.Policy.RemedyDeadline, func(ctx context.Context, late bool) (bool, error) {
			var err error
			missing, err = r.advance(ctx, c.began)
			var failure *StepError
			var denied *deniedError
			switch {
			case errors.As(err, &denied):
				return false, denied.error
			case errors.As(err, &failure):
				return false, err
			case ctx.Err() != nil:
				return false, context.Cause(ctx)
			case err != nil:
				missing = err.Error()
			}
			if missing != "" && late && !r.replaced {
				return false, failed("not done within the deadline: %s", missing)
			}
			return missing == "" || late, nil
		})
		return outcome{message: strings.TrimSuffix("restarted "+r.chosen.name+", "+missing, ", ")}, err
	}})
}

// deniedError is why a step may not go on.
type deniedError struct{ error }

// podRestart replaces a pod that a controller keeps on the node.
type podRestart struct {
	*machine
	time     *permittedTime
	selector string
	resource corev1.ResourceName
	// chosen is the pod to replace, as it was journaled before it was touched. Clocks need not agree for telling it from its
	// successor.
	chosen podTarget
	// permitted is when a permission was given that has not been used.
	permitted time.Time
	// replaced is true once the successor is ready.
	replaced bool
}

// pods lists those of the selector that have not finished.
func (r *podRestart) pods(ctx context.Context) ([]corev1.Pod, error) {
	list, err := r.services.Kube.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("spec.nodeName", r.node).String(),
		LabelSelector: r.selector,
	})
	if err != nil {
		return nil, fmt.Errorf("list pods %s: %w", r.selector, err)
	}
	return slices.DeleteFunc(list.Items, func(p corev1.Pod) bool {
		return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	}), nil
}

// choose finds the pod to replace.
func (r *podRestart) choose(ctx context.Context) (chosen podTarget, err error) {
	q := r.question(r.status.Policy.RemedyDeadline)
	err = r.poll(ctx, func(ctx context.Context) (bool, error) {
		pods, err := r.pods(ctx)
		if err != nil {
			if ended := q.unanswered(ctx, err); !errors.Is(ended, errNoAnswer) {
				return false, ended
			}
			return false, failed("cannot tell which pod to restart: %v", err)
		}
		q.answered()
		switch {
		case len(pods) == 0:
			return false, failed("no pod matches %s", r.selector)
		case len(pods) > 1:
			return false, failed("%d pods match %s: %s", len(pods), r.selector, podNames(pods))
		}
		chosen = podTarget{name: pods[0].Namespace + "/" + pods[0].Name, uid: string(pods[0].UID)}
		return true, nil
	})
	return chosen, err
}

// advance deletes the chosen pod, and says what is missing until its successor does its work.
// The permission is good for one order: whoever does not know what became of it asks again.
func (r *podRestart) advance(ctx context.Context, began time.Time) (missing string, err error) {
	pods, err := r.pods(ctx)
	switch {
	case err != nil:
		return "", err
	case len(pods) > 1:
		return fmt.Sprintf("%d pods match %s: %s", len(pods), r.selector, podNames(pods)), nil
	case len(pods) == 0:
		return "the successor of the pod is not there", nil
	}
	pod := &pods[0]
	switch {
	case !r.old(pod, began):
		return r.incomplete(ctx, pod)
	case pod.DeletionTimestamp != nil:
		return "the pod has not ended", nil
	}
	if r.services.Clock.Since(r.permitted) > permissionAge {
		if err := r.time.admit(ctx); err != nil {
			return "", &deniedError{err}
		}
	}
	r.permitted = time.Time{}
	return "the pod has not ended", r.delete(ctx, pod)
}

// old tells the chosen pod from its successor. If the journal has left out which one it was, its age has to do; the API server's
// times have a resolution of a second.
func (r *podRestart) old(pod *corev1.Pod, began time.Time) bool {
	if r.chosen.uid != "" {
		return string(pod.UID) == r.chosen.uid
	}
	return pod.CreationTimestamp.Time.Before(began.Truncate(time.Second))
}

func (r *podRestart) delete(ctx context.Context, pod *corev1.Pod) error {
	if pod.DeletionTimestamp != nil {
		return nil
	}
	err := r.services.Kube.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name,
		metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pod.UID}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// incomplete says why the new pod does not do its work yet.
func (r *podRestart) incomplete(ctx context.Context, pod *corev1.Pod) (string, error) {
	ready := slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
	if !ready {
		return fmt.Sprintf("pod %s/%s is not ready", pod.Namespace, pod.Name), nil
	}
	r.replaced = true
	if r.resource == "" {
		return "", nil
	}
	node, err := r.liveNode(ctx)
	if err != nil {
		return "", err
	}
	capacity, allocatable := node.Status.Capacity[r.resource], node.Status.Allocatable[r.resource]
	if capacity.IsZero() || capacity.Cmp(allocatable) != 0 {
		return fmt.Sprintf("%s of %s %s are allocatable", allocatable.String(), capacity.String(), r.resource), nil
	}
	return "", nil
}
