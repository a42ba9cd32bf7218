package queue

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"aegis.io/aegis/queue/source"
	"aegis.io/aegis/rules/prom"
)

// byLabels translates by the labels node, condition and device, and refuses what has none.
type byLabels struct{}

var _ Classifier = byLabels{}

func (byLabels) Classify(a prom.Alert) (prom.Observation, error) {
	if a.Subject != nil && a.Subject.Condition == "Evidence" { // Of what is seen, only the node matters.
		return prom.Observation{Status: prom.AegisNodeStatus{Node: a.Labels["node"]}}, nil
	}
	if a.Labels["condition"] == "" {
		return prom.Observation{}, errors.New("not a condition")
	}
	return prom.Observation{
		Fingerprint: a.Fingerprint,
		Status: prom.AegisNodeStatus{
			Node: a.Labels["node"], Condition: a.Labels["condition"], ID: a.Labels["device"], Priority: 10, Msg: a.Annotations["summary"],
			Origin: prom.OriginAlert,
		},
		Firing:   a.EndsAt.IsZero() || a.EndsAt.After(time.Now()),
		StartsAt: a.StartsAt,
		Labels:   a.Labels,
	}, nil
}

// fakeSource answers with what it is told to, after some time.
type fakeSource struct {
	mu         sync.Mutex
	alerts     []prom.Alert
	err        error
	silences   []source.Silence
	silenceErr error
	// sightings are what it has seen of nodes. Nil means all that is asked for, just now.
	sightings []source.Sighting
	blindErr  error
	// last is how far back evidence was asked for last, and longest at most.
	last, longest time.Duration
	delay         time.Duration
	calls         int
	active        int // How many calls run now.
	most          int // How many have run at once.
}

var (
	_ AlertSource   = (*fakeSource)(nil)
	_ SilenceSource = (*fakeSource)(nil)
)

func (f *fakeSource) Alerts(ctx context.Context) ([]prom.Alert, error) {
	delay, alerts, err := f.enter()
	defer f.leave()
	if delay == 0 { // The race detector crashes when a timer of no duration is the first one of a bubble (Go 1.26).
		return alerts, err
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(delay):
		return alerts, err
	}
}

func (f *fakeSource) enter() (time.Duration, []prom.Alert, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	f.active++
	f.most = max(f.most, f.active)
	return f.delay, f.alerts, f.err
}

func (f *fakeSource) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.active--
}

// do looks at the source, or changes it, while nobody asks.
func (f *fakeSource) do(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

// tell sets the answer.
func (f *fakeSource) tell(err error, alerts ...prom.Alert) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.alerts, f.err = alerts, err
}

func (f *fakeSource) Silences(context.Context) ([]source.Silence, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.silences, f.silenceErr
}

// Evidence tells which nodes are seen.
func (f *fakeSource) Evidence(_ context.Context, r source.EvidenceRequest) ([]source.Sighting, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last, f.longest = r.Memory, max(f.longest, r.Memory)
	if f.sightings != nil || f.blindErr != nil {
		return f.sightings, f.blindErr
	}
	var all []source.Sighting
	for _, name := range r.Names {
		all = append(all, seenBy(name, "", 0))
	}
	return all, nil
}

// see sets what is seen of nodes.
func (f *fakeSource) see(err error, sightings ...source.Sighting) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sightings, f.blindErr = append([]source.Sighting{}, sightings...), err
}

// seenBy is a sighting of a node.
func seenBy(node, kind string, age time.Duration) source.Sighting {
	return source.Sighting{Labels: map[string]string{"node": node}, Source: kind, Age: age}
}

// hush sets the silences.
func (f *fakeSource) hush(err error, silences ...source.Silence) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.silences, f.silenceErr = silences, err
}

// take sets how long an answer takes.
func (f *fakeSource) take(delay time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.delay = delay
}

func (f *fakeSource) asked() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls
}

