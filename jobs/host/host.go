// Package host runs the privileged operations on the node that it is started on: from a container that has the root of
// the host mounted, with the host's own tools.
//
// Every operation ends with a report, on stdout and in the termination message of the container, and with an exit code
// that names the hardware at fault. What could not be found out is said to be so; it never counts as healthy.
package host

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"aegis.io/aegis/jobs/protocol"
)

const (
	defaultTermLog = "/dev/termination-log"
	defaultProfile = "/etc/aegis/profiles"
)

// Options says where an operation runs and where its report goes.
type Options struct {
	// Root is where the root of the host is mounted. The default is the environment variable AEGIS_HOST_ROOT, then "/".
	Root string
	// Node is the name of the node. The default is the environment variable NODE_NAME.
	Node string
	// Stdout takes what was collected and the report, os.Stdout by default.
	Stdout io.Writer
	// Stderr takes usage and what cannot go into the report, os.Stderr by default.
	Stderr io.Writer
	// NotAfter is when an operation that changes the host may not be begun any more, as RFC 3339. The default is the environment variable
	// AEGIS_NOT_AFTER. Empty means that it may be begun at any time.
	NotAfter string
	// TerminationLog is the file of the termination message, /dev/termination-log by default. It may be absent.
	TerminationLog string

	// profileDir holds the profiles, /etc/aegis/profiles by default.
	profileDir string
	// noChroot runs the tools below Root without changing root, which needs no privilege.
	noChroot bool
	// limit, where set, bounds the time of every tool and check.
	limit time.Duration
	// kernelSync writes what waits to be written, syscall.Sync by default.
	kernelSync func()
	// replay answers for the tools from what was captured in Root, and executes nothing.
	replay bool
}

func (o Options) withDefaults() Options {
	o.Root = cmp.Or(o.Root, os.Getenv("AEGIS_HOST_ROOT"), "/")
	o.Node = cmp.Or(o.Node, os.Getenv("NODE_NAME"))
	o.NotAfter = cmp.Or(o.NotAfter, os.Getenv(protocol.NotAfterVariable))
	o.TerminationLog = cmp.Or(o.TerminationLog, defaultTermLog)
	o.profileDir = cmp.Or(o.profileDir, defaultProfile)
	if o.kernelSync == nil {
		o.kernelSync = syscall.Sync
	}
	if o.Stdout == nil {
		o.Stdout = os.Stdout
	}
	if o.Stderr == nil {
		o.Stderr = os.Stderr
	}
	return o
}

// operation is an action whose arguments were found to be right.
type operation interface {
	// run fills in the result, and all that the operation found out.
	run(ctx context.Context, h *host, report *protocol.Report)
}

// Run runs the operation that args name on this host, writes its report, and returns its exit code.
func Run(ctx context.Context, args []string, o Options) int {
	o = o.withDefaults()
	args, dir, err := rootFlag(args)
	if err != nil {
		args = nil
		fmt.Fprintln(o.Stderr, err)
	}
	if dir != "" {
		o = o.against(dir)
	}
	report := execute(ctx, args, o)
	report.Node = o.Node
	if err := emit(report, o); err != nil {
		fmt.Fprintf(o.Stderr, "report of %s: %v\n", report.Action, err)
	}
	return report.ExitCode
}

func execute(ctx context.Context, args []string, o Options) *protocol.Report {
	report := new(protocol.Report)
	action, op, err := parse(args, o.Stderr)
	report.Action = action
	if err != nil {
		conclude(report, broken("%v", err))
		report.ExitCode = protocol.ExitUsage
		return report
	}
	h, err := openHost(o)
	if err != nil {
		conclude(report, broken("open host root: %v", err))
		return report
	}
	defer h.close() //nolint:errcheck // Nothing was written through them.
	report.BootID, err = h.bootID()
	if err != nil {
		conclude(report, broken("the boot of the host is unknown: %v", err))
		return report
	}
	if why := tooLate(action, o.NotAfter, time.Now()); why != "" {
		conclude(report, unavailable(broken("%s", why)))
		return report
	}
	op.run(ctx, h, report)
	h.tell(strings.Join(args[:min(len(args), 2)], " "), finding{result: report.Result})
	return report
}

// tooLate says why the operation may not be begun any more. A Job may start long after it was made: once it is no longer suspended, its
// image is there or the kubelet is back.
func tooLate(action, notAfter string, now time.Time) string {
	if notAfter == "" || !protocol.Changes(action) {
		return ""
	}
	end, err := time.Parse(time.RFC3339, notAfter)
	switch {
	case err != nil:
		return fmt.Sprintf("%s is %.40q, want a time such as 2006-01-02T15:04:05Z", protocol.NotAfterVariable, notAfter)
	case now.After(end):
		return fmt.Sprintf("it was to be begun until %s, and the clock of the host says %s", notAfter, now.UTC().Format(time.RFC3339))
	}
	return ""
}

// bootID returns the boot ID of the host; an empty one is an error, since it would equal nothing.
func (h *host) bootID() (string, error) {
	const file = "/proc/sys/kernel/random/boot_id"
	id, err := h.readLine(file)
	if err == nil && id == "" {
		err = fmt.Errorf("%s is empty", file)
	}
	return id, err
}

// finding is what a check, or a whole operation, came to.
type finding struct {
	result string
	// code is the exit code of what is not passed.
	code   int
	detail string
	// recovery is what the driver of a GPU asks for.
	recovery string
	// refusals say what forbids an action that was not begun.
	refusals []string
	// unneeded says that nothing was wrong.
	unneeded bool
	// unmade says that it was not made, or not as a whole, because a tool is missing.
	unmade bool
}

func passed(format string, args ...any) finding {
	return finding{result: protocol.ResultPassed, code: protocol.ExitOK, detail: fmt.Sprintf(format, args...)}
}

// unneeded is the end of an operation that found in order what it was to put right.
func unneeded(format string, args ...any) finding {
	f := passed("nothing to do: "+format, args...)
	f.unneeded = true
	return f
}

func failed(code int, format string, args ...any) finding {
	return finding{result: protocol.ResultFailed, code: code, detail: fmt.Sprintf(format, args...)}
}

func skipped(format string, args ...any) finding {
	return finding{result: protocol.ResultSkipped, code: protocol.ExitSkipped, detail: fmt.Sprintf(format, args...)}
}

func broken(format string, args ...any) finding {
	return finding{result: protocol.ResultError, code: protocol.ExitUnknown, detail: fmt.Sprintf(format, args...)}
}

// conclude makes the finding the result of the operation.
func conclude(report *protocol.Report, f finding) {
	report.Result = f.result
	report.ExitCode = f.code
	report.Detail = oneLine(f.detail)
	report.Recovery = f.recovery
	report.Unneeded = f.unneeded
	for _, r := range f.refusals {
		report.Refusals = append(report.Refusals, oneLine(r))
	}
	if f.result == protocol.ResultFailed {
		report.Hardware = protocol.HardwareOf(f.code)
	}
}

// firstLine returns the first line of text that is not blank.
func firstLine(text string) string {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			return line
		}
	}
	return ""
}
