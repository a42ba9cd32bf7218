package nodesim

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// FixedBy says what makes a fault go away by itself. A fault can always be cleared by hand, as by a new part.
type FixedBy string

// What can fix a fault. A reboot fixes what a reset or a restart fixes, too.
const (
	FixedByReboot  FixedBy = "reboot"
	FixedByReset   FixedBy = "reset"
	FixedByRestart FixedBy = "restart"
	FixedByNever   FixedBy = "never"
)

// The names of the faults. The fault of XID 79 is named XIDFault(79), what the site itself reports SiteFault(condition).
const (
	NotReady              = "not-ready"
	KubeletStuck          = "kubelet-stuck"
	NetworkLost           = "network-lost"
	MemoryPressure        = "memory-pressure"
	DiskPressure          = "disk-pressure"
	CreateContainerErrors = "create-container-errors"
	CPUPressure           = "cpu-pressure"
	HighLoad              = "high-load"
	BlockedProcesses      = "blocked-processes"
	ZombieProcesses       = "zombie-processes"
	KernelPanic           = "kernel-panic"
	PowerLoss             = "power-loss"
	BootHangs             = "boot-hangs"
	RebootIgnored         = "reboot-ignored"
	SystemctlBroken       = "systemctl-broken"

	GPUHung             = "gpu-hung"
	GPULost             = "gpu-lost"
	GPUMissing          = "gpu-missing"
	GPUCheckFailed      = "gpu-check-failed"
	GPURowRemapPending  = "gpu-row-remap-pending"
	GPURowRemapFailure  = "gpu-row-remap-failure"
	GPUSRAMThreshold    = "gpu-sram-threshold"
	GPUECCVolatile      = "gpu-ecc-volatile"
	GPUNVLinkInactive   = "gpu-nvlink-inactive"
	GPUPCIeDegraded     = "gpu-pcie-degraded"
	GPUHot              = "gpu-hot"
	GPUPersistenceOff   = "gpu-persistence-off"
	GPURebootRequired   = "gpu-reboot-required"
	FabricManagerDown   = "fabric-manager-down"
	NvidiaSMIHangs      = "nvidia-smi-hangs"
	DevicePluginDown    = "device-plugin-down"
	DCGMExporterDown    = "dcgm-exporter-down"
	PeerMemUnloaded     = "peermem-unloaded"
	HealthcheckGPU      = "healthcheck-gpu"
	HealthcheckSite     = "healthcheck-site"
	IBDown              = "ib-down"
	IBLost              = "ib-lost"
	IBFlapping          = "ib-flapping"
	BondSlaveDown       = "bond-slave-down"
	LinkFlapping        = "link-flapping"
	ICETxTimeout        = "ice-tx-timeout"
	DiskSMARTFailed     = "disk-smart-failed"
	RootReadOnly        = "root-readonly"
	MemoryUncorrectable = "memory-uncorrectable"
	CPUSensorCritical   = "cpu-sensor-critical"
	PowerSupplyFailed   = "power-supply-failed"
	FanFailed           = "fan-failed"
	GPFSDown            = "gpfs-down"
	GPFSUnmounted       = "gpfs-unmounted"

	xidPrefix  = "xid-"
	sitePrefix = "site-"
)

// Fault describes a fault that can be injected.
type Fault struct {
	// Name is what Inject takes.
	Name string `json:"name"`
	// Doc says in one sentence what happens.
	Doc string `json:"doc"`
	// FixedBy is what fixes it unless the injection says otherwise.
	FixedBy FixedBy `json:"fixedBy"`
	// unit is the systemd unit, or the program, whose restart fixes it.
	unit string
}

// Faults returns every fault that can be injected, apart from the XIDs, of which xid-79 stands for all, and from what the site
// itself reports.
func Faults() []Fault {
	return slices.Concat(nodeFaults(), gpuFaults(), fabricFaults(), hardwareFaults())
}

