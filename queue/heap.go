package queue

// heap is a binary heap whose elements are found by their key. Only its root means anything; the order of the other
// elements does not. It is not safe for concurrent use.
type heap[K comparable, V any] struct {
	before func(a, b V) bool
	items  []heapItem[K, V]
	index  map[K]int
}

// heapItem is an element with its key.
type heapItem[K comparable, V any] struct {
	key   K
	value V
}

// newHeap returns an empty heap. The function says whether a comes before b, and orders strictly.
func newHeap[K comparable, V any](before func(a, b V) bool) *heap[K, V] {
	return &heap[K, V]{before: before, index: make(map[K]int)}
}

// Len returns the number of elements.
func (h *heap[K, V]) Len() int { return len(h.items) }

// Get returns the element of the key.
func (h *heap[K, V]) Get(key K) (V, bool) {
	i, ok := h.index[key]
	if !ok {
		var none V
		return none, false
	}
	return h.items[i].value, true
}

// Peek returns the first element.
func (h *heap[K, V]) Peek() (V, bool) {
	if len(h.items) == 0 {
		var none V
		return none, false
	}
	return h.items[0].value, true
}

// Pop removes the first element and returns it.
func (h *heap[K, V]) Pop() (V, bool) {
	value, ok := h.Peek()
	if ok {
		h.Delete(h.items[0].key)
	}
	return value, ok
}

// Set adds the element, or replaces the one of the same key.
func (h *heap[K, V]) Set(key K, value V) {
	i, ok := h.index[key]
	if !ok {
		i = len(h.items)
		h.items = append(h.items, heapItem[K, V]{key: key, value: value})
		h.index[key] = i
	}
	h.items[i].value = value
	h.fix(i)
}

// Fix restores the order after the element of the key has changed. Without such an element it does nothing.
func (h *heap[K, V]) Fix(key K) {
	if i, ok := h.index[key]; ok {
		h.fix(i)
	}
}

// Delete removes the element of the key. Without such an element it does nothing.
func (h *heap[K, V]) Delete(key K) {
	i, ok := h.index[key]
	if !ok {
		return
	}
	last := len(h.items) - 1
	h.swap(i, last)
	h.items[last] = heapItem[K, V]{} // Frees what the element holds.
	h.items = h.items[:last]
	delete(h.index, key)
	if i < last {
		h.fix(i)
	}
}

// fix moves the element at i to where it belongs.
func (h *heap[K, V]) fix(i int) {
	if !h.up(i) {
		h.down(i)
	}
}

// up moves the element at i towards the root and reports whether it moved.
func (h *heap[K, V]) up(i int) bool {
	start := i
	for i > 0 {
		parent := (i - 1) / 2
		if !h.before(h.items[i].value, h.items[parent].value) {
			break
		}
		h.swap(i, parent)
		i = parent
	}
	return i != start
}

// down moves the element at i away from the root.
func (h *heap[K, V]) down(i int) {
	for {
		child := 2*i + 1
		if child >= len(h.items) {
			return
		}
		if right := child + 1; right < len(h.items) && h.before(h.items[right].value, h.items[child].value) {
			child = right
		}
		if !h.before(h.items[child].value, h.items[i].value) {
			return
		}
		h.swap(i, child)
		i = child
	}
}

// swap exchanges two elements and keeps the index.
func (h *heap[K, V]) swap(i, j int) {
	h.items[i], h.items[j] = h.items[j], h.items[i]
	h.index[h.items[i].key] = i
	h.index[h.items[j].key] = j
}
