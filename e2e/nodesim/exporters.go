package nodesim

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
)

// exporter writes the series of one kind of exporter for one host.
type exporter struct {
	job string
	// down is the fault that silences it.
	down    string
	collect func(h *host, e *exposition)
}

// exporters lists those that run on every host. Their jobs bear the names of the real ones' Helm charts.
func exporters() []exporter {
	return []exporter{
		{job: "dcgm-exporter", down: DCGMExporterDown, collect: (*host).collectDCGM},
		{job: "node-exporter", collect: (*host).collectNode},
		{job: "sichek", collect: (*host).collectSichek},
		{job: "gpfs-exporter", collect: (*host).collectGPFS},
		{job: "ipmi-exporter", collect: (*host).collectIPMI},
		{job: "smartctl-exporter", collect: (*host).collectSmartctl},
		{job: "node-problem-detector", collect: (*host).collectProblems},
		{job: "kubelet", collect: (*host).collectKubelet},
	}
}

const kubeStateMetrics = "kube-state-metrics"

// Exporters returns the metrics URL of each job. One endpoint serves a job for all hosts and names the host in a label,
// so the scrape must honor labels; it exposes `up` for each host as well.
func (s *Sim) Exporters() map[string]string {
	urls := map[string]string{kubeStateMetrics: s.URL() + "/metrics/" + kubeStateMetrics}
	for _, x := range exporters() {
		urls[x.job] = s.URL() + "/metrics/" + x.job
	}
	return urls
}

// scrape collects the series of a job from every host.
func (s *Sim) scrape(job string) (*exposition, bool) {
	e := newExposition()
	if job == kubeStateMetrics {
		s.collectKubeState(e)
		return e, true
	}
	for _, x := range exporters() {
		if x.job != job {
			continue
		}
		for _, h := range s.sorted() {
			h.scrape(x, e)
		}
		return e, true
	}
	return nil, false
}

func (h *host) scrape(x exporter, e *exposition) {
	h.mu.Lock()
	defer h.mu.Unlock()
	up := h.exportsLocked() && (x.down == "" || !h.hasLocked(x.down))
	e.gauge("up", one(up), "job", x.job, "node", h.name)
	if up {
		x.collect(h, e)
	}
}

func (h *host) collectDCGM(e *exposition) {
	for gpu := range h.gpus {
		// The exporter knows its GPUs since its start: the XID with which one is lost is still reported.
		h.collectXIDs(e, gpu, h.gpuLabels(gpu))
	}
	for _, gpu := range h.installedLocked() {
		on := h.gpuLabels(gpu)
		gauge := func(name string, value float64) { e.gauge("DCGM_FI_"+name, value, on...) }
		has := func(fault string) bool { return h.gpuHasLocked(gpu, fault) }
		use, power, dram := 35.0, 320.0, 0.2
		if has(GPUHung) {
			use, power, dram = 100, 110, 0
		}
		temperature := 45.0
		if has(GPUHot) {
			temperature = 93
		}
		width := 16.0
		if has(GPUPCIeDegraded) {
			width = 8
		}
		gauge("DEV_GPU_UTIL", use)
		gauge("DEV_POWER_USAGE", power)
		gauge("PROF_DRAM_ACTIVE", dram)
		gauge("DEV_ENFORCED_POWER_LIMIT", 700)
		gauge("DEV_SM_CLOCK", 1980)
		gauge("DEV_MAX_SM_CLOCK", 1980)
		gauge("DEV_GPU_TEMP", temperature)
		gauge("DEV_MEMORY_TEMP", temperature+2)
		gauge("DEV_GPU_TEMP_LIMIT", 90-temperature)
		gauge("DEV_PCIE_LINK_WIDTH", width)
		gauge("DEV_PCIE_MAX_LINK_WIDTH", 16)
		gauge("DEV_PERSISTENCE_MODE", one(!h.hasLocked(GPUPersistenceOff)))
		gauge("DEV_ROW_REMAP_PENDING", one(has(GPURowRemapPending)))
		gauge("DEV_ROW_REMAP_FAILURE", one(has(GPURowRemapFailure)))
		gauge("DEV_THRESHOLD_SRM", one(has(GPUSRAMThreshold)))
		gauge("DEV_ECC_DBE_AGG_SRM", 7*one(has(GPUSRAMThreshold)))
		gauge("DEV_ECC_DBE_VOL_SRM", 3*one(has(GPUECCVolatile)))
		gauge("DEV_ECC_DBE_VOL_TOTAL", 3*one(has(GPUECCVolatile) || has(GPUCheckFailed)))
		gauge("DEV_ECC_SBE_VOL_SRM", 0)
		gauge("DEV_ECC_SBE_VOL_TOTAL", 0)
		gauge("DEV_RETIRED_SBE", 0)
		gauge("DEV_RETIRED_DBE", 0)
		gauge("DEV_XID_ERRORS", h.counters[fmt.Sprintf("xid-last/%d", gpu)])
		e.gauge("DCGM_EXP_GPU_HEALTH_STATUS", 20*one(has(GPUCheckFailed)), append(on, "health_watch", "MEM")...)
		e.counter("DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL", 0, on...)
		e.counter("DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL", 0, on...)
	}
}

