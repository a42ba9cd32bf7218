package build

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// While a program is compiled, it is told how many of its packages are done, and since when the build runs.
func TestProgress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		p := newProgress(&out)
		end := p.begin(2, 11, "kube-apiserver")
		said := compilations{progress: p, first: func() { p.expect(3) }}
		require.NoError(t, said.read(strings.NewReader("k8s.io/api/core/v1\nk8s.io/api/apps/v1\n")))
		time.Sleep(reportEvery + time.Second)
		end(nil)
		require.Equal(t, "[2/11] kube-apiserver ... 2 of 3 packages compiled, 5 s since the beginning\n[2/11] kube-apiserver ... 6 s\n", out.String())
		require.Empty(t, said.rest.String())
	})
}

// What the compiler complains about is no package, and is not lost.
func TestProgressKeepsErrors(t *testing.T) {
	t.Parallel()
	p := newProgress(new(strings.Builder))
	said := compilations{progress: p}
	require.NoError(t, said.read(strings.NewReader("example.org/a\n# example.org/a\na.go:1:2: undefined: x\n")))
	require.Equal(t, 1, p.done)
	require.Equal(t, "# example.org/a\na.go:1:2: undefined: x\n", said.rest.String())
}

// What an earlier program has had compiled is not counted again.
func TestMeasureCountsWhatIsLeft(t *testing.T) {
	t.Parallel()
	root, err := repository("")
	require.NoError(t, err)
	targets, err := choose([]string{"hosttool"})
	require.NoError(t, err)
	p, compiled := newProgress(new(strings.Builder)), make(map[string]bool)
	targets[0].measure(t.Context(), root, p, compiled)
	require.Greater(t, p.total, 50)
	p.expect(0)
	targets[0].measure(t.Context(), root, p, compiled)
	require.Zero(t, p.total)
}
