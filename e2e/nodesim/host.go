package nodesim

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
)

// The power states of a host.
const (
	PowerOn      = "on"
	PowerOff     = "off"
	PowerBooting = "booting"
)

const (
	devicePlugin = "nvidia-device-plugin-ds"
	dcgmExporter = "dcgm-exporter"
	// uptime is how long a host has run when it is seen for the first time: one that has just booted is a condition of its own.
	uptime = 24 * time.Hour
	// shutdownTime is how long a host still works after it has accepted a reboot.
	shutdownTime = 300 * time.Millisecond
	// maxEvents bounds the memory of a host.
	maxEvents = 500
)

// Injection is a fault to inject.
type Injection struct {
	// Fault is the name of the fault.
	Fault string
	// GPU is the index of the GPU that a fault of a GPU hits.
	GPU int
	// FixedBy replaces what the fault is fixed by. Empty keeps it.
	FixedBy FixedBy
}

// ActiveFault is a fault that a host has.
type ActiveFault struct {
	// Fault is its name, GPU the GPU that it hit if it is a fault of a GPU.
	Fault string `json:"fault"`
	GPU   int    `json:"gpu"`
	// FixedBy is what fixes it.
	FixedBy FixedBy `json:"fixedBy"`
	// Since is when it was injected.
	Since time.Time `json:"since"`
	unit  string
	// before holds the pods of the unit that ran when the fault began: a new one fixes it.
	before map[types.UID]bool
}

// Op is a node operation that ran on a host, in a pod of a Job.
type Op struct {
	// Pod is the name of the pod, Action the operation, Args its arguments.
	Pod    string   `json:"pod"`
	Action string   `json:"action"`
	Args   []string `json:"args"`
	// Started and Ended are when; Ended is zero while it runs.
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended,omitzero"`
	// ExitCode is the exit code of the process, -1 when a signal ended it.
	ExitCode int `json:"exitCode"`
	// Log is the file with the output.
	Log string `json:"log"`
}

// Event is something that happened to a host.
type Event struct {
	At   time.Time `json:"at"`
	What string    `json:"what"`
}

// State is what a host is in.
type State struct {
	// Node is the name of the Node object.
	Node string `json:"node"`
	// BootID is the ID of the current or, while the host is down, of the last boot. Boots counts them.
	BootID string `json:"bootID"`
	Boots  int    `json:"boots"`
	// Power is PowerOn, PowerOff or PowerBooting.
	Power string `json:"power"`
	// Ready is what the kubelet would report. It is false while there is no kubelet to report it.
	Ready bool `json:"ready"`
	// GPUs is the number of GPUs that are installed.
	GPUs int `json:"gpus"`
	// Faults holds the faults, oldest first; Ops the operations; Log the events.
	Faults []ActiveFault `json:"faults"`
	Ops    []Op          `json:"ops"`
	Log    []Event       `json:"log"`
}

// host is one simulated machine.
type host struct {
	name string
	gpus int
	hcas int
	sim  *Sim

	mu     sync.Mutex
	power  string
	bootID string
	boots  int
	bootAt time.Time
	faults []ActiveFault
	// counters start at zero with every boot, as those of the kernel and of the exporters do.
	counters map[string]float64
	// reported is what the checks of the site have written, by condition. Their file outlives a boot.
	reported map[string]float64
	kmsg     []string
	pids     map[string]int
	stopped  map[string]bool
	panicked bool
	// crashedAt is when the kernel panicked last. The record of it survives every boot.
	crashedAt time.Time
	ops       []*op
	// current holds the operations of this boot by pod, seen those of all boots.
	current map[types.UID]*op
	seen    map[types.UID]bool
	events  []Event
	root    *root
}

func newHost(s *Sim, name string, gpus, hcas int) *host {
	h := &host{sim: s, name: name, gpus: gpus, hcas: hcas, seen: map[types.UID]bool{}}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.bootLocked()
	h.bootAt = h.bootAt.Add(-uptime)
	return h
}

func (h *host) bootLocked() {
	h.power = PowerOn
	h.bootID = string(uuid.NewUUID())
	h.boots++
	h.bootAt = time.Now()
	h.counters = map[string]float64{}
	h.absorbKmsgLocked()
	h.kmsg = []string{"Linux version 6.8.0 (simulated)"}
	h.pids = map[string]int{}
	h.stopped = map[string]bool{}
	h.current = map[types.UID]*op{}
	h.noteLocked("booted %s", h.bootID)
	for _, f := range h.faults {
		h.onsetLocked(f)
	}
}

