// Package permission holds what Aegis does without an Alertmanager, and with one that dies.
package permission

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"aegis.io/aegis/e2e/aegis"
	"aegis.io/aegis/e2e/build"
	"aegis.io/aegis/e2e/cluster"
	"aegis.io/aegis/e2e/internal/proc"
	"aegis.io/aegis/e2e/monitoring"
	"aegis.io/aegis/e2e/nodesim"
	"aegis.io/aegis/e2e/testenv"
	"aegis.io/aegis/ticket"
)

// within is how long a repair may take on a busy machine.
const within = 3 * time.Minute

// fast shortens the times of the catalogue, and gives an overloaded node a repair.
const fast = `
defaults:
  cooldown: 1s
  clearFor: 3s
  verifyWithin: 60s
  drainDeadline: 30s
  healthcheckDeadline: 60s
  rebootDeadline: 60s
  remedyDeadline: 30s
conditions:
- name: HighLoad
  priority: 60
  sop: process/stuck
  policy: {workload: drain, maxReboots: 1, clearFor: 3s}
`

// onlyGPUs are the rules of the chart that raise alerts here: what sources find must not be found by an alert too.
func onlyGPUs() []string {
	return []string{"../../charts/aegis/rules/aegis.yaml", "../../charts/aegis/rules/gpu.yaml"}
}

// inspection records the conditions of nodes as an inspection of the site does, 0 for what is in order.
const inspection = `groups:
- name: inspection
  rules:
  - record: aegis_node_status_condition
    expr: >-
      max by (node) (sichek_nvidia_nvidiafabricmanagernotactive{node=~"inspected-.*"})
      or on (node) 0 * max by (node) (node_load15{node=~"inspected-.*"})
    labels: {condition: NvidiaFabricManagerNotActive, type: gpu}
`

// site is a running environment.
type site struct {
	*testenv.Environment
	t *testing.T
}

// start starts an environment with nodes of these names.
func start(t *testing.T, o testenv.Options, names ...string) *site {
	t.Helper()
	bin, err := build.Run(t.Context(), build.Options{})
	require.NoError(t, err)
	o.BinDir, o.Dir, o.Compress, o.Rules, o.BootTime = bin, t.TempDir(), monitoring.FastRules(), onlyGPUs(), 2*time.Second
	o.Log = slog.New(slog.DiscardHandler)
	for _, name := range names {
		o.Nodes = append(o.Nodes, cluster.Node{Name: name, GPUs: 8, Pool: "train"})
	}
	l, err := testenv.Start(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(proc.Tail(l.Aegis[0].LogFile))
		}
		require.NoError(t, l.Stop())
	})
	return &site{l, t}
}

// roomy lets all nodes be out of service at once, so that no case waits for another.
func roomy(c *aegis.Config) {
	all, slots := 100, 8
	c.Overlay = fast
	c.Pools = []aegis.Pool{{Name: "train", MaxOutOfServicePercent: &all, StormPercent: &all, MaxDestructive: &slots}}
}

func (s *site) record(node string) ticket.Record {
	s.t.Helper()
	object, err := s.Cluster.Client().CoreV1().Nodes().Get(s.t.Context(), node, metav1.GetOptions{})
	require.NoError(s.t, err)
	return ticket.ReadNode(object)
}

func (s *site) inject(node, fault string, by nodesim.FixedBy) {
	s.t.Helper()
	require.NoError(s.t, s.Sim.Inject(node, nodesim.Injection{Fault: fault, GPU: 2, FixedBy: by}))
}

func (s *site) eventually(node, what string, holds func(ticket.Record) bool) {
	s.t.Helper()
	for end := time.Now().Add(within); !holds(s.record(node)); time.Sleep(200 * time.Millisecond) {
		r := s.record(node)
		require.True(s.t, time.Now().Before(end), "%s: waited %s for %q, the ticket is:\n%s\nhistory:\n%s\n%s", node, within, what,
			r.Node.Annotations[ticket.Annotation], r.Node.Annotations[ticket.HistoryAnnotation], s.explain(node))
	}
}

