package policy

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/ticket"
)

// NoteSOP names the procedure for what is only written down, as events that have not come often enough to be acted on.
const NoteSOP = "node/noted"

// Decide says whether the procedure of the condition runs at a visit, and why not.
func Decide(s Situation) Verdict {
	if s.Note && !s.OnlyNotifies {
		s.Record.Ticket = nil
	}
	s.Origin = visited(s)
	if v := Ask(Visit, s); v.Name != "" {
		return v
	}
	if s.Origin&takenUp != 0 {
		// The incident goes on, whatever has changed since it was opened: its disruptive steps ask for permission each.
		return Verdict{VerdictExecute, "continues ticket " + s.Record.Ticket.ID}
	}
	return Verdict{VerdictExecute, "runs " + procedure(s)}
}

// procedure names what would run at a visit, in words.
func procedure(s Situation) string {
	event, rare := Seldom(s.Now, s.Record.History, s.Status)
	if !rare {
		return s.Status.SOP
	}
	return fmt.Sprintf("%s, as event %d of %d within %s", NoteSOP, event, s.Status.Policy.Threshold.Count, s.Status.Policy.Threshold.Within)
}

// ProcedureOf names the procedure of the condition: the one that its ticket was opened with, if it has one.
func ProcedureOf(s prom.AegisNodeStatus, t *ticket.Ticket) string {
	if t != nil && t.Open() && t.Condition == s.Condition && t.SOP != "" {
		return t.SOP
	}
	return s.SOP
}

func nodeGone(s Situation) string {
	if s.Node == nil {
		return "there is no such Node"
	}
	return ""
}

// OwnedByPeople says why the node is people's. Empty means that it is not.
func OwnedByPeople(s Situation) string {
	switch t := s.Record.Ticket; {
	case s.Record.Broken != nil:
		return s.Record.Broken.Error()
	case t != nil && t.Open() && !t.Owned():
		return fmt.Sprintf("ticket %q belongs to %q", t.ID, t.Supervisor)
	}
	return ""
}

// open returns the open ticket of the node, nil if there is none.
func open(s Situation) *ticket.Ticket {
	if t := s.Record.Ticket; t != nil && t.Open() {
		return t
	}
	return nil
}

func askedBefore(s Situation) string {
	if t := open(s); t != nil && t.Condition == s.Status.Condition {
		return fmt.Sprintf("ticket %s for %s is open", t.ID, t.Condition)
	}
	return ""
}

func otherCondition(s Situation) string {
	if t := open(s); t != nil && t.Condition != s.Status.Condition {
		return fmt.Sprintf("ticket %s for %s is being worked on", t.ID, t.Condition)
	}
	return ""
}

func otherDevice(s Situation) string {
	if t := open(s); t != nil && t.Device != s.Status.ID {
		return fmt.Sprintf("ticket %s for device %q is being worked on", t.ID, t.Device)
	}
	return ""
}

func excluded(s Situation) string {
	if Excluded(s.Node) {
		return "the node has the label " + DisableLabel + "=true"
	}
	return ""
}

func unknownCondition(s Situation) string {
	if s.Status.Policy.Mode == "" {
		return "no catalogue names the condition " + s.Status.Condition
	}
	return ""
}

func mustIgnore(s Situation) string {
	if prom.BandOf(s.Status.Priority) == prom.BandMustIgnore {
		return fmt.Sprintf("its priority %d is of band MustIgnore", s.Status.Priority)
	}
	return ""
}

func modeOff(s Situation) string {
	switch {
	case s.Status.Policy.Mode != prom.ModeOff:
		return ""
	case begun(s):
		return "its mode is now off"
	}
	return "its mode is off"
}

// begun reports whether something has been done for the condition.
func begun(s Situation) bool { return s.Origin&takenUp != 0 }

func harmlessXID(s Situation) string {
	if s.Status.XID.Class.Harmless() {
		return fmt.Sprintf("XID %d is of class %s", s.Status.XID.Code, s.Status.XID.Class)
	}
	return ""
}

func noProcedure(s Situation) string {
	if !s.HasSOP {
		return fmt.Sprintf("there is no procedure %q", ProcedureOf(s.Status, s.Record.Ticket))
	}
	return ""
}

func controlPlane(s Situation) string {
	if IsControlPlane(s.Node) && !s.Settings.ManageControlPlane {
		return "the node runs the control plane"
	}
	return ""
}

func unread(s Situation) string { return s.Unread }

func ordersLost(s Situation) string { return s.OrdersLost }

func paused(s Situation) string {
	switch {
	case s.Settings.Paused:
		return "everything is paused by the configuration"
	case s.Orders.Pause != nil:
		return s.Orders.Pause.Of("everything is paused")
	}
	return ""
}

func contested(s Situation) string {
	if s.Status.Contested {
		return "the alert fired again with the start of one that had resolved"
	}
	return ""
}

