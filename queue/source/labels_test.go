package source

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLabelsThatAQueryLoses(t *testing.T) {
	t.Parallel()
	// By query, the part that takes the label node away. Empty where it is left.
	for query, want := range map[string]string{
		"up":                               "",
		"-up":                              "",
		"(up)":                             "",
		"up > 3":                           "",
		"3 < up":                           "",
		"up offset 5m":                     "",
		"sum by (node) (up)":               "",
		"sum by (node, id) (up)":           "",
		"sum without (id) (up)":            "",
		"topk(3, up)":                      "",
		"topk by (cluster) (3, up)":        "",
		"quantile by (node) (0.9, up)":     "",
		"rate(up[5m])":                     "",
		"max_over_time(up[5m:1m])":         "",
		"quantile_over_time(0.9, up[5m])":  "",
		"histogram_quantile(0.9, up)":      "",
		"up and sum(down)":                 "",
		"up unless on (cluster) down":      "",
		"up or down":                       "",
		"up + on (node) down":              "",
		"up + ignoring (id) down":          "",
		"a * on (pod) group_left (node) b": "",
		"a * on (pod) group_left () b":     "",
		"a * on (pod) group_right () b":    "",
		`absent(up{node="n1"})`:            "",
		`label_replace(sum(up), "node", "n1", "", "")`:                         "",
		`label_replace(sum by (host) (up), "node", "$1", "host", "(.*)")`:      "",
		`label_join(sum by (a, b) (up), "node", "-", "a", "b")`:                "",
		`count_values("node", up)`:                                             "",
		"sum(a) * on () group_right () b":                                      "",
		"sum by (pod) (a) * on (pod) group_left (node) max by (pod, node) (b)": "",

		"sum(up)":                 "sum(up)",
		"sum by (cluster) (up)":   "sum by (cluster) (up)",
		"sum without (node) (up)": "sum without (node) (up)",
		"max by (node) (sum(up))": "sum(up)",
		"max by (cluster) (max by (node, cluster) (up))": "max by (cluster) (max by (node, cluster) (up))",
		"topk(3, sum(up))":          "sum(up)",
		"up + on (cluster) down":    "up + on (cluster) down",
		"up + ignoring (node) down": "up + ignoring (node) down",
		"sum(a) and b":              "sum(a)",
		"a or sum(b)":               "sum(b)",
		"sum(a) or b":               "sum(a)",
		"a * on (pod) group_left (node) max by (pod) (b)": "a * on (pod) group_left (node) max by (pod) (b)",
		"sum(a) * on () group_left () b":                  "sum(a)",
		"absent(up)":                                      "absent(up)",
		`absent_over_time(up{job="x"}[5m])`:               `absent_over_time(up{job="x"}[5m])`,
		"vector(1)":                                       "vector(1)",
		`label_replace(up, "node", "", "node", ".*")`:     `label_replace(up, "node", "", "node", ".*")`,
		`count_values("id", up)`:                          `count_values("id", up)`,
		"clamp(sum(up), 0, 1)":                            "sum(up)",
	} {
		e, err := ParseExpression(query)
		require.NoError(t, err, query)
		part, loses := e.Loses("node")
		require.Equal(t, want, part, query)
		require.Equal(t, want != "", loses, query)
	}
}

func TestLongPartsAreCut(t *testing.T) {
	t.Parallel()
	e, err := ParseExpression(`sum(an_extremely_long_name_of_a_series_that_nobody_would_want_to_read_twice)`)
	require.NoError(t, err)
	part, _ := e.Loses("node")
	require.Equal(t, "sum(an_extremely_long_name_of_a_series_that_nobody_would_wan...", part)
}
