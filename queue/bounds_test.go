package queue

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"aegis.io/aegis/rules/prom"
)

// device is an alert of a device of the node, with a priority.
func device(node string, id, priority int) prom.Observation {
	name := fmt.Sprintf("%05d", id)
	return prom.Observation{
		Fingerprint: node + "/" + name, Firing: true, StartsAt: time.Now(),
		Status: prom.AegisNodeStatus{Node: node, Condition: "A", ID: name, Priority: priority},
	}
}

// ids returns the devices of the conditions of a node, the most urgent first.
func ids(q *Queue, node string) (ids []string) {
	for _, s := range q.Statuses(node) {
		ids = append(ids, s.ID)
	}
	return ids
}

// Webhooks add without end while nothing is withdrawn. What is held has bounds, and the least urgent goes first.
func TestConditionsHaveBounds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := New(Options{MaxNodeConditions: 3, MaxConditions: 5})
		for id, priority := range []int{50, 10, 40, 30, 60, 20} {
			q.Observe(device("n1", id, priority))
		}
		require.Equal(t, []string{"00001", "00005", "00003"}, ids(q, "n1"))
		require.InDelta(t, 3, testutil.ToFloat64(q.metrics.dropped[boundNode]), 0)
		require.InDelta(t, 1, testutil.ToFloat64(q.metrics.observations[resultDropped]), 0, "one was less urgent than all that there were")

		q.Observe(device("n2", 0, 100), device("n2", 1, 5), device("n2", 2, 25))
		require.Equal(t, []string{"00001", "00002"}, ids(q, "n2"))
		q.Observe(device("n2", 3, 28), device("n2", 4, 35))
		require.Equal(t, []string{"00001", "00005"}, ids(q, "n1"), "the least urgent of all nodes")
		require.Equal(t, []string{"00001", "00002", "00003"}, ids(q, "n2"))
		require.InDelta(t, 2, testutil.ToFloat64(q.metrics.dropped[boundTotal]), 0)
		require.InDelta(t, 4, testutil.ToFloat64(q.metrics.dropped[boundNode]), 0)
	})
}

// One condition has no more alerts than say something, and what is dropped leaves nothing behind.
func TestAlertsHaveBounds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := New(Options{MaxAlerts: 100})
		for i := range 1000 {
			o := device("n1", 0, 10)
			o.Fingerprint = fmt.Sprint("pod-", i)
			q.Observe(o)
		}
		require.Len(t, q.Statuses("n1")[0].Alerts, conditionAlerts)
		require.Len(t, q.fed, conditionAlerts)
		for i := range 1000 {
			q.Observe(device("n2", i, 20))
		}
		require.Len(t, q.fed, 100)
		require.Equal(t, 1+100-conditionAlerts, q.urgency.Len())
		q.Observe(device("n3", 0, 2))
		require.Len(t, ids(q, "n3"), 1, "a more urgent one has room")
		require.Len(t, q.fed, 100)

		for _, node := range []string{"n1", "n2", "n3"} {
			for _, s := range q.Statuses(node) {
				for _, fingerprint := range s.Alerts {
					q.Observe(prom.Observation{Fingerprint: fingerprint, Status: s})
				}
			}
		}
		require.Empty(t, q.fed)
		require.Zero(t, q.urgency.Len())
	})
}

// Whole nights of webhooks without a Prometheus: the defaults hold.
func TestWebhooksWithoutPrometheusFillNoMemory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := New(Options{})
		for node := range 200 {
			for id := range 300 {
				q.Observe(device(fmt.Sprintf("n%03d", node), id, 10))
			}
		}
		require.Equal(t, defaultConditions, q.urgency.Len())
		require.Len(t, q.fed, defaultConditions)
		require.LessOrEqual(t, len(ids(q, "n000")), defaultNodeConditions)
	})
}

// What was dropped is there again after the next pass that finds room.
func TestWhatWasDroppedComesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.queue = New(Options{MaxConditions: 2})
		var err error
		w.resync, err = NewResync(ResyncOptions{
			Queue: w.queue, Prometheus: w.prometheus, Classifier: byLabels{}, Alertmanagers: map[string]AlertSource{"am": w.am0},
		})
		require.NoError(t, err)
		w.prometheus.tell(nil, alert("a", "n1", prom.StateFiring))
		w.am0.tell(nil, alert("a", "n1", prom.StateActive))
		w.run(t)
		require.Len(t, w.queue.Statuses("n1"), 1)
		urgent := []prom.Observation{device("n2", 0, 2), device("n2", 1, 2)}
		w.queue.Observe(urgent...)
		passes(1)
		require.Empty(t, w.queue.Statuses("n1"), "there is still no room")
		urgent[0].Firing = false
		w.queue.Observe(urgent[0])
		passes(1)
		require.Len(t, w.queue.Statuses("n1"), 1)
	})
}
