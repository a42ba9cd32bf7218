package strict

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestHint(t *testing.T) {
	t.Parallel()
	known := []string{"drain", "drainGPU", "keep", "waitIdle"}
	tests := map[string]string{
		"drian":                  `did you mean "drain"?`,
		"draingpu":               `did you mean "drainGPU"?`,
		"kep":                    `did you mean "keep"?`,
		"WAITIDLE":               `did you mean "waitIdle"?`,
		"evict":                  "known are drain, drainGPU, keep, waitIdle",
		strings.Repeat("k", 999): "known are drain, drainGPU, keep, waitIdle",
	}
	for word, want := range tests {
		require.Equal(t, want, Hint(word, known), word)
	}
	require.Equal(t, "none is known", Hint("x", []string{}))
}

func TestDistance(t *testing.T) {
	t.Parallel()
	tests := []struct {
		a, b string
		want int
	}{
		{"", "", 0},
		{"abc", "abc", 0},
		{"abc", "abd", 1},
		{"abc", "acb", 1},
		{"abc", "ab", 1},
		{"", "abc", 3},
		{"kitten", "sitting", 3},
		{"gpu", "gup", 1},
	}
	for _, test := range tests {
		require.Equal(t, test.want, distance(test.a, test.b, 9), "%s %s", test.a, test.b)
		require.Equal(t, test.want, distance(test.b, test.a, 9), "%s %s", test.b, test.a)
	}
}
