package queue

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/alertmanager/pkg/labels"
	"github.com/stretchr/testify/require"

	"aegis.io/aegis/queue/source"
	"aegis.io/aegis/rules/prom"
)

// silence is a silence with matchers in pairs of a name and a value.
func silence(t *testing.T, pairs ...string) source.Silence {
	t.Helper()
	s := source.Silence{ID: "5b2e", CreatedBy: "alice", Comment: "riser swap"}
	for i := 0; i < len(pairs); i += 2 {
		s.Matchers = append(s.Matchers, matcher(t, pairs[i], pairs[i+1], labels.MatchEqual))
	}
	return s
}

func matcher(t *testing.T, name, value string, kind labels.MatchType) *labels.Matcher {
	t.Helper()
	m, err := labels.NewMatcher(kind, name, value)
	require.NoError(t, err)
	return m
}

// labelled is an alert of keyA with more labels, in pairs of a name and a value.
func labelled(fingerprint string, state prom.AlertState, pairs ...string) prom.Alert {
	a := alert(fingerprint, "n1", state)
	for i := 0; i < len(pairs); i += 2 {
		a.Labels[pairs[i]] = pairs[i+1]
	}
	return a
}

const (
	theSilence = "silence 5b2e by alice: riser swap"
	unlisted   = "2 of 2 replicas of Alertmanager answer, and none has it active"
)

func TestResyncHearsSilences(t *testing.T) {
	t.Parallel()
	type answer struct {
		alerts     []prom.AlertState
		err        error
		silences   []source.Silence
		silenceErr error
	}
	active := []prom.AlertState{prom.StateActive}
	onNode, onOther := []source.Silence{silence(t, "node", "n1")}, []source.Silence{silence(t, "node", "n2")}
	tests := map[string]struct {
		am0, am1   answer
		permission prom.Permission
		reason     string
	}{
		"unlisted, silenced on one of two replicas": {answer{}, answer{silences: onNode}, "silenced", theSilence},
		"on the only one that answers":              {answer{err: errBroken}, answer{silences: onNode}, "silenced", theSilence},
		"another node is silenced":                  {answer{silences: onOther}, answer{silences: onOther}, "unlisted", unlisted},
		"the second of two silences":                {answer{silences: append(onOther, onNode...)}, answer{}, "silenced", theSilence},
		"active, the silence is not applied yet":    {answer{alerts: active, silences: onNode}, answer{alerts: active}, "silenced", theSilence},
		"active, another node is silenced":          {answer{alerts: active, silences: onOther}, answer{}, "granted", ""},
		"suppressed says it itself": {
			answer{alerts: []prom.AlertState{prom.StateSuppressed}, silences: onNode}, answer{}, "silenced", "suppressed at Alertmanager",
		},
		"a replica without silences has not answered": {
			answer{alerts: active, silenceErr: errBroken}, answer{}, "unlisted", "1 of 2 replicas of Alertmanager answer, and none has it active",
		},
		"the other one answers": {answer{silenceErr: errBroken}, answer{alerts: active}, "granted", ""},
		"no replica tells its silences": {
			answer{alerts: active, silenceErr: errBroken},
			answer{alerts: active, silenceErr: errBroken},
			"unknown", "permission unknown: no Alertmanager answers: connection refused",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.prometheus.tell(nil, alert("p1", "n1", prom.StateFiring))
				for source, says := range map[*fakeSource]answer{w.am0: tt.am0, w.am1: tt.am1} {
					var alerts []prom.Alert
					for _, state := range says.alerts {
						alerts = append(alerts, alert("f1", "n1", state))
					}
					source.tell(says.err, alerts...)
					source.hush(says.silenceErr, says.silences...)
				}
				w.run(t)
				finding := w.resync.Observe(t.Context(), keyA)
				require.Equal(t, prom.EvidenceFiring, finding.Evidence)
				require.Equal(t, tt.permission, finding.Permission)
				require.Equal(t, tt.reason, finding.Reason)
			})
		})
	}
}

