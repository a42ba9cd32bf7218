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
)

func TestHealPassesTheRequestOn(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		body string
		want HealRequest
	}{
		"a condition": {
			`{"node":"gpu-17","condition":"GpuHung","device":"3","reason":"jobs hang"}`,
			HealRequest{Node: "gpu-17", Condition: "GpuHung", Device: "3", Reason: "jobs hang", By: "loopback"},
		},
		"a procedure": {
			`{"node":"gpu-17","sop":"gpu/hung","dryRun":false}`,
			HealRequest{Node: "gpu-17", SOP: "gpu/hung", By: "loopback"},
		},
		"a dry run": {
			`{"node":"gpu-17","condition":"GpuHung","dryRun":true}`,
			HealRequest{Node: "gpu-17", Condition: "GpuHung", DryRun: true, By: "loopback"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			got := post(t, f.serve(t).URL+"/api/v1/heal", tc.body)
			require.Less(t, got.code, 300, got.body)
			require.Equal(t, []HealRequest{tc.want}, f.healer.requests)
		})
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
			require.Empty(t, f.healer.requests)
		})
	}
}

func TestHealErrorsKeepTheirWords(t *testing.T) {
	t.Parallel()
	for code, err := range map[int]error{
		http.StatusNotFound:            fmt.Errorf("node %q: %w", "gpu-99", ErrNotFound),
		http.StatusConflict:            fmt.Errorf("ticket of alice: %w", ErrConflict),
		http.StatusUnprocessableEntity: fmt.Errorf("condition has no procedure: %w", ErrInvalid),
		http.StatusServiceUnavailable:  errors.New("patch node: connection refused"),
	} {
		f := newFixture(t)
		f.healer.err = err
		server := f.serve(t)
		got := post(t, server.URL+"/api/v1/heal", `{"node":"gpu-99","condition":"GpuHung"}`)
		server.Close()
		require.Equal(t, code, got.code)
		require.Equal(t, err.Error(), got.problem(t))
		require.Equal(t, code == http.StatusServiceUnavailable, strings.Contains(f.log.String(), "level=ERROR"), "only what an operator can mend is an error in the log")
	}
}

func TestHealThatTakesTooLongIsGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.healer.hook = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
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
