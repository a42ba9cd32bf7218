package rules

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"aegis.io/aegis/strict"
)

// Names of labels.
const (
	labelAlertname = "alertname"
	labelCondition = "condition"
)

// maxPatternBytes bounds a regular expression.
const maxPatternBytes = 1024

// matcher compares one label. A label that is absent is empty.
type matcher struct {
	label   string
	value   string
	pattern *regexp.Regexp // Nil when the value is compared as it is.
	negate  bool
}

// parseMatcher reads a value with its operator: =, !=, =~, !~ or none, which means equals.
func parseMatcher(label, text string) (matcher, error) {
	m := matcher{label: label, value: text}
	var isPattern bool
	switch {
	case strings.HasPrefix(text, "=~"), strings.HasPrefix(text, "!~"):
		m.value, m.negate, isPattern = text[2:], text[0] == '!', true
	case strings.HasPrefix(text, "!="):
		m.value, m.negate = text[2:], true
	case strings.HasPrefix(text, "="):
		m.value = text[1:]
	}
	if !isPattern {
		return m, nil
	}
	if len(m.value) > maxPatternBytes {
		return m, fmt.Errorf("the regular expression is longer than %d bytes", maxPatternBytes)
	}
	// Compiled alone first, or "a)|(b" would pass, and the error would show what nobody wrote.
	if _, err := regexp.Compile(m.value); err != nil {
		return m, errors.New(strict.Clean(err.Error(), maxMessageRunes))
	}
	pattern, err := regexp.Compile("^(?s:" + m.value + ")$")
	m.pattern = pattern
	return m, err
}

// matches reports whether the labels satisfy the matcher.
func (m matcher) matches(labels map[string]string) bool {
	value := labels[m.label]
	if m.pattern != nil {
		return m.pattern.MatchString(value) != m.negate
	}
	return (value == m.value) != m.negate
}

// equality reports whether the matcher is satisfied by one text only, which is not empty.
func (m matcher) equality() bool { return m.pattern == nil && !m.negate && m.value != "" }

// selective reports whether the matcher says something about what an alert is, not only about what it is not.
func (m matcher) selective() bool { return !m.negate && !m.matches(nil) }

// rule is one way for an alert to belong to a condition.
type rule struct {
	entry    *entry
	matchers []matcher
}

func (r rule) matches(labels map[string]string) bool {
	for _, m := range r.matchers {
		if !m.matches(labels) {
			return false
		}
	}
	return true
}

// rules returns the rules of a condition: its match, or its names in the label condition.
func (e *entry) rules() []rule {
	if !e.byDefault() {
		return []rule{{entry: e, matchers: e.matchers}}
	}
	var rules []rule
	for _, name := range e.names() {
		rules = append(rules, rule{entry: e, matchers: []matcher{{label: labelCondition, value: name}}})
	}
	return rules
}

// index finds the condition of an alert without looking at every condition.
type index struct {
	// labels are the keys of byLabel, sorted.
	labels []string
	// byLabel holds, by a label and its value, the rules that compare that label for equality, most urgent first.
	byLabel map[string]map[string][]rule
	// rest holds the rules that compare no label for equality, most urgent first.
	rest []rule
}

// newIndex returns the index of entries that are sorted by rank.
func newIndex(entries []*entry) *index {
	x := &index{byLabel: make(map[string]map[string][]rule)}
	for _, e := range entries {
		for _, r := range e.rules() {
			x.add(r)
		}
	}
	x.labels = slices.Sorted(maps.Keys(x.byLabel))
	return x
}

func (x *index) add(r rule) {
	key, ok := indexKey(r.matchers)
	if !ok {
		x.rest = append(x.rest, r)
		return
	}
	values := x.byLabel[key.label]
	if values == nil {
		values = make(map[string][]rule)
		x.byLabel[key.label] = values
	}
	values[key.value] = append(values[key.value], r)
}

// indexKey returns the matcher to find a rule by: an equality of condition, else of alertname, else the first one.
func indexKey(matchers []matcher) (matcher, bool) {
	var best matcher
	var found bool
	for _, m := range matchers {
		if !m.equality() {
			continue
		}
		if !found || keyOrder(m.label) < keyOrder(best.label) {
			best, found = m, true
		}
	}
	return best, found
}

func keyOrder(label string) int {
	switch label {
	case labelCondition:
		return 0
	case labelAlertname:
		return 1
	default:
		return 2
	}
}

// find returns the most urgent entry that the labels belong to, or nil.
func (x *index) find(labels map[string]string) *entry {
	best := first(x.rest, labels)
	for _, label := range x.labels {
		if value := labels[label]; value != "" {
			best = moreUrgent(best, first(x.byLabel[label][value], labels))
		}
	}
	return best
}

func first(rules []rule, labels map[string]string) *entry {
	for _, r := range rules {
		if r.matches(labels) {
			return r.entry
		}
	}
	return nil
}

func moreUrgent(a, b *entry) *entry {
	if a == nil || (b != nil && b.rank < a.rank) {
		return b
	}
	return a
}

// checkLabelName accepts what Prometheus takes for the name of a label, without control characters.
func checkLabelName(name string) error {
	switch {
	case name == "":
		return errors.New("the name of a label must not be empty")
	case len(name) > maxLabelName:
		return fmt.Errorf("the name of a label has at most %d bytes", maxLabelName)
	case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		return errors.New("the name of a label has no control characters")
	}
	return nil
}
