package queue

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"aegis.io/aegis/rules/prom"
)

func TestConditionGauges(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewPedanticRegistry()
		q := New(Options{Registerer: reg, KnownCondition: func(name string) bool { return name == "A" || name == "B" }})
		gpu0, gpu1 := firing("1", "n1", "A"), firing("2", "n1", "A")
		gpu0.Status.ID, gpu1.Status.ID = "0", "1"
		q.Observe(gpu0, gpu1, firing("3", "n2", "A"), firing("4", "n2", "B"))
		q.Observe(firing("5", "n2", "Odd"), firing("6", "n2", "Odder"), firing("7", "n3", "\xff"))
		q.Observe(firing("8", "n4", "B"), resolved(firing("8", "n4", "B")))
		want := strings.NewReader(`
# HELP aegis_condition_gauge Nodes on which the condition holds. The same as aegis_condition_nodes, under its old name.
# TYPE aegis_condition_gauge gauge
aegis_condition_gauge{condition="A"} 2
aegis_condition_gauge{condition="B"} 1
aegis_condition_gauge{condition="other"} 2
# HELP aegis_condition_nodes Nodes on which the condition holds.
# TYPE aegis_condition_nodes gauge
aegis_condition_nodes{condition="A"} 2
aegis_condition_nodes{condition="B"} 1
aegis_condition_nodes{condition="other"} 2
`)
		require.NoError(t, testutil.GatherAndCompare(reg, want, "aegis_condition_gauge", "aegis_condition_nodes"))
	})
}

func TestEveryConditionIsKnownByDefault(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewPedanticRegistry()
		q := New(Options{Registerer: reg})
		q.Observe(firing("1", "n1", "Odd"), firing("2", "n1", "\xff"))
		want := strings.NewReader(`
# HELP aegis_condition_nodes Nodes on which the condition holds.
# TYPE aegis_condition_nodes gauge
aegis_condition_nodes{condition="Odd"} 1
aegis_condition_nodes{condition="_"} 1
aegis_condition_nodes{condition="other"} 0
`)
		require.NoError(t, testutil.GatherAndCompare(reg, want, "aegis_condition_nodes"))
	})
}

func TestQueueMetrics(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewPedanticRegistry()
		q := New(Options{Registerer: reg})
		o := firing("1", "n1", "A")
		q.Observe(o, firing("2", "n1", "A"), o, resolved(o), resolved(o), o, firing("3", "", "A"))
		q.merge(time.Now().Add(-time.Hour), []prom.Observation{resolved(firing("4", "n1", "A")), firing("4", "n1", "A")})
		for _, node := range []string{"idle", "waiting", "flying"} {
			q.Observe(with(firing(node, node, "A"), 2))
			require.Equal(t, node, take(t, q).Node)
		}
		q.Done("idle", 0)
		q.Done("waiting", time.Hour)
		want := strings.NewReader(`
# HELP aegis_queue_nodes Nodes in the queue: ready for a worker, in_flight at one, waiting for a time, or idle until something changes.
# TYPE aegis_queue_nodes gauge
aegis_queue_nodes{state="idle"} 1
aegis_queue_nodes{state="in_flight"} 1
aegis_queue_nodes{state="ready"} 1
aegis_queue_nodes{state="waiting"} 1
# HELP aegis_queue_observations_total Observations merged into the queue, by result.
# TYPE aegis_queue_observations_total counter
aegis_queue_observations_total{result="contested"} 1
aegis_queue_observations_total{result="dropped"} 0
aegis_queue_observations_total{result="heartbeat"} 1
aegis_queue_observations_total{result="invalid"} 1
aegis_queue_observations_total{result="joined"} 1
aegis_queue_observations_total{result="opened"} 4
aegis_queue_observations_total{result="outdated"} 1
aegis_queue_observations_total{result="resolved"} 1
aegis_queue_observations_total{result="stray"} 2
`)
		require.NoError(t, testutil.GatherAndCompare(reg, want, "aegis_queue_nodes", "aegis_queue_observations_total"))
	})
}

// A node counts once, in the band of the most urgent condition on it.
func TestNodesByBand(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewPedanticRegistry()
	q := New(Options{Registerer: reg})
	at := func(node, condition string, priority int) prom.Observation {
		o := firing(node+condition, node, condition)
		o.Status.Priority = priority
		return o
	}
	q.Observe(at("n1", "A", 150), at("n1", "B", 3), at("n1", "C", 1), at("n2", "A", 150), at("n3", "D", 0))
	require.NoError(t, testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP aegis_band_nodes Nodes on which something holds, by the band of the most urgent of it.
# TYPE aegis_band_nodes gauge
aegis_band_nodes{band="CanIgnore"} 1
aegis_band_nodes{band="Cordon"} 0
aegis_band_nodes{band="Emergency"} 1
aegis_band_nodes{band="MustIgnore"} 0
aegis_band_nodes{band="NotReady"} 1
`), "aegis_band_nodes"))
}

// TestMetricsAreLintClean allows one problem only: the name that existing dashboards use.
func TestMetricsAreLintClean(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewPedanticRegistry()
	q := New(Options{Registerer: reg})
	_, err := NewResync(ResyncOptions{Queue: q, Classifier: byLabels{}, Registerer: reg})
	require.NoError(t, err)
	problems, err := testutil.GatherAndLint(reg)
	require.NoError(t, err)
	require.Len(t, problems, 1)
	require.Equal(t, "aegis_condition_gauge", problems[0].Metric)
}
