package cases

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"aegis.io/aegis/e2e/cluster"
	"aegis.io/aegis/e2e/nodesim"
	"aegis.io/aegis/ticket"
)

// command runs the product's binary and returns its exit code and what it wrote.
func command(t *testing.T, args ...string) (code int, output string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(shared.Bin, "aegis"), args...)
	text, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), string(text)
	}
	require.NoError(t, err)
	return 0, string(text)
}

// The cases of this file stop what all cases share, so they run alone, before the parallel ones.

// jobsOf returns the Jobs that were made for the node and the action.
func (n node) jobsOf(action string) []batchv1.Job {
	n.t.Helper()
	list, err := n.env.Cluster.Client().BatchV1().Jobs("monitoring").List(n.t.Context(), metav1.ListOptions{
		LabelSelector: "aegis.io/node=" + n.name + ",aegis.io/action=" + action,
	})
	require.NoError(n.t, err)
	return list.Items
}

// Aegis is killed in the middle of each stage. The next process goes on from the journal: nothing is lost, and nothing
// happens twice, not the Job, not the boot, not the healthcheck.
func TestKilledInEachStage(t *testing.T) {
	for i, stage := range []ticket.Action{ticket.Cordon, ticket.Drain, ticket.Reboot, ticket.Healthcheck} {
		t.Run(string(stage), func(t *testing.T) {
			n := nodeOf(t, poolCrash, i)
			boots := n.state().Boots
			stuck := n.pod("stuck", map[string]string{stuckLabel: "true"})
			n.injectFixedBy(nodesim.GPUHung, nodesim.FixedByReboot)
			if stage != ticket.Drain && stage != ticket.Cordon {
				n.running(ticket.Drain)
				release(t, shared, stuck)
			}
			n.reached(stage)
			require.NoError(t, shared.Aegis[0].Kill9())
			require.NoError(t, shared.Aegis[0].Start(t.Context()))
			if stage == ticket.Drain || stage == ticket.Cordon {
				n.running(ticket.Drain)
				release(t, shared, stuck)
			}
			incident := n.resolved("GpuHung")
			require.Len(t, incident.Destructive, 1)
			require.Len(t, n.record().History.Incidents, 1)
			require.Len(t, n.jobsOf("reboot"), 1)
			require.Len(t, n.jobsOf("healthcheck"), 1)
			require.Len(t, n.ops("reboot"), 1)
			require.Equal(t, boots+1, n.state().Boots)
		})
	}
}

// reached waits until the action is being carried out, or is done where that takes one write.
func (n node) reached(stage ticket.Action) {
	n.t.Helper()
	if stage != ticket.Cordon {
		n.running(stage)
		return
	}
	n.eventually("cordoned", func(r ticket.Record) bool { return r.Ticket != nil && r.Ticket.Count(ticket.Cordon) == 1 })
}

// firing reports whether an alert of the condition fires on the node, past its pending time.
func (n node) firing(condition string) bool {
	n.t.Helper()
	alerts, err := n.env.Monitoring.Firing(n.t.Context())
	require.NoError(n.t, err)
	for _, a := range alerts {
		if a.State == "firing" && a.Labels["node"] == n.name && a.Labels["condition"] == condition {
			return true
		}
	}
	return false
}

// An alert that fires and resolves while Aegis is away is over: nothing is done about it. One that still fires when Aegis
// is back is found, although its notification was lost.
func TestAlertsWhileAegisIsAway(t *testing.T) {
	passing, lasting := nodeOf(t, poolAway, 0), nodeOf(t, poolAway, 1)
	require.NoError(t, shared.Aegis[0].Stop())
	passing.inject(nodesim.GPUHung)
	lasting.injectFixedBy(nodesim.GPUHung, nodesim.FixedByReboot)
	for _, n := range []node{passing, lasting} {
		require.Eventually(t, func() bool { return n.firing("GpuHung") }, within, tick)
	}
	passing.clear()
	require.Eventually(t, func() bool { return !passing.firing("GpuHung") }, within, tick)
	require.NoError(t, shared.Aegis[0].Start(t.Context()))
	lasting.resolved("GpuHung")
	require.Empty(t, passing.state().Ops)
	require.Empty(t, passing.record().History.Incidents)
	require.Nil(t, passing.record().Ticket)
}

