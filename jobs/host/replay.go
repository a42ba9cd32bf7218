package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// capturesDir has what the tools of a host have printed, where an operation runs against a directory: a file for each call, named by its
// words, with ':' for '/'. What the tool has complained of is in the same name with .err, its exit status with .exit.
const capturesDir = "/captures"

// rootFlag takes the directory to run against from the arguments.
func rootFlag(args []string) (rest []string, dir string, err error) {
	for i, arg := range args {
		name, value, joined := strings.Cut(arg, "=")
		if name != "--root" && name != "-root" {
			continue
		}
		rest = slices.Concat(args[:i], args[min(i+1, len(args)):])
		if !joined {
			value = strings.Join(rest[i:min(i+1, len(rest))], "")
			rest = slices.Delete(rest, i, min(i+1, len(rest)))
		}
		if value == "" {
			return args, "", errors.New("--root needs a directory")
		}
		return rest, value, nil
	}
	return args, "", nil
}

// against returns the options for a run against a directory, in which nothing is executed.
func (o Options) against(dir string) Options {
	o.Root, o.replay = dir, true
	o.kernelSync = func() {}
	o.profileDir = filepath.Join(dir, defaultProfile)
	// The report of such a run is for whoever made it.
	o.TerminationLog = filepath.Join(dir, "none")
	return o
}

// procMagic is the kind of file system that statfs tells for proc.
const procMagic = 0x9fa0

// refuseLive refuses the root of a machine that runs: the operation would act on it.
func (h *host) refuseLive() error {
	live, err := h.live()
	if err != nil {
		return err
	}
	if live {
		return fmt.Errorf("--root %s is the root of a running machine, with the proc of its kernel; copy its files into a directory", h.options.Root)
	}
	return nil
}

// live reports whether the root is that of a machine that runs: the proc of its kernel is there.
func (h *host) live() (bool, error) {
	f, err := h.open("/proc", os.O_RDONLY)
	if isAbsent(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var system syscall.Statfs_t
	if err := errors.Join(syscall.Fstatfs(int(f.Fd()), &system), f.Close()); err != nil {
		return false, fmt.Errorf("/proc: %w", err)
	}
	return system.Type == procMagic, nil
}

// replayedError is the exit status of a tool as it was captured.
type replayedError int

func (e replayedError) Error() string { return "exit status " + strconv.Itoa(int(e)) }

// Exited says that the tool ended by itself.
func (e replayedError) Exited() bool { return true }

// ExitCode returns the status.
func (e replayedError) ExitCode() int { return int(e) }

// captured finds a tool of which a call was captured.
func (h *host) captured(tool string) (place, error) {
	names, err := h.names(capturesDir)
	if err != nil {
		return place{}, err
	}
	if slices.ContainsFunc(names, func(n string) bool { return n == tool || strings.HasPrefix(n, tool+" ") }) {
		return place{host: h, path: tool}, nil
	}
	return place{}, &missingError{tool: tool}
}

// replay answers as the tool did when it was captured.
func (h *host) replay(c command) error {
	call := strings.Join(append([]string{c.path}, c.args...), " ")
	file := filepath.Join(capturesDir, strings.ReplaceAll(call, "/", ":"))
	printed, err := h.read(file)
	switch {
	case isAbsent(err):
		return fmt.Errorf("%q was not captured", call)
	case err != nil:
		return err
	}
	if c.stdout != nil {
		if _, err := c.stdout.Write([]byte(printed)); err != nil {
			return err
		}
	}
	status, err := h.readNumber(file + ".exit")
	switch {
	case err != nil && !isAbsent(err):
		return fmt.Errorf("%s.exit of %s must hold an exit status: %w", file, call, err)
	case status < 0:
		return fmt.Errorf("%s.exit of %s must hold an exit status, and not %d", file, call, status)
	}
	complaint, err := h.read(file + ".err")
	if err != nil && !isAbsent(err) {
		return err
	}
	if status == 0 {
		return nil
	}
	if line := oneLine(firstLine(complaint)); line != "" {
		return &complaintError{replayedError(status), line, complaint}
	}
	return replayedError(status)
}
