package queue

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"aegis.io/aegis/queue/source"
	"aegis.io/aegis/rules/prom"
)

// newWorldOn returns a world whose resync has other terms.
func newWorldOn(t *testing.T, change func(*ResyncOptions)) *world {
	t.Helper()
	w := newWorld(t)
	w.registry = prometheus.NewPedanticRegistry()
	o := ResyncOptions{
		Queue: w.queue, Prometheus: w.prometheus, Classifier: byLabels{}, Registerer: w.registry,
		Alertmanagers: map[string]AlertSource{"http://am-0": w.am0, "http://am-1": w.am1},
	}
	change(&o)
	var err error
	w.resync, err = NewResync(o)
	require.NoError(t, err)
	return w
}

func prometheusPermits(o *ResyncOptions) { o.Permission, o.Alertmanagers = PermitPrometheus, nil }

func isolateWhenAway(o *ResyncOptions) { o.Away = AwayIsolate }

func TestTermsThatAreRefused(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*ResyncOptions){
		"another permitter":             func(o *ResyncOptions) { o.Permission = "me" },
		"another choice":                func(o *ResyncOptions) { o.Away = "drain" },
		"away at once":                  func(o *ResyncOptions) { o.AwayAfter = time.Second },
		"Alertmanager where none is to": func(o *ResyncOptions) { o.Permission = PermitPrometheus },
	} {
		o := ResyncOptions{Queue: New(Options{}), Classifier: byLabels{}, Alertmanagers: map[string]AlertSource{"a": &fakeSource{}}}
		change(&o)
		_, err := NewResync(o)
		require.Error(t, err, name)
	}
}

func TestWherePrometheusPermits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorldOn(t, prometheusPermits)
		began := time.Now().Add(-time.Hour)
		w.prometheus.tell(nil, alert("p1", "n1", prom.StateFiring), alert("p2", "n2", prom.StatePending), alert("p3", "n3", prom.StateStale))
		w.run(t)
		s := only(t, w.queue, "n1")
		require.Equal(t, prom.OriginResync, s.Origin)
		require.Equal(t, began, s.FirstSeen)
		require.Equal(t, []string{"p1"}, s.Alerts)
		require.Empty(t, w.queue.Statuses("n2"))
		require.Empty(t, w.queue.Statuses("n3"))
		f := w.resync.Observe(t.Context(), keyA)
		require.Equal(t, prom.Finding{Evidence: prom.EvidenceFiring, Permission: prom.PermissionGranted, Unlisted: true, At: time.Now(), Since: began}, f)
		require.Positive(t, testutil.ToFloat64(w.resync.metrics.lastSuccess), "a pass over Prometheus is complete")
	})
}

// What began at an unknown time begins when it is first seen, and does not begin anew with each pass.
func TestWherePrometheusPermitsAnUnknownStartIsTheFirstSight(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorldOn(t, prometheusPermits)
		unknown := alert("p1", "n1", prom.StateFiring)
		unknown.StartsAt = time.Time{}
		w.prometheus.tell(nil, unknown)
		seen := time.Now()
		w.run(t)
		passes(3)
		require.Equal(t, seen, only(t, w.queue, "n1").FirstSeen)
		// Prometheus has restarted, and takes the alert for a new one.
		restarted := alert("p1", "n1", prom.StateFiring)
		restarted.StartsAt = time.Now()
		w.prometheus.tell(nil, restarted)
		passes(2)
		require.Equal(t, seen, only(t, w.queue, "n1").FirstSeen)
	})
}

func TestWherePrometheusPermitsGoneMeansSeenAndGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorldOn(t, prometheusPermits)
		w.prometheus.tell(nil, alert("p1", "n1", prom.StateFiring))
		w.run(t)
		w.prometheus.tell(errBroken)
		passes(5)
		only(t, w.queue, "n1")
		require.Equal(t, prom.EvidenceUnknown, w.resync.Observe(t.Context(), keyA).Evidence)
		// The alert is there, but the classifier has lost its node.
		lost := alert("p1", "n1", prom.StateFiring)
		lost.Labels = map[string]string{"node": "n1"}
		w.prometheus.tell(nil, lost)
		passes(5)
		only(t, w.queue, "n1")
		w.prometheus.tell(nil)
		passes(1)
		only(t, w.queue, "n1")
		passes(1)
		require.Empty(t, w.queue.Statuses("n1"))
		require.True(t, w.resync.Observe(t.Context(), keyA).Unlisted)
	})
}

func TestAwayIsCountedFromTheLastAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorldOn(t, isolateWhenAway)
		w.prometheus.tell(nil, alert("p1", "n1", prom.StateFiring))
		w.am0.tell(errBroken)
		w.run(t)
		gauge := func() float64 {
			families, err := w.registry.Gather()
			require.NoError(t, err)
			for _, f := range families {
				if f.GetName() == "aegis_alertmanager_away_seconds" {
					return f.GetMetric()[0].GetGauge().GetValue()
				}
			}
			return -1
		}
		passes(20)
		require.Zero(t, gauge(), "one of two answers")
		require.Empty(t, w.queue.Statuses("n1"), "and does not list it")
		w.am1.tell(errBroken)
		last := time.Now()
		passes(9)
		require.InDelta(t, time.Since(last).Seconds(), gauge(), 1)
		require.Empty(t, w.queue.Statuses("n1"))
		require.Equal(t, prom.PermissionUnknown, w.resync.Observe(t.Context(), keyA).Permission)
		passes(1)
		require.Equal(t, prom.OriginResync, only(t, w.queue, "n1").Origin)
		f := w.resync.Observe(t.Context(), keyA)
		require.Equal(t, prom.PermissionIsolate, f.Permission)
		require.Equal(t, "no Alertmanager has answered since "+last.UTC().Format(time.RFC3339)+": connection refused", f.Reason)
		w.am1.tell(nil, alert("f1", "n1", prom.StateActive))
		passes(1)
		require.Zero(t, gauge())
		require.Equal(t, prom.PermissionGranted, w.resync.Observe(t.Context(), keyA).Permission)
	})
}

// A new leader does not know what Alertmanager suppressed when it answered last.
func TestANewLeaderIsolatesNothingBeforeAlertmanagerHasAnswered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorldOn(t, isolateWhenAway)
		w.prometheus.tell(nil, alert("p1", "n1", prom.StateFiring), alert("p2", "n2", prom.StateFiring))
		w.am0.hush(nil, silence(t, "node", "n1"))
		of := func(node string) prom.Permission {
			return w.resync.Observe(t.Context(), prom.Key{Node: node, Condition: "A"}).Permission
		}
		stop := w.run(t)
		passes(2)
		w.am0.tell(errBroken)
		w.am1.tell(errBroken)
		passes(10)
		require.Equal(t, []prom.Permission{prom.PermissionSilenced, prom.PermissionIsolate}, []prom.Permission{of("n1"), of("n2")})
		stop()
		for _, node := range []string{"n1", "n2"} {
			w.queue.withdraw(prom.Key{Node: node, Condition: "A"}, time.Now().Add(time.Second))
		}

		w.run(t) // Another term.
		passes(100)
		require.Empty(t, w.queue.Statuses("n2"))
		require.Equal(t, []prom.Permission{prom.PermissionUnknown, prom.PermissionUnknown}, []prom.Permission{of("n1"), of("n2")})
		w.am0.tell(nil)
		passes(1)
		w.am0.tell(errBroken)
		passes(9)
		require.Empty(t, w.queue.Statuses("n2"), "it counts from the answer")
		passes(1)
		only(t, w.queue, "n2")
		require.Equal(t, []prom.Permission{prom.PermissionSilenced, prom.PermissionIsolate}, []prom.Permission{of("n1"), of("n2")})
	})
}

// A webhook's condition is not refreshed while Alertmanager is away: it would stand for a source that is silent, for ever.
func TestAwayRefreshesNoWebhook(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorldOn(t, isolateWhenAway)
		o, err := byLabels{}.Classify(alert("f1", "n1", prom.StateActive))
		require.NoError(t, err)
		w.queue.Observe(o)
		heard := time.Now()
		w.run(t)
		w.prometheus.tell(nil, alert("p1", "n1", prom.StateFiring))
		w.am0.tell(errBroken)
		w.am1.tell(errBroken)
		passes(20)
		s := only(t, w.queue, "n1")
		require.Equal(t, heard, s.LastSeen)
		require.Equal(t, []string{"f1"}, s.Alerts)
		require.Equal(t, prom.PermissionIsolate, w.resync.Observe(t.Context(), keyA).Permission)
	})
}

