package handler

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/web"
)

// tokenFile writes a file of tokens.
func tokenFile(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// tokens returns an Auth with one token.
func tokens(t testing.TB, token string, roles ...Role) *Auth {
	t.Helper()
	auth, err := NewAuth(AuthOptions{Tokens: []TokenFile{{File: tokenFile(t, "oncall", token+"\n"), Roles: roles}}})
	require.NoError(t, err)
	return auth
}

func withToken(r *http.Request, token string) *http.Request {
	r.Header.Set("Authorization", "Bearer "+token)
	return r
}

func TestRoles(t *testing.T) {
	t.Parallel()
	for _, rt := range everyRoute() {
		for role, may := range map[Role]bool{
			RoleAlerts: rt.role == RoleAlerts,
			RoleView:   rt.role == RoleView,
			RoleHeal:   rt.role == RoleView || rt.role == RoleHeal,
		} {
			t.Run(string(role)+" "+rt.method+" "+rt.path, func(t *testing.T) {
				t.Parallel()
				f := newFixture(t, func(o *Options) { o.Auth = tokens(t, "s3cret", role) })
				got := record(f.routes, withToken(rt.request(), "s3cret"))
				if may {
					require.Equal(t, rt.code, got.code, got.body)
				} else {
					require.Equal(t, http.StatusForbidden, got.code)
					require.Equal(t, "the token lacks the role "+string(rt.role), got.problem(t))
				}
				requireUnknownToken(t, f, rt)
			})
		}
	}
}

// requireUnknownToken checks that loopback is nothing special where there are tokens.
func requireUnknownToken(t *testing.T, f *fixture, rt routeCase) {
	t.Helper()
	before := len(f.commander.taken)
	r := withToken(rt.request(), "guess")
	r.RemoteAddr = "127.0.0.1:4711"
	refused := record(f.routes, r)
	require.Equal(t, http.StatusUnauthorized, refused.code)
	require.Equal(t, "the token is not known", refused.problem(t))
	require.Equal(t, `Bearer realm="aegis"`, refused.header.Get("WWW-Authenticate"))
	require.Len(t, f.commander.taken, before)
}

func TestProbesNeedNoToken(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(o *Options) { o.Auth = tokens(t, "s3cret", RoleAlerts) })
	for _, path := range []string{"/-/healthy", "/-/ready"} {
		require.Equal(t, http.StatusOK, record(f.routes, withToken(httptest.NewRequest(http.MethodGet, path, nil), "guess")).code)
	}
}

func TestAuthorizationHeaders(t *testing.T) {
	t.Parallel()
	auth := tokens(t, "s3cret", RoleView)
	for header, ok := range map[string]bool{
		"Bearer s3cret": true, "bearer s3cret": true, "Bearer   s3cret ": true,
		"": false, "Bearer": false, "Bearer ": false, "s3cret": false, "Basic s3cret": false, "Bearer s3cre": false,
		"Bearer s3crets": false, "Bearer S3CRET": false, "Bearer s3cret x": false, "Bearer #": false,
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Authorization", header)
		name, err := auth.authorize(r, RoleView)
		if ok {
			require.NoError(t, err, header)
			require.Equal(t, "oncall", name)
		} else {
			require.Equal(t, http.StatusUnauthorized, problemOf(err).status, header)
		}
	}
}

func TestAuthComesBeforeTheBody(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(o *Options) { o.Auth = tokens(t, "s3cret", RoleAlerts) })
	r := httptest.NewRequest(http.MethodPost, "/api/v1/alerts", unreadable{t})
	require.Equal(t, http.StatusUnauthorized, record(f.routes, r).code)
}

// unreadable is a body that nobody may touch.
type unreadable struct{ t *testing.T }

func (u unreadable) Read([]byte) (int, error) {
	u.t.Error("the body of a stranger was read")
	return 0, os.ErrInvalid
}

