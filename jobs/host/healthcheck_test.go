package host

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/strict"
)

func gpuArgs(more ...string) []string {
	return append([]string{"healthcheck", "--profile", "default", "--boot-id", boot, "--gpus", "2", "--ib", "1", "--gpfs", "fs1"}, more...)
}

// examine runs the built-in checks of one hardware, as an operation with the arguments does.
func (n *node) examine(hardware string, args ...string) protocol.Report {
	action, op, err := parse(args, &n.stderr)
	require.NoError(n.t, err)
	c, ok := op.(healthcheck)
	require.True(n.t, ok)
	h := n.open()
	e, err := c.expectation(h)
	require.NoError(n.t, err)
	checks := slices.DeleteFunc(builtinChecks(), func(k check) bool { return k.hardware != hardware })
	require.NotEmpty(n.t, checks)
	report := protocol.Report{Action: action}
	h.examine(n.t.Context(), checks, e, &report)
	return report
}

// hardwareCheckedBy names the hardware of a built-in check.
func hardwareCheckedBy(name string) string {
	checks := builtinChecks()
	return checks[slices.IndexFunc(checks, func(k check) bool { return k.name == name })].hardware
}

func results(r protocol.Report) map[string]string {
	m := make(map[string]string)
	for _, c := range r.Checks {
		m[c.Name] = c.Result
	}
	return m
}

func detail(t *testing.T, r protocol.Report, name string) string {
	t.Helper()
	for _, c := range r.Checks {
		if c.Name == name {
			return c.Detail
		}
	}
	require.Fail(t, "no check "+name)
	return ""
}

func TestHealthcheckOfHealthyGPUNode(t *testing.T) {
	t.Parallel()
	n := newGPUNode(t)
	n.file("/profiles/default.yaml", "dcgmDiag: true\n")
	n.tool("dcgmi", "diag -r 1", answer{Out: dcgmTable("Pass")})
	r := n.op(gpuArgs("--since", "2026-01-02T03:04:05Z")...)
	require.Equal(t, protocol.ResultPassed, r.Result, "%+v", r)
	require.Equal(t, boot, r.BootID)
	for name, result := range results(r) {
		require.Equal(t, protocol.ResultPassed, result, "%s: %s", name, detail(t, r, name))
	}
	require.Len(t, r.Checks, len(builtinChecks()))
	require.Contains(t, detail(t, r, checkGPUHealth), "GPU 1 has persistence off")
	require.Contains(t, detail(t, r, checkCPU), "8 CPUs online, 1 CPUs with governor powersave")
}

func TestHealthcheckOfHealthyCPUNode(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	r := n.op("healthcheck", "--profile", "default")
	require.Equal(t, 0, r.ExitCode, "%+v", r)
	for name, result := range results(r) {
		switch name {
		case checkBootID, checkCrash, checkDCGM, checkIB, checkGPFS, checkGPUCount, checkGPUHealth, checkRowRemap, checkSRAM, checkXID, checkNVLink:
			require.Equal(t, protocol.ResultSkipped, result, name)
		default:
			require.Equal(t, protocol.ResultPassed, result, name)
		}
	}
}

