package queue

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/queue/source"
	"aegis.io/aegis/rules/prom"
)

// An alert whose rule is evaluated no more, as one that fails or was removed, is not one that has ended. Prometheus marks the series of an
// alert that ends; those of a rule that fails just grow old, and after five minutes no query finds them.
func TestAnAlertThatOnlyGrewOldIsNotGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSeeing(t)
		s.fires(t)
		s.growsOld(t)
		s.requireUnknown(t, "nobody tells whether its rule is")

		s.prometheus.tell(nil, alert("f", "n1", prom.StateFiring))
		passes(1)
		evidence, reason := s.observe(t, keyA)
		require.Equal(t, prom.EvidenceFiring, evidence, reason)
		s.prometheus.tell(nil)
		passes(1)
		evidence, reason = s.observe(t, keyA)
		require.Equal(t, prom.EvidenceAbsent, evidence, "it was evaluated again, and ended: %s", reason)
	})
}

// fires has the alert fire everywhere, while the recording rules of its group go on.
func (s *seeing) fires(t *testing.T) {
	t.Helper()
	s.prometheus.see(nil, seenBy("n1", "x", fresh))
	s.prometheus.tell(nil, alert("f", "n1", prom.StateFiring))
	s.am0.tell(nil, alert("f", "n1", prom.StateActive))
	s.am1.tell(nil, alert("f", "n1", prom.StateActive))
	s.run(t)
	evidence, reason := s.observe(t, keyA)
	require.Equal(t, prom.EvidenceFiring, evidence, reason)
}

// growsOld has the rule of the alert not evaluated from now on. Its sample grows older than the lookback, and Alertmanager lets an alert go
// that nobody sends any more.
func (s *seeing) growsOld(t *testing.T) {
	t.Helper()
	s.prometheus.tell(nil, alert("f", "n1", prom.StateStale))
	passes(6)
	evidence, reason := s.observe(t, keyA)
	require.Equal(t, prom.EvidenceUnknown, evidence, reason)
	s.am0.tell(nil)
	s.am1.tell(nil)
	s.prometheus.tell(nil)
	passes(absentPasses)
}

func (s *seeing) requireUnknown(t *testing.T, why string) {
	t.Helper()
	evidence, reason := s.observe(t, keyA)
	require.Equal(t, prom.EvidenceUnknown, evidence, reason)
	require.Contains(t, reason, why)
}

// What nobody tells of is not missed for ever.
func TestAnAlertThatGrewOldIsMissedForADay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSeeing(t)
		s.fires(t)
		s.growsOld(t)
		for range 23 {
			s.requireUnknown(t, "the alert has not been evaluated")
			time.Sleep(time.Hour - time.Minute) // Somebody asks every hour.
		}
		time.Sleep(2 * time.Hour)
		evidence, reason := s.observe(t, keyA)
		require.Equal(t, prom.EvidenceAbsent, evidence, reason)
	})
}

// A Prometheus that did not answer while the alert ended has forgotten it without a word.
func TestAnAlertThatWasThereBeforeAnOutageIsNotGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSeeing(t)
		s.fires(t)
		s.prometheus.tell(errBroken)
		s.am0.tell(nil)
		s.am1.tell(nil)
		time.Sleep(lookback + time.Minute)
		s.prometheus.tell(nil)
		s.requireUnknown(t, "nobody tells whether its rule is")
	})
}

// Where one of a pair says that the alert has ended, the other one need not say so as well.
func TestAnAlertThatEndedOnOneOfAPairHasEnded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSeeing(t)
		s.other.see(nil, seenBy("n1", "x", fresh))
		s.other.tell(nil, alert("f", "n1", prom.StateFiring))
		s.fires(t)
		s.prometheus.tell(errBroken)
		s.am0.tell(nil)
		s.am1.tell(nil)
		time.Sleep(lookback)
		s.other.tell(nil)
		passes(1)
		s.prometheus.tell(nil)
		time.Sleep(lookback)
		evidence, reason := s.observe(t, keyA)
		require.Equal(t, prom.EvidenceAbsent, evidence, reason)
	})
}

