// Package dashboard makes the Grafana dashboard of the chart from one table of panels, and draws what the panels show.
package dashboard

import "strings"

// Kind is how a panel shows its series.
type Kind string

// The kinds.
const (
	Stat  Kind = "stat"  // One number, the last one.
	Lines Kind = "lines" // Values over time.
	Stack Kind = "stack" // Values over time that add up.
	Bars  Kind = "bars"  // One bar for each series, as it is now.
	Table Kind = "table" // One row for each set of labels, and one column for each query.
)

// The units, as Grafana names them.
const (
	count   = "short"
	share   = "percentunit"
	seconds = "s"
	ops     = "ops"
)

// Query is one expression of a panel.
type Query struct {
	// Expr is PromQL. SELF stands for the matchers that select the metrics of Aegis.
	Expr string
	// Legend names the series, with {{label}} for the value of a label. In a table it names the column.
	Legend string
	// Unit is that of a column. Empty means that of the panel.
	Unit string
}

// Panel is one panel of the dashboard.
type Panel struct {
	Title string
	// About says what the panel shows and what to do about it.
	About   string
	Kind    Kind
	Unit    string
	Width   uint32
	Queries []Query
	// Good is the value from which on a share is green, and Bad the one below which it is red. Both zero: it has no color. Good may
	// be the lower one.
	Good, Bad float64
	// Names are texts for values.
	Names map[string]string
}

// Row is a heading with its panels.
type Row struct {
	Title  string
	Height uint32
	Panels []Panel
}

// matchers select the metrics of Aegis by the variables of the dashboard.
const matchers = `namespace=~"$namespace",job=~"$job"`

// leads restricts a metric to the replica that leads: another one does not know how things went on.
func leads(metric string, also ...string) string {
	return metric + `{` + strings.Join(append([]string{"SELF"}, also...), ",") + `} and on (namespace, job, instance) (aegis_leader{SELF} == 1)`
}

// within returns by how much a counter has grown within the time, by those labels.
func within(time, by, metric, also string) string {
	return `sum` + by + ` (increase(` + metric + `{SELF` + also + `}[` + time + `]))`
}

// quantile returns a quantile of the observations within the time, by those labels.
func quantile(q, time, by, metric, also string) string {
	return `histogram_quantile(` + q + `, sum by (` + strings.TrimPrefix(by+`, le`, `, `) + `) (increase(` + metric + `_bucket{SELF` + also + `}[` + time + `])))`
}

const (
	shown   = "$__range"
	rolling = "$window"
	// ended are the outcomes of repairs that tried something.
	ended = `,outcome=~"resolved|handed_over|canceled"`
)

// shareOf returns which share of the repairs that tried something the counter has, as far as there are any.
func shareOf(by, metric, also string) string {
	return within(shown, by, metric, also) + ` / (` + within(shown, by, "aegis_repairs_total", ended) + ` > 0)`
}

// Rows is the dashboard.
func Rows() []Row {
	return []Row{glance(), fleet(), repairs(), steps(), speed(), limits(), people(), sources()}
}

