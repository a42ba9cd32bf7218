package queue

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"aegis.io/aegis/queue/source"
	"aegis.io/aegis/rules"
	"aegis.io/aegis/rules/prom"
)

// bySubject classifies findings as the product does: by what their source is about, and by a node that exists.
type bySubject struct{ byLabels }

func (b bySubject) Classify(a prom.Alert) (prom.Observation, error) {
	if a.Subject == nil {
		return b.byLabels.Classify(a)
	}
	node := a.Labels["node"]
	switch {
	case node == "":
		return prom.Observation{}, &rules.Drop{Reason: rules.DropNoNode}
	case !strings.HasPrefix(node, "n"):
		return prom.Observation{}, &rules.Drop{Reason: rules.DropUnknownNode}
	}
	a.Labels["condition"], a.Labels["device"] = a.Subject.Condition, a.Labels["id"]
	return b.byLabels.Classify(a)
}

// fakeQuery answers with what it is told to.
type fakeQuery struct {
	mu     sync.Mutex
	answer source.Answer
	err    error
	hangs  bool
}

var _ SampleSource = (*fakeQuery)(nil)

func (f *fakeQuery) Read(ctx context.Context) (source.Answer, error) {
	f.mu.Lock()
	answer, err, hangs := f.answer, f.err, f.hangs
	f.mu.Unlock()
	if hangs {
		<-ctx.Done()
		return source.Answer{}, ctx.Err()
	}
	return answer, err
}

// hang makes the source give no answer at all.
func (f *fakeQuery) hang() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hangs = true
}

// tell sets the samples.
func (f *fakeQuery) tell(samples ...source.Sample) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer.Samples, f.err = samples, nil
}

// live sets the signs of life.
func (f *fakeQuery) live(samples ...source.Sample) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer.Alive = append([]source.Sample{}, samples...)
}

func (f *fakeQuery) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

// of is a sample of a node.
func of(node string, value float64, labels ...string) source.Sample {
	s := source.Sample{Labels: map[string]string{"__name__": "temperature", "node": node}, Value: value}
	for i := 0; i+1 < len(labels); i += 2 {
		s.Labels[labels[i]] = labels[i+1]
	}
	return s
}

// site is a world with two sources: hot has a threshold, series names its conditions by a label.
type site struct {
	*world
	hot, series *fakeQuery
	gone        atomic.Pointer[string]
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{world: newWorld(t), hot: &fakeQuery{}, series: &fakeQuery{}}
	s.queue = New(Options{})
	o := ResyncOptions{
		Queue: s.queue, Prometheus: s.prometheus, Classifier: bySubject{}, Alertmanagers: map[string]AlertSource{"http://am-0": s.am0},
		Sources: []Inspection{
			{Name: "hot", Source: s.hot, Condition: "Hot", Threshold: Threshold{Above: new(90.0), Clear: new(80.0), For: time.Minute}, Cluster: prom.Cluster{Name: "c1"}},
			{Name: "series", Source: s.series, ConditionLabel: "condition"},
		},
		Cluster: prom.Cluster{Name: "c1"},
		Gone:    func(node string) bool { gone := s.gone.Load(); return gone != nil && *gone == node },
	}
	var err error
	s.resync, err = NewResync(o)
	require.NoError(t, err)
	return s
}

var keyHot = prom.Key{Node: "n1", Condition: "Hot"}

// says is what the last pass found, in short.
func (s *site) says(key prom.Key) string {
	f := s.resync.Last(key)
	return fmt.Sprintf("%s %s", f.Evidence, f.Permission)
}

