package sop_test

import (
	"math/rand/v2"
	"time"

	"k8s.io/utils/clock"

	"aegis.io/aegis/rules/prom"
)

// simSkew is how far the clock of a process is from that of the world at most. Those of Prometheus, Alertmanager and the API server are right.
const simSkew = 2 * time.Minute

// simClock is the clock of a process.
type simClock struct {
	clock.RealClock
	ahead time.Duration
}

func (c simClock) Now() time.Time                  { return c.RealClock.Now().Add(c.ahead) }
func (c simClock) Since(t time.Time) time.Duration { return c.Now().Sub(t) }

// world returns what a time of this clock is on that of the world.
func (c simClock) world(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return t.Add(-c.ahead)
}

// dated returns the finding with its time on the clock of the world.
func (c simClock) dated(f prom.Finding) prom.Finding {
	f.At = c.world(f.At)
	return f
}

// drawClocks gives each process of half of the schedules a clock of its own. Of dice of its own, so that seeds mean what they meant.
func (s *schedule) drawClocks(seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 71))
	if rng.IntN(2) == 0 {
		return
	}
	for range 8 {
		s.clocks = append(s.clocks, time.Duration(rng.Int64N(int64(2*simSkew)))-simSkew)
	}
}

// clockOf returns the clock of the n-th process.
func (c *cluster) clockOf(n int) simClock {
	if len(c.clocks) == 0 {
		return simClock{}
	}
	return simClock{ahead: c.clocks[n%len(c.clocks)]}
}

// skew is by how much a time that some process has written may be too early.
func (c *cluster) skew() time.Duration {
	if len(c.clocks) == 0 {
		return 0
	}
	return simSkew
}
