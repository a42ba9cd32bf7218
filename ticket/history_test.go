package ticket

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func incident(id string) Incident {
	return Incident{
		ID: id, Condition: "GpuHung", Device: "3", SOP: "gpu/hung", Opened: noon, StartsAt: noon.Add(time.Minute), Closed: noon.Add(time.Hour), Outcome: "resolved", Isolated: true,
		Destructive: []Destructive{{Action: Reboot, At: noon.Add(time.Minute)}, {Action: Shutdown}},
	}
}

func TestHistoryEncode(t *testing.T) {
	t.Parallel()
	h := &History{Incidents: []Incident{incident("a"), {ID: "b"}}}
	text, err := h.Encode()
	require.NoError(t, err)
	require.Equal(t, `- id: a
  condition: GpuHung
  device: "3"
  sop: gpu/hung
  opened: 2026-11-23T12:00:00Z
  startsAt: 2026-11-23T12:01:00Z
  closed: 2026-11-23T13:00:00Z
  outcome: resolved
  isolated: true
  destructive:
    - reboot 2026-11-23T12:01:00Z
    - shutdown
- id: b
`, text)
	back, err := ParseHistory(text)
	require.NoError(t, err)
	require.Equal(t, h, back)
}

func TestParseHistoryOfNothing(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", " \n", "|\n", "[]", "null", "# nothing yet"} {
		h, err := ParseHistory(text)
		require.NoError(t, err, text)
		require.Equal(t, &History{}, h, text)
	}
}

func TestParseHistorySaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, want string }{
		"a map":            {"id: a", "line 1: want a list of incidents"},
		"words":            {"- a", "incident 1: line 1: want fields of the form name: value"},
		"time":             {"- id: a\n- opened: soon", `incident 2: line 2: opened: "soon" is not a time, want one such as 2006-01-02T15:04:05Z`},
		"isolated":         {"- isolated: maybe", `incident 1: line 1: isolated: "maybe" is neither true nor false`},
		"text":             {"- id: [a]", "incident 1: line 1: id: want text on one line, not a list and no further fields"},
		"destructive":      {"- destructive: reboot", "incident 1: line 1: destructive: want a list of actions, each with its time"},
		"a step's time":    {"- destructive: [reboot now]", `incident 1: line 1: destructive: item 1: "now" is not a time, want one such as 2006-01-02T15:04:05Z`},
		"a step's fields":  {"- destructive: [{reboot: now}]", "incident 1: line 1: destructive: item 1: want text on one line, not a list and no further fields"},
		"earlier, no list": {"- earlier: 2020-01-01T00:00:00Z", "incident 1: line 1: earlier: want a list of times"},
		"earlier, no time": {"- earlier: [soon]", `incident 1: line 1: earlier: item 1: "soon" is not a time, want one such as 2006-01-02T15:04:05Z`},
		"a step of blanks": {"- destructive: ['']", `incident 1: line 1: destructive: item 1: "" is not a destructive step, want one such as reboot 2006-01-02T15:04:05Z`},
		"no YAML":          {"- [", "invalid YAML: line 1: did not find expected node content"},
		"anchors":          {"- &a {}", "line 1: anchors (&) and aliases (*) are not allowed, write the value out"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, err := ParseHistory(c.text)
			require.Nil(t, h)
			require.ErrorIs(t, err, ErrBroken)
			require.EqualError(t, err, "annotation aegis.io/ticket-history cannot be read: "+c.want)
		})
	}
}

func TestHistoryAddKeepsTheNewest(t *testing.T) {
	t.Parallel()
	h := &History{}
	for i := range 25 {
		h.Add(incident(fmt.Sprint(i)))
	}
	require.Len(t, h.Incidents, MaxIncidents)
	require.Equal(t, "5", h.Incidents[0].ID)
	require.Equal(t, "24", h.Incidents[19].ID)
}

// However many incidents without a destructive step come, those with one stay, by number and by size.
func TestHistoryForgetsLastWhatDestroyed(t *testing.T) {
	t.Parallel()
	for name, words := range map[string]int{"by number": 8, "by size": 900} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := &History{}
			for i := range 3 {
				h.Add(incident(fmt.Sprint("boot-", i)))
			}
			for i := range 2 * MaxIncidents {
				h.Add(Incident{ID: fmt.Sprint("removed-", i), Outcome: Removed, Reason: strings.Repeat("x", words)})
				text, err := h.Encode()
				require.NoError(t, err)
				h, err = ParseHistory(text)
				require.NoError(t, err)
				require.Equal(t, fmt.Sprint("removed-", i), h.Incidents[len(h.Incidents)-1].ID)
			}
			require.LessOrEqual(t, len(h.Incidents), MaxIncidents)
			for i := range 3 {
				require.Equal(t, fmt.Sprint("boot-", i), h.Incidents[i].ID)
			}
		})
	}
}

// A destructive step of long ago does not keep what happens now out of the history.
// An incident is forgotten a year after its end, when the next one is remembered. One whose end nobody knows is kept.
func TestHistoryForgetsWhatIsOld(t *testing.T) {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	h := &History{Incidents: []Incident{
		{ID: "unknown"},
		{ID: "old", Closed: now.Add(-MaxIncidentAge - time.Second), Destructive: []Destructive{{Action: Reboot, At: now.Add(-MaxIncidentAge - time.Hour)}}},
		{ID: "kept", Closed: now.Add(-MaxIncidentAge)},
	}}
	h.Add(Incident{ID: "new", Closed: now})
	var kept []string
	for _, in := range h.Incidents {
		kept = append(kept, in.ID)
	}
	require.Equal(t, []string{"unknown", "kept", "new"}, kept)
}

