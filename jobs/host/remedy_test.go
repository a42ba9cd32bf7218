package host

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/jobs/protocol"
)

const (
	showUnit   = " --property=LoadState --property=MainPID"
	loadedUnit = "LoadState=loaded\nMainPID=7\n"
	absentUnit = "LoadState=not-found\nMainPID=0\n"
)

// outcome is what an action must come to on a host.
type outcome struct {
	name   string
	setup  func(*node)
	device string
	result string
	code   int
	want   string
	// quiet says that nothing may have been changed.
	quiet bool
}

// act runs the action on the host of each case. Time passes without being waited for, and little of it.
func act(t *testing.T, healthy func(*testing.T) *node, action, name string, changes func(*node) []string, cases []outcome) {
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := healthy(t)
			n.options.limit = 30 * time.Second
			if tc.setup != nil {
				tc.setup(n)
			}
			args := []string{action, name}
			if tc.device != "" {
				args = append(args, "--device", tc.device)
			}
			synctest.Test(t, func(t *testing.T) {
				r := n.opContext(t.Context(), args...)
				require.Equal(t, tc.result, r.Result, "%+v", r)
				require.Equal(t, tc.code, r.ExitCode, "%+v", r)
				require.Contains(t, r.Detail, tc.want)
				require.Equal(t, strings.HasPrefix(r.Detail, "nothing to do"), r.Unneeded, "%+v", r)
			})
			require.Equal(t, tc.quiet, len(changes(n)) == 0, "%v", changes(n))
		})
	}
}

// callsOf returns the calls of the tools that begin with one of the words.
func callsOf(tools map[string][]string) func(*node) []string {
	return func(n *node) []string {
		var out []string
		for tool, words := range tools {
			for _, call := range n.calls(tool) {
				for _, word := range words {
					if strings.HasPrefix(call, word) {
						out = append(out, tool+" "+call)
					}
				}
			}
		}
		return out
	}
}

func TestActionsAreOneTable(t *testing.T) {
	t.Parallel()
	for _, actions := range [][]builtin{builtinRemedies(), builtinRepairs()} {
		seen := make(map[string]bool)
		for _, b := range actions {
			require.Regexp(t, executableName, b.name)
			require.False(t, seen[strings.ToLower(b.name)], b.name)
			seen[strings.ToLower(b.name)] = true
			for _, spelled := range []string{strings.ToLower(b.name), strings.ToUpper(b.name)} {
				found, ok := named(actions, spelled)
				require.True(t, ok)
				require.Equal(t, b.name, found.name)
			}
		}
	}
	_, ok := named(builtinRemedies(), "StartGpfs")
	require.False(t, ok, "a repair is no remedy")
}

func TestActionsNameTheToolThatIsMissing(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ action, name, tool string }{
		{"remedy", "ResetGPU", smi},
		{"remedy", "RestartFabricManager", "systemctl"},
		{"remedy", "RestartFabricManager", smi},
		{"remedy", "EnableGpuPersistence", smi},
		{"remedy", "ConfigPeerMem", "modprobe"},
		{"remedy", "RestartKubelet", "systemctl"},
		{"remedy", "PruneImages", "df"},
		{"remedy", "PruneImages", "crictl"},
		{"remedy", "BreakDeadlock", "mmgetstate"},
		{"remedy", "BreakDeadlock", "mmdiag"},
		{"remedy", "BreakDeadlock", "mmcommon"},
		{"remedy", "ReloadIBDriver", "mmfsadm"},
		{"remedy", "ReloadIBDriver", "modprobe"},
		{"remedy", "ReloadIBDriver", "systemctl"},
		{"repair", "StartGpfs", "mmgetstate"},
		{"repair", "StartGpfs", "mmstartup"},
		{"repair", "MountGpfs", "mmgetstate"},
		{"repair", "MountGpfs", "stat"},
	} {
		t.Run(tc.name+" without "+tc.tool, func(t *testing.T) {
			t.Parallel()
			n := sickNode(t)
			if tc.name == "MountGpfs" {
				n.mmState(gpfsActive)
			}
			if tc.name == "BreakDeadlock" {
				n.mmState(gpfsActive)
				n.waiters(answer{Out: waiterTable("1000.5")})
			}
			n.uninstall(tc.tool)
			r := n.op(tc.action, tc.name)
			require.Equal(t, protocol.ExitSkipped, r.ExitCode, "%+v", r)
			require.Equal(t, protocol.ResultSkipped, r.Result)
			require.Equal(t, tc.tool+" is not installed", r.Detail)
		})
	}
}

// sickNode is a GPU node on which every action has something to do.
func sickNode(t *testing.T) *node {
	n := fabricNode(t)
	n.smi(queryOn, "0, Disabled\n1, Enabled\n")
	n.tool("systemctl", "is-active "+fabricManager, answer{Out: "failed\n", Exit: 3})
	n.file("/proc/sys/vm/drop_caches", "0\n")
	n.tool("sync", "", answer{})
	n.tool("crictl", "rmi --prune", answer{})
	n.tool("df", "-P -k -- /", answer{Out: dfTable("50", "60")})
	n.mmState("down")
	n.waiters(answer{Out: waiterTable("1000.5")})
	n.tool("mmcommon", "breakDeadlock -N n1", answer{})
	n.tool("mmfsadm", "test verbs status", answer{Out: "VERBS RDMA status: disabled\n"})
	n.tool("modprobe", "*", answer{})
	n.tool("mmstartup", "", answer{})
	n.tool("mmmount", "*", answer{})
	return n
}

