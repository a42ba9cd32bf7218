package handler

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"aegis.io/aegis/rules"
	"aegis.io/aegis/rules/prom"
)

// fullMessage is a webhook of version 4 with every field that Alertmanager 0.34 sends.
type fullMessage struct {
	Receiver           string            `json:"receiver"`
	Status             string            `json:"status"`
	Alerts             []fullAlert       `json:"alerts"`
	NotificationReason string            `json:"notification_reason"`
	GroupLabels        map[string]string `json:"groupLabels"`
	CommonLabels       map[string]string `json:"commonLabels"`
	CommonAnnotations  map[string]string `json:"commonAnnotations"`
	RouteLabels        map[string]string `json:"routeLabels"`
	ExternalURL        string            `json:"externalURL"`
	Version            string            `json:"version"`
	GroupKey           string            `json:"groupKey"`
	TruncatedAlerts    uint64            `json:"truncatedAlerts"`
}

type fullAlert struct {
	Status       string            `json:"status"`
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations"`
	StartsAt     time.Time         `json:"startsAt"`
	EndsAt       time.Time         `json:"endsAt"`
	GeneratorURL string            `json:"generatorURL"`
	Fingerprint  string            `json:"fingerprint"`
}

var goldenBodies = []string{"firing.json", "mixed.json", "resolved.json"}

// TestGoldenBodiesAreWebhooks holds the bodies to the format, and the struct of this package to the bodies.
func TestGoldenBodiesAreWebhooks(t *testing.T) {
	t.Parallel()
	for _, name := range goldenBodies {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := webhookBody(t, name)
			require.True(t, strings.HasSuffix(text, "}\n"))
			var full fullMessage
			strict := json.NewDecoder(strings.NewReader(text))
			strict.DisallowUnknownFields()
			require.NoError(t, strict.Decode(&full))
			again, err := json.Marshal(full)
			require.NoError(t, err)
			require.JSONEq(t, text, string(again), "a field is missing")

			msg, malformed, err := decodeWebhook([]byte(text))
			require.NoError(t, err)
			require.Zero(t, malformed)
			require.Equal(t, full.Version, msg.Version)
			require.Equal(t, full.TruncatedAlerts > 0, msg.truncated())
			require.Len(t, msg.Alerts, len(full.Alerts))
			for i, want := range full.Alerts {
				require.Equal(t, webhookAlert{
					Status: want.Status, Labels: want.Labels, Annotations: want.Annotations,
					StartsAt: want.StartsAt, EndsAt: want.EndsAt, Fingerprint: want.Fingerprint,
				}, msg.Alerts[i])
				require.Equal(t, want.Fingerprint, prom.Fingerprint(want.Labels))
			}
			each, malformed, err := decodeEach([]byte(text))
			require.NoError(t, err)
			require.Zero(t, malformed)
			require.Equal(t, msg, each, "both ways to decode agree")
		})
	}
}

func TestGoldenBodiesAreMerged(t *testing.T) {
	t.Parallel()
	started := time.Date(2026, 11, 23, 15, 30, 4, 318_000_000, time.UTC)
	gpu := func(node string, firing bool) prom.Observation {
		return prom.Observation{
			Status:   prom.AegisNodeStatus{Node: node, Condition: "GpuHung", Msg: "GPU 3 of " + node + " does not answer & blocks its jobs"},
			StartsAt: started, Firing: firing,
		}
	}
	for name, want := range map[string][]prom.Observation{
		"firing.json":   {gpu("gpu-17", true), gpu("gpu-18", true)},
		"mixed.json":    {gpu("gpu-17", true), gpu("gpu-18", false)},
		"resolved.json": {gpu("gpu-17", false)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			got := post(t, f.serve(t).URL+"/api/v1/alerts", webhookBody(t, name))
			require.Equal(t, http.StatusOK, got.code, got.body)
			require.JSONEq(t, fmt.Sprintf(`{"taken":%d,"dropped":{}}`, len(want)), got.body)

			observed := f.sink.all()
			require.Len(t, observed, len(want))
			for i := range observed {
				require.True(t, isFingerprint(observed[i].Fingerprint))
				observed[i].Fingerprint = ""
			}
			require.Equal(t, want, observed)
			require.Equal(t, 1, f.sink.calls, "one body is one merge")
			require.InDelta(t, len(want), f.outcome(outcomeTaken), 0)
			require.Positive(t, testutil.ToFloat64(f.handler.metrics.lastAccepted))
			require.Equal(t, name == "mixed.json", *f.resyncs == 1, "only mixed.json was truncated")
		})
	}
}

