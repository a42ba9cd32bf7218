package wire

import (
	"bytes"
	"cmp"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/common/promslog"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	promrules "github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/util/teststorage"
	promapi "github.com/prometheus/prometheus/web/api/v1"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"aegis.io/aegis/cmd"
	"aegis.io/aegis/coverage"
	"aegis.io/aegis/queue/source"
	"aegis.io/aegis/rules"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/procedures"
)

const chart = "../../charts/aegis"

// site is a small cluster with the exporters that the rules of the chart need: two nodes with GPUs and one without.
type site struct {
	series []string
	files  []string // Of rules, by their names.
	// fails and stuck are alerts whose rule fails or is not evaluated any more.
	fails, stuck string
	// early is for how many steps before the end the rules are evaluated, two if it is 0.
	early int64
}

// older takes the recording of evidence out of the rules.
func (s *site) older(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	for i, name := range s.files {
		raw, err := os.ReadFile(name)
		require.NoError(t, err)
		before, _, _ := bytes.Cut(raw, []byte("    # What shows that a node is seen:"))
		s.files[i] = filepath.Join(dir, filepath.Base(name))
		require.NoError(t, os.WriteFile(s.files[i], before, 0o600))
	}
}

func (s *site) add(format string, args ...any) {
	s.series = append(s.series, fmt.Sprintf(format, args...)+fmt.Sprintf(" 1+0x%d", ninetyMinutes))
}

// without takes the series away that hold the text.
func (s *site) without(text string) *site {
	s.series = slices.DeleteFunc(s.series, func(line string) bool { return strings.Contains(line, text) })
	return s
}

// end ends the series that hold the text so many steps ago.
func (s *site) end(text string, ago int) {
	for i, line := range s.series {
		if strings.Contains(line, text) {
			s.series[i] = strings.Replace(line, fmt.Sprintf("0x%d", ninetyMinutes), fmt.Sprintf("0x%d stale", ninetyMinutes-ago), 1)
		}
	}
	s.early = int64(ago) + 10
}

// replace changes the series that begin with the prefix.
func (s *site) replace(prefix, before, after string) *site {
	for i, line := range s.series {
		if strings.HasPrefix(line, prefix) {
			s.series[i] = strings.ReplaceAll(line, before, after)
		}
	}
	return s
}

// healthySite returns the site where everything is as the pages say.
func healthySite(t *testing.T) *site {
	t.Helper()
	s := &site{}
	for _, node := range []string{"gpu-0", "gpu-1", "cpu-0"} {
		s.add(`kube_node_info{job="kube-state-metrics",node=%q,internal_ip="10.0.0.%d"}`, node, len(s.series))
		for _, condition := range []string{"Ready", "DiskPressure", "MemoryPressure"} {
			s.add(`kube_node_status_condition{job="kube-state-metrics",node=%q,condition=%q,status="true"}`, node, condition)
		}
		s.add(`up{job="kubelet",node=%q}`, node)
		for _, metric := range []string{
			`node_boot_time_seconds{`, `node_load15{`, `node_procs_blocked{`, `node_processes_state{state="S",`, `node_processes_max_processes{`,
			`node_pressure_cpu_waiting_seconds_total{`, `node_memory_MemAvailable_bytes{`,
			`node_cpu_seconds_total{cpu="0",mode="idle",`, `node_filesystem_size_bytes{mountpoint="/",`, `node_network_up{device="eth0",`,
		} {
			s.add(`%sjob="node-exporter",node=%q}`, metric, node)
		}
	}
	for _, node := range []string{"gpu-0", "gpu-1"} {
		s.add(`kube_node_status_capacity{job="kube-state-metrics",node=%q,resource="nvidia_com_gpu"}`, node)
		for _, field := range counters(t) {
			s.add(`%s{job="dcgm-exporter",Hostname=%q,gpu="0",UUID="GPU-%s"}`, field, node, node)
		}
	}
	var err error
	s.files, err = filepath.Glob(chart + "/rules/*.yaml")
	require.NoError(t, err)
	return s
}