// gpuLabels are the labels under which dcgm-exporter reports a GPU.
func (h *host) gpuLabels(gpu int) []string {
	return []string{
		"gpu", strconv.Itoa(gpu), "UUID", gpuUUID(h.name, gpu), "pci_bus_id", "0000" + strings.ToUpper(pciAddress(gpu)),
		"device", fmt.Sprintf("nvidia%d", gpu), "modelName", "NVIDIA H100 80GB HBM3", "Hostname", h.name,
	}
}

// collectXIDs adds a counter for each XID that was seen; its series is born with the first.
func (h *host) collectXIDs(e *exposition, gpu int, on []string) {
	prefix := fmt.Sprintf("xid/%d/", gpu)
	for _, name := range sortedKeys(h.counters) {
		if code, ok := strings.CutPrefix(name, prefix); ok {
			e.counter("DCGM_EXP_XID_ERRORS_TOTAL", h.counters[name], append(on[:len(on):len(on)], "xid", code)...)
		}
	}
}

func (h *host) collectNode(e *exposition) {
	node := func(name string, value float64, pairs ...string) {
		e.gauge(name, value, append(pairs, "node", h.name)...)
	}
	count := func(name string, value float64, pairs ...string) {
		e.counter(name, value, append(pairs, "node", h.name)...)
	}
	up := time.Since(h.bootAt).Seconds()
	node("node_boot_time_seconds", float64(h.bootAt.UnixMilli())/1000)
	node("node_memory_MemTotal_bytes", memTotalKiB*1024)
	node("node_memory_MemAvailable_bytes", h.memAvailableLocked()*1024)
	node("node_memory_HardwareCorrupted_bytes", 0)
	count("node_edac_uncorrectable_errors_total", h.counters["edac-ue"], "controller", "0")
	count("node_edac_correctable_errors_total", 0, "controller", "0")
	idle, waiting := 0.7*up, 0.01*up
	if h.hasLocked(CPUPressure) {
		// Since the fault began there was none; a counter must not go back.
		idle, waiting = 0.7*h.beforeLocked(CPUPressure), up-h.beforeLocked(CPUPressure)
	}
	for cpu := range 2 {
		count("node_cpu_seconds_total", idle, "cpu", strconv.Itoa(cpu), "mode", "idle")
		count("node_cpu_seconds_total", up-idle, "cpu", strconv.Itoa(cpu), "mode", "user")
	}
	count("node_pressure_cpu_waiting_seconds_total", waiting)
	load := 0.5
	if h.hasLocked(HighLoad) {
		load = 400
	}
	node("node_load15", load)
	node("node_processes_state", 20*one(h.hasLocked(BlockedProcesses)), "state", "D")
	node("node_processes_state", 60000*one(h.hasLocked(ZombieProcesses)), "state", "Z")
	node("node_processes_max_processes", 4194304)
	node("node_procs_blocked", 20*one(h.hasLocked(BlockedProcesses)))
	h.collectFilesystems(node)
	h.collectLinks(node, count)
	h.collectAdapters(node, count)
	h.collectReports(node)
	for _, unit := range []string{"kubelet", "containerd", "nvidia-fabricmanager", "gpfs"} {
		if h.gpus > 0 || unit == "kubelet" || unit == "containerd" {
			node("node_systemd_unit_state", one(h.activeLocked(unit) == "active"), "name", unit+".service", "state", "active")
		}
	}
}

// collectReports writes what the site's own checks found: 0 for what is over, as long as their file is there.
func (h *host) collectReports(node func(string, float64, ...string)) {
	for condition := range h.reported {
		h.reported[condition] = 0
	}
	for _, f := range h.faults {
		if condition, ok := siteConditionOf(f.Fault); ok {
			if h.reported == nil {
				h.reported = make(map[string]float64)
			}
			h.reported[condition] = 1
		}
	}
	for _, condition := range sortedKeys(h.reported) {
		node("aegis_site_condition", h.reported[condition], "condition", condition)
	}
}

