package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"aegis.io/aegis/rules/prom"
)

const (
	// rulesTimeout bounds the question about rules, which comes before the one about alerts.
	rulesTimeout = 4 * time.Second
	// namesAtOnce is how many rules one address names. Of more, all are asked for.
	namesAtOnce = 100
	// healthFailing is of a rule whose last evaluation failed.
	healthFailing = "err"
)

// Rule says how an alerting rule did when it was evaluated last.
type Rule struct {
	// Name is the name of its alerts.
	Name string
	// Failure is why the last evaluation failed. Empty means that it did not.
	Failure string
	// Evaluated is when that was, by the clock of the server. Zero means never.
	Evaluated time.Time
	// Active are the labels of its alerts that are pending or firing.
	Active []map[string]string
}

// rulesAnswer is the answer of api/v1/rules, of Prometheus and of those who speak its API.
type rulesAnswer struct {
	Status   string   `json:"status"`
	Warnings []string `json:"warnings"`
	Data     *struct {
		Groups []struct {
			Rules []ruleAnswer `json:"rules"`
		} `json:"groups"`
	} `json:"data"`
}

type ruleAnswer struct {
	Type           string            `json:"type"`
	Name           string            `json:"name"`
	Labels         map[string]string `json:"labels"`
	Health         string            `json:"health"`
	LastError      string            `json:"lastError"`
	LastEvaluation time.Time         `json:"lastEvaluation"`
	Alerts         []struct {
		Labels map[string]string `json:"labels"`
	} `json:"alerts"`
}

// Rules returns the alerting rules with these names that the server lists. An error means that nothing is known of any: there are
// servers that have no rules of their own, and no such API. A server of several clusters lists the rules of all. Those of another cluster
// say nothing of the alerts of this one.
func (p *Prometheus) Rules(ctx context.Context, names []string) ([]Rule, error) {
	ctx, cancel := context.WithTimeout(ctx, rulesTimeout)
	defer cancel()
	query := url.Values{"type": {"alert"}, "partial_response": {"false"}}
	if len(names) <= namesAtOnce {
		query["rule_name[]"] = names
	}
	body, err := p.client.get(ctx, "api/v1/rules", query)
	if err != nil {
		return nil, fmt.Errorf("ask for rules: %w", err)
	}
	rules, err := decodeRules(body, names, p.cluster)
	if err != nil {
		return nil, fmt.Errorf("the rules of prometheus %s: %w", p.client.safeURL(), err)
	}
	return rules, nil
}

const (
	// olds yields when each alert was evaluated last that is there, which one with a marked end is not, and was not evaluated for half of the
	// five minutes in which a query finds it; and what was so that half before.
	olds = `(timestamp(%[1]s) and (%[1]s unless last_over_time(%[1]s[150s])) or ` +
		`(timestamp(%[1]s offset 150s) and (%[1]s offset 150s unless last_over_time(%[1]s[150s] offset 150s))))`
	// agedQuery yields when each alert of the nodes was evaluated last that was old once within the time, and has not been evaluated since. The
	// steps must be five minutes: in a subquery, VictoriaMetrics looks back for one step, and Prometheus for five minutes. The last part is for
	// what grew old after the last step.
	agedQuery = `(max_over_time(` + olds + `[%[2]dm:5m]) == max_over_time((timestamp(%[1]s) or timestamp(%[1]s offset 150s))[%[2]dm:5m])) or ` +
		`(` + olds + ` unless last_over_time(%[1]s[150s]))`
)

// Aged returns the alerts of the nodes that fired within the time and then were not evaluated any more, without that anybody marked their end.
// They are stale. The label node must name the node.
func (p *Prometheus) Aged(ctx context.Context, names []string, within time.Duration) ([]prom.Alert, error) {
	var aged []prom.Alert
	for chunk := range slices.Chunk(names, nodesAtOnce) {
		selector := `ALERTS{alertstate="firing",` + onNodes(chunk) + `}`
		elements, err := p.elements(ctx, fmt.Sprintf(agedQuery, selector, int(within.Minutes())+1))
		if err != nil {
			return nil, fmt.Errorf("ask which alerts grew old: %w", err)
		}
		for _, e := range elements {
			s, err := e.sample()
			if err != nil {
				continue // What has no time grew old at no time.
			}
			s.alert.State, s.alert.SampledAt, s.alert.AskedAt = prom.StateStale, s.at, s.evaluatedAt
			aged = append(aged, s.alert)
		}
	}
	return aged, nil
}

// decodeRules reads the alerting rules of the cluster that were asked for. Some servers answer with all.
func decodeRules(body []byte, names []string, cluster prom.Cluster) ([]Rule, error) {
	var answer rulesAnswer
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	switch {
	case answer.Status != "success":
		return nil, fmt.Errorf("the status is %s", quote(answer.Status))
	case len(answer.Warnings) > 0:
		return nil, fmt.Errorf("%d warning(s), the first is %s", len(answer.Warnings), quote(answer.Warnings[0]))
	case answer.Data == nil:
		return nil, errors.New("it has no data")
	}
	wanted := make(map[string]bool, len(names))
	for _, name := range names {
		wanted[name] = true
	}
	var rules []Rule
	for _, group := range answer.Data.Groups {
		for _, r := range group.Rules {
			if wanted[r.Name] && (r.Type == "" || r.Type == "alerting") && !cluster.Other(r.Labels) {
				rules = append(rules, r.rule())
			}
		}
	}
	return rules, nil
}

func (r ruleAnswer) rule() Rule {
	rule := Rule{Name: r.Name, Evaluated: r.LastEvaluation}
	if r.Health == healthFailing {
		rule.Failure = "its last evaluation failed"
		if r.LastError != "" {
			rule.Failure += ": " + quote(r.LastError)
		}
	}
	for _, a := range r.Alerts {
		rule.Active = append(rule.Active, a.Labels)
	}
	return rule
}
