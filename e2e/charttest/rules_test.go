// Package charttest holds the chart to what the product promises of it. Of the alert rules that is what promtool can say:
// it accepts them, their unit tests pass, and those notice a rule that is wrong. That each condition has a rule, tests and
// a page is tested beside the table of procedures.
package charttest

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"aegis.io/aegis/rules"
)

const (
	chart    = "../../charts/aegis"
	docs     = "../../docs"
	promtool = "../../bin/promtool"
	watchdog = "Watchdog"
	baseURL  = "https://aegis.io/docs/"
	// selfFile has the alerts on Aegis itself. They are for people: Aegis takes none of them for a condition.
	selfFile = "aegis"
)

// conditions returns the names of the conditions, which are those of their alerts as well.
func conditions(t *testing.T) []string {
	t.Helper()
	catalogue, err := rules.Load(rules.Options{})
	require.NoError(t, err)
	var names []string
	for _, c := range catalogue.Conditions() {
		names = append(names, c.Name)
	}
	return names
}

// manifest is a PrometheusRule.
type manifest struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Metadata   metadata `json:"metadata"`
	Spec       spec     `json:"spec"`
}

type metadata struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels"`
}

type spec struct {
	Groups []group `json:"groups"`
}

type group struct {
	Name  string `json:"name"`
	Rules []rule `json:"rules"`
}

