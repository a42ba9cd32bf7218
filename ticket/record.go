package ticket

import (
	corev1 "k8s.io/api/core/v1"
)

// Record is what a Node object says.
type Record struct {
	Node          *corev1.Node // Read-only: it may be shared with a cache.
	Ticket        *Ticket      // Nil when there is none, or when it is broken.
	Broken        error        // Why the ticket cannot be read. It is never overwritten then.
	Proven        Proof        // What of the ticket is as Aegis has written it.
	History       *History     // Never nil; empty when there is none, or when it is broken.
	HistoryBroken error        // Why the history cannot be read. A new one is written beside it then.
}

// ReadNode parses the annotations of a node. It never fails: what cannot be read is reported in the record. Who looks at the same
// nodes again and again has a Reader, which does the same.
func ReadNode(n *corev1.Node) Record {
	r := Record{Node: n, History: &History{}}
	if text, ok := n.Annotations[Annotation]; ok {
		r.Ticket, r.Broken = Parse(text)
		r.Proven = prove(n, r.Ticket)
	}
	if text, ok := n.Annotations[HistoryAnnotation]; ok {
		h, err := ParseHistory(text)
		if err != nil {
			r.HistoryBroken = err
			return r
		}
		r.History = h
	}
	return r
}

// Change is what Update writes, all of it or nothing. What is not set stays as it is.
type Change struct {
	Ticket        *Ticket
	RemoveTicket  bool
	History       *History
	Unschedulable *bool
	Annotations   map[string]*string // Nil removes the annotation. The ticket and the history have their own fields.
	AddTaint      *corev1.Taint      // Replaces the one with the same key and effect.
	RemoveTaint   *corev1.Taint      // Removes the one with the same key and effect and, if it is set, value.
	RemoveTaints  []corev1.Taint     // Removes those with the same key, effect and value.
	Unchanged     bool               // Nothing at all may have changed on the node since it was read.
}

// empty reports whether the change asks for nothing.
func (c *Change) empty() bool {
	return c.Ticket == nil && !c.RemoveTicket && c.History == nil && c.Unschedulable == nil &&
		len(c.Annotations) == 0 && c.AddTaint == nil && c.RemoveTaint == nil && len(c.RemoveTaints) == 0
}
