package source

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/url"
	"strconv"
	"time"

	"k8s.io/utils/clock"

	"aegis.io/aegis/rules/prom"
)

const (
	// DefaultCanary is the alert that always fires where nobody has named another.
	DefaultCanary = "Watchdog"
	defaultMaxAge = 2 * time.Minute
	// alertsQuery yields when each alert was last evaluated. The value of ALERTS itself is always 1. It is asked for besides, because
	// timestamp() of VictoriaMetrics finds an alert for five minutes more whose end is marked.
	alertsQuery = `timestamp(ALERTS{alertstate=~"pending|firing"}) and ALERTS{alertstate=~"pending|firing"}`
	// startsQuery adds since when the expression of each alert holds, in series that have the labels of the alert and no state.
	startsQuery = alertsQuery + ` or ALERTS_FOR_STATE`
)

// The labels by which Prometheus tells an alert's state. They are no labels of the alert.
const (
	labelName      = "__name__"
	labelState     = "alertstate"
	labelAlertName = "alertname"
)

// metricStarts is the series in which Prometheus keeps since when an alert is active.
const metricStarts = "ALERTS_FOR_STATE"

// PrometheusOptions configure a client of Prometheus.
type PrometheusOptions struct {
	// URL is the base address. It may have a path prefix.
	URL string
	// HTTP says how the server is reached. Nil means DefaultHTTPConfig.
	HTTP *HTTPConfig
	// Canary is the alert that always fires. Without it an answer proves nothing. Empty means Watchdog.
	Canary string
	// Cluster is this one. A canary of another one proves nothing.
	Cluster prom.Cluster
	// MaxAge is the age from which a sample is stale, at least twice the interval of the slowest rule group. 0 means
	// 2 minutes.
	MaxAge time.Duration
	// Starts asks since when each alert is active, too: confirmFor counts from there, and where no Alertmanager tells, Prometheus has to.
	Starts bool
	// Timeout bounds one request. 0 means 10 seconds.
	Timeout time.Duration
	// Clock is asked for the time only when an answer does not tell when it was evaluated. Nil means the wall clock.
	Clock clock.PassiveClock
}

// Prometheus reads the alerts of one Prometheus, or of what speaks its API: Thanos, VictoriaMetrics.
type Prometheus struct {
	client  *client
	canary  string
	cluster prom.Cluster
	maxAge  time.Duration
	query   string
	clock   clock.PassiveClock
}

// NewPrometheus returns a client. It sends nothing yet.
func NewPrometheus(o PrometheusOptions) (*Prometheus, error) {
	c, err := newClient("prometheus", clientOptions{address: o.URL, config: o.HTTP, timeout: o.Timeout})
	if err != nil {
		return nil, fmt.Errorf("prometheus: %w", err)
	}
	if o.MaxAge < 0 {
		return nil, fmt.Errorf("prometheus: negative maximum age %s", o.MaxAge)
	}
	query := alertsQuery
	if o.Starts {
		query = startsQuery
	}
	return &Prometheus{
		client:  c,
		query:   query,
		canary:  cmp.Or(o.Canary, DefaultCanary),
		cluster: o.Cluster,
		maxAge:  cmp.Or(o.MaxAge, defaultMaxAge),
		clock:   cmp.Or[clock.PassiveClock](o.Clock, clock.RealClock{}),
	}, nil
}

// URL returns the address of the server, without credentials.
func (p *Prometheus) URL() string { return p.client.safeURL() }

// Alerts returns the alerts that are pending or firing, one for each set of labels. StartsAt is when its expression began to hold, and
// is unknown unless it was asked for and Prometheus tells: it forgets it with the series, and after some restarts. An error
// means that nothing is known: a request that failed, a partial answer, or no fresh sign of the canary. An alert of which there
// is only an old sample is stale: nothing is known of that one.
func (p *Prometheus) Alerts(ctx context.Context) ([]prom.Alert, error) {
	return p.alerts(ctx, p.query)
}

// alerts returns the alerts that a query for when they were evaluated yields.
func (p *Prometheus) alerts(ctx context.Context, query string) ([]prom.Alert, error) {
	body, err := p.ask(ctx, query, nil)
	if err != nil {
		return nil, err
	}
	alerts, err := p.judge(body)
	if err != nil {
		return nil, fmt.Errorf("answer of prometheus %s: %w", p.client.safeURL(), err)
	}
	return alerts, nil
}

