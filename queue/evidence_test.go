package queue

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/queue/source"
	"aegis.io/aegis/rules/prom"
)

// seeing is a queue with two Prometheis, which condition A is shown to by the exporters x and y.
type seeing struct {
	*world
	other *fakeSource
}

func newSeeing(t *testing.T) *seeing {
	t.Helper()
	s := &seeing{world: newWorld(t), other: &fakeSource{}}
	var err error
	s.resync, err = NewResync(ResyncOptions{
		Queue: s.queue, Classifier: byLabels{}, Logger: slog.New(slog.NewTextHandler(s.log, nil)),
		Prometheis:    map[string]AlertSource{"http://a": s.prometheus, "http://b": s.other},
		Alertmanagers: map[string]AlertSource{"http://am-0": s.am0, "http://am-1": s.am1},
		Evidence: func(condition string) []string {
			if condition == "A" {
				return []string{"x", "y"}
			}
			return nil
		},
	})
	require.NoError(t, err)
	return s
}

func (s *seeing) observe(t *testing.T, key prom.Key) (prom.Evidence, string) {
	t.Helper()
	f := s.resync.Observe(t.Context(), key)
	return f.Evidence, f.Reason
}

const fresh, old = 10 * time.Second, 3 * time.Minute

// What nobody sees is not gone.
func TestAbsentMeansSeenAndGone(t *testing.T) {
	t.Parallel()
	keyOther := prom.Key{Node: "n1", Condition: "Site"}
	type answer struct {
		err   error
		seen  []source.Sighting
		blind error
		fires prom.AlertState
	}
	sees := func(s ...source.Sighting) answer { return answer{seen: s} }
	none, down := answer{}, answer{err: errBroken}
	x := sees(seenBy("n1", "x", fresh))
	tests := map[string]struct {
		a, b     answer
		am0, am1 []prom.Alert
		amErr    error
		key      prom.Key
		want     prom.Evidence
		reason   string
	}{
		"seen and gone":                       {a: x, b: none, want: "absent"},
		"by both":                             {a: x, b: x, want: "absent"},
		"not one series of the node":          {a: none, b: none, want: "unknown", reason: "the node n1 has no fresh series of x or y"},
		"only of another node":                {a: sees(seenBy("n2", "x", fresh)), b: none, want: "unknown"},
		"only of an exporter that reads less": {a: sees(seenBy("n1", "z", fresh), seenBy("n1", "", fresh)), b: none, want: "unknown"},
		"only an old one":                     {a: sees(seenBy("n1", "x", old)), b: none, want: "unknown", reason: "x, which saw it at"},
		"one of its two exporters is lost":    {a: sees(seenBy("n1", "x", fresh), seenBy("n1", "y", old)), b: none, want: "unknown", reason: "no fresh series of y"},
		"it is lost on one of a pair only":    {a: sees(seenBy("n1", "x", old)), b: x, want: "absent"},
		"the other one does not answer":       {a: x, b: down, want: "absent"},
		"the one that sees it does not":       {a: none, b: down, want: "unknown"},
		"none answers":                        {a: down, b: down, want: "unknown", reason: "connection refused"},
		"it does not tell what it sees":       {a: answer{blind: errBroken}, b: none, want: "unknown", reason: "connection refused"},
		"the other one has it":                {a: x, b: answer{seen: x.seen, fires: "firing"}, want: "firing"},
		"the other one, which does not see":   {a: x, b: answer{seen: nil, fires: "firing"}, want: "firing"},
		"pending on the other one":            {a: x, b: answer{fires: "pending"}, want: "pending"},
		"an old sample on the other one":      {a: x, b: answer{fires: "stale"}, want: "unknown"},
		"an Alertmanager lists it":            {a: x, b: none, am1: []prom.Alert{alert("f", "n1", prom.StateActive)}, want: "unknown", reason: "an Alertmanager still lists it"},
		"a silenced alert exists":             {a: x, b: none, am0: []prom.Alert{alert("f", "n1", prom.StateSuppressed)}, want: "unknown"},
		"no Alertmanager answers":             {a: x, b: none, amErr: errBroken, want: "unknown", reason: "no Alertmanager tells"},
		"of a site, any exporter will do":     {a: sees(seenBy("n1", "z", fresh)), b: none, key: keyOther, want: "absent"},
		"of a site, a target that is up":      {a: sees(seenBy("n1", "", fresh)), b: none, key: keyOther, want: "absent"},
		"of a site, nothing":                  {a: none, b: none, key: keyOther, want: "unknown", reason: "no fresh series of any exporter"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newSeeing(t)
				for server, a := range map[*fakeSource]answer{s.prometheus: tt.a, s.other: tt.b} {
					server.see(a.blind, a.seen...)
					server.tell(a.err)
					if a.fires != "" {
						server.tell(a.err, alert("f", "n1", a.fires))
					}
				}
				s.am0.tell(tt.amErr, tt.am0...)
				s.am1.tell(tt.amErr, tt.am1...)
				s.run(t)
				key := keyA
				if tt.key != (prom.Key{}) {
					key = tt.key
				}
				evidence, reason := s.observe(t, key)
				require.Equal(t, tt.want, evidence, reason)
				require.Contains(t, reason, tt.reason)
			})
		})
	}
}

