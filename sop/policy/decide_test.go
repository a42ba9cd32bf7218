package policy

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/ticket"
)

// noon is when the tables begin.
func noon() time.Time { return time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC) }

// testPolicy is that of a condition which Aegis may repair by all means.
func testPolicy() prom.Policy {
	return prom.Policy{
		Mode: prom.ModeAuto, Workload: prom.WorkloadDrain, MaxReboots: 2, Cooldown: 30 * time.Minute, AttemptWindow: 24 * time.Hour,
	}
}

// situation is one in which nothing stands against the procedure.
func situation(change func(*Situation)) Situation {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "gpu-17", UID: "uid-a"}}
	s := Situation{
		Now:    time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC),
		Node:   node,
		Record: ticket.ReadNode(node),
		Status: prom.AegisNodeStatus{Node: "gpu-17", Condition: "GpuHung", Priority: 3, SOP: "gpu/hung", Policy: testPolicy(), Origin: prom.OriginAlert},
		HasSOP: true,
		Orders: &Orders{},
	}
	pool := DefaultPool()
	pool.MaxIncidents, pool.MaxRepeats = 3, 2
	s.Settings.Pools = []Pool{pool}
	if change != nil {
		change(&s)
	}
	return s
}

func ownTicket(condition string) *ticket.Ticket {
	return &ticket.Ticket{ID: "t1", Condition: condition, Supervisor: ticket.Self, Status: ticket.StatusResolving}
}

func rebooted(ago ...time.Duration) *ticket.History {
	h := &ticket.History{}
	for i, d := range ago {
		at := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC).Add(-d)
		h.Add(ticket.Incident{
			ID: string(rune('a' + i)), Outcome: ticket.Resolved,
			Destructive: []ticket.Destructive{{Action: ticket.Reboot, At: at}},
		})
	}
	return h
}

// repaired returns a history of repairs without a boot, one an hour.
func repaired(conditions ...string) *ticket.History {
	h := &ticket.History{}
	for i, condition := range conditions {
		at := noon().Add(time.Duration(i-len(conditions)) * time.Hour)
		h.Add(ticket.Incident{ID: fmt.Sprint(i), Condition: condition, Outcome: ticket.Resolved, Closed: at, Isolated: true})
	}
	return h
}