// beforeLocked returns for how long the host had run when the fault began.
func (h *host) beforeLocked(fault string) float64 {
	for _, f := range h.faults {
		if f.Fault == fault {
			return max(0, f.Since.Sub(h.bootAt).Seconds())
		}
	}
	return 0
}

func (h *host) collectFilesystems(node func(string, float64, ...string)) {
	free := 0.6
	if h.hasLocked(DiskPressure) {
		free = 0.02
	}
	root := []string{"mountpoint", "/", "fstype", "ext4", "device", "/dev/nvme0n1p2"}
	node("node_filesystem_size_bytes", 1e12, root...)
	node("node_filesystem_avail_bytes", free*1e12, root...)
	node("node_filesystem_files", 1e7, root...)
	node("node_filesystem_files_free", free*1e7, root...)
	node("node_filesystem_readonly", one(h.hasLocked(RootReadOnly)), root...)
	node("node_md_disks", 0, "device", "md0", "state", "failed")
	if h.gpfsMountedLocked() {
		node("node_filesystem_size_bytes", 1e15, "mountpoint", "/gpfs/fs1", "fstype", "gpfs", "device", "fs1")
		node("node_filesystem_device_error", 0, "mountpoint", "/gpfs/fs1", "fstype", "gpfs", "device", "fs1")
	}
}

func (h *host) collectLinks(node, count func(string, float64, ...string)) {
	if h.hasLocked(LinkFlapping) {
		h.counters["carrier-down"]++
	}
	down := h.hasLocked(BondSlaveDown)
	node("node_bonding_slaves", 2, "master", "bond0")
	node("node_bonding_active", 2-one(down), "master", "bond0")
	node("node_network_up", 1, "device", "eth0")
	node("node_network_up", one(!down), "device", "eth1")
	node("node_network_up", 1, "device", "bond0")
	count("node_network_carrier_down_changes_total", h.counters["carrier-down"], "device", "eth0")
	count("node_network_carrier_down_changes_total", 0, "device", "eth1")
}

func (h *host) collectAdapters(node, count func(string, float64, ...string)) {
	if h.hasLocked(IBFlapping) {
		h.counters["ib-link-downed"]++
	}
	node("node_scrape_collector_success", 1, "collector", "infiniband")
	for i := range h.hcas {
		down := i == 0 && h.hasLocked(IBDown)
		if i == 0 && h.hasLocked(IBLost) {
			continue
		}
		state, physical := 4.0, 5.0
		if down {
			state, physical = 1, 3
		}
		flaps := 0.0
		if i == 0 {
			flaps = h.counters["ib-link-downed"]
		}
		port := []string{"device", hcaName(i), "port", "1"}
		node("node_infiniband_info", 1, "device", hcaName(i), "board_id", "MT_0000000838", "firmware_version", "28.39.2048", "hca_type", "MT4129")
		node("node_infiniband_state_id", state, port...)
		node("node_infiniband_physical_state_id", physical, port...)
		node("node_infiniband_rate_bytes_per_second", 5e10, port...)
		count("node_infiniband_link_downed_total", flaps, port...)
		for _, name := range []string{
			"symbol_error", "port_errors_received", "port_constraint_errors_received", "port_discards_transmitted",
			"port_constraint_errors_transmitted",
		} {
			count("node_infiniband_"+name+"_total", 0, port...)
		}
	}
}