// TestBuiltInCatalogueTakesTheGoldenAlert puts the real classifier behind the webhook.
func TestBuiltInCatalogueTakesTheGoldenAlert(t *testing.T) {
	t.Parallel()
	catalogue, err := rules.Load(rules.Options{})
	require.NoError(t, err)
	nodes := rules.NewNodeIndex()
	nodes.Set(rules.NodeInfo{Name: "gpu-17"})
	f := newFixture(t, func(o *Options) {
		o.Classifier = rules.NewClassifier(rules.ClassifierOptions{Store: rules.NewStore(catalogue), Nodes: nodes})
	})
	got := post(t, f.serve(t).URL+"/api/v1/alerts", webhookBody(t, "mixed.json"))
	require.JSONEq(t, `{"taken":1,"dropped":{"unknown_node":1}}`, got.body)
	observed := f.sink.all()
	require.Len(t, observed, 1)
	require.Equal(t, "gpu-17", observed[0].Status.Node)
	require.Equal(t, "GpuHung", observed[0].Status.Condition)
	require.True(t, observed[0].Firing)
}

func TestBadAlertsAreDroppedAlone(t *testing.T) {
	t.Parallel()
	const good = `{"status":"firing","labels":{"alertname":"A","node":"gpu-17"}}`
	for name, tc := range map[string]struct{ alert, reason string }{
		"not an object":          {`5`, dropMalformed},
		"an array":               {`[]`, dropMalformed},
		"null":                   {`null`, dropNoLabels},
		"empty":                  {`{}`, dropNoLabels},
		"labels missing":         {`{"status":"firing"}`, dropNoLabels},
		"labels empty":           {`{"status":"firing","labels":{}}`, dropNoLabels},
		"labels null":            {`{"status":"firing","labels":null}`, dropNoLabels},
		"labels an array":        {`{"status":"firing","labels":["node"]}`, dropMalformed},
		"label a number":         {`{"status":"firing","labels":{"node":7}}`, dropMalformed},
		"annotation an object":   {`{"status":"firing","labels":{"node":"a"},"annotations":{"x":{}}}`, dropMalformed},
		"time not a time":        {`{"status":"firing","labels":{"node":"a"},"startsAt":"yesterday"}`, dropMalformed},
		"time a number":          {`{"status":"firing","labels":{"node":"a"},"endsAt":1e400}`, dropMalformed},
		"status missing":         {`{"labels":{"node":"a"}}`, dropBadStatus},
		"status unknown":         {`{"status":"suppressed","labels":{"node":"a"}}`, dropBadStatus},
		"status in upper case":   {`{"status":"FIRING","labels":{"node":"a"}}`, dropBadStatus},
		"status a number":        {`{"status":1,"labels":{"node":"a"}}`, dropMalformed},
		"fingerprint a number":   {`{"status":"firing","labels":{"node":"a"},"fingerprint":1}`, dropMalformed},
		"no node":                {`{"status":"firing","labels":{"alertname":"A"}}`, rules.DropNoNode},
		"unknown node":           {`{"status":"firing","labels":{"reason":"unknown_node"}}`, rules.DropUnknownNode},
		"reason of its own":      {`{"status":"firing","labels":{"reason":"` + strings.Repeat("x", 1000) + `"}}`, dropOther},
		"reason that is no drop": {`{"status":"firing","labels":{"reason":"taken"}}`, dropOther},
		"error of another kind":  {`{"status":"firing","labels":{"foreign":"boom"}}`, dropOther},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			series := testutil.CollectAndCount(f.handler.metrics.alerts)
			body := `{"version":"4","alerts":[` + good + "," + tc.alert + "," + good + `]}`
			got := post(t, f.serve(t).URL+"/api/v1/alerts", body)
			require.Equal(t, http.StatusOK, got.code, got.body)
			require.JSONEq(t, fmt.Sprintf(`{"taken":2,"dropped":{%q:1}}`, tc.reason), got.body)
			require.Len(t, f.sink.all(), 2)
			require.InDelta(t, 2, f.outcome(outcomeTaken), 0)
			require.InDelta(t, 1, f.outcome(tc.reason), 0)
			require.Equal(t, series, testutil.CollectAndCount(f.handler.metrics.alerts), "the outcomes are a closed set")
		})
	}
}

