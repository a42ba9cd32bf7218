package handler

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/alertmanager/pkg/labels"
	"github.com/prometheus/common/model"

	"aegis.io/aegis/sop/policy"
)

// The states of a silence.
const (
	stateActive  = "active"
	stateExpired = "expired"
)

// SilenceView is a silence of Aegis' own.
type SilenceView struct {
	ID        string    `json:"id"`
	State     string    `json:"state"`
	Matchers  []string  `json:"matchers"`
	StartsAt  time.Time `json:"startsAt,omitzero"`
	EndsAt    time.Time `json:"endsAt"`
	CreatedBy string    `json:"createdBy,omitempty"`
	Comment   string    `json:"comment,omitempty"`
	EndedBy   string    `json:"endedBy,omitempty"`
}

// silenceList is the answer to the question for the silences. An object can grow.
type silenceList struct {
	Silences []SilenceView `json:"silences"`
}

// silenceBody asks for a silence.
type silenceBody struct {
	Matchers []matcherText `json:"matchers"`
	EndsAt   string        `json:"endsAt"`
	Duration string        `json:"duration"`
	Comment  string        `json:"comment"`
}

func silenceFields() []string { return []string{"matchers", "endsAt", "duration", "comment"} }

// matcherText is a matcher in the syntax of Alertmanager. In JSON it is that text, or an object as Alertmanager's API has it.
type matcherText string

// UnmarshalJSON reads either form.
func (m *matcherText) UnmarshalJSON(raw []byte) error {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		*m = matcherText(text)
		return nil
	}
	fields, err := decodeStrict[struct {
		Name    string  `json:"name"`
		Value   *string `json:"value"`
		IsRegex bool    `json:"isRegex"`
		IsEqual *bool   `json:"isEqual"`
	}](raw, []string{"name", "value", "isRegex", "isEqual"})
	if err != nil {
		return fmt.Errorf("a matcher is neither a text such as node=\"gpu-17\" nor an object of Alertmanager: %w", err)
	}
	if fields.Name == "" || fields.Value == nil {
		return errors.New("a matcher has no name or no value")
	}
	kind := map[[2]bool]labels.MatchType{
		{false, true}: labels.MatchEqual, {false, false}: labels.MatchNotEqual,
		{true, true}: labels.MatchRegexp, {true, false}: labels.MatchNotRegexp,
	}[[2]bool{fields.IsRegex, fields.IsEqual == nil || *fields.IsEqual}]
	matcher, err := labels.NewMatcher(kind, fields.Name, *fields.Value)
	if err != nil {
		return fmt.Errorf("the matcher of label %.80q: %w", fields.Name, err)
	}
	*m = matcherText(matcher.String())
	return nil
}

// silence returns what is asked for.
func (b silenceBody) silence(by string, now time.Time) (policy.Silence, error) {
	s := policy.Silence{CreatedBy: by, Comment: strings.TrimSpace(b.Comment)}
	if len(b.Matchers) == 0 {
		return s, problemf(http.StatusBadRequest, `matchers is missing, want texts such as node="gpu-17"`)
	}
	for _, m := range b.Matchers {
		s.Matchers = append(s.Matchers, string(m))
	}
	var err error
	if s.EndsAt, err = b.end(now); err != nil {
		return s, err
	}
	if err := policy.CheckSilence(s, now); err != nil {
		return s, problemf(http.StatusBadRequest, "%w", err)
	}
	return s, nil
}

// end returns when the silence is to end.
func (b silenceBody) end(now time.Time) (time.Time, error) {
	switch {
	case (b.EndsAt == "") == (b.Duration == ""):
		return time.Time{}, problemf(http.StatusBadRequest, "want either endsAt, such as 2026-11-30T08:00:00Z, or duration, such as 2h")
	case b.Duration != "":
		d, err := model.ParseDuration(b.Duration)
		if err != nil {
			return time.Time{}, problemf(http.StatusBadRequest, "duration is %.40q, want a duration such as 2h or 1d", b.Duration)
		}
		return now.Add(time.Duration(d)), nil
	}
	at, err := time.Parse(time.RFC3339, b.EndsAt)
	if err != nil {
		return time.Time{}, problemf(http.StatusBadRequest, "endsAt is %.40q, want a time such as 2026-11-30T08:00:00Z", b.EndsAt)
	}
	return at, nil
}

