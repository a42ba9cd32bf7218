package cmd

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"aegis.io/aegis/sop/procedures"

	"github.com/stretchr/testify/require"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"aegis.io/aegis/rules"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/policy"
)

var update = flag.Bool("update", false, "write what is generated of the pages")

// What stands between these lines is generated.
const (
	blockBegin = "<!-- catalogue -->\n"
	blockEnd   = "<!-- /catalogue -->\n"
)

// nothing is how a page says that there is none.
const nothing = "none"

// domains are the types of conditions, in the order of the index.
func domains() []string {
	return []string{
		"node", "cpu", "memory", "disk", "gpfs", "gpu", "ib", "roce", "network", "process", "peermem", "baseboard", "system",
	}
}

// generator makes what the pages say of the catalogue.
type generator struct {
	catalogue  *rules.Catalogue
	conditions []rules.Condition
	dispatcher *sop.Dispatcher
	// fixed holds the modes that do not follow the configuration.
	fixed map[string]prom.Mode
}

func newGenerator(t *testing.T) *generator {
	t.Helper()
	g := &generator{fixed: make(map[string]prom.Mode)}
	modes := make(map[string][]prom.Mode)
	for _, configured := range []prom.Mode{prom.ModeAuto, prom.ModeApprove} {
		catalogue, err := loadCatalogue(rules.Options{Mode: configured}, procedures.Table())
		require.NoError(t, err)
		g.catalogue, g.conditions = catalogue, catalogue.Conditions()
		for _, c := range g.conditions {
			modes[c.Name] = append(modes[c.Name], c.Policy.Mode)
		}
	}
	for name, of := range modes {
		if of[0] == of[1] {
			g.fixed[name] = of[0]
		}
	}
	g.dispatcher = sop.NewDispatcher(sop.Services{
		Nodes:    corelisters.NewNodeLister(cache.NewIndexer(cache.MetaNamespaceKeyFunc, nil)),
		Settings: func() policy.Settings { return policy.Settings{} },
		Logger:   slog.New(slog.DiscardHandler),
	}, nil, rules.NewStore(g.catalogue), procedures.Table())
	return g
}

// facts returns the table of a page.
func (g *generator) facts(t *testing.T, c rules.Condition) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("| field | value |\n|---|---|\n")
	row := func(field, value string) { fmt.Fprintf(&b, "| %s | %s |\n", field, value) }
	row("Priority", fmt.Sprintf("%d (%s)", c.Priority, prom.BandOf(c.Priority)))
	row("Type", c.Type)
	row("Device", string(c.Device))
	row("Affects load", yesOrNo(c.AffectsLoad))
	row("Procedure", "`"+c.SOP+"`")
	for _, p := range g.plans(t, c) {
		row(p.field, strings.Join(p.steps, " → "))
	}
	if c.Policy.ConfirmFor > 0 {
		row("Confirmed", fmt.Sprintf("once it has held for %s without a break; until then Aegis only isolates the node", c.Policy.ConfirmFor))
	}
	row("Workload", string(c.Policy.Workload))
	row("Team", c.Policy.Team)
	row("Reboots allowed", strconv.Itoa(c.Policy.MaxReboots))
	row("Power-off", yesOrNo(c.Policy.Shutdown))
	if mode, ok := g.fixed[c.Name]; ok {
		row("Mode", string(mode))
	}
	row("Other names", listed(c.Aliases, ", "))
	row("Inhibited by", listed(g.inhibitedBy(c), "; "))
	row("Inhibits", listed(inhibits(c), "; "))
	return b.String()
}

func yesOrNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func listed(items []string, separator string) string {
	if len(items) == 0 {
		return nothing
	}
	return strings.Join(items, separator)
}

// plan is what is done if each step goes well.
type plan struct {
	field string
	steps []string
	codes []string
}

