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
		s.drawSilence, s.drawBlindness, s.drawOutage, s.drawCrash, s.drawCrash, s.drawUpgrade, s.drawOverlap, s.drawOverlap, s.drawRecordon, s.drawLastMoment, s.drawCordon, s.drawUncordon,
		s.drawTakeOver, s.drawNoteInHand, s.drawNoteInHand, s.drawRemoval, s.drawExclusion, s.drawExclusion, s.drawPause, s.drawForeignBoot, s.drawMeddling, s.drawMeddling, s.drawMeddling,
		s.drawMeddling, s.drawMeddling, s.drawRivalry, s.drawReplacement, s.drawRequest, s.drawRequest, s.drawBrokenWatch,
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
		s.settings.Pools = append(s.settings.Pools, Pool{
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
func (s *schedule) windows() []Window {
	if s.rng.IntN(5) > 0 {
		return nil
	}
	from := s.rng.IntN(120)
	return []Window{{From: from, To: from + 30 + s.rng.IntN(240), Location: time.UTC}}
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
	kinds := []string{
		simReboot, simReboot, simReboot, simReset, simReset, simRemedy, simIsolate, simRelieve, simReady, simReady, simNote, simDevices, simDevices,
	}
	key := prom.Key{Node: s.names[s.rng.IntN(len(s.names))], Condition: kinds[s.rng.IntN(len(kinds))]}
	begin := s.instant()
	if len(s.sick) > 0 && s.rng.IntN(3) == 0 { // Troubles come together.
		begin = s.sick[0].at + s.within(10*time.Minute)
	}
	s.sick = append(s.sick, simOutbreak{node: key.Node, condition: key.Condition, at: begin})
	switch key.Condition {
	case simReady:
		s.drawNotReady(key.Node, begin)
		return
	case simReset:
		key.ID = "0"
		s.drawCourse(key, begin)
		key.ID = "1"
		if s.rng.IntN(2) == 0 {
			return
		}
		begin += s.within(10 * time.Minute)
	}
	s.drawCourse(key, begin)
}

// drawUnseen draws a fault that comes upon a node amid its repair, and that no healthcheck sees.
func (s *schedule) drawUnseen() {
	o := s.sick[s.rng.IntN(len(s.sick))]
	kinds := slices.DeleteFunc([]string{simReboot, simRemedy, simIsolate}, func(kind string) bool { return kind == o.condition })
	key := prom.Key{Node: o.node, Condition: kinds[s.rng.IntN(len(kinds))]}
	begin := o.at + s.within(10*time.Minute)
	s.sick = append(s.sick, simOutbreak{node: key.Node, condition: key.Condition, at: begin})
	s.drawCourse(key, begin)
	s.at(begin, func() {
		if c := s.conditions[key]; c != nil {
			c.unseen = true
		}
	})
}

// drawCourse draws what ends a fault: operations, people, or nothing but time.
func (s *schedule) drawCourse(key prom.Key, begin time.Duration) {
	remedies := map[string]int{}
	if key.Condition != simRelieve && key.Condition != simNote {
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
	if key.Condition == simDevices && s.rng.IntN(2) == 0 {
		remedies = map[string]int{"plugin": 1 + s.rng.IntN(2)}
	}
	raise := func() {
		if s.nodes[key.Node] == nil {
			return
		}
		s.hold(key, true)
		s.conditions[key].remedies = maps.Clone(remedies)
	}
	s.at(begin, raise)
	for at := begin; s.rng.IntN(4) == 0; {
		at += s.within(20 * time.Minute)
		s.at(at, func() { s.hold(key, false) })
		at += s.within(20 * time.Minute)
		s.at(at, raise)
	}
	if s.rng.IntN(4) == 0 { // A repaired node falls ill again.
		s.at(begin+8*time.Minute+s.within(20*time.Minute), raise)
	}
	if s.rng.IntN(2) == 0 || len(remedies) == 0 {
		s.at(begin+s.within(2*time.Hour), func() { s.hold(key, false) })
	}
}

// drawNotReady draws a node that falls silent, and perhaps comes back. Some are seen to be without power, and not all of those
// come back on the same boot.
func (s *schedule) drawNotReady(name string, begin time.Duration) {
	s.at(begin, func() { s.edit(name, func(n *corev1.Node) { setReady(n, corev1.ConditionUnknown) }) })
	lasts := s.within(time.Hour)
	if s.rng.IntN(2) == 0 {
		s.at(begin+s.within(10*time.Minute), func() { s.power(name, "off") })
		lasts += 10 * time.Minute
	}
	if s.rng.IntN(4) > 0 {
		s.at(begin+lasts, func() { s.recover(name) })
		s.at(begin+lasts+s.within(time.Minute), func() { s.power(name, "on") })
	}
}

// power has somebody who can see the power supply of a node say so.
func (s *schedule) power(name, state string) {
	s.logf("world: the power of %s is %s", name, state)
	s.edit(name, func(n *corev1.Node) {
		n.Annotations = cloned(n.Annotations)
		n.Annotations[PowerStateAnnotation] = state
	})
}

// recover makes a node ready again, with another boot if it was without power.
func (s *schedule) recover(name string) {
	s.edit(name, func(n *corev1.Node) {
		if n.Annotations[PowerStateAnnotation] == "off" {
			n.Status.NodeInfo.BootID = bootAfter(n)
		}
		setReady(n, corev1.ConditionTrue)
	})
}

// cloned returns a copy that can be written to.
func cloned(m map[string]string) map[string]string {
	if m == nil {
		return make(map[string]string)
	}
	return maps.Clone(m)
}

// drawState draws a state of the world that lasts for a while.
func (s *schedule) drawState(state string, most time.Duration) {
	_, at := s.trouble()
	s.at(at, func() { s.enter(state) })
	s.at(at+s.within(most), func() { s.leave(state) })
}

func (s *schedule) drawSilence() {
	kinds := []string{simReboot, simReset, simRemedy, simIsolate, simDevices, simReady}
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

// setOutage takes the API server away, or brings it back, with the watches on it.
func (s *schedule) setOutage(on bool) {
	s.faulty.outage = on
	s.logf("world: API server down %t", on)
	if on {
		return
	}
	s.mended = time.Now()
	for _, p := range s.processes {
		if !p.cache.broken {
			p.cache.mend()
		}
	}
}

// drawBrokenWatch has the leader's cache stand still for a while.
func (s *schedule) drawBrokenWatch() {
	_, at := s.trouble()
	var cache *simCache
	s.at(at, func() {
		cache = s.leader.cache
		cache.broken = true
		s.logf("p%d: its watch breaks", s.leader.id)
	})
	s.at(at+s.within(20*time.Minute), func() {
		cache.mend()
		s.mended = time.Now()
		s.logf("world: the watch works again")
	})
}

// drawReplacement has a node deleted, and mostly another one created under its name.
func (s *schedule) drawReplacement() {
	name, at := s.trouble()
	after := s.within(20 * time.Minute)
	s.at(at, func() { s.replaceNode(name, after) })
}

// drawSwap has another machine take the name of a node between the moment in which Aegis looks at it and the write that follows.
func (s *schedule) drawSwap() {
	o := s.sick[s.rng.IntN(len(s.sick))]
	verb := []string{verbObserve, verbObserve, verbPatch, verbGet}[s.rng.IntN(4)]
	s.afterCall(o, verb, 1+s.rng.IntN(3), func() { s.replaceNode(o.node, time.Millisecond) })
}

func (s *schedule) replaceNode(name string, after time.Duration) {
	node := s.nodes[name]
	if node == nil {
		return
	}
	s.deleteNode(name)
	if s.chance("created "+name) < 0.8 {
		s.later(after, func() { s.createNode(name, node.Labels[simPool]) })
	}
}

// drawRequest has a person ask for the repair of a node.
func (s *schedule) drawRequest() {
	kinds := []string{simReboot, simReset, simRemedy, simIsolate, simDevices, simNote}
	name, at := s.trouble()
	key := prom.Key{Node: name, Condition: kinds[s.rng.IntN(len(kinds))]}
	s.at(at, func() { s.leader.heal(key) })
}

// drawEcho draws an alert whose webhook comes again, or is the last word, when nobody can say whether it is true: after it has
// resolved, after its machine was replaced, or long after it was sent.
func (s *schedule) drawEcho() {
	kinds := []string{simReboot, simRemedy, simIsolate}
	key := prom.Key{Node: s.names[s.rng.IntN(len(s.names))], Condition: kinds[s.rng.IntN(len(kinds))]}
	begin, which := s.instant(), s.rng.IntN(3)
	s.sick = append(s.sick, simOutbreak{node: key.Node, condition: key.Condition, at: begin})
	var startsAt time.Time
	s.at(begin, func() {
		s.enter(silenceOf(key))
		s.hold(key, true)
		startsAt = time.Now().Add(simPending)
	})
	heard := begin + simPending + time.Second
	s.at(heard, func() { s.webhook(key, startsAt, true) })
	over := heard + time.Minute + s.within(10*time.Minute)
	blind := over
	switch which {
	case 0:
		s.at(over-time.Second, func() { s.hold(key, false); s.webhook(key, startsAt, false) })
		s.at(over+time.Second, func() { s.webhook(key, startsAt, true) })
	case 1:
		s.at(over-time.Second, func() { s.replaceNode(key.Node, time.Second) })
		s.at(over+10*time.Second, func() { s.webhook(key, startsAt, true) })
	default:
		blind = heard + time.Second
		over += 3 * time.Minute
	}
	s.at(blind, func() { s.enter(statePrometheusDown) })
	s.at(over, func() { s.leave(silenceOf(key)) })
	s.at(over+s.within(10*time.Minute)+time.Minute, func() { s.leave(statePrometheusDown); s.hold(key, false) })
}

// drawStorm draws a fault that comes over many nodes at about the same time.
func (s *schedule) drawStorm() {
	kinds := []string{simReboot, simRemedy, simIsolate}
	condition, begin := kinds[s.rng.IntN(len(kinds))], s.instant()
	for _, name := range s.names {
		if s.rng.IntN(4) > 0 {
			at := begin + s.within(3*time.Minute)
			s.sick = append(s.sick, simOutbreak{node: name, condition: condition, at: at})
			s.drawCourse(prom.Key{Node: name, Condition: condition}, at)
		}
	}
	if s.rng.IntN(2) == 0 {
		pool := fmt.Sprint("pool-", s.rng.IntN(len(s.settings.Pools)))
		s.at(begin+s.within(time.Hour), func() {
			d := s.leader.dispatcher
			s.leader.obey("release storm", pool, func(ctx context.Context) error { return d.ReleaseStorm(ctx, condition, pool, Order{By: "alice"}) })
		})
	}
}

// drawMode has people order another mode for a condition, over the API, and perhaps back.
func (s *schedule) drawMode() {
	mode := prom.Modes()[s.rng.IntN(len(prom.Modes()))]
	condition := simOrdered()[s.rng.IntN(len(simOrdered()))]
	_, at := s.trouble()
	if o := s.sick[s.rng.IntN(len(s.sick))]; s.rng.IntN(2) == 0 && slices.Contains(simOrdered(), o.condition) {
		condition, at = o.condition, max(0, o.at-s.within(30*time.Minute))
	}
	s.at(at, func() {
		d := s.leader.dispatcher
		s.leader.obey("mode "+string(mode), condition, func(ctx context.Context) error {
			return d.SetMode(ctx, condition, mode, Order{By: "alice"})
		})
	})
	if s.rng.IntN(2) == 0 {
		s.at(at+s.within(2*time.Hour), func() {
			d := s.leader.dispatcher
			s.leader.obey("configured mode", condition, func(ctx context.Context) error { return d.ResetMode(ctx, condition, "alice") })
		})
	}
}

// drawOrderedPause has people pause everything over the API, or with kubectl.
func (s *schedule) drawOrderedPause() {
	_, at := s.trouble()
	end := at + s.within(time.Hour)
	if s.rng.IntN(2) == 0 {
		s.at(at, func() { s.editLease(PausedAnnotation, "moving racks") })
	} else {
		s.at(at, func() {
			d := s.leader.dispatcher
			s.leader.obey("pause", "", func(ctx context.Context) error { return d.Pause(ctx, Order{By: "alice"}) })
		})
	}
	s.at(end, func() { s.editLease(PausedAnnotation, "") })
}

// drawBrokenOrders has people write orders that cannot be read.
func (s *schedule) drawBrokenOrders() {
	_, at := s.trouble()
	s.at(at, func() { s.editLease(StormsAnnotation, "{") })
	s.at(at+s.within(time.Hour), func() { s.editLease(StormsAnnotation, "") })
}

// drawPersonalOrder has a person approve, cancel, take over or release whatever there is on a node.
func (s *schedule) drawPersonalOrder() {
	name, at := s.trouble()
	which := s.rng.IntN(4)
	s.at(at, func() { s.order(name, which) })
	if which == 1 || which == 2 {
		s.at(at+s.within(time.Hour), func() { s.order(name, 3) })
	}
	for which == 0 && s.rng.IntN(3) > 0 { // Who approves looks in from time to time.
		at += s.within(20 * time.Minute)
		s.at(at, func() { s.order(name, 0) })
	}
}

// order has the person ask for it over the API of the leader.
func (s *schedule) order(name string, which int) {
	d, o := s.leader.dispatcher, NodeOrder{Node: name, By: "alice", Reason: "it is mine"}
	switch which {
	case 0:
		for _, status := range s.leader.queue.Statuses(name) {
			o.Condition, o.Device = status.Condition, status.ID
			s.leader.obey("approve "+o.Condition, name, func(ctx context.Context) error {
				_, err := d.Approve(ctx, o)
				return err
			})
		}
	case 1:
		s.leader.obey("cancel", name, func(ctx context.Context) error { return d.Cancel(ctx, o) })
	case 2:
		s.leader.obey("take over", name, func(ctx context.Context) error { return d.TakeOver(ctx, o) })
	default:
		s.leader.obey("release", name, func(ctx context.Context) error { return d.Release(ctx, o) })
	}
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

// drawRecordon has a person put a node back into service that Aegis repairs, and take it out again, often before anybody has seen
// it in service.
func (s *schedule) drawRecordon() {
	o := s.sick[s.rng.IntN(len(s.sick))]
	at := o.at + s.within(20*time.Minute)
	if s.rng.IntN(2) == 0 {
		s.at(at, func() { s.recordon(o.node) })
		return
	}
	s.at(at, func() { s.personUncordons(o.node) })
	s.at(at+time.Minute+s.within(2*time.Minute), func() { s.personCordons(o.node) })
}

// drawLastMoment has a person make the cordon of a node their own while Aegis is about to return it to service.
func (s *schedule) drawLastMoment() {
	o := s.sick[s.rng.IntN(len(s.sick))]
	theirs := []func(string){s.claim, s.recordon}[s.rng.IntN(2)]
	s.afterStep(o, []ticket.Action{ticket.Uncordon, ticket.Uncordon, ticket.Healthcheck}[s.rng.IntN(3)], func() { theirs(o.node) })
}

// recordon makes the cordon of a node that of a person, who has undone the one that was there.
func (s *schedule) recordon(name string) {
	if s.nodes[name] != nil && s.nodes[name].Spec.Unschedulable {
		s.personUncordons(name)
		s.personCordons(name)
	}
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
	if s.nodes[name] == nil || s.nodes[name].Spec.Unschedulable {
		return
	}
	s.logf("person cordons %s", name)
	s.invariants.cordoner[name] = cordon{person: true}
	s.edit(name, func(n *corev1.Node) { n.Spec.Unschedulable = true })
}

func (s *schedule) personUncordons(name string) {
	if s.nodes[name] == nil || !s.nodes[name].Spec.Unschedulable {
		return
	}
	s.logf("person uncordons %s", name)
	delete(s.invariants.cordoner, name)
	s.edit(name, func(n *corev1.Node) { n.Spec.Unschedulable = false })
}

// claim makes the cordon of a node a person's own.
func (s *schedule) claim(name string) {
	if s.nodes[name] == nil || !s.nodes[name].Spec.Unschedulable {
		return
	}
	s.logf("person claims the cordon of %s", name)
	s.invariants.cordoner[name] = cordon{person: true}
	s.edit(name, func(n *corev1.Node) {
		n.Annotations = cloned(n.Annotations)
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

func (s *schedule) ticketOn(name string) *ticket.Ticket {
	if s.nodes[name] == nil {
		return nil
	}
	return ticket.ReadNode(s.nodes[name]).Ticket
}

// supervise sets the supervisor of the ticket on the node.
func (s *schedule) supervise(name, who string) {
	t := s.ticketOn(name)
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

// drawNoteInHand has people told of something on a node that is soon to fall ill, and one of them take it in hand before.
func (s *schedule) drawNoteInHand() {
	o := s.sick[s.rng.IntN(len(s.sick))]
	key := prom.Key{Node: o.node, Condition: simNote}
	at := max(0, o.at-2*time.Minute-s.within(10*time.Minute))
	s.at(at, func() { s.hold(key, true) })
	s.at(at+2*time.Minute, func() { s.supervise(o.node, "alice") })
	if s.rng.IntN(2) == 0 {
		s.at(at+s.within(2*time.Hour), func() { s.hold(key, false) })
	}
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
	t := s.ticketOn(name)
	if t == nil {
		return
	}
	if known := s.invariants.incidents[t.ID]; known != nil {
		known.removed = true
	}
	s.logf("person removes ticket %s on %s", t.ID, name)
	s.edit(name, func(n *corev1.Node) { delete(n.Annotations, ticket.Annotation) })
}

// drawMeddling has something happen right after one of the next calls of Aegis about a node, or as soon as a step is journaled as
// running: at once, so that the next thing that Aegis does rests on what is no longer true, or soon after.
func (s *schedule) drawMeddling() {
	o := s.sick[s.rng.IntN(len(s.sick))]
	what := s.meddling(o, s.within(time.Hour))
	do := what[s.rng.IntN(len(what))]
	if s.rng.IntN(3) == 0 {
		// Meanwhile nothing can be written.
		alone, lasts := do, s.within(10*time.Minute)
		do = func() {
			s.setOutage(true)
			s.later(lasts, func() { s.setOutage(false) })
			s.later(lasts/3, alone)
		}
	}
	if s.rng.IntN(2) == 0 {
		at, delay := do, s.within(5*time.Second)-time.Second
		do = func() { s.later(delay, at) }
	}
	if s.rng.IntN(2) == 0 {
		steps := []ticket.Action{
			ticket.Diagnose, ticket.Drain, ticket.DrainGPU, ticket.WaitIdle, ticket.Remedy, ticket.Reset, ticket.Reboot, ticket.Wait,
			ticket.Verify, ticket.Healthcheck, ticket.Healthcheck, ticket.Uncordon, ticket.Uncordon, ticket.RestartPod,
		}
		s.afterStep(o, steps[s.rng.IntN(len(steps))], do)
		return
	}
	verbs := []string{verbPatch, verbPatch, verbPatch, verbGet, verbGet, verbObserve, verbObserve, verbCreate}
	s.afterCall(o, verbs[s.rng.IntN(len(verbs))], 1+s.rng.IntN(12), do)
}

// drawStaleAct takes the API server or the leader away between the permission for an act and the act, and has the act forbidden
// before they are back.
func (s *schedule) drawStaleAct() {
	o := s.sick[s.rng.IntN(len(s.sick))]
	silence := silenceOf(prom.Key{Node: o.node, Condition: o.condition})
	outage := 10*time.Second + s.within(5*time.Minute)
	lasts := outage + 20*time.Minute
	forbid := []func(){
		func() { s.setPaused(true); s.later(lasts, func() { s.setPaused(false) }) },
		func() { s.exclude(o.node); s.later(lasts, func() { s.include(o.node) }) },
		func() { s.enter(silence); s.later(lasts, func() { s.leave(silence) }) },
	}[s.rng.IntN(3)]
	away := []func(){
		func() { s.setOutage(true); s.later(outage, func() { s.setOutage(false) }) },
		s.crash,
	}[s.rng.IntN(2)]
	verb := []string{verbObserve, verbPatch}[s.rng.IntN(2)]
	s.afterCall(o, verb, 2+s.rng.IntN(5), func() { away(); s.later(time.Second, forbid) })
}

// drawChangeOfMind has people lower the mode of a condition amid its repair, and leave it so for longer than a step lasts.
func (s *schedule) drawChangeOfMind() {
	o := s.sick[s.rng.IntN(len(s.sick))]
	mode := []prom.Mode{prom.ModeOff, prom.ModeObserve, prom.ModeApprove}[s.rng.IntN(3)]
	lasts := 10*time.Minute + s.within(time.Hour)
	verb := []string{verbObserve, verbPatch}[s.rng.IntN(2)]
	s.afterCall(o, verb, 1+s.rng.IntN(6), func() {
		s.editLease(ModesAnnotation, modesText(o.condition, mode))
		s.later(lasts, func() { s.editLease(ModesAnnotation, "") })
	})
}

// modesText is how people write the mode of one condition on the Lease.
func modesText(condition string, mode prom.Mode) string {
	return fmt.Sprintf(`{%q: {"mode": %q}}`, condition, mode)
}

// afterCall has something happen right after one of the calls about a node that are made once its fault has begun.
func (s *schedule) afterCall(o simOutbreak, verb string, calls int, do func()) {
	m := &simMeddler{verb: verb, calls: calls, do: do}
	s.at(o.at, func() { s.meddlers[o.node] = append(s.meddlers[o.node], m) })
}

// afterStep has something happen right after the next step of the action on the node has been journaled.
func (s *schedule) afterStep(o simOutbreak, step ticket.Action, do func()) {
	m := &simMeddler{step: step, do: do}
	s.at(o.at, func() { s.meddlers[o.node] = append(s.meddlers[o.node], m) })
}

// meddling lists what may happen at an awkward moment.
func (s *schedule) meddling(o simOutbreak, lasts time.Duration) []func() {
	silence := silenceOf(prom.Key{Node: o.node, Condition: o.condition})
	return []func(){
		func() { s.supervise(o.node, "alice") },
		func() { s.supervise(o.node, "alice") },
		func() { s.claim(o.node) },
		func() { s.claim(o.node) },
		func() { s.remove(o.node) },
		func() { s.personUncordons(o.node) },
		func() { s.recordon(o.node) },
		func() { s.recordon(o.node) },
		func() { s.personUncordons(o.node); s.later(time.Minute, func() { s.personCordons(o.node) }) },
		func() { s.setPaused(true); s.later(lasts, func() { s.setPaused(false) }) },
		func() { s.exclude(o.node); s.later(lasts, func() { s.include(o.node) }) },
		func() { s.enter(silence); s.later(lasts, func() { s.leave(silence) }) },
		func() { s.enter(silence); s.later(lasts, func() { s.leave(silence) }) },
		func() { s.enter(statePrometheusDown); s.later(lasts, func() { s.leave(statePrometheusDown) }) },
		func() { s.replaceNode(o.node, lasts/8) },
		func() { s.replaceNode(o.node, time.Millisecond) },
		func() { s.bootForeign(o.node) },
		func() { s.bootForeign(o.node) },
		func() { s.recover(o.node); s.power(o.node, "on") },
		func() { s.leader.heal(prom.Key{Node: o.node, Condition: o.condition}) },
		func() { s.order(o.node, 0) },
		func() { s.order(o.node, 1) },
		func() { s.order(o.node, 2) },
		func() {
			s.editLease(PausedAnnotation, "true")
			s.later(lasts, func() { s.editLease(PausedAnnotation, "") })
		},
		func() {
			s.editLease(ModesAnnotation, modesText(o.condition, prom.ModeObserve))
			s.later(lasts, func() { s.editLease(ModesAnnotation, "") })
		},
		func() {
			s.editLease(StormsAnnotation, "{")
			s.later(lasts, func() { s.editLease(StormsAnnotation, "") })
		},
		s.crash,
	}
}

func (s *schedule) drawExclusion() {
	name, at := s.trouble()
	s.at(at, func() { s.exclude(name) })
	s.at(at+s.within(2*time.Hour), func() { s.include(name) })
}

func (s *schedule) exclude(name string) {
	if s.nodes[name] == nil {
		return
	}
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
	if paused {
		s.enter(statePaused)
	} else {
		s.leave(statePaused)
	}
}

// drawForeignBoot has a node boot that nobody of Aegis told to.
func (s *schedule) drawForeignBoot() {
	name, at := s.trouble()
	s.at(at, func() { s.bootForeign(name) })
}

func (s *schedule) bootForeign(name string) {
	if s.chance("cured by a boot "+name) < 0.5 {
		s.fix(name, "reboot")
	}
	s.logf("world: %s boots by itself", name)
	s.edit(name, func(n *corev1.Node) { n.Status.NodeInfo.BootID = bootAfter(n) })
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
		if s.nodes[name] != nil && excluded(s.nodes[name]) {
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