// silenceOrders are the routes of the silences that write.
func (h *Handler) silenceOrders() []route {
	return []route{
		{
			name: "silence", method: http.MethodPost, pattern: "/api/v1/silences", role: RoleHeal, limited: true,
			serve: h.whenReady(h.serveSilence), codes: []int{200, 400, 409, 413, 415, 503},
		},
		{
			name: "end_silence", method: http.MethodDelete, pattern: "/api/v1/silences/{id}", role: RoleHeal, limited: true,
			serve: h.whenReady(h.serveEndSilence), codes: []int{200, 404, 409, 503},
		},
	}
}

// serveSilences lists the silences that are active, and those that ended a short while ago.
func (h *Handler) serveSilences(http.ResponseWriter, *http.Request) (reply, error) {
	now := h.clock.Now()
	list := silenceList{Silences: []SilenceView{}}
	for _, s := range h.commander.Orders().Silences {
		if s.Remembered(now) {
			list.Silences = append(list.Silences, viewOfSilence(s, now))
		}
	}
	slices.SortStableFunc(list.Silences, func(a, b SilenceView) int {
		if a.State != b.State {
			return strings.Compare(a.State, b.State) // Active before expired.
		}
		return a.EndsAt.Compare(b.EndsAt)
	})
	return reply{status: http.StatusOK, body: list}, nil
}

func viewOfSilence(s policy.Silence, now time.Time) SilenceView {
	view := SilenceView{
		ID: s.ID, State: stateExpired, Matchers: s.Matchers, StartsAt: s.StartsAt, EndsAt: s.EndsAt,
		CreatedBy: s.CreatedBy, Comment: s.Comment, EndedBy: s.EndedBy,
	}
	if s.Active(now) {
		view.State = stateActive
	}
	return view
}

// serveSilence makes a silence. Who makes it, the credentials say and not the body.
func (h *Handler) serveSilence(w http.ResponseWriter, r *http.Request) (reply, error) {
	text, err := readJSON(w, r, maxRequestBytes)
	if err != nil {
		return reply{}, err
	}
	body, err := decodeStrict[silenceBody](text, silenceFields())
	if err != nil {
		return reply{}, err
	}
	now := h.clock.Now()
	wanted, err := body.silence(identityOf(r.Context()), now)
	if err != nil {
		return reply{}, err
	}
	made, err := h.commander.Silence(r.Context(), wanted)
	if err != nil {
		return reply{}, ofSilence(err)
	}
	h.logOrder(r.Context(), "silence", policy.Order{By: made.CreatedBy, Reason: made.Comment}, "silence", made.ID, "matchers", made.Matchers)
	return reply{status: http.StatusOK, body: viewOfSilence(made, now)}, nil
}

func (h *Handler) serveEndSilence(_ http.ResponseWriter, r *http.Request) (reply, error) {
	id, err := nameInPath(r, "id")
	if err != nil {
		return reply{}, err
	}
	by := identityOf(r.Context())
	ended, err := h.commander.EndSilence(r.Context(), id, by)
	if err != nil {
		return reply{}, ofSilence(err)
	}
	h.logOrder(r.Context(), "end silence", policy.Order{By: by}, "silence", id)
	return reply{status: http.StatusOK, body: viewOfSilence(ended, h.clock.Now())}, nil
}

// ofSilence tells from the error of a Commander whether asking again would help.
func ofSilence(err error) error {
	switch {
	case errors.Is(err, policy.ErrNoSilence):
		return fmt.Errorf("%w: %w", errNotFound, err)
	case errors.Is(err, policy.ErrRefused):
		return fmt.Errorf("%w: %w", errConflict, err)
	}
	return err
}
