package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A mutation that no longer fits the product would break something else, or nothing.
func TestMutationsFitTheProduct(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for _, m := range mutations() {
		t.Run(m.name, func(t *testing.T) {
			require.False(t, seen[m.name], "the name is taken")
			seen[m.name] = true
			require.Contains(t, invariants(), m.invariant)
			require.NotEqual(t, m.old, m.new)
			_, err := m.apply("../../..")
			require.NoError(t, err)
		})
	}
}

// Mutations and violations speak of the same invariants.
func TestInvariantsAreThoseOfTheSimulation(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../../sop/sim_invariants_test.go")
	require.NoError(t, err)
	values := make(map[string]string)
	for _, m := range regexp.MustCompile(`(?m)^\t(\w+) += "(.+)"$`).FindAllStringSubmatch(string(text), -1) {
		values[m[1]] = m[2]
	}
	var names []string
	for _, m := range regexp.MustCompile(`\bName: +(\w+),`).FindAllStringSubmatch(string(text), -1) {
		require.Contains(t, values, m[1], "the name of an invariant is a constant beside it")
		names = append(names, values[m[1]])
	}
	require.ElementsMatch(t, invariants(), names)
	guarded := make(map[string]bool)
	for _, m := range mutations() {
		guarded[m.invariant] = true
	}
	for _, name := range names {
		require.True(t, guarded[name], "no mutation shows that the simulation notices when %q does not hold", name)
	}
}

func TestCaughtBy(t *testing.T) {
	t.Parallel()
	require.Equal(t, theirs, outcome{violation: "1h2m: " + theirs + ": p1 undoes it"}.caughtBy())
	require.Equal(t, "none: the tests end", outcome{violation: "panic: deadlock"}.caughtBy())
	require.Empty(t, outcome{}.caughtBy())
}

func TestFirstViolation(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, output, seed, violation string
	}{
		{"none", "=== RUN   TestSimulation\nPASS\n", "", ""},
		{
			"one of several",
			"=== NAME  TestSimulation/seed_7\n    sim_test.go:59: violated:\n        1h2m: p1 undoes it\n        1h3m: p1 does it again\n" +
				"        replay with:\n          go test ./sop -run 'TestSimulation$' -v -sim.seed=7\n        the last events:\n",
			"7", "1h2m: p1 undoes it",
		},
		{"a panic", "=== RUN   TestSimulation\npanic: deadlock: main bubble goroutine has exited\n", "none", "panic: deadlock: main bubble goroutine has exited"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			seed, violation, err := firstViolation(strings.NewReader(tt.output))
			require.NoError(t, err)
			require.Equal(t, tt.seed, seed)
			require.Equal(t, tt.violation, violation)
		})
	}
}
