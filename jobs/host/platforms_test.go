package host

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/jobs/protocol"
)

// platform is a host as a distribution or an operator sets it up.
type platform struct {
	name string
	// setup makes it of a host with the driver, the adapters and GPFS installed by packages.
	setup func(*node)
}

// platforms returns the platforms in the order of the page. Each is made after what its comment names.
func platforms() []platform {
	return []platform{
		// The packages of NVIDIA's driver installation guide with nvidia-persistenced and nvidia-fabricmanager as units, and kubeadm's kubelet.
		{"Host driver", func(*node) {}},
		// NVIDIA/gpu-operator, assets/state-driver/0500_daemonset.yaml and cmd/nvidia-validator (the file driver-ready); NVIDIA/gpu-driver-container,
		// ubuntu22.04/nvidia-driver: the root of the container is mounted at /run/nvidia/driver, nvidia-persistenced and nv-fabricmanager are
		// processes in it. The GPUs are in MIG mode, as in the capture h200-mig__590.48.01 of utkuozdemir/nvidia_gpu_exporter.
		{"Driver container", driverContainerPlatform},
		// GoogleCloudPlatform/container-engine-accelerators, nvidia-driver-installer/cos/daemonset-preloaded.yaml: /home/kubernetes/bin/nvidia with
		// bin and lib64. Container-Optimized OS has a read-only root and the identifier cos.
		{"GKE", gkePlatform},
		// Mellanox/ofed-docker, ubuntu/entrypoint.sh: mount_rootfs mounts the container at /run/mellanox/drivers, and set_driver_readiness leaves
		// .driver-ready in it.
		{"MOFED container", func(n *node) {
			n.append("/proc/1/mounts", "overlay /run/mellanox/drivers overlay rw,relatime 0 0\n")
			n.file(mofedContainer+"/.driver-ready", "")
		}},
		// k3s-io/k3s, install.sh: the unit k3s-agent, and crictl in /usr/local/bin, a link to k3s.
		{"k3s", func(n *node) {
			n.kubeletIs("k3s-agent", 2, 4)
			n.moveTool("crictl", "/usr/local/bin")
		}},
		// The documentation of RKE2: the unit rke2-agent, crictl in /var/lib/rancher/rke2/bin with agent/etc/crictl.yaml.
		{"RKE2", func(n *node) {
			n.kubeletIs("rke2-agent", 4, 6)
			n.moveTool("crictl", rke2+"/bin")
		}},
		// NixOS/nixpkgs, nixos/tests/activation/etc-overlay-immutable.nix: with system.etc.overlay.mutable = false, /etc is an overlay that is
		// read-only. Tools are as on the first host.
		{"Read-only /etc", func(n *node) { n.append("/proc/1/mounts", "overlay /etc overlay ro,relatime 0 0\n") }},
		// siderolabs/talos: machined is the init process and the kubelet its container, /etc/kubernetes/kubeconfig-kubelet, the root is a squashfs
		// on /dev/loop0; siderolabs/extensions, nvidia-gpu: nvidia-smi in /usr/local/bin (issue 385).
		{"Talos", talosPlatform},
		// flatcar/flatcar-website, setup/customization/using-nvidia.md, and the script of its nvidia.service: nvidia-smi in /opt/bin; no
		// nvidia-fabricmanager, no vendor's tools. /usr is read-only.
		{"Flatcar", flatcarPlatform},
		// bottlerocket-os/bottlerocket-kernel-kit, packages/kmod-6.1-nvidia: tools in /usr/libexec/nvidia/tesla/bin, units nvidia-fabricmanager and
		// nvidia-persistenced; bottlerocket-core-kit: /etc/kubernetes/kubelet/kubeconfig, a root on dm-verity, no crictl.
		{"Bottlerocket", bottlerocketPlatform},
	}
}