func (n *node) mmState(states ...string) {
	var answers []answer
	for _, state := range states {
		answers = append(answers, answer{Out: "mmgetstate::HEADER:version:reserved:reserved:nodeName:nodeNumber:state:quorum:\nmmgetstate::0:1:::n1:1:" + state + ":2:\n"})
	}
	n.tool("mmgetstate", "-Y", answers...)
}

func (n *node) waiters(answers ...answer) { n.tool("mmdiag", "--waiters -Y", answers...) }

func waiterTable(seconds ...string) string {
	table := "\nmmdiag:waiters:HEADER:version:reserved:reserved:threadId:threadAddr:threadName:waitStartTime:waitTime:isMonitored:condVarAddr:condVarName:condVarReason:mutexAddr:mutexName:auxReason:delayTime:delayReason:\n"
	for _, s := range seconds {
		table += "mmdiag:waiters:0:1:::101445:00F5:RebuildWorkThread:2026-09-23_15%3A31%3A33-0400:" + s + ":monitored::::::for I/O completion:::\n"
	}
	return table
}

// fabricNode is a node with an NVSwitch whose fabric manager is active.
func fabricNode(t *testing.T) *node {
	n := resetNode(t)
	n.file("/sys/bus/pci/devices/0000:50:00.0/vendor", "0x10de\n")
	n.file("/sys/bus/pci/devices/0000:50:00.0/class", "0x068000\n")
	n.tool("systemctl", "show "+fabricManager+showUnit, answer{Out: loadedUnit})
	n.tool("systemctl", "show "+persistenced+showUnit, answer{Out: loadedUnit})
	n.tool("systemctl", "is-active "+fabricManager, answer{Out: "active\n"})
	return n
}

func TestRestartFabricManager(t *testing.T) {
	down := func(after ...answer) func(*node) {
		return func(n *node) {
			n.tool("systemctl", "is-active "+fabricManager, append([]answer{{Out: "failed\n", Exit: 3}}, after...)...)
		}
	}
	up := answer{Out: "active\n"}
	act(t, fabricNode, "remedy", "restartFABRICmanager", callsOf(map[string][]string{"systemctl": {"restart", "stop", "start"}}), []outcome{
		{"well", nil, "", protocol.ResultPassed, 0, "nothing to do: nvidia-fabricmanager is active, the fabric is complete on 2 of 2 GPUs", true},
		{"well under load", func(n *node) { n.smi(queryApps, uuid0+", 42, python\n") }, "", protocol.ResultPassed, 0, "nothing to do", true},
		{"down", down(up), "", protocol.ResultPassed, 0, "nvidia-fabricmanager is active", false},
		{"active without the fabric", func(n *node) {
			n.tool(smi, "-q", answer{Out: fabricReport("In Progress", "N/A")}, answer{Out: fabricReport("In Progress", "N/A")}, answer{Out: fabricReport("Completed", "Success")})
		}, "", protocol.ResultPassed, 0, "complete on 2 of 2", false},
		{"monitored", func(n *node) {
			down(up)(n)
			n.file("/proc/43/comm", "nv-hostengine\n")
			n.link("/proc/43/fd/9", "/dev/nvidia-uvm")
			n.link("/proc/42/fd/9", "/dev/nvidia0")
		}, "", protocol.ResultPassed, 0, "is active", false},
		{"not installed", func(n *node) { n.tool("systemctl", "show "+fabricManager+showUnit, answer{Out: absentUnit}) }, "", protocol.ResultFailed, 24, "refused: the unit nvidia-fabricmanager is \"not-found\"", true},
		{"computing", func(n *node) { down()(n); n.smi(queryApps, uuid1+", 42, python\n") }, "", protocol.ResultFailed, 24, "refused: process 42 (python) computes on " + uuid1, true},
		{"about to compute", func(n *node) { down()(n); n.link("/proc/42/fd/9", "/dev/nvidia-uvm") }, "", protocol.ResultFailed, 24, "refused: process 42 (python) holds /dev/nvidia-uvm", true},
		{"users unknown", func(n *node) { down()(n); n.tool(smi, queryApps, answer{Exit: 9}) }, "", protocol.ResultError, 70, "exit status 9", true},
		{"restart fails", func(n *node) { down()(n); n.tool("systemctl", "restart "+fabricManager, answer{Exit: 1, Err: "no"}) }, "", protocol.ResultFailed, 24, "exit status 1: no", false},
		{"no effect", down(), "", protocol.ResultFailed, 24, "is not active", false},
		{"no fabric", func(n *node) { n.tool(smi, "-q", answer{Out: fabricReport("Completed", "Initialization failure")}) }, "", protocol.ResultFailed, 24, `GPU 00000000:31:00.0 has fabric status "Initialization failure"`, false},
		{"effect unknown", func(n *node) { down(up)(n); n.tool(smi, "-q", answer{Exit: 9}) }, "", protocol.ResultError, 70, "exit status 9", false},
	})
}

