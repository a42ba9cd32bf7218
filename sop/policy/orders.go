package policy

import (
	"maps"
	"slices"
	"time"

	"aegis.io/aegis/rules/prom"
)

// Order is what somebody has ordered.
type Order struct {
	By     string    `json:"by,omitempty"`
	Reason string    `json:"reason,omitempty"`
	At     time.Time `json:"at,omitzero"`
}

// Of says what was done, by whom, and why.
func (o Order) Of(what string) string {
	if o.By != "" {
		what += " by " + o.By
	}
	if o.Reason != "" {
		what += ": " + o.Reason
	}
	return what
}

// ModeOrder sets the mode of a condition.
type ModeOrder struct {
	Mode prom.Mode `json:"mode"`
	Order
}

// Orders are what people have ordered for the whole cluster while Aegis runs, and the storms that it has found. They outlive
// the process.
type Orders struct {
	// Pause is nil when nothing is paused.
	Pause *Order
	// Modes are the modes of conditions that differ from the configured ones.
	Modes map[string]ModeOrder
	// Storms are those that go on, sorted by condition and pool.
	Storms []Storm
	// Silences are those of Aegis' own, the latest last.
	Silences []Silence
}

// Clone returns a copy that shares nothing that changes.
func (o Orders) Clone() Orders {
	o.Modes = maps.Clone(o.Modes)
	o.Storms = slices.Clone(o.Storms)
	o.Silences = slices.Clone(o.Silences)
	return o
}

// Apply gives the status the mode that was ordered for its condition.
func (o Orders) Apply(s prom.AegisNodeStatus) prom.AegisNodeStatus {
	// A condition that no catalogue knows has no mode, and no order makes it known.
	if order, found := o.Modes[s.Condition]; found && s.Policy.Mode != "" {
		s.Policy.Mode = order.Mode
	}
	return s
}

// ApplyAll gives each status the mode that was ordered for its condition.
func (o Orders) ApplyAll(statuses []prom.AegisNodeStatus) []prom.AegisNodeStatus {
	applied := make([]prom.AegisNodeStatus, len(statuses))
	for i, s := range statuses {
		applied[i] = o.Apply(s)
	}
	return applied
}
