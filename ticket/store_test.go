package ticket

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const openTicket = "id: t1\nsupervisor: aegis\nstatus: resolving\n"

func node(annotations map[string]string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "dev1", UID: "u1", ResourceVersion: "1", Annotations: annotations}}
}

func withTicket() *corev1.Node {
	return node(map[string]string{Annotation: openTicket, "other/note": "x"})
}

// begin cordons the node and journals it, as the first step of a procedure does.
func begin(r Record, c *Change) error {
	tk := &Ticket{ID: "t1", Supervisor: Self, Status: StatusResolving}
	if r.Ticket != nil {
		tk = r.Ticket
	}
	if !tk.Owned() {
		return errHuman
	}
	if err := tk.Record(Cordon, tk.Count(Cordon)+1, Succeeded, noon, ""); err != nil {
		return err
	}
	c.Ticket, c.Unschedulable = tk, new(true)
	c.Annotations = map[string]*string{OwnerAnnotation: new("aegis/t1")}
	return nil
}

var errHuman = errors.New("people own it")

func byAlice(n *corev1.Node) {
	n.Annotations[Annotation] = strings.Replace(openTicket, "aegis", "alice", 1)
}

func requireBegun(t *testing.T, n *corev1.Node) {
	t.Helper()
	require.True(t, n.Spec.Unschedulable)
	require.Equal(t, "aegis/t1", n.Annotations[OwnerAnnotation])
	r := ReadNode(n)
	require.NoError(t, r.Broken)
	require.Equal(t, 1, r.Ticket.Count(Cordon))
}

func TestUpdateIsOnePatch(t *testing.T) {
	t.Parallel()
	for name, n := range map[string]*corev1.Node{
		"a node without annotations": node(nil),
		"a node with others":         node(map[string]string{"other/note": "x"}),
		"a node with a ticket":       withTicket(),
		"a ticket as typed":          node(map[string]string{Annotation: "|\n  id: t1\n  supervisor: aegis"}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, store := newAPIServer(t, n)
			r, err := store.Update(t.Context(), "dev1", n, begin)
			require.NoError(t, err)
			require.Equal(t, []string{"PATCH"}, server.Requests())
			requireBegun(t, server.state())
			require.Equal(t, n.Annotations["other/note"], server.state().Annotations["other/note"])
			require.Equal(t, "2", r.Node.ResourceVersion, "the record is the one after the write")
			requireBegun(t, r.Node)
		})
	}
}

func TestUpdateBody(t *testing.T) {
	t.Parallel()
	n := withTicket()
	server, store := newAPIServer(t, n)
	_, err := store.Update(t.Context(), "dev1", n, begin)
	require.NoError(t, err)
	require.JSONEq(t, `[
		{"op": "test", "path": "/metadata/uid", "value": "u1"},
		{"op": "test", "path": "/metadata/annotations/aegis.io~1cordoned-by", "value": null},
		{"op": "test", "path": "/metadata/annotations/aegis.io~1ticketing", "value": "id: t1\nsupervisor: aegis\nstatus: resolving\n"},
		{"op": "test", "path": "/spec/unschedulable", "value": null},
		{"op": "add", "path": "/metadata/annotations/aegis.io~1cordoned-by", "value": "aegis/t1"},
		{"op": "add", "path": "/metadata/annotations/aegis.io~1ticketing", "value":
			"id: t1\nsupervisor: aegis\nstatus: resolving\nworkflows:\n  - action: cordon\n    status: Succeeded\n    at: 2026-11-23T12:00:00Z\n"},
		{"op": "add", "path": "/spec/unschedulable", "value": true}
	]`, server.Bodies()[0])
}

func TestUpdateReadsWithoutBase(t *testing.T) {
	t.Parallel()
	server, store := newAPIServer(t, withTicket())
	_, err := store.Update(t.Context(), "dev1", nil, begin)
	require.NoError(t, err)
	require.Equal(t, []string{"GET", "PATCH"}, server.Requests())
	requireBegun(t, server.state())
}

func TestUpdateOfNothing(t *testing.T) {
	t.Parallel()
	server, store := newAPIServer(t, withTicket())
	base := withTicket()
	r, err := store.Update(t.Context(), "dev1", base, func(Record, *Change) error { return nil })
	require.NoError(t, err)
	require.Same(t, base, r.Node)
	require.Empty(t, server.Requests())

	_, err = store.Update(t.Context(), "dev1", nil, func(Record, *Change) error { return nil })
	require.NoError(t, err)
	require.Equal(t, []string{"GET"}, server.Requests())
}

