package queue

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"aegis.io/aegis/queue/source"
	"aegis.io/aegis/rules/prom"
)

const (
	// lookback is how long a query finds a series of which nobody says that it has ended.
	lookback = 5 * time.Minute
	// agedFor is how long an alert is missed of which nobody tells whether its rule is evaluated.
	agedFor = 24 * time.Hour
	// removedFor is how long an alert is missed whose rule is listed no more. It may have been renamed, or be back soon.
	removedFor = time.Hour
)

// RuleSource tells how the alerting rules of a Prometheus do. An error means that nothing is known.
type RuleSource interface {
	Rules(ctx context.Context, names []string) ([]source.Rule, error)
	// Aged returns the alerts of nodes that grew old within that time, and have not been evaluated since.
	Aged(ctx context.Context, nodes []string, within time.Duration) ([]prom.Alert, error)
}

// agedRequest asks for the alerts that grew old while an earlier process led.
type agedRequest struct {
	nodes  []string
	within time.Duration
}

// told is what one Prometheus says in a pass of alerts of statuses, by fingerprint, and of rules, by name.
type told struct {
	alerts map[prom.Key]map[string]prom.Alert
	rules  map[string][]source.Rule
	listed bool // Whether it tells of rules.
	read   reading
}

// lastAlert is what is remembered of an alert that a Prometheus has had.
type lastAlert struct {
	name   string
	labels map[string]string
	// at is when it was evaluated last, and sampled the same by the clock of the server, if that is known. The server had that sample at
	// found, also by its clock: what it evaluates later is another evaluation.
	at, sampled, found time.Time
	// aged is why the alert may exist although it is not there, or is old. Empty means that it was there in the last answer.
	aged string
	// listed says that the server has listed a rule of that name, and undated that it does not tell when it evaluates it: it has had the alert
	// all the same.
	listed, undated bool
}

// evaluations remembers the alerts that each Prometheus has had. Prometheus marks the series of an alert that ends. Where a rule fails, or is
// not evaluated, nobody does: the series grows old, and is not found any more. It belongs to the passes, which never overlap.
type evaluations struct {
	servers map[string]map[prom.Key]map[string]lastAlert
	// heard is when each server has answered last.
	heard map[string]time.Time
	// began is when the statuses began that an earlier process has begun to deal with, and since when this one deals with them. The servers in
	// asked have told what became of their alerts in between.
	began  map[prom.Key]time.Time
	since  time.Time
	asked  map[string]bool
	maxAge time.Duration
}

func newEvaluations(o ResyncOptions) *evaluations {
	e := &evaluations{maxAge: cmp.Or(o.MaxAge, defaultMaxAge)}
	e.reset()
	return e
}

// reset forgets everything. The next leader may be another one.
func (e *evaluations) reset() {
	e.servers, e.heard = make(map[string]map[prom.Key]map[string]lastAlert), make(map[string]time.Time)
	e.began, e.since, e.asked = make(map[prom.Key]time.Time), time.Time{}, make(map[string]bool)
}

// past returns what the server has to be asked about the time before this process led.
func (e *evaluations) past(server string, names func(node string) []string, now time.Time) agedRequest {
	var r agedRequest
	if e.asked[server] {
		return r
	}
	for key, at := range e.began {
		r.nodes = append(r.nodes, names(key.Node)...)
		r.within = max(r.within, min(now.Sub(at)+missedBefore, agedFor))
	}
	slices.Sort(r.nodes)
	r.nodes = slices.Compact(r.nodes)
	return r
}

// recall takes what the server tells of the time before this process led.
func (e *evaluations) recall(r reading, known map[prom.Key]map[string]lastAlert, classifier Classifier, now time.Time) {
	if !r.past || r.forgotten != nil {
		return
	}
	e.asked[r.source.name] = true
	for _, a := range r.aged {
		o, err := classifier.Classify(a)
		if err != nil {
			continue
		}
		key := o.Status.Key()
		if known[key] == nil {
			known[key] = make(map[string]lastAlert)
		}
		known[key][a.Fingerprint] = lastAlert{
			name: a.Labels[labelAlertname], labels: a.Labels, at: now.Add(-a.Age()), sampled: a.SampledAt, found: cmp.Or(a.AskedAt, now),
			aged: "the alert has not been evaluated",
		}
	}
}

