package handler

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/sop/policy"
)

func (s *scriptedCommander) Silence(ctx context.Context, made policy.Silence) (policy.Silence, error) {
	made.ID = someTicket
	return made, s.take(ctx, fmt.Sprintf("silence %v by %s: %s", made.Matchers, made.CreatedBy, made.Comment), func() {
		s.orders.Silences = append(s.orders.Silences, made)
	})
}

func (s *scriptedCommander) EndSilence(ctx context.Context, id, by string) (policy.Silence, error) {
	ended := policy.Silence{ID: id, Matchers: []string{`node="n1"`}, EndedBy: by}
	return ended, s.take(ctx, "end of silence "+id+" by "+by, func() {})
}

const silencesPath = "/api/v1/silences"

// silenceRoutes has a request to every route of silences.
func silenceRoutes() []routeCase {
	return []routeCase{
		{role: RoleView, method: "GET", path: silencesPath, code: 200},
		{role: RoleHeal, method: "POST", path: silencesPath, body: silenceText(`"node=\"n1\""`), code: 200},
		{role: RoleHeal, method: "DELETE", path: silencesPath + "/" + someTicket, code: 200},
	}
}

// silenceText is a body with the matchers.
func silenceText(matchers string) string {
	return `{"matchers":[` + matchers + `],"duration":"2h","comment":"riser swap"}`
}

func TestSilencesAreMade(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ matchers, want string }{
		"a text":                 {`"node=\"n1\""`, `node="n1"`},
		"a text without quotes":  {`"node=~n1|n2"`, `node=~n1|n2`},
		"a text with several":    {`"{node=\"n1\",gpu!=\"3\"}"`, `{node="n1",gpu!="3"}`},
		"an object":              {`{"name":"node","value":"n1","isRegex":false}`, `node="n1"`},
		"an object that is none": {`{"name":"node","value":"n1","isRegex":false,"isEqual":false}`, `node!="n1"`},
		"a pattern":              {`{"name":"node","value":"n[12]","isRegex":true,"isEqual":true}`, `node=~"n[12]"`},
		"no pattern":             {`{"name":"node","value":"n[12]","isRegex":true,"isEqual":false},"gpu=\"1\""`, `node!~"n[12]" gpu="1"`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			r := httptest.NewRequest(http.MethodPost, silencesPath, strings.NewReader(silenceText(tt.matchers)))
			r.Header.Set("Content-Type", "application/json")
			r.RemoteAddr = "127.0.0.1:4711"
			got := record(f.routes, r)
			if name == "no pattern" || name == "an object that is none" {
				// What matches where there is no such label needs a matcher beside it that does not.
				require.Equal(t, name == "no pattern", got.code == 200, got.body)
				return
			}
			require.Equal(t, 200, got.code, got.body)
			var view SilenceView
			require.NoError(t, json.Unmarshal([]byte(got.body), &view))
			require.Equal(t, stateActive, view.State)
			require.Equal(t, someTicket, view.ID)
			require.Equal(t, "loopback", view.CreatedBy)
			require.Equal(t, []string{"silence [" + tt.want + "] by loopback: riser swap"}, f.commander.taken)
		})
	}
}

