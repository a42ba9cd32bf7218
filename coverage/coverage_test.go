package coverage

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

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
			labels = inPart(labels, query, text)
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

// inPart returns the labels with that of the part of the query that holds the text, as label_replace adds it.
func inPart(labels map[string]string, query, text string) map[string]string {
	_, after, _ := strings.Cut(query, text)
	_, after, parted := strings.Cut(after, `"`+labelPart+`", "`)
	if !parted {
		return labels
	}
	number, _, _ := strings.Cut(after, `"`)
	labels = maps.Clone(labels)
	labels[labelPart] = number
	return labels
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

func alerting(name, query, labels, health string) string {
	return fmt.Sprintf(`{"type":"alerting","name":%q,"query":%q,"labels":%s,"health":%q,"lastError":"boom","lastEvaluation":"1970-01-01T00:16:40Z"}`, name, query, labels, health)
}

func recording(name, query, health string) string {
	return fmt.Sprintf(`{"type":"recording","name":%q,"query":%q,"labels":{},"health":%q,"lastError":"boom","lastEvaluation":"1970-01-01T00:16:40Z"}`, name, query, health)
}

func oneNode() map[string][]map[string]string {
	return map[string][]map[string]string{
		"kube_node_info":            {{"node": "a"}},
		`timestamp(up{job="fans"})`: {{"node": "a"}},
	}
}

// The alert reads only what a recording rule makes, and that rule fails: nothing can fire.
func TestAFailingRecordingRuleBlinds(t *testing.T) {
	t.Parallel()
	f := &fake{rows: oneNode(), rules: recording("site:fans", "fan_rpm", "err") + "," + alerting("FanStuck", "site:fans < 1", `{}`, "ok")}
	require.Zero(t, f.ask(t, fans, nil).of(t, "FanStuck").Seen)
}

// The alert reads what a recording rule makes that is not loaded.
func TestARecordingRuleThatIsNotLoadedBlinds(t *testing.T) {
	t.Parallel()
	f := &fake{rows: oneNode(), rules: alerting("FanStuck", "site:fans < 1", `{}`, "ok")}
	require.Zero(t, f.ask(t, fans, nil).of(t, "FanStuck").Seen)
}

// Two rules raise the condition. The one that works cannot fire on the node, and the one that could fails.
func TestARuleThatFailsDoesNotSeeForAnother(t *testing.T) {
	t.Parallel()
	f := &fake{rows: oneNode(), rules: alerting("FanStuck", "fan_rpm < 1", `{}`, "err") + "," + alerting("FanStuck", "DCGM_FI_DEV_FAN_SPEED < 1", `{}`, "ok")}
	require.Zero(t, f.ask(t, fans, nil).of(t, "FanStuck").Seen)
}

// One of two selectors is enough evidence, whichever comes first.
func TestAnyOfTwoSelectorsIsEvidence(t *testing.T) {
	t.Parallel()
	const two = "conditions: [{name: FanStuck, type: baseboard, match: {alertname: FanStuck}, evidence: ['up{job=\"old-fans\"}', 'up{job=\"fans\"}']}]\n"
	f := &fake{rows: oneNode(), rules: alerting("FanStuck", "fan_rpm < 1", `{}`, "ok")}
	c := f.ask(t, two, nil).of(t, "FanStuck")
	require.Equal(t, 1, c.Seen, "%v", c.Blind)
}

// A label by which the condition is matched may come from the series, as in KubeNodePressure of the kubernetes-mixin.
func TestLabelsOfTheSeriesMatchAsWell(t *testing.T) {
	t.Parallel()
	const pressure = "conditions: [{name: SitePressure, type: baseboard, match: {alertname: KubeNodePressure, condition: DiskPressure}, evidence: ['up{job=\"fans\"}']}]\n"
	f := &fake{rows: oneNode(), rules: alerting("KubeNodePressure", `kube_node_status_condition{condition=~"(MemoryPressure|DiskPressure|PIDPressure)",status="true"} == 1`, `{"severity":"info"}`, "ok")}
	c := f.ask(t, pressure, nil).of(t, "SitePressure")
	require.Equal(t, 1, c.Seen, "%v", c.Blind)
}

// Rules that record what other rules have recorded are followed as deep as fields are asked for.
func TestFieldsBehindTwoRecordingRulesAreAskedFor(t *testing.T) {
	t.Parallel()
	rows := oneNode()
	rows["DCGM_FI_DEV_FAN_SPEED"] = []map[string]string{{"Hostname": "a"}}
	f := &fake{rows: rows, rules: recording("site:fans", "DCGM_FI_DEV_FAN_SPEED", "ok") + "," + recording("site:fans:min", "min by (Hostname) (site:fans)", "ok") + "," + alerting("FanStuck", "site:fans:min < 1", `{}`, "ok")}
	c := f.ask(t, fans, nil).of(t, "FanStuck")
	require.Equal(t, 1, c.Seen, "%v", c.Blind)
}

// A pattern of names may stand for 18 links of each GPU, in the chart's own rules. That must not be more than an answer may have.
func TestLinksOfManyNodesAreAskedFor(t *testing.T) {
	t.Parallel()
	const links, nodes = 36, 3000
	rows := map[string][]map[string]string{}
	for i := range nodes {
		name := fmt.Sprintf("n%d", i)
		rows["kube_node_info"] = append(rows["kube_node_info"], map[string]string{"node": name})
		rows[`timestamp(up{job="fans"})`] = append(rows[`timestamp(up{job="fans"})`], map[string]string{"node": name})
	}
	f := &fake{rows: rows, rules: alerting("FanStuck", `{__name__=~"DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_(COUNT_L[0-9]+|L[0-9]+_TOTAL)"} > 1`, `{}`, "ok")}
	f.rows["ALERTS{"] = []map[string]string{{"alertname": "Watchdog", "alertstate": "firing"}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.FormValue("query"), "NVLINK") {
			f.ServeHTTP(w, r)
			return
		}
		// What groups by the name gets a row for each link of each node, and what does not one for each node.
		each := 1
		if strings.Contains(r.FormValue("query"), "group by (__name__") {
			each = links
		}
		result := make([]any, 0, each*nodes)
		for i := range nodes {
			for link := range each {
				metric := map[string]string{"Hostname": fmt.Sprintf("n%d", i), "aegis_part": "0"}
				if each > 1 {
					metric["__name__"] = fmt.Sprintf("DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_L%d", link)
				}
				result = append(result, map[string]any{"metric": metric, "value": []any{now, "1"}})
			}
		}
		answer := map[string]any{"status": "success", "data": map[string]any{"resultType": "vector", "result": result}}
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			panic(err)
		}
	}))
	t.Cleanup(server.Close)
	_, err := Ask(t.Context(), optionsOf(t, server.URL))
	require.NoError(t, err)
}