func TestHealthcheckFaults(t *testing.T) {
	t.Parallel()
	xid := func(lines ...string) func(*node) {
		return func(n *node) { n.tool("dmesg", "", answer{Out: strings.Join(lines, "\n")}) }
	}
	for _, tc := range []struct {
		name  string
		fault func(*node)
		code  int
		want  string
	}{
		{"GPU off the bus", func(n *node) { n.remove("/sys/bus/pci/devices/0000:31:00.0") }, 2, "2 GPUs expected, 1 on the PCI bus"},
		{"all GPUs off the bus", func(n *node) { n.remove("/sys/bus/pci/devices") }, 2, "2 GPUs expected, 0 on the PCI bus"},
		{"GPU without device file", func(n *node) { n.remove("/dev/nvidia1") }, 2, "1 device files"},
		{"GPU not listed", func(n *node) { n.smi("-L", "GPU 0: NVIDIA H100 (UUID: x)\n  MIG 1g.10gb Device 0: (UUID: y)\n") }, 2, "1 listed by nvidia-smi"},
		{"driver down", func(n *node) {
			n.tool(smi, "-L", answer{Err: "NVIDIA-SMI has failed\nmore", Exit: 9})
		}, 2, "exit status 9: NVIDIA-SMI has failed"},
		{"GPU missing without nvidia-smi", func(n *node) { n.remove("/dev/nvidia1"); n.uninstall(smi) }, 2, "nvidia-smi is not installed"},
		{"ECC error", func(n *node) { n.smi(queryHealth, "0, a, Enabled, 3, 16, 16\n") }, 23, "GPU 0 has 3 uncorrected ECC errors"},
		{"PCIe width", func(n *node) { n.smi(queryHealth, "0, a, Enabled, 0, 8, 16\n") }, 23, "GPU 0 has PCIe width x8 of x16"},
		{"GPU requires reset", func(n *node) { n.smi(queryHealth, "0, a, Enabled, [GPU requires reset], 16, 16\n") }, 23, "GPU 0 says \"[GPU requires reset]\""},
		{"no GPU answers", func(n *node) { n.smi(queryHealth, "") }, 23, "knows no GPU"},
		{"query refused", func(n *node) { n.tool(smi, queryHealth, answer{Exit: 15}) }, 23, "exit status 15"},
		{"row remap failure", func(n *node) { n.smi(queryRemap, "u, Yes, Yes\n") }, 21, "u failed to remap a row"},
		{"row remap failure in numbers", func(n *node) { n.smi(queryRemap, "u, 1, 0\n") }, 21, "u failed to remap a row"},
		{"row remap pending", func(n *node) { n.smi(queryRemap, "u, No, Yes\n") }, 23, "waits for a reset"},
		{"SRAM threshold", func(n *node) { n.smi("-q -d ECC", eccReport("0", "Yes")) }, 22, "exceeded the threshold"},
		{"SRAM errors", func(n *node) { n.smi("-q -d ECC", eccReport("4", "N/A")) }, 22, "had 5 uncorrectable SRAM errors"},
		{"XID", xid("[  9.0] NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', GPU has fallen off the bus."), 23, "XID 79 on 0000:3b:00"},
		{"NVLink inactive", func(n *node) { n.smi("nvlink -s", "GPU 0: a\n\t Link 0: 26.5 GB/s\n\t Link 1: <inactive>\n") }, 24, "GPU 0 has 1 inactive NVLinks"},
		{"NVLink command fails", func(n *node) { n.tool(smi, "nvlink -s", answer{Exit: 1}) }, 24, "exit status 1"},
		{"fabric manager down", func(n *node) {
			n.file("/sys/bus/pci/devices/0000:50:00.0/vendor", "0x10de\n")
			n.file("/sys/bus/pci/devices/0000:50:00.0/class", "0x068000\n")
			n.tool("systemctl", "is-active nvidia-fabricmanager", answer{Out: "failed\n", Exit: 3})
		}, 24, "nvidia-fabricmanager is not active"},
		{"fabric not complete", func(n *node) { n.smi("-q", fabricReport("In Progress", "N/A")) }, 24, `GPU 00000000:31:00.0 has fabric state "In Progress"`},
		{"fabric not told", func(n *node) { n.tool(smi, "-q", answer{Exit: 9}) }, 24, "exit status 9"},
		{"DCGM", func(n *node) {
			n.file("/profiles/default.yaml", "dcgmDiag: true\n")
			n.tool("dcgmi", "diag -r 1", answer{Out: dcgmTable("Fail - GPU 1"), Exit: 226})
		}, 23, "gpu-dcgm failed: dcgmi: software Fail - GPU 1"},
		{"persistence off", func(n *node) { n.file("/profiles/default.yaml", "persistence: true\n") }, 23, "GPU 1 has persistence off, mask 01"},
		{"IB port down", func(n *node) { n.file("/sys/class/infiniband/mlx5_0/ports/1/state", "1: DOWN\n") }, 1, `mlx5_0 port 1 is "1: DOWN"`},
		{"IB polling", func(n *node) { n.file("/sys/class/infiniband/mlx5_0/ports/1/phys_state", "2: Polling\n") }, 1, "2: Polling"},
		{"IB lost", func(n *node) { n.remove("/sys/class/infiniband") }, 1, "1 devices expected, 0 found"},
		{"IB of another kind", func(n *node) { n.file("/sys/class/infiniband/mlx5_0/ports/1/link_layer", "Ethernet\n") }, 1, "1 devices expected, 0 found"},
		{"GPFS not active", func(n *node) {
			n.tool("mmgetstate", "-Y", answer{Out: "mmgetstate::HEADER:version:state:\nmmgetstate::0:1:arbitrating:\n"})
		}, 3, `GPFS is "arbitrating"`},
		{"GPFS not mounted", func(n *node) {
			n.file("/proc/1/mounts", "/dev/sda1 / ext4 rw 0 0\n/dev/sda2 /var/lib/kubelet xfs rw 0 0\n")
		}, 3, "fs1 is not mounted"},
		{"GPFS stale", func(n *node) { n.tool("stat", "-f -c %T -- /gpfs/fs1", answer{Err: "Stale file handle", Exit: 1}) }, 3, "/gpfs/fs1 does not answer"},
		{"machine check", xid("[ 9.0] mce: [Hardware Error]: CPU 3: Machine Check Exception: 5 Bank 4: be00000000800400"), 4, "1 uncorrected errors of the hardware"},
		{"CPU sensor", func(n *node) {
			n.tool("ipmitool", "sdr type Processor", answer{Out: "CPU1 Status | 41h | cr  |  3.1 | IERR\n"})
		}, 4, "sensor CPU1 Status is critical"},
		{"memory error", func(n *node) { n.file("/sys/devices/system/edac/mc/mc0/ue_count", "2\n") }, 5, "2 uncorrected memory errors on mc0"},
		{"corrupted memory", func(n *node) { n.append("/proc/meminfo", "HardwareCorrupted:     4 kB\n") }, 5, "4 kB of memory are corrupted"},
		{"disk read-only", func(n *node) {
			n.append("/proc/1/mounts", "/dev/sda2 /var/lib/kubelet xfs ro 0 0\n")
			n.tool("df", "*", answer{Out: dfTable("50", "50")})
		}, 6, "/var/lib/kubelet is read-only"},
		{"root read-only", func(n *node) {
			n.append("/proc/1/mounts", "/dev/sda1 / ext4 ro 0 0\n")
			n.tool("df", "*", answer{Out: dfTable("50", "50")})
		}, 6, "the root file system is read-only"},
		{"disk full", func(n *node) { n.tool("df", dfSpace, answer{Out: dfTable("4", "60")}) }, 6, "/ has less than 5 % of its space left"},
		{"inodes used up", func(n *node) { n.tool("df", dfInodes, answer{Out: dfTable("50", "1")}) }, 6, "/var/lib/kubelet has less than 5 % of its inodes left"},
		{"NVMe dead", func(n *node) { n.file("/sys/class/nvme/nvme0/state", "dead\n") }, 6, `nvme0 is "dead"`},
		{"RAID degraded", func(n *node) { n.file("/proc/mdstat", "md0 : active raid1 sda[0]\n      100 blocks [2/1] [U_]\n") }, 6, "md0 is degraded"},
		{"SMART text", func(n *node) {
			n.tool("smartctl", "-H /dev/nvme0n1", answer{Out: "self-assessment test result: FAILED!\n"})
		}, 6, "nvme0n1 says that it is failing"},
		{"SMART status", func(n *node) { n.tool("smartctl", "-H /dev/nvme0n1", answer{Exit: 8}) }, 6, "nvme0n1 says that it is failing"},
		{"no route", func(n *node) { n.file("/proc/1/net/route", "Iface\n") }, 7, "there is no default route"},
		{"uplink down", func(n *node) { n.file("/sys/class/net/bond0/operstate", "down\n") }, 7, "bond0 is down"},
		{"no carrier", func(n *node) { n.file("/sys/class/net/bond0/carrier", "0\n") }, 7, "bond0 has no carrier"},
		{"bond down", func(n *node) { n.file("/sys/class/net/bond0/bonding/mii_status", "down\n") }, 7, "bond0 is down"},
		{"gateway silent", func(n *node) { n.file("/proc/1/net/arp", "10.0.0.1 0x1 0x0 00:00:00:00:00:00 * bond0\n") }, 7, "gateway 10.0.0.1 does not answer"},
		{"name does not resolve", func(n *node) { n.tool("getent", "ahosts api.cluster.test", answer{Exit: 2}) }, 7, "the name api.cluster.test of the API server does not resolve"},
		{"bond member down", func(n *node) { n.file("/sys/class/net/eth1/bonding_slave/mii_status", "down\n") }, 7, "eth1 of bond0 is down"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := newGPUNode(t)
			tc.fault(n)
			r := n.examine(protocol.HardwareOf(tc.code), gpuArgs()...)
			require.Equal(t, tc.code, r.ExitCode, "%+v", r)
			require.Equal(t, protocol.ResultFailed, r.Result)
			require.Equal(t, protocol.HardwareOf(tc.code), r.Hardware)
			require.Contains(t, r.Detail, tc.want)
		})
	}
}