// alert is an alert of condition A on the node.
func alert(fingerprint, node string, state prom.AlertState, suppressedBy ...string) prom.Alert {
	return prom.Alert{
		Labels: map[string]string{"node": node, "condition": "A"}, Annotations: map[string]string{"summary": "broken"},
		State: state, Fingerprint: fingerprint, StartsAt: time.Now().Add(-time.Hour), SuppressedBy: suppressedBy,
	}
}

var (
	keyA      = prom.Key{Node: "n1", Condition: "A"}
	errBroken = errors.New("connection refused")
)

// world is a queue with its sources.
type world struct {
	queue      *Queue
	prometheus *fakeSource
	am0, am1   *fakeSource
	log        *bytes.Buffer
	registry   *prometheus.Registry
	resync     *Resync
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		queue: New(Options{}), prometheus: &fakeSource{}, am0: &fakeSource{}, am1: &fakeSource{},
		log: &bytes.Buffer{}, registry: prometheus.NewPedanticRegistry(),
	}
	var err error
	w.resync, err = NewResync(ResyncOptions{
		Queue: w.queue, Prometheus: w.prometheus, Classifier: byLabels{},
		Alertmanagers: map[string]AlertSource{"http://am-0": w.am0, "http://am-1": w.am1},
		Registerer:    w.registry, Logger: slog.New(slog.NewTextHandler(w.log, nil)),
	})
	require.NoError(t, err)
	return w
}

// run runs resync until the test ends, or stops it.
func (w *world) run(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.resync.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	t.Cleanup(stop)
	synctest.Wait()
	return stop
}

// passes lets so many passes happen.
func passes(n int) {
	for range n {
		time.Sleep(defaultInterval)
		synctest.Wait()
	}
}

func TestResyncOptions(t *testing.T) {
	t.Parallel()
	q := New(Options{})
	for name, o := range map[string]ResyncOptions{
		"no queue":            {Classifier: byLabels{}},
		"no classifier":       {Queue: q},
		"a negative interval": {Queue: q, Classifier: byLabels{}, Interval: -1},
		"a negative timeout":  {Queue: q, Classifier: byLabels{}, Timeout: -1},
		"no silences":         {Queue: q, Classifier: byLabels{}, Alertmanagers: map[string]AlertSource{"a": struct{ AlertSource }{}}},
	} {
		_, err := NewResync(o)
		require.Error(t, err, name)
	}
}

func TestResyncEntersWhatFiresAndIsListed(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		prometheus, am0, am1 []prom.AlertState
		want                 bool
	}{
		"firing and active":                  {[]prom.AlertState{"firing"}, []prom.AlertState{"active"}, nil, true},
		"at the other replica":               {[]prom.AlertState{"firing"}, nil, []prom.AlertState{"active"}, true},
		"suppressed is shown":                {[]prom.AlertState{"firing"}, []prom.AlertState{"suppressed"}, nil, true},
		"pending and firing elsewhere":       {[]prom.AlertState{"firing", "pending"}, []prom.AlertState{"active"}, nil, true},
		"only pending":                       {[]prom.AlertState{"pending"}, []prom.AlertState{"active"}, nil, false},
		"not listed":                         {[]prom.AlertState{"firing"}, nil, nil, false},
		"only listed":                        {nil, []prom.AlertState{"active"}, []prom.AlertState{"active"}, false},
		"nothing, which must not be an item": {nil, nil, nil, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				for source, states := range map[*fakeSource][]prom.AlertState{w.prometheus: tt.prometheus, w.am0: tt.am0, w.am1: tt.am1} {
					for i, state := range states {
						source.alerts = append(source.alerts, alert([]string{"f1", "f2"}[i], "n1", state))
					}
				}
				require.False(t, w.resync.Synced())
				w.run(t)
				require.True(t, w.resync.Synced())
				if !tt.want {
					require.Empty(t, w.queue.Snapshot())
					return
				}
				s := only(t, w.queue, "n1")
				require.Equal(t, prom.OriginResync, s.Origin)
				require.Equal(t, []string{"f1"}, s.Alerts)
				require.Equal(t, "broken", s.Msg)
				require.Equal(t, time.Now().Add(-time.Hour), s.FirstSeen)
				require.False(t, s.Contested)
			})
		})
	}
}