func TestNothingToMerge(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	server := f.serve(t)
	require.JSONEq(t, `{"taken":0,"dropped":{}}`, post(t, server.URL+"/api/v1/alerts", `{"version":"4","alerts":[]}`).body)
	require.JSONEq(t, `{"taken":0,"dropped":{"no_labels":2}}`, post(t, server.URL+"/api/v1/alerts", `{"version":"4","alerts":[{},{}]}`).body)
	require.Zero(t, f.sink.calls)
}

func TestUnusableBodies(t *testing.T) {
	t.Parallel()
	huge := strings.Repeat("9", 100_000)
	for name, tc := range map[string]struct{ body, says string }{
		"empty":                    {"", "body is empty, want a JSON object"},
		"blank":                    {" \n\t", "body is empty, want a JSON object"},
		"cut off":                  {oneAlert[:60], "body is not JSON: unexpected end of JSON input (byte 60 of 60)"},
		"two values":               {oneAlert + "{}", "body is not JSON: invalid character '{' after top-level value"},
		"an array":                 {"[" + oneAlert + "]", "body is a JSON array, want an object"},
		"a string":                 {`"x"`, "body is a JSON string, want an object"},
		"a huge number":            {huge, "body is a JSON number, want an object"},
		"null":                     {"null", `version is "", want "4"`},
		"no version":               {`{"alerts":[]}`, `version is "", want "4"`},
		"version 3":                {`{"version":"3","alerts":[]}`, `version is "3", want "4"`},
		"version 3, other alerts":  {`{"version":"3","alerts":[7]}`, `version is "3", want "4"`},
		"version a number":         {`{"version":4,"alerts":[]}`, `field "version" is a JSON number, want a string`},
		"version that is long":     {`{"version":"` + huge + `","alerts":[]}`, `version is "99999999999999999999", want "4"`},
		"no alerts":                {`{"version":"4"}`, "alerts is missing, want an array of alerts"},
		"alerts null":              {`{"version":"4","alerts":null}`, "alerts is missing, want an array of alerts"},
		"alerts an object":         {`{"version":"4","alerts":{}}`, `field "alerts" is a JSON object, want an array`},
		"alerts a huge number":     {`{"version":"4","alerts":` + huge + `}`, `field "alerts" is a JSON number, want an array`},
		"NaN":                      {`{"version":"4","alerts":[],"truncatedAlerts":NaN}`, "invalid character 'N' looking for beginning of value"},
		"Infinity":                 {`{"version":"4","alerts":[],"truncatedAlerts":-Infinity}`, "invalid character 'I' in numeric literal"},
		"deeply nested":            {`{"version":"4","alerts":` + strings.Repeat("[", 10_001) + strings.Repeat("]", 10_001) + `}`, "exceeded max depth"},
		"deeply nested, elsewhere": {`{"version":"4","alerts":[],"new":` + strings.Repeat(`{"a":`, 1_000_000), "exceeded max depth"},
		"compressed":               {"\x1f\x8b\x08\x00", "body is not JSON"},
		"YAML":                     {"version: 4", "body is not JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			r := httptest.NewRequest(http.MethodPost, "/api/v1/alerts", strings.NewReader(tc.body))
			r.Header.Set("Content-Type", "application/json; charset=utf-8")
			r.RemoteAddr = "[::1]:4711"
			got := record(f.routes, r)
			require.Equal(t, http.StatusBadRequest, got.code)
			require.Contains(t, got.problem(t), tc.says)
			require.Less(t, len(got.body), 400)
			require.Empty(t, f.sink.all())
			require.Zero(t, *f.resyncs)
		})
	}
}

