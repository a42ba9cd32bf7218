package sop_test

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/soptest"
)

const (
	// simHours is how long misfortune lasts, simDays in a large schedule, and simSettle how long the world then has to come to rest.
	simHours  = 3 * time.Hour
	simDays   = 48 * time.Hour
	simSettle = 5 * time.Hour
)

// schedule is what happens in the world, all of it drawn from the seed before anything happens.
type schedule struct {
	*cluster
	rng   *rand.Rand
	names []string
	// lasts is how long misfortune lasts.
	lasts time.Duration
	// sick are the nodes that have faults, at the time at which they get them.
	sick   []simOutbreak
	events []simEvent
	// election has room for whoever changes the leader. Time goes on for those who wait for it, as it would not at a mutex.
	election chan struct{}
	leader   *simProcess
	// background are the leaders that do not know yet that they are none.
	background sync.WaitGroup
}

// simEvent is one thing that happens. It takes the cluster's lock itself.
type simEvent struct {
	at time.Duration
	do func()
}

// simOutbreak is where and when a fault begins.
type simOutbreak struct {
	node, condition string
	at              time.Duration
}

// newSchedule draws a cluster and its misfortunes.
func newSchedule(seed uint64, verbose bool) *schedule {
	s := &schedule{
		cluster: newCluster(seed, verbose), rng: rand.New(rand.NewPCG(seed, 1)), lasts: simHours, election: make(chan struct{}, 1),
	}
	s.Weather = soptest.Weather{
		Failing: s.rng.Float64() * 0.08, Losing: s.rng.Float64() * 0.06, Slow: s.rng.Float64() * 0.04,
		Lag: time.Duration(s.rng.Int64N(int64(simMaxLag))), BadChecks: s.rng.Float64() * 0.3, BadPower: s.rng.Float64() * 0.2,
	}
	faults, mishaps := 6, 12
	if s.large = seed%simLargeEvery == 0; s.large {
		s.lasts, faults, mishaps = simDays, 40, 30
		s.drawLargeCluster()
	} else {
		s.drawNodes()
	}
	for range 1 + s.rng.IntN(faults) {
		s.drawFault()
	}
	if s.rng.IntN(5) == 0 {
		s.drawStorm()
	}
	misfortunes := []func(){
		s.drawSilence, s.drawBlindness, s.drawOutage, s.drawCrash, s.drawCrash, s.drawUpgrade, s.drawOverlap, s.drawOverlap,
		s.drawRecordon, s.drawLastMoment, s.drawCordon, s.drawUncordon, s.drawTakeOver, s.drawNoteInHand, s.drawNoteInHand,
		s.drawRemoval, s.drawExclusion, s.drawExclusion, s.drawPause, s.drawForeignBoot, s.drawMeddling, s.drawMeddling,
		s.drawMeddling, s.drawMeddling, s.drawMeddling, s.drawRivalry, s.drawReplacement, s.drawRequest, s.drawRequest, s.drawBrokenWatch,
		s.drawMode, s.drawMode, s.drawOrderedPause, s.drawBrokenOrders, s.drawPersonalOrder, s.drawPersonalOrder,
		s.drawEcho, s.drawEcho, s.drawStaleAct, s.drawStaleAct, s.drawChangeOfMind, s.drawChangeOfMind, s.drawUnseen, s.drawUnseen,
	}
	for range s.rng.IntN(mishaps) {
		misfortunes[s.rng.IntN(len(misfortunes))]()
	}
	if s.rng.IntN(6) == 0 {
		s.drawSwap()
	}
	dice := s.rng
	if s.rng = rand.New(rand.NewPCG(seed, 2)); s.rng.IntN(4) == 0 { // Of dice of their own, so that seeds mean what they meant.
		s.drawRush()
	}
	s.rng = rand.New(rand.NewPCG(seed, 3))
	for range s.rng.IntN(3) {
		s.drawCheck()
	}
	s.drawPermission(seed)
	s.drawClusterLimits(seed)
	s.rng = rand.New(rand.NewPCG(seed, 5))
	s.drawJobController()
	s.drawElection(seed)
	s.drawSights(seed)
	s.drawForgery(seed)
	s.drawNotes(seed)
	s.drawConfiguration(seed)
	s.drawClocks(seed)
	s.drawLies(seed)
	s.rng = dice
	slices.SortStableFunc(s.events, func(a, b simEvent) int { return cmp.Compare(a.at, b.at) })
	return s
}

// drawNodes draws 3 to 8 nodes in one or two pools.
func (s *schedule) drawNodes() {
	pools := 1 + s.rng.IntN(2)
	s.drawPools(pools)
	for i := range 3 + s.rng.IntN(6) {
		s.drawNode(fmt.Sprint("n", i), pools)
	}
}

