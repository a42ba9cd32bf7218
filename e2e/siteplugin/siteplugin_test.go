// Package siteplugin builds the example of a site's own program and runs it as a site would.
package siteplugin

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"aegis.io/aegis/e2e/aegis"
	"aegis.io/aegis/e2e/build"
	"aegis.io/aegis/e2e/cluster"
	"aegis.io/aegis/e2e/internal/proc"
	"aegis.io/aegis/e2e/monitoring"
	"aegis.io/aegis/e2e/nodesim"
	"aegis.io/aegis/e2e/testenv"
	"aegis.io/aegis/ticket"
)

const (
	example = "../../docs/examples/site-plugin"
	bin     = "../../bin"
	within  = 2 * time.Minute
	tick    = 200 * time.Millisecond

	// rules are those that the site writes for its conditions.
	rules = `groups:
- name: storage
  rules:
  - alert: LustreUnmounted
    expr: max by (node) (aegis_site_condition{condition="LustreUnmounted"}) == 1
    for: 2s
    labels: {condition: LustreUnmounted, severity: warning, device: /lustre}
  - alert: LustreServerDown
    expr: max by (node) (aegis_site_condition{condition="LustreServerDown"}) == 1
    for: 2s
    labels: {condition: LustreServerDown, severity: warning}
`
	// policies shortens the times, and adds a condition whose remedy no node has.
	policies = `
conditions:
- name: LustreUnmounted
  policy: {clearFor: 3s, verifyWithin: 60s, remedyDeadline: 30s}
- name: LustreServerDown
  type: storage
  priority: 30
  sop: host/remediate
  policy: {remedy: FailOverLustre, team: storage, maxReboots: 1, remedyDeadline: 30s}
`
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if _, err := build.Run(context.Background(), build.Options{Out: os.Stderr}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// built builds the program of the example under the name of the product's, and returns its folder.
func built(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", filepath.Join(dir, "aegis"), ".")
	cmd.Dir = example
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=", "CGO_ENABLED=0")
	output, err := cmd.CombinedOutput()
	require.NoError(t, err, string(output))
	return dir
}

// check has a program check the conditions of the example.
func check(t *testing.T, program string) (string, error) {
	t.Helper()
	output, err := exec.CommandContext(t.Context(), program, "check", filepath.Join(example, "conditions.yaml")).CombinedOutput()
	return string(output), err
}

// The procedure of a site heals like one of the product: from an alert over the sources to an operation on the host, and back.
func TestProgramOfASite(t *testing.T) {
	program := built(t)
	output, err := check(t, filepath.Join(bin, "aegis"))
	require.Error(t, err)
	require.Contains(t, output, `condition LustreUnmounted has the unknown sop "storage/remount"`)
	output, err = check(t, filepath.Join(program, "aegis"))
	require.NoError(t, err, output)

	conditions, err := filepath.Abs(filepath.Join(example, "conditions.yaml"))
	require.NoError(t, err)
	dir := t.TempDir()
	env, err := testenv.Start(t.Context(), testenv.Options{
		BinDir: bin, Dir: dir, Compress: monitoring.FastRules(), BootTime: 2 * time.Second, ExtraRules: rules,
		Nodes: []cluster.Node{{Name: "site-0", GPUs: 8}, {Name: "site-1", GPUs: 8}},
		Config: func(c *aegis.Config) {
			c.Overlay, c.Conditions = policies, []string{conditions}
			c.Pools = []aegis.Pool{{Name: "all", MaxOutOfServicePercent: new(100)}}
		},
		Aegis: func(o *aegis.Options) { o.BinDir = program },
		Log:   slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, env.Stop()) })
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(proc.Tail(env.Aegis[0].LogFile))
		}
	})
	record := func(node string) ticket.Record {
		n, err := env.Cluster.Client().CoreV1().Nodes().Get(t.Context(), node, metav1.GetOptions{})
		require.NoError(t, err)
		return ticket.ReadNode(n)
	}
	inject := func(node, condition string) {
		fault := nodesim.Injection{Fault: nodesim.SiteFault(condition), FixedBy: nodesim.FixedByRestart}
		require.NoError(t, env.Sim.Inject(node, fault))
	}
	inject("site-0", "LustreUnmounted")
	inject("site-1", "LustreServerDown")

	require.Eventually(t, func() bool {
		r := record("site-0")
		return r.Ticket == nil && len(r.History.Incidents) == 1
	}, within, tick, "the incident has ended")
	incident := record("site-0").History.Incidents[0]
	require.Equal(t, "LustreUnmounted", incident.Condition)
	require.Equal(t, "resolved", incident.Outcome)
	require.Equal(t, [][]string{{"remedy", "RemountLustre", "--device", "/lustre"}}, operations(t, env, "site-0"))

	require.Eventually(t, func() bool {
		r := record("site-1")
		return r.Ticket != nil && r.Ticket.Supervisor == "storage"
	}, within, tick, "a node without the executable is handed over")
	found := record("site-1").Ticket
	step, known := found.Outcome(ticket.Remedy, 1)
	require.True(t, known)
	require.Equal(t, ticket.Failed, step.Status)
	require.True(t, step.Refused)
	require.Contains(t, found.Reason, "there is no /etc/aegis/remedies.d/FailOverLustre")
	require.Zero(t, found.Count(ticket.Reboot))
	require.Equal(t, "diagnose remedy", actions(t, env, "site-1"))
}

// operations returns the operations that ran on the node, with their arguments.
func operations(t *testing.T, env *testenv.Environment, node string) [][]string {
	t.Helper()
	state, err := env.Sim.State(node)
	require.NoError(t, err)
	var all [][]string
	for _, op := range state.Ops {
		all = append(all, op.Args)
	}
	return all
}

func actions(t *testing.T, env *testenv.Environment, node string) string {
	t.Helper()
	var names []string
	for _, args := range operations(t, env, node) {
		names = append(names, args[0])
	}
	return strings.Join(names, " ")
}