func TestHostileBodiesThatAreTaken(t *testing.T) {
	t.Parallel()
	megabyte := strings.Repeat("x", 1<<20)
	alert := func(labels, more string) string {
		return `{"version":"4","alerts":[{"status":"firing","labels":{"node":"gpu-17"` + labels + `}` + more + `}]`
	}
	for name, body := range map[string]string{
		"a label value of 1 MB":    alert(`,"x":"`+megabyte+`"`, "") + "}",
		"a label name of 1 MB":     alert(`,"`+megabyte+`":"x"`, "") + "}",
		"an annotation of 1 MB":    alert("", `,"annotations":{"x":"`+megabyte+`"}`) + "}",
		"a fingerprint of 1 MB":    alert("", `,"fingerprint":"`+megabyte+`"`) + "}",
		"10,000 nested arrays":     alert("", "") + `,"new":` + strings.Repeat("[", 9_999) + strings.Repeat("]", 9_999) + `}`,
		"invalid UTF-8":            alert(",\"x\":\"\xff\xfe\xc3\x28\"", "") + "}",
		"a lone surrogate":         alert(`,"x":"\ud800"`, "") + "}",
		"a NUL":                    alert(`,"x":"\u0000"`, "") + "}",
		"the same field twice":     alert("", `,"status":"firing"`) + "}",
		"fields of other versions": alert("", `,"updatedAt":7`) + `,"receiver":[],"groupLabels":0,"commonLabels":"x"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			got := post(t, f.serve(t).URL+"/api/v1/alerts", body)
			require.Equal(t, http.StatusOK, got.code, got.body)
			require.Len(t, f.sink.all(), 1)
			require.True(t, isFingerprint(f.sink.all()[0].Fingerprint))
			require.Less(t, f.log.Len(), 4096)
		})
	}
}

func TestDroppedAlertsDoNotFillTheLog(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	server := f.serve(t)
	megabyte := strings.Repeat("ü", 1<<19)
	post(t, server.URL+"/api/v1/alerts", `{"version":"4","alerts":[{"status":"firing","fingerprint":"`+megabyte+`","labels":{"foreign":"`+megabyte+`"}}]}`)
	server.Close()
	require.Contains(t, f.log.String(), `msg="alert dropped"`)
	require.Less(t, f.log.Len(), 4096)
}

func TestTruncatedAlertsAskForAResync(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]int{
		"0": 0, "null": 0, "1": 1, "18446744073709551615": 1, "1e400": 1, "-1": 1, "0.5": 1, `"7"`: 1, "{}": 1,
		strings.Repeat("9", 1<<20): 1,
	} {
		f := newFixture(t)
		got := post(t, f.serve(t).URL+"/api/v1/alerts", strings.TrimSuffix(oneAlert, "}")+`,"truncatedAlerts":`+value+`}`)
		require.Equal(t, http.StatusOK, got.code, got.body)
		require.Equal(t, want, *f.resyncs, "%.40s", value)
		require.InDelta(t, want, testutil.ToFloat64(f.handler.metrics.truncated), 0)
		require.Len(t, f.sink.all(), 1)
	}
}

func TestResolvedAlerts(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, tc := range map[string]struct {
		status string
		endsAt time.Time
		firing bool
		want   time.Time
	}{
		"firing without end":   {statusFiring, time.Time{}, true, time.Time{}},
		"firing with an end":   {statusFiring, now.Add(time.Hour), true, time.Time{}},
		"resolved an hour ago": {statusResolved, now.Add(-time.Hour), false, now.Add(-time.Hour)},
		"resolved without end": {statusResolved, time.Time{}, false, now},
		"resolved in an hour":  {statusResolved, now.Add(time.Hour), false, now.Add(time.Hour)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := &webhookAlert{Status: tc.status, EndsAt: tc.endsAt, Labels: map[string]string{"node": "gpu-17"}}
			alert, err := a.alert(now)
			require.NoError(t, err)
			require.Equal(t, tc.want, alert.EndsAt)
			obs, err := newFixture(t).handler.observation(a, now)
			require.NoError(t, err)
			require.Equal(t, tc.firing, obs.Firing)
		})
	}
}

func TestFingerprintIsNeverMadeUp(t *testing.T) {
	t.Parallel()
	labels := map[string]string{"alertname": "GpuHung", "node": "gpu-17"}
	computed := prom.Fingerprint(labels)
	for given, want := range map[string]string{
		"":                  computed,
		"c128526bc3530c13":  "c128526bc3530c13",
		"C128526BC3530C13":  computed,
		"c128526bc3530c1":   computed,
		"c128526bc3530c133": computed,
		"not-a-fingerprint": computed,
		"c128526bc3530c1\n": computed,
	} {
		a := &webhookAlert{Status: statusFiring, Labels: labels, Fingerprint: given}
		alert, err := a.alert(time.Now())
		require.NoError(t, err)
		require.Equal(t, want, alert.Fingerprint, "%q", given)
	}
}

func TestSameAlertTwiceInABodyKeepsItsOrder(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const labels = `"labels":{"node":"gpu-17"}`
	got := post(t, f.serve(t).URL+"/api/v1/alerts", `{"version":"4","alerts":[{"status":"firing",`+labels+`},{"status":"resolved",`+labels+`}]}`)
	require.Equal(t, http.StatusOK, got.code)
	observed := f.sink.all()
	require.Len(t, observed, 2)
	require.True(t, observed[0].Firing)
	require.False(t, observed[1].Firing, "the last one wins")
}

func TestLeadLostWhileMergingIsNoSuccess(t *testing.T) {
	t.Parallel()
	leads := true
	f := newFixture(t, func(o *Options) { o.Ready = func() (bool, string) { return leads, "not the leader" } })
	f.sink.hook = func() { leads = false }
	got := post(t, f.serve(t).URL+"/api/v1/alerts", oneAlert)
	require.Equal(t, http.StatusServiceUnavailable, got.code)
	require.Zero(t, f.outcome(outcomeTaken))
	require.Zero(t, testutil.ToFloat64(f.handler.metrics.lastAccepted))
}

func TestAnswerComesAfterTheMerge(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	merging, merged := make(chan struct{}), make(chan struct{})
	f.sink.hook = func() { close(merging); <-merged }
	server := f.serve(t)
	answers := make(chan sent, 1)
	request := jsonRequest(t, http.MethodPost, server.URL+"/api/v1/alerts", oneAlert)
	go send(request, answers)
	<-merging
	require.Empty(t, answers)
	close(merged)
	requireStatus(t, http.StatusOK, <-answers)
}

func TestOverloadIsShed(t *testing.T) {
	t.Parallel()
	const slots = 2
	f := newFixture(t, func(o *Options) { o.MaxInFlight = slots })
	entered, leave := make(chan struct{}), make(chan struct{})
	f.sink.hook = func() { entered <- struct{}{}; <-leave }
	server := f.serve(t)
	answers := make(chan sent, slots)
	for range slots {
		request := jsonRequest(t, http.MethodPost, server.URL+"/api/v1/alerts", oneAlert)
		go send(request, answers)
		<-entered
	}

	shed := post(t, server.URL+"/api/v1/alerts", oneAlert)
	require.Equal(t, http.StatusServiceUnavailable, shed.code)
	require.Equal(t, "overloaded: 2 requests are in flight", shed.problem(t))
	require.Equal(t, http.StatusAccepted, post(t, server.URL+"/api/v1/heal", `{"node":"n","condition":"GpuHung"}`).code, "people have slots of their own")
	require.Equal(t, http.StatusOK, get(t, server.URL+"/-/ready").code)

	close(leave)
	for range slots {
		requireStatus(t, http.StatusOK, <-answers)
	}
	f.sink.hook = nil
	require.Equal(t, http.StatusOK, post(t, server.URL+"/api/v1/alerts", oneAlert).code, "the slots are free again")
}

func TestContentTypes(t *testing.T) {
	t.Parallel()
	server := newFixture(t).serve(t)
	for name, tc := range map[string]struct {
		contentType, encoding string
		code                  int
	}{
		"as Alertmanager sends it": {"application/json", "", 200},
		"with a charset":           {"Application/JSON; charset=utf-8", "identity", 200},
		"none":                     {"", "", 415},
		"a form":                   {"application/x-www-form-urlencoded", "", 415},
		"text":                     {"text/plain", "", 415},
		"something like JSON":      {"application/jsonp", "", 415},
		"garbage":                  {"application/json; =", "", 415},
		"compressed":               {"application/json", "gzip", 415},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := jsonRequest(t, http.MethodPost, server.URL+"/api/v1/alerts", oneAlert)
			r.Header.Set("Content-Type", tc.contentType)
			r.Header.Set("Content-Encoding", tc.encoding)
			require.Equal(t, tc.code, do(t, r).code)
		})
	}
}

func TestBodyAtTheLimit(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	server := f.serve(t)
	full := oneAlert + strings.Repeat("\n", maxWebhookBytes-len(oneAlert))
	require.Equal(t, http.StatusOK, post(t, server.URL+"/api/v1/alerts", full).code)
	// A body of no announced length is cut off while it is read.
	r := httptest.NewRequest(http.MethodPost, "/api/v1/alerts", strings.NewReader(full+"\n"))
	r.Header.Set("Content-Type", "application/json")
	r.ContentLength = -1
	r.RemoteAddr = "127.0.0.1:4711"
	got := record(f.routes, r)
	require.Equal(t, http.StatusRequestEntityTooLarge, got.code)
	require.Equal(t, "close", got.header.Get("Connection"))
	require.Len(t, f.sink.all(), 1)
}

func FuzzWebhook(f *testing.F) {
	// Short ones: the fuzzer would spend its time on making long ones shorter.
	for _, seed := range []string{
		`{"receiver":"a","status":"firing","alerts":[{"status":"firing","labels":{"node":"a"},"annotations":{"b":"c"},"startsAt":"2026-11-23T15:30:04.318Z","endsAt":"0001-01-01T00:00:00Z","generatorURL":"","fingerprint":"c128526bc3530c13"}],"version":"4","truncatedAlerts":1}`,
		"", "null", "[]", "{}", oneAlert, oneAlert + "x", `{"version":"4","alerts":[1,{},null,[],{"labels":{"a":1}}]}`,
		`{"version":4,"alerts":[]}`, `{"Version":"4","ALERTS":[{"STATUS":"firing","Labels":{"node":"a"}}]}`,
		`{"version":"4","alerts":[{"status":"resolved","labels":{"node":"\ud800"},"endsAt":"9999-12-31T23:59:59Z"}],"truncatedAlerts":1e999}`,
		`{"version":"4","alerts":[{"status":"firing","labels":{"node":"a"}}],"alerts":[{}]}`,
		strings.Repeat("[", 64),
	} {
		f.Add([]byte(seed))
	}
	fx := newFixture(f, func(o *Options) { o.Logger = nil })
	f.Fuzz(func(t *testing.T, body []byte) {
		fx.sink.observed = nil
		r := httptest.NewRequest(http.MethodPost, "/api/v1/alerts", strings.NewReader(string(body)))
		r.Header.Set("Content-Type", "application/json")
		r.RemoteAddr = "127.0.0.1:4711"
		got := record(fx.routes, r)

		var sent message[json.RawMessage]
		if json.Unmarshal(body, &sent) != nil || sent.Version != "4" || sent.Alerts == nil {
			require.Equal(t, http.StatusBadRequest, got.code, got.body)
			require.NotEmpty(t, got.problem(t))
			require.Empty(t, fx.sink.all())
			return
		}
		require.Contains(t, []int{200, 500}, got.code)
		if got.code == http.StatusInternalServerError {
			require.Contains(t, string(body), "panic", "only the poisoned label panics")
			return
		}
		var result intake
		require.NoError(t, json.Unmarshal([]byte(got.body), &result))
		total := result.Taken
		for reason, n := range result.Dropped {
			require.Contains(t, dropReasons(), reason)
			total += n
		}
		require.Equal(t, len(sent.Alerts), total, "every alert is taken or dropped")
		require.Len(t, fx.sink.all(), result.Taken)
		for _, obs := range fx.sink.all() {
			require.True(t, isFingerprint(obs.Fingerprint))
		}
	})
}

// largeBody returns a webhook with n alerts of about a kilobyte each.
func largeBody(tb testing.TB, n int) []byte {
	tb.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	var msg fullMessage
	require.NoError(tb, json.Unmarshal([]byte(webhookBody(tb, "firing.json")), &msg))
	proto := msg.Alerts[0]
	msg.Alerts = nil
	for i := range n {
		a := proto
		a.Labels = map[string]string{}
		for k, v := range proto.Labels {
			a.Labels[k] = v
		}
		a.Labels["node"] = "gpu-" + strconv.Itoa(i)
		a.Labels["UUID"] = fmt.Sprintf("GPU-%016x", random.Uint64())
		a.Fingerprint = prom.Fingerprint(a.Labels)
		msg.Alerts = append(msg.Alerts, a)
	}
	body, err := json.Marshal(msg)
	require.NoError(tb, err)
	return body
}

// discardSink costs nothing.
type discardSink struct{}

func (discardSink) Observe(...prom.Observation) {}

// BenchmarkWebhook compares serving a webhook of 1,000 alerts with the least that it takes to read it.
func BenchmarkWebhook(b *testing.B) {
	body := largeBody(b, 1000)
	f := newFixture(b, func(o *Options) { o.Sink, o.Logger = discardSink{}, nil })
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	var bare time.Duration
	for b.Loop() {
		// In turns, so that what else the machine does slows down both alike.
		b.StopTimer()
		bare += unmarshalOnce(b, body)
		b.StartTimer()
		r := httptest.NewRequest(http.MethodPost, "/api/v1/alerts", strings.NewReader(string(body)))
		r.Header.Set("Content-Type", "application/json")
		r.RemoteAddr = "127.0.0.1:4711"
		if got := record(f.routes, r); got.code != http.StatusOK {
			b.Fatal(got.body)
		}
	}
	b.ReportMetric(float64(b.Elapsed())/float64(bare), "x-unmarshal")
}

func unmarshalOnce(b *testing.B, body []byte) time.Duration {
	start := time.Now()
	var msg message[webhookAlert]
	if err := json.Unmarshal(body, &msg); err != nil {
		b.Fatal(err)
	}
	return time.Since(start)
}

// An alert that fired until a time that has passed has ended, as Alertmanager itself takes it. It opens nothing, and ends nothing.
func TestAlertsThatHaveEndedAreDropped(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for end, dropped := range map[time.Time]bool{now: true, now.Add(-time.Second): true, now.Add(time.Second): false, {}: false} {
		a := &webhookAlert{Status: statusFiring, EndsAt: end, Labels: map[string]string{"node": "gpu-17"}}
		_, err := newFixture(t).handler.observation(a, now)
		require.Equal(t, dropped, err != nil, end)
		if dropped {
			require.Equal(t, dropEnded, dropReason(err))
		}
	}
}
