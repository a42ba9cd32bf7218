package sop

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// call is one step as its action sees it.
type call struct {
	// n numbers the calls of the action in the incident, from 1.
	n int
	// began is when the step was journaled as Running, effective since when it may take effect by the journal.
	began, effective time.Time
	// resumed is true when an earlier run began the step.
	resumed bool
	// target is the pod that the journal says that the step is applied to.
	target podTarget
	// gone is that of the step.
	gone func(*corev1.Pod) bool
	// outdated is the call of the action that this one makes anew. Zero for none.
	outdated int
	// admitted is when permission was given last, in this run. Zero before that.
	admitted time.Time
	// time is for how long the step has been permitted.
	time *permittedTime
}

// outcome is how a step ended well.
type outcome struct {
	message  string
	findings ticket.Findings
	// update changes the ticket in the same write that records the outcome. May be nil.
	update func(t *ticket.Ticket)
}

// step is one action of a procedure.
type step struct {
	action ticket.Action
	// detail says in a plan and in the journal what the action is applied to.
	detail string
	// gated steps may disturb workload. They begin only when the sources permit it, and a withdrawn condition cancels them.
	gated bool
	// gone says which pods have to be gone when the step begins, whoever has drained the node and whenever. Nil asks for none.
	gone func(*corev1.Pod) bool
	// ends is true of a step that ends the incident. It is never replayed, because what has ended is not resumed.
	ends bool
	// prepare finds out, before the step is journaled, what exactly it is applied to. May be nil.
	prepare func(ctx context.Context) (podTarget, error)
	// act does the work, or goes on with it when resumed.
	act func(ctx context.Context, c call) (outcome, error)
	// write, instead of act, does the work and journals it in one write of the ticket. The number is that of the call.
	write func(ctx context.Context, n int) error
}

// executor carries out the steps of a procedure, and answers what the procedure asks between them.
type executor interface {
	execute(ctx context.Context, s step) error
	// withdraw cancels a step that was not ordered: its condition went away during the further drain that was made for it. It returns why, the
	// error of the write, or nil if the step was ordered after all and goes on.
	withdraw(ctx context.Context, action ticket.Action, why error) error
	// The answers stand for the questions of ApiBridge that have their names.
	confirm(ctx context.Context) bool
	hasCordoned() bool
	unharmed() bool
	full(ctx context.Context) (bool, error)
	vanished(ctx context.Context) bool
	rebootsLeft() bool
	recovery() prom.XIDClass
	reopen(ctx context.Context, failure *StepError) error
}

// journaled is the executor that acts. Each step is written on the ticket before it is begun, and once it has ended.
type journaled struct {
	*machine
	// calls counts the calls of each action in this run; a step is identified by action and number. Found is how many there were before it.
	calls, found map[ticket.Action]int
}

// execute carries out a step: replay, else permission, else journal, act, journal.
func (e *journaled) execute(ctx context.Context, s step) error {
	e.calls[s.action]++
	c := call{outdated: e.skipOutdated(s), gone: s.gone}
	c.n = e.calls[s.action]
	c.time = &permittedTime{scene: e.scene, action: s.action, n: c.n}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if s.ends {
		return e.writeDown(ctx, s, c.n)
	}
	prior, known := e.journal.outcome(s.action, c.n)
	switch {
	case known && prior.Status != ticket.Running:
		return replay(s, prior)
	case s.write != nil:
		return e.writeDown(ctx, s, c.n)
	}
	err := e.carryOut(ctx, s, c, prior, known)
	var occupied *occupiedError
	var unlisted *unlistedError
	if errors.As(err, &occupied) || errors.As(err, &unlisted) {
		// The same call is made again.
		e.calls[s.action]--
	}
	return err
}