func TestDecide(t *testing.T) {
	t.Parallel()
	notReady := prom.AegisNodeStatus{Condition: "NodeNotReady", Priority: 0, Policy: testPolicy()}
	emergency := prom.AegisNodeStatus{Condition: "Xid79GPULost", Priority: 2, Policy: testPolicy()}
	tests := []struct {
		name   string
		change func(*Situation)
		want   VerdictName
		says   string
	}{
		{"nothing against it", nil, VerdictExecute, "gpu/hung"},
		{"no Node", func(s *Situation) { s.Node = nil }, VerdictNodeGone, ""},
		{"ticket of people", func(s *Situation) {
			s.Record.Ticket = ownTicket("GpuHung")
			s.Record.Ticket.Supervisor = "alice,bob"
		}, VerdictHumanOwned, "alice,bob"},
		{"ticket shared with people", func(s *Situation) {
			s.Record.Ticket = ownTicket("GpuHung")
			s.Record.Ticket.Supervisor = "aegis,bob"
		}, VerdictHumanOwned, "aegis,bob"},
		{"broken ticket", func(s *Situation) { s.Record.Broken = errors.New("not YAML") }, VerdictHumanOwned, "not YAML"},
		{"closed ticket of people", func(s *Situation) {
			s.Record.Ticket = ownTicket("GpuHung")
			s.Record.Ticket.Supervisor, s.Record.Ticket.Status = "alice", ticket.StatusClosed
		}, VerdictExecute, ""},
		{"excluded", func(s *Situation) { s.Node.Labels = map[string]string{DisableLabel: "true"} }, VerdictExcluded, DisableLabel},
		{"excluded, with an own ticket", func(s *Situation) {
			s.Node.Labels = map[string]string{DisableLabel: "true"}
			s.Record.Ticket = ownTicket("GpuHung")
		}, VerdictExecute, "t1"},
		{"label of another value", func(s *Situation) { s.Node.Labels = map[string]string{DisableLabel: "false"} }, VerdictExecute, ""},
		{"own ticket", func(s *Situation) { s.Record.Ticket = ownTicket("GpuHung") }, VerdictExecute, "t1"},
		{"own ticket, mode changed meanwhile", func(s *Situation) {
			s.Record.Ticket = ownTicket("GpuHung")
			s.Status.Policy.Mode = prom.ModeObserve
		}, VerdictExecute, "t1"},
		{"own ticket of another condition", func(s *Situation) { s.Record.Ticket = ownTicket("GpuDown") }, VerdictInProgress, "GpuDown"},
		{"own ticket of another device", func(s *Situation) {
			s.Record.Ticket = ownTicket("GpuHung")
			s.Record.Ticket.Device = "3"
		}, VerdictDuplicate, `"3"`},
		{"own ticket without procedure", func(s *Situation) {
			s.Record.Ticket = ownTicket("GpuHung")
			s.HasSOP = false
		}, VerdictExecute, "t1"},
		{"not in the catalogue", func(s *Situation) { s.Status.Policy = prom.Policy{} }, VerdictUnknownCondition, "GpuHung"},
		{"mode off", func(s *Situation) { s.Status.Policy.Mode = prom.ModeOff }, VerdictIgnored, ""},
		{"band MustIgnore", func(s *Situation) { s.Status.Priority = 1000 }, VerdictIgnored, "1000"},
		{"no procedure", func(s *Situation) { s.HasSOP = false }, VerdictNoSOP, "gpu/hung"},
		{"control plane by label", func(s *Situation) {
			s.Node.Labels = map[string]string{"node-role.kubernetes.io/control-plane": ""}
		}, VerdictControlPlane, ""},
		{"control plane by old label", func(s *Situation) { s.Node.Labels = map[string]string{"kubernetes.io/role": "master"} }, VerdictControlPlane, ""},
		{"control plane by taint", func(s *Situation) {
			s.Node.Spec.Taints = []corev1.Taint{{Key: "node-role.kubernetes.io/etcd", Effect: corev1.TaintEffectNoExecute}}
		}, VerdictControlPlane, ""},
		{"control plane, opted in", func(s *Situation) {
			s.Node.Labels = map[string]string{"node-role.kubernetes.io/control-plane": ""}
			s.Settings.ManageControlPlane = true
		}, VerdictExecute, ""},
		{"paused", func(s *Situation) { s.Settings.Paused = true }, VerdictPaused, ""},
		{"paused by a person", func(s *Situation) {
			s.Orders.Pause = &Order{By: "alice", Reason: "racks"}
			s.Status.Origin = prom.OriginHeal
		}, VerdictPaused, "everything is paused by alice: racks"},
		{"older than its node", func(s *Situation) {
			s.Status.FirstSeen = s.Now.Add(-time.Hour)
			s.Node.CreationTimestamp.Time = s.Now.Add(-4 * time.Minute)
		}, VerdictContested, "still fires at 2026-11-23T12:01:00Z"},
		{"older than its node, and still firing", func(s *Situation) {
			s.Status.FirstSeen = s.Now.Add(-time.Hour)
			s.Node.CreationTimestamp.Time = s.Now.Add(-5 * time.Minute)
		}, VerdictExecute, ""},
		{"younger than its node", func(s *Situation) {
			s.Status.FirstSeen = s.Now.Add(-time.Minute)
			s.Node.CreationTimestamp.Time = s.Now.Add(-2 * time.Minute)
		}, VerdictExecute, ""},
		{"storm", func(s *Situation) { s.Storm = "it began on 9 nodes" }, VerdictStorm, "it began on 9 nodes"},
		{"storm in mode observe", func(s *Situation) {
			s.Storm = "it began on 9 nodes"
			s.Status.Policy.Mode = prom.ModeObserve
		}, VerdictStorm, ""},
		{"a repeat offender in mode observe", func(s *Situation) {
			s.Record.History = repaired("A", "B", "C")
			s.Status.Policy.Mode = prom.ModeObserve
		}, VerdictObserve, "would isolate the node and hand it over: a repeat offender"},
		{"a repeat offender in mode approve", func(s *Situation) {
			s.Record.History = repaired("A", "B", "C")
			s.Status.Policy.Mode = prom.ModeApprove
		}, VerdictAwaitingApproval, ""},
		{"no room in mode observe", func(s *Situation) {
			s.Room = new("full")
			s.Status.Policy.Mode = prom.ModeObserve
		}, VerdictBudget, "full"},
		{"a request in a storm", func(s *Situation) {
			s.Storm = "it began on 9 nodes"
			s.Status.Origin = prom.OriginHeal
		}, VerdictExecute, ""},
		{
			"repeat offender", func(s *Situation) { s.Record.History = repaired("A", "B", "C") }, VerdictAttemptsExhausted,
			"a repeat offender: repaired 3 times within 168h0m0s, 3 allowed: A, B, C",
		},
		{
			"the same again and again", func(s *Situation) { s.Record.History = repaired("GpuHung", "GpuHung") }, VerdictAttemptsExhausted,
			"a repeat offender: the last 2 repairs within 168h0m0s were all for GpuHung, 2 allowed",
		},
		{"the same, with another in between", func(s *Situation) { s.Record.History = repaired("GpuHung", "B") }, VerdictExecute, ""},
		{"a repeat offender that people have given back", func(s *Situation) {
			s.Record.History = repaired("A", "B", "C")
			s.Record.History.Incidents[2].Outcome = "released"
		}, VerdictExecute, ""},
		{"a repeat offender of last month", func(s *Situation) {
			s.Record.History = repaired("A", "B", "C")
			s.Now = s.Now.Add(30 * 24 * time.Hour)
		}, VerdictExecute, ""},
		{"notes make no repeat offender", func(s *Situation) {
			s.Record.History = repaired("A", "B", "C")
			for i := range s.Record.History.Incidents {
				s.Record.History.Incidents[i].Isolated = false
			}
		}, VerdictExecute, ""},
		{"a repeat offender's cordon is looked at all the same", func(s *Situation) {
			s.Record.History = repaired("A", "B", "C")
			s.Status.Priority = 1
			cordonedByAegis(s.Node)
		}, VerdictExecute, ""},
		{"a repeat offender is relieved all the same", func(s *Situation) {
			s.Record.History = repaired("A", "B", "C")
			s.Status.Policy.Workload = prom.WorkloadKeep
		}, VerdictExecute, ""},
		{"mode observe", func(s *Situation) { s.Status.Policy.Mode = prom.ModeObserve }, VerdictObserve, "would run gpu/hung"},
		{"mode approve", func(s *Situation) { s.Status.Policy.Mode = prom.ModeApprove }, VerdictAwaitingApproval, ""},
		{"contested", func(s *Situation) { s.Status.Contested = true }, VerdictContested, ""},
		{"cordoned by a person", func(s *Situation) { s.Node.Spec.Unschedulable = true }, VerdictHumanCordoned, ""},
		{"cordoned by Aegis", func(s *Situation) {
			cordonedByAegis(s.Node)
		}, VerdictExecute, ""},
		{"cordoned by a person after Aegis", func(s *Situation) {
			cordonedByAegis(s.Node)
			fields := metav1.NewFieldsV1(`{"f:spec":{"f:unschedulable":{}}}`)
			s.Node.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubectl-cordon", FieldsV1: fields}}
		}, VerdictHumanCordoned, ""},
		{"cordoned by nobody knows whom", func(s *Situation) {
			s.Node.Spec.Unschedulable = true
			s.Node.Annotations = map[string]string{ticket.OwnerAnnotation: "aegis/t0"}
		}, VerdictHumanCordoned, ""},
		{"cordoned by another tool", func(s *Situation) {
			s.Node.Spec.Unschedulable = true
			s.Node.Annotations = map[string]string{ticket.OwnerAnnotation: "autoscaler/1"}
		}, VerdictHumanCordoned, ""},
		{"cordon of nobody", func(s *Situation) { s.Status.Priority = 1 }, VerdictUnconfirmed, "not cordoned"},
		{"hidden by a node that is not ready", func(s *Situation) { s.Urgent = UrgentOf([]prom.AegisNodeStatus{notReady}) }, VerdictTolerated, "NodeNotReady"},
		{"cordon while an emergency holds", func(s *Situation) {
			s.Status.Priority = 1
			cordonedByAegis(s.Node)
			s.Urgent = UrgentOf([]prom.AegisNodeStatus{emergency})
		}, VerdictTolerated, "Xid79GPULost"},
		{"can be ignored", func(s *Situation) { s.Status.Priority = 150 }, VerdictTolerated, ""},
		{"cooldown", func(s *Situation) { s.Record.History = rebooted(10 * time.Minute) }, VerdictCooldown, "2026-11-23T12:20:00Z"},
		{"a cordoned node is looked at in spite of the cooldown", func(s *Situation) {
			s.Record.History = rebooted(10 * time.Minute)
			s.Status.Priority, s.Status.Policy.MaxReboots = 1, 0
			cordonedByAegis(s.Node)
		}, VerdictExecute, ""},
		{"cooldown over", func(s *Situation) { s.Record.History = rebooted(30 * time.Minute) }, VerdictExecute, ""},
		{"attempts used up", func(s *Situation) { s.Record.History = rebooted(2*time.Hour, time.Hour) }, VerdictAttemptsExhausted, "2 reboots"},
		{"attempts that people have looked at", func(s *Situation) {
			s.Record.History = rebooted(3*time.Hour, 2*time.Hour, time.Hour)
			s.Record.History.Incidents[1].Outcome = "handed_over"
		}, VerdictExecute, ""},
		{"attempts out of the window", func(s *Situation) { s.Record.History = rebooted(25*time.Hour, time.Hour) }, VerdictExecute, ""},
		{"budget", func(s *Situation) { s.Room = new("2 of 20 nodes are out of service") }, VerdictBudget, "2 of 20"},
		{"budget, but nothing is taken out", func(s *Situation) {
			s.Room = new("full")
			s.Status.Policy.Workload = prom.WorkloadKeep
		}, VerdictExecute, ""},
		{"a request overrules mode, contest, cooldown, attempts and budget", func(s *Situation) {
			s.Status.Origin = prom.OriginHeal
			s.Status.Policy.Mode = prom.ModeOff
			s.Status.Contested = true
			s.Room = new("full")
			s.Record.History = rebooted(time.Minute, time.Hour)
		}, VerdictExecute, ""},
		{"a request does not overrule a person's cordon", func(s *Situation) {
			s.Status.Origin = prom.OriginHeal
			s.Node.Spec.Unschedulable = true
		}, VerdictHumanCordoned, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := Decide(situation(tt.change))
			require.Equal(t, tt.want, got.Name, got.Reason)
			require.NotEmpty(t, got.Reason)
			require.Contains(t, got.Reason, tt.says)
			require.Contains(t, VerdictNames(), got.Name)
		})
	}
}