func TestWhatWasSilencedStaysSoWhileAlertmanagerIsAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorldOn(t, isolateWhenAway)
		w.prometheus.tell(nil, alert("p1", "n1", prom.StateFiring), alert("p2", "n2", prom.StateFiring), alert("p3", "n3", prom.StateFiring))
		w.am0.hush(nil, silence(t, "node", "n1"))
		w.am0.tell(nil, alert("f2", "n2", prom.StateSuppressed, "silence x"))
		w.run(t)
		w.am0.tell(errBroken)
		w.am1.tell(errBroken)
		passes(10)
		of := func(node string) prom.Finding {
			return w.resync.Observe(t.Context(), prom.Key{Node: node, Condition: "A"})
		}
		require.Equal(t, prom.PermissionSilenced, of("n1").Permission)
		require.Equal(t, theSilence+", when Alertmanager answered last", of("n1").Reason)
		require.Equal(t, prom.PermissionSilenced, of("n2").Permission)
		require.Equal(t, prom.PermissionIsolate, of("n3").Permission)
		w.am0.tell(nil)
		w.am0.hush(nil)
		passes(1)
		require.Equal(t, prom.PermissionUnlisted, of("n1").Permission)
	})
}

func TestSilencesOfAegisHoldWhateverTheSourcesSay(t *testing.T) {
	t.Parallel()
	own := ownSilence{silence(t, "node", "n1")}
	for name, change := range map[string]func(*ResyncOptions){
		"Alertmanager permits": func(*ResyncOptions) {},
		"Prometheus permits":   prometheusPermits,
		"Alertmanager is away": isolateWhenAway,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorldOn(t, func(o *ResyncOptions) {
					change(o)
					o.Silences = own
				})
				require.Equal(t, prom.PermissionSilenced, w.resync.Last(keyA).Permission, "before anything was asked")
				w.prometheus.tell(nil, alert("p1", "n1", prom.StateFiring), alert("p2", "n2", prom.StateFiring))
				w.am0.tell(nil, alert("f1", "n1", prom.StateActive), alert("f2", "n2", prom.StateActive))
				away := name == "Alertmanager is away"
				if away {
					w.am0.tell(nil)
				}
				w.run(t)
				if away {
					w.am0.tell(errBroken)
					w.am1.tell(errBroken)
				}
				passes(20)
				f := w.resync.Observe(t.Context(), keyA)
				require.Equal(t, prom.PermissionSilenced, f.Permission)
				require.Equal(t, prom.EvidenceFiring, f.Evidence)
				require.Equal(t, theSilence, f.Reason)
				only(t, w.queue, "n1")
				require.NotEqual(t, prom.PermissionSilenced, w.resync.Observe(t.Context(), prom.Key{Node: "n2", Condition: "A"}).Permission)
			})
		})
	}
}

// ownSilence is the one silence of Aegis' own.
type ownSilence struct{ source.Silence }

func (s ownSilence) Silenced(set map[string]string) string {
	if s.Matches(set) {
		return s.String()
	}
	return ""
}

func (s ownSilence) SilencedUnseen(alert prom.Unseen) string {
	if alert.Matches(s.Matchers) {
		return s.String()
	}
	return ""
}

// A silence that is made in a user interface names all labels of the alert. After a restart nobody knows them while the alert is not there.
func TestASilenceWithAllLabelsHoldsAfterARestart(t *testing.T) {
	t.Parallel()
	all := []string{"node", "n1", "condition", "A", "alertname", "SiteA", "gpu", "3", "severity", "critical"}
	for name, set := range map[string]func(*testing.T, *world){
		"of Alertmanager": func(t *testing.T, w *world) { w.am0.hush(nil, silence(t, all...)) },
		"of Aegis":        func(t *testing.T, w *world) { w.resync.silences = ownSilence{silence(t, all...)} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				set(t, w)
				w.run(t)
				require.Equal(t, prom.PermissionSilenced, w.resync.Observe(t.Context(), keyA).Permission)
				require.Equal(t, prom.PermissionUnlisted, w.resync.Observe(t.Context(), prom.Key{Node: "n2", Condition: "A"}).Permission)
				require.Equal(t, prom.PermissionUnlisted, w.resync.Observe(t.Context(), prom.Key{Node: "n1", Condition: "B"}).Permission)
				// Once the alert has been seen, its labels count again.
				w.am0.tell(nil, labelled("f1", prom.StateActive, "alertname", "SiteA", "gpu", "4", "severity", "critical"))
				w.prometheus.tell(nil, labelled("f1", prom.StateFiring, "alertname", "SiteA", "gpu", "4", "severity", "critical"))
				require.Equal(t, prom.PermissionGranted, w.resync.Observe(t.Context(), keyA).Permission)
			})
		})
	}
}
