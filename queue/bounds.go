package queue

import (
	"cmp"

	"aegis.io/aegis/rules/prom"
)

// bounds are how much is held. While Prometheus is silent webhooks add, and nothing is withdrawn.
type bounds struct{ node, conditions, alerts int }

func boundsOf(o Options) bounds {
	return bounds{
		node: cmp.Or(o.MaxNodeConditions, defaultNodeConditions), conditions: cmp.Or(o.MaxConditions, defaultConditions),
		alerts: cmp.Or(o.MaxAlerts, defaultAlerts),
	}
}

// bound names the one that is reached.
type bound string

// The bounds.
const (
	boundNode      bound = "node"      // Conditions of one node.
	boundTotal     bound = "total"     // Conditions of all nodes.
	boundAlerts    bound = "alerts"    // Alerts of all conditions.
	boundCondition bound = "condition" // Alerts of one condition.
)

// boundsReached lists the closed set.
func boundsReached() []bound { return []bound{boundNode, boundTotal, boundAlerts, boundCondition} }

// makeRoom makes room for one more alert of the condition, which is known or new, and reports whether there is. What is less urgent than a
// new condition is dropped; the next pass over the sources brings it back, if there is room by then. One more alert of a known condition
// drops nothing: the condition is there.
func (q *Queue) makeRoom(c *condition, known bool) bool {
	if known {
		return q.within(len(c.feeds) < conditionAlerts, boundCondition) && q.within(len(q.fed) < q.most.alerts, boundAlerts)
	}
	node := c.status.Node
	if n := q.nodes[node]; n != nil && n.conditions.Len() >= q.most.node && !q.displace(leastUrgent(n), c, boundNode) {
		return false
	}
	for _, full := range []struct {
		is    bool
		bound bound
	}{{q.urgency.Len() >= q.most.conditions, boundTotal}, {len(q.fed) >= q.most.alerts, boundAlerts}} {
		if least, some := q.urgency.Peek(); full.is && some && !q.displace(least, c, full.bound) {
			return false
		}
	}
	return true
}

// within counts an alert for which there is no room.
func (q *Queue) within(room bool, b bound) bool {
	if !room {
		q.metrics.dropped[b].Inc()
	}
	return room
}

// displace drops the condition if it is less urgent than the other one, and reports whether it did. One of the two is dropped.
func (q *Queue) displace(least, other *condition, b bound) bool {
	q.metrics.dropped[b].Inc()
	if compareStatuses(least.status, other.status) <= 0 {
		return false
	}
	for fingerprint := range least.feeds {
		delete(q.fed, fingerprint)
	}
	n := q.nodes[least.status.Node]
	q.remove(n, least.status.Key())
	q.change(n)
	return true
}

// leastUrgent returns the least urgent condition of a node that has some.
func leastUrgent(n *node) *condition {
	var least *condition
	for _, item := range n.conditions.items {
		if least == nil || compareStatuses(item.value.status, least.status) > 0 {
			least = item.value
		}
	}
	return least
}

// put puts the condition in its place.
func (q *Queue) put(n *node, key prom.Key, c *condition) {
	n.conditions.Set(key, c)
	q.urgency.Set(key, c)
}

// remove takes the condition away.
func (q *Queue) remove(n *node, key prom.Key) {
	n.conditions.Delete(key)
	q.urgency.Delete(key)
}
