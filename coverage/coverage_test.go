package coverage

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/queue/source"
	"aegis.io/aegis/rules"
	"aegis.io/aegis/rules/prom"
)

// now is when the server of the tests evaluates everything.
const now = 1000

// fake answers queries that contain a text with rows of labels. The value is that of a sample of now.
type fake struct {
	rows    map[string][]map[string]string
	rules   string
	queries atomic.Int64
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/api/v1/rules" {
		_, _ = fmt.Fprintf(w, `{"status":"success","data":{"groups":[{"name":"site","interval":30,"rules":[%s]}]}}`, f.rules)
		return
	}
	f.queries.Add(1)
	query := r.FormValue("query")
	result := make([]any, 0)
	for text, rows := range f.rows {
		if !strings.Contains(query, text) {
			continue
		}
		for _, labels := range rows {
			if name := labels["source"]; name == "" || strings.Contains(query, name) {
				result = append(result, map[string]any{"metric": labels, "value": []any{now, fmt.Sprint(now)}})
			}
		}
	}
	answer := map[string]any{"status": "success", "data": map[string]any{"resultType": "vector", "result": result}}
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		panic(err)
	}
}

// rule is an alerting rule as Prometheus lists it.
func rule(name string) string {
	return fmt.Sprintf(`{"type":"alerting","name":%q,"query":"x > 1","labels":{},"health":"ok","lastEvaluation":"1970-01-01T00:16:40Z"}`, name)
}

func (f *fake) ask(t *testing.T, conditions string, change func(*Options)) Report {
	t.Helper()
	f.rows["ALERTS{"] = []map[string]string{{"alertname": "Watchdog", "alertstate": "firing"}}
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	file := filepath.Join(t.TempDir(), "conditions.yaml")
	require.NoError(t, os.WriteFile(file, []byte(conditions), 0o600))
	catalogue, err := rules.Load(rules.Options{Files: []string{file}})
	require.NoError(t, err)
	o := Options{Catalogue: catalogue}
	if change != nil {
		change(&o)
	}
	p, err := source.NewPrometheus(source.PrometheusOptions{URL: server.URL, Cluster: o.Cluster})
	require.NoError(t, err)
	o.Servers = []*source.Prometheus{p}
	r, err := Ask(t.Context(), o)
	require.NoError(t, err)
	return r
}

func (r Report) of(t *testing.T, name string) Condition {
	t.Helper()
	for _, c := range r.Conditions {
		if c.Name == name {
			return c
		}
	}
	require.Fail(t, "no condition "+name)
	return Condition{}
}

const fans = "conditions: [{name: FanStuck, type: baseboard, match: {alertname: FanStuck}, evidence: ['up{job=\"fans\"}']}]\n"

// A condition of the site has its own exporter, and the nodes may be called by their addresses.
func TestSelectorsAreEvidence(t *testing.T) {
	t.Parallel()
	f := &fake{rules: rule("FanStuck"), rows: map[string][]map[string]string{
		"kube_node_info":            {{"node": "a", "internal_ip": "10.0.0.1"}, {"node": "b", "internal_ip": "10.0.0.2"}},
		`timestamp(up{job="fans"})`: {{"node": "10.0.0.1:9100"}},
	}}
	c := f.ask(t, fans, nil).of(t, "FanStuck")
	require.Equal(t, 1, c.Seen)
	require.Equal(t, []Source{{Name: `up{job="fans"}`, Seen: 1}}, c.Sources)
	require.Equal(t, []string{"b"}, c.Blind[0].Nodes)
	require.Equal(t, "no fresh series of this node", c.Blind[0].Why[0].Reason)
}

// What a shared server has of other clusters is not of this one.
func TestOtherClustersAreNotLookedAt(t *testing.T) {
	t.Parallel()
	f := &fake{rules: rule("FanStuck"), rows: map[string][]map[string]string{
		"kube_node_info":            {{"node": "a", "cluster": "west"}, {"node": "z", "cluster": "east"}},
		`timestamp(up{job="fans"})`: {{"node": "a", "cluster": "east"}},
	}}
	r := f.ask(t, fans, func(o *Options) { o.Cluster = prom.Cluster{Name: "west"} })
	require.Equal(t, 1, r.Nodes)
	require.Equal(t, []string{"a"}, r.of(t, "FanStuck").Blind[0].Nodes, "the node of that name in the other cluster is seen, this one is not")
}

// A query of the configuration finds its condition without a rule, on the nodes that it has series of.
func TestFindingsNeedNoRule(t *testing.T) {
	t.Parallel()
	f := &fake{rows: map[string][]map[string]string{"kube_node_info": {{"node": "a"}, {"node": "b"}}}}
	r := f.ask(t, fans, func(o *Options) {
		o.Findings = []Finding{{Name: "fan-speed", Condition: "FanStuck", Labels: []map[string]string{{"node": "a"}}}}
	})
	c := r.of(t, "FanStuck")
	require.Equal(t, 1, c.Seen)
	require.Equal(t, []string{"b"}, c.Blind[0].Nodes)
	require.Equal(t, "no alerting rule of this condition is loaded", c.Blind[0].Why[0].Reason)
	require.Equal(t, Why{Source: "query fan-speed", Reason: "the query has no series of this node", Set: mendSource}, c.Blind[0].Why[1])

	failing := f.ask(t, fans, func(o *Options) {
		o.Findings = []Finding{{Name: "fan-speed", Condition: "FanStuck", Problem: "it answers with status 500"}}
	})
	require.Contains(t, fmt.Sprint(failing.of(t, "FanStuck").Blind), "it answers with status 500")
}

// A Prometheus that has nothing sees nothing, and says so.
func TestNothingIsBlindEverywhere(t *testing.T) {
	t.Parallel()
	r := (&fake{rows: map[string][]map[string]string{}}).ask(t, fans, nil)
	require.Zero(t, r.Nodes)
	for _, c := range r.Conditions {
		require.True(t, c.IsBlind(), c.Name)
		require.Empty(t, c.Blind[0].Nodes)
		require.Contains(t, c.Blind[0].Why[0].Reason, "no node is known")
	}
}

// The number of queries follows the number of sources and metrics, and hardly that of nodes.
func TestQueriesAreFew(t *testing.T) {
	t.Parallel()
	for nodes, most := range map[int]int64{10: 12, 1000: 12, 10_000: 60} {
		var rows, seen []map[string]string
		for i := range nodes {
			name := fmt.Sprintf("n%d", i)
			rows = append(rows, map[string]string{"node": name})
			seen = append(seen, map[string]string{"node": name, "source": "system/node_exporter"})
		}
		f := &fake{rules: rule("HighLoad"), rows: map[string][]map[string]string{"group by (node, cluster, internal_ip)": rows, "last_over_time(aegis:evidence": seen}}
		r := f.ask(t, fans, nil)
		require.Equal(t, nodes, r.of(t, "HighLoad").Seen)
		require.LessOrEqual(t, f.queries.Load(), most, "%d nodes", nodes)
	}
}
