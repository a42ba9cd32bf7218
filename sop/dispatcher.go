package sop

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/utils/clock"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// ExhaustedSOP names the procedure for a node that has used up its reboots.
const ExhaustedSOP = "node/attempts-exhausted"

const (
	// These teams take over what is not a matter of the condition's own team.
	teamKubernetes = "k8s"
	teamHost       = "host"
	teamGPU        = "gpu"
	teamNetwork    = "network"
	teamStorage    = "storage"
)

// teams returns the teams that take tickets over whatever the condition is.
func teams() []string { return []string{teamGPU, teamNetwork, teamStorage, teamHost, teamKubernetes} }

// Queue hands out the nodes on which something is to be decided, the most urgent first, one to one taker at a time.
type Queue interface {
	Conditions
	// Next waits for a node that is due.
	Next(ctx context.Context) (node string, statuses []prom.AegisNodeStatus, err error)
	// Done gives the node back. It is due again after that time, or, if that is zero, when something changes.
	Done(node string, after time.Duration)
	// Enqueue makes the node due.
	Enqueue(node string)
	// Subscribe has the function told of each node whose conditions have changed. It must not call the queue.
	Subscribe(changed func(node string))
}

// Catalogue knows the conditions.
type Catalogue interface {
	// Status returns a condition on a node and device. The code says which XID it is about, 0 that it is the only one, or none.
	Status(node, condition, device string, xid int) prom.AegisNodeStatus
	// InhibitedBy returns what says in words which of the conditions of one node explains a status of it. Empty means that none does.
	InhibitedBy(now time.Time, statuses []prom.AegisNodeStatus) func(prom.AegisNodeStatus) string
}

// Dispatcher decides on the conditions of one node after the other and runs one procedure per node at a time.
type Dispatcher struct {
	services  environment
	queue     Queue
	catalogue Catalogue
	table     Procedures
	storms    *stormWatch
	running   sync.WaitGroup
	// ordered wakes whoever looks after the orders.
	ordered chan struct{}
	// busy is since when it has not asked for the next node, in nanoseconds. 0 while it waits for one, or does not run.
	busy atomic.Int64

	*ownWrites
	requests sights

	mu sync.Mutex
	// active ends the procedures that run, by node.
	active map[string]context.CancelCauseFunc
}

// NewDispatcher returns a dispatcher that runs the procedures.
func NewDispatcher(s Services, q Queue, c Catalogue, t Procedures) *Dispatcher {
	s.Clock = cmp.Or[clock.WithTicker](s.Clock, clock.RealClock{})
	s.Logger = cmp.Or(s.Logger, slog.New(slog.DiscardHandler)).With("component", "sop")
	s = s.renamed(c)
	census := newCensus(s.Nodes, s.Tickets, s.Settings)
	storms := newStormWatch(s, namesOf(c), census)
	written := newOwnWrites(census.wrote)
	return &Dispatcher{
		services: environment{
			Services: s, catalogue: c, table: t, storms: storms,
			isolation: newCordonPriority(s.Clock), census: census, wrote: written.wrote,
			limits: newLimits(s, census, func(node string) { q.Enqueue(node) }),
		},
		queue: q, catalogue: c, table: t, storms: storms, ownWrites: written,
		ordered: make(chan struct{}, 1), active: make(map[string]context.CancelCauseFunc),
	}
}

// Run works until the context ends, and returns when all procedures have stopped. What a procedure had begun stays in the
// journal of its ticket for the next one to resume.
func (d *Dispatcher) Run(ctx context.Context) error {
	d.asks(false)
	defer d.asks(true)
	defer d.storms.forget()
	defer d.running.Wait()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if err := d.learnOrders(ctx); err != nil {
		return err
	}
	if err := d.services.census.load(); err != nil {
		return fmt.Errorf("count the nodes: %w", err)
	}
	d.queue.Subscribe(d.storms.stir)
	d.storms.learn()
	d.part(ctx, cancel, "orders", d.keepOrders)
	d.part(ctx, cancel, "marks", d.keepMarks)
	d.services.limits.start(d.mayWait)
	defer d.services.limits.stop()
	d.part(ctx, cancel, "turns", d.keepTurns)
	for {
		d.asks(true)
		node, statuses, err := d.queue.Next(ctx)
		d.asks(false)
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("take the next node: %w", err)
		}
		d.visit(ctx, node, statuses)
	}
}

