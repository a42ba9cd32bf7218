package sop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// Source answers whether a condition still holds and may be acted on.
type Source interface {
	// Observe asks now: the answer is never older than the question.
	Observe(ctx context.Context, key prom.Key) prom.Finding
	// Last returns the last answer, which may be of any age.
	Last(key prom.Key) prom.Finding
}

// JobRunner runs privileged operations on nodes.
type JobRunner interface {
	Ensure(ctx context.Context, r jobs.Request) (name string, created bool, err error)
	Status(ctx context.Context, name string) (jobs.Result, error)
	Follow(ctx context.Context, name string) (jobs.Result, error)
}

// Conditions lists the conditions that hold on a node now, the most urgent first.
type Conditions interface {
	Statuses(node string) []prom.AegisNodeStatus
}

// Timing holds the intervals of the steps.
type Timing struct {
	// Poll is how often a running step looks whether it is done.
	Poll time.Duration
	// Hold is how often a procedure that waits for a permission asks again.
	Hold time.Duration
	// LeaseStale is the age from which the Lease of a node no longer shows that its kubelet lives.
	LeaseStale time.Duration
}

// DefaultTiming returns the intervals for a cluster of real machines.
func DefaultTiming() Timing {
	return Timing{Poll: 2 * time.Second, Hold: 10 * time.Second, LeaseStale: time.Minute}
}

// Services is what the steps work with. All fields are needed.
type Services struct {
	Kube       kubernetes.Interface
	Nodes      corelisters.NodeLister
	Tickets    *ticket.Store
	Jobs       JobRunner
	Source     Source
	Conditions Conditions
	Recorder   record.EventRecorder
	Limits     *Limits
	Orders     *OrderStore
	Book       *Book
	Settings   func() policy.Settings
	Timing     Timing
	Metrics    *Metrics
	Logger     *slog.Logger

	// NewDispatcher sets the following.
	isolation *precedence
	catalogue Catalogue
	table     Table
	storms    *stormWatch
}

// profile returns the healthcheck profile of the node.
func (s Services) profile(node string) string {
	object, err := s.Nodes.Get(node)
	if err != nil {
		return policy.DefaultPool().Profile
	}
	return s.Settings().PoolOf(object).Profile
}

// statuses returns what holds on the node, the most urgent first, each with the mode that people have ordered.
func (s Services) statuses(node string) []prom.AegisNodeStatus {
	return s.Orders.Last().ApplyAll(s.Conditions.Statuses(node))
}

// ApiBridge gives one procedure its steps on one node. Each step is journaled on the node's ticket: a step that had
// succeeded before a restart returns at once, one that had failed fails again, one that was running is adopted. A bridge
// serves one incident and one goroutine.
type ApiBridge struct { //nolint:revive // The name is part of the interface that plugins are written against.
	services Services
	node     string
	status   prom.AegisNodeStatus
	// urgency is that of the condition's band.
	urgency int
	logger  *slog.Logger
	journal *journal
	// calls counts the calls of each action in this run; a step is identified by action and number.
	calls map[ticket.Action]int
	// drained is set once the workload is gone as the policy wants it.
	drained bool
	// interruptible is true while the run may be left for something more urgent.
	interruptible atomic.Bool
	// keeps is true while the incident has the node cordoned.
	keeps atomic.Bool
	// checked is true while the last healthcheck passed and nothing destructive was done since.
	checked bool
	// booted is the boot ID of a boot that was none of ours, once one was seen.
	booted string
	// leaseSeen is since when the Lease of the node shows the renewal leaseRenewed.
	leaseSeen, leaseRenewed time.Time
	// suspicion is why the node is sick although its alert may be silent: a check of ours failed.
	suspicion string
	// noted is when the ticket was last told in new words why it waits.
	noted time.Time
	// confirmed is when Confirm asked the sources.
	confirmed time.Time
	// refusal is why Confirm said no.
	refusal policy.Verdict
	// begun is called when the first step of the run begins or is adopted.
	begun func()
	// settled is called once the node is cordoned, or another step begins: then nobody has to give way to it any more.
	settled func()
	// result is how the incident ended. Empty while it has not.
	result string
	// plan collects the steps instead of carrying them out. Nil when they are carried out.
	plan *[]string
}

