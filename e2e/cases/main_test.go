// Package cases holds the end-to-end tests: the built binary of Aegis against a real API server, Prometheus and
// Alertmanager, on simulated nodes whose operations run for real.
package cases

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"aegis.io/aegis/e2e/aegis"
	"aegis.io/aegis/e2e/cluster"
	"aegis.io/aegis/e2e/monitoring"
	"aegis.io/aegis/e2e/testenv"
)

const (
	// startWithin includes a build from nothing on a small machine.
	startWithin = 40 * time.Minute
	gpusPerNode = 8
)

// shared is the environment that all cases of the package use, each on nodes of its own.
var shared *testenv.Environment //nolint:gochecknoglobals // TestMain has no other way to hand it to the tests.

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) (code int) {
	dir, err := os.MkdirTemp("", "aegis-e2e-")
	if err != nil {
		return fail(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), startWithin)
	defer cancel()
	shared, err = testenv.Start(ctx, options(dir))
	if err != nil {
		return fail(fmt.Errorf("%w (logs in %s)", err, dir))
	}
	code = m.Run()
	if code == 0 {
		code = leastPrivilege()
	}
	if code == 0 && wholeRun() {
		code = unusedRights()
	}
	if err := shared.Stop(); err != nil {
		return fail(err)
	}
	if code != 0 {
		fmt.Fprintln(os.Stderr, "logs in", dir)
		return code
	}
	if err := os.RemoveAll(dir); err != nil {
		return fail(err)
	}
	return 0
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// options describes the environment. Every case has a pool of its own, so that the limits of one do not hold another.
func options(dir string) testenv.Options {
	o := testenv.Options{
		Dir:      dir,
		Compress: monitoring.FastRules(),
		// What the chart renders from its value inventory.
		ExtraRules: roceInventory(),
		BootTime:   2 * time.Second,
		Log:        slog.New(slog.DiscardHandler),
		Config: func(c *aegis.Config) {
			c.Overlay = fastPolicies
			// It finds nothing here.
			c.Sources = []aegis.Source{{Name: "overload", Query: "node_load15", Condition: "CPUPressure", Above: new(1e6)}}
			for _, p := range pools() {
				c.Pools = append(c.Pools, p.limits())
			}
		},
	}
	for _, p := range pools() {
		for i := range p.nodes {
			o.Nodes = append(o.Nodes, cluster.Node{Name: nodeName(p.name, i), GPUs: gpusPerNode, Pool: p.name})
		}
	}
	o.Nodes = append(o.Nodes, cluster.Node{
		Name: controlPlane, GPUs: gpusPerNode, Labels: map[string]string{"node-role.kubernetes.io/control-plane": ""},
	})
	return o
}

const controlPlane = "control-plane-0"

func nodeName(pool string, i int) string { return fmt.Sprintf("%s-%d", pool, i) }

// fastPolicies shortens the times of the catalogue. The procedures stay as they are.
const fastPolicies = `
defaults:
  cooldown: 1s
  grace: 4s
  powerOffAfter: 20s
  handOverAfter: 40s
  clearFor: 3s
  verifyWithin: 60s
  drainDeadline: 30s
  healthcheckDeadline: 60s
  rebootDeadline: 60s
  remedyDeadline: 30s
conditions:
- name: NodeNotReady
  policy: {clearFor: 3s, handOverAfter: 40s}
- name: Xid79GPULost
  policy: {clearFor: 3s, verifyWithin: 90s}
- name: Xid95UncontainedECCError
  policy: {clearFor: 3s, verifyWithin: 90s}
- name: MemoryPressure
  policy: {clearFor: 3s, handOverAfter: 10m}
- name: DiskPressure
  policy: {clearFor: 3s, handOverAfter: 10m}
- name: GpuXidRecoveryAction
  policy: {clearFor: 3s, verifyWithin: 90s}
# sichek tells of a mount until the window of its rule is over; that is longer than the mount takes.
- name: GpfsMountLost
  policy: {clearFor: 17s, verifyWithin: 90s}
- name: GpfsNotMounted
  policy: {clearFor: 17s, verifyWithin: 90s}
# A node counts as off when its Lease is a minute old.
- name: CpuUnhealthy
  policy: {rebootDeadline: 150s}
- name: MemoryUnhealthy
  policy: {rebootDeadline: 150s}
- name: GpuRowRemappingFailure
  policy: {rebootDeadline: 150s}
- name: BaseBoardCriticalIssue
  policy: {rebootDeadline: 150s}
`
