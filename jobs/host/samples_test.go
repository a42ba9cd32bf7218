package host

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/jobs/protocol"
)

// sample returns an output in testdata/samples, without the lines at its head that say where its format is described.
func sample(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata/samples", name+".txt"))
	require.NoError(t, err)
	text := string(data)
	for strings.HasPrefix(text, "# ") {
		_, text, _ = strings.Cut(text, "\n")
	}
	return text
}

const queryRetired = "-q -d PAGE_RETIREMENT"

// The samples are in the formats of the tools; each says in its head where that is described.
func TestSamples(t *testing.T) {
	t.Parallel()
	prints := func(tool, call string) func(*node, string) {
		return func(n *node, text string) { n.tool(tool, call, answer{Out: text}) }
	}
	report, links, kernel := prints(smi, "-q"), prints(smi, "nvlink -s"), prints("dmesg", "")
	health, remap, ecc := prints(smi, queryHealth), prints(smi, queryRemap), prints(smi, "-q -d ECC")
	sensors := prints("ipmitool", "sdr type Processor")
	arrays := func(n *node, text string) { n.file("/proc/mdstat", text) }
	retired := func(n *node, text string) {
		n.smi(queryRemap, sample(n.t, "remap-not-supported"))
		n.smi(queryRetired, text)
	}
	dcgm := func(n *node, text string) {
		n.file("/profiles/default.yaml", "dcgmDiag: true\n")
		n.tool("dcgmi", "diag -r 1", answer{Out: text, Exit: 226})
	}
	const passed, skipped, broken = protocol.ResultPassed, protocol.ResultSkipped, protocol.ResultError
	for _, tc := range []struct {
		name   string
		feed   func(*node, string)
		check  string
		result string
		code   int
		want   string
	}{
		{"recovery-none", report, checkGPUHealth, passed, 0, ""},
		{"recovery-reset", report, checkGPUHealth, "", 23, "GPU 00000000:31:00.0 asks for a recovery: GPU Reset Required, GPU 1 has persistence off, mask 01"},
		{"recovery-reset-nvml", report, checkGPUHealth, "", 23, "asks for a recovery: GPU Reset Required"},
		{"recovery-reboot", report, checkGPUHealth, "", 23, "asks for a recovery: Node Reboot Required"},
		{"recovery-drain-p2p", report, checkGPUHealth, "", 23, "asks for a recovery: Drain P2P"},
		{"recovery-drain-and-reset", report, checkGPUHealth, "", 23, "asks for a recovery: Drain and Reset"},
		{"recovery-unknown", report, checkGPUHealth, "", 23, "asks for a recovery: Sit Down"},
		{"recovery-reset-status", report, checkGPUHealth, "", 23, "asks for a recovery: GPU Reset Required"},
		{"recovery-drain-status", report, checkGPUHealth, "", 23, "asks for a recovery: Drain and Reset"},

		{"fabric-healthy", report, checkNVLink, passed, 0, "2 GPUs tell the state of their fabric"},
		{"fabric-summary-unhealthy", report, checkNVLink, "", 24, `GPU 00000000:31:00.0 has a fabric with Summary "Unhealthy", Incorrect Configuration "Incorrect SysGUID"`},
		{"fabric-limited-capacity", report, checkNVLink, "", 24, `Summary "Limited Capacity"`},
		{"fabric-route-unhealthy", report, checkNVLink, "", 24, `Route Unhealthy "True"`},
		{"fabric-bandwidth-degraded", report, checkNVLink, "", 24, `Bandwidth "Degraded"`},
		{"fabric-configuration", report, checkNVLink, "", 24, `Incorrect Configuration "No Partition"`},
		{"fabric-not-supported", report, checkNVLink, passed, 0, ""},
		{"fabric-in-progress", func(n *node, text string) {
			report(n, text)
			links(n, sample(n.t, "nvlink-inactive"))
		}, checkNVLink, "", 24, `has fabric state "In Progress"`},
		{"fabric-not-supported", func(n *node, text string) {
			report(n, text)
			links(n, sample(n.t, "nvlink-inactive"))
		}, checkNVLink, skipped, 0, "no NVLink is in use"},

		{"nvlink-mig", links, checkNVLink, passed, 0, "GPU 0 is in MIG mode"},
		{"nvlink-mig", func(n *node, text string) {
			n.file("/profiles/default.yaml", "nvlinks: 18\n")
			links(n, text)
		}, checkNVLink, passed, 0, "18 NVLinks active"},
		{"nvlink-h100-nvl", func(n *node, text string) {
			n.file("/profiles/default.yaml", "nvlinks: 12\n")
			links(n, text)
		}, checkNVLink, passed, 0, "24 NVLinks active"},
		{"nvlink-h100-nvl", links, checkNVLink, "", 24, "GPU 0 has 6 inactive NVLinks"},
		{"nvlink-h100-nvl-lost", func(n *node, text string) {
			n.file("/profiles/default.yaml", "nvlinks: 12\n")
			links(n, text)
		}, checkNVLink, "", 24, "GPU 0 has 11 NVLinks of 12"},

		{"sxid-fatal", kernel, checkXID, "", 23, "SXid 20009 on the switch 0000:a5:00"},
		{"sxid-nonfatal", kernel, checkXID, passed, 0, ""},
		{"sxid-reset", kernel, checkXID, passed, 0, ""},
		{"caller-xid", kernel, checkXID, "", 23, "XID 79 on 0000:30:00"},
		{"caller-xid-close", kernel, checkXID, "", 23, "XID 119 on 0000:30:00"},
		{"caller-reset", kernel, checkXID, passed, 0, ""},
		{"xid-instance", kernel, checkXID, "", 23, "XID 95 on 0000:31:00"},
		{"xid-compute-instance", kernel, checkXID, "", 23, "XID 48 on 0000:31:00"},
		{"xid-instance-application", kernel, checkXID, passed, 0, ""},
		{"xid-54", kernel, checkXID, "", 23, "XID 54 on 0000:31:00"},
		{"xid-first", kernel, checkXID, "", 23, "XID 48 on 0000:31:00"},
		{"xid-reinitialised", kernel, checkXID, passed, 0, ""},
		{"xid-reboot-reinitialised", kernel, checkXID, "", 23, "XID 79 on 0000:31:00"},
		{"bus-lost-lines", kernel, checkXID, "", 23, "0000:31:00 fell off the bus"},
		{"bus-lost-plain", kernel, checkXID, "", 23, "0000:31:00 fell off the bus"},
		{"bus-lost-one-line", kernel, checkXID, "", 23, "0000:31:00 fell off the bus"},
		{"bus-lost-recovered", kernel, checkXID, passed, 0, ""},
		{"bus-unsupported", kernel, checkXID, passed, 0, ""},

		{"ghes-fatal", kernel, checkCPU, "", 4, "1 uncorrected errors of the hardware, the first: "},
		{"ghes-recoverable", kernel, checkCPU, "", 4, "event severity: recoverable"},
		{"ghes-recoverable-caller", kernel, checkCPU, "", 4, "event severity: recoverable"},
		{"ghes-recoverable-pcie", kernel, checkCPU, passed, 0, "1 errors of PCIe devices were recovered"},
		{"ghes-recoverable-both", kernel, checkCPU, "", 4, "1 uncorrected errors of the hardware"},
		{"ghes-recoverable-cut", kernel, checkCPU, "", 4, "1 uncorrected errors of the hardware"},
		{"ghes-corrected", kernel, checkCPU, passed, 0, ""},
		{"bert-fatal", kernel, checkCPU, passed, 0, ""},
		{"amd-fatal", kernel, checkCPU, "", 4, "System Fatal error"},
		{"amd-status", kernel, checkCPU, "", 4, "System Fatal error"},
		{"amd-corrected", kernel, checkCPU, passed, 0, ""},
		{"caller-mce", kernel, checkCPU, "", 4, "Machine Check Exception"},

		{"ipmi-ierr", sensors, checkCPU, "", 4, "sensor P1 Status says Presence detected, IERR"},
		{"ipmi-thermal-trip", sensors, checkCPU, "", 4, "sensor P1 Status says Thermal Trip"},
		{"ipmi-configuration", sensors, checkCPU, "", 4, "Configuration Error"},
		{"ipmi-frb", sensors, checkCPU, "", 4, "FRB2"},
		{"ipmi-uncorrectable", sensors, checkCPU, "", 4, "Uncorrectable machine check exception"},
		{"ipmi-well", sensors, checkCPU, passed, 0, ""},
		{"ipmi-throttled", sensors, checkCPU, passed, 0, ""},
		{"ipmi-correctable", sensors, checkCPU, passed, 0, ""},

		{"md-inactive", arrays, checkDisk, "", 6, "md3 is inactive"},
		{"md-broken", arrays, checkDisk, "", 6, "md5 is broken"},
		{"md-container", arrays, checkDisk, passed, 0, ""},
		{"md-read-only", arrays, checkDisk, passed, 0, ""},

		{"ecc-repairable", ecc, checkSRAM, passed, 0, ""},
		{"ecc-unrepairable", ecc, checkSRAM, "", 22, "GPU 00000000:31:00.0 has memory that cannot be repaired"},
		{"ecc-channel-pending", ecc, checkSRAM, "", 23, "GPU 00000000:31:00.0 waits for a reset to repair a memory channel"},
		{"ecc-tpc-pending", ecc, checkSRAM, "", 23, "waits for a reset to repair a TPC"},

		{"retired-none", retired, checkRowRemap, passed, 0, ""},
		{"retired-pending", retired, checkRowRemap, "", 23, "GPU 00000000:31:00.0 waits for a reset to retire a page"},
		{"retired-full", retired, checkRowRemap, "", 23, "GPU 00000000:31:00.0 has 64 retired pages"},
		{"retired-unknown", retired, checkRowRemap, skipped, 0, "neither remap rows nor retire pages"},

		{"query-requires-reset", health, checkGPUHealth, "", 23, `GPU 1 says "[GPU requires reset]", mask 01`},
		{"query-unknown-error", health, checkGPUHealth, "", 23, `GPU 1 says "[Unknown Error]"`},
		{"query-handle", health, checkGPUHealth, "", 23, "Unable to determine the device handle for GPU1: 0000:31:00.0: Unknown Error"},
		{"query-handle-first", health, checkGPUHealth, "", 23, "Unable to determine the device handle for GPU0000:30:00.0: GPU is lost"},
		{"remap-requires-reset", remap, checkRowRemap, "", 23, `441 says "[GPU requires reset]"`},
		{"remap-err", remap, checkRowRemap, "", 23, `"ERR!"`},
		{"remap-unknown-error", remap, checkRowRemap, "", 23, `"[Unknown Error]"`},

		{"dcgm-error", dcgm, checkDCGM, "", 23, "dcgmi: Error GPU 1 has uncorrectable memory errors and row"},
		{"dcgm-error-other", dcgm, checkDCGM, broken, 70, "dcgmi: exit status 226: Error The NVVS binary could not be found."},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := newGPUNode(t)
			tc.feed(n, sample(t, tc.name))
			r := n.examine(hardwareCheckedBy(tc.check), gpuArgs()...)
			if tc.result == "" {
				tc.result = protocol.ResultFailed
			}
			require.Equal(t, tc.result, results(r)[tc.check], "%+v", r)
			require.Equal(t, tc.code, r.ExitCode, "%+v", r)
			require.Contains(t, detail(t, r, tc.check), tc.want)
		})
	}
}