// asks notes whether the dispatcher asks for the next node, or works on something else.
func (d *Dispatcher) asks(next bool) {
	if next {
		d.busy.Store(0)
		return
	}
	d.busy.Store(d.services.Clock.Now().UnixNano())
}

// Busy returns since when the dispatcher has not asked for the next node although it runs. It takes no lock: one that is never given back
// does not hide itself.
func (d *Dispatcher) Busy() (since time.Time, busy bool) {
	at := d.busy.Load()
	return time.Unix(0, at), at != 0
}

// part runs a part of the dispatcher beside the visits. Whatever ends it before the context does, a panic included, ends all of them.
func (d *Dispatcher) part(ctx context.Context, end context.CancelCauseFunc, name string, work func(context.Context) error) {
	d.running.Go(func() {
		err := fmt.Errorf("%w: its part %s ended", ErrStopping, name)
		defer func() {
			if p := recover(); p != nil {
				d.services.Logger.ErrorContext(ctx, "part of the dispatcher panicked", "part", name, "panic", p, "stack", string(debug.Stack()))
				err = fmt.Errorf("%w: its part %s panicked: %v", ErrStopping, name, p)
			}
			end(err)
		}()
		if ended := work(ctx); ended != nil {
			err = ended
		}
	})
}

// visit decides on everything that holds on the node. What takes time runs on a goroutine that gives the node back.
func (d *Dispatcher) visit(ctx context.Context, name string, statuses []prom.AegisNodeStatus) {
	defer d.survive(ctx, name, func() { d.queue.Done(name, d.services.Timing.Hold) })
	node, err := d.services.Nodes.Get(name)
	if err != nil && !apierrors.IsNotFound(err) {
		d.services.Logger.ErrorContext(ctx, "node not read from the cache", "node", name, "err", err)
		d.queue.Done(name, d.services.Timing.Hold)
		return
	}
	if node == nil {
		d.forget(name)
		d.services.limits.stepBack(name, policy.Limits()...)
		gone := slices.Repeat([]policy.Verdict{policy.Decide(policy.Situation{})}, len(statuses))
		d.judgeAll(name, statuses, gone, nil)
		d.queue.Done(name, d.requeueAfter(gone))
		return
	}
	node = d.latest(node)
	d.storms.look()
	record := d.services.Tickets.Read(node)
	cleanup := d.cleanup(node, record, statuses)
	if cleanup != nil && cleanup.absent == nil {
		d.spawn(ctx, name, func() time.Duration { return d.maintain(ctx, node, cleanup, statuses) })
		return
	}
	statuses = d.withRequest(node, record, d.services.Orders.Last().ApplyAll(d.withTicket(record, statuses)))
	statuses = d.withLeft(record, statuses)
	candidates, verdicts, waits := d.choose(node, record, statuses)
	d.judgeAll(name, statuses, verdicts, candidates)
	switch {
	case len(candidates) == 0 && cleanup != nil:
		// A note whose end nobody sees keeps nothing else waiting.
		d.spawn(ctx, name, func() time.Duration { return d.maintain(ctx, node, cleanup, nil) })
		return
	case len(candidates) == 0:
		d.queue.Done(name, d.requeueAfter(verdicts))
		return
	}
	visit := &visit{dispatcher: d, record: record, statuses: statuses, verdicts: verdicts, candidates: candidates, waits: waits}
	d.spawn(ctx, name, func() time.Duration { return visit.run(ctx) })
}

// Node returns the node as it was last seen or written here.
func (d *Dispatcher) Node(name string) (*corev1.Node, error) {
	node, err := d.services.Nodes.Get(name)
	if err != nil {
		return nil, err
	}
	return d.latest(node), nil
}

// Held returns the nodes whose place in the budget is reserved by a procedure that runs, and those on which a destructive step of
// this process is in flight, each sorted.
func (d *Dispatcher) Held() (reserved, inFlight []string) { return d.services.limits.held() }

// spawn works on the node until the function returns after which time the node is due again.
func (d *Dispatcher) spawn(ctx context.Context, node string, work func() time.Duration) {
	d.running.Go(func() {
		after := d.services.Timing.Hold
		defer func() { d.queue.Done(node, after) }()
		defer d.survive(ctx, node, func() {})
		after = work()
	})
}

