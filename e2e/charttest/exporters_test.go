package charttest

import (
	"encoding/csv"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
)

const (
	counters      = "dcgm-counters.csv"
	counters49    = "dcgm-counters-4.9.csv"
	kernelMonitor = "npd-aegis.json"
	hostMonitor   = "npd-aegis-plugin.json"
	panicCheck    = "npd-kernel-panic.sh"
	peerMemCheck  = "npd-peermem.sh"
	// npdDir is where node-problem-detector mounts its ConfigMap: the monitor of the host names its checks by their paths.
	npdDir = "/etc/npd-aegis"
)

func exporterFile(t *testing.T, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(chart, "exporters", name))
	require.NoError(t, err)
	return raw
}

// selector is what a rule asks of a metric.
type selector []*labels.Matcher

// of returns the matchers of a label.
func (s selector) of(label string) []*labels.Matcher {
	var found []*labels.Matcher
	for _, m := range s {
		if m.Name == label {
			found = append(found, m)
		}
	}
	return found
}

func (s selector) reads(metric string) bool {
	return !slices.ContainsFunc(s.of(model.MetricNameLabel), func(m *labels.Matcher) bool { return !m.Matches(metric) })
}

// selectors returns what each rule of the chart reads, by its name.
func selectors(t *testing.T) map[string][]selector {
	t.Helper()
	read := make(map[string][]selector)
	for _, file := range files(t, "rules") {
		for _, r := range readRules(t, file).rules() {
			read[r.Alert+r.Record] = append(read[r.Alert+r.Record], r.selectors(t)...)
		}
	}
	return read
}

// selectors returns what the rule reads.
func (r rule) selectors(t *testing.T) []selector {
	t.Helper()
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(r.Expr)
	require.NoError(t, err, "%s%s", r.Alert, r.Record)
	var read []selector
	for _, s := range parser.ExtractSelectors(expr) {
		read = append(read, s)
	}
	return read
}

// dcgm returns the selectors of DCGM's fields.
func dcgm(all []selector) []selector {
	var found []selector
	for _, s := range all {
		name := s.of(model.MetricNameLabel)
		if len(name) == 1 && strings.HasPrefix(name[0].Value, "DCGM_") {
			found = append(found, s)
		}
	}
	return found
}

// counterList reads a list as dcgm-exporter does, which refuses to start with one that it does not understand.
func counterList(t *testing.T, name string) []string {
	t.Helper()
	reader := csv.NewReader(strings.NewReader(string(exporterFile(t, name))))
	reader.Comment, reader.FieldsPerRecord = '#', 3
	records, err := reader.ReadAll()
	require.NoError(t, err, name)
	var fields []string
	for _, r := range records {
		require.NotContains(t, fields, r[0], "%s has it twice", name)
		require.Contains(t, []string{"gauge", "counter"}, strings.TrimSpace(r[1]), r[0])
		require.Regexp(t, `^ [A-Z].+\.$`, r[2], r[0])
		fields = append(fields, r[0])
	}
	return fields
}

func TestExportersCountersAreWhatTheRulesRead(t *testing.T) {
	t.Parallel()
	lists := map[string][]string{counters: counterList(t, counters), counters49: counterList(t, counters49)}
	every := slices.Concat(lists[counters], lists[counters49])
	var all []selector
	for name, read := range selectors(t) {
		fields := dcgm(read)
		all = append(all, fields...)
		for _, s := range fields {
			require.True(t, slices.ContainsFunc(every, s.reads), "no list of counters has %v of %s", s, name)
		}
		for file, list := range lists {
			hasOne := len(fields) == 0 || slices.ContainsFunc(fields, func(s selector) bool { return slices.ContainsFunc(list, s.reads) })
			require.True(t, hasOne, "with %s nothing of %s is left", file, name)
		}
	}
	require.NotEmpty(t, all)
	// Most fields have one name in both lists, so one that is missing in a list would not be missed above.
	older := slices.DeleteFunc(slices.Clone(lists[counters49]), func(field string) bool {
		return strings.HasPrefix(field, "DCGM_EXP_") && strings.HasSuffix(field, "_TOTAL")
	})
	require.Len(t, lists[counters], len(older), "a list lacks what the other has")
	for _, field := range every {
		require.True(t, slices.ContainsFunc(all, func(s selector) bool { return s.reads(field) }), "no rule reads %s", field)
	}
}

