package cmd

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"
	"k8s.io/client-go/rest"

	"aegis.io/aegis/rules"
	"aegis.io/aegis/sop/procedures"
)

// signed writes a certificate and its key below the directory, and returns the pair. Without a parent it signs itself.
func signed(t *testing.T, dir, name string, parent *tls.Certificate, usage x509.ExtKeyUsage) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{usage},
		IsCA: parent == nil, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	issuer, signer := template, any(key)
	if parent != nil {
		issuer, signer = parent.Leaf, parent.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), signer)
	require.NoError(t, err)
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	private := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
	require.NoError(t, os.WriteFile(filepath.Join(dir, name+".pem"), certificate, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, name+".key"), private, 0o600))
	pair, err := tls.X509KeyPair(certificate, private)
	require.NoError(t, err)
	return pair
}

// freeAddress returns one that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	return l.Addr().String()
}

// served is an aegis serve without a cluster behind mutual TLS.
type served struct {
	t     *testing.T
	app   *app
	flags serveFlags
	ca    tls.Certificate
	dir   string
}

func serveMutually(t *testing.T, webConfig, auth string, pprof bool) *served {
	t.Helper()
	s := &served{t: t, dir: t.TempDir()}
	s.ca = signed(t, s.dir, "ca", nil, x509.ExtKeyUsageAny)
	signed(t, s.dir, "server", &s.ca, x509.ExtKeyUsageServerAuth)
	file := filepath.Join(s.dir, "aegis.yaml")
	require.NoError(t, os.WriteFile(file, []byte("leaderElection: {enabled: false}\n"+auth), 0o600))
	s.flags = serveFlags{config: file, listen: freeAddress(t), telemetryListen: freeAddress(t), pprof: pprof}
	if webConfig != "" {
		s.flags.webConfig = filepath.Join(s.dir, "web.yml")
		require.NoError(t, os.WriteFile(s.flags.webConfig, []byte(webConfig), 0o600))
	}
	cfg, err := loadConfig(file)
	require.NoError(t, err)
	catalogue, err := loadCatalogue(rules.Options{}, procedures.Table())
	require.NoError(t, err)
	s.app, err = newApp(s.flags, cfg, catalogue, procedures.Table(), &rest.Config{Host: "http://127.0.0.1:1"}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.app.run(ctx, s.flags) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	require.Eventually(t, func() bool {
		c, err := net.Dial("tcp", s.flags.telemetryListen)
		return err == nil && c.Close() == nil
	}, 10*time.Second, 5*time.Millisecond)
	return s
}

func (s *served) client(certificates ...tls.Certificate) *http.Client {
	pool := x509.NewCertPool()
	pool.AddCert(s.ca.Leaf)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: certificates, MinVersion: tls.VersionTLS12}}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

// ask returns the status and the body of an answer.
func (s *served) ask(client *http.Client, method, url, user string) (int, string) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, url, strings.NewReader(`{"version":"4","alerts":[]}`))
	require.NoError(s.t, err)
	r.Header.Set("Content-Type", "application/json")
	if name, password, ok := strings.Cut(user, ":"); ok {
		r.SetBasicAuth(name, password)
	}
	response, err := client.Do(r)
	require.NoError(s.t, err)
	body, err := io.ReadAll(response.Body)
	require.NoError(s.t, err)
	require.NoError(s.t, response.Body.Close())
	return response.StatusCode, string(body)
}

const mutualTLS = `
tls_server_config: {cert_file: server.pem, key_file: server.key, client_ca_file: ca.pem, client_auth_type: RequireAndVerifyClientCert}
`

