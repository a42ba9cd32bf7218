package nodesim

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

func printed(text string) answer { return answer{Stdout: text} }

func complained(exit int, text string) answer { return answer{Stderr: text + "\n", Exit: exit} }

// tool does what the named program does on a host in this state.
func (h *host) tool(name string, args []string) answer {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.power != PowerOn {
		return complained(1, "the host is down")
	}
	switch name {
	case "systemctl":
		return h.systemctlLocked(args)
	case "modprobe", "crictl", "gpu-burn", siteRemedy:
		return h.serviceToolLocked(name, args)
	case "nvidia-smi":
		return h.nvidiaSMILocked(args)
	case "dmesg":
		h.absorbKmsgLocked()
		return printed(table(h.kmsg))
	case "mmgetstate", "mmstartup", "mmmount", "mmdiag", "mmfsadm":
		return h.gpfsToolLocked(name, args)
	case "timedatectl":
		return printed("yes\n")
	case "df":
		return h.dfLocked(args)
	case "smartctl":
		if h.hasLocked(DiskSMARTFailed) {
			return answer{Stdout: "SMART overall-health self-assessment test result: FAILED!\n", Exit: 8}
		}
		return printed("SMART overall-health self-assessment test result: PASSED\n")
	case "stat":
		return printed("gpfs\n")
	case "ipmitool":
		return h.ipmitoolLocked(args)
	default:
		return printed(name + " of " + h.name + "\n")
	}
}

// serviceToolLocked runs what changes the host, or what a site has installed on it.
func (h *host) serviceToolLocked(name string, args []string) answer {
	switch {
	case name == "gpu-burn":
		return h.siteCheckLocked()
	case name == siteRemedy:
		h.restartedLocked(siteRemedy)
		return printed("mounted\n")
	case name == "modprobe" && slices.Contains(args, "nvidia-peermem"):
		h.restartedLocked("ConfigPeerMem")
	case name == "crictl" && slices.Contains(args, "--prune"):
		h.restartedLocked("PruneImages")
		return printed("no unused images found\n")
	}
	return answer{}
}

// gpfsToolLocked runs the tools of GPFS. Those that start and mount fix the faults that are waiting for them.
func (h *host) gpfsToolLocked(name string, args []string) answer {
	switch name {
	case "mmgetstate":
		return h.mmgetstateLocked()
	case "mmstartup":
		h.restartedLocked("StartGpfs")
	case "mmmount":
		h.restartedLocked("MountGpfs")
	case "mmfsadm":
		return printed("VERBS RDMA status: disabled\n")
	case "mmdiag":
		if slices.Contains(args, "-Y") {
			return printed("mmdiag:waiters:HEADER:version:reserved:reserved:threadId:threadAddr:threadName:waitStartTime:waitTime:" +
				"isMonitored:condVarAddr:condVarName:condVarReason:mutexAddr:mutexName:auxReason:delayTime:delayReason:\n")
		}
	}
	return printed(name + " done\n")
}

func (h *host) siteCheckLocked() answer {
	if h.hasLocked(HealthcheckSite) {
		return answer{Stdout: "gpu-burn: 3 errors on GPU 0\n", Exit: 23}
	}
	return printed("gpu-burn: no errors\n")
}

// absorbKmsgLocked takes over the lines that operations have written to the kernel log, in their place among the others.
func (h *host) absorbKmsgLocked() {
	if h.root == nil {
		return
	}
	file := filepath.Join(h.root.dir, kmsgPath)
	text, err := os.ReadFile(file)
	if err != nil || len(text) == 0 {
		return
	}
	h.kmsg = append(h.kmsg, strings.Split(strings.TrimSpace(string(text)), "\n")...)
	if err := os.Truncate(file, 0); err != nil {
		h.sim.log.Warn("kernel log not emptied", "node", h.name, "err", err)
	}
}

func (h *host) systemctlLocked(args []string) answer {
	if h.hasLocked(SystemctlBroken) {
		return complained(1, "Failed to connect to bus: Connection refused")
	}
	var words, units []string
	for _, a := range args {
		if !strings.HasPrefix(a, "-") {
			words = append(words, a)
		}
	}
	if len(words) == 0 {
		return printed("0 loaded units listed.\n")
	}
	for _, u := range words[1:] {
		units = append(units, strings.TrimSuffix(u, ".service"))
	}
	switch words[0] {
	case "reboot":
		h.requestRebootLocked(PowerBooting)
		return answer{}
	case "poweroff":
		h.requestRebootLocked(PowerOff)
		return answer{}
	case "is-active":
		return h.isActiveLocked(units)
	case "show":
		return h.showLocked(units)
	case "start", "restart", "stop":
		return h.controlLocked(words[0], units)
	}
	return printed("")
}

