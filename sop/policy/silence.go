package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/prometheus/alertmanager/pkg/labels"
)

// The bounds of silences that are made over the API.
const (
	// MaxSilences is how many may be active at once, and MaxSilenceBytes how long all of them together: they are in an annotation.
	MaxSilences     = 64
	MaxSilenceBytes = 64 << 10
	// MaxMatchers is how many matchers a silence has at most, MaxMatcherBytes how long each is, and MaxCommentBytes the comment.
	MaxMatchers     = 16
	MaxMatcherBytes = 512
	MaxCommentBytes = 512
	// MaxSilence is how long a silence lasts at most. It can be made anew.
	MaxSilence = 30 * 24 * time.Hour
	// SilenceMemory is how long a silence is shown after its end.
	SilenceMemory = time.Hour
)

// ErrNoSilence says that there is no such silence.
var ErrNoSilence = errors.New("there is no such silence")

// Silence is a silence of Aegis' own: while it is active, nothing is done for a condition if its matchers match the labels of one of
// its alerts.
type Silence struct {
	ID string `json:"id"`
	// Matchers are in the syntax of Alertmanager, such as node=~"gpu-1.*". All of them must match.
	Matchers  []string  `json:"matchers"`
	StartsAt  time.Time `json:"startsAt,omitzero"`
	EndsAt    time.Time `json:"endsAt"`
	CreatedBy string    `json:"createdBy,omitempty"`
	Comment   string    `json:"comment,omitempty"`
	// EndedBy is who ended the silence before its time.
	EndedBy string `json:"endedBy,omitempty"`
}

// Active reports whether the silence holds.
func (s Silence) Active(now time.Time) bool { return now.Before(s.EndsAt) }

// Remembered reports whether the silence holds or ended a short while ago.
func (s Silence) Remembered(now time.Time) bool { return now.Before(s.EndsAt.Add(SilenceMemory)) }

// String names the silence in one short line.
func (s Silence) String() string {
	const most = 120
	text := fmt.Sprintf("silence %s of Aegis", printable(s.ID, most))
	if s.CreatedBy != "" {
		text += " by " + printable(s.CreatedBy, most)
	}
	text += " until " + s.EndsAt.UTC().Format(time.RFC3339)
	if s.Comment != "" {
		text += ": " + printable(s.Comment, most)
	}
	return text
}

// printable returns what people wrote on one line of bounded length.
func printable(text string, most int) string {
	line := strings.Join(strings.FieldsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
	if runes := []rune(line); len(runes) > most {
		return string(runes[:most-3]) + "..."
	}
	return line
}

// Parse returns the matchers. A silence that matches whatever has no labels would match everything, and is refused as Alertmanager
// refuses it.
func (s Silence) Parse() (labels.Matchers, error) {
	var all labels.Matchers
	for _, text := range s.Matchers {
		matchers, err := labels.ParseMatchers(text)
		if err != nil {
			return nil, fmt.Errorf("matcher %.200q: %w", text, err)
		}
		all = append(all, matchers...)
	}
	if !slices.ContainsFunc(all, func(m *labels.Matcher) bool { return !m.Matches("") }) {
		return nil, errors.New(`no matcher asks for a label that is there: at least one must not match the empty text, as node="gpu-17" does not`)
	}
	return all, nil
}

// CheckSilence says what is wrong with a silence that is to be made now.
func CheckSilence(s Silence, now time.Time) error {
	for _, text := range s.Matchers {
		if len(text) > MaxMatcherBytes {
			return fmt.Errorf("a matcher has %d bytes, want at most %d", len(text), MaxMatcherBytes)
		}
	}
	matchers, err := s.Parse()
	switch {
	case err != nil:
		return err
	case len(matchers) > MaxMatchers:
		return fmt.Errorf("it has %d matchers, want at most %d", len(matchers), MaxMatchers)
	case strings.TrimSpace(s.Comment) == "":
		return errors.New("comment is missing, want why nothing is to be done")
	case len(s.Comment) > MaxCommentBytes:
		return fmt.Errorf("comment has %d bytes, want at most %d", len(s.Comment), MaxCommentBytes)
	case !s.EndsAt.After(now):
		return fmt.Errorf("it ends at %s, which is not in the future", s.EndsAt.UTC().Format(time.RFC3339))
	case s.EndsAt.Sub(now) > MaxSilence:
		return fmt.Errorf("it lasts %s, want at most 30 days", s.EndsAt.Sub(now).Round(time.Minute))
	}
	return nil
}

// CheckSilences says what is wrong with silences that are written, by whomever.
func CheckSilences(all []Silence) error {
	seen := make(map[string]bool)
	for i, s := range all {
		if s.ID == "" || seen[s.ID] {
			return fmt.Errorf("silence %d: its id %.80q is empty or used twice", i, s.ID)
		}
		seen[s.ID] = true
		if s.EndsAt.IsZero() {
			return fmt.Errorf("silence %.80q: endsAt is missing", s.ID)
		}
		if _, err := s.Parse(); err != nil {
			return fmt.Errorf("silence %.80q: %w", s.ID, err)
		}
	}
	return nil
}