func TestRolesOfCertificates(t *testing.T) {
	t.Parallel()
	s := serveMutually(t, mutualTLS, "auth:\n  certificates:\n  - {name: alertmanager, roles: [alerts]}\n  - {name: console, roles: [view]}\n", true)
	am := s.client(signed(t, s.dir, "alertmanager", &s.ca, x509.ExtKeyUsageClientAuth))
	console := s.client(signed(t, s.dir, "console", &s.ca, x509.ExtKeyUsageClientAuth))
	stranger := s.client(signed(t, s.dir, "stranger", &s.ca, x509.ExtKeyUsageClientAuth))
	api, telemetry := "https://"+s.flags.listen, "https://"+s.flags.telemetryListen

	status, body := s.ask(console, "GET", api+"/api/v1/conditions", "")
	require.Equal(t, 503, status, body)
	require.Contains(t, body, "not ready", "the role is good enough, and nothing leads here")
	status, body = s.ask(am, "GET", api+"/api/v1/conditions", "")
	require.Equal(t, 403, status, body)
	require.Contains(t, body, "lacks the role view")
	status, body = s.ask(console, "POST", api+"/api/v1/alerts", "")
	require.Equal(t, 403, status, body)
	status, body = s.ask(am, "POST", api+"/api/v1/alerts", "")
	require.NotContains(t, []int{401, 403}, status, body)
	status, body = s.ask(stranger, "GET", api+"/api/v1/conditions", "")
	require.Equal(t, 403, status, body)

	bare := s.client()
	for _, base := range []string{api, telemetry} {
		status, body = s.ask(bare, "GET", base+"/-/healthy", "")
		require.Equal(t, 200, status, body)
		status, body = s.ask(bare, "GET", base+"/-/ready", "")
		require.Equal(t, 503, status, body)
	}
	for _, closed := range []string{api + "/api/v1/conditions", telemetry + "/metrics", telemetry + "/debug/pprof/cmdline"} {
		status, body = s.ask(bare, "GET", closed, "")
		require.Equal(t, 401, status, closed)
		require.Contains(t, body, "a client certificate")
	}
	status, body = s.ask(stranger, "GET", telemetry+"/metrics", "")
	require.Equal(t, 200, status)
	require.Contains(t, body, `aegis_build_info{`)
	status, _ = s.ask(stranger, "GET", telemetry+"/debug/pprof/cmdline", "")
	require.Equal(t, 200, status)
	status, _ = s.ask(am, "GET", api+"/debug/pprof/cmdline", "")
	require.Equal(t, 404, status, "profiles are on the other listener only")
}

func TestRolesOfUsers(t *testing.T) {
	t.Parallel()
	hash, err := bcrypt.GenerateFromPassword([]byte("pw"), bcrypt.MinCost)
	require.NoError(t, err)
	users := "basic_auth_users:\n  alice: " + string(hash) + "\n  prometheus: " + string(hash) + "\n"
	s := serveMutually(t, users, "auth:\n  users:\n  - {name: alice, roles: [view]}\n", false)
	api, telemetry := "http://"+s.flags.listen, "http://"+s.flags.telemetryListen
	for url, want := range map[string][3]int{ // Of nobody, of prometheus, of alice.
		api + "/api/v1/conditions":           {401, 403, 503}, // Nothing leads here.
		telemetry + "/metrics":               {401, 200, 200},
		telemetry + "/debug/pprof/cmdline":   {401, 404, 404},
		telemetry + "/-/healthy":             {200, 200, 200},
		telemetry + "/-/ready":               {503, 503, 503},
		api + "/-/healthy":                   {200, 200, 200},
		api + "/api/v1/nodes/gpu-17/explain": {401, 403, 503},
	} {
		for i, user := range []string{"", "prometheus:pw", "alice:pw"} {
			status, body := s.ask(http.DefaultClient, "GET", url, user)
			require.Equal(t, want[i], status, "%s %s: %s", user, url, body)
		}
	}
	status, _ := s.ask(http.DefaultClient, "POST", api+"/api/v1/alerts", "")
	require.Equal(t, 401, status, "loopback is trusted no longer")
}

