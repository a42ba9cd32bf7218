// Command demo starts a real control plane, Prometheus, Alertmanager and Aegis around simulated GPU nodes, breaks the nodes
// one after the other, and tells what happens. It then stays up for the reader to play with. With ONCE=1 it ends after
// the story, and fails if an incident ended in another way than it should.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"aegis.io/aegis/e2e/aegis"
	"aegis.io/aegis/e2e/build"
	"aegis.io/aegis/e2e/cluster"
	"aegis.io/aegis/e2e/monitoring"
	"aegis.io/aegis/e2e/testenv"
)

const (
	racks        = 3
	nodesPerRack = 8
	gpusPerNode  = 8
	// bootTime is how long a simulated machine takes to boot. Real ones take many minutes.
	bootTime = 4 * time.Second
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, once()); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1) //nolint:gocritic // stop has nothing left to do.
	}
}

// once reports whether the demo is to end after the story. Whatever is no truth value counts as one that was given.
func once() bool {
	text := os.Getenv("ONCE")
	value, err := strconv.ParseBool(text)
	return text != "" && (err != nil || value)
}

func run(ctx context.Context, out io.Writer, once bool) (err error) {
	say := printer{out: out}
	say.needs()
	say.title("Building what is missing")
	bin, err := build.Run(ctx, build.Options{Out: out})
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "aegis-demo-")
	if err != nil {
		return err
	}
	say.title("Starting etcd, kube-apiserver, controller-manager, scheduler, Prometheus, Alertmanager, %d GPU nodes and Aegis", racks*nodesPerRack)
	began := time.Now()
	l, err := testenv.Start(ctx, options(bin, dir))
	if err != nil {
		return fmt.Errorf("%w (logs in %s)", err, dir)
	}
	defer func() { err = errors.Join(err, l.Stop()) }()
	if err := startWorkload(ctx, l); err != nil {
		return err
	}
	say.line("up after %.0f s; logs in %s", time.Since(began).Seconds(), dir)

	ended, err := tell(ctx, say, l)
	if err != nil {
		return err
	}
	say.summary(ended)
	unfilled := checkDashboard(ctx, l, began)
	if file := os.Getenv("PICTURE"); file != "" {
		if err := drawDashboard(ctx, l, began, file); err != nil {
			return err
		}
		say.line("the dashboard is drawn to %s", file)
	}
	if once {
		return errors.Join(verdict(ended), unfilled)
	}
	say.invitation(l)
	<-ctx.Done()
	say.line("stopping")
	return nil
}

// verdict is an error when an incident did not end as it should.
func verdict(ended []result) error {
	for _, r := range ended {
		if r.err != nil {
			return fmt.Errorf("%s on %s: %w", r.scene.fault, r.scene.node, r.err)
		}
	}
	return nil
}

func options(bin, dir string) testenv.Options {
	return testenv.Options{
		BinDir:   bin,
		Dir:      dir,
		Nodes:    nodes(),
		Compress: monitoring.FastRules(),
		BootTime: bootTime,
		Log:      slog.New(slog.DiscardHandler),
		Config: func(c *aegis.Config) {
			c.Overlay = quickPolicies
			c.Sources = []aegis.Source{{
				Name: "overload", Query: "node_load15", Condition: "NodeOverloaded", Above: new(100.0), Clear: new(50.0), For: 2 * time.Second,
			}}
			for i := range racks {
				c.Pools = append(c.Pools, aegis.Pool{
					Name: rackName(i), Selector: cluster.PoolLabel + "=" + rackName(i), MaxOutOfServicePercent: new(25),
				})
			}
		},
	}
}

func rackName(i int) string { return fmt.Sprintf("rack-%d", i+1) }

func nodes() []cluster.Node {
	var list []cluster.Node
	for i := range racks * nodesPerRack {
		list = append(list, cluster.Node{Name: fmt.Sprintf("gpu-%02d", i+1), GPUs: gpusPerNode, Pool: rackName(i / nodesPerRack)})
	}
	return list
}

// quickPolicies shortens the times of the catalogue, so that the story fits into minutes. The procedures are the same.
const quickPolicies = `
defaults:
  cooldown: 5s
  grace: 5s
  handOverAfter: 2m
  clearFor: 4s
  verifyWithin: 90s
  drainDeadline: 60s
  healthcheckDeadline: 60s
  rebootDeadline: 90s
  remedyDeadline: 60s
conditions:
- name: NodeNotReady
  policy: {clearFor: 4s, handOverAfter: 2m}
- name: Xid79GPULost
  policy: {clearFor: 4s, verifyWithin: 90s}
- name: Xid95UncontainedECCError
  policy: {clearFor: 4s, verifyWithin: 90s}
# A condition of the site, which no alert knows. It explains the alert about the load.
- name: NodeOverloaded
  type: system
  priority: 50
  device: none
  sop: cpu/pressure
  inhibits: [{conditions: [HighLoad]}]
  policy: {team: k8s, clearFor: 4s, handOverAfter: 2m}
`