func TestEnableGPUPersistence(t *testing.T) {
	off, on := answer{Out: "0, Enabled\n1, Disabled\n"}, answer{Out: "0, Enabled\n1, Enabled\n"}
	changes := callsOf(map[string][]string{"systemctl": {"enable", "start"}, smi: {"-pm"}})
	act(t, func(t *testing.T) *node {
		n := fabricNode(t)
		n.tool(smi, queryOn, off, on)
		n.tool(smi, "-pm 1", answer{})
		return n
	}, "remedy", "EnableGpuPersistence", changes, []outcome{
		{"well", func(n *node) { n.tool(smi, queryOn, on) }, "", protocol.ResultPassed, 0, "nothing to do: persistence is on", true},
		{"by the daemon", nil, "", protocol.ResultPassed, 0, "persistence is on, by nvidia-persistenced", false},
		{"by the driver", func(n *node) { n.tool(smi, queryOn, off, off, on) }, "", protocol.ResultPassed, 0, "persistence is on until the next boot", false},
		{"without the daemon", func(n *node) { n.tool("systemctl", "show "+persistenced+showUnit, answer{Out: absentUnit}) }, "", protocol.ResultPassed, 0, "persistence is on until the next boot", false},
		{"daemon does not start", func(n *node) { n.tool("systemctl", "start "+persistenced, answer{Exit: 1}) }, "", protocol.ResultPassed, 0, "persistence is on", false},
		{"no GPU", func(n *node) { n.tool(smi, queryOn, answer{}) }, "", protocol.ResultFailed, 2, "refused: there is no GPU", true},
		{"unknown", func(n *node) { n.tool(smi, queryOn, answer{Exit: 9}) }, "", protocol.ResultError, 70, "exit status 9", true},
		{"driver refuses", func(n *node) { n.tool(smi, queryOn, off); n.tool(smi, "-pm 1", answer{Exit: 4, Err: "no permission"}) }, "", protocol.ResultFailed, 2, "no permission", false},
		{"no effect", func(n *node) { n.tool(smi, queryOn, off) }, "", protocol.ResultFailed, 2, "persistence is still off on GPU 1", false},
		{"effect unknown", func(n *node) { n.tool(smi, queryOn, off, off, answer{Exit: 9}) }, "", protocol.ResultError, 70, "what became of it is unknown", false},
	})
}

func TestConfigPeerMem(t *testing.T) {
	loaded := func(n *node) { n.file(peerMemModule+"/refcnt", "0\n") }
	act(t, func(t *testing.T) *node {
		n := newGPUNode(t)
		n.tool("modprobe", "nvidia-peermem", answer{})
		return n
	}, "remedy", "ConfigPeerMem", callsOf(map[string][]string{"modprobe": {""}}), []outcome{
		{"well", func(n *node) { loaded(n); n.file(peerMemConf, "# RDMA\n nvidia_peermem\n") }, "", protocol.ResultPassed, 0, "nothing to do", true},
		{"not listed", loaded, "", protocol.ResultPassed, 0, "lists it", true},
		{"cannot be loaded", func(n *node) { n.tool("modprobe", "nvidia-peermem", answer{Exit: 1, Err: "not found"}) }, "", protocol.ResultFailed, 2, "modprobe: exit status 1: not found", false},
		{"no effect", nil, "", protocol.ResultFailed, 2, "there is no " + peerMemModule, false},
		{"read-only /etc", func(n *node) {
			n.append("/proc/1/mounts", "overlay /etc overlay ro 0 0\n")
			n.tool("modprobe", "nvidia-peermem", answer{Restore: []string{n.path(peerMemModule), ""}})
			n.file("/sys/module/x", "")
		}, "", protocol.ResultPassed, 0, "nvidia_peermem is loaded, until the next boot: /etc is read-only", false},
		{"read-only /etc, loaded", func(n *node) { loaded(n); n.append("/proc/1/mounts", "overlay /etc overlay ro 0 0\n") }, "", protocol.ResultPassed, 0, "nothing to do", true},
		{"list unreadable", func(n *node) { loaded(n); n.file(peerMemConf+"/x", "") }, "", protocol.ResultError, 70, "is a directory", true},
	})
}

func TestConfigPeerMemListsTheModuleOnce(t *testing.T) {
	t.Parallel()
	for before, after := range map[string]string{
		"":                   "nvidia-peermem\n",
		"mlx5_ib":            "mlx5_ib\nnvidia-peermem\n",
		"#nvidia-peermem\n":  "#nvidia-peermem\nnvidia-peermem\n",
		"nvidia-peermem-x\n": "nvidia-peermem-x\nnvidia-peermem\n",
	} {
		n := newGPUNode(t)
		n.file(peerMemModule+"/refcnt", "0\n")
		n.file("/etc/hostname", "n1\n")
		if before != "" {
			n.file(peerMemConf, before)
		}
		for range 2 {
			require.Equal(t, protocol.ExitOK, n.op("remedy", "ConfigPeerMem").ExitCode)
			require.Equal(t, after, n.content(peerMemConf))
		}
	}
}