func TestResyncMatchesSilencesAgainstTheLabelsLastSeen(t *testing.T) {
	t.Parallel()
	// What the sources have at first; then no Alertmanager lists anything, and Prometheus may go on.
	type past struct {
		am0, am1, before, after []prom.Alert
	}
	critical := labelled("f1", prom.StateActive, "alertname", "GpuHung", "severity", "critical", "cluster", "c1")
	listed := past{am0: []prom.Alert{critical}}
	two := past{am0: []prom.Alert{critical}, am1: []prom.Alert{labelled("f2", prom.StateActive, "severity", "warning")}}
	atPrometheus := []prom.Alert{labelled("p1", prom.StateFiring, "alertname", "GpuHung", "severity", "critical")}
	changed := []prom.Alert{labelled("p1", prom.StateFiring, "severity", "warning")}
	later := past{am0: listed.am0, before: atPrometheus, after: changed}
	of := func(name, value string, kind labels.MatchType) source.Silence {
		return source.Silence{ID: "5b2e", Matchers: labels.Matchers{matcher(t, name, value, kind)}}
	}
	tests := map[string]struct {
		past    past
		silence source.Silence
		want    bool
	}{
		"a label of the alert":                 {listed, silence(t, "severity", "critical"), true},
		"another value":                        {listed, silence(t, "severity", "warning"), false},
		"all of several":                       {listed, silence(t, "node", "n1", "cluster", "c1", "rack", ""), true},
		"all but one of several":               {listed, silence(t, "node", "n1", "cluster", "c2"), false},
		"a pattern":                            {listed, of("alertname", "Gpu.*", labels.MatchRegexp), true},
		"a pattern of a part":                  {listed, of("alertname", "Gpu", labels.MatchRegexp), false},
		"not equal":                            {listed, of("severity", "warning", labels.MatchNotEqual), true},
		"not equal to what it is":              {listed, of("severity", "critical", labels.MatchNotEqual), false},
		"not a pattern":                        {listed, of("alertname", "Ib.*", labels.MatchNotRegexp), true},
		"not a pattern that it is":             {listed, of("alertname", "Gpu.*", labels.MatchNotRegexp), false},
		"one of two alerts":                    {two, silence(t, "severity", "warning"), true},
		"the other of two alerts":              {two, silence(t, "severity", "critical"), true},
		"labels of different alerts":           {two, silence(t, "severity", "warning", "cluster", "c1"), false},
		"Prometheus' labels":                   {past{before: atPrometheus}, silence(t, "severity", "critical"), true},
		"Prometheus' labels of now":            {past{before: atPrometheus, after: changed}, silence(t, "severity", "warning"), true},
		"Prometheus' labels of before":         {past{before: atPrometheus, after: changed}, silence(t, "severity", "critical"), false},
		"Alertmanager's outweigh those":        {later, silence(t, "cluster", "c1"), true},
		"those do not count then":              {later, silence(t, "severity", "warning"), false},
		"nothing is known but the node":        {past{}, silence(t, "node", "n1"), true},
		"and the condition":                    {past{}, silence(t, "condition", "A"), true},
		"which names the alert too":            {past{}, silence(t, "alertname", "A", "node", "n1"), true},
		"any other label may be anything":      {past{}, silence(t, "node", "n1", "severity", "critical"), true},
		"which alone is about nothing":         {past{}, silence(t, "severity", "critical"), false},
		"which is not equal to anything":       {past{}, of("severity", "info", labels.MatchNotEqual), true},
		"the node's own name is no match then": {past{}, silence(t, "node", "n2"), false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.prometheus.tell(nil, tt.past.before...)
				w.am0.tell(nil, tt.past.am0...)
				w.am1.tell(nil, tt.past.am1...)
				w.run(t)
				before := w.resync.Observe(t.Context(), keyA)
				require.NotEqual(t, prom.PermissionSilenced, before.Permission)
				w.prometheus.tell(nil, tt.past.after...)
				w.am0.tell(nil)
				w.am1.tell(nil)
				passes(2)
				w.am1.hush(nil, tt.silence)
				want := prom.PermissionUnlisted
				if tt.want {
					want = prom.PermissionSilenced
				}
				require.Equal(t, want, w.resync.Observe(t.Context(), keyA).Permission)
				require.Equal(t, want, w.resync.Last(keyA).Permission)
			})
		})
	}
}

func TestResyncLastKnowsTheLabelsOfItsPass(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		// Nobody has asked for it, and it is not in the queue, because Prometheus does not have it.
		w.am0.tell(nil, labelled("f1", prom.StateActive, "severity", "critical"))
		w.am0.hush(nil, silence(t, "severity", "critical"))
		w.run(t)
		require.Equal(t, prom.PermissionSilenced, w.resync.Last(keyA).Permission)
	})
}

