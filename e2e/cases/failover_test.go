package cases

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/e2e/aegis"
	"aegis.io/aegis/e2e/cluster"
	"aegis.io/aegis/e2e/monitoring"
	"aegis.io/aegis/e2e/nodesim"
	"aegis.io/aegis/e2e/testenv"
	"aegis.io/aegis/ticket"
)

// Of two replicas one leads. When it is killed in the middle of a drain, the other one takes the Lease, asks the sources, and
// goes on with the open ticket, although no notification was ever sent to it. A leader that is stopped gives the Lease up.
func TestLeaderFailover(t *testing.T) {
	l, err := testenv.Start(t.Context(), testenv.Options{
		BinDir: shared.Bin, Dir: t.TempDir(), Replicas: 2, Compress: monitoring.FastRules(), BootTime: 2 * time.Second,
		Nodes: []cluster.Node{{Name: "ha-0", GPUs: gpusPerNode}, {Name: "ha-1", GPUs: gpusPerNode}},
		Config: func(c *aegis.Config) {
			c.Overlay = fastPolicies
			c.Pools = []aegis.Pool{{Name: "all", MaxOutOfServicePercent: new(100), MaxDestructive: new(2)}}
		},
	})
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Stop()) }()
	leads := func(i int) bool {
		value, err := l.Aegis[i].Value(t.Context(), "aegis_leader", nil)
		return err == nil && value == 1
	}
	require.True(t, leads(0))
	require.Eventually(t, func() bool { return l.Aegis[1].Running() && !leads(1) }, within, tick)
	require.Eventually(t, func() bool { return statusOf(t, l.Aegis[1].Webhook()) == http.StatusServiceUnavailable }, within, tick,
		"Alertmanager comes again after a 503, and after nothing else")

	first := node{t: t, env: l, name: "ha-0"}
	boots := first.state().Boots
	stuck := first.pod("stuck", map[string]string{stuckLabel: "true"})
	first.injectFixedBy(nodesim.GPUHung, nodesim.FixedByReboot)
	first.running(ticket.Drain)
	require.NoError(t, l.Aegis[0].Kill9())
	require.Eventually(t, func() bool { return leads(1) }, within, tick)
	release(t, l, stuck)
	first.resolved("GpuHung")
	require.Len(t, first.jobsOf("reboot"), 1)
	require.Len(t, first.jobsOf("diagnose"), 1)
	require.Equal(t, boots+1, first.state().Boots)

	// Stopped, the leader hands over at once: the Lease need not run out.
	require.NoError(t, l.Aegis[0].Launch())
	require.Eventually(t, l.Aegis[0].Running, within, tick)
	stopped := time.Now()
	require.NoError(t, l.Aegis[1].Stop())
	require.Eventually(t, func() bool { return leads(0) }, within, tick)
	t.Logf("a stopped leader was succeeded after %s", time.Since(stopped).Round(100*time.Millisecond))

	second := node{t: t, env: l, name: "ha-1"}
	second.injectFixedBy(nodesim.GPUHung, nodesim.FixedByReboot)
	second.resolved("GpuHung")
	require.Len(t, second.jobsOf("reboot"), 1)
}

// statusOf posts a notification without alerts and returns the status of the answer, 0 if there was none.
func statusOf(t *testing.T, webhook string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, webhook, strings.NewReader(`{"version":"4","alerts":[]}`))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	require.NoError(t, resp.Body.Close())
	return resp.StatusCode
}