// An exporter that reported is missed until it is back, also where the Prometheus that had it is the one that is away.
func TestAnExporterThatIsLostIsMissed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSeeing(t)
		s.prometheus.see(nil, seenBy("n1", "x", fresh))
		s.other.see(nil, seenBy("n1", "y", fresh))
		s.run(t)
		evidence, reason := s.observe(t, keyA)
		require.Equal(t, prom.EvidenceAbsent, evidence, reason)

		s.prometheus.tell(errBroken)
		for range 130 { // Nobody else keeps the memory of it.
			passes(1)
			evidence, reason = s.observe(t, keyA)
			require.Equal(t, prom.EvidenceUnknown, evidence, reason)
		}
		require.Contains(t, reason, "no fresh series of x, which saw it at 1999-12-31T23:59:50Z")
		s.prometheus.tell(nil)
		evidence, reason = s.observe(t, keyA)
		require.Equal(t, prom.EvidenceAbsent, evidence, reason)
	})
}

// An exporter that was away long before the condition began did not see it, and is missed for an hour only.
func TestAnExporterThatLeftBeforeIsNotMissedForLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSeeing(t)
		s.prometheus.see(nil, seenBy("n1", "x", fresh), seenBy("n1", "y", 20*time.Minute))
		s.run(t)
		evidence, reason := s.observe(t, keyA)
		require.Equal(t, prom.EvidenceUnknown, evidence, reason)
		s.prometheus.see(nil, seenBy("n1", "x", fresh)) // Out of the hour of the query.
		passes(79)
		evidence, reason = s.observe(t, keyA)
		require.Equal(t, prom.EvidenceUnknown, evidence, reason)
		passes(2)
		evidence, reason = s.observe(t, keyA)
		require.Equal(t, prom.EvidenceAbsent, evidence, reason)
	})
}

// Who says that an exporter shows the condition no more ends the waiting for it.
func TestAnExporterThatNoConditionNamesIsNotMissed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSeeing(t)
		wanted := []string{"x", "y"}
		s.resync.eyes.wanted = func(string) []string { return wanted }
		s.prometheus.see(nil, seenBy("n1", "x", fresh), seenBy("n1", "y", fresh))
		s.run(t)
		s.observe(t, keyA)
		s.prometheus.see(nil, seenBy("n1", "x", fresh))
		passes(200)
		evidence, reason := s.observe(t, keyA)
		require.Equal(t, prom.EvidenceUnknown, evidence, reason)
		wanted = []string{"x"}
		evidence, reason = s.observe(t, keyA)
		require.Equal(t, prom.EvidenceAbsent, evidence, reason)
	})
}

// The next leader asks for what was there since the incident began, once, and misses what has gone since.
func TestTheNextLeaderMissesTheExporterThatIsLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSeeing(t)
		s.prometheus.see(nil, seenBy("n1", "x", fresh), seenBy("n1", "y", 5*time.Hour))
		s.resync.Began(keyA, time.Now().Add(-5*time.Hour))
		s.run(t)
		evidence, reason := s.observe(t, keyA)
		require.Equal(t, prom.EvidenceUnknown, evidence, reason)
		s.prometheus.do(func() { require.Equal(t, 5*time.Hour+missedBefore, s.prometheus.longest.Truncate(time.Minute)) })
		s.prometheus.see(nil, seenBy("n1", "x", fresh)) // It is asked for one hour from now on.
		s.prometheus.do(func() { s.prometheus.longest = 0 })
		passes(300)
		evidence, reason = s.observe(t, keyA)
		require.Equal(t, prom.EvidenceUnknown, evidence, reason)
		s.prometheus.do(func() { require.Zero(t, s.prometheus.longest) })
	})
}

