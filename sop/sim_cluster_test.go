package sop_test

import (
	"fmt"
	"iter"
	"math/rand/v2"

	corev1 "k8s.io/api/core/v1"
)

// The limits of the whole cluster, above those of the pools.

// simEverywhere is what the product calls all nodes.
const simEverywhere = "cluster"

// drawClusterLimits bounds the whole cluster in a third of the schedules, half of them with ten pools whose own limits are as wide as can
// be. Of dice of its own, so that seeds mean what they meant.
func (s *schedule) drawClusterLimits(seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 17))
	if rng.IntN(3) > 0 {
		return
	}
	s.bounds = simPoolSettings{
		name: simEverywhere, maxPercent: 10 + rng.IntN(40), maxDestructive: 1 + rng.IntN(2), stormNodes: []int{0, 0, 1, 2, 3}[rng.IntN(5)],
		stormWindow: s.pools[0].stormWindow, stormRelease: s.pools[0].stormRelease,
	}
	if rng.IntN(2) == 0 {
		s.scatter(10)
	}
}

// scatter puts the nodes into as many pools, none of which keeps more than one of them in service.
func (s *schedule) scatter(pools int) {
	first := s.pools[0]
	first.maxPercent, first.maxDestructive, first.stormNodes = 100, pools, 0
	s.pools = nil
	for i := range pools {
		first.name = fmt.Sprint("pool-", i)
		s.pools = append(s.pools, first)
	}
	for i, name := range s.names {
		s.Do(func() {
			s.Amend(name, func(n *corev1.Node) { n.Labels[simPool] = fmt.Sprint("pool-", i%pools) })
		})
	}
}

// has reports whether the node is of the pool. Of the cluster they all are.
func (c *cluster) has(pool simPoolSettings, node *corev1.Node) bool {
	return pool.name == simEverywhere || c.poolOf(node).name == pool.name
}

// limitsOf returns what bounds the node: its pool, and the cluster if that is bounded.
func (c *cluster) limitsOf(node *corev1.Node) []simPoolSettings {
	if c.bounds.name == "" {
		return []simPoolSettings{c.poolOf(node)}
	}
	return []simPoolSettings{c.poolOf(node), c.bounds}
}

// crossesPools reports whether the nodes are of several pools, as the process knows.
func (o *oracle) crossesPools(p *simProcess, names iter.Seq[string]) bool {
	pools := make(map[string]bool)
	for name := range names {
		pools[o.c.poolOf(p.cache.Shown[name]).name] = true
	}
	return len(pools) > 1
}

// roomFor reports whether the pool of a node that waits has a place for it, as the process knew when it sent the write.
func (o *oracle) roomFor(m moment, node *corev1.Node) bool {
	pool := o.c.poolOf(node)
	m.node = node.Name
	size, out := o.outOfService(m, pool)
	return len(out) < pool.allowed(size)
}

// slotFor reports whether the pool of a node that waits has a slot for it, as the process knows.
func (o *oracle) slotFor(m moment, node *corev1.Node) bool {
	pool := o.c.poolOf(node)
	return len(o.busy(m.p, node.Name, pool)) < pool.maxDestructive
}