func TestOldBootsMakeRoom(t *testing.T) {
	t.Parallel()
	h := &History{}
	long := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range MaxIncidents {
		h.Add(Incident{ID: fmt.Sprint("boot-", i), Outcome: Resolved, Closed: long, Destructive: []Destructive{{Reboot, long}}})
	}
	for i := range 5 {
		h.Add(Incident{ID: fmt.Sprint("check-", i), Outcome: Removed, Closed: long.Add(DestructiveCounts + time.Hour)})
	}
	require.Len(t, h.Incidents, MaxIncidents)
	require.Equal(t, "boot-5", h.Incidents[0].ID)
	require.Equal(t, "check-0", h.Incidents[MaxIncidents-5].ID)
}

// Notes of one fault make room by becoming times of the next, those of others by being forgotten, the oldest first.
func TestNotesOfOneFaultAreFolded(t *testing.T) {
	t.Parallel()
	h, err := ParseHistory("- {id: first, outcome: noted, condition: Xid, device: '0', closed: 2026-01-01T00:00:00Z, blame: fan}")
	require.NoError(t, err)
	first := h.Incidents[0].Closed
	note := func(id, device string, after time.Duration) {
		h.Add(Incident{ID: id, Condition: "Xid", Device: device, Outcome: Noted, Closed: first.Add(after)})
	}
	for i := range MaxNotes - 1 {
		note(fmt.Sprint("other-", i), fmt.Sprint("1", i), time.Hour)
	}
	note("second", "0", 2*time.Hour)
	require.Len(t, h.Incidents, MaxNotes)
	last := h.Incidents[MaxNotes-1]
	require.Equal(t, []time.Time{first, first.Add(2 * time.Hour)}, last.Times())
	text, err := h.Encode()
	require.NoError(t, err)
	require.Contains(t, text, "blame: fan")
	require.Contains(t, text, "earlier:\n    - 2026-01-01T00:00:00Z\n")
	note("other", "x", 3*time.Hour)
	require.Equal(t, "other-1", h.Incidents[0].ID, "no fault was noted twice, so the oldest goes")
	for i := range 20 {
		note(fmt.Sprint("again-", i), "0", time.Duration(4+i)*time.Hour)
	}
	require.Len(t, h.Incidents, MaxNotes)
	require.Len(t, h.Incidents[MaxNotes-1].Times(), maxEarlier+1)
}

func TestHistoryAddReplacesInPlace(t *testing.T) {
	t.Parallel()
	h, err := ParseHistory("- {id: a, outcome: handed over, blame: fan}\n- {id: b}\n- {}\n")
	require.NoError(t, err)
	h.Add(incident("a"))
	h.Add(Incident{})
	require.Len(t, h.Incidents, 4, "incidents without identity are never the same")
	text, err := h.Encode()
	require.NoError(t, err)
	require.Contains(t, text, "outcome: resolved")
	require.Contains(t, text, "blame: fan")
	require.NotContains(t, text, "handed over")
	require.Less(t, strings.Index(text, "id: a"), strings.Index(text, "id: b"))
}

func TestHistoryEncodeHoldsItsLimits(t *testing.T) {
	t.Parallel()
	h := &History{}
	for i := range 30 {
		in := incident(fmt.Sprint(i))
		in.Outcome = strings.Repeat("x", 400)
		h.Incidents = append(h.Incidents, in)
	}
	text, err := h.Encode()
	require.NoError(t, err)
	require.LessOrEqual(t, len(text), MaxHistoryBytes)
	require.Greater(t, len(text), MaxHistoryBytes-800, "no more is forgotten than needed")
	got, err := ParseHistory(text)
	require.NoError(t, err)
	require.Equal(t, "29", got.Incidents[len(got.Incidents)-1].ID, "the oldest go first")

	small := &History{}
	for i := range 30 {
		small.Incidents = append(small.Incidents, Incident{ID: fmt.Sprint(i)})
	}
	text, err = small.Encode()
	require.NoError(t, err)
	require.Equal(t, MaxIncidents, strings.Count(text, "id:"))
}

func TestHistoryEncodeRefuses(t *testing.T) {
	t.Parallel()
	_, err := (&History{Incidents: []Incident{{Outcome: strings.Repeat("x", 9000)}}}).Encode()
	require.ErrorIs(t, err, ErrTooLarge)
	_, err = (&History{Incidents: []Incident{{Opened: time.Unix(-1, 0)}}}).Encode()
	require.ErrorContains(t, err, `encode history: incident 1: line 1: opened: "1969-12-31T23:59:59Z" is not a time`)
}

func TestHistoryClone(t *testing.T) {
	t.Parallel()
	h := &History{Incidents: []Incident{incident("a")}}
	c := h.Clone()
	require.Equal(t, h, c)
	c.Incidents[0].Destructive[0].Action = Reset
	c.Add(incident("b"))
	require.Equal(t, &History{Incidents: []Incident{incident("a")}}, h)
}

func FuzzParseHistory(f *testing.F) {
	for _, seed := range []string{
		"", "|\n  - id: a", "- {id: a, opened: 2020-01-01T00:00:00Z, destructive: [reboot 2020-01-01T00:00:00Z, Reset], by: {x: [1]}}",
		"- {earlier: [2020-01-01T00:00:00Z, null]}", "- ", "- {}\n- destructive: ['a  b']", "[[]]", "{}",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		first, err := ParseHistory(text)
		if err != nil {
			require.ErrorIs(t, err, ErrBroken)
			return
		}
		once, err := first.Encode()
		if err != nil {
			require.ErrorIs(t, err, ErrTooLarge)
			return
		}
		require.LessOrEqual(t, len(once), MaxHistoryBytes)
		second, err := ParseHistory(once)
		require.NoError(t, err)
		twice, err := second.Encode()
		require.NoError(t, err)
		require.Equal(t, once, twice)
	})
}
