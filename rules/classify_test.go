package rules

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/rules/prom"
)

func newTestClassifier(t testing.TB, texts ...string) *Classifier {
	t.Helper()
	return NewClassifier(ClassifierOptions{Store: NewStore(load(t, texts...)), Nodes: index3(), Cluster: prom.Cluster{Name: "c1"}})
}

// alert returns a firing alert with the labels, which are pairs of a name and a value.
func alert(pairs ...string) prom.Alert {
	labels := make(map[string]string)
	for pair := range slices.Chunk(pairs, 2) {
		labels[pair[0]] = pair[1]
	}
	return prom.Alert{Labels: labels, State: prom.StateFiring, Fingerprint: "0123456789abcdef"}
}

func requireDrop(t testing.TB, err error, reason string) {
	t.Helper()
	drop := requireSomeDrop(t, err)
	require.Equal(t, reason, drop.Reason, drop.Detail)
}

func requireSomeDrop(t testing.TB, err error) (drop *Drop) {
	t.Helper()
	require.ErrorAs(t, err, &drop)
	require.Contains(t, DropReasons(), drop.Reason)
	require.Less(t, len(drop.Error()), 600)
	return drop
}

func TestClassify(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newTestClassifier(t)
		a := alert("alertname", "GpuFellOff", "condition", "Xid79GPULost", "xid", "79", "node", "dgx-01", "cluster", "c1", "gpu", "3",
			"pci_bus_id", "00000000:3B:00.0")
		a.StartsAt = time.Now().Add(-time.Hour)
		a.Annotations = map[string]string{"summary": "short", "description": "GPU 3 fell\noff the bus", "value": "79"}
		got, err := r.Classify(a)
		require.NoError(t, err)
		require.Equal(t, prom.Observation{
			Fingerprint: "0123456789abcdef",
			Firing:      true,
			StartsAt:    a.StartsAt,
			Labels:      a.Labels,
			Status: prom.AegisNodeStatus{
				Node: "dgx-01", Condition: "Xid79GPULost", Type: "gpu", ID: "3", PciBdf: "00000000:3B:00.0",
				Msg: "GPU 3 fell off the bus", Value: "79", Priority: 2, AffectsLoad: true, DeviceMode: prom.DeviceIndex,
				SOP: "gpu/xid", Policy: lookup(t, r.store.Current(), "Xid79GPULost").Policy,
				XID:       prom.XID{Code: 79, Class: prom.XIDReboot},
				FirstSeen: a.StartsAt, LastSeen: time.Now(), Origin: prom.OriginAlert,
			},
		}, got)
	})
}

