package ticket

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

const (
	// MaxIncidents is the number of incidents that a history keeps.
	MaxIncidents = 20
	// MaxNotes is the number of those that may be mere notes or passed checks: what was done to a node is not to be forgotten over what
	// was seen on it. A machine with a fault of each of its eight GPUs has room for them.
	MaxNotes = 10
	// maxEarlier is how many earlier times of the same fault a note keeps. No threshold counts more.
	maxEarlier = 5
	// DestructiveCounts is for how long a destructive step keeps its incident in a full history. No window in which steps or incidents are
	// counted may be longer.
	DestructiveCounts = 30 * 24 * time.Hour
	// MaxIncidentAge is how long an incident is remembered beside newer ones. No count goes as far back.
	MaxIncidentAge = 365 * 24 * time.Hour
	// MaxHistoryBytes is the largest encoded history.
	MaxHistoryBytes = 8192
)

// History holds the past incidents of a node, newest last.
type History struct {
	Incidents []Incident
}

// Incident is what is remembered of a ticket.
type Incident struct {
	ID        string
	Condition string
	Device    string
	Opened    time.Time
	// StartsAt is when the alert began that it was about, by the clock of whoever evaluates it. Zero as in a ticket.
	StartsAt    time.Time
	Closed      time.Time
	Outcome     string
	Destructive []Destructive
	SOP         string
	Isolated    bool // The node was taken out of service.
	XID         int  // The error of the NVIDIA driver that it was about, 0 for none.
	// Earlier are the times at which the same fault was noted before, oldest first, of notes that have made room for others.
	Earlier []time.Time
	// By is who asked for the check that the incident began with, Reason is why, in their words. Empty where nobody asked.
	By, Reason string

	extra []field
}

const (
	// Resolved is the outcome of an incident whose fault is gone.
	Resolved = "resolved"
	// Noted is the outcome of an incident that was only written down.
	Noted = "noted"
	// Passed is the outcome of a check that somebody asked for and that found nothing.
	Passed = "passed"
)

// Destructive is a step that may have destroyed running work.
type Destructive struct {
	Action Action
	At     time.Time
}

// ParseHistory reads a history. Every error wraps ErrBroken. Blank text is an empty history.
func ParseHistory(text string) (*History, error) {
	h := &History{}
	if err := h.parse(text); err != nil {
		return nil, fmt.Errorf("annotation %s %w: %w", HistoryAnnotation, ErrBroken, err)
	}
	return h, nil
}

func (h *History) parse(text string) error {
	root, err := readDocument(text)
	switch {
	case err != nil:
		return err
	case root == nil || root.Tag == tagNull:
		return nil
	case root.Kind != yaml.SequenceNode:
		return fmt.Errorf("line %d: want a list of incidents", root.Line)
	}
	for i, item := range root.Content {
		var in Incident
		if err := decodeFields(item, in.set); err != nil {
			return fmt.Errorf("incident %d: %w", i+1, err)
		}
		h.Incidents = append(h.Incidents, in)
	}
	return nil
}

// set reads one field of the incident.
func (in *Incident) set(key, value *yaml.Node) (err error) {
	if text := in.textField(key.Value); text != nil {
		*text, err = decodeText(value)
		return err
	}
	switch key.Value {
	case "opened":
		in.Opened, err = decodeTime(value)
	case "startsAt":
		in.StartsAt, err = decodeTime(value)
	case "closed":
		in.Closed, err = decodeTime(value)
	case "isolated":
		in.Isolated, err = decodeBool(value)
	case "xid":
		in.XID, err = decodeCount(value, maxXID)
	case "destructive":
		in.Destructive, err = decodeDestructive(value)
	case "earlier":
		in.Earlier, err = decodeTimes(value)
	default:
		in.extra = append(in.extra, unknown(key, value))
	}
	return err
}

// textField returns where the text of the named field goes, nil if it is no text.
func (in *Incident) textField(name string) *string {
	switch name {
	case "id":
		return &in.ID
	case "condition":
		return &in.Condition
	case "device":
		return &in.Device
	case "outcome":
		return &in.Outcome
	case "sop":
		return &in.SOP
	case "by":
		return &in.By
	case "reason":
		return &in.Reason
	}
	return nil
}

