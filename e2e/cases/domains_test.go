package cases

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"aegis.io/aegis/e2e/nodesim"
	"aegis.io/aegis/ticket"
)

// domainCase is one condition from its metric to its end.
type domainCase struct {
	domain, condition, fault string
	fixedBy                  nodesim.FixedBy
	// or is another condition of the same fault, whose alert may come first and is dealt with in the same way.
	or string
	// team has the node in the end. Empty means that it returns to service by itself.
	team string
	// ops are the operations that run on the host, in order.
	ops string
	// inService is for a node that is never cordoned.
	inService bool
	// evicted is for a node that loses its pods: all of them, or those that hold a GPU.
	evicted, gpuOnly bool
	// idle is for a repair that waits until the pods on the node have ended.
	idle bool
	// off is for a node that is powered off, boots how often it boots otherwise.
	off   bool
	boots int
}

// domains holds at least one condition of each domain.
func domains() []domainCase {
	return []domainCase{
		{
			domain: "node", condition: "KubeletFailedCreatePodContainer", fault: nodesim.CreateContainerErrors,
			ops: "diagnose, remedy RestartKubelet, healthcheck",
		},
		{
			domain: "cpu", condition: "CpuUnhealthy", fault: nodesim.CPUSensorCritical,
			team: "host", ops: "diagnose, shutdown", evicted: true, off: true,
		},
		{
			domain: "memory", condition: "MemoryUnhealthy", fault: nodesim.MemoryUncorrectable,
			team: "host", ops: "diagnose, shutdown", evicted: true, off: true,
		},
		{
			domain: "disk", condition: "DiskPressure", fault: nodesim.DiskPressure, fixedBy: nodesim.FixedByRestart,
			ops: "remedy PruneImages",
		},
		{
			domain: "gpfs", condition: "GpfsDown", fault: nodesim.GPFSDown,
			ops: "diagnose, repair StartGpfs, healthcheck",
		},
		{
			domain: "gpfs", condition: "GpfsMountLost", or: "GpfsNotMounted", fault: nodesim.GPFSUnmounted,
			ops: "diagnose, repair MountGpfs, healthcheck",
		},
		{
			domain: "gpu", condition: "GpuRowRemappingFailure", fault: nodesim.GPURowRemapFailure,
			team: "gpu", ops: "diagnose, shutdown", evicted: true, off: true,
		},
		{
			domain: "gpu", condition: "NvidiaFabricManagerNotActive", fault: nodesim.FabricManagerDown,
			ops: "diagnose, remedy RestartFabricManager, healthcheck", evicted: true, gpuOnly: true,
		},
		{
			// The table says reset, and the driver asks for a boot.
			domain: "gpu", condition: "Xid95UncontainedECCError", or: "GpuXidRecoveryAction", fault: nodesim.GPURebootRequired,
			ops: "diagnose, reboot, healthcheck", evicted: true, boots: 1,
		},
		{
			domain: "ib", condition: "IBDown", fault: nodesim.IBDown,
			team: "network", ops: "diagnose", evicted: true,
		},
		{
			// The same port, where the inventory says that it is one of RoCE.
			domain: "roce", condition: "RoceDeviceBroken", fault: nodesim.IBDown,
			team: "network", ops: "diagnose", evicted: true,
		},
		{
			domain: "network", condition: "NetworkLinkFrequentDown", fault: nodesim.LinkFlapping,
			team: "network", ops: "diagnose",
		},
		{
			domain: "process", condition: "HighDProcessesCount", fault: nodesim.BlockedProcesses,
			ops: "diagnose, reboot, healthcheck", idle: true, boots: 1,
		},
		{
			domain: "peermem", condition: "PeerMemModuleNotReady", fault: nodesim.PeerMemUnloaded,
			ops: "remedy ConfigPeerMem", inService: true,
		},
		{
			domain: "baseboard", condition: "BaseBoardCriticalIssue", fault: nodesim.PowerSupplyFailed,
			team: "host", inService: true,
		},
		{
			domain: "baseboard", condition: "BaseBoardCriticalIssue", fault: nodesim.FanFailed,
			team: "host", ops: "diagnose, shutdown", evicted: true, off: true,
		},
		{
			// The node has booted by itself; that is what is looked at.
			domain: "system", condition: "KernelPanic", fault: nodesim.KernelPanic,
			ops: "diagnose, healthcheck", boots: 1,
		},
	}
}

