package source

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clocktesting "k8s.io/utils/clock/testing"

	"aegis.io/aegis/rules/prom"
)

// evaluated is the time at which the answers of these tests were evaluated, long before any test runs.
const evaluated = 1_700_000_000

// vector is an answer with the samples.
func vector(samples ...string) string {
	return `{"status":"success","data":{"resultType":"vector","result":[` + strings.Join(samples, ",") + `]}}`
}

// element is a sample of an alert that was evaluated some time before the query.
func element(alertname, state string, age time.Duration, labels ...string) string {
	metric := fmt.Sprintf(`"alertname":%q,"alertstate":%q`, alertname, state)
	for i := 0; i+1 < len(labels); i += 2 {
		metric += fmt.Sprintf(`,%q:%q`, labels[i], labels[i+1])
	}
	return fmt.Sprintf(`{"metric":{%s},"value":[%d.781,"%.3f"]}`, metric, evaluated, float64(evaluated)+0.781-age.Seconds())
}

// start is a sample of the series that says since when an alert is active.
func start(alertname, value string, labels ...string) string {
	metric := fmt.Sprintf(`"__name__":"ALERTS_FOR_STATE","alertname":%q`, alertname)
	for i := 0; i+1 < len(labels); i += 2 {
		metric += fmt.Sprintf(`,%q:%q`, labels[i], labels[i+1])
	}
	return fmt.Sprintf(`{"metric":{%s},"value":[%d.781,%q]}`, metric, evaluated, value)
}

var canary = element("Watchdog", "firing", 10*time.Second)

// newPrometheus returns a client of a server that answers with the body.
func newPrometheus(t *testing.T, body string) *Prometheus {
	t.Helper()
	server := httptest.NewServer(reply(body))
	t.Cleanup(server.Close)
	p, err := NewPrometheus(PrometheusOptions{URL: server.URL})
	require.NoError(t, err)
	return p
}

func TestPrometheusAlerts(t *testing.T) {
	t.Parallel()
	p := newPrometheus(t, vector(
		canary,
		element("GpuHung", "firing", 30*time.Second, "node", "n1", "__name__", "ALERTS"),
		element("GpuHung", "pending", 0, "node", "n2"),
	))
	alerts, err := p.Alerts(t.Context())
	require.NoError(t, err)
	gpu1 := map[string]string{"alertname": "GpuHung", "node": "n1"}
	gpu2 := map[string]string{"alertname": "GpuHung", "node": "n2"}
	watchdog := map[string]string{"alertname": "Watchdog"}
	asked := time.UnixMilli(evaluated*1000 + 781).UTC()
	of := func(labels map[string]string, state prom.AlertState, age time.Duration) prom.Alert {
		return prom.Alert{Labels: labels, State: state, Fingerprint: prom.Fingerprint(labels), SampledAt: asked.Add(-age), AskedAt: asked}
	}
	require.Equal(t, []prom.Alert{
		of(watchdog, prom.StateFiring, 10*time.Second), of(gpu1, prom.StateFiring, 30*time.Second), of(gpu2, prom.StatePending, 0),
	}, alerts)
	require.Equal(t, 30*time.Second, alerts[1].Age())
}

func TestPrometheusSendsOneStrictQuery(t *testing.T) {
	t.Parallel()
	var forms []url.Values
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		form, parseErr := url.ParseQuery(string(body))
		if err := errors.Join(err, parseErr); err != nil || r.Method != http.MethodPost || r.URL.String() != "/prefix/api/v1/query" {
			http.Error(w, "unexpected request", http.StatusBadRequest)
			return
		}
		forms = append(forms, form)
		reply(vector(canary))(w, r)
	}))
	t.Cleanup(server.Close)
	p, err := NewPrometheus(PrometheusOptions{URL: server.URL + "/prefix/"})
	require.NoError(t, err)
	_, err = p.Alerts(t.Context())
	require.NoError(t, err)
	require.Equal(t, []url.Values{{
		"query":                 {`timestamp(ALERTS{alertstate=~"pending|firing"}) and ALERTS{alertstate=~"pending|firing"}`},
		"partial_response":      {"false"},
		"deny_partial_response": {"1"},
	}}, forms)
}