// collectSichek adds a series for each check that fails; a check that passes has none.
func (h *host) collectSichek(e *exposition) {
	for _, c := range []struct {
		fault, metric string
		// device is the name of the device. Empty stands for the number of the GPU that has the fault.
		device string
	}{
		{fault: GPULost, metric: "nvidia_gpulost"},
		{fault: GPUMissing, metric: "nvidia_gpulost"},
		{fault: GPUNVLinkInactive, metric: "nvidia_nvlinknotactive"},
		{fault: FabricManagerDown, metric: "nvidia_nvidiafabricmanagernotactive"},
		{fault: GPUPersistenceOff, metric: "nvidia_gpupersistencedmodenotenabled"},
		{fault: GPURowRemapFailure, metric: "nvidia_remmapedrowsfailure"},
		{fault: GPUPCIeDegraded, metric: "nvidia_pcielinkdegraded"},
		{fault: PeerMemUnloaded, metric: "nvidia_nvidiapeermemnotloaded"},
		{fault: IBLost, metric: "infiniband_iblost"},
		{fault: IBDown, metric: "infiniband_ibstatenotactive", device: hcaName(0)},
		{fault: IBDown, metric: "infiniband_ibphystatenotlinkup", device: hcaName(0)},
		{fault: GPFSDown, metric: "gpfs_gpfsnotstarted"},
		{fault: GPFSUnmounted, metric: "gpfs_gpfsnotmounted"},
		{fault: CPUSensorCritical, metric: "cpu_cpumceuncorrected"},
	} {
		for _, f := range h.faults {
			if f.Fault == c.fault {
				e.gauge("sichek_"+c.metric, 1, "node", h.name, "device", cmp.Or(c.device, strconv.Itoa(f.GPU)))
			}
		}
	}
	for _, f := range h.faults {
		if f.Fault == GPUHung {
			// It names the pod behind the GPU.
			e.gauge("sichek_gpuevents_gpuhang", 1, "node", h.name, "device", fmt.Sprintf("%d:trainer", f.GPU))
		}
	}
	if h.gpus > 0 {
		e.gauge("sichek_nvidia_device_count", float64(len(h.installedLocked())), "node", h.name)
	}
	for i := range h.hcas {
		flaps := 0.0
		if i == 0 {
			flaps = h.counters["ib-link-downed"]
		}
		e.gauge("sichek_infiniband_counter", flaps, "node", h.name, "ib_dev", hcaName(i), "port", "1", "counter_name", "link_downed")
	}
}

func (h *host) collectGPFS(e *exposition) {
	if h.gpus == 0 {
		return
	}
	down := h.hasLocked(GPFSDown)
	for _, state := range []string{"active", "arbitrating", "down", "unknown"} {
		e.gauge("gpfs_state", one(state == "active" && !down || state == "down" && down), "node", h.name, "state", state)
	}
	e.gauge("gpfs_exporter_collect_error", 0, "node", h.name, "collector", "mmgetstate")
	e.gauge("gpfs_mount_status", one(h.gpfsMountedLocked()), "node", h.name, "mount", "/gpfs/fs1")
	e.gauge("gpfs_verbs_status", 1, "node", h.name)
}

func (h *host) collectIPMI(e *exposition) {
	sensor := func(name, kind, fault string) {
		e.gauge("ipmi_sensor_state", 2*one(h.hasLocked(fault)), "node", h.name, "name", name, "type", kind, "id", name)
	}
	sensor("CPU1_Status", "Processor", CPUSensorCritical)
	sensor("DIMM_A1", "Memory", MemoryUncorrectable)
	sensor("PSU2_Status", "Power Supply", PowerSupplyFailed)
	sensor("FAN3", "Fan", FanFailed)
	e.gauge("ipmi_fan_speed_state", 2*one(h.hasLocked(FanFailed)), "node", h.name, "name", "FAN3", "id", "FAN3")
	e.gauge("ipmi_chassis_drive_fault_state", 1, "node", h.name)
	e.gauge("ipmi_chassis_cooling_fault_state", 1-one(h.hasLocked(FanFailed)), "node", h.name)
	e.gauge("ipmi_up", 1, "node", h.name, "collector", "ipmi")
}

func (h *host) collectSmartctl(e *exposition) {
	failed := one(h.hasLocked(DiskSMARTFailed))
	e.gauge("smartctl_device_smart_status", 1-failed, "node", h.name, "device", "nvme0n1")
	// Bit 3 says that the disk failed; without it the disk may only have no SMART.
	e.gauge("smartctl_device_smartctl_exit_status", 8*failed, "node", h.name, "device", "nvme0n1")
}

func (h *host) collectProblems(e *exposition) {
	for _, reason := range []string{"IceTxTimeout", "NvErrResetRequired", "KernelOops", "SriovInitError"} {
		e.counter("problem_counter", h.counters["problem/"+reason], "node", h.name, "reason", reason)
	}
	gauge := func(kind string, on bool) {
		e.gauge("problem_gauge", one(on), "node", h.name, "type", kind, "reason", kind)
	}
	gauge("KernelPanic", h.hasLocked(KernelPanic))
	gauge("KernelDeadlock", false)
	gauge("ReadonlyFilesystem", h.hasLocked(RootReadOnly))
	gauge("DiskBadBlock", false)
}

func (h *host) collectKubelet(e *exposition) {
	errors := 0.0
	if h.hasLocked(CreateContainerErrors) {
		up := time.Since(h.bootAt).Seconds()
		errors = 5 * (up - h.beforeLocked(CreateContainerErrors))
	}
	e.counter("kubelet_started_containers_errors_total", errors, "node", h.name, "code", "CreateContainerError")
	e.gauge("container_memory_working_set_bytes", 0.2*memTotalKiB*1024, "node", h.name, "id", "/kubepods")
}

