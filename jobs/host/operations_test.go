package host

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/jobs/protocol"
)

func TestUsageErrors(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.file("/proc/sysrq-trigger", "")
	for _, args := range [][]string{
		nil,
		{""},
		{"explode"},
		{"REBOOT", "--boot-id", boot},
		{"--boot-id", boot},
		{"\x1b[2J"},
		{"reboot"},
		{"reboot", "--boot-id", ""},
		{"reboot", "--boot-id"},
		{"reboot", boot},
		{"reboot", "--boot-id", boot, "now"},
		{"reboot", "--boot-id", boot, "--force"},
		{"reboot", "-h"},
		{"shutdown"},
		{"shutdown", "--boot-id="},
		{"healthcheck"},
		{"healthcheck", "--profile", "../../etc/passwd"},
		{"healthcheck", "--profile", ".."},
		{"healthcheck", "--profile", "p", "--gpus", "-1"},
		{"healthcheck", "--profile", "p", "--gpus", "many"},
		{"healthcheck", "--profile", "p", "extra"},
		{"remedy"},
		{"remedy", ""},
		{"remedy", "--device", "0"},
		{"remedy", "../../bin/sh"},
		{"remedy", "a b"},
		{"remedy", "$(reboot)"},
		{"remedy", "DropCache", "extra"},
		{"remedy", "ResetGPU", "--device", "-i"},
		{"remedy", "ResetGPU", "--device", "0,1"},
		{"remedy", "ResetGPU", "--device", "GPU-0; reboot"},
		{"repair"},
		{"repair", "."},
		{"repair", "MountGpfs", "--device", "fs1; reboot"},
		{"remedy", "ReloadIBDriver", "--device", "-r"},
		{"healthcheck", "--profile", "p", "--since", "yesterday"},
		{"repair", "a/b"},
		{"diagnose", "extra"},
		{"diagnose", "--" + strings.Repeat("x", 1<<15)},
	} {
		n.stderr.Reset()
		r := n.op(args...)
		require.Equal(t, protocol.ExitUsage, r.ExitCode, "%q: %+v", args, r)
		require.Equal(t, protocol.ResultError, r.Result, "%q", args)
		require.NotEmpty(t, r.Detail, "%q", args)
		require.Contains(t, n.stderr.String(), "usage: aegis op ACTION", "%q", args)
		require.NotContains(t, n.stderr.String(), "\x1b", "%q", args)
	}
	require.Empty(t, n.calls("systemctl"))
	require.Empty(t, n.content("/proc/sysrq-trigger"))
}

func powerNode(t *testing.T) *node {
	n := newNode(t)
	n.file("/proc/sysrq-trigger", "")
	n.tool("sync", "", answer{})
	return n
}

func TestPowerIsIdempotent(t *testing.T) {
	t.Parallel()
	for _, action := range []string{"reboot", "shutdown"} {
		n := powerNode(t)
		r := n.op(action, "--boot-id", "another")
		require.Equal(t, protocol.ExitOK, r.ExitCode)
		require.Equal(t, protocol.ResultPassed, r.Result)
		require.Contains(t, r.Detail, "already rebooted")
		require.Empty(t, n.calls("systemctl"))
		require.Empty(t, n.calls("sync"))
	}
}

// What was ordered long ago must not take effect any more, whatever has kept the Job from starting.
func TestOperationsThatChangeTheHostAreNotBegunTooLate(t *testing.T) {
	t.Parallel()
	past, future := time.Now().Add(-time.Minute).Format(time.RFC3339), time.Now().Add(time.Hour).Format(time.RFC3339)
	for _, action := range []string{protocol.ActionReboot, protocol.ActionShutdown} {
		for _, bad := range []string{past, "tomorrow"} {
			n := powerNode(t)
			n.options.NotAfter = bad
			r := n.op(action, "--boot-id", boot)
			require.Equal(t, protocol.ExitUnknown, r.ExitCode)
			require.Len(t, r.Refusals, 1)
			require.Contains(t, r.Detail, "refused: ")
			require.Empty(t, n.calls("systemctl"))
			require.Empty(t, n.calls("sync"))
		}
	}
	for action, changes := range map[string]bool{
		protocol.ActionReboot: true, protocol.ActionShutdown: true, protocol.ActionRemedy: true, protocol.ActionRepair: true,
		protocol.ActionHealthcheck: false, protocol.ActionDiagnose: false,
	} {
		require.Equal(t, changes, tooLate(action, past, time.Now()) != "", action)
		require.Empty(t, tooLate(action, future, time.Now()), action)
		require.Empty(t, tooLate(action, "", time.Now()), action)
	}
}

