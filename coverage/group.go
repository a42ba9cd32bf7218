package coverage

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// span is how long ago the first and the last of several things were. Zero stands for none.
type span struct {
	min, max time.Duration
}

// String says it in words, such as 3 to 25 minutes.
func (s span) String() string {
	low, high := inWords(s.min), inWords(s.max)
	if low == high {
		return high
	}
	number, unit, _ := strings.Cut(low, " ")
	if _, same, _ := strings.Cut(high, " "); strings.TrimSuffix(unit, "s") == strings.TrimSuffix(same, "s") {
		low = number
	}
	return low + " to " + high
}

// inWords rounds a duration for people.
func inWords(d time.Duration) string {
	n, unit := d.Round(time.Minute)/time.Minute, "minute"
	if d < time.Minute {
		n, unit = d.Round(time.Second)/time.Second, "second"
	}
	if n != 1 {
		unit += "s"
	}
	return fmt.Sprintf("%d %s", n, unit)
}

// groups are nodes with the same reasons, however long ago their exporters went.
type groups struct {
	byKey map[string]*Blind
	order []*Blind
}

func (g *groups) add(node string, why []Why) {
	var key strings.Builder
	for _, w := range why {
		fmt.Fprintf(&key, "%q%q%q%q%t", w.server, w.Source, w.Reason, w.Set, w.since == span{})
	}
	b := g.byKey[key.String()]
	if b == nil {
		if g.byKey == nil {
			g.byKey = make(map[string]*Blind)
		}
		b = &Blind{Why: slices.Clone(why)}
		g.byKey[key.String()], g.order = b, append(g.order, b)
	}
	b.Nodes = append(b.Nodes, node)
	for i, w := range why {
		known := &b.Why[i].since
		known.min, known.max = min(known.min, w.since.min), max(known.max, w.since.max)
	}
}

// sorted returns the groups, the biggest first.
func (g *groups) sorted() []Blind {
	slices.SortStableFunc(g.order, func(x, y *Blind) int { return cmp.Compare(len(y.Nodes), len(x.Nodes)) })
	var all []Blind
	for _, b := range g.order {
		for i, w := range b.Why {
			b.Why[i] = w.told(len(b.Nodes))
		}
		all = append(all, *b)
	}
	return all
}

// told returns the reason in full for so many nodes.
func (w Why) told(nodes int) Why {
	reason := w.Reason
	if w.since != (span{}) {
		which := "this node"
		if nodes > 1 {
			which = "these nodes"
		}
		reason = fmt.Sprintf("last sample from %s %s ago%s", which, w.since, reason)
	}
	return Why{Source: w.Source, Reason: w.server + reason, Set: w.Set}
}
