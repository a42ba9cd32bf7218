package ticket

import (
	"errors"
	"fmt"
	"math"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// Findings is what the operation of a step found out, as far as a procedure decides by it. A replay decides by it anew, so it
// outlasts the messages and the details of a step.
type Findings struct {
	Code     int    // The exit code of the operation, 0 for none.
	Hardware string // The hardware that a failure points at.
	Recovery string // What the driver of the GPU asks for.
	Refused  bool   // The operation was not begun, because something forbids it.
}

const (
	// maxHardware and maxRecovery bound texts that come from an operation, which may be a site's own.
	maxHardware = 32
	maxRecovery = 64
)

// clipped returns the findings as a ticket can hold them.
func (f Findings) clipped() Findings {
	f.Code = max(0, min(f.Code, math.MaxInt32))
	f.Hardware, f.Recovery = clip(f.Hardware, maxHardware), clip(f.Recovery, maxRecovery)
	return f
}

// write adds the fields to those of a step.
func (f Findings) write(o object) {
	if f.Code != 0 {
		o.add("code", intNode(f.Code))
	}
	o.text("hardware", f.Hardware)
	o.text("recovery", f.Recovery)
	if f.Refused {
		o.add("refused", boolNode(true))
	}
}

// set reads one field of the findings and reports whether it is one.
func (f *Findings) set(key, value *yaml.Node) (known bool, err error) {
	switch key.Value {
	case "code":
		f.Code, err = decodeCount(value, math.MaxInt32)
	case "hardware":
		f.Hardware, err = decodeText(value)
	case "recovery":
		f.Recovery, err = decodeText(value)
	case "refused":
		f.Refused, err = decodeBool(value)
	default:
		return false, nil
	}
	return true, err
}

// foldedFindings is what consecutive calls of one action found whose details were left out.
type foldedFindings struct {
	action      Action
	first, last int
	findings    Findings
}

// foldFindings keeps what the n-th call of the action found.
func (t *Ticket) foldFindings(a Action, n int, f Findings) {
	if f == (Findings{}) {
		return
	}
	for i := range t.found {
		if k := &t.found[i]; k.action == a && k.last == n-1 && k.findings == f {
			k.last = n
			return
		}
	}
	t.found = append(t.found, foldedFindings{action: a, first: n, last: n, findings: f})
}

// foldedFindings returns what the n-th call of the action found, if it was folded.
func (t *Ticket) foldedFindings(a Action, n int) Findings {
	for _, k := range t.found {
		if k.action == a && k.first <= n && n <= k.last {
			return k.findings
		}
	}
	return Findings{}
}

func (t *Ticket) foundNodes() []*yaml.Node {
	nodes := make([]*yaml.Node, 0, len(t.found))
	for _, k := range t.found {
		o := newObject()
		o.node.Style = yaml.FlowStyle
		o.text("action", string(k.action))
		o.add("call", intNode(k.first))
		if k.last != k.first {
			o.add("to", intNode(k.last))
		}
		k.findings.write(o)
		nodes = append(nodes, o.node)
	}
	return nodes
}

// decodeFound reads what foundNodes wrote.
func decodeFound(n *yaml.Node) ([]foldedFindings, error) {
	switch {
	case n.Tag == tagNull:
		return nil, nil
	case n.Kind != yaml.SequenceNode:
		return nil, errors.New("want a list of findings, each with action and call")
	case len(n.Content) > maxSteps:
		return nil, fmt.Errorf("it has %d findings, want at most %d", len(n.Content), maxSteps)
	}
	var found []foldedFindings
	for i, item := range n.Content {
		var k foldedFindings
		if err := decodeFields(item, k.set); err != nil {
			return nil, fmt.Errorf("finding %d: %w", i+1, err)
		}
		k.last = max(k.first, k.last)
		if k.action == "" || k.first == 0 {
			return nil, fmt.Errorf("finding %d: action or call is missing", i+1)
		}
		found = append(found, k)
	}
	return found, nil
}

func (k *foldedFindings) set(key, value *yaml.Node) (err error) {
	var text string
	switch key.Value {
	case "action":
		text, err = decodeText(value)
		k.action = normalAction(text)
	case "call":
		k.first, err = decodeCount(value, maxFolded)
	case "to":
		k.last, err = decodeCount(value, maxFolded)
	default:
		_, err = k.findings.set(key, value)
	}
	return err
}

func boolNode(value bool) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: tagBool, Value: strconv.FormatBool(value)}
}