func TestPowerNeedsToKnowTheBoot(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"", "\n"} {
		n := powerNode(t)
		n.file("/proc/sys/kernel/random/boot_id", id)
		require.Equal(t, protocol.ExitUnknown, n.op("reboot", "--boot-id", boot).ExitCode)
		n.remove("/proc/sys/kernel/random/boot_id")
		require.Equal(t, protocol.ExitUnknown, n.op("reboot", "--boot-id", boot).ExitCode)
		require.Empty(t, n.calls("systemctl"))
	}
}

func TestPowerRequests(t *testing.T) {
	for _, tc := range []struct {
		name, action string
		gentle       answer
		forced       answer
		calls        []string
		sysrq        string
	}{
		{"reboot", "reboot", answer{}, answer{}, []string{"reboot"}, ""},
		{"poweroff", "shutdown", answer{}, answer{}, []string{"poweroff"}, ""},
		{"forced", "reboot", answer{Exit: 1}, answer{}, []string{"reboot", "--force reboot"}, ""},
		{"forced poweroff", "shutdown", answer{Exit: 1}, answer{}, []string{"poweroff", "--force poweroff"}, ""},
		{"sysrq", "reboot", answer{Exit: 1}, answer{Exit: 1}, []string{"reboot", "--force reboot"}, "sub"},
		{"sysrq poweroff", "shutdown", answer{Exit: 1}, answer{Exit: 1}, []string{"poweroff", "--force poweroff"}, "suo"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := powerNode(t)
			verb := tc.calls[0]
			n.tool("systemctl", verb, tc.gentle)
			n.tool("systemctl", "--force "+verb, tc.forced)
			synctest.Test(t, func(t *testing.T) {
				started := time.Now()
				r := n.opContext(t.Context(), tc.action, "--boot-id", boot)
				require.Equal(t, protocol.ExitUnknown, r.ExitCode, "alive after all")
				require.Equal(t, protocol.ResultFailed, r.Result)
				require.Contains(t, r.Detail, "the host is still up")
				require.GreaterOrEqual(t, time.Since(started), downTimeout)
			})
			require.Equal(t, tc.calls, n.calls("systemctl"))
			require.Equal(t, tc.sysrq, n.content("/proc/sysrq-trigger"))
			require.Len(t, n.calls("sync"), 1)
		})
	}
}

func TestPowerWithoutSystemd(t *testing.T) {
	n := powerNode(t)
	n.uninstall("systemctl")
	n.uninstall("sync")
	synctest.Test(t, func(t *testing.T) { n.opContext(t.Context(), "reboot", "--boot-id", boot) })
	require.Equal(t, "sub", n.content("/proc/sysrq-trigger"))
	require.EqualValues(t, 1, n.synced.Load(), "a host without the tool is asked itself")
}

func TestPowerRefused(t *testing.T) {
	t.Parallel()
	n := powerNode(t)
	n.tool("systemctl", "*", answer{Exit: 1, Err: "Access denied"})
	n.remove("/proc/sysrq-trigger")
	r := n.op("reboot", "--boot-id", boot)
	require.Equal(t, protocol.ExitUnknown, r.ExitCode)
	require.Equal(t, protocol.ResultFailed, r.Result)
	require.Contains(t, r.Detail, "Access denied")
	require.Contains(t, r.Detail, "sysrq s")
}

