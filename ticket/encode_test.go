package ticket

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestEncodeFixedOrder(t *testing.T) {
	t.Parallel()
	tk := &Ticket{
		ID: "20261123t120000-4f2a91", Condition: "GpuHung", Device: "3", SOP: "gpu/hung", Origin: "webhook", Source: "inspection", Reason: "GPU 3: hung\nXID 79",
		Supervisor: "aegis", Status: StatusResolving, CreatedAt: noon, StartsAt: noon.Add(time.Minute), BootID: "b-1", Attempts: 2, Hold: "approve",
		ApprovedBy: "alice", Attended: true, Past: map[Action]int{Verify: 2, Healthcheck: 1},
		done: []folded{{action: Drain, runs: []run{{Failed, 2}, {Succeeded, 1}}}, {action: Reboot, runs: []run{{Canceled, 1}}}},
		found: []foldedFindings{
			{action: Drain, first: 1, last: 2, findings: Findings{Code: 70}}, {action: Reboot, first: 1, last: 1, findings: Findings{Refused: true}},
		},
		Workflows: []Step{
			{Action: Cordon, Status: Succeeded, At: noon, Message: "yes"},
			{Action: Healthcheck, Status: Failed, Findings: Findings{Code: 2, Hardware: "gpu", Recovery: "Drain and Reset", Refused: true}},
			{Action: Repair, Status: Succeeded, Findings: Findings{Unneeded: true}},
			{Action: Reboot, Status: Running},
			{Action: RestartPod, Status: Running, Pod: "kube-system/plugin", UID: "u-1", Spent: 95 * time.Second},
		},
	}
	got, err := tk.Encode()
	require.NoError(t, err)
	require.Equal(t, `id: 20261123t120000-4f2a91
condition: GpuHung
device: "3"
sop: gpu/hung
origin: webhook
source: inspection
reason: "GPU 3: hung\nXID 79"
supervisor: aegis
status: resolving
createdAt: 2026-11-23T12:00:00Z
startsAt: 2026-11-23T12:01:00Z
bootID: b-1
attempts: 2
hold: approve
approvedBy: alice
attended: true
past: {healthcheck: 1, verify: 2}
done: {drain: F2S, reboot: C}
found: {drain: {1-2: "70"}, reboot: {"1": 0 refused}}
workflows:
  - action: cordon
    status: Succeeded
    at: 2026-11-23T12:00:00Z
    message: yes
  - action: healthcheck
    status: Failed
    code: 2
    hardware: gpu
    recovery: Drain and Reset
    refused: true
  - action: repair
    status: Succeeded
    unneeded: true
  - action: reboot
    status: Running
  - action: restartpod
    status: Running
    pod: kube-system/plugin
    uid: u-1
    spent: 95
`, got)
	back, err := Parse(got)
	require.NoError(t, err)
	require.Equal(t, tk, back)
}

func TestEncodeKeepsUnknownFields(t *testing.T) {
	t.Parallel()
	tk, err := Parse(`
priority: 1 # people's own
condition: GpuHung
links: {wiki: "https://x/y", ids: [1, two, 3.0, null, ]}
status: assigned
workflows:
- by: alice
  action: inspect
  status: failed
  parts:
  - fan
  - 'yes'
`)
	require.NoError(t, err)
	got, err := tk.Encode()
	require.NoError(t, err)
	require.Equal(t, `condition: GpuHung
status: assigned
workflows:
  - action: inspect
    status: Failed
    by: alice
    parts:
      - fan
      - yes
priority: 1
links: {wiki: 'https://x/y', ids: [1, two, 3.0, null]}
`, got)
}

func TestEncodeRefusesWhatParseWouldRefuse(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		ticket Ticket
		want   string
	}{
		"status":      {Ticket{ID: "a", Status: "done"}, `encode ticket "a": line 2: status: status "done" is unknown`},
		"step status": {Ticket{Workflows: []Step{{Action: Cordon}}}, "status is missing"},
		"step action": {Ticket{Workflows: []Step{{Status: Failed}}}, "action is missing"},
		"attempts":    {Ticket{Attempts: -1}, `attempts: "-1" is not a count`},
		"time":        {Ticket{CreatedAt: time.Unix(-1, 0)}, `createdAt: "1969-12-31T23:59:59Z" is not a time`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := c.ticket.Encode()
			require.ErrorContains(t, err, c.want)
		})
	}
}

