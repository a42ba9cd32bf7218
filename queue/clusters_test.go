package queue

import (
	"bytes"
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"aegis.io/aegis/queue/source"
	"aegis.io/aegis/rules"
	"aegis.io/aegis/rules/prom"
)

// keyHung is a condition of the catalogue of the product on the one node of these tests.
var keyHung = prom.Key{Node: "gpu-0", Condition: "GpuHung"}

// clusterWorld is a world whose alerts the classifier of the product reads.
func clusterWorld(t *testing.T, cluster prom.Cluster, sources ...Inspection) *world {
	t.Helper()
	catalogue, err := rules.Load(rules.Options{})
	require.NoError(t, err)
	nodes := rules.NewNodeIndex()
	nodes.Set(rules.NodeInfo{Name: "gpu-0"})
	w := &world{
		queue: New(Options{Cluster: cluster}), prometheus: &fakeSource{}, am0: &fakeSource{}, am1: &fakeSource{},
		log: &bytes.Buffer{}, registry: prometheus.NewPedanticRegistry(),
	}
	w.resync, err = NewResync(ResyncOptions{
		Queue: w.queue, Prometheus: w.prometheus, Cluster: cluster, Canaries: []string{"Watchdog", ""}, Sources: sources,
		Classifier:    rules.NewClassifier(rules.ClassifierOptions{Store: rules.NewStore(catalogue), Nodes: nodes, Cluster: cluster}),
		Alertmanagers: map[string]AlertSource{"http://am-0": w.am0}, Registerer: w.registry, Logger: slog.New(slog.NewTextHandler(w.log, nil)),
	})
	require.NoError(t, err)
	return w
}

// named is an alert with labels, which are pairs of a name and a value.
func named(state prom.AlertState, name string, pairs ...string) prom.Alert {
	labels := map[string]string{"alertname": name}
	for i := 0; i < len(pairs); i += 2 {
		labels[pairs[i]] = pairs[i+1]
	}
	return prom.Alert{Labels: labels, State: state, Fingerprint: prom.Fingerprint(labels), StartsAt: time.Now().Add(-time.Hour)}
}

func hungOn(state prom.AlertState, node string, pairs ...string) prom.Alert {
	return named(state, "GpuHung", append([]string{"node", node}, pairs...)...)
}

type clusterCase struct {
	cluster        prom.Cluster
	prometheus, am []prom.Alert
	webhook        []prom.Alert
	doubt          string
	// silent says that no source answers.
	silent bool
	want   prom.Permission
}

