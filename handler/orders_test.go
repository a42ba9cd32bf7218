package handler

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

var _ Orders = (*memoryOrders)(nil)

// memoryOrders keeps what is ordered.
type memoryOrders struct {
	mu    sync.Mutex
	taken []string
	pause PauseView
	mode  string
	// storms that are released.
	released string
	// err is what every order ends with, readErr what every question ends with.
	err, readErr error
	hook         func(ctx context.Context) error
}

func (m *memoryOrders) take(ctx context.Context, order string, change func()) error {
	if m.hook != nil {
		if err := m.hook(ctx); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.taken = append(m.taken, order)
	if m.err == nil {
		change()
	}
	return m.err
}

func (m *memoryOrders) Pause(context.Context) (PauseView, error) { return m.pause, m.readErr }

func (m *memoryOrders) SetPause(ctx context.Context, o Order) error {
	return m.take(ctx, fmt.Sprintf("pause %+v", o), func() {
		m.pause = PauseView{Paused: true, By: o.By, Reason: o.Reason, Source: "api"}
	})
}

func (m *memoryOrders) Resume(ctx context.Context, by string) error {
	return m.take(ctx, "resume "+by, func() { m.pause = PauseView{} })
}

func (m *memoryOrders) Conditions(context.Context) ([]ConditionSummary, error) {
	c := ConditionSummary{
		Name: "GpuHung", Type: "gpu", Priority: 3, Band: "Emergency", SOP: "gpu/hung", Mode: "observe", ModeSource: "config", Nodes: 2,
	}
	if m.mode != "" {
		c.Mode, c.ModeSource, c.ModeBy = m.mode, "api", "loopback"
	}
	return []ConditionSummary{{Name: "NodeNotReady", Mode: "auto"}, c}, m.readErr
}

func (m *memoryOrders) SetMode(ctx context.Context, condition, mode string, o Order) error {
	return m.take(ctx, fmt.Sprintf("mode %s %s %+v", condition, mode, o), func() { m.mode = mode })
}

func (m *memoryOrders) ResetMode(ctx context.Context, condition, by string) error {
	return m.take(ctx, "reset "+condition+" "+by, func() { m.mode = "" })
}

func (m *memoryOrders) Storms(context.Context) ([]StormView, error) {
	return []StormView{{
		Condition: "GpuHung", Pool: "h100", Nodes: 9, Limit: 5, Released: m.released != "", ReleasedBy: m.released,
	}}, m.readErr
}

func (m *memoryOrders) ReleaseStorm(ctx context.Context, condition, pool string, o Order) error {
	return m.take(ctx, fmt.Sprintf("storm %s %s %+v", condition, pool, o), func() { m.released = o.By })
}

func (m *memoryOrders) Approve(ctx context.Context, r NodeOrder) (HealResult, error) {
	err := m.take(ctx, fmt.Sprintf("approve %+v", r), func() {})
	return HealResult{Node: r.Node, Condition: r.Condition, Ticket: "20261123t153000-4f2a91", Verdict: "execute"}, err
}

func (m *memoryOrders) Cancel(ctx context.Context, r NodeOrder) error {
	return m.take(ctx, fmt.Sprintf("cancel %+v", r), func() {})
}

func (m *memoryOrders) Adopt(ctx context.Context, r NodeOrder) error {
	return m.take(ctx, fmt.Sprintf("adopt %+v", r), func() {})
}

func (m *memoryOrders) Release(ctx context.Context, r NodeOrder) error {
	return m.take(ctx, fmt.Sprintf("release %+v", r), func() {})
}

// routeCase is a good request to a route.
type routeCase struct {
	role               Role
	method, path, body string
	// code and says are what it is answered.
	code int
	says string
	// taken is what arrives as an order from loopback.
	taken string
	// missing is what an empty object is told. Empty where no field is required.
	missing string
}

func (rt routeCase) request() *http.Request {
	r := httptest.NewRequest(rt.method, rt.path, strings.NewReader(rt.body))
	if rt.body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	return r
}

// everyRoute has a request to every route that needs a token.
func everyRoute() []routeCase {
	return append([]routeCase{
		{role: RoleAlerts, method: "POST", path: "/api/v1/alerts", body: oneAlert, code: 200},
		{role: RoleHeal, method: "POST", path: "/api/v1/heal", body: `{"node":"gpu-17","sop":"gpu/hung"}`, code: 202},
		{role: RoleHeal, method: "POST", path: "/-/reload", code: 200},
		{role: RoleView, method: "GET", path: "/api/v1/nodes", code: 200},
		{role: RoleView, method: "GET", path: "/api/v1/nodes/gpu-17", code: 200},
		{role: RoleView, method: "GET", path: "/api/v1/nodes/gpu-17/explain", code: 200},
		{role: RoleView, method: "GET", path: "/api/v1/pause", code: 200},
		{role: RoleView, method: "GET", path: "/api/v1/conditions", code: 200},
		{role: RoleView, method: "GET", path: "/api/v1/storms", code: 200},
	}, orderRoutes()...)
}

// orderRoutes has a request to every route that takes an order.
func orderRoutes() []routeCase {
	return []routeCase{
		{
			role: RoleHeal, method: "POST", path: "/api/v1/pause", body: `{"reason":"a switch is replaced"}`,
			code: 200, says: `{"paused":true,"by":"loopback","reason":"a switch is replaced","source":"api"}`,
			taken:   "pause {By:loopback Reason:a switch is replaced}",
			missing: "reason is missing, want why everything is paused",
		},
		{
			role: RoleHeal, method: "DELETE", path: "/api/v1/pause", code: 200, says: `{"paused":false}`, taken: "resume loopback",
		},
		{
			role: RoleHeal, method: "PUT", path: "/api/v1/conditions/GpuHung/mode", body: `{"mode":"auto","reason":"proven"}`,
			code: 200, says: `"mode":"auto","modeSource":"api","modeBy":"loopback","nodes":2}`,
			taken:   "mode GpuHung auto {By:loopback Reason:proven}",
			missing: "mode is missing, want off, observe, approve or auto",
		},
		{
			role: RoleHeal, method: "DELETE", path: "/api/v1/conditions/GpuHung/mode",
			code: 200, says: `"mode":"observe","modeSource":"config","nodes":2}`, taken: "reset GpuHung loopback",
		},
		{
			role: RoleHeal, method: "POST", path: "/api/v1/storms/release", body: `{"condition":"GpuHung","pool":"h100","reason":"it is real"}`,
			code:    200,
			says:    `{"storms":[{"condition":"GpuHung","pool":"h100","nodes":9,"limit":5,"released":true,"releasedBy":"loopback"}]}`,
			taken:   "storm GpuHung h100 {By:loopback Reason:it is real}",
			missing: "condition is missing, want the name of the condition of the storm",
		},
		{
			role: RoleHeal, method: "POST", path: "/api/v1/nodes/gpu-17/approve", body: `{"condition":"GpuHung","device":"3","reason":"go"}`,
			code: 202, says: `{"node":"gpu-17","condition":"GpuHung","ticket":"20261123t153000-4f2a91","verdict":"execute"}`,
			taken:   "approve {Node:gpu-17 Condition:GpuHung Device:3 By:loopback Reason:go}",
			missing: "condition is missing, want the name of the condition whose procedure is approved",
		},
		onTicket("cancel"), onTicket("adopt"), onTicket("release"),
	}
}

func onTicket(order string) routeCase {
	return routeCase{
		role: RoleHeal, method: "POST", path: "/api/v1/nodes/gpu-17/" + order, body: `{"reason":"alice is on it"}`,
		code: 200, says: `"explanation":"nothing is reported on the node`,
		taken: order + " {Node:gpu-17 Condition: Device: By:loopback Reason:alice is on it}",
	}
}

func ordersEnd(err error) func(*Options) {
	return func(o *Options) { o.Orders = &memoryOrders{err: err} }
}

// TestOrderAnswers puts every order through everything that can happen to it.
func TestOrderAnswers(t *testing.T) {
	t.Parallel()
	stranger := func(r *http.Request) { r.RemoteAddr = "192.0.2.1:4711" }
	form := func(r *http.Request) { r.Header.Set("Content-Type", "application/x-www-form-urlencoded") }
	for _, rt := range orderRoutes() {
		good := answerCase{method: rt.method, path: rt.path, body: rt.body}
		cases := map[string]answerCase{
			"ok":               {code: rt.code, says: rt.says},
			"not ready":        {options: notReady("not the leader"), code: 503, says: "not ready: not the leader"},
			"by a stranger":    {request: stranger, code: 403, says: "role heal"},
			"of what is not":   {options: ordersEnd(fmt.Errorf("no such thing: %w", ErrNotFound)), code: 404, says: "no such thing: not found"},
			"against the rest": {options: ordersEnd(fmt.Errorf("alice owns it: %w", ErrConflict)), code: 409, says: "alice owns it: conflict"},
			"impossible":       {options: ordersEnd(ErrInvalid), code: 422, says: "invalid request"},
			"not written":      {options: ordersEnd(errors.New("the API server is away")), code: 503, says: "the API server is away"},
		}
		if rt.body != "" {
			cases["unknown field"] = answerCase{body: `{"reasn":"x"}`, code: 400, says: `unknown field "reasn", did you mean "reason"?`}
			cases["by in the body"] = answerCase{body: `{"by":"root"}`, code: 400, says: `unknown field "by"`}
			cases["number"] = answerCase{body: `{"reason":4711}`, code: 400, says: `field "reason" is a JSON number, want a string`}
			cases["long reason"] = answerCase{body: withLongReason(rt), code: 400, says: "reason has 1025 bytes, want at most 1024"}
			cases["no JSON"] = answerCase{body: `{"reason":`, code: 400, says: "body is not JSON"}
			cases["too large"] = answerCase{body: strings.Repeat(" ", maxRequestBytes+1), code: 413, says: "larger than 65536 bytes"}
			cases["a form"] = answerCase{body: rt.body, request: form, code: 415, says: "want application/json"}
		}
		if rt.missing != "" {
			cases["missing field"] = answerCase{body: `{}`, code: 400, says: rt.missing}
			cases["no body"] = answerCase{body: " ", code: 400, says: "body is empty"}
		}
		for name, tc := range cases {
			tc.method, tc.path = good.method, good.path
			if tc.body == "" {
				tc.body = good.body
			}
			t.Run(rt.method+" "+rt.path+" "+name, func(t *testing.T) {
				t.Parallel()
				tc.run(t)
			})
		}
	}
}

func withLongReason(rt routeCase) string {
	_, rest, _ := strings.Cut(rt.body, `"reason":"`)
	return strings.Replace(rt.body, rest, strings.Repeat("x", maxReasonBytes+1)+`"}`, 1)
}

func TestOrdersAreRefusedInDetail(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", maxNameBytes+1)
	const mode, storm = "/api/v1/conditions/GpuHung/mode", "/api/v1/storms/release"
	for name, tc := range map[string]answerCase{
		"blank reason":           {method: "POST", path: "/api/v1/pause", body: `{"reason":" \n"}`, code: 400, says: "reason is missing"},
		"unknown mode":           {method: "PUT", path: mode, body: `{"mode":"on"}`, code: 400, says: `mode is "on", want off, observe, approve or auto`},
		"mode in capitals":       {method: "PUT", path: mode, body: `{"mode":"AUTO"}`, code: 400, says: `mode is "AUTO", want off`},
		"mode by POST":           {method: "POST", path: mode, body: `{"mode":"auto"}`, code: 405, says: "use [PUT DELETE]"},
		"mode of a long name":    {method: "PUT", path: "/api/v1/conditions/" + long + "/mode", body: `{"mode":"auto"}`, code: 404, says: "no condition can have such a name"},
		"reset of a long name":   {method: "DELETE", path: "/api/v1/conditions/" + long + "/mode", code: 404, says: "no condition can have such a name"},
		"pause by PUT":           {method: "PUT", path: "/api/v1/pause", body: `{"reason":"x"}`, code: 405, says: "use [GET HEAD POST DELETE]"},
		"conditions by POST":     {method: "POST", path: "/api/v1/conditions", code: 405, says: "use [GET HEAD]"},
		"storms by DELETE":       {method: "DELETE", path: "/api/v1/storms", code: 405, says: "use [GET HEAD]"},
		"storm by GET":           {method: "GET", path: storm, code: 405, says: "use [POST]"},
		"storm without pool":     {method: "POST", path: storm, body: `{"condition":"GpuHung"}`, code: 400, says: "pool is missing, want the name of the pool of the storm"},
		"storm of a long pool":   {method: "POST", path: storm, body: `{"condition":"a","pool":"` + long + `"}`, code: 400, says: "pool has 254 bytes, want at most 253"},
		"approve by GET":         {method: "GET", path: "/api/v1/nodes/gpu-17/approve", code: 405, says: "use [POST]"},
		"cancel by DELETE":       {method: "DELETE", path: "/api/v1/nodes/gpu-17/cancel", code: 405, says: "use [POST]"},
		"adopt by GET":           {method: "GET", path: "/api/v1/nodes/gpu-17/adopt", code: 405, says: "use [POST]"},
		"release by PUT":         {method: "PUT", path: "/api/v1/nodes/gpu-17/release", code: 405, says: "use [POST]"},
		"approve of a long name": {method: "POST", path: "/api/v1/nodes/" + long + "/approve", body: `{"condition":"a"}`, code: 404, says: "no node can have such a name"},
		"cancel of a long name":  {method: "POST", path: "/api/v1/nodes/" + long + "/cancel", code: 404, says: "no node can have such a name"},
		"cancel with condition":  {method: "POST", path: "/api/v1/nodes/gpu-17/cancel", body: `{"condition":"a"}`, code: 400, says: `unknown field "condition", known are reason`},
		"an array":               {method: "POST", path: "/api/v1/nodes/gpu-17/cancel", body: `[]`, code: 400, says: "body is a JSON array, want an object"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.run(t)
		})
	}
}