func TestUpdateConfirmsWhatACacheShowsAsDone(t *testing.T) {
	t.Parallel()
	uncordon := func(_ Record, c *Change) error {
		c.Unschedulable = new(false)
		c.Annotations = map[string]*string{OwnerAnnotation: nil}
		return nil
	}
	server, store := newAPIServer(t, withTicket())
	_, err := store.Update(t.Context(), "dev1", withTicket(), uncordon)
	require.NoError(t, err)
	require.Equal(t, []string{"GET"}, server.Requests())

	server.change(func(n *corev1.Node) {
		n.Spec.Unschedulable, n.Annotations[OwnerAnnotation] = true, "aegis/t1"
	})
	_, err = store.Update(t.Context(), "dev1", withTicket(), uncordon)
	require.NoError(t, err)
	require.Equal(t, []string{"GET", "GET", "PATCH"}, server.Requests())
	require.False(t, server.state().Spec.Unschedulable)
	require.NotContains(t, server.state().Annotations, OwnerAnnotation)
}

func TestUpdateHeartbeatIsNoConflict(t *testing.T) {
	t.Parallel()
	server, store := newAPIServer(t, withTicket())
	server.change(func(n *corev1.Node) {
		n.Annotations["other/note"] = "y"
		n.Labels = map[string]string{"a": "b"}
		n.Status.NodeInfo.BootID = "b2"
	})
	_, err := store.Update(t.Context(), "dev1", withTicket(), begin)
	require.NoError(t, err)
	require.Equal(t, []string{"PATCH"}, server.Requests())
	require.Equal(t, "y", server.state().Annotations["other/note"])
}

// TestUpdateConflicts lets somebody else come first, once. What is decided then is decided on the new state.
func TestUpdateConflicts(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		other func(n *corev1.Node)
		want  error
	}{
		"a person takes over":            {byAlice, errHuman},
		"a person removes the ticket":    {func(n *corev1.Node) { delete(n.Annotations, Annotation) }, nil},
		"a person removes all":           {func(n *corev1.Node) { n.Annotations = nil }, nil},
		"a person adds a comment":        {func(n *corev1.Node) { n.Annotations[Annotation] += "note: rack 7\n" }, nil},
		"a person cordons":               {func(n *corev1.Node) { n.Spec.Unschedulable = true }, nil},
		"another owner of the cordon":    {func(n *corev1.Node) { n.Annotations[OwnerAnnotation] = "x" }, nil},
		"a ticket that cannot be read":   {func(n *corev1.Node) { n.Annotations[Annotation] = "mine" }, ErrBroken},
		"another node has the name":      {func(n *corev1.Node) { n.UID = "u2" }, ErrRecreated},
		"another write, nothing of ours": {func(n *corev1.Node) { n.Spec.ProviderID = "x" }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, store := newAPIServer(t, withTicket())
			server.Patches(fault{Before: c.other})
			_, err := store.Update(t.Context(), "dev1", withTicket(), begin)
			if c.want == nil {
				require.NoError(t, err)
				requireBegun(t, server.state())
				return
			}
			require.ErrorIs(t, err, c.want)
			want := withTicket()
			c.other(want)
			require.Equal(t, want, server.state(), "nothing was written")
		})
	}
}

// TestUpdateDependsOnTheTicketItDoesNotWrite lets a person take over before a write that leaves the ticket as it is.
func TestUpdateDependsOnTheTicketItDoesNotWrite(t *testing.T) {
	t.Parallel()
	server, store := newAPIServer(t, withTicket())
	server.Patches(fault{Before: byAlice})
	_, err := store.Update(t.Context(), "dev1", withTicket(), func(r Record, c *Change) error {
		if !r.Ticket.Owned() {
			return errHuman
		}
		c.Unschedulable = new(true)
		return nil
	})
	require.Equal(t, errHuman, err)
	require.False(t, server.state().Spec.Unschedulable)
}

// TestUpdateFirstAnnotations must not replace the map of annotations that somebody else made in between.
func TestUpdateFirstAnnotations(t *testing.T) {
	t.Parallel()
	server, store := newAPIServer(t, node(nil))
	server.Patches(fault{Before: func(n *corev1.Node) { n.Annotations = map[string]string{"other/note": "x"} }})
	_, err := store.Update(t.Context(), "dev1", node(nil), begin)
	require.NoError(t, err)
	requireBegun(t, server.state())
	require.Equal(t, "x", server.state().Annotations["other/note"])
}

