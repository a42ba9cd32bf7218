package policy

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestWindows(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name           string
		days           []string
		from, to, zone string
		now            string
		open           bool
		next           string
	}{
		{"inside", nil, "08:00", "10:00", "", "2026-11-23T09:00:00Z", true, "2026-11-24T08:00:00Z"},
		{"opens", nil, "08:00", "10:00", "", "2026-11-23T08:00:00Z", true, "2026-11-24T08:00:00Z"},
		{"closes", nil, "08:00", "10:00", "", "2026-11-23T10:00:00Z", false, "2026-11-24T08:00:00Z"},
		{"before", nil, "08:00", "10:00", "", "2026-11-23T07:59:59Z", false, "2026-11-23T08:00:00Z"},
		{"zone", nil, "08:00", "10:00", "Europe/Berlin", "2026-11-23T07:30:00Z", true, "2026-11-24T07:00:00Z"},
		{"another date there", nil, "08:00", "10:00", "Asia/Tokyo", "2026-11-23T23:30:00Z", true, "2026-11-24T23:00:00Z"},
		{"over midnight, evening", []string{"Mon"}, "22:00", "06:00", "", "2026-11-23T23:00:00Z", true, "2026-11-30T22:00:00Z"},
		{"over midnight, the morning after", []string{"mon"}, "22:00", "06:00", "", "2026-11-24T05:59:00Z", true, "2026-11-30T22:00:00Z"},
		{"over midnight, the morning of the day", []string{"Monday"}, "22:00", "06:00", "", "2026-11-23T05:00:00Z", false, "2026-11-23T22:00:00Z"},
		{"another day", []string{"Sat", "Sun"}, "00:00", "24:00", "", "2026-11-23T12:00:00Z", false, "2026-11-28T00:00:00Z"},
		{"the whole day", []string{"Sun"}, "00:00", "24:00", "", "2026-11-29T23:59:59Z", true, "2026-12-06T00:00:00Z"},
		{"from a time to the same", nil, "12:00", "12:00", "", "2026-11-23T11:00:00Z", true, "2026-11-23T12:00:00Z"},
		{"summer time begins", nil, "02:30", "04:00", "Europe/Berlin", "2026-03-29T01:45:00Z", true, "2026-03-30T00:30:00Z"},
		{"summer time ends", nil, "01:00", "03:00", "Europe/Berlin", "2026-10-25T01:30:00Z", true, "2026-10-26T00:00:00Z"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w, err := ParseWindow(tt.days, tt.from, tt.to, tt.zone)
			require.NoError(t, err)
			now, err := time.Parse(time.RFC3339, tt.now)
			require.NoError(t, err)
			require.Equal(t, tt.open, w.open(now))
			require.Equal(t, tt.next, w.next(now).UTC().Format(time.RFC3339))
		})
	}
}

func TestBadWindows(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		day, from, to, zone, says string
	}{
		{"Montag", "08:00", "10:00", "", `day "Montag" is unknown: use Mon, Tue, Wed, Thu, Fri, Sat or Sun`},
		{"Mon", "8:00", "10:00", "", `from "8:00" is not a time of day: use one such as 22:00`},
		{"Mon", "08:00", "10h", "", `to "10h" is not a time of day`},
		{"Mon", "08:00", "24:01", "", `to "24:01" is not a time of day`},
		{"Mon", "08:60", "10:00", "", `from "08:60" is not a time of day`},
		{"Mon", "08:00", "10:00", "Berlin", `timeZone "Berlin" is unknown: use a name such as Europe/Berlin`},
		{"Mon", "08:00", "10:00", "Local", `timeZone "Local" is unknown`},
	} {
		_, err := ParseWindow([]string{tt.day}, tt.from, tt.to, tt.zone)
		require.ErrorContains(t, err, tt.says)
	}
}

func TestPoolWithoutWindowsIsAlwaysOpen(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	require.Empty(t, Pool{}.OutsideWindows(now))
	late, err := ParseWindow(nil, "22:00", "23:00", "Europe/Berlin")
	require.NoError(t, err)
	early, err := ParseWindow(nil, "20:00", "21:00", "Europe/Berlin")
	require.NoError(t, err)
	pool := Pool{Name: "a100", Windows: []Window{late, early}}
	require.Equal(t, "outside the maintenance windows of pool a100, the next one opens at Mon 2026-11-23 20:00 CET", pool.OutsideWindows(now))
	require.Empty(t, pool.OutsideWindows(now.Add(7*time.Hour+30*time.Minute)))
}