// withdraw cancels the step together with its further drain. A replay passes that drain over: it is not one of the procedure's own.
func (e *journaled) withdraw(ctx context.Context, action ticket.Action, why error) error {
	n := e.calls[action] + 1
	if _, begun := e.journal.outcome(action, n); begun {
		ordered, err := e.ordered(ctx, action, n)
		if ordered || err != nil {
			return err
		}
	}
	e.calls[action] = n
	ended := ticket.Step{Action: action, Status: ticket.Canceled, Message: why.Error()}
	err := e.journal.finish(ctx, n, ended, func(t *ticket.Ticket) {
		if last := t.Workflows[len(t.Workflows)-1]; last.Action != action {
			t.Outdate(last.Action, t.Count(last.Action))
		}
	})
	if err != nil {
		return fmt.Errorf("journal step %s: %w", action, err)
	}
	e.services.Metrics.step(action, ended.Status, 0)
	e.logger.InfoContext(ctx, "step ended", "action", action, "call", n, "status", ended.Status, "detail", ended.Message)
	return why
}

// ordered reports whether the n-th call of the action has a Job. An order may have got through although its answer was lost.
func (e *journaled) ordered(ctx context.Context, action ticket.Action, n int) (bool, error) {
	operation := operationOf(action)
	request := jobs.Request{Action: operation.name, Node: e.node, Incident: e.journal.incident.id, Attempt: operation.offset + n}
	return (&operations{e.machine}).ordered(ctx, request, neverSettled)
}

// writeDown carries out a step that is one write.
func (e *journaled) writeDown(ctx context.Context, s step, n int) error {
	began := e.services.Clock.Now()
	if err := s.write(ctx, n); err != nil {
		return err
	}
	e.services.Metrics.step(s.action, ticket.Succeeded, e.services.Clock.Since(began))
	return nil
}

// carryOut begins the step or resumes the one that an earlier run began, and journals how it ends.
func (e *journaled) carryOut(ctx context.Context, s step, c call, prior ticket.Step, known bool) error {
	defer e.interruptible.Store(false)
	e.interruptible.Store(!known)
	defer func() { e.gate.during = nil }()
	release, err := e.begin(ctx, s, &c, prior, known)
	defer release()
	switch {
	case errors.Is(err, ErrWithdrawn) && !e.journal.opened():
		return errNeverBegan
	case err != nil:
		return e.finish(ctx, s, c, outcome{}, err)
	}
	e.interruptible.Store(interruptible(s.action))
	c.time.add()
	o, err := s.act(ctx, c)
	return e.finish(ctx, s, c, o, err)
}

// begin journals the step as Running, or takes up the one that is. The returned function gives back what the step holds.
func (e *journaled) begin(ctx context.Context, s step, c *call, prior ticket.Step, known bool) (func(), error) {
	if known {
		e.begun()
		c.resumed, c.began, c.effective, c.target = true, prior.At, prior.Effective(), podTarget{name: prior.Pod, uid: prior.UID}
		c.time.spent, c.time.kept = prior.Spent, prior.Spent
		c.time.resumed = true
		e.gate.during = c.time
		e.logger.InfoContext(ctx, "step resumed", "action", s.action, "call", c.n)
		return e.services.limits.resume(e.node, s.action), nil
	}
	release, err := e.permit(ctx, s, c)
	if err != nil {
		return release, err
	}
	e.begun()
	if s.prepare != nil {
		var err error
		if c.target, err = s.prepare(ctx); err != nil {
			return release, err
		}
	}
	e.settled()
	e.services.isolation.giveWay(ctx)
	c.began = e.services.Clock.Now()
	c.effective = c.began
	e.logger.InfoContext(ctx, "step begins", "action", s.action, "call", c.n, "detail", s.detail)
	if err := e.journal.begin(ctx, s, *c); err != nil {
		return release, err
	}
	e.gate.during = c.time
	e.interruptible.Store(interruptible(s.action))
	if s.gated && e.services.Clock.Since(c.admitted) > permissionAge {
		// The write took long; what was permitted before it may be forbidden by now, and workload may have come. The slot is taken already.
		_, err := e.permit(ctx, s, c)
		return release, err
	}
	return release, nil
}

