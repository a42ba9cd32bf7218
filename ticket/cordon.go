package ticket

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// CordonedByOthers reports whether somebody else than Aegis has said that the node is unschedulable. The API server notes
// for every field who set it, so a cordon of a person is told from an own one even where they undid that one first and
// nobody looked. Without such a note, as on a node restored from a backup, or once the API server has merged it
// with those of other writers, the answer is false.
func CordonedByOthers(n *corev1.Node) bool {
	return n.Spec.Unschedulable && slices.ContainsFunc(n.ManagedFields, func(e metav1.ManagedFieldsEntry) bool {
		return isOther(e) && writesOf(e).cordon
	})
}

// isOther reports whether the writer is somebody else than Aegis. One that the API server has merged with others may be either.
func isOther(e metav1.ManagedFieldsEntry) bool {
	return e.Manager != fieldManager && e.Manager != mergedManager
}

// CordonedByAegis reports whether the API server has noted that Aegis, and nobody else, has said that the node is unschedulable. A note on
// the node that the cordon is one of Aegis does not do: anybody may write that.
func CordonedByAegis(n *corev1.Node) bool {
	managers := CordonManagers(n)
	return n.Spec.Unschedulable && len(managers) > 0 && !slices.ContainsFunc(managers, func(m string) bool { return m != fieldManager })
}

// CordonUnnoted says why nobody is noted to have cordoned the node: the API server notes who has set each field, but keeps only so many
// writers apart, and notes nothing on a node whose notes were taken away. It is empty where somebody is noted, and for a node in service.
func CordonUnnoted(n *corev1.Node) string {
	switch {
	case !n.Spec.Unschedulable, CordonedByOthers(n), CordonedByAegis(n):
		return ""
	case len(CordonManagers(n)) > 0:
		return "the API server has merged who has with other writers, as " + mergedManager
	}
	return "metadata.managedFields does not say who has"
}

// EditedByOthers reports whether somebody else than Aegis has written the ticket last.
func EditedByOthers(n *corev1.Node) bool {
	return n.Annotations[Annotation] != "" && slices.ContainsFunc(n.ManagedFields, func(e metav1.ManagedFieldsEntry) bool {
		return isOther(e) && writesOf(e).ticket
	})
}

// CordonOf names the cordon of a node by who has set it, and when they last wrote to the node. The API server notes one time for all fields
// of a writer, so one that sets the cordon again changes the name, and so does one that writes anything else. It is empty when the node is
// schedulable, and when the API server has not noted who has cordoned it, or when: nothing tells such a cordon from a later one.
func CordonOf(n *corev1.Node) string {
	if !n.Spec.Unschedulable {
		return ""
	}
	var set []string
	for _, e := range n.ManagedFields {
		switch cordons := writesOf(e).cordon; {
		case cordons && timeOf(e).IsZero():
			return ""
		case cordons:
			set = append(set, e.Manager+" "+formatTime(timeOf(e)))
		}
	}
	slices.Sort(set)
	return strings.Join(set, ", ")
}

// CordonManagers names who has set the cordon of the node, as far as the API server has noted it.
func CordonManagers(n *corev1.Node) []string {
	var managers []string
	for _, e := range n.ManagedFields {
		if writesOf(e).cordon {
			managers = append(managers, e.Manager)
		}
	}
	slices.Sort(managers)
	return managers
}

