package nodesim

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFaultsAreDescribedOnce(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, f := range Faults() {
		require.False(t, seen[f.Name], "fault %s is listed twice", f.Name)
		seen[f.Name] = true
		require.True(t, strings.HasSuffix(f.Doc, "."), "fault %s has no sentence: %q", f.Name, f.Doc)
		found, err := lookupFault(f.Name)
		require.NoError(t, err)
		require.Equal(t, f.FixedBy, found.FixedBy)
		if f.FixedBy == FixedByRestart {
			require.NotEmpty(t, f.unit, "nothing restarts what fixes %s", f.Name)
		}
	}
	for _, name := range []string{"", "xid-", "xid-x", "xid-0", "xid--1", "site-", "GPU-hung"} {
		_, err := lookupFault(name)
		require.Error(t, err, "fault %q", name)
	}
}

func TestWhatFixesWhat(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		by, done FixedBy
		want     bool
	}{
		{FixedByReboot, FixedByReboot, true},
		{FixedByReset, FixedByReboot, true},
		{FixedByRestart, FixedByReboot, true},
		{FixedByNever, FixedByReboot, false},
		{FixedByReboot, FixedByReset, false},
		{FixedByReset, FixedByReset, true},
		{FixedByNever, FixedByReset, false},
	} {
		require.Equal(t, tc.want, tc.by.fixedBy(tc.done), "%s by %s", tc.by, tc.done)
	}
}

func TestExposition(t *testing.T) {
	t.Parallel()
	e := newExposition()
	e.gauge("a", 1, "node", "n1")
	e.counter("b_total", 2.5)
	e.gauge("a", 0, "node", `quo"ted`)
	var text strings.Builder
	require.NoError(t, e.writeTo(&text))
	require.Equal(t, "# TYPE a gauge\na{node=\"n1\"} 1\na{node=\"quo\\\"ted\"} 0\n# TYPE b_total counter\nb_total{} 2.5\n", text.String())
}
