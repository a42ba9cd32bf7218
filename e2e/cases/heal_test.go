package cases

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"aegis.io/aegis/e2e/nodesim"
	"aegis.io/aegis/ticket"
)

// view is what the cases read of the API's answer about a node.
type view struct {
	Conditions []struct {
		Condition, Verdict, Reason string
	}
}

func nodeView(ctx context.Context, t *testing.T, aegis, name string) view {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, aegis+"/api/v1/nodes/"+name, nil)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	var v view
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&v))
	require.NoError(t, resp.Body.Close())
	return v
}

// post sends JSON to Aegis and returns the answer.
func post(t *testing.T, path string, body any) (code int, answer string) {
	t.Helper()
	text, err := json.Marshal(body)
	require.NoError(t, err)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, shared.Aegis[0].URL+path, bytes.NewReader(text))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	raw, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return resp.StatusCode, string(raw)
}

func heal(t *testing.T, request map[string]string) (code int, answer string) {
	t.Helper()
	return post(t, "/api/v1/heal", request)
}

// seedTicket is the ticket as the tools of others read it.
type seedTicket struct {
	Condition, Reason, Supervisor, Status string
	Workflows                             []struct{ Action, Status string }
}

// parseSeed reads the annotation as a tool would that knows the documented format alone.
func parseSeed(t *testing.T, text string) seedTicket {
	t.Helper()
	var seed seedTicket
	require.NoError(t, yaml.Unmarshal([]byte(text), &seed), text)
	require.NotEmpty(t, seed.Condition)
	require.Contains(t, []string{"created", "assigned", "resolving"}, seed.Status)
	require.NotEmpty(t, seed.Supervisor)
	for _, s := range seed.Workflows {
		require.Equal(t, strings.ToLower(s.Action), s.Action)
		require.Contains(t, []string{"Running", "Succeeded", "Failed", "Canceled"}, s.Status)
	}
	return seed
}

// A hung GPU goes the whole way: isolated, drained, rebooted, checked and returned, with the ticket readable all along.
func TestHungGPUIsHealed(t *testing.T) {
	t.Parallel()
	n := nodeOf(t, poolHung, 0)
	before, boots := n.get().Status.NodeInfo.BootID, n.state().Boots
	pod := n.pod("trainer", nil)
	n.injectFixedBy(nodesim.GPUHung, nodesim.FixedByReboot)
	seen := make(map[string]bool)
	n.eventually("resolved", func(r ticket.Record) bool {
		if r.Ticket == nil {
			return len(r.History.Incidents) > 0
		}
		seed := parseSeed(t, r.Node.Annotations[ticket.Annotation])
		require.Equal(t, "GpuHung", seed.Condition)
		require.Equal(t, "aegis", seed.Supervisor)
		require.True(t, r.Node.Spec.Unschedulable || r.Ticket.Count(ticket.Uncordon) > 0, "ticket and cordon come in one write")
		for _, s := range seed.Workflows {
			seen[s.Action] = true
		}
		return false
	})
	incident := n.resolved("GpuHung")
	require.Len(t, incident.Destructive, 1)
	for _, action := range []string{"cordon", "diagnose", "drain", "reboot", "verify", "healthcheck"} {
		require.True(t, seen[action], "%s was never on the ticket: %v", action, seen)
	}
	require.NotEqual(t, before, n.get().Status.NodeInfo.BootID)
	require.Equal(t, boots+1, n.state().Boots)
	require.Len(t, n.ops("reboot"), 1)
	require.False(t, exists(t, pod), "the node was drained before the boot")
}

// A node that does not pass its healthcheck is never returned.
func TestFailedHealthcheckHandsOver(t *testing.T) {
	t.Parallel()
	n := nodeOf(t, poolSick, 0)
	n.inject(nodesim.HealthcheckGPU)
	n.injectFixedBy(nodesim.GPUHung, nodesim.FixedByReboot)
	found := n.handedOver("gpu")
	require.True(t, n.get().Spec.Unschedulable)
	require.Contains(t, steps(found), "healthcheck Failed")
	require.LessOrEqual(t, len(n.ops("reboot")), 2)
	require.Contains(t, found.Reason, "reboots")
}

