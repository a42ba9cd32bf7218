package soptest

import (
	"encoding/json"
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
	// ManagerPerson is kubectl, or whoever else is not Aegis, as it cordons. ManagerAnnotator is kubectl as it annotates.
	ManagerPerson    = "kubectl"
	ManagerAnnotator = "kubectl-annotate"
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

// Edit changes a node, if it is there, as a person or its kubelet does. A person cordons with one command and annotates with another one.
func (c *Cluster) Edit(name string, change func(node *corev1.Node)) {
	c.edit(name, change, ManagerPerson, ManagerAnnotator)
}

// EditAs changes a node, if it is there, as one program does all that it does.
func (c *Cluster) EditAs(name, manager string, change func(node *corev1.Node)) {
	c.edit(name, change, manager, manager)
}

func (c *Cluster) edit(name string, change func(node *corev1.Node), cordons, annotates string) {
	if c.Nodes[name] == nil {
		return
	}
	before, node := c.Nodes[name].DeepCopy(), c.Nodes[name].DeepCopy()
	change(node)
	if c.options.GuardsRecords && annotates != ManagerAegis {
		c.refuse(before, node)
	}
	annotated := node.DeepCopy()
	annotated.Spec.Unschedulable = before.Spec.Unschedulable
	manage(before, annotated, annotates)
	node.ManagedFields = annotated.ManagedFields
	manage(annotated, node, cordons)
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

// manage notes on a node who has set its cordon and its annotations as the API server does: one entry for each manager, with one time for
// all of its fields.
func manage(before, after *corev1.Node, manager string) {
	taken, lost := []string(nil), map[string]bool{}
	change := func(field string, was, is *string) {
		if (was == nil) == (is == nil) && (is == nil || *was == *is) {
			return
		}
		lost[field] = true
		if is != nil {
			taken = append(taken, field)
		}
	}
	change(cordonField, cordonOf(before), cordonOf(after))
	for key := range maps.Keys(merged(before.Annotations, after.Annotations)) {
		change(key, annotationOf(before, key), annotationOf(after, key))
	}
	if len(lost) > 0 {
		after.ManagedFields = entries(after.ManagedFields, manager, taken, lost)
	}
}

// cordonField stands for spec.unschedulable among the names of annotations.
const cordonField = ""

func cordonOf(node *corev1.Node) *string {
	if !node.Spec.Unschedulable {
		return nil
	}
	return new("true")
}

func annotationOf(node *corev1.Node, key string) *string {
	if value, found := node.Annotations[key]; found {
		return &value
	}
	return nil
}

func merged(a, b map[string]string) map[string]string {
	all := cloned(a)
	maps.Copy(all, b)
	return all
}

// entries returns the entries after the manager has taken fields, and all managers have lost those that have changed.
func entries(before []metav1.ManagedFieldsEntry, manager string, taken []string, lost map[string]bool) []metav1.ManagedFieldsEntry {
	var after []metav1.ManagedFieldsEntry
	for _, e := range before {
		fields := fieldsOf(e)
		kept := slices.DeleteFunc(slices.Clone(fields), func(field string) bool { return lost[field] })
		if e.Manager == manager && len(taken) > 0 {
			taken = append(taken, kept...)
			continue
		}
		if len(kept) < len(fields) {
			e.FieldsV1 = fieldsV1(kept)
		}
		if len(kept) > 0 {
			after = append(after, e)
		}
	}
	if len(taken) > 0 {
		after = append(after, metav1.ManagedFieldsEntry{
			Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate, FieldsV1: fieldsV1(taken),
			Time: new(metav1.NewTime(time.Now().Truncate(time.Second))),
		})
	}
	return after
}

// fieldSet is what an entry says of the cordon and the annotations.
type fieldSet struct {
	Metadata struct {
		Annotations map[string]struct{} `json:"f:annotations,omitempty"`
	} `json:"f:metadata"`
	Spec map[string]struct{} `json:"f:spec,omitempty"`
}

func fieldsOf(e metav1.ManagedFieldsEntry) []string {
	var set fieldSet
	if e.FieldsV1 == nil {
		return nil // With an empty entry, people have all notes of a node taken away.
	}
	if err := json.Unmarshal(e.FieldsV1.GetRawBytes(), &set); err != nil {
		panic(fmt.Sprintf("fields of %s: %v", e.Manager, err))
	}
	var fields []string
	for key := range set.Metadata.Annotations {
		fields = append(fields, strings.TrimPrefix(key, "f:"))
	}
	if _, cordons := set.Spec["f:unschedulable"]; cordons {
		fields = append(fields, cordonField)
	}
	return fields
}

func fieldsV1(fields []string) *metav1.FieldsV1 {
	var set fieldSet
	set.Metadata.Annotations = make(map[string]struct{})
	for _, field := range fields {
		if field == cordonField {
			set.Spec = map[string]struct{}{"f:unschedulable": {}}
			continue
		}
		set.Metadata.Annotations["f:"+field] = struct{}{}
	}
	text, err := json.Marshal(set)
	if err != nil {
		panic(fmt.Sprintf("fields %q: %v", fields, err))
	}
	return metav1.NewFieldsV1(string(text))
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
