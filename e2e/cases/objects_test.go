package cases

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/util/retry"

	"aegis.io/aegis/e2e/cluster"
	"aegis.io/aegis/e2e/testenv"
)

const (
	namespace = corev1.NamespaceDefault
	// stuckLabel keeps a pod that was deleted from ending.
	stuckLabel = "e2e.aegis.io/stuck"
)

// edit changes the node as a person does.
func (n node) edit(change func(*corev1.Node)) {
	n.t.Helper()
	client := n.env.Cluster.Client().CoreV1().Nodes()
	require.NoError(n.t, retry.RetryOnConflict(retry.DefaultRetry, func() error {
		object, err := client.Get(n.t.Context(), n.name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		change(object)
		_, err = client.Update(n.t.Context(), object, metav1.UpdateOptions{})
		return err
	}))
}

func annotate(n *corev1.Node, key, value string) {
	if n.Annotations == nil {
		n.Annotations = make(map[string]string)
	}
	n.Annotations[key] = value
}

// pod runs a pod on the node, with a label app of its name.
func (n node) pod(name string, labels map[string]string) *corev1.Pod {
	n.t.Helper()
	return n.start(n.podObject(name, labels))
}

// gpuPod runs a pod on the node that holds a GPU.
func (n node) gpuPod(name string) *corev1.Pod {
	n.t.Helper()
	object := n.podObject(name, nil)
	object.Spec.Containers[0].Resources.Limits = corev1.ResourceList{cluster.GPUResource: resource.MustParse("1")}
	return n.start(object)
}

func (n node) podObject(name string, labels map[string]string) *corev1.Pod {
	object := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name + "-" + n.name, Namespace: namespace, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			NodeName:                      n.name,
			TerminationGracePeriodSeconds: new(int64(1)),
			Tolerations:                   []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			Containers:                    []corev1.Container{{Name: "c", Image: "example/app:1"}},
		},
	}
	for key, value := range labels {
		object.Labels[key] = value
	}
	return object
}

// start creates the pod and waits until it runs.
func (n node) start(object *corev1.Pod) *corev1.Pod {
	n.t.Helper()
	client := n.env.Cluster.Client().CoreV1().Pods(namespace)
	created, err := client.Create(n.t.Context(), object, metav1.CreateOptions{})
	require.NoError(n.t, err)
	require.Eventually(n.t, func() bool {
		now, err := client.Get(n.t.Context(), created.Name, metav1.GetOptions{})
		return err == nil && now.Status.Phase == corev1.PodRunning
	}, within, tick)
	return created
}

// exists reports whether the pod is still there.
func exists(t *testing.T, pod *corev1.Pod) bool {
	t.Helper()
	now, err := shared.Cluster.Client().CoreV1().Pods(pod.Namespace).Get(t.Context(), pod.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false
	}
	require.NoError(t, err)
	return now.UID == pod.UID
}

// release lets a stuck pod end.
func release(t *testing.T, l *testenv.Environment, pod *corev1.Pod) {
	t.Helper()
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]any{stuckLabel: nil}}})
	require.NoError(t, err)
	_, err = l.Cluster.Client().CoreV1().Pods(pod.Namespace).
		Patch(t.Context(), pod.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	require.NoError(t, err)
}

// budget allows no disruption of the pods of that name.
func (n node) budget(name string) {
	n.t.Helper()
	object := &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace},
		Spec: policyv1.PodDisruptionBudgetSpec{
			MinAvailable: new(intstr.FromInt32(1)),
			Selector:     &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}},
		},
	}
	client := n.env.Cluster.Client().PolicyV1().PodDisruptionBudgets(namespace)
	_, err := client.Create(n.t.Context(), object, metav1.CreateOptions{})
	require.NoError(n.t, err)
	require.Eventually(n.t, func() bool {
		now, err := client.Get(n.t.Context(), name, metav1.GetOptions{})
		return err == nil && now.Status.ExpectedPods == 1
	}, within, tick)
}

// devicePlugin keeps a device plugin on the node, as its DaemonSet does.
func (n node) devicePlugin() {
	n.t.Helper()
	first := n.pod("plugin", map[string]string{"name": "nvidia-device-plugin-ds"})
	// The pod is to be older than the procedure that restarts it.
	time.Sleep(time.Until(first.CreationTimestamp.Add(2 * time.Second)))
	done := make(chan error, 1)
	go func() {
		client := n.env.Cluster.Client().CoreV1().Pods(namespace)
		for {
			_, err := client.Get(n.t.Context(), first.Name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				break
			}
			if err != nil {
				done <- err
				return
			}
			time.Sleep(tick)
		}
		next := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: first.Name, Namespace: namespace, Labels: first.Labels}, Spec: first.Spec}
		_, err := client.Create(n.t.Context(), next, metav1.CreateOptions{})
		done <- err
	}()
	n.t.Cleanup(func() { require.NoError(n.t, <-done) })
}