func (h *host) noteLocked(format string, args ...any) {
	h.events = append(h.events, Event{At: time.Now(), What: fmt.Sprintf(format, args...)})
	h.events = h.events[max(0, len(h.events)-maxEvents):]
	h.sim.log.Info("host", "node", h.name, "event", h.events[len(h.events)-1].What)
}

// inject adds the fault, or begins it anew when the host has it already.
func (h *host) inject(i Injection, pods map[types.UID]bool) error {
	f, err := lookupFault(i.Fault)
	if err != nil {
		return err
	}
	if i.GPU < 0 || i.GPU > 0 && i.GPU >= h.gpus {
		return fmt.Errorf("node %s has no GPU %d", h.name, i.GPU)
	}
	if i.FixedBy == "" {
		i.FixedBy = f.FixedBy
	}
	if !slices.Contains([]FixedBy{FixedByReboot, FixedByReset, FixedByRestart, FixedByNever}, i.FixedBy) {
		return fmt.Errorf("a fault cannot be fixed by %q", i.FixedBy)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	active := ActiveFault{Fault: i.Fault, GPU: i.GPU, FixedBy: i.FixedBy, Since: time.Now(), unit: f.unit, before: pods}
	h.faults = slices.DeleteFunc(h.faults, func(old ActiveFault) bool { return old.Fault == i.Fault && old.GPU == i.GPU })
	h.faults = append(h.faults, active)
	h.noteLocked("fault %s", i.Fault)
	h.onsetLocked(active)
	switch i.Fault {
	case KernelPanic:
		h.panicked, h.crashedAt = true, time.Now()
		h.cycleLocked("kernel panic")
	case PowerLoss:
		h.downLocked(PowerOff, "power lost")
	}
	return nil
}

// onsetLocked does what happens once, when a fault begins and again in each boot that it survives.
func (h *host) onsetLocked(f ActiveFault) {
	count := func(name string, n float64) { h.counters[name] += n }
	if code, ok := xidOf(f.Fault); ok {
		h.xidLocked(f.GPU, code, "pid=1234, name=python3")
		return
	}
	switch f.Fault {
	case GPULost:
		h.xidLocked(f.GPU, 79, "GPU has fallen off the bus.")
	case GPURebootRequired:
		h.xidLocked(f.GPU, 95, "Uncontained ECC error.")
		h.xidLocked(f.GPU, 154, "GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)")
	case IBFlapping:
		count("ib-link-downed", 4)
	case LinkFlapping:
		count("carrier-down", 5)
	case ICETxTimeout:
		count("problem/IceTxTimeout", 3)
		h.kmsg = append(h.kmsg, "NETDEV WATCHDOG: eth0 (ice): transmit queue 3 timed out")
	case MemoryUncorrectable:
		count("edac-ue", 2)
	}
}

func (h *host) xidLocked(gpu, code int, words string) {
	h.absorbKmsgLocked()
	h.counters[fmt.Sprintf("xid/%d/%d", gpu, code)]++
	h.counters[fmt.Sprintf("xid-last/%d", gpu)] = float64(code)
	h.kmsg = append(h.kmsg, fmt.Sprintf("NVRM: Xid (PCI:%s): %d, %s", strings.TrimSuffix(pciAddress(gpu), ".0"), code, words))
}

// clear removes the named faults, or all.
func (h *host) clear(names []string) error {
	for _, name := range names {
		if _, err := lookupFault(name); err != nil {
			return err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dropLocked("cleared", func(f ActiveFault) bool { return len(names) == 0 || slices.Contains(names, f.Fault) })
	return nil
}

func (h *host) dropLocked(why string, gone func(ActiveFault) bool) {
	h.faults = slices.DeleteFunc(h.faults, func(f ActiveFault) bool {
		if gone(f) {
			h.noteLocked("%s: %s", why, f.Fault)
			return true
		}
		return false
	})
}

// restartedLocked fixes what the restart of a unit, or a remedy of that name, fixes.
func (h *host) restartedLocked(unit string) {
	h.pids[unit]++
	delete(h.stopped, unit)
	h.dropLocked("fixed by restart of "+unit, func(f ActiveFault) bool { return f.unit == unit && f.FixedBy == FixedByRestart })
}

// hasLocked reports whether the host has the fault, on any GPU.
func (h *host) hasLocked(fault string) bool {
	return slices.ContainsFunc(h.faults, func(f ActiveFault) bool { return f.Fault == fault })
}

func (h *host) gpuHasLocked(gpu int, fault string) bool {
	return slices.ContainsFunc(h.faults, func(f ActiveFault) bool { return f.Fault == fault && f.GPU == gpu })
}

// kubeletLocked reports whether there is a kubelet that acts.
func (h *host) kubeletLocked() bool {
	return h.power == PowerOn && !h.hasLocked(KubeletStuck) && !h.hasLocked(NetworkLost)
}

// exportsLocked reports whether the exporters of the host can be scraped.
func (h *host) exportsLocked() bool { return h.power == PowerOn && !h.hasLocked(NetworkLost) }

// requestRebootLocked is what systemctl does: it accepts, and a moment later the host goes down.
func (h *host) requestRebootLocked(to string) {
	boot := h.bootID
	h.noteLocked("asked to go %s", to)
	if h.hasLocked(RebootIgnored) {
		return
	}
	h.sim.after(shutdownTime, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		switch {
		case h.power != PowerOn || h.bootID != boot:
		case to == PowerOff:
			h.downLocked(PowerOff, "powered off")
		default:
			h.cycleLocked("rebooting")
		}
	})
}

// cycleLocked takes the host down and boots it.
func (h *host) cycleLocked(why string) {
	h.downLocked(PowerBooting, why)
	h.startBootLocked()
}

func (h *host) startBootLocked() {
	if h.hasLocked(BootHangs) {
		h.noteLocked("the boot hangs")
		return
	}
	boot := h.bootID
	h.sim.after(h.sim.options.BootTime, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.power != PowerBooting || h.bootID != boot {
			return
		}
		panicked := h.panicked
		h.panicked = false
		h.dropLocked("fixed by reboot", func(f ActiveFault) bool {
			return f.FixedBy.fixedBy(FixedByReboot) && (!panicked || f.Fault != KernelPanic)
		})
		h.bootLocked()
		h.sim.wake(h.name)
	})
}

// downLocked stops everything that runs on the host.
func (h *host) downLocked(to, why string) {
	h.power = to
	h.noteLocked("%s", why)
	for _, o := range h.current {
		o.signal(syscall.SIGKILL)
	}
	h.current = map[types.UID]*op{}
	h.sim.wake(h.name)
}

// setPower is what a person does in front of the machine, or through its management controller.
func (h *host) setPower(on bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case on && h.power == PowerOn, !on && h.power == PowerOff:
		return nil
	case !on:
		h.downLocked(PowerOff, "switched off")
		return nil
	case h.hasLocked(BootHangs):
		return errors.New("the boot hangs: clear " + BootHangs + " first")
	}
	h.dropLocked("fixed by power", func(f ActiveFault) bool { return f.Fault == PowerLoss })
	h.power = PowerBooting
	h.noteLocked("switched on")
	h.startBootLocked()
	return nil
}

