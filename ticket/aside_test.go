package ticket

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
)

// crowded is a ticket with notes of people of that many bytes, and more steps than fit with them.
func crowded(t *testing.T, notes int) *Ticket {
	t.Helper()
	tk, err := Parse("id: a1\ncondition: GpuHung\nsupervisor: aegis\nstatus: resolving\nnotes: " + strings.Repeat("n", notes) + "\n" +
		"workflows:\n- {action: cordon, status: Succeeded, by: alice}\n")
	require.NoError(t, err)
	tk.Hold = "silenced: " + strings.Repeat("silence by alice, ", 100)
	require.NoError(t, tk.RecordStep(1, Step{
		Action: Healthcheck, Status: Failed, Message: strings.Repeat("m", maxMessage), Findings: Findings{Code: 12, Hardware: "gpu"},
	}))
	require.NoError(t, tk.Record(Reboot, 1, Running, time.Unix(1000, 0), "boots"))
	return tk
}

// Whatever people write into a ticket, it can be written on: what does not fit moves aside, and what a replay reads stays.
func TestWhatDoesNotFitMovesAside(t *testing.T) {
	t.Parallel()
	for _, notes := range []int{10, 3000, 4200, 12000} {
		tk := crowded(t, notes)
		w, err := newWrite(Record{Node: &corev1.Node{}}, &Change{Ticket: tk}, time.Unix(2000, 0))
		require.NoError(t, err, notes)
		require.LessOrEqual(t, len(*w.annotations[Annotation]), MaxBytes)
		read, err := Parse(*w.annotations[Annotation])
		require.NoError(t, err)
		check, found := read.Outcome(Healthcheck, 1)
		require.True(t, found)
		require.Equal(t, Failed, check.Status)
		require.Equal(t, Findings{Code: 12, Hardware: "gpu"}, check.Findings)
		reboot, _ := read.Outcome(Reboot, 1)
		require.Equal(t, Running, reboot.Status)
		require.Equal(t, 1, read.Count(Cordon))
		aside := w.annotations[NotesAnnotation]
		if notes < 4000 {
			require.Nil(t, aside, notes)
			require.Len(t, read.extra, 1)
			continue
		}
		require.NotNil(t, aside, notes)
		require.LessOrEqual(t, len(*aside), maxAside)
		require.Contains(t, *aside, "by: alice")
		require.Contains(t, *aside, strings.Repeat("n", 4000))
		require.Empty(t, read.extra)
	}
}

// What moves aside is bounded, whatever it is: the newest stays.
func TestWhatMovesAsideIsBounded(t *testing.T) {
	t.Parallel()
	kept := ""
	for range 100 {
		kept = keepNewest(kept, strings.Repeat("ä", 700)+"old")
		require.LessOrEqual(t, len(kept), maxAside)
		require.True(t, utf8.ValidString(kept))
	}
	kept = keepNewest(kept, "the newest")
	require.True(t, strings.HasSuffix(kept, "old\n---\nthe newest"))
	require.Greater(t, len(kept), maxAside-4)

	node := &corev1.Node{}
	node.Annotations = map[string]string{HistoryAnnotation: strings.Repeat("x", 100_000), HistoryBrokenAnnotation: strings.Repeat("y", 100_000)}
	w, err := newWrite(ReadNode(node), &Change{History: &History{}}, time.Unix(2000, 0))
	require.NoError(t, err)
	require.Len(t, *w.annotations[HistoryBrokenAnnotation], maxAside)
}
