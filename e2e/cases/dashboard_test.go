package cases

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql/parser"
	"github.com/stretchr/testify/require"

	"aegis.io/aegis/e2e/dashboard"
	"aegis.io/aegis/e2e/nodesim"
)

// One node is healed and one handed over. Then no panel of the dashboard is empty, and Aegis has every metric that it names.
func TestDashboardShowsTheStory(t *testing.T) {
	t.Parallel()
	healed, broken := nodeOf(t, poolDashboard, 0), nodeOf(t, poolDashboard, 1)
	healed.injectFixedBy(nodesim.GPUHung, nodesim.FixedByReboot)
	broken.inject(nodesim.HealthcheckGPU)
	broken.injectFixedBy(nodesim.GPUHung, nodesim.FixedByReboot)
	healed.resolved("GpuHung")
	broken.handedOver("gpu")

	families, err := shared.Aegis[0].Metrics(t.Context())
	require.NoError(t, err)
	settings := dashboard.Settings{Namespace: ".*", Job: ".*", Window: "15m", Range: "15m", RateInterval: "30s"}
	for _, row := range dashboard.Rows() {
		for _, p := range row.Panels {
			for _, q := range p.Queries {
				for _, name := range metricsOf(t, q.In(settings)) {
					if name != noSeries {
						require.Contains(t, families, name, p.Title)
					}
				}
			}
		}
	}
	var empty []string
	require.Eventually(t, func() bool {
		empty, err = dashboard.Empty(t.Context(), shared.Monitoring.Query, settings)
		return err == nil && len(empty) == 0
	}, 30*time.Second, time.Second, "%v", &empty)
}

// noSeries is a metric that has a series only while there is a storm.
const noSeries = "aegis_storm_active"

// metricsOf returns the metrics that an expression names, as Aegis calls them.
func metricsOf(t *testing.T, expr string) (names []string) {
	t.Helper()
	parsed, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
	require.NoError(t, err)
	parser.Inspect(parsed, func(node parser.Node, _ []parser.Node) error {
		if v, ok := node.(*parser.VectorSelector); ok {
			name := strings.TrimSuffix(strings.TrimSuffix(v.Name, "_bucket"), "_count")
			names = append(names, name)
		}
		return nil
	})
	return names
}