// newNode is how long an alert has to outlive the registration of its node to be about that node.
const newNode = 5 * time.Minute

// olderThanNode doubts an alert that began before the node was registered: it may be about a machine that had the name before.
func olderThanNode(s Situation) string {
	registered := s.Node.CreationTimestamp.Time
	if !s.Status.FirstSeen.Before(registered) || !s.Now.Before(registered.Add(newNode)) {
		return ""
	}
	return fmt.Sprintf("the alert began before the node was registered; it counts if it still fires at %s",
		registered.Add(newNode).UTC().Format(time.RFC3339))
}

// sameStart is how far apart the starts of one alert may be: each replica of Prometheus tells its own.
const sameStart = time.Minute

// about reports whether the incident was about the event that the alert tells of. The start of an alert is compared with that of another one:
// whose clock dates it, and that of the leader that opened the incident, may be minutes apart.
func about(i ticket.Incident, s prom.AegisNodeStatus) bool {
	dealtWith := i.Opened
	if start := i.StartsAt.Add(sameStart); !i.StartsAt.IsZero() && start.After(dealtWith) {
		dealtWith = start
	}
	return !dealtWith.Before(s.FirstSeen.Truncate(time.Second))
}

// settled lets what was dealt with rest: an event that its alert goes on telling of, and a note that was just made.
func settled(s Situation) string {
	for _, i := range slices.Backward(s.Record.History.Incidents) {
		if !sameFault(i, s.Status) {
			continue
		}
		same := about(i, s.Status)
		again := i.Closed.Add(s.Status.Policy.Cooldown)
		switch {
		case i.Outcome == ticket.Noted && same:
			return "it was noted at " + i.Closed.UTC().Format(time.RFC3339)
		case i.Outcome == ticket.Noted && s.OnlyNotifies && s.Now.Before(again):
			return "it was noted recently; Aegis notes it again after " + again.UTC().Format(time.RFC3339)
		case i.Outcome == ticket.Resolved && same && s.Status.Policy.Once:
			return "it was dealt with at " + i.Closed.UTC().Format(time.RFC3339)
		}
		return ""
	}
	return ""
}

func outsideWindows(s Situation) string { return s.Settings.PoolOf(s.Node).OutsideWindows(s.Now) }

// storm holds a condition that begins on too many nodes at once.
func storm(s Situation) string { return s.Storm }

// cordonedByPeople leaves a node alone that a person took out of service.
func cordonedByPeople(s Situation) string {
	if s.Node.Spec.Unschedulable && !OwnCordon(s.Node) && !Lent(s.Node, s.Lent) {
		return cmp.Or(Unnoted(s.Node), "a person has cordoned the node")
	}
	return ""
}

// notCordoned ends what is about a cordon that is not there.
func notCordoned(s Situation) string {
	if prom.BandOf(s.Status.Priority) == prom.BandCordon && !s.Node.Spec.Unschedulable {
		return "the node is not cordoned"
	}
	return ""
}

// Urgent names the conditions of a node that come before others of it: that it is not ready, and the first emergency with which it does not
// return to service. Empty stands for none. No condition comes before itself.
type Urgent struct{ NotReady, Emergency string }

// UrgentOf returns which of the conditions of a node come before others of it.
func UrgentOf(statuses []prom.AegisNodeStatus) Urgent {
	var u Urgent
	for _, s := range statuses {
		switch band := prom.BandOf(s.Priority); {
		case band == prom.BandNotReady && u.NotReady == "":
			u.NotReady = s.Condition
		case band == prom.BandEmergency && u.Emergency == "" && Blocks(s):
			u.Emergency = s.Condition
		}
	}
	return u
}

// moreUrgent leaves a condition to a more urgent one of the same node.
func moreUrgent(s Situation) string {
	if s.Origin == Left && Unnoted(s.Node) != "" {
		return "" // Nothing is repaired under a cordon that may be of a person, so that nobody else would look after the node.
	}
	band := prom.BandOf(s.Status.Priority)
	switch {
	case band != prom.BandNotReady && s.Urgent.NotReady != "":
		return s.Urgent.NotReady + " comes first"
	case band == prom.BandCordon && s.Urgent.Emergency != "":
		return "the cordon stays while " + s.Urgent.Emergency + " holds"
	}
	return ""
}

func explained(s Situation) string { return s.Inhibited }

// ownBoot expects what a boot by Aegis leaves behind.
func ownBoot(s Situation) string {
	boot, within := lastReboot(s.Record.History), s.Status.Policy.OwnBoot
	if within > 0 && s.Now.Before(boot.Add(within)) {
		return "Aegis booted the node at " + boot.UTC().Format(time.RFC3339)
	}
	return ""
}