func (c domainCase) name() string { return fmt.Sprintf("%s %s %s", c.domain, c.condition, c.fault) }

// roceInventory names the first adapter of the RoCE nodes as a port of RoCE.
func roceInventory() string {
	var nodes []string
	for i, c := range domains() {
		if c.domain == "roce" {
			nodes = append(nodes, nodeName(poolDomains, i))
		}
	}
	return fmt.Sprintf(`groups:
- name: inventory
  rules:
  - record: aegis:roce_device
    expr: max by (node) (last_over_time(kube_node_info{node=~%q}[1h]))
    labels: {device: mlx5_0, netdev: eth1}
`, strings.Join(nodes, "|"))
}

// Each domain has a condition that goes its whole way. All nodes fall ill at once, since most of the time is spent waiting.
func TestDomains(t *testing.T) {
	t.Parallel()
	for i, c := range domains() {
		n := nodeOf(t, poolDomains, i)
		n.watched()
		job, service := n.gpuPod("job"), n.pod("service", nil)
		n.injectFixedBy(c.fault, c.fixedBy)
		t.Run(c.name(), func(t *testing.T) {
			t.Parallel()
			n := nodeOf(t, poolDomains, i)
			if c.idle {
				n.endsAfterWait(job, service)
			}
			isolated := n.ends(c)
			require.Equal(t, !c.inService, isolated, "whether it was cordoned")
			require.Equal(t, c.team != "" && !c.inService, n.get().Spec.Unschedulable)
			require.Equal(t, c.ops, n.renderedOps())
			require.Equal(t, !c.evicted && !c.idle, exists(t, job), "whether the pod with a GPU is left")
			require.Equal(t, !c.evicted && !c.idle || c.gpuOnly, exists(t, service), "whether the pod without a GPU is left")
			require.Equal(t, 1+c.boots, n.state().Boots)
			require.Equal(t, map[bool]string{true: nodesim.PowerOff, false: nodesim.PowerOn}[c.off], n.state().Power)
		})
	}
}

// watched waits until the node was watched for longer than the rules look back: of what begins earlier, they cannot say that it
// is new, nor that a port has ever worked.
func (n node) watched() {
	n.t.Helper()
	then := fmt.Sprintf(`DCGM_FI_DEV_GPU_TEMP{Hostname=%[1]q} offset 20s and on () node_infiniband_info{node=%[1]q} offset 20s`, n.name)
	n.eventually("watched for a while", func(ticket.Record) bool {
		samples, err := n.env.Monitoring.Query(n.t.Context(), then)
		require.NoError(n.t, err)
		return len(samples) > 0
	})
}

// endsAfterWait lets the pods end, once Aegis waits for them.
func (n node) endsAfterWait(pods ...*corev1.Pod) {
	n.t.Helper()
	n.running(ticket.WaitIdle)
	require.Empty(n.t, n.ops("reboot"))
	for _, pod := range pods {
		require.True(n.t, exists(n.t, pod), "what may end by itself is not evicted")
		require.NoError(n.t, n.env.Cluster.Client().CoreV1().Pods(pod.Namespace).Delete(n.t.Context(), pod.Name, metav1.DeleteOptions{}))
	}
}

// ends waits for the end of the case and reports whether the node was cordoned on the way.
func (n node) ends(c domainCase) (isolated bool) {
	n.t.Helper()
	if c.team == "" {
		incident := n.resolved(c.condition, c.or)
		return incident.Isolated || len(incident.Destructive) > 0
	}
	found := n.handedOver(c.team)
	require.Equal(n.t, c.condition, found.Condition)
	require.Equal(n.t, c.off, strings.Contains(found.Reason, "powered off"), found.Reason)
	return found.Count(ticket.Cordon) > 0
}

// renderedOps returns the operations that ran on the node, with the names of remedies and repairs.
func (n node) renderedOps() string {
	n.t.Helper()
	var ops []string
	for _, op := range n.state().Ops {
		name := op.Action
		if (name == "remedy" || name == "repair") && len(op.Args) > 1 {
			name += " " + op.Args[1]
		}
		ops = append(ops, name)
	}
	return strings.Join(ops, ", ")
}