func TestHealthcheckServices(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		fault  func(*node)
		result string
		want   string
	}{
		{"kubelet down", func(n *node) { n.tool("systemctl", isActiveKubelet, answer{Out: "activating\n", Exit: 3}) }, protocol.ResultFailed, "kubelet failed: not active: kubelet"},
		{"runtime down", func(n *node) {
			n.tool("systemctl", isActiveRuntime, answer{Out: "failed\ninactive\ninactive\n", Exit: 3})
		}, protocol.ResultFailed, "runtime failed"},
		{"systemctl does nothing in a chroot", func(n *node) { n.tool("systemctl", isActiveKubelet, answer{}) }, protocol.ResultFailed, "kubelet failed"},
		{"clock free", func(n *node) { n.tool("timedatectl", "show --property=NTPSynchronized --value", answer{Out: "no\n"}) }, protocol.ResultFailed, "clock failed: not synchronised"},
		{"no systemd", func(n *node) { n.uninstall("systemctl") }, protocol.ResultFailed, "kubelet failed: there is no systemd, and no process is called kubelet"},
		{"another boot", func(n *node) { n.file("/proc/sys/kernel/random/boot_id", "other\n") }, protocol.ResultError, "boot-id error: boot is other, not " + boot},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			tc.fault(n)
			r := n.examine("", "healthcheck", "--profile", "default", "--boot-id", boot)
			require.Equal(t, protocol.ExitUnknown, r.ExitCode, "%+v", r)
			require.Equal(t, tc.result, r.Result)
			require.Empty(t, r.Hardware)
			require.Contains(t, r.Detail, tc.want)
		})
	}
}

// Without its tool, a required check could not be made; one that nothing requires is skipped, or made without the part.
func TestHealthcheckMissingTool(t *testing.T) {
	t.Parallel()
	const implied, free, noted = true, false, "noted"
	for _, tc := range []struct {
		tool, check string
		implied     bool
		// optional is the result of the check while nothing requires it, noted where the part counts for nothing.
		optional string
	}{
		{smi, checkGPUCount, implied, ""},
		{smi, checkGPUHealth, implied, ""},
		{smi, checkRowRemap, implied, ""},
		{smi, checkSRAM, implied, ""},
		{smi, checkNVLink, implied, ""},
		{"dmesg", checkXID, implied, ""},
		{"dcgmi", checkDCGM, implied, ""},
		{"stat", checkGPFS, implied, ""},
		{"mmgetstate", checkGPFS, implied, ""},
		{"timedatectl", checkClock, free, protocol.ResultSkipped},
		{"dmesg", checkCPU, free, protocol.ResultPassed},
		{"df", checkDisk, free, protocol.ResultPassed},
		{"ipmitool", checkCPU, free, noted},
		{"smartctl", checkDisk, free, noted},
		{"getent", checkNetwork, free, noted},
	} {
		t.Run(tc.tool+" for "+tc.check, func(t *testing.T) {
			t.Parallel()
			n := newGPUNode(t)
			n.file("/profiles/default.yaml", "dcgmDiag: true\n")
			n.tool("dcgmi", "diag -r 1", answer{Out: dcgmTable("Pass")})
			n.uninstall(tc.tool)
			for _, required := range []bool{false, true} {
				args := gpuArgs()
				want, code := tc.optional, protocol.ExitOK
				if required {
					args = append(args, "--require", tc.check)
				}
				switch {
				case tc.optional == noted:
					want = protocol.ResultPassed
				case tc.implied || required:
					want, code = protocol.ResultError, protocol.ExitUnknown
				}
				r := n.examine(hardwareCheckedBy(tc.check), args...)
				require.Equal(t, want, results(r)[tc.check], "%v", required)
				require.Contains(t, detail(t, r, tc.check), tc.tool+" is not installed")
				require.Equal(t, code, r.ExitCode, "%v: %+v", required, r)
			}
		})
	}
}

