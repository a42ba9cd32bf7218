package rules

import (
	"sync/atomic"
	"time"

	"aegis.io/aegis/rules/prom"
)

// Store holds the catalogue in use. Reading it never waits for a reload.
type Store struct {
	current atomic.Pointer[Catalogue]
}

// NewStore returns a Store that holds c.
func NewStore(c *Catalogue) *Store {
	s := &Store{}
	s.current.Store(c)
	return s
}

// Current returns the catalogue in use. Whoever needs several answers that agree with each other asks once.
func (s *Store) Current() *Catalogue { return s.current.Load() }

// Status is StatusOfXID of the catalogue in use.
func (s *Store) Status(node, condition, device string, code int) prom.AegisNodeStatus {
	return s.Current().StatusOfXID(node, condition, device, code)
}

// Names returns how the catalogue in use calls a condition and its device, given by any name of the condition.
func (s *Store) Names(condition, device string) (canonicalCondition, canonicalDevice string) {
	status := s.Current().Status("", condition, device)
	return status.Condition, status.ID
}

// InhibitedBy is InhibitedBy of the catalogue in use.
func (s *Store) InhibitedBy(now time.Time, statuses []prom.AegisNodeStatus) func(prom.AegisNodeStatus) string {
	return s.Current().InhibitedBy(now, statuses)
}

// Swap replaces the catalogue in use.
func (s *Store) Swap(c *Catalogue) { s.current.Store(c) }