func TestClassifyDrops(t *testing.T) {
	t.Parallel()
	r := newTestClassifier(t, "conditions: [{name: Custom, type: node, match: {condition: Custom, severity: critical}}]")
	long := strings.Repeat("x", maxLabelValue+1)
	crowd := alert("alertname", "GpuHung", "node", "dgx-01")
	for i := range maxLabels - 1 {
		crowd.Labels[fmt.Sprint(i)] = ""
	}
	tests := map[string]struct {
		alert prom.Alert
		want  string
	}{
		"no labels":                        {prom.Alert{}, DropNoAlertname},
		"no alertname":                     {alert("condition", "GpuHung", "node", "dgx-01"), DropNoAlertname},
		"an alert of others":               {alert("alertname", "Watchdog"), DropNotACondition},
		"a match that excludes":            {alert("alertname", "X", "condition", "Custom", "node", "dgx-01"), DropNotACondition},
		"no node":                          {alert("alertname", "GpuHung"), DropNoNode},
		"an empty node":                    {alert("alertname", "GpuHung", "node", ""), DropNoNode},
		"an unknown node":                  {alert("alertname", "GpuHung", "node", "gone"), DropUnknownNode},
		"an ambiguous node":                {alert("alertname", "GpuHung", "node", "shared"), DropAmbiguousNode},
		"another cluster":                  {alert("alertname", "GpuHung", "node", "dgx-01", "cluster", "c2"), DropOtherCluster},
		"a long value":                     {alert("alertname", "GpuHung", "node", "dgx-01", "x", long), DropLabelTooLong},
		"a value of a megabyte":            {alert("alertname", "GpuHung", "node", strings.Repeat("x", 1<<20)), DropLabelTooLong},
		"a long name of a label":           {alert("alertname", "GpuHung", "node", "dgx-01", long, "x"), DropLabelTooLong},
		"too many labels":                  {crowd, DropInvalid},
		"no UTF-8":                         {alert("alertname", "GpuHung", "node", "dgx-01", "x", "\xff"), DropInvalid},
		"a label without a name":           {alert("alertname", "GpuHung", "node", "dgx-01", "", "x"), DropInvalid},
		"a condition that is a program":    {alert("alertname", "X", "node", "dgx-01", "condition", "$(reboot)"), DropInvalid},
		"a condition on two lines":         {alert("alertname", "X", "node", "dgx-01", "condition", "Gpu\nHung"), DropInvalid},
		"a condition that is a query":      {alert("alertname", "X", "node", "dgx-01", "condition", `x"} or vector(1)`), DropInvalid},
		"a device that is too long":        {alert("alertname", "NetworkLinkDown", "node", "dgx-01", "id", strings.Repeat("e", 65)), DropLabelTooLong},
		"a device on two lines":            {alert("alertname", "NetworkLinkDown", "node", "dgx-01", "id", "eth0\nrm"), DropInvalid},
		"a device that turns the text":     {alert("alertname", "NetworkLinkDown", "node", "dgx-01", "id", "eth\u202e0"), DropInvalid},
		"a pattern for a node":             {alert("alertname", "GpuHung", "node", "dgx-.*"), DropUnknownNode},
		"a program for a node":             {alert("alertname", "GpuHung", "node", "dgx-01; reboot"), DropUnknownNode},
		"a query for a node":               {alert("alertname", "GpuHung", "node", `dgx-01"} or on() vector(1) #`), DropUnknownNode},
		"an alert of others in any place":  {alert("alertname", "Watchdog", "node", "gone", "cluster", "c2"), DropNotACondition},
		"another cluster before the node":  {alert("alertname", "GpuHung", "node", "gone", "cluster", "c2"), DropOtherCluster},
		"loopback is everybody's":          {alert("alertname", "GpuHung", "instance", "127.0.0.1:9100"), DropUnknownNode},
		"kube-state-metrics as instance":   {alert("alertname", "GpuHung", "instance", "10.0.0.1:8080", "job", "kube-state-metrics"), DropNoNode},
		"kube-state-metrics by its prefix": {alert("alertname", "GpuHung", "instance", "10.0.0.1", "job", "prod/Kube-State-Metrics-2"), DropNoNode},
		"kube-state-metrics by its service": {alert("alertname", "GpuHung", "kubernetes_node", "dgx-01", "job", "endpoints", "service",
			"kube-state-metrics"), DropNoNode},
		"kube-state-metrics by its metric": {alert("alertname", "GpuHung", "instance", "10.0.0.1", "__name__", "kube_node_info"), DropNoNode},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := r.Classify(test.alert)
			requireDrop(t, err, test.want)
			require.Zero(t, got)
		})
	}
}

func TestClassifyAtTheLimits(t *testing.T) {
	t.Parallel()
	r := newTestClassifier(t)
	a := alert("alertname", "NetworkLinkDown", "node", "dgx-01", "id", strings.Repeat("e", maxDeviceBytes),
		"x", strings.Repeat("x", maxLabelValue), strings.Repeat("n", maxLabelName), "x")
	for i := range maxLabels - len(a.Labels) {
		a.Labels[fmt.Sprint(i)] = "x"
	}
	require.Len(t, a.Labels, maxLabels)
	_, err := r.Classify(a)
	require.NoError(t, err)
}

