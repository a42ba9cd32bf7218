package sop

import (
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
)

// ownWrites remembers the nodes as our own last write left them, until the cache shows that. Without it a run could begin again from
// a ticket that was just closed. It is safe for concurrent use.
type ownWrites struct {
	// heard is told of each write.
	heard func(*corev1.Node)

	mu    sync.Mutex
	nodes map[string]*corev1.Node
}

func newOwnWrites(heard func(*corev1.Node)) *ownWrites {
	return &ownWrites{heard: heard, nodes: make(map[string]*corev1.Node)}
}

// latest returns the node as the cache has it, or as our own last write left it if the cache does not show that yet.
func (w *ownWrites) latest(cached *corev1.Node) *corev1.Node {
	w.mu.Lock()
	defer w.mu.Unlock()
	ours := w.nodes[cached.Name]
	if ours == nil {
		return cached
	}
	if ours.UID == cached.UID && newer(ours.ResourceVersion, cached.ResourceVersion) {
		return ours
	}
	delete(w.nodes, cached.Name)
	return cached
}

// wrote takes the node as a write has left it.
func (w *ownWrites) wrote(node *corev1.Node) {
	w.heard(node)
	w.mu.Lock()
	defer w.mu.Unlock()
	if last := w.nodes[node.Name]; last == nil || last.UID != node.UID || newer(node.ResourceVersion, last.ResourceVersion) {
		w.nodes[node.Name] = node
	}
}

// forget drops what is remembered of a node that does not exist.
func (w *ownWrites) forget(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.nodes, name)
}

// newer compares resource versions of nodes, which the API server counts up.
func newer(a, b string) bool {
	order, err := resourceversion.CompareResourceVersion(a, b)
	return err == nil && order > 0
}