// survive has a panic that one node causes concern that node alone, which is looked at again later. Whatever is on the node would else
// keep all others from being decided on, under every leader anew.
func (d *Dispatcher) survive(ctx context.Context, node string, after func()) {
	p := recover()
	if p == nil {
		return
	}
	defer after()
	d.services.Logger.ErrorContext(ctx, "decision panicked, trying again later", "node", node, "panic", p, "stack", string(debug.Stack()))
	if object, err := d.services.Nodes.Get(node); err == nil {
		d.services.Recorder.Eventf(nodeReference(object), corev1.EventTypeWarning, "AegisFault", "Aegis has a fault, and decides nothing on this node: %v", p)
	}
}

// withTicket adds the condition of the own open ticket, should no alert report it any more: the incident has to be ended.
func (d *Dispatcher) withTicket(r ticket.Record, statuses []prom.AegisNodeStatus) []prom.AegisNodeStatus {
	t := r.Ticket
	if t == nil || !t.Open() || !t.Owned() {
		return statuses
	}
	has := func(s prom.AegisNodeStatus) bool { return s.Condition == t.Condition && s.ID == t.Device }
	if slices.ContainsFunc(statuses, has) {
		return statuses
	}
	status := d.catalogue.Status(r.Node.Name, t.Condition, t.Device, t.XID)
	status.Origin, status.Source = prom.OriginTicket, t.Source
	status.FirstSeen = t.CreatedAt
	status.Msg = t.Reason
	return append(slices.Clip(statuses), status)
}

// nothing is the index of no condition.
const nothing = -1

// choose decides on each condition and returns the ones whose procedure may run, in order of urgency, and the one for which the node
// waits in the list of the budget. A node that none of them needs a place in the budget for lets others go first. Nor does one wait for a
// condition that the sources are likely to refuse: they are asked before there is room, so that it keeps no place from those who can use it.
func (d *Dispatcher) choose(node *corev1.Node, r ticket.Record, statuses []prom.AegisNodeStatus) (candidates []int, verdicts []policy.Verdict, waits int) {
	verdicts, waits = make([]policy.Verdict, len(statuses)), nothing
	survey := d.survey(node, r, statuses)
	for i, status := range statuses {
		verdicts[i] = d.decide(survey.situation(status), func(would bool) string {
			first := would && waits == nothing
			if first && !d.promising(status) {
				return ""
			}
			if first {
				waits = i
			}
			return d.services.limits.vacancy(policy.ClaimOf(status), first)
		})
		if runs(verdicts[i]) {
			candidates = append(candidates, i)
		}
	}
	if len(candidates) == 0 {
		idle := policy.Limits()
		if waits != nothing {
			idle = []policy.Limit{policy.LimitDestructive}
		}
		d.services.limits.stepBack(node.Name, idle...)
	}
	return candidates, verdicts, waits
}

// promising reports whether the sources, when they last spoke, had nothing against a repair, or gave no answer.
func (d *Dispatcher) promising(s prom.AegisNodeStatus) bool {
	last := policy.Judge(d.services.Source.Last(s.Key())).Name
	return last == policy.VerdictExecute || last == policy.VerdictUnverifiable
}

// decide decides on a condition. It asks for room where the verdict depends on it, and says whether the procedure would run if there is.
func (d *Dispatcher) decide(s policy.Situation, room func(would bool) string) policy.Verdict {
	s.Room = new("")
	free := policy.Decide(s)
	s.Room = new("none")
	if policy.Decide(s).Name != policy.VerdictBudget {
		return free
	}
	s.Room = new(room(runs(free)))
	return policy.Decide(s)
}

// consider decides on a condition that is not to be acted on now.
func (d *Dispatcher) consider(s policy.Situation) policy.Verdict {
	return d.decide(s, func(bool) string { return d.services.limits.vacancy(policy.ClaimOf(s.Status), false) })
}

// survey is a node and what holds on it, as the decisions on all of its conditions share it: there may be thousands, and they are decided on
// one after the other.
type survey struct {
	dispatcher  *Dispatcher
	now         time.Time
	node        *corev1.Node
	record      ticket.Record
	settings    policy.Settings
	orders      policy.Orders
	urgent      policy.Urgent
	inhibitedBy func(prom.AegisNodeStatus) string
	check       policy.CheckRequest
	pool        string
}

