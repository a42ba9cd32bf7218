package handler

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"aegis.io/aegis/rules"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

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
		{role: RoleView, method: "GET", path: "/api/v1/sources", code: 200},
		{role: RoleView, method: "GET", path: "/api/v1/storms", code: 200},
		{role: RoleView, method: "GET", path: "/api/v1/limits", code: 200},
	}, append(silenceRoutes(), orderRoutes()...)...)
}

// orderRoutes has a request to every route that takes an order.
func orderRoutes() []routeCase {
	return []routeCase{
		{
			role: RoleHeal, method: "POST", path: "/api/v1/pause", body: `{"reason":"a switch is replaced"}`,
			code: 200, says: `{"paused":true,"by":"loopback","reason":"a switch is replaced","source":"api"}`,
			taken:   "pause by loopback: a switch is replaced",
			missing: "reason is missing, want why everything is paused",
		},
		{
			role: RoleHeal, method: "DELETE", path: "/api/v1/pause", code: 200, says: `{"paused":false}`, taken: "resume by loopback",
		},
		{
			role: RoleHeal, method: "PUT", path: "/api/v1/conditions/GpuHung/mode", body: `{"mode":"auto","reason":"proven"}`,
			code: 200, says: `"mode":"auto","modeSource":"api","modeBy":"loopback","nodes":0}`,
			taken:   "mode auto of GpuHung by loopback: proven",
			missing: "mode is missing, want off, observe, approve or auto",
		},
		{
			role: RoleHeal, method: "DELETE", path: "/api/v1/conditions/GpuHung/mode",
			code: 200, says: `"mode":"observe","modeSource":"config","nodes":0}`, taken: "reset of GpuHung by loopback",
		},
		{
			role: RoleHeal, method: "POST", path: "/api/v1/storms/release", body: `{"condition":"GpuHung","pool":"h100","reason":"it is real"}`,
			code:    200,
			says:    `{"storms":[{"condition":"GpuHung","pool":"h100","nodes":9,"limit":5,"released":true,"releasedBy":"loopback"}]}`,
			taken:   "storm of GpuHung in h100 by loopback: it is real",
			missing: "condition is missing, want the name of the condition of the storm",
		},
		{
			role: RoleHeal, method: "POST", path: "/api/v1/nodes/gpu-17/approve", body: `{"condition":"GpuHung","device":"3","reason":"go"}`,
			code: 202, says: `{"node":"gpu-17","condition":"GpuHung","ticket":"20261123t153000-4f2a91","verdict":"execute"}`,
			taken:   "approve {Node:gpu-17 Condition:GpuHung Device:3 By:loopback Reason:go}",
			missing: "condition is missing, want the name of the condition whose procedure is approved",
		},
		{
			role: RoleHeal, method: "POST", path: "/api/v1/nodes/gpu-17/check", body: `{"reason":"the card is replaced"}`,
			code: 202, says: `{"node":"gpu-17","condition":"NodeCordon","ticket":"20261123t153000-4f2a91","verdict":"execute"}`,
			taken: "check {Node:gpu-17 Condition: Device: By:loopback Reason:the card is replaced}",
		},
		onTicket("cancel", "cancel"), onTicket("takeover", "takeover"), onTicket("adopt", "takeover"), onTicket("release", "release"),
	}
}

func onTicket(route, order string) routeCase {
	return routeCase{
		role: RoleHeal, method: "POST", path: "/api/v1/nodes/gpu-17/" + route, body: `{"reason":"alice is on it"}`,
		code: 200, says: `"explanation":"no condition is reported on the node`,
		taken: order + " {Node:gpu-17 Condition: Device: By:loopback Reason:alice is on it}",
	}
}

// ofNode reports whether the order is about one node.
func (rt routeCase) ofNode() bool { return strings.HasPrefix(rt.path, "/api/v1/nodes/") }