func (s *schedule) drawPools(pools int) {
	for i := range pools {
		name := fmt.Sprint("pool-", i)
		pool := simPoolSettings{
			name: name, maxPercent: 10 + s.rng.IntN(60), maxDestructive: 1 + s.rng.IntN(2),
			stormNodes: []int{0, 0, 1, 2, 3}[s.rng.IntN(5)], stormWindow: 10 * time.Minute, stormRelease: 5 * time.Minute,
			maxIncidents: []int{0, 2, 3}[s.rng.IntN(3)], maxRepeats: []int{0, 1, 2}[s.rng.IntN(3)], incidentWindow: 24 * time.Hour,
		}
		pool.opens, pool.closes = s.window()
		s.pools = append(s.pools, pool)
	}
}

// drawNode draws a node with what runs on it.
func (s *schedule) drawNode(name string, pools int) {
	s.names = append(s.names, name)
	daemon := []soptest.Daemon{{Pods: 1}, {Pods: 1}, {Pods: 1}, {}, {Pods: 2}, {Pods: 1, Unready: true}, {Pods: 1, Late: true}}[s.rng.IntN(7)]
	daemon.Labels = map[string]string{simPlugin: "plugin"}
	s.Daemons[name] = daemon
	s.Do(func() { s.AddMachine(name, map[string]string{simPool: fmt.Sprint("pool-", s.rng.IntN(pools))}) })
	for k := range s.rng.IntN(3) {
		s.drawPod(fmt.Sprint(name, "-pod-", k), name)
	}
}

// window draws when disruptive steps may begin; mostly at any time.
func (s *schedule) window() (opens, closes int) {
	if s.rng.IntN(5) > 0 {
		return 0, 0
	}
	opens = s.rng.IntN(120)
	return opens, opens + 30 + s.rng.IntN(240)
}

// drawPod draws a pod, some of them held by a disruption budget for a while.
func (s *schedule) drawPod(name, node string) {
	gpus := int64(0)
	if s.rng.IntN(2) == 0 {
		gpus = 8
	}
	s.Do(func() { s.AddPod(soptest.NewPod("train", name, node, gpus)) })
	if s.rng.IntN(4) > 0 {
		return
	}
	s.Do(func() { s.HoldPod("train", name, true) })
	s.at(s.instant(), func() { s.HoldPod("train", name, false) })
}

// at plans something that happens under the cluster's lock.
func (s *schedule) at(at time.Duration, do func()) {
	s.events = append(s.events, simEvent{at: at, do: func() {
		s.Lock()
		defer s.Unlock()
		do()
	}})
}

func (s *schedule) instant() time.Duration { return time.Duration(s.rng.Int64N(int64(s.lasts))) }

// trouble draws a node and an instant, mostly of a repair that is probably going on.
func (s *schedule) trouble() (node string, at time.Duration) {
	if s.rng.IntN(5) == 0 {
		return s.names[s.rng.IntN(len(s.names))], s.instant()
	}
	o := s.sick[s.rng.IntN(len(s.sick))]
	return o.node, o.at + s.within(30*time.Minute)
}

// within draws a duration of a few seconds as often as one of an hour.
func (s *schedule) within(most time.Duration) time.Duration {
	most >>= s.rng.IntN(8)
	return time.Second + time.Duration(s.rng.Int64N(int64(most)))
}

// drawCrash lets the leader die at one of its next writes.
func (s *schedule) drawCrash() {
	_, at := s.trouble()
	writes, landed := 1+s.rng.IntN(8), s.rng.IntN(2) == 0
	s.at(at, func() { c := s.leader.client; c.CrashAt, c.Landed = c.Writes+writes, landed })
}

// crash lets the leader die at once.
func (s *schedule) crash() {
	s.Logf("p%d dies", s.leader.id)
	s.leader.client.Die()
}

// drawUpgrade stops the leader as an upgrade does, or as the loss of the lease does.
func (s *schedule) drawUpgrade() {
	cause := []error{sop.ErrStopping, sop.ErrLeaseLost}[s.rng.IntN(2)]
	_, at := s.trouble()
	s.events = append(s.events, simEvent{at: at, do: func() { s.replace(cause) }})
}

// replace ends the leader and starts another one.
func (s *schedule) replace(cause error) {
	s.election <- struct{}{}
	defer func() { <-s.election }()
	s.Lock()
	leader := s.leader
	leader.replaced = true
	s.Unlock()
	leader.end(cause)
	s.successor()
}

func (s *schedule) lead(p *simProcess) {
	s.Lock()
	defer s.Unlock()
	s.leader = p
}

// elect replaces a process that has died, after a while.
func (s *schedule) elect(ctx context.Context) {
	for sleep(ctx, 10*time.Second) == nil {
		s.Lock()
		dead := s.fallen()
		vacant := s.Between("vacancy", 0, 2*time.Minute)
		if s.Chance("long vacancy") < 0.2 {
			vacant *= 10
		}
		s.Unlock()
		if dead != nil && sleep(ctx, vacant) == nil {
			s.restart(dead)
		}
	}
}

// fallen returns a process that has died and was not replaced, nil if there is none.
func (s *schedule) fallen() *simProcess {
	if !s.stands {
		if s.leader.client.Dead && !s.leader.replaced {
			return s.leader
		}
		return nil
	}
	for _, p := range s.processes {
		if p.client.Dead && p.ctx.Err() != nil && !p.replaced {
			return p
		}
	}
	return nil
}