// TestUpdateTellsAPersonsCordonFromItsOwn decides again when a refused write would only have done what a person did.
func TestUpdateTellsAPersonsCordonFromItsOwn(t *testing.T) {
	t.Parallel()
	server, store := newAPIServer(t, withTicket())
	server.Patches(fault{Before: func(n *corev1.Node) { n.Spec.Unschedulable = true }})
	_, err := store.Update(t.Context(), "dev1", withTicket(), func(r Record, c *Change) error {
		if r.Node.Spec.Unschedulable {
			return errHuman
		}
		c.Unschedulable = new(true)
		return nil
	})
	require.Equal(t, errHuman, err)
}

// TestUncordonSeesThatACordonChangedHands decides again when a person has undone a cordon and set their own in between.
func TestUncordonSeesThatACordonChangedHands(t *testing.T) {
	t.Parallel()
	const cordon = `{"f:spec":{"f:unschedulable":{}}}`
	n := withTicket()
	n.Spec.Unschedulable = true
	n.ManagedFields = []metav1.ManagedFieldsEntry{writer("aegis", cordon)}
	server, store := newAPIServer(t, n)
	server.Patches(fault{Before: func(n *corev1.Node) {
		n.ManagedFields = []metav1.ManagedFieldsEntry{writer("kubectl-cordon", cordon)}
		touch(n)
	}})
	_, err := store.Update(t.Context(), "dev1", n, func(r Record, c *Change) error {
		if CordonedByOthers(r.Node) {
			return errHuman
		}
		c.Unschedulable = new(false)
		return nil
	})
	require.Equal(t, errHuman, err)
	require.True(t, server.state().Spec.Unschedulable)
}

// TestUpdateRemovesWhatACacheDoesNotShow lets the write fail that would leave an annotation behind.
func TestUpdateRemovesWhatACacheDoesNotShow(t *testing.T) {
	t.Parallel()
	server, store := newAPIServer(t, withTicket())
	server.change(func(n *corev1.Node) { n.Annotations[OwnerAnnotation] = "aegis/t1" })
	_, err := store.Update(t.Context(), "dev1", withTicket(), func(_ Record, c *Change) error {
		c.RemoveTicket, c.Annotations = true, map[string]*string{OwnerAnnotation: nil}
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"other/note": "x"}, server.state().Annotations)
}

func TestUpdateRepeatsA409(t *testing.T) {
	t.Parallel()
	server, store := newAPIServer(t, withTicket())
	busy := fault{Status: apierrors.NewConflict(corev1.Resource("nodes"), "dev1", errors.New("busy"))}
	server.Patches(busy, busy)
	_, err := store.Update(t.Context(), "dev1", withTicket(), begin)
	require.NoError(t, err)
	require.Equal(t, []string{"PATCH", "GET", "PATCH", "GET", "PATCH"}, server.Requests())
}

func TestUpdateGivesUpAfterManyConflicts(t *testing.T) {
	t.Parallel()
	server, store := newAPIServer(t, withTicket())
	busy := fault{Before: func(n *corev1.Node) { n.Annotations[Annotation] += "#" }}
	server.Patches(busy, busy, busy, busy, busy, busy, busy)
	_, err := store.Update(t.Context(), "dev1", withTicket(), begin)
	require.ErrorIs(t, err, ErrConflict)
	require.ErrorContains(t, err, `update node "dev1": node is being changed by somebody else, 6 times`)
	require.Len(t, server.Requests(), 6+5)
	require.False(t, server.state().Spec.Unschedulable)
}

func TestUpdateReportsWhatTheServerDoesNotAccept(t *testing.T) {
	t.Parallel()
	server, store := newAPIServer(t, withTicket())
	tooLong := fault{Status: apierrors.NewInvalid(schemaKind, "dev1", nil)}
	server.Patches(tooLong, tooLong, tooLong)
	_, err := store.Update(t.Context(), "dev1", withTicket(), begin)
	require.True(t, apierrors.IsInvalid(err), err)
	require.NotErrorIs(t, err, ErrConflict)
	require.Equal(t, []string{"PATCH", "GET", "PATCH"}, server.Requests())

	server.Patches(fault{Status: apierrors.NewForbidden(corev1.Resource("nodes"), "dev1", errors.New("no"))})
	_, err = store.Update(t.Context(), "dev1", withTicket(), begin)
	require.True(t, apierrors.IsForbidden(err), err)
	server.Gets(fault{Status: apierrors.NewUnauthorized("no")})
	_, err = store.Update(t.Context(), "dev1", nil, begin)
	require.True(t, apierrors.IsUnauthorized(err), err)
}