// What the tool of an action wrote before it failed is for people.
func TestActionTellsTheWordsOfItsTool(t *testing.T) {
	t.Parallel()
	n := unmountedNode(t)
	n.options.limit = time.Second
	n.tool("mmmount", "fs1", answer{Out: "mounting\n", Err: "no such device\nsee the log\n", Exit: 1})
	r := n.op("repair", "MountGpfs", "--device", "fs1")
	require.Equal(t, protocol.ExitGPFS, r.ExitCode, "%+v", r)
	require.Contains(t, r.Detail, "mmmount: exit status 1: no such device; mounting")
	require.Contains(t, n.stdout.String(), "=== mmmount fs1 ===\nmounting\nno such device\nsee the log\n")
}

func TestDropCacheIsNotRepeated(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.tool("sync", "", answer{})
	n.file("/proc/sys/vm/drop_caches", "0\n")
	n.file("/run/utmp", "")
	require.Equal(t, protocol.ExitOK, n.op("remedy", "DropCache").ExitCode)
	require.NotEmpty(t, n.content(dropStamp))
	n.file("/proc/sys/vm/drop_caches", "0\n")
	for _, tc := range []struct {
		age    time.Duration
		result string
		holds  string
	}{
		{time.Minute, protocol.ResultFailed, "0\n"},
		{dropEvery - time.Minute, protocol.ResultFailed, "0\n"},
		{dropEvery + time.Minute, protocol.ResultPassed, "3\n"},
		{-time.Hour, protocol.ResultPassed, "3\n"},
	} {
		n.file("/proc/sys/vm/drop_caches", "0\n")
		at := time.Now().Add(-tc.age)
		require.NoError(t, os.Chtimes(n.path(dropStamp), at, at))
		r := n.op("remedy", "DropCache")
		require.Equal(t, tc.result, r.Result, "%+v", r)
		require.Equal(t, tc.holds, n.content("/proc/sys/vm/drop_caches"))
		if tc.result == protocol.ResultFailed {
			require.Equal(t, protocol.ExitMemory, r.ExitCode)
			require.Contains(t, r.Detail, "refused: the caches were dropped ")
		}
	}
	n.remove("/run")
	n.file("/proc/sys/vm/drop_caches", "0\n")
	r := n.op("remedy", "DropCache")
	require.Equal(t, protocol.ExitUnknown, r.ExitCode, "%+v", r)
	require.Equal(t, "0\n", n.content("/proc/sys/vm/drop_caches"), "nothing is dropped that cannot be noted")
}

func TestPruneImages(t *testing.T) {
	df := func(free string) answer {
		return answer{Out: "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/sda1 1000000 1 " + free + " 1% /var/lib/containerd\n"}
	}
	act(t, func(t *testing.T) *node {
		n := newNode(t)
		n.append("/proc/1/mounts", "/dev/sda3 /var/lib/containerd xfs rw 0 0\n")
		n.tool("df", "-P -k -- /var/lib/containerd", df("100000"), df("300000"))
		n.tool("crictl", "rmi --prune", answer{Out: "Deleted\n"})
		return n
	}, "remedy", "PruneImages", callsOf(map[string][]string{"crictl": {""}}), []outcome{
		{"pruned", nil, "", protocol.ResultPassed, 0, "/var/lib/containerd has 293 MiB free, had 98 MiB", false},
		{"nothing unused", func(n *node) { n.tool("df", "-P -k -- /var/lib/containerd", df("100000")) }, "", protocol.ResultPassed, 0, "has 98 MiB free, had 98 MiB", false},
		{"others wrote meanwhile", func(n *node) { n.tool("df", "-P -k -- /var/lib/containerd", df("100000"), df("95000")) }, "", protocol.ResultPassed, 0, "", false},
		{"shrank", func(n *node) { n.tool("df", "-P -k -- /var/lib/containerd", df("100000"), df("50000")) }, "", protocol.ResultFailed, 6, "has 49 MiB free, had 98 MiB before", false},
		{"runtime refuses", func(n *node) { n.tool("crictl", "rmi --prune", answer{Exit: 1, Err: "connect: no such file"}) }, "", protocol.ResultFailed, 6, "connect: no such file", false},
		{"space unknown", func(n *node) { n.tool("df", "-P -k -- /var/lib/containerd", answer{Exit: 1}) }, "", protocol.ResultError, 70, "exit status 1", true},
		{"space unknown afterwards", func(n *node) { n.tool("df", "-P -k -- /var/lib/containerd", df("100000"), answer{Out: "\n"}) }, "", protocol.ResultError, 70, "what became of it is unknown", false},
	})
}

