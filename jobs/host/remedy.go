package host

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"aegis.io/aegis/jobs"
)

// The remedies that are built in; a site may add others as executables.
const (
	remedyRestartKubelet = "restartkubelet"
	remedyDropCache      = "dropcache"
	remedyResetGPU       = "resetgpu"
)

const (
	remedyTimeout = 10 * time.Minute
	repairTimeout = 55 * time.Minute
	// settleTime is how long a kubelet must have stayed up to count as started.
	settleTime = 10 * time.Second
)

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
	if strings.EqualFold(r.name, remedyResetGPU) && !gpuID.MatchString(r.device) {
		return nil, fmt.Errorf("--device %.64q must be an index, a UUID, or a bus ID of a GPU, or all", r.device)
	}
	return r, nil
}

func (r remedy) run(ctx context.Context, h *host, report *jobs.Report) {
	switch strings.ToLower(r.name) {
	case remedyRestartKubelet:
		conclude(report, restartKubelet(ctx, h))
	case remedyDropCache:
		conclude(report, dropCache(ctx, h))
	case remedyResetGPU:
		conclude(report, resetGPUs(ctx, h, r.device))
	default:
		file := path.Join(remediesDir, r.name)
		if isAbsent(h.siteExecutable(file)) {
			fmt.Fprintf(h.options.Stderr, "unknown remedy %q\n%s", r.name, usage)
			conclude(report, broken("remedy %s does not exist: it is not built in, and there is no %s", r.name, file))
			report.ExitCode = exitUsage
			return
		}
		conclude(report, h.runSite(ctx, file, remedyTimeout, "AEGIS_DEVICE="+r.device))
	}
}

// repair runs what a site has configured for a fault; nothing is built in.
type repair struct{ name string }

func parseRepair(fs *flag.FlagSet, args []string) (operation, error) {
	name, err := parseNamed(fs, args)
	return repair{name}, err
}

func (r repair) run(ctx context.Context, h *host, report *jobs.Report) {
	file := path.Join(repairsDir, r.name)
	if isAbsent(h.siteExecutable(file)) {
		conclude(report, skipped("repair %s is not configured: there is no %s", r.name, file))
		return
	}
	conclude(report, h.runSite(ctx, file, repairTimeout))
}

// unitState is what systemd says about a unit.
type unitState struct{ load, pid string }

func (h *host) unitState(ctx context.Context, unit string) (unitState, error) {
	out, err := h.run(ctx, serviceTimeout, "systemctl", "show", unit, "--property=LoadState", "--property=MainPID")
	if err != nil {
		return unitState{}, err
	}
	var s unitState
	for line := range strings.Lines(out) {
		switch key, value, _ := strings.Cut(strings.TrimSpace(line), "="); key {
		case "LoadState":
			s.load = value
		case "MainPID":
			s.pid = value
		}
	}
	return s, nil
}

// restartKubelet restarts the kubelet and sees that another process runs and stays.
func restartKubelet(ctx context.Context, h *host) finding {
	before, err := h.unitState(ctx, "kubelet")
	if err != nil {
		return broken("%v", err)
	}
	if before.load != "loaded" {
		return failed(exitUnknown, "refused: the unit of the kubelet is %.32q", before.load)
	}
	if _, err := h.run(ctx, 120*time.Second, "systemctl", "restart", "kubelet"); err != nil {
		return failed(exitUnknown, "%v", err)
	}
	if err := pause(ctx, settleTime); err != nil {
		return broken("the kubelet was restarted, what became of it is unknown: %v", err)
	}
	active, err := h.isActive(ctx, "kubelet")
	if err != nil {
		return broken("the kubelet was restarted, what became of it is unknown: %v", err)
	}
	after, err := h.unitState(ctx, "kubelet")
	switch {
	case err != nil:
		return broken("the kubelet was restarted, what became of it is unknown: %v", err)
	case !active, after.pid == "", after.pid == "0":
		return failed(exitUnknown, "the kubelet did not stay up after its restart")
	case after.pid == before.pid:
		return failed(exitUnknown, "the kubelet is still process %s", before.pid)
	}
	return passed("the kubelet is process %s, was %s", after.pid, before.pid)
}

// dropCache drops the clean caches of the kernel. Pages that wait to be written are written first, or they would stay.
func dropCache(ctx context.Context, h *host) finding {
	const file = "/proc/sys/vm/drop_caches"
	before, err := h.cached()
	if err != nil {
		return broken("%v", err)
	}
	if _, err := h.run(ctx, 120*time.Second, "sync"); err != nil {
		return failed(exitUnknown, "%v", err)
	}
	if err := h.write(file, "3\n", os.O_TRUNC); err != nil {
		return failed(exitUnknown, "%v", err)
	}
	value, err := h.readLine(file)
	if err != nil || value != "3" {
		return failed(exitUnknown, "the kernel did not take it: %s holds %.32q, %v", file, value, err)
	}
	after, err := h.cached()
	if err != nil {
		return broken("%v", err)
	}
	return passed("caches held %d MiB, now %d MiB", before>>10, after>>10)
}

// cached returns the size of what can be dropped, in kB.
func (h *host) cached() (int64, error) {
	info, err := h.memInfo()
	return info["Cached"] + info["SReclaimable"], err
}
