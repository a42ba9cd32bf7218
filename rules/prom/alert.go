package prom

import (
	"time"

	"github.com/prometheus/common/model"
)

// AlertState is the state of an alert at its source.
type AlertState string

// The states: pending, firing and stale are Prometheus', active and suppressed are Alertmanager's. Of a stale alert Prometheus has
// only a sample that is too old to say anything, as for minutes after it crashed.
const (
	StatePending    AlertState = "pending"
	StateFiring     AlertState = "firing"
	StateStale      AlertState = "stale"
	StateActive     AlertState = "active"
	StateSuppressed AlertState = "suppressed"
)

// Alert is an alert as one of its sources tells it: a webhook, Prometheus, or the API of Alertmanager.
type Alert struct {
	Labels      map[string]string
	Annotations map[string]string
	State       AlertState
	// Fingerprint is Alertmanager's: FNV-1a of the labels, 16 hexadecimal digits.
	Fingerprint string
	StartsAt    time.Time
	EndsAt      time.Time
	// SuppressedBy names the silences, inhibiting alerts and time intervals that suppress the alert.
	SuppressedBy []string
	// SampledAt is when the server had the alert in this state last, and AskedAt when it answered, both by its own clock. Zero where it
	// does not tell.
	SampledAt, AskedAt time.Time
	// Subject says what the alert is about, where a configuration says it. Nil leaves that to the labels.
	Subject *Subject
}

// Age is for how long the server has not seen the alert in its state, 0 where it does not tell.
func (a Alert) Age() time.Duration {
	if a.SampledAt.IsZero() || a.AskedAt.IsZero() {
		return 0
	}
	return max(0, a.AskedAt.Sub(a.SampledAt))
}

// ActiveFor is how long the alert has been active by the clock of the server, and whether that is known.
func (a Alert) ActiveFor() (time.Duration, bool) {
	if a.StartsAt.IsZero() || a.AskedAt.IsZero() {
		return 0, false
	}
	return max(0, a.AskedAt.Sub(a.StartsAt)), true
}

// Subject is what a finding of a source is about.
type Subject struct {
	// Condition is the name or an alias of the condition.
	Condition string
	// NodeLabel is the label that names the node. Empty leaves that to the labels that may name it on an alert.
	NodeLabel string
	// DeviceLabel is the label that names the device. Empty leaves that to the condition.
	DeviceLabel string
}

// Fingerprint identifies an alert by its labels, as Alertmanager does. Every label counts, so labels that a relabelling adds
// change it.
func Fingerprint(labels map[string]string) string {
	return model.Fingerprint(model.LabelsToSignature(labels)).String()
}
