package cases

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"aegis.io/aegis/e2e/nodesim"
	"aegis.io/aegis/e2e/testenv"
	"aegis.io/aegis/ticket"
)

const (
	// within bounds the wait for one stage of an incident.
	within = 3 * time.Minute
	tick   = 200 * time.Millisecond
)

// node is one simulated machine as a case sees it.
type node struct {
	t    *testing.T
	env  *testenv.Environment
	name string
}

// nodeOf returns the i-th node of the case's pool.
func nodeOf(t *testing.T, pool string, i int) node {
	t.Helper()
	return node{t: t, env: shared, name: nodeName(pool, i)}
}

func (n node) get() *corev1.Node {
	n.t.Helper()
	object, err := n.env.Cluster.Client().CoreV1().Nodes().Get(n.t.Context(), n.name, metav1.GetOptions{})
	require.NoError(n.t, err)
	return object
}

func (n node) record() ticket.Record {
	n.t.Helper()
	r := ticket.ReadNode(n.get())
	require.NoError(n.t, r.Broken)
	require.NoError(n.t, r.HistoryBroken)
	return r
}

func (n node) state() nodesim.State {
	n.t.Helper()
	s, err := n.env.Sim.State(n.name)
	require.NoError(n.t, err)
	return s
}

func (n node) inject(fault string) {
	n.t.Helper()
	n.injectFixedBy(fault, "")
}

func (n node) injectFixedBy(fault string, by nodesim.FixedBy) {
	n.t.Helper()
	require.NoError(n.t, n.env.Sim.Inject(n.name, nodesim.Injection{Fault: fault, FixedBy: by}))
	n.t.Cleanup(func() { n.clear() })
}

func (n node) clear() {
	n.t.Helper()
	require.NoError(n.t, n.env.Sim.Clear(n.name))
}

// eventually waits until the condition holds, and says what it waits for if it does not.
func (n node) eventually(what string, holds func(r ticket.Record) bool) {
	n.t.Helper()
	deadline := time.Now().Add(within)
	for {
		r := n.record()
		if holds(r) {
			return
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("%s: waited %s for %q, the ticket is:\n%s\nhistory:\n%s", n.name, within, what,
				r.Node.Annotations[ticket.Annotation], r.Node.Annotations[ticket.HistoryAnnotation])
		}
		time.Sleep(tick)
	}
}

// running waits until the action is being carried out.
func (n node) running(action ticket.Action) {
	n.t.Helper()
	n.eventually(string(action)+" runs", func(r ticket.Record) bool {
		if r.Ticket == nil {
			return false
		}
		last, known := r.Ticket.Outcome(action, r.Ticket.Count(action))
		return known && last.Status == ticket.Running
	})
}

// resolved waits until an incident of the condition, or of one of them, is closed as healed, and returns it.
func (n node) resolved(conditions ...string) ticket.Incident {
	n.t.Helper()
	var found ticket.Incident
	n.eventually("resolved", func(r ticket.Record) bool {
		for _, i := range r.History.Incidents {
			if slices.Contains(conditions, i.Condition) && i.Outcome == "resolved" {
				found = i
				return r.Ticket == nil
			}
		}
		return false
	})
	require.False(n.t, n.get().Spec.Unschedulable, "a healed node is back in service")
	return found
}

// handedOver waits until people own the ticket, and returns it.
func (n node) handedOver(team string) *ticket.Ticket {
	n.t.Helper()
	var found *ticket.Ticket
	n.eventually("handed over to "+team, func(r ticket.Record) bool {
		found = r.Ticket
		return r.Ticket != nil && r.Ticket.Supervisor == team
	})
	require.Equal(n.t, ticket.StatusAssigned, found.Status)
	return found
}

// untouched makes sure that Aegis does nothing to the node for a while, in which it would have acted.
func (n node) untouched(while time.Duration, still func(*corev1.Node) bool) {
	n.t.Helper()
	for end := time.Now().Add(while); time.Now().Before(end); time.Sleep(tick) {
		require.True(n.t, still(n.get()), "node %s was touched", n.name)
	}
	require.Empty(n.t, n.state().Ops, "no operation ran on the node")
}

// ops returns the operations that ran on the node, oldest first, as "action exit-code".
func (n node) ops(action string) []nodesim.Op {
	n.t.Helper()
	var ops []nodesim.Op
	for _, op := range n.state().Ops {
		if op.Action == action {
			ops = append(ops, op)
		}
	}
	return ops
}

// steps renders the steps of a ticket, one "action status" each.
func steps(t *ticket.Ticket) string {
	var b strings.Builder
	for _, s := range t.Workflows {
		b.WriteString(string(s.Action) + " " + string(s.Status) + "\n")
	}
	return b.String()
}

// verdict returns what Aegis says about a condition of the node.
func (n node) verdict(condition string) string {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), 10*time.Second)
	defer cancel()
	view := nodeView(ctx, n.t, n.env.Aegis[0].URL, n.name)
	for _, c := range view.Conditions {
		if c.Condition == condition {
			return c.Verdict
		}
	}
	return ""
}

func (n node) eventuallyVerdict(condition, verdict string) {
	n.t.Helper()
	require.Eventually(n.t, func() bool { return n.verdict(condition) == verdict }, within, tick)
}
