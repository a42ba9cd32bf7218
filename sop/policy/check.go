package policy

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/ticket"
)

// How people and programs ask for a check of a node.
const (
	// CheckAnnotation asks for a check of its node when its value is CheckRequested.
	CheckAnnotation = "aegis.io/check"
	CheckRequested  = "requested"
	// CheckByAnnotation says who asks. Without it, that is who has set the other one.
	CheckByAnnotation = "aegis.io/check-by"
	// CheckCordonAnnotation is a note of Aegis: the cordon that the request lends, or CheckLendsNone.
	CheckCordonAnnotation = "aegis.io/check-cordon"
	CheckLendsNone        = "none"
)

// CheckedCondition is the condition whose procedure checks a node and returns it to service.
const CheckedCondition = "NodeCordon"

// CheckRequest is a request for a check of a node, as the node has it.
type CheckRequest struct {
	// Value is that of the annotation. Empty when there is none.
	Value string
	// Taints are those of the node that wait for a check.
	Taints []corev1.Taint
}

// CheckRequestOf reads the request that is on the node, whoever it is of.
func (s Settings) CheckRequestOf(node *corev1.Node) (r CheckRequest, found bool) {
	r = CheckRequest{Value: node.Annotations[CheckAnnotation], Taints: s.IntakeTaintsOf(node)}
	return r, r.Value != "" || len(r.Taints) > 0
}

// IntakeTaint says which taints of new nodes wait for a check of the node.
type IntakeTaint struct {
	Key string
	// Value and Effect are those of the taint. Empty stands for any.
	Value  string
	Effect corev1.TaintEffect
}

func (i IntakeTaint) matches(t corev1.Taint) bool {
	return t.Key == i.Key && (i.Value == "" || i.Value == t.Value) && (i.Effect == "" || i.Effect == t.Effect)
}

// IntakeTaintsOf returns the taints of the node that wait for a check of it.
func (s Settings) IntakeTaintsOf(node *corev1.Node) []corev1.Taint {
	if len(node.Spec.Taints) == 0 {
		return nil
	}
	intake := slices.Concat(s.IntakeTaints, s.PoolOf(node).IntakeTaints)
	var found []corev1.Taint
	for _, t := range node.Spec.Taints {
		if slices.ContainsFunc(intake, func(i IntakeTaint) bool { return i.matches(t) }) {
			found = append(found, t)
		}
	}
	return found
}

// notUnderstood refuses what may not be meant as a request.
func notUnderstood(s Situation) string {
	if s.Check.Value == "" || s.Check.Value == CheckRequested {
		return ""
	}
	return fmt.Sprintf("annotation %s is %.40q, want %q", CheckAnnotation, s.Check.Value, CheckRequested)
}

// notReady waits for the kubelet, which runs the check.
func notReady(s Situation) string {
	if IsReady(s.Node) {
		return ""
	}
	return "the node is not ready, so nothing can check it"
}

// justChecked keeps a taint that is set again and again from having the node checked all the time.
func justChecked(s Situation) string {
	for _, i := range slices.Backward(s.Record.History.Incidents) {
		if i.Outcome != ticket.Passed {
			continue
		}
		again := i.Closed.Add(s.Status.Policy.Cooldown)
		if !s.Now.Before(again) {
			return ""
		}
		return "the node passed a check a moment ago; Aegis checks it again after " + again.UTC().Format(time.RFC3339)
	}
	return ""
}

// RequesterOf returns who asks for a check by the annotation of the node: whom it names, and who says so.
func RequesterOf(node *corev1.Node) string {
	named, writes := printable(node.Annotations[CheckByAnnotation], maxRequester), CheckByAnnotation
	if named == "" {
		writes = CheckAnnotation
	}
	manager := printable(ticket.NoteOf(node, writes).Manager, maxRequester)
	switch {
	case named == "":
		return cmp.Or(manager, "somebody")
	case manager == ticket.Self:
		// Aegis has kept the request of a ticket, with who asked.
		return named
	}
	return fmt.Sprintf("%s (as told by %s)", named, cmp.Or(manager, "somebody"))
}

// maxRequester bounds the name of who asks.
const maxRequester = 100

// NewRequest reports whether Aegis has yet to note which cordon the request on the node lends.
func NewRequest(node *corev1.Node) bool {
	_, noted := node.Annotations[CheckCordonAnnotation]
	return node.Annotations[CheckAnnotation] == CheckRequested && !noted
}

// RequestLeftOver reports whether the node has parts of a request that is not there any more.
func RequestLeftOver(node *corev1.Node) bool {
	_, noted := node.Annotations[CheckCordonAnnotation]
	_, named := node.Annotations[CheckByAnnotation]
	value := node.Annotations[CheckAnnotation]
	return noted && value != CheckRequested || named && value == ""
}

// LentTo returns which cordon a person lends who asked at that time for a check of the node: the one that the API server had when it was
// asked at once, and none that comes before the request is written. One that the cache did not show yet may have come while the API server
// did not answer; it counts if it is older than the request.
func LentTo(cached, read *corev1.Node, asked time.Time) func(*corev1.Node) string {
	return func(node *corev1.Node) string {
		late := CordonOf(read) != CordonOf(cached) && ticket.CordonedBy(read).After(asked)
		if late || CordonOf(node) != CordonOf(read) {
			return ""
		}
		return LentNow(node)
	}
}

// LentNow returns the cordon that a person lends to Aegis who asks for a check now. It is empty when there is none, or when Aegis may undo
// it anyway.
func LentNow(node *corev1.Node) string {
	if OwnCordon(node) {
		return ""
	}
	return CordonOf(node)
}

// LentAtSight returns the cordon that the request on the node lends when Aegis first sees it: the one that is there, unless it may be
// later than the request. Seen says that the node was seen to be cordoned when the request came, which alone can tell it where the API
// server has not noted when the request was made: its writer has written something else, or the cordon, or both came within one second.
func LentAtSight(node *corev1.Node, seen bool) string {
	asked, at := ticket.NoteOf(node, CheckAnnotation, CheckByAnnotation), ticket.CordonedBy(node)
	// The API server notes seconds, and one time for all that a writer has set.
	doubtful := asked.Cordons || asked.Others || !at.Before(asked.At)
	if asked.At.IsZero() || at.After(asked.At) || doubtful && !seen {
		return ""
	}
	return LentNow(node)
}

// LentByNote returns the cordon that Aegis noted when it first saw the request, if it is still there.
func LentByNote(node *corev1.Node) string {
	if noted := node.Annotations[CheckCordonAnnotation]; Lent(node, noted) {
		return noted
	}
	return ""
}
