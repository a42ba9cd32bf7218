package sop_test

import (
	"time"

	"aegis.io/aegis/sop/soptest"

	"aegis.io/aegis/rules/prom"
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
			s.SetOutage(true)
			s.Later(lasts, func() { s.SetOutage(false) })
			s.Later(lasts/3, alone)
		}
	}
	if s.rng.IntN(2) == 0 {
		at, delay := do, s.within(5*time.Second)-time.Second
		do = func() { s.Later(delay, at) }
	}
	if s.rng.IntN(2) == 0 {
		steps := []string{
			actDiagnose, actDrain, actDrainGPU, actWaitIdle, actRemedy, actReset, actReboot, actWait,
			actVerify, actHealthcheck, actHealthcheck, actUncordon, actUncordon, actRestartPod,
		}
		s.afterStep(o, steps[s.rng.IntN(len(steps))], do)
		return
	}
	verbs := []soptest.Verb{soptest.VerbPatch, soptest.VerbPatch, soptest.VerbPatch, soptest.VerbGet, soptest.VerbGet, soptest.VerbObserve, soptest.VerbObserve, soptest.VerbCreate}
	s.afterCall(o, verbs[s.rng.IntN(len(verbs))], 1+s.rng.IntN(12), do)
}

// meddling lists what may happen at an awkward moment.
func (s *schedule) meddling(o simOutbreak, lasts time.Duration) []func() {
	silence := soptest.SilenceOf(prom.Key{Node: o.node, Condition: o.condition})
	return []func(){
		func() { s.Supervise(o.node, "alice") },
		func() { s.Supervise(o.node, "alice") },
		func() { s.claim(o.node) },
		func() { s.claim(o.node) },
		func() { s.remove(o.node) },
		func() { s.personUncordons(o.node) },
		func() { s.recordon(o.node) },
		func() { s.recordon(o.node) },
		func() { s.personUncordons(o.node); s.Later(time.Minute, func() { s.personCordons(o.node) }) },
		func() { s.setPaused(true); s.Later(lasts, func() { s.setPaused(false) }) },
		func() { s.exclude(o.node); s.Later(lasts, func() { s.include(o.node) }) },
		func() { s.Enter(silence); s.Later(lasts, func() { s.Leave(silence) }) },
		func() { s.Enter(silence); s.Later(lasts, func() { s.Leave(silence) }) },
		func() { s.Enter(soptest.PrometheusDown); s.Later(lasts, func() { s.Leave(soptest.PrometheusDown) }) },
		func() { s.replaceNode(o.node, lasts/8) },
		func() { s.replaceNode(o.node, time.Millisecond) },
		func() { s.bootForeign(o.node) },
		func() { s.bootForeign(o.node) },
		func() { s.Recover(o.node); s.SetPower(o.node, "on") },
		func() { s.leader.heal(prom.Key{Node: o.node, Condition: o.condition}) },
		func() { s.order(o.node, 0) },
		func() { s.order(o.node, 1) },
		func() { s.order(o.node, 2) },
		func() { s.orderFor(lasts, pausedAnnotation, "true") },
		func() { s.orderFor(lasts, modesAnnotation, modesText(o.condition, prom.ModeObserve)) },
		func() { s.orderFor(lasts, stormsAnnotation, "{") },
		s.crash,
	}
}

// drawStaleAct takes the API server or the leader away between the permission for an act and the act, and has the act forbidden
// before they are back.
func (s *schedule) drawStaleAct() {
	o := s.sick[s.rng.IntN(len(s.sick))]
	silence := soptest.SilenceOf(prom.Key{Node: o.node, Condition: o.condition})
	outage := 10*time.Second + s.within(5*time.Minute)
	lasts := outage + 20*time.Minute
	forbid := []func(){
		func() { s.setPaused(true); s.Later(lasts, func() { s.setPaused(false) }) },
		func() { s.exclude(o.node); s.Later(lasts, func() { s.include(o.node) }) },
		func() { s.Enter(silence); s.Later(lasts, func() { s.Leave(silence) }) },
	}[s.rng.IntN(3)]
	away := []func(){
		func() { s.SetOutage(true); s.Later(outage, func() { s.SetOutage(false) }) },
		s.crash,
	}[s.rng.IntN(2)]
	verb := []soptest.Verb{soptest.VerbObserve, soptest.VerbPatch}[s.rng.IntN(2)]
	s.afterCall(o, verb, 2+s.rng.IntN(5), func() { away(); s.Later(time.Second, forbid) })
}

// drawChangeOfMind has people lower the mode of a condition amid its repair, and leave it so for longer than a step lasts.
func (s *schedule) drawChangeOfMind() {
	o := s.sick[s.rng.IntN(len(s.sick))]
	mode := []prom.Mode{prom.ModeOff, prom.ModeObserve, prom.ModeApprove}[s.rng.IntN(3)]
	lasts := 10*time.Minute + s.within(time.Hour)
	verb := []soptest.Verb{soptest.VerbObserve, soptest.VerbPatch}[s.rng.IntN(2)]
	s.afterCall(o, verb, 1+s.rng.IntN(6), func() { s.orderFor(lasts, modesAnnotation, modesText(o.condition, mode)) })
}

// drawLastMoment has a person make the cordon of a node their own while Aegis is about to return it to service.
func (s *schedule) drawLastMoment() {
	o := s.sick[s.rng.IntN(len(s.sick))]
	theirs := []func(string){s.claim, s.recordon}[s.rng.IntN(2)]
	s.afterStep(o, []string{actUncordon, actUncordon, actHealthcheck}[s.rng.IntN(3)], func() { theirs(o.node) })
}

// drawSwap has another machine take the name of a node between the moment in which Aegis looks at it and the write that follows.
func (s *schedule) drawSwap() {
	o := s.sick[s.rng.IntN(len(s.sick))]
	verb := []soptest.Verb{soptest.VerbObserve, soptest.VerbObserve, soptest.VerbPatch, soptest.VerbGet}[s.rng.IntN(4)]
	s.afterCall(o, verb, 1+s.rng.IntN(3), func() { s.replaceNode(o.node, time.Millisecond) })
}

// afterCall has something happen right after one of the calls about a node that are made once its fault has begun.
func (s *schedule) afterCall(o simOutbreak, verb soptest.Verb, calls int, do func()) {
	s.at(o.at, func() { s.AfterCall(o.node, verb, calls, do) })
}

// afterStep has something happen right after the next step of the action on the node has been journaled.
func (s *schedule) afterStep(o simOutbreak, step string, do func()) {
	s.at(o.at, func() { s.AfterStep(o.node, step, do) })
}
