package sop_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"aegis.io/aegis/handler"
	"aegis.io/aegis/rules"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/soptest"
)

// How a webhook reaches a process: the handler, the classifier and the catalogue are those of the product, and the conditions are written
// as a site writes them.

// simRules are the conditions of the simulation. They are read once: a catalogue is never changed.
var simRules = sync.OnceValue(func() *rules.Catalogue {
	catalogue, err := rules.Load(rules.Options{Files: []string{"testdata/simulation.yaml"}})
	if err != nil {
		panic(err)
	}
	return catalogue
})

// simConditions are all conditions of the simulation.
func simConditions() []string {
	return []string{
		simReady, simCordon, simReboot, simReset, simRemedy, simIsolate, simRelieve, simNote, simDevices, simUrgent, simPatient,
	}
}

// simIntake is what turns alerts into conditions.
type simIntake struct {
	store      *rules.Store
	index      *rules.NodeIndex
	classifier *rules.Classifier
	handler    http.Handler
}

func newIntake() simIntake {
	in := simIntake{store: rules.NewStore(simRules()), index: rules.NewNodeIndex()}
	in.classifier = rules.NewClassifier(rules.ClassifierOptions{Store: in.store, Nodes: in.index})
	return in
}

// wireIntake puts the handler in front of the process.
func (p *simProcess) wireIntake() error {
	auth, err := handler.NewAuth(handler.AuthOptions{AllowLoopback: true})
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	api, err := handler.New(handler.Options{
		Sink: p.queue, Classifier: p.intake.classifier, Commander: p.dispatcher, Nodes: p.cache, Conditions: p.queue, Verdicts: p.verdicts,
		Catalogue: p.intake.store, Settings: p.configured, Auth: auth, Registerer: registry, Gatherer: registry,
		Ready:  func() (bool, string) { return p.leads() && p.resync.Synced(), "it does not lead" },
		Reload: func() error { return nil }, Resync: func() {},
	})
	if err != nil {
		return err
	}
	p.intake.handler = api.Routes()
	return nil
}

// webhook posts an alert as Alertmanager does, and reports whether it was taken.
func (p *simProcess) webhook(key prom.Key, startsAt time.Time, firing bool) (taken bool) {
	alert := map[string]any{
		"status": "firing", "labels": soptest.Labels(key), "annotations": map[string]string{}, "startsAt": startsAt, "endsAt": time.Time{},
		"generatorURL": "", "fingerprint": soptest.Fingerprint(key),
	}
	if !firing {
		alert["status"], alert["endsAt"] = "resolved", time.Now()
	}
	body, err := json.Marshal(map[string]any{"version": "4", "groupKey": "{}", "truncatedAlerts": 0, "alerts": []any{alert}})
	if err != nil {
		panic(err)
	}
	request := httptest.NewRequest(http.MethodPost, "/api/v1/alerts", bytes.NewReader(body))
	request.RemoteAddr = "127.0.0.1:40000"
	request.Header.Set("Content-Type", "application/json")
	answer := httptest.NewRecorder()
	p.intake.handler.ServeHTTP(answer, request)
	if answer.Code != http.StatusOK {
		return false
	}
	var result struct{ Taken int }
	if err := json.Unmarshal(answer.Body.Bytes(), &result); err != nil {
		panic(err)
	}
	return result.Taken == 1
}

// The oracle says in its own words what the rules of the simulation say.
func TestRulesOfTheSimulation(t *testing.T) {
	t.Parallel()
	for _, condition := range simConditions() {
		was, is := simCatalogue{}.Status("n0", condition, "0", 0), simRules().Status("n0", condition, "0")
		was.FirstSeen, was.LastSeen, is.FirstSeen, is.LastSeen = time.Time{}, time.Time{}, time.Time{}, time.Time{}
		was.Origin, was.AffectsLoad = is.Origin, is.AffectsLoad
		if was.DeviceMode == prom.DeviceNone {
			was.ID = ""
		}
		require.Equal(t, was, is)
	}
}
