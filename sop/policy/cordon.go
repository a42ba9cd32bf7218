package policy

import (
	"cmp"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/ticket"
)

// OwnerPrefix begins the owner note of a node that Aegis cordoned.
const OwnerPrefix = ticket.Self + "/"

// OwnCordon reports whether the node is cordoned by Aegis: both the note on it and the API server have to say so. Whoever has cordoned it
// unnoted is somebody else.
func OwnCordon(node *corev1.Node) bool {
	noted := strings.HasPrefix(node.Annotations[ticket.OwnerAnnotation], OwnerPrefix)
	return noted && ticket.CordonedByAegis(node)
}

// LeftBehind reports whether the cordon of the node is one of Aegis by the note on it, and nobody else is noted to have set one. Only a check
// tells whether the node is fit, and OwnCordon whether Aegis may undo the cordon.
func LeftBehind(node *corev1.Node) bool {
	noted := strings.HasPrefix(node.Annotations[ticket.OwnerAnnotation], OwnerPrefix)
	return node.Spec.Unschedulable && noted && !ticket.CordonedByOthers(node)
}

// Unnoted says that nobody is noted to have cordoned the node, and why. It is empty where somebody is, and for a node in service. Aegis does
// not trust such a cordon to be its own, nor does it take it for one of a person who has undone its own.
func Unnoted(node *corev1.Node) string {
	if why := ticket.CordonUnnoted(node); why != "" {
		return "nobody is noted to have cordoned the node: " + why
	}
	return ""
}

// Uncordoned reports whether a person has undone the cordon of Aegis, or the one that was lent to it, though they may have set one of
// their own since.
func Uncordoned(node *corev1.Node, lent string) bool {
	return !node.Spec.Unschedulable || ticket.CordonedByOthers(node) && !Lent(node, lent)
}

// Lent reports whether the node still has the cordon of a person that was lent to Aegis with a request for a check. One that was set
// since is another one.
func Lent(node *corev1.Node, lent string) bool { return lent != "" && CordonOf(node) == lent }

// CordonOf names the cordon of the node. Whoever writes on the node that the cordon is theirs makes it another one.
func CordonOf(node *corev1.Node) string {
	name, claim := ticket.CordonOf(node), printable(node.Annotations[ticket.OwnerAnnotation], maxRequester)
	if name == "" || claim == "" || strings.HasPrefix(claim, OwnerPrefix) {
		return name
	}
	return name + ", claimed by " + claim
}

// Reported reports whether the condition is one with which no node passes a check, whether or not Aegis repairs it by itself.
func Reported(s prom.AegisNodeStatus) bool {
	s.Policy.Mode = cmp.Or(map[prom.Mode]prom.Mode{prom.ModeObserve: prom.ModeAuto}[s.Policy.Mode], s.Policy.Mode)
	return Blocks(s)
}

// Blocks reports whether the condition forbids workload on its node.
func Blocks(s prom.AegisNodeStatus) bool {
	band := prom.BandOf(s.Priority)
	acting := s.Policy.Mode == prom.ModeAuto || s.Policy.Mode == prom.ModeApprove
	return acting && (band == prom.BandNotReady || band == prom.BandEmergency && s.Policy.Workload != prom.WorkloadKeep)
}
