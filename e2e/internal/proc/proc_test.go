package proc_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/e2e/internal/proc"
)

func shell(t *testing.T, script string) *proc.Process {
	t.Helper()
	p, err := proc.Start(proc.Options{Path: "/bin/sh", Args: []string{"-c", script}, Log: filepath.Join(t.TempDir(), "log")})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Kill()) })
	return p
}

func TestKillEndsTheWholeGroup(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "child")
	p := shell(t, "sleep 600 & echo $! > "+file+".new; mv "+file+".new "+file+"; wait")
	require.NoError(t, p.WaitReady(t.Context(), func(context.Context) error { _, err := os.Stat(file); return err }))
	require.True(t, p.Running())
	require.NoError(t, p.Kill())
	require.False(t, p.Running())
	pid, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/stat")
		// A zombie has ended; whoever inherited it may take time to collect it.
		return errors.Is(err, os.ErrNotExist) || strings.Contains(string(stat), ") Z ")
	}, 10*time.Second, 10*time.Millisecond, "the child of the shell has ended")
}

func TestStopIsGraceful(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "ready")
	p := shell(t, "trap 'exit 0' TERM; touch "+file+"; while :; do sleep 0.05; done")
	require.NoError(t, p.WaitReady(t.Context(), func(context.Context) error { _, err := os.Stat(file); return err }))
	require.NoError(t, p.Stop())
	require.NoError(t, p.Err())
	require.NoError(t, p.Stop(), "again")
}

func TestWaitReadyTellsWhyAProgramEnded(t *testing.T) {
	t.Parallel()
	p := shell(t, "echo no such option; exit 3")
	err := p.WaitReady(t.Context(), func(context.Context) error { return errors.New("not yet") })
	require.ErrorContains(t, err, "exit status 3")
	require.ErrorContains(t, err, "no such option")
}

func TestWaitReadyEndsWithItsContext(t *testing.T) {
	t.Parallel()
	p := shell(t, "sleep 600")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, p.WaitReady(ctx, func(context.Context) error { return errors.New("never") }), context.DeadlineExceeded)
}

func TestNoProcess(t *testing.T) {
	t.Parallel()
	var p *proc.Process
	require.False(t, p.Running())
	require.NoError(t, p.Stop())
	require.NoError(t, p.Kill())
	_, err := proc.Start(proc.Options{Path: "/no/such/program", Log: filepath.Join(t.TempDir(), "log")})
	require.Error(t, err)
}

func TestOK(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/bad" {
			http.Error(w, "not synced", http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	require.NoError(t, proc.OK(server.Client(), server.URL)(t.Context()))
	require.ErrorContains(t, proc.OK(server.Client(), server.URL+"/bad")(t.Context()), "not synced")
}

func TestFreePortsAreDifferent(t *testing.T) {
	t.Parallel()
	ports, err := proc.FreePorts(10)
	require.NoError(t, err)
	seen := map[int]bool{}
	for _, p := range ports {
		require.False(t, seen[p])
		seen[p] = true
	}
}