// collectKubeState adds what kube-state-metrics makes of the API's objects.
func (s *Sim) collectKubeState(e *exposition) {
	nodes, err := s.nodes.List(labels.Everything())
	if err != nil {
		s.log.Error("nodes not listed", "err", err)
		return
	}
	for _, n := range nodes {
		collectNodeState(e, n)
	}
	for _, object := range s.pods.List() {
		if p, ok := object.(*corev1.Pod); ok {
			collectPodState(e, p)
		}
	}
	for _, h := range s.sorted() {
		h.collectStuckPods(e)
	}
}

// collectStuckPods adds the pods of two tenants whose containers the runtime does not create.
func (h *host) collectStuckPods(e *exposition) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.hasLocked(CreateContainerErrors) {
		return
	}
	for _, namespace := range []string{"tenant-a", "tenant-b"} {
		on := []string{"namespace", namespace, "pod", "stuck-" + h.name}
		e.gauge("kube_pod_info", 1, append(on, "node", h.name)...)
		e.gauge("kube_pod_container_status_waiting_reason", 1, append(on, "container", "main", "reason", "CreateContainerError")...)
	}
}

func collectNodeState(e *exposition, n *corev1.Node) {
	e.gauge("kube_node_info", 1, "node", n.Name, "kubelet_version", n.Status.NodeInfo.KubeletVersion, "system_uuid", n.Status.NodeInfo.SystemUUID)
	e.gauge("kube_node_created", float64(n.CreationTimestamp.Unix()), "node", n.Name)
	e.gauge("kube_node_spec_unschedulable", one(n.Spec.Unschedulable), "node", n.Name)
	pairs := []string{"node", n.Name}
	for _, key := range sortedKeys(n.Labels) {
		pairs = append(pairs, "label_"+sanitize(key), n.Labels[key])
	}
	e.gauge("kube_node_labels", 1, pairs...)
	for _, t := range n.Spec.Taints {
		e.gauge("kube_node_spec_taint", 1, "node", n.Name, "key", t.Key, "value", t.Value, "effect", string(t.Effect))
	}
	for _, c := range n.Status.Conditions {
		for _, status := range []corev1.ConditionStatus{corev1.ConditionTrue, corev1.ConditionFalse, corev1.ConditionUnknown} {
			e.gauge("kube_node_status_condition", one(c.Status == status), "node", n.Name, "condition", string(c.Type), "status", strings.ToLower(string(status)))
		}
	}
	resources := func(name string, list corev1.ResourceList) {
		for _, key := range sortedKeys(list) {
			e.gauge(name, amount(list[key]), "node", n.Name, "resource", sanitize(string(key)), "unit", unit(key))
		}
	}
	resources("kube_node_status_capacity", n.Status.Capacity)
	resources("kube_node_status_allocatable", n.Status.Allocatable)
}

func amount(q resource.Quantity) float64 { return q.AsApproximateFloat64() }

func unit(name corev1.ResourceName) string {
	switch name {
	case corev1.ResourceCPU:
		return "core"
	case corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
		return "byte"
	}
	return "integer"
}

func collectPodState(e *exposition, p *corev1.Pod) {
	on := []string{"namespace", p.Namespace, "pod", p.Name, "uid", string(p.UID)}
	e.gauge("kube_pod_info", 1, append(on, "node", p.Spec.NodeName)...)
	for _, phase := range []corev1.PodPhase{corev1.PodPending, corev1.PodRunning, corev1.PodSucceeded, corev1.PodFailed} {
		e.gauge("kube_pod_status_phase", one(p.Status.Phase == phase), append(on, "phase", string(phase))...)
	}
	if p.DeletionTimestamp != nil {
		e.gauge("kube_pod_deletion_timestamp", float64(p.DeletionTimestamp.Unix()), on...)
	}
	for _, c := range p.Status.ContainerStatuses {
		if c.State.Waiting != nil && c.State.Waiting.Reason != "" {
			e.gauge("kube_pod_container_status_waiting_reason", 1, append(on, "container", c.Name, "reason", c.State.Waiting.Reason)...)
		}
		if c.State.Terminated != nil {
			e.gauge("kube_pod_container_status_terminated_reason", 1, append(on, "container", c.Name, "reason", c.State.Terminated.Reason)...)
		}
	}
}

// sanitize makes a label or resource name fit for Prometheus as kube-state-metrics does.
func sanitize(name string) string {
	return strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' {
			return c
		}
		return '_'
	}, name)
}
