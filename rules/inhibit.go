package rules

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/strict"
)

// Inhibition says what a condition explains: while it holds, nothing is done about those. They stay visible, and are decided on anew
// when it is gone.
type Inhibition struct {
	// Conditions are inhibited by name, Types as whole domains.
	Conditions []string
	Types      []string
	// SameDevice inhibits only what is on the same device. A status that names no device stands for all of them.
	SameDevice bool
	// Devices inhibits only statuses of these devices. Empty inhibits those of all.
	Devices []string
	// Within inhibits only so long after the condition began. Zero inhibits as long as it holds.
	Within time.Duration
}

// fieldInhibits is the field of a condition that says what it explains. fieldHides is its earlier name.
const (
	fieldInhibits = "inhibits"
	fieldHides    = "hides"
)

// inhibits returns a reader for each name of the field, of which a condition may have one.
func (d decoder) inhibits(e *entry) (inhibits, hides func(*yaml.Node)) {
	given := false
	read := func(field string) func(*yaml.Node) {
		return func(n *yaml.Node) {
			if given {
				d.Fail(n, "condition has both %s and its earlier name %s: write %s alone", fieldInhibits, fieldHides, fieldInhibits)
				return
			}
			given = true
			d.inhibitions(n, field, e)
		}
	}
	return read(fieldInhibits), read(fieldHides)
}

// inhibitions reads what a condition explains. Whether the names exist is known only when all files have been read.
func (d decoder) inhibitions(n *yaml.Node, field string, e *entry) {
	e.Inhibits, e.inhibitLines = nil, nil
	d.List(n, field, func(item *yaml.Node) {
		var i Inhibition
		d.Mapping(item, field, strict.Fields{
			"conditions": func(n *yaml.Node) { d.Texts(n, "conditions", &i.Conditions) },
			"types": func(n *yaml.Node) {
				d.List(n, "types", func(item *yaml.Node) {
					var name string
					d.domain(item, &name)
					if name != "" {
						i.Types = append(i.Types, name)
					}
				})
			},
			"sameDevice": func(n *yaml.Node) { d.Boolean(n, "sameDevice", &i.SameDevice) },
			"devices":    func(n *yaml.Node) { d.Texts(n, "devices", &i.Devices) },
			"within":     func(n *yaml.Node) { d.Duration(n, "within", shortest, &i.Within) },
		})
		e.Inhibits = append(e.Inhibits, i)
		e.inhibitLines = append(e.inhibitLines, d.Position(item))
	})
}

// InhibitedBy returns a function that says in words which of the conditions of one node explains a status. Empty means that none does. A
// node may have thousands of conditions: each is looked at once, and a status is held against the inhibitions of the catalogue, not against
// all of the others.
func (c *Catalogue) InhibitedBy(now time.Time, statuses []prom.AegisNodeStatus) func(prom.AegisNodeStatus) string {
	explanations := c.explanations(now, statuses)
	return func(status prom.AegisNodeStatus) string {
		first := len(statuses)
		for _, e := range explanations {
			first = min(first, e.cause(status, first))
		}
		if first == len(statuses) {
			return ""
		}
		return describeCause(statuses[first])
	}
}

// explanation is an inhibition together with the conditions of a node for which it stands, each by its index.
type explanation struct {
	Inhibition
	condition string
	// first is the first of them, byDevice the first of each device.
	first    int
	byDevice map[string]int
}

// explanations returns the inhibitions of the conditions.
func (c *Catalogue) explanations(now time.Time, statuses []prom.AegisNodeStatus) []*explanation {
	type rule struct {
		condition string
		n         int
	}
	var all []*explanation
	known := make(map[rule]*explanation)
	for at, cause := range statuses {
		e := c.lookup(cause.Condition)
		if e == nil || cause.Policy.Mode == prom.ModeOff {
			continue
		}
		for n, i := range e.Inhibits {
			if !i.stands(now, cause) {
				continue
			}
			of := known[rule{cause.Condition, n}]
			if of == nil {
				of = &explanation{Inhibition: i, condition: cause.Condition, first: at, byDevice: make(map[string]int)}
				known[rule{cause.Condition, n}] = of
				all = append(all, of)
			}
			if _, found := of.byDevice[cause.ID]; !found {
				of.byDevice[cause.ID] = at
			}
		}
	}
	return all
}

