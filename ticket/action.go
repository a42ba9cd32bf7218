package ticket

import (
	"fmt"
	"slices"
	"strings"
)

// Status is the state of a ticket.
type Status string

// The states of a ticket.
const (
	StatusCreated   Status = "created"   // Nobody works on it yet.
	StatusAssigned  Status = "assigned"  // It was handed to people.
	StatusResolving Status = "resolving" // A procedure works on it.
	StatusResolved  Status = "resolved"  // The fault is gone.
	StatusClosed    Status = "closed"    // It ended without proof that the fault is gone.
)

// StepStatus is the state of one step.
type StepStatus string

// The states of a step.
const (
	Running   StepStatus = "Running"   // It was begun, or is about to begin.
	Succeeded StepStatus = "Succeeded" // It ended well.
	Failed    StepStatus = "Failed"    // It was carried out and ended badly.
	Canceled  StepStatus = "Canceled"  // It was not carried out, or not to its end.
)

// Action is what a step does.
type Action string

// The actions.
const (
	Cordon      Action = "cordon"
	Drain       Action = "drain"
	DrainGPU    Action = "draingpu"
	WaitIdle    Action = "waitidle"
	Reboot      Action = "reboot"
	Shutdown    Action = "shutdown"
	Reset       Action = "reset"
	Healthcheck Action = "healthcheck"
	Repair      Action = "repair"
	Remedy      Action = "remedy"
	Diagnose    Action = "diagnose"
	RestartPod  Action = "restartpod"
	Verify      Action = "verify"
	Uncordon    Action = "uncordon"
	Taint       Action = "taint"
	Untaint     Action = "untaint"
	Wait        Action = "wait"
	HandOver    Action = "handover"
	Resolve     Action = "resolve"
)

// Actions returns all actions.
func Actions() []Action {
	return []Action{
		Cordon, Drain, DrainGPU, WaitIdle, Reboot, Shutdown, Reset, Healthcheck, Repair, Remedy, Diagnose,
		RestartPod, Verify, Uncordon, Taint, Untaint, Wait, HandOver, Resolve,
	}
}

// Destructive reports whether the action may destroy running work.
func (a Action) Destructive() bool {
	switch a {
	case Reboot, Shutdown, Reset, Taint:
		return true
	}
	return false
}

// normalAction returns the known action that text names in any case, else text as an action of its own.
func normalAction(text string) Action {
	if a := Action(strings.ToLower(strings.TrimSpace(text))); slices.Contains(Actions(), a) {
		return a
	}
	return Action(text)
}

// parseStepStatus returns the status that text names in any case.
func parseStepStatus(text string) (StepStatus, error) {
	for _, s := range []StepStatus{Running, Succeeded, Failed, Canceled} {
		if strings.EqualFold(strings.TrimSpace(text), string(s)) {
			return s, nil
		}
	}
	return "", fmt.Errorf("status %s is unknown, want Running, Succeeded, Failed or Canceled", quote(text))
}

// parseStatus returns the ticket status that text names in any case. A ticket that says nothing was just created.
func parseStatus(text string) (Status, error) {
	if strings.TrimSpace(text) == "" {
		return StatusCreated, nil
	}
	for _, s := range []Status{StatusCreated, StatusAssigned, StatusResolving, StatusResolved, StatusClosed} {
		if strings.EqualFold(strings.TrimSpace(text), string(s)) {
			return s, nil
		}
	}
	return "", fmt.Errorf("status %s is unknown, want created, assigned, resolving, resolved or closed", quote(text))
}

// quote shortens hostile text so that it can stand in an error.
func quote(text string) string {
	const most = 40
	if cut := Clip(text, most); cut != text {
		return fmt.Sprintf("%q...", cut)
	}
	return fmt.Sprintf("%q", text)
}
