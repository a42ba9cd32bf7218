package nodesim

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

const (
	memTotalKiB = 536870912
	cpus        = 64
	hcaRate     = "400 Gb/sec (4X NDR)"
)

// onDisk returns the files of the root folder that show the state of the host, and the times that count for them.
func (h *host) onDisk() (files map[string]string, bootID string, crashedAt time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.filesLocked(), h.bootID, h.crashedAt
}

func (h *host) filesLocked() map[string]string {
	f := map[string]string{
		"/proc/sys/kernel/random/boot_id":          h.bootID + "\n",
		"/proc/1/comm":                             "systemd\n",
		"/proc/1/mounts":                           h.mountsLocked(),
		"/proc/meminfo":                            h.meminfoLocked(),
		"/proc/mdstat":                             "Personalities : [raid1]\nmd0 : active raid1 nvme1n1[1] nvme0n1[0]\n      1000000 blocks [2/2] [UU]\nunused devices: <none>\n",
		"/proc/1/net/ipv6_route":                   "",
		"/proc/1/net/route":                        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\nbond0\t00000000\t0100800A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n",
		"/etc/fstab":                               "/dev/nvme0n1p2 / ext4 rw 0 1\n",
		"/sys/devices/system/cpu/online":           fmt.Sprintf("0-%d\n", cpus-1),
		"/sys/devices/system/edac/mc/mc0/ue_count": fmt.Sprintf("%.0f\n", h.counters["edac-ue"]),
		"/sys/class/nvme/nvme0/state":              "live\n",
		"/sys/class/net/bond0/operstate":           "up\n",
		"/sys/class/net/bond0/speed":               "50000\n",
		"/sys/class/net/bond0/bonding/slaves":      "eth0 eth1\n",
		"/sys/class/net/bond0/bonding/mii_status":  "up\n",
	}
	h.nicFilesLocked(f)
	h.gpuFilesLocked(f)
	h.ibFilesLocked(f)
	if !h.crashedAt.IsZero() {
		f[crashPath] = "Panic#1 Part1\n"
	}
	return f
}

func (h *host) mountsLocked() string {
	mode := "rw"
	if h.hasLocked(RootReadOnly) {
		mode = "ro"
	}
	mounts := "/dev/nvme0n1p2 / ext4 " + mode + ",relatime 0 0\nproc /proc proc rw 0 0\n"
	if h.gpfsMountedLocked() {
		mounts += "fs1 /gpfs/fs1 gpfs rw,relatime 0 0\n"
	}
	return mounts
}

// gpfsMountedLocked is about GPU nodes: the others have no GPFS.
func (h *host) gpfsMountedLocked() bool {
	return h.gpus > 0 && !h.hasLocked(GPFSDown) && !h.hasLocked(GPFSUnmounted)
}

func (h *host) memAvailableLocked() float64 {
	if h.hasLocked(MemoryPressure) {
		return 0.02 * memTotalKiB
	}
	return 0.8 * memTotalKiB
}

func (h *host) meminfoLocked() string {
	available := int(h.memAvailableLocked())
	return fmt.Sprintf("MemTotal:       %d kB\nMemFree:        %d kB\nMemAvailable:   %d kB\nCached:         %d kB\nSReclaimable:   1048576 kB\nHardwareCorrupted:     0 kB\n",
		memTotalKiB, available/2, available, available/3)
}

func (h *host) nicFilesLocked(f map[string]string) {
	for i, nic := range []string{"eth0", "eth1"} {
		state := "up"
		if i == 1 && h.hasLocked(BondSlaveDown) {
			state = "down"
		}
		f["/sys/class/net/"+nic+"/operstate"] = state + "\n"
		f["/sys/class/net/"+nic+"/speed"] = "25000\n"
		f["/sys/class/net/"+nic+"/bonding_slave/mii_status"] = state + "\n"
	}
}

func (h *host) gpuFilesLocked(f map[string]string) {
	if h.gpus == 0 {
		return
	}
	for gpu := range h.gpus {
		f[fmt.Sprintf("/dev/nvidia%d", gpu)] = ""
		if h.gpuGoneLocked(gpu) {
			continue
		}
		device := "/sys/bus/pci/devices/" + pciAddress(gpu)
		f[device+"/vendor"], f[device+"/class"] = "0x10de\n", "0x030200\n"
		f["/proc/driver/nvidia/gpus/"+pciAddress(gpu)+"/information"] = fmt.Sprintf("Model: \t\t NVIDIA H100 80GB HBM3\nDevice Minor: \t %d\n", gpu)
	}
	f["/dev/nvidiactl"] = ""
	if h.gpus == 8 {
		// Eight of them are joined by a switch.
		f["/sys/bus/pci/devices/0000:05:00.0/vendor"], f["/sys/bus/pci/devices/0000:05:00.0/class"] = "0x10de\n", "0x068000\n"
	}
	if !h.hasLocked(PeerMemUnloaded) {
		f["/sys/module/nvidia_peermem/refcnt"] = "0\n"
	}
}

func (h *host) ibFilesLocked(f map[string]string) {
	if h.hcas > 0 {
		for _, module := range []string{"mlx5_core", "mlx5_ib", "ib_core", "ib_uverbs", "ib_umad"} {
			f["/sys/module/"+module+"/refcnt"] = "1\n"
		}
	}
	for i := range h.hcas {
		if i == 0 && h.hasLocked(IBLost) {
			continue
		}
		state, physical := "4: ACTIVE", "5: LinkUp"
		if i == 0 && h.hasLocked(IBDown) {
			state, physical = "1: DOWN", "3: Disabled"
		}
		port := "/sys/class/infiniband/" + hcaName(i) + "/ports/1/"
		f[port+"state"], f[port+"phys_state"] = state+"\n", physical+"\n"
		f[port+"rate"], f[port+"link_layer"] = hcaRate+"\n", "InfiniBand\n"
	}
}

func hcaName(i int) string { return "mlx5_" + strconv.Itoa(i) }

// table joins lines, each with its end.
func table(lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	return strings.Join(lines, "\n") + "\n"
}
