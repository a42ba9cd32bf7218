package handler

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func fullView() NodeView {
	at := time.Date(2026, 11, 23, 15, 30, 0, 0, time.UTC)
	return NodeView{
		Name: "gpu-17", Pool: "h100", Ready: true, Unschedulable: true, BootID: "5c9f8a4e", CordonedBy: "aegis/20261123t153000-4f2a91",
		Conditions: []ConditionView{{
			Condition: "GpuHung", Device: "3", Priority: 3, Band: "Emergency", Since: at, Message: "GPU 3 <hangs>",
			Verdict: "execute", Reason: "confirmed", VerdictSince: at, Change: "the alert ends",
		}},
		Ticket: &TicketView{
			ID: "20261123t153000-4f2a91", Condition: "GpuHung", Device: "3", SOP: "gpu/hung", Reason: "hangs", Supervisor: "aegis",
			Status: "resolving", CreatedAt: at, Hold: "budget",
			Workflows: []StepView{{Action: "cordon", Status: "Succeeded", At: at, Message: "done"}},
		},
		TicketError: "line 3", History: []IncidentView{{
			ID: "20261101t010203-aa11bb", Condition: "GpuHung", Device: "3", Opened: at, Closed: at, Outcome: "resolved",
			Destructive: []DestructiveView{{Action: "reboot", At: at}}, SOP: "gpu/hung",
		}},
	}
}

func serving(views ...NodeView) func(*Options) {
	byName := map[string]NodeView{}
	for _, view := range views {
		byName[view.Name] = view
	}
	return func(o *Options) { o.Nodes = nodesAndList{nodesOnly{views: byName}} }
}

func TestNodeViewInFull(t *testing.T) {
	t.Parallel()
	server := newFixture(t, serving(fullView())).serve(t)
	got := get(t, server.URL+"/api/v1/nodes/gpu-17")
	require.Equal(t, http.StatusOK, got.code)
	require.JSONEq(t, golden(t, "node.json"), got.body)
	require.Equal(t, "no-store", got.header.Get("Cache-Control"))
	require.NotContains(t, got.body, "<", "no browser may take it for a page")
}

func TestNodeViewHasListsInPlaceOfNull(t *testing.T) {
	t.Parallel()
	bare := NodeView{Name: "cpu-1"}
	ticketed := NodeView{Name: "cpu-2", Ticket: &TicketView{ID: "x"}, History: []IncidentView{{ID: "y"}}}
	server := newFixture(t, serving(bare, ticketed)).serve(t)
	const first = `{"name":"cpu-1","ready":false,"unschedulable":false,"conditions":[],"ticket":null,"history":[],
		"explanation":"nothing is reported on the node; no incident is known"}`
	const second = `{"name":"cpu-2","ready":false,"unschedulable":false,"conditions":[],
		"ticket":{"id":"x","condition":"","supervisor":"","status":"","workflows":[]},
		"history":[{"id":"y","condition":"","outcome":"","destructive":[]}],
		"explanation":"ticket x: , with nobody, no step yet"}`
	require.JSONEq(t, first, get(t, server.URL+"/api/v1/nodes/cpu-1").body)
	require.JSONEq(t, `{"nodes":[`+first+","+second+`]}`, get(t, server.URL+"/api/v1/nodes").body)
	require.Nil(t, ticketed.Ticket.Workflows, "what was served is not changed")
}

func TestNoNodes(t *testing.T) {
	t.Parallel()
	server := newFixture(t, serving()).serve(t)
	require.JSONEq(t, `{"nodes":[]}`, get(t, server.URL+"/api/v1/nodes").body)
}

func TestNodeNames(t *testing.T) {
	t.Parallel()
	server := newFixture(t, serving(NodeView{Name: "gpu-17.example.com"}, NodeView{Name: "a b/c"})).serve(t)
	for path, code := range map[string]int{
		"gpu-17.example.com":     http.StatusOK,
		"a%20b%2Fc":              http.StatusOK,
		"%2567pu-17.example.com": http.StatusNotFound,
		"gpu-17":                 http.StatusNotFound,
		"gpu-17/x":               http.StatusNotFound,
		"":                       http.StatusNotFound,
		"%00":                    http.StatusNotFound,
		"..%2f..%2fetc":          http.StatusNotFound,
		fmt.Sprintf("%0300d", 1): http.StatusNotFound,
	} {
		require.Equal(t, code, get(t, server.URL+"/api/v1/nodes/"+path).code, path)
	}
}

func TestNodeErrors(t *testing.T) {
	t.Parallel()
	for code, err := range map[int]error{
		http.StatusNotFound:           fmt.Errorf("node %q: %w", "gpu-17", ErrNotFound),
		http.StatusServiceUnavailable: errors.New("informer has not synced"),
	} {
		server := newFixture(t, func(o *Options) { o.Nodes = nodesOnly{err: err} }).serve(t)
		got := get(t, server.URL+"/api/v1/nodes/gpu-17")
		require.Equal(t, code, got.code)
		require.Equal(t, err.Error(), got.problem(t))
	}
}
