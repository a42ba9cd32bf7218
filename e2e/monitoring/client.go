package monitoring

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Attach returns what asks a Prometheus that runs already, and can do nothing else.
func Attach(prometheusURL string) *Monitoring {
	return &Monitoring{PrometheusURL: prometheusURL, o: Options{PrometheusClient: http.DefaultClient}}
}

// Alert is a pending or firing alert of Prometheus.
type Alert struct {
	// Name is the label alertname, State pending or firing.
	Name, State string
	// Labels holds all labels.
	Labels map[string]string
}

// Sample is one element of an instant vector.
type Sample struct {
	Labels map[string]string
	Value  float64
}

// Firing returns the alerts of Prometheus, those that are pending included.
func (m *Monitoring) Firing(ctx context.Context) ([]Alert, error) {
	var answer struct {
		Data struct {
			Alerts []struct {
				Labels map[string]string `json:"labels"`
				State  string            `json:"state"`
			} `json:"alerts"`
		} `json:"data"`
	}
	if err := call(ctx, m.o.PrometheusClient, http.MethodGet, m.PrometheusURL+"/api/v1/alerts", nil, &answer); err != nil {
		return nil, fmt.Errorf("read alerts: %w", err)
	}
	var alerts []Alert
	for _, a := range answer.Data.Alerts {
		alerts = append(alerts, Alert{Name: a.Labels["alertname"], State: a.State, Labels: a.Labels})
	}
	return alerts, nil
}

// Query evaluates an expression whose result is an instant vector, now.
func (m *Monitoring) Query(ctx context.Context, expr string) ([]Sample, error) {
	var answer struct {
		Data struct {
			Result []struct {
				Metric map[string]string  `json:"metric"`
				Value  [2]json.RawMessage `json:"value"`
			} `json:"result"`
		} `json:"data"`
	}
	address := m.PrometheusURL + "/api/v1/query?query=" + url.QueryEscape(expr)
	if err := call(ctx, m.o.PrometheusClient, http.MethodGet, address, nil, &answer); err != nil {
		return nil, fmt.Errorf("query: %w", err)
	}
	var samples []Sample
	for _, r := range answer.Data.Result {
		p, err := point(r.Value)
		if err != nil {
			return nil, fmt.Errorf("query: %w", err)
		}
		samples = append(samples, Sample{Labels: r.Metric, Value: p.Value})
	}
	return samples, nil
}

// Point is the value of a series at a time.
type Point struct {
	At    time.Time
	Value float64
}

// Series is one element of a range vector.
type Series struct {
	Labels map[string]string
	Points []Point
}

// QueryRange evaluates an expression at each step from one time to another.
func (m *Monitoring) QueryRange(ctx context.Context, expr string, from, to time.Time, step time.Duration) ([]Series, error) {
	var answer struct {
		Data struct {
			Result []struct {
				Metric map[string]string    `json:"metric"`
				Values [][2]json.RawMessage `json:"values"`
			} `json:"result"`
		} `json:"data"`
	}
	seconds := func(t time.Time) string { return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64) }
	query := url.Values{
		"query": {expr}, "start": {seconds(from)}, "end": {seconds(to)}, "step": {strconv.FormatFloat(step.Seconds(), 'f', 3, 64)},
	}
	address := m.PrometheusURL + "/api/v1/query_range?" + query.Encode()
	if err := call(ctx, m.o.PrometheusClient, http.MethodGet, address, nil, &answer); err != nil {
		return nil, fmt.Errorf("query range: %w", err)
	}
	var all []Series
	for _, r := range answer.Data.Result {
		series := Series{Labels: r.Metric}
		for _, v := range r.Values {
			p, err := point(v)
			if err != nil {
				return nil, fmt.Errorf("query range: %w", err)
			}
			series.Points = append(series.Points, p)
		}
		all = append(all, series)
	}
	return all, nil
}

// point decodes a pair of time and value.
func point(pair [2]json.RawMessage) (Point, error) {
	at, err := strconv.ParseFloat(string(pair[0]), 64)
	if err != nil {
		return Point{}, fmt.Errorf("time: %w", err)
	}
	value, err := strconv.ParseFloat(strings.Trim(string(pair[1]), `"`), 64)
	if err != nil {
		return Point{}, fmt.Errorf("value: %w", err)
	}
	return Point{At: time.UnixMilli(int64(at * 1000)), Value: value}, nil
}

type matcher struct {
	Name    string `json:"name"`
	Value   string `json:"value"`
	IsRegex bool   `json:"isRegex"`
	IsEqual bool   `json:"isEqual"`
}

type silence struct {
	Matchers  []matcher `json:"matchers"`
	StartsAt  time.Time `json:"startsAt"`
	EndsAt    time.Time `json:"endsAt"`
	CreatedBy string    `json:"createdBy"`
	Comment   string    `json:"comment"`
}

// Silence silences what has all the labels, on every replica, and returns an ID for Expire.
func (m *Monitoring) Silence(ctx context.Context, labels map[string]string, d time.Duration) (string, error) {
	now := time.Now()
	body := silence{StartsAt: now, EndsAt: now.Add(d), CreatedBy: "e2e", Comment: "end-to-end test"}
	for name, value := range labels {
		body.Matchers = append(body.Matchers, matcher{Name: name, Value: value, IsEqual: true})
	}
	var ids []string
	for _, address := range m.AlertmanagerURLs {
		var answer struct {
			SilenceID string `json:"silenceID"`
		}
		if err := call(ctx, http.DefaultClient, http.MethodPost, address+"/api/v2/silences", body, &answer); err != nil {
			return "", fmt.Errorf("silence: %w", err)
		}
		ids = append(ids, answer.SilenceID)
	}
	// Replicas that do not know each other give IDs of their own.
	return strings.Join(ids, ","), nil
}

// Expire ends a silence on every replica.
func (m *Monitoring) Expire(ctx context.Context, id string) error {
	var errs []error
	for i, one := range strings.Split(id, ",") {
		errs = append(errs, call(ctx, http.DefaultClient, http.MethodDelete, m.AlertmanagerURLs[i]+"/api/v2/silence/"+one, nil, nil))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("expire silence: %w", err)
	}
	return nil
}

// call sends body as JSON, if there is one, and decodes the answer into it, if it is wanted.
func call(ctx context.Context, client *http.Client, method, address string, body, answer any) (err error) {
	var content bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&content).Encode(body); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, address, &content)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s: %s", method, address, resp.Status, text)
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(text, answer)
}
