package sop

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// situation is one in which nothing stands against the procedure.
func situation(change func(*Situation)) Situation {
	node := testNode(nodeA, nodeUID)
	s := Situation{
		Now:    time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC),
		Node:   node,
		Record: ticket.ReadNode(node),
		Status: prom.AegisNodeStatus{Node: nodeA, Condition: "GpuHung", Priority: 3, SOP: "gpu/hung", Policy: testPolicy(), Origin: prom.OriginAlert},
		HasSOP: true,
	}
	pool := policy.DefaultPool()
	pool.MaxIncidents, pool.MaxRepeats = 3, 2
	s.Settings.Pools = []policy.Pool{pool}
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
			ID: string(rune('a' + i)), Outcome: outcomeResolved,
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
		h.Add(ticket.Incident{ID: fmt.Sprint(i), Condition: condition, Outcome: outcomeResolved, Closed: at, Isolated: true})
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
		want   policy.VerdictName
		says   string
	}{
		{"nothing against it", nil, policy.VerdictExecute, "gpu/hung"},
		{"no Node", func(s *Situation) { s.Node = nil }, policy.VerdictNodeGone, ""},
		{"ticket of people", func(s *Situation) {
			s.Record.Ticket = ownTicket("GpuHung")
			s.Record.Ticket.Supervisor = "alice,bob"
		}, policy.VerdictHumanOwned, "alice,bob"},
		{"ticket shared with people", func(s *Situation) {
			s.Record.Ticket = ownTicket("GpuHung")
			s.Record.Ticket.Supervisor = "aegis,bob"
		}, policy.VerdictHumanOwned, "aegis,bob"},
		{"broken ticket", func(s *Situation) { s.Record.Broken = errors.New("not YAML") }, policy.VerdictHumanOwned, "not YAML"},
		{"closed ticket of people", func(s *Situation) {
			s.Record.Ticket = ownTicket("GpuHung")
			s.Record.Ticket.Supervisor, s.Record.Ticket.Status = "alice", ticket.StatusClosed
		}, policy.VerdictExecute, ""},
		{"excluded", func(s *Situation) { s.Node.Labels = map[string]string{policy.DisableLabel: "true"} }, policy.VerdictExcluded, policy.DisableLabel},
		{"excluded, with an own ticket", func(s *Situation) {
			s.Node.Labels = map[string]string{policy.DisableLabel: "true"}
			s.Record.Ticket = ownTicket("GpuHung")
		}, policy.VerdictExcluded, ""},
		{"label of another value", func(s *Situation) { s.Node.Labels = map[string]string{policy.DisableLabel: "false"} }, policy.VerdictExecute, ""},
		{"own ticket", func(s *Situation) { s.Record.Ticket = ownTicket("GpuHung") }, policy.VerdictExecute, "t1"},
		{"own ticket, mode changed meanwhile", func(s *Situation) {
			s.Record.Ticket = ownTicket("GpuHung")
			s.Status.Policy.Mode = prom.ModeObserve
		}, policy.VerdictExecute, "t1"},
		{"own ticket of another condition", func(s *Situation) { s.Record.Ticket = ownTicket("GpuDown") }, policy.VerdictInProgress, "GpuDown"},
		{"own ticket of another device", func(s *Situation) {
			s.Record.Ticket = ownTicket("GpuHung")
			s.Record.Ticket.Device = "3"
		}, policy.VerdictDuplicate, `"3"`},
		{"own ticket without procedure", func(s *Situation) {
			s.Record.Ticket = ownTicket("GpuHung")
			s.HasSOP = false
		}, policy.VerdictNoSOP, ""},
		{"not in the catalogue", func(s *Situation) { s.Status.Policy = prom.Policy{} }, policy.VerdictUnknownCondition, "GpuHung"},
		{"mode off", func(s *Situation) { s.Status.Policy.Mode = prom.ModeOff }, policy.VerdictIgnored, ""},
		{"band MustIgnore", func(s *Situation) { s.Status.Priority = 1000 }, policy.VerdictIgnored, "1000"},
		{"no procedure", func(s *Situation) { s.HasSOP = false }, policy.VerdictNoSOP, "gpu/hung"},
		{"control plane by label", func(s *Situation) {
			s.Node.Labels = map[string]string{"node-role.kubernetes.io/control-plane": ""}
		}, policy.VerdictControlPlane, ""},
		{"control plane by old label", func(s *Situation) { s.Node.Labels = map[string]string{"kubernetes.io/role": "master"} }, policy.VerdictControlPlane, ""},
		{"control plane by taint", func(s *Situation) {
			s.Node.Spec.Taints = []corev1.Taint{{Key: "node-role.kubernetes.io/etcd", Effect: corev1.TaintEffectNoExecute}}
		}, policy.VerdictControlPlane, ""},
		{"control plane, opted in", func(s *Situation) {
			s.Node.Labels = map[string]string{"node-role.kubernetes.io/control-plane": ""}
			s.Settings.ManageControlPlane = true
		}, policy.VerdictExecute, ""},
		{"paused", func(s *Situation) { s.Settings.Paused = true }, policy.VerdictPaused, ""},
		{"paused by a person", func(s *Situation) {
			s.Orders.Pause = &policy.Order{By: "alice", Reason: "racks"}
			s.Status.Origin = prom.OriginHeal
		}, policy.VerdictPaused, "everything is paused by alice: racks"},
		{"older than its node", func(s *Situation) {
			s.Status.FirstSeen = s.Now.Add(-time.Hour)
			s.Node.CreationTimestamp.Time = s.Now.Add(-4 * time.Minute)
		}, policy.VerdictContested, "still fires at 2026-11-23T12:01:00Z"},
		{"older than its node, and still firing", func(s *Situation) {
			s.Status.FirstSeen = s.Now.Add(-time.Hour)
			s.Node.CreationTimestamp.Time = s.Now.Add(-5 * time.Minute)
		}, policy.VerdictExecute, ""},
		{"younger than its node", func(s *Situation) {
			s.Status.FirstSeen = s.Now.Add(-time.Minute)
			s.Node.CreationTimestamp.Time = s.Now.Add(-2 * time.Minute)
		}, policy.VerdictExecute, ""},
		{"storm", func(s *Situation) { s.Storm = "it began on 9 nodes" }, policy.VerdictStorm, "it began on 9 nodes"},
		{"storm in mode observe", func(s *Situation) {
			s.Storm = "it began on 9 nodes"
			s.Status.Policy.Mode = prom.ModeObserve
		}, policy.VerdictStorm, ""},
		{"a lemon in mode observe", func(s *Situation) {
			s.Record.History = repaired("A", "B", "C")
			s.Status.Policy.Mode = prom.ModeObserve
		}, policy.VerdictObserve, "would isolate the node and hand it over: a lemon"},
		{"a lemon in mode approve", func(s *Situation) {
			s.Record.History = repaired("A", "B", "C")
			s.Status.Policy.Mode = prom.ModeApprove
		}, policy.VerdictAwaitingApproval, ""},
		{"no room in mode observe", func(s *Situation) {
			s.Budget = "full"
			s.Status.Policy.Mode = prom.ModeObserve
		}, policy.VerdictBudget, "full"},
		{"a request in a storm", func(s *Situation) {
			s.Storm = "it began on 9 nodes"
			s.Status.Origin = prom.OriginHeal
		}, policy.VerdictExecute, ""},
		{
			"lemon", func(s *Situation) { s.Record.History = repaired("A", "B", "C") }, policy.VerdictAttemptsExhausted,
			"a lemon: repaired 3 times within 168h0m0s, 3 allowed: A, B, C",
		},
		{
			"the same again and again", func(s *Situation) { s.Record.History = repaired("GpuHung", "GpuHung") }, policy.VerdictAttemptsExhausted,
			"a lemon: the last 2 repairs within 168h0m0s were all for GpuHung, 2 allowed",
		},
		{"the same, with another in between", func(s *Situation) { s.Record.History = repaired("GpuHung", "B") }, policy.VerdictExecute, ""},
		{"a lemon that people have given back", func(s *Situation) {
			s.Record.History = repaired("A", "B", "C")
			s.Record.History.Incidents[2].Outcome = outcomeReleased
		}, policy.VerdictExecute, ""},
		{"a lemon of last month", func(s *Situation) {
			s.Record.History = repaired("A", "B", "C")
			s.Now = s.Now.Add(30 * 24 * time.Hour)
		}, policy.VerdictExecute, ""},
		{"notes make no lemon", func(s *Situation) {
			s.Record.History = repaired("A", "B", "C")
			for i := range s.Record.History.Incidents {
				s.Record.History.Incidents[i].Isolated = false
			}
		}, policy.VerdictExecute, ""},
		{"a lemon's cordon is looked at all the same", func(s *Situation) {
			s.Record.History = repaired("A", "B", "C")
			s.Status.Priority, s.Node.Spec.Unschedulable = 1, true
			s.Node.Annotations = map[string]string{ticket.OwnerAnnotation: "aegis/t0"}
		}, policy.VerdictExecute, ""},
		{"a lemon is relieved all the same", func(s *Situation) {
			s.Record.History = repaired("A", "B", "C")
			s.Status.Policy.Workload = prom.WorkloadKeep
		}, policy.VerdictExecute, ""},
		{"mode observe", func(s *Situation) { s.Status.Policy.Mode = prom.ModeObserve }, policy.VerdictObserve, "would run gpu/hung"},
		{"mode approve", func(s *Situation) { s.Status.Policy.Mode = prom.ModeApprove }, policy.VerdictAwaitingApproval, ""},
		{"contested", func(s *Situation) { s.Status.Contested = true }, policy.VerdictContested, ""},
		{"cordoned by a person", func(s *Situation) { s.Node.Spec.Unschedulable = true }, policy.VerdictHumanCordoned, ""},
		{"cordoned by Aegis", func(s *Situation) {
			s.Node.Spec.Unschedulable = true
			s.Node.Annotations = map[string]string{ticket.OwnerAnnotation: "aegis/t0"}
		}, policy.VerdictExecute, ""},
		{"cordoned by a person after Aegis", func(s *Situation) {
			s.Node.Spec.Unschedulable = true
			s.Node.Annotations = map[string]string{ticket.OwnerAnnotation: "aegis/t0"}
			fields := metav1.NewFieldsV1(`{"f:spec":{"f:unschedulable":{}}}`)
			s.Node.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubectl-cordon", FieldsV1: fields}}
		}, policy.VerdictHumanCordoned, ""},
		{"cordoned by another tool", func(s *Situation) {
			s.Node.Spec.Unschedulable = true
			s.Node.Annotations = map[string]string{ticket.OwnerAnnotation: "autoscaler/1"}
		}, policy.VerdictHumanCordoned, ""},
		{"cordon of nobody", func(s *Situation) { s.Status.Priority = 1 }, policy.VerdictUnconfirmed, "not cordoned"},
		{"hidden by a node that is not ready", func(s *Situation) { s.Others = []prom.AegisNodeStatus{notReady} }, policy.VerdictTolerated, "NodeNotReady"},
		{"cordon while an emergency holds", func(s *Situation) {
			s.Status.Priority = 1
			s.Node.Spec.Unschedulable = true
			s.Node.Annotations = map[string]string{ticket.OwnerAnnotation: "aegis/t0"}
			s.Others = []prom.AegisNodeStatus{emergency}
		}, policy.VerdictTolerated, "Xid79GPULost"},
		{"can be ignored", func(s *Situation) { s.Status.Priority = 150 }, policy.VerdictTolerated, ""},
		{"cooldown", func(s *Situation) { s.Record.History = rebooted(10 * time.Minute) }, policy.VerdictCooldown, "2026-11-23T12:20:00Z"},
		{"a cordoned node is looked at in spite of the cooldown", func(s *Situation) {
			s.Record.History = rebooted(10 * time.Minute)
			s.Status.Priority, s.Status.Policy.MaxReboots = 1, 0
			s.Node.Spec.Unschedulable = true
			s.Node.Annotations = map[string]string{ticket.OwnerAnnotation: "aegis/t0"}
		}, policy.VerdictExecute, ""},
		{"cooldown over", func(s *Situation) { s.Record.History = rebooted(30 * time.Minute) }, policy.VerdictExecute, ""},
		{"attempts used up", func(s *Situation) { s.Record.History = rebooted(2*time.Hour, time.Hour) }, policy.VerdictAttemptsExhausted, "2 reboots"},
		{"attempts that people have looked at", func(s *Situation) {
			s.Record.History = rebooted(3*time.Hour, 2*time.Hour, time.Hour)
			s.Record.History.Incidents[1].Outcome = outcomeHandedOver
		}, policy.VerdictExecute, ""},
		{"attempts out of the window", func(s *Situation) { s.Record.History = rebooted(25*time.Hour, time.Hour) }, policy.VerdictExecute, ""},
		{"budget", func(s *Situation) { s.Budget = "2 of 20 nodes are out of service" }, policy.VerdictBudget, "2 of 20"},
		{"budget, but nothing is taken out", func(s *Situation) {
			s.Budget = "full"
			s.Status.Policy.Workload = prom.WorkloadKeep
		}, policy.VerdictExecute, ""},
		{"a request overrules mode, contest, cooldown, attempts and budget", func(s *Situation) {
			s.Status.Origin = prom.OriginHeal
			s.Status.Policy.Mode = prom.ModeOff
			s.Status.Contested = true
			s.Budget = "full"
			s.Record.History = rebooted(time.Minute, time.Hour)
		}, policy.VerdictExecute, ""},
		{"a request does not overrule a person's cordon", func(s *Situation) {
			s.Status.Origin = prom.OriginHeal
			s.Node.Spec.Unschedulable = true
		}, policy.VerdictHumanCordoned, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := decide(situation(tt.change))
			require.Equal(t, tt.want, got.Name, got.Reason)
			require.NotEmpty(t, got.Reason)
			require.Contains(t, got.Reason, tt.says)
			require.Contains(t, policy.VerdictNames(), got.Name)
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
		want       policy.VerdictName
	}{
		{"confirmed", old, prom.EvidenceFiring, prom.PermissionGranted, policy.VerdictExecute},
		{"fresh alert, Prometheus silent", alert, prom.EvidenceUnknown, prom.PermissionGranted, policy.VerdictExecute},
		{"fresh alert, nobody answers", alert, prom.EvidenceUnknown, prom.PermissionUnknown, policy.VerdictExecute},
		{"fresh alert, not listed yet", alert, prom.EvidenceFiring, prom.PermissionUnlisted, policy.VerdictExecute},
		{"old alert, Prometheus silent", old, prom.EvidenceUnknown, prom.PermissionGranted, policy.VerdictUnverifiable},
		{"resync, Alertmanager silent", polled, prom.EvidenceFiring, prom.PermissionUnknown, policy.VerdictUnverifiable},
		{"fresh alert, silenced", alert, prom.EvidenceFiring, prom.PermissionSilenced, policy.VerdictSilenced},
		{"silenced, Prometheus silent", alert, prom.EvidenceUnknown, prom.PermissionSilenced, policy.VerdictSilenced},
		{"fresh alert, gone", alert, prom.EvidenceAbsent, prom.PermissionGranted, policy.VerdictUnconfirmed},
		{"pending", alert, prom.EvidencePending, prom.PermissionGranted, policy.VerdictUnconfirmed},
		{"not listed", old, prom.EvidenceFiring, prom.PermissionUnlisted, policy.VerdictUnconfirmed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := confirm(now, tt.status, prom.Finding{Evidence: tt.evidence, Permission: tt.permission})
			require.Equal(t, tt.want, got.Name, got.Reason)
		})
	}
}

