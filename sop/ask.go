package sop

import (
	"context"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// What a procedure asks between its steps, and what it remembers from one to the next.

// Confirm asks the sources anew whether the condition holds and may be acted on. An incident that has begun, or that a
// person asked for, needs no confirmation: each of its disruptive steps asks for itself.
func (b *ApiBridge) Confirm(ctx context.Context) bool { return b.executor.confirm(ctx) }

func (e *journaled) confirm(ctx context.Context) bool { return e.gate.confirm(ctx) }

// HasCordoned reports whether this incident has ever cordoned the node, even for the condition that it had before a preemption, and even if
// the cordon is gone by now. A cordon that a person has lent to it counts as well.
func (b *ApiBridge) HasCordoned() bool { return b.executor.hasCordoned() }

func (e *journaled) hasCordoned() bool {
	t := e.journal.ticket()
	return t != nil && (t.Count(ticket.Cordon) > 0 || t.Cordon != "")
}

// Unharmed reports whether this incident found the node in service and has taken no destructive step on it. A cordon of an earlier
// incident may be there because the hardware is in doubt.
func (b *ApiBridge) Unharmed() bool { return b.executor.unharmed() }

func (e *journaled) unharmed() bool {
	if t := e.journal.ticket(); t != nil && t.Count(ticket.Uncordon) > t.Past[ticket.Uncordon] {
		// It was decided before, and the note may be gone with the cordon.
		return t.Count(ticket.Healthcheck) == t.Past[ticket.Healthcheck]
	}
	note := e.journal.record.Node.Annotations[ticket.OwnerAnnotation]
	return !e.journal.disrupted() && note == policy.OwnerPrefix+e.journal.incident.id
}

// Full reports whether no pod that wants a GPU can come to the node anyway, so that a cordon would change nothing. An incident that
// has cordoned the node keeps to that.
func (b *ApiBridge) Full(ctx context.Context) (bool, error) { return b.executor.full(ctx) }

func (e *journaled) full(ctx context.Context) (bool, error) {
	if e.hasCordoned() {
		return false, nil
	}
	return e.gpusTaken(ctx)
}

// Vanished reports whether the fault has gone while the procedure waited, so that no person has to be called. What was decided
// before a restart is not decided anew.
func (b *ApiBridge) Vanished(ctx context.Context) bool { return b.executor.vanished(ctx) }

func (e *journaled) vanished(ctx context.Context) bool {
	if e.healing() || e.gate.suspicion != "" {
		return false
	}
	if _, returning := e.journal.outcome(ticket.Verify, e.calls[ticket.Verify]+1); returning {
		return true
	}
	if t := e.journal.ticket(); t != nil && len(t.Running()) > 0 {
		return false
	}
	if _, leaving := e.journal.outcome(ticket.Shutdown, e.calls[ticket.Shutdown]+1); leaving {
		return false
	}
	return policy.Withdrawn(e.services.Source.Observe(ctx, e.status.Key()))
}

// RebootsLeft reports whether the incident may boot the node once more: reboots of other incidents within the attempt
// window count. A reboot that was begun is always gone on with.
func (b *ApiBridge) RebootsLeft() bool { return b.executor.rebootsLeft() }

func (e *journaled) rebootsLeft() bool {
	t := e.journal.ticket()
	next := e.calls[ticket.Reboot] + 1
	if _, begun := e.journal.outcome(ticket.Reboot, next); begun {
		return true
	}
	if t == nil {
		return false
	}
	used := policy.RebootsSince(e.journal.record.History, e.services.Clock.Now().Add(-e.status.Policy.AttemptWindow), t.ID)
	for n := 1; n <= t.Count(ticket.Reboot); n++ {
		if s, _ := t.Outcome(ticket.Reboot, n); s.Status != ticket.Canceled {
			used++
		}
	}
	return used < e.status.Policy.MaxReboots
}

// Suspect remembers that a check of Aegis found the node sick. From here on a silent alert is no reason to stop, because the
// alert's source may be what is broken.
func (b *ApiBridge) Suspect(why string) { b.gate.suspicion = why }

// Suspicion returns what Suspect was told last. Empty means that nothing speaks against the node but its alert.
func (b *ApiBridge) Suspicion() string { return b.gate.suspicion }

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