func TestPrometheusTellsSinceWhenAnAlertIsActive(t *testing.T) {
	t.Parallel()
	var query string
	body := vector(
		canary,
		element("GpuHung", "firing", 30*time.Second, "node", "n1"), start("GpuHung", "1699990000", "node", "n1"),
		element("GpuHung", "firing", 0, "node", "n2"), start("GpuHung", "1699990000", "node", "n3"),
		element("GpuHung", "pending", 0, "node", "n4"), start("GpuHung", "NaN", "node", "n4"),
	)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query = r.FormValue("query")
		reply(body)(w, r)
	}))
	t.Cleanup(server.Close)
	p, err := NewPrometheus(PrometheusOptions{URL: server.URL, Starts: true})
	require.NoError(t, err)
	alerts, err := p.Alerts(t.Context())
	require.NoError(t, err)
	require.Equal(t, alertsQuery+` or ALERTS_FOR_STATE`, query)
	starts := make(map[string]time.Time)
	for _, a := range alerts {
		starts[a.Labels["node"]] = a.StartsAt
	}
	require.Equal(t, map[string]time.Time{
		"": {}, "n1": time.Unix(1699990000, 0).UTC(), "n2": {}, "n4": {},
	}, starts, "a start that is missing or no time is unknown, and a start alone is no alert")
}

func TestPrometheusAnswersThatProveNothing(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		body string
		want string
	}{
		"no canary":              {vector(element("GpuHung", "firing", 0)), `the canary alert "Watchdog" does not fire`},
		"an empty vector":        {vector(), `the canary alert "Watchdog" does not fire`},
		"a pending canary":       {vector(element("Watchdog", "pending", 0)), `the canary alert "Watchdog" does not fire`},
		"a stale canary":         {vector(element("Watchdog", "firing", 3*time.Minute)), `the canary alert "Watchdog" is stale: its last sample is 3m0s old`},
		"a canary of the future": {vector(element("Watchdog", "firing", -3*time.Minute)), `the canary alert "Watchdog" is stale: its last sample is -3m0s old`},
		"a warning": {
			`{"status":"success","warnings":["store n2 is gone"],"data":{"resultType":"vector","result":[` + canary + `]}}`,
			`1 warning(s), the first is "store n2 is gone"`,
		},
		"a partial answer": {
			`{"status":"success","isPartial":true,"data":{"resultType":"vector","result":[` + canary + `]}}`,
			"it is partial",
		},
		"an error with status 200": {`{"status":"error","errorType":"timeout","error":"x"}`, `the status is "error"`},
		"a scalar":                 {`{"status":"success","data":{"resultType":"scalar","result":[1,"1"]}}`, `the result is a "scalar", not a vector`},
		"a scalar, type last":      {`{"status":"success","data":{"result":[1,"1"],"resultType":"scalar"}}`, `the result is a "scalar", not a vector`},
		"a matrix":                 {`{"status":"success","data":{"resultType":"matrix","result":[]}}`, `the result is a "matrix", not a vector`},
		"no data":                  {`{"status":"success"}`, "it has no result"},
		"null":                     {`null`, `the status is ""`},
		"a page":                   {`<html>`, `decode: invalid character '<' looking for beginning of value`},
		"half an answer":           {vector(canary)[:60], "decode: unexpected end of JSON input"},
		"two answers":              {vector(canary) + vector(canary), "decode: invalid character '{' after top-level value"},
		"another state":            {vector(canary, element("X", "inactive", 0)), `sample 1: unknown alert state "inactive"`},
		"no alertname":             {vector(element("", "firing", 0)), "sample 0: no alertname"},
		"a histogram":              {vector(`{"metric":{"alertname":"X","alertstate":"firing"},"histogram":[1,{}]}`), "sample 0: the value has 0 parts, not 2"},
		"not a number":             {vector(`{"metric":{"alertname":"X","alertstate":"firing"},"value":[1,"x"]}`), `sample 0: the value "x" is not a number`},
		"NaN":                      {vector(`{"metric":{"alertname":"X","alertstate":"firing"},"value":[1,"NaN"]}`), "sample 0: the sample's time: NaN is not a valid time"},
		"infinity":                 {vector(`{"metric":{"alertname":"X","alertstate":"firing"},"value":[1,"+Inf"]}`), "sample 0: the sample's time: +Inf is not a valid time"},
		"the value of ALERTS": {
			vector(`{"metric":{"alertname":"Watchdog","alertstate":"firing"},"value":[1700000000,"1"]}`),
			`the canary alert "Watchdog" is stale: its last sample is 472222h13m19s old`,
		},
		"a negative evaluation": {vector(`{"metric":{"alertname":"X","alertstate":"firing"},"value":[-1,"1"]}`), "sample 0: the evaluation's time: -1 is not a valid time"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPrometheus(t, tt.body)
			alerts, err := p.Alerts(t.Context())
			require.EqualError(t, err, "answer of prometheus "+p.client.safeURL()+": "+tt.want)
			require.Nil(t, alerts)
		})
	}
}