func (h *host) controlLocked(verb string, units []string) answer {
	for _, u := range units {
		h.noteLocked("systemctl %s %s", verb, u)
		if verb == "stop" {
			h.stopped[u] = true
			continue
		}
		h.restartedLocked(u)
	}
	return answer{}
}

// activeLocked returns the state of a unit as systemctl names it. An unknown one is inactive.
func (h *host) activeLocked(unit string) string {
	faulty := slices.ContainsFunc(h.faults, func(f ActiveFault) bool {
		return f.unit == unit && f.Fault != KubeletStuck && f.Fault != CreateContainerErrors
	})
	known := []string{"kubelet", "containerd"}
	if h.gpus > 0 {
		known = append(known, "nvidia-persistenced", "nvidia-fabricmanager", "nvidia-dcgm", "gpfs")
	}
	if !slices.Contains(known, unit) || faulty || h.stopped[unit] || unit == "gpfs" && h.hasLocked(GPFSDown) {
		return "inactive"
	}
	return "active"
}

func (h *host) isActiveLocked(units []string) answer {
	var states []string
	for _, u := range units {
		states = append(states, h.activeLocked(u))
	}
	a := printed(table(states))
	if slices.Contains(states, "inactive") {
		a.Exit = 3
	}
	return a
}

func (h *host) showLocked(units []string) answer {
	if len(units) != 1 {
		return complained(1, "one unit, please")
	}
	pid := 0
	if h.activeLocked(units[0]) == "active" {
		pid = 1000 + h.pids[units[0]]
	}
	return printed(fmt.Sprintf("LoadState=loaded\nMainPID=%d\n", pid))
}

func (h *host) mmgetstateLocked() answer {
	state := "active"
	if h.hasLocked(GPFSDown) {
		state = "down"
	}
	return printed("mmgetstate::HEADER:version:reserved:reserved:nodeName:nodeNumber:state:quorum:nodesUp:totalNodes:remarks:cnfsState:\n" +
		"mmgetstate::0:1:::" + h.name + ":1:" + state + ":2:3:3::(undefined):\n")
}

func (h *host) dfLocked(args []string) answer {
	mounts := []string{"/"}
	if i := slices.Index(args, "--"); i >= 0 {
		mounts = args[i+1:]
	}
	used := 40
	if h.hasLocked(DiskPressure) {
		used = 98
	}
	lines := []string{"Filesystem 1024-blocks Used Available Capacity Mounted on"}
	if slices.Contains(args, "-i") {
		lines[0] = "Filesystem Inodes IUsed IFree IUse% Mounted on"
	}
	for _, m := range mounts {
		lines = append(lines, fmt.Sprintf("/dev/nvme0n1p2 1000000 %d %d %d%% %s", used*10000, (100-used)*10000, used, m))
	}
	return printed(table(lines))
}

func (h *host) ipmitoolLocked(args []string) answer {
	if !slices.Contains(args, "Processor") {
		return printed("")
	}
	state := "ok"
	if h.hasLocked(CPUSensorCritical) {
		state = "cr"
	}
	return printed("CPU1 Status      | 41h | " + state + "  | 3.1 | Presence detected\n")
}

// gpuGoneLocked reports whether the GPU is no longer on the bus.
func (h *host) gpuGoneLocked(gpu int) bool {
	return h.gpuHasLocked(gpu, GPULost) || h.gpuHasLocked(gpu, GPUMissing)
}

// installedLocked returns the indices of the GPUs that are on the bus.
func (h *host) installedLocked() []int {
	var gpus []int
	for gpu := range h.gpus {
		if !h.gpuGoneLocked(gpu) {
			gpus = append(gpus, gpu)
		}
	}
	return gpus
}

func (h *host) nvidiaSMILocked(args []string) answer {
	if h.hasLocked(NvidiaSMIHangs) {
		return answer{hang: true}
	}
	line := strings.Join(args, " ")
	switch {
	case strings.HasPrefix(line, "-L"):
		return h.perGPULocked(func(gpu int) string {
			return fmt.Sprintf("GPU %d: NVIDIA H100 80GB HBM3 (UUID: %s)", gpu, gpuUUID(h.name, gpu))
		})
	case strings.Contains(line, "--query-compute-apps"):
		return printed("")
	case strings.Contains(line, "--query-remapped-rows="):
		return h.perGPULocked(func(gpu int) string {
			return fmt.Sprintf("%s, %s, %s", gpuUUID(h.name, gpu), yes(h.gpuHasLocked(gpu, GPURowRemapFailure)), yes(h.gpuHasLocked(gpu, GPURowRemapPending)))
		})
	case strings.Contains(line, "--query-gpu="):
		fields, _, _ := strings.Cut(strings.SplitN(line, "--query-gpu=", 2)[1], " ")
		return h.perGPULocked(func(gpu int) string { return h.queryLocked(gpu, strings.Split(fields, ",")) })
	case strings.Contains(line, "--gpu-reset"):
		return h.resetToolLocked(args)
	case strings.HasPrefix(line, "nvlink"):
		return h.perGPULocked(h.nvlinkLocked)
	case strings.HasPrefix(line, "-pm"):
		h.restartedLocked("nvidia-persistenced")
		return printed("All done.\n")
	default:
		return h.perGPULocked(h.eccLocked)
	}
}

