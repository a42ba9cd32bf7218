package queue

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

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
		site := prom.Key{Node: "n1", Condition: "Site"}
		// The exporter that shows the fault, and the target of another one that is up.
		s.prometheus.see(nil, seenBy("n1", "fans", fresh), seenBy("n1", "", fresh))
		s.run(t)
		evidence, reason := s.observe(t, site)
		require.Equal(t, prom.EvidenceAbsent, evidence, reason)
		s.prometheus.see(nil, seenBy("n1", "", fresh))
		passes(absentPasses)
		evidence, reason = s.observe(t, site)
		require.Equal(t, prom.EvidenceUnknown, evidence, "the exporter that reported has gone silent: %s", reason)
	})
}
