package sop_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"aegis.io/aegis/sop/policy"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/soptest"
)

// What people do meanwhile.

// drawRequest has a person ask for the repair of a node.
func (s *schedule) drawRequest() {
	kinds := []string{simReboot, simReset, simRemedy, simIsolate, simDevices, simNote}
	name, at := s.trouble()
	key := prom.Key{Node: name, Condition: kinds[s.rng.IntN(len(kinds))]}
	s.at(at, func() { s.leader.heal(key) })
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
			return d.SetMode(ctx, condition, mode, policy.Order{By: "alice"})
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
		s.at(at, func() { s.EditLease(pausedAnnotation, "moving racks") })
	} else {
		s.at(at, func() {
			d := s.leader.dispatcher
			s.leader.obey("pause", "", func(ctx context.Context) error { return d.Pause(ctx, policy.Order{By: "alice"}) })
		})
	}
	s.at(end, func() { s.EditLease(pausedAnnotation, "") })
}

// drawPermission draws what is done while Alertmanager is away, and whether people silence a fault at Aegis itself. It has chances of its
// own, so that what else a seed means stays as it was.
func (s *schedule) drawPermission(seed uint64) {
	others := s.rng
	defer func() { s.rng = others }()
	s.rng = rand.New(rand.NewPCG(seed, 4))
	if s.isolates = s.rng.IntN(2) == 0; s.isolates && s.rng.IntN(2) == 0 {
		from := max(0, s.sick[s.rng.IntN(len(s.sick))].at-s.within(10*time.Minute))
		s.at(from, func() { s.Enter(soptest.AlertmanagerDown) })
		s.at(from+s.within(time.Hour), func() { s.Leave(soptest.AlertmanagerDown) })
	}
	if s.rng.IntN(2) == 0 {
		return
	}
	o := s.sick[s.rng.IntN(len(s.sick))]
	at, lasts := o.at+s.within(4*time.Minute), 10*time.Minute+s.within(time.Hour)
	s.at(at, func() {
		if s.EditLease(silencesAnnotation, fmt.Sprintf(
			`[{"id": "1", "matchers": ["node=%s"], "endsAt": "2099-01-01T00:00:00Z", "comment": "let me look"}]`, o.node)) {
			s.Enter(silencedState(o.node))
		}
	})
	s.at(at+lasts, func() {
		s.EditLease(silencesAnnotation, "")
		s.Leave(silencedState(o.node))
	})
}

// silencedState is the state of the cluster in which people silence a node at Aegis.
func silencedState(node string) string { return orderedSilence + node }

// drawBrokenOrders has people write orders that cannot be read.
func (s *schedule) drawBrokenOrders() {
	_, at := s.trouble()
	s.at(at, func() { s.EditLease(stormsAnnotation, "{") })
	s.at(at+s.within(time.Hour), func() { s.EditLease(stormsAnnotation, "") })
}

// orderFor has people write an order on the Lease, and take it back after a while.
func (s *schedule) orderFor(lasts time.Duration, key, value string) {
	s.EditLease(key, value)
	s.Later(lasts, func() { s.EditLease(key, "") })
}

