// Package chaos runs Aegis in a cluster where everything goes wrong at once, and reads from the API server's audit log and
// from the simulated machines that nothing was done that must not be.
package chaos

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/kubernetes"

	"aegis.io/aegis/e2e/aegis"
	"aegis.io/aegis/e2e/build"
	"aegis.io/aegis/e2e/cluster"
	"aegis.io/aegis/e2e/faultproxy"
	"aegis.io/aegis/e2e/internal/proc"
	"aegis.io/aegis/e2e/monitoring"
	"aegis.io/aegis/e2e/nodesim"
	"aegis.io/aegis/e2e/testenv"
	"aegis.io/aegis/ticket"
)

const (
	chaosNodes = 100
	// poolPercent of a pool may be out of service.
	poolPercent = 20
	gpusPerNode = 2
	replicas    = 2
	// alertmanagers do not know each other, so each knows silences of its own.
	alertmanagers = 2
	// defaultMisfortune is how long things go wrong unless AEGIS_CHAOS_DURATION says otherwise.
	defaultMisfortune = 2 * time.Minute
	// settleWithin bounds the time until every incident has come to its end.
	settleWithin = 10 * time.Minute
	tick         = 500 * time.Millisecond
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if _, err := build.Run(context.Background(), build.Options{Out: os.Stderr}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// pools are the groups of nodes with a budget each. Those of train have GPUs.
func pools() []string { return []string{"train-a", "train-b", "serve-a", "serve-b"} }

func hasGPUs(pool string) bool { return pool == "train-a" || pool == "train-b" }

// TestChaos injects faults into 100 nodes while replicas of Aegis, the API server, Prometheus and Alertmanager are killed and
// stopped, answers of the API server are refused, lost and late, and people cordon, silence, exclude and take over. Then all
// this ends, and every incident has to come to an end, too.
func TestChaos(t *testing.T) {
	seed, misfortune := seedFromEnv(t), durationFromEnv(t)
	t.Logf("seed %d, %s of misfortune; again with AEGIS_CHAOS_SEED=%d AEGIS_CHAOS_DURATION=%s", seed, misfortune, seed, misfortune)
	w := newWorld(t, seed)
	w.rage(misfortune)
	w.calm()
	w.settle()
	w.judge()
}

func seedFromEnv(t *testing.T) uint64 {
	t.Helper()
	text := os.Getenv("AEGIS_CHAOS_SEED")
	if text == "" {
		return rand.Uint64N(1_000_000)
	}
	seed, err := strconv.ParseUint(text, 10, 64)
	require.NoError(t, err)
	return seed
}

func durationFromEnv(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("AEGIS_CHAOS_DURATION")
	if text == "" {
		return defaultMisfortune
	}
	d, err := time.ParseDuration(text)
	require.NoError(t, err)
	return d
}

// world is the cluster and everything that happens in it.
type world struct {
	t        *testing.T
	env      *testenv.Environment
	client   kubernetes.Interface
	proxy    *faultproxy.Proxy
	service  *service
	eventLog *eventLog
	pods     *podPlaces
	guard    *guard
	// seed gives each actor a random source of its own.
	seed uint64
}

func newWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	w := &world{t: t, eventLog: newEventLog(), service: newService(t), seed: seed}
	dir := logDir(t)
	o := options(t, dir)
	o.Webhook = w.service.before
	o.Kubeconfig = func(kubeconfig string) (string, error) {
		var err error
		w.proxy, err = faultproxy.Start(faultproxy.Options{Kubeconfig: kubeconfig, Dir: dir, Seed: seed, WatchLife: 20 * time.Second})
		if err != nil {
			return "", err
		}
		return w.proxy.Kubeconfig, nil
	}
	var err error
	w.env, err = testenv.Start(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.env.Stop()) })
	t.Cleanup(func() { require.NoError(t, w.proxy.Stop()) })
	w.client = w.env.Cluster.Client()
	w.service.forwardTo(w.env.Aegis)
	w.startWorkload()
	w.pods = watchPods(t, w.client)
	w.guard = watchReplicas(t, w.env.Aegis)
	return w
}

// logDir is a folder that a failed test leaves behind.
func logDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "aegis-chaos-")
	require.NoError(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log("logs in", dir)
			return
		}
		require.NoError(t, os.RemoveAll(dir))
	})
	return dir
}

// withRaceDetector returns a folder with the programs of bin, of which Aegis tells about data races. The chart is where it
// always is, next to that folder.
func withRaceDetector(t *testing.T, dir string) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	bin := filepath.Join(dir, "bin")
	require.NoError(t, os.Mkdir(bin, 0o755))
	programs, err := os.ReadDir(filepath.Join(root, "bin"))
	require.NoError(t, err)
	for _, p := range programs {
		from, to := filepath.Join(root, "bin", p.Name()), filepath.Join(bin, p.Name())
		switch p.Name() {
		case "aegis", "aegis-op":
		case "hosttool":
			// It goes into the root folders of the hosts, from which a link does not lead out.
			program, err := os.ReadFile(from)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(to, program, 0o755))
		default:
			require.NoError(t, os.Symlink(from, to))
		}
	}
	require.NoError(t, os.Symlink(filepath.Join(root, "charts"), filepath.Join(dir, "charts")))
	cmd := exec.CommandContext(t.Context(), "go", "build", "-race", "-o", bin+"/", "./cmd/aegis", "./cmd/aegis-op")
	cmd.Dir = root
	output, err := cmd.CombinedOutput()
	require.NoError(t, err, string(output))
	return bin
}