// plans returns the plan of the condition. Of a condition that several XIDs belong to there may be more than one.
func (g *generator) plans(t *testing.T, c rules.Condition) []plan {
	t.Helper()
	codes, known := g.codes(c)
	var plans []plan
	for i, code := range codes {
		steps, err := g.dispatcher.Plan(t.Context(), g.catalogue.StatusOfXID("node", c.Name, placeholder(c), code))
		require.NoError(t, err, c.Name)
		require.NotEmpty(t, steps, c.Name)
		at := slices.IndexFunc(plans, func(p plan) bool { return slices.Equal(p.steps, steps) })
		if at < 0 {
			at, plans = len(plans), append(plans, plan{steps: steps})
		}
		plans[at].codes = append(plans[at].codes, known[i])
	}
	for i, p := range plans {
		plans[i].field = "Plan"
		if len(plans) > 1 {
			plans[i].field = "Plan for XID " + strings.Join(p.codes, ", ")
		}
	}
	return plans
}

// codes returns the XIDs of the condition with their names. Without any it is 0, which stands for none.
func (g *generator) codes(c rules.Condition) (codes []int, names []string) {
	for _, x := range g.catalogue.XIDs() {
		if x.Condition == c.Name {
			codes, names = append(codes, x.Code), append(names, strconv.Itoa(x.Code))
		}
	}
	switch {
	case c.Name == unclassified:
		return append(codes, lastCode), append(names, "unknown")
	case len(codes) == 0:
		return []int{0}, []string{""}
	}
	return codes, names
}

// placeholder stands for the number of a device in a plan.
func placeholder(c rules.Condition) string {
	if c.Device == prom.DeviceIndex {
		return "N"
	}
	return ""
}

func inhibits(c rules.Condition) []string {
	var texts []string
	for _, h := range c.Inhibits {
		texts = append(texts, h.String())
	}
	return texts
}

// inhibitedBy says what inhibits the condition, and where not always, when.
func (g *generator) inhibitedBy(c rules.Condition) []string {
	var texts []string
	for _, cause := range g.conditions {
		var ways []string
		for _, h := range cause.Inhibits {
			ofType := slices.Contains(h.Types, c.Type) && cause.Name != c.Name
			if slices.Contains(h.Conditions, c.Name) || ofType {
				ways = append(ways, describeCause(cause.Name, h))
			}
		}
		if slices.Contains(ways, cause.Name) {
			ways = []string{cause.Name} // Always, whatever else.
		}
		texts = append(texts, ways...)
	}
	return texts
}

// describeCause says of the inhibited condition what Inhibition.String says of the one that inhibits it.
func describeCause(name string, h rules.Inhibition) string {
	only := ""
	if len(h.Devices) > 0 {
		only = " (only " + strings.Join(h.Devices, ", ") + ")"
	}
	return rules.Inhibition{Conditions: []string{name}, SameDevice: h.SameDevice, Within: h.Within}.String() + only
}

// index returns the table of all conditions, by domain.
func (g *generator) index() string {
	var b strings.Builder
	for _, domain := range domains() {
		fmt.Fprintf(&b, "\n## %s\n\n| condition | type | priority | band | procedure | team |\n|---|---|---|---|---|---|\n", domain)
		for _, c := range g.conditions {
			if c.Type == domain {
				fmt.Fprintf(&b, "| [%s](%s.md) | %s | %d | %s | `%s` | %s |\n",
					c.Name, c.Name, c.Type, c.Priority, prom.BandOf(c.Priority), c.SOP, c.Policy.Team)
			}
		}
	}
	b.WriteString("\n")
	return b.String()
}

// replaceBlock returns the page with what is to stand in its generated block.
func replaceBlock(page, block string) (string, error) {
	before, rest, begins := strings.Cut(page, blockBegin)
	_, after, ends := strings.Cut(rest, blockEnd)
	if !begins || !ends || strings.Contains(after, blockBegin) {
		return "", errors.New("must have one generated block, between " + strings.TrimSpace(blockBegin) + " and " + strings.TrimSpace(blockEnd))
	}
	return before + blockBegin + block + blockEnd + after, nil
}