func TestResyncIsAHeartbeatForAWebhooksAlert(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		listed := alert("f1", "n1", prom.StateActive)
		o, err := byLabels{}.Classify(listed)
		require.NoError(t, err)
		w.queue.Observe(o)
		take(t, w.queue)
		w.queue.Done("n1", 0)
		// Prometheus knows other labels than Alertmanager, so another fingerprint.
		w.prometheus.tell(nil, alert("p1", "n1", prom.StateFiring))
		w.am0.tell(nil, listed)
		w.am1.tell(nil, listed)
		w.run(t)
		passes(3)
		s := only(t, w.queue, "n1")
		require.Equal(t, prom.OriginAlert, s.Origin)
		require.Equal(t, []string{"f1"}, s.Alerts)
		require.Equal(t, time.Now(), s.LastSeen)
		require.Empty(t, take(t, w.queue).Node, "nothing has changed")
		w.queue.Observe(resolved(o))
		require.Empty(t, w.queue.Statuses("n1"), "the webhook's resolution is of the same alert")
	})
}

// findingCase is what the sources say of keyA, and what follows.
type findingCase struct {
	prometheus, am0, am1    []prom.AlertState
	prometheusErr, e0, e1   error
	evidence                prom.Evidence
	permission              prom.Permission
	reason                  string
	suppressedBy            []string
	expired, noAlertmanager bool
	noPrometheus            bool
}

func findingCases() map[string]findingCase {
	state := func(states ...prom.AlertState) []prom.AlertState { return states }
	return map[string]findingCase{
		"all is clear": {
			prometheus: state("firing"), am0: state("active"), am1: state("active"),
			evidence: "firing", permission: "granted",
		},
		"one replica lists it": {
			prometheus: state("firing"), am1: state("active"),
			evidence: "firing", permission: "granted",
		},
		"one replica fails, the other permits": {
			prometheus: state("firing"), e0: errBroken, am1: state("active"),
			evidence: "firing", permission: "granted",
		},
		"the strongest evidence counts": {
			prometheus: state("pending", "firing", "pending"), am0: state("active"),
			evidence: "firing", permission: "granted",
		},
		"pending": {
			prometheus: state("pending"), am0: state("active"),
			evidence: "pending", permission: "granted", reason: "the alert is pending, it does not fire yet",
		},
		"stale": {
			prometheus: state("stale"), am0: state("active"),
			evidence: "unknown", permission: "granted", reason: "evidence unknown: Prometheus has only an old sample of the alert",
		},
		"one of its alerts is stale, another pending": {
			prometheus: state("stale", "pending"), am0: state("active"),
			evidence: "unknown", permission: "granted", reason: "evidence unknown: Prometheus has only an old sample of the alert",
		},
		"one of its alerts is stale, another fires": {
			prometheus: state("stale", "firing"), am0: state("active"),
			evidence: "firing", permission: "granted",
		},
		"absent and unlisted": {
			evidence: "absent", permission: "unlisted",
			reason: "Prometheus has no such alert; 2 of 2 replicas of Alertmanager answer, and none has it active",
		},
		"unlisted at the replica that answers": {
			prometheus: state("firing"), e1: errBroken,
			evidence: "firing", permission: "unlisted", reason: "1 of 2 replicas of Alertmanager answer, and none has it active",
		},
		"silenced on one replica": {
			prometheus: state("firing"), am0: state("active"), am1: state("suppressed"), suppressedBy: []string{"silence y", "silence x", "silence y"},
			evidence: "firing", permission: "silenced", reason: "suppressed at Alertmanager by silence x, silence y",
		},
		"one of its alerts is silenced": {
			prometheus: state("firing"), am0: state("suppressed", "active"),
			evidence: "firing", permission: "silenced", reason: "suppressed at Alertmanager",
		},
		"silenced, the other replica fails": {
			prometheus: state("firing"), am0: state("suppressed"), e1: errBroken,
			evidence: "firing", permission: "silenced", reason: "suppressed at Alertmanager",
		},
		"ended by the clock of Aegis, listed as active": {
			prometheus: state("firing"), am0: state("active"), expired: true,
			evidence: "firing", permission: "granted",
		},
		"no replica answers": {
			prometheus: state("firing"), e0: errBroken, e1: errors.New("later"),
			evidence: "firing", permission: "unknown", reason: "permission unknown: no Alertmanager answers: connection refused",
		},
		"Prometheus fails": {
			prometheusErr: errBroken, am0: state("active"),
			evidence: "unknown", permission: "granted", reason: "evidence unknown: connection refused",
		},
		"no Prometheus is configured": {
			am0: state("active"), noPrometheus: true,
			evidence: "unknown", permission: "granted", reason: "evidence unknown: no Prometheus is configured",
		},
		"no Alertmanager is configured": {
			prometheus: state("firing"), noAlertmanager: true,
			evidence: "firing", permission: "unknown", reason: "permission unknown: no Alertmanager is configured",
		},
	}
}