// TestOrderAnswers puts every order through everything that can happen to it.
func TestOrderAnswers(t *testing.T) {
	t.Parallel()
	stranger := func(r *http.Request) { r.RemoteAddr = "192.0.2.1:4711" }
	form := func(r *http.Request) { r.Header.Set("Content-Type", "application/x-www-form-urlencoded") }
	for _, rt := range orderRoutes() {
		good := answerCase{method: rt.method, path: rt.path, body: rt.body}
		cases := map[string]answerCase{
			"ok":            {code: rt.code, says: rt.says},
			"not ready":     {options: notReady("not the leader"), code: 503, says: "not ready: not the leader"},
			"by a stranger": {request: stranger, code: 403, says: "role heal"},
			"not written":   {options: ends(errors.New("the API server is away")), code: 503, says: "the API server is away"},
		}
		if rt.ofNode() {
			cases["of what is not"] = answerCase{options: ends(ticket.ErrNodeGone), code: 404, says: `not found: no Node is named "gpu-17"`}
			refused := fmt.Errorf("%w: human_owned: alice", policy.ErrRefused)
			cases["against the rest"] = answerCase{options: ends(refused), code: 409, says: "conflict: refused: human_owned: alice"}
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
		"blank reason":            {method: "POST", path: "/api/v1/pause", body: `{"reason":" \n"}`, code: 400, says: "reason is missing"},
		"unknown mode":            {method: "PUT", path: mode, body: `{"mode":"on"}`, code: 400, says: `mode is "on", want off, observe, approve or auto`},
		"mode in capitals":        {method: "PUT", path: mode, body: `{"mode":"AUTO"}`, code: 400, says: `mode is "AUTO", want off`},
		"mode by POST":            {method: "POST", path: mode, body: `{"mode":"auto"}`, code: 405, says: "use [PUT DELETE]"},
		"mode of a long name":     {method: "PUT", path: "/api/v1/conditions/" + long + "/mode", body: `{"mode":"auto"}`, code: 404, says: "no condition can have such a name"},
		"reset of a long name":    {method: "DELETE", path: "/api/v1/conditions/" + long + "/mode", code: 404, says: "no condition can have such a name"},
		"pause by PUT":            {method: "PUT", path: "/api/v1/pause", body: `{"reason":"x"}`, code: 405, says: "use [GET HEAD POST DELETE]"},
		"conditions by POST":      {method: "POST", path: "/api/v1/conditions", code: 405, says: "use [GET HEAD]"},
		"storms by DELETE":        {method: "DELETE", path: "/api/v1/storms", code: 405, says: "use [GET HEAD]"},
		"storm by GET":            {method: "GET", path: storm, code: 405, says: "use [POST]"},
		"storm without pool":      {method: "POST", path: storm, body: `{"condition":"GpuHung"}`, code: 400, says: "pool is missing, want the name of the pool of the storm"},
		"storm of a long pool":    {method: "POST", path: storm, body: `{"condition":"a","pool":"` + long + `"}`, code: 400, says: "pool has 254 bytes, want at most 253"},
		"approve by GET":          {method: "GET", path: "/api/v1/nodes/gpu-17/approve", code: 405, says: "use [POST]"},
		"cancel by DELETE":        {method: "DELETE", path: "/api/v1/nodes/gpu-17/cancel", code: 405, says: "use [POST]"},
		"takeover by GET":         {method: "GET", path: "/api/v1/nodes/gpu-17/takeover", code: 405, says: "use [POST]"},
		"unknown condition":       {method: "PUT", path: "/api/v1/conditions/Nonsense/mode", body: `{"mode":"auto"}`, code: 404, says: `not found: no condition is named "Nonsense"`},
		"reset of an unknown one": {method: "DELETE", path: "/api/v1/conditions/Nonsense/mode", code: 404, says: `not found: no condition is named "Nonsense"`},
		"storm of an unknown one": {method: "POST", path: storm, body: `{"condition":"Nonsense","pool":"a"}`, code: 404, says: `not found: no condition is named "Nonsense"`},
		"no such storm":           {method: "POST", path: storm, body: `{"condition":"GpuHung","pool":"a"}`, options: ends(policy.ErrNoStorm), code: 404, says: "not found: " + policy.ErrNoStorm.Error()},
		"approve an unknown one":  {method: "POST", path: "/api/v1/nodes/gpu-17/approve", body: `{"condition":"Nonsense"}`, code: 422, says: `invalid request: no condition is named "Nonsense"`},
		"a configured pause": {
			method: "DELETE", path: "/api/v1/pause", options: configuredPause, code: 409,
			says: "conflict: the configuration pauses everything, set paused to false there",
		},
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
			require.Equal(t, []string{rt.taken}, f.commander.taken)
			server.Close()
			require.Contains(t, f.log.String(), `level=INFO msg="order carried out" component=handler`)
			require.Contains(t, f.log.String(), "by=loopback")
		})
	}
}

