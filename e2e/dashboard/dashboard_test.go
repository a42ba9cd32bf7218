package dashboard_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	sdk "github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/stretchr/testify/require"

	"aegis.io/aegis/e2e/dashboard"
)

const file = "../../charts/aegis/dashboards/aegis.json"

func TestTheChartHasTheDashboardOfTheTable(t *testing.T) {
	t.Parallel()
	want, err := dashboard.JSON()
	require.NoError(t, err)
	got, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), string(got), "run make update")
}

// The schema is that of Grafana's own library, which refuses what it does not know.
func TestGrafanaTakesTheDashboard(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	plugins.RegisterDefaultPlugins()
	type schema = sdk.Dashboard //nolint:staticcheck // Every Grafana reads this schema, only the newest the other one.
	require.Empty(t, refusal(new(schema).UnmarshalJSONStrict(text)))
	// The strict reading drops panels.
	var d schema
	require.NoError(t, json.Unmarshal(text, &d))
	require.Empty(t, refusal(d.Validate()))
	require.GreaterOrEqual(t, d.SchemaVersion, uint16(41))
	require.ErrorContains(t, new(schema).UnmarshalJSONStrict([]byte(strings.Replace(string(text), `"expr"`, `"promql"`, 1))), "expr")

	ids, places := map[uint32]bool{}, map[[2]uint32]string{}
	for _, p := range d.Panels {
		if p.Panel == nil {
			require.NotContains(t, ids, p.RowPanel.Id)
			ids[p.RowPanel.Id] = true
			continue
		}
		require.NotContains(t, ids, *p.Panel.Id, *p.Panel.Title)
		ids[*p.Panel.Id] = true
		at := p.Panel.GridPos
		require.LessOrEqual(t, at.X+at.W, uint32(24), *p.Panel.Title)
		for x := at.X; x < at.X+at.W; x++ {
			for y := at.Y; y < at.Y+at.H; y++ {
				require.Empty(t, places[[2]uint32{x, y}], "%s covers it", *p.Panel.Title)
				places[[2]uint32{x, y}] = *p.Panel.Title
			}
		}
	}
}

// refusal returns what the library says against a dashboard. It also returns a list of errors where there is none.
func refusal(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// settings are those of the end-to-end tests, where no metric has a namespace.
func settings() dashboard.Settings {
	return dashboard.Settings{Namespace: ".*", Job: ".*", Window: "15m", Range: "15m", RateInterval: "1m"}
}

func TestEveryPanelIsDescribed(t *testing.T) {
	t.Parallel()
	titles := map[string]bool{}
	for _, row := range dashboard.Rows() {
		width := uint32(0)
		for _, p := range row.Panels {
			width += p.Width
			require.False(t, titles[p.Title], "two panels are called %s", p.Title)
			titles[p.Title] = true
			require.True(t, strings.HasSuffix(p.About, "."), p.Title)
			require.NotEmpty(t, p.Unit, p.Title)
			require.NotEmpty(t, p.Queries, p.Title)
			for _, q := range p.Queries {
				require.NotEmpty(t, q.Legend, p.Title)
			}
		}
		require.Zero(t, width%24, "row %s is not filled", row.Title)
	}
}

func TestEveryQueryParses(t *testing.T) {
	t.Parallel()
	for _, row := range dashboard.Rows() {
		for _, p := range row.Panels {
			for _, q := range p.Queries {
				expr, err := parser.NewParser(parser.Options{}).ParseExpr(q.In(settings()))
				require.NoError(t, err, "%s: %s", p.Title, q.In(settings()))
				require.NotContains(t, q.In(settings()), "$", p.Title)
				selectors(t, p.Title, expr)
			}
		}
	}
}

// selectors makes sure that every metric is one of Aegis, selected by the variables.
func selectors(t *testing.T, title string, expr parser.Expr) {
	t.Helper()
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		v, ok := node.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		require.True(t, strings.HasPrefix(v.Name, "aegis_"), "%s: %s", title, v.Name)
		for _, label := range []string{"namespace", "job"} {
			require.True(t, selects(v.LabelMatchers, label), "%s: %s is not selected by %s", title, v.Name, label)
		}
		return nil
	})
}

func selects(matchers []*labels.Matcher, label string) bool {
	for _, m := range matchers {
		if m.Name == label {
			return true
		}
	}
	return false
}
