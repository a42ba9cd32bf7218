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

	amlabels "github.com/prometheus/alertmanager/pkg/labels"

	"aegis.io/aegis/strict"
)

// Names of labels.
const (
	labelAlertname = "alertname"
	labelCondition = "condition"
)

// maxPatternBytes bounds a regular expression.
const maxPatternBytes = 1024

// parseMatcher reads a value with its operator: =, !=, =~, !~ or none, which means equals. It matches as Alertmanager does in
// routes and silences.
func parseMatcher(label, text string) (*amlabels.Matcher, error) {
	kind, value := operator(text)
	if kind == amlabels.MatchRegexp || kind == amlabels.MatchNotRegexp {
		if err := checkPattern(value); err != nil {
			return nil, err
		}
	}
	m, err := amlabels.NewMatcher(kind, label, value)
	if err != nil {
		return nil, fmt.Errorf("matcher: %w", err)
	}
	return m, nil
}

// operator splits a value into its operator and what follows it.
func operator(text string) (amlabels.MatchType, string) {
	for _, kind := range []amlabels.MatchType{
		amlabels.MatchRegexp, amlabels.MatchNotRegexp, amlabels.MatchNotEqual,
		amlabels.MatchEqual, // The last one: "=~" begins like it.
	} {
		if value, ok := strings.CutPrefix(text, kind.String()); ok {
			return kind, value
		}
	}
	return amlabels.MatchEqual, text
}

// checkPattern compiles the regular expression alone. With what Alertmanager puts around it, "a)|(b" would pass, and an error would
// show what nobody wrote.
func checkPattern(text string) error {
	if len(text) > maxPatternBytes {
		return fmt.Errorf("the regular expression is longer than %d bytes", maxPatternBytes)
	}
	if _, err := regexp.Compile(text); err != nil {
		return errors.New(strict.Clean(err.Error(), maxMessageRunes))
	}
	return nil
}

// matches reports whether the labels satisfy the matcher. A label that is absent is empty.
func matches(m *amlabels.Matcher, labels map[string]string) bool { return m.Matches(labels[m.Name]) }

// equality reports whether the matcher is satisfied by one text only, which is not empty.
func equality(m *amlabels.Matcher) bool { return m.Type == amlabels.MatchEqual && m.Value != "" }

// selective reports whether the matcher says something about what an alert is, not only about what it is not.
func selective(m *amlabels.Matcher) bool {
	return (m.Type == amlabels.MatchEqual || m.Type == amlabels.MatchRegexp) && !m.Matches("")
}

// rule is one way for an alert to belong to a condition.
type rule struct {
	entry    *entry
	matchers amlabels.Matchers
}

func (r rule) matches(labels map[string]string) bool {
	for _, m := range r.matchers {
		if !matches(m, labels) {
			return false
		}
	}
	return true
}

// mayMatch reports whether an alert of which only some labels are known may satisfy the rule. One that says what the alert is must be known.
func (r rule) mayMatch(known map[string]string) bool {
	var named bool
	for _, m := range r.matchers {
		value, is := known[m.Name]
		if is && !m.Matches(value) {
			return false
		}
		named = named || is && selective(m) && (m.Name == labelAlertname || m.Name == labelCondition)
	}
	return named
}

// rules returns the rules of a condition: its match, or its names in the label condition.
func (e *entry) rules() []rule {
	if !e.byDefault() {
		return []rule{{entry: e, matchers: e.matchers}}
	}
	var rules []rule
	for _, name := range e.names() {
		named := &amlabels.Matcher{Type: amlabels.MatchEqual, Name: labelCondition, Value: name}
		rules = append(rules, rule{entry: e, matchers: amlabels.Matchers{named}})
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
	key := indexKey(r.matchers)
	if key == nil {
		x.rest = append(x.rest, r)
		return
	}
	values := x.byLabel[key.Name]
	if values == nil {
		values = make(map[string][]rule)
		x.byLabel[key.Name] = values
	}
	values[key.Value] = append(values[key.Value], r)
}

// indexKey returns the matcher to find a rule by: an equality of condition, else of alertname, else the first one. It is nil when
// there is none.
func indexKey(matchers amlabels.Matchers) *amlabels.Matcher {
	var best *amlabels.Matcher
	for _, m := range matchers {
		if equality(m) && (best == nil || keyOrder(m.Name) < keyOrder(best.Name)) {
			best = m
		}
	}
	return best
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
