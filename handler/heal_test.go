package handler

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

func TestHealPassesTheRequestOn(t *testing.T) {
	t.Parallel()
	catalogue, err := builtin()
	require.NoError(t, err)
	for name, tc := range map[string]struct {
		body string
		want policy.HealRequest
	}{
		"a condition": {
			`{"node":"gpu-17","condition":"GpuCheckFailed","device":"3","reason":"jobs hang"}`,
			policy.HealRequest{Status: catalogue.Status("gpu-17", "GpuCheckFailed", "3"), Reason: "jobs hang", By: "loopback"},
		},
		"a condition in other letters": {
			`{"node":"gpu-17","condition":"gpuhung"}`,
			policy.HealRequest{Status: catalogue.Status("gpu-17", "GpuHung", ""), By: "loopback"},
		},
		"a procedure": {
			`{"node":"gpu-17","sop":"gpu/hung","dryRun":false}`,
			policy.HealRequest{Status: catalogue.Status("gpu-17", "GpuHung", ""), By: "loopback"},
		},
		"a dry run": {
			`{"node":"gpu-17","condition":"GpuHung","dryRun":true}`,
			policy.HealRequest{Status: catalogue.Status("gpu-17", "GpuHung", ""), DryRun: true, By: "loopback"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			got := post(t, f.serve(t).URL+"/api/v1/heal", tc.body)
			require.Less(t, got.code, 300, got.body)
			require.Equal(t, []policy.HealRequest{tc.want}, f.commander.heals)
		})
	}
}

func TestHealOfWhatNoCatalogueKnows(t *testing.T) {
	t.Parallel()
	for body, says := range map[string]string{
		`{"node":"gpu-17","condition":"Nonsense"}`:   `invalid request: no condition is named "Nonsense"`,
		`{"node":"gpu-17","sop":"gpu/nonsense"}`:     `invalid request: no condition has the procedure "gpu/nonsense"`,
		`{"node":"gpu-17","sop":"gpfs/not-healthy"}`: `invalid request: several conditions have the procedure "gpfs/not-healthy", name one: GpfsNodeNotHealthy, `,
	} {
		f := newFixture(t)
		got := record(f.routes, fromLoopback(routeCase{method: http.MethodPost, path: "/api/v1/heal", body: body}.request()))
		require.Equal(t, http.StatusUnprocessableEntity, got.code)
		require.Contains(t, got.problem(t), says)
		require.Empty(t, f.commander.taken)
	}
}

func TestHealAnswers(t *testing.T) {
	t.Parallel()
	server := newFixture(t).serve(t)
	done := post(t, server.URL+"/api/v1/heal", `{"node":"gpu-17","condition":"GpuHung"}`)
	require.Equal(t, http.StatusAccepted, done.code)
	require.JSONEq(t, `{"node":"gpu-17","condition":"GpuHung","ticket":"20261123t153000-4f2a91","verdict":"execute"}`, done.body)
	dry := post(t, server.URL+"/api/v1/heal", `{"node":"gpu-17","condition":"GpuHung","dryRun":true}`)
	require.Equal(t, http.StatusOK, dry.code)
	require.JSONEq(t, `{"node":"gpu-17","condition":"GpuHung","verdict":"execute","plan":["cordon","reboot"]}`, dry.body)
}

