package cmd

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"aegis.io/aegis/sop/procedures"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"aegis.io/aegis/rules"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/policy"
)

const (
	repository   = ".."
	rulesDir     = "charts/aegis/rules"
	testsDir     = "charts/aegis/tests"
	pagesDir     = "docs/conditions"
	indexPage    = "README.md"
	selfFile     = "aegis"   // Its alerts are on Aegis itself, and of no condition.
	xidFile      = "gpu-xid" // Its alerts select XIDs by their code.
	unclassified = "XIDUnclassifiedErr"
	// lastCode is well above every XID that there is.
	lastCode = 1999
)

// promises are what the charts and the pages of a tree are held to.
type promises struct {
	conditions []rules.Condition
	xids       []rules.XID
	procedures []string
}

func ourPromises(t *testing.T) promises {
	t.Helper()
	catalogue, err := rules.Load(rules.Options{})
	require.NoError(t, err)
	return promises{catalogue.Conditions(), catalogue.XIDs(), procedures.Table().Names()}
}

func (p promises) condition(name string) (rules.Condition, bool) {
	i := slices.IndexFunc(p.conditions, func(c rules.Condition) bool { return c.Name == name })
	if i < 0 {
		return rules.Condition{}, false
	}
	return p.conditions[i], true
}

// domainFiles returns the rule files in which the alert of the condition may be. Their tests have the same names.
func domainFiles(c rules.Condition) []string {
	if c.Type == "gpu" {
		return []string{"gpu", xidFile}
	}
	return []string{c.Type}
}

// alertRule is a rule of a PrometheusRule.
type alertRule struct {
	Alert         string
	Record        string
	Expr          string
	KeepFiringFor string `yaml:"keep_firing_for"`
	Labels        map[string]string
	Annotations   map[string]string
}

// ruleManifest is a PrometheusRule.
type ruleManifest struct {
	Spec struct {
		Groups []struct{ Rules []alertRule }
	}
}

func (m ruleManifest) rules() []alertRule {
	var all []alertRule
	for _, g := range m.Spec.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

// expectation is what a promtool test expects of an alert at a time.
type expectation struct {
	Alertname string
	Alerts    []map[string]any `yaml:"exp_alerts"`
}

// promtoolTests is the part of a file for promtool that says which alerts are expected.
type promtoolTests struct {
	Tests []struct {
		Expected []expectation `yaml:"alert_rule_test"`
	}
}

func readYAML[T any](file string) (T, error) {
	var value T
	raw, err := os.ReadFile(file)
	if err != nil {
		return value, err
	}
	if err := yaml.Unmarshal(raw, &value); err != nil {
		return value, fmt.Errorf("%s: %w", file, err)
	}
	return value, nil
}

// read remembers what files hold: the copies of a tree have nearly all of them in common.
var read sync.Map

type content[T any] string

// readOnce is readYAML for values that nobody changes.
func readOnce[T any](file string) (T, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		var none T
		return none, err
	}
	key := content[T](raw)
	if known, found := read.Load(key); found {
		if value, ok := known.(T); ok {
			return value, nil
		}
	}
	value, err := readYAML[T](file)
	if err == nil {
		read.Store(key, value)
	}
	return value, err
}

// contract returns in words what the tree below root lacks for the conditions, and what it has without one. Nothing means that each
// condition has exactly one procedure, alert, pair of tests and page.
func (p promises) contract(root string) []string {
	a := audit{promises: p, root: root}
	a.procedures()
	a.alerts()
	a.tests()
	a.pages()
	return a.problems
}

// audit collects the problems of a tree.
type audit struct {
	promises
	root     string
	problems []string
}

func (a *audit) fail(format string, args ...any) {
	a.problems = append(a.problems, fmt.Sprintf(format, args...))
}

func (a *audit) procedures() {
	used := map[string]bool{sop.ExhaustedSOP: true, policy.NoteSOP: true}
	for _, c := range a.conditions {
		used[c.SOP] = true
		if !slices.Contains(a.promises.procedures, c.SOP) {
			a.fail("condition %s has the procedure %q, which is not in the table", c.Name, c.SOP)
		}
	}
	for _, name := range a.promises.procedures {
		// Those for what the policy of a site names have none of ours.
		if !used[name] && sop.RemediationOf(procedures.Table(), name) == sop.RemediatesNothing {
			a.fail("no condition has the procedure %s", name)
		}
	}
}

