package chaos

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"aegis.io/aegis/e2e/nodesim"
	"aegis.io/aegis/ticket"
)

// settledFor is how long everything has to be at its end, so that nothing was only between two steps.
const settledFor = 10 * time.Second

// shownOfLog is how many bytes are shown of what must not be in a log.
const shownOfLog = 3000

// tellEvery is after how many looks the waiting is told about.
const tellEvery = 60

// view is what the test reads of the API's answer about a node.
type view struct {
	Name       string
	Conditions []struct {
		Condition, Verdict, Reason string
	}
}

// holds are the verdicts with which a condition may wait for good.
func holds() []string {
	return []string{
		"budget", "storm", "cooldown", "attempts_exhausted", "paused", "excluded", "human_owned", "human_cordoned", "silenced", "tolerated",
	}
}

// conditionOf names the condition that a fault shows as, for those that are in the catalogue.
func conditionOf(fault string) string {
	switch fault {
	case nodesim.GPUHung:
		return "GpuHung"
	case nodesim.CreateContainerErrors:
		return "KubeletFailedCreatePodContainer"
	case nodesim.DevicePluginDown:
		return "GpuRegisterFailed"
	case nodesim.BondSlaveDown:
		return "NetworkLinkDown"
	case nodesim.NotReady, nodesim.NetworkLost, nodesim.KubeletStuck:
		return "NodeNotReady"
	}
	return ""
}

// settle waits until each node is in service, with people, or held with a named reason.
func (w *world) settle() {
	w.t.Helper()
	var open []string
	deadline, since := time.Now().Add(settleWithin), time.Time{}
	for i := 0; ; i++ {
		ends, err := w.ends()
		if err == nil {
			if open = ends.open(); len(open) > 0 {
				since = time.Time{}
			} else if since.IsZero() {
				since = time.Now()
			}
		}
		switch {
		case !since.IsZero() && time.Since(since) > settledFor:
			return
		case time.Now().After(deadline):
			w.dump()
			w.t.Errorf("not settled within %s: %v\n%s", settleWithin, err, strings.Join(open, "\n"))
			return
		}
		if i%tellEvery == 0 {
			w.t.Logf("%d nodes are not at their end", len(open))
		}
		require.NoError(w.t, pause(w.t.Context(), tick))
	}
}

// ends says of each node how it has ended. An end that begins with a question mark is none.
type ends map[string]string

func (e ends) open() []string {
	var open []string
	for _, name := range slices.Sorted(maps.Keys(e)) {
		if strings.HasPrefix(e[name], "?") {
			open = append(open, name+": "+e[name])
		}
	}
	return open
}

