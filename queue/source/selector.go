package source

import (
	"errors"
	"slices"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// labelNode names the node in all series of rules, and labelExportedNode in those whose scrape does not honor labels.
const (
	labelNode         = "node"
	labelExportedNode = "exported_node"
)

// Selector selects the series that a part of a query reads.
type Selector struct {
	matchers []*labels.Matcher
}

// errSkipped has a walk leave out what is below a node.
var errSkipped = errors.New("skipped")

// Selectors returns what the query reads, without the matchers that say which range and time, and without what only takes series away.
func (e Expression) Selectors() []Selector { return selectors(e.expr) }

func selectors(e parser.Expr) []Selector {
	var all []Selector
	parser.Inspect(e, func(n parser.Node, _ []parser.Node) error {
		switch n := n.(type) {
		case *parser.VectorSelector:
			all = append(all, Selector{matchers: n.LabelMatchers})
		case *parser.BinaryExpr:
			if n.Op == parser.LUNLESS {
				all = append(all, selectors(n.LHS)...)
				return errSkipped
			}
		}
		return nil
	})
	return all
}

// Metric returns the name of the series, or the pattern of their names.
func (s Selector) Metric() string {
	if m := s.matcher(labelName); m != nil {
		return m.Value
	}
	return ""
}

// HonorsLabels reports whether the selector leaves out series whose scrape does not honor labels.
func (s Selector) HonorsLabels() bool { return s.matcher(labelExportedNode) != nil }

// AnyLabels returns a query for all series of the names, whatever their labels.
func (s Selector) AnyLabels() string {
	names := slices.DeleteFunc(slices.Clone(s.matchers), func(m *labels.Matcher) bool { return m.Name != labelName })
	return Selector{matchers: names}.String()
}

// String returns the selector as a query, whatever names the node.
func (s Selector) String() string { return s.with() }

// WithoutNode returns a query for the series that do not name their node in any of the labels.
func (s Selector) WithoutNode(names ...string) string {
	var none []*labels.Matcher
	for _, name := range append([]string{labelNode}, names...) {
		none = append(none, labels.MustNewMatcher(labels.MatchEqual, name, ""))
	}
	return s.with(none...)
}

// Renamed returns a query for the series whose scrape does not honor labels.
func (s Selector) Renamed() string {
	return s.with(labels.MustNewMatcher(labels.MatchNotEqual, labelExportedNode, ""))
}

func (s Selector) with(more ...*labels.Matcher) string {
	v := parser.VectorSelector{}
	for _, m := range s.matchers {
		switch {
		case m.Name == labelNode || m.Name == labelExportedNode:
		case m.Name == labelName && m.Type == labels.MatchEqual:
			v.Name = m.Value
		default:
			v.LabelMatchers = append(v.LabelMatchers, m)
		}
	}
	v.LabelMatchers = append(v.LabelMatchers, more...)
	return v.String()
}

func (s Selector) matcher(name string) *labels.Matcher {
	i := slices.IndexFunc(s.matchers, func(m *labels.Matcher) bool { return m.Name == name })
	if i < 0 {
		return nil
	}
	return s.matchers[i]
}

// Possible reports whether the query can yield anything while only those selectors have series of which exists says so. What only takes
// series away is not needed for that.
func (e Expression) Possible(exists func(Selector) bool) bool { return possible(e.expr, exists) }

func possible(e parser.Expr, exists func(Selector) bool) bool {
	switch e := e.(type) {
	case *parser.VectorSelector:
		return exists(Selector{matchers: e.LabelMatchers})
	case *parser.MatrixSelector:
		return possible(e.VectorSelector, exists)
	case *parser.SubqueryExpr:
		return possible(e.Expr, exists)
	case *parser.ParenExpr:
		return possible(e.Expr, exists)
	case *parser.StepInvariantExpr:
		return possible(e.Expr, exists)
	case *parser.UnaryExpr:
		return possible(e.Expr, exists)
	case *parser.AggregateExpr:
		return possible(e.Expr, exists)
	case *parser.BinaryExpr:
		return possibleBinary(e, exists)
	case *parser.Call:
		return possibleCall(e, exists)
	}
	return true
}

func possibleBinary(e *parser.BinaryExpr, exists func(Selector) bool) bool {
	switch e.Op {
	case parser.LOR:
		return possible(e.LHS, exists) || possible(e.RHS, exists)
	case parser.LUNLESS:
		return possible(e.LHS, exists)
	}
	left, right := possible(e.LHS, exists), possible(e.RHS, exists)
	if m := e.VectorMatching; m != nil {
		// A side that is filled may be missing.
		return (left || m.FillValues.LHS != nil) && (right || m.FillValues.RHS != nil) && (left || right)
	}
	return left && right
}

func possibleCall(e *parser.Call, exists func(Selector) bool) bool {
	if e.Func.Name == "absent" || e.Func.Name == "absent_over_time" {
		return true
	}
	for _, arg := range e.Args {
		if t := arg.Type(); (t == parser.ValueTypeVector || t == parser.ValueTypeMatrix) && !possible(arg, exists) {
			return false
		}
	}
	return true
}
