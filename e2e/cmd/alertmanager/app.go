package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/alertmanager/api"
	"github.com/prometheus/alertmanager/config"
	"github.com/prometheus/alertmanager/config/receiver"
	"github.com/prometheus/alertmanager/dispatch"
	"github.com/prometheus/alertmanager/eventrecorder"
	"github.com/prometheus/alertmanager/featurecontrol"
	"github.com/prometheus/alertmanager/inhibit"
	"github.com/prometheus/alertmanager/labelset"
	"github.com/prometheus/alertmanager/nflog"
	"github.com/prometheus/alertmanager/notify"
	"github.com/prometheus/alertmanager/provider"
	"github.com/prometheus/alertmanager/provider/mem"
	"github.com/prometheus/alertmanager/silence"
	"github.com/prometheus/alertmanager/template"
	"github.com/prometheus/alertmanager/timeinterval"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/model"
	"github.com/prometheus/common/route"
)

const (
	// retention is Alertmanager's own default.
	retention = 120 * time.Hour
	gcEvery   = 30 * time.Minute
	// cleanEvery is how often the dispatcher drops empty groups.
	cleanEvery = 30 * time.Second
)

// app is the running pipeline behind the API.
type app struct {
	handler http.Handler

	o          options
	logger     *slog.Logger
	registry   *prometheus.Registry
	features   featurecontrol.Flagger
	events     eventrecorder.Recorder
	config     *config.Config
	url        *url.URL
	silences   *silence.Silences
	silencer   *silence.Silencer
	log        *nflog.Log
	alerts     provider.Alerts
	dispatcher atomic.Pointer[dispatch.Dispatcher]
	// teardown is run from the end to the beginning.
	teardown []func()
}

func newApp(o options, external string, logger *slog.Logger) (*app, error) {
	a := &app{
		o: o, logger: logger, registry: prometheus.NewRegistry(), features: featurecontrol.NoopFlags{},
	}
	var err error
	if a.url, err = url.Parse(external); err != nil {
		return nil, fmt.Errorf("external address: %w", err)
	}
	if a.config, err = config.LoadFile(o.configFile); err != nil {
		return nil, fmt.Errorf("load configuration: %w", err)
	}
	for _, step := range []func() error{a.openStorage, a.startProvider, a.startAPI} {
		if err := step(); err != nil {
			a.stop()
			return nil, err
		}
	}
	return a, nil
}

// openStorage loads what survives a restart, and keeps its snapshots up to date.
func (a *app) openStorage() error {
	silencesFile, logFile := filepath.Join(a.o.storage, "silences"), filepath.Join(a.o.storage, "nflog")
	unlimited := func() int { return 0 }
	var err error
	a.silences, err = silence.New(silence.Options{
		SnapshotFile: silencesFile, Retention: retention, Logger: a.logger, Metrics: a.registry,
		Limits: silence.Limits{MaxSilences: unlimited, MaxSilenceSizeBytes: unlimited},
	})
	if err != nil {
		return fmt.Errorf("load silences: %w", err)
	}
	a.silencer = silence.NewSilencer(a.silences, a.logger, a.events)
	a.log, err = nflog.New(nflog.Options{SnapshotFile: logFile, Retention: retention, Logger: a.logger, Metrics: a.registry})
	if err != nil {
		return fmt.Errorf("load notification log: %w", err)
	}
	stop := make(chan struct{})
	var running sync.WaitGroup
	// The last snapshot is written when stop is closed.
	running.Go(func() { a.silences.Maintenance(a.o.maintenance, silencesFile, stop, nil) })
	running.Go(func() { a.log.Maintenance(a.o.maintenance, logFile, stop, nil) })
	a.teardown = append(a.teardown, func() { close(stop); running.Wait() })
	return nil
}

func (a *app) startProvider() error {
	alerts, err := mem.NewAlerts(context.Background(), gcEvery, 0, a.silencer, a.logger, a.events, a.registry, a.features)
	if err != nil {
		return fmt.Errorf("make provider: %w", err)
	}
	a.alerts = alerts
	a.teardown = append(a.teardown, alerts.Close)
	return nil
}

