package soptest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"aegis.io/aegis/rules/prom"
)

// GPU is the resource that the devices of a node are offered as.
const GPU = "nvidia.com/gpu"

// The managers of a node's fields.
const (
	// ManagerPerson is kubectl, or whoever else is not Aegis.
	ManagerPerson = "kubectl"
	// ManagerAegis is the code under test.
	ManagerAegis = "aegis"
)

// NewNode returns a node that is ready, is on its first boot, and has a UID of its own.
func NewNode(name string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name), ResourceVersion: "1"},
		Status: corev1.NodeStatus{
			NodeInfo:   corev1.NodeSystemInfo{BootID: "boot-0"},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}
}

// GPUs returns that many GPUs as a node offers them or a container asks for them.
func GPUs(n int64) corev1.ResourceList {
	return corev1.ResourceList{GPU: *resource.NewQuantity(n, resource.DecimalSI)}
}

// Ready reports whether the kubelet says that the node can run pods.
func Ready(node *corev1.Node) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// SetReady sets what the kubelet says of the node: that it is ready, or nothing any more.
func SetReady(node *corev1.Node, ready bool) {
	status := corev1.ConditionTrue
	if !ready {
		status = corev1.ConditionUnknown
	}
	for i := range node.Status.Conditions {
		if node.Status.Conditions[i].Type == corev1.NodeReady {
			node.Status.Conditions[i].Status = status
			return
		}
	}
	node.Status.Conditions = append(node.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeReady, Status: status})
}

// BootAfter returns the boot ID that follows that of the node.
func BootAfter(node *corev1.Node) string { return node.Status.NodeInfo.BootID + "+" }

// AddNode puts a machine into the cluster.
func (c *Cluster) AddNode(node *corev1.Node) {
	c.Logf("world: %s is created", node.Name)
	c.put(node)
	for range c.Daemons[node.Name].Pods {
		c.startDaemon(node.Name, true)
	}
}

// AddMachine puts a machine with eight GPUs into the cluster, another one whenever the name is used again.
func (c *Cluster) AddMachine(name string, labels map[string]string) {
	if c.Nodes[name] != nil {
		return
	}
	c.version++
	node := NewNode(name)
	node.UID = types.UID(fmt.Sprint("uid-", name, "-", c.version))
	node.Labels = labels
	node.CreationTimestamp = metav1.NewTime(time.Now().Truncate(time.Second))
	node.Status.NodeInfo.BootID = fmt.Sprint("boot-", c.version)
	node.Status.Capacity, node.Status.Allocatable = GPUs(8), GPUs(8)
	c.AddNode(node)
}

// put stores a node as the API server has it now, and lets the caches know, in a while.
func (c *Cluster) put(node *corev1.Node) {
	c.held()
	before := c.Nodes[node.Name]
	c.version++
	node.ResourceVersion = fmt.Sprint(c.version)
	c.Nodes[node.Name] = node
	if _, silent := c.silentSince[node.Name]; Ready(node) {
		delete(c.silentSince, node.Name)
	} else if !silent {
		c.silentSince[node.Name] = time.Now()
	}
	for _, rule := range c.options.Rules {
		c.Hold(prom.Key{Node: node.Name, Condition: rule.Condition}, rule.Holds(node))
	}
	c.publish(node.Name)
	if c.Observer.NodeChanged != nil {
		c.Observer.NodeChanged(before, node)
	}
}

// publish sends what the API server has of the node to the caches.
func (c *Cluster) publish(name string) {
	for _, client := range c.Clients {
		if client.cache != nil && !client.Dead {
			client.cache.push(name, c.Nodes[name])
		}
	}
}

// Edit changes a node, if it is there, as a person or its kubelet does.
func (c *Cluster) Edit(name string, change func(node *corev1.Node)) {
	if c.Nodes[name] == nil {
		return
	}
	node := c.Nodes[name].DeepCopy()
	change(node)
	manage(c.Nodes[name], node, ManagerPerson)
	c.put(node)
}

// Amend changes what the API server has of a node, and nothing else: no version, no manager, and no cache hears of it. It is for
// tests of what a client does when its server is not what it should be.
func (c *Cluster) Amend(name string, change func(node *corev1.Node)) {
	c.held()
	if c.Nodes[name] == nil {
		return
	}
	node := c.Nodes[name].DeepCopy()
	change(node)
	c.Nodes[name] = node
}

// DeleteNode takes a node out of the cluster, with its pods, the Jobs on it, and all that was reported of it.
func (c *Cluster) DeleteNode(name string) {
	if c.Nodes[name] == nil {
		return
	}
	c.Logf("world: %s is deleted", name)
	for key, fault := range c.Faults {
		if key.Node == name {
			fault.Remedies = nil
			c.Hold(key, false)
		}
	}
	maps.DeleteFunc(c.Pods, func(_ string, p *corev1.Pod) bool { return p.Spec.NodeName == name })
	for _, job := range c.Jobs {
		if job.Request.Node == name {
			job.expire("the node is gone")
		}
	}
	if c.Observer.NodeDeleted != nil {
		c.Observer.NodeDeleted(c.Nodes[name])
	}
	delete(c.Nodes, name)
	delete(c.silentSince, name)
	c.publish(name)
}

// manage notes on a node who cordoned it, and who asked for a check, and when, as the API server does for every field.
func manage(before, after *corev1.Node, manager string) {
	manageField(after, `{"f:spec":{"f:unschedulable":{}}}`, manager,
		before.Spec.Unschedulable != after.Spec.Unschedulable, after.Spec.Unschedulable)
	was, is := before.Annotations[CheckAnnotation], after.Annotations[CheckAnnotation]
	manageField(after, `{"f:metadata":{"f:annotations":{"f:`+CheckAnnotation+`":{}}}}`, manager, was != is, is != "")
}

// manageField makes the manager the one who has set the field that has changed, if it is there still.
func manageField(node *corev1.Node, field, manager string, changed, there bool) {
	if !changed {
		return
	}
	of := func(e metav1.ManagedFieldsEntry) bool { return string(e.FieldsV1.GetRawBytes()) == field }
	node.ManagedFields = slices.DeleteFunc(slices.Clone(node.ManagedFields), of)
	if there {
		node.ManagedFields = append(node.ManagedFields, metav1.ManagedFieldsEntry{
			Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate, FieldsV1: metav1.NewFieldsV1(field),
			Time: new(metav1.NewTime(time.Now().Truncate(time.Second))),
		})
	}
}

// CordonManager returns who has cordoned the node, as the API server has noted it.
func CordonManager(node *corev1.Node) string {
	for _, e := range node.ManagedFields {
		if strings.Contains(string(e.FieldsV1.GetRawBytes()), "f:unschedulable") {
			return e.Manager
		}
	}
	return ""
}