// decodeTimes reads a list of times.
func decodeTimes(n *yaml.Node) ([]time.Time, error) {
	switch {
	case n.Tag == tagNull:
		return nil, nil
	case n.Kind != yaml.SequenceNode:
		return nil, errors.New("want a list of times")
	}
	var list []time.Time
	for i, item := range n.Content {
		at, err := decodeTime(item)
		if err != nil {
			return nil, fmt.Errorf("item %d: %w", i+1, err)
		}
		if !at.IsZero() {
			list = append(list, at)
		}
	}
	return list, nil
}

// decodeDestructive reads a list of lines such as "reboot 2006-01-02T15:04:05Z".
func decodeDestructive(n *yaml.Node) ([]Destructive, error) {
	switch {
	case n.Tag == tagNull:
		return nil, nil
	case n.Kind != yaml.SequenceNode:
		return nil, errors.New("want a list of actions, each with its time")
	}
	var list []Destructive
	for i, item := range n.Content {
		text, err := decodeText(item)
		if err != nil {
			return nil, fmt.Errorf("item %d: %w", i+1, err)
		}
		d, err := parseDestructive(text)
		if err != nil {
			return nil, fmt.Errorf("item %d: %w", i+1, err)
		}
		list = append(list, d)
	}
	return list, nil
}

func parseDestructive(text string) (Destructive, error) {
	action, at, _ := strings.Cut(text, " ")
	if action == "" {
		return Destructive{}, fmt.Errorf("%s is not a destructive step, want one such as reboot 2006-01-02T15:04:05Z", quote(text))
	}
	d := Destructive{Action: normalAction(action)}
	if at == "" {
		return d, nil
	}
	var err error
	d.At, err = parseTime(at)
	return d, err
}

func (d Destructive) text() string {
	if d.At.IsZero() {
		return string(d.Action)
	}
	return string(d.Action) + " " + formatTime(d.At)
}

// Encode returns the history as YAML: at most MaxIncidents, as many as fit into MaxHistoryBytes. What has destroyed nothing is left out
// first, the oldest first. A history that ParseHistory would refuse is an error.
func (h *History) Encode() (string, error) {
	kept := History{Incidents: slices.Clone(h.Incidents)}
	kept.dropBeyond(MaxIncidents)
	text, err := encodeIncidents(kept.Incidents)
	for err == nil && len(text) > MaxHistoryBytes && len(kept.Incidents) > 1 {
		kept.dropBeyond(len(kept.Incidents) - 1)
		text, err = encodeIncidents(kept.Incidents)
	}
	if err == nil && len(text) > MaxHistoryBytes {
		err = fmt.Errorf("%w: the last incident has %d bytes, want at most %d", ErrTooLarge, len(text), MaxHistoryBytes)
	}
	if err == nil {
		err = new(History).parse(text)
	}
	if err != nil {
		return "", fmt.Errorf("encode history: %w", err)
	}
	return text, nil
}

func encodeIncidents(incidents []Incident) (string, error) {
	list := &yaml.Node{Kind: yaml.SequenceNode}
	for i := range incidents {
		list.Content = append(list.Content, incidents[i].node())
	}
	return encodeNode(list)
}

// node returns the incident as YAML, fields in fixed order.
func (in *Incident) node() *yaml.Node {
	o := newObject()
	o.text("id", in.ID)
	o.text("condition", in.Condition)
	o.text("device", in.Device)
	o.text("sop", in.SOP)
	o.time("opened", in.Opened)
	o.time("startsAt", in.StartsAt)
	o.time("closed", in.Closed)
	o.text("outcome", in.Outcome)
	o.text("by", in.By)
	o.text("reason", in.Reason)
	if in.Isolated {
		o.add("isolated", &yaml.Node{Kind: yaml.ScalarNode, Tag: tagBool, Value: "true"})
	}
	if in.XID != 0 {
		o.add("xid", intNode(in.XID))
	}
	var steps []*yaml.Node
	for _, d := range in.Destructive {
		steps = append(steps, textNode(d.text()))
	}
	o.list("destructive", steps)
	var earlier []*yaml.Node
	for _, at := range in.Earlier {
		earlier = append(earlier, timeNode(at))
	}
	o.list("earlier", earlier)
	o.unknown(in.extra)
	return o.node
}