func driverContainerPlatform(n *node) {
	const root = "/run/nvidia/driver"
	n.tool(smi, "nvlink -s", answer{Out: migLinks})
	peermem := n.tools["/usr/bin/modprobe"]["nvidia-peermem"]
	if peermem == nil {
		peermem = n.tools["/usr/bin/modprobe"]["*"]
	}
	n.executable(root+"/usr/bin/modprobe", "nvidia-peermem", peermem...)
	n.tool("modprobe", "nvidia-peermem", answer{Exit: 1, Err: "Module nvidia-peermem not found"})
	n.inContainer()
	n.unitsOfDriver(absentUnit, "inactive")
	n.file("/proc/71/stat", "71 (nv-fabricmanage) S 1 71\n")
	n.file("/proc/72/stat", "72 (nvidia-persiste) S 1 72\n")
	n.file("/proc/72/comm", "nvidia-persiste\n")
	n.link("/proc/72/fd/9", root+"/dev/nvidia0")
	n.executable(root+"/usr/bin/"+smi, "-pm 0", answer{Unlink: n.path("/proc/72/fd/9")})
}

func gkePlatform(n *node) {
	n.moveTool(smi, "/home/kubernetes/bin/nvidia/bin")
	n.moveTool("crictl", "/home/kubernetes/bin")
	n.withoutSwitches()
	n.withoutAdapters()
	n.imageOS("cos", "/dev/dm-0 / ext2 ro,relatime 0 0\n/dev/sda1 /var ext4 rw,relatime 0 0\n/dev/sda1 /home ext4 rw,relatime 0 0\n")
	for _, tool := range []string{"ipmitool", "smartctl"} {
		n.uninstall(tool)
	}
}

func talosPlatform(n *node) {
	n.moveTool(smi, "/usr/local/bin")
	n.withoutSwitches()
	n.imageOS("talos", "/dev/loop0 / squashfs ro,relatime 0 0\n/dev/nvme0n1p4 /var xfs rw,relatime 0 0\n")
	n.remove("/etc/kubernetes/kubelet.conf")
	n.file("/etc/kubernetes/kubeconfig-kubelet", "clusters:\n- cluster:\n    server: https://localhost:7445\n")
	n.file("/proc/900/stat", "900 (kubelet) S 1 900\n")
	n.listen("/run/containerd/containerd.sock")
	for _, tool := range []string{"systemctl", "timedatectl", "dmesg", "ipmitool", "smartctl", "getent", "df", "stat", "sync", "crictl", "modprobe"} {
		n.uninstall(tool)
	}
}

func flatcarPlatform(n *node) {
	n.moveTool(smi, "/opt/bin")
	n.moveTool("crictl", "/opt/bin")
	n.withoutSwitches()
	n.imageOS("flatcar", "/dev/sda9 / ext4 rw,relatime 0 0\n/dev/mapper/usr /usr btrfs ro,relatime 0 0\n")
	for _, tool := range []string{"ipmitool", "smartctl"} {
		n.uninstall(tool)
	}
}

func bottlerocketPlatform(n *node) {
	n.moveTool(smi, "/usr/libexec/nvidia/tesla/bin")
	n.withoutAdapters()
	n.imageOS("bottlerocket", "/dev/dm-0 / ext4 ro,relatime 0 0\ntmpfs /etc tmpfs rw,relatime 0 0\n/dev/nvme1n1p1 /var xfs rw,relatime 0 0\n")
	n.remove("/etc/kubernetes/kubelet.conf")
	n.file("/etc/kubernetes/kubelet/kubeconfig", "clusters:\n- cluster:\n    server: https://api.cluster.test\n")
	for _, tool := range []string{"dmesg", "ipmitool", "smartctl", "getent", "crictl"} {
		n.uninstall(tool)
	}
}

// imageOS makes the host one of a distribution that is an image, with these mounts, without /etc/fstab and without GPFS.
func (n *node) imageOS(id, mounts string) {
	n.file("/etc/os-release", "NAME=\""+id+"\"\nID="+id+"\n")
	n.file("/proc/1/mounts", mounts)
	n.remove("/etc/fstab")
	n.remove("/usr/lpp")
	for _, tool := range []string{"mmgetstate", "mmdiag", "mmcommon", "mmstartup", "mmmount", "mmfsadm"} {
		n.uninstall(tool)
	}
}