// files calls visit for each file of a folder that ends so, with the rest of its name.
func (a *audit) files(dir, suffix string, visit func(name, path string)) {
	paths, err := filepath.Glob(filepath.Join(a.root, dir, "*"+suffix))
	if err != nil || len(paths) == 0 {
		a.fail("%s has no files %s (%v)", dir, suffix, err)
	}
	for _, path := range paths {
		visit(strings.TrimSuffix(filepath.Base(path), suffix), path)
	}
}

func (a *audit) alerts() {
	count := make(map[string]int)
	a.files(rulesDir, ".yaml", func(name, path string) {
		manifest, err := readOnce[ruleManifest](path)
		if err != nil {
			a.fail("%v", err)
		}
		for _, r := range manifest.rules() {
			if r.Alert != "" {
				count[r.Alert]++
				a.alert(name, r)
			}
		}
		if name == xidFile {
			a.codes(manifest.rules())
		}
	})
	for _, c := range a.conditions {
		if n := count[c.Name]; n != 1 {
			a.fail("condition %s has %d alerts", c.Name, n)
		}
	}
}

// ofAegis reports whether the alert is in the file of those on Aegis itself, and is named like one.
func ofAegis(file, alert string) bool {
	return file == selfFile && (alert == "Watchdog" || strings.HasPrefix(alert, "Aegis"))
}

func (a *audit) alert(file string, r alertRule) {
	condition := r.Labels["condition"]
	if ofAegis(file, r.Alert) {
		if condition != "" {
			a.fail("alert %s has the label condition, and is of none", r.Alert)
		}
		return
	}
	c, found := a.condition(r.Alert)
	if !found {
		a.fail("alert %s of %s.yaml is of no condition", r.Alert, file)
		return
	}
	if home := domainFiles(c); !slices.Contains(home, file) {
		a.fail("alert %s is in %s.yaml, must be in %s.yaml", r.Alert, file, strings.Join(home, ".yaml or "))
	}
	if condition != c.Name {
		a.fail("alert %s has the label condition %q", r.Alert, condition)
	}
	if severity := r.Labels["severity"]; !slices.Contains(severities(c), severity) {
		a.fail("alert %s has the severity %q, its priority %d asks for %s", r.Alert, severity, c.Priority, strings.Join(severities(c), " or "))
	}
	if page := "https://aegis.io/" + pagesDir + "/" + c.Name + ".md"; r.Annotations["runbook_url"] != page {
		a.fail("alert %s has the runbook_url %q, must be %s", r.Alert, r.Annotations["runbook_url"], page)
	}
}

// severities returns those that fit how urgent the condition is.
func severities(c rules.Condition) []string {
	const critical, warning, info = "critical", "warning", "info"
	switch {
	case c.Name == "NodeInhibitAll" || c.Name == "NodeCordon":
		return []string{critical, info} // They tell what a person did, urgent as it is to look at the node.
	case c.Priority <= 9:
		return []string{critical}
	case prom.BandOf(c.Priority) == prom.BandEmergency:
		return []string{warning}
	default:
		return []string{info}
	}
}

var (
	xidSelector = regexp.MustCompile(`\baegis:gpu_xid_new\{([^}]*)\}`)
	xidMatcher  = regexp.MustCompile(`\bxid(=~|!~|!=|=)"([^"]*)"`)
)

// codesIn returns the codes that all matchers of the label xid in the text accept.
func codesIn(text string) ([]int, error) {
	var matchers []func(string) bool
	for _, m := range xidMatcher.FindAllStringSubmatch(text, -1) {
		operator, value := m[1], m[2]
		if operator == "=" || operator == "!=" {
			value = regexp.QuoteMeta(value)
		}
		pattern, err := regexp.Compile("^(?:" + value + ")$")
		if err != nil {
			return nil, err
		}
		wanted := operator == "=" || operator == "=~"
		matchers = append(matchers, func(code string) bool { return pattern.MatchString(code) == wanted })
	}
	var codes []int
	for code := range lastCode + 1 {
		refused := func(accepts func(string) bool) bool { return !accepts(strconv.Itoa(code)) }
		if !slices.ContainsFunc(matchers, refused) {
			codes = append(codes, code)
		}
	}
	return codes, nil
}

