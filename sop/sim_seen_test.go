package sop_test

import (
	"math/rand/v2"
	"slices"
	"time"

	"aegis.io/aegis/sop/soptest"
)

// drawSights has Prometheus lose a node, start empty, or be another one than the one that has the alerts.
func (s *schedule) drawSights(seed uint64) {
	if s.rng = rand.New(rand.NewPCG(seed, 41)); s.rng.IntN(2) == 0 {
		return
	}
	for range 1 + s.rng.IntN(3) {
		name, at := s.trouble()
		states := []string{soptest.UnseenOf(name), soptest.UnseenOf(name), soptest.ElsewhereOf(name), soptest.PrometheusEmpty}
		state := states[s.rng.IntN(len(states))]
		lasts := time.Minute + s.within(2*time.Hour)
		s.at(at, func() { s.Enter(state) })
		s.at(at+lasts, func() { s.Leave(state) })
	}
}

// verifiesWhatIsSeen judges the end of a verification: every answer for long enough was that the condition is gone, Prometheus sees the node,
// and no Alertmanager lists the condition.
func verifiesWhatIsSeen(o *oracle, m moment) {
	verifiesForLong(o, m)
	verifies := m.old.ticket != nil && slices.ContainsFunc(m.old.ticket.running(), func(s simStep) bool { return s.Action == actVerify })
	if !verifies || m.now.ticket.last(actVerify).Status != isSucceeded {
		return
	}
	verifiesWhatIsEvaluated(o, m)
	key := m.incident.key
	for _, state := range []string{soptest.UnseenOf(m.node), soptest.PrometheusEmpty} {
		if o.c.On(state) && m.p.idle(m.node, o.c.Began(state)) > simThought {
			m.violated("p%d takes %s on %s for repaired although %s", m.p.id, key.Condition, m.node, state)
		}
	}
	elsewhere, f := soptest.ElsewhereOf(m.node), o.c.Faults[key]
	if !o.c.On(elsewhere) || o.c.On(soptest.AlertmanagerForgot) || f == nil || f.Listed().IsZero() {
		return
	}
	if m.p.idle(m.node, latest(o.c.Began(elsewhere), f.Listed())) > simThought {
		m.violated("p%d takes %s on %s for repaired although Alertmanager lists it", m.p.id, key.Condition, m.node)
	}
}
