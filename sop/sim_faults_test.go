package sop_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"aegis.io/aegis/sop/policy"

	"aegis.io/aegis/sop/soptest"

	"aegis.io/aegis/rules/prom"
)

// What happens to the machines, and what is between Aegis and them.

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
		if c := s.Faults[key]; c != nil {
			c.Unseen = true
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
		remedies = map[string]int{soptest.RestartPod: 1 + s.rng.IntN(2)}
	}
	raise := func() {
		if s.Nodes[key.Node] == nil {
			return
		}
		s.Hold(key, true)
		s.Faults[key].Remedies = maps.Clone(remedies)
		s.Faults[key].Unseen = s.Faults[key].Unseen || key.Condition == simDevices
	}
	s.at(begin, raise)
	for at := begin; s.rng.IntN(4) == 0; {
		at += s.within(20 * time.Minute)
		s.at(at, func() { s.Hold(key, false) })
		at += s.within(20 * time.Minute)
		s.at(at, raise)
	}
	if s.rng.IntN(4) == 0 { // A repaired node falls ill again.
		s.at(begin+8*time.Minute+s.within(20*time.Minute), raise)
	}
	if s.rng.IntN(2) == 0 || len(remedies) == 0 {
		s.at(begin+s.within(2*time.Hour), func() { s.Hold(key, false) })
	}
}

// drawNotReady draws a node that falls silent, and perhaps comes back. Some are seen to be without power, and not all of those
// come back on the same boot.
func (s *schedule) drawNotReady(name string, begin time.Duration) {
	s.at(begin, func() { s.Silent(name) })
	lasts := s.within(time.Hour)
	if s.rng.IntN(2) == 0 {
		s.at(begin+s.within(10*time.Minute), func() { s.SetPower(name, "off") })
		lasts += 10 * time.Minute
	}
	if s.rng.IntN(4) > 0 {
		s.at(begin+lasts, func() { s.Recover(name) })
		s.at(begin+lasts+s.within(time.Minute), func() { s.SetPower(name, "on") })
	}
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
		pool := fmt.Sprint("pool-", s.rng.IntN(len(s.pools)))
		s.at(begin+s.within(time.Hour), func() {
			d := s.leader.dispatcher
			s.leader.obey("release storm", pool, func(ctx context.Context) error {
				return d.ReleaseStorm(ctx, condition, pool, policy.Order{By: "alice"})
			})
		})
	}
}

// drawState draws a state of the world that lasts for a while.
func (s *schedule) drawState(state string, most time.Duration) {
	_, at := s.trouble()
	s.at(at, func() { s.Enter(state) })
	s.at(at+s.within(most), func() { s.Leave(state) })
}

func (s *schedule) drawSilence() {
	kinds := []string{simReboot, simReset, simRemedy, simIsolate, simDevices, simReady}
	name, at := s.trouble()
	until := at + s.within(2*time.Hour)
	for _, kind := range kinds {
		state := soptest.SilenceOf(prom.Key{Node: name, Condition: kind})
		s.at(at, func() { s.Enter(state) })
		s.at(until, func() { s.Leave(state) })
	}
}

func (s *schedule) drawBlindness() {
	states := []string{soptest.PrometheusDown, soptest.AlertmanagerDown, soptest.AlertmanagerForgot}
	s.drawState(states[s.rng.IntN(len(states))], time.Hour)
}

func (s *schedule) drawOutage() {
	_, at := s.trouble()
	s.at(at, func() { s.SetOutage(true) })
	s.at(at+s.within(20*time.Minute), func() { s.SetOutage(false) })
}

// drawBrokenWatch has the leader's cache stand still for a while.
func (s *schedule) drawBrokenWatch() {
	_, at := s.trouble()
	var cache *soptest.Cache
	s.at(at, func() {
		cache = s.leader.cache
		cache.Break()
	})
	s.at(at+s.within(20*time.Minute), func() {
		cache.Mend()
		s.Mended = time.Now()
		s.Logf("world: the watch works again")
	})
}

// drawReplacement has a node deleted, and mostly another one created under its name.
func (s *schedule) drawReplacement() {
	name, at := s.trouble()
	after := s.within(20 * time.Minute)
	s.at(at, func() { s.replaceNode(name, after) })
}

func (s *schedule) replaceNode(name string, after time.Duration) {
	node := s.Nodes[name]
	if node == nil {
		return
	}
	s.Set(excludedState(name), false)
	s.DeleteNode(name)
	if s.Chance("created "+name) < 0.8 {
		s.Later(after, func() { s.AddMachine(name, map[string]string{simPool: node.Labels[simPool]}) })
	}
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
		s.Enter(soptest.SilenceOf(key))
		s.Hold(key, true)
		startsAt = time.Now().Add(simPending)
	})
	heard := begin + simPending + time.Second
	s.at(heard, func() { s.Webhook(key, startsAt, true) })
	over := heard + time.Minute + s.within(10*time.Minute)
	blind := over
	switch which {
	case 0:
		s.at(over-time.Second, func() { s.Hold(key, false); s.Webhook(key, startsAt, false) })
		s.at(over+time.Second, func() { s.Webhook(key, startsAt, true) })
	case 1:
		s.at(over-time.Second, func() { s.replaceNode(key.Node, time.Second) })
		s.at(over+10*time.Second, func() { s.Webhook(key, startsAt, true) })
	default:
		blind = heard + time.Second
		over += 3 * time.Minute
	}
	s.at(blind, func() { s.Enter(soptest.PrometheusDown) })
	s.at(over, func() { s.Leave(soptest.SilenceOf(key)) })
	s.at(over+s.within(10*time.Minute)+time.Minute, func() { s.Leave(soptest.PrometheusDown); s.Hold(key, false) })
}

// drawForeignBoot has a node boot without an order of Aegis.
func (s *schedule) drawForeignBoot() {
	name, at := s.trouble()
	s.at(at, func() { s.bootForeign(name) })
}

func (s *schedule) bootForeign(name string) {
	if s.Chance("fixed by a boot "+name) < 0.5 {
		s.Fix(name, "reboot")
	}
	s.Reboot(name)
}

// drawJobController draws how badly Jobs are looked after: suspended by a queueing controller, forgotten, given up, without their pods, or
// by nobody for a while.
func (s *schedule) drawJobController() {
	if s.rng.IntN(2) == 0 {
		s.Weather.PodsCollected, s.Weather.JobsForgotten, s.Weather.JobsGivenUp = s.rng.Float64()*0.2, s.rng.Float64()*0.1, s.rng.Float64()*0.1
	}
	switch s.rng.IntN(4) {
	case 0:
		s.drawState(soptest.JobControllerDown, time.Hour)
	case 1:
		s.drawState(soptest.JobsSuspended, 4*time.Hour)
	}
}
