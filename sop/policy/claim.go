package policy

import (
	"cmp"
	"time"

	"aegis.io/aegis/rules/prom"
)

// Limit names a limit of a pool. It is the value in metrics and the API.
type Limit string

// The limits for which nodes wait.
const (
	LimitBudget      Limit = "budget"      // How many nodes are out of service.
	LimitDestructive Limit = "destructive" // How many destructive steps run.
)

// Limits returns the closed set of limits.
func Limits() []Limit { return []Limit{LimitBudget, LimitDestructive} }

// WaitingStep is how long a node waits until it counts as one priority more urgent.
const WaitingStep = 5 * time.Minute

// Claim is what a node needs a place in a limit for.
type Claim struct {
	Node, Condition, Device string
	Priority                int
	// FirstSeen is when the condition began, Since when the node began to wait.
	FirstSeen, Since time.Time
}

// ClaimOf returns the claim of the condition.
func ClaimOf(s prom.AegisNodeStatus) Claim {
	return Claim{Node: s.Node, Condition: s.Condition, Device: s.ID, Priority: s.Priority, FirstSeen: s.FirstSeen}
}

// Before reports whether the claim goes before the other one: by band, priority and age, as nodes are handed out, with one priority
// for each step of waiting, so that nobody waits without end.
func (c Claim) Before(other Claim, now time.Time) bool {
	return cmp.Or(
		cmp.Compare(c.rank(now), other.rank(now)),
		c.FirstSeen.Compare(other.FirstSeen),
		cmp.Compare(c.Node, other.Node),
	) < 0
}

// rank is the priority in the order in which bands are served, less the steps of waiting. The band Cordon, whose only priority is 1, is
// served after Emergency.
func (c Claim) rank(now time.Time) int {
	rank := c.Priority
	switch prom.BandOf(c.Priority) {
	case prom.BandCordon:
		rank = 100
	case prom.BandCanIgnore, prom.BandMustIgnore:
		rank++
	case prom.BandNotReady, prom.BandEmergency:
	}
	if c.Since.IsZero() {
		return rank
	}
	return rank - int(now.Sub(c.Since)/WaitingStep)
}

// LimitState is a limit of a pool, with who has a place and who waits for one, in their order.
type LimitState struct {
	Pool    string
	Limit   Limit
	Allowed int
	Taken   []string
	Waiting []Claim
}
