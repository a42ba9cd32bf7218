package policy

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the table of verdicts in docs/operations.md anew")

const (
	operationsPage = "../../docs/operations.md"
	// What stands between these lines is generated.
	tableBegin, tableEnd = "<!-- verdicts -->\n", "<!-- /verdicts -->\n"
)

// verdictTable returns the verdicts as people read them, with the stages at which a guard gives them.
func verdictTable() string {
	var b strings.Builder
	b.WriteString("| verdict | meaning | asked at | changes when |\n|---|---|---|---|\n")
	for _, name := range VerdictNames() {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", name, name.Meaning(), strings.Join(stagesOf(name), ", "), name.Change())
	}
	return b.String()
}

// stagesOf returns the stages at which a guard gives the verdict.
func stagesOf(name VerdictName) []string {
	var stages []string
	for _, stage := range Stages() {
		if slices.ContainsFunc(Guards(), func(g Guard) bool { return g.Verdict == name && g.At(stage) != 0 }) {
			stages = append(stages, string(stage))
		}
	}
	return stages
}

// The table of verdicts in the documentation is that of the guards. Run the test with -update to write it anew.
func TestVerdictsAreDocumented(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(operationsPage)
	require.NoError(t, err)
	before, rest, found := strings.Cut(string(raw), tableBegin)
	require.True(t, found, "the page has the line %s", tableBegin)
	written, after, found := strings.Cut(rest, tableEnd)
	require.True(t, found, "the page has the line %s", tableEnd)
	if *update {
		page := before + tableBegin + verdictTable() + tableEnd + after
		require.NoError(t, os.WriteFile(operationsPage, []byte(page), 0o644))
		return
	}
	require.Equal(t, verdictTable(), written, "stale: go test ./sop/policy -run TestVerdictsAreDocumented -update")
}

func TestEveryVerdictIsExplained(t *testing.T) {
	t.Parallel()
	for _, name := range VerdictNames() {
		require.NotEmpty(t, name.Meaning(), name)
		if name != VerdictExecute {
			require.NotEmpty(t, name.Change(), name)
			require.NotEmpty(t, stagesOf(name), "%s is given by no guard", name)
		}
	}
}

func TestGuardsAreWellFormed(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for _, g := range Guards() {
		require.False(t, seen[g.Name], "two guards are named %s", g.Name)
		seen[g.Name] = true
		require.Contains(t, VerdictNames(), g.Verdict, g.Name)
		require.NotZero(t, g.Visit|g.Entry|g.Isolate|g.Step, "%s is asked nowhere", g.Name)
		if g.Differs != "" {
			require.True(t, strings.HasSuffix(g.Differs, "."), g.Name)
		}
	}
}