var schemaKind = corev1.SchemeGroupVersion.WithKind("Node").GroupKind()

// TestUpdateTransient lets a request fail in a way that may pass, with and without taking effect.
func TestUpdateTransient(t *testing.T) {
	t.Parallel()
	internal := apierrors.NewInternalError(errors.New("etcd"))
	for name, c := range map[string]struct {
		gets, patches []fault
		want          []string
	}{
		"500 before":             {nil, []fault{{Status: internal}}, []string{"PATCH", "GET", "PATCH"}},
		"500 after":              {nil, []fault{{Status: internal, Apply: true}}, []string{"PATCH", "GET"}},
		"504 after":              {nil, []fault{{Status: apierrors.NewTimeoutError("slow", 0), Apply: true}}, []string{"PATCH", "GET"}},
		"429":                    {nil, []fault{{Status: apierrors.NewTooManyRequestsError("later")}}, []string{"PATCH", "GET", "PATCH"}},
		"dropped before":         {nil, []fault{{Drop: true}}, []string{"PATCH", "GET", "PATCH"}},
		"dropped after":          {nil, []fault{{Drop: true, Apply: true}}, []string{"PATCH", "GET"}},
		"dropped twice":          {nil, []fault{{Drop: true}, {Drop: true, Apply: true}}, []string{"PATCH", "GET", "PATCH", "GET"}},
		"and then a heartbeat":   {nil, []fault{{Drop: true, Apply: true, After: touch}}, []string{"PATCH", "GET"}},
		"the read fails as well": {[]fault{{Status: internal}}, []fault{{Drop: true, Apply: true}}, []string{"PATCH", "GET", "GET"}},
		"the client repeats a write that had landed": {
			nil, []fault{{Status: internal, Apply: true, Header: http.Header{"Retry-After": {"0"}}}}, []string{"PATCH", "PATCH", "GET"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, store := newAPIServer(t, withTicket())
			server.Gets(c.gets...)
			server.Patches(c.patches...)
			calls := 0
			r, err := store.Update(t.Context(), "dev1", withTicket(), func(r Record, c *Change) error {
				calls++
				return begin(r, c)
			})
			require.NoError(t, err)
			require.Equal(t, c.want, server.Requests())
			requireBegun(t, server.state())
			requireBegun(t, r.Node)
			if c.want[len(c.want)-1] == "GET" {
				require.LessOrEqual(t, calls, strings.Count(strings.Join(c.want, " "), "PATCH"), "a write that had landed is not decided again")
			}
		})
	}
}

func TestUpdateDecidesAgainWhenAPersonEditsALandedWrite(t *testing.T) {
	t.Parallel()
	server, store := newAPIServer(t, withTicket())
	server.Patches(fault{Drop: true, Apply: true, After: byAlice})
	_, err := store.Update(t.Context(), "dev1", withTicket(), begin)
	require.Equal(t, errHuman, err)
	require.Equal(t, []string{"PATCH", "GET"}, server.Requests())
}

func TestUpdateWriteThatLandsLate(t *testing.T) {
	t.Parallel()
	server, store := newAPIServer(t, withTicket())
	landed, err := func() (*corev1.Node, error) {
		twin, twinStore := newAPIServer(t, withTicket())
		_, err := twinStore.Update(t.Context(), "dev1", withTicket(), begin)
		return twin.state(), err
	}()
	require.NoError(t, err)
	late := func(n *corev1.Node) { *n = *landed.DeepCopy() }
	server.Patches(fault{Drop: true}, fault{Before: late})
	_, err = store.Update(t.Context(), "dev1", withTicket(), begin)
	require.NoError(t, err)
	require.Equal(t, []string{"PATCH", "GET", "PATCH", "GET"}, server.Requests())
	requireBegun(t, server.state())
}

