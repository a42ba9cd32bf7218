package ticket

import (
	"fmt"
	"maps"
	"slices"
	"sort"
	"time"

	"go.yaml.in/yaml/v3"
)

// shortReason is what is left of the reason when nothing else can go.
const shortReason = 200

// Encode returns the ticket as YAML of at most MaxBytes. If it does not fit, a copy is made shorter: first the
// messages of finished steps go, then their times, oldest first, then the oldest finished steps become outcomes
// without details but what they found, and at last the reason is cut. Running steps, counters and identity always stay.
// Should even that be too long, the fields that Aegis does not know move aside, and at last what the oldest steps found goes. A ticket that
// Parse would refuse is an error.
func (t *Ticket) Encode() (string, error) {
	text, _, err := t.encode()
	return text, err
}

// encode returns what Encode does, and the fields that had to move aside.
func (t *Ticket) encode() (text, aside string, err error) {
	if text, aside, err = t.fit(); err == nil {
		err = new(Ticket).parse(text)
	}
	if err != nil {
		return "", "", fmt.Errorf("encode ticket %q: %w", t.ID, err)
	}
	return text, aside, nil
}

// fit returns the longest text of the ticket that is short enough.
func (t *Ticket) fit() (text, aside string, err error) {
	text, err = encodeNode(t.node())
	if err != nil || len(text) <= MaxBytes {
		return text, "", err
	}
	text, err = t.shortest(t.reductions())
	if err != nil || len(text) <= MaxBytes {
		return text, "", err
	}
	bare := t.Clone()
	bare.Reason, bare.Hold = Clip(bare.Reason, shortReason), Clip(bare.Hold, shortReason)
	text, err = bare.shortest(bare.reductions())
	if err != nil || len(text) <= MaxBytes {
		return text, "", err
	}
	if aside, err = bare.moveAside(); err == nil {
		text, err = bare.shortest(bare.reductions())
	}
	if err == nil && len(text) > MaxBytes {
		text, err = bare.reduced(bare.reductions()).forgetful()
	}
	if err == nil && len(text) > MaxBytes {
		err = fmt.Errorf("%w: it has %d bytes without all that may be left out, want at most %d; shorten its other fields",
			ErrTooLarge, len(text), MaxBytes)
	}
	return text, aside, err
}

// moveAside takes the fields that Aegis does not know out of the ticket, and returns them as YAML. It is empty if there are none.
func (t *Ticket) moveAside() (string, error) {
	o := newObject()
	o.text("ticket", t.ID)
	o.unknown(t.extra)
	found := len(t.extra) > 0
	var steps []*yaml.Node
	for i := range t.Workflows {
		s := &t.Workflows[i]
		if len(s.extra) == 0 {
			continue
		}
		step := newObject()
		step.text("action", string(s.Action))
		step.unknown(s.extra)
		steps = append(steps, step.node)
		s.extra = nil
	}
	t.extra = nil
	if !found && len(steps) == 0 {
		return "", nil
	}
	o.list("workflows", steps)
	return encodeNode(o.node)
}

// shortest applies as few of the reductions as needed. If none suffices, its result is what all of them leave.
func (t *Ticket) shortest(reductions []reduction) (string, error) {
	var failed error
	encode := func(n int) string {
		text, err := encodeNode(t.reduced(reductions[:n]).node())
		if err != nil {
			failed = err
		}
		return text
	}
	enough := sort.Search(len(reductions), func(n int) bool { return len(encode(n)) <= MaxBytes })
	return encode(enough), failed
}

// forgetful leaves out as few as needed of what the folded calls found, the oldest first. If that does not suffice, its result is
// what is left without any.
func (t *Ticket) forgetful() (string, error) {
	var failed error
	encode := func(n int) string {
		c := *t
		c.found = t.found[n:]
		text, err := encodeNode(c.node())
		if err != nil {
			failed = err
		}
		return text
	}
	enough := sort.Search(len(t.found), func(n int) bool { return len(encode(n)) <= MaxBytes })
	return encode(enough), failed
}

// reduction makes one step of the ticket shorter.
type reduction struct {
	step int // Its index in Workflows.
	kind reductionKind
}

type reductionKind int

const (
	dropMessage reductionKind = iota
	dropTime
	foldStep
)