// CordonedBy returns until when the cordon of the node was set at the latest, zero if the API server has not noted it.
func CordonedBy(n *corev1.Node) time.Time {
	var at time.Time
	for _, e := range n.ManagedFields {
		if writesOf(e).cordon && timeOf(e).After(at) {
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

// AnnotationNote is what the API server has noted of an annotation of a node.
type AnnotationNote struct {
	// Manager has set it.
	Manager string
	// At is when the manager last wrote to the node, whether it wrote that annotation or something else.
	At time.Time
	// Cordons says that the manager has cordoned the node as well, so that nothing tells which of the two came first.
	Cordons bool
	// Others says that the manager has set something else than the annotation and its companions, so that At may be the time of that.
	Others bool
}

// NoteOf returns what the API server has noted of the annotation. It is zero if it has noted nothing. Companions are annotations that are
// written together with it.
func NoteOf(n *corev1.Node, key string, companions ...string) AnnotationNote {
	for _, e := range n.ManagedFields {
		fields := fieldsOf(e)
		if _, sets := fields.Metadata.Annotations["f:"+key]; sets {
			return AnnotationNote{
				Manager: e.Manager, At: timeOf(e), Cordons: fields.Spec.Unschedulable != nil, Others: setsOthers(e, append(companions, key)),
			}
		}
	}
	return AnnotationNote{}
}

// setsOthers reports whether the entry's writer has set anything but the annotations.
func setsOthers(e metav1.ManagedFieldsEntry, annotations []string) bool {
	var fields map[string]map[string]map[string]json.RawMessage
	if json.Unmarshal(e.FieldsV1.GetRawBytes(), &fields) != nil {
		return true // Other fields are nested in another way.
	}
	known := []string{"."}
	for _, name := range annotations {
		known = append(known, "f:"+name)
	}
	set := fields["f:metadata"]["f:annotations"]
	return len(fields) != 1 || len(fields["f:metadata"]) != 1 ||
		slices.ContainsFunc(slices.Collect(maps.Keys(set)), func(name string) bool { return !slices.Contains(known, name) })
}

// KeepWriters drops from the node what the API server notes of the writers of all fields but the cordon, the ticket and its record. It keeps a
// cache of thousands of nodes small.
func KeepWriters(n *corev1.Node) {
	var kept []metav1.ManagedFieldsEntry
	for _, e := range n.ManagedFields {
		if w := writesOf(e); w != (writes{}) {
			e.FieldsV1 = w.fields()
			kept = append(kept, e)
		}
	}
	n.ManagedFields = kept
}

// writes says which of the fields whose writers matter an entry's writer has set, and nobody has changed since.
type writes struct{ cordon, ticket, record bool }

func writesOf(e metav1.ManagedFieldsEntry) writes {
	fields := fieldsOf(e)
	w := writes{cordon: fields.Spec.Unschedulable != nil}
	_, w.ticket = fields.Metadata.Annotations["f:"+Annotation]
	_, w.record = fields.Metadata.Annotations["f:"+RecordAnnotation]
	return w
}

// fields returns an entry of these fields alone.
func (w writes) fields() *metav1.FieldsV1 {
	var annotations, parts []string
	for _, a := range []struct {
		key string
		set bool
	}{{Annotation, w.ticket}, {RecordAnnotation, w.record}} {
		if a.set {
			annotations = append(annotations, `"f:`+a.key+`":{}`)
		}
	}
	if len(annotations) > 0 {
		parts = append(parts, `"f:metadata":{"f:annotations":{`+strings.Join(annotations, ",")+`}}`)
	}
	if w.cordon {
		parts = append(parts, `"f:spec":{"f:unschedulable":{}}`)
	}
	return metav1.NewFieldsV1("{" + strings.Join(parts, ",") + "}")
}

// managedFields are those of a node whose writers matter.
type managedFields struct {
	Metadata struct {
		Annotations map[string]json.RawMessage `json:"f:annotations"`
	} `json:"f:metadata"`
	Spec struct {
		Unschedulable *struct{} `json:"f:unschedulable"`
	} `json:"f:spec"`
}

// fieldsOf returns the fields of the entry. Those that cannot be read name no writer.
func fieldsOf(e metav1.ManagedFieldsEntry) managedFields {
	var fields managedFields
	if e.FieldsV1 == nil || json.Unmarshal(e.FieldsV1.GetRawBytes(), &fields) != nil {
		return managedFields{}
	}
	return fields
}
