package source

import (
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// server answers each query with its own body, and remembers what it was asked.
type server struct {
	*httptest.Server
	mu    sync.Mutex
	asked []string
	limit string
}

func newServer(t *testing.T, answers map[string]string) *server {
	t.Helper()
	s := &server{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query := r.FormValue("query")
		s.mu.Lock()
		s.asked = append(s.asked, query)
		s.limit = r.FormValue("limit")
		s.mu.Unlock()
		if body, ok := answers[query]; ok {
			reply(body)(w, r)
			return
		}
		http.Error(w, "unexpected query", http.StatusBadRequest)
	}))
	t.Cleanup(s.Close)
	return s
}

const canaryQuery = `timestamp(ALERTS{alertname="Watchdog",alertstate="firing"})`

// number is a sample of a series of a node.
func number(node, value string) string {
	return fmt.Sprintf(`{"metric":{"__name__":"temp","node":%q},"value":[%d.781,%q]}`, node, evaluated, value)
}

// aged is the time of the sample of a series, as timestamp() tells it.
func aged(node string, age time.Duration) string {
	return fmt.Sprintf(`{"metric":{"node":%q},"value":[%d.781,"%.3f"]}`, node, evaluated, float64(evaluated)+0.781-age.Seconds())
}

func (s *server) read(t *testing.T, query, alive string) (Answer, error) {
	t.Helper()
	o := QueryOptions{Server: PrometheusOptions{URL: s.URL}}
	var err error
	o.Query, err = ParseExpression(query)
	require.NoError(t, err)
	if alive != "" {
		parsed, err := ParseExpression(alive)
		require.NoError(t, err)
		o.Alive = &parsed
	}
	q, err := NewQuery(o)
	require.NoError(t, err)
	return q.Read(t.Context())
}

func TestQueryReadsSamplesWithTheirAge(t *testing.T) {
	t.Parallel()
	s := newServer(t, map[string]string{
		canaryQuery:            vector(canary),
		"temp":                 vector(number("n1", "95"), number("n2", "3"), number("n3", "4"), number("n4", "NaN")),
		"timestamp(temp)":      vector(aged("n1", 30*time.Second), aged("n2", 3*time.Minute), aged("n4", 0)),
		`max by (node) (up)`:   vector(number("n1", "1")),
		`sum by (node) (temp)`: vector(number("n1", "+Inf")),
	})
	answer, err := s.read(t, "temp", "max by (node) (up)")
	require.NoError(t, err)
	require.Len(t, answer.Samples, 4)
	require.Equal(t, Sample{Labels: map[string]string{"__name__": "temp", "node": "n1"}, Value: 95}, answer.Samples[0])
	require.True(t, answer.Samples[1].Stale, "older than two minutes")
	require.True(t, answer.Samples[2].Stale, "gone by the time when its age was asked for")
	require.False(t, answer.Samples[3].Usable())
	require.True(t, math.IsNaN(answer.Samples[3].Value))
	require.Len(t, answer.Alive, 1)
	require.Equal(t, []string{canaryQuery, "temp", "timestamp(temp)", "max by (node) (up)"}, s.asked)
	require.Equal(t, "100001", s.limit)

	answer, err = s.read(t, "sum by (node) (temp)", "")
	require.NoError(t, err)
	require.False(t, answer.Samples[0].Usable())
	require.Nil(t, answer.Alive)
}