func TestPowerEndedByTheHost(t *testing.T) {
	n := powerNode(t)
	n.tool("systemctl", "reboot", answer{})
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Minute, cancel)
		r := n.opContext(ctx, "reboot", "--boot-id", boot)
		require.Equal(t, protocol.ExitOK, r.ExitCode)
		require.Contains(t, r.Detail, "was then told to end")
	})
}

func TestPowerInterruptedBeforeItActs(t *testing.T) {
	t.Parallel()
	n := powerNode(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := n.opContext(ctx, "reboot", "--boot-id", boot)
	require.Equal(t, protocol.ExitUnknown, r.ExitCode)
	require.NotContains(t, n.calls("systemctl"), "--force reboot")
	require.Empty(t, n.content("/proc/sysrq-trigger"))
}

func TestDropCache(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.tool("sync", "", answer{})
	n.file("/run/utmp", "")
	n.file("/proc/sys/vm/drop_caches", "0\n")
	r := n.op("remedy", "dropCACHE")
	require.Equal(t, protocol.ExitOK, r.ExitCode, "%+v", r)
	require.Contains(t, r.Detail, "caches held 3072 MiB, now 3072 MiB")
	require.Equal(t, "3\n", n.content("/proc/sys/vm/drop_caches"))

	n.remove(dropStamp)
	n.tool("sync", "", answer{Exit: 1})
	n.file("/proc/sys/vm/drop_caches", "0\n")
	require.Equal(t, protocol.ExitUnknown, n.op("remedy", "DropCache").ExitCode)
	require.Equal(t, "0\n", n.content("/proc/sys/vm/drop_caches"), "nothing is dropped before it is written")

	n.tool("sync", "", answer{})
	n.remove("/proc/sys/vm/drop_caches")
	require.Equal(t, protocol.ResultFailed, n.op("remedy", "DropCache").Result)
}

func TestRestartKubelet(t *testing.T) {
	before, after := answer{Out: "LoadState=loaded\nMainPID=10\n"}, answer{Out: "MainPID=11\nLoadState=loaded\n"}
	for _, tc := range []struct {
		name    string
		show    []answer
		restart answer
		active  string
		result  string
		want    string
	}{
		{"restarted", []answer{before, after}, answer{}, "active\n", protocol.ResultPassed, "the kubelet is process 11, was 10"},
		{"not installed", []answer{{Out: "LoadState=not-found\nMainPID=0\n"}}, answer{}, "", protocol.ResultFailed, "refused: "},
		{"restart fails", []answer{before}, answer{Exit: 1, Err: "timed out"}, "", protocol.ResultFailed, "timed out"},
		{"crashes again", []answer{before, after}, answer{}, "activating\n", protocol.ResultFailed, "did not stay up"},
		{"no process", []answer{before, {Out: "LoadState=loaded\nMainPID=0\n"}}, answer{}, "active\n", protocol.ResultFailed, "did not stay up"},
		{"same process", []answer{before}, answer{}, "active\n", protocol.ResultFailed, "still process 10"},
	} {
		for _, unit := range kubeletUnits() {
			n := newNode(t)
			for _, other := range kubeletUnits() {
				n.tool("systemctl", "show "+other+showUnit, answer{Out: absentUnit})
			}
			n.tool("systemctl", "show "+unit+showUnit, tc.show...)
			n.tool("systemctl", "restart "+unit, tc.restart)
			n.tool("systemctl", "is-active "+unit, answer{Out: tc.active})
			synctest.Test(t, func(t *testing.T) {
				r := n.opContext(t.Context(), "remedy", "RestartKubelet")
				require.Equal(t, tc.result, r.Result, "%s: %s: %+v", tc.name, unit, r)
				require.Contains(t, r.Detail, tc.want)
				require.Equal(t, tc.result == protocol.ResultPassed, r.ExitCode == protocol.ExitOK)
			})
		}
	}
}

// resetNode is a GPU node on which a reset works.
func resetNode(t *testing.T) *node {
	n := newGPUNode(t)
	n.smi(queryGPUs, "0, "+uuid0+", 00000000:30:00.0\n1, "+uuid1+", 00000000:31:00.0\n")
	n.smi(queryApps, "")
	n.smi(queryHealth, "0, "+uuid0+", Enabled, 0, 16, 16\n")
	n.smi("--gpu-reset", "done\n")
	n.smi("--gpu-reset -i "+uuid1, "done\n")
	n.tool("systemctl", "is-active nvidia-persistenced nvidia-dcgm dcgm", answer{Out: "active\nunknown\nactive\n", Exit: 3})
	n.tool("systemctl", "is-active nvidia-persistenced nvidia-dcgm dcgm nvidia-fabricmanager", answer{Out: "active\nunknown\ninactive\nactive\n", Exit: 3})
	n.tool("systemctl", "*", answer{})
	n.file("/dev/kmsg", "")
	n.file("/proc/42/comm", "python\n")
	n.link("/proc/42/fd/3", "/dev/null")
	n.link("/proc/42/fd/4", "/dev/nvidiactl")
	return n
}

func TestResetGPU(t *testing.T) {
	t.Parallel()
	const one, all = "--gpu-reset -i " + uuid1, "--gpu-reset"
	for _, tc := range []struct {
		name  string
		args  []string
		setup func(*node)
		reset string
		log   string
	}{
		{"one by index", []string{"--device", "1"}, nil, one, resetMark + "0000:31:00\n"},
		{"one by UUID", []string{"--device", uuid1}, nil, one, resetMark + "0000:31:00\n"},
		{"one by bus ID", []string{"--device", "0000:31:00.0"}, nil, one, resetMark + "0000:31:00\n"},
		{"one while the other is used", []string{"--device", "1"}, func(n *node) {
			n.smi(queryApps, uuid0+", 42, python\n")
			n.link("/proc/42/fd/5", "/dev/nvidia0")
		}, one, resetMark + "0000:31:00\n"},
		{"all", nil, nil, all, resetMark + "0000:30:00\n" + resetMark + "0000:31:00\n"},
		{"one behind a switch", []string{"--device", "1"}, func(n *node) {
			n.file("/sys/bus/pci/devices/0000:50:00.0/vendor", "0x10de\n")
			n.file("/sys/bus/pci/devices/0000:50:00.0/class", "0x068000\n")
		}, all, resetMark + "0000:30:00\n" + resetMark + "0000:31:00\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := resetNode(t)
			if tc.setup != nil {
				tc.setup(n)
			}
			r := n.op(append([]string{"remedy", "ResetGPU"}, tc.args...)...)
			require.Equal(t, protocol.ExitOK, r.ExitCode, "%+v", r)
			require.Contains(t, n.calls(smi), tc.reset)
			require.Equal(t, tc.log, n.content("/dev/kmsg"))
			daemon := "dcgm"
			if tc.reset == all {
				daemon = "nvidia-fabricmanager"
			}
			require.Equal(t, []string{
				"stop nvidia-persistenced", "stop " + daemon, "start " + daemon, "start nvidia-persistenced",
			}, n.calls("systemctl")[1:])
		})
	}
}

