package rules

import (
	"testing"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/rules/prom"
)

func TestPresetsAreReviewed(t *testing.T) {
	t.Parallel()
	require.Contains(t, Presets(), "unattended")
	embedded := load(t)
	for _, name := range Presets() {
		p, err := LoadPreset(name)
		require.NoError(t, err)
		require.Equal(t, name, p.Name)
		require.Regexp(t, `[.]$`, p.Summary)
		seen := make(map[string]bool)
		for _, listed := range p.Conditions {
			require.False(t, seen[listed.Name], "%s is listed twice", listed.Name)
			seen[listed.Name] = true
			require.Regexp(t, `[.]$`, listed.Reason, listed.Name)
			c, found := embedded.Lookup(listed.Name)
			require.True(t, found, listed.Name)
			require.Equal(t, c.Name, listed.Name, "an alias would not be found")
			require.Equal(t, prom.ModeObserve, c.Policy.Mode, "%s has a mode of its own", c.Name)
			policy := c.Policy
			switch listed.Kind {
			case PresetNote, PresetKeep:
				require.Equal(t, prom.WorkloadKeep, policy.Workload, c.Name)
				require.Zero(t, policy.MaxReboots, c.Name)
				require.False(t, policy.Shutdown, c.Name)
			case PresetWaitIdle:
				require.Equal(t, prom.WorkloadWaitIdle, policy.Workload, c.Name)
			case PresetCertain:
				require.Contains(t, []prom.Workload{prom.WorkloadDrain, prom.WorkloadDrainGPU}, policy.Workload, c.Name)
			default:
				t.Errorf("%s has the unknown kind %q", c.Name, listed.Kind)
			}
		}
	}
}

// loadPreset returns the catalogue with the preset unattended and the files.
func loadPreset(t *testing.T, files ...string) (*Catalogue, Preset) {
	t.Helper()
	var names []string
	for _, text := range files {
		names = append(names, write(t, text))
	}
	c, err := Load(Options{Files: names, Preset: "unattended"})
	require.NoError(t, err)
	p, err := LoadPreset("unattended")
	require.NoError(t, err)
	return c, p
}

func TestPresetTurnsItsConditionsOn(t *testing.T) {
	t.Parallel()
	c, p := loadPreset(t)
	on, held := c.TurnedOn(p)
	require.Len(t, on, len(p.Conditions))
	require.Empty(t, held)
	require.Equal(t, prom.ModeAuto, lookup(t, c, "GpuDown").Policy.Mode)
	require.Equal(t, prom.ModeObserve, lookup(t, c, "GpuHung").Policy.Mode)
	require.Equal(t, prom.ModeOff, lookup(t, c, "GpuIbgdaNotEnabled").Policy.Mode)
}

func TestFilesOverrideThePreset(t *testing.T) {
	t.Parallel()
	t.Run("the mode of a condition", func(t *testing.T) {
		t.Parallel()
		c, p := loadPreset(t, "conditions: [{name: GpuDown, policy: {mode: approve}}, {name: GpuHung, policy: {mode: auto}}]")
		on, held := c.TurnedOn(p)
		require.Equal(t, []string{"GpuDown"}, held)
		require.NotContains(t, on, "GpuHung")
		require.Equal(t, prom.ModeApprove, lookup(t, c, "GpuDown").Policy.Mode)
		require.Equal(t, prom.ModeAuto, lookup(t, c, "GpuHung").Policy.Mode)
	})
	t.Run("the mode of all", func(t *testing.T) {
		t.Parallel()
		c, p := loadPreset(t, "defaults: {mode: observe}")
		on, held := c.TurnedOn(p)
		require.Empty(t, on)
		require.Len(t, held, len(p.Conditions))
	})
	t.Run("another field only", func(t *testing.T) {
		t.Parallel()
		c, _ := loadPreset(t, "conditions: [{name: GpuDown, policy: {maxReboots: 1}}]")
		require.Equal(t, prom.ModeAuto, lookup(t, c, "GpuDown").Policy.Mode)
	})
}

func TestUnknownPreset(t *testing.T) {
	t.Parallel()
	_, err := Load(Options{Preset: "unatended"})
	require.EqualError(t, err, `unknown preset "unatended", did you mean "unattended"?`)
}
