package sop

import (
	"time"

	"aegis.io/aegis/ticket"
)

// What proves that a node is fit is true for as long as somebody looks at the node. A process that takes an incident over after a time in
// which nobody did proves it anew.

// provenFor is for how long a verification or a healthcheck is good that an earlier run has made.
const provenFor = 10 * time.Minute

// skipOutdated passes over the calls of the step that count no more. It returns the one that counts no more from now on, zero for none.
func (e *journaled) skipOutdated(s step) (outdated int) {
	for ; ; e.calls[s.action]++ {
		n := e.calls[s.action]
		prior, known := e.journal.outcome(s.action, n)
		switch {
		case !known:
			return outdated
		case prior.Outdated:
		case outdated == 0 && e.outdated(s.action, n, prior):
			outdated = n
		case outdated == 0:
			return 0
		}
	}
}

// outdated reports whether the call proves nothing any more: an earlier run has made it, it is the last word on the isolated node, and
// nobody has gone on with it for long.
func (e *journaled) outdated(action ticket.Action, n int, prior ticket.Step) bool {
	proves := action == ticket.Verify || action == ticket.Healthcheck
	if !proves || prior.Status != ticket.Succeeded || n > e.found[action] || !e.hasCordoned() ||
		!e.journal.record.Node.Spec.Unschedulable {
		return false
	}
	last, ends := e.journal.ticket().Since(action, n)
	return ends && e.services.Clock.Since(last) > provenFor
}