func glance() Row {
	return Row{"At a glance", 4, []Panel{
		{
			Title: "Leader", Kind: Stat, Width: 3, Unit: count, Good: 1, Bad: 1,
			About:   "Replicas that lead. It must be one: without a leader, nothing is repaired and no alert is taken.",
			Queries: []Query{{Expr: `sum(aegis_leader{SELF})`, Legend: "leading"}},
			Names:   map[string]string{"0": "none", "1": "leads"},
		},
		{
			Title: "Nodes", Kind: Stat, Width: 3, Unit: count,
			About:   "Nodes of the cluster.",
			Queries: []Query{{Expr: `max(aegis_nodes{SELF})`, Legend: "nodes"}},
		},
		{
			Title: "Nodes with a fault", Kind: Stat, Width: 3, Unit: count,
			About:   "Nodes on which a condition holds, of whatever band.",
			Queries: []Query{{Expr: `sum(` + leads("aegis_band_nodes") + `)`, Legend: "nodes"}},
		},
		{
			Title: "Success rate", Kind: Stat, Width: 3, Unit: share, Good: .9, Bad: .7,
			About:   "Share of the repairs in the shown time that resolved their incident. Repairs that only told people are left out.",
			Queries: []Query{{Expr: shareOf("", "aegis_repairs_total", `,outcome="resolved"`), Legend: "resolved"}},
		},
		{
			Title: "First-time success", Kind: Stat, Width: 3, Unit: share, Good: .8, Bad: .5,
			About:   "Share of the repairs that needed one attempt at most, for a condition that had not come back. A low one asks for another first step.",
			Queries: []Query{{Expr: shareOf("", "aegis_repairs_first_time_total", ""), Legend: "first time"}},
		},
		{
			Title: "Unattended", Kind: Stat, Width: 3, Unit: share, Good: .8, Bad: .5,
			About:   "Share of the repairs that resolved their incident without a request, an approval, a takeover or an edit by a person.",
			Queries: []Query{{Expr: shareOf("", "aegis_repairs_unattended_total", ""), Legend: "unattended"}},
		},
		{
			Title: "Handed over", Kind: Stat, Width: 3, Unit: share, Good: .1, Bad: .3,
			About:   "Share of the repairs that ended with people, because Aegis had nothing more to try.",
			Queries: []Query{{Expr: shareOf("", "aegis_repairs_total", `,outcome="handed_over"`), Legend: "handed over"}},
		},
		{
			Title: "False alarms", Kind: Stat, Width: 3, Unit: share, Good: .05, Bad: .2,
			About:   "Share of the repairs whose condition was not found on the machine. A high one asks for another rule, or for a longer confirmFor.",
			Queries: []Query{{Expr: shareOf("", "aegis_repairs_false_alarm_total", ""), Legend: "false alarms"}},
		},
	}}
}

func fleet() Row {
	return Row{"Fleet", 8, []Panel{
		{
			Title: "Nodes with a fault, by band", Kind: Stack, Width: 8, Unit: count,
			About:   "Nodes on which something holds, by the band of the most urgent of it. The rest of the nodes is well.",
			Queries: []Query{{Expr: `sum by (band) (` + leads("aegis_band_nodes") + `)`, Legend: "{{band}}"}},
		},
		{
			Title: "Conditions that hold", Kind: Lines, Width: 8, Unit: count,
			About:   "The ten conditions that hold on the most nodes.",
			Queries: []Query{{Expr: `topk(10, sum by (condition) (` + leads("aegis_condition_nodes") + `) > 0)`, Legend: "{{condition}}"}},
		},
		{
			Title: "Verdicts", Kind: Bars, Width: 8, Unit: count,
			About:   "Verdicts in the shown time. Whatever is not execute says why nothing was done; the documentation explains each.",
			Queries: []Query{{Expr: within(shown, " by (verdict)", "aegis_verdicts_total", "") + ` > 0`, Legend: "{{verdict}}"}},
		},
	}}
}

