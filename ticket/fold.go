package ticket

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// maxFolded bounds the calls that one run of a folded list may claim, so that no text makes a sum overflow.
const maxFolded = 100_000

// folded holds the outcomes of the first calls of one action, whose details were left out. Only the order of the
// calls of the same action matters when a procedure replays, and per action equal outcomes follow each other, so
// that runs stay few however often a procedure goes around.
type folded struct {
	action Action
	runs   []run
}

// run is a number of consecutive calls with the same outcome.
type run struct {
	status StepStatus
	count  int
}

// text writes the runs as in "F2S": failed twice, then succeeded.
func (f folded) text() string {
	var b strings.Builder
	for _, r := range f.runs {
		b.WriteString(string(r.status[:1]))
		if r.count > 1 {
			b.WriteString(strconv.Itoa(r.count))
		}
	}
	return b.String()
}

// add appends one or more calls with the same outcome.
func (f *folded) add(s StepStatus, count int) {
	if last := len(f.runs) - 1; last >= 0 && f.runs[last].status == s {
		f.runs[last].count += count
		return
	}
	f.runs = append(f.runs, run{status: s, count: count})
}

// count returns the number of calls.
func (f folded) count() int {
	n := 0
	for _, r := range f.runs {
		n += r.count
	}
	return n
}

// parseFolded reads what text wrote.
func parseFolded(a Action, text string) (folded, error) {
	f := folded{action: a}
	rest := text
	for rest != "" {
		s, ok := foldedStatus(rest[0])
		digits := len(rest[1:]) - len(strings.TrimLeft(rest[1:], "0123456789"))
		count, err := foldedNumber(rest[1 : 1+digits])
		if !ok || err != nil {
			return folded{}, badFolded(text)
		}
		f.add(s, count)
		rest = rest[1+digits:]
	}
	if n := f.count(); n < 1 || n > maxFolded {
		return folded{}, badFolded(text)
	}
	return f, nil
}

func badFolded(text string) error {
	return fmt.Errorf("%s is not a list of outcomes, want S, F or C, each with a count of at most %d as in F2S", quote(text),
		maxFolded)
}

// foldedStatus returns the final status that the letter stands for.
func foldedStatus(letter byte) (StepStatus, bool) {
	for _, s := range []StepStatus{Succeeded, Failed, Canceled} {
		if s[0] == letter {
			return s, true
		}
	}
	return "", false
}

// foldedNumber returns the count of a run; none means once.
func foldedNumber(digits string) (int, error) {
	if digits == "" {
		return 1, nil
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n < 1 || n > maxFolded {
		return 0, fmt.Errorf("count %s is not within 1 and %d", quote(digits), maxFolded)
	}
	return n, nil
}

// foldedCount returns how many calls of the action were folded.
func (t *Ticket) foldedCount(a Action) int {
	for _, f := range t.done {
		if f.action == a {
			return f.count()
		}
	}
	return 0
}

// foldedOutcome returns the outcome of the n-th call of the action if it was folded.
func (t *Ticket) foldedOutcome(a Action, n int) (StepStatus, bool) {
	for _, f := range t.done {
		if f.action != a {
			continue
		}
		for _, r := range f.runs {
			if n <= r.count {
				return r.status, true
			}
			n -= r.count
		}
	}
	return "", false
}

// fold moves a step into the counts. The caller removes it from Workflows, oldest call of the action first.
func (t *Ticket) fold(s Step) {
	i := slices.IndexFunc(t.done, func(f folded) bool { return f.action == s.Action })
	if i < 0 {
		t.done = append(t.done, folded{action: s.Action})
		i = len(t.done) - 1
	}
	t.done[i].add(s.Status, 1)
	t.foldFindings(s.Action, t.done[i].count(), s.Findings)
}
