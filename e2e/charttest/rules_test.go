// Package charttest holds the chart's alert rules to what the product promises of them: promtool accepts them, their unit
// tests pass, and every condition has a rule, a test in which it fires, one in which it does not, and a page.
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
)

const (
	chart    = "../../charts/aegis"
	docs     = "../../docs"
	promtool = "../../bin/promtool"
	watchdog = "Watchdog"
	baseURL  = "https://aegis.io/docs/"
)

// conditions are the conditions that have a rule. Each is the name of its alert as well.
func conditions() []string {
	return []string{
		"GpuHung", "GpuRegisterFailed", "IBLinkFrequentDown", "KubeletFailedCreatePodContainer", "MemoryPressure",
		"NetworkLinkDown", "NodeCordon", "NodeNotReady", "Xid79GPULost", "Xid95UncontainedECCError",
	}
}

// selfAlerts are the alerts on Aegis itself. They are for people: Aegis takes none of them for a condition.
func selfAlerts() []string {
	return []string{
		"AegisConfigNotLoaded", "AegisNotLeading", "AegisResyncFailing", "AegisStormHeld", "AegisTicketsWaitForPeople",
	}
}

// alerts are all alerts of the chart.
func alerts() []string { return slices.Concat(conditions(), selfAlerts(), []string{watchdog}) }

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

type rule struct {
	Alert         string            `json:"alert"`
	Expr          string            `json:"expr"`
	For           string            `json:"for,omitempty"`
	KeepFiringFor string            `json:"keep_firing_for,omitempty"`
	Labels        map[string]string `json:"labels"`
	Annotations   map[string]string `json:"annotations"`
}

// unitTest is the part of a promtool test file that says which alerts it expects when.
type unitTest struct {
	Tests []struct {
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
	var rules []rule
	for _, g := range m.Spec.Groups {
		rules = append(rules, g.Rules...)
	}
	return rules
}

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

func TestEveryAlertHasOneRule(t *testing.T) {
	t.Parallel()
	var found []string
	for _, file := range files(t, "rules") {
		for _, r := range readRules(t, file).rules() {
			found = append(found, r.Alert)
		}
	}
	require.ElementsMatch(t, alerts(), found)
}

func TestPromtoolAcceptsTheRules(t *testing.T) {
	t.Parallel()
	counted := regexp.MustCompile(`SUCCESS: (\d+) rules found`)
	total := 0
	for _, file := range files(t, "rules") {
		out, err := runPromtool(t, "check", "rules", "--lint=all", "--lint-fatal", extract(t, file, t.TempDir()))
		require.NoError(t, err, out)
		match := counted.FindStringSubmatch(out)
		require.NotNil(t, match, "no count of %s in: %s", file, out)
		n, err := strconv.Atoi(match[1])
		require.NoError(t, err)
		require.Positive(t, n, "promtool finds no rule in %s", file)
		total += n
	}
	require.Equal(t, len(alerts()), total)
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

// stage lays a unit test and the rules next to each other, as its rule_files expect them.
func stage(t *testing.T, file string) string {
	t.Helper()
	dir := t.TempDir()
	for _, r := range files(t, "rules") {
		extract(t, r, dir)
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
		"a missed scrape resolves":       {"node", `last_over_time(kube_node_status_condition{condition="Ready",status="true",node!=""}[3m])`, `kube_node_status_condition{condition="Ready",status="true",node!=""}`},
		"a stale replica outvotes":       {"node", "max by (node) (last_over_time(kube_node_status_condition", "min by (node) (last_over_time(kube_node_status_condition"},
		"one namespace is enough":        {"node", ">= 2", ">= 1"},
		"a lower error count":            {"node", "> 10\n", "> 9\n"},
		"a fuller node":                  {"memory", "< 0.05", "<= 0.05"},
		"a port that was never up":       {"network", `max by (node, device) (max_over_time(node_network_up{node!="",device=~"(en|eth)[A-Za-z0-9]+"}[1d])) == 1`, `max by (node, device) (last_over_time(node_network_up{node!=""}[3m])) == 0`},
		"two losses of the link":         {"ib", ">= 3", ">= 2"},
		"a higher power limit":           {"gpu", "< 150", "<= 150"},
		"an old XID after a gap":         {"gpu", "and on (UUID) (DCGM_FI_DEV_GPU_TEMP offset 10m or DCGM_FI_DEV_GPU_TEMP_CELSIUS offset 10m)", ""},
		"the old name of a field only":   {"gpu", "max_over_time(DCGM_FI_DEV_BOARD_POWER_WATTS[5m]) < 150", "max_over_time(DCGM_FI_DEV_POWER_USAGE[5m]) < 150"},
		"XID pulses that do not survive": {"gpu", "keep_firing_for: 5m", "keep_firing_for: 1m"},
		"a leader that is forgotten":     {"aegis", "[1w]", "[1d]"},
		"a short failover":               {"aegis", "for: 5m", "for: 1m"},
		"a standby has no sources":       {"aegis", "max(aegis_resync", "min(aegis_resync"},
		"a storm that a standby knows":   {"aegis", "and on (job, instance) aegis_leader == 1", ""},
		"a storm that is released":       {"aegis", ") == 1", ") >= 0"},
		"tickets of Aegis":               {"aegis", `{supervisor="people"}`, ""},
		"one replica loads its files":    {"aegis", "min(aegis_config", "max(aegis_config"},
		"GPUs that went altogether":      {"gpu", "max by (node) (last_over_time(kube_node_info{node!=\"\"}[3m])) * 0", "vector(0)"},
	}
	for name, c := range changes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test := stage(t, filepath.Join(chart, "tests", c.file+"_test.yaml"))
			changeExpressions(t, filepath.Join(filepath.Dir(test), c.file+".yaml"), c.old, c.replacement)
			out, err := runPromtool(t, "test", "rules", test)
			require.Error(t, err, "the tests pass with a wrong rule")
			require.Contains(t, out, "FAILED")
		})
	}
}

