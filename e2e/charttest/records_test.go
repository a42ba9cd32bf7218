package charttest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"aegis.io/aegis/ticket"
)

// worked is a node on which Aegis has closed one incident and works on another one.
func (g guarded) worked(t *testing.T) string {
	t.Helper()
	name := g.node(t, nil)
	store := ticket.NewStore(ticket.StoreOptions{Client: g.aegis.CoreV1()})
	r, err := store.Update(t.Context(), name, nil, func(_ ticket.Record, c *ticket.Change) error {
		c.Ticket = &ticket.Ticket{ID: ticket.NewID(time.Now()), Condition: "GpuHung", Supervisor: ticket.Self, Status: ticket.StatusResolving}
		c.History = &ticket.History{Incidents: []ticket.Incident{{ID: "a", Condition: "GpuHung", Outcome: ticket.Resolved}}}
		return nil
	})
	require.NoError(t, err)
	require.True(t, r.Proven.Whole())
	return name
}

// others are clients that may write nodes and are not Aegis: a person with all rights, and a kubelet.
func (g guarded) others(t *testing.T, name string) map[string]kubernetes.Interface {
	t.Helper()
	return map[string]kubernetes.Interface{
		"person":  g.admin,
		"kubelet": as(t, g.cluster, "system:node:"+name, "system:nodes", "system:masters"),
		"account": as(t, g.cluster, account("default", "healer"), "system:masters"),
	}
}

// annotation returns a JSON patch of an annotation.
func annotation(op, key, value string) string {
	pointer := "/metadata/annotations/aegis.io~1" + key
	if op == "remove" {
		return fmt.Sprintf(`[{"op": "remove", "path": %q}]`, pointer)
	}
	return fmt.Sprintf(`[{"op": %q, "path": %q, "value": %q}]`, op, pointer, value)
}

// Nobody but Aegis sets, changes or removes the record of a ticket or the history, neither on the node nor with its status.
func (g guarded) recordsAreOfAegisAlone(t *testing.T) {
	worked, bare := g.worked(t), g.node(t, nil)
	for _, subresource := range []string{"", "status"} {
		for _, key := range []string{"record", "ticket-history"} {
			for _, tt := range []struct{ what, node, body string }{
				{"set", bare, annotation("add", key, "x")},
				{"change", worked, annotation("replace", key, "x")},
				{"remove", worked, annotation("remove", key, "")},
				{"all removed", worked, `[{"op": "remove", "path": "/metadata/annotations"}]`},
			} {
				for who, client := range g.others(t, tt.node) {
					_, err := client.CoreV1().Nodes().Patch(t.Context(), tt.node, types.JSONPatchType, []byte(tt.body), metav1.PatchOptions{}, sub(subresource)...)
					require.True(t, apierrors.IsForbidden(err), "%s %s %q by %s: %v", tt.what, key, subresource, who, err)
					require.ErrorContains(t, err, "only Aegis may change its records: aegis.io/")
				}
			}
		}
	}
	n := g.get(t, worked)
	require.True(t, ticket.ReadNode(n).Proven.Whole())
	n.Annotations[ticket.HistoryAnnotation] = "[]"
	_, err := g.admin.CoreV1().Nodes().Update(t.Context(), n, metav1.UpdateOptions{})
	require.True(t, apierrors.IsForbidden(err), "%v", err)
	_, err = g.admin.CoreV1().Nodes().UpdateStatus(t.Context(), n, metav1.UpdateOptions{})
	require.True(t, apierrors.IsForbidden(err), "%v", err)
}

func sub(name string) []string {
	if name == "" {
		return nil
	}
	return []string{name}
}

// What the documentation tells people to do, they may do.
func (g guarded) ticketsAreOfPeopleAsWell(t *testing.T) {
	for name, change := range map[string]func(n *corev1.Node){
		"take over":   func(n *corev1.Node) { n.Annotations[ticket.Annotation] += "supervisor2: x\n" },
		"remove":      func(n *corev1.Node) { delete(n.Annotations, ticket.Annotation) },
		"write one":   func(n *corev1.Node) { n.Annotations[ticket.Annotation] = "condition: X\nsupervisor: alice" },
		"cordon":      func(n *corev1.Node) { n.Spec.Unschedulable = true },
		"exclude":     func(n *corev1.Node) { n.Labels[disable] = "true" },
		"power state": func(n *corev1.Node) { n.Annotations[powerState] = "off" },
	} {
		for who, client := range g.others(t, "x") {
			require.NoError(t, write(t, client, g.worked(t), change), "%s by %s", name, who)
		}
	}
}