func TestPrometheusTakesTheFreshestStateOfAnAlert(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		samples []string
		want    prom.AlertState
	}{
		"pending after a crash":           {[]string{element("X", "firing", 4*time.Minute), element("X", "pending", time.Second)}, prom.StatePending},
		"the other order":                 {[]string{element("X", "pending", time.Second), element("X", "firing", 4*time.Minute)}, prom.StatePending},
		"both fresh, pending newer":       {[]string{element("X", "firing", 30*time.Second), element("X", "pending", time.Second)}, prom.StatePending},
		"both fresh, firing newer":        {[]string{element("X", "pending", 30*time.Second), element("X", "firing", time.Second)}, prom.StateFiring},
		"equally fresh, firing is true":   {[]string{element("X", "pending", time.Second), element("X", "firing", time.Second)}, prom.StateFiring},
		"equally fresh, the other order":  {[]string{element("X", "firing", time.Second), element("X", "pending", time.Second)}, prom.StateFiring},
		"exactly as old as allowed":       {[]string{element("X", "firing", 2*time.Minute)}, prom.StateFiring},
		"stale, firing":                   {[]string{element("X", "firing", 121*time.Second)}, prom.StateStale},
		"stale, pending":                  {[]string{element("X", "pending", 4*time.Minute)}, prom.StateStale},
		"of the future":                   {[]string{element("X", "firing", -3*time.Minute)}, prom.StateStale},
		"two stale samples":               {[]string{element("X", "firing", 4*time.Minute), element("X", "pending", 3*time.Minute)}, prom.StateStale},
		"stale firing and fresher firing": {[]string{element("X", "firing", 4*time.Minute), element("X", "firing", time.Second)}, prom.StateFiring},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			alerts, err := newPrometheus(t, vector(append(tt.samples, canary)...)).Alerts(t.Context())
			require.NoError(t, err)
			require.Len(t, alerts, 2)
			require.Equal(t, tt.want, alerts[0].State)
			require.Equal(t, "Watchdog", alerts[1].Labels["alertname"])
		})
	}
}

func TestPrometheusJudgesAgeWithoutTheClockOfThisHost(t *testing.T) {
	t.Parallel()
	at := time.Unix(evaluated, 0)
	noEvaluation := vector(fmt.Sprintf(`{"metric":{"alertname":"Watchdog","alertstate":"firing"},"value":[0,"%d"]}`, evaluated))
	tests := map[string]struct {
		body  string
		now   time.Time
		stale bool
	}{
		"the host is a day ahead":                   {vector(canary), at.Add(24 * time.Hour), false},
		"the host is a day behind":                  {vector(canary), at.Add(-24 * time.Hour), false},
		"no time of evaluation, by the host fresh":  {noEvaluation, at.Add(time.Minute), false},
		"no time of evaluation, by the host stale":  {noEvaluation, at.Add(3 * time.Minute), true},
		"no time of evaluation, the host is behind": {noEvaluation, at.Add(-3 * time.Minute), true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := NewPrometheus(PrometheusOptions{URL: "http://h", Clock: clocktesting.NewFakePassiveClock(tt.now)})
			require.NoError(t, err)
			_, err = p.judge([]byte(tt.body))
			if tt.stale {
				require.ErrorContains(t, err, "is stale")
				return
			}
			require.NoError(t, err)
		})
	}
}