// reductions returns all that may be left out, the least useful first.
func (t *Ticket) reductions() []reduction {
	var list []reduction
	for _, kind := range []reductionKind{dropMessage, dropTime} {
		for i := range t.Workflows {
			if t.Workflows[i].Status != Running {
				list = append(list, reduction{step: i, kind: kind})
			}
		}
	}
	for _, i := range t.foldOrder() {
		list = append(list, reduction{step: i, kind: foldStep})
	}
	return list
}

// foldOrder returns the steps that may be folded, oldest first, those into which people wrote fields last. A step
// follows all earlier calls of its action, so that the folded calls are always the first ones.
func (t *Ticket) foldOrder() []int {
	var order []int
	taken := map[int]bool{}
	for _, keepExtra := range []bool{true, false} {
		blocked := map[Action]bool{}
		for i := range t.Workflows {
			s := &t.Workflows[i]
			if s.Status == Running || keepExtra && len(s.extra) > 0 {
				blocked[s.Action] = true
			}
			if !blocked[s.Action] && !taken[i] {
				taken[i] = true
				order = append(order, i)
			}
		}
	}
	return order
}

// reduced returns a copy with the reductions applied.
func (t *Ticket) reduced(reductions []reduction) *Ticket {
	c := t.Clone()
	gone := map[int]bool{}
	for _, r := range reductions {
		switch s := &c.Workflows[r.step]; r.kind {
		case dropMessage:
			s.Message = ""
		case dropTime:
			s.At = time.Time{}
		case foldStep:
			c.fold(*s)
			gone[r.step] = true
		}
	}
	kept := c.Workflows[:0]
	for i, s := range c.Workflows {
		if !gone[i] {
			kept = append(kept, s)
		}
	}
	c.Workflows = kept
	return c
}

// node returns the ticket as YAML, fields in fixed order.
func (t *Ticket) node() *yaml.Node {
	o := newObject()
	o.text("id", t.ID)
	o.text("condition", t.Condition)
	o.text("device", t.Device)
	o.text("sop", t.SOP)
	o.text("origin", t.Origin)
	o.text("source", t.Source)
	o.text("reason", t.Reason)
	o.text("supervisor", t.Supervisor)
	o.text("status", string(t.status()))
	o.time("createdAt", t.CreatedAt)
	o.time("startsAt", t.StartsAt)
	o.text("bootID", t.BootID)
	if t.Attempts != 0 {
		o.add("attempts", intNode(t.Attempts))
	}
	o.text("hold", t.Hold)
	o.text("approvedBy", t.ApprovedBy)
	if t.Attended {
		o.add("attended", boolNode(true))
	}
	o.text("requestedBy", t.RequestedBy)
	o.text("cordon", t.Cordon)
	if t.XID != 0 {
		o.add("xid", intNode(t.XID))
	}
	o.text("recovery", t.Recovery)
	if len(t.Past) > 0 {
		o.add("past", t.pastNode())
	}
	if len(t.done) > 0 {
		o.add("done", t.doneNode())
	}
	if len(t.found) > 0 {
		o.add("found", t.foundNode())
	}
	o.list("workflows", t.stepNodes())
	o.unknown(t.extra)
	return o.node
}

// status returns the status to write. A ticket that says nothing was just created.
func (t *Ticket) status() Status {
	if t.Status == "" {
		return StatusCreated
	}
	return t.Status
}

func (t *Ticket) pastNode() *yaml.Node {
	o := newObject()
	o.node.Style = yaml.FlowStyle
	for _, a := range slices.Sorted(maps.Keys(t.Past)) {
		o.add(string(a), intNode(t.Past[a]))
	}
	return o.node
}

func (t *Ticket) doneNode() *yaml.Node {
	o := newObject()
	o.node.Style = yaml.FlowStyle
	for _, f := range t.done {
		o.text(string(f.action), f.text())
	}
	return o.node
}

func (t *Ticket) stepNodes() []*yaml.Node {
	nodes := make([]*yaml.Node, 0, len(t.Workflows))
	for _, s := range t.Workflows {
		o := newObject()
		o.text("action", string(s.Action))
		o.text("status", string(s.Status))
		o.time("at", s.At)
		o.time("ordered", s.Ordered)
		o.text("message", s.Message)
		s.write(o)
		o.text("pod", s.Pod)
		o.text("uid", s.UID)
		if seconds := int(s.Spent / time.Second); seconds > 0 {
			o.add("spent", intNode(seconds))
		}
		o.unknown(s.extra)
		nodes = append(nodes, o.node)
	}
	return nodes
}
