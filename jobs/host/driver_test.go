package host

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/jobs/protocol"
)

// driverReady is what the validator of the GPU Operator leaves in /run/nvidia/validations/driver-ready, with the keys and the order that
// createStatusFile of cmd/nvidia-validator in NVIDIA/gpu-operator gives them.
func driverReady(isHost, driverRoot, devRoot string) string {
	return "IS_HOST_DRIVER=" + isHost + "\nNVIDIA_DRIVER_ROOT=" + driverRoot + "\nDRIVER_ROOT_CTR_PATH=/driver-root\nNVIDIA_DEV_ROOT=" + devRoot + "\nDEV_ROOT_CTR_PATH=/driver-root\n"
}

// inContainer moves the driver of the node into a container of the GPU Operator, whose root is mounted at /run/nvidia/driver, with proc and
// dev of its own: nothing of the driver is left on the host.
func (n *node) inContainer() {
	const root = "/run/nvidia/driver"
	n.moveTool(smi, root+"/usr/bin")
	for _, device := range []string{"nvidia0", "nvidia1", "nvidiactl"} {
		n.remove("/dev/" + device)
		n.file(root+"/dev/"+device, "")
	}
	n.file(root+"/proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  590.48.01\n")
	n.file("/run/nvidia/validations/driver-ready", driverReady("false", root, root))
}

// moveTool moves the stub of a tool into another directory, with its answers.
func (n *node) moveTool(tool, dir string) {
	answers := n.tools["/usr/bin/"+tool]
	n.remove("/usr/bin/" + tool)
	n.remove("/usr/bin/" + tool + ".json")
	delete(n.tools, "/usr/bin/"+tool)
	for call, list := range answers {
		n.executable(dir+"/"+tool, call, list...)
	}
}

// migLinks is what nvidia-smi 590 prints for GPUs in MIG mode, as the capture h200-mig__590.48.01 of utkuozdemir/nvidia_gpu_exporter has it.
const migLinks = "GPU 0: NVIDIA H200 (UUID: GPU-00000000-1111-2222-3333-444444444440)\nNvlink queries are not supported for Devices in MIG mode\n" +
	"GPU 1: NVIDIA H200 (UUID: GPU-00000000-1111-2222-3333-444444444441)\nNvlink queries are not supported for Devices in MIG mode\n"

func TestDriverInAContainerWithMIG(t *testing.T) {
	t.Parallel()
	migNode := func(t *testing.T) *node {
		n := newGPUNode(t)
		n.smi("-L", "GPU 0: NVIDIA H200 (UUID: "+uuid0+")\n  MIG 1g.18gb     Device  0: (UUID: MIG-1)\nGPU 1: NVIDIA H200 (UUID: "+uuid1+")\n  MIG 1g.18gb     Device  0: (UUID: MIG-2)\n")
		n.smi("nvlink -s", migLinks)
		n.inContainer()
		return n
	}
	r := migNode(t).op("healthcheck", "--profile", "default")
	require.Equal(t, protocol.ResultPassed, r.Result, "%+v", r)
	require.Equal(t, protocol.ResultPassed, results(r)[checkGPUCount])
	for _, tc := range []struct {
		name string
		sick func(*node)
		code int
		want string
	}{
		{"GPU gone", func(n *node) { n.remove("/run/nvidia/driver/dev/nvidia1") }, 2, "1 device files"},
		{"container ended", func(n *node) { n.remove("/run/nvidia/driver") }, 70, "nvidia-smi is not installed in /run/nvidia/driver"},
		{"tool missing", func(n *node) { n.remove("/run/nvidia/driver/usr/bin/nvidia-smi") }, 70, "nvidia-smi is not installed in /run/nvidia/driver"},
		{"of another root", func(n *node) {
			n.file("/run/nvidia/validations/driver-ready", driverReady("false", "/../../tmp", "/"))
		}, 70, "nvidia-smi is not installed in /tmp"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := migNode(t)
			tc.sick(n)
			r := n.op("healthcheck", "--profile", "default")
			require.Equal(t, tc.code, r.ExitCode, "%+v", r)
			require.Contains(t, r.Detail, tc.want)
		})
	}
}

