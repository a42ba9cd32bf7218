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
				time.Sleep(time.Second) // The rule is evaluated later than the alert was there.
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

		// A server that gives no answer at all is told once.
		r.do(func() { err = errBroken })
		s.prometheus.tell(errBroken)
		passes(3)
		require.Equal(t, 1, strings.Count(s.log.String(), `msg="source gives no answer" component=resync source=http://a`), s.log.String())
		require.Equal(t, 1, strings.Count(s.log.String(), silent), s.log.String())
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

// Where the rules say that nobody has evaluated the rule since the alert was there, its end is not believed, however soon it went: a Prometheus
// may have lost its data, or look back for less than five minutes.
func TestAnAlertThatIsGoneWhileItsRuleIsNotEvaluatedIsNotGone(t *testing.T) {
	t.Parallel()
	for name, at := range map[string]func(began time.Time) time.Time{
		"never: it restarted without data":    func(time.Time) time.Time { return time.Time{} },
		"not since: its lookback is a minute": func(began time.Time) time.Time { return began },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newSeeing(t)
				evaluated := time.Now()
				r := ruledBy(s, func() ([]source.Rule, error) { return []source.Rule{{Name: "Hung", Evaluated: evaluated}}, nil })
				s.prometheus.see(nil, seenBy("n1", "x", fresh))
				s.prometheus.tell(nil, hung(prom.StateFiring))
				s.run(t)
				s.observe(t, keyA)
				s.observe(t, keyA)
				r.do(func() { evaluated = at(evaluated) })
				s.prometheus.tell(nil)
				passes(4)
				s.requireUnknown(t, "the rule of alert Hung has not been evaluated since 2000-01-01T00:00:00Z")
				r.do(func() { evaluated = time.Now() })
				evidence, reason := s.observe(t, keyA)
				require.Equal(t, prom.EvidenceAbsent, evidence, "it is evaluated again: %s", reason)
			})
		})
	}
}

// The first look at the rules of an alert may be the one after the restart.
func TestAnAlertThatIsGoneBeforeItsRuleWasSeenIsNotGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSeeing(t)
		ruledBy(s, func() ([]source.Rule, error) { return []source.Rule{{Name: "Hung"}}, nil })
		s.prometheus.see(nil, seenBy("n1", "x", fresh))
		s.prometheus.tell(nil, hung(prom.StateFiring))
		s.run(t)
		s.prometheus.tell(nil)
		passes(1)
		s.requireUnknown(t, "the rule of alert Hung has not been evaluated")
	})
}

// The clock of the server decides whether a rule was evaluated since, also where it is hours behind, and where samples are dated earlier than
// they are made. The next evaluation is enough.
func TestTheNextEvaluationEndsAnAlert(t *testing.T) {
	t.Parallel()
	const interval = 30 * time.Second
	for name, offset := range map[string]time.Duration{"no offset": 0, "rules with a query offset": 90 * time.Second} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newSeeing(t)
				clock := func() time.Time { return time.Now().Add(-3 * time.Hour) }
				evaluated := clock()
				r := ruledBy(s, func() ([]source.Rule, error) { return []source.Rule{{Name: "Hung", Evaluated: evaluated}}, nil })
				s.prometheus.see(nil, seenBy("n1", "x", fresh))
				firing := hung(prom.StateFiring)
				firing.SampledAt, firing.AskedAt = evaluated.Add(-offset), evaluated.Add(time.Second)
				s.prometheus.tell(nil, firing)
				s.run(t)
				s.observe(t, keyA)
				firing.AskedAt = evaluated.Add(20 * time.Second)
				s.prometheus.tell(nil, firing) // The same sample again.
				s.observe(t, keyA)
				s.prometheus.tell(nil)
				time.Sleep(interval)
				s.requireUnknown(t, "the rule of alert Hung has not been evaluated")
				r.do(func() { evaluated = evaluated.Add(15 * time.Second) })
				evidence, reason := s.observe(t, keyA)
				require.Equal(t, prom.EvidenceAbsent, evidence, "a later evaluation does not have it: %s", reason)
			})
		})
	}
}

// There may be servers that list rules and never tell when they evaluate them. They have told nothing.
func TestRulesThatAreNeverDatedTellNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSeeing(t)
		ruledBy(s, func() ([]source.Rule, error) { return []source.Rule{{Name: "Hung"}}, nil })
		s.prometheus.see(nil, seenBy("n1", "x", fresh))
		s.prometheus.tell(nil, hung(prom.StateFiring))
		s.run(t)
		passes(2) // The alert is there and fresh, so the rule is evaluated.
		s.prometheus.tell(nil)
		passes(1)
		evidence, reason := s.observe(t, keyA)
		require.Equal(t, prom.EvidenceAbsent, evidence, "its series was marked: %s", reason)

		s.prometheus.tell(nil, hung(prom.StateFiring))
		passes(2)
		s.prometheus.tell(nil, hung(prom.StateStale))
		passes(2)
		s.prometheus.tell(nil)
		passes(1)
		s.requireUnknown(t, "nobody tells whether its rule is")
		time.Sleep(agedFor)
		evidence, reason = s.observe(t, keyA)
		require.Equal(t, prom.EvidenceAbsent, evidence, reason)
	})
}

