package host

import (
	"context"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"aegis.io/aegis/jobs/protocol"
)

// crash is a file that a kernel has left when it crashed.
type crash struct {
	file string
	at   time.Time
}

func (c crash) String() string {
	return fmt.Sprintf("%.200s of %s", c.file, c.at.UTC().Format(time.RFC3339))
}

// crashDirs returns where a crash leaves its records: the firmware's store, where systemd moves them from there, and the
// folder of the dumps.
func crashDirs() []string {
	return []string{"/sys/fs/pstore", "/var/lib/systemd/pstore", "/var/crash"}
}

// crashDepth is how many folders down a dump lies.
const crashDepth = 2

// newestCrash returns the newest record of a crash, an empty one where there is none.
func (h *host) newestCrash() (crash, error) {
	var newest crash
	for _, dir := range crashDirs() {
		if err := h.findCrash(dir, crashDepth, &newest); err != nil {
			return newest, err
		}
	}
	return newest, nil
}

func (h *host) findCrash(dir string, depth int, newest *crash) error {
	names, err := h.names(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		file := path.Join(dir, name)
		info, err := h.stat(file)
		switch {
		case isAbsent(err):
			continue
		case err != nil:
			return err
		case info.IsDir() && depth > 0:
			if err := h.findCrash(file, depth-1, newest); err != nil {
				return err
			}
		case isCrash(name, info) && info.ModTime().After(newest.at):
			*newest = crash{file, info.ModTime()}
		}
	}
	return nil
}

// isCrash leaves out what lies beside the records of crashes: the console and the like of a boot that ended well, the crash
// kernel that every boot loads, and the reports of programs.
func isCrash(name string, info fs.FileInfo) bool {
	for _, prefix := range []string{"console-", "pmsg-", "ftrace-", "kexec_cmd", "kdump_lock", "."} {
		if strings.HasPrefix(name, prefix) {
			return false
		}
	}
	program := slices.Contains([]string{".crash", ".upload", ".uploaded", ".lock"}, path.Ext(name)) && !strings.HasPrefix(name, "linux-image")
	return info.Mode().IsRegular() && !program
}

// crashFinding looks for a crash since the time that the caller gave.
func crashFinding(_ context.Context, h *host, e *expectation) finding {
	if e.since.IsZero() {
		return skipped("no time is given since which a crash counts")
	}
	newest, err := h.newestCrash()
	switch {
	case err != nil:
		return broken("%v", err)
	case newest.file == "":
		return passed("there is no record of a crash")
	case newest.at.After(e.since):
		return failed(protocol.ExitUnknown, "the kernel has crashed: %s", newest)
	}
	return passed("the last record of a crash is %s", newest)
}
