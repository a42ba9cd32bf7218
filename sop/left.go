package sop

import (
	"context"
	"slices"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// A node that Aegis has cordoned and that no ticket is about any more. Its ticket was not proven, was removed or given back, or its incident
// ended while another condition kept the node out of service. A check brings the node back, or a team learns of it.

// left reports whether the incident is the check of such a node.
func (i incident) left() bool { return i.origin == string(prom.OriginCordon) }

// withLeft adds the check of such a node to what holds there. It stands for an alert that tells of the same cordon, and a request for a check
// stands for it.
func (d *Dispatcher) withLeft(r ticket.Record, statuses []prom.AegisNodeStatus) []prom.AegisNodeStatus {
	t := r.Ticket
	if !policy.LeftBehind(r.Node) || r.Broken != nil || t != nil && t.Open() || slices.ContainsFunc(statuses, isRequest) {
		return statuses
	}
	status := d.checkStatus(r.Node.Name, prom.OriginCordon)
	status.Msg = "Aegis has cordoned the node, and no ticket is about that any more"
	return byUrgency(statuses, status)
}

// byUrgency puts the status in the place of its urgency, and of one of the same condition.
func byUrgency(statuses []prom.AegisNodeStatus, status prom.AegisNodeStatus) []prom.AegisNodeStatus {
	statuses = slices.DeleteFunc(slices.Clone(statuses), func(s prom.AegisNodeStatus) bool { return s.Key() == status.Key() })
	after := slices.IndexFunc(statuses, func(s prom.AegisNodeStatus) bool { return urgencyOf(s) > urgencyOf(status) })
	if after < 0 {
		after = len(statuses)
	}
	return slices.Insert(statuses, after, status)
}

// seen reports whether the sources tell what holds on the node, so that what they do not report is not there. While they do not, no time
// counts: what was known of the node may have gone with the leader that knew it.
func (i isolator) seen(ctx context.Context, c call) (bool, error) {
	finding := i.services.Source.Observe(ctx, i.status.Key())
	switch {
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case finding.Evidence != prom.EvidenceUnknown:
		return true, nil
	}
	return false, c.time.unverifiable(ctx, finding)
}