func TestOrdersArrive(t *testing.T) {
	t.Parallel()
	for _, rt := range orderRoutes() {
		t.Run(rt.method+" "+rt.path, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			server := f.serve(t)
			got := do(t, jsonRequest(t, rt.method, server.URL+rt.path, rt.body))
			require.Equal(t, rt.code, got.code, got.body)
			require.Equal(t, []string{rt.taken}, f.orders.taken)
			server.Close()
			require.Contains(t, f.log.String(), `level=INFO msg="order carried out" component=handler`)
			require.Contains(t, f.log.String(), "by=loopback")
		})
	}
}

func TestOrdersWithoutABody(t *testing.T) {
	t.Parallel()
	for _, order := range []string{"cancel", "adopt", "release"} {
		for name, body := range map[string]string{"none": "", "blank": "\n", "an empty object": "{}", "null": "null"} {
			t.Run(order+" "+name, func(t *testing.T) {
				t.Parallel()
				f := newFixture(t)
				got := post(t, f.serve(t).URL+"/api/v1/nodes/gpu-17/"+order, body)
				require.Equal(t, http.StatusOK, got.code, got.body)
				require.Equal(t, []string{order + " {Node:gpu-17 Condition: Device: By:loopback Reason:}"}, f.orders.taken)
			})
		}
	}
}