func TestResyncFindings(t *testing.T) {
	t.Parallel()
	for name, tt := range findingCases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				var since time.Time
				if tt.evidence == prom.EvidenceFiring {
					since = alert("a", "n1", prom.StateFiring).StartsAt
				}
				fill := func(f *fakeSource, err error, states []prom.AlertState) {
					f.err = err
					for i, s := range states {
						a := alert(string(rune('a'+i)), "n1", s)
						if tt.expired {
							a.EndsAt = time.Now()
						}
						if s == prom.StateSuppressed {
							a.SuppressedBy = tt.suppressedBy
						}
						f.alerts = append(f.alerts, a)
					}
				}
				fill(w.prometheus, tt.prometheusErr, tt.prometheus)
				fill(w.am0, tt.e0, tt.am0)
				fill(w.am1, tt.e1, tt.am1)
				o := ResyncOptions{Queue: w.queue, Classifier: byLabels{}}
				if !tt.noPrometheus {
					o.Prometheus = w.prometheus
				}
				if !tt.noAlertmanager {
					o.Alertmanagers = map[string]AlertSource{"a": w.am0, "b": w.am1}
				}
				var err error
				w.resync, err = NewResync(o)
				require.NoError(t, err)
				w.run(t)
				var seen time.Time
				if tt.evidence == prom.EvidenceAbsent {
					seen = time.Now()
				}
				require.Equal(t, prom.Finding{
					Evidence: tt.evidence, Permission: tt.permission, Unlisted: tt.permission == prom.PermissionUnlisted,
					Reason: tt.reason, At: time.Now(), Since: since, Seen: seen,
				}, w.resync.Observe(t.Context(), keyA))
				if tt.evidence == "unknown" || tt.permission == "unknown" {
					require.Empty(t, w.queue.Snapshot(), "an unknown pass changes nothing")
				}
			})
		})
	}
}

// panicking is a source whose answer makes its reader panic.
type panicking struct{ *fakeSource }

func (panicking) Alerts(context.Context) ([]prom.Alert, error) { panic("index out of range") }

// A panic over the answer of a source is an answer that nothing is known by, and ends neither the pass nor the process.
func TestASourceThatPanicsGivesNoAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, err := NewResync(ResyncOptions{
			Queue: New(Options{}), Prometheus: panicking{}, Classifier: byLabels{},
			Alertmanagers: map[string]AlertSource{"am": &fakeSource{}},
		})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		synctest.Wait()
		require.True(t, r.Synced())
		last := r.Last(keyA)
		require.Equal(t, prom.EvidenceUnknown, last.Evidence)
		require.Contains(t, last.Reason, "reading the answer panicked: index out of range")
		cancel()
		require.NoError(t, <-ended)
	})
}