// After a boot, the container of the driver builds and loads its modules for minutes: /run is empty, then /run/nvidia/driver is an empty
// directory (NVIDIA/gpu-driver-container, ubuntu22.04/nvidia-driver: _mount_rootfs comes last, _unmount_rootfs leaves the directory), and
// the validator has removed driver-ready (NVIDIA/gpu-operator, cmd/nvidia-validator, Driver.validate). No GPU is known to be missing.
func TestDriverContainerThatStartsBlamesNoGPU(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		setup func(*node)
		args  []string
		code  int
	}{
		"after a boot":        {func(*node) {}, nil, protocol.ExitUnknown},
		"empty directory":     {func(n *node) { n.emptyDir("/run/nvidia/driver") }, nil, protocol.ExitUnknown},
		"validator waits":     {func(n *node) { n.emptyDir("/run/nvidia/validations") }, nil, protocol.ExitUnknown},
		"a GPU is not on bus": {func(*node) {}, []string{"--gpus", "3"}, protocol.ExitGPU},
		"device file":         {func(n *node) { n.file("/dev/nvidia0", "") }, nil, protocol.ExitGPU},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newGPUNode(t)
			n.inContainer()
			n.remove("/run/nvidia")
			n.options.limit = time.Second
			tc.setup(n)
			r := n.op(append([]string{"healthcheck", "--profile", "default"}, tc.args...)...)
			require.Equal(t, tc.code, r.ExitCode, "%+v", r)
		})
	}
}

func TestHealthcheckWaitsForTheDriver(t *testing.T) {
	for _, tc := range []struct {
		name        string
		setup       func(*node)
		later       func(*node)
		least, most time.Duration
	}{
		{"driver comes", func(n *node) { n.uninstall(smi) }, func(n *node) { n.file(driverReadyFile, "") }, time.Minute, time.Minute + driverPoll},
		{"driver never comes", func(n *node) { n.uninstall(smi) }, nil, driverWait, driverWait},
		{"driver is there", func(*node) {}, nil, 0, 0},
		{"nobody validates", func(n *node) { n.uninstall(smi); n.remove("/run/nvidia") }, nil, 0, 0},
		{"validated", func(n *node) { n.uninstall(smi); n.file(driverReadyFile, "") }, nil, 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := newGPUNode(t)
			n.emptyDir(validations)
			tc.setup(n)
			h := n.open()
			synctest.Test(t, func(t *testing.T) {
				if tc.later != nil {
					time.AfterFunc(time.Minute, func() { tc.later(n) })
				}
				began := time.Now()
				h.awaitDriver(t.Context())
				require.GreaterOrEqual(t, time.Since(began), tc.least)
				require.LessOrEqual(t, time.Since(began), tc.most)
			})
		})
	}
}

// A container that has ended leaves what the validator wrote, and the directory that its root was mounted at.
func TestDriverOfAnEndedContainerIsNotOnTheHost(t *testing.T) {
	t.Parallel()
	n := newGPUNode(t)
	n.inContainer()
	n.remove(driverContainer)
	n.emptyDir(driverContainer)
	n.tool("modprobe", "nvidia-peermem", answer{})
	require.Equal(t, driverContainer, n.open().driver().container())
	r := n.op("remedy", "ConfigPeerMem")
	require.NotEqual(t, protocol.ExitOK, r.ExitCode, "%+v", r)
	require.Contains(t, r.Detail, "modprobe is not installed in "+driverContainer)
	require.Empty(t, n.calls("modprobe"))
	r = n.op("healthcheck", "--profile", "default")
	require.Equal(t, protocol.ExitUnknown, r.ExitCode, "%+v", r)
}

