package sop_test

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/jobs"
)

// What has to hold whatever happens. docs/simulation.md says how to add to it.

// Invariant is something that has to hold in every schedule.
type Invariant struct {
	// Name is what violations and mutations call it.
	Name string
	// Says is the invariant in a sentence.
	Says string
	// Checks judge what happens, each at its moment: mostly before a write takes effect. They see the truth of that instant and what
	// the process could know of it, which is neither what happens during its calls nor what its cache does not show yet.
	Checks map[happening]check
}

// check judges what has happened. It calls m.violated when that must not be.
type check func(o *oracle, m moment)

// happening is a kind of what may be judged.
type happening string

const (
	nodeCordoned     happening = "a process cordons a node"                       // node, before, after, sent
	nodeUncordoned   happening = "a process uncordons a node"                     // node, before, after
	nodeTainted      happening = "a process taints a node"                        // node, before, after
	nodeMarked       happening = "a process writes the marks of a node"           // node, before, after
	ticketWritten    happening = "a process writes the ticket of a node"          // node, old, now
	ticketOpened     happening = "a process opens a ticket"                       // node, now, incident
	ticketGoesOn     happening = "a process writes a ticket that is open already" // node, now, incident
	stepsWritten     happening = "a process begins or ends steps of a ticket"     // node, old, now, incident, begins
	jobOrdered       happening = "a process makes a Job"                          // node, job, what
	podDeleted       happening = "a process deletes a pod of the device plugin"   // node, what
	workDisturbed    happening = "a process does what may disturb workload"       // node, what
	destructionBegun happening = "a process begins a destructive step"            // node
	procedureBegun   happening = "a process begins a procedure"                   // node, before
	callMade         happening = "a process has made a call"                      //
	requestAccepted  happening = "a process has accepted a request"               // what
	nodesRecounted   happening = "a process has counted all nodes anew"           // miscounted
	worldAtRest      happening = "nothing has happened for hours"                 // reserved, inFlight
	minutePassed     happening = "a minute has passed"                            // p holds the Lease, nil for nobody; sent is since when all it needs works
)

// moment is what has happened. Each happening sets the fields that it names.
type moment struct {
	p    *simProcess
	node string
	// before and after are the node before and after the write, old and now what their annotations say.
	before, after *corev1.Node
	old, now      simRecord
	// sent is when the process has sent the write.
	sent     time.Time
	incident *simIncident
	// begins is true for the write that also opens the ticket.
	begins bool
	job    jobs.Request
	// what says what is done, in a word or two.
	what string
	// miscounted is what the limits go by, where it differs from a count of all nodes.
	miscounted []string
	// reserved and inFlight are the nodes that the process holds in its limits.
	reserved, inFlight []string
	// violated reports that the invariant does not hold.
	violated func(format string, args ...any)
}

const (
	permitted = "nothing disruptive without permission"
	once      = "no destructive step twice"
	bounded   = "no limit is exceeded"
	theirs    = "what is people's stays people's"
	honest    = "nothing is taken for repaired that is not proven"
	ended     = "every incident ends, and nothing is lost"
	obeyed    = "what people order is done"
	single    = "one procedure per node, by the one who leads"
	inOrder   = "the most urgent gets the freed place"
	timely    = "a step has its time, and no Job has more"
	attended  = "who leads looks at what is due"
	counted   = "the counts are those of a recount"
	authored  = "what others write begins nothing"
)