func TestResyncWithdrawsWhatNoSourceHas(t *testing.T) {
	t.Parallel()
	other := alert("f9", "n9", prom.StateActive)
	type round struct {
		prometheusErr, am0Err error
		prometheus, am0, am1  []prom.Alert
		webhook               bool
	}
	here := []prom.Alert{alert("f1", "n1", prom.StateActive)}
	untranslatable := []prom.Alert{{Labels: map[string]string{"alertname": "X"}, Fingerprint: "f1", State: prom.StateActive}}
	pending := []prom.Alert{alert("p1", "n1", prom.StatePending)}
	gone := round{am0: []prom.Alert{other}}
	tests := map[string]struct {
		rounds []round
		want   bool // That it stays.
	}{
		"once is not enough":                  {[]round{gone}, true},
		"twice in a row":                      {[]round{gone, gone}, false},
		"an unknown pass between":             {[]round{gone, {prometheusErr: errBroken}, gone}, true},
		"and then twice":                      {[]round{gone, {prometheusErr: errBroken}, gone, gone}, false},
		"one replica does not answer":         {[]round{gone, {am0Err: errBroken}, gone}, true},
		"never while one replica is silent":   {[]round{{am0Err: errBroken}, {am0Err: errBroken}, {am0Err: errBroken}}, true},
		"never while Prometheus is silent":    {[]round{{prometheusErr: errBroken}, {prometheusErr: errBroken}}, true},
		"one replica still has it":            {[]round{gone, {am1: here}, gone}, true},
		"pending at Prometheus":               {[]round{gone, {prometheus: pending}, gone}, true},
		"listed, but it means nothing now":    {[]round{gone, {am1: untranslatable}, gone}, true},
		"reported by the webhook in between":  {[]round{gone, {webhook: true}, gone}, true},
		"and then absent twice":               {[]round{gone, {webhook: true}, gone, gone}, false},
		"another alert of the same condition": {[]round{gone, {am1: []prom.Alert{alert("f2", "n1", prom.StateActive)}}, gone}, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				o := firing("f1", "n1", "A")
				w.queue.Observe(o)
				time.Sleep(time.Second)
				for i, r := range tt.rounds {
					w.prometheus.tell(r.prometheusErr, r.prometheus...)
					w.am0.tell(r.am0Err, r.am0...)
					w.am1.tell(nil, r.am1...)
					if r.webhook {
						// While the pass reads: what it reads is older.
						w.prometheus.take(time.Second)
						time.AfterFunc(defaultInterval+time.Millisecond, func() { w.queue.Observe(o) })
					}
					if i == 0 {
						w.run(t)
						continue
					}
					passes(1)
					time.Sleep(2 * time.Second)
				}
				require.Equal(t, tt.want, len(w.queue.Statuses("n1")) == 1)
			})
		})
	}
}

func TestResyncConfirmsWhatWasContested(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		prometheus prom.AlertState
		am0        string
		am0Err     error
		want       bool // That it stays contested.
	}{
		"both sources have it":    {prometheus: prom.StateFiring, am0: "f1"},
		"only pending":            {prometheus: prom.StatePending, am0: "f1", want: true},
		"not listed":              {prometheus: prom.StateFiring, want: true},
		"no Alertmanager answers": {prometheus: prom.StateFiring, am0: "f1", am0Err: errBroken, want: true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				o := firing("f1", "n1", "A")
				w.queue.Observe(o, resolved(o), o)
				require.True(t, only(t, w.queue, "n1").Contested)
				time.Sleep(time.Second)
				w.prometheus.tell(nil, alert("p1", "n1", tt.prometheus))
				if tt.am0 != "" {
					w.am0.tell(tt.am0Err, alert(tt.am0, "n1", prom.StateActive))
				}
				w.am1.tell(tt.am0Err)
				w.run(t)
				require.Equal(t, tt.want, only(t, w.queue, "n1").Contested)
			})
		})
	}
}