// Whoever else calls itself aegis, with the option or with a user agent, is refused, and may take over what Aegis has set.
func (g guarded) nobodyWritesAsAegis(t *testing.T) {
	name := g.worked(t)
	cordon := []byte(`{"spec": {"unschedulable": true}}`)
	_, err := g.admin.CoreV1().Nodes().Patch(t.Context(), name, types.MergePatchType, cordon, metav1.PatchOptions{FieldManager: "aegis"})
	require.True(t, apierrors.IsForbidden(err), "%v", err)
	require.ErrorContains(t, err, "only Aegis may use the field manager aegis")

	config := rest.CopyConfig(g.cluster.RESTConfig())
	config.UserAgent = "aegis/1.0"
	disguised, err := kubernetes.NewForConfig(config)
	require.NoError(t, err)
	// The API server notes times of a second.
	time.Sleep(1100 * time.Millisecond)
	_, err = disguised.CoreV1().Nodes().Patch(t.Context(), name, types.MergePatchType, cordon, metav1.PatchOptions{})
	require.True(t, apierrors.IsForbidden(err), "%v", err)
	require.ErrorContains(t, err, "only Aegis may use the field manager aegis")
	require.NoError(t, write(t, g.admin, name, func(n *corev1.Node) { n.Annotations[ticket.Annotation] += "note: x\n" }))
}

// What somebody registers as a Node has no past: neither a record nor a history, nor anything by the name of Aegis. A kubelet registers its own.
func (g guarded) nodesBeginWithoutAPast(t *testing.T) {
	for what, annotations := range map[string]map[string]string{
		"no annotations": nil,
		"ticket":         {ticket.Annotation: "condition: X\nsupervisor: alice", ticket.OwnerAnnotation: "alice"},
		"record":         {ticket.RecordAnnotation: "x"},
		"history":        {ticket.HistoryAnnotation: "[]"},
		"empty history":  {ticket.HistoryAnnotation: ""},
	} {
		for _, manager := range []string{"", "kubelet", "aegis"} {
			forged := annotations[ticket.RecordAnnotation] != "" || strings.Contains(what, "history") || manager == "aegis"
			name := fmt.Sprintf("made-%s%d", manager, time.Now().UnixNano())
			for who, client := range g.others(t, name) {
				n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations}, Spec: corev1.NodeSpec{Unschedulable: true}}
				_, err := client.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{FieldManager: manager, DryRun: []string{metav1.DryRunAll}})
				if !forged {
					require.NoError(t, err, "%s as %q by %s", what, manager, who)
					continue
				}
				require.True(t, apierrors.IsForbidden(err), "%s as %q by %s: %v", what, manager, who, err)
				require.ErrorContains(t, err, "only Aegis may ", "%s as %q by %s", what, manager, who)
			}
		}
	}
}

// A server-side apply makes the Node where there is none, and a client names itself without saying so.
func (g guarded) nobodyCreatesAsAegis(t *testing.T) {
	applied := fmt.Appendf(nil, `{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "applied", "annotations": {%q: "[]"}}}`, ticket.HistoryAnnotation)
	_, err := g.admin.CoreV1().Nodes().Patch(t.Context(), "applied", types.ApplyPatchType, applied, metav1.PatchOptions{FieldManager: "x"})
	require.True(t, apierrors.IsForbidden(err), "%v", err)

	config := rest.CopyConfig(g.cluster.RESTConfig())
	config.UserAgent = "aegis/1.0"
	disguised, err := kubernetes.NewForConfig(config)
	require.NoError(t, err)
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "disguised"}, Spec: corev1.NodeSpec{Unschedulable: true}}
	_, err = disguised.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{})
	require.True(t, apierrors.IsForbidden(err), "%v", err)
	require.ErrorContains(t, err, "only Aegis may use the field manager aegis")
	n.ManagedFields = []metav1.ManagedFieldsEntry{{
		Manager: "aegis", Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "v1", FieldsType: "FieldsV1",
		FieldsV1: metav1.NewFieldsV1(`{"f:spec": {"f:unschedulable": {}}}`),
	}}
	created, err := g.admin.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{FieldManager: "x"})
	if err == nil {
		for _, m := range created.ManagedFields {
			require.NotEqual(t, "aegis", m.Manager, "the API server has believed who wrote what")
		}
		return
	}
	require.True(t, apierrors.IsForbidden(err), "%v", err)
}
