// Package wire holds what Aegis reads of Alertmanager against Alertmanager's own types, and what it asks Prometheus against its engine.
package wire

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-openapi/strfmt"
	"github.com/prometheus/alertmanager/api/v2/models"
	"github.com/prometheus/alertmanager/notify/webhook"
	"github.com/prometheus/alertmanager/template"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"aegis.io/aegis/handler"
	"aegis.io/aegis/queue/source"
	"aegis.io/aegis/rules"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
)

// field is what a test knows of one field of Alertmanager's.
type field struct {
	// another is a value other than that of the example.
	another any
	// ignored says why Aegis does not read the field. Empty means that it does.
	ignored string
}

func read(another any) field { return field{another: another} }

func ignored(another any, why string) field { return field{another: another, ignored: why} }

// hold holds a reader of Aegis against a type of Alertmanager. The test knows each field by its path in the JSON of the example; with
// another value in it the reader finds something else, or the same if it ignores the field.
func hold(t *testing.T, example any, known map[string]field, reader func(t *testing.T, body []byte) string) {
	t.Helper()
	require.ElementsMatch(t, slices.Collect(maps.Keys(known)), pathsOf(reflect.TypeOf(example), ""),
		"Alertmanager has other fields than this test knows: decide what each is to Aegis")
	body, err := json.Marshal(example)
	require.NoError(t, err)
	before := reader(t, body)
	for path, f := range known {
		t.Run(path, func(t *testing.T) {
			var document any
			require.NoError(t, json.Unmarshal(body, &document))
			document = replaced(t, document, strings.Split(path, "."), f.another)
			changed, err := json.Marshal(document)
			require.NoError(t, err)
			require.NotEqual(t, string(body), string(changed), "the other value is the same")
			if f.ignored != "" {
				require.Equal(t, before, reader(t, changed), "it is ignored: %s", f.ignored)
				return
			}
			require.NotEqual(t, before, reader(t, changed), "it is read")
		})
	}
}

// pathsOf lists the fields that the JSON of a type has, such as alerts[].status. What has fields of its own is not listed itself.
func pathsOf(of reflect.Type, prefix string) []string {
	switch {
	case of == reflect.TypeFor[time.Time](), of == reflect.TypeFor[strfmt.DateTime](), of.Kind() == reflect.Map:
		return []string{prefix}
	case of.Kind() == reflect.Pointer:
		return pathsOf(of.Elem(), prefix)
	case of.Kind() == reflect.Slice:
		return pathsOf(of.Elem(), prefix+"[]")
	case of.Kind() != reflect.Struct:
		return []string{prefix}
	}
	var paths []string
	for i := range of.NumField() {
		f := of.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			paths = append(paths, pathsOf(f.Type, prefix)...)
		case f.IsExported() && name != "-":
			paths = append(paths, pathsOf(f.Type, strings.TrimPrefix(prefix+"."+name, "."))...)
		}
	}
	return paths
}

// replaced returns the document with another value at the path. Of a list it is the first element.
func replaced(t *testing.T, document any, path []string, another any) any {
	t.Helper()
	if len(path) == 0 {
		return another
	}
	name, lists := strings.CutSuffix(path[0], "[]")
	inner := func(old any) any {
		if !lists {
			return replaced(t, old, path[1:], another)
		}
		list, ok := old.([]any)
		require.True(t, ok, "%v is no list", old)
		if len(path) == 1 {
			return another // A list of texts.
		}
		require.NotEmpty(t, list)
		list[0] = replaced(t, list[0], path[1:], another)
		return list
	}
	if name == "" {
		return inner(document)
	}
	object, ok := document.(map[string]any)
	require.True(t, ok, "%v is no object", document)
	object[name] = inner(object[name])
	return object
}

// began and ended are of an alert, and are never the present.
var (
	began = time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	ended = began.Add(time.Hour)
	later = began.Add(2 * time.Hour)
)

const (
	routing  = "how Alertmanager grouped and routed the alert says nothing of a node"
	ofPeople = "it is for people, who find it at Alertmanager"
)

