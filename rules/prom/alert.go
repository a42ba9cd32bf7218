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
}

// Fingerprint identifies an alert by its labels, as Alertmanager does. Every label counts, so labels that a relabelling adds
// change it.
func Fingerprint(labels map[string]string) string {
	return model.Fingerprint(model.LabelsToSignature(labels)).String()
}