func TestVerification(t *testing.T) {
	t.Parallel()
	const (
		f = prom.EvidenceFiring
		a = prom.EvidenceAbsent
		u = prom.EvidenceUnknown
		p = prom.EvidencePending
	)
	tests := []struct {
		name string
		// answers come a minute apart; clear takes three minutes, the whole ten.
		answers          []prom.Evidence
		cleared, expired int
	}{
		{"gone at once", []prom.Evidence{a, a, a, a}, 4, 0},
		{"unknown restarts the clock", []prom.Evidence{a, a, a, u, a, a, a, a}, 8, 0},
		{"pending is not gone", []prom.Evidence{a, a, a, p, a, a, a, a}, 8, 0},
		{"never gone", []prom.Evidence{f, f, f, f, f, f, f, f, f, f, f}, 0, 11},
		{"unknown does not count", []prom.Evidence{f, u, u, u, u, u, u, u, u, u, u, u, u, u, f}, 0, 0},
		{"gone late is given its time", []prom.Evidence{f, f, f, f, f, f, f, f, f, a, a, a, a}, 13, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			v := verification{clearFor: 3 * time.Minute, within: 10 * time.Minute}
			now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
			cleared, expired := 0, 0
			for i, answer := range tt.answers {
				done := v.observe(now.Add(time.Duration(i)*time.Minute), prom.Finding{Evidence: answer})
				if done && cleared == 0 {
					cleared = i + 1
				}
				if v.expired() && expired == 0 {
					expired = i + 1
				}
			}
			require.Equal(t, tt.cleared, cleared, "cleared")
			require.Equal(t, tt.expired, expired, "expired")
		})
	}
}