// A disruption budget that blocks the drain is named, and a deadline is a failure: the node is not rebooted under its pods.
func TestBlockedDrainHandsOver(t *testing.T) {
	t.Parallel()
	n := nodeOf(t, poolBlocked, 0)
	n.pod("holder", nil)
	n.budget("holder")
	n.injectFixedBy(nodesim.GPUHung, nodesim.FixedByReboot)
	found := n.handedOver("k8s")
	require.Contains(t, found.Reason, "PodDisruptionBudget holder")
	require.Contains(t, steps(found), "drain Failed")
	require.Empty(t, n.ops("reboot"))
	require.True(t, n.get().Spec.Unschedulable)
}

// What a person has taken in hand is left alone: their cordon, their ticket, a ticket that nobody can read.
func TestPeopleAreLeftAlone(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		verdict string
		prepare func(n *corev1.Node)
	}{
		{"cordon", "human_cordoned", func(n *corev1.Node) { n.Spec.Unschedulable = true }},
		{"supervisor", "human_owned", func(n *corev1.Node) {
			annotate(n, ticket.Annotation, "|\n  condition: GPUCheckFailed\n  reason: too many reboot\n  supervisor: alice,bob\n"+
				"  status: resolving\n  workflows:\n    - action: cordon\n      status: Succeeded")
		}},
		{"broken ticket", "human_owned", func(n *corev1.Node) { annotate(n, ticket.Annotation, "{hands off") }},
		{"label", "excluded", func(n *corev1.Node) { n.Labels["aegis.io/disable"] = "true" }},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := nodeOf(t, poolPeople, i)
			n.edit(tt.prepare)
			before := n.get()
			n.injectFixedBy(nodesim.GPUHung, nodesim.FixedByReboot)
			n.eventuallyVerdict("GpuHung", tt.verdict)
			n.untouched(5*time.Second, func(now *corev1.Node) bool {
				return now.Spec.Unschedulable == before.Spec.Unschedulable &&
					now.Annotations[ticket.Annotation] == before.Annotations[ticket.Annotation] &&
					now.Annotations[ticket.OwnerAnnotation] == ""
			})
		})
	}
}

func TestControlPlaneIsLeftAlone(t *testing.T) {
	t.Parallel()
	n := node{t: t, env: shared, name: controlPlane}
	n.injectFixedBy(nodesim.GPUHung, nodesim.FixedByReboot)
	n.eventuallyVerdict("GpuHung", "control_plane")
	n.untouched(5*time.Second, func(now *corev1.Node) bool {
		return !now.Spec.Unschedulable && now.Annotations[ticket.Annotation] == ""
	})
}

// A silenced alert is not acted on; when the silence ends, it is.
func TestSilencedAlertIsNotActedOn(t *testing.T) {
	t.Parallel()
	n := nodeOf(t, poolSilenced, 0)
	silence, err := shared.Monitoring.Silence(t.Context(), map[string]string{"node": n.name}, time.Hour)
	require.NoError(t, err)
	n.injectFixedBy(nodesim.GPUHung, nodesim.FixedByReboot)
	n.eventuallyVerdict("GpuHung", "silenced")
	n.untouched(5*time.Second, func(now *corev1.Node) bool { return now.Annotations[ticket.Annotation] == "" })
	require.NoError(t, shared.Monitoring.Expire(t.Context(), silence))
	n.resolved("GpuHung")
}

// A silence in the middle of a procedure stops it at the next safe point, and nothing is undone.
func TestSilenceHoldsARunningProcedure(t *testing.T) {
	t.Parallel()
	n := nodeOf(t, poolSilenced, 1)
	stuck := n.pod("stuck", map[string]string{stuckLabel: "true"})
	n.injectFixedBy(nodesim.GPUHung, nodesim.FixedByReboot)
	n.running(ticket.Drain)
	silence, err := shared.Monitoring.Silence(t.Context(), map[string]string{"node": n.name}, time.Hour)
	require.NoError(t, err)
	n.eventually("held", func(r ticket.Record) bool { return r.Ticket != nil && strings.HasPrefix(r.Ticket.Hold, "silenced") })
	release(t, shared, stuck)
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(tick) {
		require.True(t, n.get().Spec.Unschedulable)
		require.Empty(t, n.ops("reboot"))
	}
	require.NoError(t, shared.Monitoring.Expire(t.Context(), silence))
	n.resolved("GpuHung")
	require.Len(t, n.ops("reboot"), 1)
}