func TestOrdersThatAreRefusedLeaveNoTrace(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.orders.err = ErrConflict
	for _, rt := range orderRoutes() {
		require.Equal(t, http.StatusConflict, do(t, jsonRequest(t, rt.method, f.serve(t).URL+rt.path, rt.body)).code)
	}
	require.NotContains(t, f.log.String(), "order carried out")
}

// TestOrderWithoutSightOfItsEffect must not read as a refusal.
func TestOrderWithoutSightOfItsEffect(t *testing.T) {
	t.Parallel()
	for _, rt := range orderRoutes() {
		if rt.code != http.StatusOK {
			continue
		}
		t.Run(rt.method+" "+rt.path, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, func(o *Options) { o.Nodes = nodesOnly{} })
			f.orders.readErr = ErrNotFound
			got := do(t, jsonRequest(t, rt.method, f.serve(t).URL+rt.path, rt.body))
			require.Equal(t, http.StatusServiceUnavailable, got.code)
			require.Equal(t, "the order is carried out, but what came of it is not known: not found", got.problem(t))
			require.Len(t, f.orders.taken, 1)
		})
	}
}

func TestModeOfAConditionThatIsGone(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	server := f.serve(t)
	got := do(t, jsonRequest(t, http.MethodPut, server.URL+"/api/v1/conditions/Gone/mode", `{"mode":"off"}`))
	require.Equal(t, http.StatusServiceUnavailable, got.code)
	require.Contains(t, got.problem(t), `the order is carried out, but what came of it is not known: condition "Gone": not found`)
	other := do(t, jsonRequest(t, http.MethodPut, server.URL+"/api/v1/conditions/gpuhung/mode", `{"mode":"off"}`))
	require.Equal(t, http.StatusOK, other.code)
	require.Contains(t, other.body, `"name":"GpuHung"`)
}