// codes compares the XIDs that the alerts select with those that belong to their conditions.
func (a *audit) codes(all []alertRule) {
	var recorded []int // What the alerts can select from.
	selected := make(map[string][]int)
	for _, r := range all {
		if r.Record == "aegis:gpu_xid_new" {
			codes, err := codesIn(r.Expr)
			if err != nil {
				a.fail("%s: %v", r.Record, err)
			}
			recorded = codes
			continue
		}
		for _, selector := range xidSelector.FindAllStringSubmatch(r.Expr, -1) {
			codes, err := codesIn(selector[1])
			if err != nil {
				a.fail("alert %s: %v", r.Alert, err)
			}
			selected[r.Alert] = append(selected[r.Alert], codes...)
		}
	}
	wanted := a.wantedCodes()
	for _, name := range slices.Sorted(maps.Keys(joined(selected, wanted))) {
		got := slices.DeleteFunc(selected[name], func(code int) bool { return !slices.Contains(recorded, code) })
		if extra := without(got, wanted[name]); len(extra) > 0 {
			a.fail("alert %s selects the XIDs %v, which are not of its condition", name, extra)
		}
		if missing := without(wanted[name], got); len(missing) > 0 {
			a.fail("alert %s does not select the XIDs %v of its condition", name, missing)
		}
	}
}

