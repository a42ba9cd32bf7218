package queue

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"aegis.io/aegis/rules"
	"aegis.io/aegis/rules/prom"
)

// sampleResult says what a sample was to its source.
type sampleResult string

// The results of a sample, besides the reasons of the classifier.
const (
	sampleFiring     sampleResult = "firing"
	samplePending    sampleResult = "pending"
	sampleHealthy    sampleResult = "healthy"
	sampleUndecided  sampleResult = "undecided"    // Between the bounds, with nothing known of before.
	sampleStale      sampleResult = "stale"        // Too old.
	sampleNotANumber sampleResult = "not_a_number" // NaN, infinite, or a histogram.
	sampleDuplicate  sampleResult = "duplicate"    // One more of the same node, condition and device.
)

// sampleResults lists the closed set.
func sampleResults() []sampleResult {
	all := []sampleResult{
		sampleFiring, samplePending, sampleHealthy, sampleUndecided, sampleStale, sampleNotANumber, sampleDuplicate,
	}
	for _, reason := range rules.DropReasons() {
		all = append(all, sampleResult(reason))
	}
	return all
}

// resultOf returns the result of a sample that says something.
func resultOf(e prom.Evidence) sampleResult {
	switch e {
	case prom.EvidenceFiring:
		return sampleFiring
	case prom.EvidencePending:
		return samplePending
	case prom.EvidenceAbsent:
		return sampleHealthy
	default:
		return sampleUndecided
	}
}

// words says what a sample that does not count is.
func (r sampleResult) words() string {
	if r == sampleStale {
		return "an old sample"
	}
	return "a value that is no finite number"
}

// sourceMetrics are the metrics of the sources.
type sourceMetrics struct {
	up, lastSuccess *prometheus.GaugeVec
	samples         *prometheus.CounterVec
}

func newSourceMetrics(reg prometheus.Registerer, names []string) *sourceMetrics {
	factory := promauto.With(reg)
	m := &sourceMetrics{
		up: factory.NewGaugeVec(prometheus.GaugeOpts{
			Name: "aegis_source_up",
			Help: "Whether the source gave a reliable answer in the last pass (1) or not (0).",
		}, []string{"source"}),
		lastSuccess: factory.NewGaugeVec(prometheus.GaugeOpts{
			Name: "aegis_source_last_success_timestamp_seconds",
			Help: "When the source gave a reliable answer last. 0 before the first.",
		}, []string{"source"}),
		samples: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "aegis_source_samples_total",
			Help: "Samples of a source in all passes, by what they were to it.",
		}, []string{"source", "result"}),
	}
	for _, name := range names {
		m.up.WithLabelValues(name)
		m.lastSuccess.WithLabelValues(name)
		for _, r := range sampleResults() {
			m.samples.WithLabelValues(name, string(r))
		}
	}
	return m
}

// inspected counts one pass over a source.
func (m *sourceMetrics) inspected(name string, result inspection, at time.Time) {
	for r, n := range result.results {
		m.samples.WithLabelValues(name, string(r)).Add(float64(n))
	}
	if result.err != nil {
		m.up.WithLabelValues(name).Set(0)
		return
	}
	m.up.WithLabelValues(name).Set(1)
	m.lastSuccess.WithLabelValues(name).Set(float64(at.UnixNano()) / float64(time.Second))
}
