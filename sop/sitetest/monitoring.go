package sitetest

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/queue"
	"aegis.io/aegis/queue/source"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop"
)

// Monitoring is how Aegis learns of the faults of a site when nothing sends it webhooks.
type Monitoring struct {
	// Permission, Away and AwayAfter are those of the configuration.
	Permission queue.Permitter
	Away       queue.AwayChoice
	AwayAfter  time.Duration
	// Alertmanager is there. It lists what fires while it is not down.
	Alertmanager bool
}

// errDown is what a source that is down answers.
var errDown = errors.New("connection refused")

// Watch has the site watched by Prometheus: Aegis asks it, and nothing else tells of a fault. It must come before Start.
func (w *Site) Watch(m Monitoring) {
	w.t.Helper()
	o := queue.ResyncOptions{
		Queue: w.Queue, Classifier: w.classifier, Prometheus: asked{site: w}, Permission: m.Permission, Away: m.Away, AwayAfter: m.AwayAfter,
		Silences: w.orderStore,
	}
	if m.Alertmanager {
		o.Alertmanagers = map[string]queue.AlertSource{"http://alertmanager": asked{site: w, down: &w.away}}
	}
	var err error
	w.resync, err = queue.NewResync(o)
	require.NoError(w.t, err)
}

// SetAlertmanager starts or ends Alertmanager.
func (w *Site) SetAlertmanager(runs bool) { w.Cluster.Do(func() { w.away = !runs }) }

// source returns what Aegis asks about a condition.
func (w *Site) source() sop.Source {
	if w.resync == nil {
		return w.Cluster.Answers()
	}
	return w.resync
}

// resynced runs resync until the context ends, and returns when it has asked once. The returned function waits for its end.
func (w *Site) resynced(ctx context.Context) (settled func()) {
	if w.resync == nil {
		return func() {}
	}
	var err error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		err = w.resync.Run(ctx)
	}()
	for running := true; running && !w.resync.Synced(); {
		select {
		case <-ended:
			running = false
		case <-time.After(time.Second):
		}
	}
	return func() {
		w.t.Helper()
		<-ended
		require.NoError(w.t, err)
	}
}

// asked is a source of the site: Prometheus, which is always up, or Alertmanager.
type asked struct {
	site *Site
	down *bool
}

// Alerts returns the alerts that fire.
func (a asked) Alerts(context.Context) (alerts []prom.Alert, err error) {
	a.site.Cluster.Do(func() {
		if a.down != nil && *a.down {
			err = errDown
			return
		}
		for _, alert := range slices.Collect(maps.Values(a.site.firing)) {
			if a.down != nil {
				alert.State = prom.StateActive
			}
			alert.Fingerprint = prom.Fingerprint(alert.Labels)
			alerts = append(alerts, alert)
		}
	})
	return alerts, err
}

// Evidence returns that every node is seen.
func (a asked) Evidence(_ context.Context, r source.EvidenceRequest) ([]source.Sighting, error) {
	var seen []source.Sighting
	for _, name := range r.Names {
		seen = append(seen, source.Sighting{Labels: map[string]string{"node": name}})
	}
	return seen, nil
}

// Silences returns that there are none.
func (a asked) Silences(context.Context) (silences []source.Silence, err error) {
	a.site.Cluster.Do(func() {
		if *a.down {
			err = errDown
		}
	})
	return silences, err
}