func TestBreakDeadlock(t *testing.T) {
	stuck, gone := answer{Out: waiterTable("44.3", "6861.7395", "901")}, answer{Out: waiterTable("899.9")}
	act(t, func(t *testing.T) *node {
		n := newGPUNode(t)
		n.waiters(stuck, gone)
		n.tool("mmdiag", "--waiters", answer{Out: "=== mmdiag: waiters ===\n"})
		n.tool("mmdiag", "--deadlock", answer{Out: "=== mmdiag: deadlock ===\n"})
		n.tool("mmcommon", "breakDeadlock -N n1", answer{Out: "done\n", Stdin: "yes\n"})
		return n
	}, "remedy", "breakDeadlock", callsOf(map[string][]string{"mmcommon": {""}}), []outcome{
		{"well", func(n *node) { n.waiters(gone) }, "", protocol.ResultPassed, 0, "nothing to do: no waiter waits for more than 15m0s", true},
		{"no waiter", func(n *node) { n.waiters(answer{}) }, "", protocol.ResultPassed, 0, "nothing to do", true},
		{"broken up", nil, "", protocol.ResultPassed, 0, "no waiter waits", false},
		{"not a member", func(n *node) { n.mmState("arbitrating") }, "", protocol.ResultFailed, 3, `refused: GPFS is "arbitrating"`, true},
		{"waiters unknown", func(n *node) { n.waiters(answer{Out: "mmfsd is not running\n"}) }, "", protocol.ResultError, 70, "cannot be parsed", true},
		{"without a time", func(n *node) { n.waiters(answer{Out: waiterTable("soon")}) }, "", protocol.ResultError, 70, "without the time", true},
		{"node unknown", func(n *node) {
			n.tool("mmgetstate", "-Y", answer{Out: "mmgetstate::HEADER:version:nodeName:state:\nmmgetstate::0:1:-N all:active:\n"})
		}, "", protocol.ResultError, 70, "names this node", true},
		{"command fails", func(n *node) { n.tool("mmcommon", "breakDeadlock -N n1", answer{Exit: 1, Err: "no"}) }, "", protocol.ResultFailed, 3, "mmcommon: exit status 1: no; before: 2 of 3 waiters", false},
		{"no effect", func(n *node) { n.waiters(stuck) }, "", protocol.ResultFailed, 3, "the longest 1h54m22s: RebuildWorkThread, for I/O completion", false},
	})
}

func TestBreakDeadlockWritesDownWhatItBreaks(t *testing.T) {
	n := sickNode(t)
	n.mmState(gpfsActive)
	n.waiters(answer{Out: waiterTable("1000")}, answer{Out: waiterTable()})
	n.tool("mmdiag", "--waiters", answer{Out: "the waiters\n"})
	n.tool("mmdiag", "--deadlock", answer{Out: "the deadlock\n"})
	require.Equal(t, protocol.ExitOK, n.op("remedy", "BreakDeadlock").ExitCode)
	require.Contains(t, n.stdout.String(), "=== mmdiag --waiters ===\nthe waiters\n")
	require.Contains(t, n.stdout.String(), "=== mmdiag --deadlock ===\nthe deadlock\n")
	require.Equal(t, []string{"--waiters -Y", "--waiters", "--deadlock", "--waiters -Y"}, n.calls("mmdiag"))
}

// ibNode is a node whose RDMA driver is not whole, and is after a reload.
func ibNode(t *testing.T) *node {
	n := newNode(t)
	for _, device := range []string{"mlx5_0", "mlx5_1"} {
		for file, value := range map[string]string{"state": "4: ACTIVE", "phys_state": "5: LinkUp", "rate": "400 Gb/sec (4X NDR)", "link_layer": "InfiniBand"} {
			n.file("/sys/class/infiniband/"+device+"/ports/1/"+file, value+"\n")
		}
	}
	for _, module := range []string{"mlx5_core", "mlx5_ib", "ib_core", "ib_uverbs", "ib_umad"} {
		n.file("/sys/module/"+module+"/refcnt", "0\n")
	}
	n.tool("systemctl", "is-active opensm opensmd ibacm", answer{Out: "active\ninactive\ninactive\n", Exit: 3})
	n.tool("systemctl", "*", answer{})
	n.tool("modprobe", "-r mlx5_ib", answer{})
	n.tool("modprobe", "-a mlx5_core mlx5_ib ib_core ib_uverbs ib_umad", answer{})
	n.file("/proc/42/comm", "python\n")
	n.link("/proc/42/fd/3", "/dev/infiniband/umad0")
	return n
}

