package cmd

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/rest"

	"aegis.io/aegis/rules"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/sop/procedures"
)

// global is a Prometheus that knows the alerts of two clusters whose nodes have the same names, and the Alertmanager of both. Only cluster
// b has a sick node.
func global(t *testing.T) string {
	t.Helper()
	begun := time.Now().Add(-time.Hour).UTC()
	alerts := []map[string]string{
		{"alertname": "Watchdog", "cluster": "a"},
		{"alertname": "Watchdog", "cluster": "b"},
		{"alertname": "GpuHung", "cluster": "b", "node": "gpu-0"},
	}
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, body any) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(body); err != nil {
			t.Error(err)
		}
	}
	mux.HandleFunc("POST /api/v1/query", func(w http.ResponseWriter, r *http.Request) {
		now := float64(time.Now().Unix())
		result := []any{}
		for _, a := range alerts {
			if !strings.Contains(r.FormValue("query"), "ALERTS") {
				continue
			}
			metric := map[string]string{"alertstate": "firing"}
			for name, value := range a {
				metric[name] = value
			}
			result = append(result, map[string]any{"metric": metric, "value": []any{now, strconv.FormatFloat(now, 'f', -1, 64)}})
		}
		answer(w, map[string]any{"status": "success", "data": map[string]any{"resultType": "vector", "result": result}})
	})
	mux.HandleFunc("GET /api/v2/alerts", func(w http.ResponseWriter, _ *http.Request) {
		listed := []any{}
		for _, a := range alerts {
			listed = append(listed, map[string]any{
				"labels": a, "annotations": map[string]string{}, "fingerprint": prom.Fingerprint(a), "startsAt": begun, "endsAt": time.Now().Add(time.Hour),
				"status": map[string]any{"state": "active", "silencedBy": []string{}, "inhibitedBy": []string{}},
			})
		}
		answer(w, listed)
	})
	mux.HandleFunc("GET /api/v2/alerts/groups", func(w http.ResponseWriter, _ *http.Request) { answer(w, []any{}) })
	mux.HandleFunc("GET /api/v2/silences", func(w http.ResponseWriter, _ *http.Request) { answer(w, []any{}) })
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

// Where the servers know several clusters, nothing is done until aegis.yaml names this one.
func TestEqualNamesOfNodesInTwoClusters(t *testing.T) {
	t.Parallel()
	for named, want := range map[string]policy.VerdictName{
		"":                                    policy.VerdictAmbiguous,
		"cluster: a\n":                        policy.VerdictUnconfirmed, // The healthy node is not the sick one.
		"cluster: b\n":                        policy.VerdictExecute,
		"cluster: b\nclusterLabel: cluster\n": policy.VerdictExecute,
	} {
		t.Run(named, func(t *testing.T) {
			t.Parallel()
			url := global(t)
			file := write(t, "aegis.yaml", fmt.Sprintf("%sleaderElection: {enabled: false}\nprometheus: {url: %[2]q}\nalertmanagers: [{url: %[2]q}]\n", named, url))
			cfg, err := loadConfig(file)
			require.NoError(t, err)
			catalogue, err := loadCatalogue(rules.Options{}, procedures.Table())
			require.NoError(t, err)
			app, err := newApp(serveFlags{config: file}, cfg, catalogue, procedures.Table(), &rest.Config{Host: "http://127.0.0.1:1"}, slog.New(slog.DiscardHandler))
			require.NoError(t, err)
			app.nodes.index.Set(rules.NodeInfo{Name: "gpu-0"})
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- app.resync.Run(ctx) }()
			defer func() {
				cancel()
				require.NoError(t, <-ended)
			}()
			verdict := policy.Judge(app.resync.Observe(t.Context(), prom.Key{Node: "gpu-0", Condition: "GpuHung"}))
			require.Equal(t, want, verdict.Name, verdict.Reason)
		})
	}
}

func TestTheLabelOfTheClusterIsOneOfPromQL(t *testing.T) {
	t.Parallel()
	_, err := decodeConfig("aegis.yaml", []byte("cluster: a\nclusterLabel: k8s-cluster\n"))
	require.EqualError(t, err, `aegis.yaml:2:15: clusterLabel "k8s-cluster" is no name of a label: it must begin with a letter or _, and have letters, digits and _ only`)
}
