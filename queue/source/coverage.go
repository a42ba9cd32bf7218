package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// LoadedRule is a rule that a server has, with what it reads.
type LoadedRule struct {
	// Name is the name of its alerts, or of the series that it records.
	Name string
	// Group is the group of rules that it is in, Interval how often that is evaluated.
	Group    string
	Interval time.Duration
	// Records says that the rule records series. Otherwise it alerts.
	Records bool
	Query   string
	Labels  map[string]string
	// Failure is why the last evaluation failed. Empty means that it did not.
	Failure string
	// Evaluated is when that was, by the clock of the server. Zero means never.
	Evaluated time.Time
}

// ErrNoRules is of a server that evaluates no rules itself, or does not expose them.
var ErrNoRules = errors.New("it has no API of rules, or lists none")

// hidesRules reports whether the status means that the server has no API of rules.
func hidesRules(err error) bool {
	var status *StatusError
	return errors.As(err, &status) && slices.Contains([]int{http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented}, status.Status)
}

// LoadedRules returns all rules that the server has. The error is ErrNoRules where it has none to tell of. Any other error means that it
// gave no answer.
func (p *Prometheus) LoadedRules(ctx context.Context) ([]LoadedRule, error) {
	body, err := p.client.get(ctx, "api/v1/rules", url.Values{"exclude_alerts": {"true"}, "partial_response": {"false"}})
	if hidesRules(err) {
		return nil, fmt.Errorf("%w: %w", ErrNoRules, err)
	}
	if err != nil {
		return nil, fmt.Errorf("ask for rules: %w", err)
	}
	var answer struct {
		Status   string   `json:"status"`
		Warnings []string `json:"warnings"`
		Data     *struct {
			Groups []struct {
				Name     string  `json:"name"`
				Interval float64 `json:"interval"`
				Rules    []struct {
					ruleAnswer
					Query string `json:"query"`
				} `json:"rules"`
			} `json:"groups"`
		} `json:"data"`
	}
	err = json.Unmarshal(body, &answer)
	switch {
	case err != nil:
		return nil, fmt.Errorf("the rules of prometheus %s: decode: %w", p.client.safeURL(), err)
	case answer.Status != "success":
		return nil, fmt.Errorf("the rules of prometheus %s: the status is %s", p.client.safeURL(), quote(answer.Status))
	case len(answer.Warnings) > 0:
		return nil, fmt.Errorf("the rules of prometheus %s: %d warning(s), the first is %s", p.client.safeURL(), len(answer.Warnings), quote(answer.Warnings[0]))
	case answer.Data == nil:
		return nil, fmt.Errorf("the rules of prometheus %s: %w", p.client.safeURL(), errors.New("it has no data"))
	case len(answer.Data.Groups) == 0:
		return nil, fmt.Errorf("the rules of prometheus %s: %w", p.client.safeURL(), ErrNoRules)
	}
	var all []LoadedRule
	for _, group := range answer.Data.Groups {
		for _, r := range group.Rules {
			if p.cluster.Other(r.Labels) {
				continue
			}
			told := r.rule()
			all = append(all, LoadedRule{
				Name: r.Name, Group: group.Name, Interval: time.Duration(group.Interval * float64(time.Second)), Records: r.Type == "recording",
				Query: r.Query, Labels: r.Labels, Failure: told.Failure, Evaluated: told.Evaluated,
			})
		}
	}
	return all, nil
}

// Canary returns when the server answered, by its own clock, and why its canary proves nothing, empty if it does. An error means that it
// gave no answer.
func (p *Prometheus) Canary(ctx context.Context) (now time.Time, missing string, err error) {
	body, err := p.ask(ctx, "timestamp(ALERTS{alertname="+strconv.Quote(p.canary)+`,alertstate="firing"})`, nil)
	if err != nil {
		return time.Time{}, "", err
	}
	elements, err := decodeVector(body, math.MaxInt)
	if err != nil {
		return time.Time{}, "", fmt.Errorf("answer of prometheus %s: %w", p.client.safeURL(), err)
	}
	for _, e := range elements {
		if evaluated, _, err := e.times(); err == nil {
			now = evaluated
		}
	}
	if _, objection := p.judge(body); objection != nil {
		missing = objection.Error()
	}
	return now, missing, nil
}

// Recorded returns when exporters had a sample of each node last, as rules have recorded it within the last hour.
func (p *Prometheus) Recorded(ctx context.Context, sources []string) ([]Sighting, error) {
	quoted := make([]string, len(sources))
	for i, name := range sources {
		quoted[i] = regexp.QuoteMeta(name)
	}
	query := fmt.Sprintf("last_over_time(%s{source=~%s}[%dm])", metricEvidence, strconv.Quote(strings.Join(quoted, "|")), int(EvidenceMemory.Minutes()))
	return p.sightings(ctx, query, func(labels map[string]string) string { return labels[labelSource] })
}

// Selected returns when the series of a selector had a sample last.
func (p *Prometheus) Selected(ctx context.Context, selector string) ([]Sighting, error) {
	return p.sightings(ctx, selectorQuery(selector), func(map[string]string) string { return selector })
}

// Vector evaluates a query. It says nothing of how old the samples are.
func (p *Prometheus) Vector(ctx context.Context, query string) ([]Sample, error) {
	elements, err := p.elements(ctx, query)
	if err != nil {
		return nil, err
	}
	samples := make([]Sample, len(elements))
	for i, e := range elements {
		samples[i] = Sample{Labels: e.Metric, Value: e.number()}
	}
	return samples, nil
}

// CanaryName returns the name of the alert that proves that the server evaluates rules.
func (p *Prometheus) CanaryName() string { return p.canary }

// MaxAge returns the age from which a sample is stale.
func (p *Prometheus) MaxAge() time.Duration { return p.maxAge }
