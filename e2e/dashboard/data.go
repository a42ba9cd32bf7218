package dashboard

import (
	"context"
	"fmt"
	"math"
	"regexp"

	"aegis.io/aegis/e2e/monitoring"
)

// Instant evaluates an expression now.
type Instant func(ctx context.Context, expr string) ([]monitoring.Sample, error)

// Empty names the panels of which a query returns nothing, or only what is no number.
func Empty(ctx context.Context, query Instant, s Settings) ([]string, error) {
	var empty []string
	for _, row := range Rows() {
		for _, p := range row.Panels {
			for _, q := range p.Queries {
				samples, err := query(ctx, q.In(s))
				if err != nil {
					return nil, fmt.Errorf("panel %s: %w", p.Title, err)
				}
				if !numbers(samples) {
					empty = append(empty, fmt.Sprintf("%s: %s: %s", p.Title, q.Legend, q.In(s)))
				}
			}
		}
	}
	return empty, nil
}

func numbers(samples []monitoring.Sample) bool {
	for _, s := range samples {
		if !math.IsNaN(s.Value) {
			return true
		}
	}
	return false
}

// placeholder matches a label in a legend.
var placeholder = regexp.MustCompile(`\{\{\s*(\w+)\s*\}\}`)

// Name returns the legend of a series with these labels.
func (q Query) Name(labels map[string]string) string {
	return placeholder.ReplaceAllStringFunc(q.Legend, func(found string) string {
		return labels[placeholder.FindStringSubmatch(found)[1]]
	})
}

// Color returns the color that a series has by its name, or nothing.
func (q Query) Color(name string) string { return colors(q.Legend)[name] }
