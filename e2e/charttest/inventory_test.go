package charttest

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// inventory is what a site with two kinds of GPU nodes, a RoCE node and a node without either says of them.
const inventory = `
prometheusRule: {exclude: [%s], labels: {release: kube-prometheus-stack}}
inventory:
  expectedDevices:
  - {nodes: 'gpu-0[1-3]\.a', kind: gpu, count: 4}
  - {nodes: gpu-.+, kind: gpu, count: 8}
  - {nodes: gpu-.+, kind: vf, count: "32"}
  roceDevices:
  - {nodes: gpu-.+, device: mlx5_4, netdev: ens6f0np0}
  - {nodes: roce-.+, device: mlx5_bond_0, netdev: bond1}
  - {nodes: roce-.+, device: mlx5_4, netdev: ens6f0np0}
  roceLabels: {pfNames: network.example.com/pfNames, unit: example.com/unit-id}
`

// inventorySeries is what kube-state-metrics says of those nodes for 20 minutes, after which it is gone. It exports the one
// label of the inventory and does not know the other. A node's name is not a part of another's.
const inventorySeries = `
rule_files: [inventory.yaml]
evaluation_interval: 1m
tests:
- interval: 1m
  input_series:
  - {series: 'kube_node_info{node="gpu-01.a",instance="a"}', values: 1x20 stale}
  - {series: 'kube_node_info{node="gpu-01.a",instance="b"}', values: 1x20 stale}
  - {series: 'kube_node_info{node="gpu-01xa",instance="a"}', values: 1x20 stale}
  - {series: 'kube_node_info{node="roce-1",instance="a"}', values: 1x20 stale}
  - {series: 'kube_node_info{node="old-gpu-1",instance="a"}', values: 1x20 stale}
  - {series: 'kube_node_labels{node="gpu-01.a",label_network_example_com_pf_names="x"}', values: 1x20 stale}
  - {series: 'kube_node_labels{node="gpu-01xa",label_network_example_com_pf_names=""}', values: 1x20 stale}
  - {series: 'kube_node_labels{node="roce-1"}', values: 1x20 stale}
  # A scrape that does not honor labels: kube-state-metrics runs on gpu-02.a, where it tells of another node, and its labels are no nodes'.
  - {series: 'kube_node_info{node="gpu-02.a",exported_node="cpu-1"}', values: 1x20 stale}
  - {series: 'kube_node_labels{node="gpu-01xa",exported_node="cpu-1",label_network_example_com_pf_names="x"}', values: 1x20 stale}
  promql_expr_test:
  # The first entry that names a node counts, a node of no entry has nothing.
  - expr: aegis:expected_devices
    eval_time: 10m
    exp_samples:
    - {labels: 'aegis:expected_devices{kind="gpu",node="gpu-01.a"}', value: 4}
    - {labels: 'aegis:expected_devices{kind="gpu",node="gpu-01xa"}', value: 8}
    - {labels: 'aegis:expected_devices{kind="vf",node="gpu-01.a"}', value: 32}
    - {labels: 'aegis:expected_devices{kind="vf",node="gpu-01xa"}', value: 32}
  - &ports
    expr: aegis:roce_device
    eval_time: 10m
    exp_samples:
    - {labels: 'aegis:roce_device{device="mlx5_4",netdev="ens6f0np0",node="gpu-01.a"}', value: 1}
    - {labels: 'aegis:roce_device{device="mlx5_4",netdev="ens6f0np0",node="gpu-01xa"}', value: 1}
    - {labels: 'aegis:roce_device{device="mlx5_4",netdev="ens6f0np0",node="roce-1"}', value: 1}
    - {labels: 'aegis:roce_device{device="mlx5_bond_0",netdev="bond1",node="roce-1"}', value: 1}
  - expr: aegis:roce_label_missing
    eval_time: 10m
    exp_samples:
    - {labels: 'aegis:roce_label_missing{label="pfNames",node="gpu-01xa"}', value: 1}
    - {labels: 'aegis:roce_label_missing{label="pfNames",node="roce-1"}', value: 1}
  # Without kube-state-metrics nothing is expected any more, but a port stays RoCE for an hour.
  - {expr: 'aegis:expected_devices or aegis:roce_label_missing', eval_time: 30m, exp_samples: []}
  - {expr: 'count(aegis:roce_device)', eval_time: 70m, exp_samples: [{labels: '{}', value: 4}]}
  - {expr: 'aegis:roce_device', eval_time: 90m, exp_samples: []}
`

