package nodesim

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestToolsFixWhatWaitsForThem(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		fault   string
		fixedBy FixedBy
		tool    string
		args    []string
		file    string
	}{
		{fault: GPFSDown, tool: "mmstartup"},
		{fault: GPFSUnmounted, tool: "mmmount", args: []string{"all"}},
		{fault: PeerMemUnloaded, tool: "modprobe", args: []string{"nvidia-peermem"}, file: "/sys/module/nvidia_peermem/refcnt"},
		{fault: DiskPressure, fixedBy: FixedByRestart, tool: "crictl", args: []string{"rmi", "--prune"}},
		{fault: GPUPersistenceOff, tool: "systemctl", args: []string{"start", "nvidia-persistenced"}},
		{fault: FabricManagerDown, tool: "systemctl", args: []string{"restart", "nvidia-fabricmanager"}},
	} {
		t.Run(tc.fault, func(t *testing.T) {
			t.Parallel()
			h := newHost(&Sim{log: slog.New(slog.DiscardHandler)}, "n", 8, 4)
			require.NoError(t, h.inject(Injection{Fault: tc.fault, FixedBy: tc.fixedBy}, nil))
			for _, other := range []string{"mmgetstate", "mmdiag", "mmumount", "lspci"} {
				require.Zero(t, h.tool(other, nil).Exit)
			}
			require.NotEmpty(t, h.state().Faults)
			files, _, _ := h.onDisk()
			require.NotContains(t, files, tc.file)
			require.Zero(t, h.tool(tc.tool, tc.args).Exit)
			require.Empty(t, h.state().Faults)
			files, _, _ = h.onDisk()
			if tc.file != "" {
				require.Contains(t, files, tc.file)
			}
		})
	}
}

func TestHostSaysWhatItHas(t *testing.T) {
	t.Parallel()
	h := newHost(&Sim{log: slog.New(slog.DiscardHandler)}, "n", 8, 4)
	require.NoError(t, h.inject(Injection{Fault: SiteFault("RocePodOffline")}, nil))
	require.NoError(t, h.inject(Injection{Fault: GPURebootRequired, GPU: 2}, nil))
	require.NoError(t, h.inject(Injection{Fault: LinkFlapping}, nil))
	h.crashedAt = time.Now()
	files, _, _ := h.onDisk()
	require.Contains(t, files, crashPath)
	log := h.tool("dmesg", nil).Stdout
	require.Contains(t, log, "NVRM: Xid (PCI:0000:3b:00): 95, ")
	require.Contains(t, log, "NVRM: Xid (PCI:0000:3b:00): 154, GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)")

	first, second := exposed(t, h.collectNode), exposed(t, h.collectNode)
	require.Contains(t, first, `aegis_site_condition{condition="RocePodOffline",node="n"} 1`)
	const flaps = `node_network_carrier_down_changes_total{device="eth0",node="n"} `
	require.Contains(t, first, flaps+"6")
	require.Contains(t, second, flaps+"7")
}

func exposed(t *testing.T, collect func(*exposition)) string {
	t.Helper()
	e := newExposition()
	collect(e)
	var text strings.Builder
	require.NoError(t, e.writeTo(&text))
	return text.String()
}