// survey sums up what is known for the decisions on the conditions.
func (d *Dispatcher) survey(node *corev1.Node, r ticket.Record, statuses []prom.AegisNodeStatus) *survey {
	now, settings := d.services.Clock.Now(), d.services.Settings()
	s := &survey{
		dispatcher: d, now: now, node: node, record: r, settings: settings, orders: d.services.Orders.Last(),
		urgent: policy.UrgentOf(statuses), inhibitedBy: d.catalogue.InhibitedBy(now, statuses),
	}
	s.check, _ = settings.CheckRequestOf(node)
	if node != nil {
		s.pool = settings.PoolOf(node).Name
	}
	return s
}

// situation sums up what is known for a decision on one of the conditions, but for the room that there is.
func (s *survey) situation(status prom.AegisNodeStatus) policy.Situation {
	d, t := s.dispatcher, s.record.Ticket
	procedure := policy.ProcedureOf(status, t)
	_, hasSOP := d.table.Lookup(procedure)
	return policy.Situation{
		Now:          s.now,
		Node:         s.node,
		Record:       s.record,
		Status:       status,
		Urgent:       s.urgent,
		HasSOP:       hasSOP,
		OnlyNotifies: onlyNotifies(d.table, procedure),
		Note:         d.givesWay(t, status) || d.givesWayToCheck(t, status),
		Check:        s.check,
		Lent:         lentTo(t),
		Inhibited:    s.inhibitedBy(status),
		Settings:     s.settings,
		Orders:       &s.orders,
		Storm:        d.storms.holds(status.Condition, s.pool),
	}
}

// givesWay reports whether the ticket only told people about another condition than the status. A cable that somebody is to look
// at keeps no GPU from being repaired.
func (d *Dispatcher) givesWay(t *ticket.Ticket, s prom.AegisNodeStatus) bool {
	return t != nil && t.Open() && (t.Condition != s.Condition || t.Device != s.ID) && d.isNote(t)
}

// isNote reports whether the ticket is as Aegis left it with the team that it told.
func (d *Dispatcher) isNote(t *ticket.Ticket) bool {
	return noted(t, d.catalogue.Status("", t.Condition, "", 0).Policy.Team)
}

// runs reports whether the verdict has a procedure run: the condition's own, or the one that ends its attempts.
func runs(v policy.Verdict) bool {
	return v.Name == policy.VerdictExecute || v.Name == policy.VerdictAttemptsExhausted
}

// judgeAll enters the verdicts into the verdict cache and tells people about those that are new. The candidates' own are told once the
// sources have been asked.
func (d *Dispatcher) judgeAll(node string, statuses []prom.AegisNodeStatus, verdicts []policy.Verdict, candidates []int) {
	keys := make([]prom.Key, 0, len(statuses))
	for i, s := range statuses {
		keys = append(keys, s.Key())
		if _, runs := slices.BinarySearch(candidates, i); !runs {
			d.tell(s, verdicts[i])
		}
	}
	d.services.Verdicts.Keep(node, keys)
}

// tell enters one verdict, and makes an Event of it when it is another one than before.
func (d *Dispatcher) tell(s prom.AegisNodeStatus, v policy.Verdict) { d.services.tell(s, v) }

func (e environment) tell(s prom.AegisNodeStatus, v policy.Verdict) {
	if !e.Verdicts.Set(s.Key(), v) {
		return
	}
	e.Logger.Info("verdict", "node", s.Node, "condition", s.Condition, "device", s.ID, "verdict", v.Name, "reason", v.Reason)
	if v.Name == policy.VerdictExecute || v.Name == policy.VerdictStorm {
		// The steps have Events of their own, and a storm has one for all nodes.
		return
	}
	node, err := e.Nodes.Get(s.Node)
	if err != nil {
		return
	}
	kind := corev1.EventTypeNormal
	if v.Name == policy.VerdictError {
		kind = corev1.EventTypeWarning
	}
	e.Recorder.Eventf(nodeReference(node), kind, "AegisVerdict", "%s: %s: %s", s.Condition, v.Name, v.Reason)
}

// maxErrorRunes bounds what is told of an error: that of an API server may quote the whole of what it refuses.
const maxErrorRunes = 256

// errorVerdict says that a procedure is tried again because of an error.
func errorVerdict(err error) policy.Verdict {
	return policy.Verdict{Name: policy.VerdictError, Reason: "Aegis tries again: " + ticket.Clip(err.Error(), maxErrorRunes)}
}

