package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"aegis.io/aegis/jobs/protocol"
)

// gpuID is what may name a GPU; empty and "all" mean all of them.
var gpuID = regexp.MustCompile(`^(?:|all|[0-9]{1,3}|GPU-[0-9A-Fa-f-]{1,64}|(?:[0-9A-Fa-f]{4,8}:)?[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}(?:\.[0-9])?)$`)

// gpu is a GPU as nvidia-smi lists it.
type gpu struct{ index, uuid, bus string }

// gpuReset resets GPUs that nothing uses.
type gpuReset struct {
	host    *host
	targets []gpu
	// all says that the targets are all the GPUs of the host.
	all bool
}

// resetGPUs resets the GPU that the device names, or all of them.
func resetGPUs(ctx context.Context, h *host, device string) finding {
	r, err := planReset(ctx, h, device)
	if err != nil {
		return notReset(err)
	}
	if err := h.computing(ctx, r.targets); err != nil {
		return notReset(err)
	}
	stopped, err := h.stopUnits(ctx, r.daemons()...)
	// A host without systemd has no units; who else holds a GPU is looked for next.
	if err != nil && !lacksTool(err) {
		return notReset(errors.Join(err, h.startUnits(ctx, stopped)))
	}
	hold, err := r.letGo(ctx)
	if err != nil {
		return notReset(errors.Join(err, hold(ctx), h.startUnits(ctx, stopped)))
	}
	err = r.reset(ctx)
	// They are needed whatever became of the reset.
	err = errors.Join(err, hold(ctx), h.startUnits(ctx, stopped))
	if err != nil {
		return failed(protocol.ExitGPU, "%v", err)
	}
	return r.verify(ctx)
}

// notReset is the finding of a reset that was not begun. A driver that does not answer forbids it as well: no reset helps it.
func notReset(err error) finding {
	if lacksTool(err) {
		return unmade(err)
	}
	return refused(protocol.ExitGPU, "%v", err)
}

// planReset finds the GPUs to reset. Those behind an NVSwitch are reset together, because one alone cannot rejoin.
func planReset(ctx context.Context, h *host, device string) (*gpuReset, error) {
	gpus, err := h.gpus(ctx)
	if err != nil {
		return nil, err
	}
	bus, err := h.pciGPUs()
	if err != nil {
		return nil, err
	}
	found := slices.IndexFunc(gpus, func(g gpu) bool { return g.is(device) })
	all := device == "" || device == "all"
	switch {
	case len(gpus) == 0:
		return nil, errNoGPU
	case !all && found < 0:
		return nil, fmt.Errorf("there is no GPU %s", device)
	case all, bus.switches > 0:
		return &gpuReset{host: h, targets: gpus, all: true}, nil
	}
	return &gpuReset{host: h, targets: gpus[found : found+1], all: len(gpus) == 1}, nil
}

func (g gpu) is(device string) bool {
	return device == g.index || strings.EqualFold(device, g.uuid) || busID(device) == g.bus && strings.Contains(device, ":")
}

func (h *host) gpus(ctx context.Context) ([]gpu, error) {
	rows, err := h.query(ctx, 3, "--query-gpu=index,uuid,pci.bus_id", "--format=csv,noheader")
	var gpus []gpu
	for _, row := range rows {
		gpus = append(gpus, gpu{index: row[0], uuid: row[1], bus: busID(row[2])})
	}
	return gpus, err
}

// computing returns an error that names a process which computes on one of the GPUs.
func (h *host) computing(ctx context.Context, gpus []gpu) error {
	rows, err := h.query(ctx, 3, "--query-compute-apps=gpu_uuid,pid,process_name", "--format=csv,noheader")
	if err != nil {
		return err
	}
	for _, row := range rows {
		if slices.ContainsFunc(gpus, func(g gpu) bool { return g.uuid == row[0] }) {
			return obstacle("process %s (%.64s) computes on %s", row[1], row[2], row[0])
		}
	}
	return nil
}

