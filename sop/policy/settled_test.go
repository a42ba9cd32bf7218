package policy

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/ticket"
)

// Whether an incident was about an event goes by the starts of alerts, and by when it was opened: what began before was dealt with in it.
func TestWhatAnIncidentWasAbout(t *testing.T) {
	t.Parallel()
	start := noon()
	tests := map[string]struct {
		opened, startsAt, firstSeen time.Time
		want                        bool
	}{
		"its own alert":                       {start.Add(time.Minute), start, start, true},
		"by a leader that is behind":          {start.Add(-5 * time.Minute), start, start, true},
		"as another replica dates it":         {start.Add(-5 * time.Minute), start, start.Add(time.Minute), true},
		"the next one":                        {start.Add(time.Minute), start, start.Add(10 * time.Minute), false},
		"the next one, by one that is behind": {start.Add(-5 * time.Minute), start, start.Add(10 * time.Minute), false},
		"it began again before it had a turn": {start.Add(time.Hour), start, start.Add(30 * time.Minute), true},
		"of an older version":                 {start.Add(time.Minute), time.Time{}, start, true},
		"the next one, of an older version":   {start.Add(time.Minute), time.Time{}, start.Add(10 * time.Minute), false},
		"within the second":                   {start, time.Time{}, start.Add(900 * time.Millisecond), true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := situation(nil).Status
			s.FirstSeen = tt.firstSeen
			require.Equal(t, tt.want, about(ticket.Incident{Opened: tt.opened, StartsAt: tt.startsAt}, s))
		})
	}
}
