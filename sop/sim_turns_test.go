package sop_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/soptest"
)

// Schedules in which an urgent node and one that is not wait for the same place.

// simContests is how many schedules of each kind are tried.
const simContests = 70

// simSilenced is how many silenced nodes are in the way of one that may be repaired.
const simSilenced = 60

// contest is one of them. First is the urgent node, later the other one.
type contest struct {
	*schedule
	first, later string
}

// newContest returns a cluster of one pool in which everything works, with n0 in the way of n1, which is urgent, and of n2, which is not.
func newContest(seed uint64, pool simPoolSettings) *contest {
	s := &schedule{cluster: newCluster(seed, false), rng: rand.New(rand.NewPCG(seed, 3)), lasts: simHours}
	s.Weather = soptest.Weather{Lag: time.Second}
	pool.name = "pool-0"
	s.pools = []simPoolSettings{pool}
	for i := range 4 {
		name := fmt.Sprint("n", i)
		s.names = append(s.names, name)
		s.Do(func() { s.AddMachine(name, map[string]string{simPool: pool.name}) })
	}
	return &contest{schedule: s, first: "n1", later: "n2"}
}

// fallIll has the node fall ill of what a reboot repairs.
func (c *contest) fallIll(at time.Duration, node, condition string) {
	key := prom.Key{Node: node, Condition: condition}
	c.at(at, func() {
		c.Hold(key, true)
		c.Faults[key].Remedies = map[string]int{"reboot": 1}
	})
}

// run lets everything happen until both nodes have had their turn, and reports whether the later one had it before the urgent one,
// which waited for it.
func (c *contest) run(t *testing.T, has func(node string) bool) (overtaken bool) {
	c.leader = c.startProcess()
	defer func() { c.leader.end(sop.ErrStopping) }()
	began, next := time.Now(), 0
	for had := false; !has(c.first) || !had; time.Sleep(time.Second) {
		for ; next < len(c.events) && time.Since(began) >= c.events[next].at; next++ {
			c.events[next].do()
		}
		if !had && has(c.later) {
			had = true
			overtaken = !has(c.first) && c.waited() > simThought
		}
		if time.Since(began) > 2*time.Hour {
			require.Fail(t, "a node has no turn", "%v", c.leader.verdicts.Node(c.first))
		}
	}
	return overtaken
}

// waited returns for how long the urgent node has waited for a place.
func (c *contest) waited() time.Duration {
	for _, d := range c.leader.verdicts.Node(c.first) {
		if d.Condition == simUrgent && d.Verdict.Name == "budget" {
			return time.Since(d.Since)
		}
	}
	return 0
}

// contests counts the schedules in which the later node went first.
func contests(t *testing.T, play func(seed uint64) bool) (overtaken int) {
	for seed := range uint64(simContests) {
		synctest.Test(t, func(*testing.T) {
			if play(seed + 1) {
				overtaken++
			}
		})
	}
	return overtaken
}

func TestTheMostUrgentGetsTheSlot(t *testing.T) {
	t.Parallel()
	require.Zero(t, contests(t, func(seed uint64) bool {
		c := newContest(seed, simPoolSettings{maxPercent: 100, maxDestructive: 1})
		c.fallIll(0, "n0", simReboot)
		c.fallIll(45*time.Second+c.within(20*time.Second), c.later, simPatient)
		c.fallIll(45*time.Second+c.within(20*time.Second), c.first, simUrgent)
		return c.run(t, func(node string) bool {
			c.Lock()
			defer c.Unlock()
			return len(c.oracle.reboots[node]) > 0
		})
	}))
}

func TestTheMostUrgentGetsThePlaceInTheBudget(t *testing.T) {
	t.Parallel()
	require.Zero(t, contests(t, func(seed uint64) bool {
		c := newContest(seed, simPoolSettings{maxPercent: 25, maxDestructive: 4})
		c.at(0, func() { c.personCordons("n0") })
		c.fallIll(c.within(time.Minute), c.later, simPatient)
		c.fallIll(c.within(time.Minute), c.first, simUrgent)
		c.at(3*time.Minute+c.within(time.Minute), func() { c.personUncordons("n0") })
		return c.run(t, func(node string) bool {
			c.Lock()
			defer c.Unlock()
			return c.Cordoned(node) || len(c.oracle.reboots[node]) > 0
		})
	}))
}