// When Prometheus dies, Alertmanager tells in the end that its alerts are resolved, which is not true. Nothing is
// uncordoned for it, and nothing disruptive is begun.
func TestPrometheusDies(t *testing.T) {
	n := nodeOf(t, poolPrometheus, 0)
	n.inject(nodesim.MemoryPressure)
	n.eventually("cordoned", func(r ticket.Record) bool { return r.Node.Spec.Unschedulable })
	require.NoError(t, shared.Monitoring.StopPrometheus())
	n.eventuallyVerdict("MemoryPressure", "unverifiable")
	for end := time.Now().Add(12 * time.Second); time.Now().Before(end); time.Sleep(tick) {
		require.True(t, n.get().Spec.Unschedulable, "the node was returned because nobody said that it is sick")
	}
	require.NoError(t, shared.Monitoring.StartPrometheus(t.Context()))
	require.Eventually(t, func() bool { return n.firing("MemoryPressure") }, within, tick)
	require.True(t, n.get().Spec.Unschedulable)
	n.clear()
	n.resolved("MemoryPressure")
}

// A restarted Alertmanager has forgotten its alerts and tells them again. Nothing is done twice.
func TestAlertmanagerRestarts(t *testing.T) {
	n := nodeOf(t, poolAlerts, 0)
	stuck := n.pod("stuck", map[string]string{stuckLabel: "true"})
	n.injectFixedBy(nodesim.GPUHung, nodesim.FixedByReboot)
	n.running(ticket.Drain)
	require.NoError(t, shared.Monitoring.KillAlertmanager(0))
	require.NoError(t, shared.Monitoring.StartAlertmanager(t.Context(), 0))
	release(t, shared, stuck)
	n.resolved("GpuHung")
	require.Len(t, n.jobsOf("reboot"), 1)
	require.Len(t, n.record().History.Incidents, 1)
}

// A broken conditions.yaml stops a start with all its mistakes, and changes nothing when it is reloaded.
func TestBrokenConditionsChangeNothing(t *testing.T) {
	a := shared.Aegis[0]
	good, err := os.ReadFile(a.ConditionsFile)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, os.WriteFile(a.ConditionsFile, good, 0o600))
		require.NoError(t, a.Reload(context.Background()))
	})
	require.NoError(t, os.WriteFile(a.ConditionsFile, []byte("conditions:\n- name: GpuHung\n  priorty: 3\n- nam: X\n"), 0o600))
	require.Error(t, a.Reload(t.Context()))
	code, output := command(t, "check", a.ConditionsFile)
	require.Equal(t, 2, code)
	for _, says := range []string{
		fmt.Sprintf("%s:3:3: ", a.ConditionsFile), "priority", fmt.Sprintf("%s:4:3: ", a.ConditionsFile), "name",
	} {
		require.Contains(t, output, says)
	}
	value, err := a.Value(t.Context(), "aegis_config_last_reload_successful", nil)
	require.NoError(t, err)
	require.Zero(t, value)
}

// The service account of Aegis has the rights that it uses, and uses none that it does not have.
func leastPrivilege() int {
	events, err := shared.Cluster.Audit()
	if err != nil {
		return fail(err)
	}
	denied := slices.DeleteFunc(events, func(e cluster.AuditEvent) bool { return e.User != cluster.AegisUser || e.Code != 403 })
	for _, e := range denied {
		fmt.Fprintf(os.Stderr, "denied: %s %s/%s in %q\n", e.Verb, e.Resource, e.Subresource, e.Namespace)
	}
	return min(len(denied), 1)
}