// What the profile names, the PCI bus has or /etc/fstab lists has to be checked, without a word about it elsewhere.
func TestUnknownIsNeverHealthy(t *testing.T) {
	t.Parallel()
	const plain = false
	for _, tc := range []struct {
		name    string
		gpu     bool
		profile string
		setup   func(*node)
		code    int
		want    string
	}{
		{"GPU without tools", true, "", func(n *node) { n.uninstall(smi) }, 70, "gpu-health error: nvidia-smi is not installed"},
		{"NVLinks without GPUs", plain, "nvlinks: 18\n", nil, 70, "gpu-nvlink error: no NVIDIA GPU on the PCI bus"},
		{"NVLink speed without GPUs", plain, "nvlinkGBps: 25\n", nil, 70, "gpu-nvlink error"},
		{"DCGM without GPUs", plain, "dcgmDiag: true\n", nil, 70, "gpu-dcgm error"},
		{"DCGM not there", true, "dcgmDiag: true\n", nil, 70, "gpu-dcgm error: dcgmi is not installed"},
		{"DCGM without a test", true, "dcgmDiag: true\n", func(n *node) {
			n.tool("dcgmi", "diag -r 1", answer{Out: sample(n.t, "dcgm-error-other"), Exit: 226})
		}, 70, "gpu-dcgm error"},
		{"persistence without GPUs", plain, "persistence: true\n", nil, 70, "gpu-health error"},
		{"handle among the rows", true, "", func(n *node) { n.tool(smi, queryHealth, answer{Out: sample(n.t, "query-handle")}) }, 23, "gpu-health failed"},
		// Surprise removal by pciehp leaves the driver's device file and its words in the kernel log.
		{"last GPU gone", true, "", func(n *node) { n.emptyBus() }, 2, "gpu-count failed: no NVIDIA GPU on the PCI bus, but "},
		{"last GPU gone, device file left", plain, "", func(n *node) { n.file("/dev/nvidia0", "") }, 2, "but /dev has nvidia0"},
		{"last GPU gone, of a driver container", true, "", func(n *node) {
			n.inContainer()
			n.remove("/proc/driver")
			n.emptyBus()
		}, 2, "but /run/nvidia/driver/dev has nvidia0"},
		{"last GPU gone, driver loaded", plain, "", func(n *node) { n.emptyDir("/sys/module/nvidia") }, 2, "but the module nvidia is loaded"},
		{"last GPU gone, driver has it", plain, "", func(n *node) { n.emptyDir("/proc/driver/nvidia/gpus/0000:30:00.0") }, 2, "but the driver has 0000:30:00.0"},
		{"last GPU gone, by the kernel log", plain, "", func(n *node) {
			n.tool("dmesg", "", answer{Out: "[    9.000000] NVRM: Xid (PCI:0000:30:00): 79, GPU has fallen off the bus.\n"})
		}, 2, "but by the kernel log 0000:30:00 was lost"},
		{"last GPU gone that nobody expects", plain, "gpus: 0\n", func(n *node) { n.file("/dev/nvidia0", "") }, 0, ""},
		{"last GPU lent", true, "", func(n *node) {
			n.bind("0000:30:00.0", "vfio-pci")
			n.bind("0000:31:00.0", "vfio-pci")
			n.remove("/proc/driver")
			n.emptyDir("/sys/module/nvidia")
		}, 0, ""},
		{"PCI bus unreadable", plain, "", func(n *node) { n.file("/sys/bus/pci/devices/0000:30:00.0/vendor/x", "") }, 70, "gpu-count error"},
		{"adapter without a driver", plain, "", func(n *node) {
			n.file(pciDir+"0000:18:00.0/vendor", "0x15b3\n")
			n.file(pciDir+"0000:18:00.0/class", "0x020700\n")
		}, 70, "ib error: the InfiniBand adapter 0000:18:00.0 has no RDMA device"},
		{"adapter that another driver has", plain, "", func(n *node) {
			n.file(pciDir+"0000:18:00.0/vendor", "0x15b3\n")
			n.file(pciDir+"0000:18:00.0/class", "0x020700\n")
			n.bind("0000:18:00.0", "mlx5_core")
		}, 0, ""},
		{"adapter that cannot be read", plain, "", func(n *node) {
			n.port("mlx5_0", "1", "", "5: LinkUp", "InfiniBand")
			n.remove(infinibandDir + "mlx5_0/ports/1/state")
		}, 70, "ib error"},
		{"adapter down", plain, "", func(n *node) { n.port("mlx5_0", "1", "1: DOWN", "2: Polling", "InfiniBand") }, 1, `mlx5_0 port 1 is "1: DOWN"`},
		// prometheus/node_exporter issue 3810: mana_0 of Azure is Ethernet, and its rate cannot be read.
		{"Ethernet without a rate", plain, "", func(n *node) {
			n.port("mana_0", "1", "0: NOP", "0: <unknown>", "Ethernet")
			n.file(infinibandDir+"mana_0/ports/1/rate", "")
		}, 0, ""},
		{"rate that nobody asks for", plain, "", func(n *node) {
			n.port("mlx5_0", "1", "4: ACTIVE", "5: LinkUp", "InfiniBand")
			n.file(infinibandDir+"mlx5_0/ports/1/rate", "")
		}, 0, ""},
		{"rate that the profile asks for", plain, "ib: 1\nibRateGbps: 100\n", func(n *node) {
			n.port("mlx5_0", "1", "4: ACTIVE", "5: LinkUp", "InfiniBand")
			n.file(infinibandDir+"mlx5_0/ports/1/rate", "")
		}, 70, "ib error: mlx5_0 port 1 has rate"},
		{"adapter without a cable", plain, "", func(n *node) {
			n.port("mlx5_0", "1", "4: ACTIVE", "5: LinkUp", "InfiniBand")
			n.port("mlx5_1", "1", "1: DOWN", "2: Polling", "InfiniBand")
		}, 0, ""},
		{"adapter that the subnet manager left", plain, "", func(n *node) {
			n.port("mlx5_0", "1", "4: ACTIVE", "5: LinkUp", "InfiniBand")
			n.port("mlx5_1", "1", "2: INIT", "5: LinkUp", "InfiniBand")
		}, 1, `mlx5_1 port 1 is "2: INIT"`},
		{"adapter without a cable that the profile counts", plain, "ib: 2\n", func(n *node) {
			n.port("mlx5_0", "1", "4: ACTIVE", "5: LinkUp", "InfiniBand")
			n.port("mlx5_1", "1", "1: DOWN", "2: Polling", "InfiniBand")
		}, 1, `mlx5_1 port 1 is "1: DOWN"`},
		{"adapter down that nobody expects", plain, "ib: 0\n", func(n *node) { n.port("mlx5_0", "1", "1: DOWN", "2: Polling", "InfiniBand") }, 0, ""},
		{"one cable of two", plain, "", func(n *node) {
			n.port("mlx5_0", "1", "4: ACTIVE", "5: LinkUp", "InfiniBand")
			n.port("mlx5_0", "2", "1: DOWN", "2: Polling", "InfiniBand")
		}, 0, ""},
		{"adapter not in use", plain, "", func(n *node) { n.port("mlx5_0", "1", "1: DOWN", "3: Disabled", "InfiniBand") }, 0, ""},
		{"Ethernet", plain, "", func(n *node) { n.port("mlx5_0", "1", "1: DOWN", "2: Polling", "Ethernet") }, 0, ""},
		{"virtual function without a driver", plain, "", func(n *node) {
			n.file(pciDir+"0000:18:00.1/vendor", "0x15b3\n")
			n.file(pciDir+"0000:18:00.1/class", "0x020700\n")
			n.file(pciDir+"0000:18:00.1/physfn/class", "0x020700\n")
		}, 0, ""},
		{"line of GPFS without GPFS", plain, "", func(n *node) { n.append("/etc/fstab", "fs1 /gpfs/fs1 gpfs rw,dev=fs1,noauto 0 0\n") }, 70, "gpfs error: not checked, mmgetstate is not installed"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			if tc.gpu {
				n = newGPUNode(t)
			}
			n.file("/profiles/default.yaml", tc.profile)
			if tc.setup != nil {
				tc.setup(n)
			}
			r := n.op("healthcheck", "--profile", "default")
			require.Equal(t, tc.code, r.ExitCode, "%+v", r)
			require.Contains(t, r.Detail, tc.want)
		})
	}
}