func TestReloadIBDriver(t *testing.T) {
	const one = "/sys/class/infiniband/mlx5_1/ports/1/"
	down := func(n *node) { n.file(one+"state", "1: DOWN\n") }
	script := func(n *node) {
		n.executable(openibd, "restart", answer{Restore: []string{n.path(one + "state"), "4: ACTIVE\n"}})
	}
	loads := func(n *node) {
		n.tool("modprobe", "-a mlx5_core mlx5_ib ib_core ib_uverbs ib_umad", answer{Restore: []string{n.path(one + "state"), "4: ACTIVE\n"}})
	}
	act(t, ibNode, "remedy", "ReloadIBDriver", func(n *node) []string {
		out := callsOf(map[string][]string{"modprobe": {""}, "systemctl": {"stop", "start"}})(n)
		if data, err := os.ReadFile(n.path(openibd + ".log")); err == nil {
			out = append(out, string(data))
		}
		return out
	}, []outcome{
		{"well", nil, "", protocol.ResultPassed, 0, "nothing to do: the modules are loaded and 2 ports are active", true},
		{"device well while another is down", down, "mlx5_0", protocol.ResultPassed, 0, "nothing to do", true},
		{"Ethernet without a cable", func(n *node) { down(n); n.file(one+"link_layer", "Ethernet\n") }, "", protocol.ResultPassed, 0, "nothing to do", true},
		{"by modules", func(n *node) { down(n); loads(n) }, "mlx5_1", protocol.ResultPassed, 0, "1 ports are active", false},
		{"by script", func(n *node) { down(n); script(n) }, "", protocol.ResultPassed, 0, "2 ports are active", false},
		{"held", func(n *node) { down(n); n.link("/proc/42/fd/4", "/dev/infiniband/uverbs0") }, "", protocol.ResultFailed, 1, "refused: process 42 (python) holds /dev/infiniband/uverbs0", true},
		{"GPFS with RDMA", func(n *node) {
			down(n)
			n.append("/proc/1/mounts", "fs1 /gpfs/fs1 gpfs rw 0 0\n")
			n.tool("mmfsadm", "test verbs status", answer{Out: "VERBS RDMA status: started\n"})
		}, "", protocol.ResultFailed, 1, "refused: /gpfs/fs1 is mounted and GPFS uses RDMA", true},
		{"GPFS without RDMA", func(n *node) {
			down(n)
			loads(n)
			n.append("/proc/1/mounts", "fs1 /gpfs/fs1 gpfs rw 0 0\n")
			n.tool("mmfsadm", "test verbs status", answer{Out: "\nVERBS RDMA status: disabled\n"})
		}, "", protocol.ResultPassed, 0, "2 ports are active", false},
		{"GPFS does not tell", func(n *node) {
			down(n)
			n.append("/proc/1/mounts", "fs1 /gpfs/fs1 gpfs rw 0 0\n")
			n.tool("mmfsadm", "test verbs status", answer{Out: "hm\n"})
		}, "", protocol.ResultError, 70, "does not say whether GPFS uses RDMA", true},
		{"reload fails", func(n *node) { down(n); n.tool("modprobe", "-r mlx5_ib", answer{Exit: 1, Err: "in use"}) }, "", protocol.ResultFailed, 1, "in use", false},
		{"no effect", down, "mlx5_1", protocol.ResultFailed, 1, "not active after the reload: mlx5_1 port 1", false},
		{"device stays away", nil, "mlx5_9", protocol.ResultFailed, 1, "no port is active after the reload", false},
		{"no adapter", func(n *node) { n.remove("/sys/class/infiniband") }, "", protocol.ResultSkipped, 75, "there is no RDMA device", true},
		{"adapter of which nothing is left but its address", func(n *node) {
			n.remove("/sys/class/infiniband")
			n.file(pciDir+"0000:18:00.0/vendor", mellanox+"\n")
		}, "", protocol.ResultFailed, 1, "no port is active after the reload", false},
		{"driver in a container", func(n *node) { down(n); n.file(mofedContainer+"/.driver-ready", "") }, "", protocol.ResultFailed, 1, "refused: the driver is in a container, /run/mellanox/drivers", true},
		{"module stays away", func(n *node) { n.remove("/sys/module/ib_umad") }, "", protocol.ResultFailed, 1, "module ib_umad is not loaded", false},
	})
}

// Mellanox/doca-driver-build, entrypoint.sh: mount_rootfs mounts /usr/src alone, at /run/mellanox/drivers/usr/src, and .driver-ready is
// removed while the container loads the driver, and when it ends.
func TestReloadIBDriverRefusesAContainerThatIsNotReady(t *testing.T) {
	t.Parallel()
	for name, setup := range map[string]func(*node){
		"sources mounted": func(n *node) {
			n.append("/proc/1/mounts", "/dev/sda1 /run/mellanox/drivers/usr/src ext4 rw,relatime 0 0\n")
		},
		"directory left": func(n *node) { n.file("/run/mellanox/drivers/.lock", "") },
	} {
		n := sickNode(t)
		require.NoError(t, n.open().driverOfAdapters())
		setup(n)
		require.ErrorContains(t, n.open().driverOfAdapters(), "the driver is in a container", name)
	}
}

func TestReloadIBDriverKeepsTheNetworkOfTheHost(t *testing.T) {
	const one = "/sys/class/infiniband/mlx5_1/ports/1/state"
	for _, driver := range []string{"mlx5_core", "ice"} {
		n := ibNode(t)
		n.file(one, "1: DOWN\n")
		n.executable(openibd, "restart", answer{Restore: []string{n.path(one), "4: ACTIVE\n"}})
		n.tool("modprobe", "-a mlx5_core mlx5_ib ib_core ib_uverbs ib_umad", answer{Restore: []string{n.path(one), "4: ACTIVE\n"}})
		n.link("/sys/class/net/bond0/lower_eth0", "../eth0")
		n.link("/sys/class/net/eth0/device/driver", "../../../bus/pci/drivers/"+driver)
		require.Equal(t, protocol.ExitOK, n.op("remedy", "ReloadIBDriver").ExitCode)
		if driver == "mlx5_core" {
			require.NoFileExists(t, n.path(openibd+".log"))
			require.Len(t, n.calls("modprobe"), 2)
		} else {
			require.FileExists(t, n.path(openibd+".log"))
			require.Empty(t, n.calls("modprobe"))
		}
		require.Equal(t, []string{"is-active opensm opensmd ibacm", "stop opensm", "start opensm"}, n.calls("systemctl"))
	}
}

