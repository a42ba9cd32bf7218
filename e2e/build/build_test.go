package build

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRunBuildsWhatIsNamed(t *testing.T) {
	t.Setenv(BuiltVariable, "")
	var out strings.Builder
	bin, err := Run(t.Context(), Options{Only: []string{"hosttool"}, Out: &out})
	require.NoError(t, err)
	require.Regexp(t, `^\[1/1\] hosttool \.\.\. \d+ s\n$`, out.String())
	info, err := os.Stat(filepath.Join(bin, "hosttool"))
	require.NoError(t, err)
	require.NotZero(t, info.Mode()&0o111)
}

func TestRunTrustsWhatIsBuilt(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(root, "bin"), 0o755))
	o := Options{Root: root, Only: []string{"hosttool", "aegis"}, Built: true}
	_, err := Run(t.Context(), o)
	require.ErrorContains(t, err, "hosttool is not built")
	require.ErrorContains(t, err, "aegis is not built")
	for _, name := range o.Only {
		require.NoError(t, os.WriteFile(filepath.Join(root, "bin", name), nil, 0o755))
	}
	bin, err := Run(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, filepath.Join(root, "bin"), bin)
}

func TestRunRefusesUnknownPrograms(t *testing.T) {
	t.Parallel()
	_, err := Run(t.Context(), Options{Only: []string{"hosttool", "nonsense"}})
	require.ErrorContains(t, err, `no program "nonsense"`)
}

func TestRepositoryIsFoundUpwards(t *testing.T) {
	t.Parallel()
	root, err := repository("")
	require.NoError(t, err)
	_, err = os.Stat(filepath.Join(root, "e2e", "build", "build.go"))
	require.NoError(t, err)
}

func TestTargetsHaveDifferentNames(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, target := range targets() {
		require.False(t, seen[target.name], target.name)
		seen[target.name] = true
	}
}
