package handler

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	clocktesting "k8s.io/utils/clock/testing"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// ticketed returns a node with the annotations of a ticket and of a history.
func ticketed(t *testing.T, name string, open *ticket.Ticket, past ...ticket.Incident) *corev1.Node {
	t.Helper()
	node := bareNode(name)
	node.Annotations = make(map[string]string)
	if open != nil {
		text, err := open.Encode()
		require.NoError(t, err)
		node.Annotations[ticket.Annotation] = text
	}
	if len(past) > 0 {
		text, err := (&ticket.History{Incidents: past}).Encode()
		require.NoError(t, err)
		node.Annotations[ticket.HistoryAnnotation] = text
	}
	return node
}

// busyNode is a node under repair.
func busyNode(t *testing.T) *corev1.Node {
	t.Helper()
	at := func(minute int) time.Time { return time.Date(1999, 12, 31, 23, minute, 0, 0, time.UTC) }
	open := &ticket.Ticket{
		ID: someTicket, Condition: "GpuCheckFailed", Device: "3", SOP: "gpu/check-failed", Reason: "hangs", Supervisor: ticket.Self,
		Status: ticket.StatusResolving, CreatedAt: at(30), Hold: "budget",
		Workflows: []ticket.Step{{Action: ticket.Cordon, Status: ticket.Succeeded, At: at(31), Message: "done"}},
	}
	node := ticketed(t, "gpu-17", open, ticket.Incident{
		ID: "20261101t010203-aa11bb", Condition: "GpuHung", Opened: at(0), Closed: at(10), Outcome: "resolved", SOP: "gpu/hung",
		Destructive: []ticket.Destructive{{Action: ticket.Reboot, At: at(5)}},
	})
	node.Labels = map[string]string{"gpu": "h100"}
	node.Annotations[ticket.OwnerAnnotation] = "aegis/" + someTicket
	node.Spec.Unschedulable = true
	node.Status = corev1.NodeStatus{
		NodeInfo:   corev1.NodeSystemInfo{BootID: "5c9f8a4e"},
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
	}
	return node
}

func TestNodeInFull(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.settings.Pools = []policy.Pool{{Name: "h100", Selector: labels.SelectorFromSet(labels.Set{"gpu": "h100"})}}
		f.add(t, busyNode(t))
		status := f.catalogue.Current().Status("gpu-17", "GpuCheckFailed", "3")
		status.Msg = "GPU 3 <hangs>"
		f.queue.Observe(prom.Observation{Status: status, Firing: true, StartsAt: time.Now().Add(-time.Hour)})
		f.holds("gpu-17", "HighLoad", "")
		f.verdicts.Set(status.Key(), policy.Verdict{Name: policy.VerdictBudget, Reason: "2 of 2 nodes"})
		f.verdicts.Set(prom.Key{Node: "gpu-17", Condition: "NodeNotReady"}, policy.Verdict{Name: policy.VerdictUnconfirmed})
		time.Sleep(time.Minute)
		got := record(f.routes, routeCase{method: http.MethodGet, path: "/api/v1/nodes/gpu-17"}.request())
		require.Equal(t, http.StatusOK, got.code)
		require.JSONEq(t, golden(t, "node.json"), got.body)
		require.Equal(t, "no-store", got.header.Get("Cache-Control"))
		require.NotContains(t, got.body, "<", "no browser may take it for a page")
	})
}

// TestClock has a node told of by another clock than the host's.
func TestClock(t *testing.T) {
	t.Parallel()
	now := time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC)
	f := newFixture(t, func(o *Options) { o.Clock = clocktesting.NewFakePassiveClock(now) })
	f.add(t, ticketed(t, "gpu-17", nil, ticket.Incident{ID: "y", Condition: "GpuHung", Closed: now.Add(-time.Hour)}))
	got := record(f.routes, routeCase{method: http.MethodGet, path: "/api/v1/nodes/gpu-17/explain"}.request())
	require.Equal(t, "no condition is reported on the node; last incident: GpuHung, ended 60m ago\n", got.body)
	alerts := routeCase{method: http.MethodPost, path: "/api/v1/alerts", body: oneAlert}
	require.Equal(t, http.StatusOK, record(f.routes, fromLoopback(alerts.request())).code)
	require.InDelta(t, now.Unix(), testutil.ToFloat64(f.handler.metrics.lastAccepted), 0)
}

