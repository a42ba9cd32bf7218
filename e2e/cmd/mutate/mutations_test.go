package main

import (
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
			require.NotEmpty(t, m.invariant)
			require.NotEqual(t, m.old, m.new)
			_, err := m.apply("../../..")
			require.NoError(t, err)
		})
	}
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