// newBridge returns a bridge for the incident. The record is the node as it was last seen.
func newBridge(s Services, status prom.AegisNodeStatus, record ticket.Record, incident incident) *ApiBridge {
	b := &ApiBridge{
		services: s,
		node:     status.Node,
		status:   status,
		urgency:  urgencyOf(status),
		logger:   s.Logger.With("node", status.Node, "condition", status.Condition, "ticket", incident.id),
		journal:  &journal{store: s.Tickets, node: status.Node, incident: incident, record: record},
		calls:    make(map[ticket.Action]int),
		settled:  func() {},
		begun:    func() {},
	}
	if t := b.journal.ticket(); t != nil {
		maps.Copy(b.calls, t.Past)
		if t.Origin == originHealthcheck {
			b.suspicion = t.Reason
		}
	}
	b.keeps.Store(b.isolated())
	return b
}

// Node returns the name of the node.
func (b *ApiBridge) Node() string { return b.node }

// Status returns the condition that the procedure repairs.
func (b *ApiBridge) Status() prom.AegisNodeStatus { return b.status.Clone() }

// Policy returns what the procedure may do.
func (b *ApiBridge) Policy() prom.Policy { return b.status.Policy }

// Snapshot returns the node as the journal has last seen it, nil while the steps are only planned. It is read-only.
func (b *ApiBridge) Snapshot() *corev1.Node { return b.journal.record.Node }

// Logger returns the logger of the incident.
func (b *ApiBridge) Logger() *slog.Logger { return b.logger }

// healing reports whether a person or a script asked for the repair, so that no alert has to vouch for it.
func (b *ApiBridge) healing() bool { return b.journal.incident.requested() }

// call is one step as its action sees it.
type call struct {
	// n numbers the calls of the action in the incident, from 1.
	n int
	// began is when the step was journaled as Running.
	began time.Time
	// adopted is true when an earlier run began the step.
	adopted bool
	// target is the pod that the journal says that the step is applied to.
	target podTarget
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
	// prepare finds out, before the step is journaled, what exactly it is applied to. May be nil.
	prepare func(ctx context.Context) (podTarget, error)
	// act does the work, or goes on with it when adopted.
	act func(ctx context.Context, c call) (outcome, error)
}