func TestQuestionsAboutOrders(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.orders.pause = PauseView{Paused: true, Source: "config", Since: time.Date(2026, 11, 23, 15, 30, 0, 0, time.UTC)}
	server := f.serve(t)
	for path, want := range map[string]string{
		"pause": `{"paused":true,"since":"2026-11-23T15:30:00Z","source":"config"}`,
		"conditions": `{"conditions":[
			{"name":"NodeNotReady","type":"","priority":0,"band":"","mode":"auto","modeSource":"","nodes":0},
			{"name":"GpuHung","type":"gpu","priority":3,"band":"Emergency","sop":"gpu/hung","mode":"observe","modeSource":"config","nodes":2}]}`,
		"storms": `{"storms":[{"condition":"GpuHung","pool":"h100","nodes":9,"limit":5,"released":false}]}`,
	} {
		require.JSONEq(t, want, get(t, server.URL+"/api/v1/"+path).body)
		broken := newFixture(t)
		broken.orders.readErr = errors.New("the Lease cannot be read")
		got := get(t, broken.serve(t).URL+"/api/v1/"+path)
		require.Equal(t, http.StatusServiceUnavailable, got.code)
		require.Equal(t, "the Lease cannot be read", got.problem(t))
	}
}

func TestNoStormsAndNoConditions(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(o *Options) { o.Orders = noneOfThem{&memoryOrders{}} })
	server := f.serve(t)
	require.JSONEq(t, `{"storms":[]}`, get(t, server.URL+"/api/v1/storms").body)
	require.JSONEq(t, `{"conditions":[]}`, get(t, server.URL+"/api/v1/conditions").body)
}