// modesText is how people write the mode of one condition on the Lease.
func modesText(condition string, mode prom.Mode) string {
	return fmt.Sprintf(`{%q: {"mode": %q}}`, condition, mode)
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
	d, o := s.leader.dispatcher, policy.NodeOrder{Node: name, By: "alice", Reason: "it is mine"}
	switch which {
	case 0:
		for _, status := range s.leader.queue.Statuses(name) {
			o.Condition, o.Device = status.Condition, status.ID
			s.oracle.approvals[status.Key()] = true
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

// recordon makes the cordon of a node that of a person, who has undone the one that was there.
func (s *schedule) recordon(name string) {
	if s.Cordoned(name) {
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
	if !s.Cordoned(name) {
		s.oracle.cordoner[name] = cordon{person: true, at: time.Now()}
		s.Cordon(name)
	}
}

func (s *schedule) personUncordons(name string) {
	if s.Cordoned(name) {
		delete(s.oracle.cordoner, name)
		s.Uncordon(name)
	}
}

// claim makes the cordon of a node a person's own.
func (s *schedule) claim(name string) {
	if s.Claim(name, "alice") {
		s.oracle.cordoner[name] = cordon{person: true, at: time.Now()}
	}
}

// drawCheck has a person cordon a node, say later that they are done with it, with kubectl or over the API, and sometimes think better
// of it.
func (s *schedule) drawCheck() {
	name, at := s.trouble()
	if s.rng.IntN(4) > 0 {
		s.at(at, func() { s.personCordons(name) })
	}
	asked := at + s.within(40*time.Minute)
	for range 1 + s.rng.IntN(2) {
		api := s.rng.IntN(2) == 0
		s.at(asked, func() { s.requestCheck(name, api) })
		asked += s.within(5 * time.Minute)
	}
	if s.rng.IntN(2) == 0 {
		s.at(asked, func() { s.recordon(name) })
	}
	if s.rng.IntN(4) == 0 {
		s.at(asked, func() { s.exclude(name) })
		s.at(asked+s.within(time.Hour), func() { s.include(name) })
	}
	if s.rng.IntN(3) == 0 {
		s.afterStep(simOutbreak{node: name, condition: simCordon, at: at}, actHealthcheck, func() { s.recordon(name) })
	}
}

// requestCheck has a person ask for a check of the node, which lends the cordon that is there.
func (s *schedule) requestCheck(name string, api bool) {
	if s.Nodes[name] == nil {
		return
	}
	s.oracle.asked[name] = time.Now()
	if c, cordoned := s.oracle.cordoner[name]; cordoned && c.person && c.asked.IsZero() {
		// Whoever asks again meanwhile asks for the same check.
		c.asked = time.Now()
		s.oracle.cordoner[name] = c
	}
	if api {
		s.leader.check(name)
		return
	}
	s.RequestCheck(name)
}

// drawTakeOver has people take over whatever tickets there are then, and mostly give them back.
func (s *schedule) drawTakeOver() {
	_, at := s.trouble()
	all := func(who string) func() {
		return func() {
			for _, name := range s.names {
				s.Supervise(name, who)
			}
		}
	}
	s.at(at, all("alice,bob"))
	if s.rng.IntN(3) > 0 {
		s.at(at+s.within(time.Hour), all(aegisSelf))
	}
}

func (s *schedule) ticketOn(name string) *simTicket {
	if s.Nodes[name] == nil {
		return nil
	}
	return recordOf(s.Nodes[name]).ticket
}

// drawNoteInHand has people told of something on a node that is soon to fall ill, and one of them take it in hand before.
func (s *schedule) drawNoteInHand() {
	o := s.sick[s.rng.IntN(len(s.sick))]
	key := prom.Key{Node: o.node, Condition: simNote}
	at := max(0, o.at-2*time.Minute-s.within(10*time.Minute))
	s.at(at, func() { s.Hold(key, true) })
	s.at(at+2*time.Minute, func() { s.Supervise(o.node, "alice") })
	if s.rng.IntN(2) == 0 {
		s.at(at+s.within(2*time.Hour), func() { s.Hold(key, false) })
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
	if known := s.oracle.incidents[t.ID]; known != nil {
		known.removed = true
	}
	s.RemoveTicket(name)
}

func (s *schedule) drawExclusion() {
	name, at := s.trouble()
	s.at(at, func() { s.exclude(name) })
	s.at(at+s.within(2*time.Hour), func() { s.include(name) })
}

func (s *schedule) exclude(name string) {
	if s.Nodes[name] == nil {
		return
	}
	s.Enter(excludedState(name))
	s.Exclude(name, true)
}

func (s *schedule) include(name string) {
	s.Leave(excludedState(name))
	s.Exclude(name, false)
}

func (s *schedule) drawPause() {
	_, at := s.trouble()
	s.at(at, func() { s.setPaused(true) })
	s.at(at+s.within(time.Hour), func() { s.setPaused(false) })
}

func (s *schedule) setPaused(paused bool) {
	s.halted = paused
	if paused {
		s.Enter(statePaused)
	} else {
		s.Leave(statePaused)
	}
}
