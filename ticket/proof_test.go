package ticket

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// sealed returns an API server whose node has a ticket of Aegis, and what the node says.
func sealed(t *testing.T) (*apiServer, *Store, Record) {
	t.Helper()
	server, store := newAPIServer(t, node(nil))
	opened := &Ticket{
		ID: "20260101t000000-abcdef", Condition: "GpuHung", Origin: "heal:alice", Supervisor: Self, Status: StatusResolving,
		BootID: "b", ApprovedBy: "bob", Reason: "hung", CreatedAt: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		Workflows: []Step{
			{Action: Cordon, Status: Succeeded, At: time.Date(2026, 1, 1, 0, 0, 1, 0, time.UTC), Message: "cordoned"},
			{Action: Healthcheck, Status: Failed, Findings: Findings{Code: 2, Hardware: "gpu"}},
			{Action: Reboot, Status: Running, At: time.Date(2026, 1, 1, 0, 0, 2, 0, time.UTC)},
		},
	}
	r, err := store.Update(t.Context(), servedNode, nil, func(_ Record, c *Change) error { c.Ticket = opened; return nil })
	require.NoError(t, err)
	require.Equal(t, Proof{true, true}, r.Proven)
	require.Less(t, len(r.Node.Annotations[RecordAnnotation]), 300)
	return server, store, r
}

// What people may edit leaves the ticket proven, and everything else does not.
func TestProof(t *testing.T) {
	t.Parallel()
	all, none := Proof{true, true}, Proof{}
	edit := func(from, to string) func(n *corev1.Node) {
		return func(n *corev1.Node) {
			text := n.Annotations[Annotation]
			n.Annotations[Annotation] = strings.Replace(text, from, to, 1)
			if n.Annotations[Annotation] == text {
				panic("nothing to edit: " + from)
			}
		}
	}
	for name, tt := range map[string]struct {
		change func(n *corev1.Node)
		want   Proof
	}{
		"nothing":         {func(*corev1.Node) {}, all},
		"the supervisor":  {edit("supervisor: aegis", "supervisor: alice"), all},
		"the status":      {edit("status: resolving", "status: assigned"), all},
		"the reason":      {edit("reason: hung", "reason: looked at it"), all},
		"a message":       {edit("message: cordoned", "message: by me"), all},
		"a hold":          {edit("bootID: b", "bootID: b\nhold: wait"), all},
		"notes":           {edit("bootID: b", "bootID: b\nnotes: [mine]"), all},
		"another style":   {edit("bootID: b", "bootID: \"b\""), all},
		"the condition":   {edit("condition: GpuHung", "condition: NodeNotReady"), Proof{false, true}},
		"the origin":      {edit("heal:alice", "heal:mallory"), Proof{false, true}},
		"the approval":    {edit("approvedBy: bob", "approvedBy: mallory"), Proof{false, true}},
		"the boot":        {edit("bootID: b", "bootID: c"), Proof{false, true}},
		"when it began":   {edit("createdAt: 2026-01-01", "createdAt: 2027-01-01"), Proof{false, true}},
		"attempts":        {edit("bootID: b", "bootID: b\nattempts: 1"), Proof{false, true}},
		"a cordon":        {edit("bootID: b", "bootID: b\ncordon: kubectl"), Proof{false, true}},
		"a step's end":    {edit("status: Running", "status: Succeeded"), Proof{true, false}},
		"a step's time":   {edit("at: 2026-01-01T00:00:02Z", "at: 2020-01-01T00:00:02Z"), Proof{true, false}},
		"a finding":       {edit("code: 2", "code: 3"), Proof{true, false}},
		"one step more":   {edit("workflows:\n", "workflows:\n  - {action: drain, status: Succeeded}\n"), Proof{true, false}},
		"a counted step":  {edit("workflows:\n", "done: {drain: S}\nworkflows:\n"), Proof{true, false}},
		"the ID":          {edit("20260101t000000-abcdef", "20260101t000000-abcdeg"), none},
		"no record":       {func(n *corev1.Node) { delete(n.Annotations, RecordAnnotation) }, none},
		"a broken record": {func(n *corev1.Node) { n.Annotations[RecordAnnotation] = "{" }, none},
		"a record to come": {func(n *corev1.Node) {
			n.Annotations[RecordAnnotation] = strings.Replace(n.Annotations[RecordAnnotation], `"v":1`, `"v":2`, 1)
		}, none},
		"another node":       {func(n *corev1.Node) { n.UID = "other" }, none},
		"written by another": {func(n *corev1.Node) { n.ManagedFields = recordedBy("kubectl-edit") }, none},
		"merged writers":     {func(n *corev1.Node) { n.ManagedFields = recordedBy(mergedManager) }, all},
		"nobody noted":       {func(n *corev1.Node) { n.ManagedFields = nil }, all},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, store, r := sealed(t)
			n := r.Node.DeepCopy()
			tt.change(n)
			require.Equal(t, tt.want, ReadNode(n).Proven)
			require.Equal(t, tt.want, store.Read(n).Proven)
			KeepWriters(n)
			require.Equal(t, tt.want, ReadNode(n).Proven, "after what is not needed is dropped")
		})
	}
}

func recordedBy(manager string) []metav1.ManagedFieldsEntry {
	return []metav1.ManagedFieldsEntry{writer(manager, `{"f:metadata":{"f:annotations":{"f:aegis.io/record":{}}}}`)}
}