// emptyBus takes everything off the PCI bus.
func (n *node) emptyBus() {
	n.remove("/sys/bus/pci/devices")
	n.emptyDir("/sys/bus/pci/devices")
}

// What a check that hangs in the kernel looks at is nothing that any other has to wait for.
func TestImpliedChecksAreLookedForByThemselves(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	// A pipe that nobody writes to is a file that hangs.
	require.NoError(t, os.MkdirAll(n.path(infinibandDir+"mlx5_0/ports/1"), 0o755))
	require.NoError(t, syscall.Mkfifo(n.path(infinibandDir+"mlx5_0/ports/1/state"), 0o600))
	done := make(chan []string, 1)
	h := n.open()
	go func() { done <- h.implied(new(expectation)) }()
	select {
	case names := <-done:
		require.Contains(t, names, checkIB)
	case <-time.After(time.Minute):
		require.Fail(t, "hangs")
	}
}

// People see in the log of the Job all that the tool of a check said, whatever it said it on, and nothing of the tools of checks that passed.
func TestHealthcheckTellsTheWordsOfTheTools(t *testing.T) {
	t.Parallel()
	n := newGPUNode(t)
	n.tool(smi, "-q -d ECC", answer{Out: "first\nsecond\n", Err: "third\nfourth\n", Exit: 9})
	r := n.op(gpuArgs()...)
	require.Equal(t, protocol.ExitGPUCheck, r.ExitCode)
	require.Contains(t, detail(t, r, checkSRAM), "exit status 9: third; first")
	require.Contains(t, n.stdout.String(), "gpu-sram failed\n=== nvidia-smi -q -d ECC ===\nfirst\nsecond\nthird\nfourth\n(nvidia-smi: exit status 9: third)\n")
	require.NotContains(t, n.stdout.String(), "is-active")
}

// port gives the node a port of an RDMA device.
func (n *node) port(device, port, state, phys, layer string) {
	for file, value := range map[string]string{"state": state, "phys_state": phys, "rate": "400 Gb/sec (4X NDR)", "link_layer": layer} {
		n.file(infinibandDir+device+"/ports/"+port+"/"+file, value+"\n")
	}
}

func TestHealthcheckUnreadableAnswerIsUnknown(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		check string
		fault func(*node)
	}{
		{checkRowRemap, func(n *node) { n.smi(queryRemap, "u, perhaps, No\n") }},
		{checkRowRemap, func(n *node) { n.smi(queryRemap, "a line of another kind\n") }},
		{checkSRAM, func(n *node) { n.smi("-q -d ECC", eccReport("[Unknown Error]", "No")) }},
		{checkSRAM, func(n *node) { n.tool(smi, "-q -d ECC", answer{Out: eccReport("0", "No"), Repeat: 1000}) }},
		{checkGPUCount, func(n *node) { n.tool(smi, "-L", answer{Signal: 9}) }},
		{checkDisk, func(n *node) { n.tool("df", dfSpace, answer{Out: "nothing\n"}) }},
		{checkCPU, func(n *node) { n.file("/sys/devices/system/cpu/online", "none\n") }},
		{checkMemory, func(n *node) { n.file("/proc/meminfo", "") }},
		{checkRootFS, func(n *node) { n.file("/proc/1/mounts", "\n") }},
		{checkIB, func(n *node) { n.file("/sys/class/infiniband/mlx5_0/ports/1/rate", "fast\n") }},
		{checkGPFS, func(n *node) { n.tool("mmgetstate", "-Y", answer{Out: "\n"}) }},
		{checkNetwork, func(n *node) { n.remove("/sys/class/net/eth1/bonding_slave") }},
		{checkDCGM, func(n *node) { n.tool("dcgmi", "diag -r 1", answer{Exit: 255, Err: "no host engine"}) }},
		{checkDCGM, func(n *node) { n.tool("dcgmi", "diag -r 1", answer{Out: "nothing\n"}) }},
	} {
		n := newGPUNode(t)
		n.file("/profiles/default.yaml", "dcgmDiag: true\nibRateGbps: 100\n")
		n.tool("dcgmi", "diag -r 1", answer{Out: dcgmTable("Pass")})
		tc.fault(n)
		r := n.examine(hardwareCheckedBy(tc.check), gpuArgs("--require", tc.check)...)
		require.Equal(t, protocol.ResultError, results(r)[tc.check], "%s: %+v", tc.check, r)
	}
}

