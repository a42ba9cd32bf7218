package ticket

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

const (
	pathUID           = "/metadata/uid"
	pathVersion       = "/metadata/resourceVersion"
	pathAnnotations   = "/metadata/annotations"
	pathUnschedulable = "/spec/unschedulable"
	pathTaints        = "/spec/taints"
)

// write is a change as one JSON patch, and the state that it asks for.
type write struct {
	tests []operation
	acts  []operation
	body  []byte // Tests, then acts.

	annotations   map[string]*string // Nil: absent.
	unschedulable *bool
	addTaint      *corev1.Taint
	removeTaint   *corev1.Taint
	removeTaints  []corev1.Taint
	texts         bool // It writes a ticket or a history, which nobody else would word the same.
}

// operation is one operation of a JSON patch. A null value in a test stands for absence.
type operation struct {
	Op    string          `json:"op"`
	Path  string          `json:"path"`
	Value json.RawMessage `json:"value"`
}

// newOperation returns an operation whose value is written as JSON.
func newOperation[T any](op, path string, value T) (operation, error) {
	raw, err := json.Marshal(value)
	if err != nil {
		return operation{}, fmt.Errorf("encode %s of %s: %w", op, path, err)
	}
	return operation{Op: op, Path: path, Value: raw}, nil
}

// newWrite returns the patch that makes the change to the node of the record, provided that what it depends on is
// still as it is there.
func newWrite(r Record, c *Change, now time.Time) (*write, error) {
	settle(r, c, now)
	w := &write{unschedulable: c.Unschedulable, addTaint: c.AddTaint, removeTaint: c.RemoveTaint, removeTaints: c.RemoveTaints}
	var err error
	if w.annotations, err = wantedAnnotations(r, c, now); err != nil {
		return nil, err
	}
	w.texts = changesText(r.Node, w.annotations)
	if err := errors.Join(
		test(w, pathUID, r.Node.UID),
		w.testUnchanged(r.Node, c),
		w.patchAnnotations(r.Node),
		w.patchUnschedulable(r.Node),
		w.patchTaints(r.Node),
	); err != nil {
		return nil, err
	}
	if w.body, err = json.Marshal(slices.Concat(w.tests, w.acts)); err != nil {
		return nil, fmt.Errorf("encode patch: %w", err)
	}
	return w, nil
}

// idle reports whether the node is already as the change wants it.
func (w *write) idle() bool { return len(w.acts) == 0 }

// sameTests reports whether both writes expect the same of the node.
func (w *write) sameTests(other *write) bool {
	return other != nil && slices.EqualFunc(w.tests, other.tests, func(a, b operation) bool {
		return a.Path == b.Path && slices.Equal(a.Value, b.Value)
	})
}

// holds reports whether the node is as the change wants it.
func (w *write) holds(n *corev1.Node) bool {
	for key, want := range w.annotations {
		if !sameText(annotation(n, key), want) {
			return false
		}
	}
	if w.unschedulable != nil && n.Spec.Unschedulable != *w.unschedulable {
		return false
	}
	return equality.Semantic.DeepEqual(n.Spec.Taints, w.taints(n.Spec.Taints))
}

// wantedAnnotations returns the annotations that the change sets or removes.
func wantedAnnotations(r Record, c *Change, now time.Time) (map[string]*string, error) {
	want := map[string]*string{}
	for key, value := range c.Annotations {
		switch key {
		case Annotation, HistoryAnnotation, HistoryBrokenAnnotation, RecordAnnotation, NotesAnnotation:
			return nil, fmt.Errorf("annotation %s is not written as text, set Ticket or History of the change", key)
		}
		want[key] = value
	}
	if err := errors.Join(wantTicket(want, r, c), wantHistory(want, r, c)); err != nil {
		return nil, err
	}
	return want, wantRecord(want, r, c, now)
}

// wantRecord adds the record of the ticket. One that goes on from what is not proven stays unproven: nobody's words become those of Aegis
// by being written again.
func wantRecord(want map[string]*string, r Record, c *Change, now time.Time) error {
	text, written := want[Annotation]
	switch {
	case !written:
		return nil
	case text == nil:
		want[RecordAnnotation] = nil
		return nil
	case r.Ticket != nil && r.Ticket.ID == c.Ticket.ID && !r.Proven.Whole():
		return nil
	}
	record, err := RecordOf(r.Node, *text, now)
	want[RecordAnnotation] = &record
	return err
}

// wantTicket adds the ticket. One that cannot be read may say that people are at work, so it stays.
func wantTicket(want map[string]*string, r Record, c *Change) error {
	switch {
	case c.Ticket == nil && !c.RemoveTicket:
		return nil
	case r.Broken != nil:
		return fmt.Errorf("ticket is not overwritten: %w", r.Broken)
	case c.Ticket != nil && c.RemoveTicket:
		return errors.New("a change cannot both write and remove the ticket")
	case c.RemoveTicket:
		want[Annotation] = nil
		return nil
	}
	text, aside, err := c.Ticket.encode()
	want[Annotation] = &text
	if aside != "" {
		notes := keepNewest(r.Node.Annotations[NotesAnnotation], aside)
		want[NotesAnnotation] = &notes
	}
	return err
}

// keepNewest appends what moves to an annotation of its own to what is there, of which the oldest is cut.
func keepNewest(earlier, added string) string {
	if earlier != "" {
		added = earlier + "\n---\n" + added
	}
	for over := len(added) - maxAside; over > 0; over = len(added) - maxAside {
		added = added[over:]
		for added != "" && !utf8.RuneStart(added[0]) {
			added = added[1:]
		}
	}
	return added
}