// counters returns the fields in the list of the chart.
func counters(t *testing.T) []string {
	t.Helper()
	file, err := os.Open(chart + "/exporters/dcgm-counters.csv")
	require.NoError(t, err)
	defer func() { require.NoError(t, file.Close()) }()
	r := csv.NewReader(file)
	r.Comment, r.FieldsPerRecord, r.LazyQuotes = '#', -1, true
	rows, err := r.ReadAll()
	require.NoError(t, err)
	var names []string
	for _, row := range rows {
		names = append(names, row[0])
	}
	return names
}

// auto are the conditions that the site has Aegis repair by itself.
const auto = `conditions:
- {name: GpuHung, policy: {mode: auto}}
- {name: GpuDown, policy: {mode: auto}}
- {name: Xid79GPULost, policy: {mode: auto}}
- {name: NodeNotReady, policy: {mode: auto}}
- {name: CPUPressure, policy: {mode: auto}}
`

// serve serves the site as Prometheus does, with its rules evaluated by Prometheus.
func (s *site) serve(t *testing.T) *served {
	t.Helper()
	storage := promqltest.LoadedStorage(t, "load 30s\n\t"+strings.Join(s.series, "\n\t")+"\n")
	engine := promql.NewEngine(promql.EngineOpts{
		Logger: promslog.NewNopLogger(), MaxSamples: 50_000_000, Timeout: time.Minute, Parser: parser.NewParser(parser.Options{}),
	})
	v := &served{t: t, groups: s.groups(t, storage, engine)}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body []byte
		var err error
		switch {
		case v.silent:
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		case r.URL.Path == "/api/v1/rules" && v.ruleless:
			w.WriteHeader(http.StatusNotFound)
			return
		case r.URL.Path == "/api/v1/rules":
			body, err = json.Marshal(map[string]any{"status": "success", "data": promapi.RuleDiscovery{RuleGroups: v.groups}})
		default:
			v.queries.Add(1)
			body, err = evaluated(r.Context(), engine, storage, r.FormValue("query"))
		}
		if err != nil {
			t.Errorf("%s: %v", r.FormValue("query"), err)
		}
		if _, err := w.Write(body); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	v.url = server.URL
	return v
}

// served is a site that is asked.
type served struct {
	t                *testing.T
	url              string
	groups           []*promapi.RuleGroup
	queries          atomic.Int64
	silent, ruleless bool
}

// groups evaluates the rules for the last minutes, and returns them as Prometheus lists them.
func (s *site) groups(t *testing.T, storage *teststorage.TestStorage, engine *promql.Engine) []*promapi.RuleGroup {
	t.Helper()
	var files []string
	for _, name := range s.files {
		raw, err := os.ReadFile(name)
		require.NoError(t, err)
		var manifest struct {
			Spec any `json:"spec"`
		}
		require.NoError(t, yaml.Unmarshal(raw, &manifest))
		text, err := yaml.Marshal(manifest.Spec)
		require.NoError(t, err)
		file := filepath.Join(t.TempDir(), filepath.Base(name))
		require.NoError(t, os.WriteFile(file, text, 0o600))
		files = append(files, file)
	}
	manager := promrules.NewManager(&promrules.ManagerOptions{
		QueryFunc: promrules.EngineQueryFunc(engine, storage), AppendableV2: storage, Queryable: storage, Context: t.Context(),
		Logger: promslog.NewNopLogger(), NotifyFunc: func(_ context.Context, _ string, _ ...*promrules.Alert) {},
	})
	loaded, errs := manager.LoadGroups(30*time.Second, labels.EmptyLabels(), "", nil, false, files...)
	require.Empty(t, errs)
	var all []*promapi.RuleGroup
	for _, g := range loaded {
		for _, r := range g.AlertingRules() {
			r.SetRestored(true)
		}
		early := cmp.Or(s.early, 2)
		for i := range early + 1 {
			g.Eval(t.Context(), time.Unix(ninetyMinutes*30-30*(early-i), 0))
		}
		all = append(all, s.ruleGroup(g))
	}
	return all
}

