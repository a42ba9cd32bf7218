package soptest

import (
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// HeldLabel is on pods that a disruption budget holds.
	HeldLabel = "held"
	// RestartPod is the operation that a fault may be fixed by when the DaemonSet has replaced its pod.
	RestartPod = "restartpod"
)

// NewPod returns a pod that runs on the node and uses so many of its GPUs.
func NewPod(namespace, name, node string, gpus int64) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, UID: types.UID(name), Labels: make(map[string]string)},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "main"}}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
	if gpus > 0 {
		pod.Spec.Containers[0].Resources.Limits = GPUs(gpus)
	}
	return pod
}

// AddPod stores a pod, in place of the one of its name if there is one.
func (c *Cluster) AddPod(pod *corev1.Pod) {
	c.held()
	c.Pods[podKey(pod.Namespace, pod.Name)] = pod
}

// DeletePod lets a pod go, as the end of its work does.
func (c *Cluster) DeletePod(namespace, name string) {
	c.held()
	delete(c.Pods, podKey(namespace, name))
}

// HoldPod has a disruption budget hold a pod, or let it go.
func (c *Cluster) HoldPod(namespace, name string, held bool) {
	c.held()
	pod := c.Pods[podKey(namespace, name)]
	if pod == nil {
		return
	}
	pod = pod.DeepCopy()
	if pod.Labels == nil {
		pod.Labels = make(map[string]string)
	}
	if pod.Labels[HeldLabel] = "budget"; !held {
		delete(pod.Labels, HeldLabel)
	}
	c.AddPod(pod)
}

// PodsOn returns the pods of the node, sorted by namespace and name.
func (c *Cluster) PodsOn(node string) []*corev1.Pod {
	c.held()
	var pods []*corev1.Pod
	for _, key := range slices.Sorted(maps.Keys(c.Pods)) {
		if pod := c.Pods[key]; pod.Spec.NodeName == node {
			pods = append(pods, pod)
		}
	}
	return pods
}

func podKey(namespace, name string) string { return namespace + "/" + name }

// Daemon is what a DaemonSet keeps on a node, and how it fares there.
type Daemon struct {
	// Labels are those of its pods.
	Labels map[string]string
	// Pods is how many there are; one is as it should be.
	Pods int
	// Unready successors never become ready, late ones never come.
	Unready, Late bool
}

// startDaemon makes a pod of the node's DaemonSet.
func (c *Cluster) startDaemon(node string, ready bool) {
	c.version++
	name := fmt.Sprint(node, "-daemon-", c.version)
	isController, status := true, corev1.ConditionTrue
	if !ready {
		status = corev1.ConditionFalse
	}
	c.AddPod(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: "kube-system", UID: types.UID(name), Labels: c.Daemons[node].Labels,
			CreationTimestamp: metav1.NewTime(time.Now().Truncate(time.Second)),
			OwnerReferences:   []metav1.OwnerReference{{Kind: "DaemonSet", Name: "daemon", Controller: &isController}},
		},
		Spec: corev1.PodSpec{NodeName: node},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: status}},
		},
	})
}

// ReplacePod has the DaemonSet of a node replace its pod that was deleted.
func (c *Cluster) ReplacePod(node string) {
	daemon := c.Daemons[node]
	if daemon.Late {
		return
	}
	c.Later(c.span("plugin "+node, c.options.Pace.PodStart), func() {
		if c.Nodes[node] == nil {
			return
		}
		c.startDaemon(node, !daemon.Unready)
		if daemon.Unready {
			return
		}
		c.Fix(node, RestartPod)
		if c.Observer.PodReplaced != nil {
			c.Observer.PodReplaced(node)
		}
	})
}

// isDaemon reports whether a DaemonSet keeps the pod.
func isDaemon(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.OwnerReferences, func(o metav1.OwnerReference) bool { return o.Kind == "DaemonSet" })
}
