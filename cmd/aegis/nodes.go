package main

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"aegis.io/aegis/queue"
	"aegis.io/aegis/rules"
	"aegis.io/aegis/sop"
)

// nodeCache follows the Node objects: it keeps the index that alerts are matched against, and wakes the queue when a
// person or a kubelet changes what decisions rest on.
type nodeCache struct {
	factory informers.SharedInformerFactory
	lister  corelisters.NodeLister
	index   *rules.NodeIndex
	queue   *queue.Queue
	synced  cache.InformerSynced
}

func newNodeCache(factory informers.SharedInformerFactory, q *queue.Queue) *nodeCache {
	informer := factory.Core().V1().Nodes()
	c := &nodeCache{factory: factory, lister: informer.Lister(), index: rules.NewNodeIndex(), queue: q}
	// Neither call fails before the informer is started, which is much later.
	if err := informer.Informer().SetTransform(dropManagedFields); err != nil {
		c.synced = func() bool { return false }
		return c
	}
	registration, err := informer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(object any) {
			if node, ok := object.(*corev1.Node); ok {
				c.added(node)
			}
		},
		UpdateFunc: func(before, after any) {
			old, oldOK := before.(*corev1.Node)
			node, ok := after.(*corev1.Node)
			if ok && oldOK {
				c.updated(old, node)
			}
		},
		DeleteFunc: func(object any) {
			if tombstone, ok := object.(cache.DeletedFinalStateUnknown); ok {
				object = tombstone.Obj
			}
			if node, ok := object.(*corev1.Node); ok {
				c.index.Delete(node.Name)
				c.queue.Touch(node.Name)
			}
		},
	})
	if err != nil {
		c.synced = func() bool { return false }
		return c
	}
	c.synced = registration.HasSynced
	return c
}

// dropManagedFields keeps the cache of thousands of nodes small.
func dropManagedFields(object any) (any, error) {
	if node, ok := object.(*corev1.Node); ok {
		node.ManagedFields = nil
	}
	return object, nil
}

func (c *nodeCache) added(node *corev1.Node) {
	c.index.Set(infoOf(node))
	if sop.NeedsVisit(node) {
		c.queue.Touch(node.Name)
	}
}

func (c *nodeCache) updated(before, after *corev1.Node) {
	c.index.Set(infoOf(after))
	if sop.RelevantChange(before, after) && (sop.NeedsVisit(after) || len(c.queue.Statuses(after.Name)) > 0) {
		c.queue.Touch(after.Name)
	}
}

// touchAll makes every node due on which an earlier leader left something to go on with.
func (c *nodeCache) touchAll() {
	nodes, err := c.lister.List(labels.Everything())
	if err != nil {
		return
	}
	for _, node := range nodes {
		if sop.NeedsVisit(node) {
			c.queue.Touch(node.Name)
		}
	}
}

func infoOf(node *corev1.Node) rules.NodeInfo {
	info := rules.NodeInfo{Name: node.Name, Hostname: node.Labels[corev1.LabelHostname]}
	for _, address := range node.Status.Addresses {
		info.Addresses = append(info.Addresses, address.Address)
	}
	return info
}