// changeExpressions replaces text in a rule file, of which each rule is decoded, changed and encoded again, so that the
// layout of the file does not matter.
func changeExpressions(t *testing.T, file, old, replacement string) {
	t.Helper()
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	var s spec
	require.NoError(t, yaml.UnmarshalStrict(raw, &s))
	changed := false
	for i := range s.Groups {
		for j := range s.Groups[i].Rules {
			changed = s.Groups[i].Rules[j].replace(old, replacement) || changed
		}
	}
	require.True(t, changed, "%q is not in %s", old, file)
	raw, err = yaml.Marshal(s)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, raw, 0o600))
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
	severities := []string{"critical", "warning", "info"}
	for _, file := range files(t, "rules") {
		m := readRules(t, file)
		require.Equal(t, "monitoring.coreos.com/v1", m.APIVersion, file)
		require.Equal(t, "PrometheusRule", m.Kind, file)
		for _, r := range m.rules() {
			t.Run(r.Alert, func(t *testing.T) {
				t.Parallel()
				if r.Alert != watchdog {
					require.Contains(t, severities, r.Labels["severity"])
				}
				if slices.Contains(conditions(), r.Alert) {
					require.Equal(t, r.Alert, r.Labels["condition"])
					require.Regexp(t, `by \(node\b`, r.Expr, "the expression must end with an explicit node label")
					require.Contains(t, r.Annotations["description"], "$labels.node")
				}
				for _, value := range r.Labels {
					require.NotContains(t, value, "$value", "a label that changes makes another alert of it")
				}
				require.NotEmpty(t, r.Annotations["summary"])
				require.NotContains(t, r.Annotations["summary"], "{{")
				page, ok := strings.CutPrefix(r.Annotations["runbook_url"], baseURL)
				require.True(t, ok, "runbook_url is %q", r.Annotations["runbook_url"])
				require.FileExists(t, filepath.Join(docs, page))
			})
		}
	}
}

func TestEveryAlertIsTestedBothWays(t *testing.T) {
	t.Parallel()
	fires, quiet := map[string]bool{}, map[string]bool{}
	for _, file := range files(t, "tests") {
		raw, err := os.ReadFile(file)
		require.NoError(t, err)
		var u unitTest
		require.NoError(t, yaml.Unmarshal(raw, &u), file)
		for _, test := range u.Tests {
			for _, a := range test.AlertRuleTest {
				fires[a.Alertname] = fires[a.Alertname] || len(a.ExpAlerts) > 0
				quiet[a.Alertname] = quiet[a.Alertname] || len(a.ExpAlerts) == 0
			}
		}
	}
	require.True(t, fires[watchdog])
	for _, name := range slices.Concat(conditions(), selfAlerts()) {
		require.True(t, fires[name], "no test in which %s fires", name)
		require.True(t, quiet[name], "no test in which %s does not fire", name)
	}
}

func TestEveryConditionHasAPage(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob(filepath.Join(docs, "conditions", "*.md"))
	require.NoError(t, err)
	headings := []string{"Meaning", "Impact", "Evidence", "What Aegis does", "What a person does"}
	for _, name := range conditions() {
		page := filepath.Join(docs, "conditions", name+".md")
		require.True(t, slices.Contains(pages, page), "no page for %s", name)
		raw, err := os.ReadFile(page)
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(string(raw), "# "+name+"\n"), "%s must begin with its name", page)
		for _, heading := range headings {
			require.Contains(t, string(raw), "\n## "+heading+"\n", page)
		}
	}
}
