package sop_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"aegis.io/aegis/election"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/sop/soptest"
)

// The schedules whose processes stand for leader, as replicas of the product do, and what may become of their Lease.

const (
	// simReplicas is how many processes stand for leader.
	simReplicas      = 2
	simLeaseDuration = 45 * time.Second
	simRenewDeadline = 30 * time.Second
	simRetryPeriod   = 10 * time.Second
	// simUnvisited bounds for how long whoever holds the Lease may leave a node alone on which a condition is known to hold, and for how
	// long nobody who works may hold it.
	simUnvisited = 5 * time.Minute
)

// watchedQueue notes when a process takes a node from its queue.
type watchedQueue struct {
	sop.Queue
	p *simProcess
}

// Next takes a node from the queue.
func (q watchedQueue) Next(ctx context.Context) (node string, statuses []prom.AegisNodeStatus, err error) {
	node, statuses, err = q.Queue.Next(ctx)
	if err == nil {
		q.p.Do(func() { q.p.visited[node] = time.Now() })
	}
	return node, statuses, err
}

// standProcess starts Aegis, which stands for leader.
func (c *cluster) standProcess() *simProcess {
	p := c.newProcess()
	c.Do(func() {
		p.stands, p.first, p.deposed = true, time.Time{}, time.Now()
	})
	candidate := election.New(election.Options{
		Client: p.client.Election(), Namespace: "monitoring", Name: simLease, Identity: p.identity(),
		LeaseDuration: simLeaseDuration, RenewDeadline: simRenewDeadline, RetryPeriod: simRetryPeriod, Work: p.term, Saw: p.orders.See, Logger: p.logger(),
	})
	go func() {
		defer close(p.ended)
		if err := candidate.Run(p.ctx); err != nil && p.ctx.Err() == nil {
			p.violated("p%d cannot lead: %v", p.id, err)
		}
	}()
	return p
}

// term works while the process leads. As in the product, its procedures are told in their own words why they have to stop.
func (p *simProcess) term(term context.Context, _ context.CancelCauseFunc) error {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(term))
	defer cancel(nil)
	defer context.AfterFunc(term, func() { cancel(causeOf(term)) })()
	p.Do(func() {
		p.Logf("p%d leads", p.id)
		p.began, p.leading = time.Now(), true
		if p.first.IsZero() {
			p.first = p.began
		}
	})
	defer p.Do(func() { p.leading = false })
	err := p.work(ctx)
	if errors.Is(err, sop.ErrLeaseLost) && !errors.Is(err, election.ErrLost) {
		err = fmt.Errorf("%w: %w", election.ErrLost, err)
	}
	return err
}

func causeOf(term context.Context) error {
	cause := context.Cause(term)
	switch {
	case errors.Is(cause, election.ErrLost):
		return fmt.Errorf("%w: %w", sop.ErrLeaseLost, cause)
	case errors.Is(cause, sop.ErrStopping), errors.Is(cause, sop.ErrLeaseLost), errors.Is(cause, soptest.ErrDead):
		return cause
	}
	return fmt.Errorf("%w: %w", sop.ErrStopping, cause)
}

// leads reports whether the process takes alerts and requests: where there is no election, it does from its start to its end.
func (p *simProcess) leads() bool { return !p.stands || p.leading }

// drawElection has the processes of some schedules stand for leader, and draws what becomes of their Lease.
func (s *schedule) drawElection(seed uint64) {
	s.rng = rand.New(rand.NewPCG(seed, 6))
	if s.stands = s.rng.IntN(3) == 0; !s.stands {
		return
	}
	s.elected = func(p *simProcess) { s.leader = p }
	for range 1 + s.rng.IntN(3) {
		_, at := s.trouble()
		what := s.seizures()
		do := what[s.rng.IntN(len(what))]
		for range 1 + s.rng.IntN(3) { // What somebody does once with kubectl, they do again when it does not help.
			s.at(at, do)
			at += s.within(2 * time.Minute)
		}
	}
}

// seizures lists what may become of the Lease, and of who holds it.
func (s *schedule) seizures() []func() {
	frozen := s.within(10 * time.Minute)
	return []func(){
		func() { s.Logf("person clears the holder of the Lease"); s.Elect("") },
		func() { s.DeleteLease() },
		func() { s.Logf("person makes somebody else the holder of the Lease"); s.Elect("mallory") },
		func() { s.usurp() },
		func() { s.leader.client.Freeze(frozen) },
		func() { s.leader.client.Freeze(simLeaseDuration + frozen/4) },
	}
}