// requeueAfter returns when a node without a procedure is looked at again. Verdicts that only a change can change wait for it.
func (d *Dispatcher) requeueAfter(verdicts []policy.Verdict) time.Duration {
	for _, v := range verdicts {
		switch v.Name {
		case policy.VerdictIgnored, policy.VerdictObserve, policy.VerdictUnknownCondition, policy.VerdictNoSOP, policy.VerdictControlPlane:
		default:
			return d.services.Timing.Hold
		}
	}
	return 0
}

// visit is one look at a node on which a procedure may run.
type visit struct {
	dispatcher *Dispatcher
	record     ticket.Record
	statuses   []prom.AegisNodeStatus
	verdicts   []policy.Verdict
	// candidates are the conditions whose procedures may run, in order of urgency.
	candidates []int
	// waits is the condition for which the node waits in the list of the budget.
	waits int
}

// run runs the procedure of the first condition that its sources confirm, and returns after which time the node is to be looked
// at again. A condition that they do not confirm, or whose procedure may not begin, stands in nobody's way. One answer of the sources serves
// all candidates: fifty devices do not wait for fifty passes.
func (v *visit) run(ctx context.Context) time.Duration {
	asked := v.dispatcher.services.Clock.Now()
	for i, c := range v.candidates {
		if isRequest(v.statuses[c]) {
			return v.dispatcher.takeUp(ctx, v.record.Node, v.statuses[c])
		}
		r := &run{
			dispatcher: v.dispatcher, status: v.statuses[c], record: v.record, verdict: v.verdicts[c],
			begun: func() { v.begun(i) }, waitsForOther: v.waits != nothing && v.waits != c,
			asked: asked,
		}
		if after, refused := r.do(ctx); !refused {
			return after
		}
	}
	return v.dispatcher.services.Timing.Hold
}

// begun tells which procedure runs, and that the less urgent ones wait for it. One that is held before it can do anything does not
// get there, so that its verdict stays what it was.
func (v *visit) begun(chosen int) {
	first := v.candidates[chosen]
	v.dispatcher.tell(v.statuses[first], v.verdicts[first])
	for _, c := range v.candidates[chosen+1:] {
		v.dispatcher.tell(v.statuses[c], policy.Verdict{Name: policy.VerdictInProgress, Reason: v.statuses[first].Condition + " is being worked on"})
	}
}

// run is one run of a procedure on one node.
type run struct {
	dispatcher *Dispatcher
	status     prom.AegisNodeStatus
	record     ticket.Record
	verdict    policy.Verdict
	// begun is called when the procedure begins or goes on with its first step.
	begun func()
	// waitsForOther says that the node waits in the list of the budget for another condition.
	waitsForOther bool
	// asked is when the visit began to ask the sources about its candidates.
	asked time.Time
}

// do runs the procedure and returns after which time the node is to be looked at again, or that it was refused.
func (r *run) do(ctx context.Context) (after time.Duration, refused bool) {
	d := r.dispatcher
	runCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	a := r.assignment()
	defer a.hooks.settled()
	bridge := newBridge(d.services, a)
	var err error
	defer func() {
		last := bridge.journal.record.Node
		d.wrote(last)
		d.services.limits.release(r.status.Node, last.Spec.Unschedulable)
		d.services.limits.stepBack(r.status.Node, r.idle(err)...)
	}()
	leave := d.enter(r.status.Node, cancel)
	defer leave()
	watch := sync.WaitGroup{}
	watch.Go(func() {
		defer d.survive(ctx, r.status.Node, func() { cancel(fmt.Errorf("%w: its watch panicked", ErrStopping)) })
		d.watch(runCtx, bridge.scene, cancel)
	})
	d.services.Metrics.sop(sopStarted)
	d.services.expect(r.status, r.sopName())
	err = r.execute(runCtx, bridge)
	if err != nil && runCtx.Err() != nil {
		err = context.Cause(runCtx)
	}
	cancel(nil)
	watch.Wait()
	var held *heldError
	switch {
	case errors.Is(err, errRefused):
		r.refused(bridge.gate.refusal)
		return 0, true
	case errors.As(err, &held) && !bridge.journal.opened():
		if why := bridge.journal.refusal; why != nil {
			// What was known when the write was begun is old by now, and not why nothing has begun.
			held.verdict = errorVerdict(why)
		}
		r.refused(held.verdict)
		return 0, true
	}
	return r.settle(ctx, bridge, err), false
}

