package web

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"
)

const mutual = `
tls_server_config:
  cert_file: server.pem
  key_file: server.key
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: ca.pem
`

// journal is a log that several goroutines write.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// listener is a front with a listener behind it that says who asks.
type listener struct {
	t     *testing.T
	front *Front
	addr  string
	log   *journal
}

func (s *site) listen(passwords bool) *listener {
	s.t.Helper()
	log := &journal{}
	front, err := New(Options{
		File: s.file(), Open: []string{"/-/healthy", "/-/ready"}, Registerer: prometheus.NewRegistry(),
		Logger: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	require.NoError(s.t, err)
	return front.listen(s.t, log, passwords)
}

func (f *Front) listen(t *testing.T, log *journal, passwords bool) *listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller := CallerOf(r.Context())
		_, err := io.WriteString(w, r.Proto+" "+caller.User+" "+strings.Join(caller.Names, ","))
		if err != nil {
			t.Error(err)
		}
	})}
	ended := make(chan error, 1)
	go func() { ended <- f.Serve(l, server, passwords) }()
	t.Cleanup(func() {
		require.NoError(t, server.Close())
		require.ErrorIs(t, <-ended, http.ErrServerClosed)
	})
	return &listener{t, f, l.Addr().String(), log}
}

// client returns a client that trusts our authority and shows the certificates.
func (s *site) client(certificates ...tls.Certificate) *http.Client {
	transport := &http.Transport{
		ForceAttemptHTTP2: true,
		TLSClientConfig:   &tls.Config{RootCAs: s.ours.pool(), Certificates: certificates, MinVersion: tls.VersionTLS12},
	}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 10 * time.Second}
}

// get returns the status and the body. The user is name:password, or nobody.
func (l *listener) get(client *http.Client, path, user string) (int, string, error) {
	l.t.Helper()
	scheme := "http://"
	if l.front.current.Load().tls != nil {
		scheme = "https://"
	}
	r, err := http.NewRequestWithContext(l.t.Context(), http.MethodGet, scheme+l.addr+path, nil)
	require.NoError(l.t, err)
	if name, password, ok := strings.Cut(user, ":"); ok {
		r.SetBasicAuth(name, password)
	}
	response, err := client.Do(r)
	if err != nil {
		return 0, "", err
	}
	body, err := io.ReadAll(response.Body)
	require.NoError(l.t, errors.Join(err, response.Body.Close()))
	return response.StatusCode, string(body), nil
}

func (l *listener) answers(client *http.Client, path, user string, status int, body string) {
	l.t.Helper()
	got, text, err := l.get(client, path, user)
	require.NoError(l.t, err)
	require.Equal(l.t, status, got, text)
	require.Contains(l.t, text, body)
}

func soon() time.Time { return time.Now().Add(time.Hour) }

func TestMutualTLS(t *testing.T) {
	t.Parallel()
	s := newSite(t, mutual)
	l := s.listen(false)
	l.answers(s.client(s.ours.client(t, "alertmanager", soon(), "am-0.example.com")), "/api", "", 200, "HTTP/2.0  alertmanager,am-0.example.com,127.0.0.1")

	bare := s.client()
	for _, path := range []string{"/api", "/metrics", "/-/healthy/x", "/-/ready/"} {
		l.answers(bare, path, "", 401, "a client certificate is required")
	}
	l.answers(bare, "/-/healthy", "", 200, "")
	l.answers(bare, "/-/ready", "", 200, "")
	require.InDelta(t, 4, testutil.ToFloat64(l.front.refused.WithLabelValues(reasonCertificate)), 0)
}

// A certificate that is shown has to be good, even for a probe, and the log says what is wrong with it.
func TestBadClientCertificates(t *testing.T) {
	t.Parallel()
	s := newSite(t, mutual)
	l := s.listen(false)
	tests := map[string]struct {
		certificate tls.Certificate
		says        string
	}{
		"other authority": {newAuthority(t, "others").client(t, "alertmanager", soon()), "certificate signed by unknown authority"},
		"expired":         {s.ours.client(t, "alertmanager", time.Now().Add(-time.Minute)), "certificate has expired or is not yet valid"},
	}
	for name, tt := range tests {
		for _, path := range []string{"/api", "/-/healthy"} {
			// The transport keeps back a certificate of an authority that the server does not name; an attacker would not.
			client := s.client()
			transport, ok := client.Transport.(*http.Transport)
			require.True(t, ok)
			transport.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tt.certificate, nil }
			_, _, err := l.get(client, path, "")
			require.Error(t, err, name)
		}
		require.Eventually(t, func() bool { return strings.Contains(l.log.String(), tt.says) }, 5*time.Second, time.Millisecond, name)
	}
	require.Contains(t, l.log.String(), "level=WARN")
	require.Contains(t, l.log.String(), "component=web")
}