// Repairs that people ask for are accepted without room, and wait for it in the same order.
func TestTheMostUrgentRequestGetsThePlaceInTheBudget(t *testing.T) {
	t.Parallel()
	require.Zero(t, contests(t, func(seed uint64) bool {
		c := newContest(seed, simPoolSettings{maxPercent: 25, maxDestructive: 4})
		c.at(0, func() { c.personCordons("n0") })
		for _, key := range []prom.Key{{Node: c.later, Condition: simPatient}, {Node: c.first, Condition: simUrgent}} {
			c.at(10*time.Second+c.within(time.Minute), func() { c.leader.heal(key) })
		}
		c.at(3*time.Minute+c.within(time.Minute), func() { c.personUncordons("n0") })
		return c.run(t, func(node string) bool {
			c.Lock()
			defer c.Unlock()
			return c.Cordoned(node) || len(c.oracle.reboots[node]) > 0
		})
	}))
}

// Nodes that are silenced and still fire are more urgent than the one that may be repaired. None of them keeps the place from it.
func TestSilencedNodesKeepNoPlaceInTheBudget(t *testing.T) {
	t.Parallel()
	for seed := range uint64(5) {
		synctest.Test(t, func(t *testing.T) {
			c := newContest(seed+1, simPoolSettings{maxPercent: 1, maxDestructive: 1})
			c.at(0, func() { c.personCordons("n0") })
			for i := range simSilenced {
				name := fmt.Sprint("s", i)
				c.names = append(c.names, name)
				c.Do(func() { c.AddMachine(name, map[string]string{simPool: "pool-0"}) })
				c.fallIll(c.within(30*time.Second), name, simUrgent)
				c.at(2*time.Minute, func() { c.Enter(soptest.SilenceOf(prom.Key{Node: name, Condition: simUrgent})) })
			}
			c.fallIll(c.within(30*time.Second), c.later, simPatient)
			freed := 4*time.Minute + c.within(time.Minute)
			c.at(freed, func() { c.personUncordons("n0") })
			require.Less(t, c.isolated(t, c.later)-freed, simHold+simThought)
		})
	}
}

// isolated lets everything happen until the node is out of service, and returns when that is.
func (c *contest) isolated(t *testing.T, name string) time.Duration {
	c.leader = c.startProcess()
	defer func() { c.leader.end(sop.ErrStopping) }()
	slices.SortStableFunc(c.events, func(a, b simEvent) int { return cmp.Compare(a.at, b.at) })
	began, next := time.Now(), 0
	for out := false; !out; c.Do(func() { out = c.Cordoned(name) }) {
		for ; next < len(c.events) && time.Since(began) >= c.events[next].at; next++ {
			c.events[next].do()
		}
		if time.Since(began) > 2*time.Hour {
			require.Fail(t, "the node has no turn", "%v", c.leader.verdicts.Node(name))
		}
		time.Sleep(time.Second)
	}
	return time.Since(began)
}

// A condition that is silenced takes its node out of no list that it is in for another one.
func TestASilencedConditionKeepsNoOtherFromWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newContest(1, simPoolSettings{maxPercent: 1, maxDestructive: 1})
		c.Do(func() {
			c.personCordons("n0")
			for _, condition := range []string{simUrgent, simPatient} {
				c.Hold(prom.Key{Node: c.later, Condition: condition}, true)
			}
			c.Enter(soptest.SilenceOf(prom.Key{Node: c.later, Condition: simUrgent}))
		})
		c.leader = c.startProcess()
		defer func() { c.leader.end(sop.ErrStopping) }()
		time.Sleep(4 * simPending)
		for range 2 * int(simHold/time.Second) {
			time.Sleep(time.Second)
			limits, err := c.leader.dispatcher.Limits()
			require.NoError(t, err)
			require.Len(t, limits[0].Waiting, 1, "%v", c.leader.verdicts.Node(c.later))
			require.Equal(t, simPatient, limits[0].Waiting[0].Condition)
		}
	})
}
