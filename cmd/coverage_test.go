package cmd

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// answeringAll serves one answer to everything.
func answeringAll(t *testing.T, status int, header http.Header, body string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for name := range header {
			w.Header().Set(name, header.Get(name))
		}
		w.WriteHeader(status)
		if _, err := w.Write([]byte(body)); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// An answer of no use says what would be right.
func TestCoverageSaysWhatIsWrongWithTheServer(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		status int
		header http.Header
		body   string
		says   []string
	}{
		"wrong path": {http.StatusNotFound, nil, "404 page not found", []string{
			"answers with status 404", "/api/v1/query is not there: give the base URL, without /graph and with the path prefix of the server",
		}},
		"no method": {http.StatusMethodNotAllowed, nil, "", []string{"/api/v1/query is not there"}},
		"web page":  {http.StatusOK, nil, "<html>log in</html>", []string{"the answer is not JSON: is it a web page, of a login"}},
		"redirect": {http.StatusFound, http.Header{"Location": {"https://u:secret@login.example/auth?token=secret"}}, "", []string{
			"this one leads to https://login.example/auth", "set httpConfig.follow_redirects of prometheus in -config",
		}},
		"credentials": {http.StatusUnauthorized, nil, "", []string{"credentials need -config with prometheus.httpConfig"}},
		"forbidden":   {http.StatusForbidden, nil, "", []string{"credentials need -config with prometheus.httpConfig"}},
		"too much": {
			http.StatusUnprocessableEntity, nil, `{"status":"error","errorType":"execution","error":"query processing would load too many samples"}`,
			[]string{"too many samples", "--query.max-samples"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, stdout, stderr := aegis("coverage", "-prometheus", answeringAll(t, tt.status, tt.header, tt.body))
			require.Equal(t, 2, code)
			require.Empty(t, stdout)
			for _, text := range tt.says {
				require.Contains(t, stderr, text)
			}
			require.NotContains(t, stderr, "secret")
		})
	}
}

// A flag after a file is not a file, and names may have blanks around them.
func TestCoverageReadsItsCommandLine(t *testing.T) {
	t.Parallel()
	_, err := parseCoverage([]string{"-prometheus", "http://p:9090", "conditions.yaml", "-output", "json"}, t.Output())
	require.ErrorContains(t, err, `unexpected argument "-output": flags come before files`)
	_, err = parseCoverage([]string{"-prometheus", "http://u:secret@p:9090"}, t.Output())
	require.ErrorContains(t, err, "use prometheus.httpConfig.basic_auth in -config")
	require.NotContains(t, err.Error(), "secret")
	f, err := parseCoverage([]string{"-prometheus", "http://p:9090", "-without", " ib, roce,,gpfs,"}, t.Output())
	require.NoError(t, err)
	require.Equal(t, []string{"ib", "roce", "gpfs"}, f.without)
}

func TestNodesWithGPUsAreThoseThatOfferSome(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"nvidia.com/gpu": true, "nvidia.com/gpu.shared": true, "nvidia.com/mig-1g.10gb": true, "amd.com/gpu": true,
		"nvidia.com/hostdev": false, "nvidia.com/roce_gdr": false, "cpu": false,
	} {
		node := &corev1.Node{Status: corev1.NodeStatus{Capacity: corev1.ResourceList{corev1.ResourceName(name): resource.MustParse("1")}}}
		require.Equal(t, want, hasGPUs(node), name)
	}
}
