package rules

import (
	"maps"
	"slices"
	"strings"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/strict"
)

// Condition is an entry of the catalogue: what a fault is called, how its alerts are recognised, and what is done.
type Condition struct {
	Name string
	// Type is the domain, such as gpu.
	Type string
	// Priority orders conditions: the lower, the more urgent.
	Priority int
	// Device says what the ID of a status of the condition names.
	Device prom.DeviceMode
	// IDLabel is the label that holds the ID. Empty stands for the labels that Device has by default.
	IDLabel string
	// AffectsLoad says that workload suffers while the condition holds.
	AffectsLoad bool
	// Match maps labels to values with their operators. Empty stands for the default: the name or an alias in the
	// label condition, or in alertname when the label condition names no condition.
	Match map[string]string
	// SOP names the procedure. Empty when the condition is only shown.
	SOP string
	// Aliases are other names of the condition.
	Aliases []string
	// Inhibits says which other conditions of the node this one explains.
	Inhibits []Inhibition
	// Evidence says what shows that a node is seen by those who would report the condition: values of the label source of aegis:evidence,
	// or selectors. Empty stands for anything that is known of the node.
	Evidence []string
	// Policy is complete: the defaults are merged into it.
	Policy prom.Policy
}

func (c Condition) clone() Condition {
	c.Match = maps.Clone(c.Match)
	c.Aliases = slices.Clone(c.Aliases)
	c.Inhibits = slices.Clone(c.Inhibits)
	c.Evidence = slices.Clone(c.Evidence)
	return c
}

// Catalogue is what is known of conditions. It is immutable.
type Catalogue struct {
	entries []*entry          // Sorted by priority, then name.
	byName  map[string]*entry // By name and alias.
	byFold  map[string]*entry // By name and alias in lower case.
	index   *index
	xids    map[int]XID
	codes   map[string][]int // By condition.
}

// newCatalogue returns the catalogue of entries without contradictions.
func newCatalogue(entries []*entry, xids map[int]XID) *Catalogue {
	c := &Catalogue{entries: entries, byName: make(map[string]*entry), byFold: make(map[string]*entry), xids: xids, codes: codesOf(xids)}
	slices.SortFunc(c.entries, compareUrgency)
	for rank, e := range c.entries {
		e.rank = rank
		for _, name := range e.names() {
			c.byName[name] = e
			c.byFold[strings.ToLower(name)] = e
		}
	}
	c.index = newIndex(c.entries)
	return c
}

// Conditions returns the conditions, sorted by priority, then name.
func (c *Catalogue) Conditions() []Condition {
	all := make([]Condition, 0, len(c.entries))
	for _, e := range c.entries {
		all = append(all, e.clone())
	}
	return all
}

// Lookup returns the condition of that name or alias. A name that is not known as it is written is looked for again
// without regard to case.
func (c *Catalogue) Lookup(name string) (Condition, bool) {
	e := c.lookup(name)
	if e == nil {
		return Condition{}, false
	}
	return e.clone(), true
}

func (c *Catalogue) lookup(name string) *entry {
	if e := c.byName[name]; e != nil {
		return e
	}
	if checkName(name) != nil {
		return nil
	}
	return c.byFold[strings.ToLower(name)]
}

// Match returns the condition that an alert with the labels belongs to. Of several it is the most urgent one, then the
// one whose name sorts first.
func (c *Catalogue) Match(labels map[string]string) (Condition, bool) {
	e := c.match(labels)
	if e == nil {
		return Condition{}, false
	}
	return e.clone(), true
}

// MayMatch returns the conditions that an alert may belong to of which only these labels are known: its series may have more.
func (c *Catalogue) MayMatch(known map[string]string) []Condition {
	var all []Condition
	certain := c.match(known)
	for _, e := range c.entries {
		if e == certain || slices.ContainsFunc(e.rules(), func(r rule) bool { return r.mayMatch(known) }) {
			all = append(all, e.clone())
		}
	}
	return all
}