func TestResyncDoesNotOverruleWhatHappensWhileItReads(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		meanwhile []bool // What the webhook says while the pass reads: firing or not.
		want      int    // How many statuses there are.
		contested bool
	}{
		"nothing":                     {want: 1},
		"it resolves":                 {meanwhile: []bool{false}},
		"it resolves and fires again": {meanwhile: []bool{false, true}, want: 1, contested: true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				listed := alert("f1", "n1", prom.StateActive)
				w.prometheus.tell(nil, alert("p1", "n1", prom.StateFiring))
				w.am0.tell(nil, listed)
				w.prometheus.take(4 * time.Second)
				o, err := byLabels{}.Classify(listed)
				require.NoError(t, err)
				w.queue.Observe(o)
				w.run(t)
				for _, fires := range tt.meanwhile {
					time.Sleep(time.Second)
					o.Firing = fires
					w.queue.Observe(o)
				}
				time.Sleep(5 * time.Second)
				statuses := w.queue.Statuses("n1")
				require.Len(t, statuses, tt.want)
				require.Equal(t, tt.contested, tt.want == 1 && statuses[0].Contested)
				passes(1)
				time.Sleep(5 * time.Second)
				require.False(t, only(t, w.queue, "n1").Contested, "the next pass is newer than the webhook")
			})
		})
	}
}

func TestResyncObserveSharesThePassThatBeginsNext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.prometheus.take(5 * time.Second)
		w.am0.tell(nil, alert("f1", "n1", prom.StateActive))
		w.run(t) // The first pass reads now, and finds nothing.
		time.Sleep(time.Second)
		w.prometheus.tell(nil, alert("p1", "n1", prom.StateFiring))
		asked := time.Now()
		var group sync.WaitGroup
		for range 20 {
			group.Go(func() {
				f := w.resync.Observe(t.Context(), keyA)
				if f.Evidence != prom.EvidenceFiring || f.Permission != prom.PermissionGranted || f.At.Before(asked) {
					t.Errorf("finding of an older pass: %+v", f)
				}
			})
		}
		group.Wait()
		require.Equal(t, 9*time.Second+maxRest, time.Since(asked), "the rest of the first pass, then one more")
		time.Sleep(time.Second)
		require.Equal(t, 2, w.prometheus.asked(), "all shared one pass")
		require.Equal(t, 1, w.prometheus.most, "passes do not overlap")
	})
}

func TestResyncTriggersAreOnePass(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.am0.take(time.Second)
		w.resync.Trigger() // Served by the first pass.
		w.run(t)
		time.Sleep(5 * time.Second)
		require.Equal(t, 1, w.prometheus.asked())
		for range 10 {
			w.resync.Trigger()
		}
		time.Sleep(10 * time.Second)
		require.Equal(t, 2, w.prometheus.asked())
		passes(2)
		require.Equal(t, 4, w.prometheus.asked())
	})
}

func TestResyncObserveEndsWithoutAPass(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		finding := w.resync.Observe(ctx, keyA)
		require.Equal(t, prom.Finding{
			Evidence: prom.EvidenceUnknown, Permission: prom.PermissionUnknown, At: time.Now(),
			Reason: "no pass of resync ended in time: context deadline exceeded",
		}, finding)
	})
}

func TestResyncStopsWithItsContext(t *testing.T) {
	t.Parallel()
	for name, delay := range map[string]time.Duration{"in a pass": 5 * time.Second, "between passes": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.prometheus.take(delay)
				ctx, cancel := context.WithCancelCause(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- w.resync.Run(ctx) }()
				synctest.Wait()
				require.EqualError(t, w.resync.Run(ctx), "resync runs already")
				findings := make(chan prom.Finding, 1)
				if delay > 0 {
					go func() { findings <- w.resync.Observe(t.Context(), keyA) }()
					synctest.Wait()
				}
				require.Equal(t, delay == 0, w.resync.Synced(), "a pass that has not ended is none")
				cancel(errors.New("lost the lease"))
				require.NoError(t, <-ended)
				require.False(t, w.resync.Synced(), "an interrupted pass is none, and nobody leads any more")
				require.Empty(t, w.log.String(), "and no source is to blame")
				if delay > 0 {
					require.Equal(t, prom.EvidenceUnknown, (<-findings).Evidence)
				}
				w.prometheus.take(0)
				w.run(t)
				require.True(t, w.resync.Synced(), "it can run again")
			})
		})
	}
}

