package sop

import (
	"context"
	"time"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

const (
	// journalSpent is the time after which the ticket is told anew for how long a step was permitted, and spentShare the part of the step's
	// deadline after which it is, whichever comes first. A process that dies takes no more than that with it, and where processes die one
	// after the other no more than resumedSpent.
	journalSpent = 5 * time.Minute
	spentShare   = 10
	resumedSpent = time.Minute
	// mostWatched bounds what counts between two looks, unless they are meant to be further apart: a process that was frozen for longer has
	// watched nothing.
	mostWatched = time.Minute
)

// permittedTime is the time in which a step was permitted and a process of Aegis was there to go on with it. It is all that counts
// against the step's deadline, and it is journaled, so that the next leader goes on with it. Nothing in it depends on a clock of
// anybody else, nor on when an earlier leader says that the step began.
type permittedTime struct {
	*scene
	action ticket.Action
	n      int
	// spent is the time so far, kept what of it the ticket has.
	spent, kept time.Duration
	// last is when the time was added up last. Zero while it stands still.
	last time.Time
	// resumed is true until a resumed step has journaled its time.
	resumed bool
	// stops is what the time was when the Job of the step was to be deleted, and could not be. Zero before.
	stops time.Duration
	// nears is true while the step is on its way to end well, by what it has seen itself. Whoever took it up would have to see that anew, so
	// no write is made that is not needed.
	nears bool
	// told is true once the ticket was told why the step waits, since the last look.
	told bool
}

// add adds the time since the last look, and lets time go on.
func (p *permittedTime) add() {
	now := p.services.Clock.Now()
	if !p.last.IsZero() {
		p.spent += min(now.Sub(p.last), max(mostWatched, 2*p.services.Timing.Poll))
	}
	p.last = now
}

// stop adds the time since the last look, and lets time stand still.
func (p *permittedTime) stop() {
	p.add()
	p.last = time.Time{}
}

// skip leaves the time since the last look out, and lets time stand still.
func (p *permittedTime) skip() { p.last = time.Time{} }

// restart forgets the time so far: what it is measured for begins now.
func (p *permittedTime) restart() {
	p.spent, p.last = 0, time.Time{}
	p.add()
}

// stopping returns for how long the Job of the step could not be deleted.
func (p *permittedTime) stopping() time.Duration {
	if p.stops == 0 {
		p.stops = p.spent
	}
	return p.spent - p.stops
}

// admit asks for permission to go on with the step. Time stands still until it is given.
func (p *permittedTime) admit(ctx context.Context) error {
	p.stop()
	// The slot is that of the step, which gives it back at its end.
	_, err := p.gate.admit(ctx, p.action)
	p.add()
	return err
}

// poll calls done until it says true or fails, or the context ends. Done is told whether the time of the step is up.
func (p *permittedTime) poll(ctx context.Context, within time.Duration, done func(ctx context.Context, late bool) (bool, error)) error {
	return p.scene.poll(ctx, func(ctx context.Context) (bool, error) {
		late, err := p.look(ctx, within)
		if err != nil {
			return false, err
		}
		return done(ctx, late)
	})
}

// watch is poll for a step that only looks. While Aegis may do nothing on the node, it goes on looking and its time stands still.
func (p *permittedTime) watch(ctx context.Context, within time.Duration, done func(ctx context.Context, late bool) (bool, error)) error {
	return p.scene.poll(ctx, func(ctx context.Context) (bool, error) {
		held := p.gate.standing()
		if held.Name == policy.VerdictUnknownCondition {
			return false, &heldError{held}
		}
		if held.Name != "" {
			p.stop()
			if err := p.tell(ctx, held); err != nil {
				return false, err
			}
			return done(ctx, false)
		}
		late, err := p.look(ctx, within)
		if err != nil {
			return false, err
		}
		return done(ctx, late)
	})
}

// tell says on the ticket why the step waits.
func (p *permittedTime) tell(ctx context.Context, v policy.Verdict) error {
	p.told = true
	return gone(ctx, p.gate.tellHold(ctx, v))
}

// unverifiable lets no time pass while the sources give no answer, and says so on the ticket, unless something else is told already.
func (p *permittedTime) unverifiable(ctx context.Context, f prom.Finding) error {
	p.skip()
	if p.told {
		return nil
	}
	return p.tell(ctx, policy.Verdict{Name: policy.VerdictUnverifiable, Reason: policy.Judge(f).Reason})
}

// tellJob says on the ticket what the Job of the step waits for.
func (p *permittedTime) tellJob(ctx context.Context, why string) error {
	p.told = true
	return gone(ctx, p.gate.note(ctx, "job", why))
}

// look adds the time up, journals it once that is due, and says whether it is up.
func (p *permittedTime) look(ctx context.Context, within time.Duration) (late bool, err error) {
	p.add()
	over := !p.told
	p.told = false
	return p.spent >= within, p.keep(ctx, within, over)
}

// keep journals the time once it differs by enough from what the ticket says, and takes away the reason for a wait that is over.
func (p *permittedTime) keep(ctx context.Context, within time.Duration, over bool) error {
	t := p.journal.ticket()
	over = over && t != nil && t.Hold != ""
	if t == nil || !over && (p.spent-p.kept).Abs() < p.due(within) {
		return nil
	}
	err := p.write(ctx, over)
	if gone(ctx, err) != nil {
		return err
	}
	if err != nil {
		p.logger.DebugContext(ctx, "time of the step not journaled, trying again", "err", err)
	}
	return nil
}

// due returns by how much the time may differ from what the ticket says.
func (p *permittedTime) due(within time.Duration) time.Duration {
	share := max(within/spentShare, time.Second)
	switch {
	case p.nears:
		return max(journalSpent, share)
	case p.resumed:
		return min(journalSpent, share, resumedSpent)
	}
	return min(journalSpent, share)
}

// write journals the time of the step.
func (p *permittedTime) write(ctx context.Context, over bool) error {
	err := p.journal.update(ctx, func(t *ticket.Ticket, _ ticket.Record, _ *ticket.Change) error {
		if over {
			t.Hold = ""
		}
		p.enter(t)
		return nil
	})
	if err == nil {
		p.kept, p.resumed = p.spent, false
	}
	return err
}

// enter puts the time on the ticket.
func (p *permittedTime) enter(t *ticket.Ticket) { t.Spend(p.action, p.n, p.spent) }
