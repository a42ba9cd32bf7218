package monitoring

import (
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"
)

func TestCompress(t *testing.T) {
	t.Parallel()
	fast := Compress{For: 2 * time.Second, Window: 15 * time.Second}
	for name, tc := range map[string]struct{ expr, want string }{
		"a range":             {`rate(x_total[5m]) > 1`, `rate(x_total[15s]) > 1`},
		"a short range stays": {`rate(x_total[5s])`, `rate(x_total[5s])`},
		"a memory stays":      {`max_over_time(x[1w])`, `max_over_time(x[1w])`},
		"an offset":           {`x unless x offset 10m`, `x unless x offset 15s`},
		"a subquery":          {`changes(max by (node) (x)[2h:1m]) >= 6`, `changes(max by (node) (x)[15s:1s]) >= 6`},
		"a long subquery":     {`max_over_time(x[7d:10m])`, `max_over_time(x[10m:5s])`},
		"numbers stay":        {`time() - boot < 3600`, `time() - boot < 3600`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := rule{Expr: tc.expr, For: model.Duration(time.Hour), KeepFiringFor: model.Duration(time.Hour)}.compressed(fast)
			require.NoError(t, err)
			require.Equal(t, tc.want, r.Expr)
			require.Equal(t, model.Duration(2*fast.For), r.For)
			require.Equal(t, model.Duration(fast.Window), r.KeepFiringFor)
			r, err = rule{Expr: tc.expr, For: model.Duration(time.Hour)}.compressed(Compress{})
			require.NoError(t, err)
			require.Equal(t, rule{Expr: tc.expr, For: model.Duration(time.Hour)}, r)
		})
	}
	for before, want := range map[time.Duration]time.Duration{
		time.Second: time.Second, time.Minute: fast.For, 3 * time.Minute: fast.For + fast.For/2, 5 * time.Minute: 2 * fast.For,
	} {
		r, err := rule{Expr: "x", For: model.Duration(before)}.compressed(fast)
		require.NoError(t, err)
		require.Equal(t, model.Duration(want), r.For, "before: %s", before)
	}
	_, err := rule{Expr: "x["}.compressed(fast)
	require.Error(t, err)
}

func TestChartRulesCompress(t *testing.T) {
	t.Parallel()
	rules, err := loadRules([]string{"../../charts/aegis/rules"})
	require.NoError(t, err)
	require.Positive(t, rules.alerts())
	_, err = rules.compressed(FastRules())
	require.NoError(t, err)
}