// resolved waits until an incident of the condition is closed as healed, and the node is back.
func (s *site) resolved(node, condition string) ticket.Incident {
	s.t.Helper()
	var found ticket.Incident
	s.eventually(node, "resolved", func(r ticket.Record) bool {
		for _, i := range r.History.Incidents {
			if i.Condition == condition && i.Outcome == ticket.Resolved {
				found = i
			}
		}
		return found.ID != "" && r.Ticket == nil && !r.Node.Spec.Unschedulable
	})
	return found
}

// boots returns how often the node was rebooted by an operation of Aegis.
func (s *site) boots(node string) (n int) {
	s.t.Helper()
	state, err := s.Sim.State(node)
	require.NoError(s.t, err)
	for _, op := range state.Ops {
		if op.Action == "reboot" {
			n++
		}
	}
	return n
}

// ask sends a request to Aegis and returns the answer.
func (s *site) ask(method, path string, body any) (code int, answer string) {
	s.t.Helper()
	text, err := json.Marshal(body)
	require.NoError(s.t, err)
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, s.Aegis[0].URL+path, bytes.NewReader(text))
	require.NoError(s.t, err)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(s.t, err)
	raw, err := io.ReadAll(resp.Body)
	require.NoError(s.t, err)
	require.NoError(s.t, resp.Body.Close())
	return resp.StatusCode, string(raw)
}

func (s *site) explain(node string) string {
	_, answer := s.ask(http.MethodGet, "/api/v1/nodes/"+node+"/explain", nil)
	return answer
}

// untouched makes sure that nothing is done to the node for a while.
func (s *site) untouched(node string, while time.Duration) {
	s.t.Helper()
	for end := time.Now().Add(while); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		r := s.record(node)
		require.False(s.t, r.Node.Spec.Unschedulable, s.explain(node))
		require.Nil(s.t, r.Ticket)
	}
}

// onlyIsolated makes sure that for a while nothing is done to the node but that it is isolated.
func (s *site) onlyIsolated(node string, while time.Duration) {
	s.t.Helper()
	for end := time.Now().Add(while); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		r := s.record(node)
		require.True(s.t, r.Node.Spec.Unschedulable, s.explain(node))
		require.NotNil(s.t, r.Ticket)
		require.Zero(s.t, r.Ticket.Count(ticket.Drain), s.explain(node))
	}
}

// A cluster in which Alertmanager was never started heals what fires at Prometheus and what sources find. A silence of Aegis' own
// holds a repair until it is deleted, or ends.
func TestPrometheusAlone(t *testing.T) {
	t.Parallel()
	s := start(t, testenv.Options{
		Alertmanagers: -1, ExtraRules: inspection,
		Config: func(c *aegis.Config) {
			roomy(c)
			c.Permission = "prometheus"
			c.Sources = []aegis.Source{
				{
					Name: "overload", Query: `node_load15{node!=""} / on (node) group_left () count by (node) (node_cpu_seconds_total{mode="idle"})`,
					Condition: "HighLoad", Above: new(10.0), Clear: new(5.0), For: 2 * time.Second,
				},
				{Name: "inspection", Query: "aegis_node_status_condition"},
			}
		},
	}, "hung-1", "overloaded-1", "inspected-1", "quiet-1", "quiet-2", "spare-1")
	require.Empty(t, s.Monitoring.AlertmanagerURLs)

	silence := func(node, duration string) string {
		t.Helper()
		code, answer := s.ask(http.MethodPost, "/api/v1/silences", map[string]any{
			"matchers": []any{`node="` + node + `"`, map[string]any{"name": "condition", "value": "Gpu.*", "isRegex": true}},
			"duration": duration, "comment": "riser swap",
		})
		require.Equal(t, http.StatusOK, code, answer)
		var made struct{ ID string }
		require.NoError(t, json.Unmarshal([]byte(answer), &made))
		return made.ID
	}
	deleted := silence("quiet-1", "1h")
	silence("quiet-2", "1m")
	silenced := time.Now()
	s.inject("hung-1", nodesim.GPUHung, nodesim.FixedByReboot)
	s.inject("overloaded-1", nodesim.HighLoad, nodesim.FixedByReboot)
	s.inject("inspected-1", nodesim.FabricManagerDown, nodesim.FixedByRestart)
	s.inject("quiet-1", nodesim.GPUHung, nodesim.FixedByReboot)
	s.inject("quiet-2", nodesim.GPUHung, nodesim.FixedByReboot)

	hung := s.resolved("hung-1", "GpuHung")
	require.Len(t, hung.Destructive, 1)
	require.Equal(t, 1, s.boots("hung-1"))
	s.resolved("overloaded-1", "HighLoad")
	require.Equal(t, 1, s.boots("overloaded-1"))
	s.resolved("inspected-1", "NvidiaFabricManagerNotActive")
	require.Zero(t, s.boots("spare-1"))

	if time.Since(silenced) < 50*time.Second {
		require.Contains(t, s.explain("quiet-2"), "GpuHung", "it is known")
		require.Contains(t, s.explain("quiet-2"), "silenced")
	}
	s.resolved("quiet-2", "GpuHung")
	require.Greater(t, time.Since(silenced), time.Minute, "the silence has ended by itself")
	s.untouched("quiet-1", 5*time.Second)
	require.Contains(t, s.explain("quiet-1"), "silence "+deleted+" of Aegis by loopback until ")
	code, answer := s.ask(http.MethodDelete, "/api/v1/silences/"+deleted, nil)
	require.Equal(t, http.StatusOK, code, answer)
	s.resolved("quiet-1", "GpuHung")

	away, err := s.Aegis[0].Value(t.Context(), "aegis_alertmanager_away_seconds", nil)
	require.NoError(t, err)
	require.Zero(t, away)
}