// finished returns n finished steps, each of about as many bytes as its message.
func finished(n, message int) []Step {
	var steps []Step
	for i := range n {
		steps = append(steps, Step{Action: Drain, Status: Succeeded, At: noon.Add(time.Duration(i) * time.Minute), Message: strings.Repeat("m", message)})
	}
	return steps
}

func TestEncodeCompactsInOrder(t *testing.T) {
	t.Parallel()
	running := Step{Action: Reboot, Status: Running, At: noon, Message: strings.Repeat("r", maxMessage)}
	for name, c := range map[string]struct {
		steps                   []Step
		messages, times, folded bool // What is expected to be gone of the oldest finished step.
		newest                  bool // Whether the newest finished step still has its message.
	}{
		"all fits":               {finished(5, 100), false, false, false, true},
		"old messages go first":  {finished(20, 200), true, false, false, true},
		"then times":             {finished(60, 200), true, true, false, false},
		"then the oldest steps":  {finished(120, 200), true, true, true, false},
		"running steps are last": {append([]Step{running}, finished(120, 200)...), true, true, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tk := &Ticket{ID: "a", Condition: "GpuHung", Supervisor: Self, Status: StatusResolving, Attempts: 7, Workflows: c.steps}
			text, err := tk.Encode()
			require.NoError(t, err)
			require.LessOrEqual(t, len(text), MaxBytes)
			got, err := Parse(text)
			require.NoError(t, err)
			requireSameOutcomes(t, tk, got)

			require.Equal(t, tk.Running(), got.Running())
			require.Equal(t, 7, got.Attempts)
			oldest, _ := got.Outcome(Drain, 1)
			require.Equal(t, c.messages, oldest.Message == "")
			require.Equal(t, c.times, oldest.At.IsZero())
			require.Equal(t, c.folded, len(got.done) > 0)
			require.Equal(t, c.newest, got.Workflows[len(got.Workflows)-1].Message != "")
		})
	}
}

func TestEncodeLeavesOutNoMoreThanNeeded(t *testing.T) {
	t.Parallel()
	tk := &Ticket{ID: "a", Workflows: finished(120, 200)}
	text, err := tk.Encode()
	require.NoError(t, err)
	require.Greater(t, len(text), MaxBytes-100)
	require.Len(t, tk.Workflows, 120, "the ticket itself stays whole")
	require.Len(t, tk.Workflows[0].Message, 200)
}

func TestEncodeFoldsWhatPeopleWroteLast(t *testing.T) {
	t.Parallel()
	parsed, err := Parse("workflows:\n- {action: reboot, status: Failed, note: rack 7}\n")
	require.NoError(t, err)
	parsed.Workflows = append(parsed.Workflows, finished(150, 0)...)
	text, err := parsed.Encode()
	require.NoError(t, err)
	require.Contains(t, text, "note: rack 7")
	got, err := Parse(text)
	require.NoError(t, err)
	requireSameOutcomes(t, parsed, got)
}

func TestEncodeFoldsManyCallsIntoLittle(t *testing.T) {
	t.Parallel()
	tk := &Ticket{ID: "a"}
	for i := range 5000 {
		require.NoError(t, tk.Record(Reboot, i+1, Succeeded, noon, ""))
		require.NoError(t, tk.Record(Healthcheck, i+1, Failed, noon, ""))
		if i%100 != 0 {
			continue
		}
		text, err := tk.Encode()
		require.NoError(t, err)
		require.LessOrEqual(t, len(text), MaxBytes)
		tk, err = Parse(text)
		require.NoError(t, err)
	}
	require.Equal(t, 5000, tk.Count(Reboot))
	require.Equal(t, 5000, tk.Count(Healthcheck))
}

func TestEncodeCutsTheReasonAtLast(t *testing.T) {
	t.Parallel()
	tk := &Ticket{ID: "a", Reason: strings.Repeat("x", 5000), Workflows: finished(3, 10)}
	text, err := tk.Encode()
	require.NoError(t, err)
	got, err := Parse(text)
	require.NoError(t, err)
	require.Equal(t, strings.Repeat("x", shortReason), got.Reason)
	require.Equal(t, tk.Workflows, got.Workflows, "what fits beside the short reason stays")
}

func TestEncodeSaysWhenNothingHelps(t *testing.T) {
	t.Parallel()
	_, err := (&Ticket{ID: "a", Device: strings.Repeat("x", 5000)}).Encode()
	require.ErrorIs(t, err, ErrTooLarge)
	require.EqualError(t, err, `encode ticket "a": too large: it has 5031 bytes without all that may be left out, want at most 4096; `+
		"shorten its other fields")
}

