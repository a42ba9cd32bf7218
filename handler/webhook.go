package handler

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"aegis.io/aegis/rules"
	"aegis.io/aegis/rules/prom"
)

const (
	webhookVersion  = "4"
	maxWebhookBytes = 16 << 20
	// fingerprintLen is the number of hexadecimal digits of a fingerprint.
	fingerprintLen = 16
)

// What becomes of an alert, apart from the reasons for which rules drops it.
const (
	outcomeTaken  = "taken"
	dropMalformed = "malformed"
	dropBadStatus = "bad_status"
	dropNoLabels  = "no_labels"
	dropEnded     = "ended"
	dropOther     = "other"
)

// The states of an alert in a webhook.
const (
	statusFiring   = "firing"
	statusResolved = "resolved"
)

// message is the part of a webhook that is of use here. Everything else may be there or not, whatever its type: new
// versions of Alertmanager add fields.
type message[A any] struct {
	Version string `json:"version"`
	Alerts  []A    `json:"alerts"`
	// TruncatedAlerts is a number, but no value of it is reason enough to refuse the alerts.
	TruncatedAlerts json.RawMessage `json:"truncatedAlerts"`
}

// webhookAlert is one alert of a webhook.
type webhookAlert struct {
	Status      string            `json:"status"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	StartsAt    time.Time         `json:"startsAt"`
	EndsAt      time.Time         `json:"endsAt"`
	Fingerprint string            `json:"fingerprint"`
}

// intake is the answer to a webhook.
type intake struct {
	Taken   int            `json:"taken"`
	Dropped map[string]int `json:"dropped"`
}

// serveAlerts answers 200 once every valid alert is merged. Alertmanager takes that for done, for hours.
func (h *Handler) serveAlerts(w http.ResponseWriter, r *http.Request) (reply, error) {
	if err := h.checkReady(); err != nil {
		return reply{}, err
	}
	body, err := readJSON(w, r, maxWebhookBytes)
	if err != nil {
		return reply{}, err
	}
	msg, malformed, err := decodeWebhook(body)
	if err != nil {
		return reply{}, err
	}
	observations, result := h.translate(r.Context(), msg.Alerts)
	if malformed > 0 {
		result.Dropped[dropMalformed] += malformed
	}
	if len(observations) > 0 {
		h.sink.Observe(observations...)
	}
	// The lead may have been lost meanwhile, and with it what was merged. The next leader must get it too.
	if err := h.checkReady(); err != nil {
		return reply{}, err
	}
	h.record(result, msg.truncated())
	return reply{status: http.StatusOK, body: result}, nil
}

func (h *Handler) record(result intake, truncated bool) {
	h.metrics.alerts.WithLabelValues(outcomeTaken).Add(float64(result.Taken))
	for reason, n := range result.Dropped {
		h.metrics.alerts.WithLabelValues(reason).Add(float64(n))
	}
	h.metrics.lastAccepted.Set(float64(h.clock.Now().UnixNano()) / 1e9)
	if truncated {
		h.metrics.truncated.Inc()
		h.resync()
	}
}

// translate turns alerts into observations, in their order. What cannot be turned is counted by reason.
func (h *Handler) translate(ctx context.Context, alerts []webhookAlert) ([]prom.Observation, intake) {
	now := h.clock.Now()
	observations := make([]prom.Observation, 0, len(alerts))
	result := intake{Dropped: map[string]int{}}
	for i := range alerts {
		obs, err := h.observation(&alerts[i], now)
		if err != nil {
			reason := dropReason(err)
			result.Dropped[reason]++
			h.logger.DebugContext(ctx, "alert dropped", "fingerprint", truncate(alerts[i].Fingerprint), "reason", reason, "err", truncate(err.Error()))
			continue
		}
		observations = append(observations, obs)
	}
	result.Taken = len(observations)
	return observations, result
}

func (h *Handler) observation(a *webhookAlert, now time.Time) (prom.Observation, error) {
	alert, err := a.alert(now)
	if err != nil {
		return prom.Observation{}, err
	}
	obs, err := h.classifier.Classify(alert)
	if err != nil {
		return prom.Observation{}, err
	}
	// Where the clock of Alertmanager is ahead, the end of a resolved alert is still to come.
	if a.Status == statusResolved {
		obs.Firing = false
	}
	return obs, nil
}

// alert checks the alert and returns it in the form that all sources share. The error is a *rules.Drop.
func (a *webhookAlert) alert(now time.Time) (prom.Alert, error) {
	if len(a.Labels) == 0 {
		return prom.Alert{}, &rules.Drop{Reason: dropNoLabels, Detail: "the alert has no labels"}
	}
	alert := prom.Alert{
		Labels:      a.Labels,
		Annotations: a.Annotations,
		State:       prom.StateFiring,
		Fingerprint: a.Fingerprint,
		StartsAt:    a.StartsAt,
	}
	switch a.Status {
	case statusFiring:
		// Alertmanager tells no end of what fires, and takes an alert whose end has passed for resolved. This one was told of too late:
		// it opens nothing, and ends nothing that fires since.
		if !a.EndsAt.IsZero() && !a.EndsAt.After(now) {
			return prom.Alert{}, &rules.Drop{Reason: dropEnded, Detail: "it fired until " + a.EndsAt.UTC().Format(time.RFC3339)}
		}
	case statusResolved:
		alert.EndsAt = a.EndsAt
		if alert.EndsAt.IsZero() {
			alert.EndsAt = now
		}
	default:
		return prom.Alert{}, &rules.Drop{Reason: dropBadStatus, Detail: "the status is neither firing nor resolved"}
	}
	if !isFingerprint(alert.Fingerprint) {
		alert.Fingerprint = prom.Fingerprint(a.Labels)
	}
	return alert, nil
}

func isFingerprint(s string) bool {
	return len(s) == fingerprintLen && strings.Trim(s, "0123456789abcdef") == ""
}

// dropReason returns why an alert was dropped, within the closed set.
func dropReason(err error) string {
	if drop, ok := errors.AsType[*rules.Drop](err); ok && slices.Contains(dropReasons(), drop.Reason) {
		return drop.Reason
	}
	return dropOther
}

// truncate keeps what a stranger wrote from filling the log.
func truncate(s string) string {
	const most = 200
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}

// truncated reports whether Alertmanager left alerts out. What is no number is taken for a yes: the cost of asking the
// sources once too often is small.
func (m message[A]) truncated() bool {
	switch string(m.TruncatedAlerts) {
	case "", "0", "null":
		return false
	default:
		return true
	}
}

func (m message[A]) validate() error {
	if m.Version != webhookVersion {
		return problemf(http.StatusBadRequest, "version is %.20q, want %q, the format of a webhook receiver without payload of its own",
			m.Version, webhookVersion)
	}
	if m.Alerts == nil {
		return problemf(http.StatusBadRequest, "alerts is missing, want an array of alerts")
	}
	return nil
}

// decodeWebhook decodes a body, and counts the alerts in it that have a value of a wrong type.
func decodeWebhook(body []byte) (msg message[webhookAlert], malformed int, err error) {
	err = json.Unmarshal(body, &msg)
	if _, ok := errors.AsType[*json.SyntaxError](err); ok {
		return msg, 0, badJSON(body, err)
	}
	if err != nil {
		return decodeEach(body)
	}
	return msg, 0, msg.validate()
}

// decodeEach decodes the alerts one by one, so that a bad one takes none with it. It costs twice as much.
func decodeEach(body []byte) (msg message[webhookAlert], malformed int, err error) {
	var raw message[json.RawMessage]
	if err := json.Unmarshal(body, &raw); err != nil {
		return msg, 0, badJSON(body, err)
	}
	if err := raw.validate(); err != nil {
		return msg, 0, err
	}
	msg = message[webhookAlert]{Version: raw.Version, TruncatedAlerts: raw.TruncatedAlerts}
	for _, text := range raw.Alerts {
		var a webhookAlert
		if err := json.Unmarshal(text, &a); err != nil {
			malformed++
			continue
		}
		msg.Alerts = append(msg.Alerts, a)
	}
	return msg, malformed, nil
}