func repairs() Row {
	by := " by (condition, sop)"
	return Row{"Repairs", 8, []Panel{
		{
			Title: "Repairs by outcome", Kind: Lines, Width: 12, Unit: count,
			About:   "Repairs that ended within the last $window, by outcome.",
			Queries: []Query{{Expr: within(rolling, " by (outcome)", "aegis_repairs_total", ""), Legend: "{{outcome}}"}},
		},
		{
			Title: "Duration of repairs", Kind: Lines, Width: 12, Unit: seconds,
			About: "From the ticket to the end of the resolved repairs of the last $window.",
			Queries: []Query{
				{Expr: quantile("0.5", rolling, "", "aegis_repair_seconds", `,outcome="resolved"`), Legend: "p50"},
				{Expr: quantile("0.95", rolling, "", "aegis_repair_seconds", `,outcome="resolved"`), Legend: "p95"},
			},
		},
		{
			Title: "Repairs by condition and procedure", Kind: Table, Width: 24, Unit: count,
			About: "Repairs in the shown time, how they ended, and how long the resolved ones of the condition took. The worst procedure is the first one to improve.",
			Queries: []Query{
				{Expr: within(shown, by, "aegis_repairs_total", "") + ` > 0`, Legend: "repairs"},
				{Expr: shareOf(by, "aegis_repairs_total", `,outcome="resolved"`), Legend: "resolved", Unit: share},
				{Expr: shareOf(by, "aegis_repairs_first_time_total", ""), Legend: "first time", Unit: share},
				{Expr: shareOf(by, "aegis_repairs_unattended_total", ""), Legend: "unattended", Unit: share},
				{Expr: shareOf(by, "aegis_repairs_false_alarm_total", ""), Legend: "false alarm", Unit: share},
				{Expr: `(` + quantile("0.95", shown, "condition", "aegis_repair_seconds", `,outcome="resolved"`) + ` >= 0) * on (condition) group_right () ((` +
					within(shown, by, "aegis_repairs_total", "") + ` > 0) ^ 0)`, Legend: "p95", Unit: seconds},
			},
		},
	}}
}

func steps() Row {
	return Row{"Steps", 12, []Panel{
		{
			Title: "Success rate by step", Kind: Bars, Width: 8, Unit: share, Good: .9, Bad: .7,
			About: "Share of the steps in the shown time that succeeded. Canceled ones, which were not carried out, are left out. A wait or a verify that fails took longer than the policy allows.",
			Queries: []Query{{
				Expr: within(shown, " by (action)", "aegis_step_total", `,outcome="succeeded"`) + ` / (` +
					within(shown, " by (action)", "aegis_step_total", `,outcome=~"succeeded|failed"`) + ` > 0)`,
				Legend: "{{action}}",
			}},
		},
		{
			Title: "Duration by step", Kind: Table, Width: 8, Unit: seconds,
			About: "How long the steps took that succeeded in the shown time, without the wait for permission. The longest is where minutes are to be won.",
			Queries: []Query{
				{Expr: within(shown, " by (action)", "aegis_step_total", `,outcome="succeeded"`) + ` > 0`, Legend: "steps", Unit: count},
				{Expr: quantile("0.5", shown, "action", "aegis_step_seconds", `,outcome="succeeded"`) + ` >= 0`, Legend: "p50"},
				{Expr: quantile("0.95", shown, "action", "aegis_step_seconds", `,outcome="succeeded"`) + ` >= 0`, Legend: "p95"},
			},
		},
		{
			Title: "Steps by outcome", Kind: Lines, Width: 8, Unit: count,
			About:   "Steps that ended within the last $window, by outcome.",
			Queries: []Query{{Expr: within(rolling, " by (outcome)", "aegis_step_total", ""), Legend: "{{outcome}}"}},
		},
	}}
}

func speed() Row {
	return Row{"Speed", 8, []Panel{
		{
			Title: "Time to isolate", Kind: Lines, Width: 8, Unit: seconds,
			About: "From the start of the alert to the cordon of the node, in the last $window.",
			Queries: []Query{
				{Expr: quantile("0.5", rolling, "", "aegis_isolate_seconds", ""), Legend: "p50"},
				{Expr: quantile("0.95", rolling, "", "aegis_isolate_seconds", ""), Legend: "p95"},
			},
		},
		{
			Title: "Time to return", Kind: Lines, Width: 8, Unit: seconds,
			About: "From the cordon of the node to its return to service, in the last $window.",
			Queries: []Query{
				{Expr: quantile("0.5", rolling, "", "aegis_return_seconds", ""), Legend: "p50"},
				{Expr: quantile("0.95", rolling, "", "aegis_return_seconds", ""), Legend: "p95"},
			},
		},
		{
			Title: "Isolated within a minute, by band", Kind: Bars, Width: 8, Unit: share, Good: .95, Bad: .8,
			About: "Share of the nodes that were cordoned within a minute of their alert, in the shown time.",
			Queries: []Query{{
				Expr: within(shown, " by (band)", "aegis_isolate_seconds_bucket", `,le=~"60(.0)?"`) + ` / (` +
					within(shown, " by (band)", "aegis_isolate_seconds_count", "") + ` > 0)`,
				Legend: "{{band}}",
			}},
		},
	}}
}

