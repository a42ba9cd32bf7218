package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/jobs/protocol"
)

// answer is what a stub tool does when it is called with certain arguments. The program in testdata/stub reads it.
type answer struct {
	Out  string
	Err  string
	Exit int
	// Repeat prints Out that many times more.
	Repeat int
	// Hang makes the tool sleep for ever, with a child that does the same and whose PID goes to the file.
	Hang string
	// Linger leaves a child behind that keeps the output open.
	Linger bool
	// Stdin is what the tool must be given.
	Stdin string
	// Restore writes the second text to the first, a file outside the root, as the effect of the tool.
	Restore []string
	// Unlink removes the file, outside the root, as the effect of the tool.
	Unlink string
	// Signal makes the tool end itself with the signal.
	Signal int
}

// TestMain builds the program that stands in for every tool of the host.
func TestMain(m *testing.M) {
	os.Exit(run(m))
}

// stub is the path of that program.
var stub string //nolint:gochecknoglobals // TestMain has no other way to hand it to the tests.

func run(m *testing.M) (code int) {
	dir, err := os.MkdirTemp("", "aegis-stub-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}()
	stub = filepath.Join(dir, "stub")
	if out, err := exec.Command("go", "build", "-o", stub, "./testdata/stub").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the stub of the host's tools: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// node is a host root whose tools are stubs.
type node struct {
	t       *testing.T
	root    string
	tools   map[string]map[string][]answer
	options Options
	// synced counts the calls of the kernel that stand in for the tool.
	synced atomic.Int32
	stdout strings.Builder
	stderr strings.Builder
}

const (
	boot  = "5c9f8a4e-0d0b-4c6e-9a0e-000000000001"
	uuid0 = "GPU-00000000-1111-2222-3333-444444444440"
	uuid1 = "GPU-00000000-1111-2222-3333-444444444441"

	queryHealth     = "--query-gpu=index,uuid,persistence_mode,ecc.errors.uncorrected.volatile.total,pcie.link.width.current,pcie.link.width.max --format=csv,noheader,nounits"
	queryRemap      = "--query-remapped-rows=gpu_uuid,remapped_rows.failure,remapped_rows.pending --format=csv,noheader"
	isActiveKubelet = "is-active kubelet k3s k3s-agent rke2-server rke2-agent k0scontroller k0sworker snap.microk8s.daemon-kubelite"
	isActiveRuntime = "is-active containerd crio docker k3s k3s-agent rke2-server rke2-agent k0scontroller k0sworker snap.microk8s.daemon-containerd"
	queryOn         = "--query-gpu=index,persistence_mode --format=csv,noheader"
	queryGPUs       = "--query-gpu=index,uuid,pci.bus_id --format=csv,noheader"
	queryApps       = "--query-compute-apps=gpu_uuid,pid,process_name --format=csv,noheader"
	dfSpace         = "-P -k -- / /var/lib/kubelet"
	dfInodes        = "-P -i -- / /var/lib/kubelet"
)

// newNode returns a healthy machine without accelerators.
func newNode(t *testing.T) *node {
	root := t.TempDir()
	n := &node{t: t, root: root, tools: make(map[string]map[string][]answer)}
	n.options = Options{
		Root: root, Node: "n1", Stdout: &n.stdout, Stderr: &n.stderr,
		TerminationLog: filepath.Join(t.TempDir(), "absent"), profileDir: filepath.Join(root, "profiles"), noChroot: true,
		kernelSync: func() { n.synced.Add(1) },
	}
	n.file("/proc/sys/kernel/random/boot_id", boot+"\n")
	n.file("/proc/1/mounts", "rootfs / rootfs ro 0 0\n/dev/sda1 / ext4 rw,relatime 0 0\n/dev/sda2 /var/lib/kubelet xfs rw 0 0\n")
	n.file("/etc/fstab", "# comment\nUUID=1 / ext4 defaults 0 1\n/dev/sda2 /var/lib/kubelet xfs defaults 0 0\n")
	n.file("/proc/1/net/route", "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\nbond0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\n")
	n.file("/sys/class/net/bond0/operstate", "up\n")
	n.file("/sys/class/net/bond0/speed", "200000\n")
	n.file("/sys/class/net/bond0/bonding/slaves", "eth0 eth1\n")
	n.file("/sys/class/net/eth0/bonding_slave/mii_status", "up\n")
	n.file("/sys/class/net/eth1/bonding_slave/mii_status", "up\n")
	n.file("/sys/devices/system/cpu/online", "0-3,8-11\n")
	n.file("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n")
	n.file("/sys/devices/system/edac/mc/mc0/ue_count", "0\n")
	n.file("/proc/meminfo", "MemTotal:       65683336 kB\nCached:         2097152 kB\nSReclaimable:   1048576 kB\nHardwareCorrupted:     0 kB\n")
	n.file("/sys/class/nvme/nvme0/state", "live\n")
	n.file("/sys/block/nvme0n1/size", "1\n")
	n.file("/sys/block/loop0/size", "1\n")
	n.file("/proc/mdstat", "Personalities : [raid1]\nmd0 : active raid1 sda[0] sdb[1]\n      100 blocks [2/2] [UU]\n")
	n.tool("systemctl", isActiveKubelet, answer{Out: "active\n"})
	n.tool("systemctl", isActiveRuntime, answer{Out: "active\ninactive\ninactive\n", Exit: 3})
	n.tool("timedatectl", "show --property=NTPSynchronized --value", answer{Out: "yes\n"})
	n.tool("dmesg", "", answer{Out: "[    0.000000] Linux version 6.8\n[    1.000000] mce: CPU0: Thermal monitoring enabled\n"})
	n.tool("ipmitool", "sdr type Processor", answer{Out: "CPU1 Status      | 41h | ok  |  3.1 | Presence detected\n"})
	n.file("/proc/1/net/arp", "IP address HW type Flags HW address Mask Device\n10.0.0.1 0x1 0x2 aa:bb:cc:dd:ee:ff * bond0\n")
	n.file("/sys/class/net/bond0/carrier", "1\n")
	n.file("/sys/class/net/bond0/bonding/mii_status", "up\n")
	n.file("/etc/kubernetes/kubelet.conf", "clusters:\n- name: default\n  cluster:\n    server: https://api.cluster.test:6443\n")
	n.tool("getent", "ahosts api.cluster.test", answer{Out: "10.0.0.9 STREAM api.cluster.test\n"})
	n.tool("df", dfSpace, answer{Out: dfTable("50", "60")})
	n.tool("df", dfInodes, answer{Out: dfTable("50", "-")})
	n.tool("smartctl", "-H /dev/nvme0n1", answer{Out: "SMART overall-health self-assessment test result: PASSED\n"})
	n.tool("stat", "-f -c %T -- /gpfs/fs1", answer{Out: "gpfs\n"})
	return n
}

func dfTable(root, kubelet string) string {
	return "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/sda1 100 50 " + root + " 50% /\n/dev/sda2 100 50 " + kubelet + " 50% /var/lib/kubelet\n"
}

// newGPUNode returns a healthy machine with two GPUs, an InfiniBand device and GPFS.
func newGPUNode(t *testing.T) *node {
	n := newNode(t)
	for i, uuid := range []string{uuid0, uuid1} {
		n.file(fmt.Sprintf("/sys/devices/pci0000:00/0000:3%d:00.0/vendor", i), "0x10de\n")
		n.file(fmt.Sprintf("/sys/devices/pci0000:00/0000:3%d:00.0/class", i), "0x030200\n")
		n.link(fmt.Sprintf("/sys/bus/pci/devices/0000:3%d:00.0", i), fmt.Sprintf("../../../devices/pci0000:00/0000:3%d:00.0", i))
		n.file(fmt.Sprintf("/dev/nvidia%d", i), "")
		n.file(fmt.Sprintf("/proc/driver/nvidia/gpus/0000:3%d:00.0/information", i), fmt.Sprintf("Model: \t NVIDIA H100\nGPU UUID: \t %s\nDevice Minor: \t %d\n", uuid, i))
	}
	n.file("/sys/bus/pci/devices/0000:00:1f.0/vendor", "0x8086\n")
	n.file("/sys/bus/pci/devices/0000:00:1f.0/class", "0x060100\n")
	n.file("/dev/nvidiactl", "")
	for file, value := range map[string]string{"state": "4: ACTIVE", "phys_state": "5: LinkUp", "rate": "400 Gb/sec (4X NDR)", "link_layer": "InfiniBand"} {
		n.file("/sys/class/infiniband/mlx5_0/ports/1/"+file, value+"\n")
	}
	n.file("/usr/lpp/mmfs/README", "")
	n.append("/proc/1/mounts", "fs1 /gpfs/fs1 gpfs rw 0 0\n")
	n.tool("mmgetstate", "-Y", answer{Out: "mmgetstate::HEADER:version:reserved:reserved:nodeName:nodeNumber:state:quorum:\nmmgetstate::0:1:::n1:1:active:2:\n"})
	n.smi("-L", "GPU 0: NVIDIA H100 (UUID: "+uuid0+")\nGPU 1: NVIDIA H100 (UUID: "+uuid1+")\n")
	n.smi(queryHealth, "0, "+uuid0+", Enabled, 0, 16, 16\n1, "+uuid1+", Disabled, [N/A], 16, 16\n")
	n.smi(queryRemap, uuid0+", No, No\n"+uuid1+", 0, 0\n")
	n.smi("-q -d ECC", eccReport("0", "No"))
	n.smi("-q", fabricReport("Completed", "Success"))
	n.smi("nvlink -s", "GPU 0: NVIDIA H100 (UUID: a)\n\t Link 0: 26.562 GB/s\nGPU 1: NVIDIA H100 (UUID: b)\n\t Link 0: 26.562 GB/s\n")
	return n
}

// fabricReport is what nvidia-smi says about two GPUs, the second one with the state and the status.
func fabricReport(state, status string) string {
	gpu := "GPU 00000000:3%d:00.0\n    Performance State                     : P0\n    Fabric\n        State                             : %s\n" +
		"        Status                            : %s\n        Health\n            State                         : bad\n    Processes                             : None\n"
	return "==NVSMI LOG==\nAttached GPUs                             : 2\n" + fmt.Sprintf(gpu, 0, "Completed", "Success") + fmt.Sprintf(gpu, 1, state, status)
}

func eccReport(sram, exceeded string) string {
	return "==NVSMI LOG==\nDriver Version                            : 570.1\nGPU 00000000:30:00.0\n    ECC Errors\n        Volatile\n" +
		"            SRAM Uncorrectable Parity         : 9\n        Aggregate\n            SRAM Correctable                  : 7\n" +
		"            SRAM Uncorrectable Parity         : " + sram + "\n            SRAM Uncorrectable SEC-DED        : 1\n" +
		"            SRAM Threshold Exceeded           : " + exceeded + "\n        Aggregate Uncorrectable SRAM Sources\n" +
		"            SRAM L2                           : 8\n"
}

func (n *node) path(name string) string { return filepath.Join(n.root, name) }

func (n *node) file(name, text string) {
	require.NoError(n.t, os.MkdirAll(filepath.Dir(n.path(name)), 0o755))
	require.NoError(n.t, os.WriteFile(n.path(name), []byte(text), 0o644))
}

func (n *node) append(name, text string) {
	n.file(name, n.content(name)+text)
}

func (n *node) content(name string) string {
	data, err := os.ReadFile(n.path(name))
	require.NoError(n.t, err)
	return string(data)
}

func (n *node) remove(name string) { require.NoError(n.t, os.RemoveAll(n.path(name))) }

func (n *node) link(name, target string) {
	require.NoError(n.t, os.MkdirAll(filepath.Dir(n.path(name)), 0o755))
	require.NoError(n.t, os.Symlink(target, n.path(name)))
}

// mode gives the file a mode. A stub is a link to the program of all the others, whose mode must stay, so it becomes a file of its own.
func (n *node) mode(name string, mode os.FileMode) {
	data, err := os.ReadFile(n.path(name))
	require.NoError(n.t, err)
	n.remove(name)
	require.NoError(n.t, os.WriteFile(n.path(name), data, mode))
	require.NoError(n.t, os.Chmod(n.path(name), mode)) // The umask does not count.
}

// tool sets the answers of a tool to a call, one after the other.
func (n *node) tool(tool, call string, answers ...answer) {
	n.executable("/usr/bin/"+tool, call, answers...)
}

func (n *node) executable(file, call string, answers ...answer) {
	if n.tools[file] == nil {
		n.tools[file] = make(map[string][]answer)
		require.NoError(n.t, os.MkdirAll(filepath.Dir(n.path(file)), 0o755))
		if os.Link(stub, n.path(file)) != nil {
			data, err := os.ReadFile(stub)
			require.NoError(n.t, err)
			require.NoError(n.t, os.WriteFile(n.path(file), data, 0o755))
		}
	}
	n.tools[file][call] = answers
	data, err := json.Marshal(n.tools[file])
	require.NoError(n.t, err)
	n.file(file+".json", string(data))
}

func (n *node) smi(call, out string) { n.tool(smi, call, answer{Out: out}) }

func (n *node) uninstall(tool string) {
	n.remove("/usr/bin/" + tool)
	delete(n.tools, "/usr/bin/"+tool)
}

// calls returns the calls of the tool so far.
func (n *node) calls(tool string) []string {
	data, err := os.ReadFile(n.path("/usr/bin/" + tool + ".log"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	require.NoError(n.t, err)
	return strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
}

// op runs an operation and returns its report, which the exit code must agree with.
func (n *node) op(args ...string) protocol.Report {
	return n.opContext(n.t.Context(), args...)
}

func (n *node) opContext(ctx context.Context, args ...string) protocol.Report {
	n.stdout.Reset()
	code := Run(ctx, args, n.options)
	lines := strings.Split(strings.TrimSpace(n.stdout.String()), "\n")
	var report protocol.Report
	require.NoError(n.t, json.Unmarshal([]byte(lines[len(lines)-1]), &report), "%s", n.stdout.String())
	require.Equal(n.t, code, report.ExitCode)
	require.Equal(n.t, "n1", report.Node)
	return report
}

// requireDead waits until the process that wrote its PID to the file is gone or a zombie.
func requireDead(t *testing.T, pidFile string) {
	t.Helper()
	pid, err := os.ReadFile(pidFile)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		stat, err := os.ReadFile("/proc/" + string(pid) + "/stat")
		return err != nil || strings.Contains(string(stat), ") Z ")
	}, 10*time.Second, 10*time.Millisecond, "process %s lives", pid)
}
