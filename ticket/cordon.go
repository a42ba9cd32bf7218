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
		return e.Manager != fieldManager && setsUnschedulable(e)
	})
}

// KeepCordoners drops from the node what the API server notes of the writers of all other fields. It keeps a cache of thousands
// of nodes small.
func KeepCordoners(n *corev1.Node) {
	var kept []metav1.ManagedFieldsEntry
	for _, e := range n.ManagedFields {
		if setsUnschedulable(e) {
			e.FieldsV1 = metav1.NewFieldsV1(`{"f:spec":{"f:unschedulable":{}}}`)
			kept = append(kept, e)
		}
	}
	n.ManagedFields = kept
}

// setsUnschedulable reports whether the entry's writer has set spec.unschedulable, and nobody has changed it since.
func setsUnschedulable(e metav1.ManagedFieldsEntry) bool {
	if e.FieldsV1 == nil {
		return false
	}
	var fields struct {
		Spec struct {
			Unschedulable *struct{} `json:"f:unschedulable"`
		} `json:"f:spec"`
	}
	// Fields that cannot be read name no writer.
	return json.Unmarshal(e.FieldsV1.GetRawBytes(), &fields) == nil && fields.Spec.Unschedulable != nil
}