func joined[V any](a, b map[string]V) map[string]V {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

func without(codes, others []int) []int {
	return slices.DeleteFunc(slices.Clone(codes), func(code int) bool { return slices.Contains(others, code) })
}

// wantedCodes returns the XIDs of each condition. A code that nobody knows is unclassified.
func (a *audit) wantedCodes() map[string][]int {
	wanted := make(map[string][]int)
	known := make(map[int]bool)
	for _, x := range a.xids {
		known[x.Code] = true
		// Neither has an alert: they come along with another code, which has one.
		follows := x.DetailOf != 0 || x.Code == 45
		switch {
		case x.Condition != "" && (x.Class.Harmless() || follows):
			a.fail("XID %d of class %s has the condition %s", x.Code, x.Class, x.Condition)
		case x.Condition != "":
			wanted[x.Condition] = append(wanted[x.Condition], x.Code)
		case !x.Class.Harmless() && !follows:
			a.fail("XID %d of class %s has no condition", x.Code, x.Class)
		}
	}
	for code := 1; code <= lastCode; code++ {
		if !known[code] {
			wanted[unclassified] = append(wanted[unclassified], code)
		}
	}
	return wanted
}

// tests looks for tests in which alerts fire and in which they do not, in the files of their domains.
func (a *audit) tests() {
	fires, quiet, strangers := make(map[string]bool), make(map[string]bool), make(map[string]bool)
	a.files(testsDir, "_test.yaml", func(name, path string) {
		tests, err := readOnce[promtoolTests](path)
		if err != nil {
			a.fail("%v", err)
		}
		for _, test := range tests.Tests {
			for _, e := range test.Expected {
				c, found := a.condition(e.Alertname)
				switch {
				case !found && !ofAegis(name, e.Alertname):
					strangers[fmt.Sprintf("%s_test.yaml tests the alert %s, which is of no condition", name, e.Alertname)] = true
				case found && slices.Contains(domainFiles(c), name):
					fires[c.Name] = fires[c.Name] || len(e.Alerts) > 0
					quiet[c.Name] = quiet[c.Name] || len(e.Alerts) == 0
				}
			}
		}
	})
	a.problems = slices.AppendSeq(a.problems, maps.Keys(strangers))
	for _, c := range a.conditions {
		if !fires[c.Name] {
			a.fail("condition %s has no test in which its alert fires", c.Name)
		}
		if !quiet[c.Name] {
			a.fail("condition %s has no test in which its alert does not fire", c.Name)
		}
	}
}

func (a *audit) pages() {
	found := make(map[string]bool)
	a.files(pagesDir, ".md", func(name, path string) {
		if name+".md" == indexPage {
			return
		}
		found[name] = true
		if _, known := a.condition(name); !known {
			a.fail("page %s.md is of no condition", name)
			return
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			a.fail("%v", err)
		}
		if want := headings(name); !slices.Equal(headingsOf(raw), want) {
			a.fail("page %s.md has the headings %q, must have %q", name, headingsOf(raw), want)
		}
	})
	for _, c := range a.conditions {
		if !found[c.Name] {
			a.fail("condition %s has no page", c.Name)
		}
	}
}

// headings are what each page has.
func headings(name string) []string {
	return []string{"# " + name, "## Meaning", "## Impact", "## Evidence", "## What Aegis does", "## What a person does"}
}

func headingsOf(page []byte) []string {
	var found []string
	code := false
	for line := range bytes.Lines(page) {
		text := strings.TrimRight(string(line), "\n")
		if strings.HasPrefix(text, "```") {
			code = !code // A comment in a block of code is no heading.
		}
		if !code && (strings.HasPrefix(text, "# ") || strings.HasPrefix(text, "## ")) {
			found = append(found, text)
		}
	}
	return found
}

// TestContract holds the repository to what each condition needs.
func TestContract(t *testing.T) {
	t.Parallel()
	require.Empty(t, ourPromises(t).contract(repository))
}

var (
	// window finds how long an alert remembers events.
	window = regexp.MustCompile(`\b(?:increase|changes)\((?:[^()]|\([^()]*\))*?\[([0-9]+[smh])(?::[^\]]*)?\]`)
	proof  = regexp.MustCompile(`^verify \(gone for (.+), within (.+)\)$`)
)

// remembers returns how long after its last event the alert fires at most. What it reads of series that others record is in there.
func remembers(t *testing.T, r alertRule, recorded map[string]string) time.Duration {
	t.Helper()
	expr := r.Expr
	for name, of := range recorded {
		if strings.Contains(r.Expr, name) {
			expr += "\n" + of
		}
	}
	var longest time.Duration
	for _, m := range window.FindAllStringSubmatch(expr, -1) {
		longest = max(longest, duration(t, m[1]))
	}
	if r.KeepFiringFor != "" {
		longest += duration(t, r.KeepFiringFor)
	}
	return longest
}

func duration(t *testing.T, text string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(text)
	require.NoError(t, err)
	return d
}

// TestContractLeavesTimeForProof demands that a repair can be proven: an alert that goes on firing after its last event must have
// been gone for as long as it has to be before the time for the proof is over.
func TestContractLeavesTimeForProof(t *testing.T) {
	t.Parallel()
	g := newGenerator(t)
	recorded, alerts := make(map[string]string), make(map[string]alertRule)
	files, err := filepath.Glob(filepath.Join(repository, rulesDir, "*.yaml"))
	require.NoError(t, err)
	for _, file := range files {
		manifest, err := readYAML[ruleManifest](file)
		require.NoError(t, err)
		for _, r := range manifest.rules() {
			alerts[r.Alert] = r
			if r.Record != "" {
				recorded[r.Record] = r.Expr
			}
		}
	}
	proven := 0
	for _, c := range g.conditions {
		after := remembers(t, alerts[c.Name], recorded)
		for _, p := range g.plans(t, c) {
			for _, step := range p.steps {
				m := proof.FindStringSubmatch(step)
				if m == nil || after == 0 {
					continue
				}
				proven++
				if gone, within := duration(t, m[1]), duration(t, m[2]); after+gone > within {
					t.Errorf("the alert %s may fire for %v after its last event, and must be gone for %v within %v", c.Name, after, gone, within)
				}
			}
		}
	}
	require.Greater(t, proven, 10, "the patterns must find the alerts on events and the steps")
}

// copied returns a copy of what the contract reads.
func copied(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"charts", "docs"} {
		require.NoError(t, os.CopyFS(filepath.Join(root, dir), os.DirFS(filepath.Join(repository, dir))))
	}
	return root
}

