package handler

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/rules/prom"
)

func TestExplainSaysWhatASourceHides(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	require.Equal(t, []string{
		"source load gives no reliable answer, last 3m ago, so it hides HighLoad: connection refused",
		"source inspection gives no reliable answer, so it hides each condition that its label condition names: it is partial",
	}, explainSources([]prom.SourceHealth{
		{Name: "new", Condition: "GpuHung"},
		{Name: "well", Condition: "GpuHung", AskedAt: now, LastSuccess: now},
		{Name: "load", Condition: "HighLoad", AskedAt: now, LastSuccess: now.Add(-3 * time.Minute), Error: "connection\nrefused"},
		{Name: "inspection", ConditionLabel: "condition", AskedAt: now, Error: "it is partial"},
	}, now))
}
