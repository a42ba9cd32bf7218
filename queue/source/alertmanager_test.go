package source

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/rules/prom"
)

const (
	activeAlert = `{
		"annotations": {"summary": "GPU 3 hangs"}, "endsAt": "2026-03-01T10:04:00.000Z", "fingerprint": "00000000000000a1",
		"receivers": [{"name": "aegis"}], "startsAt": "2026-03-01T10:00:00.000Z", "updatedAt": "2026-03-01T10:00:00.000Z",
		"generatorURL": "http://p", "labels": {"alertname": "GpuHung", "node": "n1"},
		"status": {"inhibitedBy": [], "mutedBy": [], "silencedBy": [], "state": "active"}}`
	mutedAlert = `{
		"fingerprint": "00000000000000a1", "labels": {"alertname": "GpuHung", "node": "n1"},
		"status": {"inhibitedBy": [], "mutedBy": ["weekends", "nights"], "silencedBy": [], "state": "suppressed"}}`
	silencedAlert = `{
		"fingerprint": "00000000000000b2", "labels": {"alertname": "IbDown", "node": "n2"},
		"startsAt": "2026-03-01T09:00:00.000Z",
		"status": {"inhibitedBy": ["00000000000000a1"], "mutedBy": [], "silencedBy": ["5b2e"], "state": "suppressed"}}`
)

// newAlertmanager returns a client of a server with these alerts and groups.
func newAlertmanager(t *testing.T, alerts, groups string) *Alertmanager {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v2/alerts", reply(alerts))
	mux.HandleFunc("GET /api/v2/alerts/groups", reply(groups))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	a, err := NewAlertmanager(AlertmanagerOptions{URL: server.URL})
	require.NoError(t, err)
	return a
}

// list is an array; group is a group with the alerts.
func list(elements ...string) string { return "[" + strings.Join(elements, ",") + "]\n" }

func group(alerts ...string) string {
	return `{"labels":{},"receiver":{"name":"aegis"},"alerts":` + list(alerts...) + `}`
}

func TestAlertmanagerAlerts(t *testing.T) {
	t.Parallel()
	gpu := prom.Alert{
		Labels:       map[string]string{"alertname": "GpuHung", "node": "n1"},
		Annotations:  map[string]string{"summary": "GPU 3 hangs"},
		State:        prom.StateActive,
		Fingerprint:  "00000000000000a1",
		StartsAt:     time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC),
		EndsAt:       time.Date(2026, 3, 1, 10, 4, 0, 0, time.UTC),
		SuppressedBy: []string{},
	}
	muted := gpu
	muted.State = prom.StateSuppressed
	muted.SuppressedBy = []string{"time interval nights", "time interval weekends"}
	ib := prom.Alert{
		Labels:       map[string]string{"alertname": "IbDown", "node": "n2"},
		State:        prom.StateSuppressed,
		Fingerprint:  "00000000000000b2",
		StartsAt:     time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC),
		SuppressedBy: []string{"alert 00000000000000a1", "silence 5b2e"},
	}
	tests := map[string]struct {
		alerts, groups string
		want           []prom.Alert
	}{
		"none, as after a restart":      {list(), list(), []prom.Alert{}},
		"active":                        {list(activeAlert), list(group(activeAlert)), []prom.Alert{gpu}},
		"in no group yet":               {list(activeAlert), list(), []prom.Alert{gpu}},
		"silenced and inhibited":        {list(silencedAlert), list(group(silencedAlert)), []prom.Alert{ib}},
		"muted, which only groups know": {list(activeAlert), list(group(mutedAlert)), []prom.Alert{muted}},
		"muted in one of two groups":    {list(activeAlert), list(group(activeAlert), group(mutedAlert)), []prom.Alert{muted}},
		"twice is once":                 {list(activeAlert, silencedAlert), list(group(silencedAlert, activeAlert), group(mutedAlert)), []prom.Alert{muted, ib}},
		"new between the two requests":  {list(), list(group(silencedAlert)), []prom.Alert{ib}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			alerts, err := newAlertmanager(t, tt.alerts, tt.groups).Alerts(t.Context())
			require.NoError(t, err)
			require.Equal(t, tt.want, alerts)
		})
	}
}