func TestQueryAnswersThatProveNothing(t *testing.T) {
	t.Parallel()
	million := vector(strings.TrimSuffix(strings.Repeat(`{"metric":{},"value":[1,"1"]},`, MaxSeries+1), ","))
	tests := map[string]struct {
		canary, body, times, want string
	}{
		"no canary":       {vector(), vector(number("n1", "1")), vector(), `the canary alert "Watchdog" does not fire`},
		"a stale canary":  {vector(element("Watchdog", "firing", time.Hour)), vector(), vector(), "is stale"},
		"a scalar":        {vector(canary), `{"status":"success","data":{"resultType":"scalar","result":[1,"1"]}}`, vector(), `the result is a "scalar", not a vector`},
		"a matrix":        {vector(canary), `{"status":"success","data":{"resultType":"matrix","result":[]}}`, vector(), `the result is a "matrix", not a vector`},
		"a warning":       {vector(canary), `{"status":"success","warnings":["cut"],"data":{"resultType":"vector","result":[]}}`, vector(), "1 warning(s)"},
		"a partial one":   {vector(canary), `{"status":"success","isPartial":true,"data":{"resultType":"vector","result":[]}}`, vector(), "it is partial"},
		"too many series": {vector(canary), million, vector(), "it has more than 100000 series"},
		"no times":        {vector(canary), vector(number("n1", "1")), `{"status":"error"}`, `ask how old the samples are: answer of prometheus`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, map[string]string{canaryQuery: test.canary, "temp": test.body, "timestamp(temp)": test.times})
			_, err := s.read(t, "temp", "")
			require.ErrorContains(t, err, test.want)
		})
	}
}

func TestQueryOfAHistogramHasNoNumber(t *testing.T) {
	t.Parallel()
	s := newServer(t, map[string]string{
		canaryQuery: vector(canary), "rate(h[5m])": vector(`{"metric":{"node":"n1"},"histogram":[1,{"count":"1"}]}`),
	})
	answer, err := s.read(t, "rate(h[5m])", "")
	require.NoError(t, err)
	require.False(t, answer.Samples[0].Usable())
}

func TestParseExpression(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]string{
		"":              "is empty",
		" ":             "is empty",
		"up ==":         "does not parse: at 1:6 of the query: unexpected end of input",
		"1 + 1":         "yields a scalar",
		`"x"`:           "yields a string",
		"up[5m]":        "yields a range of values",
		"nonsense(up)":  "unknown function",
		"sum(up[5m])":   "expected type instant vector",
		"up{node=~'*'}": "does not parse",
	} {
		_, err := ParseExpression(query)
		require.ErrorContains(t, err, want, query)
	}
}

func TestAgeIsAskedOfSeriesOnly(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]bool{
		"up": true, "(up)": true, `{__name__="up"}`: true, `up{job="x"}`: true, "node:temp:max": true,
		`{__name__=~"up|down"}`: false, `{job="x"}`: false, "up offset 5m": false, "up @ 1": false, "up @ end()": false, "-up": false,
		"max(up)": false, "up > 1": false, "rate(up[5m])": false, "last_over_time(up[5m])": false,
	} {
		e, err := ParseExpression(query)
		require.NoError(t, err, query)
		require.Equal(t, want, e.plain(), query)
	}
}

func TestFilters(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]bool{
		"up == 0": true, "(up == 0)": true, "sum by (node) (up == 0)": true, `label_replace(up == 0, "a", "b", "c", "d")`: true,
		"up": false, "up == bool 0": false, "up + 1": false, "sum(up)": false, "vector(1)": false,
	} {
		e, err := ParseExpression(query)
		if err != nil {
			t.Fatal(query, err)
		}
		require.Equal(t, want, e.Filters(), query)
	}
}

func TestWhatPrometheusSaysOfAQueryIsTold(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		status     int
		body, want string
	}{
		{422, `{"status":"error","errorType":"execution","error":"many-to-many matching not allowed"}`, `answers with status 422: "many-to-many matching not allowed"`},
		{400, `{"status":"error","errorType":"bad_data","error":"parse error"}`, `answers with status 400: "parse error"`},
		{400, `{"status":"error","errorType":"other","error":"secret"}`, "answers with status 400"},
		{400, "<html>secret</html>", "answers with status 400"},
		{500, `{"status":"error","errorType":"execution","error":"secret"}`, "answers with status 500"},
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.FormValue("query") == canaryQuery {
				reply(vector(canary))(w, r)
				return
			}
			http.Error(w, test.body, test.status)
		}))
		t.Cleanup(s.Close)
		_, err := (&server{Server: s}).read(t, "temp", "")
		require.ErrorContains(t, err, test.want)
		require.NotContains(t, err.Error(), "secret")
	}
}
