package sop

import (
	"time"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/ticket"
)

// What happens at the most awkward moment: right after a call of Aegis, before it can do anything about it.

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
		func() { s.orderFor(lasts, PausedAnnotation, "true") },
		func() { s.orderFor(lasts, ModesAnnotation, modesText(o.condition, prom.ModeObserve)) },
		func() { s.orderFor(lasts, StormsAnnotation, "{") },
		s.crash,
	}
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
	s.afterCall(o, verb, 1+s.rng.IntN(6), func() { s.orderFor(lasts, ModesAnnotation, modesText(o.condition, mode)) })
}

// drawLastMoment has a person make the cordon of a node their own while Aegis is about to return it to service.
func (s *schedule) drawLastMoment() {
	o := s.sick[s.rng.IntN(len(s.sick))]
	theirs := []func(string){s.claim, s.recordon}[s.rng.IntN(2)]
	s.afterStep(o, []ticket.Action{ticket.Uncordon, ticket.Uncordon, ticket.Healthcheck}[s.rng.IntN(3)], func() { theirs(o.node) })
}

// drawSwap has another machine take the name of a node between the moment in which Aegis looks at it and the write that follows.
func (s *schedule) drawSwap() {
	o := s.sick[s.rng.IntN(len(s.sick))]
	verb := []string{verbObserve, verbObserve, verbPatch, verbGet}[s.rng.IntN(4)]
	s.afterCall(o, verb, 1+s.rng.IntN(3), func() { s.replaceNode(o.node, time.Millisecond) })
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