// The next leader does not know what grew old as long as a server does not tell. One that refuses the question has not said that nothing did,
// and is not waited for for ever.
func TestTheNextLeaderWaitsForADayToHearWhatGrewOld(t *testing.T) {
	t.Parallel()
	for name, answers := range map[string]bool{"it never tells": false, "it tells later": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newSeeing(t)
				r := ruledBy(s, func() ([]source.Rule, error) { return nil, nil })
				r.agedErr = errBroken // Such as that the time range exceeds a limit.
				s.prometheus.see(nil, seenBy("n1", "x", fresh), seenBy("n2", "x", fresh))
				s.resync.Began(keyA, time.Now().Add(-time.Hour))
				s.run(t)
				for range 23 {
					s.requireUnknown(t, "http://a does not tell which alerts grew old before 2000-01-01T00:00:00Z: connection refused")
					time.Sleep(time.Hour)
				}
				evidence, reason := s.observe(t, prom.Key{Node: "n2", Condition: "A"})
				require.Equal(t, prom.EvidenceAbsent, evidence, "this one is new: %s", reason)
				if answers {
					r.do(func() { r.agedErr = nil })
				} else {
					time.Sleep(time.Hour + time.Minute)
				}
				evidence, reason = s.observe(t, keyA)
				require.Equal(t, prom.EvidenceAbsent, evidence, reason)
			})
		})
	}
}

// A server that had the alert, and gives no answer, has not said that it ended. One that sees the node and never had the alert has not either.
func TestAnAlertIsNotGoneWithTheServerThatHasIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSeeing(t)
		s.other.see(nil, seenBy("n1", "x", fresh))
		s.fires(t)
		s.prometheus.tell(errBroken)
		s.am0.tell(nil)
		s.am1.tell(nil)
		for range 23 {
			s.requireUnknown(t, "http://a had it, and has not answered since 2000-01-01T00:00:00Z")
			require.True(t, s.queue.has(keyA))
			time.Sleep(time.Hour)
		}
		s.prometheus.tell(nil, alert("f", "n1", prom.StateFiring))
		passes(1)
		s.prometheus.tell(nil)
		passes(1)
		evidence, reason := s.observe(t, keyA)
		require.Equal(t, prom.EvidenceAbsent, evidence, "it is back, and says so: %s", reason)
	})
}

// A server that never comes back is missed for a day.
func TestTheServerThatHadTheAlertIsMissedForADay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSeeing(t)
		s.other.see(nil, seenBy("n1", "x", fresh))
		s.fires(t)
		time.Sleep(72 * time.Hour) // A day of silence, however old the alert is.
		s.prometheus.tell(errBroken)
		s.am0.tell(nil)
		s.am1.tell(nil)
		time.Sleep(agedFor - time.Minute)
		s.requireUnknown(t, "has not answered since")
		time.Sleep(time.Minute + defaultInterval)
		evidence, reason := s.observe(t, keyA)
		require.Equal(t, prom.EvidenceAbsent, evidence, reason)
	})
}

// What is remembered of a rule that fails outlasts a restart of its server.
func TestARuleThatFailsIsRememberedWhileItsServerIsAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSeeing(t)
		failure := ""
		r := ruledBy(s, func() ([]source.Rule, error) {
			return []source.Rule{{Name: "Hung", Failure: failure, Evaluated: time.Now()}}, nil
		})
		s.prometheus.see(nil, seenBy("n1", "x", fresh))
		s.prometheus.tell(nil, hung(prom.StateFiring))
		s.run(t)
		passes(2)
		r.do(func() { failure = "it fails" })
		s.prometheus.tell(nil)
		for range 50 {
			time.Sleep(time.Hour)
			s.requireUnknown(t, "the rule of alert Hung fails")
		}
		s.prometheus.tell(errBroken)
		passes(2)
		s.prometheus.tell(nil)
		s.requireUnknown(t, "the rule of alert Hung fails")
	})
}

// A server that says that its alert ended does not speak for one that has the alert still.
func TestAnAlertThatEndedOnOneOfAPairIsNotGoneOnTheOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSeeing(t)
		s.other.see(nil, seenBy("n1", "x", fresh))
		s.other.tell(nil, alert("f", "n1", prom.StateFiring))
		s.fires(t)
		s.other.tell(nil)
		passes(1)
		evidence, reason := s.observe(t, keyA)
		require.Equal(t, prom.EvidenceFiring, evidence, reason)
		s.prometheus.tell(errBroken)
		s.am0.tell(nil)
		s.am1.tell(nil)
		s.requireUnknown(t, "http://a had it")
	})
}