// simInvariants lists all invariants.
func simInvariants() []Invariant {
	return []Invariant{
		{
			Name: permitted,
			Says: "Aegis disturbs the work of a node only while both sources, the pauses and the labels permit it, on the machine that it has judged.",
			Checks: map[happening]check{
				ticketOpened: opensWhatIsCertain, ticketGoesOn: staysOnTheMachine, stepsWritten: isolatesWhatIsConfirmed,
				workDisturbed: disturbsWhatIsConfirmed, jobOrdered: ordersForItsTicket, nodeTainted: taintsWhatIsDown,
			},
		},
		{
			Name: once,
			Says: "No Job, boot or restart is ordered again for the step of a ticket that ordered it before, however often processes die.",
			Checks: map[happening]check{
				jobOrdered: ordersOnce, podDeleted: deletesOnce, stepsWritten: concludesByItsJob, procedureBegun: knowsItsWrites,
			},
		},
		{
			Name: bounded,
			Says: "No more nodes of a pool are out of service, destroyed or repaired at once, or as often, than its limits allow.",
			Checks: map[happening]check{
				nodeCordoned: keepsTheBudget, destructionBegun: keepsTheSlots, jobOrdered: keepsTheReboots, ticketOpened: leavesRepeatOffenders,
				stepsWritten: isolatesNoStorm, workDisturbed: disturbsNoStorm,
			},
		},
		{
			Name: theirs,
			Says: "A cordon, a ticket or a mark that is of people is not undone, overwritten or taken for one of Aegis.",
			Checks: map[happening]check{
				nodeUncordoned: leavesTheirCordon, ticketWritten: leavesTheirTicket, stepsWritten: takesNoCordonOfTheirs,
				nodeMarked: writesMarksOnly, callMade: letsGo,
			},
		},
		{
			Name:   honest,
			Says:   "A node returns to service only with a passed healthcheck and a condition that was seen to be gone for long enough.",
			Checks: map[happening]check{nodeUncordoned: returnsWhatIsFit, stepsWritten: verifiesWhatIsSeen},
		},
		{
			Name:   ended,
			Says:   "When all misfortune ends, every condition has a verdict that is true, and no ticket, reservation or node is forgotten.",
			Checks: map[happening]check{worldAtRest: leavesNothing, ticketWritten: closesNothingThatRuns, requestAccepted: keepsPromises},
		},
		{
			Name:   obeyed,
			Says:   "A mode, a maintenance window or a pause that people have ordered holds from when the process could know of it.",
			Checks: map[happening]check{workDisturbed: disturbsWhatIsWanted, stepsWritten: isolatesWhenAsked, ticketOpened: opensWhatIsWanted},
		},
		{
			Name: single,
			Says: "One procedure at a time works on a node, step after step, by the process that holds the Lease.",
			Checks: map[happening]check{
				procedureBegun: runsAlone, workDisturbed: disturbsAsLeader, ticketWritten: takesStepsInTurn, jobOrdered: destroysNothingItDrains,
				stepsWritten: yieldsToTheUrgent,
			},
		},
		{
			Name:   inOrder,
			Says:   "No node takes the last place in a limit while a more urgent one that can use it has waited for it for longer.",
			Checks: map[happening]check{nodeCordoned: cordonsTheMostUrgent, destructionBegun: destroysOnTheMostUrgent},
		},
		{
			Name:   timely,
			Says:   "A step fails for its deadline only after that much time in which it was permitted, and every Job that is followed ends.",
			Checks: map[happening]check{callMade: watchesTheTime, jobOrdered: timesTheOrder, stepsWritten: keepsDeadlines},
		},
		{
			Name:   attended,
			Says:   "Somebody leads, and whoever holds the Lease looks at each node on which a condition is known to hold.",
			Checks: map[happening]check{minutePassed: visitsWhatIsDue},
		},
		{
			Name: authored,
			Says: "Aegis acts on no permission, origin or step that people have written, and boots nothing under workload because a ticket says that there is none.",
			Checks: map[happening]check{
				ticketOpened: opensItsOwn, ticketWritten: leavesWhatWasEdited, workDisturbed: actsForWhoAsked, jobOrdered: destroysNoWork,
			},
		},
		{
			Name:   counted,
			Says:   "What the limits go by is what a count of all nodes, as the process has seen or written them, would give.",
			Checks: map[happening]check{nodesRecounted: countsAsARecount},
		},
	}
}

// judge has the invariants look at what has happened.
func (o *oracle) judge(at happening, m moment) {
	for _, invariant := range o.all {
		if check := invariant.Checks[at]; check != nil {
			m.violated = func(format string, args ...any) { o.violated(invariant.Name, format, args...) }
			check(o, m)
		}
	}
}

// violated notes that an invariant does not hold.
func (o *oracle) violated(invariant, format string, args ...any) {
	at := time.Since(o.c.Start()).Truncate(time.Millisecond)
	o.violations = append(o.violations, fmt.Sprintf("%s: %s: %s", at, invariant, fmt.Sprintf(format, args...)))
	o.c.Logf("VIOLATED: %s: %s", invariant, fmt.Sprintf(format, args...))
}