// restart starts another process in place of one that has died.
func (s *schedule) restart(dead *simProcess) {
	s.election <- struct{}{}
	defer func() { <-s.election }()
	s.Lock()
	replaced := dead.replaced
	dead.replaced = true
	s.Unlock()
	if replaced {
		return
	}
	dead.end(soptest.ErrDead)
	s.successor()
}

// drawOverlap makes a second leader begin while the first one does not know yet that it is none any more, mostly in the middle of a
// repair.
func (s *schedule) drawOverlap() {
	lasts := []time.Duration{0, 2 * time.Minute}[s.rng.IntN(2)] + s.within(time.Minute)
	begin := func() { s.background.Go(func() { s.overlap(lasts) }) }
	verbs := []soptest.Verb{soptest.VerbPatch, soptest.VerbObserve, soptest.VerbGet}
	steps := []string{actDiagnose, actDiagnose, actDrain, actWaitIdle, actVerify, actHealthcheck}
	switch s.rng.IntN(4) {
	case 0:
		_, at := s.trouble()
		s.at(at, begin)
	case 1:
		s.afterCall(s.sick[s.rng.IntN(len(s.sick))], verbs[s.rng.IntN(len(verbs))], 1+s.rng.IntN(8), begin)
	default:
		s.afterStep(s.sick[s.rng.IntN(len(s.sick))], steps[s.rng.IntN(len(steps))], begin)
	}
}

func (s *schedule) overlap(lasts time.Duration) {
	if s.stands { // Who leads finds out by itself.
		s.Do(s.usurp)
		return
	}
	s.election <- struct{}{}
	first := s.leader
	s.lead(s.startProcess())
	<-s.election
	time.Sleep(lasts)
	first.end(sop.ErrLeaseLost)
}

// run lets everything happen, waits for the world to settle, and returns what was violated.
func (s *schedule) run() []string {
	s.start()
	ctx, cancel := context.WithCancel(context.Background())
	var election, watch sync.WaitGroup
	election.Go(func() { s.elect(ctx) })
	watched, unwatch := context.WithCancel(context.Background())
	watch.Go(func() { s.watch(watched) })
	for _, e := range s.events {
		if !s.sleepUntil(e.at) {
			break
		}
		e.do()
	}
	cancel()
	election.Wait()
	s.pacify()
	violations := s.settle()
	unwatch()
	watch.Wait()
	for _, p := range s.processes {
		if p.ctx.Err() == nil {
			p.end(sop.ErrStopping)
		}
	}
	return violations
}

// sleepUntil lets time pass, and reports whether all is well so far.
func (s *schedule) sleepUntil(at time.Duration) bool {
	time.Sleep(at - time.Since(s.Start()))
	s.Lock()
	defer s.Unlock()
	return len(s.oracle.violations) == 0
}

// pacify ends all misfortune but the faults that are there, and starts a leader if there is none.
func (s *schedule) pacify() {
	s.Lock()
	s.Logf("world: settles")
	s.SetOutage(false)
	s.Weather = soptest.Weather{Lag: time.Second}
	for _, p := range s.processes {
		p.client.Thaw()
		p.cache.Mend()
		p.client.CrashAt = 0
	}
	s.EditLease(pausedAnnotation, "")
	s.EditLease(silencesAnnotation, "")
	if s.On(stateOrdersBroken) {
		s.EditLease(stormsAnnotation, "")
	}
	for _, condition := range s.Stopped() {
		s.Resume(condition)
	}
	for _, state := range s.States() {
		if !strings.HasPrefix(state, "mode ") {
			s.Leave(state)
		}
	}
	s.halted = false
	s.ForgetMoments()
	for _, name := range s.names {
		if s.Nodes[name] != nil && excluded(s.Nodes[name]) {
			s.include(name)
		}
	}
	dead := s.leader.client.Dead
	processes := slices.Clone(s.processes)
	s.Unlock()
	s.settleConfiguration()
	s.background.Wait()
	if s.stands {
		s.settleElection()
		return
	}
	for _, p := range processes {
		if p != s.leader && p.ctx.Err() == nil {
			p.end(sop.ErrLeaseLost)
		}
	}
	if dead {
		s.replace(soptest.ErrDead)
	}
}

// settle waits until nothing is left to do.
func (s *schedule) settle() []string {
	for began := time.Now(); ; time.Sleep(5 * time.Minute) {
		reserved, inFlight := s.leader.dispatcher.Held()
		s.Lock()
		left := append(s.oracle.unfinished(s.leader), s.oracle.withheld(s.leader, reserved, inFlight)...)
		if len(left) > 0 && time.Since(began) > simSettle {
			s.oracle.judge(worldAtRest, moment{p: s.leader, reserved: reserved, inFlight: inFlight})
		}
		violations := slices.Clone(s.oracle.violations)
		s.Unlock()
		if len(violations) > 0 || len(left) == 0 {
			return violations
		}
	}
}