func TestOrdersWithoutABody(t *testing.T) {
	t.Parallel()
	for route, order := range map[string]string{"cancel": "cancel", "takeover": "takeover", "adopt": "takeover", "release": "release"} {
		for name, body := range map[string]string{"none": "", "blank": "\n", "an empty object": "{}", "null": "null"} {
			t.Run(route+" "+name, func(t *testing.T) {
				t.Parallel()
				f := newFixture(t)
				got := post(t, f.serve(t).URL+"/api/v1/nodes/gpu-17/"+route, body)
				require.Equal(t, http.StatusOK, got.code, got.body)
				require.Equal(t, []string{order + " {Node:gpu-17 Condition: Device: By:loopback Reason:}"}, f.commander.taken)
			})
		}
	}
}

func TestOrdersThatAreRefusedLeaveNoTrace(t *testing.T) {
	t.Parallel()
	f := newFixture(t, ends(policy.ErrRefused))
	for _, rt := range orderRoutes() {
		require.GreaterOrEqual(t, record(f.routes, fromLoopback(rt.request())).code, 400)
	}
	require.Len(t, f.commander.taken, len(orderRoutes()))
	require.NotContains(t, f.log.String(), "order carried out")
}

// TestOrderWithoutSightOfItsEffect must not read as a refusal.
func TestOrderWithoutSightOfItsEffect(t *testing.T) {
	t.Parallel()
	gone := apierrors.NewNotFound(corev1.Resource("nodes"), "gpu-17")
	for _, rt := range orderRoutes() {
		if !rt.ofNode() || rt.code != http.StatusOK {
			continue
		}
		t.Run(rt.method+" "+rt.path, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, unseen(gone))
			got := record(f.routes, fromLoopback(rt.request()))
			require.Equal(t, http.StatusServiceUnavailable, got.code)
			require.Equal(t, `the order is carried out, but its effect is not known: not found: no Node is named "gpu-17"`, got.problem(t))
			require.Len(t, f.commander.taken, 1)
		})
	}
}

// TestModeOfAConditionThatIsGone has the catalogue lose the condition while its mode is set, and before it is reset.
func TestModeOfAConditionThatIsGone(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.commander.hook = func(context.Context) error { f.catalogue.Swap(&rules.Catalogue{}); return nil }
	const unknown = `the order is carried out, but its effect is not known: condition "GpuHung": not found`
	for _, rt := range []routeCase{
		{method: http.MethodPut, path: "/api/v1/conditions/GpuHung/mode", body: `{"mode":"off"}`},
		{method: http.MethodDelete, path: "/api/v1/conditions/GpuHung/mode"},
	} {
		got := record(f.routes, fromLoopback(rt.request()))
		require.Equal(t, http.StatusServiceUnavailable, got.code)
		require.Equal(t, unknown, got.problem(t))
	}
	require.Equal(t, []string{"mode off of GpuHung by loopback", "reset of GpuHung by loopback"}, f.commander.taken)
}