// noneOfThem knows no storm and no condition.
type noneOfThem struct{ *memoryOrders }

func (noneOfThem) Storms(context.Context) ([]StormView, error) { return nil, nil }

func (noneOfThem) Conditions(context.Context) ([]ConditionSummary, error) { return nil, nil }

// TestOrdersAreLimitedAndGivenUp has one order that never ends: the next one is told so, and the first one is given up.
func TestOrdersAreLimitedAndGivenUp(t *testing.T) {
	t.Parallel()
	for _, rt := range orderRoutes() {
		t.Run(rt.method+" "+rt.path, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t, func(o *Options) { o.MaxInFlight = 1 })
				f.orders.hook = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
				first := make(chan answer, 1)
				go func() { first <- record(f.routes, fromLoopback(rt.request())) }()
				synctest.Wait()
				second := record(f.routes, fromLoopback(rt.request()))
				require.Equal(t, http.StatusServiceUnavailable, second.code)
				require.Equal(t, "overloaded: 1 requests are in flight", second.problem(t))
				require.Equal(t, "context deadline exceeded", (<-first).problem(t))
			})
		})
	}
}

func fromLoopback(r *http.Request) *http.Request {
	r.RemoteAddr = "127.0.0.1:4711"
	return r
}

// TestDocumentation finds every route in docs/api.md, and in everyRoute.
func TestDocumentation(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "docs", "api.md"))
	require.NoError(t, err)
	h := newFixture(t).handler
	for _, rt := range h.all() {
		require.Contains(t, string(text), "### "+rt.method+" "+rt.pattern+"\n")
		if rt.role != "" {
			require.Contains(t, string(text), "| `"+rt.method+" "+rt.pattern+"` | `"+string(rt.role)+"` |")
		}
	}
	require.Len(t, everyRoute(), len(h.all())-len(h.probes()), "everyRoute has them all")
}

func FuzzOrder(f *testing.F) {
	for _, seed := range []string{
		"", "null", "[]", `{"condition":"GpuHung"}`, `{"condition":"GpuHung","device":"3","reason":"go"}`, `{"mode":"auto"}`, `{"condition":1}`,
		`{"condition":"a","condition":""}`, "{\"\xff\":1}",
	} {
		f.Add([]byte(seed))
	}
	fields := orderFields{required: []wanted{{fieldCondition, "a name"}}, optional: []string{fieldDevice, fieldReason}}
	f.Fuzz(func(t *testing.T, text []byte) {
		body, err := decodeOrder(text, fields)
		if err != nil {
			require.Equal(t, http.StatusBadRequest, problemOf(err).status)
			return
		}
		require.NotEmpty(t, strings.TrimSpace(body.Condition))
		require.LessOrEqual(t, len(body.Condition), maxNameBytes)
		require.LessOrEqual(t, len(body.Reason), maxReasonBytes)
		require.Empty(t, body.Mode)
	})
}
