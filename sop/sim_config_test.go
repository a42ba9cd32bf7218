package sop_test

import (
	"math/rand/v2"
	"time"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/rules"
)

// The configuration that people change while Aegis runs: rules that are renamed and removed, limits, and whether Aegis may repair
// control-plane nodes.

const (
	stateRemoved      = "no rule names " + simReboot
	controlPlaneLabel = "node-role.kubernetes.io/control-plane"
)

func controlPlaneState(node string) string { return node + " is of the control plane" }

// drawConfiguration draws changes, of dice of their own, so that seeds mean what they meant.
func (s *schedule) drawConfiguration(seed uint64) {
	s.managesControl, s.catalogue = true, s.rules().asIs
	if s.rng = rand.New(rand.NewPCG(seed, 61)); s.rng.IntN(2) == 0 {
		return
	}
	changes := []func(){s.drawRename, s.drawRemovedRule, s.drawControlPlane, s.drawControlPlane, s.drawOtherLimits, s.drawOtherLimits}
	for range 1 + s.rng.IntN(3) {
		changes[s.rng.IntN(len(changes))]()
	}
}

// configure plans a change of the configuration, which every process reads at once.
func (s *schedule) configure(at time.Duration, change func()) {
	s.events = append(s.events, simEvent{at: at, do: func() {
		s.Do(change)
		s.reload()
	}})
}

// reload has the processes read their configuration. One that is stopped reads it when it goes on.
func (s *schedule) reload() {
	s.Lock()
	processes := s.processes
	s.Unlock()
	for _, p := range processes {
		s.background.Go(func() { p.reload() })
	}
}

func (p *simProcess) reload() {
	for {
		p.Lock()
		gone, frozen, catalogue := p.client.Dead || p.ctx.Err() != nil, p.client.Frozen(), p.catalogue
		p.Unlock()
		switch {
		case gone:
			return
		case !frozen:
			p.intake.store.Swap(catalogue)
			p.queue.Reprioritise(catalogue.Renew)
			p.dispatcher.Reconsider()
			return
		case sleep(p.ctx, time.Second) != nil:
			return
		}
	}
}

// drawRename has a new version of the rules call a condition by another name, and the version be taken back.
func (s *schedule) drawRename() {
	_, at := s.trouble()
	s.configure(at, func() { s.useRules(s.rules().renamed) })
	if s.rng.IntN(2) == 0 {
		s.configure(at+s.within(2*time.Hour), func() { s.useRules(s.rules().asIs) })
	}
}

// drawRemovedRule has people remove a rule, and put it back.
func (s *schedule) drawRemovedRule() {
	_, at := s.trouble()
	s.configure(at, func() { s.useRules(s.rules().removed) })
	s.configure(at+s.within(2*time.Hour), func() { s.useRules(s.rules().asIs) })
}

func (s *schedule) useRules(c *rules.Catalogue) {
	if s.catalogue = c; c == s.rules().removed {
		s.Enter(stateRemoved)
	} else {
		s.Leave(stateRemoved)
	}
}

// drawControlPlane has a node be one of the control plane for a while, which Aegis may repair or not.
func (s *schedule) drawControlPlane() {
	name, at := s.trouble()
	s.at(at, func() { s.setControlPlane(name, true) })
	s.at(at+s.within(4*time.Hour), func() { s.setControlPlane(name, false) })
	switch s.rng.IntN(4) {
	case 0: // It may all the time.
	case 1:
		s.configure(at+s.within(time.Hour), func() { s.manageControlPlane(false) })
	default:
		s.managesControl = false
	}
	s.configure(at+s.within(4*time.Hour), func() { s.manageControlPlane(true) })
}

func (s *schedule) setControlPlane(name string, is bool) {
	s.Edit(name, func(n *corev1.Node) {
		delete(n.Labels, controlPlaneLabel)
		if is {
			n.Labels[controlPlaneLabel] = ""
		}
	})
	s.judgeControlPlane()
}

func (s *schedule) manageControlPlane(may bool) {
	s.managesControl = may
	s.judgeControlPlane()
}

// ofControlPlane returns since when the node is one of the control plane that Aegis may not repair, zero if it is none.
func (c *cluster) ofControlPlane(name string) time.Time {
	if node := c.Nodes[name]; node != nil {
		if _, is := node.Labels[controlPlaneLabel]; is {
			return c.Began(controlPlaneState(name))
		}
	}
	return time.Time{}
}

// judgeControlPlane notes which nodes Aegis may not repair.
func (c *cluster) judgeControlPlane() {
	for name, node := range c.Nodes {
		_, is := node.Labels[controlPlaneLabel]
		c.Set(controlPlaneState(name), is && !c.managesControl)
	}
}

// drawOtherLimits has people tighten or loosen the limits of a pool.
func (s *schedule) drawOtherLimits() {
	_, at := s.trouble()
	i, percent, destructive := s.rng.IntN(len(s.pools)), 5+s.rng.IntN(60), 1+s.rng.IntN(2)
	s.configure(at, func() {
		pool := &s.pools[i]
		s.earlier = append(s.earlier, simEarlier{until: time.Now(), pool: *pool})
		pool.maxPercent, pool.maxDestructive = percent, destructive
	})
}

// simEarlier is a pool as it was configured until then.
type simEarlier struct {
	until time.Time
	pool  simPoolSettings
}

// loosest returns the limits of the pool at their widest since then.
func (c *cluster) loosest(pool simPoolSettings, since time.Time) simPoolSettings {
	for _, e := range c.earlier {
		if e.pool.name == pool.name && !e.until.Before(since) {
			pool.maxPercent = max(pool.maxPercent, e.pool.maxPercent)
			pool.maxDestructive = max(pool.maxDestructive, e.pool.maxDestructive)
		}
	}
	return pool
}

// settleConfiguration takes all changes back but those of limits.
func (s *schedule) settleConfiguration() {
	s.Lock()
	s.useRules(s.rules().asIs)
	for _, name := range s.names {
		if s.Nodes[name] != nil {
			s.setControlPlane(name, false)
		}
	}
	s.manageControlPlane(true)
	s.Unlock()
	s.reload()
}