func TestResetGPURefused(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		setup func(*node)
		want  string
	}{
		{"no such GPU", func(n *node) { n.smi(queryGPUs, "0, "+uuid0+", 00000000:30:00.0\n") }, "there is no GPU 1"},
		{"no GPU", func(n *node) { n.smi(queryGPUs, "") }, "there is no GPU"},
		{"driver does not answer", func(n *node) { n.tool(smi, queryGPUs, answer{Exit: 9}) }, "exit status 9"},
		{"computing", func(n *node) { n.smi(queryApps, uuid1+", 42, python\n") }, "process 42 (python) computes on " + uuid1},
		{"unreadable list of processes", func(n *node) { n.smi(queryApps, "[Not Supported]\n") }, "cannot be parsed"},
		{"held", func(n *node) { n.link("/proc/42/fd/5", "/dev/nvidia1") }, "process 42 (python) holds /dev/nvidia1"},
		{"held, minor unknown", func(n *node) { n.remove("/proc/driver"); n.link("/proc/42/fd/5", "/dev/nvidia0") }, "holds /dev/nvidia0"},
		{"daemon does not stop", func(n *node) { n.tool("systemctl", "stop dcgm", answer{Exit: 1}) }, "refused: systemctl: exit status 1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := resetNode(t)
			tc.setup(n)
			r := n.op("remedy", "resetgpu", "--device", "1")
			require.Equal(t, protocol.ExitGPU, r.ExitCode, "%+v", r)
			require.Equal(t, protocol.ResultFailed, r.Result)
			require.Contains(t, r.Detail, "refused: ")
			require.NotEmpty(t, r.Refusals)
			require.Contains(t, r.Detail, tc.want)
			for _, call := range n.calls(smi) {
				require.NotContains(t, call, "--gpu-reset")
			}
			require.Empty(t, n.content("/dev/kmsg"))
			var stopped, started int
			for _, call := range n.calls("systemctl") {
				stopped += strings.Count(call, "stop ")
				started += strings.Count(call, "start ")
			}
			require.Equal(t, stopped, started, "what was stopped is started again")
		})
	}
}

