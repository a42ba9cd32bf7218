package rules

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMatcher(t *testing.T) {
	t.Parallel()
	tests := []struct {
		text, value string
		want        bool
	}{
		{"a", "a", true},
		{"a", "b", false},
		{"a", "", false},
		{"=a", "a", true},
		{"==a", "=a", true},
		{"==a", "a", false},
		{"!=a", "b", true},
		{"!=a", "", true},
		{"!=a", "a", false},
		{"=~a.*", "abc", true},
		{"=~a", "abc", false},
		{"=~a|b", "b", true},
		{"=~a|b", "xb", false},
		{"=~a.b", "a\nb", false},
		{"=~(?s)a.b", "a\nb", true},
		{"!~a.b", "a\nb", true},
		{"!~a.*", "abc", false},
		{"!~a.*", "b", true},
		{"!~a|b", "ab", true},
		{"", "", true},
		{"", "a", false},
		{"!=", "", false},
		{"!=", "a", true},
		{"=~.+", "", false},
		{"a.*", "abc", false},
		{"!a", "!a", true},
		{"~a", "~a", true},
	}
	for _, test := range tests {
		m, err := parseMatcher("l", test.text)
		require.NoError(t, err)
		require.Equal(t, test.want, matches(m, map[string]string{"l": test.value}), "%q on %q", test.text, test.value)
		if test.value == "" {
			require.Equal(t, test.want, matches(m, nil), "%q on an absent label", test.text)
		}
	}
	_, err := parseMatcher("l", "=~"+strings.Repeat("a", maxPatternBytes+1))
	require.ErrorContains(t, err, "longer than 1024 bytes")
}

func TestMatch(t *testing.T) {
	t.Parallel()
	c := load(t, `
conditions:
- {name: Custom, type: node, priority: 5, match: {alertname: KubeNodeNotReady, severity: "=~warning|critical", job: "!=test"}}
- {name: Urgent, type: node, priority: 4, match: {alertname: Shared}}
- {name: Beta, type: node, priority: 6, match: {alertname: Shared, team: b}}
- {name: TieB, type: node, priority: 7, match: {alertname: Tie}}
- {name: TieA, type: node, priority: 7, match: {alertname: "=~T.e"}}
- {name: TieC, type: node, priority: 7, match: {job: tie}}
- {name: ByJob, type: node, priority: 8, match: {job: ipmi, state: "!="}}
- {name: Scanned, type: node, priority: 9, match: {alertname: "=~Disk.*"}}
- {name: Narrow, type: node, priority: 2, match: {condition: Narrow, severity: critical}}
`)
	tests := map[string]struct {
		labels map[string]string
		want   string
	}{
		"label condition":                        {map[string]string{"condition": "GpuHung"}, "GpuHung"},
		"alias in the label condition":           {map[string]string{"condition": "KubeletOffline"}, "NodeNotReady"},
		"another case in the label condition":    {map[string]string{"condition": "gpuHUNG"}, "GpuHung"},
		"alertname":                              {map[string]string{"alertname": "GpuHung"}, "GpuHung"},
		"alias in alertname":                     {map[string]string{"alertname": "NodeHasMemoryPressure"}, "MemoryPressure"},
		"another case in alertname is no name":   {map[string]string{"alertname": "gpuhung"}, ""},
		"label condition before alertname":       {map[string]string{"condition": "GpuHung", "alertname": "NodeNotReady"}, "GpuHung"},
		"a label condition that names nothing":   {map[string]string{"condition": "Ready", "alertname": "NodeNotReady"}, "NodeNotReady"},
		"neither":                                {map[string]string{"condition": "Ready", "alertname": "Watchdog"}, ""},
		"no labels":                              {nil, ""},
		"all matchers fit":                       {map[string]string{"alertname": "KubeNodeNotReady", "severity": "critical"}, "Custom"},
		"a pattern is anchored":                  {map[string]string{"alertname": "KubeNodeNotReady", "severity": "critical2"}, ""},
		"a negative matcher excludes":            {map[string]string{"alertname": "KubeNodeNotReady", "severity": "warning", "job": "test"}, ""},
		"a match replaces the name":              {map[string]string{"condition": "Custom", "alertname": "Custom"}, ""},
		"the lower priority wins":                {map[string]string{"alertname": "Shared", "team": "b"}, "Urgent"},
		"then the name, however it is found":     {map[string]string{"alertname": "Tie", "job": "tie"}, "TieA"},
		"indexed by another label":               {map[string]string{"alertname": "X", "job": "ipmi", "state": "2"}, "ByJob"},
		"a label that must be there":             {map[string]string{"alertname": "X", "job": "ipmi"}, ""},
		"not indexed":                            {map[string]string{"alertname": "DiskSlow"}, "Scanned"},
		"a match on the name that excludes":      {map[string]string{"condition": "Narrow", "severity": "warning"}, ""},
		"a match on the name that fits":          {map[string]string{"condition": "Narrow", "severity": "critical"}, "Narrow"},
		"a letter that only looks like the name": {map[string]string{"condition": "\u212aubeletOffline"}, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, ok := c.Match(test.labels)
			require.Equal(t, test.want, got.Name)
			require.Equal(t, test.want != "", ok)
		})
	}
}