func TestUpdateGone(t *testing.T) {
	t.Parallel()
	server, store := newAPIServer(t, withTicket())
	server.remove()
	for _, base := range []*corev1.Node{nil, withTicket()} {
		_, err := store.Update(t.Context(), "dev1", base, begin)
		require.ErrorIs(t, err, ErrNodeGone)
		require.EqualError(t, err, `update node "dev1": node is gone`)
	}
	require.Equal(t, []string{"GET", "PATCH"}, server.Requests())
}

func TestUpdateRecreated(t *testing.T) {
	t.Parallel()
	for name, base := range map[string]*corev1.Node{
		"the write fails":            withTicket(),
		"the decision fails":         node(map[string]string{Annotation: "supervisor: alice"}),
		"the cache shows it as done": func() *corev1.Node { n := withTicket(); n.Spec.Unschedulable = true; return n }(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, store := newAPIServer(t, withTicket())
			server.change(func(n *corev1.Node) { n.UID = "u2" })
			_, err := store.Update(t.Context(), "dev1", base, func(r Record, c *Change) error {
				if !r.Ticket.Owned() {
					return errHuman
				}
				c.Unschedulable = new(true)
				return nil
			})
			require.ErrorIs(t, err, ErrRecreated)
			require.False(t, server.state().Spec.Unschedulable)
		})
	}
}

func TestUpdateRecreatedBetweenTwoReads(t *testing.T) {
	t.Parallel()
	server, store := newAPIServer(t, withTicket())
	server.Patches(fault{Before: func(n *corev1.Node) { n.UID = "u2" }})
	_, err := store.Update(t.Context(), "dev1", nil, begin)
	require.ErrorIs(t, err, ErrRecreated)
	require.ErrorContains(t, err, `uid is "u2", was "u1"`)
}

func TestUpdateErrorOfMutateOnAStaleBase(t *testing.T) {
	t.Parallel()
	stale := withTicket()
	byAlice(stale)
	server, store := newAPIServer(t, withTicket())
	_, err := store.Update(t.Context(), "dev1", stale, begin)
	require.NoError(t, err)
	require.Equal(t, []string{"GET", "PATCH"}, server.Requests())

	server.change(byAlice)
	_, err = store.Update(t.Context(), "dev1", stale, begin)
	require.Equal(t, errHuman, err, "it comes back as it is")
	require.Len(t, server.Requests(), 3)
}

func TestUpdateNeverOverwritesABrokenTicket(t *testing.T) {
	t.Parallel()
	broken := node(map[string]string{Annotation: "hands off!"})
	for name, mutate := range map[string]func(Record, *Change) error{
		"written": begin,
		"removed": func(_ Record, c *Change) error { c.RemoveTicket = true; return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, store := newAPIServer(t, broken)
			_, err := store.Update(t.Context(), "dev1", broken, mutate)
			require.ErrorIs(t, err, ErrBroken)
			require.EqualError(t, err, `update node "dev1": ticket is not overwritten: annotation aegis.io/ticketing cannot be read: `+
				"line 1: want fields of the form name: value")
			require.Equal(t, broken, server.state())
		})
	}
	server, store := newAPIServer(t, broken)
	_, err := store.Update(t.Context(), "dev1", broken, func(_ Record, c *Change) error {
		c.Unschedulable = new(true)
		return nil
	})
	require.NoError(t, err, "the rest of the node may be written")
	require.Equal(t, "hands off!", server.state().Annotations[Annotation])
}

func TestUpdateResolves(t *testing.T) {
	t.Parallel()
	n := withTicket()
	n.Annotations[OwnerAnnotation], n.Annotations[HistoryAnnotation] = "aegis/t1", "- {id: a}"
	n.Spec.Unschedulable = true
	resolve := func(r Record, c *Change) error {
		c.RemoveTicket, c.History, c.Unschedulable = true, r.History, new(false)
		c.History.Add(Incident{ID: r.Ticket.ID, Outcome: "resolved"})
		c.Annotations = map[string]*string{OwnerAnnotation: nil, "aegis.io/absent": nil}
		return nil
	}
	server, store := newAPIServer(t, n)
	r, err := store.Update(t.Context(), "dev1", n, resolve)
	require.NoError(t, err)
	require.Nil(t, r.Ticket)
	got := server.state()
	require.Equal(t, map[string]string{"other/note": "x", HistoryAnnotation: "- id: a\n- id: t1\n  outcome: resolved\n"}, got.Annotations)
	require.False(t, got.Spec.Unschedulable)
	require.Equal(t, []string{"PATCH"}, server.Requests())
}

