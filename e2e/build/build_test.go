package build

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRunBuildsWhatIsNamed(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	bin, err := Run(t.Context(), Options{Only: []string{"hosttool"}, Out: &out})
	require.NoError(t, err)
	require.Regexp(t, `^\[1/1\] hosttool \.\.\. \d+ s\n$`, out.String())
	info, err := os.Stat(filepath.Join(bin, "hosttool"))
	require.NoError(t, err)
	require.NotZero(t, info.Mode()&0o111)
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
