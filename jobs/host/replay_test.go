package host

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/jobs/protocol"
)

// captureAll turns the answers of the stubs of a node into captures, and takes the stubs away.
func (n *node) captureAll() {
	for file, calls := range n.tools {
		for call, answers := range calls {
			tool := filepath.Base(file)
			if strings.HasPrefix(file, "/etc/aegis/") {
				tool = file
			}
			name := capturesDir + "/" + strings.ReplaceAll(strings.TrimSpace(tool+" "+call), "/", ":")
			n.file(name, answers[0].Out)
			n.file(name+".err", answers[0].Err)
			n.file(name+".exit", strconv.Itoa(answers[0].Exit)+"\n")
		}
		n.remove(file)
	}
}

// against runs an operation as somebody does who tries it on captured outputs.
func (n *node) against(args ...string) protocol.Report {
	n.stdout.Reset()
	o := Options{Node: "n1", Stdout: &n.stdout, Stderr: &n.stderr}
	code := Run(n.t.Context(), append(args, "--root", n.root), o)
	lines := strings.Split(strings.TrimSpace(n.stdout.String()), "\n")
	var report protocol.Report
	require.NoError(n.t, json.Unmarshal([]byte(lines[len(lines)-1]), &report), n.stdout.String())
	require.Equal(n.t, code, report.ExitCode)
	return report
}

func TestOperationsAgainstADirectory(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		sick func(*node)
		args []string
		code int
		want string
	}{
		{"healthy", func(*node) {}, gpuArgs(), 0, "checks passed"},
		{"sick", func(n *node) { n.tool(smi, queryHealth, answer{Out: "some rows\n", Err: "no GPU\n", Exit: 9}) }, gpuArgs(), 23, "exit status 9: no GPU"},
		{"tool not captured", func(n *node) { n.uninstall(smi); delete(n.tools, "/usr/bin/"+smi) }, gpuArgs(), 70, "nvidia-smi is not installed"},
		{"call not captured", func(n *node) { delete(n.tools["/usr/bin/"+smi], "-q -d ECC") }, gpuArgs(), 70, `"nvidia-smi -q -d ECC" was not captured`},
		{"profile", func(n *node) { n.file(defaultProfile+"/p.yaml", "cpus: 99\n") }, []string{"healthcheck", "--profile", "p"}, 4, "99 CPUs expected"},
		{"site check", func(n *node) {
			n.executable(checksDir+"/burn", "", answer{Out: "hot\n", Exit: 23})
		}, gpuArgs(), 23, "site:burn failed: hot"},
		{"diagnose", func(*node) {}, []string{"diagnose"}, 0, "sections collected"},
		{"reboot", func(n *node) { n.tool("systemctl", "reboot", answer{}) }, []string{"reboot", "--boot-id", boot}, 0, "a directory does not go down"},
		{"reboot without systemd", func(n *node) { n.file("/proc/sysrq-trigger", "") }, []string{"reboot", "--boot-id", boot}, 0, "sysrq was accepted"},
		{"remedy", func(n *node) {
			n.smi(queryOn, "0, Enabled\n1, Enabled\n")
		}, []string{"remedy", "EnableGpuPersistence"}, 0, "nothing to do"},
		{"no directory", func(*node) {}, gpuArgs(), 70, "open host root"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := newGPUNode(t)
			tc.sick(n)
			keep := n.tools[checksDir+"/burn"] != nil
			n.captureAll()
			if keep {
				// It is found, and not executed.
				n.file(checksDir+"/burn", "#!/bin/false\n")
				n.mode(checksDir+"/burn", 0o755)
			}
			if tc.name == "no directory" {
				n.remove("/")
			}
			r := n.against(tc.args...)
			require.Equal(t, tc.code, r.ExitCode, "%+v", r)
			require.Contains(t, r.Detail, tc.want)
		})
	}
}

func TestRootFlag(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ args, rest, dir string }{
		{"diagnose", "diagnose", ""},
		{"--root d diagnose", "diagnose", "d"},
		{"remedy X --root=d --device 0", "remedy X --device 0", "d"},
		{"remedy X -root d", "remedy X", "d"},
		{"remedy X --roots d", "remedy X --roots d", ""},
	} {
		args := strings.Fields(tc.args)
		rest, dir, err := rootFlag(args)
		require.NoError(t, err)
		require.Equal(t, tc.rest, strings.Join(rest, " "))
		require.Equal(t, tc.dir, dir)
		require.Equal(t, tc.args, strings.Join(args, " "), "the arguments themselves stay")
	}
	for _, args := range [][]string{{"diagnose", "--root"}, {"--root="}, {"diagnose", "--root", ""}} {
		_, _, err := rootFlag(args)
		require.EqualError(t, err, "--root needs a directory", "%q", args)
		n := newNode(t)
		require.Equal(t, protocol.ExitUsage, n.op(args...).ExitCode)
	}
}

// Nothing outside the directory is read: a root that is asked for and is not there ends the operation.
func TestAgainstADirectoryLeavesNoTerminationMessage(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.captureAll()
	log := filepath.Join(t.TempDir(), "log")
	require.NoError(t, os.WriteFile(log, []byte("kept"), 0o600))
	require.Equal(t, protocol.ExitOK, Run(t.Context(), []string{"healthcheck", "--profile", "default", "--root", n.root},
		Options{Stdout: &n.stdout, Stderr: &n.stderr, TerminationLog: log}))
	text, err := os.ReadFile(log)
	require.NoError(t, err)
	require.Equal(t, "kept", string(text))
}

func TestAgainstADirectoryOrdersNothingOfTheKernel(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		file string
		code int
		args []string
	}{
		{"/proc/sysrq-trigger", 0, []string{"reboot", "--boot-id", boot}},
		{"/proc/sysrq-trigger", 0, []string{"shutdown", "--boot-id", boot}},
		{"/proc/sys/vm/drop_caches", 0, []string{"remedy", "DropCache"}},
	} {
		n := newNode(t)
		n.emptyDir("/run/aegis")
		n.file(tc.file, "0\n")
		n.captureAll()
		r := n.against(tc.args...)
		require.Equal(t, tc.code, r.ExitCode, "%q: %+v", tc.args, r)
		require.Equal(t, "0\n", n.content(tc.file), "%q", tc.args)
	}
}

// Nothing but reading is tried: were it not refused, an order would reach this machine.
func TestAgainstARunningMachineIsRefused(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	code := Run(t.Context(), append(gpuArgs(), "--root", "/"), Options{Stdout: &n.stdout, Stderr: &n.stderr})
	require.Equal(t, protocol.ExitUnknown, code)
	require.Contains(t, n.stdout.String(), "--root / is the root of a running machine")
}

// A pipe among the files would be waited for, and a device would answer for this machine.
func TestAgainstADirectoryReadsRegularFilesOnly(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.captureAll()
	n.remove("/proc/meminfo")
	require.NoError(t, syscall.Mkfifo(n.path("/proc/meminfo"), 0o600))
	r := n.against("healthcheck", "--profile", "default")
	require.Contains(t, detail(t, r, checkMemory), "/proc/meminfo is not a regular file")
}