// ruled is a Prometheus that tells of its rules.
type ruled struct {
	*fakeSource
	rules    func() ([]source.Rule, error)
	aged     []prom.Alert
	agedErr  error
	recalled []agedRequest
}

func (r *ruled) Rules(context.Context, []string) ([]source.Rule, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rules()
}

func (r *ruled) Aged(_ context.Context, nodes []string, within time.Duration) ([]prom.Alert, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.recalled = append(r.recalled, agedRequest{nodes, within})
	return r.aged, r.agedErr
}

func ruledBy(s *seeing, rules func() ([]source.Rule, error)) *ruled {
	r := &ruled{fakeSource: s.prometheus, rules: rules}
	for i, named := range s.resync.sources {
		if named.name == "http://a" {
			s.resync.sources[i].rules = r
		}
	}
	return r
}

// What Prometheus says of the rules decides whether the alert has ended.
func TestRulesSayWhetherAnAlertHasEnded(t *testing.T) {
	t.Parallel()
	evaluated := func(ago time.Duration, change ...func(*source.Rule)) func() ([]source.Rule, error) {
		return func() ([]source.Rule, error) {
			r := source.Rule{Name: "Hung", Evaluated: time.Now().Add(-ago)}
			for _, c := range change {
				c(&r)
			}
			return []source.Rule{r}, nil
		}
	}
	fails := func(r *source.Rule) { r.Failure = "its last evaluation failed" }
	none := func() ([]source.Rule, error) { return nil, nil }
	tests := map[string]struct {
		rules  func() ([]source.Rule, error)
		aged   bool // It grew old, rather than that its series was marked.
		want   prom.Evidence
		reason string
	}{
		"marked, the rule is evaluated":   {rules: evaluated(0), want: "absent"},
		"marked, nobody tells":            {rules: func() ([]source.Rule, error) { return nil, errBroken }, want: "absent"},
		"gone, and the rule fails":        {rules: evaluated(0, fails), want: "unknown", reason: "the rule of alert Hung fails: its last evaluation failed"},
		"gone with its rule":              {rules: none, want: "unknown", reason: "the rule of alert Hung has been removed since 2000-01-01T00:00:00Z"},
		"grew old, and the rule fails":    {rules: evaluated(0, fails), aged: true, want: "unknown", reason: "fails"},
		"grew old, is evaluated again":    {rules: evaluated(0), aged: true, want: "absent"},
		"grew old, last evaluated then":   {rules: evaluated(time.Hour), aged: true, want: "unknown", reason: "has not been evaluated since"},
		"grew old, never evaluated since": {rules: func() ([]source.Rule, error) { return []source.Rule{{Name: "Hung"}}, nil }, aged: true, want: "unknown"},
		// After a restart Prometheus writes no sample of an alert before it has restored it.
		"grew old, is active still": {rules: evaluated(0, func(r *source.Rule) {
			r.Active = []map[string]string{{"node": "n1", "alertname": "Hung"}}
		}), aged: true, want: "unknown"},
		"grew old, another one is active": {rules: evaluated(0, func(r *source.Rule) {
			r.Active = []map[string]string{{"node": "n2", "alertname": "Hung"}}
		}), aged: true, want: "absent"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newSeeing(t)
				answer := evaluated(0)
				ruledBy(s, func() ([]source.Rule, error) { return answer() })
				s.prometheus.see(nil, seenBy("n1", "x", fresh))
				s.prometheus.tell(nil, hung(prom.StateFiring))
				s.run(t)
				s.observe(t, keyA)
				s.observe(t, keyA)
				if tt.aged {
					s.prometheus.tell(nil, hung(prom.StateStale))
					passes(9)
				}
				answer = tt.rules
				s.prometheus.tell(nil)
				for range 3 {
					evidence, reason := s.observe(t, keyA)
					require.Equal(t, tt.want, evidence, reason)
					require.Contains(t, reason, tt.reason)
				}
			})
		})
	}
}