// A sample that no test reads shows nothing.
func TestEverySampleIsRead(t *testing.T) {
	t.Parallel()
	tests, err := os.ReadFile("samples_test.go")
	require.NoError(t, err)
	files, err := filepath.Glob("testdata/samples/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txt")
		require.Contains(t, string(tests), `"`+name+`"`)
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(string(data), "# "), "%s does not say where its format is described", file)
	}
}

// ibDevice adds an RDMA device with one port.
func (n *node) ibDevice(name, port, state, phys, layer string) {
	dir := "/sys/class/infiniband/" + name + "/ports/" + port + "/"
	for file, value := range map[string]string{"state": state, "phys_state": phys, "rate": "400 Gb/sec (4X NDR)", "link_layer": layer} {
		n.file(dir+file, value+"\n")
	}
}

func TestDevicesThatAreNoAdaptersOfTheHost(t *testing.T) {
	t.Parallel()
	const active, up, down, disabled = "4: ACTIVE", "5: LinkUp", "1: DOWN", "3: Disabled"
	for _, tc := range []struct {
		name    string
		devices func(*node)
		profile string
		code    int
		want    string
	}{
		// https://docs.nvidia.com/datacenter/tesla/fabric-manager-user-guide: the management devices of NVSwitches say so in their VPD.
		{"NVSwitch management devices", func(n *node) {
			n.ibDevice("mlx5_1", "1", active, up, "InfiniBand")
			n.file("/sys/class/infiniband/mlx5_1/device/vpd", "\x82\x10\x00ConnectX\x90\x20\x00PN\x04ABCDV3\x0bSMDL=SW_MNG\x78")
		}, "ib: 2\n", 1, "2 devices expected, 1 found"},
		{"adapter with a VPD", func(n *node) {
			n.ibDevice("mlx5_1", "1", active, up, "InfiniBand")
			n.file("/sys/class/infiniband/mlx5_1/device/vpd", "\x82\x10\x00ConnectX\x90\x20\x00PN\x04ABCD\x78")
		}, "ib: 2\n", 0, "2 devices"},
		// https://github.com/torvalds/linux/blob/master/drivers/infiniband/hw/mlx5/main.c: smi%d beside each multi-plane device.
		{"management interface of XDR", func(n *node) {
			n.ibDevice("smi1", "1", active, up, "InfiniBand")
			n.ibDevice("smi1", "2", down, up, "InfiniBand")
		}, "ib: 2\n", 1, "2 devices expected, 1 found"},
		{"virtual functions", func(n *node) {
			n.ibDevice("mlx5_1", "1", down, up, "InfiniBand")
			n.file("/sys/class/infiniband/mlx5_1/device/physfn/vendor", "0x15b3\n")
		}, "ib: 1\n", 0, "1 devices"},
		{"virtual function in the place of an adapter", func(n *node) {
			n.ibDevice("mlx5_1", "1", active, up, "InfiniBand")
			n.file("/sys/class/infiniband/mlx5_1/device/physfn/vendor", "0x15b3\n")
		}, "ib: 2\n", 1, "2 devices expected, 1 found"},
		{"virtual function that the profile names", func(n *node) {
			n.ibDevice("mlx5_1", "1", down, up, "InfiniBand")
			n.file("/sys/class/infiniband/mlx5_1/device/physfn/vendor", "0x15b3\n")
		}, "ibDevices: [mlx5_0, mlx5_1]\n", 1, `mlx5_1 port 1 is "1: DOWN"`},
		{"unused RoCE port", func(n *node) {
			n.ibDevice("mlx5_0", "1", active, up, "Ethernet")
			n.ibDevice("mlx5_1", "1", down, disabled, "Ethernet")
		}, "ib: 1\nibLinkLayer: Ethernet\n", 0, "mlx5_1 port 1 is not in use"},
		{"RoCE port without a cable", func(n *node) {
			n.ibDevice("mlx5_0", "1", active, up, "Ethernet")
			n.ibDevice("mlx5_1", "1", down, disabled, "Ethernet")
		}, "ib: 2\nibLinkLayer: Ethernet\n", 1, "2 devices expected, 1 found, mlx5_1 port 1 is not in use"},
		{"RoCE port that the profile names", func(n *node) {
			n.ibDevice("mlx5_0", "1", active, up, "Ethernet")
			n.ibDevice("mlx5_1", "1", down, disabled, "Ethernet")
		}, "ibDevices: [mlx5_0, mlx5_1]\nibLinkLayer: Ethernet\n", 1, `mlx5_1 port 1 is "1: DOWN"`},
		{"port that polls", func(n *node) { n.ibDevice("mlx5_1", "1", down, "2: Polling", "InfiniBand") }, "ib: 1\n", 1, `mlx5_1 port 1 is "1: DOWN"`},
		{"first port of two unused", func(n *node) {
			n.ibDevice("mlx4_0", "1", down, disabled, "InfiniBand")
			n.ibDevice("mlx4_0", "2", active, up, "InfiniBand")
		}, "ib: 2\n", 0, "2 devices"},
		// https://docs.kernel.org/infiniband: a device without a link layer of its own, as the EFA of AWS, prints Unknown.
		{"EFA", func(n *node) {
			n.remove("/sys/class/infiniband/mlx5_0")
			n.ibDevice("rdmap16s27", "1", active, up, "Unknown")
		}, "ib: 1\n", 0, "1 devices"},
		{"EFA down", func(n *node) { n.ibDevice("rdmap16s27", "1", down, "2: Polling", "Unknown") }, "ib: 2\n", 1, `rdmap16s27 port 1 is "1: DOWN"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := newGPUNode(t)
			n.file("/profiles/p.yaml", tc.profile)
			tc.devices(n)
			r := n.examine("ib", "healthcheck", "--profile", "p")
			require.Equal(t, tc.code, r.ExitCode, "%+v", r)
			require.Contains(t, detail(t, r, checkIB), tc.want)
		})
	}
}

func TestBondWithoutMembers(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.file("/sys/class/net/bond1/bonding/slaves", "\n")
	n.file("/sys/class/net/bond1/bonding/mii_status", "down\n")
	n.file("/sys/class/net/bond1/operstate", "down\n")
	require.Equal(t, protocol.ExitOK, n.examine("network", "healthcheck", "--profile", "default").ExitCode, "loading the module makes one")
	n.file("/profiles/p.yaml", "interfaces: [bond1]\n")
	r := n.examine("network", "healthcheck", "--profile", "p")
	require.Equal(t, protocol.ExitNetwork, r.ExitCode)
	require.Contains(t, r.Detail, "bond1 is down")
}

// bind makes the driver that of the function on the PCI bus.
func (n *node) bind(address, driver string) {
	n.file("/sys/bus/pci/drivers/"+driver+"/module", "")
	n.link("/sys/bus/pci/devices/"+address+"/driver", n.path("/sys/bus/pci/drivers/"+driver))
}

func TestGPUsOfVirtualMachines(t *testing.T) {
	t.Parallel()
	for driver, code := range map[string]int{"vfio-pci": 0, "nvgrace_gpu_vfio_pci": 0, "pci-stub": 0, "nvidia": 2, "nouveau": 2} {
		n := newGPUNode(t)
		n.file("/sys/bus/pci/devices/0000:40:00.0/vendor", "0x10de\n")
		n.file("/sys/bus/pci/devices/0000:40:00.0/class", "0x030200\n")
		n.bind("0000:40:00.0", driver)
		r := n.examine(protocol.HardwareGPU, "healthcheck", "--profile", "default")
		require.Equal(t, code, r.ExitCode, "%s: %+v", driver, r)
		if code == 0 {
			require.Contains(t, detail(t, r, checkGPUCount), "2 GPUs on the PCI bus, 1 for virtual machines")
		}
		r = n.examine(protocol.HardwareGPU, "healthcheck", "--profile", "default", "--gpus", "3")
		require.Equal(t, protocol.ExitGPU, r.ExitCode, "%s: those of the profile are for the host", driver)
	}
}

func TestGPUWithFewLanes(t *testing.T) {
	t.Parallel()
	for width, code := range map[string]int{"8": 0, "4": 0, "16": 23, "": 23, "x": 23, "0": 23} {
		n := newGPUNode(t)
		n.smi(queryHealth, sample(t, "query-x8"))
		if width != "" {
			n.file("/sys/bus/pci/devices/0000:30:00.0/max_link_width", width+"\n")
		}
		r := n.examine(protocol.HardwareGPU, gpuArgs()...)
		require.Equal(t, code, r.ExitCode, "%q: %+v", width, r)
		if code != 0 {
			require.Contains(t, r.Detail, "GPU 0 has PCIe width x8 of x16, mask 10")
		}
	}
}

func TestKubeletInAnotherUnit(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		states  string
		kubelet string
	}{
		{"inactive\ninactive\nactive\n", "active: k3s-agent"},
		{"inactive\nactive\n", "active: k3s"},
		{"inactive\ninactive\ninactive\ninactive\nactive\n", "active: rke2-agent"},
		{"inactive\n", "not active: kubelet, k3s"},
	} {
		n := newNode(t)
		n.tool("systemctl", isActiveKubelet, answer{Out: tc.states, Exit: 3})
		// Their container runtime runs in the same unit.
		n.tool("systemctl", isActiveRuntime, answer{Out: "inactive\ninactive\ninactive\n" + strings.TrimPrefix(tc.states, "inactive\n"), Exit: 3})
		r := n.examine("", "healthcheck", "--profile", "default")
		require.Contains(t, detail(t, r, checkKubelet), tc.kubelet)
		require.Equal(t, strings.HasPrefix(tc.kubelet, "active"), r.ExitCode == protocol.ExitOK, "%+v", r)
	}
}

func TestToolsTellTheirReasonsOnStdout(t *testing.T) {
	t.Parallel()
	n := newGPUNode(t)
	n.tool("quiet", "", answer{Out: "\n==============NVSMI LOG==============\n\n  Unable to reset GPU 00000000:30:00.0: In use by another client\n", Exit: 255})
	n.tool("both", "", answer{Out: "a table\n", Err: "no\n", Exit: 1})
	n.tool("silent", "", answer{Exit: 1})
	h := n.open()
	for tool, want := range map[string]string{
		"quiet":  "quiet: exit status 255: Unable to reset GPU 00000000:30:00.0: In use by another client",
		"both":   "both: exit status 1: no; a table",
		"silent": "silent: exit status 1",
	} {
		_, err := h.run(t.Context(), smiTimeout, tool)
		require.EqualError(t, err, want)
		_, exited := exitStatus(err)
		require.True(t, exited)
	}
	n.tool(smi, "-q", answer{Out: "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", Exit: 9})
	r := n.examine(protocol.HardwareGPU, gpuArgs()...)
	require.Contains(t, detail(t, r, checkNVLink), "exit status 9: NVIDIA-SMI has failed because")
}

// gpfs_exporter leaves these threads out, because they wait for work and not for each other:
// https://github.com/treydock/gpfs_exporter/blob/master/collectors/mmdiag_waiter.go, defWaiterExclude.
func TestThreadsThatWaitForWork(t *testing.T) {
	t.Parallel()
	for thread, late := range map[string]int{
		"EventsExporterSenderThread": 0, "FsckClientReaperThread": 0, "FsckWorker": 0, "RebuildWorkThread": 1,
	} {
		var log waiterLog
		for line := range strings.Lines(strings.ReplaceAll(waiterTable("6861.7"), "RebuildWorkThread", thread)) {
			log.line(line)
		}
		require.NoError(t, log.err)
		require.Equal(t, late, log.late, thread)
	}
}

// The driver says what it asks for where the kernel log does not have it any more.
func TestDiagnoseReadsTheRecoveryAction(t *testing.T) {
	t.Parallel()
	const asked = "[ 5.0] NVRM: Xid (PCI:0000:30:00): 154, pid=1, name=x, GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)\n"
	for _, tc := range []struct {
		report, log, device string
		want, recovery      string
	}{
		{"recovery-reset", "", "", "recovery action: GPU 0000:31:00: GPU Reset Required; ", protocol.RecoveryReset},
		{"recovery-reset-nvml", "", "1", "recovery action: GPU 0000:31:00: GPU Reset Required; ", protocol.RecoveryReset},
		{"recovery-reset", "", "0", " sections collected", ""},
		{"recovery-reboot", strings.ReplaceAll(asked, "Node Reboot", "GPU Reset"), "", "GPU 0000:30:00: GPU Reset Required; GPU 0000:31:00: Node Reboot Required; ", protocol.RecoveryReboot},
		{"recovery-reset", strings.ReplaceAll(asked, "0000:30", "0000:31"), "", "recovery action: GPU 0000:31:00: Node Reboot Required; ", protocol.RecoveryReboot},
		{"recovery-none", asked, "", "recovery action: GPU 0000:30:00: Node Reboot Required; ", protocol.RecoveryReboot},
		{"recovery-none", "", "", "sections collected", ""},
		{"", "", "", "recovery action not read: nvidia-smi: exit status 9: no driver; ", ""},
	} {
		n := newGPUNode(t)
		n.tool("dmesg", "", answer{Out: tc.log})
		n.smi(queryGPUs, "0, "+uuid0+", 00000000:30:00.0\n1, "+uuid1+", 00000000:31:00.0\n")
		n.tool(smi, "-q", answer{Out: "no driver\n", Exit: 9})
		if tc.report != "" {
			n.smi("-q", sample(t, tc.report))
		}
		r := n.op("diagnose", "--device", tc.device)
		require.Equal(t, protocol.ExitOK, r.ExitCode)
		require.Contains(t, r.Detail, tc.want, "%+v", tc)
		require.Equal(t, tc.recovery, r.Recovery, "%+v", tc)
	}
}