// A kernel panic is dealt with once, though it is told of until the next boot; the boot itself is written down.
func TestKernelPanicIsDealtWithOnce(t *testing.T) {
	t.Parallel()
	n := nodeOf(t, poolMarks, 1)
	n.inject(nodesim.KernelPanic)
	n.resolved("KernelPanic")
	n.eventuallyNoted("NodeHasRestarted")
	n.eventuallyVerdict("KernelPanic", "tolerated")
	n.untouchedOps("reboot", 5*time.Second)
	require.Len(t, n.jobsOf("healthcheck"), 1)
}

// eventuallyNoted waits until the condition is in the history as seen.
func (n node) eventuallyNoted(condition string) {
	n.t.Helper()
	n.eventually(condition+" is noted", func(r ticket.Record) bool {
		for _, i := range r.History.Incidents {
			if i.Condition == condition && i.Outcome == ticket.Noted {
				return true
			}
		}
		return false
	})
}

// While GPUs are lost, nothing is done about what that explains, and the node tells schedulers what is broken. When they are
// back, the marks are gone.
func TestLostGPUExplainsAndMarks(t *testing.T) {
	t.Parallel()
	n := nodeOf(t, poolMarks, 0)
	n.watched()
	stuck := n.pod("stuck", map[string]string{stuckLabel: "true"})
	// Silenced, so that all of it is known before anything is done about the first.
	silence, err := shared.Monitoring.Silence(t.Context(), map[string]string{"node": n.name}, time.Hour)
	require.NoError(t, err)
	n.inject(nodesim.GPULost)
	require.NoError(t, n.env.Sim.Inject(n.name, nodesim.Injection{Fault: nodesim.GPUCheckFailed, GPU: 1}))
	n.eventuallyVerdict("GpuDown", "silenced")
	n.eventuallyVerdict("GpuCheckFailed", "tolerated")
	n.eventuallyVerdict("Xid79GPULost", "tolerated")
	require.NoError(t, shared.Monitoring.Expire(t.Context(), silence))
	n.running(ticket.Drain)
	n.eventually("marked", func(r ticket.Record) bool {
		return r.Node.Annotations["aegis.io/device-errors"] == `{"gpu":"all"}` && r.Node.Labels["aegis.io/load-affected"] == "true"
	})
	release(t, shared, stuck)
	n.resolved("GpuDown")
	n.eventually("not marked", func(r ticket.Record) bool {
		_, marked := r.Node.Annotations["aegis.io/device-errors"]
		_, affected := r.Node.Labels["aegis.io/load-affected"]
		return !marked && !affected
	})
	require.Equal(t, "diagnose, reboot, healthcheck", n.renderedOps())
}

// What only the site itself can see is shown, and nothing is done about it until the site wants that.
func TestReportOfTheSiteIsObserved(t *testing.T) {
	t.Parallel()
	n := nodeOf(t, poolMarks, 2)
	n.inject(nodesim.SiteFault("RocePodOffline"))
	n.eventuallyVerdict("RocePodOffline", "observe")
	n.untouched(5*time.Second, func(now *corev1.Node) bool {
		return !now.Spec.Unschedulable && now.Annotations[ticket.Annotation] == ""
	})
}

// Nothing fires on a host that nothing is wrong with.
func TestHealthyNodeIsQuiet(t *testing.T) {
	t.Parallel()
	n := nodeOf(t, poolHealthy, 0)
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(time.Second) {
		require.Empty(t, n.everFired())
	}
	require.Empty(t, n.state().Ops)
	require.Nil(t, n.record().Ticket)
	require.Empty(t, n.record().History.Incidents)
}

// everFired returns the conditions that fired on the node since the environment was started.
func (n node) everFired() []string {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), 10*time.Second)
	defer cancel()
	samples, err := n.env.Monitoring.Query(ctx, fmt.Sprintf(`max by (condition) (max_over_time(ALERTS{alertstate="firing",node=%q}[1h]))`, n.name))
	require.NoError(n.t, err)
	var fired []string
	for _, s := range samples {
		fired = append(fired, s.Labels["condition"])
	}
	return fired
}