// stands reports whether the cause explains anything.
func (i Inhibition) stands(now time.Time, cause prom.AegisNodeStatus) bool {
	over := i.Within > 0 && !now.Before(cause.FirstSeen.Add(i.Within))
	return !over && !slices.Contains(i.Devices, cause.ID)
}

// cause returns the index of the first condition that explains the status, or none.
func (e *explanation) cause(status prom.AegisNodeStatus, none int) int {
	named := slices.Contains(e.Conditions, status.Condition) || slices.Contains(e.Types, status.Type) && status.Condition != e.condition
	otherDevice := len(e.Devices) > 0 && !slices.Contains(e.Devices, status.ID)
	switch {
	case !named || otherDevice:
		return none
	case !e.SameDevice || status.ID == "":
		return e.first
	}
	for _, device := range []string{status.ID, ""} {
		if at, found := e.byDevice[device]; found {
			none = min(none, at)
		}
	}
	return none
}

func describeCause(cause prom.AegisNodeStatus) string {
	if cause.ID == "" {
		return cause.Condition + " explains it"
	}
	return cause.Condition + " (" + cause.ID + ") explains it"
}

// inhibitConflicts finds inhibited conditions that do not exist, and conditions that inhibit each other, of which neither would ever be
// repaired.
func inhibitConflicts(entries []*entry, fail func(strict.Position, string, ...any)) {
	byName := make(map[string]*entry)
	var names []string
	for _, e := range entries {
		byName[e.Name] = e
		names = append(names, e.Name)
	}
	for _, e := range entries {
		for n, i := range e.Inhibits {
			for _, name := range i.Conditions {
				if byName[name] == nil {
					fail(e.inhibitLines[n], "condition %s inhibits the unknown condition %s, %s", e.Name, strict.Quote(name), strict.Hint(name, names))
				}
			}
		}
		if ring := inhibitRing(e, byName); ring != nil {
			fail(e.inhibitLines[0], "conditions inhibit each other: %s", strings.Join(ring, " inhibits "))
		}
	}
}

// inhibitedTypes finds inhibited domains that no condition is of.
func inhibitedTypes(entries []*entry, fail func(strict.Position, string, ...any)) {
	known := knownTypes()
	for _, e := range entries {
		known = append(known, e.Type)
	}
	for _, e := range entries {
		for n, i := range e.Inhibits {
			for _, name := range i.Types {
				if !slices.Contains(known, name) {
					fail(e.inhibitLines[n], "condition %s inhibits the type %s, which no condition is of", e.Name, strict.Quote(name))
				}
			}
		}
	}
}

// inhibitRing returns the way from the condition back to itself, if there is one. Each ring is told once, at its first name.
func inhibitRing(start *entry, byName map[string]*entry) []string {
	seen := make(map[string]bool)
	var walk func(e *entry, path []string) []string
	walk = func(e *entry, path []string) []string {
		for _, name := range e.inhibited(byName) {
			if name == start.Name {
				return append(path, name)
			}
			if seen[name] || name < start.Name {
				continue
			}
			seen[name] = true
			if ring := walk(byName[name], append(path, name)); ring != nil {
				return ring
			}
		}
		return nil
	}
	return walk(start, []string{start.Name})
}

// inhibited names the conditions that the entry inhibits on every device.
func (e *entry) inhibited(byName map[string]*entry) []string {
	var names []string
	for _, i := range e.Inhibits {
		if len(i.Devices) > 0 {
			continue
		}
		for name, other := range byName {
			if slices.Contains(i.Conditions, name) || slices.Contains(i.Types, other.Type) && name != e.Name {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names
}

// String says what is inhibited, for the pages of the conditions.
func (i Inhibition) String() string {
	what := slices.Clone(i.Conditions)
	for _, t := range i.Types {
		what = append(what, "all of type "+t)
	}
	text := strings.Join(what, ", ")
	if len(i.Devices) > 0 {
		text += " of " + strings.Join(i.Devices, ", ")
	}
	if i.SameDevice {
		text += " on the same device"
	}
	if i.Within > 0 {
		text += fmt.Sprintf(" for %s", i.Within)
	}
	return text
}