func TestConfirm(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	alert := prom.AegisNodeStatus{Origin: prom.OriginAlert, LastSeen: now.Add(-time.Minute)}
	old := prom.AegisNodeStatus{Origin: prom.OriginAlert, LastSeen: now.Add(-time.Hour)}
	polled := prom.AegisNodeStatus{Origin: prom.OriginResync, LastSeen: now}
	tests := []struct {
		name       string
		status     prom.AegisNodeStatus
		evidence   prom.Evidence
		permission prom.Permission
		want       VerdictName
	}{
		{"confirmed", old, prom.EvidenceFiring, prom.PermissionGranted, ""},
		{"fresh alert, Prometheus silent", alert, prom.EvidenceUnknown, prom.PermissionGranted, ""},
		{"fresh alert, nobody answers", alert, prom.EvidenceUnknown, prom.PermissionUnknown, ""},
		{"fresh alert, not listed yet", alert, prom.EvidenceFiring, prom.PermissionUnlisted, ""},
		{"old alert, Prometheus silent", old, prom.EvidenceUnknown, prom.PermissionGranted, VerdictUnverifiable},
		{"resync, Alertmanager silent", polled, prom.EvidenceFiring, prom.PermissionUnknown, VerdictUnverifiable},
		{"fresh alert, silenced", alert, prom.EvidenceFiring, prom.PermissionSilenced, VerdictSilenced},
		{"silenced, Prometheus silent", alert, prom.EvidenceUnknown, prom.PermissionSilenced, VerdictSilenced},
		{"fresh alert, gone", alert, prom.EvidenceAbsent, prom.PermissionGranted, VerdictUnconfirmed},
		{"pending", alert, prom.EvidencePending, prom.PermissionGranted, VerdictUnconfirmed},
		{"not listed", old, prom.EvidenceFiring, prom.PermissionUnlisted, VerdictUnconfirmed},
		{"Alertmanager away", polled, prom.EvidenceFiring, prom.PermissionIsolate, ""},
		{"fresh alert, Alertmanager away, Prometheus silent", alert, prom.EvidenceUnknown, prom.PermissionIsolate, ""},
		{"old alert, Alertmanager away, Prometheus silent", old, prom.EvidenceUnknown, prom.PermissionIsolate, VerdictUnverifiable},
		{"fresh alert, gone, Alertmanager away", alert, prom.EvidenceAbsent, prom.PermissionIsolate, VerdictUnconfirmed},
		{"fresh alert, pending, Alertmanager away", alert, prom.EvidencePending, prom.PermissionIsolate, VerdictUnconfirmed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := Ask(Isolate, Situation{
				Now: now, Origin: Alert, Status: tt.status, Finding: &prom.Finding{Evidence: tt.evidence, Permission: tt.permission},
			})
			require.Equal(t, tt.want, got.Name, got.Reason)
		})
	}
}

