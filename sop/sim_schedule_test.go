package sop

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"aegis.io/aegis/ticket"

	"aegis.io/aegis/sop/policy"
)

const (
	// simHours is how long misfortune lasts, simSettle how long the world then has to come to rest.
	simHours  = 3 * time.Hour
	simSettle = 5 * time.Hour
)

// schedule is what happens in the world, all of it drawn from the seed before anything happens.
type schedule struct {
	*cluster
	rng   *rand.Rand
	names []string
	// sick are the nodes that have faults, at the time at which they get them.
	sick   []simOutbreak
	events []simEvent
	// office is held by whoever changes the leader.
	office sync.Mutex
	leader *simProcess
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
	s := &schedule{cluster: newCluster(seed), rng: rand.New(rand.NewPCG(seed, 1))}
	s.verbose = verbose
	s.faulty = faultiness{
		failing: s.rng.Float64() * 0.08, losing: s.rng.Float64() * 0.06, slow: s.rng.Float64() * 0.04,
		lag: time.Duration(s.rng.Int64N(int64(simMaxLag))), badChecks: s.rng.Float64() * 0.3, badPower: s.rng.Float64() * 0.2,
	}
	s.drawNodes()
	for range 1 + s.rng.IntN(6) {
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
	for range s.rng.IntN(12) {
		misfortunes[s.rng.IntN(len(misfortunes))]()
	}
	if s.rng.IntN(6) == 0 {
		s.drawSwap()
	}
	slices.SortStableFunc(s.events, func(a, b simEvent) int { return cmp.Compare(a.at, b.at) })
	return s
}

// drawNodes draws 3 to 8 nodes in one or two pools.
func (s *schedule) drawNodes() {
	pools := 1 + s.rng.IntN(2)
	for i := range pools {
		name := fmt.Sprint("pool-", i)
		s.settings.Pools = append(s.settings.Pools, policy.Pool{
			Name: name, Selector: labels.SelectorFromSet(labels.Set{simPool: name}), Profile: name,
			MaxPercent: 10 + s.rng.IntN(60), MaxDestructive: 1 + s.rng.IntN(2),
			StormNodes: []int{0, 0, 1, 2, 3}[s.rng.IntN(5)], StormWindow: 10 * time.Minute, StormRelease: 5 * time.Minute,
			MaxIncidents: []int{0, 2, 3}[s.rng.IntN(3)], MaxRepeats: []int{0, 1, 2}[s.rng.IntN(3)], IncidentWindow: 24 * time.Hour,
			Windows: s.windows(),
		})
	}
	for i := range 3 + s.rng.IntN(6) {
		name := fmt.Sprint("n", i)
		s.names = append(s.names, name)
		s.plugins[name] = []simDaemon{{pods: 1}, {pods: 1}, {pods: 1}, {}, {pods: 2}, {pods: 1, unready: true}, {pods: 1, late: true}}[s.rng.IntN(7)]
		s.createNode(name, fmt.Sprint("pool-", s.rng.IntN(pools)))
		for k := range s.rng.IntN(3) {
			s.drawPod(fmt.Sprint(name, "-pod-", k), name)
		}
	}
}

// windows draws when disruptive steps may begin; mostly at any time.
func (s *schedule) windows() []policy.Window {
	if s.rng.IntN(5) > 0 {
		return nil
	}
	from := s.rng.IntN(120)
	return []policy.Window{{From: from, To: from + 30 + s.rng.IntN(240), Location: time.UTC}}
}

// drawPod draws a pod, some of them held by a disruption budget for a while.
func (s *schedule) drawPod(name, node string) {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "train", UID: types.UID(name), Labels: map[string]string{}},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "main"}}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
	if s.rng.IntN(2) == 0 {
		pod.Spec.Containers[0].Resources.Limits = corev1.ResourceList{"nvidia.com/gpu": *gpus(8)}
	}
	s.pods[name] = pod
	if s.rng.IntN(4) > 0 {
		return
	}
	pod.Labels["held"] = "budget"
	s.at(s.instant(), func() {
		free := pod.DeepCopy()
		delete(free.Labels, "held")
		if s.pods[name] != nil {
			s.pods[name] = free
		}
	})
}

// at plans something that happens under the cluster's lock.
func (s *schedule) at(at time.Duration, do func()) {
	s.events = append(s.events, simEvent{at: at, do: func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		do()
	}})
}

func (s *schedule) instant() time.Duration { return time.Duration(s.rng.Int64N(int64(simHours))) }

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

// cloned returns a copy that can be written to.
func cloned(m map[string]string) map[string]string {
	if m == nil {
		return make(map[string]string)
	}
	return maps.Clone(m)
}

