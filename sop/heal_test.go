package sop

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

func (w *world) request(condition string) policy.HealRequest {
	return policy.HealRequest{Status: w.Status(nodeA, condition, "", 0), By: "alice", Reason: "NCCL hangs"}
}

// A request is on the node before it is answered, survives the process that took it, and needs no alert.
func TestRequestedRepairSurvivesAndNeedsNoAlert(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.source.gone()
		result, err := w.dispatcher().Heal(t.Context(), w.request("Reboot"))
		require.NoError(t, err)
		r := w.record()
		require.Equal(t, result.Ticket, r.Ticket.ID)
		require.Equal(t, ticket.StatusCreated, r.Ticket.Status)
		require.Equal(t, "heal:alice", r.Ticket.Origin)
		require.Equal(t, "NCCL hangs", r.Ticket.Reason)
		w.run("resolved", resolved)
		require.Equal(t, 1, w.jobs.count(protocol.ActionReboot))
	})
}

func TestRequestWaitsForTheBudget(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		other := testNode("gpu-0002", "uid-2")
		other.Spec.Unschedulable = true
		w := newWorld(t, testPolicy(), testNode(nodeA, nodeUID), other)
		w.setSettings(func(s *policy.Settings) { s.Pools[0].MaxPercent = 10 })
		w.source.gone()
		_, err := w.dispatcher().Heal(t.Context(), w.request("Reboot"))
		require.NoError(t, err)
		stop := w.start()
		w.await("held", func(ticket.Record) bool { return w.verdict("Reboot") == policy.VerdictBudget })
		require.False(t, w.node().Spec.Unschedulable)
		w.cluster.Do(func() { w.cluster.DeleteNode("gpu-0002") })
		w.await("resolved", resolved)
		stop()
	})
}

func TestPlanChangesNothing(t *testing.T) {
	t.Parallel()
	tests := map[string][]string{
		"Reboot": {
			"cordon", "diagnose", "drain", "reboot", "verify (gone for 2m0s, within 10m0s)", "healthcheck (profile test)", "uncordon", "resolve",
		},
		"Reset": {
			"cordon", "diagnose", "draingpu", "reset (all GPUs)", "verify (gone for 2m0s, within 10m0s)", "healthcheck (profile test)",
			"uncordon", "resolve",
		},
		"Isolate": {"cordon", "diagnose", "drain", "handover (team gpu)"},
		"Note":    {"handover (team gpu)"},
		"Relieve": {"cordon", "verify (gone for 2m0s, within 1h0m0s)", "uncordon", "resolve"},
		"Ready":   {"wait (ready for 2m0s, within 3m0s)", "resolve"},
		"Cordon":  {"healthcheck (profile test)", "uncordon", "resolve"},
	}
	for condition, want := range tests {
		t.Run(condition, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := newWorld(t, testPolicy())
				before := w.node()
				request := w.request(condition)
				request.DryRun = true
				result, err := w.dispatcher().Heal(t.Context(), request)
				require.NoError(t, err)
				require.Equal(t, want, result.Plan)
				require.Empty(t, result.Ticket)
				require.Equal(t, before, w.node())
				require.Empty(t, w.jobs.order)
			})
		})
	}
}

func TestRequestsAreRefusedWithTheReason(t *testing.T) {
	t.Parallel()
	open := func(supervisor, condition string) func(*corev1.Node) {
		return func(n *corev1.Node) {
			n.Annotations = map[string]string{
				ticket.Annotation: "id: t1\ncondition: " + condition + "\nsupervisor: " + supervisor + "\nstatus: resolving\n",
			}
		}
	}
	tests := []struct {
		name    string
		prepare func(*corev1.Node)
		want    policy.VerdictName
	}{
		{"people own the node", open("alice", "Reboot"), policy.VerdictHumanOwned},
		{"the same is being done", open("aegis", "Reboot"), policy.VerdictDuplicate},
		{"another repair goes on", open("aegis", "Reset"), policy.VerdictInProgress},
		{"cordoned by a person", func(n *corev1.Node) { n.Spec.Unschedulable = true }, policy.VerdictHumanCordoned},
		{"excluded", func(n *corev1.Node) { n.Labels = map[string]string{policy.DisableLabel: "true"} }, policy.VerdictExcluded},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := newWorld(t, testPolicy())
				w.edit(tt.prepare)
				before := w.node()
				result, err := w.dispatcher().Heal(t.Context(), w.request("Reboot"))
				require.ErrorIs(t, err, policy.ErrRefused)
				require.Equal(t, tt.want, result.Verdict.Name)
				require.Equal(t, before, w.node())
			})
		})
	}
}

func TestRequestForAMissingNode(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		request := w.request("Reboot")
		request.Status.Node = "no-such-node"
		_, err := w.dispatcher().Heal(t.Context(), request)
		require.ErrorIs(t, err, ticket.ErrNodeGone)
	})
}

// A condition in mode observe is told and nothing else.
func TestObserveTouchesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := testPolicy()
		p.Mode = prom.ModeObserve
		w := newWorld(t, p)
		before := w.node()
		w.raise("Reboot")
		w.run("observed", func(ticket.Record) bool { return w.verdict("Reboot") == policy.VerdictObserve })
		require.Equal(t, before, w.node())
		require.Empty(t, w.jobs.order)
		require.Contains(t, <-w.events.Events, "mode observe: would run test/reboot")
	})
}

// A node that has used up its reboots is isolated and left to people instead of being booted again.
func TestAttemptsExhausted(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := testPolicy()
		p.MaxReboots = 1
		w := newWorld(t, p)
		w.jobs.effect = func(r jobs.Request) {
			if r.Action == protocol.ActionReboot {
				w.source.gone()
			}
		}
		w.raise("Reboot")
		w.run("resolved", resolved)
		w.source.set(prom.Finding{Evidence: prom.EvidenceFiring, Permission: prom.PermissionGranted})
		w.run("handed over", handedTo("gpu"))
		require.Equal(t, 1, w.jobs.count(protocol.ActionReboot))
		require.True(t, w.node().Spec.Unschedulable)
		require.Equal(t, ExhaustedSOP, w.record().Ticket.SOP)
	})
}
