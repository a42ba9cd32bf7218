package sop

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/ticket"
)

// Begun is the condition that an open ticket of an earlier process is about.
type Begun struct {
	Key prom.Key
	// Since is when it began. Exporters that were there since are missed while they are not, and alerts that grew old since.
	Since time.Time
	// Source is the one that found it, empty for an alert.
	Source string
}

// BegunOn returns the condition that the open ticket of the node is about, false if there is none that can be read.
func BegunOn(node *corev1.Node, reader *ticket.Reader) (Begun, bool) {
	t, err := reader.Ticket(node)
	if err != nil || t == nil || !t.Open() {
		return Begun{}, false
	}
	b := Begun{Key: prom.Key{Node: node.Name, Condition: t.Condition, ID: t.Device}, Since: t.CreatedAt, Source: t.Source}
	if !t.StartsAt.IsZero() && t.StartsAt.Before(b.Since) {
		b.Since = t.StartsAt
	}
	return b, true
}