// Every node has these parts, so that nobody has to ask for their checks.
func TestPartsOfEveryNodeAreKnownToBeWell(t *testing.T) {
	t.Parallel()
	for check, fault := range map[string]func(*node){
		checkCPU:     func(n *node) { n.file("/sys/devices/system/cpu/online", "none\n") },
		checkMemory:  func(n *node) { n.file("/proc/meminfo", "") },
		checkDisk:    func(n *node) { n.tool("df", dfSpace, answer{Out: "nothing\n"}) },
		checkRootFS:  func(n *node) { n.file("/proc/1/mounts", "\n") },
		checkNetwork: func(n *node) { n.remove("/sys/class/net/eth1/bonding_slave") },
	} {
		n := newNode(t)
		fault(n)
		r := n.op("healthcheck", "--profile", "default")
		require.Equal(t, protocol.ExitUnknown, r.ExitCode, "%s: %+v", check, r)
		require.Contains(t, r.Detail, check+" error: ")
	}
	n := newNode(t)
	n.uninstall("df")
	n.uninstall("smartctl")
	n.uninstall("ipmitool")
	require.Equal(t, protocol.ExitOK, n.op("healthcheck", "--profile", "default").ExitCode, "a tool that is not there is skipped")
}

func TestHealthcheckSeverity(t *testing.T) {
	t.Parallel()
	n := newGPUNode(t)
	n.file("/sys/class/net/bond0/operstate", "down\n")
	n.smi(queryHealth, "0, a, Enabled, 3, 16, 16\n")
	n.uninstall("systemctl")
	r := n.op(gpuArgs()...)
	require.Equal(t, protocol.ExitGPUCheck, r.ExitCode, "hardware is named even where another check could not be made")
	n.smi(queryRemap, "u, Yes, No\n")
	require.Equal(t, protocol.ExitRowRemap, n.op(gpuArgs()...).ExitCode)
}

func TestHealthcheckProfile(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, profile string
		args          []string
		code          int
		want          string
	}{
		{"met", "gpus: 2\nib: 1\ngpfs: [/gpfs/fs1]\ncpus: 8\nmemoryGiB: 64\ninterfaces: [bond0]\ninterfaceMbps: 200000\nibRateGbps: 400\nnvlinks: 1\n", nil, 0, ""},
		{"too few CPUs", "cpus: 16\n", nil, 4, "16 CPUs expected, 8 online"},
		{"too little memory", "memoryGiB: 128\n", nil, 5, "128 GiB of memory expected"},
		{"slow interface", "interfaces: [bond0]\ninterfaceMbps: 400000\n", nil, 7, "bond0 runs at 200000 Mb/s of 400000"},
		{"missing interface", "interfaces: [eth9]\n", nil, 7, "eth9 is missing"},
		{"slow InfiniBand", "ib: 1\nibRateGbps: 800\n", nil, 1, "runs at 400 Gb/s of 800"},
		{"named InfiniBand", "ibDevices: [mlx5_7]\n", nil, 1, "mlx5_7 is missing"},
		{"slow NVLink", "nvlinkGBps: 50\n", nil, 24, "NVLink of 26.562 GB/s"},
		{"too few NVLinks", "nvlinks: 18\n", nil, 24, "1 NVLinks of 18"},
		{"flag overrides", "gpus: 8\n", []string{"--gpus", "2"}, 0, ""},
		{"no GPUs wanted", "gpus: 0\n", nil, 2, "0 GPUs expected, 2 on the PCI bus"},
		{"unknown field", "gpu: 8\n", nil, 70, `p.yaml:1:1: unknown field "gpu" in the file, did you mean "gpus"?`},
		{"negative", "gpus: -1\ncpus: -2\n", nil, 70, "p.yaml:2:7: cpus is negative"},
		{"no name", "apiServer: https://a\n", nil, 70, "must be the name of a host"},
		{"name of the API server", "apiServer: other.test\n", nil, 7, "other.test of the API server does not resolve"},
		{"link layer", "ibLinkLayer: Token Ring\n", nil, 70, "must be InfiniBand or Ethernet"},
		{"no YAML", "{", nil, 70, "p.yaml"},
		{"too long", strings.Repeat("#", strict.MaxBytes+1), nil, 70, "larger than 1 MiB"},
		{"unknown check", "require: [gpu-cuont]\n", nil, 70, `required check "gpu-cuont" does not exist`},
		{"required but not there", "require: [site:burn]\n", nil, 70, `required check "site:burn" does not exist`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := newGPUNode(t)
			n.file("/profiles/p.yaml", tc.profile)
			r := n.op(append([]string{"healthcheck", "--profile", "p"}, tc.args...)...)
			require.Equal(t, tc.code, r.ExitCode, "%+v", r)
			require.Contains(t, r.Detail, tc.want)
		})
	}
}