// logMonitor is a monitor of node-problem-detector for a log.
type logMonitor struct {
	Plugin           string         `json:"plugin"`
	LogPath          string         `json:"logPath"`
	Lookback         string         `json:"lookback"`
	BufferSize       int            `json:"bufferSize"`
	Source           string         `json:"source"`
	MetricsReporting bool           `json:"metricsReporting"`
	Conditions       []npdCondition `json:"conditions"`
	Rules            []struct {
		Type    string `json:"type"`
		Reason  string `json:"reason"`
		Pattern string `json:"pattern"`
	} `json:"rules"`
}

type npdCondition struct {
	Type    string `json:"type"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// pluginMonitor is a monitor of node-problem-detector that runs programs.
type pluginMonitor struct {
	Plugin       string `json:"plugin"`
	PluginConfig struct {
		InvokeInterval  string `json:"invoke_interval"`
		Timeout         string `json:"timeout"`
		MaxOutputLength int    `json:"max_output_length"`
		Concurrency     int    `json:"concurrency"`
	} `json:"pluginConfig"`
	Source           string         `json:"source"`
	MetricsReporting bool           `json:"metricsReporting"`
	Conditions       []npdCondition `json:"conditions"`
	Rules            []struct {
		Type      string `json:"type"`
		Condition string `json:"condition"`
		Reason    string `json:"reason"`
		Path      string `json:"path"`
		Timeout   string `json:"timeout"`
	} `json:"rules"`
}

func decodeMonitor(t *testing.T, name string, into any) {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(string(exporterFile(t, name))))
	decoder.DisallowUnknownFields()
	require.NoError(t, decoder.Decode(into), name)
}

func readKernelMonitor(t *testing.T) logMonitor {
	t.Helper()
	var m logMonitor
	decodeMonitor(t, kernelMonitor, &m)
	require.Equal(t, []any{"kmsg", "/dev/kmsg", true}, []any{m.Plugin, m.LogPath, m.MetricsReporting})
	return m
}

func readHostMonitor(t *testing.T) pluginMonitor {
	t.Helper()
	var m pluginMonitor
	decodeMonitor(t, hostMonitor, &m)
	require.Equal(t, []any{"custom", true}, []any{m.Plugin, m.MetricsReporting})
	return m
}

// npdConditions are the conditions that node-problem-detector brings along, with the file of its config/ that has them.
func npdConditions() map[string]string {
	return map[string]string{
		"CperHardwareErrorFatal": "kernel-monitor.json",
		"XfsShutdown":            "kernel-monitor.json",
		"ReadonlyFilesystem":     "readonly-monitor.json",
		"DiskBadBlock":           "disk-log-message-filelog.json",
	}
}

// matched returns which of the values a rule reads from the label of the metric. A reason or condition that it names and
// that is none of the values fails the test.
func matched(t *testing.T, metric, label string, values []string) []string {
	t.Helper()
	var found []string
	for rule, read := range selectors(t) {
		for _, s := range read {
			if !s.reads(metric) || len(s.of(model.MetricNameLabel)) == 0 {
				continue
			}
			for _, m := range s.of(label) {
				for wanted := range strings.SplitSeq(m.Value, "|") {
					require.Contains(t, values, wanted, "nothing gives %s what %s reads", metric, rule)
					found = append(found, wanted)
				}
			}
		}
	}
	return found
}

func TestExportersReasonsAreWhatTheRulesRead(t *testing.T) {
	t.Parallel()
	var reasons, conditions []string
	for _, r := range readKernelMonitor(t).Rules {
		require.Equal(t, "temporary", r.Type, "%s is an event", r.Reason)
		reasons = append(reasons, r.Reason)
	}
	for _, r := range readHostMonitor(t).Rules {
		require.Equal(t, "permanent", r.Type, "%s is a state", r.Reason)
		conditions = append(conditions, r.Condition)
	}
	read := matched(t, "problem_counter", "reason", reasons)
	for _, reason := range reasons {
		require.Contains(t, read, reason, "no rule reads it")
	}
	all := slices.Clone(conditions)
	for condition := range npdConditions() {
		all = append(all, condition)
	}
	read = matched(t, "problem_gauge", "type", all)
	for _, condition := range all {
		require.Contains(t, read, condition, "no rule reads it")
	}
}

// counted returns how often each reason is counted while the lines come, as node-problem-detector does it: after each line
// it looks whether a pattern matches the end of the last lines.
func (m logMonitor) counted(t *testing.T, lines []string) map[string]int {
	t.Helper()
	counts := make(map[string]int)
	for i := range lines {
		buffer := strings.Join(lines[max(0, i+1-m.BufferSize):i+1], "\n")
		for _, r := range m.Rules {
			pattern, err := regexp.Compile(r.Pattern + `\z`)
			require.NoError(t, err, r.Reason)
			if pattern.MatchString(buffer) {
				counts[r.Reason]++
			}
		}
	}
	return counts
}

func TestExportersPatternsMatchTheKernelLog(t *testing.T) {
	t.Parallel()
	const (
		iceDriver   = "ice 0000:3b:00.0 eth2: tx_timeout: VSI_num: 12, Q 3, NTC: 0x59, HW_HEAD: 0x5b, NTU: 0x5b, INT: 0x0"
		iceRecovery = "ice 0000:3b:00.0 eth2: tx_timeout recovery level 1, txqueue 3"
	)
	tests := []struct {
		name  string
		lines []string
		want  map[string]int
	}{
		// Each event writes three lines, and is one.
		{
			"transmit timeout",
			[]string{"NETDEV WATCHDOG: eth2 (ice): transmit queue 3 timed out", iceDriver, iceRecovery},
			map[string]int{"IceTxTimeout": 1},
		},
		{
			"transmit timeouts of a newer kernel",
			[]string{
				"ice 0000:3b:00.0 eth2: NETDEV WATCHDOG: CPU: 38: transmit queue 3 timed out 5270 ms", iceDriver, iceRecovery,
				"ice 0000:3b:00.0: PTP reset successful",
				"ice 0000:3b:00.0 eth2: NETDEV WATCHDOG: CPU: 2: transmit queue 3 timed out 5120 ms", iceDriver, iceRecovery,
			},
			map[string]int{"IceTxTimeout": 2},
		},
		{
			"transmit timeouts of other drivers",
			[]string{
				"NETDEV WATCHDOG: eth0 (mlx5_core): transmit queue 3 timed out",
				"mlx5_core 0000:3b:00.0 eth0: TX timeout detected",
				"i40e 0000:3b:00.0 eth1: tx_timeout: VSI_seid: 390, Q 2, NTC: 0x59, HWB: 0x5b, NTU: 0x5b, TAIL: 0x5b, INT: 0x0",
			},
			map[string]int{},
		},
		{
			"link of ice",
			[]string{"ice 0000:3b:00.0 eth2: NIC Link is Down", "ice 0000:3b:00.0 eth2: NIC Link is up 100 Gbps Full Duplex"},
			map[string]int{},
		},
		{
			"reset required",
			[]string{"NVRM: nvAssertOkFailedNoLog: Assertion failed: Reset required [NV_ERR_RESET_REQUIRED] (0x00000062) returned from status @ kernel_channel.c:2874"},
			map[string]int{"NvErrResetRequired": 1},
		},
		{
			"other assertion of the driver",
			[]string{"NVRM: nvAssertOkFailedNoLog: Assertion failed: Call timed out [NV_ERR_TIMEOUT] (0x00000065) returned from status @ kernel_channel.c:2874"},
			map[string]int{},
		},
		{
			"reset by Aegis",
			[]string{"aegis: gpu reset: PCI:0000:30:00"},
			map[string]int{},
		},
		{
			"lost GPU",
			[]string{"NVRM: Xid (PCI:0000:1b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."},
			map[string]int{"XIDHWSystemErr": 1},
		},
		{
			"NVLink error of an older driver",
			[]string{"NVRM: Xid (PCI:0000:1B:00): 74, NVLink: fatal error detected on link 6(0x10000, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0)"},
			map[string]int{"XIDHWSystemErr": 1},
		},
		{
			"other XIDs",
			[]string{
				"NVRM: Xid (PCI:0000:74:00): 31, pid=79, name=python3, Ch 00000079, intr 00000000. MMU Fault",
				"NVRM: Xid (PCI:0000:79:00): 174, unknown",
				"NVRM: Xid (PCI:0000:1b:00): 13, pid=74, name=Xid (PCI): 79, , Graphics Exception",
			},
			map[string]int{},
		},
		// Anybody may write to the kernel log who is root in a container that has it.
		{
			"line of a program",
			[]string{"job[74]: NVRM: Xid (PCI:0000:1b:00): 79, GPU has fallen off the bus."},
			map[string]int{},
		},
		{
			"no virtual functions of mlx5",
			[]string{"mlx5_core 0000:c1:00.0: mlx5_sriov_enable:168:(pid 1097): mlx5_device_enable_sriov failed : -22"},
			map[string]int{"SriovInitError": 1},
		},
		{
			"no room for virtual functions",
			[]string{"mlx5_core 0000:b0:00.0: not enough MMIO resources for SR-IOV"},
			map[string]int{"SriovInitError": 1},
		},
		{
			"no virtual functions of ice",
			[]string{"ice 0000:3b:00.0: Failed to enable SR-IOV: -12"},
			map[string]int{"SriovInitError": 1},
		},
		{
			"virtual functions of a driver without RDMA",
			[]string{"ixgbe 0000:04:00.0: not enough MMIO resources for SR-IOV", "ixgbe 0000:04:00.0: Failed to enable PCI sriov: -12"},
			map[string]int{},
		},
		{
			"virtual functions that are there",
			[]string{"mlx5_core 0000:c1:00.0: E-Switch: Enable: mode(LEGACY), nvfs(8), necvfs(0), active vports(9)", "ice 0000:3b:00.0: Enabling 8 VFs"},
			map[string]int{},
		},
	}
	m := readKernelMonitor(t)
	unseen := make(map[string]bool)
	for _, r := range m.Rules {
		unseen[r.Pattern] = true
	}
	for _, tt := range tests {
		require.Equal(t, tt.want, m.counted(t, tt.lines), tt.name)
		for _, r := range m.Rules {
			if slices.ContainsFunc(tt.lines, regexp.MustCompile(r.Pattern).MatchString) {
				delete(unseen, r.Pattern)
			}
		}
	}
	require.Empty(t, unseen, "no line shows that they match")
}

// Each check is a file beside the monitor, and each condition has a state in which nothing is wrong.
func TestExportersChecksOfTheHostAreThere(t *testing.T) {
	t.Parallel()
	m := readHostMonitor(t)
	limit, err := time.ParseDuration(m.PluginConfig.Timeout)
	require.NoError(t, err)
	for _, r := range m.Rules {
		require.Equal(t, npdDir, filepath.Dir(r.Path))
		require.True(t, strings.HasPrefix(string(exporterFile(t, filepath.Base(r.Path))), "#!/bin/sh\n"), r.Path)
		timeout, err := time.ParseDuration(r.Timeout)
		require.NoError(t, err)
		require.LessOrEqual(t, timeout, limit, "node-problem-detector refuses it")
		require.True(t, slices.ContainsFunc(m.Conditions, func(c npdCondition) bool {
			return c.Type == r.Condition && c.Reason != r.Reason && c.Message != ""
		}), r.Condition)
	}
}

// What a check exits with.
const (
	checkOK = iota
	checkFault
	checkUnknown
)

// hostFile is what a check finds, and how long before the boot it was written.
type hostFile struct {
	path, content string
	before        time.Duration
}

// runCheck runs a check on a host that booted at a time, and returns its exit code and what it says.
func runCheck(t *testing.T, name string, dirs []string, found []hostFile) (code int, says string) {
	t.Helper()
	root, booted := t.TempDir(), time.Unix(1_700_000_000, 0)
	write := func(path, content string, at time.Time) {
		path = filepath.Join(root, path)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		require.NoError(t, os.Chtimes(path, at, at))
	}
	for _, dir := range dirs {
		require.NoError(t, os.MkdirAll(filepath.Join(root, dir), 0o700))
	}
	write("proc/stat", "cpu 1 2 3\nbtime "+strconv.FormatInt(booted.Unix(), 10)+"\nprocesses 1\n", booted)
	for _, f := range found {
		write(f.path, f.content, booted.Add(-f.before))
	}
	cmd := exec.CommandContext(t.Context(), "sh", filepath.Join(chart, "exporters", name))
	cmd.Env = append(os.Environ(), "HOST_ROOT="+root+"/host", "PROC_ROOT="+root+"/proc", "SYS_ROOT="+root+"/sys")
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		require.NoError(t, err)
	}
	return cmd.ProcessState.ExitCode(), strings.TrimSpace(string(out))
}

func TestExportersCheckForPanics(t *testing.T) {
	t.Parallel()
	const (
		pstore = "host/sys/fs/pstore"
		crash  = "host/var/crash"
		minute = time.Minute
	)
	tests := map[string]struct {
		dirs []string
		file hostFile
		want int
	}{
		"nothing":                   {[]string{pstore, crash}, hostFile{}, checkOK},
		"nothing is mounted":        {nil, hostFile{}, checkUnknown},
		"record of the firmware":    {[]string{crash}, hostFile{pstore + "/dmesg-efi_pstore-1", "Panic#1 Part1\n", 2 * minute}, checkFault},
		"record that systemd moved": {nil, hostFile{"host/var/lib/systemd/pstore/17000/dmesg.txt", "Panic#2 Part1\n", -minute}, checkFault},
		"dump":                      {nil, hostFile{crash + "/127.0.0.1-2023-11-14/vmcore", "KDUMP\x00\x00", 10 * minute}, checkFault},
		"dump of Ubuntu":            {nil, hostFile{crash + "/202311142213/dump.202311142213", "KDUMP\x00", 10 * minute}, checkFault},
		"record of an older boot":   {nil, hostFile{pstore + "/dmesg-efi_pstore-1", "Panic#1 Part1\n", 61 * minute}, checkOK},
		"survived oops":             {nil, hostFile{pstore + "/dmesg-efi_pstore-1", "Oops#1 Part1\n", 2 * minute}, checkOK},
		"console of the last boot":  {nil, hostFile{pstore + "/console-ramoops-0", "reboot: Restarting system\n", minute}, checkOK},
		"crash of a program":        {nil, hostFile{crash + "/_usr_bin_python3.1000.crash", "ProblemType: Crash\n", minute}, checkOK},
		"crash of the kernel":       {nil, hostFile{crash + "/linux-image-6.8.0-202311142213.crash", "ProblemType: KernelCrash\n", minute}, checkFault},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var found []hostFile
			if tt.file.path != "" {
				found = append(found, tt.file)
			}
			code, says := runCheck(t, panicCheck, tt.dirs, found)
			require.Equal(t, tt.want, code, says)
			require.NotContains(t, says, "\n")
			if tt.want == checkFault {
				require.Equal(t, "record of a crash: "+strings.TrimPrefix(tt.file.path, "host"), says)
			}
		})
	}
}

func TestExportersCheckForPeerMem(t *testing.T) {
	t.Parallel()
	const (
		driver = "sys/module/nvidia"
		dir    = "host/etc/modules-load.d"
		file   = dir + "/x.conf"
	)
	tests := map[string]struct {
		dirs    []string
		content string
		want    int
	}{
		"no driver":                {[]string{dir}, "", checkOK},
		"folder is not mounted":    {[]string{driver}, "", checkUnknown},
		"no file":                  {[]string{driver, dir}, "", checkFault},
		"other module":             {[]string{driver}, "nvidia\nnvidia-peermem-x\n", checkFault},
		"commented out":            {[]string{driver}, "# nvidia-peermem\n", checkFault},
		"listed":                   {[]string{driver}, "ib_umad\n nvidia-peermem \n", checkOK},
		"listed with underscore":   {[]string{driver}, "nvidia_peermem", checkOK},
		"listed without a newline": {[]string{driver}, "ib_umad\nnvidia-peermem", checkOK},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var found []hostFile
			if tt.content != "" {
				found = append(found, hostFile{path: file, content: tt.content})
			}
			code, says := runCheck(t, peerMemCheck, tt.dirs, found)
			require.Equal(t, tt.want, code, says)
		})
	}
}

// configMaps returns the ConfigMaps for exporters by their names.
func configMaps(t *testing.T, values string) map[string]corev1.ConfigMap {
	t.Helper()
	found := make(map[string]corev1.ConfigMap)
	for _, c := range all[corev1.ConfigMap](t, rendered(t, "heal", noRules+values), "ConfigMap") {
		if c.Name == "aegis-dcgm-counters" || c.Name == "aegis-npd" {
			found[c.Name] = c
		}
	}
	return found
}

// requireFiles demands that the ConfigMap has exactly the files, by its keys. The newline at the end of a manifest is not a
// part of what is decoded.
func requireFiles(t *testing.T, want map[string]string, c corev1.ConfigMap) {
	t.Helper()
	require.Len(t, c.Data, len(want))
	for key, file := range want {
		text := strings.TrimSuffix(string(exporterFile(t, file)), "\n")
		require.Equal(t, text, strings.TrimSuffix(c.Data[key], "\n"), key)
	}
}

func TestExportersAreGivenNothingByDefault(t *testing.T) {
	t.Parallel()
	require.Empty(t, configMaps(t, ""))
}

func TestExportersAreGivenTheirLists(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ values, file, namespace string }{
		"before 4.9":         {"", counters, "heal"},
		"as a number":        {", version: 4.9", counters49, "heal"},
		"elsewhere":          {`, version: "4.9", namespace: gpu-operator`, counters49, "gpu-operator"},
		"before 4.9, as set": {`, version: "4.8"`, counters, "heal"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			found := configMaps(t, "exporters: {dcgm: {enabled: true"+tt.values+"}}")
			require.Len(t, found, 1)
			c := found["aegis-dcgm-counters"]
			require.Equal(t, tt.namespace, c.Namespace)
			requireFiles(t, map[string]string{"metrics": tt.file, "dcgm-metrics.csv": tt.file}, c)
		})
	}
	_, err := renderChart(t, "heal", noRules+`exporters: {dcgm: {enabled: true, version: "5"}}`)
	require.ErrorContains(t, err, `exporters.dcgm.version: "5" is neither "4.8" nor "4.9"`)
}

func TestExportersAreGivenTheirMonitors(t *testing.T) {
	t.Parallel()
	for values, namespace := range map[string]string{"": "heal", ", namespace: kube-system": "kube-system"} {
		found := configMaps(t, "exporters: {npd: {enabled: true"+values+"}}")
		require.Len(t, found, 1)
		c := found["aegis-npd"]
		require.Equal(t, namespace, c.Namespace)
		requireFiles(t, map[string]string{
			kernelMonitor: kernelMonitor, hostMonitor: hostMonitor, panicCheck: panicCheck, peerMemCheck: peerMemCheck,
		}, c)
	}
}

// Whoever enables a ConfigMap has to mount it, and the page says how.
func TestExportersAreOnThePage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join(docs, "configuration.md"))
	require.NoError(t, err)
	for _, text := range []string{
		"exporters.dcgm.enabled", "exporters.dcgm.version", "exporters.npd.enabled", "`aegis-dcgm-counters`", "`aegis-npd`",
		"dcgm-metrics.csv", npdDir + "/" + kernelMonitor, npdDir + "/" + hostMonitor,
	} {
		require.Contains(t, string(page), text)
	}
	for _, file := range npdConditions() {
		require.Contains(t, string(page), file)
	}
}