func TestClassifyNode(t *testing.T) {
	t.Parallel()
	r := newTestClassifier(t)
	tests := map[string]struct {
		labels []string
		want   string // A node, or the reason of a drop.
	}{
		"node":                                     {[]string{"node", "dgx-01"}, "dgx-01"},
		"node before all others":                   {[]string{"node", "dgx-01", "Hostname", "dgx-02", "instance", "10.0.0.3"}, "dgx-01"},
		"node with a port":                         {[]string{"node", "dgx-01:9100"}, "dgx-01"},
		"an unknown node does not fall through":    {[]string{"node", "gone", "Hostname", "dgx-02"}, DropUnknownNode},
		"an ambiguous node does not fall through":  {[]string{"node", "shared", "Hostname", "dgx-02"}, DropAmbiguousNode},
		"a blank node does not fall through":       {[]string{"node", " ", "Hostname", "dgx-02"}, DropUnknownNode},
		"an empty node falls through":              {[]string{"node", "", "Hostname", "dgx-02"}, "dgx-02"},
		"the labels have an order":                 {[]string{"hostname", "dgx-01", "Hostname", "host-02"}, "dgx-02"},
		"an unknown name lets the next label try":  {[]string{"Hostname", "dcgm-exporter-x7f2k", "nodename", "dgx-01"}, "dgx-01"},
		"an ambiguous name ends the search":        {[]string{"Hostname", "shared", "nodename", "dgx-01"}, DropAmbiguousNode},
		"instance":                                 {[]string{"instance", "10.0.0.1:9100"}, "dgx-01"},
		"instance in IPv6":                         {[]string{"instance", "[2001:db8::1]:9100"}, "dgx-01"},
		"instance in bare IPv6":                    {[]string{"instance", "2001:db8::2"}, "dgx-02"},
		"instance does not overrule a name":        {[]string{"Hostname", "gone", "instance", "10.0.0.1:9100"}, DropUnknownNode},
		"kube-state-metrics with a node":           {[]string{"node", "dgx-01", "job", "kube-state-metrics"}, "dgx-01"},
		"kube-state-metrics on another node":       {[]string{"node", "cpu-01", "exported_node", "dgx-01", "job", "kube-state-metrics"}, "dgx-01"},
		"exported node that is the same":           {[]string{"node", "dgx-01", "exported_node", "10.0.0.1", "job", "dcgm-exporter"}, "dgx-01"},
		"exported node that is none":               {[]string{"node", "dgx-01", "exported_node", "rack-7", "job", "dcgm-exporter"}, "dgx-01"},
		"kube-state-metrics with an exported node": {[]string{"exported_node", "dgx-01", "instance", "10.0.0.2", "job", "kube-state-metrics"}, "dgx-01"},
		"an exporter beside it":                    {[]string{"instance", "10.0.0.1:9100", "job", "node-exporter"}, "dgx-01"},
		"a label that is not configured":           {[]string{"machine", "dgx-01"}, DropNoNode},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := r.Classify(alert(append([]string{"alertname", "GpuHung"}, test.labels...)...))
			if slices.Contains(DropReasons(), test.want) {
				requireDrop(t, err, test.want)
				return
			}
			require.NoError(t, err)
			require.Equal(t, test.want, got.Status.Node)
		})
	}
}

func TestClassifyConfiguredNodeLabels(t *testing.T) {
	t.Parallel()
	store := NewStore(load(t))
	own := NewClassifier(ClassifierOptions{Store: store, Nodes: index3(), NodeLabels: []string{"machine"}})
	got, err := own.Classify(alert("alertname", "GpuHung", "machine", "dgx-01", "Hostname", "dgx-02", "cluster", "any"))
	require.NoError(t, err, "without a configured cluster every cluster is ours")
	require.Equal(t, "dgx-01", got.Status.Node)
	_, err = own.Classify(alert("alertname", "GpuHung", "Hostname", "dgx-02"))
	requireDrop(t, err, DropNoNode)

	none := NewClassifier(ClassifierOptions{Store: store, Nodes: index3(), NodeLabels: []string{}})
	_, err = none.Classify(alert("alertname", "GpuHung", "instance", "dgx-02"))
	requireDrop(t, err, DropNoNode)
	got, err = none.Classify(alert("alertname", "GpuHung", "node", "dgx-02"))
	require.NoError(t, err)
	require.Equal(t, "dgx-02", got.Status.Node)
}

func TestClassifyUnknownCondition(t *testing.T) {
	t.Parallel()
	r := newTestClassifier(t)
	got, err := r.Classify(alert("alertname", "X", "condition", "NeverHeard", "node", "dgx-01", "id", "7"))
	require.NoError(t, err)
	require.Equal(t, "NeverHeard", got.Status.Condition)
	require.Equal(t, prom.DefaultPriority, got.Status.Priority)
	require.Zero(t, got.Status.Policy)
	require.Empty(t, got.Status.SOP)
	require.Equal(t, prom.Key{Node: "dgx-01", Condition: "NeverHeard"}, got.Status.Key())
}

func TestClassifyUsesTheCurrentCatalogue(t *testing.T) {
	t.Parallel()
	r := newTestClassifier(t)
	r.store.Swap(load(t, "conditions: [{name: GpuHung, priority: 50}]"))
	got, err := r.Classify(alert("alertname", "GpuHung", "node", "dgx-01"))
	require.NoError(t, err)
	require.Equal(t, 50, got.Status.Priority)
}