func TestIdentityIsTheFile(t *testing.T) {
	t.Parallel()
	auth, err := NewAuth(AuthOptions{Tokens: []TokenFile{
		{File: tokenFile(t, "alertmanager", "# the webhook\n\na1\na2 # the next one\n"), Roles: []Role{RoleAlerts}},
		{File: tokenFile(t, "oncall", "h1\n"), Roles: []Role{RoleHeal}},
		{File: tokenFile(t, "console", "v1\r\nh1\r\n"), Roles: []Role{RoleView}},
	}})
	require.NoError(t, err)
	f := newFixture(t, func(o *Options) { o.Auth = auth })
	r := withToken(httptest.NewRequest(http.MethodPost, "/api/v1/heal", strings.NewReader(`{"node":"n","condition":"GpuHung"}`)), "h1")
	r.Header.Set("Content-Type", "application/json")
	require.Equal(t, http.StatusAccepted, record(f.routes, r).code)
	require.Equal(t, "oncall", f.commander.heals[0].By)
	require.Contains(t, f.log.String(), "by=oncall")

	for token, want := range map[string]string{"a1": "alertmanager", "a2": "alertmanager"} {
		name, err := auth.authorize(withToken(httptest.NewRequest(http.MethodPost, "/", nil), token), RoleAlerts)
		require.NoError(t, err)
		require.Equal(t, want, name)
	}
	for _, comment := range []string{"#", "the", "next", "one"} {
		_, err := auth.authorize(withToken(httptest.NewRequest(http.MethodPost, "/", nil), comment), RoleAlerts)
		require.Equal(t, http.StatusUnauthorized, problemOf(err).status, comment)
	}
}

func TestTokensRotate(t *testing.T) {
	t.Parallel()
	path := tokenFile(t, "oncall", "old-1\n")
	auth, err := NewAuth(AuthOptions{Tokens: []TokenFile{{File: path, Roles: []Role{RoleView}}}})
	require.NoError(t, err)
	status := func(token string) int {
		if _, err := auth.authorize(withToken(httptest.NewRequest(http.MethodGet, "/", nil), token), RoleView); err != nil {
			return problemOf(err).status
		}
		return http.StatusOK
	}
	require.Equal(t, http.StatusOK, status("old-1"))

	// Of the same size, and within one tick of the file system's clock.
	require.NoError(t, os.WriteFile(path, []byte("new-1\n"), 0o600))
	require.Equal(t, http.StatusUnauthorized, status("old-1"))
	require.Equal(t, http.StatusOK, status("new-1"))

	// As a mounted Secret changes: by another file that takes the name.
	next := path + ".next"
	require.NoError(t, os.WriteFile(next, []byte("new-2\nnew-3\n"), 0o600))
	require.NoError(t, os.Rename(next, path))
	require.Equal(t, http.StatusUnauthorized, status("new-1"))
	require.Equal(t, http.StatusOK, status("new-3"))

	for name, text := range map[string]string{"half written": "", "damaged": "two words\n", "too large": strings.Repeat("x", maxTokenFileBytes+1)} {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		require.Equal(t, http.StatusServiceUnavailable, status("new-3"), name)
	}
	require.NoError(t, os.Remove(path))
	require.Equal(t, http.StatusServiceUnavailable, status("new-3"), "gone")
}

func TestOrdersFollowARotatedFile(t *testing.T) {
	t.Parallel()
	path := tokenFile(t, "oncall", "old\n")
	auth, err := NewAuth(AuthOptions{Tokens: []TokenFile{{File: path, Roles: []Role{RoleHeal}}}})
	require.NoError(t, err)
	f := newFixture(t, func(o *Options) { o.Auth = auth })
	pause := func(token string) int {
		r := routeCase{method: http.MethodPost, path: "/api/v1/pause", body: `{"reason":"a switch is replaced"}`}.request()
		return record(f.routes, withToken(r, token)).code
	}
	require.Equal(t, http.StatusOK, pause("old"))
	require.NoError(t, os.WriteFile(path, []byte("new\n"), 0o600))
	require.Equal(t, http.StatusUnauthorized, pause("old"))
	require.Equal(t, http.StatusOK, pause("new"))
	require.Len(t, f.commander.taken, 2)
}