func TestResetGPUFails(t *testing.T) {
	t.Parallel()
	list := answer{Out: "0, " + uuid0 + ", 00000000:30:00.0\n1, " + uuid1 + ", 00000000:31:00.0\n"}
	for _, tc := range []struct {
		name  string
		setup func(*node)
		want  string
	}{
		{"reset fails", func(n *node) { n.tool(smi, "--gpu-reset", answer{Exit: 3, Err: "In use by another client"}) }, "In use by another client"},
		{"does not come back", func(n *node) { n.tool(smi, queryGPUs, list, answer{Out: "0, " + uuid0 + ", 00000000:30:00.0\n"}) }, uuid1 + " did not come back"},
		{"driver is gone", func(n *node) { n.tool(smi, queryGPUs, list, answer{Exit: 9}) }, "after the reset: nvidia-smi: exit status 9"},
		{"remap still pending", func(n *node) { n.smi(queryRemap, "u, No, Yes\n") }, "after the reset: u waits for a reset"},
		{"ECC still bad", func(n *node) { n.smi(queryHealth, "0, u, Enabled, 1, 16, 16\n") }, "after the reset: GPU 0 has 1"},
		{"daemon does not start", func(n *node) { n.tool("systemctl", "start nvidia-persistenced", answer{Exit: 1}) }, "exit status 1"},
		{"no kernel log", func(n *node) { n.remove("/dev/kmsg") }, "not noted in the kernel log"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := resetNode(t)
			tc.setup(n)
			r := n.op("remedy", "ResetGPU")
			require.Equal(t, protocol.ExitGPU, r.ExitCode, "%+v", r)
			require.Contains(t, r.Detail, tc.want)
			require.Contains(t, n.calls("systemctl"), "start nvidia-fabricmanager")
		})
	}
}