func (n *node) withoutSwitches() {
	n.remove("/sys/bus/pci/devices/0000:50:00.0")
	n.unitsOfDriver(absentUnit, "inactive")
}

func (n *node) withoutAdapters() {
	n.remove("/sys/class/infiniband")
	n.remove("/sys/module/mlx5_ib")
}

// unitsOfDriver says what systemd knows of the daemons of the driver.
func (n *node) unitsOfDriver(load, state string) {
	for _, unit := range []string{fabricManager, persistenced} {
		n.tool("systemctl", "show "+unit+showUnit, answer{Out: load})
		n.tool("systemctl", "is-active "+unit, answer{Out: state + "\n", Exit: 3})
	}
	for _, units := range []string{"nvidia-persistenced nvidia-dcgm dcgm", "nvidia-persistenced nvidia-dcgm dcgm nvidia-fabricmanager"} {
		n.tool("systemctl", "is-active "+units, answer{Out: strings.Repeat(state+"\n", len(strings.Fields(units))), Exit: 3})
	}
}

// kubeletIs makes another unit that of the kubelet and of the runtime, at these places of the lists of them.
func (n *node) kubeletIs(unit string, kubelet, runtime int) {
	answers := n.tools["/usr/bin/systemctl"]
	for _, call := range []string{"show %s" + showUnit, "restart %s", "is-active %s"} {
		n.tool("systemctl", fmt.Sprintf(call, unit), answers[fmt.Sprintf(call, "kubelet")]...)
	}
	n.tool("systemctl", "show kubelet"+showUnit, answer{Out: absentUnit})
	n.tool("systemctl", isActiveKubelet, answer{Out: strings.Repeat("inactive\n", kubelet) + "active\n", Exit: 3})
	n.tool("systemctl", isActiveRuntime, answer{Out: strings.Repeat("inactive\n", runtime) + "active\n", Exit: 3})
}

// packagedNode is a healthy host with everything from packages, on which each operation can be run.
func packagedNode(t *testing.T) *node {
	n := sickNode(t)
	n.mmState(gpfsActive)
	n.waiters(answer{Out: waiterTable()})
	n.tool("systemctl", "is-active "+fabricManager, answer{Out: "active\n"})
	n.tool("df", "*", answer{Out: dfTable("50", "60")})
	n.file("/proc/sysrq-trigger", "")
	n.file("/run/utmp", "")
	for _, module := range ibModules() {
		n.file("/sys/module/"+module+"/refcnt", "0\n")
	}
	for _, unit := range kubeletUnits() {
		n.tool("systemctl", "show "+unit+showUnit, answer{Out: absentUnit})
	}
	n.tool("systemctl", "show kubelet"+showUnit, answer{Out: "LoadState=loaded\nMainPID=10\n"}, answer{Out: "LoadState=loaded\nMainPID=11\n"})
	n.tool("systemctl", "is-active kubelet", answer{Out: "active\n"})
	n.tool("systemctl", "restart kubelet", answer{})
	n.tool(smi, "-pm 1", answer{})
	return n
}

// operationRun is one operation, on a host on which it has something to do.
type operationRun struct {
	name  string
	args  []string
	setup func(*node)
}

