package testenv_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"aegis.io/aegis/e2e/aegis"
	"aegis.io/aegis/e2e/cluster"
	"aegis.io/aegis/e2e/internal/proc"
	"aegis.io/aegis/e2e/monitoring"
	"aegis.io/aegis/e2e/nodesim"
	"aegis.io/aegis/e2e/testenv"
	"aegis.io/aegis/ticket"
)

// inspected records what a site without alerts has: a series only while a fault lasts.
const inspected = `
groups:
- name: inspection
  rules:
  - record: aegis_node_status_condition
    expr: >-
      label_replace(label_replace(
      max by (Hostname, gpu) (DCGM_FI_DEV_GPU_UTIL == 100 and DCGM_FI_DEV_POWER_USAGE < 150),
      "node", "$1", "Hostname", "(.*)"), "condition", "GpuHung", "", "")
`

// inspection returns the sources of such a site. The last one never works.
func inspection() []aegis.Source {
	return []aegis.Source{
		{
			Name: "inspection", Query: "aegis_node_status_condition", Alive: `up{job="dcgm-exporter"}`,
			MaxAge: 5 * time.Second,
		},
		{Name: "load", Query: "node_load15", Condition: "CPUPressure", Above: new(100.0), Clear: new(50.0), For: 2 * time.Second},
		{Name: "broken", Query: "node_cpu_seconds_total * on (node) node_cpu_seconds_total", Condition: "CPUPressure"},
	}
}

// Nodes are inspected by PromQL alone: there is no alert on any of them.
func TestSourcesFindWhatNoAlertTells(t *testing.T) {
	t.Parallel()
	for _, permission := range []string{"alertmanager", "prometheus"} {
		t.Run(permission, func(t *testing.T) {
			t.Parallel()
			healBySources(t, permission)
		})
	}
}

func healBySources(t *testing.T, permission string) {
	t.Helper()
	l, err := testenv.Start(t.Context(), testenv.Options{
		BinDir: "../../bin", Dir: t.TempDir(), Compress: monitoring.FastRules(), BootTime: 2 * time.Second,
		Nodes:      []cluster.Node{{Name: "gpu-1", GPUs: 8, Pool: "train"}, {Name: "cpu-1", Pool: "web"}, {Name: "cpu-2", Pool: "web"}},
		Rules:      []string{"../../charts/aegis/rules/aegis.yaml"},
		ExtraRules: inspected,
		Config: func(c *aegis.Config) {
			c.Sources, c.Permission = inspection(), permission
			if permission == "prometheus" {
				c.Alertmanagers = nil
			}
			c.Overlay = "conditions: [{name: GpuHung, policy: {clearFor: 5s}}, {name: CPUPressure, policy: {clearFor: 3s}}]"
		},
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Stop()) })
	a := l.Aegis[0]
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(proc.Tail(a.LogFile))
		}
	})
	node := func(name string) *corev1.Node {
		n, err := l.Cluster.Client().CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
		require.NoError(t, err)
		return n
	}
	taken := func(name, condition, source string) {
		t.Helper()
		require.Eventually(t, func() bool {
			open := ticket.ReadNode(node(name)).Ticket
			return open != nil && open.Condition == condition && open.Source == source && node(name).Spec.Unschedulable
		}, healed, tick, "%s is isolated for %s of source %s", name, condition, source)
	}
	back := func(name string) {
		t.Helper()
		require.Eventually(t, func() bool {
			return !node(name).Spec.Unschedulable && node(name).Annotations[ticket.Annotation] == ""
		}, healed, tick, "%s is back in service", name)
	}
	require.NoError(t, l.Sim.Inject("gpu-1", nodesim.Injection{Fault: nodesim.GPUHung, GPU: 2, FixedBy: nodesim.FixedByReboot}))
	require.NoError(t, l.Sim.Inject("cpu-1", nodesim.Injection{Fault: nodesim.HighLoad}))
	taken("gpu-1", "GpuHung", "inspection")
	taken("cpu-1", "CPUPressure", "load")
	require.NoError(t, l.Sim.Clear("cpu-1", nodesim.HighLoad))
	back("cpu-1")
	back("gpu-1")
	state, err := l.Sim.State("gpu-1")
	require.NoError(t, err)
	require.Equal(t, 2, state.Boots)
	require.False(t, node("cpu-2").Spec.Unschedulable)
	require.Empty(t, node("cpu-2").Annotations[ticket.HistoryAnnotation])

	firing, err := l.Monitoring.Firing(t.Context())
	require.NoError(t, err)
	for _, alert := range firing {
		require.Empty(t, alert.Labels["condition"], "no alert told of it: %+v", alert)
	}
	for source, up := range map[string]float64{"inspection": 1, "load": 1, "broken": 0} {
		value, err := a.Value(t.Context(), "aegis_source_up", map[string]string{"source": source})
		require.NoError(t, err)
		require.InDelta(t, up, value, 0, source)
	}
}