// A connection may outlive the certificate that it was opened with. The client is told to come again, with a new one.
func TestCertificateExpiresOnAConnection(t *testing.T) {
	t.Parallel()
	s := newSite(t, mutual)
	front, err := New(Options{File: s.file()})
	require.NoError(t, err)
	request := func(end time.Time, verified bool) *http.Request {
		r := httptest.NewRequest(http.MethodGet, "/api", nil)
		leaf := s.ours.client(t, "alertmanager", end).Leaf
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}
		if verified {
			r.TLS.VerifiedChains = [][]*x509.Certificate{{leaf, s.ours.certificate}}
		}
		return r
	}
	caller, refused := front.identify(front.current.Load(), request(soon(), true), false)
	require.Nil(t, refused)
	require.Equal(t, []string{"alertmanager", "127.0.0.1"}, caller.Names)
	caller, refused = front.identify(front.current.Load(), request(soon(), false), false)
	require.Nil(t, refused)
	require.Empty(t, caller.Names, "a certificate that nobody has verified names nobody")
	for _, anyone := range []*settings{front.current.Load(), {}} {
		caller, refused = front.identify(anyone, request(time.Now().Add(-time.Second), true), false)
		require.Equal(t, http.StatusServiceUnavailable, refused.status, "after 4xx Alertmanager would drop its alerts")
		require.Contains(t, refused.text, "has expired, connect anew")
		require.Empty(t, caller.Names)
	}
	recorder := httptest.NewRecorder()
	front.guard(http.NotFoundHandler(), false).ServeHTTP(recorder, request(time.Now().Add(-time.Second), true))
	require.Equal(t, "close", recorder.Header().Get("Connection"))
}

func TestAllowedNames(t *testing.T) {
	t.Parallel()
	s := newSite(t, mutual+"  client_allowed_sans: [am-0.example.com]\n")
	l := s.listen(false)
	l.answers(s.client(s.ours.client(t, "am", soon(), "am-0.example.com")), "/", "", 200, "am-0.example.com")
	_, _, err := l.get(s.client(s.ours.client(t, "am", soon(), "am-1.example.com")), "/", "")
	require.Error(t, err)
	l.answers(s.client(), "/-/ready", "", 200, "")
}

