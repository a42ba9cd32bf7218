package sop_test

import (
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

var (
	simCount = flag.Int("sim.n", 0, "how many schedules to simulate; 0 takes AEGIS_SIM_N, else the default")
	simFirst = flag.Uint64("sim.first", 1, "the seed of the first schedule")
	simSeed  = flag.Uint64("sim.seed", 0, "simulate the schedule of this seed only, and print its events")
	simSoak  = flag.Bool("sim.soak", false, "simulate schedules of ever new seeds until an interrupt; -sim.first names the first one")
)

// simGarbage lets garbage grow to four times what a few small worlds need, which takes a third of the time away.
const simGarbage = 400

// TestSimulation lets the real queue, dispatcher, procedures, journal, ticket store and limits work in worlds that misbehave,
// each drawn from a seed, and checks at every write that nothing is done that must not be, and in the end that nothing is
// left undone. A failing seed is one command away from its events.
func TestSimulation(t *testing.T) {
	t.Parallel()
	switch {
	case *simSeed != 0:
		simulate(t, *simSeed)
		return
	case *simSoak:
		simulateOn(t)
		return
	}
	n, err := schedules()
	require.NoError(t, err)
	before := debug.SetGCPercent(simGarbage)
	t.Cleanup(func() { debug.SetGCPercent(before) })
	for i := range n {
		seed := *simFirst + i
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			simulate(t, seed)
		})
	}
}

// schedules returns how many schedules to simulate.
func schedules() (uint64, error) {
	switch text := os.Getenv("AEGIS_SIM_N"); {
	case *simCount > 0:
		return uint64(*simCount), nil
	case text != "":
		return strconv.ParseUint(text, 10, 32)
	}
	return simSchedules, nil
}

// simulate runs one schedule, and once more with its events noted if it fails.
func simulate(t *testing.T, seed uint64) {
	violations, lines, _ := simulated(t, seed, *simSeed != 0)
	if *simSeed != 0 {
		t.Log("events:\n" + strings.Join(lines, "\n"))
	}
	if len(violations) == 0 {
		return
	}
	if *simSeed == 0 {
		_, lines, _ = simulated(t, seed, true)
	}
	const most = 150
	t.Fatalf("violated:\n%s\nreplay with:\n  go test ./sop -run 'TestSimulation$' -v -sim.seed=%d\nthe last events:\n%s",
		strings.Join(violations, "\n"), seed, strings.Join(lines[max(0, len(lines)-most):], "\n"))
}

// simulated runs the schedule in a bubble of virtual time, which also finds goroutines that are left behind.
func simulated(t *testing.T, seed uint64, verbose bool) (violations, lines []string, lasted time.Duration) {
	synctest.Test(t, func(*testing.T) {
		s := newSchedule(seed, verbose)
		violations = s.run()
		lines, lasted = s.Lines(), time.Since(s.Start())
	})
	return violations, lines, lasted
}

// The page says of each invariant what the code says.
func TestPageOfTheInvariants(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/simulation.md")
	require.NoError(t, err)
	for _, invariant := range simInvariants() {
		require.Contains(t, string(page), fmt.Sprintf("| %s | %s |\n", invariant.Name, invariant.Says))
	}
}
