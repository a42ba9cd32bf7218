package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/jobs/protocol"
)

func (n *node) kill(pid string) {
	id, err := strconv.Atoi(pid)
	require.NoError(n.t, err)
	require.NoError(n.t, syscall.Kill(id, syscall.SIGKILL))
}

func (n *node) open() *host {
	h, err := openHost(n.options)
	require.NoError(n.t, err)
	n.t.Cleanup(func() { require.NoError(n.t, h.close()) })
	return h
}

func TestDefaultsComeFromTheEnvironment(t *testing.T) {
	t.Setenv("AEGIS_HOST_ROOT", "/host")
	t.Setenv("NODE_NAME", "n7")
	o := Options{}.withDefaults()
	require.Equal(t, "/host", o.Root)
	require.Equal(t, "n7", o.Node)
	require.Equal(t, "/dev/termination-log", o.TerminationLog)
	require.Equal(t, "n8", Options{Node: "n8"}.withDefaults().Node)
	t.Setenv("AEGIS_HOST_ROOT", "")
	require.Equal(t, "/", Options{}.withDefaults().Root)
}

func TestRunWithoutHostRoot(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.options.Root = filepath.Join(n.root, "nowhere")
	r := n.op("diagnose")
	require.Equal(t, protocol.ExitUnknown, r.ExitCode)
	require.Contains(t, r.Detail, "open host root")
}

func TestCommandRunsInTheRootOfTheHost(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.options.noChroot = false
	cmd, err := n.open().command(t.Context(), command{path: "/usr/bin/systemctl", args: []string{"is-active", "kubelet"}, env: []string{"A=b"}})
	require.NoError(t, err)
	require.Equal(t, &syscall.SysProcAttr{Chroot: n.root, Setpgid: true}, cmd.SysProcAttr)
	require.Equal(t, "/usr/bin/systemctl", cmd.Path)
	require.Equal(t, []string{"/usr/bin/systemctl", "is-active", "kubelet"}, cmd.Args)
	require.Equal(t, "/", cmd.Dir)
	require.Equal(t, []string{"PATH=" + searchPath, "LC_ALL=C", "SYSTEMD_IGNORE_CHROOT=1", "A=b"}, cmd.Env)
	require.Nil(t, cmd.Stdin)
}

func TestToolIsKilledWithItsChildren(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	pid := filepath.Join(t.TempDir(), "pid")
	n.tool("hang", "", answer{Hang: pid})
	n.options.limit = 2 * time.Second
	started := time.Now()
	_, err := n.open().run(t.Context(), time.Hour, "hang")
	require.ErrorIs(t, err, errTimeout)
	require.True(t, blames(err))
	require.Less(t, time.Since(started), time.Minute)
	requireDead(t, pid)
}

func TestToolIsKilledWithTheOperation(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	pid := filepath.Join(t.TempDir(), "pid")
	n.tool("hang", "", answer{Hang: pid})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err := n.open().run(ctx, time.Hour, "hang")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.False(t, blames(err), "an interruption says nothing about the hardware")
	requireDead(t, pid)
}

func TestToolOutput(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.tool("huge", "", answer{Out: strings.Repeat("x", 1<<20), Repeat: 20})
	n.tool("full", "", answer{Out: strings.Repeat("x", maxOutput)})
	n.tool("sad", "", answer{Out: "partly", Err: "\n  no\x1bpe\n", Exit: 3})
	h := n.open()
	out, err := h.run(t.Context(), time.Minute, "huge")
	require.ErrorIs(t, err, errTruncated)
	require.Len(t, out, maxOutput)
	out, err = h.run(t.Context(), time.Minute, "full")
	require.NoError(t, err)
	require.Len(t, out, maxOutput)
	out, err = h.run(t.Context(), time.Minute, "sad")
	require.EqualError(t, err, "sad: exit status 3: nope; partly", "the words of both")
	require.Equal(t, "partly", out)
	code, exited := exitStatus(err)
	require.True(t, exited)
	require.Equal(t, 3, code)
}

