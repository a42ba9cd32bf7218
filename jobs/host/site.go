package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"time"

	"aegis.io/aegis/jobs/protocol"
)

// The directories of the host that hold the executables of a site.
const (
	checksDir   = "/etc/aegis/checks.d"
	remediesDir = "/etc/aegis/remedies.d"
	repairsDir  = "/etc/aegis/repairs.d"
)

// siteExecutable checks that the file may be run. The error is fs.ErrNotExist when there is none.
func (h *host) siteExecutable(file string) error {
	info, err := h.stat(file)
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file", file)
	case info.Mode()&0o111 == 0:
		return fmt.Errorf("%s is not executable", file)
	case info.Mode()&0o022 != 0:
		// Whoever may write it would be root on every node.
		return fmt.Errorf("%s may be written by others than its owner", file)
	}
	return nil
}

// runSite runs an executable of the site and reads its exit code.
func (h *host) runSite(ctx context.Context, file string, timeout time.Duration, mounts bool, env ...string) finding {
	if err := h.siteExecutable(file); err != nil {
		return broken("%v", err)
	}
	out := &capped{limit: maxOutput}
	err := h.execute(ctx, command{
		path:    file,
		env:     append([]string{"NODE_NAME=" + h.options.Node}, env...),
		timeout: timeout,
		stdout:  out,
		mounts:  mounts,
	})
	said := oneLine(firstLine(out.String()))
	if err == nil {
		return passed("%s", said)
	}
	code, ok := exitStatus(err)
	switch {
	case ok && code == protocol.ExitSkipped:
		return skipped("%s", said)
	case ok && protocol.HardwareOf(code) != "":
		return failed(code, "%s", said)
	case said != "":
		return broken("%s: %v: %s", path.Base(file), err, said)
	}
	return broken("%s: %v", path.Base(file), err)
}

// siteChecks returns a check for each executable of the directory of site checks.
func (h *host) siteChecks(profile string) ([]check, error) {
	names, err := h.names(checksDir)
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(n string) bool { return !executableName.MatchString(n) })
	var checks []check
	for _, name := range names {
		checks = append(checks, check{
			name:    "site:" + name,
			timeout: 60 * time.Second,
			run: func(ctx context.Context, h *host, _ *expectation) finding {
				return h.runSite(ctx, path.Join(checksDir, name), 60*time.Second, false, "AEGIS_PROFILE="+profile)
			},
		})
	}
	return checks, nil
}

// isAbsent says that a site has configured nothing under the name.
func isAbsent(err error) bool {
	return errors.Is(err, os.ErrNotExist)
}
