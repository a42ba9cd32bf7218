package cmd

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/rules"
)

const presetsPage = "../docs/presets.md"

// What stands between these lines is generated.
const (
	presetsBegin = "<!-- presets -->\n"
	presetsEnd   = "<!-- /presets -->\n"
)

// presetTables lists the conditions of each preset with what is done about them, and why that may be done with nobody watching.
func presetTables(t *testing.T, g *generator) string {
	t.Helper()
	var b strings.Builder
	for _, name := range rules.Presets() {
		p, err := rules.LoadPreset(name)
		require.NoError(t, err)
		fmt.Fprintf(&b, "\n## %s\n%s %d conditions.\n\n| condition | kind | reason | plan |\n|---|---|---|---|\n", name, p.Summary, len(p.Conditions))
		for _, listed := range p.Conditions {
			c, found := g.catalogue.Lookup(listed.Name)
			require.True(t, found, listed.Name)
			var plans []string
			for _, plan := range g.plans(t, c) {
				plans = append(plans, strings.Join(plan.steps, " → "))
			}
			fmt.Fprintf(&b, "| [%[1]s](conditions/%[1]s.md) | %[2]s | %[3]s | %[4]s |\n", c.Name, listed.Kind, listed.Reason, strings.Join(plans, "; or "))
		}
	}
	return b.String() + "\n"
}

// The page of the presets lists what is in their files. Run the test with -update to write it anew.
func TestPresetsAreDocumented(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(presetsPage)
	require.NoError(t, err)
	head, rest, found := strings.Cut(string(raw), presetsBegin)
	require.True(t, found)
	_, tail, found := strings.Cut(rest, presetsEnd)
	require.True(t, found)
	want := head + presetsBegin + presetTables(t, newGenerator(t)) + presetsEnd + tail
	if *update {
		require.NoError(t, os.WriteFile(presetsPage, []byte(want), 0o600))
		return
	}
	require.Equal(t, want, string(raw), "run go test ./cmd -run TestPresetsAreDocumented -update")
}

// A condition that is only noted takes no step that touches the node.
func TestPresetNotesTouchNoNode(t *testing.T) {
	t.Parallel()
	g := newGenerator(t)
	for _, name := range rules.Presets() {
		p, err := rules.LoadPreset(name)
		require.NoError(t, err)
		for _, listed := range p.Conditions {
			c, found := g.catalogue.Lookup(listed.Name)
			require.True(t, found, listed.Name)
			for _, plan := range g.plans(t, c) {
				for _, step := range plan.steps {
					action, _, _ := strings.Cut(step, " ")
					switch listed.Kind {
					case rules.PresetNote:
						require.Contains(t, []string{"note", "handover"}, action, c.Name)
					case rules.PresetKeep:
						require.NotContains(t, []string{"drain", "draingpu", "reboot", "reset", "shutdown", "taint"}, action, c.Name)
					}
				}
				if listed.Kind == rules.PresetWaitIdle {
					require.Contains(t, plan.steps, "waitidle", c.Name)
				}
			}
		}
	}
}