func TestWebhook(t *testing.T) {
	t.Parallel()
	hold(t, webhook.Message{
		Version: "4", GroupKey: "{}:{}", TruncatedAlerts: 0,
		Data: &template.Data{
			Receiver: "aegis", Status: "resolved", NotificationReason: "all resolved", ExternalURL: "http://am",
			GroupLabels: template.KV{"a": "b"}, CommonLabels: template.KV{"a": "b"}, CommonAnnotations: template.KV{"a": "b"}, RouteLabels: template.KV{"a": "b"},
			Alerts: template.Alerts{{
				Status: "resolved", Labels: template.KV{"alertname": "GpuHung", "node": "n1"}, Annotations: template.KV{"summary": "it hangs"},
				StartsAt: began, EndsAt: ended, GeneratorURL: "http://p", Fingerprint: "00000000000000a1",
			}},
		},
	}, map[string]field{
		"version":               read("5"),
		"truncatedAlerts":       read(1),
		"alerts[].status":       read("firing"),
		"alerts[].labels":       read(map[string]string{"alertname": "GpuHung", "node": "n2"}),
		"alerts[].annotations":  read(map[string]string{"summary": "it hangs still"}),
		"alerts[].startsAt":     read(later),
		"alerts[].endsAt":       read(later),
		"alerts[].fingerprint":  read("00000000000000b2"),
		"alerts[].generatorURL": ignored("http://q", ofPeople),
		"status":                ignored("firing", "each alert has a status of its own"),
		"receiver":              ignored("pager", routing),
		"notification_reason":   ignored("repeat", routing),
		"groupKey":              ignored("{}:{a}", routing),
		"groupLabels":           ignored(map[string]string{"c": "d"}, routing),
		"commonLabels":          ignored(map[string]string{"c": "d"}, "each alert has them among its own"),
		"commonAnnotations":     ignored(map[string]string{"c": "d"}, "each alert has them among its own"),
		"routeLabels":           ignored(map[string]string{"c": "d"}, routing),
		"externalURL":           ignored("http://other", ofPeople),
	}, readWebhook)
}

// readWebhook returns what the handler makes of a body.
func readWebhook(t *testing.T, body []byte) string {
	t.Helper()
	s := &sink{}
	auth, err := handler.NewAuth(handler.AuthOptions{AllowLoopback: true})
	require.NoError(t, err)
	h, err := handler.New(handler.Options{
		Auth: auth,
		Sink: s, Classifier: s, Resync: func() { s.heard = append(s.heard, "resync") },
		Ready:      func() (bool, string) { return true, "" },
		Commander:  struct{ handler.Commander }{},
		Nodes:      struct{ handler.Nodes }{},
		Conditions: struct{ handler.Conditions }{},
		Verdicts:   struct{ handler.Verdicts }{},
		Catalogue:  &rules.Store{},
		Settings:   func() policy.Settings { return policy.Settings{} },
		Reload:     func() error { return nil },
		Gatherer:   prometheus.NewRegistry(),
	})
	require.NoError(t, err)
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/api/v1/alerts", strings.NewReader(string(body)))
	r.RemoteAddr = "127.0.0.1:1"
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	h.Routes().ServeHTTP(w, r)
	return strconv.Itoa(w.Code) + " " + strings.Join(s.heard, "; ")
}

// sink notes what arrives.
type sink struct{ heard []string }

func (s *sink) Observe(observations ...prom.Observation) {
	for _, o := range observations {
		s.heard = append(s.heard, fmt.Sprintf("firing %t", o.Firing))
	}
}

func (s *sink) Classify(a prom.Alert) (prom.Observation, error) {
	s.heard = append(s.heard, fmt.Sprintf("%+v", a))
	return prom.Observation{Firing: true}, nil
}

// listed is an alert as the API lists it.
func listed() *models.GettableAlert {
	return &models.GettableAlert{
		Annotations: models.LabelSet{"summary": "it hangs"}, StartsAt: dateTime(began), EndsAt: dateTime(ended), UpdatedAt: dateTime(began),
		Fingerprint: new("00000000000000a1"), Receivers: []*models.ReceiverReference{{Name: new("aegis")}},
		Status: &models.AlertStatus{State: new("active"), SilencedBy: []string{}, InhibitedBy: []string{}, MutedBy: []string{}},
		Alert:  models.Alert{GeneratorURL: "http://p", Labels: models.LabelSet{"alertname": "GpuHung", "node": "n1"}},
	}
}

func dateTime(t time.Time) *strfmt.DateTime { return new(strfmt.DateTime(t)) }

