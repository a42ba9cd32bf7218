package sop

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// Situation is all that a decision is made from.
type Situation struct {
	Now time.Time
	// Node is nil when the Node object does not exist.
	Node   *corev1.Node
	Record ticket.Record
	// Status is the condition to decide on, Others are the other ones of the node.
	Status prom.AegisNodeStatus
	Others []prom.AegisNodeStatus
	// HasSOP says whether the procedure of the condition, or of its open ticket, exists, and OnlyTells that it never touches the node.
	HasSOP, OnlyTells bool
	// Note says that the ticket on the node only told people about another condition, and so stands in the way of no repair.
	Note bool
	// Hidden says which other condition of the node explains this one. Empty when none does.
	Hidden   string
	Settings policy.Settings
	// Orders are what people have ordered while Aegis runs. Their modes are in the policies already.
	Orders policy.Orders
	// Storm says which storm holds the condition. Empty when none does.
	Storm string
	// Budget says why the node may not be taken out of service now. Empty when it may.
	Budget string
}

// decide says whether the procedure of the condition runs now, and why not. It is pure: the same situation gives the same
// verdict.
func decide(s Situation) policy.Verdict {
	if s.Node == nil {
		return policy.Verdict{Name: policy.VerdictNodeGone, Reason: "there is no such Node"}
	}
	if s.Note && !s.OnlyTells {
		s.Record.Ticket = nil
	}
	for _, objection := range objections() {
		if v := objection(s); v.Name != "" {
			return v
		}
	}
	return mode(s)
}

// objections returns what may stand against a procedure, in the order in which it is told. The zero Verdict is none.
func objections() []func(Situation) policy.Verdict {
	return []func(Situation) policy.Verdict{
		ownedByPeople, excludedNode, openTicket, notConfigured, controlPlane, paused,
		contested, olderThanNode, settled, storm, cordonedByPeople, tolerated, cooldown, budget,
	}
}

func ownedByPeople(s Situation) policy.Verdict {
	switch t := s.Record.Ticket; {
	case s.Record.Broken != nil:
		return policy.Verdict{Name: policy.VerdictHumanOwned, Reason: s.Record.Broken.Error()}
	case t != nil && t.Open() && !t.Owned():
		return policy.Verdict{Name: policy.VerdictHumanOwned, Reason: fmt.Sprintf("ticket %q belongs to %q", t.ID, t.Supervisor)}
	}
	return policy.Verdict{}
}

func excludedNode(s Situation) policy.Verdict {
	if policy.Excluded(s.Node) {
		return policy.Verdict{Name: policy.VerdictExcluded, Reason: policy.ExcludedReason()}
	}
	return policy.Verdict{}
}

// openTicket goes on with the incident of an own ticket, whatever has changed since it was opened: its disruptive steps
// ask for permission each.
func openTicket(s Situation) policy.Verdict {
	t := s.Record.Ticket
	switch {
	case t == nil || !t.Open():
		return policy.Verdict{}
	case t.Condition != s.Status.Condition:
		return policy.Verdict{Name: policy.VerdictInProgress, Reason: fmt.Sprintf("ticket %s for %s is being worked on", t.ID, t.Condition)}
	case t.Device != s.Status.ID:
		return policy.Verdict{Name: policy.VerdictDuplicate, Reason: fmt.Sprintf("ticket %s for device %q is being worked on", t.ID, t.Device)}
	case !s.HasSOP:
		return policy.Verdict{Name: policy.VerdictNoSOP, Reason: fmt.Sprintf("there is no procedure %q", sopOf(s.Status, t))}
	}
	return policy.Verdict{Name: policy.VerdictExecute, Reason: "goes on with ticket " + t.ID}
}