func TestLookup(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.executable("/opt/driver/bin/real", "", answer{Out: "real"})
	n.link("/usr/bin/absolute", "/opt/driver/bin/real")
	n.link("/usr/bin/relative", "../../../../opt/driver/bin/real")
	n.link("/usr/bin/loop", "loop")
	n.link("/usr/bin/dangling", "/opt/nothing")
	n.file("/usr/bin/plain", "")
	require.NoError(t, os.Mkdir(n.path("/usr/bin/directory"), 0o755))
	n.link("/usr/bin/outside", "../../../../../../../../bin/sh")
	h := n.open()
	for _, tool := range []string{"absolute", "relative"} {
		out, err := h.run(t.Context(), time.Minute, tool)
		require.NoError(t, err)
		require.Equal(t, "real", out)
	}
	for _, tool := range []string{"loop", "dangling", "plain", "directory", "outside", "nothing"} {
		_, err := h.run(t.Context(), time.Minute, tool)
		absent, ok := missing(err)
		require.True(t, ok, "%s: %v", tool, err)
		require.Equal(t, tool, absent.tool)
	}
}

func TestLinksDoNotLeaveTheRoot(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte("secret"), 0o600))
	n := newNode(t)
	n.file("/in", "inside\n")
	n.link("/absolute", secret)
	n.link("/up", strings.Repeat("../", 30)+secret[1:])
	n.link("/fine", "/../../in")
	n.link("/dir", "/")
	h := n.open()
	for _, name := range []string{"/absolute", "/up", "/dir/absolute", "/../" + secret} {
		_, err := h.read(name)
		require.ErrorIs(t, err, os.ErrNotExist, name)
	}
	for _, name := range []string{"/fine", "in", "/dir/dir/fine", "/../in"} {
		text, err := h.readLine(name)
		require.NoError(t, err, name)
		require.Equal(t, "inside", text)
	}
	require.ErrorIs(t, h.write("/absolute", "x", os.O_TRUNC), os.ErrNotExist)
	require.ErrorIs(t, h.write("/new", "x", os.O_TRUNC), os.ErrNotExist, "nothing is created")
}

func TestReadIsBounded(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.file("/big", strings.Repeat("x", maxFile+1))
	_, err := n.open().read("/big")
	require.ErrorIs(t, err, errTruncated)
}

func TestSiteExecutableMustBelongToItsOwner(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.file("/x", "")
	h := n.open()
	for mode, ok := range map[os.FileMode]bool{0o755: true, 0o500: true, 0o775: false, 0o757: false, 0o644: false} {
		n.mode("/x", mode)
		require.Equal(t, ok, h.siteExecutable("/x") == nil, "%o", mode)
	}
	require.Error(t, h.siteExecutable("/usr"))
}

func TestReportGoesToTheTerminationLog(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.options.TerminationLog = filepath.Join(t.TempDir(), "log")
	require.NoError(t, os.WriteFile(n.options.TerminationLog, []byte(strings.Repeat("old", 5000)), 0o644))
	r := n.op("repair", "Nothing")
	data, err := os.ReadFile(n.options.TerminationLog)
	require.NoError(t, err)
	var logged protocol.Report
	require.NoError(t, json.Unmarshal(data, &logged))
	require.Equal(t, r, logged)

	n.options.TerminationLog = t.TempDir()
	require.Equal(t, protocol.ExitSkipped, n.op("repair", "Nothing").ExitCode)
	require.Contains(t, n.stderr.String(), "write termination message")
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("closed") }

func TestReportWithoutStdout(t *testing.T) {
	t.Parallel()
	log := filepath.Join(t.TempDir(), "log")
	require.NoError(t, os.WriteFile(log, nil, 0o644))
	var stderr strings.Builder
	err := emit(&protocol.Report{Result: protocol.ResultPassed}, Options{Stdout: brokenWriter{}, Stderr: &stderr, TerminationLog: log})
	require.ErrorContains(t, err, "print: closed")
	data, err := os.ReadFile(log)
	require.NoError(t, err)
	require.NotEmpty(t, data, "the termination message is left all the same")
}

