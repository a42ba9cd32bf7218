package handler

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
)

func TestExplain(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 15, 30, 0, 0, time.UTC)
	before := func(d time.Duration) time.Time { return now.Add(-d) }
	budget := ConditionView{
		Condition: "GpuHung", Priority: 3, Verdict: "budget", VerdictSince: before(12 * time.Minute),
		Reason: "2 of 20 nodes of pool a100 are out of service, 2 allowed: gpu-0007, gpu-0011; 2nd of 3 that wait, after gpu-0003 (priority 2)",
		Change: policy.VerdictBudget.Change(),
	}
	const budgetLine = "GpuHung: budget for 12m: 2 of 20 nodes of pool a100 are out of service, 2 allowed: gpu-0007, gpu-0011; " +
		"2nd of 3 that wait, after gpu-0003 (priority 2); changes when a place is free and it is the node's turn"
	ignored := ConditionView{Condition: "NodeNotReady", Device: "eth0", Priority: 0, Verdict: "ignored", Reason: "its mode is off"}
	const ignoredLine = "NodeNotReady of device eth0: ignored: its mode is off"
	draining := &TicketView{
		ID: "20261123t152000-4f2a91", Condition: "GpuHung", Supervisor: "aegis", Status: "resolving", Hold: "silenced: by alice",
		Workflows: []StepView{
			{Action: "cordon", Status: "Succeeded", At: before(4 * time.Minute)},
			{Action: "drain", Status: "Running", At: before(3 * time.Minute)},
		},
	}
	const drainingLine = "ticket 20261123t152000-4f2a91: GpuHung, with aegis, step drain running for 3m, held: silenced: by alice"
	handed := &TicketView{
		Condition: "GPUCheckFailed", Device: "3", Supervisor: "alice,bob", Status: "assigned",
		Workflows: []StepView{{Action: "reboot", Status: "Failed", At: before(26 * time.Hour), Message: "it did not come back"}},
	}
	history := []IncidentView{
		{Condition: "GpuHung", Outcome: "resolved", Closed: before(5 * time.Hour)},
		{Condition: "IbDown", Outcome: "released", Closed: before(72 * time.Hour)},
	}
	for name, tc := range map[string]struct {
		view    NodeView
		lines   []string
		telling string
	}{
		"nothing ever": {
			view: NodeView{}, lines: []string{"no condition is reported on the node; its history has no incident"},
		},
		"nothing now": {
			view:  NodeView{History: history},
			lines: []string{"no condition is reported on the node; last incident: GpuHung, resolved 5h ago"},
		},
		"an incident of little detail": {
			view:  NodeView{History: []IncidentView{{Condition: "GpuHung"}}},
			lines: []string{"no condition is reported on the node; last incident: GpuHung, ended"},
		},
		"one condition waits": {
			view: NodeView{Conditions: []ConditionView{budget}, History: history}, lines: []string{budgetLine},
		},
		"what waits is more telling than what is left alone": {
			view: NodeView{Conditions: []ConditionView{ignored, budget}}, lines: []string{ignoredLine, budgetLine}, telling: budgetLine,
		},
		"the more urgent one is more telling": {
			view:  NodeView{Conditions: []ConditionView{{Condition: "FanSlow", Priority: 200, Verdict: "cooldown"}, budget}},
			lines: []string{"FanSlow: cooldown", budgetLine}, telling: budgetLine,
		},
		"not decided": {
			view: NodeView{Conditions: []ConditionView{{Condition: "GpuHung"}}}, lines: []string{"GpuHung: not decided yet"},
		},
		"a ticket is more telling than a condition": {
			view: NodeView{Conditions: []ConditionView{budget}, Ticket: draining}, lines: []string{budgetLine, drainingLine}, telling: drainingLine,
		},
		"a ticket without steps": {
			view:  NodeView{Ticket: &TicketView{ID: "x", Condition: "GpuHung", Supervisor: "aegis", Status: "created"}},
			lines: []string{"ticket x: GpuHung, with aegis, status created, no step yet"},
		},
		"a ticket of people": {
			view: NodeView{Ticket: handed},
			lines: []string{
				"ticket: GPUCheckFailed of device 3, with alice,bob, status assigned, last step reboot failed 26h ago (it did not come back)",
			},
		},
		"a ticket that cannot be read": {
			view:    NodeView{Conditions: []ConditionView{budget}, TicketError: "line 3: bad"},
			lines:   []string{budgetLine, "the ticket cannot be read: line 3: bad"},
			telling: "the ticket cannot be read: line 3: bad",
		},
		"a clock that is ahead": {
			view:  NodeView{Conditions: []ConditionView{{Condition: "GpuHung", Verdict: "observe", VerdictSince: before(-time.Hour)}}},
			lines: []string{"GpuHung: observe for 0s"},
		},
		"words of strangers": {
			view:  NodeView{Conditions: []ConditionView{{Condition: "GpuHung", Verdict: "human_owned", Reason: "a\r\n\x1b[2Jb\u202e\u009b  c"}}},
			lines: []string{"GpuHung: human_owned: a [2Jb c"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tc.lines, explain(tc.view, now))
			telling := tc.telling
			if telling == "" {
				telling = tc.lines[0]
			}
			require.Equal(t, telling, mostTelling(tc.view, now))
		})
	}
}

func TestExplainIsServedAsText(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.holds("gpu-17", "GpuHung", "")
		f.verdicts.Set(prom.Key{Node: "gpu-17", Condition: "GpuHung"}, policy.Verdict{Name: policy.VerdictCooldown, Reason: "<b>"})
		f.verdicts.Set(prom.Key{Node: "gpu-17", Condition: "FanSlow"}, policy.Verdict{Name: policy.VerdictTolerated})
		time.Sleep(90 * time.Second)
		got := record(f.routes, routeCase{method: http.MethodGet, path: "/api/v1/nodes/gpu-17/explain"}.request())
		require.Equal(t, http.StatusOK, got.code)
		cooldown := "GpuHung: cooldown for 90s: <b>; changes when " + policy.VerdictCooldown.Change()
		require.Equal(t, cooldown+"\nFanSlow: tolerated for 90s; changes when "+policy.VerdictTolerated.Change()+"\n", got.body)
		require.Equal(t, "text/plain; charset=utf-8", got.header.Get("Content-Type"))
		require.Equal(t, "nosniff", got.header.Get("X-Content-Type-Options"), "no browser may take it for a page")

		for _, path := range []string{"/api/v1/nodes/gpu-17", "/api/v1/nodes"} {
			got = record(f.routes, routeCase{method: http.MethodGet, path: path}.request())
			require.Contains(t, got.body, `"explanation":"GpuHung: cooldown for 90s: `)
		}
	})
}