// A ticket keeps its proof over every write of Aegis, however short its text has to be.
func TestProofOfAShortTicket(t *testing.T) {
	t.Parallel()
	_, store, _ := sealed(t)
	for n := 2; n < 60; n++ {
		r, err := store.Update(t.Context(), servedNode, nil, func(r Record, c *Change) error {
			c.Ticket = r.Ticket.Clone()
			return c.Ticket.RecordStep(n, Step{
				Action: Healthcheck, Status: Failed, At: time.Date(2026, 1, 1, 0, n, 0, 0, time.UTC), Message: strings.Repeat("x", 100),
				Findings: Findings{Code: n, Hardware: "gpu", Recovery: "None", Unneeded: n%2 == 0},
			})
		})
		require.NoError(t, err)
		require.Equal(t, Proof{true, true}, r.Proven, n)
		require.Less(t, len(r.Node.Annotations[RecordAnnotation]), 300)
	}
}

// Words of others do not become those of Aegis by being written again, neither with the whole ticket nor with a part of it.
func TestUnprovenTicketStaysUnproven(t *testing.T) {
	t.Parallel()
	for name, from := range map[string]string{"identity": "approvedBy: bob", "outcomes": "code: 2"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, store, _ := sealed(t)
			server.change(func(n *corev1.Node) {
				n.Annotations[Annotation] = strings.Replace(n.Annotations[Annotation], from, from+"0", 1)
			})
			r, err := store.Update(t.Context(), servedNode, nil, func(r Record, c *Change) error {
				c.Ticket = r.Ticket.Clone()
				c.Ticket.Supervisor = "alice"
				return nil
			})
			require.NoError(t, err)
			require.Equal(t, "alice", r.Ticket.Supervisor)
			require.False(t, r.Proven.Whole())
		})
	}
}

// What was done to a node outlives its ticket, whoever takes that away.
func TestRemovedTicketIsRemembered(t *testing.T) {
	t.Parallel()
	rebooted := []Destructive{{Action: Reboot, At: time.Date(2026, 1, 1, 0, 0, 2, 0, time.UTC)}}
	for name, change := range map[string]func(n *corev1.Node){
		"removed": func(n *corev1.Node) { delete(n.Annotations, Annotation) },
		"closed":  func(n *corev1.Node) { n.Annotations[Annotation] = "status: closed" },
		"another": func(n *corev1.Node) { n.Annotations[Annotation] = "condition: GpuHung\nsupervisor: aegis" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, store, _ := sealed(t)
			server.change(change)
			r, err := store.Update(t.Context(), servedNode, nil, func(_ Record, c *Change) error { c.RemoveTicket = true; return nil })
			require.NoError(t, err)
			require.NotContains(t, r.Node.Annotations, RecordAnnotation)
			require.Len(t, r.History.Incidents, 1)
			require.Equal(t, Removed, r.History.Incidents[0].Outcome)
			require.Equal(t, rebooted, r.History.Incidents[0].Destructive)
			require.True(t, r.History.Incidents[0].Isolated)
		})
	}
}

// A ticket that was closed in order is remembered as that, with all that was done.
func TestClosedTicketIsRememberedOnce(t *testing.T) {
	t.Parallel()
	for _, all := range []bool{true, false} {
		_, store, before := sealed(t)
		in := Incident{ID: before.Ticket.ID, Condition: "GpuHung", Outcome: Resolved}
		if all {
			in.Destructive = before.Ticket.Destructive(time.Time{})
		}
		r, err := store.Update(t.Context(), servedNode, before.Node, func(_ Record, c *Change) error {
			c.RemoveTicket, c.History = true, &History{Incidents: []Incident{in}}
			return nil
		})
		require.NoError(t, err)
		require.Len(t, r.History.Incidents, 1)
		require.Equal(t, Resolved, r.History.Incidents[0].Outcome)
		require.Len(t, r.History.Incidents[0].Destructive, 1)
	}
}

// A write whose answer was lost has landed with its record.
func TestLostAnswerOfARecord(t *testing.T) {
	t.Parallel()
	server, store, before := sealed(t)
	calls := 0
	server.Patches(fault{Apply: true, Drop: true})
	r, err := store.Update(t.Context(), servedNode, before.Node, func(r Record, c *Change) error {
		calls++
		c.Ticket = r.Ticket.Clone()
		return c.Ticket.Record(Reboot, 1, Succeeded, time.Now(), "")
	})
	require.NoError(t, err)
	require.Equal(t, 1, calls)
	require.True(t, r.Proven.Whole())
}

// The record remembers when something was destroyed after the ticket had to leave that out: nothing happens again because it is written
// again.
func TestRecordKeepsTheTimesThatTheTicketLost(t *testing.T) {
	t.Parallel()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a", UID: "u"}}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	write := func(text string, now time.Time) {
		record, err := RecordOf(n, text, now)
		require.NoError(t, err)
		n.Annotations = map[string]string{RecordAnnotation: record}
	}
	head := "id: x\ncondition: Reboot\nsupervisor: aegis\nattempts: 2\n"
	write(head+"workflows:\n- {action: reboot, status: Succeeded, at: 2026-01-02T03:04:05Z}\n", at)
	write(head+"done: {reboot: S}\nworkflows:\n- {action: reboot, status: Running, at: 2026-01-02T05:00:00Z}\n", at.Add(2*time.Hour))
	write(head+"done: {reboot: S2}\n", at.Add(9*time.Hour))
	s, found := readSeal(n)
	require.True(t, found)
	require.Equal(t, map[Action][]int64{Reboot: {at.Unix(), time.Date(2026, 1, 2, 5, 0, 0, 0, time.UTC).Unix()}}, s.Did)
}
