package cases

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/coverage"
	"aegis.io/aegis/e2e/nodesim"
)

// coverageConfig has one condition that dcgm-exporter alone shows, and an exporter counts as gone as soon as rules and scrapes of the
// environment tell.
const coverageConfig = "prometheus: {url: %q, maxAge: 10s}\nconditions: [conditions.yaml]\n"

// askCoverage runs the command against the Prometheus and the API server of the environment.
func askCoverage(t *testing.T) (code int, r coverage.Report) {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "aegis.yaml")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, coverageConfig, shared.Monitoring.PrometheusURL), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "conditions.yaml"), []byte("conditions: [{name: GpuCheckFailed, policy: {mode: auto}}]\n"), 0o600))
	command := exec.CommandContext(t.Context(), filepath.Join(shared.Bin, "aegis"), "coverage",
		"-config", config, "-kubeconfig", shared.Cluster.KubeconfigAegis, "-output", "json")
	var stderr strings.Builder
	command.Stderr = &stderr
	out, err := command.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else {
		require.NoError(t, err)
	}
	require.NotEmpty(t, out, stderr.String())
	require.NoError(t, json.Unmarshal(out, &r))
	return code, r
}

// blindOn returns why the condition is blind on the node.
func blindOn(r coverage.Report, condition, node string) []coverage.Why {
	for _, c := range r.Conditions {
		for _, b := range c.Blind {
			if c.Name == condition && slices.Contains(b.Nodes, node) {
				return b.Why
			}
		}
	}
	return nil
}

// The command finds the one node whose exporter is gone, against the real Prometheus with the rules of the chart, and the API server.
func TestCoverageFindsTheNodeWhoseExporterIsGone(t *testing.T) {
	t.Parallel()
	n, other := nodeOf(t, poolCoverage, 0), nodeOf(t, poolCoverage, 1)
	var r coverage.Report
	conditions := []string{"GpuCheckFailed", "HighGpuTemp", "NodeNotReady", "NodeHasRestarted", "DiskPressure"}
	require.Eventually(t, func() bool {
		_, r = askCoverage(t)
		return !slices.ContainsFunc(conditions, func(c string) bool { return len(blindOn(r, c, n.name)) > 0 })
	}, within, time.Second, "%v", conditions)
	require.Equal(t, "the API server", r.NodesFrom)

	n.injectFixedBy(nodesim.DCGMExporterDown, nodesim.FixedByNever)
	var why []coverage.Why
	code := 0
	require.Eventually(t, func() bool {
		code, r = askCoverage(t)
		why = blindOn(r, "GpuCheckFailed", n.name)
		return len(why) > 0
	}, within, time.Second)
	require.Equal(t, 1, code, "a condition in mode auto is blind")
	require.Equal(t, "gpu/dcgm-exporter", why[0].Source)
	require.Contains(t, why[0].Reason, "last sample from this node ")
	require.NotEmpty(t, why[0].Set)
	require.Empty(t, blindOn(r, "GpuCheckFailed", other.name), "its neighbour is seen")
	require.Empty(t, blindOn(r, "NodeHasRestarted", n.name), "other exporters of the node go on")

	n.clear()
	require.Eventually(t, func() bool {
		_, r = askCoverage(t)
		return len(blindOn(r, "GpuCheckFailed", n.name)) == 0
	}, within, time.Second)
}
