package testenv_test

import (
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

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"aegis.io/aegis/e2e/aegis"
	"aegis.io/aegis/e2e/cluster"
	"aegis.io/aegis/e2e/internal/proc"
	"aegis.io/aegis/e2e/monitoring"
	"aegis.io/aegis/e2e/nodesim"
	"aegis.io/aegis/e2e/testenv"
)

// authority issues certificates into a folder.
type authority struct {
	t    *testing.T
	dir  string
	pair tls.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	a.pair = a.issue("ca", time.Now().Add(time.Hour))
	return a
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// issue writes NAME.pem and NAME.key. The first one is that of the authority itself.
func (a *authority) issue(name string, end time.Time) tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(a.t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: end, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IsCA:        a.pair.Leaf == nil, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	issuer, signer := template, any(key)
	if a.pair.Leaf != nil {
		issuer, signer = a.pair.Leaf, a.pair.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), signer)
	require.NoError(a.t, err)
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(a.t, err)
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	private := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
	require.NoError(a.t, os.WriteFile(a.file(name+".pem"), certificate, 0o600))
	require.NoError(a.t, os.WriteFile(a.file(name+".key"), private, 0o600))
	pair, err := tls.X509KeyPair(certificate, private)
	require.NoError(a.t, err)
	return pair
}

// client returns the TLS of a client of this authority that shows those certificates, whether the server wants them or not.
func (a *authority) client(certificate *tls.Certificate) *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(a.pair.Leaf)
	c := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	if certificate != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil }
	}
	return c
}

// post returns the status and the body of an answer, or why there is none.
func post(t *testing.T, c *tls.Config, url, body string) (int, string, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/json")
	transport := &http.Transport{TLSClientConfig: c, DisableKeepAlives: true}
	response, err := (&http.Client{Transport: transport, Timeout: time.Minute}).Do(r)
	if err != nil {
		return 0, "", err
	}
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	return response.StatusCode, string(text), nil
}

// Alertmanager and people prove by certificates who they are, and a certificate that proves nothing is refused with a reason.
func TestMutualTLS(t *testing.T) {
	t.Parallel()
	ours, others, dir := newAuthority(t), newAuthority(t), t.TempDir()
	soon := time.Now().Add(time.Hour)
	ours.issue("server", soon)
	scraper, operator, alertmanager := ours.issue("scraper", soon), ours.issue("operator", soon), ours.issue("alertmanager", soon)
	web := ours.file("web.yml")
	require.NoError(t, os.WriteFile(web, []byte("tls_server_config: {cert_file: server.pem, key_file: server.key, client_ca_file: ca.pem, client_auth_type: RequireAndVerifyClientCert}\n"), 0o600))

	l, err := testenv.Start(t.Context(), testenv.Options{
		BinDir: "../../bin", Dir: dir, Compress: monitoring.FastRules(), BootTime: 2 * time.Second,
		Nodes: []cluster.Node{{Name: "gpu-1", GPUs: 8, Pool: "train"}, {Name: "gpu-2", GPUs: 8, Pool: "train"}},
		Config: func(c *aegis.Config) {
			c.Mode = "observe"
			c.Auth.Certificates = []aegis.Grant{{Name: "alertmanager", Roles: []string{"alerts"}}, {Name: "operator", Roles: []string{"heal"}}}
		},
		Aegis: func(o *aegis.Options) {
			o.Args, o.TLS = []string{"--web.config.file=" + web}, ours.client(&scraper)
		},
		Monitoring: func(o *monitoring.Options) {
			o.WebhookTLS = &monitoring.TLSFiles{CA: ours.file("ca.pem"), Cert: ours.file("alertmanager.pem"), Key: ours.file("alertmanager.key")}
		},
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Stop()) })
	a := l.Aegis[0]
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(proc.Tail(a.LogFile))
		}
	})
	log := func() string {
		text, err := os.ReadFile(a.LogFile)
		require.NoError(t, err)
		return string(text)
	}

	// The alerts of the real Alertmanager arrive.
	require.NoError(t, l.Sim.Inject("gpu-1", nodesim.Injection{Fault: nodesim.GPUHung, GPU: 2}))
	require.Eventually(t, func() bool {
		served, err := a.Value(t.Context(), "aegis_http_requests_total", map[string]string{"handler": "alerts", "code": "200"})
		return err == nil && served > 0
	}, healed, tick)

	// An order has the name in the certificate of who gave it, and a certificate has its role and no other.
	status, body, err := post(t, ours.client(&operator), a.URL+"/api/v1/pause", `{"reason":"the core switch is replaced"}`)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status, body)
	lease, err := l.Cluster.Client().CoordinationV1().Leases("monitoring").Get(t.Context(), "aegis", metav1.GetOptions{})
	require.NoError(t, err)
	require.Contains(t, lease.Annotations["aegis.io/paused"], `"by":"operator"`)
	status, body, err = post(t, ours.client(&alertmanager), a.URL+"/api/v1/pause", `{"reason":"x"}`)
	require.NoError(t, err)
	require.Equal(t, http.StatusForbidden, status, body)
	status, body, err = post(t, ours.client(nil), a.URL+"/api/v1/alerts", `{}`)
	require.NoError(t, err)
	require.Equal(t, http.StatusUnauthorized, status, body)
	require.Contains(t, body, "a client certificate")

	expired := ours.issue("late", time.Now().Add(-time.Hour))
	_, _, err = post(t, ours.client(&expired), a.URL+"/api/v1/alerts", `{}`)
	require.Error(t, err)
	// The client knows before the server has written its line.
	require.Eventually(t, func() bool { return strings.Contains(log(), "certificate has expired or is not yet valid") }, healed, tick)

	// Alertmanager takes a changed certificate into use; one of another authority is refused, and the log says so.
	require.NotContains(t, log(), "certificate signed by unknown authority")
	others.issue("alertmanager", soon)
	for _, name := range []string{"alertmanager.pem", "alertmanager.key"} {
		text, err := os.ReadFile(others.file(name))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(ours.file(name), text, 0o600))
	}
	require.NoError(t, l.Sim.Inject("gpu-2", nodesim.Injection{Fault: nodesim.GPUHung, GPU: 2}))
	require.Eventually(t, func() bool { return strings.Contains(log(), "certificate signed by unknown authority") }, healed, tick)
}