func TestClassifyDevice(t *testing.T) {
	t.Parallel()
	r := newTestClassifier(t, `
conditions:
- {name: Mask, type: gpu, device: mask}
- {name: Own, type: gpu, device: index, idLabel: slot}
`)
	tests := map[string]struct {
		condition string
		labels    []string
		want      string
	}{
		"none":                          {"NodeNotReady", []string{"gpu", "3"}, ""},
		"all":                           {"GpuHung", []string{"gpu", "3", "id", "4"}, ""},
		"index: gpu first":              {"Xid79GPULost", []string{"device", "nvidia5", "id", "4", "gpu", "3"}, "3"},
		"index: then id":                {"Xid79GPULost", []string{"device", "nvidia5", "id", "4"}, "4"},
		"index: then device":            {"Xid79GPULost", []string{"device", "nvidia5"}, "5"},
		"index: an empty label":         {"Xid79GPULost", []string{"gpu", "", "id", "4"}, "4"},
		"index: no device":              {"Xid79GPULost", nil, ""},
		"id":                            {"IBLinkFrequentDown", []string{"device", "mlx5_0", "mask", "1"}, "mlx5_0"},
		"id: id first":                  {"IBLinkFrequentDown", []string{"device", "mlx5_0", "id", "mlx5_1", "gpu", "0"}, "mlx5_1"},
		"id: a device file keeps name":  {"NetworkLinkDown", []string{"device", "nvidia5"}, "nvidia5"},
		"mask":                          {"Mask", []string{"mask", "0110"}, "0110"},
		"mask: id first":                {"Mask", []string{"mask", "0110", "id", "1", "device", "x"}, "1"},
		"own label":                     {"Own", []string{"slot", "7", "gpu", "1"}, "7"},
		"own label instead, not before": {"Own", []string{"gpu", "1"}, ""},
		"space around":                  {"NetworkLinkDown", []string{"id", " eth0 "}, "eth0"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := r.Classify(alert(append([]string{"alertname", test.condition, "node", "dgx-01"}, test.labels...)...))
			require.NoError(t, err)
			require.Equal(t, test.want, got.Status.ID)
			require.Equal(t, r.store.Current().Status("dgx-01", test.condition, test.want).Key(), got.Status.Key())
		})
	}
}

func TestClassifyFiring(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newTestClassifier(t)
		past, future := time.Now().Add(-time.Second), time.Now().Add(time.Second)
		tests := map[string]struct {
			state prom.AlertState
			ends  time.Time
			want  bool
		}{
			"firing":               {prom.StateFiring, time.Time{}, true},
			"pending":              {prom.StatePending, time.Time{}, true},
			"active until later":   {prom.StateActive, future, true},
			"suppressed":           {prom.StateSuppressed, future, true},
			"firing, but ended":    {prom.StateFiring, past, false},
			"active, ends now":     {prom.StateActive, time.Now(), false},
			"resolved":             {"resolved", past, false},
			"resolved, ends later": {"resolved", future, false},
			"no state":             {"", time.Time{}, false},
		}
		for name, test := range tests {
			a := alert("alertname", "GpuHung", "node", "dgx-01")
			a.State, a.EndsAt = test.state, test.ends
			got, err := r.Classify(a)
			require.NoError(t, err, name)
			require.Equal(t, test.want, got.Firing, name)
		}
	})
}

func TestClassifyFingerprint(t *testing.T) {
	t.Parallel()
	r := newTestClassifier(t)
	a := alert("alertname", "GpuHung", "node", "dgx-01")
	want := prom.Fingerprint(a.Labels)
	for _, given := range []string{"", strings.Repeat("a", 65), "a\nb"} {
		a.Fingerprint = given
		got, err := r.Classify(a)
		require.NoError(t, err)
		require.Equal(t, want, got.Fingerprint)
	}
}