// What is decided by stays in a report that has to be cut.
func TestShortenKeepsTheFields(t *testing.T) {
	t.Parallel()
	report := protocol.Report{
		Result: protocol.ResultFailed, ExitCode: 2, Hardware: protocol.HardwareGPU, Recovery: strings.Repeat("<", maxAction),
		Detail: strings.Repeat("<", maxDetail),
	}
	for range 30 {
		report.Refusals = append(report.Refusals, strings.Repeat("<", maxDetail))
	}
	text, err := shorten(report)
	require.NoError(t, err)
	require.LessOrEqual(t, len(text), maxTermination)
	var short protocol.Report
	require.NoError(t, json.Unmarshal(text, &short))
	require.Len(t, short.Refusals, 1)
	require.NotEmpty(t, short.Refusals[0])
	require.Equal(t, []any{report.ExitCode, report.Hardware, report.Recovery}, []any{short.ExitCode, short.Hardware, short.Recovery})
	require.Len(t, report.Refusals, 30, "the report itself stays whole")
	require.Len(t, report.Refusals[0], maxDetail)
}

func TestShorten(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		checks, detail int
		text           string
		kept           int
		failedDetail   bool
	}{
		{17, 10, "x", 17, true},
		{17, 400, "x", 17, true},
		{17, 400, "é", 17, true},
		{17, 400, `"`, 17, true},
		{40, 400, "x", 40, false},
		{200, 400, "x", 67, false},
		{5000, 400, "x", 0, false},
	} {
		report := protocol.Report{Action: "healthcheck", Node: "n1", BootID: boot, Result: protocol.ResultFailed, ExitCode: 2, Detail: strings.Repeat(tc.text, maxDetail)}
		for i := range tc.checks {
			result := []string{protocol.ResultPassed, protocol.ResultSkipped, protocol.ResultFailed}[i%3]
			report.Checks = append(report.Checks, protocol.Check{Name: fmt.Sprint("c", i), Result: result, Detail: strings.Repeat(tc.text, tc.detail)})
		}
		before, err := json.Marshal(report)
		require.NoError(t, err)
		text, err := shorten(report)
		require.NoError(t, err)
		require.LessOrEqual(t, len(text), maxTermination)
		var short protocol.Report
		require.NoError(t, json.Unmarshal(text, &short))
		require.Equal(t, report.ExitCode, short.ExitCode)
		require.Equal(t, "n1", short.Node)
		require.LessOrEqual(t, len(short.Checks), tc.checks)
		if tc.kept <= 40 {
			require.Len(t, short.Checks, tc.kept)
		}
		if tc.failedDetail {
			require.NotEmpty(t, short.Checks[2].Detail)
		}
		after, err := json.Marshal(report)
		require.NoError(t, err)
		require.Equal(t, string(before), string(after), "the report itself stays whole")
	}
}

func TestOneLine(t *testing.T) {
	t.Parallel()
	require.Equal(t, "a b c", oneLine("a\nb\tc\x00\x1b\xff "))
	require.Len(t, oneLine(strings.Repeat("x", 10*maxDetail)), maxDetail)
}

func FuzzShorten(f *testing.F) {
	f.Add("text", 3, 100)
	f.Add("\x00\xff\u2028\"<>&", 100, 2000)
	f.Fuzz(func(t *testing.T, text string, checks, repeat int) {
		long := strings.Repeat(text, max(0, min(repeat, 4096/max(1, len(text)))))
		report := protocol.Report{Node: "n1", Result: protocol.ResultFailed, Detail: oneLine(long)}
		for range max(0, min(checks, 500)) {
			report.Checks = append(report.Checks, protocol.Check{Name: truncate(text, 64), Result: protocol.ResultFailed, Detail: long})
		}
		out, err := shorten(report)
		require.NoError(t, err)
		require.LessOrEqual(t, len(out), maxTermination)
		require.True(t, json.Valid(out))
	})
}

func FuzzArguments(f *testing.F) {
	f.Add("reboot --boot-id x")
	f.Add("remedy --device 0 ResetGPU")
	f.Add("repair ../x")
	f.Add("healthcheck --profile p --gpus 8 --require a,b")
	f.Fuzz(func(t *testing.T, line string) {
		_, op, err := parse(strings.Split(line, " "), io.Discard)
		if err != nil {
			return
		}
		switch op := op.(type) {
		case power:
			require.NotEmpty(t, op.bootID)
		case remedy:
			require.Regexp(t, executableName, op.name)
		case repair:
			require.Regexp(t, executableName, op.name)
		case healthcheck:
			require.Regexp(t, profileName, op.profile)
		case diagnose:
		default:
			require.Fail(t, "no operation")
		}
	})
}
