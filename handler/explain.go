package handler

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"k8s.io/apimachinery/pkg/util/duration"

	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// explain says in words why the node has, or has not, been healed: one line for each condition and one for the ticket.
func explain(v NodeView, now time.Time) []string {
	var lines []string
	for _, c := range v.Conditions {
		lines = append(lines, c.explain(now))
	}
	if line := v.explainTicket(now); line != "" {
		lines = append(lines, line)
	}
	if len(lines) == 0 {
		lines = append(lines, v.explainNothing(now))
	}
	return lines
}

// mostTelling returns the one line that answers the question why. Where a ticket is open, all conditions wait for it.
func mostTelling(v NodeView, now time.Time) string {
	if line := v.explainTicket(now); line != "" {
		return line
	}
	if len(v.Conditions) == 0 {
		return v.explainNothing(now)
	}
	return slices.MinFunc(v.Conditions, byTelling).explain(now)
}

// byTelling orders the conditions that are left alone for good, or for the sake of another one, behind those that wait.
func byTelling(a, b ConditionView) int {
	return cmp.Or(
		cmp.Compare(a.quiet(), b.quiet()),
		cmp.Compare(a.Priority, b.Priority),
	)
}

// quiet is 1 for a condition that is left alone, whatever comes.
func (c ConditionView) quiet() int {
	if c.Verdict == policy.VerdictIgnored || c.Verdict == policy.VerdictTolerated {
		return 1
	}
	return 0
}

func (c ConditionView) explain(now time.Time) string {
	line := ofDevice(c.Condition, c.Device) + ": " + cmp.Or(string(c.Verdict), "not decided yet") + lasting(c.VerdictSince, now)
	if c.Reason != "" {
		line += ": " + c.Reason
	}
	if c.Change != "" {
		line += "; changes when " + c.Change
	}
	return oneLine(line)
}

// explainTicket returns an empty line where there is no ticket.
func (v NodeView) explainTicket(now time.Time) string {
	switch {
	case v.TicketError != "":
		return oneLine("the ticket cannot be read: " + v.TicketError)
	case v.Ticket == nil:
		return ""
	default:
		return v.Ticket.explain(now)
	}
}

func (t TicketView) explain(now time.Time) string {
	parts := []string{
		strings.TrimSpace("ticket "+t.ID) + ": " + ofDevice(t.Condition, t.Device),
		"with " + cmp.Or(t.Supervisor, "nobody"),
	}
	if t.Status != "" && t.Status != ticket.StatusResolving {
		parts = append(parts, "status "+string(t.Status))
	}
	parts = append(parts, t.explainStep(now))
	if t.Hold != "" {
		parts = append(parts, "held: "+t.Hold)
	}
	return oneLine(strings.Join(parts, ", "))
}

// explainStep tells the step that runs, or else the last one.
func (t TicketView) explainStep(now time.Time) string {
	for _, s := range slices.Backward(t.Workflows) {
		if s.Status == ticket.Running {
			return "step " + string(s.Action) + " running" + lasting(s.At, now)
		}
	}
	if len(t.Workflows) == 0 {
		return "no step yet"
	}
	last := t.Workflows[len(t.Workflows)-1]
	line := fmt.Sprintf("last step %s %s%s", last.Action, strings.ToLower(string(last.Status)), ago(last.At, now))
	if last.Message != "" {
		line += " (" + last.Message + ")"
	}
	return line
}

// explainNothing tells of the last incident, where no condition and no ticket is there to tell of.
func (v NodeView) explainNothing(now time.Time) string {
	const nothing = "no condition is reported on the node"
	if len(v.History) == 0 {
		return nothing + "; its history has no incident"
	}
	last := slices.MaxFunc(v.History, func(a, b IncidentView) int { return a.Closed.Compare(b.Closed) })
	return oneLine(fmt.Sprintf("%s; last incident: %s, %s%s", nothing, ofDevice(last.Condition, last.Device),
		cmp.Or(last.Outcome, "ended"), ago(last.Closed, now)))
}

func ofDevice(condition, device string) string {
	if device == "" {
		return condition
	}
	return condition + " of device " + device
}

// lasting says for how long, where the begin is known.
func lasting(since, now time.Time) string {
	if since.IsZero() {
		return ""
	}
	return " for " + age(since, now)
}

func ago(at, now time.Time) string {
	if at.IsZero() {
		return ""
	}
	return " " + age(at, now) + " ago"
}

// age is written as kubectl writes it. The clock of another host may be ahead.
func age(at, now time.Time) string {
	return duration.HumanDuration(max(0, now.Sub(at)))
}

// oneLine keeps what strangers wrote on alerts and tickets from breaking the line, or the terminal.
func oneLine(text string) string {
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
}