func (s *site) ruleGroup(g *promrules.Group) *promapi.RuleGroup {
	out := &promapi.RuleGroup{Name: g.Name(), Interval: g.Interval().Seconds()}
	for _, r := range g.Rules() {
		at := time.Unix(ninetyMinutes*30, 0)
		var failure string
		if r.LastError() != nil {
			failure = r.LastError().Error()
		}
		health := r.Health()
		switch r.Name() {
		case s.fails:
			health, failure = promrules.HealthBad, "found duplicate series for the match group"
		case s.stuck:
			at = time.Unix(1800, 0).UTC()
		}
		switch r := r.(type) {
		case *promrules.AlertingRule:
			out.Rules = append(out.Rules, promapi.AlertingRule{
				Name: r.Name(), Query: r.Query().String(), Labels: r.Labels(), Health: health, LastError: failure, LastEvaluation: at, Type: "alerting",
			})
		case *promrules.RecordingRule:
			out.Rules = append(out.Rules, promapi.RecordingRule{
				Name: r.Name(), Query: r.Query().String(), Labels: r.Labels(), Health: health, LastError: failure, LastEvaluation: at, Type: "recording",
			})
		}
	}
	return out
}

// run runs the command, and returns its exit code and what it reports.
func (v *served) run(args ...string) (int, coverage.Report, string) {
	v.t.Helper()
	conditions := filepath.Join(v.t.TempDir(), "conditions.yaml")
	require.NoError(v.t, os.WriteFile(conditions, []byte(auto), 0o600))
	var stdout, stderr bytes.Buffer
	all := append([]string{"coverage", "--output", "json"}, args...)
	if v.url != "" {
		all = append(all, "--prometheus", v.url)
	}
	code := cmd.Run(append(all, conditions), &stdout, &stderr, procedures.Table())
	var r coverage.Report
	if stdout.Len() > 0 {
		require.NoError(v.t, json.Unmarshal(stdout.Bytes(), &r), stdout.String())
	}
	return code, r, stderr.String()
}

func conditionOf(t *testing.T, r coverage.Report, name string) coverage.Condition {
	t.Helper()
	for _, c := range r.Conditions {
		if c.Name == name {
			return c
		}
	}
	require.Fail(t, "no condition "+name)
	return coverage.Condition{}
}

// reasons returns why a condition is blind, one line for each reason.
func reasons(c coverage.Condition) string {
	var lines []string
	for _, b := range c.Blind {
		for _, w := range b.Why {
			lines = append(lines, fmt.Sprintf("%s|%s|%s|%s", strings.Join(b.Nodes, ","), w.Source, w.Reason, w.Set))
		}
	}
	return strings.Join(lines, "\n")
}

func blindOf(r coverage.Report, types ...string) []string {
	var names []string
	for _, c := range r.Conditions {
		if c.IsBlind() && slices.Contains(types, c.Type) {
			names = append(names, c.Name+": "+reasons(c))
		}
	}
	return names
}

func TestCoverageOfAHealthySite(t *testing.T) {
	t.Parallel()
	v := healthySite(t).serve(t)
	code, r, stderr := v.run()
	require.Zero(t, code, "%s %v", stderr, blindOf(r, "gpu", "node", "cpu"))
	require.Empty(t, stderr)
	require.Equal(t, 3, r.Nodes)
	require.Equal(t, "kube_node_info", r.NodesFrom)
	hung := conditionOf(t, r, "GpuHung")
	require.Equal(t, 2, hung.Nodes, "a node without GPUs cannot have it")
	require.Equal(t, 2, hung.Seen)
	require.Equal(t, 3, conditionOf(t, r, "CPUPressure").Seen)
	require.LessOrEqual(t, v.queries.Load(), int64(20))
	for _, name := range []string{"HighZombieProcessesCount", "HighDProcessesCount", "DiskPressure", "NodeHasRestarted"} {
		require.False(t, conditionOf(t, r, name).IsBlind(), name)
	}
	optional := []string{"sichek", "gpud", "node-problem-detector", "site"}
	for _, c := range r.Conditions {
		dcgm := slices.ContainsFunc(c.Sources, func(s coverage.Source) bool { return strings.HasSuffix(s.Name, "/dcgm-exporter") })
		require.False(t, dcgm && c.IsBlind(), "with the chart's list of counters nothing that dcgm-exporter shows is blind: %s: %s", c.Name, reasons(c))
		for _, b := range c.Blind {
			for _, w := range b.Why {
				_, exporter, _ := strings.Cut(w.Source, "/")
				if slices.Contains(optional, exporter) {
					require.Contains(t, w.Reason, "no series of ", c.Name)
				}
			}
		}
	}
}

