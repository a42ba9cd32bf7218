package wire

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/promslog"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/storage"
	"github.com/stretchr/testify/require"

	"aegis.io/aegis/queue/source"
	"aegis.io/aegis/rules/prom"
)

// The samples of a series, one each 30 seconds. Prometheus marks the end of an alert that ends, and of none whose rule is not evaluated.
const (
	ninetyMinutes = 180
	marked        = " stale"
)

// history is a series of ALERTS: so many samples, a gap of so many, and again.
func history(name string, parts ...string) string {
	return fmt.Sprintf("  ALERTS{alertname=%q,alertstate=\"firing\",node=\"n1\"} %s\n", name, strings.Join(parts, " "))
}

func samples(n int) string { return fmt.Sprintf("1x%d", n-1) }
func gap(n int) string     { return fmt.Sprintf("_x%d", n) }

// The queries for alerts are evaluated by the engine of Prometheus. What the next leader asks for are the alerts whose rules were evaluated no
// more, whenever that was, and none that ended.
func TestAlertsThatGrewOldAreFound(t *testing.T) {
	t.Parallel()
	for name, lookback := range map[string]func(query string) time.Duration{
		"by Prometheus": func(string) time.Duration { return 5 * time.Minute },
		// MetricsQL has no lookback of its own: "If lookbehind window in square brackets is missing, then it is automatically set to the step".
		"by VictoriaMetrics": shortestStep,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			requireGrownOld(t, lookback)
		})
	}
}

func requireGrownOld(t *testing.T, lookback func(query string) time.Duration) {
	t.Helper()
	data, want := "load 30s\n", make(map[string]time.Duration)
	for ago := 1; ago < 50; ago++ {
		old, ended := fmt.Sprintf("Old%02d", ago), fmt.Sprintf("Ended%02d", ago)
		data += history(old, samples(ninetyMinutes-ago+1)) + history(ended, samples(ninetyMinutes-ago+1)+marked)
		if age := time.Duration(ago) * 30 * time.Second; age >= 150*time.Second {
			want[old] = age
		}
	}
	data += history("Firing", samples(ninetyMinutes+1)) +
		history("FiringAgain", samples(60), gap(20), samples(ninetyMinutes-79)) +
		history("EndedLater", samples(60), gap(20), samples(50)+marked) +
		history("EndedSoonAfter", samples(100), gap(9), samples(7)+marked)
	p := evaluating(t, data, lookback)

	aged, err := p.Aged(t.Context(), []string{"n1"}, 80*time.Minute)
	require.NoError(t, err)
	got := make(map[string]time.Duration)
	for _, a := range aged {
		require.Equal(t, prom.StateStale, a.State)
		got[a.Labels["alertname"]] = a.Age()
	}
	require.Equal(t, want, got)
}

// What fires is found, what ended is not, and what is old is told as that.
func TestAlertsOfPrometheus(t *testing.T) {
	t.Parallel()
	p := evaluating(t, "load 30s\n"+history("Watchdog", samples(ninetyMinutes+1))+history("Old", samples(ninetyMinutes-6))+
		history("Ended", samples(ninetyMinutes-1)+marked), shortestStep)
	alerts, err := p.Alerts(t.Context())
	require.NoError(t, err)
	states := make(map[string]prom.AlertState)
	for _, a := range alerts {
		states[a.Labels["alertname"]] = a.State
	}
	require.Equal(t, map[string]prom.AlertState{"Watchdog": prom.StateFiring, "Old": prom.StateStale}, states)
}

// shortestStep returns the shortest step of the subqueries of the query, five minutes if it has none.
func shortestStep(query string) time.Duration {
	shortest := 5 * time.Minute
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(query)
	if err != nil {
		return 0
	}
	parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
		if s, ok := n.(*parser.SubqueryExpr); ok {
			shortest = min(shortest, s.Step)
		}
		return nil
	})
	return shortest
}

// evaluating returns a client of a server that evaluates queries over the data at the end of ninety minutes, and finds a series for as long as
// the lookback says.
func evaluating(t *testing.T, data string, lookback func(query string) time.Duration) *source.Prometheus {
	t.Helper()
	series := promqltest.LoadedStorage(t, data)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text := r.FormValue("query")
		engine := promql.NewEngine(promql.EngineOpts{
			Logger: promslog.NewNopLogger(), MaxSamples: 1_000_000, Timeout: time.Minute, LookbackDelta: lookback(text),
			Parser: parser.NewParser(parser.Options{}),
		})
		body, err := evaluated(r.Context(), engine, series, text)
		if err != nil {
			t.Error(err)
		}
		if _, err := w.Write(body); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	p, err := source.NewPrometheus(source.PrometheusOptions{URL: server.URL})
	require.NoError(t, err)
	return p
}

// evaluated returns the answer to an instant query.
func evaluated(ctx context.Context, engine *promql.Engine, series storage.Queryable, text string) ([]byte, error) {
	at := time.Unix(ninetyMinutes*30, 0)
	query, err := engine.NewInstantQuery(ctx, series, nil, text, at)
	if err != nil {
		return nil, fmt.Errorf("parse: %w", err)
	}
	defer query.Close()
	vector, err := query.Exec(ctx).Vector()
	if err != nil {
		return nil, fmt.Errorf("evaluate: %w", err)
	}
	result := make([]map[string]any, 0, len(vector))
	for _, s := range vector {
		result = append(result, map[string]any{"metric": s.Metric.Map(), "value": []any{at.Unix(), fmt.Sprint(s.F)}})
	}
	return json.Marshal(map[string]any{"status": "success", "data": map[string]any{"resultType": "vector", "result": result}})
}
