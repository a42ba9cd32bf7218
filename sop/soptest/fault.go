package soptest

import (
	"fmt"
	"time"

	"aegis.io/aegis/rules/prom"
)

// Fault is the truth about one condition.
type Fault struct {
	// Holds is whether it holds at present, Changed since when that is so.
	Holds   bool
	Changed time.Time
	// Remedies are how many more of the operations it takes to fix it, by the name of the operation.
	Remedies map[string]int
	// Unseen faults are none that a healthcheck finds.
	Unseen bool

	pace Pace
	// fired is when the alert of the episode that has ended began to fire. Zero if it never did.
	fired time.Time
}

// Firing returns since when the alert fires, zero if it does not.
func (f *Fault) Firing() time.Time {
	if since := f.Changed.Add(f.pace.Pending); f.Holds && !time.Now().Before(since) {
		return since
	}
	return time.Time{}
}

// Listed returns since when Alertmanager lists the alert, zero if it does not.
func (f *Fault) Listed() time.Time {
	if !f.Holds && !f.fired.IsZero() && time.Since(f.Changed) < f.pace.Listed {
		return f.fired
	}
	return f.Firing()
}

// Hold sets whether the condition holds. Its alert fires some time later, and the webhooks about that come as Delivery says.
func (c *Cluster) Hold(key prom.Key, holds bool) {
	c.held()
	f := c.Faults[key]
	if f == nil {
		if !holds {
			return
		}
		f = &Fault{pace: c.options.Pace}
		c.Faults[key] = f
	}
	if f.Holds == holds || holds && c.Nodes[key.Node] == nil {
		return
	}
	fired := f.Firing()
	f.Holds, f.Changed, f.fired = holds, time.Now(), fired
	c.Logf("world: %s %s on %s: %t", key.Condition, key.ID, key.Node, holds)
	if c.Observer.FaultChanged != nil {
		c.Observer.FaultChanged(key, holds)
	}
	if holds {
		c.announce(key, f)
		return
	}
	d := c.options.Delivery
	if !fired.IsZero() && c.stops[key.Condition] == nil && c.Chance(fmt.Sprint("resolved ", key)) >= d.ResolvedLost {
		c.Later(c.Between(fmt.Sprint("resolved late ", key), 0, d.ResolvedDelay), func() { c.Webhook(key, fired, false) })
	}
}

// announce sends the webhooks of a condition whose alert comes to fire.
func (c *Cluster) announce(key prom.Key, f *Fault) {
	began, startsAt := f.Changed, f.Changed.Add(c.options.Pace.Pending)
	d := c.options.Delivery
	c.Later(c.options.Pace.Pending, func() {
		if !f.Changed.Equal(began) || c.stops[key.Condition] != nil {
			return
		}
		switch luck := c.Chance(fmt.Sprint("firing ", key)); {
		case luck < d.Lost:
		case luck < 1-d.Late:
			c.Webhook(key, startsAt, true)
		default:
			c.Later(c.Between(fmt.Sprint("firing late ", key), 0, 40*time.Second), func() { c.Webhook(key, startsAt, true) })
		}
		if c.Chance(fmt.Sprint("again ", key)) < d.Again {
			c.Later(c.Between(fmt.Sprint("again late ", key), time.Minute, 20*time.Minute), func() { c.Webhook(key, startsAt, true) })
		}
	})
}

// Webhook has Alertmanager tell of an alert, whether that is still true or not.
func (c *Cluster) Webhook(key prom.Key, startsAt time.Time, firing bool) {
	c.held()
	c.Logf("webhook: %s %s on %s, firing %t", key.Condition, key.ID, key.Node, firing)
	if c.Observer.Webhook != nil {
		c.Observer.Webhook(key, startsAt, firing)
	}
}

// Fix takes one operation off what it takes to end the faults of the node.
func (c *Cluster) Fix(node, operation string) {
	c.held()
	for key, f := range c.Faults {
		if key.Node != node || !f.Holds || f.Remedies[operation] == 0 {
			continue
		}
		if f.Remedies[operation]--; f.Remedies[operation] == 0 {
			c.Hold(key, false)
		}
	}
}

// Sick reports whether a fault that a healthcheck sees is on the node: one of its hardware, which an operation other than a new
// pod ends.
func (c *Cluster) Sick(node string) bool {
	for key, f := range c.Faults {
		if key.Node == node && f.Holds && !f.Unseen && len(f.Remedies) > 0 {
			return true
		}
	}
	return false
}
