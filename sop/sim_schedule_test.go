package sop

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/ticket"
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
	leader *simProcess
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
	misfortunes := []func(){
		s.drawSilence, s.drawBlindness, s.drawOutage, s.drawCrash, s.drawCrash, s.drawUpgrade, s.drawOverlap, s.drawCordon, s.drawUncordon,
		s.drawTakeOver, s.drawRemoval, s.drawExclusion, s.drawPause, s.drawForeignBoot, s.drawMeddling, s.drawMeddling, s.drawMeddling,
		s.drawRivalry,
	}
	for range s.rng.IntN(12) {
		misfortunes[s.rng.IntN(len(misfortunes))]()
	}
	slices.SortStableFunc(s.events, func(a, b simEvent) int { return cmp.Compare(a.at, b.at) })
	return s
}

// drawNodes draws 3 to 8 nodes in one or two pools.
func (s *schedule) drawNodes() {
	pools := 1 + s.rng.IntN(2)
	for i := range pools {
		name := fmt.Sprint("pool-", i)
		s.settings.Pools = append(s.settings.Pools, Pool{
			Name: name, Selector: labels.SelectorFromSet(labels.Set{simPool: name}), Profile: name,
			MaxPercent: 10 + s.rng.IntN(60), MaxDestructive: 1 + s.rng.IntN(2),
		})
	}
	for i := range 3 + s.rng.IntN(6) {
		name := fmt.Sprint("n", i)
		node := testNode(name, types.UID("uid-"+name))
		node.Labels = map[string]string{simPool: fmt.Sprint("pool-", s.rng.IntN(pools))}
		s.names = append(s.names, name)
		s.put(node)
		for k := range s.rng.IntN(3) {
			s.drawPod(fmt.Sprint(name, "-pod-", k), name)
		}
	}
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

// drawFault draws a condition that begins, and perhaps flaps or ends by itself.
func (s *schedule) drawFault() {
	kinds := []string{"Reboot", "Reboot", "Reboot", "Reset", "Remedy", "Isolate", "Relieve", "Ready", "Note"}
	key := prom.Key{Node: s.names[s.rng.IntN(len(s.names))], Condition: kinds[s.rng.IntN(len(kinds))]}
	begin := s.instant()
	if len(s.sick) > 0 && s.rng.IntN(3) == 0 { // Troubles come together.
		begin = s.sick[0].at + s.within(10*time.Minute)
	}
	s.sick = append(s.sick, simOutbreak{node: key.Node, condition: key.Condition, at: begin})
	if key.Condition == "Ready" {
		s.drawNotReady(key.Node, begin)
		return
	}
	remedies := map[string]int{}
	if key.Condition != "Relieve" && key.Condition != "Note" {
		switch s.rng.IntN(6) {
		case 0: // It takes people.
			remedies["people"] = 1
		case 1:
			remedies["ResetGPU"] = 1
		case 2:
			remedies["Restart"] = 1
		default:
			remedies["reboot"] = 1 + s.rng.IntN(2)
		}
	}
	raise := func() {
		s.hold(key, true)
		s.conditions[key].remedies = remedies
	}
	s.at(begin, raise)
	for at := begin; s.rng.IntN(4) == 0; {
		at += s.within(20 * time.Minute)
		s.at(at, func() { s.hold(key, false) })
		at += s.within(20 * time.Minute)
		s.at(at, raise)
	}
	if s.rng.IntN(2) == 0 || len(remedies) == 0 {
		s.at(begin+s.within(2*time.Hour), func() { s.hold(key, false) })
	}
}

func (s *schedule) drawNotReady(name string, begin time.Duration) {
	s.at(begin, func() { s.edit(name, func(n *corev1.Node) { setReady(n, corev1.ConditionUnknown) }) })
	if s.rng.IntN(4) > 0 {
		s.at(begin+s.within(time.Hour), func() { s.edit(name, func(n *corev1.Node) { setReady(n, corev1.ConditionTrue) }) })
	}
}

// drawState draws a state of the world that lasts for a while.
func (s *schedule) drawState(state string, most time.Duration) {
	_, at := s.trouble()
	s.at(at, func() { s.enter(state) })
	s.at(at+s.within(most), func() { s.leave(state) })
}

func (s *schedule) drawSilence() {
	kinds := []string{"Reboot", "Reset", "Remedy", "Isolate"}
	name, at := s.trouble()
	until := at + s.within(2*time.Hour)
	for _, kind := range kinds {
		state := silenceOf(prom.Key{Node: name, Condition: kind})
		s.at(at, func() { s.enter(state) })
		s.at(until, func() { s.leave(state) })
	}
}

func (s *schedule) drawBlindness() {
	states := []string{statePrometheusDown, stateAlertmanagerDown, stateUnlisted}
	s.drawState(states[s.rng.IntN(len(states))], time.Hour)
}

func (s *schedule) drawOutage() {
	_, at := s.trouble()
	s.at(at, func() { s.setOutage(true) })
	s.at(at+s.within(20*time.Minute), func() { s.setOutage(false) })
}

func (s *schedule) setOutage(on bool) {
	s.faulty.outage = on
	s.logf("world: API server down %t", on)
}

// drawCrash lets the leader die at one of its next writes. Another one comes after a while.
func (s *schedule) drawCrash() {
	_, at := s.trouble()
	writes, landed := 1+s.rng.IntN(8), s.rng.IntN(2) == 0
	s.at(at, func() { s.leader.crashAt, s.leader.landed = s.leader.writes+writes, landed })
	s.events = append(s.events, simEvent{at: at + s.within(30*time.Minute), do: func() { s.replace(errSimDead) }})
}

// drawUpgrade stops the leader as an upgrade does, or as the loss of the lease does.
func (s *schedule) drawUpgrade() {
	cause := []error{ErrStopping, ErrLeaseLost}[s.rng.IntN(2)]
	_, at := s.trouble()
	s.events = append(s.events, simEvent{at: at, do: func() { s.replace(cause) }})
}

func (s *schedule) replace(cause error) {
	s.leader.end(cause)
	s.leader = s.startProcess()
}

// drawOverlap makes a second leader begin while the first one does not know yet that it is none any more.
func (s *schedule) drawOverlap() {
	_, at := s.trouble()
	var first *simProcess
	s.events = append(s.events, simEvent{at: at, do: func() {
		first = s.leader
		s.leader = s.startProcess()
	}}, simEvent{at: at + s.within(40*time.Second), do: func() { first.end(ErrLeaseLost) }})
}

// drawCordon has a person cordon a node, and mostly uncordon it again.
func (s *schedule) drawCordon() {
	name, at := s.trouble()
	s.at(at, func() { s.personCordons(name) })
	if s.rng.IntN(3) > 0 {
		s.at(at+s.within(2*time.Hour), func() { s.personUncordons(name) })
	}
}

// drawRivalry has a person cordon a node in the moment in which Aegis hears of its fault.
func (s *schedule) drawRivalry() {
	o := s.sick[s.rng.IntN(len(s.sick))]
	s.at(o.at+simPending-s.within(8*time.Second), func() { s.personCordons(o.node) })
}

func (s *schedule) drawUncordon() {
	name, at := s.trouble()
	s.at(at, func() { s.personUncordons(name) })
}

func (s *schedule) personCordons(name string) {
	if s.nodes[name].Spec.Unschedulable {
		return
	}
	s.logf("person cordons %s", name)
	ambiguous := s.since(uncordonedState(name)) > 0 && s.since(uncordonedState(name)) < simRace
	s.invariants.cordoner[name] = cordon{person: true, ambiguous: ambiguous}
	s.edit(name, func(n *corev1.Node) { n.Spec.Unschedulable = true })
}

func (s *schedule) personUncordons(name string) {
	if !s.nodes[name].Spec.Unschedulable {
		return
	}
	s.logf("person uncordons %s", name)
	delete(s.invariants.cordoner, name)
	s.states[uncordonedState(name)] = time.Now()
	s.edit(name, func(n *corev1.Node) { n.Spec.Unschedulable = false })
}

// claim makes the cordon of a node a person's own.
func (s *schedule) claim(name string) {
	if !s.nodes[name].Spec.Unschedulable {
		return
	}
	s.logf("person claims the cordon of %s", name)
	s.invariants.cordoner[name] = cordon{person: true}
	s.edit(name, func(n *corev1.Node) {
		n.Annotations = maps.Clone(n.Annotations)
		if n.Annotations == nil {
			n.Annotations = make(map[string]string)
		}
		n.Annotations[ticket.OwnerAnnotation] = "alice"
	})
}

// drawTakeOver has people take over whatever tickets there are then, and mostly give them back.
func (s *schedule) drawTakeOver() {
	_, at := s.trouble()
	all := func(who string) func() {
		return func() {
			for _, name := range s.names {
				s.supervise(name, who)
			}
		}
	}
	s.at(at, all("alice,bob"))
	if s.rng.IntN(3) > 0 {
		s.at(at+s.within(time.Hour), all(ticket.Self))
	}
}

// supervise sets the supervisor of the ticket on the node.
func (s *schedule) supervise(name, who string) {
	t := ticket.ReadNode(s.nodes[name]).Ticket
	if t == nil {
		return
	}
	t.Supervisor = who
	text, err := t.Encode()
	if err != nil {
		s.invariants.violated("ticket of %s cannot be edited: %v", name, err)
		return
	}
	s.logf("person sets the supervisor on %s to %s", name, who)
	s.edit(name, func(n *corev1.Node) { n.Annotations[ticket.Annotation] = text })
}

// drawRemoval has a person remove the tickets that there are then.
func (s *schedule) drawRemoval() {
	_, at := s.trouble()
	s.at(at, func() {
		for _, name := range s.names {
			s.remove(name)
		}
	})
}

func (s *schedule) remove(name string) {
	t := ticket.ReadNode(s.nodes[name]).Ticket
	if t == nil {
		return
	}
	s.invariants.removed[t.ID] = true
	s.logf("person removes ticket %s on %s", t.ID, name)
	s.edit(name, func(n *corev1.Node) { delete(n.Annotations, ticket.Annotation) })
}

// drawMeddling has something happen to a node right after one of the next writes of Aegis to it.
func (s *schedule) drawMeddling() {
	o := s.sick[s.rng.IntN(len(s.sick))]
	writes, delay, lasts := 1+s.rng.IntN(12), s.within(5*time.Second)-time.Second, s.within(time.Hour)
	silence := silenceOf(prom.Key{Node: o.node, Condition: o.condition})
	meddling := []func(){
		func() { s.supervise(o.node, "alice") },
		func() { s.supervise(o.node, "alice") },
		func() { s.claim(o.node) },
		func() { s.claim(o.node) },
		func() { s.remove(o.node) },
		func() { s.personUncordons(o.node) },
		func() { s.personUncordons(o.node); s.later(time.Minute, func() { s.personCordons(o.node) }) },
		func() { s.setPaused(true); s.later(lasts, func() { s.setPaused(false) }) },
		func() { s.exclude(o.node); s.later(lasts, func() { s.include(o.node) }) },
		func() { s.enter(silence); s.later(lasts, func() { s.leave(silence) }) },
		func() { s.enter(statePrometheusDown); s.later(lasts, func() { s.leave(statePrometheusDown) }) },
	}
	do := meddling[s.rng.IntN(len(meddling))]
	s.at(o.at, func() {
		s.meddlers[o.node] = &simMeddler{writes: writes, do: func() { s.later(delay, do) }}
	})
}

// later has something happen under the cluster's lock after a while.
func (s *schedule) later(after time.Duration, do func()) {
	time.AfterFunc(after, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		do()
	})
}