func yes(on bool) string {
	if on {
		return "Yes"
	}
	return "No"
}

func (h *host) perGPULocked(text func(gpu int) string) answer {
	var lines []string
	for _, gpu := range h.installedLocked() {
		lines = append(lines, text(gpu))
	}
	return printed(table(lines))
}

// queryLocked answers one line of --query-gpu.
func (h *host) queryLocked(gpu int, fields []string) string {
	var values []string
	for _, f := range fields {
		values = append(values, h.fieldLocked(gpu, f))
	}
	return strings.Join(values, ", ")
}

func (h *host) fieldLocked(gpu int, field string) string {
	switch field {
	case "index":
		return strconv.Itoa(gpu)
	case "uuid":
		return gpuUUID(h.name, gpu)
	case "pci.bus_id":
		return "0000" + strings.ToUpper(pciAddress(gpu))
	case "persistence_mode":
		if h.hasLocked(GPUPersistenceOff) {
			return "Disabled"
		}
		return "Enabled"
	case "ecc.errors.uncorrected.volatile.total":
		return strconv.Itoa(h.volatileErrorsLocked(gpu))
	case "pcie.link.width.current":
		if h.gpuHasLocked(gpu, GPUPCIeDegraded) {
			return "8"
		}
		return "16"
	case "pcie.link.width.max":
		return "16"
	}
	return "[N/A]"
}

func (h *host) volatileErrorsLocked(gpu int) int {
	if h.gpuHasLocked(gpu, GPUECCVolatile) || h.gpuHasLocked(gpu, GPUCheckFailed) || h.gpuHasLocked(gpu, HealthcheckGPU) {
		return 3
	}
	return 0
}

func (h *host) nvlinkLocked(gpu int) string {
	lines := []string{fmt.Sprintf("GPU %d: NVIDIA H100 80GB HBM3 (UUID: %s)", gpu, gpuUUID(h.name, gpu))}
	for l := range 18 {
		speed := "26.562 GB/s"
		if l == 0 && h.gpuHasLocked(gpu, GPUNVLinkInactive) {
			speed = "<inactive>"
		}
		lines = append(lines, fmt.Sprintf("\t Link %d: %s", l, speed))
	}
	return strings.Join(lines, "\n")
}

func (h *host) eccLocked(gpu int) string {
	aggregate := 0
	if h.gpuHasLocked(gpu, GPUSRAMThreshold) {
		aggregate = 7
	}
	volatile := 0
	if h.gpuHasLocked(gpu, GPUECCVolatile) {
		volatile = 3
	}
	return fmt.Sprintf(`GPU 0000%s
    ECC Mode
        Current                           : Enabled
    ECC Errors
        Volatile
            SRAM Correctable              : 0
            SRAM Uncorrectable Parity     : %d
            SRAM Uncorrectable SEC-DED    : 0
        Aggregate
            SRAM Correctable              : 0
            SRAM Uncorrectable Parity     : %d
            SRAM Uncorrectable SEC-DED    : 0
            SRAM Threshold Exceeded       : %s
        Aggregate Uncorrectable SRAM Sources
            SRAM L2                       : 0`,
		strings.ToUpper(pciAddress(gpu)), volatile, aggregate, yes(h.gpuHasLocked(gpu, GPUSRAMThreshold)))
}

// resetToolLocked resets the GPU of -i, or all of them.
func (h *host) resetToolLocked(args []string) answer {
	target := -1
	if i := slices.Index(args, "-i"); i >= 0 && i+1 < len(args) {
		target = slices.IndexFunc(h.installedLocked(), func(gpu int) bool { return gpuUUID(h.name, gpu) == args[i+1] || strconv.Itoa(gpu) == args[i+1] })
		if target < 0 {
			return complained(6, "No devices were found")
		}
		target = h.installedLocked()[target]
	}
	h.noteLocked("nvidia-smi %s", strings.Join(args, " "))
	h.resetGPUsLocked(target)
	return printed("All done.\n")
}
