package sop

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// What is set or taken away while a repair runs reaches its next act.

// drainHeldUp raises a condition on a control-plane node that Aegis may repair, and returns once its drain waits for a pod.
func drainHeldUp(t *testing.T) (w *world, stop func()) {
	t.Helper()
	w = newWorld(t, testPolicy(), testPod("worker", func(p *corev1.Pod) { p.Labels["held"] = "pdb" }))
	w.setSettings(func(s *policy.Settings) { s.ManageControlPlane = true })
	w.edit(func(n *corev1.Node) { n.Labels = map[string]string{"node-role.kubernetes.io/control-plane": ""} })
	w.jobs.effect = func(r jobs.Request) {
		if r.Action == protocol.ActionReboot {
			w.source.gone()
		}
	}
	w.raise("Reboot")
	stop = w.start()
	w.awaitRunning(ticket.Drain)
	return w, stop
}

// letGo removes the pod that holds up the drain.
func (w *world) letGo() { w.cluster.Do(func() { w.cluster.DeletePod("train", "worker") }) }

// heldOn waits for the ticket to say why it waits, and makes sure that the node is not booted while it does.
func (w *world) heldOn(reason string) {
	w.t.Helper()
	w.await("held", func(r ticket.Record) bool { return r.Ticket != nil && r.Ticket.Hold != "" })
	time.Sleep(2 * time.Hour)
	require.Contains(w.t, w.record().Ticket.Hold, reason)
	require.Zero(w.t, w.jobs.count(protocol.ActionReboot))
}

// A node that people no longer want managed is not booted, though its repair has begun.
func TestControlPlaneHoldsARepairThatHasBegun(t *testing.T) {
	for _, restart := range []bool{false, true} {
		inNamedBubble(t, map[bool]string{false: "reload", true: "restart"}[restart], func(t *testing.T) {
			w, stop := drainHeldUp(t)
			w.setSettings(func(s *policy.Settings) { s.ManageControlPlane = false })
			if restart {
				stop()
				stop = w.start()
			}
			w.letGo()
			w.heldOn("control_plane: the node runs the control plane")
			w.setSettings(func(s *policy.Settings) { s.ManageControlPlane = true })
			w.await("resolved", resolved)
			require.Equal(t, 1, w.jobs.count(protocol.ActionReboot))
			stop()
		})
	}
}

// A repaired control-plane node returns to service though Aegis may disturb none any more.
func TestControlPlaneHoldsNoReturn(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w, stop := drainHeldUp(t)
		w.letGo()
		w.awaitRunning(ticket.Verify)
		w.setSettings(func(s *policy.Settings) { s.ManageControlPlane = false })
		stop()
		stop = w.start()
		w.await("resolved", resolved)
		require.False(t, w.node().Spec.Unschedulable)
		stop()
	})
}

// An incident whose condition no catalogue names any more goes to a team, and nothing is done on its node.
func TestRemovedConditionGoesToTheHostTeam(t *testing.T) {
	for _, restart := range []bool{false, true} {
		inNamedBubble(t, map[bool]string{false: "reload", true: "restart"}[restart], func(t *testing.T) {
			w, stop := drainHeldUp(t)
			if restart {
				stop()
			}
			w.forget("Reboot")
			if restart {
				stop = w.start()
			}
			w.await("handed over", handedTo(teamHost))
			r := w.record()
			require.Equal(t, "no catalogue names the condition Reboot any more", r.Ticket.Reason)
			require.Empty(t, r.Ticket.Running())
			drain, _ := r.Ticket.Outcome(ticket.Drain, 1)
			require.Equal(t, ticket.Canceled, drain.Status)
			require.Equal(t, outcomeHandedOver, r.History.Incidents[0].Outcome)
			require.True(t, r.Node.Spec.Unschedulable)
			w.letGo()
			time.Sleep(time.Hour)
			require.Zero(t, w.jobs.count(protocol.ActionReboot))
			stop()
		})
	}
}

// A reset that runs when its condition is removed counts as one that happened.
func TestRemovedConditionForgetsNoDestructiveStep(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.raise("Reset")
		stop := w.start()
		w.awaitRunning(ticket.Reset)
		stop()
		w.forget("Reset")
		stop = w.start()
		w.await("handed over", handedTo(teamHost))
		last := w.record().History.Incidents[0]
		require.Len(t, last.Destructive, 1)
		require.Equal(t, ticket.Reset, last.Destructive[0].Action)
		stop()
	})
}

// A procedure that has gone, as a runbook of the site that was deleted, leaves no node with nobody.
func TestRemovedProcedureGoesToTheTeam(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w, stop := drainHeldUp(t)
		stop()
		delete(w.table, "test/reboot")
		stop = w.start()
		w.await("handed over", handedTo("gpu"))
		require.Equal(t, `there is no procedure "test/reboot" any more`, w.record().Ticket.Reason)
		require.Empty(t, w.record().Ticket.Running())
		stop()
	})
}

// Nobody is handed a ticket without a name, nor Aegis itself.
func TestNobodyIsHandedATicketOfNoTeam(t *testing.T) {
	t.Parallel()
	for _, team := range []string{"", " ", ticket.Self, " , "} {
		inNamedBubble(t, "team "+team, func(t *testing.T) {
			p := testPolicy()
			p.Team = team
			w := newWorld(t, p)
			w.raise("Isolate")
			stop := w.start()
			w.await("handed over", handedTo(teamHost))
			stop()
		})
	}
}

