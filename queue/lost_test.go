package queue

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/queue/source"
	"aegis.io/aegis/rules/prom"
)

// The exporter that saw the fault is missed for as long as somebody asks about it, and not for an hour: it may have died of the fault.
func TestTheExporterThatSawTheFaultIsMissedUntilItIsBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSeeing(t)
		s.prometheus.see(nil, seenBy("n1", "x", fresh), seenBy("n1", "y", fresh))
		s.prometheus.tell(nil, alert("f", "n1", prom.StateFiring)) // By x; y has no such metric.
		s.run(t)
		evidence, reason := s.observe(t, keyA)
		require.Equal(t, prom.EvidenceFiring, evidence, reason)

		// The GPU falls off the bus, and x with it.
		s.prometheus.see(nil, seenBy("n1", "y", fresh))
		s.prometheus.tell(nil)
		for range 120 {
			passes(1)
			evidence, reason = s.observe(t, keyA)
			require.Equal(t, prom.EvidenceUnknown, evidence, reason)
		}
		passes(2 * int(time.Hour/defaultInterval) / 60)
		evidence, reason = s.observe(t, keyA)
		require.Equal(t, prom.EvidenceUnknown, evidence, "x, which saw the fault, has not been back: %s", reason)
	})
}

// For a condition of which nobody has said what shows it, any exporter will do; but one that is lost is missed there as well.
func TestAnExporterThatIsLostIsMissedByConditionsOfASite(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSeeing(t)
		// The exporter that shows the fault, and the target of another one that is up.
		s.prometheus.see(nil, seenBy("n1", "fans", fresh), seenBy("n1", "", fresh))
		s.run(t)
		evidence, reason := s.observe(t, keySite)
		require.Equal(t, prom.EvidenceAbsent, evidence, reason)
		s.prometheus.see(nil, seenBy("n1", "", fresh))
		passes(absentPasses)
		evidence, reason = s.observe(t, keySite)
		require.Equal(t, prom.EvidenceUnknown, evidence, "the exporter that reported has gone silent: %s", reason)
	})
}

// keySite is a condition of which nobody has said what shows it.
var keySite = prom.Key{Node: "n1", Condition: "Site"}

// targetOf is a target on n1 that is up, unless it is down.
func targetOf(job string, down ...bool) source.Sighting {
	return source.Sighting{Labels: map[string]string{"node": "n1"}, Job: job, Down: len(down) > 0, Age: fresh}
}

// Two shards, as "shards: 2" of the Prometheus Operator: the exporter that shows the fault is scraped by one, another target of the node by the
// other one. The shard that has the alert dies; the other one never knew it.
func TestTheShardThatHasTheAlertDies(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSeeing(t)
		firing := alert("f", "n1", prom.StateFiring)
		firing.Labels = map[string]string{"node": "n1", "condition": "Site", "alertname": "Site"}
		s.prometheus.see(nil, targetOf("fans"))
		s.prometheus.tell(nil, firing)
		s.other.see(nil, targetOf("node-exporter"))
		listed := firing
		listed.State = prom.StateActive
		s.am0.tell(nil, listed)
		s.am1.tell(nil, listed)
		s.run(t)
		passes(3)
		evidence, reason := s.observe(t, keySite)
		require.Equal(t, prom.EvidenceFiring, evidence, reason)

		s.prometheus.tell(errBroken)
		time.Sleep(lookback)
		s.am0.tell(nil) // Nobody sends it any more.
		s.am1.tell(nil)
		passes(absentPasses)
		evidence, reason = s.observe(t, keySite)
		require.Equal(t, prom.EvidenceUnknown, evidence, reason)
		require.True(t, s.queue.has(keySite))
	})
}

// A job is missed while the server that has its targets does not tell of them, and not once one that had them has none.
func TestOfASiteTargetsOfAServerThatIsAwayAreMissed(t *testing.T) {
	t.Parallel()
	type step struct {
		a, b   []source.Sighting
		silent error // Of the first one.
		blind  error
		want   prom.Evidence
		reason string
	}
	fans, rest, down := []source.Sighting{targetOf("fans")}, []source.Sighting{targetOf("node-exporter")}, []source.Sighting{targetOf("fans", true)}
	both := slices.Concat(fans, rest)
	const missed = "targets of job fans, which saw it at 1999-12-31T23:59:50Z for http://a, which gives no answer"
	for name, steps := range map[string][]step{
		"a shard":          {{a: fans, b: rest, want: "absent"}, {silent: errBroken, b: rest, want: "unknown", reason: missed}, {b: rest, want: "absent"}},
		"it tells nothing": {{a: fans, b: rest, want: "absent"}, {blind: errBroken, b: rest, want: "unknown", reason: missed}},
		"one of a pair":    {{a: fans, b: both, want: "absent"}, {silent: errBroken, b: rest, want: "absent"}},
		"it was down there": {
			{a: fans, b: rest, want: "absent"}, {a: down, b: rest, want: "unknown"}, {silent: errBroken, b: rest, want: "unknown", reason: missed},
		},
		"it has moved": {
			{a: rest, b: fans, want: "absent"},
			{a: both, b: rest, want: "absent"},
			{silent: errBroken, b: rest, want: "unknown", reason: "for http://a"},
		},
		"drained before": {{a: fans, b: rest, want: "absent"}, {b: rest, want: "absent"}, {silent: errBroken, b: rest, want: "absent"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newSeeing(t)
				for i, step := range steps {
					s.prometheus.see(step.blind, step.a...)
					s.prometheus.tell(step.silent)
					s.other.see(nil, step.b...)
					if i == 0 {
						s.run(t)
					}
					for range 3 {
						evidence, reason := s.observe(t, keySite)
						require.Equal(t, step.want, evidence, "step %d: %s", i, reason)
						require.Contains(t, reason, step.reason)
					}
				}
				last := steps[len(steps)-1]
				time.Sleep(3 * time.Hour) // Nobody else keeps the memory of it.
				evidence, reason := s.observe(t, keySite)
				require.Equal(t, last.want, evidence, reason)
			})
		})
	}
}

// A server that is not configured any more is not missed.
func TestAServerThatIsNotConfiguredIsNotMissed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSeeing(t)
		s.prometheus.tell(nil, alert("f", "n1", prom.StateFiring))
		s.prometheus.see(nil, seenBy("n1", "x", fresh))
		s.other.see(nil, seenBy("n1", "x", fresh))
		stop := s.run(t)
		s.observe(t, keyA)
		stop()
		s.resync.sources = slices.DeleteFunc(s.resync.sources, func(n namedSource) bool { return n.name == "http://a" })
		s.resync.Began(keyA, time.Now())
		s.run(t)
		evidence, reason := s.observe(t, keyA)
		require.Equal(t, prom.EvidenceAbsent, evidence, reason)
	})
}
