package source

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func parsed(t *testing.T, query string) Expression {
	t.Helper()
	e, err := ParseExpression(query)
	require.NoError(t, err)
	return e
}

func TestPossible(t *testing.T) {
	t.Parallel()
	tests := []struct {
		query  string
		exists []string
		want   bool
	}{
		{"a", []string{"a"}, true},
		{"a", nil, false},
		{"a or b", []string{"b"}, true},
		{"a and b", []string{"a"}, false},
		{"a unless b", []string{"a"}, true},
		{"a unless b", []string{"b"}, false},
		{"a / on (node) b > 0.5", []string{"a"}, false},
		{"a / on (node) b > 0.5", []string{"a", "b"}, true},
		{"a / on (node) fill_right(1) b", []string{"a"}, true},
		{"a / on (node) fill_right(1) b", []string{"b"}, false},
		{"a / on (node) fill(1) b", nil, false},
		{"a > 3", []string{"a"}, true},
		{"sum by (node) (rate(a[5m])) > 1", nil, false},
		{"sum by (node) (rate(a[5m])) > 1", []string{"a"}, true},
		{"max_over_time((a > 1)[1h:5m])", nil, false},
		{`label_replace(a, "node", "$1", "Hostname", "(.+)")`, nil, false},
		{"absent(a)", nil, true},
		{"vector(1)", nil, true},
		{"-a", nil, false},
		{`{__name__=~"a_(x|y)"}`, []string{"a_y"}, true},
		{`{__name__=~"a_(x|y)"}`, []string{"a_z"}, false},
		{"a offset 10m", []string{"a"}, true},
	}
	for _, tt := range tests {
		t.Run(tt.query, func(t *testing.T) {
			t.Parallel()
			got := parsed(t, tt.query).Possible(func(s Selector) bool { return slices.ContainsFunc(tt.exists, s.isOf) })
			require.Equal(t, tt.want, got, "with %v", tt.exists)
		})
	}
}

func TestSelectors(t *testing.T) {
	t.Parallel()
	all := parsed(t, `timestamp(up{job=~".*kubelet.*",node!=""}) and on (node) max_over_time(x{node!="",exported_node="",mode="idle"}[5m] offset 1m) unless on (node) (y > 0 or z)`).Selectors()
	require.Len(t, all, 2, "y and z only take series away")
	up, x := all[0], all[1]
	require.Equal(t, "up", up.Metric())
	require.Equal(t, `up{job=~".*kubelet.*"}`, up.String())
	require.False(t, up.HonorsLabels())
	require.True(t, x.HonorsLabels())
	require.Equal(t, `x{mode="idle"}`, x.String())
	require.Equal(t, "x", x.AnyLabels())
	require.Equal(t, `{__name__=~"a_(x|y)"}`, parsed(t, `{__name__=~"a_(x|y)",mode="idle",node!=""}`).Selectors()[0].AnyLabels())
	require.Equal(t, `x{Hostname="",mode="idle",node=""}`, x.WithoutNode("Hostname"))
	require.Equal(t, `x{exported_node!="",mode="idle"}`, x.Renamed())
}

// isOf reports whether the selector is of series of that name.
func (s Selector) isOf(metric string) bool {
	m := s.matcher(labelName)
	return m == nil || m.Matches(metric)
}
