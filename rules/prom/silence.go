package prom

import (
	"slices"

	"github.com/prometheus/alertmanager/pkg/labels"
)

// Unseen is an alert of which nobody has seen more than that it is about this node and this condition, as after a restart.
type Unseen struct{ Node, Condition string }

// Matches reports whether a silence with the matchers may be one of the alert: it asks for the node or the condition, and for no other of them. A label
// that is not known counts as matching, because a silence that is made in a user interface names every label that the alert had.
func (u Unseen) Matches(matchers []*labels.Matcher) bool {
	known := map[string]string{"node": u.Node, "condition": u.Condition, "alertname": u.Condition}
	differs := func(m *labels.Matcher) bool { return !m.Matches(known[m.Name]) }
	return len(matchers) > 0 && !slices.ContainsFunc(matchers, differs) || u.named(matchers)
}

// named reports whether the matchers ask for the node or the condition, whatever the other labels are.
func (u Unseen) named(matchers []*labels.Matcher) bool {
	about, ofCondition := false, false
	for _, m := range matchers {
		known := map[string]string{"node": u.Node, "condition": u.Condition}[m.Name]
		switch {
		case known == "":
		case !m.Matches(known):
			return false
		case !m.Matches(""): // One that is content without the label asks for nothing.
			about, ofCondition = true, ofCondition || m.Name == "condition"
		}
	}
	// An alert mostly has the name of its condition, but need not.
	for _, m := range matchers {
		switch {
		case m.Name != "alertname" || ofCondition:
		case !m.Matches(u.Condition):
			return false
		case !m.Matches(""):
			about = true
		}
	}
	return about
}
