package cmd

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/rules"
)

var (
	camelCase  = regexp.MustCompile(`\b[A-Z][A-Za-z0-9]*[a-z0-9][A-Z][A-Za-z0-9]*\b`)
	firstPart  = regexp.MustCompile(`^(?:[A-Z]+|[A-Z])[a-z]+`)
	olderNames = regexp.MustCompile(`Older names?: ([A-Za-z0-9_, ]+)`)
)

// A name on a page that no condition has would be written into a rule or a request, and be counted as unknown.
func TestPagesNameConditionsThatExist(t *testing.T) {
	t.Parallel()
	catalogue, err := rules.Load(rules.Options{})
	require.NoError(t, err)
	begins := make(map[string]bool)
	for _, c := range catalogue.Conditions() {
		for _, name := range append([]string{c.Name}, c.Aliases...) {
			begins[firstPart.FindString(name)] = true
		}
	}
	others := []string{
		"NetworkManager", "NetworkPolicy", // Of the host, and of Kubernetes.
		"DiskBadBlock",                  // A type of node-problem-detector.
		"ContainerCannotRun",            // The reason of a container's end.
		"LinkUp", "PeerMappingOverride", // The state of a port, and an option of the driver.
		"GpuApplicationFrequentError", // The page says that it belongs to no condition.
	}
	pages, err := filepath.Glob(filepath.Join(repository, pagesDir, "*.md"))
	require.NoError(t, err)
	require.NotEmpty(t, pages)
	for _, page := range append(pages, configurationPage, operationsPage, filepath.Join(repository, "README.md")) {
		raw, err := os.ReadFile(page)
		require.NoError(t, err)
		for _, word := range camelCase.FindAllString(string(raw), -1) {
			if part := firstPart.FindString(word); part != "" && begins[part] && !slices.Contains(others, word) {
				_, known := catalogue.Lookup(word)
				require.True(t, known, "%s names %s, which is neither a condition nor an alias", page, word)
			}
		}
		for _, sentence := range olderNames.FindAllStringSubmatch(string(raw), -1) {
			for older := range strings.SplitSeq(sentence[1], ",") {
				c, known := catalogue.Lookup(strings.TrimSpace(older))
				require.True(t, known, "%s: the older name %s is not an alias", page, older)
				require.Equal(t, strings.TrimSuffix(filepath.Base(page), ".md"), c.Name, "%s: the older name %s is that of another condition", page, older)
			}
		}
	}
}

// Aegis runs in one namespace by default, whoever says so: the chart, the pages, or the binary. The pages give the Jobs their own.
func TestOneDefaultNamespace(t *testing.T) {
	t.Parallel()
	c, err := loadConfig("")
	require.NoError(t, err)
	require.Equal(t, c.Jobs.Namespace, c.LeaderElection.Namespace)
	values, err := readYAML[struct{ Jobs struct{ Namespace string } }](filepath.Join(repository, "charts/aegis/values.yaml"))
	require.NoError(t, err)
	require.Empty(t, values.Jobs.Namespace, "the chart takes the namespace of the release")

	const jobs = "aegis-jobs"
	named := regexp.MustCompile(`(?: -n | --namespace |create namespace |serviceaccount:|//aegis\.)([a-z-]+)(?: |$|\.svc:8080|:aegis)`)
	pages, err := filepath.Glob(filepath.Join(repository, "docs/*.md"))
	require.NoError(t, err)
	found := 0
	for _, page := range append(pages, filepath.Join(repository, "README.md")) {
		raw, err := os.ReadFile(page)
		require.NoError(t, err)
		for line := range strings.Lines(string(raw)) {
			for _, m := range named.FindAllStringSubmatch(strings.TrimSpace(line), -1) {
				found++
				require.Contains(t, []string{c.Jobs.Namespace, jobs}, m[1], "%s: %s", page, line)
			}
		}
	}
	require.Greater(t, found, 15, "the pattern must not miss the commands")
}
