// Package ticket keeps the incident of a node where operators already look: as readable YAML in an annotation of the
// Node object, with the node's past incidents in another one, and every write of both conditional on what was read.
package ticket

import (
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// The annotations of a Node.
const (
	// Annotation holds the open ticket.
	Annotation = "aegis.io/ticketing"
	// HistoryAnnotation holds the past incidents.
	HistoryAnnotation = "aegis.io/ticket-history"
	// HistoryBrokenAnnotation keeps a history that could not be read and was replaced by a new one.
	HistoryBrokenAnnotation = "aegis.io/ticket-history-broken"
	// NotesAnnotation keeps the fields of tickets that Aegis does not know and that did not fit, such as long notes of people.
	NotesAnnotation = "aegis.io/ticket-notes"
	// OwnerAnnotation is the note of who made the node unschedulable: "aegis/<ticket id>".
	OwnerAnnotation = "aegis.io/cordoned-by"
)

const (
	// MaxBytes is the largest encoded ticket.
	MaxBytes = 4096
	// MaxHold is the longest reason for waiting that is written on a ticket.
	MaxHold = 512
	// maxAside bounds each annotation into which Aegis moves what does not fit elsewhere or cannot be read.
	maxAside = 8192
	// Self is the supervisor of the tickets that Aegis owns.
	Self = "aegis"
	// maxMessage bounds one step's message, so that a running step alone never fills a ticket.
	maxMessage = 512
	// maxSpent bounds the time of a step, so that no text makes a sum overflow.
	maxSpent = math.MaxInt32 * time.Second
)

var (
	// ErrBroken is wrapped by every error about a ticket or a history that cannot be read.
	ErrBroken = errors.New("cannot be read")
	// ErrTooLarge is wrapped by the error about a ticket or a history that does not fit its limit even without
	// everything that may be left out.
	ErrTooLarge = errors.New("too large")
)

// Step is one action of a procedure.
type Step struct {
	Action  Action
	Status  StepStatus
	At      time.Time // When it got this status; zero when unknown.
	Message string
	Findings
	Pod string // The pod that is being restarted, as namespace/name.
	UID string // The UID of that pod.
	// Ordered is when a step that had waited for long was about to be ordered. Zero for one that was ordered as it began.
	Ordered time.Time
	// Spent is for how long it was permitted so far, as far as its deadline counts that. Zero where that is unknown, and in older tickets.
	Spent time.Duration

	extra []field
}

// Ticket is the incident of a node.
type Ticket struct {
	ID         string
	Condition  string
	Device     string
	SOP        string
	Origin     string
	Source     string // The source that found the condition. Empty when an alert or a person reported it.
	Reason     string
	Supervisor string // Who owns it, separated by commas.
	Status     Status
	CreatedAt  time.Time
	// StartsAt is when the alert began that it was opened for, by the clock of whoever evaluates it. Zero where no alert began it, and in
	// older tickets.
	StartsAt   time.Time
	BootID     string
	Attempts   int
	Hold       string
	ApprovedBy string // Who allowed the repair in mode approve.
	Attended   bool   // A person has acted on it: they took it over, or asked for the repair.
	// RequestedBy is who asked for the check that the incident began with. Cordon names the cordon of theirs that a passed one undoes,
	// as CordonOf does. Both are empty where nobody asked.
	RequestedBy, Cordon string
	XID                 int    // The error of the NVIDIA driver that it is about, 0 for none.
	Recovery            string // What the driver of the GPU asks for, as a diagnosis has read it.
	// Past counts, per action, the calls that were made for the condition that the ticket had before. The procedure of the
	// present one numbers its own calls after them.
	Past      map[Action]int
	Workflows []Step // Oldest first.

	done  []folded
	found []foldedFindings // What the folded calls found.
	extra []field
}

// NewID returns an identity for a ticket opened now. Identities sort by time and fit into a DNS label.
func NewID(now time.Time) string {
	return now.UTC().Format("20060102t150405") + "-" + strings.ToLower(rand.Text()[:6])
}

// Clone returns a deep copy.
func (t *Ticket) Clone() *Ticket {
	c := *t
	c.Past = maps.Clone(t.Past)
	c.Workflows = slices.Clone(t.Workflows)
	c.found = slices.Clone(t.found)
	c.done = slices.Clone(t.done)
	for i := range c.done {
		c.done[i].runs = slices.Clone(c.done[i].runs)
	}
	return &c
}

// Supervisors returns the owners of the ticket.
func (t *Ticket) Supervisors() []string {
	var names []string
	for name := range strings.SplitSeq(t.Supervisor, ",") {
		if name = strings.TrimSpace(name); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// Owned reports whether Aegis, and nobody else, owns the ticket.
func (t *Ticket) Owned() bool {
	return slices.Equal(t.Supervisors(), []string{Self})
}

// Open reports whether the incident goes on.
func (t *Ticket) Open() bool {
	return t.Status != StatusResolved && t.Status != StatusClosed
}

// Count returns how often the action was called so far.
func (t *Ticket) Count(a Action) int {
	n := t.foldedCount(a)
	for i := range t.Workflows {
		if t.Workflows[i].Action == a {
			n++
		}
	}
	return n
}

// Outcome returns the n-th call of the action, counted from 1. Of a call whose details were left out for size only
// the action, the status and what it found are known.
func (t *Ticket) Outcome(a Action, n int) (Step, bool) {
	if n < 1 {
		return Step{}, false
	}
	if s, ok := t.foldedOutcome(a, n); ok {
		return Step{Action: a, Status: s, Findings: t.foldedFindings(a, n)}, true
	}
	if i := t.index(a, n); i >= 0 {
		return t.Workflows[i], true
	}
	return Step{}, false
}

// Record journals the n-th call of the action. A new call must be the next one; a known call can only go from Running
// to a final status, so that nobody begins a step that somebody else began.
func (t *Ticket) Record(a Action, n int, s StepStatus, at time.Time, message string) error {
	return t.RecordStep(n, Step{Action: a, Status: s, At: at, Message: message})
}

// RecordStep is Record for a step of which there is more to say.
func (t *Ticket) RecordStep(n int, step Step) error {
	if _, err := parseStepStatus(string(step.Status)); err != nil {
		return fmt.Errorf("record %s call %d: %w", step.Action, n, err)
	}
	next := t.Count(step.Action) + 1
	step.At = step.At.UTC().Truncate(time.Second)
	step.Message = Clip(step.Message, maxMessage)
	step.Findings = step.clipped()
	step.Spent = wholeSeconds(step.Spent)
	switch {
	case n == next:
		t.Workflows = append(t.Workflows, step)
		return nil
	case n < 1 || n > next:
		return fmt.Errorf("record %s call %d as %s: the next call is %d", step.Action, n, step.Status, next)
	}
	return t.finish(step, n)
}

// finish gives the running n-th call of the step's action its final status.
func (t *Ticket) finish(step Step, n int) error {
	old, _ := t.Outcome(step.Action, n)
	if old.Status != Running || step.Status == Running {
		return fmt.Errorf("record %s call %d as %s: it is %s already", step.Action, n, step.Status, old.Status)
	}
	step.extra = old.extra
	t.Workflows[t.index(step.Action, n)] = step
	return nil
}

// Outdate takes back what the n-th call of the action said, and all calls after it in the order of the ticket: they are made anew.
func (t *Ticket) Outdate(a Action, n int) {
	first := t.index(a, n)
	if first < 0 {
		return
	}
	for i := range t.Workflows[first:] {
		s := &t.Workflows[first+i]
		s.Status, s.Outdated = Canceled, true
	}
}

// Since returns when the n-th call of the action, or one that rests on it, was last gone on with, and whether they are the last word of the
// ticket: nothing has come of them that failed, or that changed the node.
func (t *Ticket) Since(a Action, n int) (last time.Time, ends bool) {
	first := t.index(a, n)
	if first < 0 {
		return last, false
	}
	for _, s := range t.Workflows[first:] {
		proves := (s.Action == Verify || s.Action == Healthcheck) && s.Status != Failed
		if !proves && (s.Action != Uncordon || s.Status != Running) {
			return last, false
		}
		at := s.At
		if s.Status == Running {
			at = at.Add(s.Spent)
		}
		if at.After(last) {
			last = at
		}
	}
	return last, true
}

// Spend notes for how long the running n-th call of the action was permitted so far.
func (t *Ticket) Spend(a Action, n int, spent time.Duration) {
	if i := t.index(a, n); i >= 0 && t.Workflows[i].Status == Running {
		t.Workflows[i].Spent = wholeSeconds(spent)
	}
}

// Order notes when the running n-th call of the action is ordered, long after it has begun.
func (t *Ticket) Order(a Action, n int, at time.Time) {
	if i := t.index(a, n); i >= 0 && t.Workflows[i].Status == Running {
		t.Workflows[i].Ordered = at.UTC().Truncate(time.Second)
	}
}

// Effective returns when the step may have begun to take effect: that is when it was ordered.
func (s Step) Effective() time.Time {
	if s.Ordered.After(s.At) {
		return s.Ordered
	}
	return s.At
}

// wholeSeconds returns the time as a ticket can hold it.
func wholeSeconds(d time.Duration) time.Duration {
	return min(max(0, d), maxSpent).Truncate(time.Second)
}

// Running returns the steps that were begun and have not ended.
func (t *Ticket) Running() []Step {
	var steps []Step
	for _, s := range t.Workflows {
		if s.Status == Running {
			steps = append(steps, s)
		}
	}
	return steps
}

// CancelRunning ends the steps that run as Canceled. A destructive one, which may have been carried out, ends as Failed, so that it
// counts.
func (t *Ticket) CancelRunning(now time.Time, message string) error {
	for _, a := range Actions() {
		for n := 1; n <= t.Count(a); n++ {
			if s, _ := t.Outcome(a, n); s.Status != Running {
				continue
			}
			ended := Canceled
			if a.Destructive() {
				ended = Failed
			}
			if err := t.Record(a, n, ended, now, message); err != nil {
				return err
			}
		}
	}
	return nil
}

// index returns the position in Workflows of the n-th call of the action, -1 if it is not there.
func (t *Ticket) index(a Action, n int) int {
	seen := t.foldedCount(a)
	for i := range t.Workflows {
		if t.Workflows[i].Action != a {
			continue
		}
		if seen++; seen == n {
			return i
		}
	}
	return -1
}

// Clip cuts text to at most that many bytes, at the boundary of a character.
func Clip(text string, most int) string {
	if len(text) <= most {
		return text
	}
	for most > 0 && !utf8.RuneStart(text[most]) {
		most--
	}
	return text[:most]
}
