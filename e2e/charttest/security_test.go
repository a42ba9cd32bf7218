package charttest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"
)

// documentedRights returns the grants of the table in docs/security.md, as rights.Grant.String writes them.
func documentedRights(t *testing.T) []string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(docs, "security.md"))
	require.NoError(t, err)
	_, table, found := strings.Cut(string(page), "\n| role | resource | verbs | where | for |\n|---|---|---|---|---|\n")
	require.True(t, found, "the table has gone")
	table, _, _ = strings.Cut(table, "\n\n")
	var grants []string
	for row := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(row), "|"), "|")
		require.Len(t, cells, 5, row)
		role, resource, where := strings.TrimSpace(cells[0]), strings.TrimSpace(cells[1]), strings.TrimSpace(cells[3])
		require.NotEmpty(t, strings.TrimSpace(cells[4]), row)
		for verb := range strings.SplitSeq(cells[2], ",") {
			grants = append(grants, role+": "+strings.TrimSpace(verb)+" "+resource+" in "+where)
		}
	}
	return grants
}

// The page tells all rights, and none that are not granted.
func TestSecurityPageTellsTheRights(t *testing.T) {
	t.Parallel()
	documented := documentedRights(t)
	require.NotEmpty(t, documented)
	require.ElementsMatch(t, lines(readRights(t).Grants()), documented)
}

// The commands of the page name what the chart has: values that it does not know would be ignored.
func TestSecurityPageNamesValuesOfTheChart(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join(docs, "security.md"))
	require.NoError(t, err)
	for _, value := range []string{
		"jobs.namespace", "rbac.deletePodsNamespaces", "networkPolicy.enabled", "networkPolicy.operators", "auth.secretName", "web.secretName",
	} {
		require.Contains(t, string(page), value)
		require.True(t, hasValue(t, value), value)
	}
}

// hasValue reports whether values.yaml has the field.
func hasValue(t *testing.T, path string) bool {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(chart, "values.yaml"))
	require.NoError(t, err)
	var values map[string]any
	require.NoError(t, yaml.Unmarshal(text, &values))
	section, field, _ := strings.Cut(path, ".")
	inner, ok := values[section].(map[string]any)
	require.True(t, ok, section)
	_, known := inner[field]
	return known
}