// Between the confirmation and the write, only what says that the condition is over takes the confirmation back.
func TestConfirmationIsTakenBack(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		finding prom.Finding
		want    VerdictName
	}{
		"nobody answers":          {prom.Finding{Evidence: prom.EvidenceUnknown, Permission: prom.PermissionUnknown}, ""},
		"gone":                    {prom.Finding{Evidence: prom.EvidenceAbsent, Permission: prom.PermissionGranted}, VerdictUnconfirmed},
		"gone, Alertmanager away": {prom.Finding{Evidence: prom.EvidenceAbsent, Permission: prom.PermissionIsolate}, VerdictUnconfirmed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
			got := Ask(Isolate, Situation{Now: now, Origin: Alert, Confirmed: now.Add(-time.Minute), Finding: &tt.finding})
			require.Equal(t, tt.want, got.Name, got.Reason)
		})
	}
}

// While only isolation is permitted, what a check of Aegis found on the node permits no step either.
func TestNoStepWhileAlertmanagerIsAway(t *testing.T) {
	t.Parallel()
	for _, evidence := range []prom.Evidence{prom.EvidenceFiring, prom.EvidencePending, prom.EvidenceAbsent, prom.EvidenceUnknown} {
		finding := prom.Finding{Evidence: evidence, Permission: prom.PermissionIsolate}
		got := Ask(Step, Situation{Origin: Begun, Suspicion: "a healthcheck failed", Finding: &finding})
		require.NotEmpty(t, got.Name, evidence)
		finding.Permission = prom.PermissionGranted
		if evidence != prom.EvidenceUnknown {
			require.Empty(t, Ask(Step, Situation{Origin: Begun, Suspicion: "a healthcheck failed", Finding: &finding}), evidence)
		}
	}
}

// cordonedByAegis gives the node a cordon of Aegis.
func cordonedByAegis(n *corev1.Node) {
	n.Spec.Unschedulable = true
	n.Annotations = map[string]string{ticket.OwnerAnnotation: "aegis/t0"}
	n.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "aegis", FieldsV1: metav1.NewFieldsV1(`{"f:spec":{"f:unschedulable":{}}}`)}}
}
