package queue

import (
	"cmp"
	"slices"
)

// Snapshot returns every node of the queue in the order in which Next would hand them out if all were due.
func (q *Queue) Snapshot() []item {
	items := q.items()
	slices.SortFunc(items, compareItems)
	return items
}

// compareItems orders items as ready orders nodes.
func compareItems(a, b item) int {
	if len(a.Statuses) == 0 || len(b.Statuses) == 0 {
		return cmp.Or(cmp.Compare(min(len(b.Statuses), 1), min(len(a.Statuses), 1)), cmp.Compare(a.Node, b.Node))
	}
	return cmp.Or(compareStatuses(a.Statuses[0], b.Statuses[0]), cmp.Compare(a.Node, b.Node))
}
