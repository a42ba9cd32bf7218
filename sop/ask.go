package sop

import (
	"context"
	"time"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/ticket"
)

// What a procedure asks between its steps, and what it remembers from one to the next.

// HasCordoned reports whether this incident has cordoned the node, be it for the condition that it was about before a preemption,
// and whatever became of that cordon.
func (b *ApiBridge) HasCordoned() bool {
	if b.plan != nil {
		return b.calls[ticket.Cordon] > 0
	}
	t := b.journal.ticket()
	return t != nil && t.Count(ticket.Cordon) > 0
}

// Vanished reports whether the fault has gone while the procedure waited, so that nobody has to be called for it. What was decided
// before a restart is not decided anew.
func (b *ApiBridge) Vanished(ctx context.Context) bool {
	if b.plan != nil || b.healing() || b.suspicion != "" {
		return false
	}
	if _, returning := b.journal.outcome(ticket.Verify, b.calls[ticket.Verify]+1); returning {
		return true
	}
	if t := b.journal.ticket(); t != nil && len(t.Running()) > 0 {
		return false
	}
	if _, leaving := b.journal.outcome(ticket.Shutdown, b.calls[ticket.Shutdown]+1); leaving {
		return false
	}
	return withdrawn(b.services.Source.Observe(ctx, b.status.Key()))
}

// RebootsLeft reports whether the incident may boot the node once more: reboots of other incidents within the attempt
// window count. A reboot that was begun is always gone on with.
func (b *ApiBridge) RebootsLeft() bool {
	if b.plan != nil {
		return true
	}
	t := b.journal.ticket()
	next := b.calls[ticket.Reboot] + 1
	if _, begun := b.journal.outcome(ticket.Reboot, next); begun {
		return true
	}
	if t == nil {
		return false
	}
	used := rebootsSince(b.journal.record.History, time.Now().Add(-b.Policy().AttemptWindow), t.ID)
	for n := 1; n <= t.Count(ticket.Reboot); n++ {
		if s, _ := t.Outcome(ticket.Reboot, n); s.Status != ticket.Canceled {
			used++
		}
	}
	return used < b.Policy().MaxReboots
}

// Suspect remembers that a check of ours found the node sick. From here on a silent alert is no reason to stop, because the
// alert's source may be what is broken.
func (b *ApiBridge) Suspect(why string) { b.suspicion = why }

// Suspicion returns what Suspect was told last. Empty means that nothing speaks against the node but its alert.
func (b *ApiBridge) Suspicion() string { return b.suspicion }

// Reason returns why the incident was opened, in the words of its ticket.
func (b *ApiBridge) Reason() string { return b.journal.incident.reason }

// Clear says what happens to the pods from here on, instead of what the policy says.
func (b *ApiBridge) Clear(w prom.Workload) {
	b.drained = b.drained && b.status.Policy.Workload == w
	b.status.Policy.Workload = w
}

// Describe says in a sentence what is wrong with the node.
func Describe(s prom.AegisNodeStatus) string {
	text := s.Condition
	if s.ID != "" {
		text += " (" + s.ID + ")"
	}
	if s.Msg != "" {
		text += ": " + s.Msg
	}
	return text
}
