package handler

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/sop/policy"
)

func TestLimitsListWhoWaitsInOrder(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	since := time.Date(2026, 11, 23, 15, 30, 0, 0, time.UTC)
	f.commander.limits = []policy.LimitState{
		{Pool: "h100", Limit: policy.LimitBudget, Allowed: 2, Taken: []string{"gpu-1", "gpu-2"}, Waiting: []policy.Claim{
			{Node: "gpu-9", Condition: "GpuHung", Device: "3", Priority: 5, Since: since},
			{Node: "gpu-3", Condition: "HighLoad", Priority: 150, Since: since.Add(-time.Hour)},
		}},
		{Pool: "h100", Limit: policy.LimitDestructive, Allowed: 1},
	}
	require.JSONEq(t, `{"limits": [
		{"pool": "h100", "limit": "budget", "allowed": 2, "taken": ["gpu-1", "gpu-2"], "waiting": [
			{"node": "gpu-9", "condition": "GpuHung", "device": "3", "priority": 5, "band": "Emergency", "since": "2026-11-23T15:30:00Z"},
			{"node": "gpu-3", "condition": "HighLoad", "priority": 150, "band": "CanIgnore", "since": "2026-11-23T14:30:00Z"}]},
		{"pool": "h100", "limit": "destructive", "allowed": 1, "taken": [], "waiting": []}]}`,
		record(f.routes, routeCase{method: http.MethodGet, path: "/api/v1/limits"}.request()).body)
}
