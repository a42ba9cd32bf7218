package monitoring_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/e2e/build"
	"aegis.io/aegis/e2e/monitoring"
)

const (
	soon = 30 * time.Second
	tick = 100 * time.Millisecond
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	_, err := build.Run(context.Background(), build.Options{Out: os.Stderr, Only: []string{"prometheus", "alertmanager"}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

const rules = `
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata: {name: test}
spec:
  groups:
  - name: test
    rules:
    - alert: Broken
      expr: min_over_time(broken{node!=""}[10m]) > 0
      for: 5m
      labels: {condition: Broken, severity: critical}
`

type notification struct {
	Status string
	Alerts []struct{ Labels map[string]string }
	Auth   string `json:"-"`
}

// fixture is a monitoring that watches one exporter, which says that node n is broken, and reports to a channel.
type fixture struct {
	*monitoring.Monitoring
	got chan notification
}

func start(t *testing.T) fixture {
	t.Helper()
	exporter := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, `broken{node="n"} 1`)
	}))
	t.Cleanup(exporter.Close)
	f := fixture{got: make(chan notification, 100)}
	webhook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var n notification
		if err := json.NewDecoder(r.Body).Decode(&n); err != nil {
			t.Error(err)
		}
		n.Auth = r.Header.Get("Authorization")
		f.got <- n
	}))
	t.Cleanup(webhook.Close)
	file := filepath.Join(t.TempDir(), "rules.yaml")
	require.NoError(t, os.WriteFile(file, []byte(rules), 0o600))
	var err error
	f.Monitoring, err = monitoring.Start(t.Context(), monitoring.Options{
		BinDir: "../../bin", Dir: t.TempDir(), Exporters: map[string]string{"test": exporter.URL + "/metrics"}, Rules: []string{file},
		Compress: monitoring.FastRules(), Webhook: webhook.URL, WebhookToken: "secret", RepeatInterval: 2 * time.Second,
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.Stop()) })
	return f
}

func (f fixture) next(t *testing.T) notification {
	t.Helper()
	select {
	case n := <-f.got:
		return n
	case <-time.After(soon):
		require.FailNow(t, "no notification")
		return notification{}
	}
}

func TestAlertReachesTheWebhookUntilItIsSilenced(t *testing.T) {
	t.Parallel()
	f := start(t)
	require.Equal(t, 1, f.Rules)
	n := f.next(t)
	require.Equal(t, "firing", n.Status)
	require.Equal(t, "Broken", n.Alerts[0].Labels["condition"])
	require.Equal(t, "n", n.Alerts[0].Labels["node"])
	require.Equal(t, "Bearer secret", n.Auth)

	samples, err := f.Query(t.Context(), `broken{job="test"}`)
	require.NoError(t, err)
	require.Len(t, samples, 1)
	require.InEpsilon(t, 1, samples[0].Value, 0)
	alerts, err := f.Firing(t.Context())
	require.NoError(t, err)
	require.Equal(t, "Broken", alerts[0].Name)

	id, err := f.Silence(t.Context(), map[string]string{"node": "n"}, time.Hour)
	require.NoError(t, err)
	require.Equal(t, "suppressed", f.state(t))
	// A crash right after a snapshot keeps the silence.
	require.NoError(t, f.StopAlertmanager(0))
	require.NoError(t, f.StartAlertmanager(t.Context(), 0))
	require.Eventually(t, func() bool { return f.state(t) == "suppressed" }, soon, tick)
	require.NoError(t, f.Expire(t.Context(), id))
	require.Eventually(t, func() bool { return f.state(t) == "active" }, soon, tick)
}

// state returns that of the only alert of Alertmanager.
func (f fixture) state(t *testing.T) string {
	t.Helper()
	resp, err := http.Get(f.AlertmanagerURLs[0] + "/api/v2/alerts")
	require.NoError(t, err)
	defer resp.Body.Close()
	var alerts []struct{ Status struct{ State string } }
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&alerts))
	if len(alerts) == 0 {
		return ""
	}
	return alerts[0].Status.State
}

func TestDeadPrometheusResolvesAndComesBack(t *testing.T) {
	t.Parallel()
	f := start(t)
	require.Equal(t, "firing", f.next(t).Status)
	require.NoError(t, f.KillPrometheus())
	require.Eventually(t, func() bool { return f.next(t).Status == "resolved" }, soon, tick, "Alertmanager gives up")
	require.NoError(t, f.StartPrometheus(t.Context()))
	require.Eventually(t, func() bool { return f.next(t).Status == "firing" }, soon, tick)
}

func TestStartRefusesAFolderWithoutAlerts(t *testing.T) {
	t.Parallel()
	_, err := monitoring.Start(t.Context(), monitoring.Options{BinDir: "../../bin", Dir: t.TempDir(), Rules: []string{t.TempDir()}})
	require.ErrorContains(t, err, "no alert in")
}