func options(t *testing.T, dir string) testenv.Options {
	t.Helper()
	o := testenv.Options{
		BinDir: withRaceDetector(t, dir), Dir: dir, Replicas: replicas, Alertmanagers: alertmanagers,
		Compress: monitoring.FastRules(), Interval: 2 * time.Second, BootTime: 2 * time.Second,
		// Slow enough for two cores.
		Heartbeat: 5 * time.Second, NodeMonitorGrace: 30 * time.Second,
		Config: func(c *aegis.Config) {
			c.Overlay = policies
			for _, pool := range pools() {
				c.Pools = append(c.Pools, aegis.Pool{
					Name: pool, Selector: cluster.PoolLabel + "=" + pool,
					MaxOutOfServicePercent: new(poolPercent), MaxDestructive: new(2),
					// So many faults are no storm here.
					StormPercent: new(60), StormWindow: time.Minute, StormRelease: 5 * time.Second,
				})
			}
		},
		Log: slog.New(slog.DiscardHandler),
	}
	for i := range chaosNodes {
		pool := pools()[i%len(pools())]
		n := cluster.Node{
			Name: fmt.Sprintf("%s-%02d", pool, i/len(pools())), Pool: pool,
			Annotations: map[string]string{ticket.HistoryAnnotation: past(i)},
		}
		if hasGPUs(pool) {
			n.GPUs = gpusPerNode
		}
		o.Nodes = append(o.Nodes, n)
	}
	return o
}

// past is the history of a node with as many incidents as it keeps, the last of them long ago.
func past(node int) string {
	var text strings.Builder
	at := time.Now().Add(-400 * 24 * time.Hour).UTC()
	for i := range ticket.MaxIncidents {
		at = at.Add(10 * 24 * time.Hour)
		fmt.Fprintf(&text, "- id: past-%d-%d\n  condition: GpuHung\n  opened: %q\n  closed: %q\n  outcome: resolved\n  isolated: true\n  destructive:\n  - reboot %s\n",
			node, i, at.Format(time.RFC3339), at.Add(time.Hour).Format(time.RFC3339), at.Add(20*time.Minute).Format(time.RFC3339))
	}
	return text.String()
}

// policies shortens the times of the catalogue. The procedures stay as they are.
const policies = `
defaults:
  cooldown: 1s
  attemptWindow: 3m
  grace: 4s
  powerOffAfter: 20s
  handOverAfter: 60s
  clearFor: 4s
  verifyWithin: 60s
  drainDeadline: 30s
  healthcheckDeadline: 60s
  rebootDeadline: 60s
  remedyDeadline: 30s
conditions:
- name: NodeNotReady
  policy: {clearFor: 4s, handOverAfter: 60s}
- name: Xid79GPULost
  policy: {clearFor: 4s, verifyWithin: 90s}
- name: Xid95UncontainedECCError
  policy: {clearFor: 4s, verifyWithin: 90s}
- name: MemoryPressure
  policy: {clearFor: 4s, verifyWithin: 60s, handOverAfter: 2m}
- name: KubeletFailedCreatePodContainer
  policy: {verifyWithin: 60s}
`

// startWorkload runs what is evicted when nodes are drained, and the device plugin on every node.
func (w *world) startWorkload() {
	w.t.Helper()
	require.NoError(w.t, w.env.Cluster.ApplyYAML(w.t.Context(), []byte(workload)))
	require.Eventually(w.t, func() bool {
		value, err := w.env.Monitoring.Query(w.t.Context(), `sum(kube_pod_status_phase{phase="Running"})`)
		return err == nil && len(value) == 1 && value[0].Value >= chaosNodes
	}, time.Minute, tick, "the workload runs")
}

const workload = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: trainer, namespace: default}
spec:
  replicas: 40
  selector: {matchLabels: {app: trainer}}
  template:
    metadata: {labels: {app: trainer}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: trainer
        image: example/trainer:1
        resources: {limits: {nvidia.com/gpu: 1}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: default}
spec:
  replicas: 60
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: web, image: "example/web:1"}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web, namespace: default}
spec:
  maxUnavailable: 20
  selector: {matchLabels: {app: web}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: nvidia-device-plugin, namespace: kube-system}
spec:
  selector: {matchLabels: {name: nvidia-device-plugin-ds}}
  template:
    metadata: {labels: {name: nvidia-device-plugin-ds}}
    spec:
      priorityClassName: system-node-critical
      terminationGracePeriodSeconds: 1
      tolerations: [{operator: Exists}]
      nodeSelector: {kubernetes.io/os: linux}
      containers:
      - {name: plugin, image: "example/device-plugin:1"}
`

// random returns the random source of one actor.
func (w *world) random(actor uint64) *rand.Rand { return rand.New(rand.NewPCG(w.seed, actor)) }

// dump shows the end of the logs of a replica.
func (w *world) dump() {
	for _, a := range w.env.Aegis {
		w.t.Log(proc.Tail(a.LogFile))
	}
	w.t.Log(filepath.Join(w.env.Dir, "audit.log"))
}

// states returns the simulated machines by name.
func (w *world) states() map[string]nodesim.State {
	states := make(map[string]nodesim.State)
	for _, s := range w.env.Sim.States() {
		states[s.Node] = s
	}
	return states
}