func clusterCases() map[string]clusterCase {
	firing, active := prom.StateFiring, prom.StateActive
	alerts := func(all ...prom.Alert) []prom.Alert { return all }
	const two = `alerts have several values of the label cluster, "a" and "b": set cluster in aegis.yaml to the value of this cluster`
	return map[string]clusterCase{
		"no labels": {
			prometheus: alerts(hungOn(firing, "gpu-0")), am: alerts(hungOn(active, "gpu-0")), want: prom.PermissionGranted,
		},
		"external labels at Alertmanager alone": {
			prometheus: alerts(hungOn(firing, "gpu-0"), named(firing, "Watchdog")), want: prom.PermissionGranted,
			am: alerts(hungOn(active, "gpu-0", "cluster", "a"), named(active, "Watchdog", "cluster", "a")),
		},
		"one cluster in a global view": {
			prometheus: alerts(hungOn(firing, "gpu-0", "cluster", "a"), named(firing, "Watchdog", "cluster", "a")), want: prom.PermissionGranted,
			am: alerts(hungOn(active, "gpu-0", "cluster", "a")),
		},
		"labels of targets, which a rule loses": {
			prometheus: alerts(hungOn(firing, "gpu-0", "cluster", "a"), named(firing, "Watchdog"), named(firing, "NodeNotReady", "node", "gpu-0")),
			am:         alerts(hungOn(active, "gpu-0", "cluster", "a")), want: prom.PermissionGranted,
		},
		"what an exporter calls a cluster": {
			prometheus: alerts(hungOn(firing, "gpu-0"), named(firing, "ElasticsearchRed", "cluster", "logs"), named(firing, "CephError", "cluster", "rook")),
			am:         alerts(hungOn(active, "gpu-0", "cluster", "a")), want: prom.PermissionGranted,
		},
		"two canaries in a global view": {
			prometheus: alerts(hungOn(firing, "gpu-0", "cluster", "b"), named(firing, "Watchdog", "cluster", "a"), named(firing, "Watchdog", "cluster", "b")),
			am:         alerts(hungOn(active, "gpu-0", "cluster", "b")), doubt: two,
		},
		"two canaries at Alertmanager": {
			prometheus: alerts(hungOn(firing, "gpu-0")), doubt: two,
			am: alerts(hungOn(active, "gpu-0", "cluster", "b"), named(active, "Watchdog", "cluster", "a"), named(active, "Watchdog", "cluster", "b")),
		},
		"equal names of nodes": {
			prometheus: alerts(hungOn(firing, "gpu-0", "cluster", "a"), hungOn(firing, "gpu-0", "cluster", "b")), doubt: two,
			am: alerts(hungOn(active, "gpu-0", "cluster", "a")),
		},
		"a condition of a node that is not here": {
			prometheus: alerts(hungOn(firing, "gpu-0")), am: alerts(hungOn(active, "gpu-0", "cluster", "a"), hungOn(active, "gpu-9", "cluster", "b")), doubt: two,
		},
		"another cluster in a webhook": {
			prometheus: alerts(hungOn(firing, "gpu-0")), am: alerts(hungOn(active, "gpu-0", "cluster", "a")),
			webhook: alerts(hungOn(firing, "gpu-0", "cluster", "b")), doubt: two,
		},
		"nothing but a webhook": {
			silent: true, webhook: alerts(hungOn(firing, "gpu-0", "cluster", "b")),
			doubt: `the alert has the value "b" of the label cluster, which no source has told of: set cluster in aegis.yaml to the value of this cluster`,
		},
		"nothing but a webhook without the label": {
			silent: true, webhook: alerts(hungOn(firing, "gpu-0")), want: prom.PermissionUnknown,
		},
		"canaries with and without in a global view": {
			prometheus: alerts(hungOn(firing, "gpu-0"), named(firing, "Watchdog"), named(firing, "Watchdog", "cluster", "a")), am: alerts(hungOn(active, "gpu-0")),
			doubt: "prometheus has canary alerts with the label cluster and without it, so it sees several clusters: " +
				"give each Prometheus an external label cluster, and set cluster in aegis.yaml to the value of this cluster",
		},
		"this cluster is named": {
			cluster:    prom.Cluster{Name: "a"},
			prometheus: alerts(hungOn(firing, "gpu-0", "cluster", "a"), named(firing, "Watchdog", "cluster", "a"), named(firing, "Watchdog", "cluster", "b")),
			am:         alerts(hungOn(active, "gpu-0", "cluster", "a"), hungOn(active, "gpu-0", "cluster", "b")), want: prom.PermissionGranted,
		},
		"another label": {
			cluster:    prom.Cluster{Label: "k8s"},
			prometheus: alerts(hungOn(firing, "gpu-0", "k8s", "a", "cluster", "x"), named(firing, "Watchdog", "k8s", "a", "cluster", "y")),
			am:         alerts(hungOn(active, "gpu-0", "k8s", "a")), want: prom.PermissionGranted,
		},
		"two values of another label": {
			cluster:    prom.Cluster{Label: "k8s"},
			prometheus: alerts(hungOn(firing, "gpu-0", "k8s", "a"), named(firing, "Watchdog", "k8s", "b"), named(firing, "Watchdog", "k8s", "c"), named(firing, "Watchdog", "k8s", "d"), named(firing, "Watchdog", "k8s", "e")),
			doubt:      `alerts have several values of the label k8s, "a", "b", "c", "d" and 1 more: set cluster in aegis.yaml to the value of this cluster`,
		},
	}
}

// Alerts of several clusters permit nothing, and prove nothing, as long as nobody has said which cluster this is.
func TestAlertsOfSeveralClusters(t *testing.T) {
	t.Parallel()
	for name, tt := range clusterCases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := clusterWorld(t, tt.cluster)
				var err error
				if tt.silent {
					err = errBroken
				}
				w.prometheus.tell(err, tt.prometheus...)
				w.am0.tell(err, tt.am...)
				w.run(t)
				for _, a := range tt.webhook {
					w.deliver(t, a)
				}
				f := w.resync.Observe(t.Context(), keyHung)
				if tt.doubt != "" {
					require.Equal(t, prom.Finding{Evidence: prom.EvidenceUnknown, Permission: prom.PermissionAmbiguous, Reason: tt.doubt, At: f.At}, f)
					require.Equal(t, f, w.resync.Last(keyHung))
				}
				if tt.doubt == "" {
					require.Equal(t, tt.want, f.Permission, f.Reason)
				}
			})
		})
	}
}

// deliver brings an alert as a webhook does.
func (w *world) deliver(t *testing.T, a prom.Alert) {
	t.Helper()
	o, err := w.resync.classifier.Classify(a)
	require.NoError(t, err)
	w.queue.Observe(o)
}