// In a view of several clusters the canary of another one proves nothing, fresh or stale.
func TestTheCanaryIsThatOfThisCluster(t *testing.T) {
	t.Parallel()
	p, err := NewPrometheus(PrometheusOptions{URL: "http://h", Cluster: prom.Cluster{Name: "a"}})
	require.NoError(t, err)
	watchdog := func(cluster string, age time.Duration) string {
		return element("Watchdog", "firing", age, "cluster", cluster)
	}
	_, err = p.judge([]byte(vector(watchdog("b", 0))))
	require.EqualError(t, err, `the canary alert "Watchdog" does not fire`)
	_, err = p.judge([]byte(vector(watchdog("a", 0), watchdog("b", time.Hour))))
	require.NoError(t, err)
	_, err = p.judge([]byte(vector(canary)))
	require.NoError(t, err, "one that names no cluster is that of the server")
	require.Contains(t, evidenceQuery(prom.Cluster{Label: "k8s"}, []string{"n1"}, 0), "max by (node, k8s, job)")
}

func TestPrometheusOptions(t *testing.T) {
	t.Parallel()
	p, err := NewPrometheus(PrometheusOptions{URL: "http://h", Canary: "DeadMan", MaxAge: time.Minute})
	require.NoError(t, err)
	_, err = p.judge([]byte(vector(element("DeadMan", "firing", 59*time.Second))))
	require.NoError(t, err)
	_, err = p.judge([]byte(vector(element("DeadMan", "firing", 61*time.Second))))
	require.EqualError(t, err, `the canary alert "DeadMan" is stale: its last sample is 1m1s old`)
	_, err = p.judge([]byte(vector(canary)))
	require.EqualError(t, err, `the canary alert "DeadMan" does not fire`)
	alerts, err := p.judge([]byte(vector(element("DeadMan", "firing", 0), element("X", "firing", time.Hour, "node", "n1"), element("X", "firing", 0, "node", "n2"))))
	require.NoError(t, err)
	require.Equal(t, []prom.AlertState{prom.StateFiring, prom.StateStale, prom.StateFiring}, []prom.AlertState{alerts[0].State, alerts[1].State, alerts[2].State},
		"a stale sample of one node says nothing of another")

	_, err = NewPrometheus(PrometheusOptions{URL: "h"})
	require.EqualError(t, err, "prometheus: the URL must be http://host or https://host, with an optional path")
	_, err = NewPrometheus(PrometheusOptions{URL: "http://h", MaxAge: -1})
	require.EqualError(t, err, "prometheus: negative maximum age -1ns")
}

func TestPrometheusOtherStatusIsAnError(t *testing.T) {
	t.Parallel()
	for _, status := range []int{204, 206, 400, 401, 422, 500, 503} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(status)
			if status != http.StatusNoContent {
				reply(vector(canary))(w, r)
			}
		}))
		t.Cleanup(server.Close)
		p, err := NewPrometheus(PrometheusOptions{URL: server.URL})
		require.NoError(t, err)
		_, err = p.Alerts(t.Context())
		require.EqualError(t, err, fmt.Sprintf("query prometheus: %s answers with status %d%s", server.URL, status, meaning(status)))
	}
}

// FuzzDecodeVector checks that whatever is accepted can be relied on.
func FuzzDecodeVector(f *testing.F) {
	f.Add([]byte(vector(canary, element("GpuHung", "pending", time.Minute, "node", "n1"))))
	f.Add([]byte(`{"status":"success","isPartial":true,"data":{"resultType":"vector","result":[]}}`))
	f.Add([]byte(`{"status":"success","data":{"resultType":"scalar","result":[1,"1"]}}`))
	f.Add([]byte(`{"status":"success","data":{"resultType":"vector","result":[{"metric":null,"value":[1e308,"1e308"]}]}}`))
	f.Add([]byte(vector(canary, start("GpuHung", "1700000000", "node", "n1"))))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, body []byte) {
		elements, err := decodeVector(body, MaxSeries)
		if err != nil {
			require.Nil(t, elements)
			return
		}
		samples, starts, err := split(elements)
		if err != nil {
			require.Nil(t, samples)
			return
		}
		for fingerprint, at := range starts {
			require.Len(t, fingerprint, 16)
			require.True(t, at.After(time.Unix(0, 0)))
		}
		require.True(t, json.Valid(body))
		for _, s := range samples {
			require.NotEmpty(t, s.alert.Labels[labelAlertName])
			require.NotContains(t, s.alert.Labels, labelState)
			require.NotContains(t, s.alert.Labels, labelName)
			require.Contains(t, []prom.AlertState{prom.StatePending, prom.StateFiring}, s.alert.State)
			require.Equal(t, prom.Fingerprint(s.alert.Labels), s.alert.Fingerprint)
			require.True(t, s.at.After(time.Unix(-1, 0)))
		}
		require.LessOrEqual(t, len(freshest(samples)), len(samples))
	})
}

