package testenv_test

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/common/config"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"aegis.io/aegis/e2e/aegis"
	"aegis.io/aegis/e2e/cluster"
	"aegis.io/aegis/e2e/internal/proc"
	"aegis.io/aegis/e2e/monitoring"
	"aegis.io/aegis/e2e/nodesim"
	"aegis.io/aegis/e2e/testenv"
)

const (
	tenant         = "gpu-cluster-1"
	user, password = "aegis", "not to be told"
)

// gateway stands before Prometheus as that of a service with tenants does. It lets nobody pass without the tenant's header.
type gateway struct {
	*httptest.Server
	upstream    atomic.Pointer[url.URL]
	certificate atomic.Pointer[tls.Certificate]
}

func newGateway(t *testing.T, ours *authority) *gateway {
	t.Helper()
	g := &gateway{}
	forward := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(g.upstream.Load()) },
		Transport: &http.Transport{TLSClientConfig: ours.client(nil)},
	}
	g.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Scope-OrgID") != tenant {
			http.Error(w, "no org id", http.StatusUnauthorized)
			return
		}
		forward.ServeHTTP(w, r)
	}))
	g.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return &tls.Config{Certificates: []tls.Certificate{*g.certificate.Load()}, MinVersion: tls.VersionTLS12}, nil
	}}
	g.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	g.StartTLS()
	t.Cleanup(g.Close)
	return g
}

// show makes the gateway show the certificate from now on.
func (g *gateway) show(certificate tls.Certificate) {
	g.certificate.Store(&certificate)
	g.CloseClientConnections()
}

// Aegis heals by a Prometheus that is behind TLS, a password and a tenant's header. While it cannot be reached so, nothing destructive
// begins, and the verdict says why; it goes on when the files or the certificate are in order again, without a restart.
func TestPrometheusBehindTLS(t *testing.T) {
	t.Parallel()
	ours, others, dir := newAuthority(t), newAuthority(t), t.TempDir()
	valid, expired := ours.issue("gateway", time.Now().Add(time.Hour)), ours.issue("late", time.Now().Add(-time.Hour))
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	require.NoError(t, err)
	write := func(name, content string) string {
		t.Helper()
		file := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
		return file
	}
	read := func(file string) string {
		t.Helper()
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		return string(text)
	}
	passwordFile, caFile := write("password", password), write("ca.pem", read(ours.file("ca.pem")))
	insider, err := config.NewClientFromConfig(config.HTTPClientConfig{
		TLSConfig: config.TLSConfig{CAFile: ours.file("ca.pem")}, BasicAuth: &config.BasicAuth{Username: user, Password: password},
	}, "test")
	require.NoError(t, err)
	g := newGateway(t, ours)
	g.show(valid)

	l, err := testenv.Start(t.Context(), testenv.Options{
		BinDir: "../../bin", Dir: filepath.Join(dir, "lab"), Compress: monitoring.FastRules(), BootTime: 2 * time.Second,
		Nodes: []cluster.Node{{Name: "gpu-1", GPUs: 8, Pool: "train"}, {Name: "gpu-2", GPUs: 8, Pool: "train"}, {Name: "gpu-3", GPUs: 8, Pool: "train"}},
		Monitoring: func(o *monitoring.Options) {
			o.PrometheusClient = insider
			o.PrometheusWeb = fmt.Sprintf("tls_server_config: {cert_file: %q, key_file: %q}\nbasic_auth_users: {%s: %q}\n",
				ours.file("gateway.pem"), ours.file("gateway.key"), user, hash)
		},
		Config: func(c *aegis.Config) {
			upstream, err := url.Parse(c.Prometheus.URL)
			require.NoError(t, err)
			g.upstream.Store(upstream)
			c.Overlay = "conditions: [{name: GpuHung, policy: {clearFor: 5s}}]"
			c.Prometheus.URL = g.URL
			c.Prometheus.HTTPConfig = map[string]any{
				"tls_config":   map[string]any{"ca_file": caFile},
				"basic_auth":   map[string]any{"username": user, "password_file": passwordFile},
				"http_headers": map[string]any{"X-Scope-OrgID": map[string]any{"values": []string{tenant}}},
			}
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
	fail := func(node string) {
		t.Helper()
		require.NoError(t, l.Sim.Inject(node, nodesim.Injection{Fault: nodesim.GPUHung, GPU: 2, FixedBy: nodesim.FixedByReboot}))
	}
	boots := func(node string) int {
		s, err := l.Sim.State(node)
		require.NoError(t, err)
		return s.Boots
	}
	back := func(node string) {
		t.Helper()
		require.Eventually(t, func() bool {
			n, err := l.Cluster.Client().CoreV1().Nodes().Get(t.Context(), node, metav1.GetOptions{})
			return err == nil && boots(node) == 2 && !n.Spec.Unschedulable && n.Annotations["aegis.io/ticketing"] == ""
		}, healed, tick, "%s is rebooted and back in service", node)
	}
	unverifiable := func(node, reason string) {
		t.Helper()
		require.Eventually(t, func() bool {
			verdict, why := verdictOf(t, a.URL, node, "GpuHung")
			return verdict == "unverifiable" && strings.Contains(why, reason)
		}, healed, tick, "the verdict on %s says %q", node, reason)
		require.Equal(t, 1, boots(node), "nothing destructive has begun")
		said := 0
		for line := range strings.Lines(read(a.LogFile)) {
			if strings.Contains(line, "source gives no answer") && strings.Contains(line, reason) {
				said++
			}
		}
		require.Equal(t, 1, said, "the log says it once")
	}

	fail("gpu-1")
	back("gpu-1")

	write("ca.pem", read(others.file("ca.pem")))
	fail("gpu-2")
	unverifiable("gpu-2", "x509: certificate signed by unknown authority")
	silent, err := a.Value(t.Context(), "aegis_resync_total", map[string]string{"source": "prometheus", "result": "unknown"})
	require.NoError(t, err)
	require.Positive(t, silent)
	write("ca.pem", read(ours.file("ca.pem")))
	back("gpu-2")

	g.show(expired)
	fail("gpu-3")
	unverifiable("gpu-3", "x509: certificate has expired or is not yet valid")
	g.show(valid)
	back("gpu-3")

	write("password", "forgotten")
	require.Eventually(t, func() bool {
		return strings.Contains(read(a.LogFile), "answers with status 401: it does not accept the credentials")
	}, healed, tick)
	require.NotContains(t, read(a.LogFile), password)
}

// verdictOf returns what Aegis says of a condition of the node, and why.
func verdictOf(t *testing.T, address, node, condition string) (verdict, reason string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address+"/api/v1/nodes/"+node, nil)
	require.NoError(t, err)
	response, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	var view struct {
		Conditions []struct{ Condition, Verdict, Reason string }
	}
	require.NoError(t, json.NewDecoder(response.Body).Decode(&view))
	require.NoError(t, response.Body.Close())
	for _, c := range view.Conditions {
		if c.Condition == condition {
			return c.Verdict, c.Reason
		}
	}
	return "", ""
}