func notConfigured(s Situation) policy.Verdict {
	p := s.Status.Policy
	switch {
	case p.Mode == "":
		return policy.Verdict{Name: policy.VerdictUnknownCondition, Reason: "no catalogue names the condition " + s.Status.Condition}
	case prom.BandOf(s.Status.Priority) == prom.BandMustIgnore:
		return policy.Verdict{Name: policy.VerdictIgnored, Reason: fmt.Sprintf("its priority %d is of band MustIgnore", s.Status.Priority)}
	case p.Mode == prom.ModeOff && !requested(s.Status):
		return policy.Verdict{Name: policy.VerdictIgnored, Reason: "its mode is off"}
	case s.Status.XID.Class.Harmless() && !requested(s.Status):
		return policy.Verdict{Name: policy.VerdictIgnored, Reason: fmt.Sprintf("XID %d is of class %s", s.Status.XID.Code, s.Status.XID.Class)}
	case !s.HasSOP:
		return policy.Verdict{Name: policy.VerdictNoSOP, Reason: fmt.Sprintf("there is no procedure %q", s.Status.SOP)}
	}
	return policy.Verdict{}
}

func controlPlane(s Situation) policy.Verdict {
	if policy.IsControlPlane(s.Node) && !s.Settings.ManageControlPlane {
		return policy.Verdict{Name: policy.VerdictControlPlane, Reason: "the node runs the control plane"}
	}
	return policy.Verdict{}
}

func paused(s Situation) policy.Verdict {
	return pausedBy(s.Settings, s.Orders)
}

// pausedBy returns the verdict on everything while all is paused.
func pausedBy(settings policy.Settings, orders policy.Orders) policy.Verdict {
	switch {
	case settings.Paused:
		return policy.Verdict{Name: policy.VerdictPaused, Reason: "everything is paused by the configuration"}
	case orders.Pause != nil:
		return policy.Verdict{Name: policy.VerdictPaused, Reason: orders.Pause.Of("everything is paused")}
	}
	return policy.Verdict{}
}

func contested(s Situation) policy.Verdict {
	if s.Status.Contested && !requested(s.Status) {
		return policy.Verdict{Name: policy.VerdictContested, Reason: "the alert fired again with the start of one that had resolved"}
	}
	return policy.Verdict{}
}

// newNode is how long an alert has to outlive the registration of its node to be about that node.
const newNode = 5 * time.Minute

// olderThanNode doubts an alert that began before the node was registered: it may be about a machine that had the name before.
func olderThanNode(s Situation) policy.Verdict {
	registered := s.Node.CreationTimestamp.Time
	if requested(s.Status) || !s.Status.FirstSeen.Before(registered) || !s.Now.Before(registered.Add(newNode)) {
		return policy.Verdict{}
	}
	return policy.Verdict{Name: policy.VerdictContested, Reason: fmt.Sprintf("the alert began before the node was registered, and counts if it still fires at %s",
		registered.Add(newNode).UTC().Format(time.RFC3339))}
}

// settled lets what was dealt with rest: an event that its alert goes on telling of, and a note that was just made.
func settled(s Situation) policy.Verdict {
	if requested(s.Status) {
		return policy.Verdict{}
	}
	for _, i := range slices.Backward(s.Record.History.Incidents) {
		if !sameFault(i, s.Status) {
			continue
		}
		same := !i.Opened.Before(s.Status.FirstSeen.Truncate(time.Second))
		again := i.Closed.Add(s.Status.Policy.Cooldown)
		switch {
		case i.Outcome == ticket.Noted && same:
			return policy.Verdict{Name: policy.VerdictTolerated, Reason: "it was noted at " + i.Closed.UTC().Format(time.RFC3339)}
		case i.Outcome == ticket.Noted && s.OnlyTells && s.Now.Before(again):
			return policy.Verdict{Name: policy.VerdictTolerated, Reason: "it was noted a short while ago, and is noted again after " + again.UTC().Format(time.RFC3339)}
		case i.Outcome == outcomeResolved && same && s.Status.Policy.Once:
			return policy.Verdict{Name: policy.VerdictTolerated, Reason: "it was dealt with at " + i.Closed.UTC().Format(time.RFC3339)}
		}
		return policy.Verdict{}
	}
	return policy.Verdict{}
}