func TestSiteRemedyAndRepair(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		args   []string
		file   string
		answer answer
		result string
		code   int
	}{
		{[]string{"remedy", "ReloadNic", "--device", "eth0"}, remediesDir + "/ReloadNic", answer{Out: "reloaded"}, protocol.ResultPassed, 0},
		{[]string{"remedy", "--device", "eth0", "ReloadNic"}, remediesDir + "/ReloadNic", answer{Exit: 7}, protocol.ResultFailed, 7},
		{[]string{"repair", "StartGpfs"}, repairsDir + "/StartGpfs", answer{Linger: true}, protocol.ResultPassed, 0},
		{[]string{"repair", "StartGpfs"}, repairsDir + "/StartGpfs", answer{Exit: 75}, protocol.ResultSkipped, 75},
		{[]string{"repair", "StartGpfs"}, repairsDir + "/StartGpfs", answer{Exit: 1, Out: "down"}, protocol.ResultFailed, 1},
		{[]string{"repair", "StartGpfs"}, repairsDir + "/StartGpfs", answer{Exit: 99}, protocol.ResultError, 70},
		{[]string{"repair", "ReseatCard"}, "", answer{}, protocol.ResultSkipped, 75},
	} {
		n := newNode(t)
		if tc.file != "" {
			n.executable(tc.file, "", tc.answer)
		}
		r := n.op(tc.args...)
		require.Equal(t, tc.code, r.ExitCode, "%v: %+v", tc.args, r)
		require.Equal(t, tc.result, r.Result)
		if tc.answer.Linger {
			pid := strings.TrimSpace(n.content(tc.file + ".pid"))
			require.DirExists(t, filepath.Join("/proc", pid), "a daemon that was started stays")
			n.kill(pid)
		}
	}
}

// What the host does not have, or must not run as root, is refused and says why. Nothing is run.
func TestSiteOperationsThatAreRefused(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		args   []string
		mode   os.FileMode
		result string
		code   int
		why    string
	}{
		{"no remedy", []string{"remedy", "RemountLustre"}, 0, protocol.ResultError, protocol.ExitUsage, "remedy RemountLustre is not on this host: it is not built in, and there is no " + remediesDir + "/RemountLustre"},
		{"no repair", []string{"repair", "RemountLustre"}, 0, protocol.ResultSkipped, protocol.ExitSkipped, "repair RemountLustre is not on this host: it is not built in, and there is no " + repairsDir + "/RemountLustre"},
		{"not executable", []string{"remedy", "RemountLustre"}, 0o644, protocol.ResultError, protocol.ExitUnknown, remediesDir + "/RemountLustre is not executable"},
		{"of others", []string{"repair", "StartGpfs"}, 0o775, protocol.ResultError, protocol.ExitUnknown, repairsDir + "/StartGpfs may be written by others than its owner"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			if tc.mode != 0 {
				file := map[string]string{"remedy": remediesDir, "repair": repairsDir}[tc.args[0]] + "/" + tc.args[1]
				n.executable(file, "", answer{Out: "done"})
				n.mode(file, tc.mode)
			}
			r := n.op(tc.args...)
			require.Equal(t, tc.code, r.ExitCode)
			require.Equal(t, tc.result, r.Result)
			require.Equal(t, []string{tc.why}, r.Refusals)
			require.Equal(t, "refused: "+tc.why, r.Detail)
			require.Empty(t, r.Hardware)
		})
	}
}

func TestDiagnose(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.tool("dmesg", "", answer{Out: strings.Repeat("x", 4000) + "\n", Repeat: 9})
	n.tool("ps", "-eo state,pid,ppid,wchan:32,etime,comm", answer{Out: "D 1\n", Exit: 1, Err: "oh"})
	n.tool("systemctl", "*", answer{})
	n.tool("ipmitool", "sel elist", answer{Hang: filepath.Join(t.TempDir(), "pid")})
	n.options.limit = 2 * time.Second
	r := n.op("diagnose", "--condition", "GpuHung", "--device", "0")
	require.Equal(t, protocol.ExitOK, r.ExitCode, "%+v", r)
	out := n.stdout.String()
	require.Contains(t, out, "=== dmesg ===\n")
	require.Contains(t, out, "left out)")
	require.Contains(t, out, "=== ps -eo state,pid,ppid,wchan:32,etime,comm ===\nD 1\n")
	require.Less(t, len(out), 2*maxSection)
	require.Equal(t, protocol.ResultPassed, results(r)["ps -eo state,pid,ppid,wchan:32,etime,comm"])
	require.Equal(t, protocol.ResultError, results(r)["ipmitool sel elist"])
	require.Equal(t, protocol.ResultSkipped, results(r)["ibstat"])
}

