// Command repairtimes measures in real time how long the repair of four conditions takes with the alert rules, intervals and policies
// that ship: a real control plane, Prometheus, Alertmanager and Aegis around simulated nodes. It takes about half an hour, and fails when
// a stage takes longer than docs/time-to-repair.md allows.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"aegis.io/aegis/e2e/aegis"
	"aegis.io/aegis/e2e/build"
	"aegis.io/aegis/e2e/cluster"
	"aegis.io/aegis/e2e/monitoring"
	"aegis.io/aegis/e2e/testenv"
)

const (
	gpusPerNode = 8
	// bootTime is how long a simulated machine takes to boot. Real ones take many minutes.
	bootTime = time.Minute
	// scrapeInterval is the default of the Prometheus Operator, for scrapes and for rules whose group names no interval.
	scrapeInterval = 30 * time.Second
	// groupWait, groupInterval and repeatInterval are those of the route in the README.
	groupWait, groupInterval, repeatInterval = 10 * time.Second, time.Minute, time.Hour
	// resendDelay is the default of Prometheus.
	resendDelay = time.Minute
	// monitorGrace is for how long a node may be silent before Kubernetes calls it not ready, heartbeat how often it reports and
	// leaseDuration how long its Lease holds: the defaults of Kubernetes.
	monitorGrace, heartbeat, leaseDuration = 50 * time.Second, 10 * time.Second, 40 * time.Second
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	recorded := flag.Bool("record", false, "write what is measured to "+measuredFile+", for "+page)
	hardware := flag.String("hardware", "", "what the measurement runs on, for -record")
	flag.Parse()
	keep := func(string, []*course) error { return nil }
	if *recorded {
		keep = func(repository string, all []*course) error { return record(repository, *hardware, all) }
	}
	if err := run(ctx, os.Stdout, keep); err != nil {
		fmt.Fprintln(os.Stderr, "repairtimes:", err)
		os.Exit(1) //nolint:gocritic // stop has nothing left to do.
	}
}

func run(ctx context.Context, out io.Writer, keep func(repository string, all []*course) error) (err error) {
	bin, err := build.Run(ctx, build.Options{Out: out})
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "aegis-repairtimes-")
	if err != nil {
		return err
	}
	l, err := testenv.Start(ctx, options(bin, dir))
	if err != nil {
		return fmt.Errorf("%w (logs in %s)", err, dir)
	}
	defer func() { err = errors.Join(err, l.Stop()) }()
	if err := startWorkload(ctx, l); err != nil {
		return err
	}
	fmt.Fprintln(out, "running; logs in", dir)
	measured, err := measure(ctx, out, l)
	printTable(out, measured)
	if err != nil {
		return err
	}
	repository := filepath.Dir(bin)
	return errors.Join(check(repository, measured), keep(repository, measured))
}

func options(bin, dir string) testenv.Options {
	o := testenv.Options{
		BinDir: bin, Dir: dir, BootTime: bootTime, Interval: scrapeInterval,
		Heartbeat: heartbeat, NodeMonitorGrace: monitorGrace, LeaseDuration: leaseDuration,
		Log:        slog.New(slog.DiscardHandler),
		ExtraRules: inventory,
		Config: func(c *aegis.Config) {
			// What is zero has the default that ships.
			*c = aegis.Config{Mode: "auto", Prometheus: c.Prometheus, Alertmanagers: c.Alertmanagers, Auth: c.Auth}
			for _, s := range scenes() {
				c.Pools = append(c.Pools, aegis.Pool{Name: s.node, Selector: cluster.PoolLabel + "=" + s.node, MaxOutOfServicePercent: new(100)})
			}
		},
		Monitoring: func(m *monitoring.Options) {
			m.GroupWait, m.GroupInterval, m.RepeatInterval, m.ResendDelay = groupWait, groupInterval, repeatInterval, resendDelay
			// It sees some faults sooner than the exporters that every site has.
			delete(m.Exporters, "sichek")
		},
	}
	for _, s := range scenes() {
		o.Nodes = append(o.Nodes, cluster.Node{Name: s.node, GPUs: gpusPerNode, Pool: s.node})
	}
	return o
}

// inventory is what the chart renders from its value of that name: how many GPUs a node must have.
const inventory = `groups:
- name: inventory
  rules:
  - record: aegis:expected_devices
    expr: max by (node) (last_over_time(kube_node_info[1h])) * 8
    labels: {kind: gpu}
`
