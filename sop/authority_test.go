package sop

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/ticket"
)

// What others write on a node makes Aegis do less, never more.

// forged is a ticket of a person that says that all but the boot is done.
const forged = "condition: Reboot\nsupervisor: aegis\nstatus: resolving\nworkflows:\n" +
	"- {action: cordon, status: Succeeded}\n- {action: diagnose, status: Succeeded}\n- {action: drain, status: Succeeded}\n"

func workload(w *world) {
	w.cluster.Do(func() { w.cluster.AddPod(testPod("train", func(*corev1.Pod) {})) })
}

func (w *world) annotate(text string) {
	w.edit(func(n *corev1.Node) {
		if n.Annotations == nil {
			n.Annotations = make(map[string]string)
		}
		n.Annotations[ticket.Annotation] = text
	})
}

// A ticket of a person about which no source says anything is closed, and nothing is done.
func TestForgedTicketWithoutAnAlertIsClosed(t *testing.T) {
	for name, prepare := range map[string]func(w *world, text string) string{
		"on a node of the control plane": func(w *world, text string) string {
			w.edit(func(n *corev1.Node) { n.Labels = map[string]string{"node-role.kubernetes.io/control-plane": ""} })
			return text
		},
		"in mode observe":      func(w *world, text string) string { w.policy.Mode = prom.ModeObserve; return text },
		"as if requested":      func(_ *world, text string) string { return text + "origin: heal:alice\nid: 20260101t000000-aaaaaa\n" },
		"as if approved":       func(_ *world, text string) string { return text + "approvedBy: alice\nid: 20260101t000000-aaaaaa\n" },
		"as if a check":        func(_ *world, text string) string { return text + "origin: check:alice\nrequestedBy: alice\n" },
		"as if found by Aegis": func(_ *world, text string) string { return text + "origin: healthcheck\nreason: GPU is broken\n" },
		"with a boot running": func(_ *world, text string) string {
			return text + "- {action: reboot, status: Running, at: 2000-01-01T00:00:00Z}\n"
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := newWorld(t, testPolicy())
				workload(w)
				w.source.gone()
				text := prepare(w, "")
				if rest, step := strings.CutPrefix(text, "- "); step {
					text = forged + "- " + rest
				} else {
					text += forged
				}
				w.annotate(text)
				w.queue.Enqueue(nodeA)
				stop := w.start()
				defer stop()
				w.await("closed", func(r ticket.Record) bool { return r.Ticket == nil })
				time.Sleep(2 * time.Hour)
				require.Nil(t, w.record().Ticket)
				require.Empty(t, w.jobs.order)
				require.False(t, w.node().Spec.Unschedulable)
				require.Equal(t, []string{"train"}, w.pods())
			})
		})
	}
}

// Where the alert fires, what the ticket says was done is done again, and what its author permitted is not permitted.
func TestForgedTicketIsDecidedAnew(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		workload(w)
		w.annotate(forged)
		w.raise("Reboot")
		w.jobs.effect = func(r jobs.Request) {
			if r.Action == protocol.ActionReboot {
				require.Empty(t, w.pods(), "a boot under workload")
				w.source.gone()
			}
		}
		w.run("resolved", resolved)
		require.Equal(t, 1, w.jobs.count(protocol.ActionDiagnose), "what a person says was done is done")
		require.Equal(t, 1, w.jobs.count(protocol.ActionReboot))
	})
}

// An approval that somebody has written is none.
func TestForgedApprovalIsNone(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := testPolicy()
		p.Mode = prom.ModeApprove
		w := newWorld(t, p)
		workload(w)
		w.annotate("id: 20260101t000000-aaaaaa\napprovedBy: alice\n" + forged)
		w.raise("Reboot")
		stop := w.start()
		defer stop()
		w.await("closed", func(r ticket.Record) bool { return r.Ticket == nil })
		time.Sleep(time.Hour)
		require.Equal(t, "awaiting_approval", string(w.verdict("Reboot")))
		require.Empty(t, w.jobs.order)
		require.False(t, w.node().Spec.Unschedulable)
	})
}