// names returns the alerts of which the server has to say how their rules do.
func (e *evaluations) names(server string) []string {
	names := make(map[string]bool)
	for _, alerts := range e.servers[server] {
		for _, a := range alerts {
			if a.name != "" {
				names[a.name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// note keeps an alert of a status that the server has.
func (p *pass) note(server string, key prom.Key, a prom.Alert) {
	t := p.told[server]
	if t.alerts[key] == nil {
		t.alerts[key] = make(map[string]prom.Alert)
	}
	t.alerts[key][a.Fingerprint] = a
}

// tells takes what the server says of rules.
func (p *pass) tells(r reading) {
	t := &told{alerts: make(map[prom.Key]map[string]prom.Alert), rules: make(map[string][]source.Rule), listed: r.listed, read: r}
	for _, rule := range r.rules {
		t.rules[rule.Name] = append(t.rules[rule.Name], rule)
	}
	p.told[r.source.name] = t
}

// forget forgets the alerts of a status.
func (e *evaluations) forget(key prom.Key) {
	for _, known := range e.servers {
		delete(known, key)
	}
}

// look takes what the servers have told in a pass.
func (e *evaluations) look(p *pass, classifier Classifier) {
	if e.since.IsZero() {
		e.since = p.began
	}
	ended, there := make(map[string]bool), make(map[string]bool)
	for server, t := range p.told {
		e.heard[server] = p.began
		known := e.servers[server]
		if known == nil {
			known = make(map[prom.Key]map[string]lastAlert)
			e.servers[server] = known
		}
		e.recall(t.read, known, classifier, p.began)
		t.remember(known, p.began)
		for key, alerts := range known {
			for fingerprint, a := range alerts {
				if _, has := t.alerts[key][fingerprint]; has {
					there[fingerprint] = true
					continue
				}
				if a = e.missing(a, t, p.began); a.aged == "" {
					ended[fingerprint] = true
					delete(alerts, fingerprint)
					continue
				}
				alerts[fingerprint] = a
			}
		}
	}
	maps.DeleteFunc(ended, func(fingerprint string, _ bool) bool { return there[fingerprint] })
	p.aged = e.settle(p, ended)
	e.untold(p)
}

// remember takes the alerts that the server has. One that is old may be one whose rule is evaluated no more.
func (t *told) remember(known map[prom.Key]map[string]lastAlert, now time.Time) {
	for key, alerts := range t.alerts {
		if known[key] == nil {
			known[key] = make(map[string]lastAlert)
		}
		for fingerprint, a := range alerts {
			last := known[key][fingerprint]
			last.name, last.labels, last.aged = a.Labels[labelAlertname], a.Labels, ""
			last.listed = last.listed || len(t.rules[last.name]) > 0
			last.undated = undated(t.rules[last.name]) && (last.undated || a.State != prom.StateStale)
			if a.State == prom.StateStale {
				last.aged = "the alert has not been evaluated"
			}
			if a.State != prom.StateStale || last.at.IsZero() {
				last.at = now.Add(-a.Age())
				if a.SampledAt.IsZero() || !a.SampledAt.Equal(last.sampled) {
					last.sampled, last.found = a.SampledAt, cmp.Or(a.AskedAt, now)
				}
			}
			known[key][fingerprint] = last
		}
	}
}

// undated reports whether the server lists the rules, and tells of none when it was evaluated.
func undated(rules []source.Rule) bool {
	return len(rules) > 0 && !slices.ContainsFunc(rules, func(r source.Rule) bool { return !r.Evaluated.IsZero() })
}

// missing returns what is known of an alert that the server does not have any more. It has ended where aged is empty: its rule has been
// evaluated since and does not have it, or else, where nobody tells of that, its series was marked, which makes it go before it is old.
func (e *evaluations) missing(a lastAlert, t *told, now time.Time) lastAlert {
	rules, since := t.rules[a.name], now.Sub(a.at)
	a.undated = a.undated && (len(rules) == 0 || undated(rules))
	failing := slices.IndexFunc(rules, func(r source.Rule) bool { return r.Failure != "" })
	dated, removed := len(rules) > 0 && !a.undated, t.listed && a.listed && len(rules) == 0
	switch {
	case failing >= 0:
		a.aged = fmt.Sprintf("the rule of alert %s fails: %s", a.name, rules[failing].Failure)
	case dated && e.without(a, rules):
		a.aged = ""
	case dated:
		a.aged = fmt.Sprintf("the rule of alert %s has not been evaluated", a.name)
	case a.aged == "" && since <= lookback && !removed, removed && since > removedFor, since > agedFor:
		a.aged = ""
	case removed:
		a.aged = fmt.Sprintf("the rule of alert %s has been removed", a.name)
	default:
		a.aged = "the alert has not been evaluated, and nobody tells whether its rule is"
	}
	return a
}

// without reports whether the rules have been evaluated since the alert was, and do not have it. An evaluation is dated a little later than
// its samples, or a good deal where rules are evaluated with an offset. One that began after the server had the sample did not make it.
func (e *evaluations) without(a lastAlert, rules []source.Rule) bool {
	at := a.sampled
	if at.IsZero() {
		at = a.at
	}
	for _, r := range rules {
		since := r.Evaluated.After(a.found) || r.Evaluated.Sub(at) > e.maxAge
		if !since || slices.ContainsFunc(r.Active, a.is) {
			return false
		}
	}
	return true
}

// is reports whether the labels are those of the alert. It may have more, which a server adds.
func (a lastAlert) is(labels map[string]string) bool {
	for name, value := range labels {
		if a.labels[name] != value {
			return false
		}
	}
	return true
}

// settle forgets the alerts that have ended, also where another server of a pair has not told so yet, and returns why the others may exist: they
// are old, or their server does not answer.
func (e *evaluations) settle(p *pass, ended map[string]bool) map[prom.Key]string {
	aged := make(map[prom.Key]string)
	for server, known := range e.servers {
		away := ""
		if heard := e.heard[server]; p.told[server] == nil && p.began.Sub(heard) <= agedFor {
			away = fmt.Sprintf("%s had it, and has not answered since %s", server, heard.UTC().Format(time.RFC3339))
		}
		for key, alerts := range known {
			maps.DeleteFunc(alerts, func(fingerprint string, _ lastAlert) bool { return ended[fingerprint] })
			for _, a := range alerts {
				why := away
				if p.told[server] != nil && a.aged != "" {
					why = fmt.Sprintf("%s since %s", a.aged, a.at.UTC().Format(time.RFC3339))
				}
				aged[key] = max(aged[key], why)
			}
		}
	}
	return aged
}

// untold doubts the statuses of an earlier process for a day, as long as a server answers, but does not tell what grew old since they began.
func (e *evaluations) untold(p *pass) {
	if p.began.Sub(e.since) > agedFor {
		return
	}
	for server, t := range p.told {
		if !t.read.past || e.asked[server] {
			continue
		}
		for key := range e.began {
			p.aged[key] = max(p.aged[key], fmt.Sprintf("%s does not tell which alerts grew old before %s: %v",
				server, e.since.UTC().Format(time.RFC3339), t.read.forgotten))
		}
	}
}