// A server that cannot answer for so long is asked for less.
func TestAServerThatCannotLookBackSoFarIsAskedForLess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSeeing(t)
		s.prometheus.see(errBroken)
		s.other.see(nil)
		s.resync.Began(keyA, time.Now().Add(-50*time.Hour))
		s.run(t)
		s.observe(t, keyA)
		for want := 50*time.Hour + missedBefore; want > time.Hour; want /= 2 {
			s.prometheus.do(func() { require.InDelta(t, want, s.prometheus.last, float64(time.Minute)) })
			s.observe(t, keyA)
		}
		s.prometheus.do(func() { require.Equal(t, time.Hour, s.prometheus.last) })
	})
}

// The targets of a pod that is gone are not missed, those of one that is down are: the exporter may have died of the fault.
func TestOfASiteTargetsThatAreDownAreMissed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSeeing(t)
		site := prom.Key{Node: "n1", Condition: "Site"}
		target := func(job string, down bool) source.Sighting {
			seen := seenBy("n1", "", fresh)
			seen.Job, seen.Down = job, down
			return seen
		}
		s.prometheus.see(nil, target("fans", false), target("training", false), target("broken", true))
		s.run(t)
		evidence, reason := s.observe(t, site)
		require.Equal(t, prom.EvidenceAbsent, evidence, "what was never up is not missed: %s", reason)
		s.prometheus.see(nil, target("fans", false), target("broken", true))
		passes(3)
		evidence, reason = s.observe(t, site)
		require.Equal(t, prom.EvidenceAbsent, evidence, "the drain took the training: %s", reason)
		s.prometheus.see(nil, target("fans", true), target("broken", false))
		passes(200)
		evidence, reason = s.observe(t, site)
		require.Equal(t, prom.EvidenceUnknown, evidence, reason)
		require.Contains(t, reason, "targets of job fans, which saw it at")
		s.other.see(nil, target("fans", false))
		evidence, reason = s.observe(t, site)
		require.Equal(t, prom.EvidenceAbsent, evidence, reason)
	})
}

// When a node was seen is told on the clock of Aegis, and of several exporters the oldest counts.
func TestAbsentSaysWhenTheNodeWasSeen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSeeing(t)
		s.prometheus.see(nil, seenBy("n1", "x", fresh), seenBy("n1", "y", time.Minute))
		s.run(t)
		f := s.resync.Observe(t.Context(), keyA)
		require.Equal(t, time.Minute, time.Since(f.Seen))
	})
}

// A condition stays in the queue while nobody sees its node, and goes once somebody does and does not report it.
func TestAConditionIsNotWithdrawnUnseen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSeeing(t)
		s.prometheus.see(nil)
		s.other.see(nil)
		s.queue.Observe(prom.Observation{Fingerprint: "f", Status: prom.AegisNodeStatus{Node: "n1", Condition: "A"}, Firing: true, StartsAt: time.Now()})
		s.run(t)
		passes(5)
		require.True(t, s.queue.has(keyA))
		s.other.see(nil, seenBy("n1", "y", fresh))
		passes(absentPasses)
		require.False(t, s.queue.has(keyA))
	})
}

// Only the nodes that somebody needs to know about are asked for.
func TestEvidenceIsAskedForWhatIsNeeded(t *testing.T) {
	t.Parallel()
	e := newEyes(ResyncOptions{
		Names:    func(node string) []string { return []string{node, "10.0.0.1"} },
		Evidence: func(string) []string { return []string{"x", `fans_up{job="fans"}`} },
	})
	require.Equal(t, source.EvidenceRequest{Names: []string{"10.0.0.1", "n1"}, Selectors: []string{`fans_up{job="fans"}`}}, e.request([]prom.Key{keyA, keyA}, time.Now()))
	require.Empty(t, e.request(nil, time.Now()))
}
