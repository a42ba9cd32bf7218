package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPublishedBudgets(t *testing.T) {
	t.Parallel()
	budgets, err := publishedBudgets("../../..")
	require.NoError(t, err)
	for _, s := range scenes() {
		require.NotEmpty(t, budgets[s.condition], "%s is measured and has no budget", s.condition)
		require.Positive(t, budgets[s.condition][stageAlert])
		require.Positive(t, budgets[s.condition][stageProven])
	}
	require.NotContains(t, budgets["NodeNotReady"], stageRepaired, "it passes by itself, which has no budget")
}

func TestCheck(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "docs"), 0o755))
	row := "| [GpuDown](conditions/GpuDown.md) | 2m | 25s | 4m45s / 40m10s | people | – | – | 7m, then people |\n"
	require.NoError(t, os.WriteFile(filepath.Join(dir, page), []byte(row), 0o600))
	began := time.Now()
	at := func(alert, cordon time.Duration) []*course {
		return []*course{{scene: scene{condition: "GpuDown"}, at: map[stage]time.Time{
			stageFault: began, stageAlert: began.Add(alert), stageCordon: began.Add(cordon), stageRepaired: began.Add(time.Hour),
		}}}
	}
	require.NoError(t, check(dir, at(2*time.Minute, 145*time.Second)))
	require.NoError(t, check(dir, at(time.Minute, 145*time.Second)), "the alert was early")
	require.EqualError(t, check(dir, at(2*time.Minute, 146*time.Second)), "GpuDown took 26s to cordon, of 25s")
	require.EqualError(t, check(dir, at(121*time.Second, 122*time.Second)), "GpuDown took 2m1s to alert, of 2m0s")
	require.ErrorContains(t, check(dir, []*course{{scene: scene{condition: "GpuHung"}}}), "GpuHung has no row in docs/time-to-repair.md")
}
