package ticket

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/util/validation"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func TestNewID(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 16, 30, 0, 0, time.FixedZone("CET", 3600))
	require.Regexp(t, `^20261123t153000-[a-z0-9]{6}$`, NewID(now))
	require.Empty(t, validation.IsDNS1123Label(NewID(now)))
	require.Less(t, NewID(now), NewID(now.Add(time.Second)))
	seen := map[string]bool{}
	for range 10 {
		seen[NewID(now)] = true
	}
	require.Len(t, seen, 10)
}

func TestOwnership(t *testing.T) {
	t.Parallel()
	for supervisor, want := range map[string]struct {
		names []string
		owned bool
	}{
		"":               {nil, false},
		"aegis":          {[]string{"aegis"}, true},
		" aegis , ":      {[]string{"aegis"}, true},
		"Aegis":          {[]string{"Aegis"}, false},
		"aegis,alice":    {[]string{"aegis", "alice"}, false},
		"alice, bob":     {[]string{"alice", "bob"}, false},
		"aegis-operator": {[]string{"aegis-operator"}, false},
	} {
		tk := &Ticket{Supervisor: supervisor}
		require.Equal(t, want.names, tk.Supervisors(), supervisor)
		require.Equal(t, want.owned, tk.Owned(), supervisor)
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	for status, open := range map[Status]bool{
		"": true, StatusCreated: true, StatusAssigned: true, StatusResolving: true, StatusResolved: false, StatusClosed: false,
	} {
		require.Equal(t, open, (&Ticket{Status: status}).Open(), status)
	}
}

func TestDestructive(t *testing.T) {
	t.Parallel()
	for _, a := range []Action{Reboot, Shutdown, Reset, Taint} {
		require.True(t, a.Destructive(), a)
	}
	for _, a := range []Action{Cordon, Drain, Healthcheck, Uncordon, Untaint, Resolve, "bespoke"} {
		require.False(t, a.Destructive(), a)
	}
}

func TestRecordJournalsCallsInOrder(t *testing.T) {
	t.Parallel()
	tk := &Ticket{}
	require.NoError(t, tk.Record(Reboot, 1, Running, noon, "job a"))
	require.Equal(t, []Step{{Action: Reboot, Status: Running, At: noon, Message: "job a"}}, tk.Running())
	require.NoError(t, tk.Record(Reboot, 1, Failed, noon.Add(time.Minute), "no answer"))
	require.NoError(t, tk.Record(Cordon, 1, Succeeded, noon, ""))
	require.NoError(t, tk.Record(Reboot, 2, Running, noon, ""))
	require.NoError(t, tk.Record(Reboot, 2, Succeeded, noon, ""))

	require.Equal(t, 2, tk.Count(Reboot))
	require.Equal(t, 1, tk.Count(Cordon))
	require.Zero(t, tk.Count(Drain))
	require.Empty(t, tk.Running())
	first, ok := tk.Outcome(Reboot, 1)
	require.True(t, ok)
	require.Equal(t, Step{Action: Reboot, Status: Failed, At: noon.Add(time.Minute), Message: "no answer"}, first)
	for _, n := range []int{-1, 0, 3} {
		_, ok = tk.Outcome(Reboot, n)
		require.False(t, ok, n)
	}
}

func TestRecordRefuses(t *testing.T) {
	t.Parallel()
	start := func() *Ticket {
		return &Ticket{
			done:      []folded{{action: Drain, runs: []run{{Failed, 2}}}},
			Workflows: []Step{{Action: Reboot, Status: Succeeded}, {Action: Reboot, Status: Running}},
		}
	}
	for name, c := range map[string]struct {
		action Action
		n      int
		status StepStatus
		want   string
	}{
		"a call out of order":          {Reboot, 4, Running, "record reboot call 4 as Running: the next call is 3"},
		"call zero":                    {Reboot, 0, Running, "record reboot call 0 as Running: the next call is 3"},
		"a finished call":              {Reboot, 1, Failed, "record reboot call 1 as Failed: it is Succeeded already"},
		"what somebody else has begun": {Reboot, 2, Running, "record reboot call 2 as Running: it is Running already"},
		"a folded call":                {Drain, 2, Succeeded, "record drain call 2 as Succeeded: it is Failed already"},
		"an unknown status":            {Cordon, 1, "Done", `record cordon call 1: status "Done" is unknown, want Running, Succeeded, Failed or Canceled`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tk := start()
			require.EqualError(t, tk.Record(c.action, c.n, c.status, noon, ""), c.want)
			require.Equal(t, start(), tk)
		})
	}
}

func TestRecordContinuesAfterFoldedCalls(t *testing.T) {
	t.Parallel()
	tk := &Ticket{done: []folded{{action: Drain, runs: []run{{Failed, 2}, {Canceled, 1}}}}}
	require.NoError(t, tk.Record(Drain, 4, Running, noon, ""))
	require.NoError(t, tk.Record(Drain, 4, Succeeded, noon, ""))
	for n, want := range []StepStatus{Failed, Failed, Canceled, Succeeded} {
		got, ok := tk.Outcome(Drain, n+1)
		require.True(t, ok)
		require.Equal(t, want, got.Status)
	}
}

func TestRecordKeepsWhatPeopleWroteIntoTheStep(t *testing.T) {
	t.Parallel()
	tk, err := Parse("workflows:\n  - {action: reboot, status: running, note: rack 7}\n")
	require.NoError(t, err)
	require.NoError(t, tk.Record(Reboot, 1, Succeeded, noon, ""))
	text, err := tk.Encode()
	require.NoError(t, err)
	require.Contains(t, text, "note: rack 7")
}

func TestRecordCutsMessagesAtACharacter(t *testing.T) {
	t.Parallel()
	long := ""
	for len(long) < 2*maxMessage {
		long += "日"
	}
	tk := &Ticket{}
	require.NoError(t, tk.Record(Reboot, 1, Running, noon, long))
	require.Equal(t, long[:maxMessage-maxMessage%3], tk.Workflows[0].Message)
}

func TestCloneSharesNothingThatChanges(t *testing.T) {
	t.Parallel()
	text := "id: a\nstatus: created\ndone: {drain: F2}\nworkflows:\n  - action: reboot\n    status: Running\n    note: x\nteam: ml\n"
	tk, err := Parse(text)
	require.NoError(t, err)
	c := tk.Clone()
	require.Equal(t, tk, c)
	require.NoError(t, c.Record(Reboot, 1, Failed, noon, "m"))
	c.fold(Step{Action: Drain, Status: Failed})
	c.fold(Step{Action: Cordon, Status: Failed})
	got, err := tk.Encode()
	require.NoError(t, err)
	require.Equal(t, text, got)
}