// TestEncodeKeepsEveryOutcome is the property that a replay depends on.
func TestEncodeKeepsEveryOutcome(t *testing.T) {
	t.Parallel()
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 1))
			tk := randomTicket(t, rng)
			for range 4 {
				text, err := tk.Encode()
				require.NoError(t, err)
				require.LessOrEqual(t, len(text), MaxBytes)
				got, err := Parse(text)
				require.NoError(t, err)
				requireSameOutcomes(t, tk, got)
				require.Equal(t, tk.Running(), got.Running())
				require.Equal(t, []string{tk.ID, tk.Condition, tk.Device, tk.BootID, tk.Hold, tk.Supervisor},
					[]string{got.ID, got.Condition, got.Device, got.BootID, got.Hold, got.Supervisor})
				require.Equal(t, tk.extra, got.extra)
				again, err := got.Encode()
				require.NoError(t, err)
				require.Equal(t, text, again)
				tk = got
				randomCalls(t, rng, tk)
			}
		})
	}
}

// requireSameOutcomes compares what a replay sees.
func requireSameOutcomes(t *testing.T, want, got *Ticket) {
	t.Helper()
	actions := map[Action]bool{}
	for _, tk := range []*Ticket{want, got} {
		for _, f := range tk.done {
			actions[f.action] = true
		}
		for _, s := range tk.Workflows {
			actions[s.Action] = true
		}
	}
	for a := range actions {
		require.Equal(t, want.Count(a), got.Count(a), a)
		for n := range min(want.Count(a), 1000) {
			before, _ := want.Outcome(a, n+1)
			after, ok := got.Outcome(a, n+1)
			require.True(t, ok)
			require.Equal(t, before.Status, after.Status, "%s %d", a, n+1)
		}
	}
}

func randomTicket(t *testing.T, rng *rand.Rand) *Ticket {
	t.Helper()
	tk := &Ticket{
		ID: NewID(noon), Condition: randomText(rng, 30), Device: randomText(rng, 20), SOP: "gpu/hung", Reason: randomText(rng, 2000),
		Supervisor: Self, Status: StatusResolving, CreatedAt: noon, StartsAt: noon.Add(-time.Hour), BootID: randomText(rng, 36), Attempts: rng.IntN(10), Hold: randomText(rng, 50),
	}
	if rng.IntN(3) == 0 {
		tk.extra = []field{unknown(textNode("note"), textNode(randomText(rng, 60)))}
	}
	randomCalls(t, rng, tk)
	return tk
}

// randomCalls journals calls as procedures do: one runs at a time, seldom two.
func randomCalls(t *testing.T, rng *rand.Rand, tk *Ticket) {
	t.Helper()
	actions := []Action{Cordon, Drain, DrainGPU, Reboot, Healthcheck, Verify, Remedy, "bespoke thing", "Ünknown"}
	statuses := []StepStatus{Succeeded, Failed, Canceled}
	for _, s := range tk.Running() {
		for n := 1; n <= tk.Count(s.Action); n++ {
			if step, _ := tk.Outcome(s.Action, n); step.Status == Running {
				mustRecord(t, tk, s.Action, n, statuses[rng.IntN(3)], randomText(rng, 300))
			}
		}
	}
	for i := range rng.IntN(150) {
		a := actions[rng.IntN(len(actions))]
		mustRecord(t, tk, a, tk.Count(a)+1, statuses[rng.IntN(3)], randomText(rng, 300))
		if rng.IntN(20) == 0 {
			tk.Workflows[len(tk.Workflows)-1].extra = []field{{key: textNode("by"), value: textNode("alice")}}
		}
		if i == 140 {
			mustRecord(t, tk, Wait, tk.Count(Wait)+1, Running, randomText(rng, 60))
		}
	}
	mustRecord(t, tk, Shutdown, tk.Count(Shutdown)+1, Running, randomText(rng, 60))
}

func mustRecord(t *testing.T, tk *Ticket, a Action, n int, s StepStatus, message string) {
	t.Helper()
	require.NoError(t, tk.Record(a, n, s, noon, message))
}

func randomText(rng *rand.Rand, most int) string {
	letters := []rune("abc XYZ 019:-#'\"\\|>[]{}&*!%@`,?~=<\n\t\r\u0000\u0085\u2028\ufeffäß日本😀\ufffe")
	var b strings.Builder
	for range rng.IntN(most) {
		b.WriteRune(letters[rng.IntN(len(letters))])
	}
	return Clip(b.String(), most)
}
