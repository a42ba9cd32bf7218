package source

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// newSilencer returns a client of a server with these silences.
func newSilencer(t *testing.T, body string) *Alertmanager {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v2/silences", reply(body))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	a, err := NewAlertmanager(AlertmanagerOptions{URL: server.URL})
	require.NoError(t, err)
	return a
}

// silence is a silence in the form of the API.
func silence(id, state string, matchers ...string) string {
	return fmt.Sprintf(`{"id": %q, "status": {"state": %q}, "updatedAt": "2026-03-01T10:00:00.000Z", "comment": "riser swap",
		"createdBy": "alice", "startsAt": "2026-03-01T10:00:00.000Z", "endsAt": "2026-03-01T12:00:00.000Z", "annotations": {},
		"matchers": %s}`, id, state, list(matchers...))
}

const matchesN1 = `{"name": "node", "value": "n1", "isRegex": false, "isEqual": true}`

func TestAlertmanagerSilences(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		body string
		want []string
	}{
		"none":             {list(), []string{}},
		"active ones only": {list(silence("p", "pending", matchesN1), silence("a", "active", matchesN1), silence("e", "expired")), []string{"a"}},
		"expired nonsense": {list(silence("e", "expired", `{"name":"node","value":"(","isRegex":true}`)), []string{}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			silences, err := newSilencer(t, tt.body).Silences(t.Context())
			require.NoError(t, err)
			ids := []string{}
			for _, s := range silences {
				ids = append(ids, s.ID)
				require.Equal(t, "alice", s.CreatedBy)
				require.Equal(t, "riser swap", s.Comment)
				require.True(t, s.Matches(map[string]string{"node": "n1"}))
				require.False(t, s.Matches(map[string]string{"node": "n2"}))
			}
			require.Equal(t, tt.want, ids)
		})
	}
}

func TestAlertmanagerAsksForActiveSilencesOnly(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Method + " " + r.URL.String()
		reply("[]")(w, r)
	}))
	t.Cleanup(server.Close)
	a, err := NewAlertmanager(AlertmanagerOptions{URL: server.URL + "/prefix"})
	require.NoError(t, err)
	_, err = a.Silences(t.Context())
	require.NoError(t, err)
	require.Equal(t, "GET /prefix/api/v2/silences?expired=false&pending=false", <-asked)
}

func TestSilenceMatches(t *testing.T) {
	t.Parallel()
	labels := map[string]string{"alertname": "GpuHung", "node": "n1", "gpu": "3", "team": "", "text": "a\nb"}
	matcher := func(name, value string, flags string) string {
		return fmt.Sprintf(`{"name":%q,"value":%q,%s}`, name, value, flags)
	}
	const (
		equal, notEqual = `"isRegex":false,"isEqual":true`, `"isRegex":false,"isEqual":false`
		like, notLike   = `"isRegex":true,"isEqual":true`, `"isRegex":true,"isEqual":false`
	)
	tests := map[string]struct {
		matchers []string
		want     bool
	}{
		"equal":                                {[]string{matcher("node", "n1", equal)}, true},
		"equal to another":                     {[]string{matcher("node", "n2", equal)}, false},
		"equal to a part":                      {[]string{matcher("node", "n", equal)}, false},
		"no isEqual is equal":                  {[]string{matcher("node", "n1", `"isRegex":false`)}, true},
		"a null isEqual is equal":              {[]string{matcher("node", "n2", `"isRegex":false,"isEqual":null`)}, false},
		"not equal":                            {[]string{matcher("node", "n2", notEqual)}, true},
		"not equal to what it is":              {[]string{matcher("node", "n1", notEqual)}, false},
		"a pattern":                            {[]string{matcher("node", "n[0-9]|m1", like)}, true},
		"a pattern without isEqual":            {[]string{matcher("node", "n.", `"isRegex":true`)}, true},
		"a pattern of a part":                  {[]string{matcher("alertname", "Gpu", like)}, false},
		"a pattern of one choice's part":       {[]string{matcher("alertname", "Gpu|Hung", like)}, false},
		"a pattern's dot is no end of a line":  {[]string{matcher("text", "a.b", like)}, false},
		"not a pattern":                        {[]string{matcher("node", "m.*", notLike)}, true},
		"not a pattern that it is":             {[]string{matcher("node", "n.*", notLike)}, false},
		"a missing label is empty":             {[]string{matcher("rack", "", equal)}, true},
		"an empty label is empty":              {[]string{matcher("team", "", equal)}, true},
		"a missing label is not equal":         {[]string{matcher("rack", "r1", notEqual)}, true},
		"a missing label is something":         {[]string{matcher("rack", ".+", like)}, false},
		"a missing label is anything":          {[]string{matcher("rack", ".*", like)}, true},
		"a missing label is not some pattern":  {[]string{matcher("rack", "r.", notLike)}, true},
		"a value that is no pattern":           {[]string{matcher("node", "n.", equal)}, false},
		"all of several":                       {[]string{matcher("node", "n1", equal), matcher("gpu", "3|4", like)}, true},
		"all but one of several":               {[]string{matcher("node", "n1", equal), matcher("gpu", "4", equal)}, false},
		"one label twice":                      {[]string{matcher("node", "n.", like), matcher("node", "n1", notEqual)}, false},
		"what only Alertmanager takes whole":   {[]string{matcher("node", "x)|(?:n1", like)}, true},
		"a name that is no classic label name": {[]string{matcher("the node", "", equal)}, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			silences, err := newSilencer(t, list(silence("a", "active", tt.matchers...))).Silences(t.Context())
			require.NoError(t, err)
			require.Len(t, silences, 1)
			require.Equal(t, tt.want, silences[0].Matches(labels))
		})
	}
}