// emptyDir makes an empty directory.
func (n *node) emptyDir(name string) {
	n.file(name+"/x", "")
	n.remove(name + "/x")
}

func TestDriverIsFound(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		setup func(*node)
		// root is that of the tools, dir that of the device files.
		root, devices string
		env           []string
	}{
		{"on the host", nil, "", "/dev", nil},
		{"on the host, says the validator", func(n *node) {
			n.file("/run/nvidia/validations/driver-ready", driverReady("true", "/", "/"))
		}, "", "/dev", nil},
		{"in a container", (*node).inContainer, "/run/nvidia/driver", "/run/nvidia/driver/dev", nil},
		{"in a container that the validator has not seen", func(n *node) {
			n.inContainer()
			n.remove("/run/nvidia/validations")
		}, "/run/nvidia/driver", "/run/nvidia/driver/dev", nil},
		{"in a container, with the devices of the host", func(n *node) {
			n.inContainer()
			n.file("/run/nvidia/validations/driver-ready", driverReady("false", "/run/nvidia/driver", "/"))
		}, "/run/nvidia/driver", "/dev", nil},
		{"in a container, by an older validator", func(n *node) {
			n.inContainer()
			n.file("/run/nvidia/validations/driver-ready", "IS_HOST_DRIVER=false\nNVIDIA_DRIVER_ROOT=/run/nvidia/driver\nDRIVER_ROOT_CTR_PATH=/run/nvidia/driver\n")
		}, "/run/nvidia/driver", "/run/nvidia/driver/dev", nil},
		// An older validator left an empty file.
		{"empty file", func(n *node) { n.file("/run/nvidia/validations/driver-ready", "") }, "", "/dev", nil},
		{"GKE", func(n *node) { n.moveTool(smi, "/home/kubernetes/bin/nvidia/bin") }, "", "/dev", []string{"LD_LIBRARY_PATH=/home/kubernetes/bin/nvidia/lib64"}},
		{"GKE with the GPU Operator", func(n *node) {
			n.moveTool(smi, "/home/kubernetes/bin/nvidia/bin")
			n.file("/run/nvidia/validations/driver-ready", driverReady("false", "/home/kubernetes/bin/nvidia", "/"))
		}, "", "/dev", []string{"LD_LIBRARY_PATH=/home/kubernetes/bin/nvidia/lib64"}},
		{"Flatcar", func(n *node) { n.moveTool(smi, "/opt/bin") }, "", "/dev", nil},
		{"Bottlerocket", func(n *node) { n.moveTool(smi, "/usr/libexec/nvidia/tesla/bin") }, "", "/dev", nil},
		{"Talos", func(n *node) { n.moveTool(smi, "/usr/local/bin") }, "", "/dev", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := newGPUNode(t)
			if tc.setup != nil {
				tc.setup(n)
			}
			h := n.open()
			p, err := h.find(smi)
			require.NoError(t, err)
			require.Equal(t, filepath.Join(n.root, tc.root), p.host.options.Root)
			require.Equal(t, tc.env, p.env)
			require.Equal(t, tc.devices, h.driver().deviceDir())
			_, err = h.run(t.Context(), smiTimeout, smi, "-L")
			require.NoError(t, err)
		})
	}
}

// A link in the container leads to where it leads there, and the tool runs in that root.
func TestDriverRootHasLinksOfItsOwn(t *testing.T) {
	t.Parallel()
	n := newGPUNode(t)
	n.inContainer()
	n.remove("/run/nvidia/driver/usr/bin/nvidia-smi")
	n.executable("/run/nvidia/driver/opt/real-smi", "-L", answer{Out: "GPU 0: a\n"})
	n.link("/run/nvidia/driver/usr/bin/nvidia-smi", "/opt/real-smi")
	h := n.open()
	out, err := h.run(t.Context(), smiTimeout, smi, "-L")
	require.NoError(t, err)
	require.Equal(t, "GPU 0: a\n", out)

	n.options.noChroot = false
	p, err := n.open().find(smi)
	require.NoError(t, err)
	cmd, err := p.host.command(t.Context(), command{path: p.path})
	require.NoError(t, err)
	require.Equal(t, filepath.Join(n.root, "/run/nvidia/driver"), cmd.SysProcAttr.Chroot)
}