// waitsForRoom reports whether the run ended because a limit has no place for it.
func waitsForRoom(err error) bool {
	var held *heldError
	return errors.As(err, &held) && held.verdict.Name == policy.VerdictBudget
}

// idle returns the limits that the node waits for no longer once the run has ended so. One that is refused takes the node out of no list
// that it is in for another condition.
func (r *run) idle(err error) []policy.Limit {
	var held *heldError
	switch {
	case waitsForRoom(err):
		return nil
	case r.waitsForOther && (errors.Is(err, errRefused) || errors.As(err, &held)):
		return []policy.Limit{policy.LimitDestructive}
	}
	return policy.Limits()
}

// refused tells why the procedure does not begin.
func (r *run) refused(v policy.Verdict) {
	r.dispatcher.services.Metrics.sop(sopRefused)
	r.dispatcher.tell(r.status, v)
}

// assignment returns what the procedure is to do. An incident that is new takes its turn among those that isolate a node.
func (r *run) assignment() assignment {
	d, t := r.dispatcher, r.record.Ticket
	a := assignment{
		status: r.status, record: r.record, incident: r.incident(), asked: r.asked,
		hooks: hooks{begun: sync.OnceFunc(r.begun), settled: func() {}},
	}
	if d.givesWay(t, r.status) {
		a.note = t.ID
	}
	if t == nil || t.ID != a.incident.id {
		a.hooks.settled = d.services.isolation.enter()
	}
	return a
}

// incident returns the incident of the open ticket, or a new one.
func (r *run) incident() incident {
	if t := r.record.Ticket; t != nil && t.Open() && !r.dispatcher.givesWay(t, r.status) {
		return incidentOf(t)
	}
	incident := r.dispatcher.newIncident(r.status, r.sopName(), string(r.status.Origin))
	if r.verdict.Name == policy.VerdictAttemptsExhausted {
		incident.reason = r.verdict.Reason
	}
	return incident
}

func (d *Dispatcher) newIncident(s prom.AegisNodeStatus, sop, origin string) incident {
	return incident{
		startsAt:  startOf(s, d.services.Clock.Now()),
		id:        ticket.NewID(d.services.Clock.Now()),
		condition: s.Condition,
		device:    s.ID,
		sop:       sop,
		origin:    origin,
		source:    s.Source,
		reason:    s.Msg,
		xid:       s.XID.Code,
	}
}

// startOf returns when the alert of the status began. No clock is a day ahead, and no alert older than the clocks of computers.
func startOf(s prom.AegisNodeStatus, now time.Time) time.Time {
	if len(s.Alerts) == 0 || s.FirstSeen.Unix() <= 0 || s.FirstSeen.After(now.Add(24*time.Hour)) {
		return time.Time{}
	}
	return s.FirstSeen
}

func (r *run) sopName() string {
	t := r.record.Ticket
	begun := t != nil && t.Open() && t.Condition == r.status.Condition && t.Device == r.status.ID
	_, rare := policy.Seldom(r.dispatcher.services.Clock.Now(), r.record.History, r.status)
	switch {
	case r.verdict.Name == policy.VerdictAttemptsExhausted:
		return ExhaustedSOP
	case rare && !begun:
		return policy.NoteSOP
	}
	return policy.ProcedureOf(r.status, t)
}

// orphanError ends an incident that nobody says any more how to repair.
type orphanError struct{ team, why string }

func (e *orphanError) Error() string { return e.why }

// errRemoved ends an incident whose condition has been removed from the catalogue, and its team and its deadlines with it.
func errRemoved(s prom.AegisNodeStatus) *orphanError {
	return &orphanError{team: teamHost, why: fmt.Sprintf("no catalogue names the condition %s any more", s.Condition)}
}

// unknown reports whether no catalogue names the condition.
func unknown(s prom.AegisNodeStatus) bool { return s.Policy.Mode == "" }

// errRefused says that Evaluate found no reason to act, or no permission.
var errRefused = errors.New("not confirmed")

