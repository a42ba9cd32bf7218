package cases

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"aegis.io/aegis/e2e/cluster"
	"aegis.io/aegis/e2e/nodesim"
	"aegis.io/aegis/ticket"
)

// order gives an order for the node.
func (n node) order(what, body string) {
	n.t.Helper()
	code, answer := call(n.t, http.MethodPost, "/api/v1/nodes/"+n.name+"/"+what, body)
	require.Contains(n.t, []int{http.StatusOK, http.StatusAccepted}, code, "%s: %v", what, answer)
}

// explained returns what Aegis says about the node in words.
func (n node) explained() string {
	n.t.Helper()
	req, err := http.NewRequestWithContext(n.t.Context(), http.MethodGet, n.env.Aegis[0].URL+"/api/v1/nodes/"+n.name+"/explain", nil)
	require.NoError(n.t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(n.t, err)
	text, err := io.ReadAll(resp.Body)
	require.NoError(n.t, err)
	require.NoError(n.t, resp.Body.Close())
	require.Equal(n.t, http.StatusOK, resp.StatusCode)
	return string(text)
}

// A repair waits for a person, says so in one line, and begins when they approve it. They take it over in the middle of the
// drain, which stops, give it back, and it goes on to its end without repeating anything. The mode is that of all nodes, so no
// other case runs meanwhile.
func TestPeopleOrderARepair(t *testing.T) {
	n := nodeOf(t, poolOrders, 0)
	code, answer := call(t, http.MethodPut, "/api/v1/conditions/GpuHung/mode", `{"mode": "approve", "reason": "first week"}`)
	require.Equal(t, http.StatusOK, code, answer)
	defer func() {
		code, answer := call(t, http.MethodDelete, "/api/v1/conditions/GpuHung/mode", "")
		require.Equal(t, http.StatusOK, code, answer)
		require.Equal(t, "auto", answer["mode"])
	}()
	stuck := n.pod("stuck", map[string]string{stuckLabel: "true"})
	n.injectFixedBy(nodesim.GPUHung, nodesim.FixedByReboot)
	n.eventuallyVerdict("GpuHung", "awaiting_approval")
	require.Contains(t, n.explained(), "mode approve: waits for a person to approve the repair; changes when a person approves the repair")
	require.False(t, n.get().Spec.Unschedulable)

	n.order("approve", `{"condition": "GpuHung", "reason": "go"}`)
	n.running(ticket.Drain)
	n.order("takeover", `{"reason": "let me look"}`)
	require.Equal(t, "loopback", n.record().Ticket.Supervisor)
	release(t, shared, stuck)
	n.eventuallyVerdict("GpuHung", "human_owned")
	require.Contains(t, n.explained(), "loopback")
	n.untouchedOps("reboot", 5*time.Second)

	n.order("release", "")
	n.resolved("GpuHung")
	require.Len(t, n.jobsOf("reboot"), 1)
	require.Len(t, n.jobsOf("diagnose"), 1)
	require.Eventually(t, func() bool { return strings.Contains(n.explained(), "Aegis booted the node") }, within, tick)
}

// A Job that waits for its node when a person takes the ticket over is taken back: it must not begin in their hands. No other case runs
// meanwhile, so that the Job is there before the API server notices that its node is off.
func TestTakeoverTakesTheJobBack(t *testing.T) {
	n := nodeOf(t, poolOrders, 5)
	require.NoError(t, n.env.Sim.Power(n.name, false)) // The API server takes a while to notice; no pod starts meanwhile.
	code, answer := heal(t, map[string]string{"node": n.name, "condition": "GpuHung", "reason": "NCCL hangs"})
	require.Equal(t, http.StatusAccepted, code, answer)
	require.Eventually(t, func() bool { return len(n.jobsOf("diagnose")) == 1 }, within, tick)
	n.order("takeover", `{"reason": "the power supply is replaced"}`)
	require.Eventually(t, func() bool { return len(n.jobsOf("diagnose")) == 0 }, within, tick)
	require.Zero(t, n.record().Ticket.Count(ticket.Reboot))

	require.NoError(t, n.env.Sim.Power(n.name, true))
	n.order("release", "")
	n.resolved("GpuHung")
}

// untouchedOps makes sure that no such operation is ordered for a while.
func (n node) untouchedOps(action string, while time.Duration) {
	n.t.Helper()
	for end := time.Now().Add(while); time.Now().Before(end); time.Sleep(tick) {
		require.Empty(n.t, n.jobsOf(action))
	}
}

// A repair that a person cancels stops where it is, and the node is theirs until they give it back.
func TestCanceledRepairStops(t *testing.T) {
	t.Parallel()
	n := nodeOf(t, poolOrders, 1)
	stuck := n.pod("stuck", map[string]string{stuckLabel: "true"})
	n.injectFixedBy(nodesim.GPUHung, nodesim.FixedByReboot)
	n.running(ticket.Drain)
	n.order("cancel", `{"reason": "a run of mine is on it"}`)
	canceled := n.record().Ticket
	require.Equal(t, "loopback", canceled.Supervisor)
	require.Contains(t, steps(canceled), "drain Canceled")
	release(t, shared, stuck)
	n.untouchedOps("reboot", 5*time.Second)
	require.True(t, n.get().Spec.Unschedulable)

	n.order("release", "")
	n.eventually("a new incident", func(r ticket.Record) bool { return r.Ticket != nil && r.Ticket.ID != canceled.ID })
	n.resolved("GpuHung")
	require.Equal(t, "released", n.record().History.Incidents[0].Outcome)
}

// A person who undoes the cordon of Aegis and at once sets their own has the node, though it looks the same as before.
func TestCordonThatAPersonReplacedStays(t *testing.T) {
	t.Parallel()
	n := nodeOf(t, poolOrders, 4)
	stuck := n.pod("stuck", map[string]string{stuckLabel: "true"})
	n.injectFixedBy(nodesim.GPUHung, nodesim.FixedByReboot)
	n.running(ticket.Drain)
	n.edit(func(object *corev1.Node) { object.Spec.Unschedulable = false })
	n.edit(func(object *corev1.Node) { object.Spec.Unschedulable = true })
	require.Contains(t, n.handedOver("gpu").Reason, "uncordoned")
	release(t, shared, stuck)
	require.NoError(t, n.env.Sim.Clear(n.name, nodesim.GPUHung))
	n.untouchedOps("reboot", 10*time.Second)
	require.True(t, n.get().Spec.Unschedulable)
}

// A node that falls silent while it is drained is not drained any more: the ticket takes the more urgent condition, the node
// stays cordoned, and what had been wrong before is repaired after it is back.
func TestMoreUrgentConditionTakesTheTicket(t *testing.T) {
	t.Parallel()
	n := nodeOf(t, poolOrders, 2)
	stuck := n.pod("stuck", map[string]string{stuckLabel: "true"})
	n.injectFixedBy(nodesim.GPUHung, nodesim.FixedByReboot)
	n.running(ticket.Drain)
	id := n.record().Ticket.ID
	n.inject(nodesim.NotReady)
	n.eventually("taken over", func(r ticket.Record) bool {
		return r.Ticket != nil && r.Ticket.ID == id && r.Ticket.Condition == "NodeNotReady"
	})
	require.Contains(t, steps(n.record().Ticket), "drain Canceled")
	require.Empty(t, n.jobsOf("reboot"))
	require.NoError(t, n.env.Sim.Clear(n.name, nodesim.NotReady))
	release(t, shared, stuck)
	n.resolved("GpuHung")
	require.Len(t, n.jobsOf("reboot"), 1)
}

// A node that is deleted and registered again under its name is another node: the incident went with the old one.
func TestRecreatedNodeIsAnotherNode(t *testing.T) {
	t.Parallel()
	n := nodeOf(t, poolOrders, 3)
	n.pod("stuck", map[string]string{stuckLabel: "true"})
	n.injectFixedBy(nodesim.GPUHung, nodesim.FixedByReboot)
	n.running(ticket.Drain)
	old := n.get()
	require.NoError(t, n.env.Cluster.Client().CoreV1().Nodes().Delete(t.Context(), n.name, metav1.DeleteOptions{}))
	require.NoError(t, n.env.Cluster.AddNodes(t.Context(), []cluster.Node{{Name: n.name, GPUs: gpusPerNode, Pool: poolOrders}}))
	n.eventually("ready", func(r ticket.Record) bool { return ready(r.Node) })
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(tick) {
		r := n.record()
		require.NotEqual(t, old.UID, r.Node.UID)
		require.Nil(t, r.Ticket, "nothing is known to be wrong with the new node")
		require.False(t, r.Node.Spec.Unschedulable)
	}
	require.Empty(t, n.jobsOf("reboot"))
}

func ready(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// The budget of a pool holds, and says which nodes take it up and what has to happen.
func TestBudgetIsExplained(t *testing.T) {
	t.Parallel()
	first := nodeOf(t, poolBudget, 0)
	stuck := first.pod("stuck", map[string]string{stuckLabel: "true"})
	first.injectFixedBy(nodesim.GPUHung, nodesim.FixedByReboot)
	first.running(ticket.Drain)
	second := nodeOf(t, poolBudget, 1)
	second.injectFixedBy(nodesim.GPUHung, nodesim.FixedByReboot)
	second.eventuallyVerdict("GpuHung", "budget")
	require.Contains(t, second.explained(), fmt.Sprintf("1 of %d nodes of pool budget are out of service, 1 allowed: %s; changes when a place is free and it is the node's turn",
		nodesOfBudget, first.name))
	release(t, shared, stuck)
	first.resolved("GpuHung")
	second.resolved("GpuHung")
}