// match forgives the case of the label condition, as Lookup does, so that an alert and a request over the API that
// write a name alike mean the same condition. The name of the alert comes last: kube-state-metrics has a label
// condition of its own, so that an alert NodeNotReady may well say condition="Ready".
func (c *Catalogue) match(labels map[string]string) *entry {
	if e := c.index.find(labels); e != nil {
		return e
	}
	if e := c.lookup(labels[labelCondition]); e != nil && e.byDefault() {
		return e
	}
	if e := c.byName[labels[labelAlertname]]; e != nil && e.byDefault() {
		return e
	}
	return nil
}

// Status returns the status of a condition, given by name or alias, of a node and device. The device is dropped when
// the condition is of the whole node or of all devices. A condition that is not in the catalogue has the default
// priority, neither procedure nor policy, and so is never acted on.
func (c *Catalogue) Status(node, condition, device string) prom.AegisNodeStatus {
	e := c.lookup(condition)
	if e == nil {
		return unknownStatus(node, condition, device)
	}
	return c.withXID(e.status(node, device), 0)
}

// StatusOfXID is Status for a condition that several XIDs belong to: it says which one it is.
func (c *Catalogue) StatusOfXID(node, condition, device string, code int) prom.AegisNodeStatus {
	status := c.Status(node, condition, device)
	if code == 0 {
		return status
	}
	return c.withXID(status, code)
}

// Renew returns a status that was made of an earlier catalogue as this one has it: by the name of now, with its procedure and policy.
func (c *Catalogue) Renew(s prom.AegisNodeStatus) prom.AegisNodeStatus {
	now := c.StatusOfXID(s.Node, s.Condition, s.ID, s.XID.Code)
	s.Condition, s.ID, s.Type, s.DeviceMode = now.Condition, now.ID, now.Type, now.DeviceMode
	s.Priority, s.AffectsLoad, s.SOP, s.Policy, s.XID = now.Priority, now.AffectsLoad, now.SOP, now.Policy, now.XID
	return s
}

func unknownStatus(node, condition, device string) prom.AegisNodeStatus {
	s := prom.AegisNodeStatus{
		Node: node, Condition: condition, ID: device, Priority: prom.DefaultPriority, DeviceMode: prom.DeviceNone,
	}
	if device != "" {
		s.DeviceMode = prom.DeviceID
	}
	return s
}

func (c Condition) status(node, device string) prom.AegisNodeStatus {
	return prom.AegisNodeStatus{
		Node:        node,
		Condition:   c.Name,
		Type:        c.Type,
		ID:          c.deviceID(device),
		Priority:    c.Priority,
		AffectsLoad: c.AffectsLoad,
		DeviceMode:  c.Device,
		SOP:         c.SOP,
		Policy:      c.Policy,
	}
}

// UnknownSOPs returns an error that names every condition whose procedure is not among the known ones, as joined
// *strict.Problem values, or nil.
func (c *Catalogue) UnknownSOPs(known []string) error {
	var problems []*strict.Problem
	for _, e := range c.entries {
		if e.SOP == "" || slices.Contains(known, e.SOP) {
			continue
		}
		problems = append(problems, &strict.Problem{
			Position: e.lines[fieldSOP],
			Text:     "condition " + e.Name + " has the unknown sop " + strict.Quote(e.SOP) + ", " + strict.Hint(e.SOP, known),
		})
	}
	return strict.Join(problems)
}

// Object returns an error for each condition that judge has an objection to, as joined *strict.Problem values, or nil. The objection
// is told where the policy of the condition was last set, or else its procedure, or where the condition is defined.
func (c *Catalogue) Object(judge func(Condition) string) error {
	var problems []*strict.Problem
	for _, e := range c.entries {
		text := judge(e.Condition)
		if text == "" {
			continue
		}
		at := e.defined
		for _, field := range []string{fieldSOP, fieldPolicy} {
			if line, set := e.lines[field]; set {
				at = line
			}
		}
		problems = append(problems, &strict.Problem{Position: at, Text: "condition " + e.Name + ": " + text})
	}
	return strict.Join(problems)
}