// fieldsOfAlert are those of an alert of the API, below the path.
func fieldsOfAlert(path string) map[string]field {
	fields := make(map[string]field)
	for name, f := range map[string]field{
		"labels":               read(map[string]string{"alertname": "GpuHung", "node": "n2"}),
		"annotations":          read(map[string]string{"summary": "it hangs still"}),
		"startsAt":             read(later),
		"endsAt":               read(later),
		"fingerprint":          read("00000000000000b2"),
		"status.state":         read("suppressed"),
		"status.silencedBy[]":  read([]string{"5b2e"}),
		"status.inhibitedBy[]": read([]string{"00000000000000b2"}),
		"status.mutedBy[]":     read([]string{"nights"}),
		"receivers[].name":     ignored("pager", routing),
		"updatedAt":            ignored(later, "the API lists an alert as long as it counts"),
		"generatorURL":         ignored("http://q", ofPeople),
	} {
		fields[path+name] = f
	}
	return fields
}

func TestAlerts(t *testing.T) {
	t.Parallel()
	hold(t, models.GettableAlerts{listed()}, fieldsOfAlert("[]."), func(t *testing.T, body []byte) string {
		t.Helper()
		return readAlerts(t, string(body), "[]")
	})
}

func TestAlertGroups(t *testing.T) {
	t.Parallel()
	fields := fieldsOfAlert("[].alerts[].")
	for _, name := range []string{"labels", "routeLabels"} {
		fields["[]."+name] = ignored(map[string]string{"c": "d"}, routing)
	}
	fields["[].receiver.name"] = ignored("pager", routing)
	hold(t, models.AlertGroups{{
		Alerts: []*models.GettableAlert{listed()}, Labels: models.LabelSet{"a": "b"}, RouteLabels: models.LabelSet{"a": "b"},
		Receiver: &models.ReceiverReference{Name: new("aegis")},
	}}, fields, func(t *testing.T, body []byte) string {
		t.Helper()
		return readAlerts(t, "[]", string(body))
	})
}

// readAlerts returns what the client makes of the answers.
func readAlerts(t *testing.T, alerts, groups string) string {
	t.Helper()
	found, err := alertmanager(t, map[string]string{"/api/v2/alerts": alerts, "/api/v2/alerts/groups": groups}).Alerts(t.Context())
	require.NoError(t, err)
	return fmt.Sprintf("%+v", found)
}

func TestSilences(t *testing.T) {
	t.Parallel()
	hold(t, models.GettableSilences{{
		ID: new("5b2e"), Status: &models.SilenceStatus{State: new("active")}, UpdatedAt: dateTime(began),
		Silence: models.Silence{
			Comment: new("riser swap"), CreatedBy: new("alice"), StartsAt: dateTime(began), EndsAt: dateTime(ended), Annotations: models.LabelSet{"a": "b"},
			Matchers: models.Matchers{{Name: new("node"), Value: new("n1"), IsRegex: new(false), IsEqual: new(true)}},
		},
	}}, map[string]field{
		"[].id":                 read("6c3f"),
		"[].createdBy":          read("bob"),
		"[].comment":            read("fan swap"),
		"[].status.state":       read("expired"),
		"[].matchers[].name":    read("instance"),
		"[].matchers[].value":   read("n2"),
		"[].matchers[].isRegex": read(true),
		"[].matchers[].isEqual": read(false),
		"[].startsAt":           ignored(later, "the state says whether it is active"),
		"[].endsAt":             ignored(later, "the state says whether it is active"),
		"[].updatedAt":          ignored(later, ofPeople),
		"[].annotations":        ignored(map[string]string{"c": "d"}, ofPeople),
	}, func(t *testing.T, body []byte) string {
		t.Helper()
		silences, err := alertmanager(t, map[string]string{"/api/v2/silences": string(body)}).Silences(t.Context())
		require.NoError(t, err)
		var text strings.Builder
		for _, s := range silences {
			text.WriteString(s.String() + " " + s.Matchers.String())
		}
		return text.String()
	})
}

// alertmanager returns a client of a server with these answers by path.
func alertmanager(t *testing.T, answers map[string]string) *source.Alertmanager {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := w.Write([]byte(answers[r.URL.Path])); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	a, err := source.NewAlertmanager(source.AlertmanagerOptions{URL: server.URL})
	require.NoError(t, err)
	return a
}