func TestUpdateMovesABrokenHistoryAside(t *testing.T) {
	t.Parallel()
	add := func(id string) func(r Record, c *Change) error {
		return func(r Record, c *Change) error {
			c.History = r.History
			c.History.Add(Incident{ID: id})
			return nil
		}
	}
	n := node(map[string]string{HistoryAnnotation: "gibberish"})
	server, store := newAPIServer(t, n)
	_, err := store.Update(t.Context(), "dev1", n, add("a"))
	require.NoError(t, err)
	require.Equal(t, map[string]string{HistoryAnnotation: "- id: a\n", HistoryBrokenAnnotation: "gibberish"}, server.state().Annotations)

	server.change(func(n *corev1.Node) { n.Annotations[HistoryAnnotation] = "again" })
	_, err = store.Update(t.Context(), "dev1", nil, add("b"))
	require.NoError(t, err)
	require.Equal(t, map[string]string{HistoryAnnotation: "- id: b\n", HistoryBrokenAnnotation: "gibberish\n---\nagain"}, server.state().Annotations)
}

func TestUpdateHistoryConflict(t *testing.T) {
	t.Parallel()
	n := node(map[string]string{HistoryAnnotation: "- id: a\n"})
	server, store := newAPIServer(t, n)
	server.Patches(fault{Before: func(n *corev1.Node) { n.Annotations[HistoryAnnotation] = "- id: b\n" }})
	_, err := store.Update(t.Context(), "dev1", n, func(r Record, c *Change) error {
		c.History = r.History
		c.History.Add(Incident{ID: "c"})
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, "- id: b\n- id: c\n", server.state().Annotations[HistoryAnnotation])
}

func TestUpdateRefusesContradictions(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change Change
		want   string
	}{
		"write and remove": {Change{Ticket: &Ticket{}, RemoveTicket: true}, "a change cannot both write and remove the ticket"},
		"ticket as text": {
			Change{Annotations: map[string]*string{Annotation: nil}},
			"annotation aegis.io/ticketing is not written as text, set Ticket or History of the change",
		},
		"a ticket too large":  {Change{Ticket: &Ticket{Device: strings.Repeat("x", 5000)}}, "too large"},
		"a history too large": {Change{History: &History{Incidents: []Incident{{SOP: strings.Repeat("x", 9000)}}}}, "too large"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, store := newAPIServer(t, withTicket())
			_, err := store.Update(t.Context(), "dev1", nil, func(_ Record, change *Change) error {
				*change = c.change
				return nil
			})
			require.ErrorContains(t, err, c.want)
			require.Equal(t, []string{"GET"}, server.Requests())
		})
	}
}

func TestUpdateTaints(t *testing.T) {
	t.Parallel()
	taint := func(key, value string) corev1.Taint {
		return corev1.Taint{Key: key, Value: value, Effect: corev1.TaintEffectNoExecute}
	}
	down, other := taint("down", "aegis"), taint("other", "")
	timed := taint("timed", "")
	timed.TimeAdded = new(metav1.NewTime(noon))
	for name, c := range map[string]struct {
		old         []corev1.Taint
		add, remove *corev1.Taint
		want        []corev1.Taint
		requests    int
	}{
		"the first":             {nil, &down, nil, []corev1.Taint{down}, 1},
		"one more":              {[]corev1.Taint{other, timed}, &down, nil, []corev1.Taint{other, timed, down}, 1},
		"another value":         {[]corev1.Taint{taint("down", "x"), other}, &down, nil, []corev1.Taint{down, other}, 1},
		"there already":         {[]corev1.Taint{down}, &down, nil, []corev1.Taint{down}, 1},
		"removed":               {[]corev1.Taint{other, down, timed}, nil, &down, []corev1.Taint{other, timed}, 1},
		"the last removed":      {[]corev1.Taint{down}, nil, &down, nil, 1},
		"removed, any value":    {[]corev1.Taint{taint("down", "x")}, nil, new(taint("down", "")), nil, 1},
		"somebody else's stays": {[]corev1.Taint{taint("down", "x")}, nil, &down, []corev1.Taint{taint("down", "x")}, 1},
		"nothing to remove":     {nil, nil, &down, nil, 1},
		"one for another":       {[]corev1.Taint{other}, &down, &other, []corev1.Taint{down}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := withTicket()
			n.Spec.Taints = c.old
			server, store := newAPIServer(t, n)
			_, err := store.Update(t.Context(), "dev1", n, func(_ Record, change *Change) error {
				change.AddTaint, change.RemoveTaint = c.add, c.remove
				return nil
			})
			require.NoError(t, err)
			require.Len(t, server.Requests(), c.requests)
			require.Len(t, server.state().Spec.Taints, len(c.want))
			for i, want := range c.want {
				require.Equal(t, want.ToString(), server.state().Spec.Taints[i].ToString())
			}
		})
	}
}