// rule is an alert, or records what alerts share.
type rule struct {
	Alert         string            `json:"alert,omitempty"`
	Record        string            `json:"record,omitempty"`
	Expr          string            `json:"expr"`
	For           string            `json:"for,omitempty"`
	KeepFiringFor string            `json:"keep_firing_for,omitempty"`
	Labels        map[string]string `json:"labels,omitempty"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

// unitTest is the part of a promtool test file that says which rules it is about, and which alerts it expects when.
type unitTest struct {
	RuleFiles []string `json:"rule_files"`
	Tests     []struct {
		AlertRuleTest []struct {
			Alertname string           `json:"alertname"`
			ExpAlerts []map[string]any `json:"exp_alerts"`
		} `json:"alert_rule_test"`
	} `json:"tests"`
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(chart, dir, "*.yaml"))
	require.NoError(t, err)
	require.NotEmpty(t, names, "no files in %s", dir)
	return names
}

func readRules(t *testing.T, file string) manifest {
	t.Helper()
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	var m manifest
	require.NoError(t, yaml.UnmarshalStrict(raw, &m), file)
	return m
}

func (m manifest) rules() []rule {
	var all []rule
	for _, g := range m.Spec.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

func readUnitTest(t *testing.T, file string) unitTest {
	t.Helper()
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	var u unitTest
	require.NoError(t, yaml.Unmarshal(raw, &u), file)
	return u
}

// ruleFile and testFile return the files of a domain.
func ruleFile(name string) string { return filepath.Join(chart, "rules", name+".yaml") }
func testFile(name string) string { return filepath.Join(chart, "tests", name+"_test.yaml") }

// extract writes the spec of a manifest to dir: promtool knows rule files, not PrometheusRule objects, in which it would
// find no rule at all.
func extract(t *testing.T, file, dir string) string {
	t.Helper()
	raw, err := yaml.Marshal(readRules(t, file).Spec)
	require.NoError(t, err)
	target := filepath.Join(dir, filepath.Base(file))
	require.NoError(t, os.WriteFile(target, raw, 0o600))
	return target
}

// runPromtool returns what promtool says, which is its verdict as text whether it succeeds or not.
func runPromtool(t *testing.T, args ...string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), promtool, args...).CombinedOutput()
	return string(out), err
}

func TestPromtoolAcceptsTheRules(t *testing.T) {
	t.Parallel()
	counted := regexp.MustCompile(`SUCCESS: (\d+) rules found`)
	for _, file := range files(t, "rules") {
		out, err := runPromtool(t, "check", "rules", "--lint=all", "--lint-fatal", extract(t, file, t.TempDir()))
		require.NoError(t, err, out)
		match := counted.FindStringSubmatch(out)
		require.NotNil(t, match, "no count of %s in: %s", file, out)
		n, err := strconv.Atoi(match[1])
		require.NoError(t, err)
		require.Positive(t, n, "promtool finds no rule in %s", file)
		require.Len(t, readRules(t, file).rules(), n, "promtool finds other rules in %s", file)
	}
}

func TestPromtoolPassesTheUnitTests(t *testing.T) {
	t.Parallel()
	for _, file := range files(t, "tests") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			out, err := runPromtool(t, "test", "rules", "--diff", stage(t, file))
			require.NoError(t, err, out)
		})
	}
}

// stage lays a unit test and its rules next to each other, as its rule_files expect them.
func stage(t *testing.T, file string) string {
	t.Helper()
	dir := t.TempDir()
	names := readUnitTest(t, file).RuleFiles
	require.NotEmpty(t, names, "%s is about no rules", file)
	for _, name := range names {
		extract(t, filepath.Join(chart, "rules", name), dir)
	}
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	target := filepath.Join(dir, filepath.Base(file))
	require.NoError(t, os.WriteFile(target, raw, 0o600))
	return target
}

// Each change makes one of the rules too eager or too slow. The unit tests must notice.
func TestUnitTestsNoticeAChangedRule(t *testing.T) {
	t.Parallel()
	changes := map[string]struct{ file, old, replacement string }{
		"not ready at once":              {"node", "for: 1m", "for: 0m"},
		"a missed scrape resolves":       {"node", `last_over_time(kube_node_status_condition{condition="Ready",status="true",node!="",exported_node=""}[3m])`, `kube_node_status_condition{condition="Ready",status="true",node!="",exported_node=""}`},
		"a stale replica outvotes":       {"node", "max by (node) (last_over_time(kube_node_status_condition", "min by (node) (last_over_time(kube_node_status_condition"},
		"the node of the scrape":         {"node", `,exported_node=""`, ""},
		"the pod of the scrape":          {"node", `,exported_pod=""`, ""},
		"one namespace is enough":        {"node", ">= 2", ">= 1"},
		"a lower error count":            {"node", "> 10\n", "> 9\n"},
		"waiting for I/O is busy":        {"cpu", `mode=~"idle|iowait"`, `mode="idle"`},
		"a sensor that warns":            {"cpu", "== 2", ">= 1"},
		"a fuller node":                  {"memory", "< 0.05", "<= 0.05"},
		"a drive without SMART":          {"disk", "% 2 == 1", ">= 0"},
		"a mount after the boot":         {"gpfs", "< 900", "< 0"},
		"a command of GPFS that failed":  {"gpfs", `gpfs_exporter_collect_error{collector="mmgetstate"} > 0`, `gpfs_exporter_collect_error{collector="mmgetstate"} > 1`},
		"a port that was never up":       {"network", `max by (node, device) (max_over_time(node_network_up{node!="",exported_node="",device=~"(en|eth)[A-Za-z0-9]+",device!~"eni[0-9a-f]+|enx[0-9a-f]+|en.*[0-9]u[0-9].*|.*[0-9]v[0-9]+|.*pf[0-9].*|.+f[0-9]+(np[0-9]+)?s[0-9]+"}[1d])) == 1`, `max by (node, device) (last_over_time(node_network_up{node!="",exported_node=""}[3m])) == 0`},
		"two losses of the link":         {"ib", ">= 3", ">= 2"},
		"a link that is being trained":   {"ib", ">= 2 <= 3", ">= 2 <= 4"},
		"a port that was never active":   {"roce", `(max_over_time(node_infiniband_state_id{node!="",exported_node=""}[7d])) >= 4`, `(max_over_time(node_infiniband_state_id{node!="",exported_node=""}[7d])) >= 3`},
		"a higher power limit":           {"gpu", "< 0.25 *", "<= 0.25 *"},
		"the old name of a field only":   {"gpu", "max_over_time(DCGM_FI_DEV_BOARD_POWER_WATTS[5m])", "max_over_time(DCGM_FI_DEV_POWER_USAGE[5m])"},
		"GPUs that went altogether":      {"gpu", "max by (node) (last_over_time(kube_node_info{node!=\"\",exported_node=\"\"}[3m])) * 0", "vector(0)"},
		"an old XID after a gap":         {"gpu-xid", "and on (UUID) (DCGM_FI_DEV_GPU_TEMP offset 10m or DCGM_FI_DEV_GPU_TEMP_CELSIUS offset 10m)", ""},
		"XID pulses that do not survive": {"gpu-xid", "keep_firing_for: 5m", "keep_firing_for: 1m"},
		"an error of a user":             {"node", `code=~"CreateContainerError|RunContainerError",`, ""},
		"an array that is rebuilt":       {"disk", "inactive|recovering", "inactive"},
		"a root that is an image":        {"disk", `[3m]) == 1,`, `[3m]) == 2,`},
		"a mount that never was":         {"gpfs", `and on (node, mount) max_over_time(gpfs_mount_status{node!="",exported_node=""}[7d]) == 1`, ""},
		"a virtual function":             {"network", "|.*[0-9]v[0-9]+", ""},
		"a collector that failed":        {"ib", "== 1) * 0", ">= 0) * 0"},
		"a function of a pod":            {"ib", `hca_type=~"MT(4098|4100|411[468]|412[0246]|41683)"`, `hca_type="none"`},
		"a collector of RoCE failed":     {"roce", "== 1) * 0", ">= 0) * 0"},
		"memory of a kernel":             {"memory", "0.98", "0.999"},
		"a sum of watches":               {"gpu", `{health_watch!="ALL"}`, ""},
		"one edge of a slowdown":         {"gpu", ">= 10", ">= 1"},
		"a margin of zero":               {"gpu", "> 0 < 5", "< 5"},
		"MIG":                            {"gpu", `nvidia_com_(mig_.+|gpu_shared)`, "none"},
		"a plugin that was taken away":   {"gpu", `created_by_kind="DaemonSet"`, `created_by_kind="none"`},
		"a power cap":                    {"gpu", `clock_event="power_cap"`, `clock_event="none"`},
		"two bursts are one":             {"process", `max by (node) (node_processes_pids{node!="",exported_node=""}) * 0`, "vector(0)"},
		"a module that is loaded late":   {"peermem", "for: 30m", "for: 29m"},
		"a spare that is missing":        {"baseboard", `,name!~".*(Redundancy|_R_Status).*"`, ""},
		"a panic before the last boot":   {"system", "< 3600", "< 36000"},
		"a leader that is forgotten":     {"aegis", "[1w]", "[1d]"},
		"a short failover":               {"aegis", "for: 5m", "for: 1m"},
		"a standby has no sources":       {"aegis", "max(aegis_resync", "min(aegis_resync"},
		"a storm that a standby knows":   {"aegis", "and on (job, instance) aegis_leader == 1", ""},
		"a storm that is released":       {"aegis", ") == 1", ") >= 0"},
		"tickets of Aegis":               {"aegis", `{supervisor="people"}`, ""},
		"an exclusion for a day":         {"aegis", "> 604800", "> 86400"},
		"labels that are honored":        {"aegis", `{exported_pod!=""}`, ""},
		"one replica loads its files":    {"aegis", "min(aegis_config", "max(aegis_config"},
	}
	changed := make(map[string]bool)
	for _, c := range changes {
		changed[ruleFile(c.file)] = true
	}
	for _, file := range files(t, "rules") {
		require.True(t, changed[file], "nothing changes %s", file)
	}
	for name, c := range changes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test := stage(t, testFile(c.file))
			changed := changeExpressions(t, filepath.Join(filepath.Dir(test), c.file+".yaml"), c.old, c.replacement)
			out, err := runPromtool(t, "test", "rules", "--run", changed, test)
			require.Error(t, err, "the tests pass with a wrong rule")
			require.Contains(t, out, "FAILED")
		})
	}
}

// changeExpressions replaces text in a rule file, of which each rule is decoded, changed and encoded again, so that the
// layout of the file does not matter. It returns a pattern for the unit tests of what it has changed: those that a change cannot
// reach take most of the time.
func changeExpressions(t *testing.T, file, old, replacement string) string {
	t.Helper()
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	var s spec
	require.NoError(t, yaml.UnmarshalStrict(raw, &s))
	var changed []string
	for i := range s.Groups {
		for j := range s.Groups[i].Rules {
			r := &s.Groups[i].Rules[j]
			switch {
			case !r.replace(old, replacement):
			case r.Record != "", r.Labels["condition"] == "":
				// Many alerts read it, or it is one of Aegis itself, whose tests have other names.
				changed = append(changed, ".*")
			default:
				changed = append(changed, regexp.QuoteMeta(r.Alert))
			}
		}
	}
	require.NotEmpty(t, changed, "%q is not in %s", old, file)
	raw, err = yaml.Marshal(s)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, raw, 0o600))
	return "^(" + strings.Join(changed, "|") + ")"
}

func (r *rule) replace(old, replacement string) bool {
	before := *r
	r.Expr = strings.ReplaceAll(r.Expr, old, replacement)
	if value, ok := strings.CutPrefix(old, "for: "); ok && r.For == value {
		r.For = strings.TrimPrefix(replacement, "for: ")
	}
	if value, ok := strings.CutPrefix(old, "keep_firing_for: "); ok && r.KeepFiringFor == value {
		r.KeepFiringFor = strings.TrimPrefix(replacement, "keep_firing_for: ")
	}
	return r.Expr != before.Expr || r.For != before.For || r.KeepFiringFor != before.KeepFiringFor
}

func TestRulesAreDescribed(t *testing.T) {
	t.Parallel()
	known := conditions(t)
	for _, file := range files(t, "rules") {
		m := readRules(t, file)
		require.Equal(t, "monitoring.coreos.com/v1", m.APIVersion, file)
		require.Equal(t, "PrometheusRule", m.Kind, file)
		for _, r := range m.rules() {
			t.Run(r.Alert+r.Record, func(t *testing.T) {
				t.Parallel()
				if slices.Contains(known, r.Alert) || r.Record != "" {
					require.Regexp(t, `by \(node\b`, r.Expr, "the expression must end with an explicit node label")
				}
				if r.Record != "" {
					require.True(t, strings.HasPrefix(r.Record, "aegis:"), "a recorded series says who records it")
					return
				}
				r.requireDescription(t, slices.Contains(known, r.Alert))
			})
		}
	}
}

// requireDescription demands that people can read the alert.
func (r rule) requireDescription(t *testing.T, ofNode bool) {
	t.Helper()
	if r.Alert != watchdog {
		require.Contains(t, []string{"critical", "warning", "info"}, r.Labels["severity"])
	}
	for _, value := range r.Labels {
		require.NotContains(t, value, "$value", "a label that changes makes another alert of it")
	}
	require.NotEmpty(t, r.Annotations["summary"])
	require.NotContains(t, r.Annotations["summary"], "{{")
	if ofNode {
		require.Contains(t, r.Annotations["description"], "$labels.node")
	}
	page, ok := strings.CutPrefix(r.Annotations["runbook_url"], baseURL)
	require.True(t, ok, "runbook_url is %q", r.Annotations["runbook_url"])
	page, section, _ := strings.Cut(page, "#")
	text, err := os.ReadFile(filepath.Join(docs, page))
	require.NoError(t, err)
	if section != "" {
		heading := "# " + strings.ReplaceAll(section, "-", " ") + "\n"
		require.Contains(t, strings.ToLower(string(text)), heading, "the section that runbook_url leads to")
	}
}

func TestAlertsOnAegisAreTestedBothWays(t *testing.T) {
	t.Parallel()
	fires, quiet := map[string]bool{}, map[string]bool{}
	for _, test := range readUnitTest(t, testFile(selfFile)).Tests {
		for _, a := range test.AlertRuleTest {
			fires[a.Alertname] = fires[a.Alertname] || len(a.ExpAlerts) > 0
			quiet[a.Alertname] = quiet[a.Alertname] || len(a.ExpAlerts) == 0
		}
	}
	self := readRules(t, ruleFile(selfFile)).rules()
	require.NotEmpty(t, self)
	for _, r := range self {
		require.True(t, fires[r.Alert], "no test in which %s fires", r.Alert)
		require.True(t, quiet[r.Alert] || r.Alert == watchdog, "no test in which %s does not fire", r.Alert)
	}
}