// ruleFiles lists the files of rules/, so that a release can be rendered without them.
func ruleFiles(t *testing.T) string {
	t.Helper()
	list := ""
	for _, file := range files(t, "rules") {
		list += filepath.Base(file) + ", "
	}
	return list
}

func TestInventoryIsAbsentWhereNothingIsSaid(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"no values":              "",
		"labels without devices": "inventory: {roceLabels: {unit: example.com/unit}}",
		"no rules are wanted":    "prometheusRule: {enabled: false}\ninventory: {expectedDevices: [{nodes: a, kind: gpu, count: 1}]}",
	}
	for name, values := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.NotContains(t, string(rendered(t, "heal", values)), "inventory")
		})
	}
}

// prometheusRule is the object that the chart renders.
type prometheusRule struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              spec `json:"spec"`
}

func TestInventoryIsRecorded(t *testing.T) {
	t.Parallel()
	m := one[prometheusRule](t, rendered(t, "heal", fmt.Sprintf(inventory, ruleFiles(t))), "PrometheusRule")
	require.Equal(t, "aegis-inventory", m.Name)
	require.Equal(t, "heal", m.Namespace)
	require.Equal(t, "kube-prometheus-stack", m.Labels["release"], "the operator would not select it")
	dir := t.TempDir()
	raw, err := yaml.Marshal(m.Spec)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "inventory.yaml"), raw, 0o600))
	test := filepath.Join(dir, "inventory_test.yaml")
	require.NoError(t, os.WriteFile(test, []byte(inventorySeries), 0o600))
	out, err := runPromtool(t, "check", "rules", "--lint=all", "--lint-fatal", filepath.Join(dir, "inventory.yaml"))
	require.NoError(t, err, out)
	out, err = runPromtool(t, "test", "rules", "--diff", test)
	require.NoError(t, err, out)
}

func TestInventoryTellsWhatIsWrong(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ values, says string }{
		"unknown kind":        {"expectedDevices: [{nodes: a, kind: tpu, count: 1}]", `inventory.expectedDevices: kind "tpu" is none of gpu, hca, memory, nvidia_com_gpu, rdma, roce, vf`},
		"no kind":             {"expectedDevices: [{nodes: a, count: 1}]", "inventory.expectedDevices: kind is required"},
		"no nodes":            {"expectedDevices: [{kind: gpu, count: 1}]", "inventory.expectedDevices: nodes is required"},
		"no count":            {"expectedDevices: [{nodes: a, kind: gpu}]", "inventory.expectedDevices: count must be a number"},
		"count with a unit":   {"expectedDevices: [{nodes: a, kind: gpu, count: 8x}]", "inventory.expectedDevices: count must be a number"},
		"negative count":      {"expectedDevices: [{nodes: a, kind: gpu, count: -1}]", "inventory.expectedDevices: count must be a number"},
		"port without nodes":  {"roceDevices: [{device: mlx5_0, netdev: eth0}]", "inventory.roceDevices: nodes is required"},
		"port without device": {"roceDevices: [{nodes: a, netdev: eth0}]", "inventory.roceDevices: device is required"},
		"port without netdev": {"roceDevices: [{nodes: a, device: mlx5_0}]", "inventory.roceDevices: netdev is required"},
		"unknown label": {
			"{roceDevices: [{nodes: a, device: mlx5_0, netdev: eth0}], roceLabels: {rail: example.com/rail}}",
			`inventory.roceLabels: "rail" is none of node, unit, pfNames, resource, network`,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := renderChart(t, "heal", "inventory:\n  "+tt.values+"\n")
			require.ErrorContains(t, err, tt.says)
		})
	}
}

// kube-state-metrics rewrites the key of a label, and the rules must ask for what it makes of it.
func TestInventoryWritesLabelsAsKubeStateMetricsDoes(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]string{
		"unit":                        "label_unit",
		"example.com/unit-id":         "label_example_com_unit_id",
		"network.example.com/pfNames": "label_network_example_com_pf_names",
		"example.com/RoCE_Network.v2": "label_example_com_ro_ce_network_v2",
	} {
		t.Run(key, func(t *testing.T) {
			t.Parallel()
			values := "inventory:\n  roceDevices: [{nodes: a, device: mlx5_0, netdev: eth0}]\n  roceLabels: {unit: " + key + "}\n"
			found := regexp.MustCompile(`kube_node_labels\{(label_\w+)!=`).FindSubmatch(rendered(t, "heal", values))
			require.NotNil(t, found)
			require.Equal(t, want, string(found[1]))
		})
	}
}
