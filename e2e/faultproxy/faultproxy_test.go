package faultproxy_test

import (
	"bufio"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"aegis.io/aegis/e2e/faultproxy"
)

// apiServer counts what reaches it. Its watches send a line at once, and then nothing until they are cut.
type apiServer struct {
	*httptest.Server
	requests atomic.Int32
	tokens   atomic.Value
	protocol atomic.Value
}

func newAPIServer(t *testing.T) *apiServer {
	t.Helper()
	s := &apiServer{}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		s.tokens.Store(r.Header.Get("Authorization"))
		s.protocol.Store(r.Proto)
		fmt.Fprintln(w, "done")
		if r.URL.Query().Has("watch") {
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Errorf("flush: %v", err)
			}
			<-r.Context().Done()
		}
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// through returns a proxy before the server, and a client that goes through it with the proxy's own kubeconfig.
func through(t *testing.T, s *apiServer) (*faultproxy.Proxy, *http.Client, string) {
	t.Helper()
	dir := t.TempDir()
	config := clientcmdapi.NewConfig()
	config.Clusters["c"] = &clientcmdapi.Cluster{
		Server:                   s.URL,
		CertificateAuthorityData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}),
	}
	config.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: "secret"}
	config.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	config.CurrentContext = "x"
	file := filepath.Join(dir, "kubeconfig")
	require.NoError(t, clientcmd.WriteToFile(*config, file))
	p, err := faultproxy.Start(faultproxy.Options{Kubeconfig: file, Dir: dir, Seed: 1, WatchLife: time.Second})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Stop()) })
	kube, err := clientcmd.BuildConfigFromFlags("", p.Kubeconfig)
	require.NoError(t, err)
	client, err := rest.HTTPClientFor(kube)
	require.NoError(t, err)
	return p, client, kube.Host
}

func TestWithoutTroubleEverythingPasses(t *testing.T) {
	t.Parallel()
	s := newAPIServer(t)
	p, client, url := through(t, s)
	for range 20 {
		resp, err := client.Get(url + "/api/v1/nodes")
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusOK, resp.StatusCode)
		require.Equal(t, 2, resp.ProtoMajor)
	}
	require.Equal(t, "Bearer secret", s.tokens.Load())
	require.Equal(t, "HTTP/2.0", s.protocol.Load())
	require.Equal(t, map[faultproxy.Trouble]int{faultproxy.Passed: 20}, p.Counts())
}

func TestEachTrouble(t *testing.T) {
	t.Parallel()
	tests := []struct {
		trouble faultproxy.Trouble
		rates   faultproxy.Rates
		// seen is how many requests reach the API server, answered how many answers come back.
		seen, answered int
		refused        bool
	}{
		{trouble: faultproxy.Refused, rates: faultproxy.Rates{Refused: 1}, seen: 0, answered: 3, refused: true},
		{trouble: faultproxy.Dropped, rates: faultproxy.Rates{Dropped: 1}, seen: 3, answered: 0},
		{trouble: faultproxy.Delayed, rates: faultproxy.Rates{Delayed: 1}, seen: 3, answered: 3},
	}
	for _, tt := range tests {
		t.Run(string(tt.trouble), func(t *testing.T) {
			t.Parallel()
			s := newAPIServer(t)
			p, client, url := through(t, s)
			p.Misbehave(tt.rates)
			answered := 0
			for range 3 {
				// A PATCH, because the client itself repeats what has no effect.
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPatch, url+"/api/v1/nodes/n", http.NoBody)
				require.NoError(t, err)
				resp, err := client.Do(req)
				if err != nil {
					continue
				}
				answered++
				require.NoError(t, resp.Body.Close())
				require.Equal(t, tt.refused, resp.StatusCode >= http.StatusTooManyRequests, resp.Status)
			}
			require.Equal(t, tt.answered, answered)
			require.EqualValues(t, tt.seen, s.requests.Load())
			require.Equal(t, 3, p.Counts()[tt.trouble])
		})
	}
}

// Watches are never refused, dropped or slow, but they are cut.
func TestWatchesAreOnlyCut(t *testing.T) {
	t.Parallel()
	s := newAPIServer(t)
	p, client, url := through(t, s)
	p.Misbehave(faultproxy.Rates{Refused: 1, Cut: 1})
	began := time.Now()
	resp, err := client.Get(url + "/api/v1/nodes?watch=true")
	require.NoError(t, err)
	defer func() { require.NoError(t, resp.Body.Close()) }()
	lines := bufio.NewScanner(resp.Body)
	require.True(t, lines.Scan())
	require.Less(t, time.Since(began), time.Second, "what a watch has to tell is not held back")
	require.False(t, lines.Scan())
	require.Error(t, lines.Err(), "a cut is no orderly end")
	require.Equal(t, map[faultproxy.Trouble]int{faultproxy.Cut: 1}, p.Counts())
}

// An API server that is away is a broken connection, and nothing is left of it once it is back.
func TestAPIServerAway(t *testing.T) {
	t.Parallel()
	s := newAPIServer(t)
	p, client, url := through(t, s)
	s.CloseClientConnections()
	require.NoError(t, s.Listener.Close())
	_, err := client.Get(url + "/api/v1/nodes") //nolint:bodyclose // There is none.
	require.Error(t, err)
	require.Positive(t, p.Counts()[faultproxy.Away])
}