func TestAlertmanagerStates(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		status       string
		want         prom.AlertState
		suppressedBy []string
	}{
		"active":                          {`{"state":"active"}`, prom.StateActive, []string{}},
		"suppressed for no stated reason": {`{"state":"suppressed"}`, prom.StateSuppressed, []string{}},
		"active and silenced at once":     {`{"state":"active","silencedBy":["x"]}`, prom.StateSuppressed, []string{"silence x"}},
		"not processed yet":               {`{"state":"unprocessed"}`, prom.StateSuppressed, []string{"not processed yet"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			body := list(`{"labels":{"alertname":"X"},"status":` + tt.status + `}`)
			alerts, err := newAlertmanager(t, body, list()).Alerts(t.Context())
			require.NoError(t, err)
			require.Len(t, alerts, 1)
			require.Equal(t, tt.want, alerts[0].State)
			require.Equal(t, tt.suppressedBy, alerts[0].SuppressedBy)
			require.Equal(t, prom.Fingerprint(map[string]string{"alertname": "X"}), alerts[0].Fingerprint)
		})
	}
}

func TestAlertmanagerAnswersThatProveNothing(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		alerts, groups string
		want           string
	}{
		"null alerts":      {"null\n", list(), " to api/v2/alerts: it is null"},
		"null groups":      {list(), "null", " to api/v2/alerts/groups: it is null"},
		"an object":        {`{}`, list(), " to api/v2/alerts: decode: json: cannot unmarshal object into Go value of type []source.apiAlert"},
		"half an answer":   {`[`, list(), " to api/v2/alerts: decode: unexpected end of JSON input"},
		"a page of groups": {list(), `<html>`, " to api/v2/alerts/groups: decode: invalid character '<' looking for beginning of value"},
		"no labels":        {list(`{"status":{"state":"active"}}`), list(), ": an alert has no labels"},
		"another state": {
			list(`{"fingerprint":"f","labels":{"alertname":"X"},"status":{"state":"snoozed"}}`), list(), `: alert f has the unknown state "snoozed"`,
		},
		"a time that is none": {
			list(`{"labels":{"alertname":"X"},"startsAt":"yesterday"}`), list(),
			` to api/v2/alerts: decode: parsing time "yesterday" as "2006-01-02T15:04:05Z07:00": cannot parse "yesterday" as "2006"`,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAlertmanager(t, tt.alerts, tt.groups)
			alerts, err := a.Alerts(t.Context())
			require.EqualError(t, err, "answer of alertmanager "+a.URL()+tt.want)
			require.Nil(t, alerts)
		})
	}
}

func TestAlertmanagerNeedsBothAnswers(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/api/v2/alerts", "/api/v2/alerts/groups"} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == path {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			reply("[]")(w, r)
		}))
		t.Cleanup(server.Close)
		a, err := NewAlertmanager(AlertmanagerOptions{URL: server.URL})
		require.NoError(t, err)
		_, err = a.Alerts(t.Context())
		require.EqualError(t, err, "query alertmanager: "+server.URL+" answers with status 503")
	}
}

func TestAlertmanagerURL(t *testing.T) {
	t.Parallel()
	a, err := NewAlertmanager(AlertmanagerOptions{URL: "https://am-0.monitoring:9093/prefix"})
	require.NoError(t, err)
	require.Equal(t, "https://am-0.monitoring:9093/prefix", a.URL())
	_, err = NewAlertmanager(AlertmanagerOptions{URL: "am-0:9093"})
	require.EqualError(t, err, "alertmanager: the URL must be http://host or https://host, with an optional path")
}

// FuzzDecodeAlerts checks that an alert is active only if nothing suppresses it.
func FuzzDecodeAlerts(f *testing.F) {
	f.Add([]byte(list(activeAlert, mutedAlert, silencedAlert)))
	f.Add([]byte(`[{"labels":{"a":"b"},"status":{"state":"unprocessed","mutedBy":null}}]`))
	f.Add([]byte(`null`))
	f.Add([]byte(`[null]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		listed, err := decodeList[apiAlert](body)
		if err != nil {
			return
		}
		alerts, err := mergeAlerts(listed)
		if err != nil {
			require.Nil(t, alerts)
			return
		}
		seen := make(map[string]bool)
		for _, a := range alerts {
			require.False(t, seen[a.Fingerprint])
			seen[a.Fingerprint] = true
			require.NotEmpty(t, a.Labels)
			require.Contains(t, []prom.AlertState{prom.StateActive, prom.StateSuppressed}, a.State)
			if a.State == prom.StateActive {
				require.Empty(t, a.SuppressedBy)
			}
		}
	})
}
