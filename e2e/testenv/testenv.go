// Package testenv puts everything together: a cluster, simulated nodes, monitoring, and Aegis in the middle.
package testenv

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"aegis.io/aegis/e2e/aegis"
	"aegis.io/aegis/e2e/build"
	"aegis.io/aegis/e2e/cluster"
	"aegis.io/aegis/e2e/monitoring"
	"aegis.io/aegis/e2e/nodesim"
)

// Options says what the environment consists of.
type Options struct {
	// BinDir holds the programs. Empty builds them first.
	BinDir string
	// Dir takes data, logs and configurations.
	Dir string
	// Nodes are the machines at the start.
	Nodes []cluster.Node
	// Rules names files and folders of PrometheusRule manifests. None means those of the chart.
	Rules []string
	// ExtraRules is one more rule file, in Prometheus' own format.
	ExtraRules string
	// Compress shortens the times of the rules. Zero leaves them as they are; monitoring.FastRules is for tests.
	Compress monitoring.Compress
	// Alertmanagers is the number of their replicas. The default is 1, and a negative number means none.
	Alertmanagers int
	// Config changes the configuration of Aegis, which is aegis.Fast before.
	Config func(*aegis.Config)
	// Replicas is the number of replicas of Aegis: 1 by default, none if it is negative. Alerts go to the first.
	Replicas int
	// BootTime is how long a simulated boot takes.
	BootTime time.Duration
	// Heartbeat is how often a node reports its status, and NodeMonitorGrace how long it may be silent before it counts as not
	// ready. Both have defaults for a few dozen nodes.
	Heartbeat, NodeMonitorGrace time.Duration
	// LeaseDuration is how long the Lease of a node holds. It has a default for a few dozen nodes, too.
	LeaseDuration time.Duration
	// Webhook returns where Alertmanager sends its notifications, given where Aegis takes them. Nil sends them there.
	Webhook func(aegis string) string
	// Aegis changes how the replicas of Aegis are run, Monitoring how Prometheus and Alertmanager are. Nil leaves it as it is.
	Aegis      func(*aegis.Options)
	Monitoring func(*monitoring.Options)
	// Kubeconfig returns the kubeconfig that Aegis uses, given the one of its service account. Nil leaves it at that.
	Kubeconfig func(aegis string) (string, error)
	// Interval is the time between two scrapes and between two evaluations of a rule. The default is 1s.
	Interval time.Duration
	// Log takes what is done. The default discards it.
	Log *slog.Logger
}

// Environment is everything, running.
type Environment struct {
	// Bin holds the programs, Dir everything else.
	Bin, Dir   string
	Cluster    *cluster.Cluster
	Sim        *nodesim.Sim
	Monitoring *monitoring.Monitoring
	// Aegis holds the replicas. The first one leads at the start.
	Aegis []*aegis.Aegis

	o Options
}

// Start starts everything and returns when Aegis is ready for alerts. Stop must be called.
func Start(ctx context.Context, o Options) (*Environment, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Replicas = cmp.Or(o.Replicas, 1)
	l := &Environment{o: o, Bin: o.BinDir, Dir: o.Dir}
	for _, step := range []func(context.Context) error{l.build, l.startCluster, l.startNodes, l.startMonitoring, l.awaitCanary, l.startAegis} {
		if err := step(ctx); err != nil {
			return nil, errors.Join(fmt.Errorf("start testenv: %w", err), l.Stop())
		}
	}
	return l, nil
}

func (l *Environment) build(ctx context.Context) error {
	if l.Bin != "" {
		return nil
	}
	var err error
	l.Bin, err = build.Run(ctx, build.Options{})
	return err
}

func (l *Environment) startCluster(ctx context.Context) error {
	var err error
	l.Cluster, err = cluster.Start(ctx, cluster.Options{
		BinDir: l.Bin, Dir: l.Dir, Log: l.o.Log, NodeMonitorGrace: l.o.NodeMonitorGrace,
	})
	if err != nil {
		return err
	}
	return l.Cluster.GrantAegis(ctx)
}