// sameFault reports whether the incident was about what the status is about.
func sameFault(i ticket.Incident, s prom.AegisNodeStatus) bool {
	return i.Condition == s.Condition && i.Device == s.ID && (i.XID == s.XID.Code || i.XID == 0)
}

// storm holds a condition that befalls too many nodes at once. What a person asks for on one node is not held.
func storm(s Situation) policy.Verdict {
	if s.Storm == "" || requested(s.Status) {
		return policy.Verdict{}
	}
	return policy.Verdict{Name: policy.VerdictStorm, Reason: s.Storm}
}

// cordonedByPeople leaves a node alone that a person took out of service. A cordon is looked at by the procedure of the
// cordoned node only if it is an own one.
func cordonedByPeople(s Situation) policy.Verdict {
	switch {
	case s.Node.Spec.Unschedulable && !ownCordon(s.Node):
		return policy.Verdict{Name: policy.VerdictHumanCordoned, Reason: policy.HumanCordonedReason()}
	case prom.BandOf(s.Status.Priority) == prom.BandCordon && !s.Node.Spec.Unschedulable:
		return policy.Verdict{Name: policy.VerdictUnconfirmed, Reason: "the node is not cordoned"}
	}
	return policy.Verdict{}
}

// tolerated leaves a condition to a more urgent one of the same node, and a disruptive repair of what can be ignored to a
// time without workload.
func tolerated(s Situation) policy.Verdict {
	band := prom.BandOf(s.Status.Priority)
	for _, other := range s.Others {
		above := prom.BandOf(other.Priority)
		switch {
		case band != prom.BandNotReady && above == prom.BandNotReady:
			return policy.Verdict{Name: policy.VerdictTolerated, Reason: other.Condition + " hides what holds on the node itself"}
		case band == prom.BandCordon && above == prom.BandEmergency && blocks(other):
			return policy.Verdict{Name: policy.VerdictTolerated, Reason: "the cordon stays while " + other.Condition + " holds"}
		}
	}
	if s.Hidden != "" && !requested(s.Status) {
		return policy.Verdict{Name: policy.VerdictTolerated, Reason: s.Hidden}
	}
	p := s.Status.Policy
	if boot := lastReboot(s.Record.History); p.OwnBoot > 0 && s.Now.Before(boot.Add(p.OwnBoot)) && !requested(s.Status) {
		return policy.Verdict{Name: policy.VerdictTolerated, Reason: "Aegis booted the node at " + boot.UTC().Format(time.RFC3339)}
	}
	if band == prom.BandCanIgnore && (p.Workload == prom.WorkloadDrain || p.Workload == prom.WorkloadDrainGPU) {
		return policy.Verdict{Name: policy.VerdictTolerated, Reason: "can be ignored while the node is in use"}
	}
	return policy.Verdict{}
}

// mode has the last word, when nothing else stands against a procedure, so that what mode observe tells is what mode auto would do.
func mode(s Situation) policy.Verdict {
	procedure := s.Status.SOP
	event, rare := seldom(s.Now, s.Record.History, s.Status)
	if rare {
		procedure = fmt.Sprintf("%s, as event %d of %d within %s", NoteSOP, event, s.Status.Policy.Threshold.Count, s.Status.Policy.Threshold.Within)
	}
	run := policy.Verdict{Name: policy.VerdictExecute, Reason: "runs " + procedure}
	if v := tooOften(s); v.Name != "" && !rare {
		run = v
	}
	switch {
	case requested(s.Status):
	case s.Status.Policy.Mode == prom.ModeObserve && run.Name == policy.VerdictExecute:
		return policy.Verdict{Name: policy.VerdictObserve, Reason: "mode observe: would run " + procedure}
	case s.Status.Policy.Mode == prom.ModeObserve:
		return policy.Verdict{Name: policy.VerdictObserve, Reason: "mode observe: would isolate the node and hand it over: " + run.Reason}
	case s.Status.Policy.Mode == prom.ModeApprove && !rare:
		return awaitingApproval()
	}
	return run
}