func TestSourceFindsByThreshold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.hot.tell(of("n1", 95), of("n2", 50))
		s.run(t)
		require.Equal(t, "pending unlisted", s.says(keyHot))
		require.Empty(t, s.queue.Statuses("n1"))
		passes(2)
		require.Equal(t, "firing granted", s.says(keyHot))
		found := s.queue.Statuses("n1")
		require.Len(t, found, 1)
		require.Equal(t, "Hot", found[0].Condition)
		require.Equal(t, "hot", found[0].Source)
		require.Equal(t, prom.OriginResync, found[0].Origin)
		require.Equal(t, time.Now().Add(-time.Minute), found[0].FirstSeen)
		require.Empty(t, s.queue.Statuses("n2"))

		s.hot.tell(of("n1", 85), of("n2", 50)) // Between the bounds: it is not over.
		passes(4)
		require.Equal(t, "firing granted", s.says(keyHot))
		s.hot.tell(of("n1", 80), of("n2", 50))
		passes(1)
		require.Equal(t, "absent unlisted", s.says(keyHot))
		require.True(t, s.resync.Last(keyHot).Unlisted)
		passes(1)
		require.Empty(t, s.queue.Statuses("n1"))
	})
}

func TestSourceNamesConditionsByALabel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.series.tell(of("n1", 1, "condition", "A", "id", "gpu0"), of("n1", 0, "condition", "B"), of("n2", 7, "condition", "B", "msg", "broken"))
		s.run(t)
		require.Len(t, s.queue.Statuses("n1"), 1)
		require.Equal(t, "gpu0", s.queue.Statuses("n1")[0].ID)
		require.Len(t, s.queue.Statuses("n2"), 1)
		first := s.queue.Statuses("n2")[0].Alerts
		s.series.tell(of("n2", 9, "condition", "B", "msg", "broken still")) // It is the same finding.
		passes(1)
		require.Equal(t, first, s.queue.Statuses("n2")[0].Alerts)
	})
}

func TestSourceWhoseSeriesAreGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.hot.tell(of("n1", 95))
		s.run(t)
		passes(2)
		require.Equal(t, "firing granted", s.says(keyHot))
		s.hot.tell()
		passes(20)
		require.Equal(t, "unknown unlisted", s.says(keyHot), "an exporter that died says nothing")
		require.Contains(t, s.resync.Last(keyHot).Reason, "source hot has no series for it, and no query that tells")
		require.Len(t, s.queue.Statuses("n1"), 1)

		s.hot.live(of("n1", 0))
		passes(6)
		require.Equal(t, "unknown unlisted", s.says(keyHot), "up is 0")
		s.hot.live(of("n1", 1), of("n1", 0, "job", "other"))
		passes(6)
		require.Equal(t, "unknown unlisted", s.says(keyHot), "one of two is down")
		s.hot.live(of("n1", 1))
		passes(4)
		require.Equal(t, "unknown unlisted", s.says(keyHot), "it may not have reported yet")
		passes(1)
		require.Equal(t, "absent unlisted", s.says(keyHot))
		passes(1)
		require.Empty(t, s.queue.Statuses("n1"))
	})
}

func TestSourceThatFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.hot.tell(of("n1", 95))
		s.series.tell(of("n1", 1, "condition", "B"))
		s.prometheus.tell(nil, alert("f1", "n1", prom.StateFiring))
		s.am0.tell(nil, alert("f1", "n1", prom.StateActive))
		s.run(t)
		passes(2)
		keyB := prom.Key{Node: "n1", Condition: "B"}
		require.Equal(t, []string{"firing granted", "firing granted", "firing granted"}, []string{s.says(keyHot), s.says(keyB), s.says(keyA)})

		s.hot.fail(errBroken)
		passes(3)
		require.Equal(t, []string{"unknown unlisted", "firing granted", "firing granted"}, []string{s.says(keyHot), s.says(keyB), s.says(keyA)})
		require.Contains(t, s.resync.Last(keyHot).Reason, "source hot gives no answer: connection refused")
		require.Len(t, s.queue.Statuses("n1"), 3, "no answer ends nothing")

		s.series.tell(of("n1", 0, "condition", "B"))
		s.prometheus.tell(nil)
		s.am0.tell(nil)
		passes(1)
		require.Equal(t, []string{"unknown unlisted", "absent unlisted", "absent unlisted"}, []string{s.says(keyHot), s.says(keyB), s.says(keyA)})
		passes(2)
		require.Len(t, s.queue.Statuses("n1"), 1)

		s.prometheus.tell(errBroken)
		s.hot.tell(of("n1", 95))
		passes(1)
		require.Equal(t, "pending unlisted", s.says(keyHot), "it was not seen for too long to know that it lasted")
		passes(2)
		require.Equal(t, "firing granted", s.says(keyHot), "alerts that cannot be read hide no finding of a source")
	})
}

