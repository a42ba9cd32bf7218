package policy

import (
	"slices"
	"strings"
	"time"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/ticket"
)

// sameFault reports whether the incident was about what the status is about.
func sameFault(i ticket.Incident, s prom.AegisNodeStatus) bool {
	return i.Condition == s.Condition && i.Device == s.ID && (i.XID == s.XID.Code || i.XID == 0)
}

// Seldom reports whether the condition has not come often enough to be acted on, and which of its events this one is.
func Seldom(now time.Time, h *ticket.History, s prom.AegisNodeStatus) (event int, rare bool) {
	threshold := s.Policy.Threshold
	if threshold.Count <= 1 || requested(s) {
		return 1, false
	}
	event = 1
	for _, i := range h.Incidents {
		if !sameFault(i, s) || i.Outcome != ticket.Noted {
			continue
		}
		for _, at := range i.Times() {
			if at.After(now.Add(-threshold.Within)) {
				event++
			}
		}
	}
	return event, event < threshold.Count
}

// repairsSince returns the incidents since then that took the node out of service, and that people have not looked at since.
func repairsSince(h *ticket.History, since time.Time) []ticket.Incident {
	var repairs []ticket.Incident
	for _, incident := range h.Incidents {
		switch {
		case seenByPeople(incident):
			repairs = nil
		case isolated(incident) && incident.Closed.After(since):
			repairs = append(repairs, incident)
		}
	}
	return repairs
}

// isolated reports whether the incident took the node out of service. The history of an earlier version does not say so.
func isolated(i ticket.Incident) bool { return i.Isolated || len(i.Destructive) > 0 }

// seenByPeople reports whether the incident went to people, who have given the node back since. What was tried before is forgotten. Who
// removes a ticket, or writes one, has given nothing back.
func seenByPeople(i ticket.Incident) bool {
	return isolated(i) && !slices.Contains([]string{ticket.Resolved, ticket.Removed, ticket.Unproven}, i.Outcome)
}

func conditionsOf(incidents []ticket.Incident) string {
	var names []string
	for _, i := range incidents {
		if !slices.Contains(names, i.Condition) {
			names = append(names, i.Condition)
		}
	}
	return strings.Join(names, ", ")
}

// lastDestructive returns when the last destructive step of any past incident was taken.
func lastDestructive(h *ticket.History) time.Time {
	return lastOf(h, func(ticket.Action) bool { return true })
}

// lastReboot returns when Aegis last booted the node, whatever has become of the incident.
func lastReboot(h *ticket.History) time.Time {
	return lastOf(h, func(a ticket.Action) bool { return a == ticket.Reboot })
}

// lastOf returns when the last of the destructive steps that are meant was taken.
func lastOf(h *ticket.History, meant func(ticket.Action) bool) time.Time {
	var last time.Time
	for _, incident := range h.Incidents {
		for _, d := range incident.Destructive {
			if meant(d.Action) && d.At.After(last) {
				last = d.At
			}
		}
	}
	return last
}

// RebootsSince counts the reboots of past incidents since then, except those of one incident, and those that people have looked
// at since.
func RebootsSince(h *ticket.History, since time.Time, except string) int {
	n := 0
	for _, incident := range h.Incidents {
		if incident.ID == except {
			continue
		}
		if seenByPeople(incident) {
			n = 0
			continue
		}
		for _, d := range incident.Destructive {
			if d.Action == ticket.Reboot && d.At.After(since) {
				n++
			}
		}
	}
	return n
}