func TestCoverageSaysWhatIsBlindAndWhatToSet(t *testing.T) {
	t.Parallel()
	lost := func(name string) func(*testing.T, *site) {
		return func(t *testing.T, s *site) {
			t.Helper()
			s.files = slices.DeleteFunc(s.files, func(file string) bool { return filepath.Base(file) == name })
		}
	}
	tests := map[string]struct {
		change    func(*testing.T, *site)
		served    func(*served)
		args      []string
		code      int
		blind     bool // Although it is in another mode than auto.
		condition string
		seen      string
		says      []string
	}{
		"an exporter is gone": {
			change: func(_ *testing.T, s *site) { s.without("dcgm-exporter") }, code: 1, condition: "GpuHung", seen: "0/2",
			says: []string{"gpu-0,gpu-1|gpu/dcgm-exporter|no series of DCGM_FI_DEV_GPU_TEMP or DCGM_FI_DEV_GPU_TEMP_CELSIUS|", "Run dcgm-exporter"},
		},
		"an exporter is gone from one node": {
			change: func(_ *testing.T, s *site) { s.without(`Hostname="gpu-1"`) }, code: 1, condition: "GpuHung", seen: "1/2",
			says: []string{"gpu-1|gpu/dcgm-exporter|no series of DCGM_FI_DEV_GPU_TEMP or DCGM_FI_DEV_GPU_TEMP_CELSIUS of this node|"},
		},
		"an exporter died lately": {
			change: func(_ *testing.T, s *site) { s.end(`Hostname="gpu-1"`, 20) }, code: 1, condition: "GpuHung", seen: "1/2",
			says: []string{"gpu-1|gpu/dcgm-exporter|last sample from this node 10 minutes ago, older than prometheus.maxAge (2 minutes)|Bring the exporter back"},
		},
		"an exporter dies at this moment": {
			change: func(_ *testing.T, s *site) { s.end(`Hostname="gpu-1"`, 2) }, code: 1, condition: "GpuHung", seen: "1/2",
			says: []string{"gpu-1|gpu/dcgm-exporter|last sample from this node 1 minute ago|Bring the exporter back"},
		},
		"the label node is missing": {
			change: func(_ *testing.T, s *site) { s.replace("node_", ",node=", ",instance=") }, code: 1, condition: "CPUPressure", seen: "0/3",
			says: []string{`cpu/node_exporter|3 series of node_cpu_seconds_total (job node-exporter) have no label node|Set the label node to the name of the node in the relabelling`},
		},
		"dcgm-exporter does not know its node": {
			change: func(_ *testing.T, s *site) { s.replace("DCGM_", `Hostname="gpu-`, `Hostname="dcgm-exporter-x7k2`) }, code: 1, condition: "GpuHung", seen: "0/2",
			says: []string{`its label node does not match any node (for example "dcgm-exporter-x7k20")|Set NODE_NAME in the environment of dcgm-exporter`},
		},
		"labels are not honored": {
			change: func(_ *testing.T, s *site) {
				s.replace("kube_node_status", `node="`, `node="cpu-0",exported_node="`)
			}, code: 1, condition: "NodeNotReady", seen: "0/3",
			says: []string{"series of kube_node_status_condition (job kube-state-metrics) have the label exported_node: the scrape does not honor labels|Set honorLabels: true"},
		},
		"a field is not in the list of counters": {
			change: func(_ *testing.T, s *site) { s.without("DCGM_FI_PROF_DRAM_ACTIVE") }, code: 1, condition: "GpuHung", seen: "0/2",
			says: []string{"gpu-0,gpu-1|dcgm-exporter|the node has no series of DCGM_FI_PROF_DRAM_ACTIVE or DCGM_FI_PROF_DRAM_UTIL_RATIO, without which the alert cannot fire|Put one of these fields into the list"},
		},
		"XIDs are not counted": {
			change: func(_ *testing.T, s *site) { s.without("DCGM_EXP_XID") }, code: 1, condition: "Xid79GPULost", seen: "0/2",
			says: []string{"the node has no series of DCGM_EXP_XID_ERRORS_COUNT or DCGM_EXP_XID_ERRORS_TOTAL, without which"},
		},
		"a collector is off": {
			change: func(_ *testing.T, s *site) { s.without("node_processes_state") }, condition: "HighZombieProcessesCount", seen: "0/3", blind: true,
			says: []string{`cpu-0,gpu-0,gpu-1|node_exporter|the node has no series of node_processes_`, "--collector.processes"},
		},
		"the alerting rule is not loaded": {
			change: lost("gpu.yaml"), code: 1, condition: "GpuHung", seen: "0/2",
			says: []string{"gpu-0,gpu-1||no alerting rule of this condition is loaded|Install the rules of the chart"},
		},
		"rules of before evidence": {
			change: func(t *testing.T, s *site) { s.older(t) }, code: 1, condition: "CPUPressure", seen: "0/3",
			says: []string{"cpu/node_exporter|no rule that records aegis:evidence of it is loaded|Install the rules of the chart of this version"},
		},
		"the canary does not fire": {
			change: lost("aegis.yaml"), code: 1, condition: "CPUPressure", seen: "0/3",
			says: []string{`||the canary alert "Watchdog" does not fire|Have an alert Watchdog fire all the time`},
		},
		"a rule fails": {
			change: func(_ *testing.T, s *site) {
				s.fails = "GpuHung"
			}, code: 1, condition: "GpuHung", seen: "0/2",
			says: []string{"the rule of alert GpuHung fails: its last evaluation failed: "},
		},
		"a rule is not evaluated": {
			change: func(_ *testing.T, s *site) { s.stuck = "GpuHung" }, code: 1, condition: "GpuHung", seen: "0/2",
			says: []string{"the rule of alert GpuHung was last evaluated at 1970-01-01T00:30:00Z|Find out why Prometheus skips this group"},
		},
		"kube-state-metrics is gone": {
			change: func(_ *testing.T, s *site) { s.without("kube_node_info") }, condition: "CPUPressure", seen: "3/3",
		},
		"a type that the cluster does not have": {
			change: func(_ *testing.T, s *site) { s.without("dcgm-exporter") }, args: []string{"-without", "gpu"}, condition: "GpuHung", seen: "0/2",
		},
		"a server that does not tell of rules": {
			served: func(v *served) { v.ruleless = true }, condition: "GpuHung", seen: "2/2",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := healthySite(t)
			if tt.change != nil {
				tt.change(t, s)
			}
			v := s.serve(t)
			if tt.served != nil {
				tt.served(v)
			}
			code, r, stderr := v.run(tt.args...)
			require.Empty(t, stderr)
			c := conditionOf(t, r, tt.condition)
			why := reasons(c)
			require.Equal(t, tt.seen, fmt.Sprintf("%d/%d", c.Seen, c.Nodes), why)
			for _, text := range tt.says {
				require.Contains(t, why, text)
			}
			require.Equal(t, tt.code, code)
			require.Equal(t, tt.code == 1 || tt.blind, c.IsBlind())
			require.LessOrEqual(t, v.queries.Load(), int64(20))
		})
	}
}