func TestHealthcheckReadOnlyRootOnPurpose(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.append("/proc/1/mounts", "/dev/sda1 / ext4 ro 0 0\n")
	n.tool("df", "*", answer{Out: dfTable("50", "50")})
	n.file("/profiles/p.yaml", "readOnlyRoot: true\n")
	require.Equal(t, protocol.ExitOK, n.op("healthcheck", "--profile", "p").ExitCode)
}

func TestHealthcheckSiteChecks(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		answer answer
		result string
		code   int
	}{
		{answer{Out: "\n all well\nmore\n"}, protocol.ResultPassed, 0},
		{answer{Out: "no card", Exit: 75}, protocol.ResultError, 70},
		{answer{Out: "slow", Exit: 22}, protocol.ResultFailed, 22},
		{answer{Out: "usage", Exit: 64}, protocol.ResultError, 70},
		{answer{Exit: 42}, protocol.ResultError, 70},
		{answer{Signal: 15}, protocol.ResultError, 70},
	} {
		n := newNode(t)
		n.executable(checksDir+"/burn", "", tc.answer)
		n.file(checksDir+"/README.md", "not a check")
		r := n.op("healthcheck", "--profile", "default", "--require", "site:burn,memory")
		require.Equal(t, tc.code, r.ExitCode, "%+v", r)
		require.Equal(t, tc.result, results(r)["site:burn"])
	}
}

func TestHealthcheckRunsNoCheckThatOthersMayWrite(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.file(checksDir+"/plain", "")
	r := n.op("healthcheck", "--profile", "default", "--require", "site:plain")
	require.Equal(t, protocol.ExitUnknown, r.ExitCode)
	require.Contains(t, r.Detail, "is not executable")
}

func TestHealthcheckInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := newGPUNode(t).opContext(ctx, gpuArgs()...)
	require.Equal(t, protocol.ExitUnknown, r.ExitCode, "an interrupted check blames no hardware: %+v", r)
	require.Len(t, r.Checks, len(builtinChecks()))
}

func TestHealthcheckHangingTool(t *testing.T) {
	t.Parallel()
	n := newGPUNode(t)
	pid := filepath.Join(t.TempDir(), "pid")
	n.tool(smi, "-L", answer{Hang: pid})
	n.options.limit = 2 * time.Second
	r := n.op(gpuArgs()...)
	require.Equal(t, protocol.ExitGPU, r.ExitCode, "%+v", r)
	require.Contains(t, detail(t, r, checkGPUCount), "did not end in time")
	require.Equal(t, protocol.ResultPassed, results(r)[checkNetwork], "the checks behind it run")
	requireDead(t, pid)
}

func TestCheckThatHangsInTheKernelIsLeftBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		k := check{timeout: time.Minute, run: func(context.Context, *host, *expectation) finding {
			<-release
			return passed("")
		}}
		f := new(host).runCheck(t.Context(), k, nil)
		require.Equal(t, protocol.ResultError, f.result)
		require.Contains(t, f.detail, "left behind after 1m15s")
		close(release)
	})
}

func TestCancellingEndsACheckThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		k := check{timeout: time.Hour, run: func(context.Context, *host, *expectation) finding {
			<-release
			return passed("")
		}}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Minute, cancel)
		began := time.Now()
		f := new(host).runCheck(ctx, k, nil)
		require.Equal(t, protocol.ResultError, f.result)
		require.Equal(t, time.Minute+abandonGrace, time.Since(began))
		close(release)
	})
}

func TestXIDLog(t *testing.T) {
	t.Parallel()
	const x = "[ 1.0] NVRM: Xid (PCI:0000:3b:00): "
	for _, tc := range []struct {
		name  string
		lines []string
		want  []string
	}{
		{"applications", []string{x + "13, a", x + "31, a", x + "43, a", x + "45, a", x + "68, a"}, nil},
		{"when idle", []string{x + "63, a", x + "92, a", x + "94, a"}, nil},
		{"unknown code", []string{x + "9999, a", x + "99999999999999999999, a"}, nil},
		{"several", []string{x + "79, a", x + "48, a", x + "48, b"}, []string{"XID 48 79 on 0000:3b:00"}},
		{"without time", []string{"NVRM: Xid (PCI:0000:3b:00): 95, a"}, []string{"XID 95 on 0000:3b:00"}},
		{"NVLink fatal", []string{x + "145, RLW_CTRL Fatal XC0 i0 Link 02"}, []string{"XID 145 on 0000:3b:00"}},
		{"NVLink nonfatal", []string{x + "145, RLW_CTRL Nonfatal XC0 i0 Link 02"}, nil},
		{"reset asked for", []string{x + "154, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)"}, []string{"XID 154 on 0000:3b:00"}},
		{"peers only", []string{x + "154, GPU recovery action changed from 0x0 (None) to 0x3 (Drain P2P)"}, nil},
		{"recovered", []string{x + "48, a", x + "154, GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)"}, nil},
		{"reset since", []string{x + "48, a", "[ 2.0] aegis: gpu reset: PCI:0000:3b:00"}, nil},
		{"other GPU reset", []string{x + "48, a", "[ 2.0] aegis: gpu reset: PCI:0000:3c:00"}, []string{"XID 48 on 0000:3b:00"}},
		{"again since the reset", []string{"[ 2.0] aegis: gpu reset: PCI:0000:3b:00", x + "48, a"}, []string{"XID 48 on 0000:3b:00"}},
		{"reset claimed by a process name", []string{x + "48, a", x + "31, pid=1, name=aegis: gpu reset: PCI:0000:3b:00"}, []string{"XID 48 on 0000:3b:00"}},
		{"XID claimed by a process name", []string{x + "31, name=NVRM: Xid (PCI:0000:3b:00): 79, x"}, nil},
		{"switch", []string{"[ 1.0] nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 79, Fatal"}, []string{"SXid 79 on the switch 0000:c1:00"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var log xidLog
			for _, l := range tc.lines {
				log.line(l)
			}
			require.Equal(t, tc.want, log.faults())
		})
	}
}

