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

	"github.com/stretchr/testify/require"
)

const secret = "s3cr3t-token"

// serve starts a server and returns a client of it.
func serve(t *testing.T, tokenFile string, handler http.HandlerFunc) *client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	c, err := newClient(server.URL, tokenFile, time.Second)
	require.NoError(t, err)
	return c
}

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
		address, tokenFile string
		timeout            time.Duration
		want               string
	}{
		"nothing":            {address: "", want: "the URL must be http://host or https://host, with an optional path"},
		"another scheme":     {address: "ftp://h", want: "the URL must be http://host or https://host, with an optional path"},
		"no host":            {address: "http:///x", want: "the URL must be http://host or https://host, with an optional path"},
		"what is no URL":     {address: "http://u:" + secret + "@h:port", want: "the URL cannot be parsed"},
		"a query":            {address: "http://h/?token=" + secret, want: "the URL must have neither a query nor a fragment"},
		"a fragment":         {address: "http://h/#x", want: "the URL must have neither a query nor a fragment"},
		"two credentials":    {address: "http://u:" + secret + "@h", tokenFile: "f", want: "a URL with user information excludes a token file"},
		"a negative timeout": {address: "http://h", timeout: -time.Second, want: "negative timeout -1s"},
		"control characters": {address: "http://h/\x7f" + secret, want: "the URL cannot be parsed"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := newClient(tt.address, tt.tokenFile, tt.timeout)
			require.EqualError(t, err, tt.want)
		})
	}
}

func TestClientReadsTheTokenForEveryRequest(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "token")
	c := serve(t, file, func(w http.ResponseWriter, r *http.Request) { reply(r.Header.Get("Authorization"))(w, r) })
	for _, token := range []string{"first", "second"} {
		writeToken(t, file, token+"\n")
		body, err := c.get(t.Context(), "x")
		require.NoError(t, err)
		require.Equal(t, "Bearer "+token, string(body))
	}
	writeToken(t, file, " \n")
	_, err := c.get(t.Context(), "x")
	require.ErrorContains(t, err, "is empty")
	require.NoError(t, os.Remove(file))
	_, err = c.get(t.Context(), "x")
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestClientRefusesRedirects(t *testing.T) {
	t.Parallel()
	for _, status := range []int{301, 302, 303, 307, 308} {
		asked := 0
		file := filepath.Join(t.TempDir(), "token")
		writeToken(t, file, secret)
		c := serve(t, file, func(w http.ResponseWriter, r *http.Request) {
			asked++
			http.Redirect(w, r, "/elsewhere", status)
		})
		_, err := c.get(t.Context(), "x")
		require.ErrorContains(t, err, fmt.Sprintf("answers with status %d", status))
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
			body, err := readBody(strings.NewReader(strings.Repeat(" ", tt.size)))
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
			byToken, err := newClient(server.URL, file, time.Second)
			require.NoError(t, err)
			byUser, err := newClient(strings.Replace(server.URL, "http://", "http://"+secret+":"+secret+"@", 1), "", time.Second)
			require.NoError(t, err)
			for _, c := range []*client{byToken, byUser} {
				_, err := c.get(t.Context(), "x")
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
	c := serve(t, file, reply("[]"))
	_, err := c.get(t.Context(), "x")
	require.Error(t, err)
	require.NotContains(t, err.Error(), secret)
}

func TestClientEndsWithItsContextAndItsTimeout(t *testing.T) {
	t.Parallel()
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	c := serve(t, "", hang)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := c.get(ctx, "x")
	require.ErrorIs(t, err, context.Canceled)

	c.http.Timeout = 10 * time.Millisecond
	_, err = c.get(t.Context(), "x")
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestQuoteShortensAndEscapes(t *testing.T) {
	t.Parallel()
	require.Equal(t, `"a\nb"`, quote("a\nb"))
	long := quote(strings.Repeat("ä", maxQuoted))
	require.Equal(t, `"`+strings.Repeat("ä", maxQuoted/2)+`..."`, long)
}
