package handler

import (
	"fmt"
	"net/http"
	"time"

	"aegis.io/aegis/rules/prom"
)

// sourceList is the answer about the sources.
type sourceList struct {
	Sources []SourceView `json:"sources"`
}

// SourceView is a source that inspects nodes, as people see it.
type SourceView struct {
	Name           string `json:"name"`
	Query          string `json:"query"`
	Condition      string `json:"condition,omitempty"`
	ConditionLabel string `json:"conditionLabel,omitempty"`
	// Up says whether its last answer was reliable.
	Up          bool      `json:"up"`
	AskedAt     time.Time `json:"askedAt,omitzero"`
	LastSuccess time.Time `json:"lastSuccess,omitzero"`
	Error       string    `json:"error,omitempty"`
	// Samples counts the samples of the last reliable answer by what they were to the source.
	Samples map[string]int `json:"samples,omitempty"`
}

func (h *Handler) serveSources(http.ResponseWriter, *http.Request) (reply, error) {
	list := sourceList{Sources: []SourceView{}}
	for _, s := range h.sources() {
		list.Sources = append(list.Sources, SourceView{
			Name: s.Name, Query: s.Query, Condition: s.Condition, ConditionLabel: s.ConditionLabel,
			Up: up(s), AskedAt: s.AskedAt, LastSuccess: s.LastSuccess, Error: s.Error, Samples: s.Samples,
		})
	}
	return reply{status: http.StatusOK, body: list}, nil
}

func up(s prom.SourceHealth) bool { return !s.AskedAt.IsZero() && s.Error == "" }

// explainSources says of each source that gives no answer what cannot be known meanwhile, on this node as on all others.
func explainSources(sources []prom.SourceHealth, now time.Time) []string {
	var lines []string
	for _, s := range sources {
		if s.AskedAt.IsZero() || s.Error == "" {
			continue
		}
		hides := s.Condition
		if hides == "" {
			hides = "each condition that its label " + s.ConditionLabel + " names"
		}
		since := ""
		if !s.LastSuccess.IsZero() {
			since = ", last" + ago(s.LastSuccess, now)
		}
		lines = append(lines, oneLine(fmt.Sprintf("source %s gives no reliable answer%s, so it hides %s: %s", s.Name, since, hides, s.Error)))
	}
	return lines
}