func TestEvidence(t *testing.T) {
	t.Parallel()
	server, asked := recorded(t, `{"status":"success","data":{"resultType":"vector","result":[
		{"metric":{"node":"n1","source":"gpu/dcgm-exporter"},"value":[1000,"990"]},
		{"metric":{"node":"n1"},"value":[1000,"940.5"]},
		{"metric":{"node":"n1","job":"kubelet"},"value":[1000,"990"]},
		{"metric":{"node":"n1","job":"fans","aegis_down":"true"},"value":[1000,"990"]},
		{"metric":{"node":"n2","source":"gpu/sichek"},"value":[1000,"NaN"]}]}}`)
	p, err := NewPrometheus(PrometheusOptions{URL: server})
	require.NoError(t, err)
	seen, err := p.Evidence(t.Context(), EvidenceRequest{Names: []string{"10.0.0.1", `n"1`}, Selectors: []string{`up{job="fans"}`}})
	require.NoError(t, err)
	labels := map[string]string{"node": "n1", "source": "gpu/dcgm-exporter"}
	require.Equal(t, Sighting{Labels: labels, Source: "gpu/dcgm-exporter", Age: 10 * time.Second}, seen[0])
	require.Equal(t, Sighting{Labels: map[string]string{"node": "n1"}, Age: 59500 * time.Millisecond}, seen[1])
	for i, want := range []Sighting{{Job: "kubelet"}, {Job: "fans", Down: true}} {
		want.Labels, want.Age = seen[2+i].Labels, 10*time.Second
		require.Equal(t, want, seen[2+i])
	}
	require.Equal(t, Sighting{Labels: labels, Source: `up{job="fans"}`, Age: 10 * time.Second}, seen[4], "of a selector every series counts")
	require.Len(t, seen, 8, "a value that is not a time is not a sign of anything")
	require.Len(t, *asked, 2)
	for _, query := range *asked {
		_, err := ParseExpression(query)
		require.NoError(t, err, query)
	}
	require.Contains(t, (*asked)[0], `node=~"(?i:10\\.0\\.0\\.1|n\"1)(:[0-9]+)?"`)
	require.Contains(t, (*asked)[0], `[60m]`)
	require.Equal(t, `timestamp(up{job="fans"}) and up{job="fans"} == 1`, (*asked)[1])
	require.Equal(t, `timestamp(fans_up{job="fans"})`, selectorQuery(`fans_up{job="fans"}`))
}

// An exporter that was there when an incident began is asked for as long as a server can be expected to remember it.
func TestEvidenceIsAskedForSinceTheIncidentBegan(t *testing.T) {
	t.Parallel()
	for memory, want := range map[time.Duration]string{0: "[60m]", 90*time.Minute + time.Second: "[91m]", 365 * 24 * time.Hour: "[10080m]"} {
		require.Contains(t, evidenceQuery(prom.Cluster{}, []string{"n1"}, memory), want)
	}
}

// recorded answers each query with the body, and notes the queries.
func recorded(t *testing.T, body string) (address string, asked *[]string) {
	t.Helper()
	var mu sync.Mutex
	asked = new([]string)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		*asked = append(*asked, r.FormValue("query"))
		fmt.Fprint(w, body)
	}))
	t.Cleanup(server.Close)
	return server.URL, asked
}