func limits() Row {
	return Row{"Limits and storms", 8, []Panel{
		{
			Title: "Nodes out of service", Kind: Lines, Width: 8, Unit: count,
			About: "Nodes of each pool that are out of service for whatever reason, and how many may be. While all places are taken, no more nodes are cordoned.",
			Queries: []Query{
				{Expr: `max by (pool) (` + leads("aegis_limit_taken", `limit="budget"`) + `)`, Legend: "{{pool}}"},
				{Expr: `max by (pool) (` + leads("aegis_limit_places", `limit="budget"`) + `)`, Legend: "{{pool}} allowed"},
			},
		},
		{
			Title: "Destructive steps that run", Kind: Lines, Width: 8, Unit: count,
			About: "Reboots, resets and shutdowns that run in each pool, and how many may at a time.",
			Queries: []Query{
				{Expr: `max by (pool) (` + leads("aegis_limit_taken", `limit="destructive"`) + `)`, Legend: "{{pool}}"},
				{Expr: `max by (pool) (` + leads("aegis_limit_places", `limit="destructive"`) + `)`, Legend: "{{pool}} allowed"},
			},
		},
		{
			Title: "Nodes that wait for a place", Kind: Stack, Width: 8, Unit: count,
			About:   "Nodes that would be isolated or repaired now if their pool had room, by pool and limit. The most urgent one is the next.",
			Queries: []Query{{Expr: `sum by (pool, limit) (` + leads("aegis_waiting_nodes") + `)`, Legend: "{{pool}} {{limit}}"}},
		},
		{
			Title: "Wait for a place, p95", Kind: Bars, Width: 8, Unit: seconds,
			About:   "How long nodes waited for a place in the shown time, by limit. If it is long, raise the limit, or find out why nodes stay out of service.",
			Queries: []Query{{Expr: quantile("0.95", shown, "limit", "aegis_limit_wait_seconds", "") + ` >= 0`, Legend: "{{limit}}"}},
		},
		{
			Title: "Storms", Kind: Lines, Width: 16, Unit: count,
			About: "Storms that hold repairs, by condition and pool, or 0 while none does. Find out what the nodes have in common before you release one.",
			Queries: []Query{
				// No series means no storm, provided that there is a leader who would know.
				{Expr: leads("aegis_storm_active") + ` or label_replace(sum(aegis_leader{SELF} == 1) * 0, "condition", "none", "", "")`, Legend: "{{condition}} {{pool}}"},
			},
		},
	}}
}

func people() Row {
	return Row{"People", 7, []Panel{
		{
			Title: "Open tickets", Kind: Lines, Width: 12, Unit: count,
			About:   "Nodes with an open ticket, by who has it: Aegis, or people.",
			Queries: []Query{{Expr: `max by (supervisor) (aegis_tickets_open{SELF})`, Legend: "{{supervisor}}"}},
		},
		{
			Title: "Tickets that wait for people, by team", Kind: Stack, Width: 12, Unit: count,
			About:   "Nodes that Aegis does nothing on until the team gives the ticket back. The team other stands for a person.",
			Queries: []Query{{Expr: `max by (team) (aegis_tickets_waiting{SELF})`, Legend: "{{team}}"}},
		},
	}}
}

