package soptest

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
)

// Live returns a cache of the nodes that never lags.
func (c *Cluster) Live() corelisters.NodeLister { return liveNodes{c} }

type liveNodes struct{ cluster *Cluster }

func (l liveNodes) Get(name string) (node *corev1.Node, err error) {
	l.cluster.Do(func() {
		if node = l.cluster.Nodes[name]; node == nil {
			err = apierrors.NewNotFound(corev1.Resource("nodes"), name)
		}
	})
	return node, err
}

func (l liveNodes) List(selector labels.Selector) (nodes []*corev1.Node, err error) {
	l.cluster.Do(func() { nodes = chosen(l.cluster.Nodes, selector) })
	return nodes, nil
}

// chosen returns the nodes that the selector selects, sorted by name.
func chosen(nodes map[string]*corev1.Node, selector labels.Selector) []*corev1.Node {
	var list []*corev1.Node
	for _, name := range slices.Sorted(maps.Keys(nodes)) {
		if selector == nil || selector.Matches(labels.Set(nodes[name].Labels)) {
			list = append(list, nodes[name])
		}
	}
	return list
}

// Cache is the node cache of a process. It shows what the API server had some time ago, and nothing new while its watch is broken
// or the API server is away.
type Cache struct {
	// Shown are the nodes as the cache has them.
	Shown map[string]*corev1.Node
	// Changed is told, with the lock held, of every node that looks different from before; after is nil for one that is gone.
	Changed func(name string, before, after *corev1.Node)

	client *Client
	// upTo is until when updates are under way; they never overtake each other.
	upTo   time.Time
	broken bool
	// lists counts how often the cache was filled anew; updates from before are void.
	lists int
}

var _ corelisters.NodeLister = (*Cache)(nil)

// NewCache returns the cache of the process, filled with the nodes of now. The caller holds the lock.
func (c *Client) NewCache(changed func(name string, before, after *corev1.Node)) *Cache {
	c.cluster.held()
	cache := &Cache{client: c, Shown: make(map[string]*corev1.Node), Changed: changed}
	for name, node := range c.cluster.Nodes {
		cache.show(name, node)
	}
	c.cache = cache
	return cache
}

// push brings an update on its way, nil when the node is gone.
func (c *Cache) push(name string, node *corev1.Node) {
	w := c.client.cluster
	at := time.Now().Add(w.Between(fmt.Sprint("lag ", c.client.ID), 0, max(w.Weather.Lag, time.Millisecond)))
	if !at.After(c.upTo) {
		at = c.upTo.Add(time.Nanosecond)
	}
	c.upTo = at
	list := c.lists
	w.Later(time.Until(at), func() {
		if list == c.lists && !c.broken && !w.Weather.Outage {
			c.show(name, node)
		}
	})
}

// Break lets the watch stand still.
func (c *Cache) Break() {
	c.broken = true
	c.client.cluster.Logf("p%d: its watch breaks", c.client.ID)
}

// Broken reports whether the watch stands still.
func (c *Cache) Broken() bool { return c.broken }

// Mend lets the watch work again: what was missed comes at once, as by a new list.
func (c *Cache) Mend() {
	c.broken = false
	c.lists++
	w := c.client.cluster
	if w.Weather.Outage || c.client.Dead {
		return
	}
	for name := range c.Shown {
		if w.Nodes[name] == nil {
			c.show(name, nil)
		}
	}
	for name, node := range w.Nodes {
		c.show(name, node)
	}
}

// show makes the update visible.
func (c *Cache) show(name string, node *corev1.Node) {
	before := c.Shown[name]
	switch {
	case node == nil:
		delete(c.Shown, name)
	case before == nil || Newer(node.ResourceVersion, before.ResourceVersion):
		c.Shown[name] = node
	default:
		return
	}
	if c.Changed != nil {
		c.Changed(name, before, node)
	}
}

// Get returns the node as the cache has it.
func (c *Cache) Get(name string) (node *corev1.Node, err error) {
	c.client.cluster.Do(func() {
		if node = c.Shown[name]; node == nil {
			err = apierrors.NewNotFound(corev1.Resource("nodes"), name)
		}
	})
	return node, err
}

// List returns the nodes as the cache has them.
func (c *Cache) List(selector labels.Selector) (nodes []*corev1.Node, err error) {
	c.client.cluster.Do(func() { nodes = chosen(c.Shown, selector) })
	return nodes, nil
}

// Newer reports whether one resource version of this API server comes after another.
func Newer(a, b string) bool {
	after, errA := strconv.Atoi(a)
	before, errB := strconv.Atoi(b)
	return errA == nil && errB == nil && after > before
}

func versionText(version int) string { return strconv.Itoa(version) }