func (l *Environment) startNodes(ctx context.Context) error {
	var err error
	l.Sim, err = nodesim.Start(ctx, nodesim.Options{
		Client: l.Cluster.Client(), Dir: filepath.Join(l.Dir, "nodesim"), BootTime: l.o.BootTime, Log: l.o.Log,
		Heartbeat: l.o.Heartbeat, LeaseDuration: l.o.LeaseDuration,
		Aegis: filepath.Join(l.Bin, "aegis"), AegisOp: filepath.Join(l.Bin, "aegis-op"), HostTool: filepath.Join(l.Bin, "hosttool"),
	})
	if err != nil {
		return err
	}
	if len(l.o.Nodes) == 0 {
		return nil
	}
	if err := l.Cluster.AddNodes(ctx, l.o.Nodes); err != nil {
		return err
	}
	return l.Cluster.WaitNodesReady(ctx)
}

// startMonitoring reserves the addresses of Aegis first: alerts are sent there.
func (l *Environment) startMonitoring(ctx context.Context) error {
	kubeconfig := l.Cluster.KubeconfigAegis
	if l.o.Kubeconfig != nil {
		var err error
		if kubeconfig, err = l.o.Kubeconfig(kubeconfig); err != nil {
			return err
		}
	}
	for i := range max(l.o.Replicas, 0) {
		o := aegis.Options{
			BinDir: l.Bin, Dir: filepath.Join(l.Dir, fmt.Sprintf("aegis-%d", i)), Kubeconfig: kubeconfig, Log: l.o.Log,
		}
		if l.o.Aegis != nil {
			l.o.Aegis(&o)
		}
		a, err := aegis.New(o)
		if err != nil {
			return err
		}
		l.Aegis = append(l.Aegis, a)
	}
	o := monitoring.Options{
		BinDir: l.Bin, Dir: filepath.Join(l.Dir, "monitoring"), Exporters: l.Sim.Exporters(), Log: l.o.Log,
		Rules: l.o.Rules, ExtraRules: l.o.ExtraRules, Compress: l.o.Compress, Alertmanagers: l.o.Alertmanagers,
		Interval: l.o.Interval,
	}
	for _, a := range l.Aegis {
		// One that wants a certificate of whoever reads its metrics is not scraped.
		if strings.HasPrefix(a.Telemetry, "http:") {
			o.Aegis = append(o.Aegis, a.Telemetry+"/metrics")
		}
	}
	if len(o.Rules) == 0 {
		o.Rules = []string{filepath.Join(l.Bin, "..", "charts", "aegis", "rules")}
	}
	if len(l.Aegis) > 0 {
		o.Webhook = l.Aegis[0].Webhook()
	}
	if l.o.Webhook != nil {
		o.Webhook = l.o.Webhook(o.Webhook)
	}
	if l.o.Monitoring != nil {
		l.o.Monitoring(&o)
	}
	var err error
	l.Monitoring, err = monitoring.Start(ctx, o)
	return err
}

// awaitCanary waits until Prometheus has evaluated the rules: before, it is no witness, and Aegis believes a webhook alone.
func (l *Environment) awaitCanary(ctx context.Context) error {
	for {
		fires, err := l.Monitoring.Query(ctx, `ALERTS{alertname="Watchdog",alertstate="firing"}`)
		if err == nil && len(fires) > 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("alert Watchdog does not fire: %w", errors.Join(ctx.Err(), err))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (l *Environment) startAegis(ctx context.Context) error {
	config := aegis.Fast(l.Monitoring.PrometheusURL, l.Monitoring.AlertmanagerURLs)
	if l.o.Config != nil {
		l.o.Config(&config)
	}
	for i, a := range l.Aegis {
		if err := a.Configure(config); err != nil {
			return err
		}
		start := a.Start
		if i > 0 {
			// It waits for the Lease, as long as the first one lives.
			start = func(context.Context) error { return a.Launch() }
		}
		if err := start(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Stop ends everything, the last that was started first.
func (l *Environment) Stop() error {
	var errs []error
	for _, a := range l.Aegis {
		errs = append(errs, a.Stop())
	}
	if l.Monitoring != nil {
		errs = append(errs, l.Monitoring.Stop())
	}
	if l.Sim != nil {
		errs = append(errs, l.Sim.Stop())
	}
	if l.Cluster != nil {
		errs = append(errs, l.Cluster.Stop())
	}
	return errors.Join(errs...)
}