// TestIndexScansNothing holds what keeps matching fast: conditions without a match, or with an equality in it, are in
// no list that every alert walks through.
// A rule names some labels of its alerts. Their series have the others, which may be anything.
func TestMayMatch(t *testing.T) {
	t.Parallel()
	c := load(t, `conditions:
- {name: DiskLow, type: disk, match: {alertname: NodePressure, kind: disk}}
- {name: AnyLow, type: disk, match: {alertname: NodePressure}}
- {name: Tier, type: disk, match: {tier: gold}}
`)
	for _, tt := range []struct {
		known map[string]string
		want  []string
	}{
		{map[string]string{"alertname": "NodePressure"}, []string{"AnyLow", "DiskLow"}},
		{map[string]string{"alertname": "NodePressure", "kind": "disk"}, []string{"AnyLow", "DiskLow"}},
		{map[string]string{"alertname": "NodePressure", "kind": "memory"}, []string{"AnyLow"}},
		{map[string]string{"alertname": "Other", "tier": "gold"}, []string{"Tier"}},
		{map[string]string{"alertname": "Other"}, nil},
		{map[string]string{"alertname": "Other", "condition": "GpuHung"}, []string{"GpuHung"}},
	} {
		var got []string
		for _, condition := range c.MayMatch(tt.known) {
			got = append(got, condition.Name)
		}
		require.ElementsMatch(t, tt.want, got, "%v", tt.known)
	}
}

func TestIndexScansNothing(t *testing.T) {
	t.Parallel()
	c := load(t, manyConditions(1000)+"- {name: Scanned, type: node, match: {alertname: '=~Disk.*'}}\n")
	require.Len(t, c.index.rest, 1)
	require.Equal(t, []string{"alertname", "condition", "job"}, c.index.labels)
	for label, values := range c.index.byLabel {
		for value, rules := range values {
			require.LessOrEqual(t, len(rules), 1, "%s=%s", label, value)
		}
	}
}

// manyConditions returns n conditions of every kind that the index knows.
func manyConditions(n int) string {
	var b strings.Builder
	b.WriteString("conditions:\n")
	for i := range n {
		switch i % 3 {
		case 0:
			fmt.Fprintf(&b, "- {name: Extra%d, type: node}\n", i)
		case 1:
			fmt.Fprintf(&b, "- {name: Extra%d, type: node, match: {severity: critical, alertname: Alert%d, job: x}}\n", i, i)
		default:
			fmt.Fprintf(&b, "- {name: Extra%d, type: node, match: {job: job%d, severity: '=~c.*'}}\n", i, i)
		}
	}
	return b.String()
}

// BenchmarkMatch shows that the size of the catalogue is no cost: compare the same alert in the same run.
func BenchmarkMatch(b *testing.B) {
	alerts := map[string]map[string]string{
		"hit":  {"alertname": "X", "condition": "GpuHung", "node": "n1", "severity": "critical", "job": "dcgm"},
		"miss": {"alertname": "Watchdog", "node": "n1", "severity": "critical", "job": "dcgm"},
	}
	for _, size := range []int{10, 1000} {
		c := load(b, manyConditions(size))
		for _, name := range []string{"hit", "miss"} {
			b.Run(fmt.Sprintf("conditions=%d/%s", size, name), func(b *testing.B) {
				labels := alerts[name]
				for b.Loop() {
					if (c.match(labels) != nil) != (name == "hit") {
						b.Fatal("wrong answer")
					}
				}
			})
		}
	}
}
