package protocol

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Every code that names hardware says something about the node, and those that say nothing name none.
func TestCodesOfHardwareAreConclusive(t *testing.T) {
	t.Parallel()
	named := 0
	for code := range 256 {
		if HardwareOf(code) != "" {
			named++
			require.True(t, Conclusive(code), code)
		}
	}
	require.Equal(t, 11, named)
	for _, code := range []int{ExitUsage, ExitUnknown, ExitSkipped, -1} {
		require.False(t, Conclusive(code), code)
		require.Empty(t, HardwareOf(code))
	}
	require.True(t, Conclusive(ExitOK))
	require.Empty(t, HardwareOf(ExitOK))
}

func TestMostRecovery(t *testing.T) {
	t.Parallel()
	require.Empty(t, MostRecovery())
	require.Empty(t, MostRecovery("", ""))
	order := []string{RecoveryNone, "Sacrifice A Goat", RecoveryDrainAndReset, RecoveryReboot}
	for i, most := range order {
		require.Equal(t, most, MostRecovery(order[:i+1]...))
		require.Equal(t, most, MostRecovery("", most, RecoveryNone))
	}
	require.Equal(t, RecoveryDrainP2P, MostRecovery(RecoveryDrainP2P, "Sacrifice A Goat"), "of equals the first")
}