func TestSilencesThatAreRefused(t *testing.T) {
	t.Parallel()
	const node = `"node=\"n1\""`
	with := func(rest string) string { return `{"matchers":[` + node + `],` + rest + `}` }
	tests := map[string]answerCase{
		"no body":             {body: " ", code: 400, says: "body is empty"},
		"an unknown field":    {body: with(`"createdBy":"alice"`), code: 400, says: `unknown field "createdBy", known are`},
		"no matchers":         {body: `{"duration":"2h","comment":"x"}`, code: 400, says: `matchers is missing, want texts such as node="gpu-17"`},
		"not a matcher":       {body: silenceText(`"node"`), code: 400, says: `matcher "node"`},
		"a number":            {body: silenceText(`1`), code: 400, says: "neither a text"},
		"an object's typo":    {body: silenceText(`{"nam":"node"}`), code: 400, says: `unknown field "nam", did you mean "name"?`},
		"half an object":      {body: silenceText(`{"name":"node"}`), code: 400, says: "no name or no value"},
		"no pattern":          {body: silenceText(`{"name":"node","value":"(","isRegex":true}`), code: 400, says: `the matcher of label "node"`},
		"everything":          {body: silenceText(`"node=~\".*\""`), code: 400, says: "at least one must not match the empty text"},
		"a long matcher":      {body: silenceText(`"node=\"` + strings.Repeat("x", 600) + `\""`), code: 400, says: "a matcher has 607 bytes, want at most 512"},
		"many matchers":       {body: silenceText(node + strings.Repeat(","+node, 16)), code: 400, says: "it has 17 matchers, want at most 16"},
		"no comment":          {body: with(`"duration":"2h"`), code: 400, says: "comment is missing"},
		"a blank comment":     {body: with(`"duration":"2h","comment":" \n"`), code: 400, says: "comment is missing"},
		"a long comment":      {body: with(`"duration":"2h","comment":"` + strings.Repeat("x", 513) + `"`), code: 400, says: "comment has 513 bytes"},
		"no end":              {body: with(`"comment":"x"`), code: 400, says: "want either endsAt, such as"},
		"two ends":            {body: with(`"comment":"x","duration":"2h","endsAt":"2099-01-01T00:00:00Z"`), code: 400, says: "want either endsAt, such as"},
		"no duration":         {body: with(`"comment":"x","duration":"soon"`), code: 400, says: `duration is "soon", want a duration such as 2h or 1d`},
		"no time":             {body: with(`"comment":"x","endsAt":"tomorrow"`), code: 400, says: `endsAt is "tomorrow", want a time`},
		"an end in the past":  {body: with(`"comment":"x","endsAt":"2026-01-01T00:00:00Z"`), code: 400, says: "which is not in the future"},
		"for too long":        {body: with(`"comment":"x","duration":"31d"`), code: 400, says: "it lasts 744h0m0s, want at most 30 days"},
		"as another":          {body: silenceText(node), request: func(r *http.Request) { r.RemoteAddr = "192.0.2.1:1" }, code: 403, says: "role heal"},
		"while another leads": {body: silenceText(node), options: notReady("not the leader"), code: 503, says: "not the leader"},
		"one too many":        {body: silenceText(node), options: ends(fmt.Errorf("%w: 64 silences are active", policy.ErrRefused)), code: 409, says: "64 silences are active"},
		"an end of none":      {method: "DELETE", path: silencesPath + "/x", options: ends(policy.ErrNoSilence), code: 404, says: policy.ErrNoSilence.Error()},
		"an end twice":        {method: "DELETE", path: silencesPath + "/x", options: ends(policy.ErrRefused), code: 409, says: "refused"},
		"a change":            {method: "PUT", path: silencesPath, body: silenceText(node), code: 405, says: "use [GET HEAD POST]"},
		"a look at one":       {method: "GET", path: silencesPath + "/x", code: 405, says: "use [DELETE]"},
	}
	for name, tc := range tests {
		if tc.method == "" {
			tc.method, tc.path = http.MethodPost, silencesPath
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.run(t)
		})
	}
}

func TestSilencesAreListed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		now := time.Now()
		for i, end := range []time.Duration{-2 * time.Hour, -time.Minute, 2 * time.Hour, time.Hour} {
			f.commander.orders.Silences = append(f.commander.orders.Silences, policy.Silence{ID: fmt.Sprint(i), EndsAt: now.Add(end)})
		}
		got := record(f.routes, httptest.NewRequest(http.MethodGet, silencesPath, nil))
		var list silenceList
		require.NoError(t, json.Unmarshal([]byte(got.body), &list))
		var ids []string
		for _, s := range list.Silences {
			ids = append(ids, s.ID+" "+s.State)
		}
		require.Equal(t, []string{"3 active", "2 active", "1 expired"}, ids, "what ended an hour ago is forgotten")
		f.commander.orders.Silences = nil
		require.JSONEq(t, `{"silences":[]}`, record(f.routes, httptest.NewRequest(http.MethodGet, silencesPath, nil)).body)
	})
}

func FuzzSilence(f *testing.F) {
	for _, matchers := range []string{`"node=\"n1\""`, `{"name":"node","value":"n1"}`, `"{a=~\"b\",c!~\"d\"}"`, `null`, `1`, `{"name":"a","value":"(","isRegex":true}`} {
		f.Add([]byte(silenceText(matchers)))
	}
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, text []byte) {
		body, err := decodeStrict[silenceBody](text, silenceFields())
		if err != nil {
			require.Equal(t, http.StatusBadRequest, problemOf(err).status)
			return
		}
		s, err := body.silence("alice", now)
		if err != nil {
			require.Equal(t, http.StatusBadRequest, problemOf(err).status)
			return
		}
		s.ID = "1"
		require.NoError(t, policy.CheckSilences([]policy.Silence{s}), "what is taken can be read again")
		require.True(t, s.Active(now))
		require.False(t, slices.Contains([]rune(s.String()), '\n'))
	})
}