func TestCoverageOfAServerThatGivesNoAnswer(t *testing.T) {
	t.Parallel()
	v := healthySite(t).serve(t)
	v.silent = true
	code, _, stderr := v.run()
	require.Equal(t, 2, code)
	require.Contains(t, stderr, "answers with status 503")
}

// A node of the cluster that no exporter sees is missed where the API server says that it is there.
func TestCoverageMissesNodesOfTheAPIServer(t *testing.T) {
	t.Parallel()
	p, err := source.NewPrometheus(source.PrometheusOptions{URL: healthySite(t).serve(t).url})
	require.NoError(t, err)
	catalogue, err := rules.Load(rules.Options{})
	require.NoError(t, err)
	var nodes []coverage.Node
	for _, name := range []string{"gpu-0", "gpu-1", "gpu-2", "cpu-0"} {
		nodes = append(nodes, coverage.Node{NodeInfo: rules.NodeInfo{Name: name}, GPUs: strings.HasPrefix(name, "gpu")})
	}
	r, err := coverage.Ask(t.Context(), coverage.Options{Servers: []*source.Prometheus{p}, Catalogue: catalogue, Nodes: nodes})
	require.NoError(t, err)
	require.Equal(t, "the API server", r.NodesFrom)
	c := conditionOf(t, r, "GpuHung")
	require.Equal(t, "2/3", fmt.Sprintf("%d/%d", c.Seen, c.Nodes))
	require.Equal(t, []string{"gpu-2"}, c.Blind[0].Nodes)
	require.Len(t, c.Blind[0].Why, 1, "an exporter that the site does not have is no matter: %v", c.Blind)
}

