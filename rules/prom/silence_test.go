package prom

import (
	"testing"

	"github.com/prometheus/alertmanager/pkg/labels"
	"github.com/stretchr/testify/require"
)

func TestUnseenMatches(t *testing.T) {
	t.Parallel()
	for matchers, want := range map[string]bool{
		`{node="n1"}`:              true,
		`{node="n2"}`:              false,
		`{condition="GpuHung"}`:    true,
		`{alertname="GpuHung"}`:    true,
		`{alertname="SiteGpu"}`:    false,
		`{node=~"n.*"}`:            true,
		`{node!="n2"}`:             true,
		`{severity="critical"}`:    false,
		`{gpu="3",node="n1"}`:      true,
		`{gpu="3",node="n2"}`:      false,
		`{Hostname="n1",gpu!="3"}`: false,
		// As a user interface makes them, with all labels of the alert.
		`{alertname="GpuHung",condition="GpuHung",gpu="3",UUID="GPU-1",node="n1",severity="critical",prometheus="monitoring/k8s"}`: true,
		`{alertname="SiteGpu",condition="GpuHung",gpu="3",node="n1",severity="critical"}`:                                          true,
		`{alertname="GpuHung",condition="GpuHung",gpu="3",node="n2",severity="critical"}`:                                          false,
		`{alertname="DiskFull",instance="n1:9100",node="n1",mountpoint="/data"}`:                                                   false,
	} {
		parsed, err := labels.ParseMatchers(matchers)
		require.NoError(t, err)
		require.Equal(t, want, Unseen{Node: "n1", Condition: "GpuHung"}.Matches(parsed), matchers)
	}
}