// A rule of the site may select several series by a pattern of their names: the question must be one that Prometheus parses.
func TestPatternsOfNamesAreNoNames(t *testing.T) {
	t.Parallel()
	f := &fake{rules: alerting("FanStuck", `{__name__=~"node_pressure_(cpu|io)_waiting_seconds_total"} > 1`, `{}`, "ok"), rows: oneNode()}
	f.rows["ALERTS{"] = []map[string]string{{"alertname": "Watchdog", "alertstate": "firing"}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if query := r.FormValue("query"); query != "" {
			if _, err := source.ParseExpression(query); err != nil {
				w.WriteHeader(http.StatusBadRequest)
				_, _ = fmt.Fprintf(w, `{"status":"error","errorType":"bad_data","error":%q}`, err.Error())
				return
			}
		}
		f.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	_, err := Ask(t.Context(), optionsOf(t, server.URL))
	require.NoError(t, err)
}

func optionsOf(t *testing.T, url string) Options {
	t.Helper()
	file := filepath.Join(t.TempDir(), "conditions.yaml")
	require.NoError(t, os.WriteFile(file, []byte(fans), 0o600))
	catalogue, err := rules.Load(rules.Options{Files: []string{file}})
	require.NoError(t, err)
	p, err := source.NewPrometheus(source.PrometheusOptions{URL: url})
	require.NoError(t, err)
	return Options{Catalogue: catalogue, Servers: []*source.Prometheus{p}}
}

// refusing answers every query, and refuses to tell of its rules.
func refusing(t *testing.T, status int, body string) (Report, error) {
	t.Helper()
	f := &fake{rows: oneNode()}
	f.rows["ALERTS{"] = []map[string]string{{"alertname": "Watchdog", "alertstate": "firing"}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/v1/rules" {
			w.WriteHeader(status)
			_, _ = fmt.Fprint(w, body)
			return
		}
		f.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return Ask(t.Context(), optionsOf(t, server.URL))
}

// Only a server that has no such API has no rules to tell of. One that fails, or refuses, gives no answer.
func TestAFailureToTellOfRulesIsNoAnswer(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusInternalServerError, http.StatusServiceUnavailable, http.StatusGatewayTimeout} {
		_, err := refusing(t, status, "")
		require.Error(t, err, status)
	}
	_, err := refusing(t, http.StatusOK, `{"status":"success","warnings":["one ruler is down"],"data":{"groups":[]}}`)
	require.Error(t, err)
}