func TestClassifyTexts(t *testing.T) {
	t.Parallel()
	r := newTestClassifier(t)
	tests := map[string]struct {
		annotations map[string]string
		msg, value  string
	}{
		"none":                   {nil, "", ""},
		"summary alone":          {map[string]string{"summary": "s"}, "s", ""},
		"description first":      {map[string]string{"summary": "s", "description": "d", "value": "1.5"}, "d", "1.5"},
		"a description of space": {map[string]string{"summary": "s", "description": " \n\t"}, "s", ""},
		"control characters":     {map[string]string{"description": "\x1b[31mred\x00\r\n\tline\u2028two\u202e\x7f."}, "[31mred line two .", ""},
		"broken UTF-8":           {map[string]string{"description": "a\xff\xfeb"}, "a b", ""},
		"a megabyte":             {map[string]string{"description": strings.Repeat("ü", 1<<20)}, strings.Repeat("ü", 256), ""},
		"a megabyte of nothing":  {map[string]string{"description": strings.Repeat("\x00", 1<<20), "summary": "s"}, "s", ""},
		"a space at the limit":   {map[string]string{"description": strings.Repeat("a", 255) + " b"}, strings.Repeat("a", 255), ""},
		"a long value":           {map[string]string{"value": strings.Repeat("9", 99)}, "", strings.Repeat("9", 64)},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := alert("alertname", "GpuHung", "node", "dgx-01")
			a.Annotations = test.annotations
			got, err := r.Classify(a)
			require.NoError(t, err)
			require.Equal(t, test.msg, got.Status.Msg)
			require.Equal(t, test.value, got.Status.Value)
		})
	}
}

func TestClassifyPciAddress(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		labels map[string]string
		want   string
	}{
		"pci_bdf":                   {map[string]string{"pci_bdf": "0000:3b:00.0"}, "0000:3b:00.0"},
		"pci_bus_id":                {map[string]string{"pci_bus_id": "00000000:3B:00.0"}, "00000000:3B:00.0"},
		"without a domain":          {map[string]string{"pci_bdf": "3b:00.1"}, "3b:00.1"},
		"pci_bdf first":             {map[string]string{"pci_bdf": "3b:00.1", "pci_bus_id": "3c:00.0"}, "3b:00.1"},
		"nonsense lets other try":   {map[string]string{"pci_bdf": "x", "pci_bus_id": "3c:00.0"}, "3c:00.0"},
		"a program is no address":   {map[string]string{"pci_bdf": "3b:00.0; reboot"}, ""},
		"an address on two lines":   {map[string]string{"pci_bdf": "3b:00.0\n"}, ""},
		"no function of that many ": {map[string]string{"pci_bdf": "3b:00.8"}, ""},
	}
	for name, test := range tests {
		require.Equal(t, test.want, pciOf(test.labels), name)
	}
}

func TestDrop(t *testing.T) {
	t.Parallel()
	require.EqualError(t, &Drop{Reason: DropNoNode, Detail: "why"}, "no_node: why")
	require.EqualError(t, &Drop{Reason: DropNoNode}, "no_node")
	require.Equal(t, []string{
		"no_alertname", "not_a_condition", "no_node", "unknown_node", "ambiguous_node", "other_cluster", "label_too_long",
		"invalid",
	}, DropReasons())
}

// FuzzClassify checks that whatever an alert says, its translation is a node that exists and texts that are harmless, or
// a reason of the closed set.
func FuzzClassify(f *testing.F) {
	f.Add("alertname", "GpuHung", "node", "dgx-01", "id", "3", "text")
	f.Add("alertname", "X", "condition", "Xid79GPULost", "instance", "[2001:db8::1]:9100", "\x1b[0m")
	f.Add("condition", "NeverHeard", "Hostname", "shared", "gpu", "nvidia1", "\u202e")
	f.Add("condition", "$(reboot)", "node", "dgx-01\n", "job", "kube-state-metrics", strings.Repeat("a ", 300))
	f.Add("device", "eth0\x00", "alertname", "NetworkLinkDown", "node", "::ffff:10.0.0.1", "")
	r := newTestClassifier(f)
	nodes := []string{"dgx-01", "dgx-02", "dgx-03", "dgx-04"}
	f.Fuzz(func(t *testing.T, k1, v1, k2, v2, k3, v3, text string) {
		a := alert("alertname", "Fuzz", k1, v1, k2, v2, k3, v3)
		a.Annotations = map[string]string{"description": text, "value": text}
		before := maps.Clone(a.Labels)
		got, err := r.Classify(a)
		require.Equal(t, before, a.Labels)
		if err != nil {
			drop := requireSomeDrop(t, err)
			require.NotContains(t, drop.Error(), "\n")
			return
		}
		s := got.Status
		require.Contains(t, nodes, s.Node)
		require.NoError(t, checkName(s.Condition))
		require.LessOrEqual(t, len(s.ID), maxDeviceBytes)
		require.True(t, printable(s.ID) && printable(s.Msg) && printable(s.Value) && printable(s.PciBdf))
		require.LessOrEqual(t, utf8.RuneCountInString(s.Msg), maxMessageRunes)
		require.Equal(t, s.Key(), r.store.Current().Status(s.Node, s.Condition, s.ID).Key())
	})
}