// ask evaluates a query now, and wants the whole answer or none. More parameters are added to the request.
func (p *Prometheus) ask(ctx context.Context, query string, more url.Values) ([]byte, error) {
	form := url.Values{
		"query": {query},
		// Thanos and VictoriaMetrics answer with what they have unless told otherwise.
		"partial_response":      {"false"},
		"deny_partial_response": {"1"},
	}
	maps.Copy(form, more)
	body, err := p.client.postForm(ctx, "api/v1/query", form)
	if err != nil {
		return nil, fmt.Errorf("query prometheus: %w", err)
	}
	return body, nil
}

// judge decides whether the answer can be relied on, and returns its alerts.
func (p *Prometheus) judge(body []byte) ([]prom.Alert, error) {
	elements, err := decodeVector(body, math.MaxInt)
	if err != nil {
		return nil, err
	}
	samples, starts, err := split(elements)
	if err != nil {
		return nil, err
	}
	alerts := make([]prom.Alert, 0, len(samples))
	for _, s := range freshest(samples) {
		age := p.age(s)
		stale := age.Abs() > p.maxAge
		if stale && p.isCanary(s.alert) {
			return nil, fmt.Errorf("the canary alert %s is stale: its last sample is %s old", quote(p.canary), age.Round(time.Second))
		}
		if stale {
			s.alert.State = prom.StateStale
		}
		s.alert.StartsAt = starts[s.alert.Fingerprint]
		s.alert.SampledAt, s.alert.AskedAt = s.at, s.evaluatedAt
		alerts = append(alerts, s.alert)
	}
	if !p.hasCanary(alerts) {
		return nil, fmt.Errorf("the canary alert %s does not fire", quote(p.canary))
	}
	return alerts, nil
}

// age is measured on the clock of the server, which dated the sample and its evaluation.
func (p *Prometheus) age(s sample) time.Duration {
	if s.evaluatedAt.IsZero() {
		return p.clock.Since(s.at)
	}
	return s.evaluatedAt.Sub(s.at)
}

// isCanary reports whether the alert is the canary of this cluster.
func (p *Prometheus) isCanary(a prom.Alert) bool {
	return a.Labels[labelAlertName] == p.canary && !p.cluster.Other(a.Labels)
}

func (p *Prometheus) hasCanary(alerts []prom.Alert) bool {
	for _, a := range alerts {
		if p.isCanary(a) && a.State == prom.StateFiring {
			return true
		}
	}
	return false
}

// sample is an alert in one state, at the time when Prometheus last found it so.
type sample struct {
	alert       prom.Alert
	at          time.Time
	evaluatedAt time.Time // Zero when the answer does not tell.
}

// freshest keeps one sample for each alert, in order of appearance. After a crash Prometheus returns the state from
// before beside the present one for a while; the newer one is true. Of two that are equally new, firing is.
func freshest(samples []sample) []sample {
	kept := make([]sample, 0, len(samples))
	index := make(map[string]int, len(samples))
	for _, s := range samples {
		i, known := index[s.alert.Fingerprint]
		switch {
		case !known:
			index[s.alert.Fingerprint] = len(kept)
			kept = append(kept, s)
		case s.supersedes(kept[i]):
			kept[i] = s
		}
	}
	return kept
}

// supersedes reports whether s tells the state of the alert better than the other sample.
func (s sample) supersedes(other sample) bool {
	if s.at.Equal(other.at) {
		return s.alert.State == prom.StateFiring
	}
	return s.at.After(other.at)
}

// queryAnswer is the answer of an instant query. IsPartial is of VictoriaMetrics.
type queryAnswer struct {
	Status    string   `json:"status"`
	IsPartial bool     `json:"isPartial"`
	Warnings  []string `json:"warnings"`
	Data      struct {
		ResultType string         `json:"resultType"`
		Result     []vectorSample `json:"result"`
	} `json:"data"`
}

// vectorSample is an element of an instant vector. The value is a pair: the evaluation's time and a number as text.
type vectorSample struct {
	Metric map[string]string `json:"metric"`
	Value  []json.RawMessage `json:"value"`
}

