package handler

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
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
	auth, err := NewAuth([]TokenFile{{File: tokenFile(t, "oncall", token+"\n"), Roles: roles}})
	require.NoError(t, err)
	return auth
}

func withToken(r *http.Request, token string) *http.Request {
	r.Header.Set("Authorization", "Bearer "+token)
	return r
}

func TestRoles(t *testing.T) {
	t.Parallel()
	requests := map[string]func() *http.Request{
		"alerts": func() *http.Request {
			return httptest.NewRequest(http.MethodPost, "/api/v1/alerts", strings.NewReader(oneAlert))
		},
		"heal": func() *http.Request {
			return httptest.NewRequest(http.MethodPost, "/api/v1/heal", strings.NewReader(`{"node":"n","sop":"s"}`))
		},
		"reload": func() *http.Request { return httptest.NewRequest(http.MethodPost, "/-/reload", nil) },
		"node":   func() *http.Request { return httptest.NewRequest(http.MethodGet, "/api/v1/nodes/gpu-17", nil) },
		"nodes":  func() *http.Request { return httptest.NewRequest(http.MethodGet, "/api/v1/nodes", nil) },
		"ready":  func() *http.Request { return httptest.NewRequest(http.MethodGet, "/-/ready", nil) },
	}
	for role, codes := range map[Role]map[string]int{
		RoleAlerts: {"alerts": 200, "heal": 403, "reload": 403, "node": 403, "nodes": 403, "ready": 200},
		RoleView:   {"alerts": 403, "heal": 403, "reload": 403, "node": 200, "nodes": 200, "ready": 200},
		RoleHeal:   {"alerts": 403, "heal": 202, "reload": 200, "node": 200, "nodes": 200, "ready": 200},
	} {
		f := newFixture(t, func(o *Options) { o.Auth = tokens(t, "s3cret", role) })
		for name, code := range codes {
			t.Run(string(role)+" "+name, func(t *testing.T) {
				r := withToken(requests[name](), "s3cret")
				r.Header.Set("Content-Type", "application/json")
				require.Equal(t, code, record(f.routes, r).code)

				// Loopback is nothing special where there are tokens.
				r = withToken(requests[name](), "guess")
				r.RemoteAddr = "127.0.0.1:4711"
				refused := record(f.routes, r)
				if name == "ready" {
					require.Equal(t, http.StatusOK, refused.code)
					return
				}
				require.Equal(t, http.StatusUnauthorized, refused.code)
				require.Equal(t, "the token is not known", refused.problem(t))
				require.Equal(t, `Bearer realm="aegis"`, refused.header.Get("WWW-Authenticate"))
			})
		}
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
	auth, err := NewAuth([]TokenFile{
		{File: tokenFile(t, "alertmanager", "# the webhook\n\na1\na2 # the next one\n"), Roles: []Role{RoleAlerts}},
		{File: tokenFile(t, "oncall", "h1\n"), Roles: []Role{RoleHeal}},
		{File: tokenFile(t, "console", "v1\r\nh1\r\n"), Roles: []Role{RoleView}},
	})
	require.NoError(t, err)
	f := newFixture(t, func(o *Options) { o.Auth = auth })
	r := withToken(httptest.NewRequest(http.MethodPost, "/api/v1/heal", strings.NewReader(`{"node":"n","sop":"s"}`)), "h1")
	r.Header.Set("Content-Type", "application/json")
	require.Equal(t, http.StatusAccepted, record(f.routes, r).code)
	require.Equal(t, "oncall", f.healer.requests[0].By)
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
	auth, err := NewAuth([]TokenFile{{File: path, Roles: []Role{RoleView}}})
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

func TestUnreadableTokenFileStaysAPrivateMatter(t *testing.T) {
	t.Parallel()
	gone := tokenFile(t, "gone", "g1\n")
	auth, err := NewAuth([]TokenFile{
		{File: gone, Roles: []Role{RoleView}},
		{File: tokenFile(t, "there", "t1\n"), Roles: []Role{RoleView}},
	})
	require.NoError(t, err)
	require.NoError(t, os.Remove(gone))
	f := newFixture(t, func(o *Options) { o.Auth = auth })
	got := record(f.routes, withToken(httptest.NewRequest(http.MethodGet, "/api/v1/nodes", nil), "g1"))
	require.Equal(t, http.StatusServiceUnavailable, got.code)
	require.Equal(t, "the token cannot be checked now", got.problem(t))
	require.Contains(t, f.log.String(), gone)
	require.NotContains(t, f.log.String(), "g1\"")
	got = record(f.routes, withToken(httptest.NewRequest(http.MethodGet, "/api/v1/nodes", nil), "t1"))
	require.Equal(t, http.StatusOK, got.code, "the other file still counts")
}

func TestNewAuthNamesEverythingWrong(t *testing.T) {
	t.Parallel()
	spaced := tokenFile(t, "spaced", "# fine\nhunter2 hunter3\n")
	auth, err := NewAuth([]TokenFile{
		{File: "/nowhere/token", Roles: []Role{RoleView}},
		{File: tokenFile(t, "empty", "\n# nothing\n"), Roles: []Role{"admin"}},
		{File: spaced},
	})
	require.Nil(t, auth)
	require.ErrorContains(t, err, "open /nowhere/token: no such file or directory")
	require.ErrorContains(t, err, "holds no token")
	require.ErrorContains(t, err, `has the unknown role "admin", want alerts, view or heal`)
	require.ErrorContains(t, err, "has no roles")
	require.ErrorContains(t, err, spaced+":2: a token has no spaces in it")
	require.NotContains(t, err.Error(), "hunter")
}

func TestTokensAreNeverTold(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(o *Options) { o.Auth = tokens(t, "right-s3cret", RoleView) })
	for _, token := range []string{"right-s3cret", "wrong-s3cret"} {
		for _, r := range []*http.Request{
			httptest.NewRequest(http.MethodGet, "/api/v1/nodes", nil),
			httptest.NewRequest(http.MethodPost, "/api/v1/heal", nil),
			httptest.NewRequest(http.MethodGet, "/nowhere", nil),
		} {
			require.NotContains(t, record(f.routes, withToken(r, token)).body, "s3cret")
		}
	}
	require.Contains(t, f.log.String(), "request served")
	require.NotContains(t, f.log.String(), "s3cret")
}

func TestLoopbackAlone(t *testing.T) {
	t.Parallel()
	for address, ok := range map[string]bool{
		"127.0.0.1:4711": true, "127.8.9.10:1": true, "[::1]:4711": true, "[::ffff:127.0.0.1]:4711": true,
		"192.0.2.1:4711": false, "[2001:db8::1]:80": false, "0.0.0.0:1": false, "10.0.0.1:1": false,
		"localhost:80": false, "127.0.0.1": false, "@": false, "": false, "pipe": false, "[fe80::1%lo]:1": false,
	} {
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		r.RemoteAddr = address
		for _, header := range []string{"X-Forwarded-For", "X-Real-Ip", "Forwarded", "True-Client-IP"} {
			r.Header.Set(header, "127.0.0.1")
		}
		name, err := (&Auth{}).authorize(r, RoleHeal)
		if ok {
			require.NoError(t, err, address)
			require.Equal(t, "loopback", name)
			continue
		}
		require.Equal(t, http.StatusForbidden, problemOf(err).status, address)
		require.ErrorContains(t, err, "without token files only loopback may do this; configure a token with the role heal")
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
