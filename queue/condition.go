package queue

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"aegis.io/aegis/rules/prom"
)

// condition is a status with the alerts that feed it.
type condition struct {
	status prom.AegisNodeStatus
	feeds  map[string]feed // By fingerprint. There is at least one.
}

// feed is one firing alert.
type feed struct {
	// earliest and latest are the bounds of the startsAt of this episode, which replicas may tell differently.
	earliest, latest time.Time
	// contestedAt is when it fired again without a new start. Zero when it is not contested.
	contestedAt time.Time
	// cluster is the one that it names. Empty when it names none.
	cluster string
}

// extended returns the feed with one more startsAt.
func (f feed) extended(startsAt time.Time) feed {
	if f.earliest.IsZero() || startsAt.Before(f.earliest) {
		f.earliest = startsAt
	}
	f.latest = later(f.latest, startsAt)
	return f
}

// merge takes what an observation says of the status.
func (c *condition) merge(seen prom.AegisNodeStatus, now time.Time) {
	s := &c.status
	s.LastSeen, s.Msg, s.Value = now, seen.Msg, seen.Value
	if seen.PciBdf != "" {
		s.PciBdf = seen.PciBdf
	}
	if seen.Source != "" {
		s.Source = seen.Source
	}
	if len(c.feeds) > 1 {
		// Several alerts, one fault: the strongest decides, whichever was heard last.
		seen.XID = s.XID.Stronger(seen.XID)
	}
	reclassify(s, seen)
}

// reclassify takes the fields that the catalogue decides.
func reclassify(s *prom.AegisNodeStatus, from prom.AegisNodeStatus) {
	s.Condition, s.ID = from.Condition, from.ID
	s.Type = from.Type
	s.Priority = from.Priority
	s.AffectsLoad = from.AffectsLoad
	s.DeviceMode = from.DeviceMode
	s.SOP = from.SOP
	s.Policy = from.Policy
	s.XID = from.XID
}

// derive computes the fields that follow from the feeds.
func (c *condition) derive() {
	c.status.Alerts = slices.Sorted(maps.Keys(c.feeds))
	c.status.FirstSeen = time.Time{}
	// One alert that fires beyond doubt is enough.
	c.status.Contested = true
	for _, f := range c.feeds {
		if c.status.FirstSeen.IsZero() || f.earliest.Before(c.status.FirstSeen) {
			c.status.FirstSeen = f.earliest
		}
		if f.contestedAt.IsZero() {
			c.status.Contested = false
		}
	}
}

// essence is what a decision depends on. Two equal ones differ at most in what a heartbeat refreshes.
type essence struct {
	kind, device, sop string
	priority          int
	affectsLoad       bool
	mode              prom.DeviceMode
	policy            prom.Policy
	xid               prom.XID
	firstSeen         int64 // Of the instant: two zones of one instant are equal.
	origin            prom.Origin
	contested         bool
}

// essenceOf returns the essence of a status.
func essenceOf(s prom.AegisNodeStatus) essence {
	return essence{
		kind: s.Type, device: s.PciBdf, sop: s.SOP,
		priority:    s.Priority,
		affectsLoad: s.AffectsLoad,
		mode:        s.DeviceMode,
		policy:      s.Policy,
		xid:         s.XID,
		firstSeen:   s.FirstSeen.UnixNano(),
		origin:      s.Origin,
		contested:   s.Contested,
	}
}

// compareStatuses orders the statuses of a node, and nodes by their first one: the most urgent comes first.
func compareStatuses(a, b prom.AegisNodeStatus) int {
	return cmp.Or(
		cmp.Compare(prom.BandOf(a.Priority).Urgency(), prom.BandOf(b.Priority).Urgency()),
		cmp.Compare(a.Priority, b.Priority),
		a.FirstSeen.Compare(b.FirstSeen),
		cmp.Compare(a.Condition, b.Condition),
		cmp.Compare(a.ID, b.ID),
	)
}

// later returns the later of two times.
func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