// usurp makes another process the holder of the Lease, which the one that leads does not know.
func (s *schedule) usurp() {
	for _, p := range s.processes {
		if p != s.leader && !p.client.Dead && p.ctx.Err() == nil {
			s.Logf("person makes p%d the holder of the Lease", p.id)
			s.Elect(p.identity())
			return
		}
	}
}

// start starts the first process, or all of those that stand for leader.
func (s *schedule) start() {
	if !s.stands {
		s.lead(s.startProcess())
		return
	}
	for range simReplicas {
		s.lead(s.standProcess())
	}
}

// successor starts the process that comes after one that has ended. Who leads then is up to the election.
func (s *schedule) successor() {
	if s.stands {
		s.standProcess()
		return
	}
	s.lead(s.startProcess())
}

// whole reports whether everything works that a decision needs, and has for long enough: the API server, the sources, and the watch.
func (s *schedule) whole(p *simProcess) bool {
	for _, state := range []string{soptest.PrometheusDown, soptest.AlertmanagerDown, soptest.AlertmanagerForgot} {
		if s.On(state) {
			return false
		}
	}
	return !s.Overlooks() && !s.Weather.Outage && (p == nil || !p.client.Frozen() && !p.cache.Broken())
}

// watch judges once a minute whether somebody leads who decides.
func (s *schedule) watch(ctx context.Context) {
	var since time.Time
	for sleep(ctx, time.Minute) == nil {
		s.Lock()
		if len(s.oracle.violations) > 0 {
			s.Unlock()
			return
		}
		leader := s.holding()
		if !s.whole(leader) || leader != s.watched || !s.staffed() {
			since = time.Time{}
		}
		if s.watched = leader; since.IsZero() {
			since = time.Now()
		}
		s.oracle.judge(minutePassed, moment{p: leader, sent: since})
		s.Unlock()
	}
}

// holding returns the process that holds the Lease, nil if none does.
func (s *schedule) holding() *simProcess {
	for _, p := range s.processes {
		if p.identity() == s.Holder() && !p.client.Dead && p.ctx.Err() == nil {
			return p
		}
	}
	return nil
}

// staffed reports whether there is a process that works.
func (s *schedule) staffed() bool {
	return slices.ContainsFunc(s.processes, func(p *simProcess) bool { return !p.client.Dead && p.ctx.Err() == nil })
}

// visitsWhatIsDue judges that whoever holds the Lease looks at each node on which a condition is known to hold, and that somebody holds it.
func visitsWhatIsDue(o *oracle, m moment) {
	p, whole := m.p, m.sent
	if p == nil {
		if o.c.stands && time.Since(whole) > simUnvisited {
			m.violated("nobody who works has held the Lease for %s: %q does", time.Since(whole), o.c.Holder())
		}
		return
	}
	for key, f := range o.c.Faults {
		// What it has looked at in an earlier term is due again when something changes.
		due := latest(latest(f.Firing(), f.Listed()), p.first)
		fires := !f.Firing().IsZero() && p.cache.Shown[key.Node] != nil && p.running[key.Node] == 0
		if fires && time.Since(latest(due, whole)) > simUnvisited && p.visited[key.Node].Before(due) && !p.judged(key) {
			m.violated("p%d has held the Lease for %s, and not looked at %s for %s", p.id, time.Since(o.c.heldSince), key.Node, time.Since(p.visited[key.Node]))
		}
	}
}

// judged reports whether the process says what it thinks of the condition. One that was gone for a moment only is still the same to it.
func (p *simProcess) judged(key prom.Key) bool {
	return slices.ContainsFunc(p.verdicts.Node(key.Node), func(d policy.Decision) bool { return d.Condition == key.Condition && d.ID == key.ID })
}

// settleElection starts the processes that are missing, and waits until one of them leads.
func (s *schedule) settleElection() {
	for {
		s.Lock()
		dead := s.fallen()
		s.Unlock()
		if dead == nil {
			break
		}
		s.restart(dead)
	}
	for began := time.Now(); time.Since(began) < 2*simUnvisited; time.Sleep(time.Second) {
		s.Lock()
		leader := s.holding()
		if led := leader != nil && leader.leading; led {
			s.leader = leader
			s.Unlock()
			return
		}
		s.Unlock()
	}
}