// hung is an alert with the name that the rules have.
func hung(state prom.AlertState) prom.Alert {
	a := alert("f", "n1", state)
	a.Labels = map[string]string{"node": "n1", "condition": "A", "alertname": "Hung"}
	return a
}

// A rule that people remove, or rename, ends its alerts an hour later, and no sooner: it may be back soon.
func TestARuleThatIsRemovedEndsItsAlertsAnHourLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSeeing(t)
		listed := []source.Rule{{Name: "Hung", Evaluated: time.Now()}}
		r := ruledBy(s, func() ([]source.Rule, error) { return listed, nil })
		s.prometheus.see(nil, seenBy("n1", "x", fresh))
		s.prometheus.tell(nil, hung(prom.StateFiring))
		s.run(t)
		s.observe(t, keyA)
		s.observe(t, keyA)
		r.do(func() { listed = nil })
		s.prometheus.tell(nil)
		passes(100)
		s.requireUnknown(t, "has been removed")
		passes(21)
		evidence, reason := s.observe(t, keyA)
		require.Equal(t, prom.EvidenceAbsent, evidence, reason)
	})
}

// A Prometheus that does not tell of its rules is named in the log, once, and so is that it tells again.
func TestRulesThatAreNotToldAreLogged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSeeing(t)
		err := errBroken
		r := ruledBy(s, func() ([]source.Rule, error) { return []source.Rule{{Name: "Hung", Evaluated: time.Now()}}, err })
		s.prometheus.see(nil, seenBy("n1", "x", fresh))
		s.prometheus.tell(nil, hung(prom.StateFiring))
		s.run(t)
		passes(3)
		const silent, again = `msg="source gives no answer" component=resync source="rules of http://a"`, `msg="source answers again" component=resync source="rules of http://a"`
		require.Equal(t, 1, strings.Count(s.log.String(), silent), s.log.String())
		require.NotContains(t, s.log.String(), again)
		r.do(func() { err = nil })
		passes(2)
		require.Equal(t, 1, strings.Count(s.log.String(), again), s.log.String())
	})
}

// The next leader asks once which alerts of open tickets grew old before it led.
func TestTheNextLeaderKnowsWhichAlertsGrewOld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSeeing(t)
		rules := []source.Rule{{Name: "Hung", Failure: "it fails", Evaluated: time.Now()}}
		r := ruledBy(s, func() ([]source.Rule, error) { return rules, nil })
		old := hung(prom.StateStale)
		old.AskedAt = time.Now().Add(-3 * time.Hour) // By a clock that is behind.
		old.SampledAt = old.AskedAt.Add(-20 * time.Minute)
		r.aged, r.agedErr = []prom.Alert{old}, errBroken
		s.prometheus.see(nil, seenBy("n1", "x", fresh))
		s.resync.Began(keyA, time.Now().Add(-time.Hour))
		s.run(t)
		s.observe(t, keyA)
		r.do(func() { r.agedErr = nil })
		s.requireUnknown(t, "the alert has not been evaluated, and nobody tells")
		s.requireUnknown(t, "the rule of alert Hung fails")
		asked := 0
		r.do(func() {
			require.Equal(t, agedRequest{[]string{"n1"}, time.Hour + missedBefore}, r.recalled[0])
			asked = len(r.recalled)
			rules = []source.Rule{{Name: "Hung", Evaluated: old.AskedAt}}
		})
		evidence, reason := s.observe(t, keyA)
		require.Equal(t, prom.EvidenceAbsent, evidence, reason)
		r.do(func() { require.Len(t, r.recalled, asked, "it has told") })
	})
}
