package host

import (
	"context"
	"fmt"
	"os"
	"time"

	"aegis.io/aegis/jobs/protocol"
)

const (
	// settleTime is how long a kubelet must have stayed up to count as started.
	settleTime = 10 * time.Second
	// dropEvery keeps the caches of jobs from being dropped over and over; it takes them longer than that to fill.
	dropEvery = time.Hour
	// dropStamp is changed with each drop. A boot takes it away, and the caches with it.
	dropStamp = "/run/aegis/dropcache"
	// pruneSlack is the part of a file system that others may have filled while images were removed from it.
	pruneSlack = 0.01
)

// kubeletUnits are the units that a restart of the kubelet may restart. A server of k3s, RKE2 or k0s is the control plane as well, and is
// none of them.
func kubeletUnits() []string { return []string{"kubelet", "k3s-agent", "rke2-agent", "k0sworker"} }

// kubeletUnit returns the unit of the kubelet of this host, and its state; that of the first one where it has none.
func (h *host) kubeletUnit(ctx context.Context) (string, unitState, error) {
	var first unitState
	for i, unit := range kubeletUnits() {
		state, err := h.unitState(ctx, unit)
		if err != nil || state.loaded() {
			return unit, state, err
		}
		if i == 0 {
			first = state
		}
	}
	return kubeletUnits()[0], first, nil
}

// restartKubelet restarts the kubelet and sees that another process runs and stays.
func restartKubelet(ctx context.Context, h *host, _ string) finding {
	const done = "the kubelet was restarted"
	unit, before, err := h.kubeletUnit(ctx)
	if err != nil {
		return unmade(err)
	}
	if !before.loaded() {
		return refused(protocol.ExitUnknown, "the unit of the kubelet is %.32q", before.load)
	}
	if _, err := h.run(ctx, unitStartTimeout, "systemctl", "restart", unit); err != nil {
		return failed(protocol.ExitUnknown, "%v", err)
	}
	if err := h.pause(ctx, settleTime); err != nil {
		return lost(done, err)
	}
	active, err := h.isActive(ctx, unit)
	if err != nil {
		return lost(done, err)
	}
	after, err := h.unitState(ctx, unit)
	switch {
	case err != nil:
		return lost(done, err)
	case !active, after.pid == "", after.pid == "0":
		return failed(protocol.ExitUnknown, "the kubelet did not stay up after its restart")
	case after.pid == before.pid:
		return failed(protocol.ExitUnknown, "the kubelet is still process %s", before.pid)
	}
	return passed("the kubelet is process %s, was %s", after.pid, before.pid)
}

// dropCache drops the clean caches of the kernel. Pages that wait to be written are written first, or they would stay.
func dropCache(ctx context.Context, h *host, _ string) finding {
	const file = "/proc/sys/vm/drop_caches"
	before, err := h.cached()
	if err != nil {
		return broken("%v", err)
	}
	age, dropped, err := h.lastDrop()
	switch {
	case err != nil:
		return broken("when the caches were dropped last is unknown: %v", err)
	case dropped && age < dropEvery:
		return refused(protocol.ExitMemory, "the caches were dropped %s ago", age.Round(time.Second))
	}
	if err := h.sync(ctx, 120*time.Second); err != nil {
		return notDone(protocol.ExitUnknown, err)
	}
	// Before the drop: an operation that is cut off after it is not to be repeated at once.
	if err := h.stampDrop(); err != nil {
		return broken("the drop cannot be noted: %v", err)
	}
	if err := h.write(file, "3\n", os.O_TRUNC); err != nil {
		return failed(protocol.ExitUnknown, "%v", err)
	}
	if h.options.replay {
		return passed("the caches would be dropped, and a directory has none")
	}
	value, err := h.readLine(file)
	if err != nil || value != "3" {
		return failed(protocol.ExitUnknown, "the kernel did not take it: %s holds %.32q, %v", file, value, err)
	}
	after, err := h.cached()
	if err != nil {
		return lost("the caches were dropped", err)
	}
	return passed("caches held %d MiB, now %d MiB", before>>10, after>>10)
}

// lastDrop returns how long ago the caches were dropped. A drop in the future is none: the clock was set back since.
func (h *host) lastDrop() (age time.Duration, dropped bool, err error) {
	info, err := h.stat(dropStamp)
	if isAbsent(err) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	age = time.Since(info.ModTime())
	return age, age >= 0, nil
}

func (h *host) stampDrop() error {
	if err := h.add(dropStamp, ""); err != nil {
		return err
	}
	return h.write(dropStamp, time.Now().UTC().Format(time.RFC3339)+"\n", os.O_TRUNC)
}

// sync writes what waits to be written. A host without the tool has the call of the kernel, which knows no host but this one.
func (h *host) sync(ctx context.Context, timeout time.Duration) error {
	_, err := h.run(ctx, timeout, "sync")
	if !lacksTool(err) {
		return err
	}
	done := make(chan struct{})
	go func() {
		h.options.kernelSync()
		close(done)
	}()
	ctx, cancel := context.WithTimeoutCause(ctx, h.bounded(timeout), errTimeout)
	defer cancel()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("sync: %w", context.Cause(ctx))
	}
}

// cached returns the size of what can be dropped, in kB.
func (h *host) cached() (int64, error) {
	info, err := h.memInfo()
	return info["Cached"] + info["SReclaimable"], err
}

// pruneImages removes the images that no container uses.
func pruneImages(ctx context.Context, h *host, _ string) finding {
	const done = "the images were pruned"
	point, err := h.imageMount()
	if err != nil {
		return broken("%v", err)
	}
	before, err := h.free(ctx, point)
	if err != nil {
		return unmade(err)
	}
	if _, err := h.run(ctx, 8*time.Minute, "crictl", "rmi", "--prune"); err != nil {
		return notDone(protocol.ExitDisk, err)
	}
	after, err := h.free(ctx, point)
	if err != nil {
		return lost(done, err)
	}
	const mib = 1 << 10
	if after.free < before.free-pruneSlack*before.total {
		return failed(protocol.ExitDisk, "%s has %.0f MiB free, had %.0f MiB before the images were pruned", point, after.free/mib, before.free/mib)
	}
	return passed("%s has %.0f MiB free, had %.0f MiB", point, after.free/mib, before.free/mib)
}

// imageMount returns the mount that holds the images of the container runtime.
func (h *host) imageMount() (string, error) {
	mounts, err := h.mounts()
	if err != nil {
		return "", err
	}
	var point string
	for _, p := range []string{"/", "/var", "/var/lib", "/var/lib/docker", "/var/lib/containers", "/var/lib/containerd"} {
		if _, ok := at(mounts, p); ok {
			point = p
		}
	}
	if point == "" {
		return "", fmt.Errorf("/proc/1/mounts has no root file system")
	}
	return point, nil
}

// free returns the size of a file system and what is free of it, in KiB.
func (h *host) free(ctx context.Context, point string) (dfRow, error) {
	out, err := h.run(ctx, 30*time.Second, "df", "-P", "-k", "--", point)
	if err != nil {
		return dfRow{}, err
	}
	rows, err := parseDF(out)
	if err != nil {
		return dfRow{}, err
	}
	return rows[0], nil
}