// TestModeOfAnotherName takes the name of a condition in other letters and its alias.
func TestModeOfAnotherName(t *testing.T) {
	t.Parallel()
	catalogue, err := builtin()
	require.NoError(t, err)
	i := slices.IndexFunc(catalogue.Conditions(), func(c rules.Condition) bool { return len(c.Aliases) > 0 })
	require.GreaterOrEqual(t, i, 0)
	condition := catalogue.Conditions()[i]
	for _, name := range []string{strings.ToLower(condition.Name), condition.Aliases[0]} {
		f := newFixture(t)
		got := record(f.routes, fromLoopback(routeCase{method: http.MethodPut, path: "/api/v1/conditions/" + name + "/mode", body: `{"mode":"off"}`}.request()))
		require.Equal(t, http.StatusOK, got.code)
		require.Contains(t, got.body, `"name":"`+condition.Name+`"`)
		require.Equal(t, []string{"mode off of " + condition.Name + " by loopback"}, f.commander.taken)
	}
}

// configuredPause has the configuration pause everything.
func configuredPause(o *Options) {
	o.Settings = func() policy.Settings { return policy.Settings{Paused: true} }
}

func TestQuestionsAboutPauses(t *testing.T) {
	t.Parallel()
	ask := routeCase{method: http.MethodGet, path: "/api/v1/pause"}.request
	f := newFixture(t, configuredPause)
	require.JSONEq(t, `{"paused":true,"source":"config"}`, record(f.routes, ask()).body)
	f.commander.orders.Pause = &policy.Order{By: "oncall", At: time.Date(2026, 11, 23, 15, 30, 0, 0, time.UTC)}
	require.JSONEq(t, `{"paused":true,"by":"oncall","since":"2026-11-23T15:30:00Z","source":"api"}`, record(f.routes, ask()).body,
		"an order goes before the configuration")
}

func TestQuestionsAboutConditions(t *testing.T) {
	t.Parallel()
	ask := routeCase{method: http.MethodGet, path: "/api/v1/conditions"}.request
	f := newFixture(t)
	for node, devices := range map[string][]string{"gpu-17": {"0", "1"}, "gpu-18": {"0"}} {
		for _, device := range devices {
			f.holds(node, "GpuCheckFailed", device)
		}
	}
	f.commander.orders.Modes = map[string]policy.ModeOrder{"GpuHung": {Mode: prom.ModeOff, Order: policy.Order{By: "oncall"}}}
	got := record(f.routes, ask()).body
	require.Contains(t, got, `"sop":"gpu/hung","mode":"off","modeSource":"api","modeBy":"oncall","nodes":0}`)
	require.Regexp(t, `{"name":"GpuCheckFailed","type":"gpu","priority":\d+,"band":"Emergency",[^}]*"mode":"observe","modeSource":"config","nodes":2}`, got,
		"two devices are of one node")
	f.catalogue.Swap(&rules.Catalogue{})
	require.JSONEq(t, `{"conditions":[]}`, record(f.routes, ask()).body)
}

func TestQuestionsAboutStorms(t *testing.T) {
	t.Parallel()
	ask := routeCase{method: http.MethodGet, path: "/api/v1/storms"}.request
	f := newFixture(t)
	require.JSONEq(t, `{"storms":[{"condition":"GpuHung","pool":"h100","nodes":9,"limit":5,"released":false}]}`, record(f.routes, ask()).body)
	f.commander.orders.Storms = nil
	require.JSONEq(t, `{"storms":[]}`, record(f.routes, ask()).body)
}

// TestOrdersAreLimitedAndGivenUp has one order that never ends: the next one is told so, and the first one is given up.
func TestOrdersAreLimitedAndGivenUp(t *testing.T) {
	t.Parallel()
	for _, rt := range orderRoutes() {
		t.Run(rt.method+" "+rt.path, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t, func(o *Options) { o.MaxInFlight = 1 })
				f.commander.hook = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
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
