package ticket

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// CordonedByOthers reports whether somebody else than Aegis has said that the node is unschedulable. The API server notes
// for every field who set it, so a cordon of a person is told from an own one even where they undid that one first and
// nobody looked. Without such a note, as on a node restored from a backup, the answer is false and the owner note alone counts.
func CordonedByOthers(n *corev1.Node) bool {
	return n.Spec.Unschedulable && slices.ContainsFunc(n.ManagedFields, func(e metav1.ManagedFieldsEntry) bool {
		cordons, _ := sets(e)
		return e.Manager != fieldManager && cordons
	})
}

// EditedByOthers reports whether somebody else than Aegis has written the ticket last.
func EditedByOthers(n *corev1.Node) bool {
	return n.Annotations[Annotation] != "" && slices.ContainsFunc(n.ManagedFields, func(e metav1.ManagedFieldsEntry) bool {
		_, edits := sets(e)
		return edits && e.Manager != fieldManager
	})
}

// CordonOf names the cordon of a node by who has set it and when, which a cordon that is set again changes. It is empty when the node is
// schedulable.
func CordonOf(n *corev1.Node) string {
	if !n.Spec.Unschedulable {
		return ""
	}
	var set []string
	for _, e := range n.ManagedFields {
		if cordons, _ := sets(e); cordons {
			name := e.Manager
			if at := timeOf(e); !at.IsZero() {
				name += " " + formatTime(at)
			}
			set = append(set, name)
		}
	}
	slices.Sort(set)
	return cmp.Or(strings.Join(set, ", "), "unattributed")
}

// CordonedAt returns when somebody last set the cordon of the node, zero if the API server has not noted it.
func CordonedAt(n *corev1.Node) time.Time {
	var at time.Time
	for _, e := range n.ManagedFields {
		if cordons, _ := sets(e); cordons && timeOf(e).After(at) {
			at = timeOf(e)
		}
	}
	return at
}

func timeOf(e metav1.ManagedFieldsEntry) time.Time {
	if e.Time == nil {
		return time.Time{}
	}
	return e.Time.Time
}

// Annotator returns who has set the annotation of the node and when, as the API server has noted it. Both are zero if it has not.
func Annotator(n *corev1.Node, key string) (manager string, at time.Time) {
	for _, e := range n.ManagedFields {
		if e.FieldsV1 == nil {
			continue
		}
		var fields struct {
			Metadata struct {
				Annotations map[string]json.RawMessage `json:"f:annotations"`
			} `json:"f:metadata"`
		}
		if json.Unmarshal(e.FieldsV1.GetRawBytes(), &fields) != nil {
			continue
		}
		if _, sets := fields.Metadata.Annotations["f:"+key]; sets {
			return e.Manager, timeOf(e)
		}
	}
	return "", time.Time{}
}

// KeepWriters drops from the node what the API server notes of the writers of all fields but the cordon and the ticket. It keeps a
// cache of thousands of nodes small.
func KeepWriters(n *corev1.Node) {
	var kept []metav1.ManagedFieldsEntry
	for _, e := range n.ManagedFields {
		cordons, edits := sets(e)
		switch {
		case cordons && edits:
			e.FieldsV1 = metav1.NewFieldsV1(`{"f:metadata":{"f:annotations":{"f:` + Annotation + `":{}}},"f:spec":{"f:unschedulable":{}}}`)
		case cordons:
			e.FieldsV1 = metav1.NewFieldsV1(`{"f:spec":{"f:unschedulable":{}}}`)
		case edits:
			e.FieldsV1 = metav1.NewFieldsV1(`{"f:metadata":{"f:annotations":{"f:` + Annotation + `":{}}}}`)
		default:
			continue
		}
		kept = append(kept, e)
	}
	n.ManagedFields = kept
}

// sets reports whether the entry's writer has set spec.unschedulable, and whether it has set the ticket, and nobody has changed that
// since.
func sets(e metav1.ManagedFieldsEntry) (cordon, edit bool) {
	if e.FieldsV1 == nil {
		return false, false
	}
	var fields struct {
		Metadata struct {
			Annotations map[string]json.RawMessage `json:"f:annotations"`
		} `json:"f:metadata"`
		Spec struct {
			Unschedulable *struct{} `json:"f:unschedulable"`
		} `json:"f:spec"`
	}
	// Fields that cannot be read name no writer.
	if json.Unmarshal(e.FieldsV1.GetRawBytes(), &fields) != nil {
		return false, false
	}
	_, edit = fields.Metadata.Annotations["f:"+Annotation]
	return fields.Spec.Unschedulable != nil, edit
}
