package source

import (
	"context"
	"fmt"
	"maps"
	"math"
	"net/url"
	"strconv"

	"aegis.io/aegis/rules/prom"
)

// MaxSeries is how many series the answer to one query may have. A query that yields more is not read at all.
const MaxSeries = 100_000

// Sample is one series of an answer.
type Sample struct {
	// Labels are those of the series, with its name in __name__ where it has one.
	Labels map[string]string
	// Value is NaN where the series has no number, such as a histogram.
	Value float64
	// Stale says that the sample is older than the maximum age.
	Stale bool
}

// Usable reports whether the value can be compared with a threshold.
func (s Sample) Usable() bool { return usable(s.Value) }

// Answer is what a query and the one for signs of life yield.
type Answer struct {
	Samples []Sample
	// Alive are the samples of the query for signs of life. Nil when there is no such query.
	Alive []Sample
	// Canaries are the alerts that prove that the server evaluates rules.
	Canaries []prom.Alert
}

// QueryOptions configure a Query.
type QueryOptions struct {
	// Server says which server is asked, and what proves that it evaluates rules.
	Server PrometheusOptions
	// Query yields an instant vector.
	Query Expression
	// Alive yields series of the nodes whose exporters answer. Nil when nothing tells.
	Alive *Expression
}

// Query reads the samples of a query.
type Query struct {
	server *Prometheus
	query  Expression
	alive  *Expression
}

// NewQuery returns a Query. It sends nothing yet.
func NewQuery(o QueryOptions) (*Query, error) {
	server, err := NewPrometheus(o.Server)
	if err != nil {
		return nil, err
	}
	return &Query{server: server, query: o.Query, alive: o.Alive}, nil
}

// Read returns the samples of now. An error means that nothing is known: a request that failed, a partial answer, too many
// series, or a server without a fresh sign of its canary.
func (q *Query) Read(ctx context.Context) (Answer, error) {
	var answer Answer
	var err error
	if answer.Canaries, err = q.server.canaries(ctx); err != nil {
		return Answer{}, err
	}
	if answer.Samples, err = q.server.samples(ctx, q.query); err != nil || q.alive == nil {
		return answer, err
	}
	// After the samples: what has come back to life in between is not there for long enough yet.
	if answer.Alive, err = q.server.samples(ctx, *q.alive); err != nil {
		return Answer{}, fmt.Errorf("the query for signs of life: %w", err)
	}
	return answer, nil
}

// canaries returns the canaries, or an error unless the server has evaluated its rules lately.
func (p *Prometheus) canaries(ctx context.Context) ([]prom.Alert, error) {
	return p.alerts(ctx, fmt.Sprintf(`timestamp(ALERTS{alertname=%s,alertstate="firing"})`, strconv.Quote(p.canary)))
}

// samples evaluates the query. How old a sample is, the server tells only of series that were scraped or recorded.
func (p *Prometheus) samples(ctx context.Context, query Expression) ([]Sample, error) {
	elements, err := p.elements(ctx, query.text)
	if err != nil {
		return nil, err
	}
	samples := make([]Sample, len(elements))
	for i, e := range elements {
		samples[i] = Sample{Labels: e.Metric, Value: e.number()}
	}
	if !query.plain() {
		return samples, nil
	}
	fresh, err := p.freshSeries(ctx, query)
	for i := range samples {
		samples[i].Stale = !fresh[seriesOf(samples[i].Labels)]
	}
	return samples, err
}

// number returns the value, NaN when it is none.
func (v vectorSample) number() float64 {
	_, value, err := v.pair()
	if err != nil {
		return math.NaN()
	}
	return value
}

// elements evaluates the query and returns the whole answer.
func (p *Prometheus) elements(ctx context.Context, query string) ([]vectorSample, error) {
	// One more than is read, so that a server which cuts its answer short is noticed.
	body, err := p.ask(ctx, query, url.Values{"limit": {strconv.Itoa(MaxSeries + 1)}})
	if err != nil {
		return nil, err
	}
	elements, err := decodeVector(body, MaxSeries)
	if err != nil {
		return nil, fmt.Errorf("answer of prometheus %s: %w", p.client.safeURL(), err)
	}
	return elements, nil
}

// freshSeries returns the series of the query whose last sample is not too old.
func (p *Prometheus) freshSeries(ctx context.Context, query Expression) (map[string]bool, error) {
	elements, err := p.elements(ctx, "timestamp("+query.text+")")
	if err != nil {
		return nil, fmt.Errorf("ask how old the samples are: %w", err)
	}
	fresh := make(map[string]bool, len(elements))
	for _, e := range elements {
		evaluatedAt, at, err := e.times()
		if err != nil {
			continue // A series without a time is not fresh.
		}
		if p.age(sample{at: at, evaluatedAt: evaluatedAt}).Abs() <= p.maxAge {
			fresh[seriesOf(e.Metric)] = true
		}
	}
	return fresh, nil
}

// seriesOf identifies a series by its labels. Functions such as timestamp() take the name away.
func seriesOf(labels map[string]string) string {
	if _, named := labels[labelName]; named {
		labels = maps.Clone(labels)
		delete(labels, labelName)
	}
	return prom.Fingerprint(labels)
}