func TestUpdateTaintsConflict(t *testing.T) {
	t.Parallel()
	for name, old := range map[string][]corev1.Taint{"of none": nil, "of one": {{Key: "a", Effect: corev1.TaintEffectNoSchedule}}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := withTicket()
			n.Spec.Taints = old
			server, store := newAPIServer(t, n)
			server.Patches(fault{Before: func(n *corev1.Node) {
				n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "b", Effect: corev1.TaintEffectNoSchedule})
			}})
			_, err := store.Update(t.Context(), "dev1", n, func(_ Record, c *Change) error {
				c.AddTaint = &corev1.Taint{Key: "c", Effect: corev1.TaintEffectNoExecute}
				return nil
			})
			require.NoError(t, err)
			require.Equal(t, []string{"PATCH", "GET", "PATCH"}, server.Requests())
			require.Len(t, server.state().Spec.Taints, len(old)+2)
		})
	}
}

func TestUpdateDoesNotChangeTheBase(t *testing.T) {
	t.Parallel()
	base := withTicket()
	base.Spec.Taints = []corev1.Taint{{Key: "a", Value: "x", Effect: corev1.TaintEffectNoExecute}, {Key: "b"}}
	want := base.DeepCopy()
	_, store := newAPIServer(t, base)
	_, err := store.Update(t.Context(), "dev1", base, func(r Record, c *Change) error {
		c.AddTaint, c.RemoveTaint = &corev1.Taint{Key: "a", Value: "y", Effect: corev1.TaintEffectNoExecute}, &corev1.Taint{Key: "b"}
		return begin(r, c)
	})
	require.NoError(t, err)
	require.Equal(t, want, base)
}

func TestUpdateCanceled(t *testing.T) {
	t.Parallel()
	why := errors.New("lost the lease")
	t.Run("before it begins", func(t *testing.T) {
		t.Parallel()
		server, store := newAPIServer(t, withTicket())
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(why)
		for _, base := range []*corev1.Node{nil, withTicket()} {
			_, err := store.Update(ctx, "dev1", base, begin)
			require.ErrorIs(t, err, context.Canceled)
			require.ErrorIs(t, err, why)
			require.NotContains(t, err.Error(), "may have been written")
		}
		require.Empty(t, server.Requests())
	})
	t.Run("while the answer is lost", func(t *testing.T) {
		t.Parallel()
		server, store := newAPIServer(t, withTicket())
		ctx, cancel := context.WithCancelCause(t.Context())
		server.Patches(fault{Drop: true, Apply: true, After: func(*corev1.Node) { cancel(why) }})
		_, err := store.Update(ctx, "dev1", withTicket(), begin)
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, err, why)
		require.ErrorContains(t, err, "the change may have been written")
	})
	t.Run("while the server is down", func(t *testing.T) {
		t.Parallel()
		server, store := newAPIServer(t, withTicket())
		down := slices.Repeat([]fault{{Status: apierrors.NewServiceUnavailable("down")}}, 50)
		server.Gets(down...)
		server.Patches(down...)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := store.Update(ctx, "dev1", withTicket(), begin)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Greater(t, len(server.Requests()), 2)
		require.Less(t, len(server.Requests()), 10, "it backs off")
	})
}

func TestGet(t *testing.T) {
	t.Parallel()
	server, store := newAPIServer(t, withTicket())
	r, err := store.Get(t.Context(), "dev1")
	require.NoError(t, err)
	require.Equal(t, "t1", r.Ticket.ID)
	require.Equal(t, types.UID("u1"), r.Node.UID)

	server.Gets(fault{Status: apierrors.NewForbidden(corev1.Resource("nodes"), "dev1", errors.New("no"))})
	_, err = store.Get(t.Context(), "dev1")
	require.True(t, apierrors.IsForbidden(err))

	server.remove()
	_, err = store.Get(t.Context(), "dev1")
	require.ErrorIs(t, err, ErrNodeGone)
}
