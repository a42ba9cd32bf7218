package ticket

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"
)

// maxAttempts bounds the counter, so that no text makes it overflow.
const maxAttempts = 1_000_000

// Parse reads a ticket: YAML, or the literal block that kubectl passes on when the annotation is typed as in a
// manifest, with its leading bar and its indentation. Every error wraps ErrBroken.
func Parse(text string) (*Ticket, error) {
	t := &Ticket{}
	if err := t.parse(text); err != nil {
		return nil, fmt.Errorf("annotation %s %w: %w", Annotation, ErrBroken, err)
	}
	return t, nil
}

func (t *Ticket) parse(text string) error {
	root, err := readDocument(text)
	switch {
	case err != nil:
		return err
	case root == nil:
		return errors.New("it is empty, want condition, supervisor and status, or no annotation at all")
	}
	if err := decodeFields(root, t.set); err != nil {
		return err
	}
	if t.Status == "" {
		t.Status = StatusCreated
	}
	return nil
}

// set reads one field of the ticket.
func (t *Ticket) set(key, value *yaml.Node) (err error) {
	if text := t.textField(key.Value); text != nil {
		*text, err = decodeText(value)
		return err
	}
	switch key.Value {
	case "status":
		t.Status, err = decodeStatus(value)
	case "createdAt":
		t.CreatedAt, err = decodeTime(value)
	case "startsAt":
		t.StartsAt, err = decodeTime(value)
	case "attempts":
		t.Attempts, err = decodeCount(value, maxAttempts)
	case "attended":
		t.Attended, err = decodeBool(value)
	case "xid":
		t.XID, err = decodeCount(value, maxXID)
	case "past":
		t.Past, err = decodePast(value)
	case "done":
		t.done, err = decodeDone(value)
	case "found":
		t.found, err = decodeFound(value)
	case "workflows":
		t.Workflows, err = decodeSteps(value)
	default:
		t.extra = append(t.extra, unknown(key, value))
	}
	return err
}

// textField returns where the text of the named field goes, nil if it is no text.
func (t *Ticket) textField(name string) *string {
	switch name {
	case "id":
		return &t.ID
	case "condition":
		return &t.Condition
	case "device":
		return &t.Device
	case "sop":
		return &t.SOP
	case "origin":
		return &t.Origin
	case "source":
		return &t.Source
	case "reason":
		return &t.Reason
	case "supervisor":
		return &t.Supervisor
	case "bootID":
		return &t.BootID
	case "hold":
		return &t.Hold
	case "approvedBy":
		return &t.ApprovedBy
	case "requestedBy":
		return &t.RequestedBy
	case "cordon":
		return &t.Cordon
	case "recovery":
		return &t.Recovery
	}
	return nil
}

func decodeStatus(n *yaml.Node) (Status, error) {
	text, err := decodeText(n)
	if err != nil {
		return "", err
	}
	return parseStatus(text)
}

// maxXID is above every number that the NVIDIA driver gives an error.
const maxXID = 9999

func decodeCount(n *yaml.Node, most int) (int, error) {
	text, err := decodeText(n)
	if err != nil || text == "" {
		return 0, err
	}
	count, err := strconv.Atoi(text)
	if err != nil || count < 0 || count > most {
		return 0, fmt.Errorf("%s is not a count, want a number from 0 to %d", quote(text), most)
	}
	return count, nil
}

// decodePast reads the numbers of calls that were made for an earlier condition.
func decodePast(n *yaml.Node) (map[Action]int, error) {
	if n.Tag == tagNull {
		return nil, nil
	}
	past := map[Action]int{}
	err := decodeFields(n, func(key, value *yaml.Node) error {
		text, err := decodeText(value)
		if err != nil {
			return err
		}
		count, err := foldedNumber(text)
		if err != nil {
			return err
		}
		past[normalAction(key.Value)] += count
		return nil
	})
	return past, err
}

// decodeDone reads the outcomes of the calls whose details were left out.
func decodeDone(n *yaml.Node) ([]folded, error) {
	if n.Tag == tagNull {
		return nil, nil
	}
	var done []folded
	seen := map[Action]bool{}
	err := decodeFields(n, func(key, value *yaml.Node) error {
		text, err := decodeText(value)
		if err != nil {
			return err
		}
		f, err := parseFolded(normalAction(key.Value), text)
		switch {
		case err != nil:
			return err
		case f.action == "":
			return errors.New("the action is missing")
		case seen[f.action]:
			return errors.New("the action appears twice")
		}
		seen[f.action] = true
		done = append(done, f)
		return nil
	})
	return done, err
}

func decodeSteps(n *yaml.Node) ([]Step, error) {
	switch {
	case n.Tag == tagNull:
		return nil, nil
	case n.Kind != yaml.SequenceNode:
		return nil, errors.New("want a list of steps, each with action and status")
	case len(n.Content) > maxSteps:
		return nil, fmt.Errorf("it has %d steps, want at most %d", len(n.Content), maxSteps)
	}
	var steps []Step
	for i, item := range n.Content {
		s, err := decodeStep(item)
		if err != nil {
			return nil, fmt.Errorf("step %d: %w", i+1, err)
		}
		steps = append(steps, s)
	}
	return steps, nil
}

// decodeStep reads one step. A step without an action or a status could be anything, also a reboot that goes on.
func decodeStep(n *yaml.Node) (Step, error) {
	var s Step
	if err := decodeFields(n, s.set); err != nil {
		return Step{}, err
	}
	switch {
	case s.Action == "":
		return Step{}, fmt.Errorf("line %d: action is missing", n.Line)
	case s.Status == "":
		return Step{}, fmt.Errorf("line %d: status is missing, want Running, Succeeded, Failed or Canceled", n.Line)
	}
	s.completeOlder()
	return s, nil
}

// set reads one field of the step.
func (s *Step) set(key, value *yaml.Node) (err error) {
	var text string
	switch key.Value {
	case "action":
		text, err = decodeText(value)
		s.Action = normalAction(text)
	case "status":
		if text, err = decodeText(value); err == nil {
			s.Status, err = parseStepStatus(text)
		}
	case "at":
		s.At, err = decodeTime(value)
	case "ordered":
		s.Ordered, err = decodeTime(value)
	case "message":
		s.Message, err = decodeText(value)
	case "pod":
		s.Pod, err = decodeText(value)
	case "uid":
		s.UID, err = decodeText(value)
	case "spent":
		var seconds int
		seconds, err = decodeCount(value, int(maxSpent/time.Second))
		s.Spent = time.Duration(seconds) * time.Second
	default:
		var known bool
		if known, err = s.Findings.set(key, value); !known {
			s.extra = append(s.extra, unknown(key, value))
		}
	}
	return err
}