func TestStartGPFS(t *testing.T) {
	act(t, sickNode, "repair", "startgpfs", callsOf(map[string][]string{"mmstartup": {""}}), []outcome{
		{"well", func(n *node) { n.mmState(gpfsActive) }, "", protocol.ResultPassed, 0, "nothing to do: GPFS is active", true},
		{"down", func(n *node) { n.mmState("down", "arbitrating", gpfsActive) }, "", protocol.ResultPassed, 0, `GPFS is active, was "down"`, false},
		{"on its way", func(n *node) { n.mmState("arbitrating", "arbitrating", gpfsActive) }, "", protocol.ResultPassed, 0, "GPFS is active", true},
		{"not in a cluster", func(n *node) { n.tool("mmgetstate", "-Y", answer{Exit: 1, Err: "not in a cluster"}) }, "", protocol.ResultError, 70, "not in a cluster", true},
		{"does not start", func(n *node) { n.tool("mmstartup", "", answer{Exit: 1, Err: "no quorum"}) }, "", protocol.ResultFailed, 3, "mmstartup: exit status 1: no quorum", false},
		{"no effect", nil, "", protocol.ResultFailed, 3, `GPFS is "down", was "down"`, false},
		{"effect unknown", func(n *node) {
			n.tool("mmgetstate", "-Y", answer{Out: "mmgetstate::HEADER:version:state:\nmmgetstate::0:1:down:\n"}, answer{Exit: 1})
		}, "", protocol.ResultError, 70, "GPFS was started, what became of it is unknown", false},
	})
}

// unmountedNode is a node whose file system fs1 is not mounted, and which mmmount mounts.
func unmountedNode(t *testing.T) *node {
	n := sickNode(t)
	n.mmState(gpfsActive)
	n.file("/etc/fstab", "/dev/fs1 /gpfs/fs1 gpfs rw,noauto 0 0\n")
	whole := n.content("/proc/1/mounts")
	n.file("/proc/1/mounts", "/dev/sda1 / ext4 rw 0 0\n")
	for _, what := range []string{"all", "fs1", "/gpfs/fs1"} {
		n.tool("mmmount", what, answer{Restore: []string{n.path("/proc/1/mounts"), whole}})
	}
	return n
}

func TestMountGPFS(t *testing.T) {
	mounted := func(n *node) { n.append("/proc/1/mounts", "fs1 /gpfs/fs1 gpfs rw 0 0\n") }
	// A stat that fails once is what a stale mount gives until it was mounted anew.
	stale := func(n *node) {
		mounted(n)
		n.tool("stat", "-f -c %T -- /gpfs/fs1", answer{Exit: 1, Err: "Stale file handle"}, answer{Out: "gpfs\n"})
		n.tool("mmumount", "fs1", answer{Restore: []string{n.path("/proc/1/mounts"), "/dev/sda1 / ext4 rw 0 0\n"}})
		n.link("/proc/1/ns/mnt", "mnt:[1]")
		n.file("/proc/1/mountinfo", "30 1 0:50 / /gpfs/fs1 rw shared:9 - gpfs fs1 rw\n")
	}
	container := func(line string) func(*node) {
		return func(n *node) {
			stale(n)
			n.link("/proc/42/ns/mnt", "mnt:[2]")
			n.file("/proc/42/mountinfo", line)
		}
	}
	act(t, unmountedNode, "repair", "MountGpfs", callsOf(map[string][]string{"mmmount": {""}, "mmumount": {""}}), []outcome{
		{"well", mounted, "", protocol.ResultPassed, 0, "nothing to do: /gpfs/fs1 is mounted and answers", true},
		{"one is well", mounted, "/dev/fs1", protocol.ResultPassed, 0, "nothing to do", true},
		{"all", nil, "", protocol.ResultPassed, 0, "/gpfs/fs1 is mounted and answers", false},
		{"one by name", nil, "fs1", protocol.ResultPassed, 0, "/gpfs/fs1 is mounted", false},
		{"one by mount point", nil, "/gpfs/fs1", protocol.ResultPassed, 0, "/gpfs/fs1 is mounted", false},
		{"without a list", func(n *node) { n.remove("/etc/fstab") }, "", protocol.ResultPassed, 0, "/gpfs/fs1 is mounted", false},
		{"complains, and is mounted", func(n *node) {
			mounted(n)
			n.remove("/etc/fstab")
			n.tool("mmmount", "all", answer{Exit: 1, Err: "already mounted"})
		}, "", protocol.ResultPassed, 0, "is mounted and answers", false},
		{"stale", stale, "", protocol.ResultPassed, 0, "/gpfs/fs1 is mounted and answers", false},
		{"stale, seen by a container that follows", container("31 1 0:50 / /host/gpfs/fs1 rw master:9 - gpfs fs1 rw\n"), "", protocol.ResultPassed, 0, "is mounted and answers", false},
		{"stale, another file system in a container", container("31 1 0:51 / /data rw - gpfs fs2 rw\n"), "", protocol.ResultPassed, 0, "is mounted and answers", false},
		{"stale, in a container", container("31 1 0:50 /user /data rw - gpfs /dev/fs1 rw\n"), "", protocol.ResultFailed, 3, "refused: process 42 (python) has it in its container as /data", true},
		{"stale, held", func(n *node) {
			stale(n)
			n.file("/proc/42/mountinfo", n.content("/proc/1/mountinfo"))
			n.link("/proc/42/fd/9", "/gpfs/fs1/data")
		}, "", protocol.ResultFailed, 3, "refused: process 42 (python) holds /gpfs/fs1/data", true},
		{"stale, worked in", func(n *node) {
			stale(n)
			n.file("/proc/42/mountinfo", n.content("/proc/1/mountinfo"))
			n.link("/proc/42/cwd", "/gpfs/fs1")
		}, "", protocol.ResultFailed, 3, "holds /gpfs/fs1", true},
		{"stale, cannot be unmounted", func(n *node) {
			stale(n)
			n.tool("stat", "-f -c %T -- /gpfs/fs1", answer{Exit: 1})
			n.tool("mmumount", "fs1", answer{Exit: 1, Err: "device is busy"})
		}, "", protocol.ResultFailed, 3, "mmumount: exit status 1: device is busy; /gpfs/fs1 does not answer", false},
		{"GPFS down", func(n *node) { n.mmState("down") }, "", protocol.ResultFailed, 3, `refused: GPFS is "down"`, true},
		{"does not mount", func(n *node) { n.tool("mmmount", "fs1", answer{Exit: 1, Err: "no such device"}) }, "fs1", protocol.ResultFailed, 3, "no such device; fs1 is not mounted", false},
		{"no effect", func(n *node) { n.tool("mmmount", "fs1", answer{}) }, "fs1", protocol.ResultFailed, 3, "fs1 is not mounted", false},
		{"mounted, and does not answer", func(n *node) { n.tool("stat", "-f -c %T -- /gpfs/fs1", answer{Exit: 1}) }, "", protocol.ResultFailed, 3, "/gpfs/fs1 does not answer", false},
	})
}