// execute runs the procedure. A procedure that panics has a fault that a person has to look at, and so has its node.
func (r *run) execute(ctx context.Context, b *ApiBridge) (err error) {
	defer func() {
		if p := recover(); p != nil {
			b.logger.ErrorContext(ctx, "procedure panicked", "panic", p, "stack", string(debug.Stack()))
			err = &StepError{Action: "procedure", Status: ticket.Failed, Message: fmt.Sprintf("Aegis has a fault: %v", p)}
		}
	}()
	factory, found := r.dispatcher.table.Lookup(r.sopName())
	switch {
	case b.journal.opened() && unknown(r.status):
		return errRemoved(r.status)
	case b.journal.opened() && !found:
		return &orphanError{team: r.status.Policy.Team, why: fmt.Sprintf("there is no procedure %q any more", r.sopName())}
	case !found:
		return fmt.Errorf("there is no procedure %q", r.sopName())
	}
	sop := factory()
	if err := sop.CreateInstance(ctx, b); err != nil {
		return fmt.Errorf("create procedure %s: %w", r.sopName(), err)
	}
	status := r.status.Clone()
	if !sop.Evaluate(ctx, r.status.Node, &status) {
		return errRefused
	}
	return sop.Execute(ctx, r.status.Node, &status)
}

// settle draws the consequence of how the procedure ended, and returns when the node is looked at again.
func (r *run) settle(ctx context.Context, b *ApiBridge, err error) time.Duration {
	d := r.dispatcher
	var held *heldError
	var preempted *preemptedError
	var reopened *reopenedError
	failure, isStep := AsStepError(err)
	if o := r.orphaned(err); o != nil && ctx.Err() == nil {
		return r.handOver(ctx, b, o.team, o.why)
	}
	switch {
	case stopping(ctx, err):
		// Not zero: should this process lead again, the node has to be looked at even if nothing changes on it.
		d.services.Metrics.sop(sopInterrupted)
	case errors.Is(err, ErrTakenOver):
		d.services.Metrics.sop(sopTakenOver)
		d.tell(r.status, policy.Verdict{Name: policy.VerdictHumanOwned, Reason: err.Error()})
	case errors.Is(err, ErrLeaseLost):
		d.services.Metrics.sop(sopInterrupted)
		b.logger.WarnContext(ctx, "procedure stopped", "err", err)
		d.followOrders() // Who finds it out first has all work end.
	case errors.As(err, &preempted):
		return r.preempted(ctx, b, preempted)
	case errors.Is(err, errRenamed), errors.Is(err, errDecidedLongAgo), errors.As(err, &reopened):
		d.services.Metrics.sop(sopPreempted)
		d.queue.Enqueue(b.node)
	case errors.As(err, &held):
		return r.held(ctx, b, held.verdict)
	case errors.Is(err, ticket.ErrNodeGone), errors.Is(err, ticket.ErrRecreated):
		d.services.Metrics.sop(sopInterrupted)
		d.tell(r.status, policy.Verdict{Name: policy.VerdictNodeGone, Reason: err.Error()})
	case isStep:
		return r.handOver(ctx, b, teamFor(failure, b.Policy()), failure.Error())
	case errors.Is(err, errUncordoned), errors.Is(err, errUnnoted):
		return r.handOver(ctx, b, b.Policy().Team, err.Error())
	case errors.Is(err, ErrWithdrawn), errors.Is(err, errNeverBegan):
		return r.withdrawn(ctx, b)
	case err != nil:
		d.services.Metrics.sop(sopError)
		b.logger.ErrorContext(ctx, "procedure stopped, trying again", "err", err)
		d.tell(r.status, errorVerdict(err))
	case b.result == "":
		return r.handOver(ctx, b, b.Policy().Team, "the procedure ended without a result")
	default:
		return r.ended(b)
	}
	return d.services.Timing.Hold
}

// stopping reports whether the procedure stopped because this process is to work no longer.
func stopping(ctx context.Context, err error) bool {
	return ctx.Err() != nil && (interrupted(err) || interrupted(context.Cause(ctx)))
}

// orphaned says who gets a node whose repair nothing describes any more, nil when that is not why the procedure stopped.
func (r *run) orphaned(err error) *orphanError {
	var orphan *orphanError
	var held *heldError
	switch {
	case errors.As(err, &orphan):
		return orphan
	case errors.As(err, &held) && held.verdict.Name == policy.VerdictUnknownCondition:
		return errRemoved(r.status)
	}
	return nil
}

