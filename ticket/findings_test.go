package ticket

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What a step found is what a replay decides by, so it outlasts the step's message, time and details.
func TestFindingsOutlastTheDetails(t *testing.T) {
	t.Parallel()
	want := func(n int) Findings {
		if n/5%3 == 0 {
			return Findings{}
		}
		return Findings{Code: 20 + n/5%3, Hardware: "gpu", Refused: n%5 == 1}
	}
	tk := &Ticket{ID: "a"}
	for n := 1; n <= 90; n++ {
		step := Step{Action: Healthcheck, Status: Failed, At: noon, Message: "m", Findings: want(n)}
		require.NoError(t, tk.RecordStep(n, step))
	}
	for range 2 {
		text, err := tk.Encode()
		require.NoError(t, err)
		require.LessOrEqual(t, len(text), MaxBytes)
		tk, err = Parse(text)
		require.NoError(t, err)
		for n := 1; n <= 90; n++ {
			s, known := tk.Outcome(Healthcheck, n)
			require.True(t, known)
			require.Equal(t, want(n), s.Findings, "call %d of\n%s", n, text)
		}
	}
	require.Greater(t, tk.foldedCount(Healthcheck), 20, "the test has to fold")
}

func TestEqualFindingsFoldIntoLittle(t *testing.T) {
	t.Parallel()
	tk := &Ticket{ID: "a"}
	for n := 1; n <= 500; n++ {
		require.NoError(t, tk.RecordStep(n, Step{Action: Healthcheck, Status: Failed, At: noon, Findings: Findings{Code: 2, Hardware: "gpu"}}))
		text, err := tk.Encode()
		require.NoError(t, err)
		tk, err = Parse(text)
		require.NoError(t, err)
	}
	require.Len(t, tk.found, 1)
	s, _ := tk.Outcome(Healthcheck, 250)
	require.Equal(t, 2, s.Code)
}

// A ticket that is too long with all that was found is written all the same: what it forgets is the oldest.
func TestFindingsGoAtLast(t *testing.T) {
	t.Parallel()
	tk := &Ticket{ID: "a"}
	for n := 1; n <= 200; n++ {
		require.NoError(t, tk.RecordStep(n, Step{Action: Healthcheck, Status: Failed, At: noon, Findings: Findings{Code: n, Hardware: "a-part-with-a-long-name"}}))
	}
	text, err := tk.Encode()
	require.NoError(t, err)
	require.LessOrEqual(t, len(text), MaxBytes)
	got, err := Parse(text)
	require.NoError(t, err)
	require.Equal(t, 200, got.Count(Healthcheck))
	first, _ := got.Outcome(Healthcheck, 1)
	require.Zero(t, first.Findings)
	last, _ := got.Outcome(Healthcheck, 200)
	require.Equal(t, Findings{Code: 200, Hardware: "a-part-with-a-long-name"}, last.Findings)
}

func TestRecordedFindingsAreBounded(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", 500)
	for name, code := range map[string]int{"below": -1, "above": math.MaxInt64} {
		tk := &Ticket{ID: "a"}
		findings := Findings{Code: code, Hardware: long, Recovery: long}
		require.NoError(t, tk.RecordStep(1, Step{Action: Healthcheck, Status: Failed, At: noon, Findings: findings}))
		text, err := tk.Encode()
		require.NoError(t, err, name)
		got, err := Parse(text)
		require.NoError(t, err, name)
		require.Equal(t, tk.Workflows, got.Workflows)
		require.LessOrEqual(t, len(got.Workflows[0].Hardware), maxHardware)
		require.LessOrEqual(t, len(got.Workflows[0].Recovery), maxRecovery)
	}
}

func TestFindingsThatCannotBeRead(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"found: [a]":                                               "want fields of the form name: value",
		"found: {reset: 1}":                                        "want fields of the form name: value",
		"found: {reset: {x: 2}}":                                   `count "x" is not within`,
		"found: {reset: {0: 2}}":                                   `count "0" is not within`,
		"found: {reset: {1-x: 2}}":                                 `count "x" is not within`,
		"found: {reset: {1: }}":                                    `"" is not a finding`,
		"found: {reset: {1: gpu}}":                                 `"gpu" is not a count`,
		"found: {reset: {1: a b 2}}":                               `"a b 2" is not a finding`,
		"workflows: [{action: reset, status: Failed, code: x}]":    `code: "x" is not a count`,
		"workflows: [{action: reset, status: Failed, refused: 7}]": `refused: "7" is neither true nor false`,
	} {
		_, err := Parse(text)
		require.ErrorIs(t, err, ErrBroken, text)
		require.ErrorContains(t, err, want)
	}
	tk, err := Parse("found: null\nstatus: resolving\n")
	require.NoError(t, err)
	require.Empty(t, tk.found)
}

// A ticket of an Aegis that had no fields for it says in messages what a step found, and which pod it was about.
func TestStepsOfAnOlderTicket(t *testing.T) {
	t.Parallel()
	read := func(action Action, status StepStatus, message string) Step {
		tk, err := Parse(fmt.Sprintf("workflows:\n- {action: %s, status: %s, message: %q}\n", action, status, message))
		require.NoError(t, err)
		require.Equal(t, message, tk.Workflows[0].Message)
		return tk.Workflows[0]
	}
	for _, c := range []struct {
		action   Action
		status   StepStatus
		message  string
		code     int
		hardware string
	}{
		{Healthcheck, Failed, "gpu (exit code 2): gpu-count failed: 7 of 8", 2, "gpu"},
		{Healthcheck, Failed, "network (exit code 7)", 7, "network"},
		{Healthcheck, Failed, "exit code 2: names no hardware", 0, ""},
		{Healthcheck, Failed, "the check of gpu (exit code x): of a site", 0, ""},
		{Healthcheck, Failed, "", 0, ""},
		{Healthcheck, Canceled, "gpu (exit code 2): says nothing about the node", 0, ""},
		{Healthcheck, Succeeded, "gpu (exit code 2): says nothing about the node", 0, ""},
		{Remedy, Failed, "gpu (exit code 2): decides nothing", 0, ""},
	} {
		s := read(c.action, c.status, c.message)
		require.Equal(t, Findings{Code: c.code, Hardware: c.hardware}, s.Findings, c.message)
	}
	for _, c := range []struct {
		status   StepStatus
		message  string
		pod, uid string
	}{
		{Running, "kube-system/plugin-x uid 12-ab", "kube-system/plugin-x", "12-ab"},
		{Running, "app=plugin", "", ""},
		{Succeeded, "restarted kube-system/plugin-x", "", ""},
		{Failed, "kube-system/plugin-x uid 12-ab", "", ""},
	} {
		s := read(RestartPod, c.status, c.message)
		require.Equal(t, []string{c.pod, c.uid}, []string{s.Pod, s.UID}, c.message)
	}
	s := read(Healthcheck, Failed, "gpu (exit code 2): x")
	tk := &Ticket{Workflows: []Step{s}}
	text, err := tk.Encode()
	require.NoError(t, err)
	require.Contains(t, text, "code: 2\n    hardware: gpu\n", "the next write has the fields")
}

// The fields of a step go before its message.
func TestMessageDoesNotOverruleAField(t *testing.T) {
	t.Parallel()
	tk, err := Parse(`workflows: [{action: healthcheck, status: Failed, code: 3, hardware: gpfs, message: "gpu (exit code 2): x"}]`)
	require.NoError(t, err)
	require.Equal(t, Findings{Code: 3, Hardware: "gpfs"}, tk.Workflows[0].Findings)
}
