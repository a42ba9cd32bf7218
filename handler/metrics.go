package handler

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"aegis.io/aegis/rules"
)

// metrics are the instruments of this package.
type metrics struct {
	requests     *prometheus.CounterVec
	duration     *prometheus.HistogramVec
	panics       prometheus.Counter
	alerts       *prometheus.CounterVec
	truncated    prometheus.Counter
	lastAccepted prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	factory := promauto.With(reg)
	m := &metrics{
		requests: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "aegis_http_requests_total",
			Help: "Requests answered, by handler and status code.",
		}, []string{"handler", "code"}),
		duration: factory.NewHistogramVec(prometheus.HistogramOpts{
			Name:                            "aegis_http_request_duration_seconds",
			Help:                            "Time to answer a request, by handler.",
			Buckets:                         []float64{0.001, 0.005, 0.02, 0.1, 0.5, 2, 10},
			NativeHistogramBucketFactor:     1.1,
			NativeHistogramMaxBucketNumber:  100,
			NativeHistogramMinResetDuration: time.Hour,
		}, []string{"handler"}),
		panics: factory.NewCounter(prometheus.CounterOpts{
			Name: "aegis_http_panics_total",
			Help: "Requests whose handler panicked.",
		}),
		alerts: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "aegis_webhook_alerts_total",
			Help: "Alerts that arrived in webhooks, by outcome: taken, or the reason why they were dropped.",
		}, []string{"outcome"}),
		truncated: factory.NewCounter(prometheus.CounterOpts{
			Name: "aegis_webhook_truncated_total",
			Help: "Webhooks from which Alertmanager had left out alerts.",
		}),
		lastAccepted: factory.NewGauge(prometheus.GaugeOpts{
			Name: "aegis_webhook_last_accepted_timestamp_seconds",
			Help: "Time of the last accepted webhook, 0 if there was none yet.",
		}),
	}
	for _, outcome := range outcomes() {
		m.alerts.WithLabelValues(outcome)
	}
	return m
}

// outcomes returns the closed set of what can become of an alert.
func outcomes() []string {
	return append(dropReasons(), outcomeTaken)
}

// dropReasons returns the closed set of reasons for which an alert is dropped, here or by rules.
func dropReasons() []string {
	return append(rules.DropReasons(), dropMalformed, dropBadStatus, dropNoLabels, dropEnded, dropOther)
}