// split tells alerts from the times since which they are active, by fingerprint.
func split(elements []vectorSample) ([]sample, map[string]time.Time, error) {
	samples, starts := make([]sample, 0, len(elements)), make(map[string]time.Time)
	for i, element := range elements {
		if _, hasState := element.Metric[labelState]; !hasState && element.Metric[labelName] == metricStarts {
			// One that cannot be read is unknown, as one that is missing is.
			if _, at, err := element.times(); err == nil {
				starts[prom.Fingerprint(element.ownLabels())] = at
			}
			continue
		}
		s, err := element.sample()
		if err != nil {
			return nil, nil, fmt.Errorf("sample %d: %w", i, err)
		}
		samples = append(samples, s)
	}
	return samples, starts, nil
}

// decodeVector decodes an answer that is complete and has at most so many elements, and refuses any other.
func decodeVector(body []byte, most int) ([]vectorSample, error) {
	var answer queryAnswer
	// The type of the result decides its form, so it is looked at even if the result cannot be decoded.
	err := json.Unmarshal(body, &answer)
	switch {
	case answer.Data.ResultType != "" && answer.Data.ResultType != "vector":
		return nil, fmt.Errorf("the result is a %s, not a vector", quote(answer.Data.ResultType))
	case err != nil:
		return nil, fmt.Errorf("decode: %w", err)
	case answer.Status != "success":
		return nil, fmt.Errorf("the status is %s", quote(answer.Status))
	case len(answer.Data.Result) > most:
		return nil, fmt.Errorf("it has more than %d series", most)
	case len(answer.Warnings) > 0:
		return nil, fmt.Errorf("%d warning(s), the first is %s", len(answer.Warnings), quote(answer.Warnings[0]))
	case answer.IsPartial:
		return nil, errors.New("it is partial")
	case answer.Data.ResultType == "":
		return nil, errors.New("it has no result")
	}
	return answer.Data.Result, nil
}

// ownLabels returns the labels without those that say which series of the alert it is.
func (v vectorSample) ownLabels() map[string]string {
	labels := maps.Clone(v.Metric)
	delete(labels, labelName)
	delete(labels, labelState)
	return labels
}

// sample turns the element into an alert with its own labels only.
func (v vectorSample) sample() (sample, error) {
	state := prom.AlertState(v.Metric[labelState])
	if state != prom.StatePending && state != prom.StateFiring {
		return sample{}, fmt.Errorf("unknown alert state %s", quote(string(state)))
	}
	if v.Metric[labelAlertName] == "" {
		return sample{}, errors.New("no alertname")
	}
	evaluatedAt, at, err := v.times()
	if err != nil {
		return sample{}, err
	}
	labels := v.ownLabels()
	return sample{
		alert:       prom.Alert{Labels: labels, State: state, Fingerprint: prom.Fingerprint(labels)},
		at:          at,
		evaluatedAt: evaluatedAt,
	}, nil
}

// times returns when the query was evaluated and when the alert was.
func (v vectorSample) times() (evaluatedAt, at time.Time, err error) {
	evaluated, seconds, err := v.pair()
	if err != nil {
		return time.Time{}, time.Time{}, err
	}
	if at, err = unixTime(seconds); err != nil {
		return time.Time{}, time.Time{}, fmt.Errorf("the sample's time: %w", err)
	}
	if evaluated == 0 {
		return time.Time{}, at, nil
	}
	if evaluatedAt, err = unixTime(evaluated); err != nil {
		return time.Time{}, time.Time{}, fmt.Errorf("the evaluation's time: %w", err)
	}
	return evaluatedAt, at, nil
}

// pair returns when the query was evaluated, in seconds since the epoch, and the value.
func (v vectorSample) pair() (evaluated, value float64, err error) {
	if len(v.Value) != 2 {
		return 0, 0, fmt.Errorf("the value has %d parts, not 2", len(v.Value))
	}
	var text string
	if err := errors.Join(json.Unmarshal(v.Value[0], &evaluated), json.Unmarshal(v.Value[1], &text)); err != nil {
		return 0, 0, fmt.Errorf("decode the value: %w", err)
	}
	if value, err = strconv.ParseFloat(text, 64); err != nil {
		return 0, 0, fmt.Errorf("the value %s is not a number", quote(text))
	}
	return evaluated, value, nil
}

// unixTime converts seconds since the epoch, to the millisecond that Prometheus keeps.
func unixTime(seconds float64) (time.Time, error) {
	const year3000 = 32503680000
	if math.IsNaN(seconds) || seconds <= 0 || seconds >= year3000 {
		return time.Time{}, fmt.Errorf("%v is not a valid time", seconds)
	}
	return time.UnixMilli(int64(math.Round(seconds * 1000))).UTC(), nil
}
