package nodesim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"aegis.io/aegis/e2e/cluster"
)

// frozenAnnotation marks the pods of a host without a working kubelet: kwok leaves them as they are.
const frozenAnnotation = "e2e.aegis.io/frozen"

// vitals is what a kubelet knows of its host at one moment.
type vitals struct {
	alive, ready                   bool
	memoryPressure, diskPressure   bool
	bootID                         string
	capacity, allocatable, adapter int64
}

func (h *host) vitals() vitals {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := vitals{
		alive:          h.kubeletLocked(),
		ready:          !h.hasLocked(NotReady),
		memoryPressure: h.hasLocked(MemoryPressure),
		diskPressure:   h.hasLocked(DiskPressure),
		bootID:         h.bootID,
		capacity:       int64(h.gpus),
		adapter:        int64(h.hcas),
	}
	for gpu := range h.gpus {
		if !h.gpuGoneLocked(gpu) {
			v.allocatable++
		}
	}
	if h.hasLocked(DevicePluginDown) {
		v.allocatable = 0
	}
	if h.hasLocked(IBLost) && v.adapter > 0 {
		v.adapter--
	}
	return v
}

// reconcile brings what the API server says of a node closer to what is.
func (s *Sim) reconcile(ctx context.Context, name string) error {
	node, err := s.nodes.Get(name)
	if apierrors.IsNotFound(err) {
		return s.forget(name)
	}
	if err != nil {
		return err
	}
	h := s.resume(node)
	v := h.vitals()
	pods := s.podsOn(name)
	if !v.alive {
		return s.freeze(ctx, pods, true)
	}
	h.noticePlugins(pods)
	return errors.Join(
		s.reportStatus(ctx, node, v),
		s.renewLease(ctx, node),
		s.syncOps(ctx, h, pods),
		s.freeze(ctx, pods, false),
	)
}

func (s *Sim) podsOn(node string) []*corev1.Pod {
	objects, err := s.pods.ByIndex(byNode, node)
	if err != nil {
		s.log.Error("no index of pods", "err", err)
		return nil
	}
	pods := make([]*corev1.Pod, 0, len(objects))
	for _, o := range objects {
		if p, ok := o.(*corev1.Pod); ok {
			pods = append(pods, p)
		}
	}
	return pods
}

// nodePatch is the part of a Node that a kubelet writes.
type nodePatch struct {
	Status struct {
		Conditions  []corev1.NodeCondition `json:"conditions"`
		NodeInfo    corev1.NodeSystemInfo  `json:"nodeInfo"`
		Capacity    corev1.ResourceList    `json:"capacity,omitempty"`
		Allocatable corev1.ResourceList    `json:"allocatable,omitempty"`
	} `json:"status"`
}

// reportStatus writes the status when it has changed; the Lease says the rest of the time that the kubelet lives.
func (s *Sim) reportStatus(ctx context.Context, node *corev1.Node, v vitals) error {
	conditions := wantedConditions(v)
	if current(node, v, conditions) {
		return nil
	}
	now := metav1.Now()
	for i := range conditions {
		conditions[i].LastHeartbeatTime, conditions[i].LastTransitionTime = now, now
		if old := condition(node, conditions[i].Type); old != nil && old.Status == conditions[i].Status {
			conditions[i].LastTransitionTime = old.LastTransitionTime
		}
	}
	var p nodePatch
	p.Status.Conditions = conditions
	p.Status.NodeInfo = corev1.NodeSystemInfo{
		MachineID: string(uuidFrom(node.Name)), SystemUUID: string(uuidFrom(node.Name)), BootID: v.bootID,
		KernelVersion: "6.8.0-simulated", OSImage: "Simulated Linux", ContainerRuntimeVersion: "containerd://2.2.0",
		KubeletVersion: "v1.37.2", OperatingSystem: "linux", Architecture: "amd64",
	}
	if v.capacity > 0 {
		p.Status.Capacity = corev1.ResourceList{cluster.GPUResource: count(v.capacity), cluster.RDMAResource: count(v.adapter)}
		p.Status.Allocatable = corev1.ResourceList{cluster.GPUResource: count(v.allocatable), cluster.RDMAResource: count(v.adapter)}
	}
	body, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("report status: %w", err)
	}
	_, err = s.options.Client.CoreV1().Nodes().Patch(ctx, node.Name, types.StrategicMergePatchType, body, metav1.PatchOptions{}, "status")
	if err != nil {
		return fmt.Errorf("report status: %w", err)
	}
	return nil
}

