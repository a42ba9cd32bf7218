package host

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What mounts runs in the mount namespace of the host's init process, with the root that it has there; everything else stays where the
// operation is. Only root may enter a namespace.
func TestToolThatMountsEntersTheNamespaceOfTheHost(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.options.noChroot = false
	// The stub marks the place only: in the other namespace, the tool of this machine runs.
	n.tool("readlink", "", answer{})
	if os.Geteuid() == 0 {
		require.NoError(t, n.open().runMounting(t.Context(), time.Minute, "readlink"), "a directory has no namespace of its own")
	}

	initProcess := exec.CommandContext(t.Context(), "sleep", "600")
	if os.Geteuid() == 0 {
		initProcess.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	}
	require.NoError(t, initProcess.Start())
	defer func() { require.Error(t, initProcess.Wait()) }()
	defer func() { require.NoError(t, initProcess.Process.Kill()) }()
	of := "/proc/" + strconv.Itoa(initProcess.Process.Pid) + "/ns/mnt"
	n.link("/"+initNamespace, of)

	h := n.open()
	out := &capped{limit: maxOutput}
	err := h.execute(t.Context(), command{path: "/usr/bin/readlink", args: []string{"/proc/self/ns/mnt"}, timeout: time.Minute, stdout: out, mounts: true})
	if os.Geteuid() != 0 {
		require.ErrorContains(t, err, "enter the mount namespace of the host")
		return
	}
	require.NoError(t, err)
	want, err := os.Readlink(of)
	require.NoError(t, err)
	require.Equal(t, want, strings.TrimSpace(out.String()))
	here, err := os.Readlink("/proc/self/ns/mnt")
	require.NoError(t, err)
	require.NotEqual(t, want, here)
	for range 20 {
		still, err := os.Readlink("/proc/thread-self/ns/mnt")
		require.NoError(t, err)
		require.Equal(t, here, still, "no thread of the operation is left in it")
	}
}