// edit changes what the contract reads of a YAML file.
func edit[T any](t *testing.T, file string, change func(*T)) {
	t.Helper()
	value, err := readYAML[T](file)
	require.NoError(t, err)
	change(&value)
	raw, err := yaml.Marshal(value)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, raw, 0o600))
}

// editRules changes the rules of a rule file.
func editRules(t *testing.T, root, name string, change func([]alertRule) []alertRule) {
	t.Helper()
	edit(t, filepath.Join(root, rulesDir, name+".yaml"), func(m *ruleManifest) {
		for i := range m.Spec.Groups {
			m.Spec.Groups[i].Rules = change(m.Spec.Groups[i].Rules)
		}
	})
}

// editAlert changes one alert, which must be there.
func editAlert(t *testing.T, root, file, name string, change func(*alertRule)) {
	t.Helper()
	editRules(t, root, file, func(all []alertRule) []alertRule {
		i := slices.IndexFunc(all, func(r alertRule) bool { return r.Alert == name })
		require.GreaterOrEqual(t, i, 0, "%s is not in %s", name, file)
		change(&all[i])
		return all
	})
}

// dropTests removes what a test file expects of an alert, where the expectation is one of those.
func dropTests(t *testing.T, root, file, alert string, which func(expectation) bool) {
	t.Helper()
	edit(t, filepath.Join(root, testsDir, file+"_test.yaml"), func(p *promtoolTests) {
		for i := range p.Tests {
			p.Tests[i].Expected = slices.DeleteFunc(p.Tests[i].Expected, func(e expectation) bool {
				return e.Alertname == alert && which(e)
			})
		}
	})
}

func editPage(t *testing.T, root, name string, change func(string) string) {
	t.Helper()
	file := filepath.Join(root, pagesDir, name)
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	text := change(string(raw))
	require.NotEqual(t, string(raw), text, "nothing has changed")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
}

// requireNoticed demands that the contract says these problems of the tree, and does not say them of the repository.
func requireNoticed(t *testing.T, before []string, p promises, root string, want ...string) {
	t.Helper()
	after := p.contract(root)
	for _, problem := range want {
		require.NotContains(t, before, problem, "that is a problem without the change, too")
		require.Contains(t, after, problem)
	}
}

// TestContractNoticesWhatIsMissing takes away from a copy, in turn, each of the five that a condition needs.
func TestContractNoticesWhatIsMissing(t *testing.T) {
	t.Parallel()
	before := ourPromises(t).contract(repository)
	examples := map[string]string{"GpuHung": "gpu", "Xid79GPULost": xidFile, "IBDown": "ib", "DiskUnhealthy": "disk"}
	for name, file := range examples {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ours := ourPromises(t)
			c, found := ours.condition(name)
			require.True(t, found)
			t.Run("condition", func(t *testing.T) {
				t.Parallel()
				p := ours
				p.conditions = slices.DeleteFunc(slices.Clone(p.conditions), func(c rules.Condition) bool { return c.Name == name })
				requireNoticed(
					t, before, p, copied(t),
					fmt.Sprintf("alert %s of %s.yaml is of no condition", name, file),
					fmt.Sprintf("%s_test.yaml tests the alert %s, which is of no condition", file, name),
					fmt.Sprintf("page %s.md is of no condition", name),
				)
			})
			t.Run("procedure", func(t *testing.T) {
				t.Parallel()
				p := ours
				p.procedures = slices.DeleteFunc(slices.Clone(p.procedures), func(name string) bool { return name == c.SOP })
				requireNoticed(t, before, p, copied(t),
					fmt.Sprintf("condition %s has the procedure %q, which is not in the table", name, c.SOP))
			})
			t.Run("alert", func(t *testing.T) {
				t.Parallel()
				root := copied(t)
				editRules(t, root, file, func(all []alertRule) []alertRule {
					return slices.DeleteFunc(all, func(r alertRule) bool { return r.Alert == name })
				})
				requireNoticed(t, before, ours, root, fmt.Sprintf("condition %s has 0 alerts", name))
			})
			t.Run("test", func(t *testing.T) {
				t.Parallel()
				root := copied(t)
				dropTests(t, root, file, name, func(expectation) bool { return true })
				requireNoticed(
					t, before, ours, root,
					fmt.Sprintf("condition %s has no test in which its alert fires", name),
					fmt.Sprintf("condition %s has no test in which its alert does not fire", name),
				)
			})
			t.Run("page", func(t *testing.T) {
				t.Parallel()
				root := copied(t)
				require.NoError(t, os.Remove(filepath.Join(root, pagesDir, name+".md")))
				requireNoticed(t, before, ours, root, fmt.Sprintf("condition %s has no page", name))
			})
		})
	}
}

