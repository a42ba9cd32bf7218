package queue

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func newIntHeap() *heap[string, int] {
	return newHeap[string](func(a, b int) bool { return a < b })
}

// popAll empties the heap.
func popAll(h *heap[string, int]) []int {
	var popped []int
	for value, ok := h.Pop(); ok; value, ok = h.Pop() {
		popped = append(popped, value)
	}
	return popped
}

func TestHeapEmpty(t *testing.T) {
	t.Parallel()
	h := newIntHeap()
	_, ok := h.Peek()
	require.False(t, ok)
	_, ok = h.Pop()
	require.False(t, ok)
	_, ok = h.Get("a")
	require.False(t, ok)
	h.Delete("a")
	h.Fix("a")
	require.Zero(t, h.Len())
}

func TestHeapSetReplacesTheElementOfTheKey(t *testing.T) {
	t.Parallel()
	h := newIntHeap()
	h.Set("a", 5)
	h.Set("b", 3)
	h.Set("c", 4)
	h.Set("a", 1)
	require.Equal(t, 3, h.Len())
	value, ok := h.Get("a")
	require.True(t, ok)
	require.Equal(t, 1, value)
	h.Set("a", 9)
	require.Equal(t, []int{3, 4, 9}, popAll(h))
}

func TestHeapFixMovesAChangedElement(t *testing.T) {
	t.Parallel()
	h := newHeap[string](func(a, b *int) bool { return *a < *b })
	numbers := map[string]*int{"a": new(1), "b": new(2), "c": new(3)}
	for key, number := range numbers {
		h.Set(key, number)
	}
	*numbers["a"] = 10
	h.Fix("a")
	first, ok := h.Peek()
	require.True(t, ok)
	require.Equal(t, 2, *first)
	*numbers["c"] = 0
	h.Fix("c")
	first, ok = h.Peek()
	require.True(t, ok)
	require.Equal(t, 0, *first)
}

func TestHeapAgainstSorting(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		h, want := newIntHeap(), make(map[string]int)
		for range random.IntN(60) {
			key := string(rune('a' + random.IntN(20)))
			if random.IntN(3) == 0 {
				h.Delete(key)
				delete(want, key)
				continue
			}
			value := random.IntN(10)
			h.Set(key, value)
			want[key] = value
		}
		require.Equal(t, len(want), h.Len())
		for key, value := range want {
			got, ok := h.Get(key)
			require.True(t, ok)
			require.Equal(t, value, got)
		}
		var sorted []int
		for _, value := range want {
			sorted = append(sorted, value)
		}
		slices.Sort(sorted)
		require.Equal(t, sorted, popAll(h))
	}
}
