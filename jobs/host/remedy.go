package host

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"aegis.io/aegis/jobs/protocol"
)

const (
	remedyTimeout = 10 * time.Minute
	repairTimeout = 55 * time.Minute
)

// builtin is an action that is part of the product. Each looks first whether all is well, and then changes nothing; refuses
// while its precondition does not hold; and looks in the end whether it has had its effect.
type builtin struct {
	// name is compared without case.
	name string
	// needs says what the caller has to do to the node before, nothing where it is empty.
	needs string
	// device is what --device may be. Where it is nil, the flag has no meaning.
	device *regexp.Regexp
	run    func(ctx context.Context, h *host, device string) finding
}

var (
	// ibDevice names an RDMA device; empty means all of them.
	ibDevice = regexp.MustCompile(`^(?:[A-Za-z0-9][A-Za-z0-9._-]{0,62})?$`)
	// fileSystem is a GPFS file system by name or mount point; empty means all of them.
	fileSystem = regexp.MustCompile(`^(?:[A-Za-z0-9/][A-Za-z0-9/._-]{0,254})?$`)
)

// builtinRemedies returns the remedies that need no executable of the site.
func builtinRemedies() []builtin {
	return []builtin{
		{"ResetGPU", "drainGPU", gpuID, resetGPUs},
		{"RestartFabricManager", "drainGPU", nil, restartFabricManager},
		{"EnableGpuPersistence", "", nil, enablePersistence},
		{"ConfigPeerMem", "", nil, configPeerMem},
		{"RestartKubelet", "cordon", nil, restartKubelet},
		{"DropCache", "", nil, dropCache},
		{"PruneImages", "", nil, pruneImages},
		{"BreakDeadlock", "cordon", nil, breakDeadlock},
		{"ReloadIBDriver", "drain", ibDevice, reloadIBDriver},
	}
}

// builtinRepairs returns the repairs that need no executable of the site.
func builtinRepairs() []builtin {
	return []builtin{
		{"StartGpfs", "cordon", nil, startGPFS},
		{"MountGpfs", "cordon", fileSystem, mountGPFS},
	}
}

// named returns the action of the name. There is none where the name belongs to the site.
func named(actions []builtin, name string) (builtin, bool) {
	i := slices.IndexFunc(actions, func(b builtin) bool { return strings.EqualFold(b.name, name) })
	if i < 0 {
		return builtin{}, false
	}
	return actions[i], true
}

// checkDevice refuses a device that could not be one of the action's.
func checkDevice(actions []builtin, name, device string) error {
	b, ok := named(actions, name)
	if ok && b.device != nil && !b.device.MatchString(device) {
		return fmt.Errorf("--device %.64q is nothing that %s can act on", device, b.name)
	}
	return nil
}

// remedy changes one thing on the host that a fault is known to go away with, and looks whether it did.
type remedy struct {
	name   string
	device string
}

func parseRemedy(fs *flag.FlagSet, args []string) (operation, error) {
	var r remedy
	fs.StringVar(&r.device, "device", "", "the device to act on, all where it is empty")
	var err error
	if r.name, err = parseNamed(fs, args); err != nil {
		return nil, err
	}
	return r, checkDevice(builtinRemedies(), r.name, r.device)
}

func (r remedy) run(ctx context.Context, h *host, report *protocol.Report) {
	if b, ok := named(builtinRemedies(), r.name); ok {
		conclude(report, b.run(ctx, h, r.device))
		return
	}
	file := path.Join(remediesDir, r.name)
	absent := broken("remedy %s is not on this host: it is not built in, and there is no %s", r.name, file)
	absent.code = protocol.ExitUsage
	conclude(report, h.runOperation(ctx, file, r.device, remedyTimeout, absent))
}

// repair runs what a site has configured for a fault, or what is built in for it where the site has configured nothing.
type repair struct{ name, device string }

func parseRepair(fs *flag.FlagSet, args []string) (operation, error) {
	var r repair
	fs.StringVar(&r.device, "device", "", "the file system or device to act on, all where it is empty")
	var err error
	if r.name, err = parseNamed(fs, args); err != nil {
		return nil, err
	}
	return r, checkDevice(builtinRepairs(), r.name, r.device)
}

func (r repair) run(ctx context.Context, h *host, report *protocol.Report) {
	file := path.Join(repairsDir, r.name)
	if b, ok := named(builtinRepairs(), r.name); ok && isAbsent(h.siteExecutable(file)) {
		conclude(report, b.run(ctx, h, r.device))
		return
	}
	absent := skipped("repair %s is not on this host: it is not built in, and there is no %s", r.name, file)
	conclude(report, h.runOperation(ctx, file, r.device, repairTimeout, absent))
}

// refused is the finding of an action that was not begun, because its precondition does not hold.
func refused(code int, format string, args ...any) finding {
	f := failed(code, format, args...)
	f.refusals = strings.Split(f.detail, "\n")
	f.detail = "refused: " + strings.Join(f.refusals, ", ")
	return f
}

// obstacleError says what of the host forbids an action.
type obstacleError struct{ text string }

func (e *obstacleError) Error() string { return e.text }

func obstacle(format string, args ...any) error { return &obstacleError{fmt.Sprintf(format, args...)} }

// notBegun turns what came before an action into its finding: refused where something forbids it. Anything else means that
// it is not known whether something does.
func notBegun(code int, err error) finding {
	var forbidden *obstacleError
	if errors.As(err, &forbidden) {
		return refused(code, "%v", err)
	}
	return unmade(err)
}

// notDone turns an error of the tool that acts into a finding of the action.
func notDone(code int, err error) finding {
	if lacksTool(err) {
		return unmade(err)
	}
	return failed(code, "%s", strings.ReplaceAll(err.Error(), "\n", ", "))
}

// lost is the finding of an action that was done, and whose effect could not be seen.
func lost(done string, err error) finding {
	return broken("%s, what became of it is unknown: %v", done, err)
}