func uncordonedState(node string) string { return node + " uncordoned" }

func excludedState(node string) string { return node + " excluded" }

func (s *schedule) drawExclusion() {
	name, at := s.trouble()
	s.at(at, func() { s.exclude(name) })
	s.at(at+s.within(2*time.Hour), func() { s.include(name) })
}

func (s *schedule) exclude(name string) {
	s.enter(excludedState(name))
	s.edit(name, func(n *corev1.Node) { n.Labels[DisableLabel] = "true" })
}

func (s *schedule) include(name string) {
	s.leave(excludedState(name))
	s.edit(name, func(n *corev1.Node) { delete(n.Labels, DisableLabel) })
}

func (s *schedule) drawPause() {
	_, at := s.trouble()
	s.at(at, func() { s.setPaused(true) })
	s.at(at+s.within(time.Hour), func() { s.setPaused(false) })
}

func (s *schedule) setPaused(paused bool) {
	s.settings.Paused = paused
	if s.leave(statePaused); paused {
		s.enter(statePaused)
	}
}

// drawForeignBoot has a node boot that nobody of Aegis told to.
func (s *schedule) drawForeignBoot() {
	name, at := s.trouble()
	s.at(at, func() {
		s.fix(name, "reboot")
		s.logf("world: %s boots by itself", name)
		s.edit(name, func(n *corev1.Node) { n.Status.NodeInfo.BootID = bootAfter(n) })
	})
}

