package queue

import (
	"cmp"
	"fmt"
	"time"

	"aegis.io/aegis/rules/prom"
)

// Threshold says which values of a sample are a fault. At most one of Above, Below and Present is set. Without any, each value but 0
// is one.
type Threshold struct {
	// Above and Below are bounds that are no fault themselves.
	Above, Below *float64
	// Clear is the value, itself included, from which a fault is over. It lies on the healthy side of the bound. Nil means the bound.
	Clear *float64
	// Present takes a sample of any value for a fault.
	Present bool
	// For is how long the value must be a fault before it counts.
	For time.Duration
}

// side is where a value lies.
type side int

const (
	sideBetween side = iota // No fault, and not over either.
	sideHealthy
	sideFault
)

// side returns where the value lies.
func (t Threshold) side(value float64) side {
	switch {
	case t.Present:
		return sideFault
	case t.Above != nil:
		return sideOf(value, *t.Above, *cmp.Or(t.Clear, t.Above))
	case t.Below != nil:
		return sideOf(-value, -*t.Below, -*cmp.Or(t.Clear, t.Below))
	case value != 0:
		return sideFault
	default:
		return sideHealthy
	}
}

// sideOf returns where a value lies that is a fault above a bound.
func sideOf(value, bound, clear float64) side {
	switch {
	case value > bound:
		return sideFault
	case value <= clear:
		return sideHealthy
	default:
		return sideBetween
	}
}

// String says what makes a value a fault, after "the value is".
func (t Threshold) String() string {
	switch {
	case t.Above != nil:
		return fmt.Sprintf("above %g", *t.Above)
	case t.Below != nil:
		return fmt.Sprintf("below %g", *t.Below)
	case t.Present:
		return "there"
	default:
		return "not 0"
	}
}

// worse reports whether a speaks more for a fault than b.
func (t Threshold) worse(a, b float64) bool {
	switch {
	case t.Above != nil:
		return a > b
	case t.Below != nil:
		return a < b
	default:
		return a != 0 && b == 0
	}
}

// state is what the values of a series have said so far.
type state struct {
	// evidence is what they say now. Empty, as for a series that is new, means unknown.
	evidence prom.Evidence
	// before is what they said before the present fault: absent or unknown.
	before prom.Evidence
	// since is when the present fault began. Zero when there is none.
	since time.Time
}

// next returns the state after one more value. A value between the bounds ends no fault, and begins none.
func (t Threshold) next(s state, value float64, now time.Time) state {
	switch t.side(value) {
	case sideHealthy:
		return state{evidence: prom.EvidenceAbsent}
	case sideFault:
		return t.fault(s, now)
	}
	switch s.evidence {
	case prom.EvidencePending: // It did not hold for long enough.
		return state{evidence: s.before}
	case "":
		return state{evidence: prom.EvidenceUnknown}
	default:
		return s
	}
}

// fault returns the state after a value that is a fault.
func (t Threshold) fault(s state, now time.Time) state {
	if s.since.IsZero() {
		s.before = cmp.Or(s.evidence, prom.EvidenceUnknown)
		s.since = now
	}
	s.evidence = prom.EvidencePending
	if now.Sub(s.since) >= t.For {
		s.evidence = prom.EvidenceFiring
	}
	return s
}
