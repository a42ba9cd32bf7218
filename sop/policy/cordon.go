package policy

import (
	"strings"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/ticket"
)

// OwnerPrefix begins the owner note of a node that Aegis cordoned.
const OwnerPrefix = ticket.Self + "/"

// OwnCordon reports whether the node is cordoned by Aegis.
func OwnCordon(node *corev1.Node) bool {
	noted := strings.HasPrefix(node.Annotations[ticket.OwnerAnnotation], OwnerPrefix)
	return node.Spec.Unschedulable && noted && !ticket.CordonedByOthers(node)
}

// Uncordoned reports whether a person has undone the cordon of Aegis, though they may have set one of their own since.
func Uncordoned(node *corev1.Node) bool {
	return !node.Spec.Unschedulable || ticket.CordonedByOthers(node)
}

// Blocks reports whether the condition forbids workload on its node.
func Blocks(s prom.AegisNodeStatus) bool {
	band := prom.BandOf(s.Priority)
	acting := s.Policy.Mode == prom.ModeAuto || s.Policy.Mode == prom.ModeApprove
	return acting && (band == prom.BandNotReady || band == prom.BandEmergency && s.Policy.Workload != prom.WorkloadKeep)
}
