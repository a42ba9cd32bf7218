package rules

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"go.yaml.in/yaml/v3"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/strict"
)

// fieldCode is the field that says which XID an entry is about.
const fieldCode = "code"

// labelXID holds the code of the XID that an alert is about.
const labelXID = "xid"

const (
	// maxXID is above every code that there is, and below what is no code.
	maxXID = 9999
	// maxThreshold is how many events the history of a node remembers.
	maxThreshold = 5
)

// XID is what is known of an error that the NVIDIA driver reports by number.
type XID struct {
	Code int
	// Name says in words what it is.
	Name string
	// Class says what is done about it.
	Class prom.XIDClass
	// Condition is the one that its alert belongs to. Empty when it has none.
	Condition string
	// DetailOf is the code that this one comes with, 0 for none.
	DetailOf int
	// Raises154 says that newer drivers also report XID 154 with the action that they ask for.
	Raises154 bool
	// Threshold is how often it must come on a GPU before anything but a note is made. Zero leaves that to the condition.
	Threshold prom.Threshold

	// at is where it was defined, and where its condition was named.
	at, conditionAt strict.Position
}

// XIDs returns what is known of XIDs, by code.
func (c *Catalogue) XIDs() []XID {
	all := slices.Collect(maps.Values(c.xids))
	slices.SortFunc(all, func(a, b XID) int { return a.Code - b.Code })
	return all
}

// XID returns the XID of the code. A code that nobody knows is looked at by people: nothing destructive is done about a number
// without a meaning.
func (c *Catalogue) XID(code int) prom.XID {
	if code <= 0 {
		return prom.XID{}
	}
	x, known := c.xids[code]
	if !known {
		return prom.XID{Code: code, Class: prom.XIDCheck}
	}
	return prom.XID{Code: code, Class: x.Class}
}

// codesOf returns the XIDs that belong to each condition. Details of another XID come with that one.
func codesOf(xids map[int]XID) map[string][]int {
	codes := make(map[string][]int)
	for _, code := range slices.Sorted(maps.Keys(xids)) {
		if x := xids[code]; x.Condition != "" && x.DetailOf == 0 {
			codes[x.Condition] = append(codes[x.Condition], code)
		}
	}
	return codes
}

// withXID adds the XID of the code to the status of a condition that XIDs belong to.
func (c *Catalogue) withXID(s prom.AegisNodeStatus, code int) prom.AegisNodeStatus {
	codes := c.codes[s.Condition]
	switch {
	case len(codes) == 0:
		return s
	case code == 0 && len(codes) == 1:
		code = codes[0]
	}
	s.XID = c.XID(code)
	if code == 0 {
		s.XID.Class = c.commonClass(codes)
	}
	if t := c.xids[code].Threshold; t.Count > 0 {
		s.Policy.Threshold = t
	}
	return s
}

// commonClass returns the class of codes of which nobody says which one it is. If they differ, people look at it.
func (c *Catalogue) commonClass(codes []int) prom.XIDClass {
	class := c.xids[codes[0]].Class
	if slices.ContainsFunc(codes, func(code int) bool { return c.xids[code].Class != class }) {
		return prom.XIDCheck
	}
	return class
}

// xidOf returns the code in the labels, 0 when there is none.
func xidOf(labels map[string]string) int {
	code, err := strconv.Atoi(labels[labelXID])
	if err != nil || code < 0 || code > maxXID {
		return 0
	}
	return code
}

// xid reads an entry over what earlier files say of the same code.
func (l *loader) xid(d decoder, n *yaml.Node, seen map[int]int) {
	code := 0
	at := strict.Field(n, fieldCode)
	switch {
	case at != nil:
		d.Integer(at, fieldCode, maxXID, &code)
	case n.Kind == yaml.MappingNode:
		d.Fail(n, "an XID has no code")
	}
	x := l.xids[code]
	x.Code = code
	d.Mapping(n, "XID", strict.Fields{
		fieldCode: func(*yaml.Node) {}, // Has been read.
		fieldName: func(n *yaml.Node) {
			if name, ok := d.Text(n, fieldName); ok {
				x.Name = name
			}
		},
		"class": func(n *yaml.Node) { strict.Choice(d.Decoder, n, "class", prom.XIDClasses(), &x.Class) },
		"condition": func(n *yaml.Node) {
			d.Pattern(n, "condition", checkName, &x.Condition)
			x.conditionAt = d.Position(n)
		},
		"detailOf":  func(n *yaml.Node) { d.Integer(n, "detailOf", maxXID, &x.DetailOf) },
		"raises154": func(n *yaml.Node) { d.Boolean(n, "raises154", &x.Raises154) },
		"threshold": func(n *yaml.Node) { d.threshold(n, &x.Threshold) },
	})
	switch line, again := seen[code]; {
	case code == 0:
		return
	case again:
		d.Fail(at, "XID %d is in this file already, in line %d", code, line)
		return
	}
	seen[code] = n.Line
	x.at = d.Position(n)
	l.xids[code] = x
}

// threshold reads how often something must come within a time.
func (d decoder) threshold(n *yaml.Node, to *prom.Threshold) {
	var t prom.Threshold
	problems := len(d.Problems())
	d.Mapping(n, "threshold", strict.Fields{
		"count":  func(n *yaml.Node) { d.Integer(n, "count", maxThreshold, &t.Count) },
		"within": func(n *yaml.Node) { d.Duration(n, "within", shortest, &t.Within) },
	})
	if len(d.Problems()) == problems && (t.Count == 0) != (t.Within == 0) {
		d.Fail(n, "a threshold has both a count and a time within which it counts, such as {count: 3, within: 24h}")
		return
	}
	*to = t
}

// xidConflicts finds XIDs that miss something, or that name what does not exist.
func xidConflicts(xids map[int]XID, entries []*entry, fail func(strict.Position, string, ...any)) {
	var names []string
	for _, e := range entries {
		names = append(names, e.Name)
	}
	for _, code := range slices.Sorted(maps.Keys(xids)) {
		x := xids[code]
		switch {
		case x.Class == "":
			fail(x.at, "the new XID %d has no class, %s", code, strict.Hint("", prom.XIDClasses()))
		case x.Condition != "" && !slices.Contains(names, x.Condition):
			fail(x.conditionAt, "XID %d belongs to the unknown condition %s, %s", code, strict.Quote(x.Condition), strict.Hint(x.Condition, names))
		case x.DetailOf != 0 && xids[x.DetailOf].Code == 0:
			fail(x.at, "XID %d is a detail of the unknown XID %d", code, x.DetailOf)
		}
	}
}

// String returns the code and the name.
func (x XID) String() string { return fmt.Sprintf("%d (%s)", x.Code, x.Name) }