// VictoriaMetrics without -vmalert.proxyURL, and a Prometheus that others write alerts to, list no group at all. The canary proves that
// somebody evaluates rules.
func TestAServerThatListsNoRuleAtAllDoesNotTellOfThem(t *testing.T) {
	t.Parallel()
	r, err := refusing(t, http.StatusOK, `{"status":"success","data":{"groups":[]}}`)
	require.NoError(t, err)
	c := r.of(t, "FanStuck")
	require.Equal(t, 1, c.Seen, "%v", c.Blind)
	require.Contains(t, fmt.Sprint(r.Notes), "does not expose its rules")
}

// Without kube-state-metrics, names of pods that dcgm-exporter gives itself are no nodes.
func TestPodsAreNotCountedAsNodesThatAreSeen(t *testing.T) {
	t.Parallel()
	f := &fake{rules: alerting("GpuDown", "DCGM_FI_DEV_GPU_TEMP > 1", `{"condition":"GpuDown"}`, "ok"), rows: map[string][]map[string]string{
		"last_over_time(aegis:evidence": {{"node": "dcgm-exporter-x7k2l", "source": "gpu/dcgm-exporter"}, {"node": "a", "source": "system/node_exporter"}},
		"(DCGM_FI_DEV_GPU_TEMP)":        {{"Hostname": "dcgm-exporter-x7k2l"}},
	}}
	r := f.ask(t, fans, nil)
	require.Equal(t, 1, r.Nodes)
}

// docs/configuration.md: the series of a selector must have a label that names the node, as an alert has. Aegis takes Hostname and
// instance for that, so coverage has to.
func TestSelectorsNameTheirNodeAsAlertsDo(t *testing.T) {
	t.Parallel()
	for _, labels := range []map[string]string{{"instance": "10.0.0.1:9100"}, {"Hostname": "a"}, {"kubernetes_node": "a"}} {
		f := &fake{rules: alerting("FanStuck", "fan_rpm < 1", `{}`, "ok"), rows: map[string][]map[string]string{
			"kube_node_info": {{"node": "a", "internal_ip": "10.0.0.1"}}, `timestamp(up{job="fans"})`: {labels},
		}}
		c := f.ask(t, fans, nil).of(t, "FanStuck")
		require.Equal(t, 1, c.Seen, "%v: %v", labels, c.Blind)
	}
}

// docs/configuration.md: a condition without evidence takes any: any series of aegis:evidence of the node, or any target.
func TestWithoutEvidenceAnyRecordedEvidenceCounts(t *testing.T) {
	t.Parallel()
	const none = "conditions: [{name: FanStuck, type: baseboard, match: {alertname: FanStuck}}]\n"
	f := &fake{rules: alerting("FanStuck", "fan_rpm < 1", `{}`, "ok"), rows: map[string][]map[string]string{
		"kube_node_info": {{"node": "a"}}, "aegis:evidence": {{"node": "a", "source": "system/node_exporter"}},
	}}
	c := f.ask(t, none, nil).of(t, "FanStuck")
	require.Equal(t, 1, c.Seen, "%v", c.Blind)
}

// Exporters that went at different times, for the same reason, are one group. The biggest comes first.
func TestNodesWithTheSameCauseAreOneGroup(t *testing.T) {
	t.Parallel()
	s := &server{maxAge: 2 * time.Minute}
	var g groups
	g.add("a", []Why{{Reason: "no series", Set: "Run it."}})
	for i := range 500 {
		g.add(fmt.Sprintf("n%d", i), []Why{s.gone("gpu/dcgm-exporter", time.Duration(3+i%50)*time.Minute)})
	}
	got := g.sorted()
	require.Len(t, got, 2)
	require.Len(t, got[0].Nodes, 500)
	const reason = "last sample from these nodes 3 to 52 minutes ago, older than prometheus.maxAge (2 minutes)"
	require.Equal(t, []Why{{Source: "gpu/dcgm-exporter", Reason: reason, Set: mendGone}}, got[0].Why)
	require.Equal(t, []string{"a"}, got[1].Nodes)
}

func TestSpansInWords(t *testing.T) {
	t.Parallel()
	for text, span := range map[string]span{
		"1 minute":                 {time.Minute, 80 * time.Second},
		"40 seconds":               {40 * time.Second, 40 * time.Second},
		"1 to 3 minutes":           {time.Minute, 3 * time.Minute},
		"10 seconds to 12 minutes": {10 * time.Second, 12 * time.Minute},
	} {
		require.Equal(t, text, span.String())
	}
}