// Of two shards each sees its nodes. What a shard without a canary sees proves nothing.
func TestCoverageOfShards(t *testing.T) {
	t.Parallel()
	shard := func(lost, rules string) string {
		s := healthySite(t)
		s.series = slices.DeleteFunc(s.series, func(line string) bool { return !strings.HasPrefix(line, "kube_") && strings.Contains(line, lost) })
		s.files = slices.DeleteFunc(s.files, func(file string) bool { return filepath.Base(file) == rules })
		return s.serve(t).url
	}
	both := func(first, second string) (int, coverage.Report) {
		file := filepath.Join(t.TempDir(), "aegis.yaml")
		require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, "prometheus: {servers: [{url: %q}, {url: %q}]}\n", first, second), 0o600))
		code, r, stderr := (&served{t: t}).run("-config", file)
		require.Empty(t, stderr)
		return code, r
	}
	first := shard("gpu-1", "")
	code, r := both(first, shard("gpu-0", ""))
	require.Zero(t, code)
	require.Equal(t, 2, conditionOf(t, r, "GpuHung").Seen)

	code, r = both(first, shard("gpu-0", "aegis.yaml"))
	require.Equal(t, 1, code)
	c := conditionOf(t, r, "GpuHung")
	require.Equal(t, 1, c.Seen)
	require.Contains(t, reasons(c), "does not fire")
	require.Contains(t, reasons(c), first+": no series of DCGM_FI_DEV_GPU_TEMP")
}

// People read the same as machines.
func TestCoverageInWords(t *testing.T) {
	t.Parallel()
	v := healthySite(t).without(`Hostname="gpu-1"`).serve(t)
	var stdout, stderr bytes.Buffer
	require.Zero(t, cmd.Run([]string{"coverage", "-prometheus", v.url, "-without", "ib,roce"}, &stdout, &stderr, procedures.Table()), "in mode observe nothing is to be repaired")
	for _, text := range []string{
		"3 nodes (kube_node_info), asked " + v.url + "\n",
		"note: No node is known to have GPFS, so each is taken to have it. Where none has, set -without gpfs.\n",
		"\nblind, mode observe:\n",
		"  on gpu-1\n    gpu/dcgm-exporter: no series of DCGM_FI_DEV_GPU_TEMP or DCGM_FI_DEV_GPU_TEMP_CELSIUS of this node\n      fix: Run dcgm-exporter",
	} {
		require.Contains(t, stdout.String(), text)
	}
	require.Regexp(t, `(?m)^observe +GpuHung +1/2 +gpu/dcgm-exporter 1, gpu/sichek 0$`, stdout.String())
	require.Regexp(t, `(?m)^observe +IBDown +- *$`, stdout.String())
	require.Regexp(t, `(?m)^mode observe: \d+ of \d+ conditions are blind on at least one node$`, stdout.String())
	require.NotContains(t, stdout.String(), "InfiniBand")
}

// A condition that a query of the configuration finds needs no rule. The query names it, or a label of its series.
func TestCoverageOfSources(t *testing.T) {
	t.Parallel()
	s := healthySite(t)
	s.add(`aegis_node_status_condition{node="gpu-0",condition="KernelPanic"}`)
	v := s.serve(t)
	file := filepath.Join(t.TempDir(), "aegis.yaml")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, `
prometheus: {url: %q}
sources:
- {name: loss, query: node_load15, condition: GatewayUnreachable, above: 1000}
- {name: words, query: aegis_node_status_condition, above: 1}
`, v.url), 0o600))
	_, r, stderr := v.run("-config", file)
	require.Empty(t, stderr)
	require.Equal(t, 3, conditionOf(t, r, "GatewayUnreachable").Seen)
	require.Contains(t, conditionOf(t, r, "GatewayUnreachable").Sources, coverage.Source{Name: "query loss", Seen: 3})
	require.Equal(t, 1, conditionOf(t, r, "KernelPanic").Seen)
	require.Contains(t, reasons(conditionOf(t, r, "KernelPanic")), "cpu-0,gpu-1|query words|the query has no series of this node")
}