// Each family of procedures ends as its condition's page says.
func TestProcedureFamilies(t *testing.T) {
	t.Parallel()
	tests := []struct {
		condition, fault string
		fixedBy          nodesim.FixedBy
		passes           bool
		team             string
		reboots          int
	}{
		{condition: "Xid95UncontainedECCError", fault: nodesim.XIDFault(95)},
		{condition: "MemoryPressure", fault: nodesim.MemoryPressure, passes: true},
		{condition: "IBLinkFrequentDown", fault: nodesim.IBFlapping, team: "network"},
		{condition: "NetworkLinkDown", fault: nodesim.BondSlaveDown, team: "network"},
		{condition: "Xid79GPULost", fault: nodesim.XIDFault(79), fixedBy: nodesim.FixedByReboot, reboots: 1},
	}
	for i, tt := range tests {
		t.Run(tt.condition, func(t *testing.T) {
			t.Parallel()
			n := nodeOf(t, poolFamilies, i)
			n.watched()
			n.injectFixedBy(tt.fault, tt.fixedBy)
			switch {
			case tt.team != "":
				n.handedOver(tt.team)
				require.Equal(t, tt.condition != "NetworkLinkDown", n.get().Spec.Unschedulable)
				return
			case tt.passes:
				n.eventually("cordoned", func(r ticket.Record) bool { return r.Node.Spec.Unschedulable })
				n.clear()
			}
			n.resolved(tt.condition)
			require.Len(t, n.ops("reboot"), tt.reboots)
		})
	}
}

// GPUs that are not registered come back with the device plugin's pod; the node stays in service.
func TestDevicePluginIsRestarted(t *testing.T) {
	t.Parallel()
	n := nodeOf(t, poolHung, 1)
	n.devicePlugin()
	n.inject(nodesim.DevicePluginDown)
	n.resolved("GpuRegisterFailed")
	require.Empty(t, n.state().Ops)
}

// A node that is not ready is isolated and, once it is back, checked before it is returned. It is never rebooted.
func TestNotReadyNodeIsCheckedBeforeItReturns(t *testing.T) {
	t.Parallel()
	n := nodeOf(t, poolNotReady, 0)
	n.inject(nodesim.NotReady)
	n.eventually("cordoned", func(r ticket.Record) bool { return r.Node.Spec.Unschedulable })
	n.clear()
	n.resolved("NodeNotReady")
	require.Len(t, n.ops("healthcheck"), 1)
	require.Empty(t, n.ops("reboot"))
}

// A cordon of Aegis that nobody works on any more is looked at: a healthy node is returned.
func TestOwnCordonIsVerified(t *testing.T) {
	t.Parallel()
	n := nodeOf(t, poolNotReady, 1)
	cordon := []byte(`{"metadata": {"annotations": {"aegis.io/cordoned-by": "aegis/20260101t000000-abc123"}}, "spec": {"unschedulable": true}}`)
	// Nobody else may write as Aegis.
	config, err := clientcmd.BuildConfigFromFlags("", n.env.Cluster.KubeconfigAegis)
	require.NoError(t, err)
	client, err := kubernetes.NewForConfig(config)
	require.NoError(t, err)
	_, err = client.CoreV1().Nodes().Patch(t.Context(), n.name, types.MergePatchType, cordon, metav1.PatchOptions{FieldManager: "aegis"})
	require.NoError(t, err)
	n.resolved("NodeCordon")
	require.Len(t, n.ops("healthcheck"), 1)
}

// A person may ask for a repair by HTTP. It is on the node before the answer, and it takes the same way.
func TestRequestedHeal(t *testing.T) {
	t.Parallel()
	n := nodeOf(t, poolRequested, 0)
	code, answer := heal(t, map[string]string{"node": n.name, "condition": "GpuHung", "reason": "NCCL hangs"})
	require.Equal(t, http.StatusAccepted, code, answer)
	require.Contains(t, n.get().Annotations[ticket.Annotation], "origin: heal:loopback")
	n.resolved("GpuHung")
	require.Len(t, n.ops("reboot"), 1)

	code, answer = heal(t, map[string]string{"node": "no-such-node", "condition": "GpuHung"})
	require.Equal(t, http.StatusNotFound, code, answer)
	code, answer = heal(t, map[string]string{"node": controlPlane, "condition": "GpuHung"})
	require.Equal(t, http.StatusConflict, code, answer)
	require.Contains(t, answer, "control_plane")
}
