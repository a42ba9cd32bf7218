package source

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/rules/prom"
)

// answering returns a client of a server that gives this answer to everything.
func answering(t *testing.T, status int, body string) *Prometheus {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		if _, err := w.Write([]byte(body)); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	p, err := NewPrometheus(PrometheusOptions{URL: server.URL, Cluster: prom.Cluster{Name: "west"}})
	require.NoError(t, err)
	return p
}

func TestLoadedRules(t *testing.T) {
	t.Parallel()
	p := answering(t, http.StatusOK, `{"status":"success","data":{"groups":[{"name":"aegis-gpu","file":"f","interval":30,"rules":[
		{"state":"inactive","name":"GpuHung","query":"a > 1","duration":300,"labels":{"condition":"GpuHung"},"annotations":{},"alerts":[],
		 "health":"err","lastError":"it is wrong","evaluationTime":0.001,"lastEvaluation":"2026-03-01T10:00:00.5Z","type":"alerting"},
		{"name":"aegis:evidence","query":"b","labels":{"source":"gpu/dcgm-exporter"},"health":"ok","evaluationTime":0.001,
		 "lastEvaluation":"2026-03-01T10:00:00Z","type":"recording"},
		{"name":"Other","query":"c","labels":{"cluster":"east"},"health":"ok","lastEvaluation":"2026-03-01T10:00:00Z","type":"alerting"}]}]}}`)
	got, err := p.LoadedRules(t.Context())
	require.NoError(t, err)
	at := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	require.Equal(t, []LoadedRule{
		{
			Name: "GpuHung", Group: "aegis-gpu", Interval: 30 * time.Second, Query: "a > 1", Labels: map[string]string{"condition": "GpuHung"},
			Failure: `its last evaluation failed: "it is wrong"`, Evaluated: at.Add(500 * time.Millisecond),
		},
		{
			Name: "aegis:evidence", Group: "aegis-gpu", Interval: 30 * time.Second, Records: true, Query: "b",
			Labels: map[string]string{"source": "gpu/dcgm-exporter"}, Evaluated: at,
		},
	}, got, "a rule of another cluster says nothing of this one")
}

func TestRulesThatAreNotTold(t *testing.T) {
	t.Parallel()
	for body, says := range map[string]string{
		`[`:                  "decode",
		`{"status":"error"}`: `the status is "error"`,
		`{"status":"success","warnings":["half"],"data":{}}`: `the first is "half"`,
		`{"status":"success"}`:                               "it has no data",
	} {
		_, err := answering(t, http.StatusOK, body).LoadedRules(t.Context())
		require.ErrorContains(t, err, says)
	}
	_, err := answering(t, http.StatusNotFound, "").LoadedRules(t.Context())
	require.ErrorContains(t, err, "answers with status 404")
}

// Only what has no such API, or no rule at all, has no rules to tell of. What fails or refuses gives no answer.
func TestServersWithoutRules(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented} {
		_, err := answering(t, status, "").LoadedRules(t.Context())
		require.ErrorIs(t, err, ErrNoRules, status)
	}
	_, err := answering(t, http.StatusOK, `{"status":"success","data":{"groups":[]}}`).LoadedRules(t.Context())
	require.ErrorIs(t, err, ErrNoRules)
	for _, status := range []int{http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusInternalServerError, http.StatusServiceUnavailable} {
		_, err := answering(t, status, "").LoadedRules(t.Context())
		require.Error(t, err)
		require.NotErrorIs(t, err, ErrNoRules, status)
	}
}

// A server without a canary answers, and proves nothing. One that gives no answer is another thing.
func TestCanaryIsMissingOrNotAnswered(t *testing.T) {
	t.Parallel()
	const fires = `{"status":"success","data":{"resultType":"vector","result":[{"metric":{"alertname":"Watchdog","alertstate":"firing"},"value":[1000,"990"]}]}}`
	now, missing, err := answering(t, http.StatusOK, fires).Canary(t.Context())
	require.NoError(t, err)
	require.Empty(t, missing)
	require.Equal(t, time.Unix(1000, 0).UTC(), now)

	const old = `{"status":"success","data":{"resultType":"vector","result":[{"metric":{"alertname":"Watchdog","alertstate":"firing"},"value":[1000,"800"]}]}}`
	_, missing, err = answering(t, http.StatusOK, old).Canary(t.Context())
	require.NoError(t, err)
	require.Contains(t, missing, "is stale")

	_, missing, err = answering(t, http.StatusOK, `{"status":"success","data":{"resultType":"vector","result":[]}}`).Canary(t.Context())
	require.NoError(t, err)
	require.Contains(t, missing, "does not fire")

	_, _, err = answering(t, http.StatusUnauthorized, "").Canary(t.Context())
	require.ErrorContains(t, err, "does not accept the credentials")
}
