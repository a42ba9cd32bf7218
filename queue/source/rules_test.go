package source

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/rules/prom"
)

// rulesOf is what Prometheus answers about one group.
func rulesOf(rules string) string {
	return `{"status":"success","data":{"groups":[{"name":"gpu","file":"/etc/gpu.yaml","interval":30,"limit":0,"rules":[` + rules +
		`],"evaluationTime":0.01,"lastEvaluation":"2026-11-30T10:00:00.5Z"}]}}`
}

const (
	ruleGood = `{"state":"firing","name":"GpuHung","query":"up == 0","duration":120,"keepFiringFor":0,"labels":{"severity":"critical"},
"annotations":{},"alerts":[{"labels":{"alertname":"GpuHung","node":"n1","severity":"critical"},"annotations":{},"state":"firing",
"activeAt":"2026-11-30T09:00:00Z","value":"1e+00"}],"health":"ok","evaluationTime":0.001,"lastEvaluation":"2026-11-30T10:00:00.5Z","type":"alerting"}`
	ruleBad = `{"state":"firing","name":"GpuLost","query":"a * on(node) b","labels":{},"annotations":{},"alerts":[],"health":"err",
"lastError":"found duplicate series for the match group","evaluationTime":0.001,"lastEvaluation":"2026-11-30T10:00:00.5Z","type":"alerting"}`
	ruleNew   = `{"state":"unknown","name":"GpuNew","labels":{},"alerts":null,"health":"unknown","lastEvaluation":"0001-01-01T00:00:00Z","type":"alerting"}`
	ruleOther = `{"name":"GpuHung","query":"up","health":"ok","lastEvaluation":"2026-11-30T10:00:00.5Z","type":"recording"}`
)

func TestPrometheusTellsOfRules(t *testing.T) {
	t.Parallel()
	var asked url.Values
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.Query()
		reply(rulesOf(ruleGood+","+ruleBad+","+ruleNew+","+ruleOther)).ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	p, err := NewPrometheus(PrometheusOptions{URL: server.URL})
	require.NoError(t, err)
	rules, err := p.Rules(t.Context(), []string{"GpuHung", "GpuLost", "GpuNew", "Removed"})
	require.NoError(t, err)
	at := time.Date(2026, 11, 30, 10, 0, 0, 500_000_000, time.UTC)
	require.Equal(t, []Rule{
		{Name: "GpuHung", Evaluated: at, Active: []map[string]string{{"alertname": "GpuHung", "node": "n1", "severity": "critical"}}},
		{Name: "GpuLost", Evaluated: at, Failure: `its last evaluation failed: "found duplicate series for the match group"`},
		{Name: "GpuNew"},
	}, rules)
	require.Equal(t, url.Values{
		"type": {"alert"}, "partial_response": {"false"}, "rule_name[]": {"GpuHung", "GpuLost", "GpuNew", "Removed"},
	}, asked)

	rules, err = p.Rules(t.Context(), []string{"GpuLost"})
	require.NoError(t, err)
	require.Len(t, rules, 1, "a server that answers with all")
}

// A global Thanos lists the rules of all clusters, with the external labels of their Prometheus. One that fails elsewhere says nothing of ours.
func TestRulesOfAnotherClusterSayNothing(t *testing.T) {
	t.Parallel()
	rule := func(labels, health string) string {
		return `{"name":"GpuHung","labels":{` + labels + `},"alerts":[],"health":"` + health + `","lastEvaluation":"2026-11-30T10:00:00.5Z","type":"alerting"}`
	}
	const east, west, unnamed = `"cluster":"east"`, `"cluster":"west","severity":"critical"`, `"severity":"critical"`
	p := newPrometheus(t, rulesOf(strings.Join([]string{rule(west, "ok"), rule(east, "err"), rule(unnamed, "ok")}, ",")))
	for cluster, want := range map[string]int{"west": 2, "north": 1, "": 3} {
		p.cluster = prom.Cluster{Name: cluster}
		rules, err := p.Rules(t.Context(), []string{"GpuHung"})
		require.NoError(t, err)
		require.Len(t, rules, want, "of cluster %q", cluster)
	}
	p.cluster = prom.Cluster{Name: "west"}
	rules, err := p.Rules(t.Context(), []string{"GpuHung"})
	require.NoError(t, err)
	for _, r := range rules {
		require.Empty(t, r.Failure, "the one that fails is of another cluster")
	}
}

// A server without rules of its own, and half an answer, say nothing of any rule.
func TestAnswersAboutRulesThatSayNothing(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"an error":   `{"status":"error","errorType":"internal","error":"x"}`,
		"a warning":  `{"status":"success","warnings":["no answer of store-1"],"data":{"groups":[]}}`,
		"no data":    `{"status":"success"}`,
		"not JSON":   `<html>`,
		"other JSON": `{"status":"success","data":[]}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := newPrometheus(t, body).Rules(t.Context(), []string{"GpuHung"})
			require.Error(t, err)
		})
	}
	server := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	p, err := NewPrometheus(PrometheusOptions{URL: server.URL})
	require.NoError(t, err)
	_, err = p.Rules(t.Context(), []string{"GpuHung"})
	require.ErrorContains(t, err, "404")
}

func TestAlertsThatGrewOld(t *testing.T) {
	t.Parallel()
	server, asked := recorded(t, `{"status":"success","data":{"resultType":"vector","result":[
		{"metric":{"alertname":"GpuHung","alertstate":"firing","node":"n1"},"value":[4600,"1000"]},
		{"metric":{"alertname":"GpuHung","alertstate":"firing","node":"n2"},"value":[4600,"NaN"]}]}}`)
	p, err := NewPrometheus(PrometheusOptions{URL: server})
	require.NoError(t, err)
	aged, err := p.Aged(t.Context(), []string{"n1", "n2"}, 90*time.Minute)
	require.NoError(t, err)
	require.Len(t, aged, 1)
	require.Equal(t, prom.StateStale, aged[0].State)
	require.Equal(t, map[string]string{"alertname": "GpuHung", "node": "n1"}, aged[0].Labels)
	require.Equal(t, time.Hour, aged[0].Age())
	for _, query := range *asked {
		_, err := ParseExpression(query)
		require.NoError(t, err, query)
	}
	require.Contains(t, (*asked)[0], `[91m:5m]`)
}
