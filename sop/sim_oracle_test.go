package sop_test

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.yaml.in/yaml/v3"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/sop/soptest"
)

// What the simulation reads of the annotations of the product, with a reader of its own: it must not share the mistakes of the code
// that it judges.

// The actions of the steps of a ticket.
const (
	actCordon      = "cordon"
	actDrain       = "drain"
	actDrainGPU    = "draingpu"
	actWaitIdle    = "waitidle"
	actReboot      = "reboot"
	actShutdown    = "shutdown"
	actReset       = "reset"
	actHealthcheck = "healthcheck"
	actRemedy      = "remedy"
	actDiagnose    = "diagnose"
	actRestartPod  = "restartpod"
	actVerify      = "verify"
	actUncordon    = "uncordon"
	actTaint       = "taint"
	actWait        = "wait"
	actHandOver    = "handover"
)

// The states of a step.
const (
	isRunning   = "Running"
	isSucceeded = "Succeeded"
	isFailed    = "Failed"
	isCanceled  = "Canceled"
)

const (
	// aegisSelf is the supervisor of the tickets of Aegis.
	aegisSelf = "aegis"
	// closedWell is the outcome of an incident whose fault is gone.
	closedWell = "resolved"
	// askedFor begins the origin of an incident that a person asked for, checkAskedFor that of a check.
	askedFor      = "heal:"
	checkAskedFor = "check:"
)

// simStep is one step of a ticket. Code is the exit code of a Job that has found something.
type simStep struct {
	Action, Status, At string
	Code               int
	Recurred, Outdated bool
}

// simTicket is the incident of a node, as its annotation has it.
type simTicket struct {
	ID, Condition, Device, SOP, Origin, Supervisor, Status string
	ApprovedBy                                             string         `yaml:"approvedBy"`
	RequestedBy                                            string         `yaml:"requestedBy"`
	Past                                                   map[string]int // The calls that were made for an earlier condition.
	Done                                                   map[string]string
	Workflows                                              []simStep
}

// simIncidentPast is a closed incident in the history of a node.
type simIncidentPast struct {
	ID, Condition, Outcome, Closed string
	Isolated                       bool
	Destructive                    []string
}

// simRecord is what a node says.
type simRecord struct {
	node   *corev1.Node
	ticket *simTicket // Nil if there is none, or none that can be read.
	broken bool
}

// recordOf reads the ticket on a node.
func recordOf(node *corev1.Node) simRecord {
	text, found := node.Annotations[soptest.TicketAnnotation]
	if !found {
		return simRecord{node: node}
	}
	t := tickets.read(text)
	return simRecord{node: node, ticket: t, broken: t == nil}
}

// history returns the closed incidents of the node.
func (r simRecord) history() (past []simIncidentPast) {
	if err := yaml.Unmarshal([]byte(r.node.Annotations[soptest.HistoryAnnotation]), &past); err != nil {
		return nil
	}
	for i := range past {
		past[i].Condition = simName(past[i].Condition)
	}
	return past
}

// tickets are those that were read last, by their texts: the oracle looks at each again and again.
var tickets = ticketTexts{known: make(map[string]*simTicket)}

type ticketTexts struct {
	mu    sync.Mutex
	known map[string]*simTicket
}

// read returns the ticket of the text, which nobody may change, nil if it cannot be read.
func (k *ticketTexts) read(text string) *simTicket {
	const most = 1000
	k.mu.Lock()
	defer k.mu.Unlock()
	if t, known := k.known[text]; known {
		return t
	}
	t := new(simTicket)
	if err := yaml.Unmarshal([]byte(text), t); err != nil || text == "" {
		t = nil
	} else {
		t.Condition = simName(t.Condition)
	}
	if len(k.known) >= most {
		clear(k.known)
	}
	k.known[text] = t
	return t
}

// open reports whether the incident goes on.
func (t *simTicket) open() bool { return t.Status != "resolved" && t.Status != "closed" }

// owned reports whether Aegis, and nobody else, owns the ticket.
func (t *simTicket) owned() bool { return strings.TrimSpace(t.Supervisor) == aegisSelf }

// outcomes returns how the calls of the action ended, oldest first. Of the first ones the ticket may have kept no more than that, as
// in F2S: failed twice, then succeeded.
func (t *simTicket) outcomes(action string) []simStep {
	var all []simStep
	for rest := t.Done[action]; rest != ""; {
		digits := len(rest[1:]) - len(strings.TrimLeft(rest[1:], "0123456789"))
		n, err := strconv.Atoi(rest[1 : 1+digits])
		if err != nil {
			n = 1
		}
		status := map[byte]string{'S': isSucceeded, 'F': isFailed, 'C': isCanceled}[rest[0]]
		all = append(all, slices.Repeat([]simStep{{Action: action, Status: status}}, n)...)
		rest = rest[1+digits:]
	}
	for _, s := range t.Workflows {
		if s.Action == action {
			all = append(all, s)
		}
	}
	return all
}

