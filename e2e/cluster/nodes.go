package cluster

import (
	"context"
	"fmt"
	"maps"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const (
	// PoolLabel is the label that AddNodes sets to the pool of a node.
	PoolLabel = "aegis.io/pool"
	// GPUResource is the extended resource of NVIDIA's device plugin.
	GPUResource corev1.ResourceName = "nvidia.com/gpu"
	// RDMAResource is the extended resource of the shared RDMA plugin.
	RDMAResource corev1.ResourceName = "rdma/hca"
	// hcasPerNode is how many InfiniBand adapters a node with GPUs has.
	hcasPerNode = 4
	creators    = 16
)

// Node is a machine to add.
type Node struct {
	// Name is the name of the Node object, which is the host name too.
	Name string
	// Labels are added to those that a kubelet sets.
	Labels map[string]string
	// Annotations are those that it has from the start, such as a history.
	Annotations map[string]string
	// GPUs is the number of GPUs. A node with any has InfiniBand adapters as well.
	GPUs int
	// Pool is the value of PoolLabel. Empty sets none.
	Pool string
}

// AddNodes creates the Node objects. Package nodesim makes them Ready.
func (c *Cluster) AddNodes(ctx context.Context, nodes []Node) error {
	c.mu.Lock()
	first := c.nodes
	c.nodes += len(nodes)
	c.mu.Unlock()
	client, err := c.inNameOfAegis()
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(creators)
	for i, n := range nodes {
		group.Go(func() error {
			_, err := client.CoreV1().Nodes().Create(ctx, n.object(first+i), metav1.CreateOptions{})
			if err != nil {
				return fmt.Errorf("add node: %w", err)
			}
			return nil
		})
	}
	return group.Wait()
}

// inNameOfAegis returns a client that may create nodes with a past, which the admission policy refuses everybody else.
func (c *Cluster) inNameOfAegis() (kubernetes.Interface, error) {
	config := c.RESTConfig()
	config.Impersonate = rest.ImpersonationConfig{UserName: AegisUser, Groups: []string{"system:masters"}}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("connect in the name of Aegis: %w", err)
	}
	return client, nil
}

func (n Node) object(index int) *corev1.Node {
	labels := map[string]string{corev1.LabelHostname: n.Name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64"}
	maps.Copy(labels, n.Labels)
	if n.Pool != "" {
		labels[PoolLabel] = n.Pool
	}
	resources := corev1.ResourceList{
		corev1.ResourceCPU:              resource.MustParse("64"),
		corev1.ResourceMemory:           resource.MustParse("512Gi"),
		corev1.ResourceEphemeralStorage: resource.MustParse("1Ti"),
		corev1.ResourcePods:             resource.MustParse("110"),
	}
	if n.GPUs > 0 {
		resources[GPUResource] = *resource.NewQuantity(int64(n.GPUs), resource.DecimalSI)
		resources[RDMAResource] = *resource.NewQuantity(hcasPerNode, resource.DecimalSI)
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: labels, Annotations: n.Annotations},
		Status: corev1.NodeStatus{
			Capacity:    resources,
			Allocatable: resources.DeepCopy(),
			Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("10.128.%d.%d", index/250, index%250+1)},
				{Type: corev1.NodeHostName, Address: n.Name},
			},
		},
	}
}

// WaitNodesReady waits until every node is Ready and takes pods, apart from those that are cordoned.
func (c *Cluster) WaitNodesReady(ctx context.Context) error {
	waiting := "no node"
	err := wait.PollUntilContextCancel(ctx, 200*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		list, err := c.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			waiting = err.Error()
			return false, nil //nolint:nilerr // The next look may succeed; if none does, the caller reports the error.
		}
		for i := range list.Items {
			if !usable(&list.Items[i]) {
				waiting = list.Items[i].Name
				return false, nil
			}
		}
		return len(list.Items) > 0, nil
	})
	if err != nil {
		return fmt.Errorf("wait for nodes: %s: %w", waiting, err)
	}
	return nil
}

func usable(n *corev1.Node) bool {
	for _, t := range n.Spec.Taints {
		if t.Key == corev1.TaintNodeNotReady || t.Key == corev1.TaintNodeUnreachable {
			return false
		}
	}
	for _, condition := range n.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}