// TestContractNoticesMistakes makes on a copy, in turn, the other mistakes that the contract is about.
func TestContractNoticesMistakes(t *testing.T) {
	t.Parallel()
	before := ourPromises(t).contract(repository)
	type change = func(t *testing.T, root string, p *promises)
	ofAlert := func(file, name string, edit func(*alertRule)) change {
		return func(t *testing.T, root string, _ *promises) {
			t.Helper()
			editAlert(t, root, file, name, edit)
		}
	}
	ofTests := func(fires bool) change {
		return func(t *testing.T, root string, _ *promises) {
			t.Helper()
			dropTests(t, root, "ib", "IBLost", func(e expectation) bool { return fires == (len(e.Alerts) > 0) })
		}
	}
	ofPage := func(old, replacement string) change {
		return func(t *testing.T, root string, _ *promises) {
			t.Helper()
			editPage(t, root, "IBLost.md", func(text string) string { return strings.Replace(text, old, replacement, 1) })
		}
	}
	ofXID := func(code int, edit func(*rules.XID)) change {
		return func(t *testing.T, _ string, p *promises) {
			t.Helper()
			p.xids = slices.Clone(p.xids)
			i := slices.IndexFunc(p.xids, func(x rules.XID) bool { return x.Code == code })
			require.GreaterOrEqual(t, i, 0)
			edit(&p.xids[i])
		}
	}
	tests := map[string]struct {
		change change
		want   string
	}{
		"a procedure without a condition": {
			func(_ *testing.T, _ string, p *promises) {
				p.procedures = append(slices.Clone(p.procedures), "gpu/none")
			},
			"no condition has the procedure gpu/none",
		},
		"an alert without a condition": {
			ofAlert("ib", "IBLost", func(r *alertRule) { r.Alert = "IBLess" }),
			"alert IBLess of ib.yaml is of no condition",
		},
		"an alert of Aegis with a condition": {
			ofAlert(selfFile, "AegisNotLeading", func(r *alertRule) { r.Labels["condition"] = "IBLost" }),
			"alert AegisNotLeading has the label condition, and is of none",
		},
		"an alert of Aegis elsewhere": {
			ofAlert("ib", "IBLost", func(r *alertRule) { r.Alert = "AegisIsLost" }),
			"alert AegisIsLost of ib.yaml is of no condition",
		},
		"two alerts": {
			ofAlert("ib", "IBDown", func(r *alertRule) { r.Alert = "IBLost" }),
			"condition IBLost has 2 alerts",
		},
		"an alert in the file of another domain": {
			ofAlert("roce", "RoceDeviceBroken", func(r *alertRule) { r.Alert = "IBLost" }),
			"alert IBLost is in roce.yaml, must be in ib.yaml",
		},
		"the label of another condition": {
			ofAlert("ib", "IBLost", func(r *alertRule) { r.Labels["condition"] = "IBDown" }),
			`alert IBLost has the label condition "IBDown"`,
		},
		"too low a severity": {
			ofAlert("ib", "IBLost", func(r *alertRule) { r.Labels["severity"] = "warning" }),
			`alert IBLost has the severity "warning", its priority 3 asks for critical`,
		},
		"too high a severity": {
			ofAlert("system", "HighLoad", func(r *alertRule) { r.Labels["severity"] = "warning" }),
			`alert HighLoad has the severity "warning", its priority 150 asks for info`,
		},
		"the page of another condition": {
			ofAlert("ib", "IBLost", func(r *alertRule) { r.Annotations["runbook_url"] = "https://aegis.io/docs/conditions/IBDown.md" }),
			`alert IBLost has the runbook_url "https://aegis.io/docs/conditions/IBDown.md", must be https://aegis.io/docs/conditions/IBLost.md`,
		},
		"no test in which it fires": {
			ofTests(true),
			"condition IBLost has no test in which its alert fires",
		},
		"no test in which it does not fire": {
			ofTests(false),
			"condition IBLost has no test in which its alert does not fire",
		},
		"a page without a condition": {
			func(t *testing.T, root string, _ *promises) {
				t.Helper()
				require.NoError(t, os.WriteFile(filepath.Join(root, pagesDir, "IBLess.md"), nil, 0o600))
			},
			"page IBLess.md is of no condition",
		},
		"a page without a heading": {
			ofPage("\n## Impact\n", "\n"),
			`page IBLost.md has the headings ["# IBLost" "## Meaning" "## Evidence" "## What Aegis does" "## What a person does"], must have ` +
				`["# IBLost" "## Meaning" "## Impact" "## Evidence" "## What Aegis does" "## What a person does"]`,
		},
		"a page with another name": {
			ofPage("# IBLost\n", "# IBLess\n"),
			`page IBLost.md has the headings ["# IBLess" "## Meaning" "## Impact" "## Evidence" "## What Aegis does" "## What a person does"], must have ` +
				`["# IBLost" "## Meaning" "## Impact" "## Evidence" "## What Aegis does" "## What a person does"]`,
		},
		"a code that the alert has too many": {
			ofAlert(xidFile, "Xid79GPULost", func(r *alertRule) { r.Expr = strings.Replace(r.Expr, `xid="79"`, `xid=~"7[89]"`, 1) }),
			"alert Xid79GPULost selects the XIDs [78], which are not of its condition",
		},
		"a code that the alert lacks": {
			ofAlert(xidFile, "GpuXidRebootRequired", func(r *alertRule) { r.Expr = strings.Replace(r.Expr, "151|", "", 1) }),
			"alert GpuXidRebootRequired does not select the XIDs [151] of its condition",
		},
		"a code that is excluded no longer": {
			ofAlert(xidFile, unclassified, func(r *alertRule) { r.Expr = strings.Replace(r.Expr, "[1-4][0-9]", "[1-3][0-9]|4[0-46-9]", 1) }),
			"alert XIDUnclassifiedErr selects the XIDs [45], which are not of its condition",
		},
		"a code that is excluded besides": {
			ofAlert(xidFile, unclassified, func(r *alertRule) { r.Expr = strings.Replace(r.Expr, `xid!~"`, `xid!~"999|`, 1) }),
			"alert XIDUnclassifiedErr does not select the XIDs [999] of its condition",
		},
		"zero is recorded": {
			func(t *testing.T, root string, _ *promises) {
				t.Helper()
				editRules(t, root, xidFile, func(all []alertRule) []alertRule {
					for i := range all {
						all[i].Expr = strings.ReplaceAll(all[i].Expr, `xid!~"0?"`, `xid!=""`)
					}
					return all
				})
			},
			"alert XIDUnclassifiedErr selects the XIDs [0], which are not of its condition",
		},
		"a code of another condition": {
			ofXID(79, func(x *rules.XID) { x.Condition = "Xid74NVLinkError" }),
			"alert Xid74NVLinkError does not select the XIDs [79] of its condition",
		},
		"a code without a condition": {
			ofXID(79, func(x *rules.XID) { x.Condition = "" }),
			"XID 79 of class reboot has no condition",
		},
		"a harmless code with a condition": {
			ofXID(79, func(x *rules.XID) { x.Class = prom.XIDApp }),
			"XID 79 of class app has the condition Xid79GPULost",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, root := ourPromises(t), copied(t)
			tt.change(t, root, &p)
			requireNoticed(t, before, p, root, tt.want)
		})
	}
}
