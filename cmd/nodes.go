package cmd

import (
	"context"
	"log/slog"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"aegis.io/aegis/queue"
	"aegis.io/aegis/rules"
	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// nodeCache follows the Node objects: it keeps the index that alerts are matched against, and wakes the queue when a
// person or a kubelet changes what decisions rest on.
type nodeCache struct {
	factory informers.SharedInformerFactory
	lister  corelisters.NodeLister
	index   *rules.NodeIndex
	queue   *queue.Queue
	synced  cache.InformerSynced
	// settings say which taints have a node looked at.
	settings func() policy.Settings
	// changed hears of every change. It is set before the cache is started.
	changed func(before, after *corev1.Node)
}

func newNodeCache(factory informers.SharedInformerFactory, q *queue.Queue, settings func() policy.Settings) *nodeCache {
	informer := factory.Core().V1().Nodes()
	c := &nodeCache{factory: factory, lister: informer.Lister(), index: rules.NewNodeIndex(), queue: q, settings: settings}
	// Neither call fails before the informer is started, which is much later.
	if err := informer.Informer().SetTransform(trim); err != nil {
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
				c.deleted(node)
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

// trim keeps the cache of thousands of nodes small.
func trim(object any) (any, error) {
	if node, ok := object.(*corev1.Node); ok {
		ticket.KeepWriters(node)
	}
	return object, nil
}

func (c *nodeCache) added(node *corev1.Node) {
	c.index.Set(infoOf(node))
	c.tell(nil, node)
	if sop.NeedsVisit(node, c.settings()) {
		c.queue.Enqueue(node.Name)
	}
}

func (c *nodeCache) updated(before, after *corev1.Node) {
	c.index.Set(infoOf(after))
	c.tell(before, after)
	if sop.RelevantChange(before, after) && (sop.NeedsVisit(after, c.settings()) || len(c.queue.Statuses(after.Name)) > 0) {
		c.queue.Enqueue(after.Name)
	}
}

func (c *nodeCache) deleted(node *corev1.Node) {
	c.index.Delete(node.Name)
	c.tell(node, nil)
	c.queue.Enqueue(node.Name)
}

// gone reports whether the cluster has no such node.
func (c *nodeCache) gone(name string) bool {
	_, err := c.lister.Get(name)
	return apierrors.IsNotFound(err)
}

func (c *nodeCache) tell(before, after *corev1.Node) {
	if c.changed != nil {
		c.changed(before, after)
	}
}

// catchUp waits until the cache shows every node at least as the API server has it now. The watch of a replica that stood by may
// have broken unnoticed, and the first decisions of a term must not rest on how things were before it.
func (c *nodeCache) catchUp(ctx context.Context, client kubernetes.Interface, logger *slog.Logger) error {
	return wait.PollUntilContextCancel(ctx, catchUpEvery, true, func(ctx context.Context) (bool, error) {
		live, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			logger.WarnContext(ctx, "nodes not listed, waiting", "err", err)
			return false, nil
		}
		// A node that is deleted meanwhile never gets into the cache, so the list is not waited for without end.
		err = wait.PollUntilContextTimeout(ctx, catchUpEvery/20, 10*catchUpEvery, true, func(context.Context) (bool, error) {
			return !slices.ContainsFunc(live.Items, c.behind), nil
		})
		if err != nil {
			logger.WarnContext(ctx, "node cache is behind, waiting", "err", err)
			return false, nil
		}
		return true, nil
	})
}

// catchUpEvery is the time between two lists of the nodes while the cache is behind.
const catchUpEvery = time.Second

// behind reports whether the cache does not show the node as it is yet.
func (c *nodeCache) behind(live corev1.Node) bool {
	cached, err := c.lister.Get(live.Name)
	if err != nil {
		return true
	}
	order, err := resourceversion.CompareResourceVersion(cached.ResourceVersion, live.ResourceVersion)
	return err != nil || order < 0
}

// enqueueAll makes every node due on which an earlier leader left something to go on with.
func (c *nodeCache) enqueueAll() {
	nodes, err := c.lister.List(labels.Everything())
	if err != nil {
		return
	}
	for _, node := range nodes {
		if sop.NeedsVisit(node, c.settings()) {
			c.queue.Enqueue(node.Name)
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
