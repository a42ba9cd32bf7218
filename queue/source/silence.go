package source

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode"

	"github.com/prometheus/alertmanager/pkg/labels"
)

// What a silence says for people is shortened to so many characters.
const (
	maxSilenceID = 64
	maxCreatedBy = 64
	maxComment   = 120
)

// Silence is an active silence of Alertmanager.
type Silence struct {
	ID        string
	CreatedBy string
	Comment   string
	// Matchers must all match. There is at least one.
	Matchers labels.Matchers
}

// Matches reports whether the silence applies to an alert with the labels. A label that is absent is empty.
func (s Silence) Matches(alert map[string]string) bool {
	for _, m := range s.Matchers {
		if !m.Matches(alert[m.Name]) {
			return false
		}
	}
	return len(s.Matchers) > 0
}

// String names the silence in one short line.
func (s Silence) String() string {
	return fmt.Sprintf("silence %s by %s: %s", clip(s.ID, maxSilenceID), clip(s.CreatedBy, maxCreatedBy), clip(s.Comment, maxComment))
}

// Silences returns the replica's active silences. An error means that nothing is known: a silence that cannot be
// understood may be the one that forbids to act.
func (a *Alertmanager) Silences(ctx context.Context) ([]Silence, error) {
	// Expired silences are kept for days. An Alertmanager before 0.34 lists them all the same.
	active := url.Values{"expired": {"false"}, "pending": {"false"}}
	listed, err := fetchList[apiSilence](ctx, a.client, "api/v2/silences", active)
	if err != nil {
		return nil, err
	}
	silences, err := activeSilences(listed)
	if err != nil {
		return nil, fmt.Errorf("answer of alertmanager %s: %w", a.URL(), err)
	}
	return silences, nil
}

// apiSilence is a silence of the API, version 2.
type apiSilence struct {
	ID        string       `json:"id"`
	CreatedBy string       `json:"createdBy"`
	Comment   string       `json:"comment"`
	Matchers  []apiMatcher `json:"matchers"`
	Status    struct {
		State string `json:"state"`
	} `json:"status"`
}

// apiMatcher is a matcher of the API. All fields but isEqual are mandatory.
type apiMatcher struct {
	Name    string  `json:"name"`
	Value   *string `json:"value"`
	IsRegex *bool   `json:"isRegex"`
	IsEqual *bool   `json:"isEqual"`
}

// activeSilences translates those that are active.
func activeSilences(listed []apiSilence) ([]Silence, error) {
	silences := make([]Silence, 0, len(listed))
	for _, l := range listed {
		switch l.Status.State {
		case "active":
		case "pending", "expired":
			continue
		default:
			return nil, fmt.Errorf("silence %s has the unknown state %s", quote(l.ID), quote(l.Status.State))
		}
		silence, err := l.silence()
		if err != nil {
			return nil, fmt.Errorf("silence %s: %w", quote(l.ID), err)
		}
		silences = append(silences, silence)
	}
	return silences, nil
}

// silence translates one silence of the API.
func (l apiSilence) silence() (Silence, error) {
	if len(l.Matchers) == 0 {
		return Silence{}, errors.New("it has no matchers")
	}
	silence := Silence{ID: l.ID, CreatedBy: l.CreatedBy, Comment: l.Comment, Matchers: make(labels.Matchers, 0, len(l.Matchers))}
	for _, m := range l.Matchers {
		matcher, err := m.matcher()
		if err != nil {
			return Silence{}, err
		}
		silence.Matchers = append(silence.Matchers, matcher)
	}
	return silence, nil
}

// matcher translates one matcher of the API.
func (m apiMatcher) matcher() (*labels.Matcher, error) {
	if m.Value == nil || m.IsRegex == nil {
		return nil, fmt.Errorf("the matcher of label %s is not complete", quote(m.Name))
	}
	if m.Name == "" {
		return nil, errors.New("a matcher names no label")
	}
	matcher, err := labels.NewMatcher(m.kind(), m.Name, *m.Value)
	if err != nil {
		return nil, fmt.Errorf("the matcher of label %s is not a regular expression: %s", quote(m.Name), quote(*m.Value))
	}
	return matcher, nil
}

// kind returns the operator of a complete matcher.
func (m apiMatcher) kind() labels.MatchType {
	isEqual := m.IsEqual == nil || *m.IsEqual
	switch {
	case *m.IsRegex && isEqual:
		return labels.MatchRegexp
	case *m.IsRegex:
		return labels.MatchNotRegexp
	case isEqual:
		return labels.MatchEqual
	default:
		return labels.MatchNotEqual
	}
}

// clip returns what people wrote on one line, without characters that a terminal or a page would act on, and with at
// most limit characters.
func clip(text string, limit int) string {
	printable := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, text)
	line := []rune(strings.Join(strings.Fields(printable), " "))
	if len(line) > limit {
		return string(line[:limit-3]) + "..."
	}
	return string(line)
}