// resetGPUsLocked is what nvidia-smi --gpu-reset does to one GPU, or to all if it is negative.
func (h *host) resetGPUsLocked(gpu int) {
	for g := range h.gpus {
		if gpu < 0 || gpu == g {
			delete(h.counters, fmt.Sprintf("xid-last/%d", g))
		}
	}
	h.dropLocked("fixed by reset", func(f ActiveFault) bool {
		return f.FixedBy == FixedByReset && (gpu < 0 || f.GPU == gpu)
	})
}

func (h *host) state() State {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := State{
		Node: h.name, BootID: h.bootID, Boots: h.boots, Power: h.power, GPUs: h.gpus,
		Ready:  h.kubeletLocked() && !h.hasLocked(NotReady),
		Faults: slices.Clone(h.faults),
		Log:    slices.Clone(h.events),
	}
	for _, o := range h.ops {
		s.Ops = append(s.Ops, o.Op)
	}
	return s
}

// pciAddress returns the bus address of a GPU.
func pciAddress(gpu int) string { return fmt.Sprintf("0000:%02x:00.0", 0x1b+0x10*gpu) }

// gpuUUID is stable over boots, as a real one is.
func gpuUUID(node string, gpu int) string {
	return "GPU-" + string(uuidFrom(fmt.Sprintf("%s/%d", node, gpu)))
}