func TestUnreadableTokenFileStaysAPrivateMatter(t *testing.T) {
	t.Parallel()
	gone := tokenFile(t, "gone", "g1\n")
	auth, err := NewAuth(AuthOptions{Tokens: []TokenFile{
		{File: gone, Roles: []Role{RoleView}},
		{File: tokenFile(t, "there", "t1\n"), Roles: []Role{RoleView}},
	}})
	require.NoError(t, err)
	require.NoError(t, os.Remove(gone))
	f := newFixture(t, func(o *Options) { o.Auth = auth })
	got := record(f.routes, withToken(httptest.NewRequest(http.MethodGet, "/api/v1/nodes", nil), "g1"))
	require.Equal(t, http.StatusServiceUnavailable, got.code)
	require.Equal(t, "the token cannot be checked at the moment", got.problem(t))
	require.Contains(t, f.log.String(), gone)
	require.NotContains(t, f.log.String(), "g1\"")
	got = record(f.routes, withToken(httptest.NewRequest(http.MethodGet, "/api/v1/nodes", nil), "t1"))
	require.Equal(t, http.StatusOK, got.code, "the other file still counts")
}

func TestNewAuthNamesEverythingWrong(t *testing.T) {
	t.Parallel()
	spaced := tokenFile(t, "spaced", "# fine\nhunter2 hunter3\n")
	auth, err := NewAuth(AuthOptions{Tokens: []TokenFile{
		{File: "/nowhere/token", Roles: []Role{RoleView}},
		{File: tokenFile(t, "empty", "\n# nothing\n"), Roles: []Role{"admin"}},
		{File: spaced},
	}})
	require.Nil(t, auth)
	require.ErrorContains(t, err, "open /nowhere/token: no such file or directory")
	require.ErrorContains(t, err, "holds no token")
	require.ErrorContains(t, err, `has the unknown role "admin", want alerts, view or heal`)
	require.ErrorContains(t, err, "has no roles")
	require.ErrorContains(t, err, spaced+":2: a token has no spaces in it")
	require.NotContains(t, err.Error(), "hunter")
}

// TestTokensAreNeverTold asks every route with a good, a weak and an unknown token, and lets it succeed, fail and panic.
func TestTokensAreNeverTold(t *testing.T) {
	t.Parallel()
	failing := errors.New("the API server is away")
	for name, change := range map[string]func(*fixture){
		"it works":  func(*fixture) {},
		"it fails":  func(f *fixture) { f.commander.err, f.commander.nodeErr = failing, failing },
		"it panics": func(f *fixture) { f.handler.commander, f.handler.nodes = nil, nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			auth, err := NewAuth(AuthOptions{Tokens: []TokenFile{
				{File: tokenFile(t, "oncall", "right-s3cret\n"), Roles: []Role{RoleHeal, RoleAlerts}},
				{File: tokenFile(t, "console", "weak-s3cret\n"), Roles: []Role{RoleView}},
			}})
			require.NoError(t, err)
			f := newFixture(t, func(o *Options) { o.Auth = auth })
			change(f)
			for _, rt := range append(everyRoute(), routeCase{method: http.MethodGet, path: "/nowhere"}) {
				for _, token := range []string{"right-s3cret", "weak-s3cret", "unknown-s3cret"} {
					got := record(f.routes, withToken(rt.request(), token))
					require.NotContains(t, got.body, "s3cret", rt.path)
					require.NotContains(t, got.header, "Authorization")
				}
			}
			require.Contains(t, f.log.String(), "request served")
			require.NotContains(t, f.log.String(), "s3cret")
			require.NotContains(t, strings.Join(f.commander.taken, "\n"), "s3cret")
			for _, r := range f.commander.heals {
				require.Equal(t, "oncall", r.By)
			}
		})
	}
}