func TestHealRefusesWhatItDoesNotUnderstand(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 2000)
	for name, tc := range map[string]struct{ body, says string }{
		"empty":                   {"", "body is empty"},
		"an array":                {"[]", "body is a JSON array, want an object"},
		"null":                    {"null", "node is missing, want the name of a node"},
		"cut off":                 {`{"node":"gpu-17"`, "unexpected end of JSON input"},
		"two values":              {`{"node":"a","sop":"b"}{}`, "after top-level value"},
		"deeply nested":           {`{"reason":` + strings.Repeat("[", 20_000), "exceeded max depth"},
		"a mistyped dry run":      {`{"node":"gpu-17","sop":"gpu/hung","dry-run":true}`, `unknown field "dry-run", did you mean "dryRun"?`},
		"another case":            {`{"node":"gpu-17","sop":"gpu/hung","dryrun":true}`, `unknown field "dryrun", did you mean "dryRun"?`},
		"nodes":                   {`{"nodes":"gpu-17"}`, `unknown field "nodes", did you mean "node"?`},
		"conditions":              {`{"conditons":"gpu-17"}`, `unknown field "conditons", did you mean "condition"?`},
		"a long field":            {`{"` + long + `":1}`, `unknown field "` + long[:64] + `"`},
		"an empty field":          {`{"":1}`, `unknown field ""`},
		"a number for dry run":    {`{"node":"a","sop":"b","dryRun":1}`, `field "dryRun" is a JSON number, want true or false`},
		"a number for node":       {`{"node":17,"sop":"b"}`, `field "node" is a JSON number, want a string`},
		"no node":                 {`{"sop":"gpu/hung"}`, "node is missing"},
		"neither":                 {`{"node":"gpu-17"}`, "condition and sop are missing, want one of them"},
		"both":                    {`{"node":"gpu-17","condition":"GpuHung","sop":"gpu/hung"}`, "condition and sop are both given, want one of them"},
		"a node that is too long": {`{"node":"` + long + `","sop":"b"}`, "node has 2000 bytes, want at most 253"},
		"a long reason":           {`{"node":"a","sop":"b","reason":"` + long + `"}`, "reason has 2000 bytes, want at most 1024"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			r := httptest.NewRequest(http.MethodPost, "/api/v1/heal", strings.NewReader(tc.body))
			r.Header.Set("Content-Type", "application/json")
			r.RemoteAddr = "127.0.0.1:4711"
			got := record(f.routes, r)
			require.Equal(t, http.StatusBadRequest, got.code)
			require.Contains(t, got.problem(t), tc.says)
			require.Empty(t, f.commander.taken)
		})
	}
}

func TestHealErrorsKeepTheirWords(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		err  error
		code int
		says string
	}{
		"no node":      {fmt.Errorf("read node: %w", ticket.ErrNodeGone), http.StatusNotFound, `not found: no Node is named "gpu-99"`},
		"refused":      {fmt.Errorf("%w: human_owned: alice", policy.ErrRefused), http.StatusConflict, "conflict: refused: human_owned: alice"},
		"changed":      {ticket.ErrConflict, http.StatusConflict, "conflict: " + ticket.ErrConflict.Error()},
		"another node": {ticket.ErrRecreated, http.StatusConflict, "conflict: " + ticket.ErrRecreated.Error()},
		"not written":  {errors.New("patch node: connection refused"), http.StatusServiceUnavailable, "patch node: connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, ends(tc.err))
			request := routeCase{method: http.MethodPost, path: "/api/v1/heal", body: `{"node":"gpu-99","condition":"GpuHung"}`}.request()
			got := record(f.routes, fromLoopback(request))
			require.Equal(t, tc.code, got.code)
			require.Equal(t, tc.says, got.problem(t))
			require.Equal(t, tc.code == http.StatusServiceUnavailable, strings.Contains(f.log.String(), "level=ERROR"),
				"only what an operator can mend is an error in the log")
		})
	}
}

func TestHealThatTakesTooLongIsGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.commander.hook = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		r := httptest.NewRequest(http.MethodPost, "/api/v1/heal", strings.NewReader(`{"node":"gpu-17","condition":"GpuHung"}`))
		r.Header.Set("Content-Type", "application/json")
		r.RemoteAddr = "127.0.0.1:4711"
		got := record(f.routes, r)
		require.Equal(t, http.StatusServiceUnavailable, got.code)
		require.Equal(t, "context deadline exceeded", got.problem(t))
	})
}

func FuzzHeal(f *testing.F) {
	for _, seed := range []string{
		"", "null", "[]", `{"node":"gpu-17","condition":"GpuHung"}`, `{"node":"a","sop":"b","dryRun":true,"device":"3","reason":"r"}`,
		`{"node":"a","sop":"b","dryRun":"yes"}`, `{"node":"a","node":"b","sop":"c"}`, `{"Node":"a"}`, "{\"\xff\":1}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		body, err := decodeHeal(text)
		if err != nil {
			require.Equal(t, http.StatusBadRequest, problemOf(err).status)
			return
		}
		require.NotEmpty(t, body.Node)
		require.NotEqual(t, body.Condition == "", body.SOP == "")
		require.LessOrEqual(t, len(body.Reason), maxReasonBytes)
	})
}