// Clone returns a deep copy.
func (h *History) Clone() *History {
	c := &History{Incidents: slices.Clone(h.Incidents)}
	for i := range c.Incidents {
		c.Incidents[i].Destructive = slices.Clone(c.Incidents[i].Destructive)
		c.Incidents[i].Earlier = slices.Clone(c.Incidents[i].Earlier)
	}
	return c
}

// Add remembers an incident. One with the same identity is replaced where it stands and what people wrote into it
// is kept; else the new one is the newest, and the oldest ones beyond MaxIncidentAge, MaxNotes and MaxIncidents are forgotten, those with a
// destructive step last where there are too many: what was done to a node is not to be forgotten over tickets that somebody removes.
func (h *History) Add(in Incident) {
	same := func(old Incident) bool { return in.ID != "" && old.ID == in.ID }
	if i := slices.IndexFunc(h.Incidents, same); i >= 0 {
		if len(in.extra) == 0 {
			in.extra = h.Incidents[i].extra
		}
		h.Incidents[i] = in
		return
	}
	h.dropOlder(in.Closed.Add(-MaxIncidentAge))
	h.Incidents = append(h.Incidents, in)
	h.dropNotes()
	h.dropBeyond(MaxIncidents)
}

// dropOlder forgets incidents that were closed before then.
func (h *History) dropOlder(then time.Time) {
	h.Incidents = slices.DeleteFunc(h.Incidents, func(in Incident) bool { return !in.Closed.IsZero() && in.Closed.Before(then) })
}

// dropBeyond forgets incidents until there are no more than that: the oldest without a destructive step that still counts, and the oldest
// of all where every one has such a step. The newest stays.
func (h *History) dropBeyond(most int) {
	for over := len(h.Incidents) - most; over > 0; over-- {
		last := len(h.Incidents) - 1
		older, since := h.Incidents[:last], h.Incidents[last].Closed.Add(-DestructiveCounts)
		i := slices.IndexFunc(older, func(in Incident) bool {
			return !slices.ContainsFunc(in.Destructive, func(d Destructive) bool { return d.At.After(since) })
		})
		i = max(0, i)
		h.Incidents = slices.Delete(h.Incidents, i, i+1)
	}
}

// dropNotes makes room for notes and passed checks beyond MaxNotes. Events that are counted are forgotten last, and never because another
// device has some as well: the oldest note of a fault that was noted again becomes a time in a later one.
func (h *History) dropNotes() {
	for {
		oldest, folds, notes := -1, -1, 0
		for i := len(h.Incidents) - 1; i >= 0; i-- {
			if o := h.Incidents[i].Outcome; o != Noted && o != Passed {
				continue
			}
			notes, oldest = notes+1, i
			if h.notedAgain(i) >= 0 {
				folds = i
			}
		}
		switch {
		case notes <= MaxNotes:
			return
		case folds >= 0:
			h.foldNote(folds)
		default:
			h.Incidents = slices.Delete(h.Incidents, oldest, oldest+1)
		}
	}
}

// notedAgain returns the next note of the same fault, -1 if there is none.
func (h *History) notedAgain(i int) int {
	note := h.Incidents[i]
	if note.Outcome != Noted {
		return -1
	}
	for next := i + 1; next < len(h.Incidents); next++ {
		in := h.Incidents[next]
		if in.Outcome == Noted && in.Condition == note.Condition && in.Device == note.Device && in.XID == note.XID {
			return next
		}
	}
	return -1
}

// foldNote makes the note a time in the next one of the same fault.
func (h *History) foldNote(i int) {
	note, next := h.Incidents[i], &h.Incidents[h.notedAgain(i)]
	times := slices.Concat(note.Times(), next.Earlier)
	next.Earlier = slices.Clone(times[max(0, len(times)-maxEarlier):])
	if len(next.extra) == 0 {
		next.extra = note.extra
	}
	h.Incidents = slices.Delete(h.Incidents, i, i+1)
}

// Times returns when the fault of a note was noted, oldest first.
func (in Incident) Times() []time.Time {
	if in.Closed.IsZero() {
		return in.Earlier
	}
	return append(slices.Clip(in.Earlier), in.Closed)
}