// Without tokens nobody writes, from wherever, unless the configuration says so.
func TestNobodyWritesByDefault(t *testing.T) {
	t.Parallel()
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	r.RemoteAddr = "127.0.0.1:4711"
	for _, role := range []Role{RoleAlerts, RoleHeal} {
		_, err := (&Auth{}).authorize(r, role)
		require.Equal(t, http.StatusForbidden, problemOf(err).status)
		require.ErrorContains(t, err, "nobody may do this: configure a token with the role "+string(role)+", or auth.allowLoopback for requests from this host")
	}
	_, err := (&Auth{}).authorize(r, RoleView)
	require.NoError(t, err)
}

// trusting lets requests from this host write.
func trusting() *Auth { return &Auth{loopback: true} }

func TestLoopbackAlone(t *testing.T) {
	t.Parallel()
	for address, ok := range map[string]bool{
		"127.0.0.1:4711": true, "127.8.9.10:1": false, "127.0.0.6:40001": false, "[::ffff:127.0.0.6]:1": false, "[::1]:4711": true, "[::ffff:127.0.0.1]:4711": true,
		"192.0.2.1:4711": false, "[2001:db8::1]:80": false, "0.0.0.0:1": false, "10.0.0.1:1": false,
		"localhost:80": false, "127.0.0.1": false, "@": false, "": false, "pipe": false, "[fe80::1%lo]:1": false,
	} {
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		r.RemoteAddr = address
		name, err := trusting().authorize(r, RoleHeal)
		if ok {
			require.NoError(t, err, address)
			require.Equal(t, "loopback", name)
			continue
		}
		require.Equal(t, http.StatusForbidden, problemOf(err).status, address)
		require.ErrorContains(t, err, "without token files only loopback may do this; configure a token with the role heal")
	}
}

// A proxy in the same pod comes from loopback with the requests of everybody.
func TestForwardedIsNotLoopback(t *testing.T) {
	t.Parallel()
	for _, header := range []string{
		"X-Forwarded-For", "X-Forwarded-Proto", "X-Real-Ip", "Forwarded", "True-Client-IP", "Via", "x-envoy-external-address", "X-Forwarded-Client-Cert",
		"l5d-client-id",
	} {
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		r.RemoteAddr = "127.0.0.1:4711"
		r.Header.Set(header, "127.0.0.1")
		_, err := trusting().authorize(r, RoleHeal)
		require.ErrorContains(t, err, "says that the request is not from this host", header)
		require.Equal(t, http.StatusForbidden, problemOf(err).status, header)
	}
}

func TestPagesOfOthersMayNotWrite(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		header, value string
		code          int
	}{
		"no browser":        {"Accept", "*/*", 200},
		"a page of our own": {"Sec-Fetch-Site", "same-origin", 200},
		"a page of others":  {"Sec-Fetch-Site", "cross-site", 403},
		"an old browser":    {"Origin", "https://evil.example.com", 403},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := httptest.NewRequest(http.MethodPost, "/-/reload", nil)
			r.RemoteAddr = "127.0.0.1:4711"
			r.Header.Set(tc.header, tc.value)
			require.Equal(t, tc.code, record(newFixture(t).routes, r).code)
		})
	}
}

func FuzzParseTokens(f *testing.F) {
	for _, seed := range []string{"", "a", "a\nb # c\n", "# x", "a b", "\x00", "a\r\n\r\nb"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		hashes, err := parseTokens("file", text)
		require.Equal(t, err == nil, len(hashes) > 0)
	})
}

// asked is a request of a caller whom the front of the listener has identified.
func asked(caller web.Caller) *http.Request {
	r := routeCase{method: http.MethodPost, path: "/api/v1/pause", body: `{"reason":"a switch is replaced"}`}.request()
	r.RemoteAddr = "127.0.0.1:4711"
	return r.WithContext(web.WithCaller(r.Context(), caller))
}

