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
	"k8s.io/utils/clock"

	"aegis.io/aegis/handler"
	"aegis.io/aegis/rules"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/soptest"
)

// How a webhook reaches a process: the handler, the classifier and the catalogue are those of the product, and the conditions are written
// as a site writes them.

// simRenamed is what a later version of the rules calls simReboot.
const simRenamed = "NodeHung"

// simVersions are the conditions of the simulation as they are, with one renamed, and without it.
type simVersions struct{ asIs, renamed, removed *rules.Catalogue }

// simRules are the versions by whether cordoned nodes are only observed. They are read once: a catalogue is never changed.
var simRules = sync.OnceValue(func() map[bool]simVersions {
	versions := make(map[bool]simVersions)
	for observes, more := range map[bool][]string{false: nil, true: {"observed"}} {
		versions[observes] = simVersions{
			asIs: loadRules(append([]string{"reboot"}, more...)), renamed: loadRules(append([]string{"renamed"}, more...)), removed: loadRules(more),
		}
	}
	return versions
})

func loadRules(names []string) *rules.Catalogue {
	o := rules.Options{Files: []string{"testdata/simulation/conditions.yaml"}}
	for _, name := range names {
		o.Files = append(o.Files, "testdata/simulation/"+name+".yaml")
	}
	catalogue, err := rules.Load(o)
	if err != nil {
		panic(err)
	}
	return catalogue
}

// rules returns the versions of the rules that the cluster has.
func (c *cluster) rules() simVersions { return simRules()[c.observes] }

// simName is what the oracle calls the condition.
func simName(condition string) string {
	if condition == simRenamed {
		return simReboot
	}
	return condition
}

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

func newIntake(catalogue *rules.Catalogue, its clock.PassiveClock) simIntake {
	in := simIntake{store: rules.NewStore(catalogue), index: rules.NewNodeIndex()}
	in.classifier = rules.NewClassifier(rules.ClassifierOptions{Store: in.store, Nodes: in.index, Clock: its})
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
	for observes, versions := range simRules() {
		oracle := simCatalogue{observes}
		for _, condition := range simConditions() {
			requireSameStatus(t, oracle, condition, versions.asIs.Status("n0", condition, "0"))
		}
		requireSameStatus(t, oracle, simReboot, versions.renamed.Status("n0", simReboot, "0"))
		require.Empty(t, versions.removed.Status("n0", simReboot, "0").SOP)
	}
}

func requireSameStatus(t *testing.T, oracle simCatalogue, condition string, is prom.AegisNodeStatus) {
	t.Helper()
	was := oracle.Status("n0", condition, "0", 0)
	was.FirstSeen, was.LastSeen, is.FirstSeen, is.LastSeen = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	was.Origin, was.AffectsLoad = is.Origin, is.AffectsLoad
	if was.DeviceMode == prom.DeviceNone {
		was.ID = ""
	}
	is.Condition = simName(is.Condition)
	require.Equal(t, was, is)
}