func nodeFaults() []Fault {
	return []Fault{
		{Name: NotReady, FixedBy: FixedByReboot, Doc: "The kubelet lives and reports that the node is not Ready."},
		{Name: KubeletStuck, FixedBy: FixedByRestart, unit: "kubelet", Doc: "The kubelet hangs: no status, no Lease, no pod starts or ends; the exporters go on."},
		{Name: NetworkLost, FixedBy: FixedByReboot, Doc: "The node is cut off: no status, no Lease, no metrics, but everything on it runs on."},
		{Name: MemoryPressure, FixedBy: FixedByReboot, Doc: "Little memory is left, and the kubelet reports MemoryPressure."},
		{Name: DiskPressure, FixedBy: FixedByReboot, unit: "PruneImages", Doc: "The root disk is nearly full, and the kubelet reports DiskPressure."},
		{Name: CreateContainerErrors, FixedBy: FixedByRestart, unit: "kubelet", Doc: "The kubelet fails to start containers, several times a second."},
		{Name: CPUPressure, FixedBy: FixedByReboot, Doc: "The processors have no idle time left."},
		{Name: HighLoad, FixedBy: FixedByReboot, Doc: "The load average is far above the number of processors."},
		{Name: BlockedProcesses, FixedBy: FixedByReboot, Doc: "Processes hang in the kernel, in state D."},
		{Name: ZombieProcesses, FixedBy: FixedByReboot, Doc: "Tens of thousands of zombies fill the process table."},
		{Name: KernelPanic, FixedBy: FixedByReboot, Doc: "The kernel panics and the host boots by itself; the problem detector reports it until the boot after."},
		{Name: PowerLoss, FixedBy: FixedByNever, Doc: "The host loses its power at once and stays off until its power is switched on."},
		{Name: BootHangs, FixedBy: FixedByNever, Doc: "The next boot never ends."},
		{Name: RebootIgnored, FixedBy: FixedByNever, Doc: "The host accepts a reboot or a poweroff, and does nothing."},
		{Name: SystemctlBroken, FixedBy: FixedByNever, Doc: "Every systemctl command fails; only the kernel's own reset works."},
		{Name: HealthcheckSite, FixedBy: FixedByNever, Doc: "A check of the site finds a broken GPU; no metric shows it."},
	}
}

func gpuFaults() []Fault {
	return []Fault{
		{Name: GPUHung, FixedBy: FixedByReset, Doc: "A GPU is fully used, draws hardly any power and moves no data."},
		{Name: GPULost, FixedBy: FixedByReboot, Doc: "A GPU falls off the bus, with XID 79."},
		{Name: GPUMissing, FixedBy: FixedByReboot, Doc: "A GPU is gone from the bus, and the driver says nothing of it."},
		{Name: GPUCheckFailed, FixedBy: FixedByReset, Doc: "DCGM and the driver find uncorrected errors in a GPU's memory."},
		{Name: GPURowRemapPending, FixedBy: FixedByReset, Doc: "A GPU has a memory row to remap, which its next reset does."},
		{Name: GPURowRemapFailure, FixedBy: FixedByNever, Doc: "A GPU has no spare memory row left."},
		{Name: GPUSRAMThreshold, FixedBy: FixedByNever, Doc: "A GPU has passed NVIDIA's limit of SRAM errors for a replacement."},
		{Name: GPUECCVolatile, FixedBy: FixedByReset, Doc: "A GPU has had uncorrectable SRAM errors since its last reset."},
		{Name: GPUNVLinkInactive, FixedBy: FixedByReset, Doc: "An NVLink of a GPU is inactive."},
		{Name: GPUPCIeDegraded, FixedBy: FixedByReboot, Doc: "A GPU uses only half of its PCIe lanes."},
		{Name: GPUHot, FixedBy: FixedByNever, Doc: "A GPU is too hot."},
		{Name: GPUPersistenceOff, FixedBy: FixedByRestart, unit: "nvidia-persistenced", Doc: "The persistence mode of the GPUs is off."},
		{Name: FabricManagerDown, FixedBy: FixedByRestart, unit: "nvidia-fabricmanager", Doc: "NVIDIA's fabric manager is not active."},
		{Name: NvidiaSMIHangs, FixedBy: FixedByReboot, Doc: "nvidia-smi never answers."},
		{Name: DevicePluginDown, FixedBy: FixedByRestart, unit: devicePlugin, Doc: "The device plugin offers no GPU; a new pod of it does."},
		{Name: DCGMExporterDown, FixedBy: FixedByRestart, unit: dcgmExporter, Doc: "dcgm-exporter serves no series; a new pod of it does."},
		{Name: PeerMemUnloaded, FixedBy: FixedByRestart, unit: "ConfigPeerMem", Doc: "The kernel module nvidia-peermem is not loaded."},
		{Name: GPURebootRequired, FixedBy: FixedByReboot, Doc: "A GPU has XID 95, which a reset would do for, and the driver asks for a boot with XID 154."},
		{Name: HealthcheckGPU, FixedBy: FixedByNever, Doc: "Only a healthcheck finds it: the driver reports uncorrected errors that no exporter shows."},
		{Name: XIDFault(79), FixedBy: FixedByReset, Doc: "An XID, here 79, is logged and counted once, and once more in every boot until it is fixed."},
	}
}