// The doubt is told, lasts while a source is silent, and ends with it nothing but the doubt.
func TestDoubtAboutClustersIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := clusterWorld(t, prom.Cluster{})
		ambiguous := func() float64 { return testutil.ToFloat64(w.resync.metrics.ambiguous) }
		w.prometheus.tell(nil, hungOn(prom.StateFiring, "gpu-0"))
		w.am0.tell(nil, hungOn(prom.StateActive, "gpu-0", "cluster", "a"))
		stop := w.run(t)
		require.Zero(t, ambiguous())
		require.NotContains(t, w.log.String(), "another cluster")

		w.am0.tell(nil, hungOn(prom.StateActive, "gpu-0", "cluster", "a"), named(prom.StateActive, "Watchdog", "cluster", "b"))
		passes(2)
		require.InDelta(t, 1, ambiguous(), 0)
		require.Contains(t, w.log.String(), `level=WARN msg="alerts may be of another cluster, nothing is done for any"`)
		w.am0.tell(errBroken)
		passes(2)
		require.Equal(t, prom.PermissionAmbiguous, w.resync.Last(keyHung).Permission, "the replica that told of another cluster is silent")

		// What seems to be gone is no more known than what fires.
		w.prometheus.tell(nil)
		w.am0.tell(nil, named(prom.StateActive, "Watchdog", "cluster", "a"), named(prom.StateActive, "Watchdog", "cluster", "b"))
		passes(5)
		require.Equal(t, prom.EvidenceUnknown, w.resync.Last(keyHung).Evidence)
		require.Len(t, w.queue.Statuses("gpu-0"), 1)

		w.am0.tell(nil, named(prom.StateActive, "Watchdog", "cluster", "a"))
		passes(1)
		require.Zero(t, ambiguous())
		require.Contains(t, w.log.String(), "alerts are of one cluster again")
		require.Equal(t, prom.EvidenceAbsent, w.resync.Last(keyHung).Evidence)
		passes(3)
		require.Empty(t, w.queue.Statuses("gpu-0"))

		w.am0.tell(nil, named(prom.StateActive, "Watchdog", "cluster", "a"), named(prom.StateActive, "Watchdog", "cluster", "b"))
		passes(1)
		require.InDelta(t, 1, ambiguous(), 0)
		stop()
		require.Zero(t, ambiguous(), "who does not lead does not know")
	})
}

// The samples of sources count, and so do the canaries of their servers.
func TestSourcesOfSeveralClusters(t *testing.T) {
	t.Parallel()
	canary := func(cluster string) prom.Alert { return named(prom.StateFiring, "Watchdog", "cluster", cluster) }
	sample := func(cluster string) source.Sample {
		return source.Sample{Labels: map[string]string{"node": "gpu-0", "cluster": cluster}, Value: 1}
	}
	for name, tt := range map[string]struct {
		answer    source.Answer
		ambiguous bool
	}{
		"one":          {answer: source.Answer{Samples: []source.Sample{sample("a")}, Canaries: []prom.Alert{canary("a")}}},
		"two samples":  {answer: source.Answer{Samples: []source.Sample{sample("a"), sample("b")}}, ambiguous: true},
		"two canaries": {answer: source.Answer{Samples: []source.Sample{sample("a")}, Canaries: []prom.Alert{canary("a"), canary("b")}}, ambiguous: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := clusterWorld(t, prom.Cluster{}, Inspection{Name: "hung", Source: fixed(tt.answer), Condition: "GpuHung"})
				w.run(t)
				f := w.resync.Observe(t.Context(), keyHung)
				require.Equal(t, tt.ambiguous, f.Permission == prom.PermissionAmbiguous, f)
			})
		})
	}
}

// fixed always gives the same answer.
type fixed source.Answer

func (f fixed) Read(context.Context) (source.Answer, error) { return source.Answer(f), nil }

// A pass that is cut short, as at the end of a term, has the doubt of the one before, and so has an answer that does not come.
func TestDoubtAboutClustersOutlastsAPass(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := clusterWorld(t, prom.Cluster{})
		w.prometheus.tell(nil, named(prom.StateFiring, "Watchdog", "cluster", "a"), named(prom.StateFiring, "Watchdog", "cluster", "b"))
		stop := w.run(t)
		w.prometheus.take(10 * time.Second)
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.Equal(t, prom.PermissionAmbiguous, w.resync.Observe(short, keyHung).Permission)
		aborted := make(chan prom.Finding)
		go func() { aborted <- w.resync.Observe(t.Context(), keyHung) }()
		synctest.Wait()
		stop()
		require.Equal(t, prom.PermissionAmbiguous, (<-aborted).Permission)
	})
}