func TestResyncForgetsLabelsThatNobodyNeeds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		critical := labelled("f1", prom.StateActive, "severity", "critical")
		bystander := alert("f2", "n2", prom.StateActive) // Never asked for, and never in the queue.
		w.prometheus.tell(nil, labelled("p1", prom.StateFiring))
		w.am0.tell(nil, critical, bystander)
		w.am1.hush(nil, silence(t, "severity", "critical"))
		w.run(t)
		remembered := func() int {
			w.resync.labels.mu.Lock()
			defer w.resync.labels.mu.Unlock()
			return len(w.resync.labels.known)
		}
		silenced := func(want prom.Permission) {
			t.Helper()
			require.Equal(t, want, w.resync.Last(keyA).Permission)
		}
		w.am0.tell(nil) // Prometheus still has it, so it stays in the queue.
		passes(int(2 * labelMemoryFor / defaultInterval))
		silenced(prom.PermissionSilenced)
		require.Equal(t, 1, remembered())

		w.prometheus.tell(nil)
		passes(absentPasses)
		require.Empty(t, w.queue.Statuses("n1"))
		passes(int(labelMemoryFor/defaultInterval) - absentPasses)
		silenced(prom.PermissionSilenced)

		asked := time.Now()
		require.Equal(t, prom.PermissionSilenced, w.resync.Observe(t.Context(), keyA).Permission)
		passes(int(labelMemoryFor/defaultInterval) - 1)
		silenced(prom.PermissionSilenced)
		passes(2)
		require.Greater(t, time.Since(asked), labelMemoryFor)
		silenced(prom.PermissionUnlisted)
		require.Zero(t, remembered())
	})
}

func TestResyncMatchesSilencesWhileItReads(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.am1.hush(nil, silence(t, "severity", "critical"))
	ctx := t.Context()
	var group sync.WaitGroup
	stop := make(chan struct{})
	group.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			w.am0.tell(nil, labelled("f1", prom.StateActive, "severity", "critical", "pass", fmt.Sprint(i)))
			w.prometheus.tell(nil, labelled("p1", prom.StateFiring, "pass", fmt.Sprint(i)))
			w.resync.pass(ctx)
		}
	})
	var askers sync.WaitGroup
	for range 4 {
		askers.Go(func() {
			for range 50 {
				if p := w.resync.Observe(ctx, keyA).Permission; p != prom.PermissionSilenced {
					t.Errorf("permission %s", p)
				}
				w.resync.Last(keyA)
			}
		})
	}
	askers.Wait()
	close(stop)
	group.Wait()
}

// TestResyncHearsSilencesOfAlertmanager goes through the real client.
func TestResyncHearsSilencesOfAlertmanager(t *testing.T) {
	t.Parallel()
	const broken = `[{"id":"5b2e","status":{"state":"active"},"matchers":[{"name":"node","value":"(","isRegex":true}]}]`
	state := func(state string) string {
		return fmt.Sprintf(`[{"id":"5b2e","createdBy":"alice","comment":"riser\nswap","status":{"state":%q},
			"matchers":[{"name":"node","value":"n1|n2","isRegex":true}]}]`, state)
	}
	tests := map[string]struct {
		am0, am1 string // Their silences.
		want     prom.Permission
		reason   string
	}{
		"none":                   {"[]", "[]", "unlisted", unlisted},
		"active":                 {"[]", state("active"), "silenced", theSilence},
		"pending":                {state("pending"), state("pending"), "unlisted", unlisted},
		"expired":                {state("expired"), state("expired"), "unlisted", unlisted},
		"nonsense and an answer": {broken, state("active"), "silenced", theSilence},
		"nonsense on both":       {broken, broken, "unknown", `silence "5b2e": the matcher of label "node" is not a regular expression: "("`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := NewResync(ResyncOptions{
				Queue: New(Options{}), Classifier: byLabels{},
				Alertmanagers: map[string]AlertSource{"am-0": alertmanagerWith(t, tt.am0), "am-1": alertmanagerWith(t, tt.am1)},
			})
			require.NoError(t, err)
			r.pass(t.Context())
			finding := r.Last(keyA)
			require.Equal(t, tt.want, finding.Permission)
			require.Contains(t, finding.Reason, tt.reason)
		})
	}
}

// alertmanagerWith returns the client of a server with these silences and no alerts.
func alertmanagerWith(t *testing.T, silences string) *source.Alertmanager {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := "[]"
		if r.URL.Path == "/api/v2/silences" {
			answer = silences
		}
		if _, err := w.Write([]byte(answer)); err != nil {
			t.Errorf("answer: %v", err)
		}
	}))
	t.Cleanup(server.Close)
	a, err := source.NewAlertmanager(source.AlertmanagerOptions{URL: server.URL})
	require.NoError(t, err)
	return a
}
