package sop_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"aegis.io/aegis/sop/soptest"
)

// What others tell, and what is not so, or too much.

// drawLies draws rules that are not evaluated, what is said of power supplies, and texts of any length. It has chances of its own, so that
// what else a seed means stays as it was.
func (s *schedule) drawLies(seed uint64) {
	others := s.rng
	defer func() { s.rng = others }()
	s.rng = rand.New(rand.NewPCG(seed, 43))
	if s.rng.IntN(3) == 0 {
		s.drawStop()
	}
	for _, o := range s.sick {
		if o.condition == simReady && s.rng.IntN(2) == 0 {
			s.drawClaim(o)
		}
	}
	if s.rng.IntN(3) == 0 {
		s.drawLongText()
	}
}

// drawStop has Prometheus not evaluate the rule of a condition, mostly amid a repair.
func (s *schedule) drawStop() {
	o, failing := s.sick[s.rng.IntN(len(s.sick))], s.rng.IntN(2) == 0
	if o.condition == simReady {
		return
	}
	from := o.at + s.within(40*time.Minute)
	s.at(from, func() { s.Stop(o.condition, failing) })
	s.at(from+time.Minute+s.within(2*time.Hour), func() { s.Resume(o.condition) })
}

// drawClaim has somebody say that the power of a node is off before the node was last alive, at a time that is to come, or in words that
// nobody knows.
func (s *schedule) drawClaim(o simOutbreak) {
	before := func(at time.Duration) string { return "off@" + s.Start().Add(at).UTC().Format(time.RFC3339) }
	old := before(max(0, o.at-time.Minute-s.within(time.Hour)))
	claim := []string{old, old, "off@2099-01-01T00:00:00Z", "off@yesterday", "OFF", "down"}[s.rng.IntN(6)]
	s.at(o.at+s.within(10*time.Minute), func() {
		if s.Nodes[o.node] != nil && !s.Off(o.node) {
			s.ClaimPower(o.node, claim)
		}
	})
	if s.rng.IntN(2) == 0 {
		return
	}
	// What was true is left on the node, which falls silent again.
	back := o.at + 30*time.Minute + s.within(time.Hour)
	s.at(back-20*time.Minute, func() { s.SetPower(o.node, "off") })
	s.at(back, func() { s.Recover(o.node) })
	s.at(back+2*time.Minute+s.within(time.Hour), func() { s.Silent(o.node) })
}

// drawLongText has a person write more into a ticket than one may hold.
func (s *schedule) drawLongText() {
	o, size := s.sick[s.rng.IntN(len(s.sick))], []int{1000, 4200, 12_000}[s.rng.IntN(3)]
	do := func() {
		if t := s.ticketOn(o.node); t != nil && t.owned() {
			text := s.Nodes[o.node].Annotations[soptest.TicketAnnotation]
			s.Logf("person writes %d bytes into the ticket on %s", size, o.node)
			s.annotateTicket(o.node, fmt.Sprintf("%snotes: %s\n", text, strings.Repeat("a", size)))
		}
	}
	steps := []string{actDiagnose, actDrain, actReboot, actVerify, actHealthcheck}
	s.afterStep(o, steps[s.rng.IntN(len(steps))], do)
}

// verifiesWhatIsEvaluated judges that a condition whose rule is not evaluated, or fails, is not taken for gone.
func verifiesWhatIsEvaluated(o *oracle, m moment) {
	key := m.incident.key
	if began := o.c.Stuck(key); !began.IsZero() && m.p.idle(m.node, began) > simThought {
		m.violated("p%d takes %s on %s for repaired although its rule is not evaluated", m.p.id, key.Condition, m.node)
	}
}
