package ticket

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// asTyped is the annotation's value as kubectl passes it on when a person types the literal block.
const asTyped = `|
  condition: GPUCheckFailed
  reason: too many reboot
  supervisor: alice,bob
  status: resolving
  workflows:
    - action: cordon
      status: Succeeded
    - action: healthcheck
      status: Succeeded
    - action: reboot
      status: Failed`

func TestParseAcceptsWhatPeopleType(t *testing.T) {
	t.Parallel()
	want := &Ticket{
		Condition: "GPUCheckFailed", Reason: "too many reboot", Supervisor: "alice,bob", Status: StatusResolving,
		Workflows: []Step{{Action: Cordon, Status: Succeeded}, {Action: Healthcheck, Status: Succeeded}, {Action: Reboot, Status: Failed}},
	}
	plain := strings.TrimPrefix(asTyped, "|\n")
	for name, text := range map[string]string{
		"the literal block":             asTyped,
		"its bar with a chomping sign":  strings.Replace(asTyped, "|", "|-", 1),
		"its bar with spaces around":    strings.Replace(asTyped, "|", "\n  |  ", 1),
		"its bar with a comment":        strings.Replace(asTyped, "|", "| # taken over", 1),
		"Windows line ends":             strings.ReplaceAll(asTyped, "\n", "\r\n"),
		"indented YAML without the bar": plain,
		"YAML at the margin":            strings.ReplaceAll(plain, "\n  ", "\n")[2:],
		"the bar, then the margin":      "|\n" + strings.ReplaceAll(plain, "\n  ", "\n")[2:],
		"other cases":                   strings.NewReplacer("cordon", "Cordon", "Succeeded", "SUCCEEDED", "resolving", "Resolving").Replace(asTyped),
		"JSON": `{"condition": "GPUCheckFailed", "reason": "too many reboot", "supervisor": "alice,bob", "status": "resolving", "workflows":
			[{"action": "cordon", "status": "Succeeded"}, {"action": "healthcheck", "status": "Succeeded"}, {"action": "reboot", "status": "Failed"}]}`,
		"comments": "# see the wiki\n" + strings.ReplaceAll(plain, "Failed", "Failed # twice"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := Parse(text)
			require.NoError(t, err)
			require.Equal(t, want, got)
		})
	}
}

func TestParseEveryField(t *testing.T) {
	t.Parallel()
	got, err := Parse(`
id: 20261123t120000-4f2a91
condition: GpuHung
device: 3
sop: gpu/hung
origin: webhook
reason:
supervisor: aegis
createdAt: 2026-11-23T13:00:00.75+01:00
bootID: 1e10
attempts: 2
hold: "until monday"
done: {drain: F2S, Bespoke: C}
workflows:
  - {action: HandOver, status: canceled, at: "2026-11-23T12:00:00Z", message: "to: ml"}
  - {action: Bespoke, status: failed}
`)
	require.NoError(t, err)
	require.Equal(t, &Ticket{
		ID: "20261123t120000-4f2a91", Condition: "GpuHung", Device: "3", SOP: "gpu/hung", Origin: "webhook", Supervisor: "aegis",
		Status: StatusCreated, CreatedAt: noon, BootID: "1e10", Attempts: 2, Hold: "until monday",
		Workflows: []Step{
			{Action: HandOver, Status: Canceled, At: noon, Message: "to: ml"},
			{Action: "Bespoke", Status: Failed},
		},
		done: []folded{
			{action: Drain, runs: []run{{Failed, 2}, {Succeeded, 1}}},
			{action: "Bespoke", runs: []run{{Canceled, 1}}},
		},
	}, got)
	require.Equal(t, 3, got.Count(Drain))
	require.Equal(t, 2, got.Count("Bespoke"))
}

func TestParseSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("[", 20) + strings.Repeat("]", 20)
	for name, c := range map[string]struct{ text, want string }{
		"nothing":           {"", "it is empty, want condition, supervisor and status, or no annotation at all"},
		"only a bar":        {"|\n", "it is empty, want condition, supervisor and status, or no annotation at all"},
		"only a comment":    {"# later", "it is empty, want condition, supervisor and status, or no annotation at all"},
		"a word":            {"broken", "line 1: want fields of the form name: value"},
		"a list":            {"- a", "line 1: want fields of the form name: value"},
		"no YAML":           {"condition: [", "invalid YAML: line 1: did not find expected node content"},
		"tabs":              {"|\n\tcondition: a", "invalid YAML: line 2: found character that cannot start any token"},
		"two documents":     {"id: a\n---\nid: b", "it holds more than one YAML document, want one"},
		"a field twice":     {"id: a\nid: b", `line 2: field "id" appears twice`},
		"a list as a name":  {"[a]: b", "line 1: a field's name must be a word"},
		"a merge":           {"<<: {a: b}", "line 1: a field's name must be a word"},
		"an anchor":         {"x: &a 1", "line 1: anchors (&) and aliases (*) are not allowed, write the value out"},
		"an alias":          {"x: &a 1\ny: *a", "line 1: anchors (&) and aliases (*) are not allowed, write the value out"},
		"an unknown alias":  {"x: *a", "invalid YAML: unknown anchor 'a' referenced"},
		"a tag":             {"x: !!python/object a", "line 1: tags (!) are not allowed, write the plain value"},
		"past":              {"past: {reboot: -1}", `line 1: past: line 1: reboot: count "-1" is not within 1 and 100000`},
		"depth":             {"x: " + deep, "line 1: it is nested more than 8 levels deep"},
		"size":              {"x: " + strings.Repeat("a", 16<<10), "it has 16387 bytes, want at most 16384"},
		"status":            {"|\n  id: a\n  status: done", `line 3: status: status "done" is unknown, want created, assigned, resolving, resolved or closed`},
		"a list as text":    {"reason: [a]", "line 1: reason: want text on one line, not a list and no further fields"},
		"a list as status":  {"status: [a]", "line 1: status: want text on one line, not a list and no further fields"},
		"createdAt":         {"createdAt: yesterday", `line 1: createdAt: "yesterday" is not a time, want one such as 2006-01-02T15:04:05Z`},
		"a time too early":  {"createdAt: 0000-01-01T00:00:00+01:00", `line 1: createdAt: "0000-01-01T00:00:00+01:00" is not a time, want one such as 2006-01-02T15:04:05Z`},
		"a time too late":   {"createdAt: 9999-12-31T23:59:59-01:00", `line 1: createdAt: "9999-12-31T23:59:59-01:00" is not a time, want one such as 2006-01-02T15:04:05Z`},
		"attempts":          {"attempts: many", `line 1: attempts: "many" is not a count, want a number from 0 to 1000000`},
		"negative attempts": {"attempts: -1", `line 1: attempts: "-1" is not a count, want a number from 0 to 1000000`},
		"workflows":         {"workflows: cordon", "line 1: workflows: want a list of steps, each with action and status"},
		"many steps": {
			"workflows: [" + strings.Repeat("{action: a,status: Failed},", 300) + "]",
			"line 1: workflows: it has 300 steps, want at most 256",
		},
		"a step as text": {"workflows: [cordon]", "line 1: workflows: step 1: line 1: want fields of the form name: value"},
		"step without status": {
			"workflows:\n- action: reboot", "line 1: workflows: step 1: line 2: status is missing, want Running, Succeeded, Failed or Canceled",
		},
		"step without action": {"workflows:\n- status: Failed", "line 1: workflows: step 1: line 2: action is missing"},
		"step status": {
			"workflows:\n- action: reboot\n  status: OK",
			`line 1: workflows: step 1: line 3: status: status "OK" is unknown, want Running, Succeeded, Failed or Canceled`,
		},
		"done":             {"done: [a]", "line 1: done: line 1: want fields of the form name: value"},
		"done twice":       {"done: {drain: S, Drain: S}", "line 1: done: line 1: Drain: the action appears twice"},
		"done of nothing":  {`done: {"": S}`, "line 1: done: line 1: : the action is missing"},
		"running and done": {"done: {drain: SR}", `line 1: done: line 1: drain: "SR" is not a list of outcomes, want S, F or C, each with a count of at most 100000 as in F2S`},
		"done too often":   {"done: {drain: S99999999999999999999}", `line 1: done: line 1: drain: "S99999999999999999999" is not a list of outcomes, want S, F or C, each with a count of at most 100000 as in F2S`},
		"done never":       {"done: {drain: S0}", `line 1: done: line 1: drain: "S0" is not a list of outcomes, want S, F or C, each with a count of at most 100000 as in F2S`},
		"done empty":       {"done: {drain: ''}", `line 1: done: line 1: drain: "" is not a list of outcomes, want S, F or C, each with a count of at most 100000 as in F2S`},
		"long hostile text": {
			"status: " + strings.Repeat("x", 9000),
			`line 1: status: status "` + strings.Repeat("x", 40) + `"... is unknown, want created, assigned, resolving, resolved or closed`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := Parse(c.text)
			require.Nil(t, got)
			require.ErrorIs(t, err, ErrBroken)
			require.EqualError(t, err, "annotation aegis.io/ticketing cannot be read: "+c.want)
		})
	}
}

func TestParseHostileTextIsCheap(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"nesting":  strings.Repeat("[", maxInput),
		"indents":  strings.Repeat("- ", maxInput/2),
		"maps":     strings.Repeat("{a: ", maxInput/4),
		"aliases":  "a: &a [x]\nb: " + strings.Repeat("[*a,*a],", 1000),
		"comments": strings.Repeat("#\n", maxInput/2),
		"bars":     strings.Repeat("|\n", maxInput/2),
		"keys":     strings.Repeat("? ", maxInput/2),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			begin := time.Now()
			_, err := Parse(text)
			require.ErrorIs(t, err, ErrBroken)
			require.Less(t, len(err.Error()), 400)
			require.Less(t, time.Since(begin), 10*time.Second)
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		asTyped, "", "|", "a: b", "x: {y: [1, 2.5, null, ~, true, 0x10, 2020-01-01, '', \"\\u0000\\u2028\"]}", "x: |\n  a\n\n   b\n", "? a\n: b",
		"done: {drain: F2S, 'a b': C}\nworkflows:\n  - {action: A, status: running, note: {x: }}", "x: 'it''s'\ny: >\n  fold\n  ed",
		"created: 2020-01-01\ncreatedAt: 2020-01-01T00:00:00Z", "\ufeffid: a", "x: <<\n'<<': y", "x: =\ny: .inf\nz: 1_000",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		first, err := Parse(text)
		if err != nil {
			require.ErrorIs(t, err, ErrBroken)
			return
		}
		once, err := first.Encode()
		if err != nil {
			require.ErrorIs(t, err, ErrTooLarge)
			return
		}
		require.LessOrEqual(t, len(once), MaxBytes)
		second, err := Parse(once)
		require.NoError(t, err)
		requireSameOutcomes(t, first, second)
		twice, err := second.Encode()
		require.NoError(t, err)
		require.Equal(t, once, twice)
	})
}
