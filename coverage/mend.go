package coverage

import (
	"fmt"
	"strings"
)

// exporterOf returns the exporter that has a series, by the name of that. Empty means that nobody knows.
func exporterOf(metric string) string {
	for prefix, exporter := range map[string]string{
		fieldPrefix: "dcgm-exporter", "kube_": "kube-state-metrics", "node_": "node_exporter", "sichek_": "sichek", "accelerator_": "gpud",
		"problem_": "node-problem-detector", "ipmi_": "ipmi_exporter", "smartctl_": "smartctl_exporter", "gpfs_": "gpfs_exporter",
		"kubelet_": "kubelet", "container_": "kubelet", "probe_": "blackbox_exporter", "aegis_site_condition": "site",
		"aegis_net_tx_timeouts_total": "site", "os_fd_zombie_processes": "site",
	} {
		if strings.HasPrefix(metric, prefix) {
			return exporter
		}
	}
	return ""
}

const (
	mendRules      = "Install the rules of the chart of this version (charts/aegis/rules), and let the ruleSelector and ruleNamespaceSelector of Prometheus select them; the value prometheusRule.labels sets their labels."
	mendHonor      = "Set honorLabels: true (honor_labels: true without the Prometheus Operator) on that scrape."
	mendFields     = "Put one of these fields into the list of counters of dcgm-exporter, all of them where commas part them: exporters.dcgm.enabled of the chart, with exporters.dcgm.version for its release. A GPU that does not have a feature has none of its fields."
	mendCollectors = "Turn the collector of node_exporter on: --collector.processes for processes, --collector.systemd for units, --collector.edac and --collector.meminfo for memory; pressure needs a kernel with psi=1, and EDAC one with a driver for the memory controller."
	mendInventory  = "Install the inventory: inventory.expectedDevices or inventory.roceDevices of the chart."
	mendRecorded   = "Load the rule that records these series, on this server or on one that writes to it."
	mendRead       = "Run the exporters that the alert reads: its page in docs/conditions names them."
	mendGone       = "Bring the exporter back on these nodes: its pod, and its target on the page of targets of Prometheus."
	mendSource     = "Mend the query of the source, or its server: GET /api/v1/sources says the same."
	mendNodes      = "Scrape kube-state-metrics with honorLabels: true, or name a -kubeconfig."
)

// mendCanary says how the canary comes to fire.
func mendCanary(name string) string {
	return fmt.Sprintf("Have an alert %s fire all the time, or name in prometheus.canary one that does: charts/aegis/rules/aegis.yaml has Watchdog.", name)
}

// mendSeries says how a node comes to have series that an alert reads.
func mendSeries(name string) string {
	switch {
	case strings.HasPrefix(name, fieldPrefix):
		return mendFields
	case strings.HasPrefix(name, "aegis:expected_devices"), strings.HasPrefix(name, "aegis:roce_"):
		return mendInventory
	case recordedName(name):
		return mendRecorded
	case exporterOf(name) == "node_exporter":
		return mendCollectors
	case exporterOf(name) != "":
		return mendExporter(exporterOf(name))
	}
	return mendRead
}

// mendLabel says how an exporter comes to name its node.
func mendLabel(exporter string) string {
	switch exporter {
	case "dcgm-exporter":
		return "Set NODE_NAME in the environment of dcgm-exporter from spec.nodeName."
	case "kube-state-metrics":
		return mendHonor
	case "sichek":
		return "Give the host the name of its Node object: sichek names the node itself."
	case "ipmi_exporter", "blackbox_exporter":
		return "Set the label node to the name of the node in the relabelling of the scrape, from __meta_kubernetes_pod_node_name, or from the address where it is asked from outside."
	}
	return "Set the label node to the name of the node in the relabelling of the scrape, from __meta_kubernetes_pod_node_name (for a ServiceMonitor: relabelings)."
}

// mendExporter says how an exporter comes to have series of a node.
func mendExporter(exporter string) string {
	what := map[string]string{
		"dcgm-exporter":         "Run dcgm-exporter on the nodes with GPUs, with DCGM_FI_DEV_GPU_TEMP in its list of counters, and scrape it.",
		"kube-state-metrics":    "Run kube-state-metrics, and scrape it with honorLabels: true.",
		"node_exporter":         "Run node_exporter on each node with the collectors that the rules need, and scrape it.",
		"sichek":                "Run sichek and scrape it, or set mode observe for the condition.",
		"gpud":                  "Run gpud and scrape it, or set mode observe for the condition.",
		"node-problem-detector": "Run node-problem-detector with the monitors of the chart (exporters.npd.enabled), and scrape it.",
		"ipmi_exporter":         "Run ipmi_exporter with the collector ipmi, without --native-ipmi, and scrape it.",
		"smartctl_exporter":     "Run smartctl_exporter on each node, and scrape it.",
		"gpfs_exporter":         "Run gpfs_exporter with its collectors mmhealth, waiter and verbs, and scrape it.",
		"kubelet":               "Scrape the kubelet and its cAdvisor, and do not drop the series of all pods together.",
		"blackbox_exporter":     "Probe the gateway from each node, in a job whose name contains gateway.",
		"site":                  "Have the nodes report it with a script of the site, through the textfile collector of node_exporter.",
	}[exporter]
	if what == "" {
		return "Run the exporter that has these series on the nodes, and scrape it."
	}
	return what
}

// splitKind returns the group of rules and the exporter of a value of the label source.
func splitKind(kind string) (group, exporter string) {
	group, exporter, _ = strings.Cut(kind, "/")
	exporter, _, _ = strings.Cut(exporter, "/")
	return group, exporter
}
