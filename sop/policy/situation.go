package policy

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/ticket"
)

// Situation holds the facts that the guards judge. Those that cost a question to the cluster are nil until they are collected; a guard
// that needs one of them is not asked before.
type Situation struct {
	Now time.Time
	// Origin is why Aegis would act. At a visit it is told from the status and the ticket.
	Origin Origins
	// Node is nil when the Node object does not exist, or has not been looked at.
	Node   *corev1.Node
	Record ticket.Record
	// Status is the condition to decide on. The mode that people have ordered is in its policy. Urgent sums up what else holds on the node.
	Status prom.AegisNodeStatus
	Urgent Urgent
	// HasSOP says whether the procedure of the condition, or of its open ticket, exists, and OnlyNotifies that it never touches the node.
	HasSOP, OnlyNotifies bool
	// Note says that the ticket on the node only notified people of another condition, so it keeps no repair waiting.
	Note bool
	// Check is the request for a check that the status stands for. Lent names the cordon of a person that Aegis may undo, as the ticket
	// has it.
	Check CheckRequest
	Lent  string
	// Inhibited says which other condition of the node explains this one. Empty when none does.
	Inhibited string
	Settings  Settings
	// Unread says why the node could not be read past the cache.
	Unread string
	// Orders are what people have ordered while Aegis runs. OrdersLost says why they could not be read.
	Orders     *Orders
	OrdersLost string
	// Storm says which storm holds the condition. Empty when none does.
	Storm string
	// Finding is what the sources say of the condition.
	Finding *prom.Finding
	// Confirmed is when the sources confirmed the condition, before anything was done for it. Zero when they were not asked.
	Confirmed time.Time
	// Suspicion is why the node is sick although its alert may be silent: a check of Aegis failed.
	Suspicion string
	// Room says why the node may not be taken out of service, or a destructive step not begin. Empty when it may.
	Room *string
}

// Origins are reasons to act, one or several.
type Origins uint8

// The reasons to act.
const (
	// Alert is an alert for which nothing has been done yet.
	Alert Origins = 1 << iota
	// Begun is the incident of an alert: its ticket is open.
	Begun
	// Requested is a repair that a person or a script asked for, whatever the alerts say.
	Requested
	// Approved is the incident of an alert that a person approved.
	Approved
	// Check is a check of the node that a person asked for.
	Check
	// Intake is a check of a node that has a taint of those that wait for one.
	Intake
	// Left is a check of a node that Aegis has cordoned and that no ticket is about any more.
	Left
)

// String names the reasons to act, as a table does.
func (o Origins) String() string {
	names := []struct {
		of   Origins
		name string
	}{
		{anyone, "anyone"},
		{requests, "requests"},
		{reported, "alerts"},
		{Alert, "alert"},
		{Begun, "begun"},
		{Requested, "request"},
		{Approved, "approved"},
		{Check, "check"},
		{Intake, "intake"},
		{Left, "left"},
	}
	var parts []string
	for _, n := range names {
		if o&n.of == n.of {
			parts, o = append(parts, n.name), o&^n.of
		}
	}
	return strings.Join(parts, ", ")
}

const (
	// anew is all for which there is no ticket at a visit, takenUp all for which there is one.
	anew    = Alert | Requested | Check | Intake | Left
	takenUp = Begun | Approved
	// reported is all that an alert has to vouch for.
	reported = Alert | Begun | Approved
	anyone   = Alert | Begun | Requested | Approved | Check | Intake | Left
	// requests is all that asks for something that no alert has to vouch for.
	requests = Requested | Check | Intake
	// asks is all for which somebody has a ticket written.
	asks = requests | Approved
)

// visited returns why Aegis would act at a visit.
func visited(s Situation) Origins {
	t := s.Record.Ticket
	switch {
	case s.Status.Origin == prom.OriginHeal:
		return Requested
	case s.Status.Origin == prom.OriginCheck:
		return Check
	case s.Status.Origin == prom.OriginIntake:
		return Intake
	case s.Status.Origin == prom.OriginCordon:
		return Left
	case t == nil || !t.Open():
		return Alert
	case t.ApprovedBy != "":
		return Approved
	}
	return Begun
}

// requested reports whether somebody asks for what is decided on, so that no alert has to vouch for it.
func requested(s prom.AegisNodeStatus) bool {
	return s.Origin == prom.OriginHeal || s.Origin == prom.OriginCheck || s.Origin == prom.OriginIntake
}

// Fact is one that costs a question to the cluster.
type Fact uint8

// The facts that are collected one after the other.
const (
	// NoFact is needed by a guard that judges what is always known.
	NoFact Fact = iota
	// NodeFact is the Node with its ticket.
	NodeFact
	// OrdersFact is the orders on the Lease.
	OrdersFact
	// FindingFact is the word of the sources.
	FindingFact
	// RoomFact is the place in a budget.
	RoomFact
)

// knows reports whether the fact is collected.
func (s Situation) knows(f Fact) bool {
	switch f {
	case NodeFact:
		return s.Node != nil
	case OrdersFact:
		return s.Orders != nil
	case FindingFact:
		return s.Finding != nil
	case RoomFact:
		return s.Room != nil
	}
	return true
}
