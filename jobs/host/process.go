package host

import (
	"errors"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

var pidName = regexp.MustCompile(`^[0-9]+$`)

// pids returns the processes of the host.
func (h *host) pids() ([]string, error) {
	names, err := h.names("/proc")
	return slices.DeleteFunc(names, func(n string) bool { return !pidName.MatchString(n) }), err
}

// unused returns an error that names the first process which has a file open that the function picks. A process with one of
// the harmless names may. What cannot be looked at is an error, since it may be held; a process that has ended holds nothing.
func (h *host) unused(picks func(file string) bool, harmless ...string) error {
	pids, err := h.pids()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		file, err := h.openFile(pid, picks)
		if err != nil {
			return err
		}
		if file == "" {
			continue
		}
		if name := h.processName(pid); !slices.Contains(harmless, name) {
			return obstacle("process %s (%.64s) holds %s", pid, name, file)
		}
	}
	return nil
}

// openFile returns a file that the process has open and that the function picks.
func (h *host) openFile(pid string, picks func(file string) bool) (string, error) {
	fds := "/proc/" + pid + "/fd"
	names, err := h.names(fds)
	if err != nil {
		return "", ignoreGone(err)
	}
	for _, fd := range names {
		target, err := h.root.Readlink(fds[1:] + "/" + fd)
		if ignoreGone(err) != nil {
			return "", err
		}
		if picks(target) {
			return target, nil
		}
	}
	return "", nil
}

// runs returns the process of the name, cut as the kernel cuts it; nothing where none runs.
func (h *host) runs(name string) (string, error) {
	pids, err := h.pids()
	for _, pid := range pids {
		stat, err := h.read("/proc/" + pid + "/stat")
		_, state, ok := strings.Cut(stat, "("+name+") ")
		if err != nil || !ok {
			continue
		}
		// A zombie runs no more.
		if !strings.HasPrefix(state, "Z") && !strings.HasPrefix(state, "X") {
			return pid, nil
		}
	}
	return "", err
}

func (h *host) processName(pid string) string {
	name, err := h.readLine("/proc/" + pid + "/comm")
	if err != nil {
		return "already gone"
	}
	return name
}

// ignoreGone takes it for no error that a process has ended in the meantime, or is a zombie.
func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) || errors.Is(err, syscall.EINVAL) {
		return nil
	}
	return err
}
