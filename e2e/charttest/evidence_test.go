package charttest

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/stretchr/testify/require"

	"aegis.io/aegis/rules"
)

// evidence is the series that says when an exporter had a sample of a node last.
const evidence = "aegis:evidence"

// exporterOf returns the exporter that a metric comes from. Inventory is not scraped, so it has none.
func exporterOf(t *testing.T, metric string) string {
	t.Helper()
	for prefix, exporter := range map[string]string{
		"DCGM_": "dcgm-exporter", "kube_": "kube-state-metrics", "node_": "node_exporter", "sichek_": "sichek", "accelerator_": "gpud",
		"problem_": "node-problem-detector", "ipmi_": "ipmi_exporter", "smartctl_": "smartctl_exporter", "gpfs_": "gpfs_exporter",
		"kubelet_": "kubelet", "container_": "kubelet", "probe_": "blackbox_exporter", "aegis_site_condition": "site",
		"aegis_net_tx_timeouts_total": "site", "os_fd_zombie_processes": "site",
		// Recorded from what kube-state-metrics tells of the labels of nodes.
		"aegis:roce_label_missing": "kube-state-metrics",
	} {
		if strings.HasPrefix(metric, prefix) {
			return exporter
		}
	}
	require.Contains(t, []string{"aegis:expected_devices", "aegis:roce_device", "up"}, metric, "of which exporter is this metric?")
	return ""
}

// guards are exporters that an alert reads only to tell when what another one says does not count.
func guards() map[string][]string {
	return map[string][]string{
		"GpfsIBNotConfig": {"node_exporter"}, "GpuRegisterFailed": {"dcgm-exporter"}, "KernelPanic": {"node_exporter"}, "KubeletMemoryPressure": {"kube-state-metrics"},
	}
}

// heartbeats are what shows that an exporter answers whose series are there only while something is wrong, or count what went wrong.
func heartbeats() map[string][]string {
	return map[string][]string{
		"sichek":  {"sichek_nvidia_device_count", "sichek_infiniband_phy_state", "sichek_infiniband_counter", "up"},
		"kubelet": {"up"},
	}
}

// metricsOf returns the names of the metrics that an expression reads. A series that the group records stands for what it reads.
func metricsOf(t *testing.T, expr string, recorded map[string][]string) []string {
	t.Helper()
	parsed, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
	require.NoError(t, err)
	var names []string
	for _, s := range parser.ExtractSelectors(parsed) {
		i := slices.IndexFunc(s, func(m *labels.Matcher) bool { return m.Name == model.MetricNameLabel })
		require.NotEqual(t, -1, i, "a selector without a name in %s", expr)
		if inner, ok := recorded[s[i].Value]; ok {
			names = append(names, inner...)
			continue
		}
		names = append(names, s[i].Value)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// groupOf is a group of rules with what its alerts read, and what it records as evidence.
type groupOf struct {
	name     string
	alerts   map[string][]string // By condition, the metrics.
	evidence map[string][]string // By source, the metrics.
}

func readGroup(t *testing.T, g group) groupOf {
	t.Helper()
	read := groupOf{name: strings.TrimPrefix(g.Name, "aegis-"), alerts: make(map[string][]string), evidence: make(map[string][]string)}
	recorded := make(map[string][]string)
	for _, r := range g.Rules {
		if r.Record != "" && r.Record != evidence {
			recorded[r.Record] = metricsOf(t, r.Expr, nil)
		}
	}
	for _, r := range g.Rules {
		switch metrics := metricsOf(t, r.Expr, recorded); {
		case r.Record == evidence && r.Labels["source"] == "":
			// Each condition that the site reports has a source of its own.
			read.evidence[read.name+"/site"] = metrics
		case r.Record == evidence:
			require.NotContains(t, read.evidence, r.Labels["source"])
			read.evidence[r.Labels["source"]] = metrics
		case r.Labels["condition"] != "":
			read.alerts[r.Labels["condition"]] = metrics
		}
	}
	return read
}

// wanted returns the evidence that an alert of the group needs: that of each exporter that it reads.
func (g groupOf) wanted(t *testing.T, condition string) []string {
	t.Helper()
	var wanted []string
	for _, metric := range g.alerts[condition] {
		exporter := exporterOf(t, metric)
		if exporter == "" || slices.Contains(guards()[condition], exporter) {
			continue
		}
		source := g.name + "/" + exporter
		if g.name == "roce" && exporter == "site" {
			source += "/" + condition
		}
		wanted = append(wanted, source)
	}
	slices.Sort(wanted)
	return slices.Compact(wanted)
}

// An alert that is not there proves that its fault is gone only while its exporters see the node. Each group records that for each exporter
// that its alerts read, from metrics that they read, and each condition of the catalogue names those of its alert.
func TestEveryAlertHasEvidence(t *testing.T) {
	t.Parallel()
	catalogue, err := rules.Load(rules.Options{})
	require.NoError(t, err)
	proven := make(map[string]bool)
	for _, file := range files(t, "rules") {
		for _, raw := range readRules(t, file).Spec.Groups {
			g := readGroup(t, raw)
			used := make(map[string]bool)
			for condition := range g.alerts {
				c, known := catalogue.Lookup(condition)
				require.True(t, known, condition)
				wanted := g.wanted(t, condition)
				require.NotEmpty(t, wanted, "nothing shows that a node without %s is seen", condition)
				require.ElementsMatch(t, wanted, c.Evidence, "the evidence of %s in the catalogue, by what its alert reads", condition)
				for _, source := range wanted {
					source = strings.TrimSuffix(source, "/"+condition)
					require.Contains(t, g.evidence, source, "%s of %s", source, condition)
					used[source] = true
				}
				proven[c.Name] = true
			}
			for source, metrics := range g.evidence {
				require.True(t, used[source], "no alert of %s needs the evidence %s", filepath.Base(file), source)
				g.requireRead(t, source, metrics)
			}
		}
	}
	for _, c := range catalogue.Conditions() {
		require.True(t, proven[c.Name], "%s has no evidence", c.Name)
	}
}

// requireRead demands that evidence is made of what the alerts of the group read of the exporter, or of its heartbeat.
func (g groupOf) requireRead(t *testing.T, source string, metrics []string) {
	t.Helper()
	_, exporter, _ := strings.Cut(source, "/")
	read := slices.Clone(heartbeats()[exporter])
	for _, alert := range g.alerts {
		read = append(read, alert...)
	}
	for _, metric := range metrics {
		if metric != "up" {
			require.Equal(t, exporter, exporterOf(t, metric), "%s reads %s", source, metric)
		}
		require.Contains(t, read, metric, "no alert of the group reads it, so it is no evidence of %s", source)
	}
}