// wantHistory adds the history. One that cannot be read moves to an annotation of its own, behind what is there.
func wantHistory(want map[string]*string, r Record, c *Change) error {
	if c.History == nil {
		return nil
	}
	text, err := c.History.Encode()
	want[HistoryAnnotation] = &text
	if r.HistoryBroken != nil {
		broken := keepNewest(r.Node.Annotations[HistoryBrokenAnnotation], r.Node.Annotations[HistoryAnnotation])
		want[HistoryBrokenAnnotation] = &broken
	}
	return err
}

// changesText reports whether the ticket or the history changes.
func changesText(n *corev1.Node, want map[string]*string) bool {
	for _, key := range []string{Annotation, HistoryAnnotation} {
		if text, ok := want[key]; ok && !sameText(annotation(n, key), text) {
			return true
		}
	}
	return false
}

// patchAnnotations writes the annotations that differ. The ticket, and what the change names, must be unchanged.
func (w *write) patchAnnotations(n *corev1.Node) error {
	if len(n.Annotations) == 0 {
		return w.patchNoAnnotations()
	}
	tested := maps.Clone(w.annotations)
	tested[Annotation] = nil
	for _, key := range slices.Sorted(maps.Keys(tested)) {
		if err := test(w, annotationPath(key), annotation(n, key)); err != nil {
			return err
		}
	}
	for _, key := range slices.Sorted(maps.Keys(w.annotations)) {
		want := w.annotations[key]
		if sameText(annotation(n, key), want) {
			continue
		}
		if err := actText(w, key, want); err != nil {
			return err
		}
	}
	return nil
}

// patchNoAnnotations writes the annotations of a node that has none, not even the map that holds them.
func (w *write) patchNoAnnotations() error {
	if err := test[*string](w, pathAnnotations, nil); err != nil {
		return err
	}
	made := false
	for _, key := range slices.Sorted(maps.Keys(w.annotations)) {
		want := w.annotations[key]
		if want == nil {
			continue
		}
		if !made {
			made = true
			if err := act(w, "add", pathAnnotations, struct{}{}); err != nil {
				return err
			}
		}
		if err := actText(w, key, want); err != nil {
			return err
		}
	}
	return nil
}

func (w *write) testUnchanged(n *corev1.Node, c *Change) error {
	// Whose cordon it is may change while its value does not.
	if c.Unchanged || c.Unschedulable != nil && !*c.Unschedulable && n.Spec.Unschedulable {
		return test(w, pathVersion, n.ResourceVersion)
	}
	return nil
}

func (w *write) patchUnschedulable(n *corev1.Node) error {
	if w.unschedulable == nil || *w.unschedulable == n.Spec.Unschedulable {
		return nil
	}
	// The field is left out when it is false.
	var old *bool
	if n.Spec.Unschedulable {
		old = &n.Spec.Unschedulable
	}
	return errors.Join(
		test(w, pathUnschedulable, old),
		act(w, "add", pathUnschedulable, *w.unschedulable),
	)
}

// patchTaints writes the whole list: a patch of one item would hit another one after somebody's change.
func (w *write) patchTaints(n *corev1.Node) error {
	taints := w.taints(n.Spec.Taints)
	if equality.Semantic.DeepEqual(n.Spec.Taints, taints) {
		return nil
	}
	// The list is left out when it is empty. A nil slice is written as null, which tests for absence.
	var old []corev1.Taint
	if len(n.Spec.Taints) > 0 {
		old = n.Spec.Taints
	}
	if err := test(w, pathTaints, old); err != nil {
		return err
	}
	if len(taints) == 0 {
		return act[*string](w, "remove", pathTaints, nil)
	}
	return act(w, "add", pathTaints, taints)
}

// taints returns the list that the change makes of old.
func (w *write) taints(old []corev1.Taint) []corev1.Taint {
	list := slices.DeleteFunc(slices.Clone(old), func(o corev1.Taint) bool {
		return slices.ContainsFunc(w.removeTaints, func(t corev1.Taint) bool { return o.MatchTaint(&t) && o.Value == t.Value })
	})
	if t := w.removeTaint; t != nil {
		list = slices.DeleteFunc(list, func(o corev1.Taint) bool {
			return o.MatchTaint(t) && (t.Value == "" || t.Value == o.Value)
		})
	}
	if t := w.addTaint; t != nil {
		i := slices.IndexFunc(list, func(o corev1.Taint) bool { return o.MatchTaint(t) })
		switch {
		case i < 0:
			list = append(list, *t)
		case list[i].Value != t.Value:
			list[i] = *t
		}
	}
	return list
}

// test adds a precondition.
func test[T any](w *write, path string, value T) error {
	o, err := newOperation("test", path, value)
	w.tests = append(w.tests, o)
	return err
}

// act adds what is done if all preconditions hold.
func act[T any](w *write, op, path string, value T) error {
	o, err := newOperation(op, path, value)
	w.acts = append(w.acts, o)
	return err
}

// actText sets an annotation, or removes it.
func actText(w *write, key string, value *string) error {
	if value == nil {
		return act(w, "remove", annotationPath(key), value)
	}
	return act(w, "add", annotationPath(key), value)
}

// annotation returns the text of an annotation, nil if it is absent.
func annotation(n *corev1.Node, key string) *string {
	if text, ok := n.Annotations[key]; ok {
		return &text
	}
	return nil
}

// annotationPath returns the JSON pointer to an annotation.
func annotationPath(key string) string {
	return pathAnnotations + "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(key)
}

// sameText reports whether both are absent, or both have the same text.
func sameText(a, b *string) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}
