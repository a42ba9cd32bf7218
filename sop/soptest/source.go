package soptest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/alertmanager/pkg/labels"

	"aegis.io/aegis/queue/source"
	"aegis.io/aegis/rules/prom"
)

// SourceKind is which source an answer comes from.
type SourceKind string

// The sources.
const (
	Prometheus   SourceKind = "Prometheus"
	Alertmanager SourceKind = "Alertmanager"
)

const silenceFormat = "silence of %s on %s"

// SilenceOf returns the state of the cluster in which Alertmanager silences the condition on the node.
func SilenceOf(key prom.Key) string { return fmt.Sprintf(silenceFormat, key.Condition, key.Node) }

// Labels returns those of the alert for the condition.
func Labels(key prom.Key) map[string]string {
	return map[string]string{"alertname": key.Condition, "node": key.Node, "condition": key.Condition, "device": key.ID}
}

// Fingerprint returns that of the alert for the condition.
func Fingerprint(key prom.Key) string { return prom.Fingerprint(Labels(key)) }

// Source is Prometheus, which has the alerts that fire or are pending, or Alertmanager, which lists them.
type Source struct {
	client *Client
	kind   SourceKind
}

// Source returns a source as the process reaches it.
func (c *Client) Source(kind SourceKind) Source { return Source{c, kind} }

// Alerts answers from the truth, as far as the source shows it.
func (s Source) Alerts(ctx context.Context) (alerts []prom.Alert, err error) {
	c := s.client.cluster
	var delay time.Duration
	c.Do(func() {
		delay = c.span(fmt.Sprint("alerts ", s.kind == Prometheus), c.options.Pace.Answer)
		s.client.meter(listing).enter()
	})
	defer c.Do(func() { s.client.meter(listing).leave() })
	s.client.awake()
	defer s.client.awake()
	if err := s.client.travel(ctx, delay); err != nil {
		return nil, err
	}
	c.Do(func() {
		if s.down() {
			err = ErrOutage
			return
		}
		for key, f := range c.Faults {
			a := s.alert(key, f)
			if c.Observer.Answered != nil {
				c.Observer.Answered(s.client, s.kind, key, a)
			}
			if a != nil {
				alerts = append(alerts, *a)
			}
		}
	})
	return alerts, err
}

// down reports whether the source gives no answers.
func (s Source) down() bool {
	c := s.client.cluster
	return s.kind == Prometheus && c.On(PrometheusDown) || s.kind == Alertmanager && c.On(AlertmanagerDown)
}

// alert returns what the source has of the condition, nil if nothing.
func (s Source) alert(key prom.Key, f *Fault) *prom.Alert {
	stopped := s.client.cluster.stops[key.Condition]
	if stopped != nil && s.kind == Prometheus && s.client.cluster.evaluates(key.Node) {
		return stopped.last(key)
	}
	a := &prom.Alert{Labels: Labels(key), Fingerprint: Fingerprint(key), StartsAt: f.Firing(), State: prom.StateFiring}
	if s.kind == Prometheus {
		if a.StartsAt.IsZero() {
			a.State = prom.StatePending
		}
		a.StartsAt = f.Changed
		a.SampledAt, a.AskedAt = time.Now(), time.Now()
		if !f.Holds || !s.client.cluster.evaluates(key.Node) {
			return nil
		}
		return a
	}
	a.StartsAt, a.State = s.client.cluster.lists(key, f), prom.StateActive
	if a.StartsAt.IsZero() || s.client.cluster.On(AlertmanagerForgot) {
		return nil
	}
	if s.client.cluster.On(SilenceOf(key)) {
		a.State, a.SuppressedBy = prom.StateSuppressed, []string{"silence"}
	}
	return a
}

// Evidence tells which nodes Prometheus sees.
func (s Source) Evidence(_ context.Context, r source.EvidenceRequest) (seen []source.Sighting, err error) {
	s.client.cluster.Do(func() {
		if s.down() {
			err = ErrOutage
			return
		}
		for _, name := range r.Names {
			if s.client.cluster.Sees(name) {
				seen = append(seen, source.Sighting{Labels: map[string]string{"node": name}})
			}
		}
	})
	return seen, err
}

// Rules tells how the rules of Prometheus do.
func (s Source) Rules(_ context.Context, names []string) (rules []source.Rule, err error) {
	s.client.cluster.Do(func() {
		if s.down() {
			err = ErrOutage
			return
		}
		for _, name := range names {
			rules = append(rules, s.rule(name))
		}
	})
	return rules, err
}