func TestSilenceWithoutMatchersMatchesNothing(t *testing.T) {
	t.Parallel()
	require.False(t, Silence{}.Matches(map[string]string{"node": "n1"}))
}

func TestAlertmanagerSilencesThatProveNothing(t *testing.T) {
	t.Parallel()
	active := func(matchers ...string) string { return list(silence("a", "active", matchers...)) }
	const incomplete = `silence "a": the matcher of label "node" is not complete`
	tests := map[string]struct {
		body string
		want string
	}{
		"null":             {"null", ": it is null"},
		"an object":        {"{}", ": decode: json: cannot unmarshal object into Go value of type []source.apiSilence"},
		"a page":           {"<html>", ": decode: invalid character '<' looking for beginning of value"},
		"a null silence":   {list("null"), `silence "" has the unknown state ""`},
		"another state":    {list(silence("a", "dormant", matchesN1)), `silence "a" has the unknown state "dormant"`},
		"no matchers":      {active(), `silence "a": it has no matchers`},
		"a null matcher":   {active("null"), `silence "a": the matcher of label "" is not complete`},
		"no name":          {active(`{"value":"n1","isRegex":false}`), `silence "a": a matcher names no label`},
		"no value":         {active(`{"name":"node","isRegex":false}`), incomplete},
		"no isRegex":       {active(`{"name":"node","value":"n1"}`), incomplete},
		"a number":         {active(`{"name":"node","value":1,"isRegex":false}`), "cannot unmarshal number into Go"},
		"no pattern":       {active(`{"name":"node","value":"n(","isRegex":true}`), `the matcher of label "node" is not a regular expression: "n("`},
		"one bad of two":   {active(matchesN1, `{"name":"node"}`), incomplete},
		"matchers of sets": {active(list(matchesN1)), "cannot unmarshal array into Go"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newSilencer(t, tt.body)
			silences, err := a.Silences(t.Context())
			require.ErrorContains(t, err, "answer of alertmanager "+a.URL())
			require.ErrorContains(t, err, tt.want)
			require.Nil(t, silences)
		})
	}
}

func TestAlertmanagerSilencesNeedsAnAnswer(t *testing.T) {
	t.Parallel()
	// As Alertmanager answers when a silence has several sets of matchers, which this API cannot tell.
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, `"silence 'a' has multiple matcher sets which is not supported by this API version"`, http.StatusInternalServerError)
	}))
	t.Cleanup(server.Close)
	a, err := NewAlertmanager(AlertmanagerOptions{URL: server.URL})
	require.NoError(t, err)
	_, err = a.Silences(t.Context())
	require.EqualError(t, err, "query alertmanager: "+server.URL+" answers with status 500")
}

func TestSilenceString(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ comment, want string }{
		"plain":   {"riser swap", "riser swap"},
		"empty":   {"", ""},
		"lines":   {" riser\n\tswap \x1b[31m \u202e!\xff", "riser swap [31m !"},
		"long":    {strings.Repeat("ü", maxComment+1), strings.Repeat("ü", maxComment-3) + "..."},
		"at most": {strings.Repeat("ü", maxComment), strings.Repeat("ü", maxComment)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := Silence{ID: "5b2e", CreatedBy: "alice", Comment: tt.comment}
			require.Equal(t, "silence 5b2e by alice: "+tt.want, s.String())
		})
	}
}

// FuzzDecodeSilences checks that what is taken for a silence can be matched, and shown on one short line.
func FuzzDecodeSilences(f *testing.F) {
	f.Add([]byte(list(silence("a", "active", matchesN1), silence("e", "expired", matchesN1))))
	f.Add([]byte(list(silence("a", "active", `{"name":"node","value":"n1|n2","isRegex":true,"isEqual":false}`))))
	f.Add([]byte(`[{"status":{"state":"active"},"matchers":[{"name":"a","value":"","isRegex":true}],"comment":"a\nb"}]`))
	f.Add([]byte(`null`))
	f.Add([]byte(`[null]`))
	oneLine := regexp.MustCompile(`^silence .* by .*: .*$`)
	f.Fuzz(func(t *testing.T, body []byte) {
		listed, err := decodeList[apiSilence](body)
		if err != nil {
			return
		}
		silences, err := activeSilences(listed)
		if err != nil {
			require.Nil(t, silences)
			return
		}
		for _, s := range silences {
			require.NotEmpty(t, s.Matchers)
			s.Matches(map[string]string{"node": "n1"})
			require.Regexp(t, oneLine, s.String())
			require.LessOrEqual(t, utf8.RuneCountInString(s.String()), maxSilenceID+maxCreatedBy+maxComment+len("silence  by : "))
		}
	})
}