// An Alertmanager that dies in the middle of a fault stops what has begun before it disturbs workload. What comes while it is away is
// left alone, or isolated and nothing more, as it is configured. All of it is healed once Alertmanager is back.
func TestAlertmanagerDies(t *testing.T) {
	t.Parallel()
	var config aegis.Config
	s := start(t, testenv.Options{Config: func(c *aegis.Config) {
		roomy(c)
		c.AwayAfter = time.Minute
		config = *c
	}}, "begun-1", "held-1", "isolated-1", "spare-1")
	a := s.Aegis[0]

	s.inject("begun-1", nodesim.GPUHung, nodesim.FixedByReboot)
	s.eventually("begun-1", "isolated", func(r ticket.Record) bool { return r.Node.Spec.Unschedulable })
	require.NoError(t, s.Monitoring.KillAlertmanager(0))
	drained := s.record("begun-1").Ticket.Count(ticket.Drain) > 0
	s.inject("held-1", nodesim.GPUHung, nodesim.FixedByReboot)
	s.untouched("held-1", 75*time.Second)
	if !drained {
		s.onlyIsolated("begun-1", time.Second)
		require.Contains(t, s.explain("begun-1"), "unverifiable: Alertmanager gives no reliable answer")
	}
	away, err := a.Value(t.Context(), "aegis_alertmanager_away_seconds", nil)
	require.NoError(t, err)
	require.Greater(t, away, 70.0)

	config.WhenAway = "isolate"
	require.NoError(t, a.Configure(config))
	require.NoError(t, a.Restart(t.Context()))
	s.untouched("held-1", 75*time.Second) // After a restart nobody knows what Alertmanager suppressed.
	require.NoError(t, s.Monitoring.StartAlertmanager(t.Context(), 0))
	for _, node := range []string{"begun-1", "held-1"} {
		s.resolved(node, "GpuHung")
	}
	require.NoError(t, s.Monitoring.KillAlertmanager(0))
	killed := time.Now()
	s.inject("isolated-1", nodesim.GPUHung, nodesim.FixedByReboot)
	s.eventually("isolated-1", "isolated", func(r ticket.Record) bool { return r.Node.Spec.Unschedulable })
	require.Greater(t, time.Since(killed), 55*time.Second, "a short absence is none")
	s.onlyIsolated("isolated-1", 10*time.Second)
	require.Contains(t, s.explain("isolated-1"), "the node may be isolated and nothing more until Alertmanager answers")

	require.NoError(t, s.Monitoring.StartAlertmanager(t.Context(), 0))
	for _, node := range []string{"begun-1", "held-1", "isolated-1"} {
		s.resolved(node, "GpuHung")
		require.Equal(t, 1, s.boots(node))
	}
	require.Zero(t, s.boots("spare-1"))
}