// permit waits until nothing stands against the step. The returned function gives back the slot that it takes.
func (e *journaled) permit(ctx context.Context, s step, c *call) (release func(), err error) {
	var slots []func()
	release = func() {
		for _, give := range slots {
			give()
		}
	}
	if !s.gated {
		return release, nil
	}
	err = e.whileEmpty(ctx, s.gone, func(ctx context.Context) error {
		slot, err := e.gate.admit(ctx, s.action)
		slots = append(slots, slot)
		c.admitted = e.services.Clock.Now()
		return err
	})
	return release, err
}

// finish journals how the step ended and turns the end into the step's error.
func (e *journaled) finish(ctx context.Context, s step, c call, o outcome, err error) error {
	ended := ticket.Step{Action: s.action, Status: ticket.Succeeded, Message: o.message, Findings: o.findings}
	if s.action == ticket.Wait {
		// The next wait of the incident goes on with it.
		ended.Spent = c.time.spent
	}
	var failure *StepError
	switch {
	case err == nil:
	case errors.Is(err, ErrWithdrawn):
		ended.Status, ended.Message = ticket.Canceled, err.Error()
		o.update = e.takeBoot
		// The last verdict may still say what held the step.
		e.services.Verdicts.Set(e.status.Key(), policy.Verdict{Name: policy.VerdictExecute, Reason: "goes on without " + string(s.action) + ": " + err.Error()})
	case errors.As(err, &failure):
		failure.Action = s.action
		if s.gated {
			// Canceled is how a replay knows a withdrawn condition.
			failure.Status = ticket.Failed
		}
		ended.Status, ended.Message, ended.Findings = failure.Status, failure.Message, failure.Findings
	default:
		e.interrupted(ctx, c)
		return err
	}
	writeCtx, cancel := e.lastWrite(ctx)
	defer cancel()
	if writeErr := e.journal.finish(writeCtx, c.n, ended, o.update); writeErr != nil {
		return fmt.Errorf("journal step %s: %w", s.action, writeErr)
	}
	e.services.Metrics.step(s.action, ended.Status, e.services.Clock.Since(c.began))
	e.logger.InfoContext(ctx, "step ended", "action", s.action, "call", c.n, "status", ended.Status, "detail", ended.Message)
	return err
}

// interrupted journals the time of a step that the next leader goes on with. It is no failure of the step if that does not succeed.
func (e *journaled) interrupted(ctx context.Context, c call) {
	if !errors.Is(context.Cause(ctx), ErrStopping) || c.time.last.IsZero() {
		return
	}
	c.time.stop()
	writeCtx, cancel := e.lastWrite(ctx)
	defer cancel()
	if err := c.time.write(writeCtx, false); err != nil {
		e.logger.WarnContext(ctx, "time of the step not journaled", "action", c.time.action, "err", err)
	}
}

// takeBoot makes a boot that Aegis did not order the one that the incident is about from here on.
func (e *journaled) takeBoot(t *ticket.Ticket) {
	if e.gate.booted != "" {
		t.BootID = e.gate.booted
	}
}

// lastWrite returns a context in which the outcome of a step can still be written while this process stops. Once the
// lease is lost another process may be writing, so then there is none.
func (e *journaled) lastWrite(ctx context.Context) (context.Context, context.CancelFunc) {
	if errors.Is(context.Cause(ctx), ErrStopping) {
		return context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	}
	return context.WithCancel(ctx)
}

// replay returns what the finished step had returned.
func replay(s step, prior ticket.Step) error {
	switch {
	case prior.Status == ticket.Succeeded:
		return nil
	case prior.Status == ticket.Canceled && s.gated:
		return ErrWithdrawn
	default:
		return &StepError{Action: s.action, Status: prior.Status, Findings: prior.Findings, Message: prior.Message}
	}
}