// startAPI starts the pipeline and the API in front of it; each needs the other.
func (a *app) startAPI() error {
	handler, err := api.New(api.Options{
		Alerts: a.alerts, Silences: a.silences, GroupFunc: a.groups,
		Logger: a.logger, Registry: a.registry, RequestDuration: requestDuration(a.registry),
	})
	if err != nil {
		return fmt.Errorf("make API: %w", err)
	}
	inhibitor, err := a.startPipeline()
	if err != nil {
		return err
	}
	handler.Update(a.config, func(ctx context.Context, labels labelset.LabelSet) {
		inhibitor.Mutes(ctx, labels)
		a.silencer.Mutes(ctx, labels)
	})
	router := route.New()
	ok := func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "OK") }
	router.Get("/-/healthy", ok)
	router.Get("/-/ready", ok)
	router.Get("/metrics", promhttp.HandlerFor(a.registry, promhttp.HandlerOpts{}).ServeHTTP)
	a.handler = handler.Register(router, "/")
	return nil
}

func requestDuration(registry prometheus.Registerer) *prometheus.HistogramVec {
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "alertmanager_http_request_duration_seconds", Help: "Time to answer a request.",
	}, []string{"handler", "method", "code"})
	registry.MustRegister(h)
	return h
}

func (a *app) groups(ctx context.Context, routes func(*dispatch.Route) bool, alerts dispatch.AlertFilter) (dispatch.AlertGroups, map[model.Fingerprint][]string, error) {
	return a.dispatcher.Load().Groups(ctx, routes, alerts)
}

// startPipeline starts what notifies.
func (a *app) startPipeline() (*inhibit.Inhibitor, error) {
	integrations, templates, err := a.receivers()
	if err != nil {
		return nil, err
	}
	inhibitor := inhibit.NewInhibitor(a.alerts, a.config.InhibitRules, a.logger, a.events)
	go inhibitor.Run()
	inhibitor.WaitForLoading()
	a.teardown = append(a.teardown, inhibitor.Stop)
	intervals := map[string][]timeinterval.TimeInterval{}
	for _, i := range a.config.TimeIntervals {
		intervals[i.Name] = i.TimeIntervals
	}
	intervener := timeinterval.NewIntervener(intervals)
	noWait := func() time.Duration { return 0 }
	pipeline := notify.NewPipelineBuilder(a.registry, a.features, a.events).New(integrations, noWait, inhibitor, a.silencer,
		intervener, a.log, nil)
	timeout := func(d time.Duration) time.Duration { return max(d, notify.MinTimeout) }
	d := dispatch.NewDispatcher(a.alerts, dispatch.NewRoute(a.config.Route, nil), pipeline, intervener, timeout, cleanEvery, nil,
		a.logger, a.events, dispatch.NewDispatcherMetrics(false, a.registry, a.features), templates)
	go d.Run(time.Now())
	d.WaitForLoading()
	a.dispatcher.Store(d)
	a.teardown = append(a.teardown, d.Stop)
	return inhibitor, nil
}

func (a *app) receivers() (map[string][]notify.Integration, *template.Template, error) {
	templates, err := template.FromGlobs(a.config.Templates)
	if err != nil {
		return nil, nil, fmt.Errorf("load templates: %w", err)
	}
	templates.ExternalURL = a.url
	integrations := map[string][]notify.Integration{}
	for _, r := range a.config.Receivers {
		if integrations[r.Name], err = receiver.BuildReceiverIntegrations(r, templates, a.logger); err != nil {
			return nil, nil, fmt.Errorf("make receiver %s: %w", r.Name, err)
		}
	}
	return integrations, templates, nil
}

// stop ends what was started, the last first.
func (a *app) stop() {
	for _, end := range slices.Backward(a.teardown) {
		end()
	}
	a.teardown = nil
}
