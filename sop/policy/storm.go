package policy

import (
	"fmt"
	"time"
)

// minStorm is the number of nodes up to which a percentage of a small pool is no storm.
const minStorm = 3

// Storm is one condition that begins on so many nodes of a pool, or of all pools together, within a short time that the nodes are not to blame: the rule is
// wrong, or something that they share is broken. It holds the repair of that condition until it has abated, or until a person
// releases it.
type Storm struct {
	Condition string    `json:"condition"`
	Pool      string    `json:"pool"`
	Since     time.Time `json:"since"`
	// Nodes is on how many nodes the condition held when the storm was found, Limit how many are no storm.
	Nodes int `json:"nodes"`
	Limit int `json:"limit"`
	// Released is who let the repairs go on in spite of it. The storm is remembered until it has abated, so that it is not
	// found again.
	Released *Order `json:"released,omitempty"`
}

// Is reports whether the storm is that of the condition in the pool.
func (s Storm) Is(condition, pool string) bool {
	return s.Condition == condition && s.Pool == pool
}

// Why says why the storm holds a repair.
func (s Storm) Why() string {
	return fmt.Sprintf("it began on %d nodes of %s at once, and more than %d are a storm", s.Nodes, Pool{Name: s.Pool}.Title(), s.Limit)
}

// StormLimit is the number of nodes that a condition may begin on within the window without being a storm. 0 means that there
// are none in this pool.
func (p Pool) StormLimit(size int) int {
	limit := 0
	if p.StormPercent > 0 && p.StormPercent < 100 {
		limit = max(minStorm, size*p.StormPercent/100)
	}
	if p.StormNodes > 0 && (limit == 0 || p.StormNodes < limit) {
		limit = p.StormNodes
	}
	return limit
}