// requireBlock demands that the block of a page is what would be generated, or writes it.
func requireBlock(t *testing.T, name, block string) {
	t.Helper()
	file := filepath.Join(repository, pagesDir, name)
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	text, err := replaceBlock(string(raw), block)
	require.NoError(t, err, file)
	if *update && text != string(raw) {
		require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
		return
	}
	if text != string(raw) {
		t.Errorf("%s is out of date, run go test ./cmd -run TestPages -update", file)
	}
}

// TestPages holds the generated tables of the pages to the catalogue.
func TestPages(t *testing.T) {
	t.Parallel()
	g := newGenerator(t)
	requireBlock(t, indexPage, g.index())
	for _, c := range g.conditions {
		require.Contains(t, domains(), c.Type, "the index would miss %s", c.Name)
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			requireBlock(t, c.Name+".md", g.facts(t, c))
		})
	}
}

func TestPagesNeedABlock(t *testing.T) {
	t.Parallel()
	whole := "# A\n\n" + blockBegin + "old\n" + blockEnd + "\ntext\n"
	got, err := replaceBlock(whole, "new\n")
	require.NoError(t, err)
	require.Equal(t, "# A\n\n"+blockBegin+"new\n"+blockEnd+"\ntext\n", got)
	for _, page := range []string{"# A\n", blockBegin, blockEnd + blockBegin, whole + whole} {
		_, err := replaceBlock(page, "new\n")
		require.ErrorContains(t, err, "must have one generated block", page)
	}
}

// yamlName returns the name that a field has in a conditions.yaml: IDLabel is idLabel there.
func yamlName(field string) string {
	runes := []rune(field)
	for i := range runes {
		if !unicode.IsUpper(runes[i]) || i > 0 && i+1 < len(runes) && unicode.IsLower(runes[i+1]) {
			break
		}
		runes[i] = unicode.ToLower(runes[i])
	}
	return string(runes)
}

func yamlNames(of reflect.Type) []string {
	var names []string
	for _, f := range reflect.VisibleFields(of) {
		names = append(names, yamlName(f.Name))
	}
	return names
}

// TestPagesListEveryField holds the page on the configuration to the fields of a condition and of its policy.
func TestPagesListEveryField(t *testing.T) {
	t.Parallel()
	rows := table(t, section(t, configurationPage, "conditions.yaml"))
	require.Subset(t, yamlNames(reflect.TypeFor[rules.Condition]()), []string{"name", "idLabel", "affectsLoad", "sop"})
	for _, of := range []reflect.Type{reflect.TypeFor[rules.Condition](), reflect.TypeFor[prom.Policy]()} {
		for _, name := range yamlNames(of) {
			if rows[name] == nil {
				t.Errorf("%s does not list the field %s of %s", configurationPage, name, of)
			}
		}
	}
}

// TestPagesListTheDefaults holds it to the defaults of a policy.
func TestPagesListTheDefaults(t *testing.T) {
	t.Parallel()
	rows := table(t, section(t, configurationPage, "conditions.yaml"))
	catalogue, err := rules.Load(rules.Options{Files: []string{write(t, "conditions.yaml", "conditions: [{name: Alpha, type: node}]\n")}})
	require.NoError(t, err)
	alpha, found := catalogue.Lookup("Alpha")
	require.True(t, found)
	policy := reflect.ValueOf(alpha.Policy)
	for _, f := range reflect.VisibleFields(policy.Type()) {
		cells, name := rows[yamlName(f.Name)], yamlName(f.Name)
		if len(cells) == 0 || name == "mode" {
			continue // It is another test that misses it, or the default is in aegis.yaml.
		}
		value := policy.FieldByIndex(f.Index)
		if wait, ok := value.Interface().(time.Duration); ok {
			got, err := time.ParseDuration(cells[0])
			require.NoError(t, err, name)
			require.Equal(t, wait, got, name)
			continue
		}
		want := []string{fmt.Sprint(value.Interface())}
		if value.IsZero() {
			want = append(want, nothing)
		}
		require.Contains(t, want, cells[0], name)
	}
}
