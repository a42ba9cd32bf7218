package policy

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"aegis.io/aegis/ticket"
)

const (
	cordonField  = `"f:spec":{"f:unschedulable":{}}`
	requestField = `"f:metadata":{"f:annotations":{"f:aegis.io/check":{}}}`
)

// written returns what the API server notes of a manager that last wrote so many minutes after noon, or at a time that it has not noted.
func written(manager string, minute int, fields string) metav1.ManagedFieldsEntry {
	e := metav1.ManagedFieldsEntry{Manager: manager, FieldsV1: metav1.NewFieldsV1("{" + fields + "}")}
	if minute >= 0 {
		e.Time = new(metav1.NewTime(time.Date(2026, 1, 1, 12, minute, 0, 0, time.UTC)))
	}
	return e
}

func cordonedNode(managed ...metav1.ManagedFieldsEntry) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{ManagedFields: managed, Annotations: map[string]string{CheckAnnotation: CheckRequested}},
		Spec:       corev1.NodeSpec{Unschedulable: true},
	}
}

func TestLentAtSight(t *testing.T) {
	t.Parallel()
	both := written("tool", 5, cordonField+","+requestField)
	tests := map[string]struct {
		managed []metav1.ManagedFieldsEntry
		seen    bool
		want    string
	}{
		"cordon of before":                   {[]metav1.ManagedFieldsEntry{written("a", 1, cordonField), written("b", 2, requestField)}, false, "a 2026-01-01T12:01:00Z"},
		"cordon of after":                    {[]metav1.ManagedFieldsEntry{written("a", 3, cordonField), written("b", 2, requestField)}, true, ""},
		"one program, order unknown":         {[]metav1.ManagedFieldsEntry{both}, false, ""},
		"one program, seen":                  {[]metav1.ManagedFieldsEntry{both}, true, "tool 2026-01-01T12:05:00Z"},
		"no time of the cordon":              {[]metav1.ManagedFieldsEntry{written("a", -1, cordonField), written("b", 2, requestField)}, true, ""},
		"no time of the request":             {[]metav1.ManagedFieldsEntry{written("a", 1, cordonField), written("b", -1, requestField)}, true, ""},
		"nobody noted who cordoned":          {[]metav1.ManagedFieldsEntry{written("b", 2, requestField)}, true, ""},
		"nobody noted who requested":         {[]metav1.ManagedFieldsEntry{written("a", 1, cordonField)}, true, ""},
		"two cordoned, one of them is later": {[]metav1.ManagedFieldsEntry{written("a", 1, cordonField), written("c", 3, cordonField), written("b", 2, requestField)}, true, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tt.want, LentAtSight(cordonedNode(tt.managed...), tt.seen))
		})
	}
}

// Whatever Aegis writes to the node moves the time of its request that it keeps. The note decides.
func TestLentByNote(t *testing.T) {
	t.Parallel()
	kept := written(ticket.Self, 9, requestField)
	n := cordonedNode(written("a", 1, cordonField), kept)
	require.Empty(t, LentByNote(n), "nothing is noted")
	n.Annotations[CheckCordonAnnotation] = CheckLendsNone
	require.Empty(t, LentByNote(n))
	n.Annotations[CheckCordonAnnotation] = ticket.CordonOf(n)
	require.Equal(t, ticket.CordonOf(n), LentByNote(n))
	n.ManagedFields = []metav1.ManagedFieldsEntry{written("a", 5, cordonField), kept}
	require.Empty(t, LentByNote(n), "it was set again, or its program has written something else")
}

func TestRequesterOf(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ by, manager, want string }{
		{"", "tool", "tool"},
		{"", "", "somebody"},
		{"alice", "tool", "alice (as told by tool)"},
		{"alice", "", "alice (as told by somebody)"},
		{"alice (as told by tool)", ticket.Self, "alice (as told by tool)"},
	} {
		n := cordonedNode()
		n.Annotations[CheckByAnnotation] = tt.by
		if tt.manager != "" {
			n.ManagedFields = []metav1.ManagedFieldsEntry{written(tt.manager, 1, requestField)}
		}
		require.Equal(t, tt.want, RequesterOf(n))
	}
}
