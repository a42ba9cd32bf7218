package sop

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// watching adds a procedure that only writes down.
func watching(w *world) {
	w.table["test/watch"] = func() SOP { return NewNotice(Playbook.Note) }
	w.table[policy.NoteSOP] = func() SOP { return NewNotice(Playbook.Note) }
}

func outcomes(r ticket.Record) []string {
	var list []string
	for _, i := range r.History.Incidents {
		list = append(list, i.Condition+" "+i.Outcome)
	}
	return list
}

// What is only to be known is in the history of the node and leaves no ticket, and is not noted over and over.
func TestNoteIsMadeOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := testPolicy()
		p.Cooldown = 30 * time.Minute
		w := newWorld(t, p)
		watching(w)
		w.raise("Watch")
		stop := w.start()
		defer stop()
		w.await("noted", func(r ticket.Record) bool { return len(r.History.Incidents) == 1 })
		require.Equal(t, []string{"Watch noted"}, outcomes(w.record()))
		require.Nil(t, w.record().Ticket)
		require.Equal(t, 1, w.writes)
		time.Sleep(24 * time.Hour)
		require.Equal(t, 1, w.writes, "it is the same alert")
		require.Equal(t, policy.VerdictTolerated, w.verdict("Watch"))

		// It comes again: after a while that is worth another note, at once it is not.
		w.withdraw(prom.Key{Node: nodeA, Condition: "Watch"})
		time.Sleep(time.Minute)
		w.raise("Watch")
		w.await("noted again", func(r ticket.Record) bool { return len(r.History.Incidents) == 2 })
		w.withdraw(prom.Key{Node: nodeA, Condition: "Watch"})
		time.Sleep(time.Minute)
		w.raise("Watch")
		time.Sleep(20 * time.Minute)
		require.Len(t, w.record().History.Incidents, 2)
		w.await("noted a third time", func(r ticket.Record) bool { return len(r.History.Incidents) == 3 })
		require.False(t, w.node().Spec.Unschedulable)
	})
}

// Notes push nothing out of the history that was done to the node.
func TestNotesDoNotFillTheHistory(t *testing.T) {
	t.Parallel()
	h := &ticket.History{}
	h.Add(ticket.Incident{ID: "boot", Outcome: ticket.Resolved})
	for range 50 {
		h.Add(ticket.Incident{ID: ticket.NewID(time.Now()), Outcome: ticket.Noted})
	}
	require.Len(t, h.Incidents, 1+ticket.MaxNotes)
	require.Equal(t, "boot", h.Incidents[0].ID)
}

// A ticket that only told people about one condition keeps no other from being repaired, and is remembered as superseded.
func TestNoteGivesWayToARepair(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.jobs.effect = func(r jobs.Request) {
			if r.Action == protocol.ActionReboot {
				w.source.gone()
				w.withdraw(prom.Key{Node: nodeA, Condition: "Note"})
			}
		}
		w.raise("Note")
		stop := w.start()
		defer stop()
		w.await("handed over", handedTo("gpu"))
		w.raise("Reboot")
		w.await("repaired", func(r ticket.Record) bool { return len(r.History.Incidents) == 2 && r.Ticket == nil })
		require.Equal(t, []string{"Note superseded", "Reboot resolved"}, outcomes(w.record()))
		require.Equal(t, 1, w.jobs.count(protocol.ActionReboot))
	})
}

// A person who asks for a repair need not first close what Aegis had told of; another note is no reason to.
func TestNoteGivesWayToARequest(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.table["test/other"] = func() SOP { return NewNotice(Playbook.Tell) }
		w.raise("Note")
		stop := w.start()
		w.await("handed over", handedTo("gpu"))
		stop()
		d := w.dispatcher()
		result, err := d.Heal(t.Context(), w.request("Other"))
		require.ErrorIs(t, err, policy.ErrRefused)
		require.Equal(t, policy.VerdictHumanOwned, result.Verdict.Name)
		result, err = d.Heal(t.Context(), w.request("Reboot"))
		require.NoError(t, err)
		require.Equal(t, result.Ticket, w.record().Ticket.ID)
		require.Equal(t, []string{"Note superseded"}, outcomes(w.record()))
		w.source.gone()
		w.withdraw(prom.Key{Node: nodeA, Condition: "Note"})
		w.run("resolved", resolved)
		require.Equal(t, []string{"Note superseded", "Reboot resolved"}, outcomes(w.record()))
	})
}

