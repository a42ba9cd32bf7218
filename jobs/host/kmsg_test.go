package host

import (
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/jobs/protocol"
)

// kernelRecord is a record of /dev/kmsg, in the form that Documentation/ABI/testing/dev-kmsg of Linux describes.
func kernelRecord(message string) string {
	return "4,339,5140900,-;" + message + "\n SUBSYSTEM=pci\n DEVICE=+pci:0000:30:00.0\n"
}

func TestKernelLogWithoutDmesg(t *testing.T) {
	t.Parallel()
	const xid = "NVRM: Xid (PCI:0000:30:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."
	n := newGPUNode(t)
	n.uninstall("dmesg")
	r := n.examine(protocol.HardwareGPU, gpuArgs()...)
	require.Equal(t, protocol.ExitUnknown, r.ExitCode)
	require.Contains(t, r.Detail, "gpu-xid error: dmesg is not installed")

	n.file(kernelLogFile, kernelRecord("nvidia: loading out-of-tree module taints kernel."))
	require.Equal(t, protocol.ExitOK, n.examine(protocol.HardwareGPU, gpuArgs()...).ExitCode)

	n.append(kernelLogFile, kernelRecord(xid))
	r = n.examine(protocol.HardwareGPU, gpuArgs()...)
	require.Equal(t, protocol.ExitGPUCheck, r.ExitCode, "%+v", r)
	require.Contains(t, r.Detail, "XID 79 on 0000:30:00")

	require.Equal(t, protocol.ExitOK, n.op("diagnose").ExitCode)
	require.Contains(t, n.stdout.String(), "=== dmesg ===\n[    5.140900] nvidia: loading")

	var got []string
	require.NoError(t, n.open().kernelRecords(func(line string) { got = append(got, line) }))
	require.Equal(t, "[    5.140900] "+xid, got[len(got)-1])
	require.Len(t, got, 2)
}

// A file that never ends is read up to what there is.
func TestKernelLogDoesNotWait(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer func() { require.NoError(t, r.Close()) }()
	defer func() { require.NoError(t, w.Close()) }()
	_, err = w.WriteString(kernelRecord("one"))
	require.NoError(t, err)
	var text strings.Builder
	require.NoError(t, readRecords(r, &text))
	require.Equal(t, kernelRecord("one"), text.String())
}

// listen makes a socket at the place of the node.
func (n *node) listen(socket string) {
	n.file(socket, "")
	n.remove(socket)
	dir, err := os.Open(n.path("/run"))
	require.NoError(n.t, err)
	defer func() { require.NoError(n.t, dir.Close()) }()
	name := "/proc/self/fd/" + strconv.FormatUint(uint64(dir.Fd()), 10) + strings.TrimPrefix(socket, "/run")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	require.NoError(n.t, err)
	// By then the name leads elsewhere.
	l.SetUnlinkOnClose(false)
	n.t.Cleanup(func() { require.NoError(n.t, l.Close()) })
}

func TestServicesWithoutSystemd(t *testing.T) {
	t.Parallel()
	const socket = "/run/containerd/containerd.sock"
	for _, tc := range []struct {
		name  string
		setup func(*node)
		code  int
		want  string
	}{
		{"well", func(*node) {}, 0, ""},
		{"kubelet gone", func(n *node) { n.remove("/proc/900") }, 70, "kubelet failed: there is no systemd, and no process is called kubelet"},
		{"kubelet a zombie", func(n *node) { n.file("/proc/900/stat", "900 (kubelet) Z 1 900\n") }, 70, "kubelet failed"},
		{"runtime gone", func(n *node) { n.remove(socket) }, 70, "runtime failed: there is no systemd, and no runtime listens on"},
		{"k3s server", func(n *node) { n.file("/proc/900/stat", "900 (k3s-server) S 1 900\n") }, 0, ""},
		{"k3s agent", func(n *node) { n.file("/proc/900/stat", "900 (k3s-agent) S 1 900\n") }, 0, ""},
		{"runtime of k3s", func(n *node) { n.remove(socket); n.listen("/run/k3s/containerd/containerd.sock") }, 0, ""},
		{"runtime of k0s", func(n *node) { n.remove(socket); n.listen("/run/k0s/containerd.sock") }, 0, ""},
		{"Docker", func(n *node) { n.remove(socket); n.listen("/run/cri-dockerd.sock") }, 0, ""},
		{"runtime left its socket", func(n *node) { n.remove(socket); n.file(socket, "") }, 70, "runtime failed: nothing listens on " + socket},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			n.uninstall("systemctl")
			n.file("/proc/900/stat", "900 (kubelet) S 1 900 900 0 -1\n")
			n.listen(socket)
			tc.setup(n)
			r := n.examine("", "healthcheck", "--profile", "default")
			require.Equal(t, tc.code, r.ExitCode, "%+v", r)
			require.Contains(t, r.Detail, tc.want)
		})
	}
}