// seldom reports whether the condition has not come often enough to be acted on, and which of its events this one is.
func seldom(now time.Time, h *ticket.History, s prom.AegisNodeStatus) (event int, rare bool) {
	threshold := s.Policy.Threshold
	if threshold.Count <= 1 || requested(s) {
		return 1, false
	}
	event = 1
	for _, i := range h.Incidents {
		if sameFault(i, s) && i.Outcome == ticket.Noted && i.Closed.After(now.Add(-threshold.Within)) {
			event++
		}
	}
	return event, event < threshold.Count
}

// tooOften says why the node goes to people instead of being repaired once more. The zero Verdict is that it need not.
func tooOften(s Situation) policy.Verdict {
	for _, reason := range []func(Situation) policy.Verdict{attempts, suspect, lemon} {
		if v := reason(s); v.Name != "" {
			return v
		}
	}
	return policy.Verdict{}
}

// suspect gives a node to people on which the same fault of the same device has come back after repairs that went well: what is
// broken is the hardware.
func suspect(s Situation) policy.Verdict {
	p := s.Status.Policy
	if p.MaxRepairs == 0 || requested(s.Status) {
		return policy.Verdict{}
	}
	repaired := 0
	for _, i := range repairsSince(s.Record.History, s.Now.Add(-p.RepairWindow)) {
		if i.Outcome == outcomeResolved && sameFault(i, s.Status) {
			repaired++
		}
	}
	if repaired < p.MaxRepairs {
		return policy.Verdict{}
	}
	return policy.Verdict{Name: policy.VerdictAttemptsExhausted, Reason: fmt.Sprintf("suspected hardware: it came back after %d repairs within %s, %d allowed",
		repaired, p.RepairWindow, p.MaxRepairs)}
}

func awaitingApproval() policy.Verdict {
	return policy.Verdict{Name: policy.VerdictAwaitingApproval, Reason: "mode approve: waits for a person to approve the repair"}
}

// cooldown keeps repairs of a node apart that may boot it or power it off. It never holds what only looks or returns.
func cooldown(s Situation) policy.Verdict {
	if s.Status.Policy.MaxReboots == 0 && !s.Status.Policy.Shutdown {
		return policy.Verdict{}
	}
	last := lastDestructive(s.Record.History)
	until := last.Add(s.Status.Policy.Cooldown)
	if last.IsZero() || requested(s.Status) || !s.Now.Before(until) {
		return policy.Verdict{}
	}
	return policy.Verdict{Name: policy.VerdictCooldown, Reason: "the last destructive step is too recent, waits until " + until.UTC().Format(time.RFC3339)}
}

func attempts(s Situation) policy.Verdict {
	p := s.Status.Policy
	used := rebootsSince(s.Record.History, s.Now.Add(-p.AttemptWindow), "")
	if p.MaxReboots == 0 || used < p.MaxReboots || requested(s.Status) {
		return policy.Verdict{}
	}
	return policy.Verdict{Name: policy.VerdictAttemptsExhausted, Reason: fmt.Sprintf("%d reboots within %s, %d allowed", used, p.AttemptWindow, p.MaxReboots)}
}

