package cmd

import (
	"log/slog"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	promconfig "github.com/prometheus/common/config"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
	"k8s.io/client-go/rest"

	"aegis.io/aegis/queue/source"
	"aegis.io/aegis/rules"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/sop/procedures"
)

const (
	configurationPage = "../docs/configuration.md"
	operationsPage    = "../docs/operations.md"
	hostPage          = "../docs/host.md"
	reachedSection    = "How Prometheus and Alertmanager are reached"
	selfRules         = "../charts/aegis/rules/aegis.yaml"
)

// section returns the text below the heading of a page, up to the next heading of the same level.
func section(t *testing.T, page, heading string) string {
	t.Helper()
	raw, err := os.ReadFile(page)
	require.NoError(t, err)
	_, text, found := strings.Cut(string(raw), "\n## "+heading+"\n")
	require.True(t, found, "%s has no section %q", page, heading)
	text, _, _ = strings.Cut(text, "\n## ")
	return text
}

// table returns the rows of the tables in the text, by their first cell. The cells lose their backticks.
func table(t *testing.T, text string) map[string][]string {
	t.Helper()
	rows := make(map[string][]string)
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		cells := strings.Split(strings.Trim(strings.ReplaceAll(line, "`", ""), "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		require.NotContains(t, rows, cells[0], "two rows")
		rows[cells[0]] = cells[1:]
	}
	return rows
}

// codeBlocks returns the blocks of a language in the text.
func codeBlocks(text, language string) []string {
	var blocks []string
	for {
		_, rest, found := strings.Cut(text, "```"+language+"\n")
		if !found {
			return blocks
		}
		block, after, _ := strings.Cut(rest, "```")
		blocks, text = append(blocks, block), after
	}
}

// fieldsOf lists the fields of a configuration as the page writes them, such as pools[].maintenanceWindows[].days.
func fieldsOf(of reflect.Type, prefix string) []string {
	var names []string
	for _, f := range reflect.VisibleFields(of) {
		own, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		name := prefix + own
		switch {
		case options == "inline":
			names = append(names, fieldsOf(f.Type, prefix)...)
		case f.Type.Kind() == reflect.Struct:
			names = append(names, fieldsOf(f.Type, name+".")...)
		case f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Struct:
			names = append(names, fieldsOf(f.Type.Elem(), name+"[].")...)
		default:
			names = append(names, name)
		}
	}
	return names
}

func TestEveryFieldIsDocumented(t *testing.T) {
	t.Parallel()
	var documented []string
	for name := range table(t, section(t, configurationPage, "aegis.yaml")) {
		documented = append(documented, name)
	}
	require.ElementsMatch(t, fieldsOf(reflect.TypeFor[config](), ""), documented)
}

func TestDefaultsOfPoolsAreDocumented(t *testing.T) {
	t.Parallel()
	rows := table(t, section(t, configurationPage, "aegis.yaml"))
	documented := func(field string) string {
		require.NotEmpty(t, rows["pools[]."+field], field)
		return rows["pools[]."+field][0]
	}
	pool := policy.DefaultPool()
	for name, want := range map[string]int{
		"maxOutOfServicePercent": pool.MaxPercent,
		"maxDestructive":         pool.MaxDestructive,
		"stormPercent":           pool.StormPercent,
		"maxIncidents":           pool.MaxIncidents,
		"maxRepeats":             pool.MaxRepeats,
	} {
		require.Equal(t, strconv.Itoa(want), documented(name), name)
	}
	for name, want := range map[string]time.Duration{
		"stormWindow":    pool.StormWindow,
		"stormRelease":   pool.StormRelease,
		"incidentWindow": pool.IncidentWindow,
	} {
		got, err := time.ParseDuration(documented(name))
		require.NoError(t, err, name)
		require.Equal(t, want, got, name)
	}
	require.Equal(t, pool.Profile, documented("profile"))
	require.Zero(t, pool.MaxNodes, "the page says that there is no bound")
	require.Zero(t, pool.StormNodes, "the page says that there is no bound")
}

func TestDefaultsOfLimitsAreDocumented(t *testing.T) {
	t.Parallel()
	rows := table(t, section(t, configurationPage, "aegis.yaml"))
	cluster := policy.DefaultCluster()
	for name, want := range map[string]string{
		"maxOutOfServicePercent": strconv.Itoa(cluster.MaxPercent),
		"maxDestructivePercent":  strconv.Itoa(cluster.MaxDestructivePercent),
		"stormPercent":           strconv.Itoa(cluster.StormPercent),
		"stormWindow":            "10m",
		"stormRelease":           "5m",
	} {
		require.Equal(t, want, rows["limits."+name][0], name)
	}
	require.Equal(t, 10*time.Minute, cluster.StormWindow)
	require.Equal(t, 5*time.Minute, cluster.StormRelease)
	require.Zero(t, cluster.MaxNodes+cluster.MaxDestructive+cluster.StormNodes, "the page says that there is no bound")
}

func TestDocumentedConfigurationLoads(t *testing.T) {
	t.Parallel()
	blocks := codeBlocks(section(t, configurationPage, "aegis.yaml"), "yaml")
	require.NotEmpty(t, blocks)
	for _, block := range blocks {
		loaded, err := loadConfig(write(t, "aegis.yaml", block))
		require.NoError(t, err)
		pools, err := loaded.pools()
		require.NoError(t, err)
		require.NotEmpty(t, pools[0].Windows, "the example has a maintenance window")
	}
	for _, block := range codeBlocks(section(t, configurationPage, reachedSection), "yaml") {
		loaded, err := loadConfig(write(t, "aegis.yaml", block))
		require.NoError(t, err)
		require.NotNil(t, loaded.Prometheus.Server.HTTPConfig)
	}
}

func TestDocumentedSourcesLoad(t *testing.T) {
	t.Parallel()
	catalogue, err := rules.Load(rules.Options{})
	require.NoError(t, err)
	blocks := codeBlocks(section(t, configurationPage, "Sources"), "yaml")
	require.Len(t, blocks, 3)
	for _, block := range blocks {
		file := write(t, "aegis.yaml", block)
		loaded, err := loadConfig(file)
		require.NoError(t, err)
		require.NoError(t, checkSources(file, loaded, catalogue))
		inspections, err := loaded.inspections()
		require.NoError(t, err)
		require.Len(t, inspections, 1)
	}
}

func TestEveryFieldOfHTTPConfigIsDocumented(t *testing.T) {
	t.Parallel()
	undocumented := map[string]string{
		"bearer_token":         "a secret",
		"bearer_token_file":    "an older name of authorization.credentials_file",
		"proxy_connect_header": "a secret",
	}
	documented := slices.Collect(maps.Keys(undocumented))
	for names := range table(t, section(t, configurationPage, reachedSection)) {
		documented = append(documented, strings.Split(names, ", ")...)
	}
	var known []string
	of := reflect.TypeFor[source.HTTPConfig]()
	for _, f := range append(reflect.VisibleFields(of), reflect.VisibleFields(reflect.TypeFor[promconfig.ProxyConfig]())...) {
		if name, _, _ := strings.Cut(f.Tag.Get("yaml"), ","); name != "" && !slices.Contains(known, name) {
			known = append(known, name)
		}
	}
	require.ElementsMatch(t, known, documented)
}

func TestDocumentedConditionsLoad(t *testing.T) {
	t.Parallel()
	blocks := codeBlocks(section(t, configurationPage, "conditions.yaml"), "yaml")
	require.NotEmpty(t, blocks)
	site := codeBlocks(section(t, hostPage, "Executables of a site"), "yaml")
	require.NotEmpty(t, site)
	blocks = append(blocks, site...)
	for _, block := range blocks {
		_, err := loadCatalogue(rules.Options{Files: []string{write(t, "conditions.yaml", block)}}, procedures.Table())
		require.NoError(t, err)
	}
}

func TestEveryVerdictIsDocumented(t *testing.T) {
	t.Parallel()
	want, got := make(map[string]string), make(map[string]string)
	for _, name := range policy.VerdictNames() {
		want[string(name)] = name.Change()
	}
	for name, cells := range table(t, section(t, operationsPage, "Verdicts")) {
		got[name] = cells[len(cells)-1]
	}
	require.Equal(t, want, got)
}

// described matches what the client library says of a metric.
var described = regexp.MustCompile(`fqName: "([^"]+)".*variableLabels: \{([^}]*)\}`)

// ownMetrics returns the labels of each metric of a process that was just wired, but those of the runtime.
func ownMetrics(t *testing.T) map[string][]string {
	t.Helper()
	file := write(t, "aegis.yaml", "leaderElection: {enabled: false}\n")
	cfg, err := loadConfig(file)
	require.NoError(t, err)
	catalogue, err := loadCatalogue(rules.Options{}, procedures.Table())
	require.NoError(t, err)
	app, err := newApp(serveFlags{config: file}, cfg, catalogue, procedures.Table(), &rest.Config{Host: "http://127.0.0.1:1"}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	descs := make(chan *prometheus.Desc)
	go func() {
		defer close(descs)
		app.registry.Describe(descs)
	}()
	metrics := make(map[string][]string)
	for desc := range descs {
		found := described.FindStringSubmatch(desc.String())
		require.NotNil(t, found, desc.String())
		if name := found[1]; strings.HasPrefix(name, "aegis_") {
			metrics[name] = strings.FieldsFunc(found[2], func(r rune) bool { return r == ',' })
		}
	}
	return metrics
}

func TestEveryMetricIsDocumented(t *testing.T) {
	t.Parallel()
	want := ownMetrics(t)
	// Its labels are constant, and the page leaves out some of them.
	delete(want, "aegis_build_info")
	got := make(map[string][]string)
	for row := range table(t, section(t, operationsPage, "Metrics")) {
		name, labels, _ := strings.Cut(row, "{")
		got[name] = strings.FieldsFunc(strings.TrimSuffix(labels, "}"), func(r rune) bool { return r == ',' })
	}
	delete(got, "aegis_build_info")
	for name, labels := range want {
		require.ElementsMatch(t, labels, got[name], "labels of %s", name)
	}
	require.ElementsMatch(t, slices.Collect(maps.Keys(want)), slices.Collect(maps.Keys(got)))
}

// Dashboards of the first version name these metrics, with these labels.
func TestFirstMetricsStay(t *testing.T) {
	t.Parallel()
	have := ownMetrics(t)
	for name, labels := range map[string][]string{
		"aegis_sop_total":         {"status"},
		"aegis_selfheal_seconds":  nil,
		"aegis_ticket_open_total": nil,
		"aegis_condition_gauge":   {"condition"},
	} {
		require.Contains(t, have, name)
		require.ElementsMatch(t, labels, have[name], name)
	}
}

func TestEveryAlertOnAegisIsDocumented(t *testing.T) {
	t.Parallel()
	var rules struct {
		Spec struct {
			Groups []struct{ Rules []struct{ Alert string } }
		}
	}
	raw, err := os.ReadFile(selfRules)
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(raw, &rules))
	rows := table(t, section(t, operationsPage, "Alerts on Aegis itself"))
	rows["Watchdog"] = nil // It tells of Prometheus.
	for _, group := range rules.Spec.Groups {
		for _, rule := range group.Rules {
			require.Contains(t, rows, rule.Alert)
			delete(rows, rule.Alert)
		}
	}
	require.Empty(t, rows, "no such alerts")
}

// The page of the command has its flags, and no others.
func TestFlagsOfCoverageAreDocumented(t *testing.T) {
	t.Parallel()
	_, _, help := aegis("coverage", "-h")
	want := []string{"FILE..."}
	for _, line := range regexp.MustCompile(`(?m)^  -(\S+)`).FindAllStringSubmatch(help, -1) {
		want = append(want, "-"+line[1])
	}
	page, err := os.ReadFile("../docs/coverage.md")
	require.NoError(t, err)
	_, flags, found := strings.Cut(string(page), "| flag | meaning |\n")
	require.True(t, found)
	flags, _, _ = strings.Cut(flags, "\n\n")
	var got []string
	for row := range table(t, flags) {
		name, _, _ := strings.Cut(row, " ")
		got = append(got, name)
	}
	require.ElementsMatch(t, want, got)
}
