package ticket

import (
	"encoding/json"
	"slices"

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
