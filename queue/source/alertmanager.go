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

// AlertmanagerOptions configure a client of one Alertmanager replica.
type AlertmanagerOptions struct {
	// URL is the base address. It may have a path prefix.
	URL string
	// HTTP says how the server is reached. Nil means DefaultHTTPConfig.
	HTTP *HTTPConfig
	// Timeout bounds one request. 0 means 10 seconds.
	Timeout time.Duration
}

// Alertmanager reads the alerts and the silences of one replica. Replicas do not share alerts, and silences only after a
// while, so each must be asked.
type Alertmanager struct {
	client *client
}

// NewAlertmanager returns a client. It sends nothing yet.
func NewAlertmanager(o AlertmanagerOptions) (*Alertmanager, error) {
	c, err := newClient("alertmanager", clientOptions{address: o.URL, config: o.HTTP, timeout: o.Timeout})
	if err != nil {
		return nil, fmt.Errorf("alertmanager: %w", err)
	}
	return &Alertmanager{client: c}, nil
}

// URL returns the address of the replica.
func (a *Alertmanager) URL() string { return a.client.safeURL() }

// Alerts returns the replica's alerts, active or suppressed. Silences and inhibitions are computed at the time of the
// request, and so are time intervals; before 0.35 those are of the last notification of the alert's groups. An alert that is
// muted in one of several groups is suppressed. An error means that nothing is known.
func (a *Alertmanager) Alerts(ctx context.Context) ([]prom.Alert, error) {
	listed, err := fetchList[apiAlert](ctx, a.client, "api/v2/alerts", nil)
	if err != nil {
		return nil, err
	}
	// Only the groups know the time intervals.
	groups, err := fetchList[apiGroup](ctx, a.client, "api/v2/alerts/groups", nil)
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		listed = append(listed, g.Alerts...)
	}
	alerts, err := mergeAlerts(listed)
	if err != nil {
		return nil, fmt.Errorf("answer of alertmanager %s: %w", a.URL(), err)
	}
	return alerts, nil
}

// fetchList fetches the array at the path.
func fetchList[T any](ctx context.Context, c *client, path string, query url.Values) ([]T, error) {
	body, err := c.get(ctx, path, query)
	if err != nil {
		return nil, fmt.Errorf("query alertmanager: %w", err)
	}
	list, err := decodeList[T](body)
	if err != nil {
		return nil, fmt.Errorf("answer of alertmanager %s to %s: %w", c.safeURL(), path, err)
	}
	return list, nil
}

// decodeList decodes an array. A null is no array: it would pass for "no alerts".
func decodeList[T any](body []byte) ([]T, error) {
	var list []T
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	if list == nil {
		return nil, errors.New("it is null")
	}
	return list, nil
}

// apiGroup is an element of the answer to /api/v2/alerts/groups.
type apiGroup struct {
	Alerts []apiAlert `json:"alerts"`
}

// apiAlert is an alert of the API, version 2.
type apiAlert struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	Fingerprint string            `json:"fingerprint"`
	StartsAt    time.Time         `json:"startsAt"`
	EndsAt      time.Time         `json:"endsAt"`
	Status      apiStatus         `json:"status"`
}

// apiStatus says whether the alert is suppressed and by what.
type apiStatus struct {
	State       string   `json:"state"`
	SilencedBy  []string `json:"silencedBy"`
	InhibitedBy []string `json:"inhibitedBy"`
	MutedBy     []string `json:"mutedBy"`
}

// mergeAlerts makes one alert of all that have the same fingerprint, in order of appearance. What suppresses one of
// them suppresses it.
func mergeAlerts(listed []apiAlert) ([]prom.Alert, error) {
	merged := make([]prom.Alert, 0, len(listed))
	index := make(map[string]int, len(listed))
	for _, l := range listed {
		alert, err := l.alert()
		if err != nil {
			return nil, err
		}
		i, known := index[alert.Fingerprint]
		if !known {
			index[alert.Fingerprint] = len(merged)
			merged = append(merged, alert)
			continue
		}
		if alert.State == prom.StateSuppressed {
			merged[i].State = prom.StateSuppressed
		}
		merged[i].SuppressedBy = append(merged[i].SuppressedBy, alert.SuppressedBy...)
	}
	for i := range merged {
		slices.Sort(merged[i].SuppressedBy)
		merged[i].SuppressedBy = slices.Compact(merged[i].SuppressedBy)
	}
	return merged, nil
}

// alert translates one alert of the API.
func (l apiAlert) alert() (prom.Alert, error) {
	if len(l.Labels) == 0 {
		return prom.Alert{}, errors.New("an alert has no labels")
	}
	alert := prom.Alert{
		Labels:       l.Labels,
		Annotations:  l.Annotations,
		State:        prom.StateActive,
		Fingerprint:  l.Fingerprint,
		StartsAt:     l.StartsAt,
		EndsAt:       l.EndsAt,
		SuppressedBy: l.Status.suppressors(),
	}
	if alert.Fingerprint == "" {
		alert.Fingerprint = prom.Fingerprint(l.Labels)
	}
	switch l.Status.State {
	case "active", "suppressed":
	case "unprocessed":
		// Nobody has looked yet whether it is silenced or inhibited.
		alert.SuppressedBy = append(alert.SuppressedBy, "not processed yet")
	default:
		return prom.Alert{}, fmt.Errorf("alert %s has the unknown state %s", alert.Fingerprint, quote(l.Status.State))
	}
	if l.Status.State == "suppressed" || len(alert.SuppressedBy) > 0 {
		alert.State = prom.StateSuppressed
	}
	return alert, nil
}

// suppressors names what suppresses the alert.
func (s apiStatus) suppressors() []string {
	names := make([]string, 0, len(s.SilencedBy)+len(s.InhibitedBy)+len(s.MutedBy))
	for _, id := range s.SilencedBy {
		names = append(names, "silence "+id)
	}
	for _, fingerprint := range s.InhibitedBy {
		names = append(names, "alert "+fingerprint)
	}
	for _, interval := range s.MutedBy {
		names = append(names, "time interval "+interval)
	}
	return names
}