func TestUsersAndCertificatesHaveRoles(t *testing.T) {
	t.Parallel()
	auth, err := NewAuth(AuthOptions{
		Tokens:       []TokenFile{{File: tokenFile(t, "oncall", "h1\n"), Roles: []Role{RoleHeal}}},
		Users:        []Grant{{"alice", []Role{RoleHeal}}, {"bob", []Role{RoleView}}},
		Certificates: []Grant{{"alertmanager", []Role{RoleAlerts}}, {"console.example.com", []Role{RoleHeal}}},
	})
	require.NoError(t, err)
	tests := map[string]struct {
		caller web.Caller
		token  string
		by     string
		status int
		says   string
	}{
		"user":                             {caller: web.Caller{User: "alice", Passwords: true}, by: "alice"},
		"user without the role":            {caller: web.Caller{User: "bob"}, status: 403, says: `the user "bob" lacks the role heal`},
		"user of no role":                  {caller: web.Caller{User: "carol"}, status: 403, says: `the user "carol" lacks the role heal`},
		"alternative name":                 {caller: web.Caller{Names: []string{"x", "console.example.com"}}, by: "console.example.com"},
		"certificate without the role":     {caller: web.Caller{Names: []string{"alertmanager"}}, status: 403, says: `the client certificate of "alertmanager" lacks the role heal`},
		"names of another case":            {caller: web.Caller{Names: []string{"Console.example.com"}}, status: 403, says: "lacks the role"},
		"a token goes before":              {caller: web.Caller{Names: []string{"console.example.com"}}, token: "h1", by: "oncall"},
		"a certificate makes up for it":    {caller: web.Caller{Names: []string{"console.example.com"}}, token: "wrong", by: "console.example.com"},
		"nobody":                           {status: 401, says: "this needs a user, a client certificate or a bearer token with the role heal"},
		"an empty name is nobody's":        {caller: web.Caller{User: "", Names: []string{""}}, status: 403, says: "lacks the role"},
		"wrong token, nothing else proven": {token: "wrong", status: 401, says: "the token is not known"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := asked(tt.caller)
			if tt.token != "" {
				withToken(r, tt.token)
			}
			by, err := auth.authorize(r, RoleHeal)
			require.Equal(t, tt.by, by)
			if tt.status == 0 {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, tt.says)
			require.Equal(t, tt.status, problemOf(err).status)
		})
	}
}

// A listener with users trusts no address, even when none of the users has a role.
func TestPasswordsEndTheTrustInLoopback(t *testing.T) {
	t.Parallel()
	auth := trusting()
	_, err := auth.authorize(asked(web.Caller{}), RoleHeal)
	require.NoError(t, err)
	for _, need := range Roles() {
		_, err = auth.authorize(asked(web.Caller{Passwords: true}), need)
		require.Equal(t, http.StatusUnauthorized, problemOf(err).status)
		_, err = auth.authorize(asked(web.Caller{Passwords: true, User: "alice"}), need)
		require.Equal(t, http.StatusForbidden, problemOf(err).status)
	}
}

// A browser sends passwords and certificates to a page's target without being asked.
func TestPagesOfOthersCannotUseAPassword(t *testing.T) {
	t.Parallel()
	auth, err := NewAuth(AuthOptions{Users: []Grant{{"alice", []Role{RoleHeal}}}})
	require.NoError(t, err)
	r := asked(web.Caller{User: "alice"})
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	_, err = auth.authorize(r, RoleHeal)
	require.Equal(t, http.StatusForbidden, problemOf(err).status)
	_, err = auth.authorize(r, RoleView)
	require.NoError(t, err)
}

func TestChallenge(t *testing.T) {
	t.Parallel()
	header := http.Header{}
	(&Auth{}).challenge(header)
	require.Equal(t, []string{`Bearer realm="aegis"`}, header.Values("WWW-Authenticate"))
	(&Auth{users: []Grant{{Name: "alice"}}}).challenge(header)
	require.Equal(t, []string{`Bearer realm="aegis"`, `Basic realm="aegis"`}, header.Values("WWW-Authenticate"))
}

func TestBadGrants(t *testing.T) {
	t.Parallel()
	_, err := NewAuth(AuthOptions{Users: []Grant{{Name: "alice"}}, Certificates: []Grant{{Name: "am", Roles: []Role{"root"}}}})
	require.ErrorContains(t, err, `user "alice" has no roles, want alerts, view or heal`)
	require.ErrorContains(t, err, `certificate "am" has the unknown role "root", want alerts, view or heal`)
}