func TestDiagnoseCollectsNothing(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.remove("/usr")
	require.Equal(t, protocol.ExitUnknown, n.op("diagnose").ExitCode)
}

func TestDiagnoseTellsTheRecoveryAction(t *testing.T) {
	t.Parallel()
	line := func(bus, action string) string {
		return "[ 5.0] NVRM: Xid (PCI:" + bus + "): 154, pid=1, name=x, GPU recovery action changed from 0x0 (None) to 0x1 (" + action + ")\n"
	}
	const reset, first, second = "GPU Reset Required", "0000:30:00", "0000:31:00"
	for _, tc := range []struct {
		name, log, device string
		setup             func(*node)
		want              string
		recovery          string
	}{
		{"nothing asked for", "[ 5.0] NVRM: Xid (PCI:0000:30:00): 79, x\n", "", nil, "", ""},
		{"one GPU", line(first, reset), "", nil, "recovery action: GPU 0000:30:00: GPU Reset Required; ", "GPU Reset Required"},
		{"two GPUs", line(second, "Node Reboot Required") + line(first, reset), "", nil, "recovery action: GPU 0000:30:00: GPU Reset Required; GPU 0000:31:00: Node Reboot Required; ", "Node Reboot Required"},
		{"the latest counts", line(first, reset) + line(first, "None"), "", nil, "recovery action: GPU 0000:30:00: None; ", "None"},
		{"reset since", line(first, reset) + line(second, reset) + resetMark + first + "\n", "", nil, "recovery action: GPU 0000:31:00: GPU Reset Required; ", "GPU Reset Required"},
		{"asked again since the reset", resetMark + first + "\n" + line(first, "Drain and Reset"), "", nil, "recovery action: GPU 0000:30:00: Drain and Reset; ", "Drain and Reset"},
		{"unknown text", line(first, "Replace; GPU 1: all"), "", nil, "recovery action: GPU 0000:30:00: Replace, GPU 1: all; ", "Replace, GPU 1: all"},
		{"by index", line(second, reset) + line(first, "None"), "1", nil, "recovery action: GPU 0000:31:00: GPU Reset Required; ", "GPU Reset Required"},
		{"by UUID", line(second, reset) + line(first, "None"), uuid0, nil, "recovery action: GPU 0000:30:00: None; ", "None"},
		{"by bus ID", line(second, reset) + line(first, "None"), "00000000:31:00.0", nil, "recovery action: GPU 0000:31:00: GPU Reset Required; ", "GPU Reset Required"},
		{"other GPU", line(second, reset), "0", nil, "", ""},
		{"driver gone", line(second, reset), "0", func(n *node) { n.tool(smi, queryGPUs, answer{Exit: 9}) }, "recovery action: GPU 0000:31:00: GPU Reset Required; ", "GPU Reset Required"},
		{"GPU gone", line(second, reset), "7", nil, "recovery action: GPU 0000:31:00: GPU Reset Required; ", "GPU Reset Required"},
		{"a mask", line(second, reset), "01000000", nil, "recovery action: GPU 0000:31:00: GPU Reset Required; ", "GPU Reset Required"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := resetNode(t)
			n.tool("dmesg", "", answer{Out: tc.log})
			if tc.setup != nil {
				tc.setup(n)
			}
			args := []string{"diagnose"}
			if tc.device != "" {
				args = append(args, "--device", tc.device)
			}
			r := n.op(args...)
			require.Equal(t, protocol.ExitOK, r.ExitCode, "%+v", r)
			require.Regexp(t, "^"+tc.want+`\d+ of \d+ sections collected$`, r.Detail)
			require.Equal(t, tc.recovery, r.Recovery)
		})
	}
}

