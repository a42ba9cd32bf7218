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
	namedField   = `"f:metadata":{"f:annotations":{"f:aegis.io/check":{},"f:aegis.io/check-by":{}}}`
	byField      = `"f:metadata":{"f:annotations":{"f:aegis.io/check-by":{}}}`
	moreField    = `"f:metadata":{"f:annotations":{"f:aegis.io/check":{},"f:site/rack":{}}}`
	labelField   = `"f:metadata":{"f:annotations":{"f:aegis.io/check":{}},"f:labels":{"f:rack":{}}}`
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
		"a request that names a person":      {[]metav1.ManagedFieldsEntry{written("a", 1, cordonField), written("b", 2, namedField)}, false, "a 2026-01-01T12:01:00Z"},
		"another annotation, perhaps later":  {[]metav1.ManagedFieldsEntry{written("a", 1, cordonField), written("b", 2, moreField)}, false, ""},
		"a label, perhaps later":             {[]metav1.ManagedFieldsEntry{written("a", 1, cordonField), written("b", 2, labelField)}, false, ""},
		"another annotation, seen":           {[]metav1.ManagedFieldsEntry{written("a", 1, cordonField), written("b", 2, moreField)}, true, "a 2026-01-01T12:01:00Z"},
		"within one second":                  {[]metav1.ManagedFieldsEntry{written("a", 2, cordonField), written("b", 2, requestField)}, false, ""},
		"within one second, seen":            {[]metav1.ManagedFieldsEntry{written("a", 2, cordonField), written("b", 2, requestField)}, true, "a 2026-01-01T12:02:00Z"},
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
			n.ManagedFields = []metav1.ManagedFieldsEntry{written(tt.manager, 1, namedField)}
		}
		require.Equal(t, tt.want, RequesterOf(n))
	}
	n := cordonedNode(written(ticket.Self, 1, requestField), written("tool", 2, byField))
	n.Annotations[CheckByAnnotation] = "bob"
	require.Equal(t, "bob (as told by tool)", RequesterOf(n), "somebody has written over the name in a request that Aegis keeps")
}

func TestLentTo(t *testing.T) {
	t.Parallel()
	const cordon = "a 2026-01-01T12:01:00Z"
	free, first, second := cordonedNode(), cordonedNode(written("a", 1, cordonField)), cordonedNode(written("a", 2, cordonField))
	free.Spec.Unschedulable = false
	asked := ticket.CordonedBy(first)
	require.Equal(t, cordon, LentTo(first, first, asked)(first))
	require.Equal(t, cordon, LentTo(first, first, asked.Add(-time.Hour))(first), "the cache showed it, whatever the clock says")
	require.Equal(t, cordon, LentTo(free, first, asked)(first), "the cache did not show it yet")
	require.Empty(t, LentTo(free, first, asked.Add(-time.Second))(first), "it came while the API server did not answer")
	require.Empty(t, LentTo(first, first, asked)(second), "it was set again before the request was written")
	claimed := first.DeepCopy()
	claimed.Annotations[ticket.OwnerAnnotation] = "bob"
	require.Empty(t, LentTo(first, first, asked)(claimed), "somebody has written that it is theirs")
	require.Equal(t, cordon+", claimed by bob", LentTo(claimed, claimed, asked)(claimed))
}