// daemons returns the units that hold GPUs open for everybody. The fabric manager is one of them only where all its
// GPUs are reset: the others would lose their links.
func (r *gpuReset) daemons() []string {
	units := []string{"nvidia-persistenced", "nvidia-dcgm", "dcgm"}
	if r.all {
		units = append(units, "nvidia-fabricmanager")
	}
	return units
}

// letGo refuses while a process has a target open. The persistence daemon of a container cannot be stopped from here, but closes what it
// holds when it is told that the mode is off; the function returned has it hold the targets again.
func (r *gpuReset) letGo(ctx context.Context) (hold func(context.Context) error, err error) {
	nothing := func(context.Context) error { return nil }
	held := r.unheld()
	if held == nil || r.unheld(persistencedName) != nil {
		return nothing, held
	}
	mode := func(ctx context.Context, on string) error {
		_, err := r.host.run(ctx, smiTimeout, smi, append([]string{"-pm", on}, r.selection()...)...)
		return err
	}
	if err := mode(ctx, "0"); err != nil {
		return nothing, errors.Join(held, err)
	}
	return func(ctx context.Context) error { return mode(context.WithoutCancel(ctx), "1") }, r.unheld()
}

// persistencedName is what the kernel calls the persistence daemon.
const persistencedName = "nvidia-persiste"

// unheld refuses while a process has a target open that has none of the harmless names.
func (r *gpuReset) unheld(harmless ...string) error {
	devices, err := r.devices()
	if err != nil {
		return err
	}
	root := strings.TrimSuffix(r.host.driver().devRoot, "/")
	return r.host.unused(func(file string) bool {
		file = strings.TrimPrefix(file, root)
		number, ok := strings.CutPrefix(file, "/dev/nvidia")
		isGPU := ok && pidName.MatchString(number)
		return isGPU && (len(devices) == 0 || slices.Contains(devices, file))
	}, harmless...)
}

// selection are the arguments that name the targets, none where they are all.
func (r *gpuReset) selection() []string {
	if r.all {
		return nil
	}
	return []string{"-i", r.targets[0].uuid}
}

// devices returns the device files of the targets, or of all GPUs where the driver does not tell which are theirs.
func (r *gpuReset) devices() ([]string, error) {
	var devices []string
	for _, g := range r.targets {
		text, err := r.host.read("/proc/driver/nvidia/gpus/" + g.bus + ".0/information")
		if err != nil && !isAbsent(err) {
			return nil, err
		}
		minor := deviceMinor(text)
		if minor == "" {
			return nil, nil
		}
		devices = append(devices, "/dev/nvidia"+minor)
	}
	return devices, nil
}

func deviceMinor(text string) string {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, "Device Minor:"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func (r *gpuReset) reset(ctx context.Context) error {
	args := append([]string{"--gpu-reset"}, r.selection()...)
	if _, err := r.host.run(ctx, 300*time.Second, smi, args...); err != nil {
		return err
	}
	// From here on the errors before are history, for a healthcheck and for every monitor that reads the log.
	for _, g := range r.targets {
		if err := r.host.write("/dev/kmsg", resetMark+g.bus+"\n", os.O_APPEND); err != nil {
			return fmt.Errorf("the reset is done, but not noted in the kernel log: %w", err)
		}
	}
	return nil
}

// verify sees that every GPU is back, and that the reset has taken away what it was made for.
func (r *gpuReset) verify(ctx context.Context) finding {
	gpus, err := r.host.gpus(ctx)
	if err != nil {
		return failed(protocol.ExitGPU, "after the reset: %v", err)
	}
	for _, g := range r.targets {
		if !slices.ContainsFunc(gpus, func(h gpu) bool { return h.uuid == g.uuid }) {
			return failed(protocol.ExitGPU, "%s did not come back from the reset", g.uuid)
		}
	}
	for _, check := range []func(context.Context, *host, *expectation, int) finding{rowRemap, gpuHealth} {
		f := check(ctx, r.host, new(expectation), 0)
		if f.code != protocol.ExitOK && f.code != protocol.ExitSkipped {
			return failed(protocol.ExitGPU, "after the reset: %s", f.detail)
		}
	}
	return passed("%d GPUs were reset", len(r.targets))
}