// drawCrash lets the leader die at one of its next writes.
func (s *schedule) drawCrash() {
	_, at := s.trouble()
	writes, landed := 1+s.rng.IntN(8), s.rng.IntN(2) == 0
	s.at(at, func() { s.leader.crashAt, s.leader.landed = s.leader.writes+writes, landed })
}

// crash lets the leader die at once.
func (s *schedule) crash() {
	s.logf("p%d dies", s.leader.id)
	s.leader.dead = true
	s.leader.stop(errSimDead)
}

// drawUpgrade stops the leader as an upgrade does, or as the loss of the lease does.
func (s *schedule) drawUpgrade() {
	cause := []error{ErrStopping, ErrLeaseLost}[s.rng.IntN(2)]
	_, at := s.trouble()
	s.events = append(s.events, simEvent{at: at, do: func() { s.replace(cause) }})
}

// replace ends the leader and starts another one.
func (s *schedule) replace(cause error) {
	s.office.Lock()
	defer s.office.Unlock()
	s.leader.end(cause)
	s.lead(s.startProcess())
}

func (s *schedule) lead(p *simProcess) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leader = p
}

// elect replaces a leader that has died, after a while.
func (s *schedule) elect(ctx context.Context) {
	for sleep(ctx, 10*time.Second) == nil {
		s.mu.Lock()
		dead := s.leader.dead
		vacant := s.between("vacancy", 0, 2*time.Minute)
		if s.chance("long vacancy") < 0.2 {
			vacant *= 10
		}
		s.mu.Unlock()
		if dead && sleep(ctx, vacant) == nil {
			s.replace(errSimDead)
		}
	}
}

// drawOverlap makes a second leader begin while the first one does not know yet that it is none any more, mostly in the middle of a
// repair.
func (s *schedule) drawOverlap() {
	lasts := []time.Duration{0, 2 * time.Minute}[s.rng.IntN(2)] + s.within(time.Minute)
	begin := func() { s.background.Go(func() { s.overlap(lasts) }) }
	verbs := []string{verbPatch, verbObserve, verbGet}
	steps := []ticket.Action{ticket.Diagnose, ticket.Diagnose, ticket.Drain, ticket.WaitIdle, ticket.Verify, ticket.Healthcheck}
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
	s.office.Lock()
	first := s.leader
	s.lead(s.startProcess())
	s.office.Unlock()
	time.Sleep(lasts)
	first.end(ErrLeaseLost)
}

// run lets everything happen, waits for the world to settle, and returns what was violated.
func (s *schedule) run() []string {
	s.leader = s.startProcess()
	ctx, cancel := context.WithCancel(context.Background())
	var election sync.WaitGroup
	election.Go(func() { s.elect(ctx) })
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
	s.leader.end(ErrStopping)
	return violations
}

// sleepUntil lets time pass, and reports whether all is well so far.
func (s *schedule) sleepUntil(at time.Duration) bool {
	time.Sleep(at - time.Since(s.start))
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.invariants.violations) == 0
}

// pacify ends all misfortune but the faults that are there, and starts a leader if there is none.
func (s *schedule) pacify() {
	s.mu.Lock()
	s.logf("world: settles")
	s.setOutage(false)
	s.faulty = faultiness{lag: time.Second}
	for _, p := range s.processes {
		p.cache.mend()
	}
	s.editLease(PausedAnnotation, "")
	if s.on(stateOrdersBroken) {
		s.editLease(StormsAnnotation, "")
	}
	for state := range s.states {
		if !strings.HasPrefix(state, "mode ") {
			s.leave(state)
		}
	}
	s.settings.Paused = false
	clear(s.meddlers)
	for _, name := range s.names {
		if s.nodes[name] != nil && policy.Excluded(s.nodes[name]) {
			s.include(name)
		}
	}
	s.leader.crashAt = 0
	dead := s.leader.dead
	processes := slices.Clone(s.processes)
	s.mu.Unlock()
	s.background.Wait()
	for _, p := range processes {
		if p != s.leader && p.ctx.Err() == nil {
			p.end(ErrLeaseLost)
		}
	}
	if dead {
		s.replace(errSimDead)
	}
}

// settle waits until nothing is left to do.
func (s *schedule) settle() []string {
	for began := time.Now(); ; time.Sleep(5 * time.Minute) {
		s.mu.Lock()
		violations := slices.Clone(s.invariants.violations)
		left := s.invariants.unfinished(s.leader)
		s.mu.Unlock()
		switch {
		case len(violations) > 0, len(left) == 0:
			return violations
		case time.Since(began) > simSettle:
			return left
		}
	}
}
