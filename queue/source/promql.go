package source

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// Expression is a query that yields an instant vector.
type Expression struct {
	text string
	expr parser.Expr
}

// ParseExpression parses a query with the parser of Prometheus, and refuses what names no node, such as a scalar.
func ParseExpression(text string) (Expression, error) {
	if strings.TrimSpace(text) == "" {
		return Expression{}, errors.New("is empty")
	}
	// Whether the server knows a function that is experimental is for the server to say.
	expr, err := parser.NewParser(parser.Options{EnableExperimentalFunctions: true, EnableBinopFillModifiers: true}).ParseExpr(text)
	if err != nil {
		return Expression{}, parseError(err)
	}
	switch kind := expr.Type(); kind {
	case parser.ValueTypeVector:
		return Expression{text: text, expr: expr}, nil
	case parser.ValueTypeMatrix:
		return Expression{}, errors.New("yields a range of values for each series: reduce it to one, such as with last_over_time or rate")
	default:
		return Expression{}, fmt.Errorf("yields a %s, which names no node: it must yield series with a label that does", kind)
	}
}

// parseError says where the first mistake is, and what it is.
func parseError(err error) error {
	var all parser.ParseErrors
	if !errors.As(err, &all) || len(all) == 0 {
		return fmt.Errorf("does not parse: %w", err)
	}
	first := all[0]
	return fmt.Errorf("does not parse: at %s of the query: %w", first.PositionRange.StartPosInput(first.Query, 0), first.Err)
}

// plain reports whether the query selects series as they were last scraped or recorded, so that timestamp() tells how old its
// samples are.
func (e Expression) plain() bool {
	selector, ok := bare(e.expr).(*parser.VectorSelector)
	if !ok {
		return false
	}
	moved := selector.OriginalOffset != 0 || selector.OriginalOffsetExpr != nil || selector.Timestamp != nil || selector.StartOrEnd != 0
	named := slices.ContainsFunc(selector.LabelMatchers, func(m *labels.Matcher) bool {
		return m.Name == labelName && m.Type == labels.MatchEqual
	})
	return named && !moved
}

// selects reports whether the query selects the series of the metric.
func (e Expression) selects(metric string) bool {
	selector, ok := bare(e.expr).(*parser.VectorSelector)
	return ok && slices.ContainsFunc(selector.LabelMatchers, func(m *labels.Matcher) bool { return m.Name == labelName && m.Matches(metric) })
}

// bare takes the parentheses away.
func bare(e parser.Expr) parser.Expr {
	for {
		inner, ok := e.(*parser.ParenExpr)
		if !ok {
			return e
		}
		e = inner.Expr
	}
}

// Filters reports whether the query has a series only while a comparison holds, so that a series that is missing says nothing.
func (e Expression) Filters() bool {
	switch e := bare(e.expr).(type) {
	case *parser.BinaryExpr:
		return e.Op.IsComparisonOperator() && !e.ReturnBool
	case *parser.AggregateExpr:
		return Expression{expr: e.Expr}.Filters()
	case *parser.Call:
		if i := vectorArgument(e); i >= 0 {
			return Expression{expr: e.Args[i]}.Filters()
		}
	}
	return false
}

func vectorArgument(c *parser.Call) int {
	return slices.IndexFunc(c.Args, func(e parser.Expr) bool {
		return e.Type() == parser.ValueTypeVector || e.Type() == parser.ValueTypeMatrix
	})
}

// usable reports whether a value can be compared with a threshold.
func usable(value float64) bool { return !math.IsNaN(value) && !math.IsInf(value, 0) }