// do carries out a step: replay, else permission, else journal, act, journal.
func (b *ApiBridge) do(ctx context.Context, s step) error {
	b.calls[s.action]++
	c := call{n: b.calls[s.action]}
	if s.action.Destructive() {
		b.checked = false
	}
	if b.plan != nil {
		*b.plan = append(*b.plan, planned(s))
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	prior, known := b.journal.outcome(s.action, c.n)
	if known && prior.Status != ticket.Running {
		return replay(s, prior)
	}
	defer b.interruptible.Store(false)
	b.interruptible.Store(!known)
	release, err := b.begin(ctx, s, &c, prior, known)
	defer release()
	switch {
	case errors.Is(err, ErrWithdrawn) && !b.journal.opened():
		return errNeverBegan
	case err != nil:
		return b.finish(ctx, s, c, outcome{}, err)
	}
	b.interruptible.Store(interruptible(s.action))
	o, err := s.act(ctx, c)
	return b.finish(ctx, s, c, o, err)
}

// begin journals the step as Running, or takes up the one that is. The returned function gives back what the step holds.
func (b *ApiBridge) begin(ctx context.Context, s step, c *call, prior ticket.Step, known bool) (func(), error) {
	if known {
		b.begun()
		c.adopted, c.began, c.target = true, prior.At, podTarget{name: prior.Pod, uid: prior.UID}
		b.logger.InfoContext(ctx, "step adopted", "action", s.action, "call", c.n)
		return b.services.Limits.adopt(b.node, s.action), nil
	}
	release := func() {}
	if s.gated {
		var err error
		if release, err = b.admit(ctx, s.action); err != nil {
			return release, err
		}
	}
	b.begun()
	admitted := time.Now()
	if s.prepare != nil {
		var err error
		if c.target, err = s.prepare(ctx); err != nil {
			return release, err
		}
	}
	b.settled()
	b.services.isolation.giveWay(ctx)
	c.began = time.Now()
	b.logger.InfoContext(ctx, "step begins", "action", s.action, "call", c.n, "detail", s.detail)
	if err := b.journal.begin(ctx, s, *c); err != nil {
		return release, err
	}
	b.interruptible.Store(interruptible(s.action))
	if s.gated && time.Since(admitted) > permissionAge {
		// The write took long; what was permitted before it may be forbidden by now. The slot is taken already.
		_, err := b.admit(ctx, s.action)
		return release, err
	}
	return release, nil
}

// finish journals how the step ended and turns the end into the step's error.
func (b *ApiBridge) finish(ctx context.Context, s step, c call, o outcome, err error) error {
	ended := ticket.Step{Action: s.action, Status: ticket.Succeeded, Message: o.message, Findings: o.findings}
	var failure *StepError
	switch {
	case err == nil:
	case errors.Is(err, ErrWithdrawn):
		ended.Status, ended.Message = ticket.Canceled, err.Error()
		o.update = b.takeBoot
	case errors.As(err, &failure):
		failure.Action = s.action
		if s.gated {
			// Canceled is how a replay knows a withdrawn condition.
			failure.Status = ticket.Failed
		}
		ended.Status, ended.Message, ended.Findings = failure.Status, failure.Message, failure.Findings
	default:
		return err
	}
	writeCtx, cancel := b.lastWrite(ctx)
	defer cancel()
	if writeErr := b.journal.finish(writeCtx, c.n, ended, o.update); writeErr != nil {
		return fmt.Errorf("journal step %s: %w", s.action, writeErr)
	}
	b.services.Metrics.step(s.action, ended.Status)
	b.logger.InfoContext(ctx, "step ended", "action", s.action, "call", c.n, "status", ended.Status, "detail", ended.Message)
	return err
}

// takeBoot makes a boot that was none of ours the one that the incident is about from here on.
func (b *ApiBridge) takeBoot(t *ticket.Ticket) {
	if b.booted != "" {
		t.BootID = b.booted
	}
}

// lastWrite returns a context in which the outcome of a step can still be written while this process stops. Once the
// lease is lost another process may be writing, so then there is none.
func (b *ApiBridge) lastWrite(ctx context.Context) (context.Context, context.CancelFunc) {
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

func planned(s step) string {
	if s.detail == "" {
		return string(s.action)
	}
	return fmt.Sprintf("%s (%s)", s.action, s.detail)
}

// liveNode reads the node from the API server, past any cache.
func (b *ApiBridge) liveNode(ctx context.Context) (*corev1.Node, error) {
	node, err := b.services.Kube.CoreV1().Nodes().Get(ctx, b.node, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, ticket.ErrNodeGone
	}
	if err != nil {
		return nil, fmt.Errorf("get node %s: %w", b.node, err)
	}
	if node.UID != b.journal.record.Node.UID {
		return nil, ticket.ErrRecreated
	}
	return node, nil
}

// poll calls done until it says true, fails, or the context ends. Errors that may pass are done's own business.
func (b *ApiBridge) poll(ctx context.Context, done func(context.Context) (bool, error)) error {
	for {
		ok, err := done(ctx)
		if ok || err != nil {
			return err
		}
		if err := sleep(ctx, b.services.Timing.Poll); err != nil {
			return err
		}
	}
}

// sleep waits and returns the cause when the context ends first.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// event tells people who look at the node what happened.
func (b *ApiBridge) event(kind, reason, format string, args ...any) {
	b.services.Recorder.Eventf(nodeReference(b.journal.record.Node), kind, reason, format, args...)
}

// nodeReference names a node in an Event, so that kubectl describe shows the Event with the node.
func nodeReference(node *corev1.Node) *corev1.ObjectReference {
	return &corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: node.Name, UID: node.UID}
}

// IsReady reports whether the kubelet says that the node can run pods.
func IsReady(node *corev1.Node) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
