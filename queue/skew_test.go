package queue

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

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