// lemon gives a node to people that was repaired too often: what ails it, no repair of ours has cured. Incidents from before
// people last gave the node back do not count.
func lemon(s Situation) policy.Verdict {
	pool := s.Settings.PoolOf(s.Node)
	if requested(s.Status) || s.Status.Policy.Workload == prom.WorkloadKeep || prom.BandOf(s.Status.Priority) == prom.BandCordon {
		return policy.Verdict{}
	}
	repairs := repairsSince(s.Record.History, s.Now.Add(-pool.IncidentWindow))
	if pool.MaxIncidents > 0 && len(repairs) >= pool.MaxIncidents {
		return policy.Verdict{Name: policy.VerdictAttemptsExhausted, Reason: fmt.Sprintf("a lemon: repaired %d times within %s, %d allowed: %s",
			len(repairs), pool.IncidentWindow, pool.MaxIncidents, conditionsOf(repairs))}
	}
	same := 0
	for _, r := range slices.Backward(repairs) {
		if r.Condition != s.Status.Condition {
			break
		}
		same++
	}
	if pool.MaxRepeats > 0 && same >= pool.MaxRepeats {
		return policy.Verdict{Name: policy.VerdictAttemptsExhausted, Reason: fmt.Sprintf("a lemon: the last %d repairs within %s were all for %s, %d allowed",
			same, pool.IncidentWindow, s.Status.Condition, pool.MaxRepeats)}
	}
	return policy.Verdict{}
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

// seenByPeople reports whether the incident went to people, who have given the node back since. What was tried before is forgotten.
func seenByPeople(i ticket.Incident) bool { return isolated(i) && i.Outcome != outcomeResolved }

func conditionsOf(incidents []ticket.Incident) string {
	var names []string
	for _, i := range incidents {
		if !slices.Contains(names, i.Condition) {
			names = append(names, i.Condition)
		}
	}
	return strings.Join(names, ", ")
}

// budget holds what would take a node out of service while too many are. A request is accepted and waits for its turn.
func budget(s Situation) policy.Verdict {
	if s.Budget == "" || requested(s.Status) || s.Status.Policy.Workload == prom.WorkloadKeep {
		return policy.Verdict{}
	}
	return policy.Verdict{Name: policy.VerdictBudget, Reason: s.Budget}
}

func requested(s prom.AegisNodeStatus) bool { return s.Origin == prom.OriginHeal }

// sopOf names the procedure of the condition: the one that its ticket was opened with, if it has one.
func sopOf(s prom.AegisNodeStatus, t *ticket.Ticket) string {
	if t != nil && t.Open() && t.Condition == s.Condition && t.SOP != "" {
		return t.SOP
	}
	return s.SOP
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

// rebootsSince counts the reboots of past incidents since then, except those of one incident, and those that people have looked
// at since.
func rebootsSince(h *ticket.History, since time.Time, except string) int {
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

// released reports whether people gave the ticket back after it had been handed over to them.
func released(t *ticket.Ticket) bool {
	if t == nil || !t.Open() || !t.Owned() {
		return false
	}
	last, handed := t.Outcome(ticket.HandOver, t.Count(ticket.HandOver))
	return handed && last.Status == ticket.Succeeded
}

// noted reports whether the ticket only told the team about the condition, and the team has not taken it in hand.
func noted(t *ticket.Ticket, team string) bool {
	return t != nil && t.Supervisor == team && onlyTold(t)
}

// onlyTold reports whether the ticket was handed over from a node that was left in service and is not in doubt: nothing was tried on
// it, and no healthcheck has failed, or could not be made.
func onlyTold(t *ticket.Ticket) bool {
	tried := slices.ContainsFunc(ticket.Actions(), func(a ticket.Action) bool {
		switch a {
		case ticket.HandOver, ticket.Wait, ticket.Verify, ticket.Diagnose, ticket.Healthcheck:
			return false
		}
		return t.Count(a) > 0
	})
	doubtful := slices.ContainsFunc(t.Workflows, func(s ticket.Step) bool {
		return s.Action == ticket.Healthcheck && s.Status != ticket.Succeeded
	})
	return t.Status == ticket.StatusAssigned && t.Count(ticket.HandOver) > 0 && !tried && !doubtful
}
