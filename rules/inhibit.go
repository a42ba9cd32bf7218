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

// Hiding says what a condition explains: while it holds, nothing is done about those. They stay visible, and are decided on anew
// when it is gone.
type Hiding struct {
	// Conditions are hidden by name, Types as whole domains.
	Conditions []string
	Types      []string
	// SameDevice hides only what is on the same device. A status that names no device stands for all of them.
	SameDevice bool
	// Devices hides only statuses of these devices. Empty hides those of all.
	Devices []string
	// Within hides only so long after the condition began. Zero hides as long as it holds.
	Within time.Duration
}

// fieldHides is the field of a condition that says what it hides.
const fieldHides = "hides"

// hides reads what a condition explains. Whether the names exist is known only when all files have been read.
func (d decoder) hides(n *yaml.Node, e *entry) {
	e.Hides, e.hidesLines = nil, nil
	d.List(n, fieldHides, func(item *yaml.Node) {
		var h Hiding
		d.Mapping(item, fieldHides, strict.Fields{
			"conditions": func(n *yaml.Node) { d.Texts(n, "conditions", &h.Conditions) },
			"types": func(n *yaml.Node) {
				d.List(n, "types", func(item *yaml.Node) {
					var name string
					strict.Choice(d.Decoder, item, "type", knownTypes(), &name)
					if name != "" {
						h.Types = append(h.Types, name)
					}
				})
			},
			"sameDevice": func(n *yaml.Node) { d.Boolean(n, "sameDevice", &h.SameDevice) },
			"devices":    func(n *yaml.Node) { d.Texts(n, "devices", &h.Devices) },
			"within":     func(n *yaml.Node) { d.Duration(n, "within", shortest, &h.Within) },
		})
		e.Hides = append(e.Hides, h)
		e.hidesLines = append(e.hidesLines, d.Position(item))
	})
}

// InhibitedBy returns in words which of the other conditions of its node explains the status. Empty means that none does.
func (c *Catalogue) InhibitedBy(now time.Time, status prom.AegisNodeStatus, others []prom.AegisNodeStatus) string {
	for _, other := range others {
		e := c.lookup(other.Condition)
		if e == nil || other.Policy.Mode == prom.ModeOff {
			continue
		}
		for _, h := range e.Hides {
			if h.hides(now, other, status) {
				return describeHiding(other)
			}
		}
	}
	return ""
}

// hides reports whether the cause explains the status.
func (h Hiding) hides(now time.Time, cause, status prom.AegisNodeStatus) bool {
	named := slices.Contains(h.Conditions, status.Condition) || slices.Contains(h.Types, status.Type) && status.Condition != cause.Condition
	elsewhere := h.SameDevice && cause.ID != "" && status.ID != "" && cause.ID != status.ID
	otherDevice := len(h.Devices) > 0 && (!slices.Contains(h.Devices, status.ID) || slices.Contains(h.Devices, cause.ID))
	over := h.Within > 0 && !now.Before(cause.FirstSeen.Add(h.Within))
	return named && !elsewhere && !otherDevice && !over
}

func describeHiding(cause prom.AegisNodeStatus) string {
	if cause.ID == "" {
		return cause.Condition + " explains it"
	}
	return cause.Condition + " (" + cause.ID + ") explains it"
}

// hidingConflicts finds hidden conditions that do not exist, and conditions that hide each other, of which neither would ever be
// repaired.
func hidingConflicts(entries []*entry, fail func(strict.Position, string, ...any)) {
	byName := make(map[string]*entry)
	var names []string
	for _, e := range entries {
		byName[e.Name] = e
		names = append(names, e.Name)
	}
	for _, e := range entries {
		for i, h := range e.Hides {
			for _, name := range h.Conditions {
				if byName[name] == nil {
					fail(e.hidesLines[i], "condition %s hides the unknown condition %s, %s", e.Name, strict.Quote(name), strict.Hint(name, names))
				}
			}
		}
		if ring := hidingRing(e, byName); ring != nil {
			fail(e.hidesLines[0], "conditions hide each other: %s", strings.Join(ring, " hides "))
		}
	}
}

// hidingRing returns the way from the condition back to itself, if there is one. Each ring is told once, at its first name.
func hidingRing(start *entry, byName map[string]*entry) []string {
	seen := make(map[string]bool)
	var walk func(e *entry, path []string) []string
	walk = func(e *entry, path []string) []string {
		for _, name := range e.hidden(byName) {
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

// hidden names the conditions that the entry hides on every device.
func (e *entry) hidden(byName map[string]*entry) []string {
	var names []string
	for _, h := range e.Hides {
		if len(h.Devices) > 0 {
			continue
		}
		for name, other := range byName {
			if slices.Contains(h.Conditions, name) || slices.Contains(h.Types, other.Type) && name != e.Name {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names
}

// String says what is hidden, for the pages of the conditions.
func (h Hiding) String() string {
	what := slices.Clone(h.Conditions)
	for _, t := range h.Types {
		what = append(what, "all of type "+t)
	}
	text := strings.Join(what, ", ")
	if len(h.Devices) > 0 {
		text += " of " + strings.Join(h.Devices, ", ")
	}
	if h.SameDevice {
		text += " on the same device"
	}
	if h.Within > 0 {
		text += fmt.Sprintf(" for %s", h.Within)
	}
	return text
}