// What a preset would turn on can be asked before.
func TestCoverageOfAPreset(t *testing.T) {
	t.Parallel()
	v := healthySite(t).serve(t)
	code, r, stderr := v.run("-preset", "unattended")
	require.Empty(t, stderr)
	require.Equal(t, 1, code)
	require.Equal(t, prom.ModeAuto, conditionOf(t, r, "GpfsDown").Mode)
	require.True(t, conditionOf(t, r, "GpfsDown").IsBlind(), "nobody has said that the site has no GPFS")
	code, r, stderr = v.run("-preset", "unattended", "-without", "gpfs,ib,roce,peermem,KernelPanic,GatewayUnreachable")
	require.Empty(t, stderr)
	require.Zero(t, code)
	require.True(t, conditionOf(t, r, "GpfsDown").Without)
}

// The alerts of XIDs read only what aegis:gpu_xid_new records. While that rule fails no XID can be seen.
func TestCoverageSeesNoXIDWhileItsRecordingRuleFails(t *testing.T) {
	t.Parallel()
	s := healthySite(t)
	s.fails = "aegis:gpu_xid_new"
	code, r, stderr := s.serve(t).run()
	require.Empty(t, stderr)
	require.Zero(t, conditionOf(t, r, "Xid79GPULost").Seen)
	require.Equal(t, 1, code)
}

// Machines outside of the cluster that have no label node do not say why a node of the cluster is not seen.
func TestCoverageTellsForeignMachinesFromTheNode(t *testing.T) {
	t.Parallel()
	s := healthySite(t)
	s.series = slices.DeleteFunc(s.series, func(line string) bool {
		return strings.HasPrefix(line, "node_") && strings.Contains(line, `node="gpu-1"`)
	})
	s.add(`node_cpu_seconds_total{job="storage-servers",instance="nfs-1:9100",cpu="0",mode="idle"}`)
	_, r, stderr := s.serve(t).run()
	require.Empty(t, stderr)
	c := conditionOf(t, r, "CPUPressure")
	require.Equal(t, 2, c.Seen)
	require.Contains(t, reasons(c), "of this node")
	require.NotContains(t, reasons(c), "Set the label node", "the two nodes that are seen have it")
}

// Without the inventory no rule records aegis:roce_device, and without that RoceDeviceBroken cannot fire, unless aegis:expected_devices
// and aegis:roce_device are there.
func TestCoverageSeesNoRoCEWithoutTheInventory(t *testing.T) {
	t.Parallel()
	_, r, stderr := healthySite(t).serve(t).run()
	require.Empty(t, stderr)
	require.Zero(t, conditionOf(t, r, "RoceDeviceBroken").Seen)
}

// node_exporter has the counters of EDAC of each memory controller, errors or not. Where the kernel has no driver for them, and nobody asks
// the BMC, MemoryUnhealthy cannot fire.
func TestCoverageMissesTheCountersOfEDAC(t *testing.T) {
	t.Parallel()
	_, r, stderr := healthySite(t).serve(t).run()
	require.Empty(t, stderr)
	require.Zero(t, conditionOf(t, r, "MemoryUnhealthy").Seen)
}

// The command says of an exporter that the site does not have: "take it out of evidence of the condition". Whoever does so has still no
// exporter that has the series of the alert, so the condition is as blind as before.
func TestCoverageIsNotMendedByTakingTheExporterOutOfTheEvidence(t *testing.T) {
	t.Parallel()
	for _, evidence := range []string{"[system/node_exporter]", "[]"} {
		file := filepath.Join(t.TempDir(), "ours.yaml")
		require.NoError(t, os.WriteFile(file, []byte("conditions: [{name: KernelPanic, evidence: "+evidence+"}]\n"), 0o600))
		var stdout, stderr bytes.Buffer
		v := healthySite(t).serve(t)
		cmd.Run([]string{"coverage", "-output", "json", "-prometheus", v.url, file}, &stdout, &stderr, procedures.Table())
		require.Empty(t, stderr.String())
		var r coverage.Report
		require.NoError(t, json.Unmarshal(stdout.Bytes(), &r))
		require.Zero(t, conditionOf(t, r, "KernelPanic").Seen, evidence)
	}
}