func TestSourceAndAlertOfTheSameCondition(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.prometheus.tell(nil, alert("f1", "n1", prom.StateFiring))
		s.am0.tell(nil, alert("f1", "n1", prom.StateActive))
		s.series.tell(of("n1", 1, "condition", "A"))
		s.run(t)
		require.Equal(t, "firing granted", s.says(keyA))
		s.series.tell(of("n1", 0, "condition", "A"))
		passes(1)
		require.Equal(t, "firing granted", s.says(keyA), "the alert fires still")
		s.prometheus.tell(errBroken)
		passes(1)
		require.Equal(t, "unknown granted", s.says(keyA), "of the alert nothing is known")
		s.prometheus.tell(nil)
		s.am0.tell(nil)
		passes(1)
		require.Equal(t, "absent unlisted", s.says(keyA))
	})
}

func TestSourceIsSilenced(t *testing.T) {
	t.Parallel()
	for name, value := range map[string]string{"source": "hot", "alertname": "Hot", "condition": "Hot", "node": "n1", "cluster": "c1"} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t)
			s.hot.tell(of("n1", 95), of("n2", 95))
			s.am0.hush(nil, silence(t, name, value))
			s.run(t)
			passes(2)
			require.Equal(t, "firing silenced", s.says(keyHot), name)
			s.am0.tell(errBroken)
			passes(1)
			require.Equal(t, "firing unknown", s.says(keyHot), "nobody knows the silences")
		})
	}
}

func TestSourceAfterARestart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.resync.Remember(keyHot, "hot")
		s.resync.Remember(keyA, "gone")
		s.hot.fail(errBroken)
		s.run(t)
		require.Equal(t, "unknown unlisted", s.says(keyHot), "a ticket says that it was found by the source that fails")
		require.Equal(t, "unknown unlisted", s.says(keyA), "the source is not configured any more")
		require.Contains(t, s.resync.Last(keyA).Reason, "source gone, which found it, is not configured: configure it again, or cancel the ticket")
		s.hot.tell(of("n1", 85))
		passes(1)
		require.Equal(t, "unknown unlisted", s.says(keyHot))
		require.Contains(t, s.resync.Last(keyHot).Reason, "the value 85 lies between the bounds")
		s.hot.tell(of("n1", 79))
		passes(1)
		require.Equal(t, "absent unlisted", s.says(keyHot))
		require.Equal(t, "unknown unlisted", s.says(keyA))
	})
}

// A ticket whose source is not configured any more ends with the alert of its condition, if there is one.
func TestSourceThatIsNotConfiguredAnyMore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.resync.Remember(keyA, "gone")
		s.prometheus.tell(errBroken)
		s.run(t)
		require.Equal(t, "unknown unlisted", s.says(keyA))
		s.prometheus.tell(nil)
		passes(200)
		require.Equal(t, "unknown unlisted", s.says(keyA), "what nobody asks does not say that it is over")
		s.prometheus.tell(nil, alert("f1", "n1", prom.StateFiring))
		passes(1)
		require.Equal(t, "firing unlisted", s.says(keyA))
		s.prometheus.tell(nil)
		s.resync.Observe(t.Context(), keyA)
		require.Equal(t, "absent unlisted", s.says(keyA))
	})
}

// Nobody is left to report on a node that has been deleted.
func TestSourceFindsNothingOnADeletedNode(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.hot.tell(of("n1", 95), of("n2", 95))
		s.run(t)
		passes(2)
		require.Len(t, s.queue.Statuses("n1"), 1)
		s.hot.tell(of("n2", 95))
		s.gone.Store(new("n1"))
		passes(1)
		require.Equal(t, "absent unlisted", s.says(keyHot))
		require.Equal(t, "the node has been deleted; 1 of 1 replicas of Alertmanager answer, and none has it active", s.resync.Last(keyHot).Reason)
		passes(1)
		require.Empty(t, s.queue.Statuses("n1"))
		require.Len(t, s.queue.Statuses("n2"), 1)

		s.gone.Store(new("")) // There is a node of that name again.
		s.hot.tell(of("n1", 95), of("n2", 95))
		passes(1)
		require.Equal(t, "pending unlisted", s.says(keyHot))
		passes(2)
		require.Equal(t, "firing granted", s.says(keyHot))
		s.hot.fail(errBroken)
		s.gone.Store(new("n1"))
		passes(1)
		require.Equal(t, "absent unlisted", s.says(keyHot), "whatever the source answers")
	})
}

func TestSourceSamplesAreCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		stale := of("n5", 95)
		stale.Stale = true
		s.hot.tell(of("n1", 70), of("n1", 95), of("n2", 85), of("n3", math.NaN()), of("n4", math.Inf(1)), stale, of("", 95), of("gone", 95), of("n6", 50))
		s.run(t)
		require.Equal(t, "pending unlisted", s.says(keyHot), "the worst of two counts")
		for result, n := range map[string]int{
			"duplicate": 1, "healthy": 1, "no_node": 1, "not_a_number": 2, "pending": 1, "stale": 1, "undecided": 1, "unknown_node": 1,
		} {
			require.InDelta(t, n, testutil.ToFloat64(s.resync.findings.samples.WithLabelValues("hot", result)), 0, result)
		}
		require.InDelta(t, 1, testutil.ToFloat64(s.resync.findings.up.WithLabelValues("hot")), 0)
		s.hot.fail(errors.New("down"))
		passes(1)
		require.InDelta(t, 0, testutil.ToFloat64(s.resync.findings.up.WithLabelValues("hot")), 0)
		require.InDelta(t, 1, testutil.ToFloat64(s.resync.findings.up.WithLabelValues("series")), 0)
		last := testutil.ToFloat64(s.resync.findings.lastSuccess.WithLabelValues("hot"))
		require.InDelta(t, time.Now().Add(-defaultInterval).Unix(), last, 0)
	})
}

func TestSourceOptions(t *testing.T) {
	t.Parallel()
	whole := Inspection{Name: "a", Source: &fakeQuery{}, Condition: "A"}
	nameless, mute, vague, double := whole, whole, whole, whole
	nameless.Name, mute.Source, vague.Condition, double.ConditionLabel = "", nil, "", "condition"
	for name, sources := range map[string][]Inspection{
		"no name": {nameless}, "no query": {mute}, "no condition": {vague}, "two conditions": {double}, "the same name": {whole, whole},
	} {
		_, err := NewResync(ResyncOptions{Queue: New(Options{}), Classifier: byLabels{}, Sources: sources})
		require.Error(t, err, name)
	}
}

func TestSourcesTellHowTheyDo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		require.Equal(t, []prom.SourceHealth{{Name: "hot", Condition: "Hot"}, {Name: "series", ConditionLabel: "condition"}}, s.resync.Sources())
		s.hot.tell(of("n1", 50), of("gone", 95))
		s.series.fail(errBroken)
		s.run(t)
		now := time.Now()
		require.Equal(t, []prom.SourceHealth{
			{Name: "hot", Condition: "Hot", AskedAt: now, LastSuccess: now, Samples: map[string]int{"healthy": 1, "unknown_node": 1}},
			{Name: "series", ConditionLabel: "condition", AskedAt: now, Error: "connection refused"},
		}, s.resync.Sources())
		s.hot.fail(errBroken)
		passes(1)
		hot := s.resync.Sources()[0]
		require.Equal(t, "connection refused", hot.Error)
		require.Equal(t, now, hot.LastSuccess)
	})
}

func TestSourceThatHangsHoldsUpNobodyForLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.hot.hang()
		s.series.tell(of("n1", 1, "condition", "B"))
		s.run(t)
		time.Sleep(inspectTimeout)
		synctest.Wait()
		require.Equal(t, "firing granted", s.says(prom.Key{Node: "n1", Condition: "B"}))
		require.Contains(t, s.resync.Sources()[0].Error, "deadline exceeded")
	})
}