// inNamedBubble runs a subtest in virtual time.
func inNamedBubble(t *testing.T, name string, test func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { inBubble(t, test) })
}

// forget removes the condition from the catalogue.
func (w *world) forget(condition string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.unknown = func(name string) bool { return name == condition }
}

// The answer to a request says what it goes ahead in spite of.
func TestRequestSaysWhatItSkips(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.policy.Mode = prom.ModeObserve
		require.NoError(t, w.setWindow("03:00", "04:00"))
		d := w.dispatcher()
		_, err := d.services.Orders.Read(t.Context())
		require.NoError(t, err)
		status := w.Status(nodeA, "Reboot", "", 0)
		result, err := d.Heal(t.Context(), policy.HealRequest{Status: status, By: "alice"})
		require.NoError(t, err)
		require.Len(t, result.Skipped, 2)
		require.Contains(t, result.Skipped[0], "paused: outside the maintenance windows of pool test")
		require.Equal(t, "observe: mode observe: would run test/reboot", result.Skipped[1])
	})
}

// A condition that is removed while its repair only waits leaves no node with nobody.
func TestConditionRemovedDuringVerificationGoesToTheHostTeam(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.raise("Reboot")
		stop := w.start()
		w.awaitRunning(ticket.Verify)
		w.forget("Reboot")
		w.await("handed over", handedTo(teamHost))
		require.Empty(t, w.record().Ticket.Running())
		require.True(t, w.node().Spec.Unschedulable)
		stop()
	})
}

// A proof that the power is off is worth what it is newer than: a node that has given a sign of life since may be running.
func TestProofOfPowerOffIsNewerThanTheNode(t *testing.T) {
	t.Parallel()
	at := func(ago time.Duration) string {
		return "off@" + time.Now().Add(-ago).UTC().Format(time.RFC3339)
	}
	noted := func(ago time.Duration, fields string) []metav1.ManagedFieldsEntry {
		return []metav1.ManagedFieldsEntry{{
			Manager: "bmc", Operation: metav1.ManagedFieldsOperationUpdate, Time: &metav1.Time{Time: time.Now().Add(-ago)},
			FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(fields),
		}}
	}
	const alone = `{"f:metadata":{"f:annotations":{"f:aegis.io/power-state":{}}}}`
	const more = `{"f:metadata":{"f:annotations":{"f:aegis.io/power-state":{}},"f:labels":{"f:rack":{}}}}`
	for name, tt := range map[string]struct {
		value   func() string
		managed func() []metav1.ManagedFieldsEntry
		down    bool
	}{
		"seen off since":           {func() string { return at(time.Minute) }, nil, true},
		"seen off a day ago":       {func() string { return at(24 * time.Hour) }, nil, false},
		"to come":                  {func() string { return at(-24 * time.Hour) }, nil, false},
		"no time":                  {func() string { return "off@yesterday" }, nil, false},
		"on":                       {func() string { return "on" }, nil, false},
		"off, by nobody":           {func() string { return "off" }, nil, false},
		"off, written since":       {func() string { return "off" }, func() []metav1.ManagedFieldsEntry { return noted(time.Minute, alone) }, true},
		"off, written a day ago":   {func() string { return "off" }, func() []metav1.ManagedFieldsEntry { return noted(24*time.Hour, alone) }, false},
		"off, and a label written": {func() string { return "off" }, func() []metav1.ManagedFieldsEntry { return noted(time.Minute, more) }, false},
	} {
		inNamedBubble(t, name, func(t *testing.T) {
			node := testNode(nodeA, nodeUID)
			setReady(node, corev1.ConditionUnknown)
			node.Annotations = map[string]string{PowerStateAnnotation: tt.value()}
			if tt.managed != nil {
				node.ManagedFields = tt.managed()
			}
			w := newWorld(t, testPolicy(), node, &coordinationv1.Lease{
				ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: nodeA},
				Spec:       coordinationv1.LeaseSpec{RenewTime: &metav1.MicroTime{Time: time.Now().Add(-10 * time.Minute)}},
			})
			w.raise("Ready")
			stop := w.start()
			time.Sleep(3 * time.Hour)
			require.Equal(t, tt.down, slices.Contains(w.node().Spec.Taints, *outOfServiceTaint()))
			stop()
		})
	}
}

// A pod of a user that has the labels of an operation is workload.
func TestLabelsExemptNoPodOfAUser(t *testing.T) {
	t.Parallel()
	pod := func(namespace, kind, owner string) *corev1.Pod {
		p := testPod("p", nil)
		p.Namespace = namespace
		p.Labels = map[string]string{"app.kubernetes.io/name": "aegis", "app.kubernetes.io/component": "op"}
		p.OwnerReferences = nil
		if kind != "" {
			p.OwnerReferences = []metav1.OwnerReference{{Kind: kind, Name: owner, Controller: new(true)}}
		}
		return p
	}
	require.False(t, isWorkload(pod("jobs", "Job", "aegis-reboot-n1-1a2b-1"), "jobs"))
	require.True(t, isWorkload(pod("train", "Job", "aegis-reboot-n1-1a2b-1"), "jobs"))
	require.True(t, isWorkload(pod("jobs", "Job", "training"), "jobs"))
	require.True(t, isWorkload(pod("jobs", "ReplicaSet", "aegis-x"), "jobs"))
	require.True(t, isWorkload(pod("jobs", "", ""), "jobs"))
}