func TestRepairOfTheSiteWins(t *testing.T) {
	t.Parallel()
	n := sickNode(t)
	n.executable(repairsDir+"/MountGpfs", "", answer{Out: "mounted our way"})
	r := n.op("repair", "MountGpfs", "--device", "fs1")
	require.Equal(t, protocol.ExitOK, r.ExitCode, "%+v", r)
	require.Equal(t, "mounted our way", r.Detail)
	require.Empty(t, n.calls("mmgetstate"))

	n.mode(repairsDir+"/MountGpfs", 0o777)
	require.Equal(t, protocol.ExitUnknown, n.op("repair", "MountGpfs").ExitCode, "one that must not run hides the built-in one as well")
}

func TestDevicesOfActions(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		action, name, device string
		ok                   bool
	}{
		{"repair", "MountGpfs", "", true},
		{"repair", "MountGpfs", "/gpfs/fs-1.a_b", true},
		{"repair", "mountgpfs", "fs1", true},
		{"repair", "MountGpfs", "-a", false},
		{"repair", "MountGpfs", "fs1 fs2", false},
		{"repair", "MountGpfs", "$(x)", false},
		{"repair", "MOUNTGPFS", "fs1;x", false},
		{"remedy", "ReloadIBDriver", "mlx5_0", true},
		{"remedy", "ReloadIBDriver", "../x", false},
		{"remedy", "ReloadIBDriver", "-r", false},
		{"remedy", "ResetGPU", "7", true},
		{"remedy", "ResetGPU", "mlx5_0", false},
		{"remedy", "PruneImages", "anything", true},
	} {
		_, _, err := parse([]string{tc.action, tc.name, "--device", tc.device}, new(strings.Builder))
		require.Equal(t, tc.ok, err == nil, "%+v: %v", tc, err)
	}
}

func TestActionInterrupted(t *testing.T) {
	n := sickNode(t)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		defer cancel()
		r := n.opContext(ctx, "repair", "StartGpfs")
		require.Equal(t, protocol.ExitUnknown, r.ExitCode, "%+v", r)
		require.Contains(t, r.Detail, "what became of it is unknown")
	})
}

func FuzzActionParsers(f *testing.F) {
	for _, seed := range []string{
		waiterTable("44.3", "1e300", "NaN"), fabricReport("Completed", "Success"), dcgmTable("Fail - GPU 1"), "GPU 0\nFabric\nState : x",
		"30 1 0:50 / /gpfs/fs1 rw shared:9 - gpfs fs1 rw\n", "VERBS RDMA status: started\n", "clusters: [{cluster: {server: \"https://a:1\"}}]",
		"bond0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\n", "10.0.0.1 0x1 0x2 aa * bond0\n", "mmgetstate::HEADER:nodeName:state\nmmgetstate:::n:active\n",
		"NVRM: Xid (PCI:0000:3b:00): 154, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var w waiterLog
		var fab fabric
		var rec recoveries
		for line := range strings.Lines(text) {
			w.line(line)
			fab.line(line)
			rec.line(line)
		}
		require.LessOrEqual(t, w.late, w.all)
		require.LessOrEqual(t, len(fab.faults()), fab.known())
		require.LessOrEqual(t, len([]rune(rec.text(""))), maxDetail)
		failures, tests := parseDCGM(text)
		require.LessOrEqual(t, len(failures), tests)
		for _, m := range parseMountInfo(text) {
			require.NotEmpty(t, m.fstype)
		}
		for _, gateway := range parseGateways(text) {
			parseARP(text, gateway)
			require.NotEqual(t, "0.0.0.0", gateway)
		}
		parseServer(text)
		require.Equal(t, listsModule(text, "nvidia-peermem"), listsModule(text+"\n", "nvidia_peermem"))
		sick := [][]string{{strings.TrimSpace(text)}}
		if mask := gpuMask(sick[0], sick, new(expectation)); mask != "" {
			require.Equal(t, 1, strings.Count(mask, "1"), fmt.Sprint(sick))
		}
	})
}