func TestResyncBoundsAPass(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.am1.take(time.Hour)
		w.prometheus.tell(nil, alert("p1", "n1", prom.StateFiring))
		w.am0.tell(nil, alert("f1", "n1", prom.StateActive))
		w.run(t)
		start := time.Now()
		finding := w.resync.Observe(t.Context(), keyA)
		require.Equal(t, 2*defaultTimeout+maxRest, time.Since(start), "the rest of the first pass, then one more")
		require.Equal(t, prom.PermissionGranted, finding.Permission, "one replica has answered")
		require.True(t, w.resync.Synced())
	})
}

func TestResyncReadsTheSourcesAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for _, f := range []*fakeSource{w.prometheus, w.am0, w.am1} {
			f.take(3 * time.Second)
		}
		w.run(t)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		require.True(t, w.resync.Synced())
	})
}

func TestResyncLogsChangesOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.run(t)
		passes(3)
		require.Empty(t, w.log.String())
		w.am0.tell(errBroken)
		passes(3)
		w.am0.tell(nil)
		w.prometheus.tell(errors.New("no canary"))
		passes(3)
		var lines []string
		for line := range strings.Lines(w.log.String()) {
			_, text, _ := strings.Cut(line, " level=")
			lines = append(lines, strings.TrimSpace(text))
		}
		require.Equal(t, []string{
			`WARN msg="source gives no answer" component=resync source=http://am-0 err="connection refused"`,
			`WARN msg="source gives no answer" component=resync source=prometheus err="no canary"`,
			`INFO msg="source answers again" component=resync source=http://am-0`,
		}, lines)
	})
}

func TestResyncMetrics(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.run(t) // All answer, at midnight of 2000-01-01.
		w.am0.tell(errBroken)
		passes(2)
		want := strings.NewReader(`
# HELP aegis_resync_last_success_timestamp_seconds When the last pass in which every source answered ended.
# TYPE aegis_resync_last_success_timestamp_seconds gauge
aegis_resync_last_success_timestamp_seconds 9.466848e+08
# HELP aegis_resync_total Reads of a source by resync. A result of unknown means that the source gave no reliable answer.
# TYPE aegis_resync_total counter
aegis_resync_total{result="ok",source="alertmanager"} 4
aegis_resync_total{result="ok",source="prometheus"} 3
aegis_resync_total{result="unknown",source="alertmanager"} 2
aegis_resync_total{result="unknown",source="prometheus"} 0
`)
		require.NoError(t, testutil.GatherAndCompare(w.registry, want, "aegis_resync_total", "aegis_resync_last_success_timestamp_seconds"))
		count, err := testutil.GatherAndCount(w.registry, "aegis_resync_duration_seconds")
		require.NoError(t, err)
		require.Equal(t, 1, count)
	})
}

func TestResyncRemembersTheLastPass(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		require.Equal(t, prom.EvidenceUnknown, w.resync.Last(keyA).Evidence)
		require.Zero(t, w.resync.Last(keyA).At)
		w.prometheus.tell(nil, alert("p1", "n1", prom.StateFiring))
		w.am0.tell(nil, alert("f1", "n1", prom.StateActive))
		began := time.Now()
		w.run(t)
		f := w.resync.Last(keyA)
		require.Equal(t, prom.EvidenceFiring, f.Evidence)
		require.Equal(t, prom.PermissionGranted, f.Permission)
		require.Equal(t, began, f.At)
	})
}
