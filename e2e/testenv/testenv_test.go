package testenv_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"aegis.io/aegis/e2e/aegis"
	"aegis.io/aegis/e2e/build"
	"aegis.io/aegis/e2e/cluster"
	"aegis.io/aegis/e2e/internal/proc"
	"aegis.io/aegis/e2e/monitoring"
	"aegis.io/aegis/e2e/nodesim"
	"aegis.io/aegis/e2e/testenv"
)

const (
	tick   = 200 * time.Millisecond
	healed = 4 * time.Minute
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if _, err := build.Run(context.Background(), build.Options{Out: os.Stderr}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func TestHungGPUIsHealedFromAlertToUncordon(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l, err := testenv.Start(t.Context(), testenv.Options{
		BinDir: "../../bin", Dir: dir, Compress: monitoring.FastRules(), BootTime: 2 * time.Second,
		Nodes: []cluster.Node{{Name: "gpu-1", GPUs: 8, Pool: "train"}, {Name: "gpu-2", GPUs: 8, Pool: "train"}},
		Config: func(c *aegis.Config) {
			c.Overlay = "conditions: [{name: GpuHung, policy: {clearFor: 5s}}]"
		},
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Stop()) })
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(proc.Tail(filepath.Join(dir, "aegis-0", "aegis.log")))
		}
	})
	require.NoError(t, l.Sim.Inject("gpu-1", nodesim.Injection{Fault: nodesim.GPUHung, GPU: 2, FixedBy: nodesim.FixedByReboot}))
	node := func() *corev1.Node {
		n, err := l.Cluster.Client().CoreV1().Nodes().Get(t.Context(), "gpu-1", metav1.GetOptions{})
		require.NoError(t, err)
		return n
	}
	require.Eventually(t, func() bool { return node().Spec.Unschedulable }, healed, tick, "the node is cordoned")
	require.Eventually(t, func() bool {
		s, err := l.Sim.State("gpu-1")
		return err == nil && s.Boots == 2
	}, healed, tick, "the node is rebooted")
	require.Eventually(t, func() bool {
		n := node()
		return !n.Spec.Unschedulable && n.Annotations["aegis.io/ticketing"] == ""
	}, healed, tick, "the node is back in service")
	s, err := l.Sim.State("gpu-2")
	require.NoError(t, err)
	require.Equal(t, 1, s.Boots, "nothing happens to the other node")
	require.Empty(t, s.Ops)
	closed, err := l.Aegis[0].Value(t.Context(), "aegis_sop_total", nil)
	require.NoError(t, err)
	require.Positive(t, closed)

	// A crash is survived on the same addresses.
	require.NoError(t, l.Aegis[0].Kill9())
	require.False(t, l.Aegis[0].Running())
	require.NoError(t, l.Aegis[0].Start(t.Context()))
	require.NoError(t, l.Aegis[0].Reload(t.Context()))
}