// rule tells how a rule does.
func (s Source) rule(name string) source.Rule {
	stopped := s.client.cluster.stops[name]
	if stopped == nil {
		return source.Rule{Name: name, Evaluated: time.Now(), Active: s.active(name)}
	}
	r := source.Rule{Name: name, Evaluated: stopped.began}
	for key := range stopped.alerts {
		r.Active = append(r.Active, Labels(key))
	}
	if stopped.failing {
		r.Evaluated, r.Failure = time.Now(), "found duplicate series"
	}
	return r
}

// Aged returns the alerts that fired when their rule was evaluated last, once nothing else shows them.
func (s Source) Aged(_ context.Context, names []string, within time.Duration) (aged []prom.Alert, err error) {
	s.client.cluster.Do(func() {
		if s.down() {
			err = ErrOutage
			return
		}
		for _, stopped := range s.client.cluster.stops {
			stopped.each(func(key prom.Key, _ evaluated) {
				age := time.Since(stopped.began)
				if age > lookback && age <= within && slices.Contains(names, key.Node) && s.client.cluster.evaluates(key.Node) {
					aged = append(aged, prom.Alert{
						Labels: Labels(key), Fingerprint: Fingerprint(key), State: prom.StateStale, SampledAt: stopped.began, AskedAt: time.Now(),
					})
				}
			})
		}
	})
	return aged, err
}

// active returns the labels of the alerts of the rule.
func (s Source) active(rule string) (active []map[string]string) {
	for key, f := range s.client.cluster.Faults {
		if a := s.alert(key, f); a != nil && key.Condition == rule {
			active = append(active, a.Labels)
		}
	}
	return active
}

// Silences lists the active silences of Alertmanager.
func (s Source) Silences(context.Context) (silences []source.Silence, err error) {
	s.client.cluster.Do(func() { silences, err = s.silences() })
	return silences, err
}

func (s Source) silences() ([]source.Silence, error) {
	if s.client.cluster.On(AlertmanagerDown) {
		return nil, ErrOutage
	}
	var silences []source.Silence
	for state := range maps.Keys(s.client.cluster.states) {
		var condition, node string
		if n, err := fmt.Sscanf(state, silenceFormat, &condition, &node); n != 2 || err != nil {
			continue
		}
		byCondition, errCondition := labels.NewMatcher(labels.MatchEqual, "condition", condition)
		byNode, errNode := labels.NewMatcher(labels.MatchEqual, "node", node)
		if err := errors.Join(errCondition, errNode); err != nil {
			return nil, err
		}
		silences = append(silences, source.Silence{ID: state, Matchers: labels.Matchers{byCondition, byNode}})
	}
	return silences, nil
}

// Finding returns what both sources say of a condition, for code that asks them about one.
func (c *Cluster) Finding(key prom.Key) prom.Finding {
	c.held()
	found := prom.Finding{Evidence: prom.EvidenceAbsent, Permission: prom.PermissionUnlisted, Unlisted: true, At: time.Now(), Seen: time.Now()}
	f := c.Faults[key]
	if f != nil && !f.Firing().IsZero() {
		found.Evidence, found.Since = prom.EvidenceFiring, f.Changed
	}
	if f != nil && !f.Listed().IsZero() && !c.On(AlertmanagerForgot) {
		found.Permission, found.Unlisted = prom.PermissionGranted, false
	}
	if c.On(SilenceOf(key)) {
		found.Permission = prom.PermissionSilenced
	}
	if c.On(PrometheusDown) {
		found.Evidence = prom.EvidenceUnknown
	}
	if c.On(AlertmanagerDown) {
		found.Permission = prom.PermissionUnknown
	}
	return found
}

// Answers is both sources together, as the code that asks about one condition sees them.
type Answers struct{ cluster *Cluster }

// Answers returns both sources together.
func (c *Cluster) Answers() Answers { return Answers{c} }

// Observe asks the sources now.
func (a Answers) Observe(_ context.Context, key prom.Key) prom.Finding { return a.Last(key) }

// Last returns an answer that is never old.
func (a Answers) Last(key prom.Key) (f prom.Finding) {
	a.cluster.Do(func() { f = a.cluster.Finding(key) })
	return f
}
