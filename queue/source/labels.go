package source

import (
	"maps"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// maxShown is how much of a part of a query an error shows.
const maxShown = 60

// labelSet says which labels the series of an expression can have.
type labelSet struct {
	// open says that they can have any label but the lost ones. Otherwise they have none but the kept ones.
	open bool
	kept map[string]bool
	lost map[string]parser.Expr
	// by is the expression that closed the set.
	by parser.Expr
}

func anyLabels() labelSet { return labelSet{open: true} }

// only returns the set without all labels but the named ones.
func (s labelSet) only(names []string, by parser.Expr) labelSet {
	closed := labelSet{kept: make(map[string]bool), lost: maps.Clone(s.lost), by: by}
	if !s.open {
		closed.by = s.by
	}
	for _, name := range names {
		if s.has(name) {
			closed.kept[name] = true
		}
	}
	if s.open {
		return closed
	}
	// Who took a label away first is to blame.
	if closed.lost == nil {
		closed.lost = make(map[string]parser.Expr)
	}
	for name := range s.kept {
		if !closed.kept[name] {
			closed.lost[name] = by
		}
	}
	return closed
}

// without returns the set without the named labels.
func (s labelSet) without(names []string, by parser.Expr) labelSet {
	rest := labelSet{open: s.open, kept: maps.Clone(s.kept), lost: maps.Clone(s.lost), by: s.by}
	if rest.lost == nil {
		rest.lost = make(map[string]parser.Expr)
	}
	for _, name := range names {
		if s.has(name) {
			delete(rest.kept, name)
			rest.lost[name] = by
		}
	}
	return rest
}

// with returns the set with one more label.
func (s labelSet) with(name string) labelSet {
	more := labelSet{open: s.open, kept: maps.Clone(s.kept), lost: maps.Clone(s.lost), by: s.by}
	if more.kept == nil {
		more.kept = make(map[string]bool)
	}
	more.kept[name] = true
	delete(more.lost, name)
	return more
}

func (s labelSet) has(name string) bool {
	if s.kept[name] {
		return true
	}
	_, lost := s.lost[name]
	return s.open && !lost
}

// culprit returns the part of the query that takes the label away.
func (s labelSet) culprit(name string) parser.Expr {
	if by := s.lost[name]; by != nil {
		return by
	}
	return s.by
}

// Loses returns the part of the query that takes the label away from its series, and reports whether one does. A label that is left may
// still be missing on a series.
func (e Expression) Loses(label string) (part string, loses bool) {
	set := labelsOf(e.expr)
	if set.has(label) {
		return "", false
	}
	part = "it"
	if by := set.culprit(label); by != nil {
		part = by.String()
	}
	if len(part) > maxShown {
		part = strings.ToValidUTF8(part[:maxShown], "") + "..."
	}
	return part, true
}

// labelsOf returns the labels that the series of an expression can have.
func labelsOf(e parser.Expr) labelSet {
	switch e := e.(type) {
	case *parser.ParenExpr:
		return labelsOf(e.Expr)
	case *parser.UnaryExpr:
		return labelsOf(e.Expr)
	case *parser.StepInvariantExpr:
		return labelsOf(e.Expr)
	case *parser.SubqueryExpr:
		return labelsOf(e.Expr)
	case *parser.AggregateExpr:
		return labelsOfAggregation(e)
	case *parser.BinaryExpr:
		return labelsOfOperation(e)
	case *parser.Call:
		return labelsOfCall(e)
	default: // Selectors. What their series are like only the server knows.
		return anyLabels()
	}
}

func labelsOfAggregation(e *parser.AggregateExpr) labelSet {
	inner := labelsOf(e.Expr)
	switch {
	case e.Op == parser.TOPK, e.Op == parser.BOTTOMK, e.Op == parser.LIMITK, e.Op == parser.LIMIT_RATIO:
		return inner // They choose series, and leave them as they are.
	case e.Without:
		inner = inner.without(e.Grouping, e)
	default:
		inner = inner.only(e.Grouping, e)
	}
	if name, ok := text(e.Param); ok && e.Op == parser.COUNT_VALUES {
		return inner.with(name)
	}
	return inner
}

func labelsOfOperation(e *parser.BinaryExpr) labelSet {
	left, right := labelsOf(e.LHS), labelsOf(e.RHS)
	m := e.VectorMatching
	switch {
	case m == nil && e.LHS.Type() == parser.ValueTypeVector:
		return left
	case m == nil:
		return right
	case e.Op == parser.LOR:
		return either(left, right)
	case m.Card == parser.CardManyToMany: // and, unless
		return left
	case m.Card == parser.CardOneToOne && m.On:
		return left.only(m.MatchingLabels, e)
	case m.Card == parser.CardOneToOne:
		return left.without(m.MatchingLabels, e)
	case m.Card == parser.CardOneToMany:
		left, right = right, left
	}
	return grouped(left, right, m.Include, e)
}

// grouped returns the labels of the many with those included of the one that each belongs to.
func grouped(many, one labelSet, include []string, e parser.Expr) labelSet {
	for _, name := range include {
		if one.has(name) {
			many = many.with(name)
		} else {
			many = many.without([]string{name}, e)
		}
	}
	return many
}

// either returns the labels that series of both sides can have.
func either(a, b labelSet) labelSet {
	both := labelSet{open: a.open && b.open, kept: make(map[string]bool), lost: maps.Clone(a.lost), by: a.by}
	if both.by == nil {
		both.by = b.by
	}
	if both.lost == nil {
		both.lost = make(map[string]parser.Expr)
	}
	for name := range maps.Keys(b.lost) {
		both.lost[name] = b.lost[name]
	}
	for _, side := range []labelSet{a, b} {
		for name := range side.kept {
			if a.has(name) && b.has(name) {
				both.kept[name] = true
				delete(both.lost, name)
			}
		}
	}
	return both
}

func labelsOfCall(e *parser.Call) labelSet {
	i := vectorArgument(e)
	if i < 0 {
		return labelSet{by: e} // Such as vector(1).
	}
	inner := labelsOf(e.Args[i])
	switch e.Func.Name {
	case "absent", "absent_over_time":
		return labelsOfAbsent(e, i)
	case "label_replace", "label_join":
		name, ok := text(e.Args[1])
		if !ok {
			return inner
		}
		if value, literal := text(e.Args[2]); literal && value == "" && e.Func.Name == "label_replace" {
			return inner.without([]string{name}, e)
		}
		return inner.with(name)
	case "histogram_quantile":
		return inner.without([]string{labels.BucketLabel}, e)
	case "info":
		return anyLabels()
	case "scalar":
		return labelSet{by: e}
	default:
		return inner
	}
}

// labelsOfAbsent returns the labels that absent() makes up: those that the selector demands.
func labelsOfAbsent(e *parser.Call, argument int) labelSet {
	set := labelSet{by: e, kept: make(map[string]bool)}
	selector, ok := bare(e.Args[argument]).(*parser.VectorSelector)
	if m, isMatrix := bare(e.Args[argument]).(*parser.MatrixSelector); isMatrix {
		selector, ok = m.VectorSelector.(*parser.VectorSelector)
	}
	if !ok {
		return set
	}
	for _, m := range selector.LabelMatchers {
		if m.Type == labels.MatchEqual {
			set.kept[m.Name] = true
		}
	}
	return set
}

// text returns the value of an expression that is a text.
func text(e parser.Expr) (string, bool) {
	if e == nil {
		return "", false
	}
	literal, ok := bare(e).(*parser.StringLiteral)
	if !ok {
		return "", false
	}
	return literal.Val, true
}
