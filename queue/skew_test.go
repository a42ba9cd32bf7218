package queue

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/queue/source"
	"aegis.io/aegis/rules/prom"
)

// Alertmanager lists no alert that has ended by its own clock. Where the clock of Aegis is ahead by more than the four minutes for which
// Prometheus sends an alert, every alert that is listed seems to have ended, and is not gone for that.
func TestAnAlertThatIsListedIsNotGoneByTheClockOfAegis(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSeeing(t)
		s.prometheus.see(nil, seenBy("n1", "x", fresh)) // The half of a pair that has no such alert. The other one is not asked.
		listed := alert("f", "n1", prom.StateActive)
		listed.EndsAt = time.Now().Add(-time.Minute) // Sent a second ago: in four minutes, by a clock that is five behind.
		s.am0.tell(nil, listed)
		s.am1.tell(nil, listed)
		s.run(t)
		evidence, reason := s.observe(t, keyA)
		require.NotEqual(t, prom.EvidenceAbsent, evidence, "both Alertmanagers list it as active: %s", reason)
	})
}

// Since when a condition holds is told on the clock of Aegis, as is when its node was seen: confirmFor is compared with it before a
// destructive step, and a Prometheus whose clock is behind does not make a fault of ten seconds one of ten minutes.
func TestSinceIsToldOnTheClockOfAegis(t *testing.T) {
	t.Parallel()
	const behind = 10 * time.Minute
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		now := float64(time.Now().Add(-behind).UnixMilli()) / 1000
		sample := func(labels string, value float64) string {
			return fmt.Sprintf(`{"metric":{%s},"value":[%.3f,"%.3f"]}`, labels, now, value)
		}
		fmt.Fprintf(w, `{"status":"success","data":{"resultType":"vector","result":[%s,%s,%s]}}`,
			sample(`"alertname":"Watchdog","alertstate":"firing"`, now), sample(`"alertname":"A","condition":"A","node":"n1","alertstate":"firing"`, now),
			sample(`"__name__":"ALERTS_FOR_STATE","alertname":"A","condition":"A","node":"n1"`, now-10))
	}))
	t.Cleanup(server.Close)
	p, err := source.NewPrometheus(source.PrometheusOptions{URL: server.URL, Starts: true})
	require.NoError(t, err)
	r, err := NewResync(ResyncOptions{Queue: New(Options{}), Prometheus: p, Classifier: byLabels{}, Permission: PermitPrometheus})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	f := r.Observe(t.Context(), keyA)
	cancel()
	require.NoError(t, <-ended)
	require.Equal(t, prom.EvidenceFiring, f.Evidence, f.Reason)
	require.InDelta(t, 10, time.Since(f.Since).Seconds(), 5, "the expression has held for ten seconds")
}