func (w *world) ends() (ends, error) {
	views, err := w.views()
	if err != nil {
		return nil, err
	}
	list, err := w.client.CoreV1().Nodes().List(w.t.Context(), metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	machines := w.states()
	all := make(ends)
	for i := range list.Items {
		n := &list.Items[i]
		all[n.Name] = endOf(version{node: n, record: ticket.ReadNode(n)}, views[n.Name], machines[n.Name])
	}
	return all, nil
}

func endOf(v version, seen view, machine nodesim.State) string {
	t := v.record.Ticket
	verdicts := make(map[string]string)
	for _, c := range seen.Conditions {
		verdicts[c.Condition] = c.Verdict + " " + c.Reason
	}
	switch {
	case v.withPeople():
		return "with people"
	case t != nil && t.Hold != "" && isHold(t.Hold):
		return "held: " + strings.SplitN(t.Hold, ":", 2)[0]
	case t != nil && isHold(verdicts[t.Condition]):
		return "held: " + strings.SplitN(verdicts[t.Condition], " ", 2)[0]
	case t != nil:
		return "? open ticket: " + v.node.Annotations[ticket.Annotation]
	case v.cordonedByPeople():
		return "cordoned by people"
	}
	return endWithoutTicket(v, seen, machine, verdicts)
}

func endWithoutTicket(v version, seen view, machine nodesim.State, verdicts map[string]string) string {
	for _, f := range machine.Faults {
		condition := conditionOf(f.Fault)
		if _, reported := verdicts[condition]; !reported && !v.ready() && isHold(verdicts["NodeNotReady"]) {
			continue // The exporters of the machine are as silent as its kubelet.
		}
		if condition != "" && !isHold(verdicts[condition]) {
			return fmt.Sprintf("? fault %s, verdict on %s: %q", f.Fault, condition, verdicts[condition])
		}
	}
	for _, c := range seen.Conditions {
		if isHold(c.Verdict) {
			return "held: " + c.Verdict
		}
	}
	if v.outOfService() {
		return fmt.Sprintf("? out of service without a reason: ready %t, unschedulable %t, verdicts %v",
			v.ready(), v.node.Spec.Unschedulable, verdicts)
	}
	return "in service"
}

func isHold(verdict string) bool {
	return slices.ContainsFunc(holds(), func(h string) bool { return strings.HasPrefix(verdict, h) })
}

// views asks the replica that leads for all nodes.
func (w *world) views() (views map[string]view, err error) {
	a := w.service.ready(w.t.Context())
	if a == nil {
		return nil, errors.New("no replica is ready")
	}
	resp, err := http.Get(a.URL + "/api/v1/nodes")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	var list struct {
		Nodes    []view
		Continue string
	}
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK || list.Continue != "" {
		return nil, fmt.Errorf("the replica answers %s, and there are more nodes after %q", resp.Status, list.Continue)
	}
	views = make(map[string]view)
	for _, v := range list.Nodes {
		views[v.Name] = v
	}
	return views, nil
}

// judge reads what happened from the audit log and the machines, and tells it.
func (w *world) judge() {
	w.t.Helper()
	events, err := w.env.Cluster.Audit()
	require.NoError(w.t, err)
	e := evidence{
		history: readHistory(w.t, events, w.pods), eventLog: w.eventLog, machines: w.states(), allowed: make(map[string]int),
	}
	for _, pool := range pools() {
		e.allowed[pool] = max(1, chaosNodes/len(pools())*poolPercent/100)
	}
	w.tell(e)
	for _, i := range invariants() {
		if wrong := i.check(e); len(wrong) > 0 {
			w.t.Errorf("NOT TRUE: %s\n%s", i.name, strings.Join(wrong, "\n"))
		}
	}
	if died := w.guard.result(w.t); died > 0 {
		w.t.Errorf("NOT TRUE: no replica ends by itself: %d did", died)
	}
	for _, a := range w.env.Aegis {
		w.searchLog(a.LogFile)
	}
}

// searchLog finds what must never be in a log.
func (w *world) searchLog(file string) {
	w.t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(w.t, err)
	for _, bad := range []string{"\npanic:", "DATA RACE", "\nfatal error:", "procedure panicked"} {
		if at := bytes.Index(text, []byte(bad)); at >= 0 {
			w.t.Errorf("NOT TRUE: no %q in %s\n%s", strings.TrimSpace(bad), file, text[at:min(len(text), at+shownOfLog)])
		}
	}
}

// tell prints what was done and what came of it.
func (w *world) tell(e evidence) {
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	row := func(what string, n int) { fmt.Fprintf(table, "%s\t%d\n", what, n) }
	rows := func(title string, counts map[string]int) {
		fmt.Fprintf(table, "\n%s\t\n", title)
		for _, what := range slices.Sorted(maps.Keys(counts)) {
			row("  "+what, counts[what])
		}
	}
	rows("DONE", w.eventLog.counts)
	rows("COULD NOT BE DONE", w.eventLog.failed)
	troubles := make(map[string]int)
	for trouble, n := range w.proxy.Counts() {
		troubles[string(trouble)] = n
	}
	rows("CALLS TO THE API SERVER", troubles)
	passed, refused := w.service.counts()
	rows("NOTIFICATIONS", map[string]int{"taken": passed, "to be sent again": refused})
	rows("JOBS AND EVICTIONS", e.history.actCounts())
	rows("INCIDENTS", e.history.outcomes())
	if all, err := w.ends(); err == nil {
		counts := make(map[string]int)
		for _, end := range all {
			counts[strings.SplitN(end, "\n", 2)[0]]++
		}
		rows("NODES", counts)
	}
	boots := -len(e.machines)
	for _, s := range e.machines {
		boots += s.Boots
	}
	rows("MACHINES", map[string]int{"boots": boots})
	if err := table.Flush(); err != nil {
		w.t.Error(err)
	}
	w.t.Log(text.String())
}

func (h history) actCounts() map[string]int {
	counts := make(map[string]int)
	for _, a := range h.acts {
		counts[a.what]++
	}
	return counts
}

// outcomes counts the incidents that ever were, by how they ended.
func (h history) outcomes() map[string]int {
	last := make(map[string]string)
	for _, v := range h.all {
		if t := v.record.Ticket; t != nil && t.ID != "" && last[t.ID] == "" {
			last[t.ID] = "open or removed"
		}
		for _, i := range v.record.History.Incidents {
			last[i.ID] = i.Outcome
		}
	}
	counts := make(map[string]int)
	for _, outcome := range last {
		counts[outcome]++
	}
	return counts
}