func count(n int64) resource.Quantity { return *resource.NewQuantity(n, resource.DecimalSI) }

func wantedConditions(v vitals) []corev1.NodeCondition {
	status := func(on bool) corev1.ConditionStatus {
		if on {
			return corev1.ConditionTrue
		}
		return corev1.ConditionFalse
	}
	ready := corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status"}
	if !v.ready {
		ready.Status, ready.Reason, ready.Message = corev1.ConditionFalse, "KubeletNotReady", "container runtime is down"
	}
	return []corev1.NodeCondition{
		{Type: corev1.NodeMemoryPressure, Status: status(v.memoryPressure), Reason: "Kubelet", Message: "memory of the host"},
		{Type: corev1.NodeDiskPressure, Status: status(v.diskPressure), Reason: "Kubelet", Message: "disks of the host"},
		{Type: corev1.NodePIDPressure, Status: corev1.ConditionFalse, Reason: "Kubelet", Message: "processes of the host"},
		ready,
	}
}

// current reports whether the Node says already what the kubelet would write.
func current(node *corev1.Node, v vitals, wanted []corev1.NodeCondition) bool {
	if node.Status.NodeInfo.BootID != v.bootID {
		return false
	}
	for _, w := range wanted {
		if have := condition(node, w.Type); have == nil || have.Status != w.Status || have.Reason != w.Reason {
			return false
		}
	}
	gpus, adapters := node.Status.Allocatable[cluster.GPUResource], node.Status.Allocatable[cluster.RDMAResource]
	return gpus.Value() == v.allocatable && adapters.Value() == v.adapter
}

func condition(node *corev1.Node, of corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range node.Status.Conditions {
		if node.Status.Conditions[i].Type == of {
			return &node.Status.Conditions[i]
		}
	}
	return nil
}

func (s *Sim) renewLease(ctx context.Context, node *corev1.Node) error {
	now := metav1.NowMicro()
	leases := s.options.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	body, err := json.Marshal(map[string]map[string]metav1.MicroTime{"spec": {"renewTime": now}})
	if err != nil {
		return fmt.Errorf("renew lease: %w", err)
	}
	_, err = leases.Patch(ctx, node.Name, types.MergePatchType, body, metav1.PatchOptions{})
	if !apierrors.IsNotFound(err) {
		return err
	}
	_, err = leases.Create(ctx, &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{
			Name:            node.Name,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}},
		},
		Spec: coordinationv1.LeaseSpec{
			HolderIdentity:       new(node.Name),
			LeaseDurationSeconds: new(int32(s.options.LeaseDuration / time.Second)),
			RenewTime:            &now,
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create lease: %w", err)
	}
	return nil
}

// freeze marks the pods that no kubelet looks after, or takes the mark away.
func (s *Sim) freeze(ctx context.Context, pods []*corev1.Pod, frozen bool) error {
	var errs []error
	for _, p := range pods {
		if _, marked := p.Annotations[frozenAnnotation]; marked == frozen || isOp(p) {
			continue
		}
		value := "null"
		if frozen {
			value = `"true"`
		}
		body := fmt.Sprintf(`{"metadata":{"uid":%q,"annotations":{%q:%s}}}`, p.UID, frozenAnnotation, value)
		_, err := s.options.Client.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.MergePatchType, []byte(body), metav1.PatchOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("freeze pod: %w", err))
		}
	}
	return errors.Join(errs...)
}

// pluginSelector returns the label of the pods that are a unit, nil for a unit that is none.
func pluginSelector(unit string) labels.Set {
	switch unit {
	case devicePlugin:
		return labels.Set{"name": devicePlugin}
	case dcgmExporter:
		return labels.Set{"app.kubernetes.io/name": dcgmExporter}
	}
	return nil
}

// noticePlugins fixes the fault of a plugin whose pod is a new one.
func (h *host) noticePlugins(pods []*corev1.Pod) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, unit := range []string{devicePlugin, dcgmExporter} {
		selector := labels.SelectorFromSet(pluginSelector(unit))
		for _, p := range pods {
			if selector.Matches(labels.Set(p.Labels)) && p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning {
				h.dropLocked("fixed by a new pod of "+unit, func(f ActiveFault) bool {
					return f.unit == unit && f.FixedBy == FixedByRestart && !f.before[p.UID]
				})
			}
		}
	}
}