func TestCertificatesAreRenewed(t *testing.T) {
	t.Parallel()
	s := serveMutually(t, mutualTLS, "", false)
	require.False(t, s.app.config.changed())
	signed(t, s.dir, "server", &s.ca, x509.ExtKeyUsageServerAuth)
	require.True(t, s.app.config.changed())
	require.NoError(t, s.app.reload())
	require.InDelta(t, 1, testutil.ToFloat64(s.app.config.successful), 0)

	// A mistake in aegis.yaml does not keep certificates from being renewed.
	require.NoError(t, os.WriteFile(s.flags.config, []byte("mode: atuo\n"), 0o600))
	other := t.TempDir()
	signed(t, other, "others", nil, x509.ExtKeyUsageAny)
	authority, err := os.ReadFile(filepath.Join(other, "others.pem"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "ca.pem"), authority, 0o600))
	require.ErrorContains(t, s.app.reload(), `did you mean "auto"?`)
	require.InDelta(t, 0, testutil.ToFloat64(s.app.config.successful), 0)
	status, _ := s.ask(s.client(signed(t, s.dir, "am", &s.ca, x509.ExtKeyUsageClientAuth)), "GET", "https://"+s.flags.listen+"/api/v1/conditions", "")
	require.Equal(t, 401, status, "the authority of before is trusted no longer")

	require.NoError(t, os.WriteFile(s.flags.config, []byte("leaderElection: {enabled: false}\n"), 0o600))
	require.NoError(t, os.WriteFile(s.flags.webConfig, []byte("rate_limit: {burst: 1}\n"), 0o600))
	require.ErrorContains(t, s.app.reload(), "rate_limit is not supported")
	require.InDelta(t, 0, testutil.ToFloat64(s.app.config.successful), 0)
}

func TestServeRefusesWhatNobodyCanProve(t *testing.T) {
	t.Parallel()
	config := write(t, "aegis.yaml", "auth: {users: [{name: alice, roles: [heal]}], certificates: [{name: am, roles: [alerts]}]}\n")
	plain := write(t, "web.yml", "http_server_config: {http2: true}\n")
	kubeconfig := write(t, "kubeconfig", "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]\ncontexts: [{name: c, context: {cluster: c, user: u}}]\ncurrent-context: c\n")
	code, _, stderr := aegis("serve", "-config", config, "-kubeconfig", kubeconfig)
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "users and certificates need a web configuration file")
	code, _, stderr = aegis("serve", "-config", config, "-web.config.file", plain, "-kubeconfig", kubeconfig)
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, `the user "alice" is not in basic_auth_users of `+plain)
	require.Contains(t, stderr, "certificates need client_auth_type")
}

func TestCheckOfAWebConfiguration(t *testing.T) {
	t.Parallel()
	bad := write(t, "web.yml", "rate_limit: {burst: 1}\nbasic_auth_user: {}\n")
	config := write(t, "aegis.yaml", "auth:\n  users: [{name: a}, {name: a, roles: [root, heal]}]\n  tokens: [{roles: [heal]}]\n")
	code, _, stderr := aegis("check", bad, config)
	require.Equal(t, exitUsage, code)
	var lines []string
	for line := range bytes.SplitSeq([]byte(strings.TrimPrefix(stderr, "aegis: ")), []byte("\n")) {
		lines = append(lines, string(line))
	}
	require.Len(t, lines, 7, stderr)
	require.Contains(t, lines[0], bad+":1:13: rate_limit is not supported: it answers 429")
	require.Equal(t, bad+`:2:1: unknown field "basic_auth_user" in the file, did you mean "basic_auth_users"?`, lines[1])
	require.Equal(t, config+":2:11: auth.users[0].roles is missing, known are alerts, heal, view", lines[2])
	require.Equal(t, config+`:2:29: auth.users[1].name "a" is empty or used twice`, lines[3])
	require.Equal(t, config+`:2:40: auth.users[1].roles[0] is the unknown role "root", known are alerts, heal, view`, lines[4])
	require.Equal(t, config+":3:12: auth.tokens[0].file is missing", lines[5])
}
