package charttest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/stretchr/testify/require"
)

// A scrape that does not honor the labels of its exporter moves them to exported_*, and puts those of its target in their place: the node on
// which kube-state-metrics runs, or a Prometheus that is federated, would be healed for the faults of all others. So what reads such a label
// takes no series that has had another one.
func TestRulesReadTheLabelsOfTheExporter(t *testing.T) {
	t.Parallel()
	read := selectors(t)
	for _, r := range one[prometheusRule](t, rendered(t, "heal", fmt.Sprintf(inventory, ruleFiles(t))), "PrometheusRule").Spec.Groups[0].Rules {
		read[r.Record] = append(read[r.Record], r.selectors(t)...)
	}
	asked := make(map[string]bool)
	delete(read, "AegisLabelsNotHonored")
	for name, all := range read {
		for _, s := range all {
			for _, label := range s.ofExporter(t) {
				asked[s.metric()+" "+label] = true
				require.True(t, s.requires("exported_"+label, ""), "%s: %v has no exported_%s=\"\", so %s may be that of the target", name, s, label, label)
			}
		}
	}
	for _, want := range []string{"kube_node_info node", "kube_pod_info node", "kube_pod_info pod", "node_boot_time_seconds node"} {
		require.True(t, asked[want], want)
	}
}

// ofExporter returns the labels that must be those of the exporter. Exporters that may name the node themselves run on it: that their target
// is called the same is no reason to lose them.
func (s selector) ofExporter(t *testing.T) []string {
	t.Helper()
	name := s.metric()
	if name == "up" || strings.HasPrefix(name, "aegis:") {
		return nil
	}
	var of []string
	if strings.HasPrefix(name, "kube_pod_") {
		of = append(of, "pod")
	}
	if strings.HasPrefix(name, "kube_node_") || len(s.of("node")) > 0 {
		if exporter := exporterOf(t, name); exporter != "sichek" && exporter != "site" {
			of = append(of, "node")
		}
	}
	return of
}

// metric returns the metric that is read, which a rule always names.
func (s selector) metric() string {
	if name := s.of(model.MetricNameLabel); len(name) == 1 {
		return name[0].Value
	}
	return ""
}

// requires reports whether only series are read whose label has the value.
func (s selector) requires(label, value string) bool {
	for _, m := range s.of(label) {
		if m.Type == labels.MatchEqual && m.Value == value {
			return true
		}
	}
	return false
}