// Of several servers it is said whose canary is missing, and by which name.
func TestTheCanaryIsNamed(t *testing.T) {
	t.Parallel()
	f := &fake{rules: rule("FanStuck"), rows: oneNode()}
	first, second := httptest.NewServer(f), httptest.NewServer(f)
	t.Cleanup(first.Close)
	t.Cleanup(second.Close)
	o := optionsOf(t, first.URL)
	o.Servers = nil
	for _, url := range []string{first.URL, second.URL} {
		p, err := source.NewPrometheus(source.PrometheusOptions{URL: url, Canary: "AlwaysOn"})
		require.NoError(t, err)
		o.Servers = append(o.Servers, p)
	}
	r, err := Ask(t.Context(), o)
	require.NoError(t, err)
	for i, url := range []string{first.URL, second.URL} {
		require.Equal(t, url+`: the canary alert "AlwaysOn" does not fire`, r.Notes[i])
		require.Equal(t, r.Notes[i], r.of(t, "FanStuck").Blind[0].Why[i].Reason)
		require.Contains(t, r.of(t, "FanStuck").Blind[0].Why[i].Set, "Have an alert AlwaysOn fire")
	}
}

// An API server without nodes is no matter of kube-state-metrics.
func TestAClusterWithoutNodesSaysSo(t *testing.T) {
	t.Parallel()
	f := &fake{rules: rule("FanStuck"), rows: oneNode()}
	c := f.ask(t, fans, func(o *Options) { o.Nodes = []Node{} }).of(t, "FanStuck")
	require.Equal(t, "the API server of the kubeconfig lists no node", c.Blind[0].Why[0].Reason)
}

// A recorded series that is of no node, such as a threshold, is there for all of them.
func TestRecordedSeriesOfNoNodeAreOfAll(t *testing.T) {
	t.Parallel()
	f := &fake{rows: oneNode(), rules: alerting("FanStuck", "fan_rpm < on () group_left () site:threshold", `{}`, "ok")}
	f.rows["(site:threshold)"] = []map[string]string{{}}
	c := f.ask(t, fans, nil).of(t, "FanStuck")
	require.Equal(t, 1, c.Seen, "%v", c.Blind)
}

// Labels of the configuration name the node of a selector.
func TestConfiguredLabelsNameTheNode(t *testing.T) {
	t.Parallel()
	f := &fake{rules: rule("FanStuck"), rows: map[string][]map[string]string{
		"kube_node_info": {{"node": "a"}}, `timestamp(up{job="fans"})`: {{"host": "a", "instance": "fans-0"}},
	}}
	require.Equal(t, 1, f.ask(t, fans, func(o *Options) { o.NodeLabels = []string{"host"} }).of(t, "FanStuck").Seen)
	require.Zero(t, f.ask(t, fans, nil).of(t, "FanStuck").Seen)
}

// A label of the rule itself must be that of the condition. A template may become it.
func TestLabelsOfTheRuleMustMatch(t *testing.T) {
	t.Parallel()
	const pressure = "conditions: [{name: SitePressure, type: baseboard, match: {alertname: NodePressure, kind: disk}, evidence: ['up{job=\"fans\"}']}]\n"
	for labels, seen := range map[string]int{`{"kind":"disk"}`: 1, `{"kind":"{{ $labels.kind }}"}`: 1, `{}`: 1, `{"kind":"memory"}`: 0} {
		f := &fake{rows: oneNode(), rules: alerting("NodePressure", "pressure > 1", labels, "ok")}
		require.Equal(t, seen, f.ask(t, pressure, nil).of(t, "SitePressure").Seen, labels)
	}
}

// A pattern of names may have a colon without that anybody records the series.
func TestPatternsAreNotRecorded(t *testing.T) {
	t.Parallel()
	f := &fake{rows: oneNode(), rules: alerting("FanStuck", `{__name__=~"fan_(?:rpm|speed)"} < 1`, `{}`, "ok")}
	c := f.ask(t, fans, nil).of(t, "FanStuck")
	require.Equal(t, 1, c.Seen, "%v", c.Blind)
}

// A selector of the evidence is the word of the site for an exporter, even where the rules of the chart record evidence of another one of
// its kind.
func TestSelectorsSpeakForTheirExporter(t *testing.T) {
	t.Parallel()
	evidence := strings.Replace(recording("aegis:evidence", "probe_success", "ok"), `"labels":{}`, `"labels":{"source":"network/blackbox_exporter"}`, 1)
	f := &fake{rows: oneNode(), rules: evidence + "," + alerting("FanStuck", "probe_fan_ok < 1", `{}`, "ok")}
	c := f.ask(t, fans, nil).of(t, "FanStuck")
	require.Equal(t, 1, c.Seen, "%v", c.Blind)
}