// inUse leaves a disruptive repair of what can be ignored to a time without workload.
func inUse(s Situation) string {
	workload := s.Status.Policy.Workload
	disturbs := workload == prom.WorkloadDrain || workload == prom.WorkloadDrainGPU
	if disturbs && prom.BandOf(s.Status.Priority) == prom.BandCanIgnore {
		return "can wait until the node is idle"
	}
	return ""
}

// cooldown keeps repairs of a node apart that may boot it or power it off. It never holds what only looks or returns.
func cooldown(s Situation) string {
	if s.Status.Policy.MaxReboots == 0 && !s.Status.Policy.Shutdown {
		return ""
	}
	last := lastDestructive(s.Record.History)
	until := last.Add(s.Status.Policy.Cooldown)
	if last.IsZero() || !s.Now.Before(until) {
		return ""
	}
	return "the last destructive step is too recent; Aegis waits until " + until.UTC().Format(time.RFC3339)
}

// noRoomToBegin holds what would take a node out of service while too many are.
func noRoomToBegin(s Situation) string {
	if s.Status.Policy.Workload == prom.WorkloadKeep {
		return ""
	}
	return *s.Room
}

func noRoom(s Situation) string { return *s.Room }

// observe tells what would be done.
func observe(s Situation) string {
	switch {
	case s.Status.Policy.Mode != prom.ModeObserve:
		return ""
	case begun(s):
		return "its mode is now observe"
	}
	for _, g := range attempts() {
		if reason := g.Judge(s); reason != "" {
			return "mode observe: would isolate the node and hand it over: " + reason
		}
	}
	return "mode observe: would run " + procedure(s)
}

// approvalMissing needs nobody's approval for what has not come often enough to be acted on: it is noted.
func approvalMissing(s Situation) string {
	if s.Status.Policy.Mode != prom.ModeApprove {
		return ""
	}
	if _, rare := Seldom(s.Now, s.Record.History, s.Status); rare && !begun(s) {
		return ""
	}
	return "mode approve: waits for a person to approve the repair"
}

// unlessSeldom leaves out what has not come often enough to be acted on: it is noted, whatever was done before.
func unlessSeldom(judge func(Situation) string) func(Situation) string {
	return func(s Situation) string {
		if _, rare := Seldom(s.Now, s.Record.History, s.Status); rare {
			return ""
		}
		return judge(s)
	}
}

func rebootsUsedUp(s Situation) string {
	p := s.Status.Policy
	used := RebootsSince(s.Record.History, s.Now.Add(-p.AttemptWindow), "")
	if p.MaxReboots == 0 || used < p.MaxReboots {
		return ""
	}
	return fmt.Sprintf("%d reboots within %s, %d allowed", used, p.AttemptWindow, p.MaxReboots)
}

// suspect gives a node to people on which the same fault of the same device has come back after repairs that went well: what is
// broken is the hardware.
func suspect(s Situation) string {
	p := s.Status.Policy
	if p.MaxRepairs == 0 {
		return ""
	}
	repaired := 0
	for _, i := range repairsSince(s.Record.History, s.Now.Add(-p.RepairWindow)) {
		if i.Outcome == ticket.Resolved && sameFault(i, s.Status) {
			repaired++
		}
	}
	if repaired < p.MaxRepairs {
		return ""
	}
	return fmt.Sprintf("suspected hardware: it came back after %d repairs within %s, %d allowed", repaired, p.RepairWindow, p.MaxRepairs)
}

// repeatOffender hands over a node that was repaired too often: no repair has ended its fault for good. Incidents from before people
// last gave the node back do not count.
func repeatOffender(s Situation) string {
	pool := s.Settings.PoolOf(s.Node)
	if s.Status.Policy.Workload == prom.WorkloadKeep || prom.BandOf(s.Status.Priority) == prom.BandCordon {
		return ""
	}
	repairs := repairsSince(s.Record.History, s.Now.Add(-pool.IncidentWindow))
	if pool.MaxIncidents > 0 && len(repairs) >= pool.MaxIncidents {
		return fmt.Sprintf("a repeat offender: repaired %d times within %s, %d allowed: %s",
			len(repairs), pool.IncidentWindow, pool.MaxIncidents, conditionsOf(repairs))
	}
	if same := lastInARow(repairs, s.Status.Condition); pool.MaxRepeats > 0 && same >= pool.MaxRepeats {
		return fmt.Sprintf("a repeat offender: the last %d repairs within %s were all for %s, %d allowed",
			same, pool.IncidentWindow, s.Status.Condition, pool.MaxRepeats)
	}
	return ""
}

// lastInARow counts the last repairs that were all for the condition.
func lastInARow(repairs []ticket.Incident, condition string) int {
	same := 0
	for _, r := range slices.Backward(repairs) {
		if r.Condition != condition {
			break
		}
		same++
	}
	return same
}
