package handler

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"aegis.io/aegis/ticket"
)

// names asks for a page and returns the names on it, and the parameter for the next one.
func (f *fixture) names(t *testing.T, query string) (names []string, next string) {
	t.Helper()
	got := record(f.routes, routeCase{method: http.MethodGet, path: "/api/v1/nodes" + query}.request())
	require.Equal(t, http.StatusOK, got.code, got.body)
	var list nodeList
	require.NoError(t, json.Unmarshal([]byte(got.body), &list))
	for _, n := range list.Nodes {
		names = append(names, n.Name)
	}
	return names, list.Continue
}

// A list of nodes has pages: whoever follows them gets each node once, by name, whatever happens in between.
func TestNodesComeInPages(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var want []string
	for i := range 2*maxNodesListed + 7 {
		name := fmt.Sprintf("gpu-%05d", i)
		f.add(t, bareNode(name))
		if i%2 == 0 {
			f.holds(name, "GpuHung", "")
			want = append(want, name)
		}
	}
	f.add(t, ticketed(t, "zz-1", &ticket.Ticket{ID: "x", Condition: "IBDown", Supervisor: ticket.Self}))
	want = append(want, "zz-1")

	first, next := f.names(t, "")
	require.Equal(t, want[:maxNodesListed], first)
	f.holds("gpu-00001", "GpuHung", "") // It belongs to a page that was told already.
	second, end := f.names(t, "?continue="+next)
	require.Equal(t, want[maxNodesListed:], second)
	require.Empty(t, end)

	var all []string
	for next = "gpu-00001"; next != ""; {
		var page []string
		page, next = f.names(t, "?limit=100&continue="+next)
		require.LessOrEqual(t, len(page), 100)
		all = append(all, page...)
	}
	require.Equal(t, want[1:], all)
}

func TestPagesOfNodesThatNobodyCanMake(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.holds("gpu-17", "GpuHung", "")
	for query, says := range map[string]string{
		"?limit=0":                              `limit is "0", want a number from 1 to 500`,
		"?limit=501":                            `limit is "501", want a number from 1 to 500`,
		"?limit=many":                           `limit is "many", want a number from 1 to 500`,
		"?continue=" + fmt.Sprintf("%0300d", 1): "continue is 300 bytes long, want what the answer before has there",
	} {
		got := record(f.routes, routeCase{method: http.MethodGet, path: "/api/v1/nodes" + query}.request())
		require.Equal(t, http.StatusBadRequest, got.code, query)
		require.Equal(t, says, got.problem(t))
	}
}

// An answer that cannot be made in time is no empty one.
func TestNodesThatAreNotReadInTime(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.holds("gpu-17", "GpuHung", "")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	request := routeCase{method: http.MethodGet, path: "/api/v1/nodes"}.request().WithContext(ctx)
	_, err := f.handler.serveNodes(httptest.NewRecorder(), request)
	require.EqualError(t, err, "no answer in time: 0 of 1 nodes are read, ask for fewer with limit")
	require.Equal(t, http.StatusServiceUnavailable, record(f.routes, request).code, "also while it waits for its turn")
}

// slowNodes are listed when somebody says so.
type slowNodes struct {
	asked chan struct{}
	goOn  chan struct{}
}

func (n slowNodes) List(labels.Selector) ([]*corev1.Node, error) {
	n.asked <- struct{}{}
	<-n.goOn
	return nil, nil
}

// Each list reads tickets and histories, so few are made at once.
func TestFewListsOfNodesAreMadeAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		slow := slowNodes{make(chan struct{}, 100), make(chan struct{})}
		f := newFixture(t, func(o *Options) { o.Nodes = slow })
		codes := make(chan int, 100)
		for range maxNodeLists + 3 {
			go func() {
				w := httptest.NewRecorder()
				f.routes.ServeHTTP(w, routeCase{method: http.MethodGet, path: "/api/v1/nodes"}.request())
				codes <- w.Code
			}()
		}
		synctest.Wait()
		require.Len(t, slow.asked, maxNodeLists)
		for range 3 {
			require.Equal(t, http.StatusServiceUnavailable, <-codes)
		}
		close(slow.goOn)
		for range maxNodeLists {
			require.Equal(t, http.StatusOK, <-codes)
		}
	})
}

// Who does not lead knows nothing, and says so to every question. One that leads without doing its work tells what it knows.
func TestWhoDoesNotLeadAnswersNoQuestion(t *testing.T) {
	t.Parallel()
	for _, rt := range newFixture(t).handler.questions() {
		path := strings.ReplaceAll(rt.pattern, "{node}", "gpu-17")
		for name, tt := range map[string]struct {
			change []func(*Options)
			code   int
		}{
			"standing by":      {[]func(*Options){notReady("not the leader")}, http.StatusServiceUnavailable},
			"deciding nothing": {[]func(*Options){notReady("a decision has been due for 5m"), func(o *Options) { o.Informed = func() (bool, string) { return true, "" } }}, http.StatusOK},
		} {
			got := record(newFixture(t, tt.change...).routes, routeCase{method: http.MethodGet, path: path}.request())
			require.Equal(t, tt.code, got.code, "%s %s", path, name)
			require.Equal(t, tt.code != http.StatusOK, problemIn(got.body) == "not ready: not the leader", got.body)
		}
	}
}

// problemIn returns the error of a body, empty when there is none.
func problemIn(body string) string {
	var e errorBody
	if json.Unmarshal([]byte(body), &e) != nil {
		return ""
	}
	return e.Error
}