func TestRenewal(t *testing.T) {
	t.Parallel()
	s := newSite(t, mutual)
	l := s.listen(false)
	serial := func() string {
		connection, err := (&tls.Dialer{Config: &tls.Config{RootCAs: s.ours.pool(), MinVersion: tls.VersionTLS12}}).DialContext(t.Context(), "tcp", l.addr)
		require.NoError(t, err)
		defer func() { require.NoError(t, connection.Close()) }()
		c, ok := connection.(*tls.Conn)
		require.True(t, ok)
		return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	first := serial()
	s.renew()
	require.Equal(t, first, serial(), "files are read by a reload only")
	require.NoError(t, l.front.Reload())
	second := serial()
	require.NotEqual(t, first, second)

	s.write("server.pem", []byte("half writ"))
	require.ErrorContains(t, l.front.Reload(), s.file())
	require.Equal(t, second, serial(), "what is broken changes nothing")

	s.renew()
	others := newAuthority(t, "others")
	s.write("ca.pem", others.pem)
	require.NoError(t, l.front.Reload())
	// The client keeps its certificate back when the server names another authority.
	l.answers(s.client(s.ours.client(t, "alertmanager", soon())), "/api", "", 401, "certificate")
	l.answers(s.client(others.client(t, "alertmanager", soon())), "/api", "", 200, "alertmanager")

	s.write("web.yml", []byte("http_server_config: {http2: true}\n"))
	require.ErrorContains(t, l.front.Reload(), "turned on and off by a restart only")
}

func hash(t *testing.T, password string) string {
	t.Helper()
	text, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	require.NoError(t, err)
	return string(text)
}

func TestPasswords(t *testing.T) {
	t.Parallel()
	s := newSite(t, "basic_auth_users:\n  alice: "+hash(t, "a1")+"\n  bob: "+hash(t, "b1")+"\nhttp_server_config: {headers: {X-Frame-Options: deny}}\n")
	for _, strictly := range []bool{true, false} {
		l := s.listen(strictly)
		client := s.client()
		for range 2 { // The second time from memory.
			l.answers(client, "/metrics", "alice:a1", 200, "HTTP/1.1 alice ")
			l.answers(client, "/metrics", "bob:b1", 200, "HTTP/1.1 bob ")
		}
		for _, wrong := range []string{"alice:b1", "alice:", "carol:a1", ":a1"} {
			l.answers(client, "/metrics", wrong, 401, "the user name or the password is wrong")
		}
		l.answers(client, "/-/healthy", "alice:wrong", 200, "")
		if strictly {
			l.answers(client, "/metrics", "", 401, "a user name and a password are required")
		} else {
			l.answers(client, "/metrics", "", 200, "HTTP/1.1  ")
		}
	}
	l := s.listen(true)
	s.write("web.yml", []byte("basic_auth_users:\n  alice: "+hash(t, "a2")+"\n"))
	require.NoError(t, l.front.Reload())
	l.answers(s.client(), "/metrics", "alice:a1", 401, "wrong")
	l.answers(s.client(), "/metrics", "alice:a2", 200, "alice")
	l.answers(s.client(), "/metrics", "bob:b1", 401, "wrong")
}

func TestPasswordsAreCheckedOneAtATime(t *testing.T) {
	t.Parallel()
	p := newPasswords()
	users := map[string][]byte{"alice": []byte(hash(t, "a1"))}
	right, err := p.right(t.Context(), users, "alice", "a1")
	require.NoError(t, err)
	require.True(t, right)
	p.turn <- struct{}{}
	right, err = p.right(t.Context(), users, "alice", "a1")
	require.NoError(t, err)
	require.True(t, right, "who is known waits for nobody")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = p.right(ctx, users, "alice", "guess")
	require.ErrorIs(t, err, context.Canceled)
	require.Len(t, p.proven, 1, "a wrong password is not remembered")
}

func TestHTTP1Only(t *testing.T) {
	t.Parallel()
	s := newSite(t, mutual+"http_server_config: {http2: false}\n")
	s.listen(false).answers(s.client(s.ours.client(t, "am", soon())), "/", "", 200, "HTTP/1.1  am")
}

func TestCertificateIsOptional(t *testing.T) {
	t.Parallel()
	s := newSite(t, strings.Replace(mutual, "RequireAndVerifyClientCert", "VerifyClientCertIfGiven", 1))
	l := s.listen(true)
	l.answers(s.client(), "/metrics", "", 200, "HTTP/2.0  ")
	l.answers(s.client(s.ours.client(t, "am", soon())), "/metrics", "", 200, "am")
}

// Without a file everything is as it was.
func TestWithoutAFile(t *testing.T) {
	t.Parallel()
	front, err := New(Options{})
	require.NoError(t, err)
	require.Empty(t, front.Files())
	require.NoError(t, front.Reload())
	require.NoError(t, front.Check(nil, nil))
	require.ErrorContains(t, front.Check([]string{"alice"}, nil), "need a web configuration file")
	l := front.listen(t, &journal{}, true)
	l.answers(http.DefaultClient, "/metrics", "alice:a1", 200, "HTTP/1.1  ")
}

func TestCheck(t *testing.T) {
	t.Parallel()
	s := newSite(t, "basic_auth_users: {alice: "+hash(t, "a1")+"}\n")
	front, err := New(Options{File: s.file()})
	require.NoError(t, err)
	require.NoError(t, front.Check([]string{"alice"}, nil))
	require.ErrorContains(t, front.Check([]string{"alise"}, nil), `the user "alise" is not in basic_auth_users of `+s.file())
	require.ErrorContains(t, front.Check(nil, []string{"am"}), "certificates need client_auth_type")
	front, err = New(Options{File: newSite(t, mutual).file()})
	require.NoError(t, err)
	require.NoError(t, front.Check(nil, []string{"am"}))
	require.Len(t, front.Files(), 4)
}

func TestBadFiles(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ config, says string }{
		"rate limit":       {"rate_limit: {burst: 1, interval: 1s}", ":1:13: rate_limit is not supported: it answers 429"},
		"unknown field":    {"tls_server_config: {cert_fil: a}", `:1:21: unknown field "cert_fil" in tls_server_config, did you mean "cert_file"?`},
		"no hash":          {"basic_auth_users:\n  alice: hunter2", `:2:10: the password of the user "alice" is not a bcrypt hash`},
		"unknown type":     {strings.Replace(mutual, "RequireAndVerifyClientCert", "RequireAndVerify", 1), `:5:21: unknown client_auth_type "RequireAndVerify", known are`},
		"public authority": {strings.Replace(mutual, "  client_ca_file: ca.pem\n", "", 1), "needs client_ca_file, or every public authority would be trusted"},
		"empty authority":  {strings.Replace(mutual, "ca.pem", "web.yml", 1), "holds no certificate"},
		"no key":           {"tls_server_config: {cert_file: server.pem}", "missing one of key or key_file"},
		"absent key":       {strings.Replace(mutual, "server.key", "none.key", 1), "none.key"},
		"bad version":      {"tls_server_config: {min_version: TLS9}", ":1:34: tls_server_config.min_version: unknown TLS version: TLS9"},
		"bad header":       {"http_server_config: {headers: {X-Other: a}}", "X-Other"},
		"not YAML":         {"tls_server_config: [", ":1:1: not valid YAML"},
		"list":             {"- a", ":1:1: the file must be a mapping, is a list"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, tt.config)
			_, err := New(Options{File: s.file()})
			require.ErrorContains(t, err, tt.says)
			require.ErrorContains(t, err, s.file())
			require.NotContains(t, err.Error(), "hunter2")
			require.ErrorContains(t, CheckFile(s.file()), tt.says)
		})
	}
	_, err := New(Options{File: "none.yml"})
	require.ErrorIs(t, err, os.ErrNotExist)
}