func TestNodeViews(t *testing.T) {
	t.Parallel()
	const inProgress = `"verdict":"in_progress","reason":"ticket x for IBDown is being worked on","change":"that ticket is closed"`
	ours := &ticket.Ticket{ID: "x", Condition: "IBDown", Supervisor: ticket.Self, Status: ticket.StatusCreated}
	theirs := &ticket.Ticket{ID: "x", Condition: "IBDown", Supervisor: "alice", Status: ticket.StatusAssigned}
	closed := &ticket.Ticket{ID: "x", Condition: "IBDown", Supervisor: ticket.Self, Status: ticket.StatusClosed}
	broken := bareNode("n")
	broken.Annotations = map[string]string{ticket.Annotation: "[]"}
	for name, tc := range map[string]struct {
		node     *corev1.Node
		holds    string
		verdict  policy.Verdict
		says     string
		saysNot  string
		unlisted bool
	}{
		"nothing": {
			node: bareNode("n"), unlisted: true,
			says: `{"name":"n","pool":"default","ready":false,"unschedulable":false,"conditions":[],"ticket":null,"history":[],"explanation":"`,
		},
		"a history alone": {
			node: ticketed(t, "n", nil, ticket.Incident{ID: "y"}), unlisted: true,
			says: `"history":[{"id":"y","condition":"","outcome":"","destructive":[]}]`,
		},
		"a ticket without steps":        {node: ticketed(t, "n", ours), says: `"status":"created","workflows":[]}`},
		"a broken ticket":               {node: broken, says: `"conditions":[],"ticket":null,"ticketError":"annotation aegis.io/ticketing cannot be read: `},
		"what is not decided":           {node: bareNode("n"), holds: "HighLoad", says: `"since":"2026-11-23T15:00:00Z"}`},
		"beside a ticket of Aegis":      {node: ticketed(t, "n", ours), holds: "HighLoad", says: `"since":"2026-11-23T15:00:00Z",` + inProgress},
		"beside a ticket of people":     {node: ticketed(t, "n", theirs), holds: "HighLoad", says: `"condition":"HighLoad"`, saysNot: "in_progress"},
		"beside a closed ticket":        {node: ticketed(t, "n", closed), holds: "HighLoad", says: `"condition":"HighLoad"`, saysNot: "in_progress"},
		"what is decided":               {node: ticketed(t, "n", ours), holds: "GpuHung", verdict: policy.Verdict{Name: policy.VerdictObserve}, says: `"verdict":"observe"`, saysNot: "in_progress"},
		"what nobody reports any more":  {node: bareNode("n"), verdict: policy.Verdict{Name: policy.VerdictExecute, Reason: "again"}, says: `"priority":3,"band":"Emergency","verdict":"execute","reason":"again"`},
		"the same, under one key alone": {node: bareNode("n"), holds: "GpuHung", verdict: policy.Verdict{Name: policy.VerdictExecute}, says: `"since"`, saysNot: `},{`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.add(t, tc.node)
			if tc.holds != "" {
				f.holds("n", tc.holds, "")
			}
			if tc.verdict.Name != "" {
				f.verdicts.Set(prom.Key{Node: "n", Condition: "GpuHung"}, tc.verdict)
			}
			got := record(f.routes, routeCase{method: http.MethodGet, path: "/api/v1/nodes/n"}.request())
			require.Contains(t, got.body, tc.says)
			if tc.saysNot != "" {
				require.NotContains(t, got.body, tc.saysNot)
			}
			list := record(f.routes, routeCase{method: http.MethodGet, path: "/api/v1/nodes"}.request())
			want := `{"nodes":[` + got.body + `]}`
			if tc.unlisted {
				want = `{"nodes":[]}`
			}
			require.JSONEq(t, want, list.body)
		})
	}
}

// TestNodeThatTheCacheShowsLate asks for a node that Aegis has written since.
func TestNodeThatTheCacheShowsLate(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	late := bareNode("gpu-17")
	late.Annotations = map[string]string{ticket.OwnerAnnotation: "aegis/x"}
	written := newFixture(t)
	written.add(t, late)
	f.commander.nodes = written.commander.nodes
	require.Contains(t, record(f.routes, routeCase{method: http.MethodGet, path: "/api/v1/nodes/gpu-17"}.request()).body, `"cordonedBy":"aegis/x"`)
}

func TestNodeNames(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.add(t, bareNode("gpu-17.example.com"), bareNode("a b/c"))
	server := f.serve(t)
	for path, code := range map[string]int{
		"gpu-17.example.com":     http.StatusOK,
		"a%20b%2Fc":              http.StatusOK,
		"%2567pu-17.example.com": http.StatusNotFound,
		"gpu-99":                 http.StatusNotFound,
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
	f := newFixture(t, unseen(errors.New("the cache is not filled")))
	got := record(f.routes, routeCase{method: http.MethodGet, path: "/api/v1/nodes/gpu-17"}.request())
	require.Equal(t, http.StatusServiceUnavailable, got.code)
	require.Equal(t, "node gpu-17: the cache is not filled", got.problem(t))
	missing := record(newFixture(t).routes, routeCase{method: http.MethodGet, path: "/api/v1/nodes/" + url.PathEscape("gpu<")}.request())
	require.Equal(t, http.StatusNotFound, missing.code)
	require.Equal(t, `not found: no Node is named "gpu<"`, missing.problem(t))
}