// The persistence daemon of the container is told to let the GPU go, and to take it again; who else holds it is named.
func TestResetGPUOfADriverInAContainer(t *testing.T) {
	t.Parallel()
	const off, on = "-pm 0 -i " + uuid1, "-pm 1 -i " + uuid1
	const device = "/run/nvidia/driver/dev/nvidia1"
	for _, tc := range []struct {
		name    string
		setup   func(*node)
		code    int
		want    string
		changes []string
	}{
		{"let go", func(*node) {}, 0, "1 GPUs were reset", []string{off, "--gpu-reset -i " + uuid1, on}},
		{"not held", func(n *node) { n.remove("/proc/77") }, 0, "1 GPUs were reset", []string{"--gpu-reset -i " + uuid1}},
		{"device plugin", func(n *node) { n.link("/proc/78/fd/3", "/dev/nvidia1"); n.file("/proc/78/comm", "nvidia-device-p\n") }, 2, "refused: process 77 (nvidia-persiste) holds " + device, nil},
		{"kept", func(n *node) { n.executable("/run/nvidia/driver/usr/bin/"+smi, off, answer{}) }, 2, "refused: process 77 (nvidia-persiste) holds " + device, []string{off, on}},
		{"daemon does not answer", func(n *node) { n.executable("/run/nvidia/driver/usr/bin/"+smi, off, answer{Exit: 4, Err: "no RPC"}) }, 2, "no RPC", []string{off}},
		{"without systemd", func(n *node) { n.uninstall("systemctl") }, 0, "1 GPUs were reset", []string{off, "--gpu-reset -i " + uuid1, on}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := resetNode(t)
			n.file("/proc/77/comm", "nvidia-persiste\n")
			n.link("/proc/77/fd/9", device)
			n.tool(smi, off, answer{Unlink: n.path("/proc/77/fd/9")})
			n.tool(smi, on, answer{})
			n.inContainer()
			n.tool("systemctl", "is-active nvidia-persistenced nvidia-dcgm dcgm", answer{Out: "inactive\ninactive\ninactive\n", Exit: 3})
			tc.setup(n)
			r := n.op("remedy", "ResetGPU", "--device", "1")
			require.Equal(t, tc.code, r.ExitCode, "%+v", r)
			require.Contains(t, r.Detail, tc.want)
			require.Equal(t, tc.changes, n.callsWith("/run/nvidia/driver/usr/bin/"+smi, "-pm", "--gpu-reset"))
		})
	}
}

// callsWith returns the calls of the executable so far that begin with one of the words.
func (n *node) callsWith(file string, words ...string) []string {
	var out []string
	for line := range strings.Lines(n.content(file + ".log")) {
		for _, word := range words {
			if strings.HasPrefix(line, word) {
				out = append(out, strings.TrimSpace(line))
			}
		}
	}
	return out
}

// The tool of a container is really run in the root of the container, which only root may do.
func TestDriverToolChangesItsRoot(t *testing.T) {
	t.Parallel()
	n := newGPUNode(t)
	n.inContainer()
	n.options.noChroot = false
	out, err := n.open().run(t.Context(), smiTimeout, smi, "-L")
	if os.Geteuid() != 0 {
		require.ErrorIs(t, err, os.ErrPermission)
		return
	}
	require.NoError(t, err)
	require.Contains(t, out, uuid0)
	// The stub writes beside itself, by the name that it has in its root.
	require.Equal(t, "-L\n", n.content("/run/nvidia/driver/usr/bin/nvidia-smi.log"))
}
