package sitetest

import (
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/rules"
	"aegis.io/aegis/sop/procedures"
	"aegis.io/aegis/ticket"
)

// The ways in which an incident may go. Every condition of the catalogue has a row for each.
const (
	Happy      = "happy"      // The first repair helps; where nothing is repaired, the fault goes away by itself.
	Failing    = "failing"    // The first repair does not help, or the way to it is barred.
	Escalation = "escalation" // Nothing helps, and the fault stays.
)

// Parts of most procedures.
const (
	Isolate = "cordon, diagnose, "
	Fit     = "verify, healthcheck, uncordon"
)

const (
	// Soon is while the node is being diagnosed.
	Soon = 30 * time.Second
	// AlertTime is when the alert of an event ends.
	AlertTime = 15 * time.Minute
)

// Story is what happens at a site besides what the procedure does. The operations are named as their Jobs are: a remedy or a repair by
// its own name, all others by their action; restartpod is the new pod of a DaemonSet.
type Story struct {
	// FixedBy is the operation that ends the fault, and At which of its runs does it, the first if zero. Empty: none does.
	FixedBy string
	At      int
	// After is when the fault ends by itself. Zero: never.
	After time.Duration
	// Silent is when the alert ends, as those of events do, although the fault has not. A healthcheck still finds it. Zero: never.
	Silent time.Duration
	// Again is when the fault comes back, counted from when it was dealt with. Zero: never.
	Again time.Duration
	// Fails are operations whose Jobs fail, except for the run that fixes the fault. Lost are those of which nobody learns the outcome.
	Fails, Lost string
	// Absent is an operation that the host does not have.
	Absent string
	// Broken is the exit code of every healthcheck until the fault is fixed. Zero: the node is found fit.
	Broken int
	// Asks is what the driver of a GPU asks for, as the diagnosis tells it.
	Asks string
	// Busy workload never ends by itself. Its pods are held by a disruption budget as well if it is Held.
	Busy, Held bool
	// Full nodes have no free GPU, Bare ones no pod of the DaemonSet that the procedure restarts.
	Full, Bare bool
	// PoweredOff is when the power of the node goes, and its power supply says so. Zero: never.
	PoweredOff time.Duration
	// Device and XID are those of the alert, where the usual ones will not do.
	Device string
	XID    int
	// History are the past incidents of the node.
	History []ticket.Incident
}

// fixes reports whether the n-th run of an operation is the one that ends the fault.
func (s Story) fixes(operation string, n int) bool {
	return s.FixedBy == operation && n >= max(1, s.At)
}

// Incident is a row: how a condition goes one way.
type Incident struct {
	Condition string
	Way       string
	Story     Story
	// Steps are those of the ticket that was written last. Every one went well unless its word says otherwise: failed, or canceled,
	// which is a step that was not needed any more or could not be carried out. End is how the incidents ended.
	Steps, End string
}

// Row returns an incident.
func Row(condition, way string, story Story, steps, end string) Incident {
	return Incident{Condition: condition, Way: way, Story: story, Steps: steps, End: end}
}

// Check plays the incident.
func (i Incident) Check(t *testing.T, catalogue *rules.Catalogue) {
	t.Helper()
	At(t, func(t *testing.T) {
		steps, end := New(t, catalogue, i.Condition, i.Story).Play(i.Condition)
		require.Equal(t, i.Steps, steps)
		require.Equal(t, i.End, end)
	})
}

// Run plays the rows of a domain, which is the first part of the names of its procedures. Each of its conditions in the catalogue has
// its three rows, and there are no others.
func Run(t *testing.T, domain string, rows []Incident) {
	t.Helper()
	t.Parallel()
	catalogue := Catalogue(t, "")
	for _, i := range rows {
		t.Run(i.Condition+"/"+i.Way, func(t *testing.T) { i.Check(t, catalogue) })
	}
	t.Run("every condition has its rows", func(t *testing.T) {
		ways := make(map[string][]string)
		for _, i := range rows {
			ways[i.Condition] = append(ways[i.Condition], i.Way)
		}
		for _, c := range catalogue.Conditions() {
			if of, _, _ := strings.Cut(c.SOP, "/"); of == domain {
				require.Equal(t, []string{Happy, Failing, Escalation}, ways[c.Name], c.Name)
				delete(ways, c.Name)
			}
		}
		require.Empty(t, ways, "conditions that are not of this domain")
	})
}

// At runs a test in virtual time, side by side with others.
func At(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, test)
}

// Catalogue is the embedded catalogue with every condition in mode auto, and what the operator's text says besides.
func Catalogue(t *testing.T, text string) *rules.Catalogue {
	t.Helper()
	embedded, err := rules.Load(rules.Options{})
	require.NoError(t, err)
	var own strings.Builder
	own.WriteString("conditions:\n")
	for _, c := range embedded.Conditions() {
		own.WriteString("- {name: " + c.Name + ", policy: {mode: auto}}\n")
	}
	files := []string{write(t, "auto.yaml", own.String())}
	if text != "" {
		files = append(files, write(t, "operator.yaml", text))
	}
	catalogue, err := rules.Load(rules.Options{Files: files})
	require.NoError(t, err)
	require.NoError(t, catalogue.UnknownSOPs(procedures.Table().Names()))
	return catalogue
}

// Case is a turn that an incident may take besides the three ways.
type Case struct {
	Name string
	Incident
}

// Turn returns a case.
func Turn(name, condition string, story Story, steps, end string) Case {
	return Case{name, Row(condition, "", story, steps, end)}
}

// RunCases plays the cases.
func RunCases(t *testing.T, cases []Case) {
	t.Helper()
	t.Parallel()
	catalogue := Catalogue(t, "")
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) { c.Check(t, catalogue) })
	}
}

// Past are repairs of a fault that went well, the last of them half a day before the test.
func Past(condition, device string, xid, n int) []ticket.Incident {
	var all []ticket.Incident
	for i := range n {
		// The bubble begins with the year 2000.
		opened := time.Date(1999, 12, 31, 12-6*i, 0, 0, 0, time.UTC)
		all = append([]ticket.Incident{{
			ID: "past-" + strconv.Itoa(i), Condition: condition, Device: device, XID: xid, Opened: opened, Closed: opened.Add(time.Hour),
			Outcome: "resolved", Isolated: true,
		}}, all...)
	}
	return all
}
