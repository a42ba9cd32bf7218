package soptest

import (
	"maps"
	"slices"
	"time"

	"aegis.io/aegis/rules/prom"
)

const (
	// lookback is how long Prometheus finds a series of which nobody says that it has ended.
	lookback = 5 * time.Minute
	// MaxAge is how old a sample may be that is believed.
	MaxAge = 2 * time.Minute
)

// stop is the time in which Prometheus does not evaluate the rule of a condition, or fails to. Nobody marks the end of what it had then.
type stop struct {
	began time.Time
	// failing rules are evaluated, in vain.
	failing bool
	// alerts are those that it had, by the condition that they are about.
	alerts map[prom.Key]evaluated
}

// evaluated is what the last evaluation of a rule has made of a condition: since when it holds, and since when its alert fires. That is zero
// while it is pending.
type evaluated struct{ holds, fires time.Time }

// StoppedOf returns the state in which the rule of the condition is not evaluated.
func StoppedOf(condition string) string { return "rule of " + condition + " not evaluated" }

// Stop has Prometheus evaluate the rule of a condition no more, or fail to. Alertmanager takes its alerts for resolved after a while.
func (c *Cluster) Stop(condition string, failing bool) {
	c.held()
	if c.stops[condition] != nil {
		return
	}
	s := &stop{began: time.Now(), failing: failing, alerts: make(map[prom.Key]evaluated)}
	listed := time.Duration(0)
	for key, f := range c.Faults {
		if key.Condition == condition && f.Holds && c.evaluates(key.Node) {
			s.alerts[key] = evaluated{holds: f.Changed, fires: f.Firing()}
			listed = f.pace.Listed
		}
	}
	c.stops[condition] = s
	c.Enter(StoppedOf(condition))
	c.Later(listed, func() {
		if c.stops[condition] == s {
			s.each(func(key prom.Key, e evaluated) { c.Webhook(key, e.fires, false) })
		}
	})
}

// Resume has Prometheus evaluate the rule again.
func (c *Cluster) Resume(condition string) {
	c.held()
	s := c.stops[condition]
	if s == nil {
		return
	}
	delete(c.stops, condition)
	c.resumed[condition] = time.Now()
	c.Leave(StoppedOf(condition))
	s.each(func(key prom.Key, e evaluated) {
		if f := c.Faults[key]; f == nil || !f.Holds {
			c.Webhook(key, e.fires, false)
		}
	})
	for key, f := range c.Faults {
		if key.Condition == condition && f.Holds && f.Changed.After(s.began) {
			// The rule sees it only now.
			f.Changed = time.Now()
			c.announce(key, f)
		}
	}
}

// Resumed returns when the rule of the condition was last evaluated again.
func (c *Cluster) Resumed(condition string) time.Time { return c.resumed[condition] }

// Stopped returns the conditions whose rules are not evaluated, or fail.
func (c *Cluster) Stopped() []string { return slices.Sorted(maps.Keys(c.stops)) }

// Stuck returns since when the rule of a condition is not evaluated although its alert fired then, zero if that is not so.
func (c *Cluster) Stuck(key prom.Key) time.Time {
	if s := c.stops[key.Condition]; s != nil && !s.alerts[key].fires.IsZero() {
		return s.began
	}
	return time.Time{}
}

// each is called for each alert that fired.
func (s *stop) each(do func(key prom.Key, e evaluated)) {
	for key, e := range s.alerts {
		if !e.fires.IsZero() {
			do(key, e)
		}
	}
}

// last returns what Prometheus finds of a condition whose rule it does not evaluate, nil if nothing.
func (s *stop) last(key prom.Key) *prom.Alert {
	e, had := s.alerts[key]
	if !had || time.Since(s.began) > lookback {
		return nil
	}
	a := &prom.Alert{
		Labels: Labels(key), Fingerprint: Fingerprint(key), State: prom.StateFiring, StartsAt: e.holds, SampledAt: s.began, AskedAt: time.Now(),
	}
	switch {
	case time.Since(s.began) > MaxAge:
		a.State = prom.StateStale
	case e.fires.IsZero():
		a.State = prom.StatePending
	}
	return a
}

// lists returns since when Alertmanager lists an alert whose rule is not evaluated, zero if it does not.
func (s *stop) lists(key prom.Key, f *Fault) time.Time {
	switch e, had := s.alerts[key]; {
	case !had && f.Changed.Before(s.began):
		return f.Listed()
	case !had || time.Since(s.began) >= f.pace.Listed:
		return time.Time{}
	default:
		return e.fires
	}
}
