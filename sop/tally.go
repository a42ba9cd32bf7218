package sop

import (
	"slices"
	"time"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/ticket"
)

// The values of the label outcome of aegis_repairs_total.
const (
	repairResolved   = "resolved"    // The fault is gone.
	repairHandedOver = "handed_over" // Aegis had nothing more to try.
	repairNotified   = "notified"    // People were told of a node that stays in service, and nothing was tried on it.
	repairNoted      = "noted"       // It was written down and nothing else.
	repairCanceled   = "canceled"    // A person canceled it.
	repairChecked    = "checked"     // A check that was asked for found nothing, and nothing was to be repaired.
)

// tally is what the metrics say of a repair. Everything is read from its ticket and the history before it, so that a repair that
// several processes worked on is measured as a whole.
type tally struct {
	condition, sop, outcome string
	took                    time.Duration
	firstTime               bool
	unattended              bool
	falseAlarm              bool
}

// ended is a ticket as it was when its repair ended, with the history before that.
type ended struct {
	ticket *ticket.Ticket
	before *ticket.History
}

// count counts a repair once its end is written. The write succeeds for one process alone, so nothing is counted twice; the count of
// a process that dies between the two is lost.
func (e environment) count(last ended, outcome string) {
	e.Metrics.repaired(e.tally(last.ticket, last.before, outcome))
}

// tally sums up the ticket of a repair that has just ended.
func (e environment) tally(t *ticket.Ticket, before *ticket.History, outcome string) tally {
	if outcome == repairResolved && (incident{origin: t.Origin}).asked() {
		outcome = repairChecked
	}
	resolved, alarm := outcome == repairResolved, falseAlarm(t)
	window := e.catalogue.Status("", t.Condition, t.Device, t.XID).Policy.AttemptWindow
	return tally{
		condition:  e.knownCondition(t.Condition),
		sop:        e.knownSOP(t.SOP),
		outcome:    outcome,
		took:       max(0, e.Clock.Since(t.CreatedAt)),
		firstTime:  resolved && !alarm && attempts(t) <= 1 && !repairedBefore(t, before, window),
		unattended: resolved && !attended(t),
		falseAlarm: resolved && alarm,
	}
}

// otherLabel stands for a name that neither the catalogue nor the table of procedures knows. Such names come with tickets that people
// write, so there is no limit to them.
const otherLabel = "other"

func (e environment) knownCondition(name string) string {
	if s := e.catalogue.Status("", name, "", 0); s.Policy.Mode != "" {
		return s.Condition
	}
	return otherLabel
}

func (e environment) knownSOP(name string) string {
	if _, found := e.table.Lookup(name); found {
		return name
	}
	return otherLabel
}

// expect makes the series of a repair that begins, so that a first repair is an increase of a counter from zero.
func (e environment) expect(s prom.AegisNodeStatus, sop string) {
	e.Metrics.expect(e.knownCondition(s.Condition), e.knownSOP(sop))
}

// attended reports whether a person has had a hand in the repair.
func attended(t *ticket.Ticket) bool {
	return t.Attended || t.ApprovedBy != "" || (incident{origin: t.Origin}).requested()
}

// attempts counts what was tried on the node to repair the present condition of the ticket: remedies, repairs, restarts of pods,
// resets and reboots. What was called off, refused, or found nothing to do is no attempt.
func attempts(t *ticket.Ticket) int {
	return made(t, ticket.Remedy, ticket.Repair, ticket.RestartPod, ticket.Reset, ticket.Reboot)
}

// made counts the calls of the actions that did something.
func made(t *ticket.Ticket, actions ...ticket.Action) int {
	n := 0
	for _, a := range actions {
		for call := t.Past[a] + 1; call <= t.Count(a); call++ {
			if s, _ := t.Outcome(a, call); s.Status != ticket.Canceled && !s.Refused && !s.Unneeded {
				n++
			}
		}
	}
	return n
}

// repairedBefore reports whether an earlier repair of the condition on the device did not last for the window.
func repairedBefore(t *ticket.Ticket, before *ticket.History, window time.Duration) bool {
	return before != nil && slices.ContainsFunc(before.Incidents, func(i ticket.Incident) bool {
		same := i.ID != t.ID && i.Condition == t.Condition && i.Device == t.Device
		return same && i.Outcome == ticket.Resolved && t.CreatedAt.Sub(i.Closed) < window
	})
}

// falseAlarm reports whether the condition of an alert was not found on the machine: nothing was done that could have removed it, and
// the machine itself was found in order, by a healthcheck or by an operation that found nothing to do.
func falseAlarm(t *ticket.Ticket) bool {
	if i := incidentOf(t); i.requested() || i.left() || t.Origin == originHealthcheck {
		return false
	}
	changed := made(t, ticket.Remedy, ticket.Repair, ticket.RestartPod, ticket.Reset, ticket.Reboot, ticket.Shutdown, ticket.Taint,
		ticket.Drain, ticket.DrainGPU) > 0
	return !changed && inOrder(t)
}

// inOrder reports whether an operation on the machine found it in order, and none found it broken. A node that was waited for in vain
// was seen to be down.
func inOrder(t *ticket.Ticket) bool {
	sound := false
	for _, a := range []ticket.Action{ticket.Healthcheck, ticket.Remedy, ticket.Repair, ticket.Wait} {
		for call := t.Past[a] + 1; call <= t.Count(a); call++ {
			s, _ := t.Outcome(a, call)
			switch {
			case s.Status == ticket.Failed:
				return false
			case s.Status == ticket.Succeeded && (a == ticket.Healthcheck || s.Unneeded):
				sound = true
			}
		}
	}
	return sound
}

// measureIsolation measures how long a fault that an alert reports went on before its node was cordoned.
func (i isolator) measureIsolation() {
	if i.healing() || i.status.FirstSeen.IsZero() {
		return
	}
	i.services.Metrics.isolated(prom.BandOf(i.status.Priority), i.services.Clock.Since(i.status.FirstSeen))
}

// measureReturn measures how long the incident kept the node cordoned.
func (i isolator) measureReturn() {
	t := i.journal.ticket()
	cordon, _ := t.Outcome(ticket.Cordon, t.Count(ticket.Cordon))
	since := cordon.At
	if since.IsZero() {
		// Its time was left out for size.
		since = t.CreatedAt
	}
	i.services.Metrics.returned(prom.BandOf(i.status.Priority), i.services.Clock.Since(since))
}

// outcomeOf names the end of a ticket that is handed over.
func outcomeOf(t *ticket.Ticket) string {
	if onlyTold(t) {
		return repairNotified
	}
	return repairHandedOver
}

// bands lists the bands of conditions that Aegis may act on.
func bands() []prom.Band {
	return []prom.Band{prom.BandNotReady, prom.BandEmergency, prom.BandCordon, prom.BandCanIgnore}
}
