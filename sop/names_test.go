package sop

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// alias gives conditions other names.
func (w *world) alias(aliases map[string]string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.aliases = aliases
}

// rebootHelps ends the fault with the first boot.
func (w *world) rebootHelps() {
	w.jobs.effect = func(r jobs.Request) {
		if r.Action == protocol.ActionReboot {
			w.source.gone()
		}
	}
}

// A ticket that a person writes with another name of its condition, and gives to Aegis, is that of the condition.
func TestTicketWithAnAliasGoesOn(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.alias(map[string]string{"NodeHangs": "Reboot"})
		w.rebootHelps()
		w.raise("Reboot")
		w.edit(func(n *corev1.Node) {
			n.Annotations = map[string]string{ticket.Annotation: "condition: NodeHangs\nsupervisor: aegis\nstatus: resolving\n"}
		})
		stop := w.start()
		w.await("resolved", resolved)
		stop()
		require.Equal(t, 1, w.jobs.count(protocol.ActionReboot))
		require.Equal(t, "Reboot", w.record().History.Incidents[0].Condition)
	})
}

// A condition that an upgrade or a reload renames wedges no open ticket, and its repair goes on with what was done.
func TestRenamedConditionGoesOn(t *testing.T) {
	for _, action := range []ticket.Action{ticket.Diagnose, ticket.Drain, ticket.Reboot, ticket.Verify} {
		for _, restart := range []bool{false, true} {
			inNamedBubble(t, fmt.Sprintf("%s, restart %v", action, restart), func(t *testing.T) {
				w := newWorld(t, testPolicy(), testPod("worker", func(p *corev1.Pod) { p.Labels["held"] = "pdb" }))
				w.rebootHelps()
				w.table["test/newname"] = w.table["test/reboot"]
				w.raise("Reboot")
				stop := w.start()
				if action == ticket.Reboot || action == ticket.Verify {
					w.awaitRunning(ticket.Drain)
					w.letGo()
				}
				w.awaitRunning(action)
				if restart {
					stop()
				}
				w.alias(map[string]string{"Reboot": "NewName"})
				w.queue.Reprioritise(func(s prom.AegisNodeStatus) prom.AegisNodeStatus {
					return w.Status(s.Node, s.Condition, s.ID, 0)
				})
				if restart {
					stop = w.start()
				}
				time.Sleep(time.Minute)
				w.letGo()
				w.await("resolved", resolved)
				stop()
				require.Equal(t, 1, w.jobs.count(protocol.ActionReboot))
				require.False(t, w.node().Spec.Unschedulable)
				last := w.record().History.Incidents
				require.Len(t, last, 1)
				require.Equal(t, "NewName", last[0].Condition)
			})
		}
	}
}

// What a node has been through under another name of the condition counts.
func TestHistoryCountsByAnyName(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newTrial(t, policy.Visit, policy.Alert, func(w *trial) {
			w.policy.MaxRepairs, w.policy.RepairWindow = 1, 24*time.Hour
			w.booted(3 * time.Hour)
			w.history.Incidents[0].Condition = "OldName"
		})
		w.alias(map[string]string{"OldName": "Reboot"})
		w.write()
		v := w.visit()
		require.Equal(t, policy.VerdictAttemptsExhausted, v.Name, v.Reason)
		require.Contains(t, v.Reason, "suspected hardware")
	})
}

// A mode that was ordered for a condition holds under its new name. Of two, the lower one does.
func TestOrderedModeOutlivesARename(t *testing.T) {
	for text, want := range map[string]prom.Mode{
		`{"OldName": {"mode": "observe"}}`:                              prom.ModeObserve,
		`{"OldName": {"mode": "observe"}, "Older": {"mode": "off"}}`:    prom.ModeOff,
		`{"OldName": {"mode": "off"}, "Reboot": {"mode": "approve"}}`:   prom.ModeApprove,
		`{"Reboot": {"mode": "approve"}, "Unrelated": {"mode": "off"}}`: prom.ModeApprove,
		`{"OldName": {"mode": "auto"}, "Older": {"mode": "approve"}}`:   prom.ModeApprove,
	} {
		inNamedBubble(t, text, func(t *testing.T) {
			w := newWorld(t, testPolicy())
			w.alias(map[string]string{"OldName": "Reboot", "Older": "Reboot"})
			d := w.dispatcher()
			require.NoError(t, w.annotateLease(ModesAnnotation, text))
			_, err := d.services.Orders.Read(t.Context())
			require.NoError(t, err)
			require.Equal(t, want, d.services.Orders.Last().Apply(w.Status(nodeA, "Reboot", "", 0)).Policy.Mode)
			require.NoError(t, d.ResetMode(t.Context(), "Reboot", "alice"))
			require.Equal(t, prom.ModeAuto, d.services.Orders.Last().Apply(w.Status(nodeA, "Reboot", "", 0)).Policy.Mode)
		})
	}
}

// A mode that people have ordered holds from the moment at which the catalogue calls its condition by another name, and when it is called by
// its earlier name again.
func TestOrderedModeHoldsThroughARename(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		stop := w.start()
		synctest.Wait()
		require.NoError(t, w.d.SetMode(t.Context(), "Reboot", prom.ModeOff, policy.Order{By: "alice"}))
		w.alias(map[string]string{"Reboot": "NewName"})
		require.Equal(t, prom.ModeOff, w.d.Orders().Modes["NewName"].Mode)
		time.Sleep(time.Minute)
		w.alias(nil)
		require.Equal(t, prom.ModeOff, w.d.Orders().Modes["Reboot"].Mode)
		stop()
	})
}
