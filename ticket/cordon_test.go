package ticket

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func writer(manager, fields string) metav1.ManagedFieldsEntry {
	return metav1.ManagedFieldsEntry{Manager: manager, FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(fields)}
}

func TestCordonedByOthers(t *testing.T) {
	t.Parallel()
	const cordon = `{"f:spec":{"f:unschedulable":{}}}`
	kubelet := writer("kubelet", `{"f:metadata":{"f:labels":{"f:zone":{}}},"f:spec":{"f:podCIDR":{}}}`)
	tests := []struct {
		name    string
		writers []metav1.ManagedFieldsEntry
		want    bool
		ours    bool
	}{
		{"nobody is noted", nil, false, false},
		{"others wrote other fields", []metav1.ManagedFieldsEntry{kubelet, writer("aegis", cordon)}, false, true},
		{"a person", []metav1.ManagedFieldsEntry{kubelet, writer("kubectl-cordon", cordon)}, true, false},
		{"a person says so too", []metav1.ManagedFieldsEntry{writer("aegis", cordon), writer("argocd", cordon)}, true, false},
		{"writers that the API server has merged", []metav1.ManagedFieldsEntry{writer("ancient-changes", cordon)}, false, false},
		{"Aegis beside merged writers", []metav1.ManagedFieldsEntry{writer("aegis", cordon), writer("ancient-changes", cordon)}, false, false},
		{"a person beside merged writers", []metav1.ManagedFieldsEntry{writer("ancient-changes", cordon), writer("kubectl", cordon)}, true, false},
		{"notes taken away", []metav1.ManagedFieldsEntry{{}}, false, false},
		{"fields that nobody can read", []metav1.ManagedFieldsEntry{writer("x", `[`), {Manager: "y"}}, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{ManagedFields: tt.writers}}
			require.False(t, CordonedByOthers(n), "the node is schedulable")
			n.Spec.Unschedulable = true
			require.Equal(t, tt.want, CordonedByOthers(n))
			require.Equal(t, tt.ours, CordonedByAegis(n))
			require.Equal(t, !tt.want && !tt.ours, CordonUnnoted(n) != "")
			KeepWriters(n)
			require.Equal(t, tt.ours, CordonedByAegis(n))
			require.Equal(t, tt.want, CordonedByOthers(n), "after what is not needed is dropped")
			require.NotContains(t, n.ManagedFields, kubelet)
		})
	}
}

// A cordon has the time of the last write of its program, and none where nobody noted it.
func TestCordonOf(t *testing.T) {
	t.Parallel()
	at := func(minute int, e metav1.ManagedFieldsEntry) metav1.ManagedFieldsEntry {
		e.Time = new(metav1.NewTime(time.Date(2026, 1, 1, 12, minute, 0, 0, time.UTC)))
		return e
	}
	const cordon = `{"f:spec":{"f:unschedulable":{}}}`
	const both = `{"f:metadata":{"f:annotations":{"f:x":{}}},"f:spec":{"f:unschedulable":{}}}`
	for name, tt := range map[string]struct {
		writers []metav1.ManagedFieldsEntry
		want    string
		note    AnnotationNote
	}{
		"noted":      {[]metav1.ManagedFieldsEntry{at(1, writer("b", cordon)), at(2, writer("a", both))}, "a 2026-01-01T12:02:00Z, b 2026-01-01T12:01:00Z", AnnotationNote{"a", at(2, writer("", both)).Time.Time, true, true}},
		"no time":    {[]metav1.ManagedFieldsEntry{writer("b", cordon)}, "", AnnotationNote{}},
		"nobody":     {nil, "", AnnotationNote{}},
		"unreadable": {[]metav1.ManagedFieldsEntry{at(1, writer("x", `[`))}, "", AnnotationNote{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{ManagedFields: tt.writers}}
			require.Empty(t, CordonOf(n), "the node is schedulable")
			n.Spec.Unschedulable = true
			require.Equal(t, tt.want, CordonOf(n))
			require.Equal(t, tt.note, NoteOf(n, "x"))
		})
	}
}

func TestEditedByOthers(t *testing.T) {
	t.Parallel()
	const edit = `{"f:metadata":{"f:annotations":{".":{},"f:aegis.io/ticketing":{},"f:example.com/x":{}}}}`
	const both = `{"f:metadata":{"f:annotations":{"f:aegis.io/ticketing":{}}},"f:spec":{"f:unschedulable":{}}}`
	for name, tt := range map[string]struct {
		writer metav1.ManagedFieldsEntry
		want   bool
	}{
		"Aegis":                       {writer("aegis", edit), false},
		"a person":                    {writer("kubectl-edit", edit), true},
		"a person who cordoned too":   {writer("kubectl-edit", both), true},
		"a person, another field":     {writer("kubectl-label", `{"f:metadata":{"f:annotations":{"f:example.com/x":{}}}}`), false},
		"fields that nobody can read": {writer("kubectl-edit", `[`), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{ManagedFields: []metav1.ManagedFieldsEntry{tt.writer}}}
			require.False(t, EditedByOthers(n), "there is no ticket")
			n.Annotations = map[string]string{Annotation: "condition: GpuHung"}
			require.Equal(t, tt.want, EditedByOthers(n))
			n.Spec.Unschedulable = true
			cordoned := CordonedByOthers(n)
			KeepWriters(n)
			require.Equal(t, tt.want, EditedByOthers(n), "after what is not needed is dropped")
			require.Equal(t, cordoned, CordonedByOthers(n))
		})
	}
}
