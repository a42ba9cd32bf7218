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

// The samples are in the formats of the tools; each says in its head where that is described.
func TestSamples(t *testing.T) {
	t.Parallel()
	prints := func(tool, call string) func(*node, string) {
		return func(n *node, text string) { n.tool(tool, call, answer{Out: text}) }
	}
	kernel := prints("dmesg", "")
	sensors := prints("ipmitool", "sdr type Processor")
	arrays := func(n *node, text string) { n.file("/proc/mdstat", text) }
	const passed = protocol.ResultPassed
	for _, tc := range []struct {
		name   string
		feed   func(*node, string)
		check  string
		result string
		code   int
		want   string
	}{

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
		{"bus-unsupported", kernel, checkXID, passed, 0, ""},

		{"ghes-fatal", kernel, checkCPU, "", 4, "1 uncorrected errors of the hardware, the first: "},
		{"ghes-recoverable", kernel, checkCPU, "", 4, "event severity: recoverable"},
		{"ghes-recoverable-caller", kernel, checkCPU, "", 4, "event severity: recoverable"},
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
