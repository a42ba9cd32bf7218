package cmd

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A file with a single field is told apart as well as a long one, so that its mistakes are told in the right terms.
func TestKindOfAFile(t *testing.T) {
	t.Parallel()
	kinds := map[string]kind{
		"conditions: [conditions.yaml]\n":         kindConfig,
		"conditions: [{name: LustreUnmounted}]\n": kindConditions,
		"types: [storage]\n":                      kindConditions,
		"gpus: 8\n":                               kindProfile,
		"tls_server_config: {}\n":                 kindWeb,
		"apiVersion: batch/v1\nkind: Job\n":       kindJob,
		"[":                                       kindConditions,
	}
	for _, key := range configKeys() {
		kinds[key+": x\n"] = kindConfig
	}
	for text, want := range kinds {
		file := filepath.Join(t.TempDir(), "file.yaml")
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		got, err := kindOf(file)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
}