func TestDiagnoseTellsAllGPUs(t *testing.T) {
	t.Parallel()
	var log recoveries
	for i := range 16 {
		log.line(fmt.Sprintf("NVRM: Xid (PCI:0000:%02x:00): 154, from 0x0 (None) to 0x2 (Node Reboot Required)", i))
	}
	text := log.text("")
	require.LessOrEqual(t, len(text), maxRecovery+len("; and 16 more"))
	require.Regexp(t, `^recovery action: GPU 0000:00:00: Node Reboot Required; .*Node Reboot Required; and \d more$`, text)
	require.Equal(t, "Node Reboot Required", log.most(""))
}

func TestDiagnoseWithoutKernelLog(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.uninstall("dmesg")
	require.Contains(t, n.op("diagnose").Detail, "kernel log not read: dmesg is not installed; ")
}

func TestDiagnoseLooksAtTheDevice(t *testing.T) {
	t.Parallel()
	for device, want := range map[string]string{"mlx5_0": "-vv -s 0000:18:00.0", "1": "-vv -s 0000:31:00", "../x": ""} {
		n := resetNode(t)
		n.tool("lspci", "*", answer{Out: "device\n"})
		n.link("/sys/class/infiniband/mlx5_0/device", "../../../0000:18:00.0")
		n.op("diagnose", "--device", device)
		if want == "" {
			require.Equal(t, []string{"-vv -d 10de:"}, n.calls("lspci"))
		} else {
			require.Equal(t, []string{"-vv -d 10de:", want}, n.calls("lspci"))
		}
	}
}

// crashAt leaves a file of the time.
func (n *node) crashAt(file, at string) {
	n.file(file, "panic\n")
	when, err := time.Parse(time.RFC3339, at)
	require.NoError(n.t, err)
	require.NoError(n.t, os.Chtimes(n.path(file), when, when))
}

func TestCrashRecords(t *testing.T) {
	t.Parallel()
	const before, since, after = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "2026-01-03T04:05:06Z"
	for _, tc := range []struct {
		name, file, at string
		record, newer  bool
	}{
		{"firmware", "/sys/fs/pstore/dmesg-efi-1", after, true, true},
		{"moved by systemd", "/var/lib/systemd/pstore/1/001/dmesg.txt", after, true, true},
		{"dump", "/var/crash/202601030405/vmcore", after, true, true},
		{"dump file", "/var/crash/vmcore.flat", after, true, true},
		{"report of the kernel", "/var/crash/linux-image-6.8.0-crash.crash", after, true, true},
		{"old", "/var/crash/202601010000/vmcore", before, true, false},
		{"console", "/sys/fs/pstore/console-ramoops-0", after, false, false},
		{"crash kernel", "/var/crash/kexec_cmd", after, false, false},
		{"program", "/var/crash/_usr_bin_python3.1000.crash", after, false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			n.file("/var/crash/.lock", "")
			n.crashAt("/var/crash/older/vmcore", "2020-01-01T00:00:00Z")
			n.crashAt(tc.file, tc.at)
			noted := n.op("diagnose").Detail
			record := "kernel crash record: " + tc.file + " of " + tc.at
			require.Equal(t, tc.record, strings.HasSuffix(noted, record), noted)

			r := n.examine("", "healthcheck", "--profile", "default", "--since", since)
			require.Equal(t, tc.newer, results(r)[checkCrash] == protocol.ResultFailed, "%+v", r)
			require.Equal(t, tc.newer, r.ExitCode == protocol.ExitUnknown)
			r = n.examine("", "healthcheck", "--profile", "default")
			require.Equal(t, protocol.ResultSkipped, results(r)[checkCrash])
		})
	}
}

func TestCrashRecordsUnreadable(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.file("/var/crash", "no folder")
	r := n.examine("", "healthcheck", "--profile", "default", "--since", "2026-01-02T00:00:00Z")
	require.Equal(t, protocol.ExitUnknown, r.ExitCode)
	require.Equal(t, protocol.ResultError, results(r)[checkCrash])
	require.Contains(t, n.op("diagnose").Detail, "kernel crash records not read")
}