func TestBusID(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"00000000:3B:00.0": "0000:3b:00", "0000:3b:00": "0000:3b:00", "3b:00.0": "0000:3b:00", "0": "0", "": "",
	} {
		require.Equal(t, want, busID(in), in)
	}
}

func TestNVLinkIdle(t *testing.T) {
	t.Parallel()
	n := newGPUNode(t)
	n.smi("nvlink -s", "GPU 0: a\n\t Link 0: <inactive>\nGPU 1: b\n")
	n.smi("-q", sample(t, "fabric-not-supported"))
	require.Equal(t, protocol.ResultSkipped, results(n.examine(protocol.HardwareGPU, gpuArgs()...))[checkNVLink])
}

func TestKernelLogIsReadWhole(t *testing.T) {
	t.Parallel()
	n := newGPUNode(t)
	filler := strings.Repeat("[ 1.0] filler\n", 100)
	n.tool("dmesg", "", answer{Out: filler + strings.Repeat("x", 3*maxLine) + "\n" + "[ 2.0] NVRM: Xid (PCI:0000:3b:00): 79, x\n" + filler, Repeat: 200})
	require.Equal(t, protocol.ExitGPUCheck, n.examine(protocol.HardwareGPU, gpuArgs()...).ExitCode)
}

func FuzzParsers(f *testing.F) {
	for _, seed := range []string{
		"", eccReport("1", "No"), dfTable("1", "2"), "GPU 0: a\n\t Link 0: 26 GB/s\n", "mmgetstate::HEADER:state:\nmmgetstate::0:active:\n",
		"/dev/sd\\040a / ext4 rw 0 0\n\\777 \\000 a b", "0-3,8", "u, \"No, Yes\n", "gpus: 8\nrequire: [ib]\n", "eth0\t00000000\t1\t2\t3\t4\t5\t00000000\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		parseSRAM(text).finding()
		parseNVLinks(text).parts(new(expectation)).finding()
		parseRetired(text)
		parseArrays(text)
		new(hardwareLog).line(text)
		parseMounts(text)
		parseRoutes(text)
		parseRoutes6(text)
		if n, err := parseRanges(text); err == nil {
			require.Positive(t, n)
		}
		if rows, err := parseDF(text); err == nil {
			require.NotEmpty(t, rows)
		}
		if _, state, err := parseGPFSState(text); err != nil {
			require.Empty(t, state)
		}
		if rows, err := parseRows(text, 3); err == nil {
			for _, row := range rows {
				require.Len(t, row, 3)
			}
		}
		e := new(expectation)
		if decodeProfile("p.yaml", []byte(text), e) == nil {
			e.validate(func(_, format string, args ...any) { t.Errorf(format, args...) })
		}
		var log xidLog
		log.line(text)
		require.LessOrEqual(t, len(log.faults()), 1)
	})
}

// A profile that a pool names and nobody wrote would expect nothing, so it is an error; only the default one may be absent.
func TestHealthcheckNeedsTheProfileThatIsNamed(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	r := n.op("healthcheck", "--profile", "h100")
	require.Equal(t, protocol.ExitUnknown, r.ExitCode)
	require.Contains(t, r.Detail, "h100.yaml")
}

func dcgmTable(software string) string {
	return "Successfully ran diagnostic for group.\n+-----+-----+\n| Diagnostic                | Result         |\n+=====+=====+\n" +
		"|-----  Metadata  ----------+----------------|\n| DCGM Version              | 4.2.0          |\n" +
		"|-----  Deployment  --------+----------------|\n| software                  | " + software + "           |\n" +
		"| PCIe                      | Skip - All     |\n"
}

func TestGPUMask(t *testing.T) {
	t.Parallel()
	eight := 8
	rows := func(indices ...string) (rows [][]string) {
		for _, i := range indices {
			rows = append(rows, []string{i})
		}
		return rows
	}
	for _, tc := range []struct {
		sick []string
		rows [][]string
		e    expectation
		want string
	}{
		{nil, rows("0", "1"), expectation{}, ""},
		{[]string{"1"}, rows("0", "1"), expectation{}, "01"},
		{[]string{"5"}, rows("0", "5", "6"), expectation{GPUs: &eight}, "00000100"},
		{[]string{"0", "7"}, rows("0", "7"), expectation{}, "10000001"},
		{[]string{"x"}, rows("x"), expectation{}, ""},
		{[]string{"-1"}, rows("-1"), expectation{}, ""},
		{[]string{"99999"}, rows("99999"), expectation{}, ""},
	} {
		require.Equal(t, tc.want, gpuMask(tc.sick, tc.rows, &tc.e), "%v", tc.sick)
	}
}

func TestHealthcheckAsksForTheNameOfTheAPIServer(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]string{
		"":             "clusters:\n- cluster: {server: \"https://10.0.0.9:6443\"}\n",
		"a.test":       "clusters:\n- cluster: {server: \"https://a.test\"}\n",
		"no clusters":  "clusters: []\n",
		"no YAML":      "{",
		"odd":          "clusters:\n- cluster: {server: \"https://-rf\"}\n",
		"not an URL":   "clusters:\n- cluster: {server: \"https://a b\"}\n",
		"another kind": "- 1\n",
	} {
		n := newNode(t)
		n.tool("getent", "*", answer{})
		n.file("/etc/kubernetes/kubelet.conf", config)
		r := n.examine("network", "healthcheck", "--profile", "default")
		require.Equal(t, protocol.ExitOK, r.ExitCode, "%s: %+v", name, r)
		if name == "a.test" {
			require.Equal(t, []string{"ahosts a.test"}, n.calls("getent"))
			continue
		}
		require.Empty(t, n.calls("getent"), name)
		require.Contains(t, detail(t, r, checkNetwork), "has no name to look up")
	}
}
