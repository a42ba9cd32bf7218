package ticket

import (
	"cmp"
	"fmt"
	"math"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Findings is what the operation of a step found out, as far as a procedure decides by it. A replay decides by it anew, so it
// outlasts the messages and the details of a step.
type Findings struct {
	Code     int    // The exit code of the operation, 0 for none.
	Hardware string // The hardware that a failure points at.
	Recovery string // What the driver of the GPU asks for.
	Refused  bool   // The operation was not begun, because something forbids it.
	Unneeded bool   // The operation found in order what it was to put right.
	Recurred bool   // The condition was back before the node could return to service.
	Outdated bool   // It was too long ago to return a node on its word, so that it was made anew.
}

const (
	// maxHardware and maxRecovery bound texts that come from an operation, which may be a site's own.
	maxHardware = 32
	maxRecovery = 64
)

// SetRecovery notes what the driver of the GPU asks for, as far as a ticket can hold it.
func (t *Ticket) SetRecovery(text string) { t.Recovery = Clip(text, maxRecovery) }

// clipped returns the findings as a ticket can hold them.
func (f Findings) clipped() Findings {
	f.Code = max(0, min(f.Code, math.MaxInt32))
	f.Hardware, f.Recovery = Clip(f.Hardware, maxHardware), Clip(f.Recovery, maxRecovery)
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
	if f.Unneeded {
		o.add("unneeded", boolNode(true))
	}
	if f.Recurred {
		o.add(recurredWord, boolNode(true))
	}
	if f.Outdated {
		o.add(outdatedWord, boolNode(true))
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
	case "unneeded":
		f.Unneeded, err = decodeBool(value)
	case recurredWord:
		f.Recurred, err = decodeBool(value)
	case outdatedWord:
		f.Outdated, err = decodeBool(value)
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

// foldFindings keeps what the n-th call of the action found, as far as a procedure decides by it.
func (t *Ticket) foldFindings(a Action, n int, f Findings) {
	f.Recovery, f.Unneeded = "", false
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

// foundNode writes what the folded calls found, as in {healthcheck: {1: gpu 2, 3-4: gpu 21}, reset: {1: gpu 2 refused}}. It is
// shorter than the steps were. Recovery is left out: the ticket itself has it.
func (t *Ticket) foundNode() *yaml.Node {
	actions, byAction := newObject(), map[Action]object{}
	actions.node.Style = yaml.FlowStyle
	for _, k := range t.found {
		calls, known := byAction[k.action]
		if !known {
			calls = newObject()
			calls.node.Style = yaml.FlowStyle
			byAction[k.action] = calls
			actions.add(string(k.action), calls.node)
		}
		calls.add(k.calls(), textNode(k.findings.words()))
	}
	return actions.node
}

// calls returns the numbers of the calls, as in 1 or 3-4.
func (k foldedFindings) calls() string {
	if k.first == k.last {
		return strconv.Itoa(k.first)
	}
	return fmt.Sprintf("%d-%d", k.first, k.last)
}

// The words for what is no number: an operation that was not begun, a condition that was back, and a step that was made anew.
const (
	refusedWord  = "refused"
	recurredWord = "recurred"
	outdatedWord = "outdated"
)

func (f Findings) words() string {
	words := []string{strings.Join(strings.Fields(f.Hardware), "-"), strconv.Itoa(f.Code)}
	if f.Refused {
		words = append(words, refusedWord)
	}
	if f.Recurred {
		words = append(words, recurredWord)
	}
	if f.Outdated {
		words = append(words, outdatedWord)
	}
	return strings.TrimSpace(strings.Join(words, " "))
}

// parseFindings reads what words wrote.
func parseFindings(text string) (f Findings, err error) {
	words := strings.Fields(text)
	flags := map[string]*bool{refusedWord: &f.Refused, recurredWord: &f.Recurred, outdatedWord: &f.Outdated}
	for n := len(words) - 1; n >= 0 && flags[words[n]] != nil; n-- {
		*flags[words[n]], words = true, words[:n]
	}
	if len(words) == 2 {
		f.Hardware, words = words[0], words[1:]
	}
	if len(words) != 1 {
		return f, fmt.Errorf("%s is not a finding, want hardware and exit code as in gpu 2", quote(text))
	}
	f.Code, err = decodeCount(textNode(words[0]), math.MaxInt32)
	return f, err
}

// decodeFound reads what foundNode wrote.
func decodeFound(n *yaml.Node) ([]foldedFindings, error) {
	if n.Tag == tagNull {
		return nil, nil
	}
	var found []foldedFindings
	err := decodeFields(n, func(action, calls *yaml.Node) error {
		return decodeFields(calls, func(key, value *yaml.Node) error {
			k := foldedFindings{action: normalAction(action.Value)}
			from, to, _ := strings.Cut(key.Value, "-")
			var err error
			if k.first, err = foldedNumber(from); err == nil {
				k.last, err = foldedNumber(cmp.Or(to, from))
			}
			if err != nil {
				return err
			}
			text, err := decodeText(value)
			if err == nil {
				k.findings, err = parseFindings(text)
			}
			found = append(found, k)
			return err
		})
	})
	return found, err
}

func boolNode(value bool) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: tagBool, Value: strconv.FormatBool(value)}
}