func fabricFaults() []Fault {
	return []Fault{
		{Name: IBDown, FixedBy: FixedByNever, Doc: "The port of the adapter mlx5_0 is down."},
		{Name: IBLost, FixedBy: FixedByReboot, Doc: "The InfiniBand adapter mlx5_0 falls off the bus."},
		{Name: IBFlapping, FixedBy: FixedByNever, Doc: "The link of mlx5_0 goes down and up four times, and then between any two scrapes."},
		{Name: BondSlaveDown, FixedBy: FixedByNever, Doc: "One of the two links of bond0 is down."},
		{Name: LinkFlapping, FixedBy: FixedByNever, Doc: "The Ethernet link eth0 goes down and up five times, and then between any two scrapes."},
		{Name: ICETxTimeout, FixedBy: FixedByReboot, Doc: "The transmit queue of an Intel adapter hangs three times."},
		{Name: GPFSDown, FixedBy: FixedByRestart, unit: "StartGpfs", Doc: "The GPFS daemon is down and nothing of it is mounted."},
		{Name: GPFSUnmounted, FixedBy: FixedByRestart, unit: "MountGpfs", Doc: "The GPFS file system fs1 is not mounted."},
	}
}

func hardwareFaults() []Fault {
	return []Fault{
		{Name: DiskSMARTFailed, FixedBy: FixedByNever, Doc: "A disk fails its own health assessment."},
		{Name: RootReadOnly, FixedBy: FixedByReboot, Doc: "The kernel has mounted the root file system read-only."},
		{Name: MemoryUncorrectable, FixedBy: FixedByNever, Doc: "The memory controller counts uncorrectable errors."},
		{Name: CPUSensorCritical, FixedBy: FixedByNever, Doc: "The sensor of a processor is critical."},
		{Name: PowerSupplyFailed, FixedBy: FixedByNever, Doc: "One of the power supplies has failed."},
		{Name: FanFailed, FixedBy: FixedByNever, Doc: "A fan has failed."},
	}
}

// XIDFault returns the name of the fault that is an XID.
func XIDFault(code int) string { return xidPrefix + strconv.Itoa(code) }

// xidOf returns the code of an XID fault.
func xidOf(fault string) (int, bool) {
	text, ok := strings.CutPrefix(fault, xidPrefix)
	if !ok {
		return 0, false
	}
	code, err := strconv.Atoi(text)
	return code, err == nil && code > 0
}

// SiteFault returns the name of the fault that a site reports itself, as a condition that no exporter knows.
func SiteFault(condition string) string { return sitePrefix + condition }

// siteConditionOf returns the condition of a fault that the site reports.
func siteConditionOf(fault string) (string, bool) {
	condition, ok := strings.CutPrefix(fault, sitePrefix)
	return condition, ok && condition != ""
}

func lookupFault(name string) (Fault, error) {
	if _, ok := xidOf(name); ok {
		return Fault{Name: name, FixedBy: FixedByReset}, nil
	}
	if _, ok := siteConditionOf(name); ok {
		// Injected as one that a restart fixes, it is what the remedy of the site is for.
		return Fault{Name: name, FixedBy: FixedByNever, unit: siteRemedy}, nil
	}
	all := Faults()
	i := slices.IndexFunc(all, func(f Fault) bool { return f.Name == name })
	if i < 0 {
		return Fault{}, fmt.Errorf("there is no fault %q", name)
	}
	return all[i], nil
}

// fixedBy reports whether what was done fixes a fault of this kind.
func (by FixedBy) fixedBy(done FixedBy) bool {
	switch done {
	case FixedByReboot:
		return by == FixedByReboot || by == FixedByReset || by == FixedByRestart
	default:
		return by == done
	}
}
