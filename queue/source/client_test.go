package source

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/config"
	"github.com/stretchr/testify/require"
)

const secret = "s3cr3t-token"

// serve starts a server and returns a client of it.
func serve(t *testing.T, c *HTTPConfig, handler http.HandlerFunc) *client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return newTestClient(t, server.URL, c)
}

func newTestClient(t *testing.T, address string, config *HTTPConfig) *client {
	t.Helper()
	c, err := newClient("test", clientOptions{address: address, config: config, timeout: time.Second})
	require.NoError(t, err)
	t.Cleanup(func() {
		if c.http != nil {
			c.http.CloseIdleConnections()
		}
	})
	return c
}

// tokenOf is a configuration with the token of the file.
func tokenOf(file string) *HTTPConfig { return new(DefaultHTTPConfig().WithTokenFile(file)) }

// reply answers every request with the body.
func reply(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if _, err := io.WriteString(w, body); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	}
}

func writeToken(t *testing.T, file, content string) {
	t.Helper()
	require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
}

func TestNewClientRefuses(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		options clientOptions
		want    string
	}{
		"nothing":            {clientOptions{}, "the URL must be http://host or https://host, with an optional path"},
		"another scheme":     {clientOptions{address: "ftp://h"}, "the URL must be http://host or https://host, with an optional path"},
		"no host":            {clientOptions{address: "http:///x"}, "the URL must be http://host or https://host, with an optional path"},
		"what is no URL":     {clientOptions{address: "http://u:" + secret + "@h:port"}, "the URL cannot be parsed"},
		"a query":            {clientOptions{address: "http://h/?token=" + secret}, "the URL must have neither a query nor a fragment"},
		"a fragment":         {clientOptions{address: "http://h/#x"}, "the URL must have neither a query nor a fragment"},
		"credentials":        {clientOptions{address: "http://u:" + secret + "@h"}, "the URL must not hold credentials: use basic_auth"},
		"a negative timeout": {clientOptions{address: "http://h", timeout: -time.Second}, "negative timeout -1s"},
		"control characters": {clientOptions{address: "http://h/\x7f" + secret}, "the URL cannot be parsed"},
		"a secret":           {clientOptions{address: "http://h", config: &HTTPConfig{BearerToken: secret}}, "bearer_token must not be written here: put it into a file of its own and name that in bearer_token_file"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := newClient("test", tt.options)
			require.EqualError(t, err, tt.want)
		})
	}
}

func TestClientReadsTheTokenForEveryRequest(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "token")
	c := serve(t, tokenOf(file), func(w http.ResponseWriter, r *http.Request) { reply(r.Header.Get("Authorization"))(w, r) })
	for _, token := range []string{"first", "second"} {
		writeToken(t, file, token+"\n")
		body, err := c.get(t.Context(), "x", nil)
		require.NoError(t, err)
		require.Equal(t, "Bearer "+token, string(body))
	}
	require.NoError(t, os.Remove(file))
	_, err := c.get(t.Context(), "x", nil)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestClientRefusesRedirects(t *testing.T) {
	t.Parallel()
	for _, status := range []int{301, 302, 303, 307, 308} {
		asked := 0
		file := filepath.Join(t.TempDir(), "token")
		writeToken(t, file, secret)
		c := serve(t, tokenOf(file), func(w http.ResponseWriter, r *http.Request) {
			asked++
			http.Redirect(w, r, "/elsewhere", status)
		})
		_, err := c.get(t.Context(), "x", nil)
		require.ErrorContains(t, err, fmt.Sprintf("answers with status %d: redirects are followed only with follow_redirects", status))
		require.Equal(t, 1, asked)
	}
}

func TestClientBoundsTheBody(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		size int
		want string
	}{
		"as large as allowed":  {size: maxBody},
		"one byte over":        {size: maxBody + 1, want: "it is larger than 32 MiB"},
		"nothing is an answer": {size: 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			body, err := readBody(&http.Response{Body: io.NopCloser(strings.NewReader(strings.Repeat(" ", tt.size)))})
			if tt.want != "" {
				require.EqualError(t, err, tt.want)
				return
			}
			require.NoError(t, err)
			require.Len(t, body, tt.size)
		})
	}
}

func TestClientKeepsSecretsOutOfErrors(t *testing.T) {
	t.Parallel()
	echo := func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, r.Header.Get("Authorization")+secret, http.StatusForbidden)
	}
	hangUp := func(w http.ResponseWriter, _ *http.Request) {
		connection, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			err = connection.Close()
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	}
	truncate := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		reply("{")(w, nil)
	}
	redirect := func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://u:"+secret+"@elsewhere/", http.StatusFound)
	}
	for name, handler := range map[string]http.HandlerFunc{
		"an echoing proxy": echo, "a lost connection": hangUp, "half a body": truncate, "a redirect": redirect,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(handler)
			t.Cleanup(server.Close)
			file := filepath.Join(t.TempDir(), "token")
			writeToken(t, file, secret)
			byPassword := &HTTPConfig{BasicAuth: &config.BasicAuth{Username: "u", PasswordFile: file}}
			for _, credentials := range []*HTTPConfig{tokenOf(file), byPassword} {
				c := newTestClient(t, server.URL, credentials)
				_, err := c.get(t.Context(), "x", nil)
				require.Error(t, err)
				require.NotContains(t, err.Error(), secret)
				require.Contains(t, err.Error(), server.URL)
			}
		})
	}
}

func TestClientKeepsABrokenTokenOutOfErrors(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "token")
	writeToken(t, file, secret+"\nX-Injected: 1")
	c := serve(t, tokenOf(file), reply("[]"))
	_, err := c.get(t.Context(), "x", nil)
	require.Error(t, err)
	require.NotContains(t, err.Error(), secret)
}

func TestClientEndsWithItsContextAndItsTimeout(t *testing.T) {
	t.Parallel()
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	c := serve(t, nil, hang)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := c.get(ctx, "x", nil)
	require.ErrorIs(t, err, context.Canceled)

	_, err = c.connection()
	require.NoError(t, err)
	c.http.Timeout = 10 * time.Millisecond
	_, err = c.get(t.Context(), "x", nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestQuoteShortensAndEscapes(t *testing.T) {
	t.Parallel()
	require.Equal(t, `"a\nb"`, quote("a\nb"))
	long := quote(strings.Repeat("ä", maxQuoted))
	require.Equal(t, `"`+strings.Repeat("ä", maxQuoted/2)+`..."`, long)
}
