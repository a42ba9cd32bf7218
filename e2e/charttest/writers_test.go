package charttest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

const (
	cordons  = `{"spec": {"unschedulable": true}}`
	requests = `{"metadata": {"annotations": {"aegis.io/check": "requested", "aegis.io/check-by": "alice"}}}`
	labelled = `{"metadata": {"labels": {"rack": "7"}}}`
)

// aWrite is a patch by a program, or its server-side apply.
type aWrite struct {
	manager, patch string
	apply          bool
}

// writersAreNoted shows that the API server notes who has written what on a node in the form that decides which cordon a request for a
// check lends.
func (s site) writersAreNoted(t *testing.T) {
	request := aWrite{manager: "kubectl-annotate", patch: requests}
	tests := map[string]struct {
		writes []aWrite
		by     string
		note   ticket.AnnotationNote
		// lent says whether the request lends the cordon to one who has not watched the node.
		lent bool
	}{
		"two programs": {
			[]aWrite{{manager: "kubectl-cordon", patch: cordons}, request},
			"alice (as told by kubectl-annotate)",
			ticket.AnnotationNote{Manager: "kubectl-annotate"},
			true,
		},
		"a program with a label of its own": {
			[]aWrite{{manager: "kubectl-cordon", patch: cordons}, request, {manager: "kubectl-annotate", patch: labelled}},
			"alice (as told by kubectl-annotate)",
			ticket.AnnotationNote{Manager: "kubectl-annotate", Others: true},
			false,
		},
		"one program": {
			[]aWrite{{manager: "tool", patch: cordons}, {manager: "tool", patch: requests}},
			"alice (as told by tool)",
			ticket.AnnotationNote{Manager: "tool", Cordons: true, Others: true},
			false,
		},
		"server-side apply": {
			[]aWrite{{manager: "kubectl-cordon", patch: cordons}, {manager: "argocd", patch: requests, apply: true}},
			"alice (as told by argocd)",
			ticket.AnnotationNote{Manager: "argocd"},
			true,
		},
		"another program names who asks": {
			[]aWrite{
				{manager: "kubectl-cordon", patch: cordons},
				request,
				{manager: "kubectl-edit", patch: `{"metadata": {"annotations": {"aegis.io/check-by": "bob"}}}`},
			},
			"bob (as told by kubectl-edit)",
			ticket.AnnotationNote{Manager: "kubectl-annotate"},
			true,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			node := s.written(t, tt.writes)
			note := ticket.NoteOf(node, policy.CheckAnnotation, policy.CheckByAnnotation)
			require.False(t, note.At.IsZero())
			note.At = time.Time{}
			require.Equal(t, tt.note, note, "%v", node.ManagedFields)
			require.Equal(t, tt.by, policy.RequesterOf(node))
			require.Equal(t, tt.lent, policy.LentAtSight(node, false) != "", "%v", node.ManagedFields)
			require.Equal(t, ticket.CordonOf(node), policy.LentAtSight(node, true), "who has watched the node knows better")
		})
	}
}

// written returns a node after the writes, each in a second of its own: the API server notes no less.
func (s site) written(t *testing.T, writes []aWrite) *corev1.Node {
	t.Helper()
	nodes := s.client.CoreV1().Nodes()
	node, err := nodes.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{GenerateName: "written-"}},
		metav1.CreateOptions{FieldManager: "kubelet"})
	require.NoError(t, err)
	for _, w := range writes {
		time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second)))
		kind, patch, options := types.StrategicMergePatchType, w.patch, metav1.PatchOptions{FieldManager: w.manager}
		if w.apply {
			kind, patch = types.ApplyPatchType, `{"apiVersion": "v1", "kind": "Node", `+w.patch[1:]
		}
		node, err = nodes.Patch(t.Context(), node.Name, kind, []byte(patch), options)
		require.NoError(t, err)
	}
	return node
}