func TestSourceIsRememberedAsLongAsSomebodyNeedsIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.hot.tell(of("n1", 95), of("n2", 95))
		s.run(t)
		passes(3)
		s.hot.tell(of("n2", 50))
		time.Sleep(unseenFor + time.Hour)
		synctest.Wait()
		require.Equal(t, "unknown unlisted", s.says(keyHot), "it is in the queue still")
		require.Len(t, s.queue.Statuses("n1"), 1)
		require.Empty(t, s.queue.Statuses("n2"))
		for _, i := range s.resync.inspectors {
			require.LessOrEqual(t, len(i.tracks), 2)
		}
	})
}

// A source that has found nothing yet, or knows nothing, does not stand in for the Alertmanager that does not list the alert.
func TestSourceThatDoesNotFindPermitsNoAlert(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		hot := alert("f1", "n1", prom.StateFiring)
		hot.Labels["condition"] = "Hot"
		s.prometheus.tell(nil, hot)
		s.hot.tell(of("n1", 95))
		s.run(t)
		require.Equal(t, "firing unlisted", s.says(keyHot), "of the source it is pending")
		passes(2)
		require.Equal(t, "firing granted", s.says(keyHot))
		s.hot.tell()
		passes(6)
		require.Equal(t, "firing unlisted", s.says(keyHot), "the source knows nothing")
		s.am0.tell(nil, hot)
		passes(1)
		require.Equal(t, "firing unlisted", s.says(keyHot), "Alertmanager does not have it active")
		hot.State = prom.StateActive
		s.am0.tell(nil, hot)
		passes(1)
		require.Equal(t, "firing granted", s.says(keyHot))
	})
}

// A fault that was over for a moment has held only since it came back, although it has not left the queue.
func TestSourceTellsSinceWhenItHolds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		keyB := prom.Key{Node: "n1", Condition: "B"}
		s.series.tell(of("n1", 1, "condition", "B"))
		began := time.Now()
		s.run(t)
		require.Equal(t, began, s.resync.Last(keyB).Since)
		passes(2)
		require.Equal(t, began, s.resync.Last(keyB).Since)
		s.series.tell(of("n1", 0, "condition", "B"))
		passes(1)
		require.Zero(t, s.resync.Last(keyB).Since)
		s.series.tell(of("n1", 1, "condition", "B"))
		passes(1)
		again := s.resync.Last(keyB)
		require.Equal(t, again.At, again.Since)
		require.Equal(t, began, s.queue.Statuses("n1")[0].FirstSeen, "the queue remembers the first time")
		passes(1)
		require.Equal(t, again.Since, s.resync.Last(keyB).Since)
	})
}

// What a source finds does not make one forget the labels by which Alertmanager's alert of the same condition is silenced.
func TestSourceDisplacesNoLabelsOfAlerts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		external := alert("f1", "n1", prom.StateActive)
		external.Labels["replica"] = "eu"
		s.am0.hush(nil, silence(t, "replica", "eu"))
		s.am0.tell(nil, external)
		s.prometheus.tell(nil, alert("p1", "n1", prom.StateFiring))
		s.series.tell(of("n1", 1, "condition", "A"))
		s.run(t)
		require.Equal(t, "firing silenced", s.says(keyA))
		s.am0.tell(nil)
		passes(2)
		require.Equal(t, "firing silenced", s.says(keyA), "Alertmanager does not list the alert")
		s.prometheus.tell(nil)
		passes(2)
		require.Equal(t, "firing silenced", s.says(keyA), "only the source has it")
		s.am0.hush(nil, silence(t, "source", "series"))
		passes(1)
		require.Equal(t, "firing silenced", s.says(keyA), "by a label of the finding")
		s.am0.hush(nil)
		passes(1)
		require.Equal(t, "firing granted", s.says(keyA))
		s.am0.hush(nil, silence(t, "source", "series"))
		s.am0.tell(nil, alert("f1", "n1", prom.StateActive))
		s.prometheus.tell(nil, alert("p1", "n1", prom.StateFiring))
		s.series.tell(of("n1", 0, "condition", "A"))
		passes(2)
		require.Equal(t, "firing granted", s.says(keyA), "the source does not find it any more, so the silence is of nothing")
	})
}