func operationRuns() []operationRun {
	nothing := func(*node) {}
	remedy := func(name string) []string { return []string{protocol.ActionRemedy, name} }
	return []operationRun{
		{"healthcheck", []string{"healthcheck", "--profile", "default"}, nothing},
		{"diagnose", []string{"diagnose"}, nothing},
		{"reboot", []string{"reboot", "--boot-id", boot}, nothing},
		{"shutdown", []string{"shutdown", "--boot-id", boot}, nothing},
		{"ResetGPU", remedy("ResetGPU"), nothing},
		{"RestartFabricManager", remedy("RestartFabricManager"), func(n *node) {
			n.tool(smi, "-q", answer{Out: fabricReport("In Progress", "N/A")}, answer{Out: fabricReport("In Progress", "N/A")}, answer{Out: fabricReport("Completed", "Success")})
			n.tool("systemctl", "restart "+fabricManager, answer{})
		}},
		{"EnableGpuPersistence", remedy("EnableGpuPersistence"), func(n *node) {
			n.tool(smi, queryOn, answer{Out: "0, Disabled\n1, Enabled\n"}, answer{Out: "0, Enabled\n1, Enabled\n"})
		}},
		{"ConfigPeerMem", remedy("ConfigPeerMem"), func(n *node) {
			n.tool("modprobe", "nvidia-peermem", answer{Restore: []string{n.path(peerMemModule), "loaded"}})
		}},
		{"RestartKubelet", remedy("RestartKubelet"), nothing},
		{"DropCache", remedy("DropCache"), nothing},
		{"PruneImages", remedy("PruneImages"), nothing},
		{"BreakDeadlock", remedy("BreakDeadlock"), func(n *node) {
			n.waiters(answer{Out: waiterTable("1000.5")}, answer{Out: waiterTable("1000.5")}, answer{Out: waiterTable()})
		}},
		{"ReloadIBDriver", remedy("ReloadIBDriver"), func(n *node) {
			const port = "/sys/class/infiniband/mlx5_0/ports/1/state"
			n.file(port, "1: DOWN\n")
			n.tool("modprobe", "-a "+strings.Join(ibModules(), " "), answer{Restore: []string{n.path(port), "4: ACTIVE\n"}})
		}},
		{"StartGpfs", []string{"repair", "StartGpfs"}, func(n *node) { n.mmState("down", gpfsActive) }},
		{"MountGpfs", []string{"repair", "MountGpfs"}, func(n *node) {
			n.file("/etc/fstab", "/dev/fs1 /gpfs/fs1 gpfs rw,noauto 0 0\n")
			whole := n.content("/proc/1/mounts")
			n.file("/proc/1/mounts", "/dev/sda1 / ext4 rw 0 0\n")
			n.tool("mmmount", "all", answer{Restore: []string{n.path("/proc/1/mounts"), whole}})
		}},
	}
}

// on makes the platform, for the operation.
func (p platform) on(t *testing.T, setup func(*node)) *node {
	n := packagedNode(t)
	n.options.limit = 30 * time.Second
	setup(n)
	p.setup(n)
	return n
}

// verdictOf says in the words of the page what an operation came to.
func verdictOf(t *testing.T, r protocol.Report) string {
	switch {
	case r.ExitCode == protocol.ExitOK:
		require.False(t, r.Unneeded, "the operation had nothing to do: %+v", r)
		return "works"
	case len(r.Refusals) > 0:
		return "refused: " + strings.Join(r.Refusals, ", ")
	case r.Result == protocol.ResultSkipped:
		return "skipped: " + r.Detail
	}
	require.Fail(t, "neither works nor says why not", "%+v", r)
	return ""
}

var update = flag.Bool("update", false, "write docs/host-platforms.md anew")

// The page has what each operation comes to on each platform: go test ./jobs/host -run 'TestPlatforms$' -update.
func TestPlatforms(t *testing.T) {
	const page = "../../docs/host-platforms.md"
	all, runs := platforms(), operationRuns()
	cells := make([][]string, len(runs))
	var mu sync.Mutex
	t.Run("run", func(t *testing.T) {
		for i, run := range runs {
			cells[i] = make([]string, len(all))
			for j, p := range all {
				t.Run(p.name+"/"+run.name, func(t *testing.T) {
					t.Parallel()
					n := p.on(t, run.setup)
					synctest.Test(t, func(t *testing.T) {
						ctx, cancel := context.WithCancel(t.Context())
						// A host that goes down ends the operation.
						time.AfterFunc(5*time.Minute, cancel)
						verdict := verdictOf(t, n.opContext(ctx, run.args...))
						mu.Lock()
						defer mu.Unlock()
						cells[i][j] = verdict
					})
				})
			}
		}
	})
	text := platformPage(all, runs, cells)
	if *update {
		require.NoError(t, os.WriteFile(page, []byte(text), 0o644))
	}
	have, err := os.ReadFile(page)
	require.NoError(t, err)
	require.Equal(t, text, string(have), "docs/host-platforms.md is generated: go test ./jobs/host -run 'TestPlatforms$' -update")
}