// held tells why the procedure cannot go on now. It is tried again, each time with the same reason, which is noted once.
func (r *run) held(ctx context.Context, b *ApiBridge, v policy.Verdict) time.Duration {
	// What a healthcheck has found needs no alert.
	if !b.healing() && b.gate.suspicion == "" && policy.Withdrawn(b.services.Source.Observe(ctx, r.status.Key())) {
		return r.withdrawn(ctx, b)
	}
	r.dispatcher.services.Metrics.sop(sopRefused)
	r.dispatcher.tell(r.status, v)
	b.gate.noted = b.services.Clock.Now()
	if err := b.gate.noteHold(ctx, v); err != nil && ctx.Err() == nil {
		b.logger.WarnContext(ctx, "reason for waiting not noted", "err", err)
	}
	return r.dispatcher.services.Timing.Hold
}

// teamFor returns who can help with a failed step.
func teamFor(failure *StepError, p prom.Policy) string {
	switch failure.Action {
	case ticket.Drain, ticket.DrainGPU, ticket.RestartPod:
		return teamKubernetes
	case ticket.Healthcheck:
		return teamForHardware(failure.Hardware)
	}
	return p.Team
}

// teamForHardware returns who looks after the hardware that a healthcheck has found broken. A check that could not be made names none.
func teamForHardware(hardware string) string {
	switch hardware {
	case protocol.HardwareGPU:
		return teamGPU
	case protocol.HardwareIB, protocol.HardwareNetwork:
		return teamNetwork
	case protocol.HardwareGPFS, protocol.HardwareDisk:
		return teamStorage
	}
	return teamHost
}

func (r *run) handOver(ctx context.Context, b *ApiBridge, team, why string) time.Duration {
	if err := b.HandOver(ctx, team, why); err != nil {
		return r.stopped(ctx, b, err)
	}
	return r.ended(b)
}

// preempted goes on with the more urgent condition on the same ticket.
func (r *run) preempted(ctx context.Context, b *ApiBridge, e *preemptedError) time.Duration {
	d := r.dispatcher
	err := b.journal.yield(ctx, e)
	if err != nil && !errors.Is(err, errNothingToDo) {
		return r.stopped(ctx, b, err)
	}
	d.services.Metrics.sop(sopPreempted)
	b.logger.InfoContext(ctx, "procedure preempted", "reason", e.Error(), "yielded", err == nil)
	if err == nil {
		b.event(corev1.EventTypeNormal, "AegisPreempted", "%s: %s", b.status.Condition, e.Error())
	}
	d.queue.Enqueue(b.node)
	return d.services.Timing.Hold
}

// withdrawn ends an incident that went away before anything was done to the node that would have to be undone.
func (r *run) withdrawn(ctx context.Context, b *ApiBridge) time.Duration {
	if !b.journal.opened() {
		return r.dispatcher.services.Timing.Hold
	}
	if b.journal.isolated() {
		return r.handOver(ctx, b, b.Policy().Team, "the condition went away, and the procedure does not say how to return the node")
	}
	if err := b.Resolve(ctx); err != nil {
		return r.stopped(ctx, b, err)
	}
	return r.ended(b)
}

// stopped is the end of a run whose last word could not be written. It is tried again from the top.
func (r *run) stopped(ctx context.Context, b *ApiBridge, err error) time.Duration {
	d := r.dispatcher
	if errors.Is(err, ErrTakenOver) {
		d.services.Metrics.sop(sopTakenOver)
		d.tell(r.status, policy.Verdict{Name: policy.VerdictHumanOwned, Reason: err.Error()})
		return d.services.Timing.Hold
	}
	d.services.Metrics.sop(sopInterrupted)
	if !interrupted(err) && !errors.Is(err, errDecidedLongAgo) {
		b.logger.ErrorContext(ctx, "incident not closed, trying again", "err", err)
		d.tell(r.status, errorVerdict(err))
	}
	return d.services.Timing.Hold
}

func (r *run) ended(b *ApiBridge) time.Duration {
	d := r.dispatcher
	if b.result == ticket.Resolved || b.result == ticket.Noted || b.result == ticket.Passed {
		d.services.Metrics.sop(sopSucceeded)
	} else {
		d.services.Metrics.sop(sopHandedOver)
	}
	return d.services.Timing.Hold
}