// count returns how often the action was called.
func (t *simTicket) count(action string) int { return len(t.outcomes(action)) }

// outcome returns the n-th call of the action, counted from 1, the zero step if there was none.
func (t *simTicket) outcome(action string, n int) simStep {
	if all := t.outcomes(action); n >= 1 && n <= len(all) {
		return all[n-1]
	}
	return simStep{}
}

// last returns the last call of the action.
func (t *simTicket) last(action string) simStep { return t.outcome(action, t.count(action)) }

// running returns the steps that were begun and have not ended.
func (t *simTicket) running() []simStep {
	return slices.DeleteFunc(slices.Clone(t.Workflows), func(s simStep) bool { return s.Status != isRunning })
}

// handedOver reports whether the ticket was handed over and given back.
func (t *simTicket) handedOver() bool {
	return t.open() && t.owned() && t.last(actHandOver).Status == isSucceeded
}

// onlyTold reports whether the ticket only tells the team of a condition: nothing was tried on the node, and it is not in doubt.
func (t *simTicket) onlyTold(team string) bool {
	harmless := []string{actHandOver, actWait, actVerify, actDiagnose, actHealthcheck}
	actions := make(map[string]bool)
	for _, s := range t.Workflows {
		actions[s.Action] = true
		if s.Action == actHealthcheck && s.Status != isSucceeded {
			return false
		}
	}
	for action := range t.Done {
		actions[action] = true
	}
	for action := range actions {
		if !slices.Contains(harmless, action) {
			return false
		}
	}
	return t.Supervisor == team && t.Status == "assigned" && actions[actHandOver]
}

// failedCheck reports whether the ticket is that of a check which Aegis has given to a team.
func (t *simTicket) failedCheck() bool {
	teams := []string{"gpu", "network", "storage", "host", "k8s"}
	return t.RequestedBy != "" && t.Status == "assigned" && t.count(actHandOver) > 0 && slices.Contains(teams, t.Supervisor)
}

// destructive reports whether the action may destroy running work.
func destructive(action string) bool {
	return slices.Contains([]string{actReboot, actShutdown, actReset, actTaint}, action)
}

// simUntold is for how long the step of a ticket that people have taken over counts at least, by any clock: nobody tells when it ends.
const simUntold = 2*time.Hour - simSkew - time.Minute

// destroys reports whether a destructive step runs on the node, whoever has its ticket by now.
func destroys(node *corev1.Node) bool {
	t := recordOf(node).ticket
	return t != nil && t.open() && slices.ContainsFunc(t.running(), func(s simStep) bool {
		at, err := time.Parse(time.RFC3339, s.At)
		return destructive(s.Action) && (t.owned() || err == nil && time.Since(at).Abs() < simUntold)
	})
}

// repaired reports whether the node was out of service in the incident.
func (in simIncidentPast) repaired() bool { return in.Isolated || len(in.Destructive) > 0 }

// closed returns when the incident was closed, zero if that cannot be read.
func (in simIncidentPast) closed() time.Time {
	at, err := time.Parse(time.RFC3339, in.Closed)
	if err != nil {
		return time.Time{}
	}
	return at
}

// excluded reports whether people want the node left alone.
func excluded(node *corev1.Node) bool { return node.Labels[soptest.DisableLabel] == "true" }

// inCareOfPeople reports whether people look after the node.
func inCareOfPeople(node *corev1.Node) bool {
	r := recordOf(node)
	return excluded(node) || r.broken || r.ticket != nil && r.ticket.open() && !r.ticket.owned()
}

// The annotations of the Lease that hold the orders.
const (
	pausedAnnotation = "aegis.io/paused"

	silencesAnnotation = "aegis.io/silences"
	modesAnnotation    = "aegis.io/modes"
	stormsAnnotation   = "aegis.io/storms"
)

// simOrders are what people have ordered on the Lease.
type simOrders struct {
	paused bool
	modes  map[string]struct{ Mode string }
	storms []struct {
		Condition, Pool string
		Released        *struct{}
	}
}

// ordersOf reads the orders on the Lease. The error says that they cannot be read.
func ordersOf(lease *coordinationv1.Lease) (simOrders, error) {
	pause := lease.Annotations[pausedAnnotation]
	o := simOrders{paused: pause != "" && pause != "false"}
	for key, into := range map[string]any{modesAnnotation: &o.modes, stormsAnnotation: &o.storms} {
		if text := lease.Annotations[key]; text != "" {
			if err := json.Unmarshal([]byte(text), into); err != nil {
				return simOrders{}, err
			}
		}
	}
	return o, nil
}

const (
	// freshAlert is how long the word of a webhook stands for itself, recentFinding how long a confirmation is good for isolating a
	// node, and newNode how long an alert has to outlive the registration of its node to be about that node.
	freshAlert    = 2 * time.Minute
	recentFinding = 5 * time.Second
	newNode       = 5 * time.Minute
	// resetJobs is what the attempts of resets begin after: they are Jobs of the same operation as other remedies.
	resetJobs = 1000
)

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