// A ticket that a person took in hand gives way to nothing, nor does one note to another.
func TestNoteOfPeopleStays(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.table["test/other"] = func() SOP { return NewNotice(Playbook.Tell) }
		w.raise("Note")
		stop := w.start()
		defer stop()
		w.await("handed over", handedTo("gpu"))
		first := w.record().Ticket.ID
		w.raise("Other")
		time.Sleep(10 * time.Minute)
		require.Equal(t, first, w.record().Ticket.ID)
		require.Equal(t, policy.VerdictHumanOwned, w.verdict("Other"))
		w.edit(func(n *corev1.Node) {
			taken := ticket.ReadNode(n).Ticket
			taken.Supervisor = "alice"
			text, err := taken.Encode()
			require.NoError(t, err)
			n.Annotations[ticket.Annotation] = text
		})
		w.raise("Reboot")
		time.Sleep(10 * time.Minute)
		require.Equal(t, "alice", w.record().Ticket.Supervisor)
		require.Equal(t, policy.VerdictHumanOwned, w.verdict("Reboot"))
		require.False(t, w.node().Spec.Unschedulable)
	})
}

// A condition that has to come several times is noted until then.
func TestThreshold(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := testPolicy()
		p.Threshold = prom.Threshold{Count: 3, Within: 24 * time.Hour}
		w := newWorld(t, p)
		watching(w)
		w.jobs.effect = func(r jobs.Request) {
			if r.Action == protocol.ActionReboot {
				w.source.gone()
			}
		}
		stop := w.start()
		defer stop()
		for n := range 2 {
			w.raise("Reboot")
			w.await("noted", func(r ticket.Record) bool { return len(r.History.Incidents) == n+1 })
			w.withdraw(prom.Key{Node: nodeA, Condition: "Reboot"})
			time.Sleep(2 * time.Hour)
		}
		require.Empty(t, w.jobs.order)
		w.raise("Reboot")
		w.await("repaired", func(r ticket.Record) bool { return len(r.History.Incidents) == 3 && r.Ticket == nil })
		require.Equal(t, []string{"Reboot noted", "Reboot noted", "Reboot resolved"}, outcomes(w.record()))
		require.Equal(t, 1, w.jobs.count(protocol.ActionReboot))
	})
}

// An alert that goes on telling of an event that was dealt with says nothing new.
func TestEventIsDealtWithOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := testPolicy()
		p.Once, p.Workload = true, prom.WorkloadKeep
		w := newWorld(t, p)
		w.table["test/panic"] = func() SOP { return NewProcedure(Playbook.ExamineThenReturn) }
		w.raise("Panic")
		stop := w.start()
		defer stop()
		w.await("returned", func(r ticket.Record) bool { return len(r.History.Incidents) == 1 && r.Ticket == nil })
		time.Sleep(24 * time.Hour)
		require.Equal(t, 1, w.jobs.count(protocol.ActionHealthcheck))
		require.Equal(t, policy.VerdictTolerated, w.verdict("Panic"))
		require.False(t, w.node().Spec.Unschedulable)
	})
}

// What another condition explains waits for it, and is repaired if it is still there afterwards.
func TestInhibitedConditionWaits(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.inhibits = map[string]string{"Cause": "Reset"}
		w.raise("Cause")
		w.raise("Reset")
		w.jobs.effect = func(r jobs.Request) {
			if r.Action == protocol.ActionRemedy {
				w.source.gone()
			}
		}
		stop := w.start()
		defer stop()
		time.Sleep(time.Hour)
		require.Equal(t, policy.VerdictTolerated, w.verdict("Reset"))
		require.Empty(t, w.jobs.order)
		w.withdraw(prom.Key{Node: nodeA, Condition: "Cause"})
		w.await("repaired", resolved)
	})
}

// No node is powered off before what runs on it has gone, whichever rung that decision is made on.
func TestPowerOffComesAfterTheDrain(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := testPolicy()
		p.MaxReboots, p.Shutdown, p.Workload = 0, true, prom.WorkloadDrainGPU
		w := newWorld(t, p, testPod("web", nil))
		w.jobs.effect = func(r jobs.Request) {
			if r.Action == protocol.ActionShutdown {
				require.Empty(t, w.pods(), "a pod still runs")
			}
		}
		w.raise("Reset")
		w.run("handed over", handedTo("gpu"))
		require.Equal(t, 1, w.jobs.count(protocol.ActionShutdown))
		require.Equal(t, []string{
			"cordon Succeeded", "diagnose Succeeded", "draingpu Succeeded", "reset Succeeded", "verify Failed", "drain Succeeded",
			"shutdown Succeeded", "handover Succeeded",
		}, steps(w.record()))
	})
}

func TestRecoveryAction(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]prom.XIDClass{
		"None": prom.XIDIgnore, "GPU Reset Required": prom.XIDReset, "Drain and Reset": prom.XIDReset, "Node Reboot Required": prom.XIDReboot,
		"Drain P2P": prom.XIDCheck, "Sacrifice A Goat": prom.XIDCheck,
	} {
		require.Equal(t, want, recoveryClass(text), text)
	}
}
