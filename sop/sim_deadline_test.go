package sop_test

import (
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"aegis.io/aegis/sop/soptest"
)

// The checks of time: a step has the time that its policy gives it, and no Job is followed for longer.

const (
	// simLate is by how much a process may see the end of a deadline, or the beginning of a hold, late or early.
	simLate = 2 * time.Minute
	// simGrace is what a Job has beyond the deadline of its step.
	simGrace = 2 * time.Minute
)

// simTimed is a step that runs, as the oracle has timed it.
type simTimed struct {
	ticket, action string
	n              int
	began, ordered time.Time
	// held is for how long people have forbidden everything on the node meanwhile, since when it was seen to be so, times how often.
	held  time.Duration
	since time.Time
	times int
}

// permitted returns for how long the step was permitted at most, given how often a process may have seen a hold late.
func (s *simTimed) permitted() time.Duration {
	held := s.held
	if !s.since.IsZero() {
		held += time.Since(s.since)
	}
	return time.Since(s.began) - held + time.Duration(s.times)*simLate
}

// simEnded is a step with what it says of its end.
type simEnded struct{ Action, Status, Message string }

// lastEnded returns the last step of the action on the ticket.
func lastEnded(r simRecord, action string) (last simEnded) {
	var t struct{ Workflows []simEnded }
	if err := yaml.Unmarshal([]byte(r.node.Annotations[soptest.TicketAnnotation]), &t); err != nil {
		return last
	}
	for _, s := range t.Workflows {
		if s.Action == action {
			last = s
		}
	}
	return last
}

// watchesTheTime notes for how long people have forbidden everything on the nodes on which steps run.
func watchesTheTime(o *oracle, _ moment) {
	for node, step := range o.timed {
		forbidden := o.c.On(statePaused) || o.c.On(statePauseOrdered) || o.c.On(excludedState(node)) || !o.c.ofControlPlane(node).IsZero()
		switch {
		case forbidden && step.since.IsZero():
			step.since = time.Now()
			step.times++
		case !forbidden && !step.since.IsZero():
			step.held += time.Since(step.since)
			step.since = time.Time{}
		}
	}
}

// timesTheOrder notes when the Job of a step was ordered.
func timesTheOrder(o *oracle, m moment) {
	if step := o.timed[m.node]; step != nil && step.ticket == m.job.Incident && step.action == stepOf(m.job) {
		step.ordered = time.Now()
	}
}

// keepsDeadlines judges the end of a step by the time that it had, and begins to time the next one.
func keepsDeadlines(o *oracle, m moment) {
	watchesTheTime(o, m)
	t := m.now.ticket
	if step := o.timed[m.node]; step != nil {
		if step.ticket == t.ID && t.outcome(step.action, step.n).Status == isRunning {
			return
		}
		if step.ticket == t.ID && t.count(step.action) == step.n {
			o.judgeTime(step, m)
		}
		delete(o.timed, m.node)
	}
	for _, s := range t.running() {
		o.timed[m.node] = &simTimed{ticket: t.ID, action: s.Action, n: t.count(s.Action), began: time.Now()}
	}
}

// judgeTime judges a step that has ended.
func (o *oracle) judgeTime(step *simTimed, m moment) {
	policy := policyOf(m.incident.key.Condition)
	end := lastEnded(m.now, step.action)
	bounds := map[string]time.Duration{
		"drain": policy.DrainDeadline, "draingpu": policy.DrainDeadline, "waitidle": policy.DrainDeadline, actReboot: policy.RebootDeadline,
		"shutdown": policy.RebootDeadline, actVerify: policy.VerifyWithin, actRestartPod: policy.RemedyDeadline,
	}
	bound, bounded := bounds[step.action]
	late := false
	for _, words := range []string{"at the deadline", "within the deadline", "time was up", "pods still run", "still firing after"} {
		late = late || end.Status == isFailed && strings.Contains(end.Message, words)
	}
	had := step.permitted()
	if !step.ordered.IsZero() {
		// What was ordered goes on by itself.
		had = time.Since(step.ordered)
	}
	if bounded && late && had < bound-simLate {
		m.violated("p%d: %s on %s has failed for its deadline %s after %s, of which %s were permitted at most: %s",
			m.p.id, step.action, m.node, bound, time.Since(step.began), had, end.Message)
	}
	o.judgeFollowing(step, m)
}

// judgeFollowing judges for how long one process has followed the Job of a step.
func (o *oracle) judgeFollowing(step *simTimed, m moment) {
	policy := policyOf(m.incident.key.Condition)
	bounds := map[string]time.Duration{
		actHealthcheck: policy.HealthcheckDeadline, actDiagnose: policy.RemedyDeadline, actRemedy: policy.RemedyDeadline,
		actReset: policy.RemedyDeadline, actReboot: policy.RebootDeadline, "repair": policy.RemedyDeadline,
	}
	bound, is := bounds[step.action]
	if !is || step.ordered.IsZero() {
		return
	}
	since := latest(latest(step.ordered, o.owned[m.node].at), latest(m.p.began, m.p.begun[m.node].at))
	if followed := m.p.idle(m.node, since) - o.c.Away(since); followed > bound+simGrace+simLate {
		m.violated("p%d follows the Job of %s on %s for %s, its deadline is %s", m.p.id, step.action, m.node, followed, bound)
	}
}