// run lets everything happen, waits for the world to settle, and returns what was violated.
func (s *schedule) run() []string {
	s.leader = s.startProcess()
	for _, e := range s.events {
		if !s.sleepUntil(e.at) {
			break
		}
		e.do()
	}
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
	s.faulty = faultiness{lag: time.Second}
	for state := range s.states {
		s.leave(state)
	}
	s.settings.Paused = false
	clear(s.meddlers)
	for _, name := range s.names {
		if excluded(s.nodes[name]) {
			s.include(name)
		}
	}
	s.leader.crashAt = 0
	dead := s.leader.dead
	processes := slices.Clone(s.processes)
	s.mu.Unlock()
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
		left := s.invariants.unfinished(s.leader.book)
		s.mu.Unlock()
		switch {
		case len(violations) > 0, len(left) == 0:
			return violations
		case time.Since(began) > simSettle:
			return left
		}
	}
}

// table holds the procedures of the simulation, watched.
func (p *simProcess) table() Table {
	steps := map[string]func(context.Context, *ApiBridge) error{
		"reboot": RebootLadder, "reset": ResetLadder, "isolate": IsolateAndHandOver, "relieve": RelievePressure, "ready": AwaitReady,
		"cordon": VerifyCordoned, "note": Note,
		"remedy": func(ctx context.Context, b *ApiBridge) error { return RemedyThenReboot(ctx, b, "Restart") },
	}
	table := Table{ExhaustedSOP: p.watched(Exhausted)}
	for name, procedure := range steps {
		table["sim/"+strings.ToLower(name)] = p.watched(procedure)
	}
	return table
}

// watched notes when a procedure begins and ends.
func (p *simProcess) watched(procedure func(context.Context, *ApiBridge) error) Factory {
	return func() SOP {
		return NewProcedure(func(ctx context.Context, b *ApiBridge) error {
			p.mu.Lock()
			p.invariants.entered(p, b.Node())
			p.mu.Unlock()
			defer func() {
				p.mu.Lock()
				defer p.mu.Unlock()
				p.invariants.left(p, b.Node())
			}()
			return procedure(ctx, b)
		})
	}
}