func sources() Row {
	return Row{"Sources and queue", 7, []Panel{
		{
			Title: "Age of the last complete pass", Kind: Lines, Width: 6, Unit: seconds,
			About:   "How long ago every source answered. While it grows, nothing destructive begins.",
			Queries: []Query{{Expr: `time() - max(aegis_resync_last_success_timestamp_seconds{SELF})`, Legend: "age"}},
		},
		{
			Title: "Reads of the sources", Kind: Lines, Width: 6, Unit: ops,
			About:   "Reads of Prometheus and Alertmanager. A result of unknown is an answer that Aegis cannot rely on.",
			Queries: []Query{{Expr: `sum by (source, result) (rate(aegis_resync_total{SELF}[$__rate_interval]))`, Legend: "{{source}} {{result}}"}},
		},
		{
			Title: "Sources that answer", Kind: Lines, Width: 6, Unit: count,
			About:   "1 for each source of aegis.yaml that gave a reliable answer in the last pass, else 0. Empty without sources. What a silent source found is unknown.",
			Queries: []Query{{Expr: `max by (source) (` + leads("aegis_source_up") + `)`, Legend: "{{source}}"}},
		},
		{
			Title: "Samples of the sources", Kind: Lines, Width: 6, Unit: count,
			About:   "Samples of the sources in the last $window by what they were: those that find something, those that find nothing, and those that are about no node.",
			Queries: []Query{{Expr: within(rolling, " by (source, result)", "aegis_source_samples_total", ""), Legend: "{{source}} {{result}}"}},
		},
		{
			Title: "Duration of a pass", Kind: Lines, Width: 6, Unit: seconds,
			About: "How long Aegis takes to ask all sources once, in the last $window.",
			Queries: []Query{
				{Expr: quantile("0.5", rolling, "", "aegis_resync_duration_seconds", ""), Legend: "p50"},
				{Expr: quantile("0.95", rolling, "", "aegis_resync_duration_seconds", ""), Legend: "p95"},
			},
		},
		{
			Title: "Alerts that arrive", Kind: Lines, Width: 6, Unit: ops,
			About:   "Alerts in webhooks: taken, or the reason why they were dropped.",
			Queries: []Query{{Expr: `sum by (outcome) (rate(aegis_webhook_alerts_total{SELF}[$__rate_interval]))`, Legend: "{{outcome}}"}},
		},
		{
			Title: "Configuration", Kind: Stat, Width: 6, Unit: count, Good: 1, Bad: 1,
			About:   "Whether every replica has loaded the configuration. The log names file, line and column of a mistake.",
			Queries: []Query{{Expr: `min(aegis_config_last_reload_successful{SELF})`, Legend: "loaded"}},
			Names:   map[string]string{"0": "old", "1": "loaded"},
		},
		{
			Title: "Queue", Kind: Stack, Width: 6, Unit: count,
			About:   "Nodes in the queue. Many that are ready for long mean that Aegis is too slow.",
			Queries: []Query{{Expr: `sum by (state) (` + leads("aegis_queue_nodes") + `)`, Legend: "{{state}}"}},
		},
	}}
}

// colors are those of the series of a legend that mean the same wherever they are shown.
func colors(legend string) map[string]string {
	switch legend {
	case "{{outcome}}":
		return map[string]string{
			"resolved": "green", "succeeded": "green", "handed_over": "orange", "failed": "red", "canceled": "gray", "notified": "blue", "noted": "purple", "checked": "yellow",
		}
	case "{{band}}":
		return map[string]string{"NotReady": "red", "Emergency": "orange", "Cordon": "yellow", "CanIgnore": "blue", "MustIgnore": "gray"}
	case "{{supervisor}}":
		return map[string]string{"aegis": "blue", "people": "orange"}
	case "p50", "p95":
		return map[string]string{"p50": "blue", "p95": "orange"}
	}
	return nil
}

// Expression returns the query with the matchers of the dashboard.
func (q Query) Expression() string { return strings.ReplaceAll(q.Expr, "SELF", matchers) }

// Settings are values for the variables of the dashboard.
type Settings struct {
	Namespace, Job, Window, Range, RateInterval string
}

// In returns the query as Grafana sends it with these settings.
func (q Query) In(s Settings) string {
	return strings.NewReplacer("$namespace", s.Namespace, "$job", s.Job, "$window", s.Window, "$__range", s.Range,
		"$__rate_interval", s.RateInterval).Replace(q.Expression())
}