// platformPage writes the page: a table of marks, and below it why.
func platformPage(all []platform, runs []operationRun, cells [][]string) string {
	var b strings.Builder
	b.WriteString("# Platforms\n\nA test runs each [operation](host.md) on a fake host of each platform and compares the results with this page. " +
		"The fake hosts are modelled on the public manifests and captures listed in `jobs/host/platforms_test.go`; no operation was run on a real machine of these platforms for this page.\n\n")
	b.WriteString("\"Skipped\" means that the host lacks what the operation needs. \"Refused\" means that the operation must not run on that platform. In both cases nothing was changed.\n\n")
	b.WriteString("| platform |")
	for _, run := range runs {
		b.WriteString(" `" + run.name + "` |")
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(runs)) + "\n")
	var why strings.Builder
	for j, p := range all {
		b.WriteString("| " + p.name + " |")
		for i, run := range runs {
			mark, reason, explained := strings.Cut(cells[i][j], ": ")
			b.WriteString(" " + mark + " |")
			if explained {
				fmt.Fprintf(&why, "| %s | `%s` | %s: %s |\n", p.name, run.name, mark, reason)
			}
		}
		b.WriteString("\n")
	}
	b.WriteString("\n## Why\n\n| platform | operation | what it says |\n|---|---|---|\n" + why.String())
	return b.String()
}

// A sick host of each platform is found to be.
func TestPlatformsFindFaults(t *testing.T) {
	t.Parallel()
	for _, p := range platforms() {
		for _, tc := range []struct {
			name string
			sick func(*node)
			code int
		}{
			{"tool missing", func(n *node) {
				for file := range n.tools {
					if filepath.Base(file) == smi {
						n.remove(file)
					}
				}
			}, protocol.ExitUnknown},
			{"GPU gone", func(n *node) { n.remove("/run/nvidia/driver/dev/nvidia1"); n.remove("/dev/nvidia1") }, protocol.ExitGPU},
			{"GPU fell off the bus", func(n *node) {
				const lost = "NVRM: Xid (PCI:0000:30:00): 79, GPU has fallen off the bus."
				if n.tools["/usr/bin/dmesg"] != nil {
					n.tool("dmesg", "", answer{Out: "[    9.000000] " + lost + "\n"})
				}
				n.file(kernelLogFile, kernelRecord(lost))
			}, protocol.ExitGPUCheck},
			{"uplink down", func(n *node) { n.file("/sys/class/net/bond0/operstate", "down\n") }, protocol.ExitNetwork},
			{"InfiniBand down", func(n *node) { n.port("mlx5_0", "1", "1: DOWN", "2: Polling", "InfiniBand") }, protocol.ExitIB},
			{"kubelet down", func(n *node) {
				n.remove("/proc/900")
				if n.tools["/usr/bin/systemctl"] != nil {
					n.tool("systemctl", isActiveKubelet, answer{Out: "failed\n", Exit: 3})
				}
			}, protocol.ExitUnknown},
			{"kernel log unreadable", func(n *node) { n.uninstall("dmesg"); n.remove(kernelLogFile) }, protocol.ExitUnknown},
		} {
			t.Run(p.name+"/"+tc.name, func(t *testing.T) {
				t.Parallel()
				n := p.on(t, func(*node) {})
				tc.sick(n)
				r := n.op("healthcheck", "--profile", "default")
				require.Equal(t, tc.code, r.ExitCode, "%+v", r)
			})
		}
	}
}
