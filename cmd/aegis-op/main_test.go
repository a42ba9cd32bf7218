package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// maxBytes is how large the program may become that every node has to load before it can be repaired.
const maxBytes = 10 << 20

// build builds the program as the image has it.
func build(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "aegis-op")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	output, err := cmd.CombinedOutput()
	require.NoError(t, err, string(output))
	return program
}

// What runs as root on every node has no client of Kubernetes in it, nor anything that decides.
func TestProgramKnowsNothingOfKubernetes(t *testing.T) {
	t.Parallel()
	output, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	require.NoError(t, err)
	packages := strings.Fields(string(output))
	require.Contains(t, packages, "aegis.io/aegis/jobs/host")
	for _, p := range packages {
		require.False(t, strings.HasPrefix(p, "k8s.io/"), p)
		if strings.HasPrefix(p, "aegis.io/aegis/") {
			require.Contains(t, []string{"aegis.io/aegis/cmd/aegis-op", "aegis.io/aegis/jobs/host", "aegis.io/aegis/jobs/protocol", "aegis.io/aegis/strict"}, p)
		}
	}
}

func TestProgramIsSmallAndRuns(t *testing.T) {
	t.Parallel()
	program := build(t)
	info, err := os.Stat(program)
	require.NoError(t, err)
	require.Less(t, info.Size(), int64(maxBytes))

	cmd := exec.CommandContext(t.Context(), program)
	output, err := cmd.CombinedOutput()
	require.Error(t, err)
	require.Equal(t, 64, cmd.ProcessState.ExitCode(), string(output))
	require.Contains(t, string(output), "usage: aegis op ACTION")

	cmd = exec.CommandContext(t.Context(), program, "repair", "Nothing")
	cmd.Env = []string{"AEGIS_HOST_ROOT=" + t.TempDir(), "NODE_NAME=n1"}
	output, err = cmd.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(output), `"action":"repair","node":"n1"`)
}
