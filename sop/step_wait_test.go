package sop

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/rules/prom"
)

func TestVerification(t *testing.T) {
	t.Parallel()
	const (
		f = prom.EvidenceFiring
		a = prom.EvidenceAbsent
		u = prom.EvidenceUnknown
		p = prom.EvidencePending
	)
	tests := []struct {
		name string
		// answers come a minute apart; clear takes three minutes, the whole ten.
		answers          []prom.Evidence
		cleared, expired int
	}{
		{"gone at once", []prom.Evidence{a, a, a, a}, 4, 0},
		{"unknown restarts the clock", []prom.Evidence{a, a, a, u, a, a, a, a}, 8, 0},
		{"pending is not gone", []prom.Evidence{a, a, a, p, a, a, a, a}, 8, 0},
		{"never gone", []prom.Evidence{f, f, f, f, f, f, f, f, f, f, f}, 0, 11},
		{"unknown does not count", []prom.Evidence{f, u, u, u, u, u, u, u, u, u, u, u, u, u, f}, 0, 0},
		{"gone late is given its time", []prom.Evidence{f, f, f, f, f, f, f, f, f, a, a, a, a}, 13, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			v := verification{clearFor: 3 * time.Minute, within: 10 * time.Minute}
			now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
			cleared, expired := 0, 0
			for i, answer := range tt.answers {
				done := v.observe(now.Add(time.Duration(i)*time.Minute), prom.Finding{Evidence: answer})
				if done && cleared == 0 {
					cleared = i + 1
				}
				if v.expired() && expired == 0 {
					expired = i + 1
				}
			}
			require.Equal(t, tt.cleared, cleared, "cleared")
			require.Equal(t, tt.expired, expired, "expired")
		})
	}
}
