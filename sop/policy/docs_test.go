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
	tableBegin, tableEnd   = "<!-- verdicts -->\n", "<!-- /verdicts -->\n"
	guardsBegin, guardsEnd = "<!-- guards -->\n", "<!-- /guards -->\n"
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

// guardTable returns the guards as people read them.
func guardTable() string {
	var b strings.Builder
	b.WriteString("| guard | verdict | visit | entry | isolate | step | a request skips it | why not everywhere |\n|---|---|---|---|---|---|---|---|\n")
	for _, g := range Guards() {
		fmt.Fprintf(&b, "| %s | `%s` |", g.Name, g.Verdict)
		for _, stage := range Stages() {
			fmt.Fprintf(&b, " %s |", g.At(stage))
		}
		fmt.Fprintf(&b, " %s | %s |\n", map[bool]string{true: "yes"}[g.RequestsSkip], g.Because)
	}
	return b.String()
}

// The tables of verdicts and of guards in the documentation is that of the guards. Run the test with -update to write it anew.
func TestVerdictsAreDocumented(t *testing.T) {
	documented(t, tableBegin, tableEnd, verdictTable())
	documented(t, guardsBegin, guardsEnd, guardTable())
}

// documented compares what stands between the lines with the table, or writes it anew.
func documented(t *testing.T, tableBegin, tableEnd, table string) {
	t.Helper()
	raw, err := os.ReadFile(operationsPage)
	require.NoError(t, err)
	before, rest, found := strings.Cut(string(raw), tableBegin)
	require.True(t, found, "the page has the line %s", tableBegin)
	written, after, found := strings.Cut(rest, tableEnd)
	require.True(t, found, "the page has the line %s", tableEnd)
	if *update {
		page := before + tableBegin + table + tableEnd + after
		require.NoError(t, os.WriteFile(operationsPage, []byte(page), 0o644))
		return
	}
	require.Equal(t, table, written, "stale: go test ./sop/policy -run TestVerdictsAreDocumented -update")
}

func TestEveryVerdictIsExplained(t *testing.T) {
	t.Parallel()
	for _, name := range VerdictNames() {
		require.NotEmpty(t, name.Meaning(), name)
		if name != VerdictExecute {
			require.NotEmpty(t, name.Change(), name)
			require.Equal(t, name == VerdictError, len(stagesOf(name)) == 0, "%s is given by a guard, or is no objection but what becomes of one that has none", name)
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
		all := g.Visit | g.Entry | g.Isolate | g.Step
		require.NotZero(t, all, "%s is asked nowhere", g.Name)
		require.False(t, g.RequestsSkip && all&Requested != 0, "%s is asked for a request that skips it", g.Name)
		disturbs := g.Isolate | g.Step
		require.True(t, g.RequestsSkip || g.Because != "" || disturbs&Alert == 0 || disturbs&Requested != 0, "%s does not say whether a request skips it", g.Name)
		if g.Because != "" {
			require.True(t, strings.HasSuffix(g.Because, "."), g.Name)
		}
	}
}