// What a source says goes before what the labels would mean on an alert.
func TestClassifyBySubject(t *testing.T) {
	t.Parallel()
	r := newTestClassifier(t, `
conditions:
- name: Full
  type: disk
  priority: 50
  device: id
  idLabel: mountpoint
  aliases: [FullDisk]
  match: {alertname: NodeFilesystemFull}
`)
	classify := func(subject prom.Subject, pairs ...string) (prom.Observation, error) {
		a := alert(append([]string{"alertname", "any", "condition", "GpuHung"}, pairs...)...)
		a.Subject = &subject
		return r.Classify(a)
	}
	for name, test := range map[string]struct {
		subject prom.Subject
		labels  []string
		want    prom.Key
	}{
		"by an alias, in spite of the match": {prom.Subject{Condition: "FullDisk"}, []string{"node", "dgx-01", "mountpoint", "/data"}, prom.Key{Node: "dgx-01", Condition: "Full", ID: "/data"}},
		"the device in id":                   {prom.Subject{Condition: "Full"}, []string{"node", "dgx-01", "id", "/data"}, prom.Key{Node: "dgx-01", Condition: "Full", ID: "/data"}},
		"labels of its own": {
			prom.Subject{Condition: "Full", NodeLabel: "host", DeviceLabel: "disk"},
			[]string{"node", "dgx-02", "host", "dgx-01", "mountpoint", "/data", "disk", "sda"},
			prom.Key{Node: "dgx-01", Condition: "Full", ID: "sda"},
		},
		"the device is not told":  {prom.Subject{Condition: "Full", DeviceLabel: "disk"}, []string{"node", "dgx-01", "id", "/data"}, prom.Key{Node: "dgx-01", Condition: "Full"}},
		"a condition of the node": {prom.Subject{Condition: "highload"}, []string{"Hostname", "dgx-01", "id", "3"}, prom.Key{Node: "dgx-01", Condition: "HighLoad"}},
		"an unknown condition":    {prom.Subject{Condition: "Unheard"}, []string{"node", "dgx-01"}, prom.Key{Node: "dgx-01", Condition: "Unheard"}},
	} {
		o, err := classify(test.subject, test.labels...)
		require.NoError(t, err, name)
		require.Equal(t, test.want, o.Status.Key(), name)
	}
	for name, test := range map[string]struct {
		subject prom.Subject
		labels  []string
		reason  string
	}{
		"no node":         {prom.Subject{Condition: "Full", NodeLabel: "host"}, []string{"node", "dgx-01"}, DropNoNode},
		"an unknown node": {prom.Subject{Condition: "Full", NodeLabel: "host"}, []string{"host", "nobody"}, DropUnknownNode},
		"no condition":    {prom.Subject{}, []string{"node", "dgx-01"}, DropInvalid},
		"no name":         {prom.Subject{Condition: "not a name"}, []string{"node", "dgx-01"}, DropInvalid},
		"another cluster": {prom.Subject{Condition: "Full"}, []string{"node", "dgx-01", "cluster", "c2"}, DropOtherCluster},
	} {
		_, err := classify(test.subject, test.labels...)
		require.Error(t, err, name)
		requireDrop(t, err, test.reason)
	}
}

func TestNodeOfSeriesIsThatOfAnAlert(t *testing.T) {
	t.Parallel()
	index := NewNodeIndex()
	index.Set(NodeInfo{Name: "n1", Addresses: []string{"10.0.0.1"}})
	c := NewClassifier(ClassifierOptions{Nodes: index})
	for want, labels := range map[string]map[string]string{
		"n1": {"job": "fans", "instance": "10.0.0.1:9100"},
		// It is where kube-state-metrics runs, and not what it tells of.
		"": {"job": "kube-state-metrics", "instance": "10.0.0.1:8080"},
	} {
		node, err := c.Node(labels)
		require.Equal(t, want, node)
		require.Equal(t, want == "", err != nil)
	}
}
