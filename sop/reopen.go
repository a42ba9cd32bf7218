package sop

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// lentTo names the cordon of a person that the incident of the ticket may undo.
func lentTo(t *ticket.Ticket) string {
	if t == nil || !t.Open() || !t.Owned() {
		return ""
	}
	return t.Cordon
}

// originHealthcheck is the origin of an incident whose condition a healthcheck has found.
const originHealthcheck = "healthcheck"

// foundByHealthcheck maps the exit codes of a healthcheck to the conditions that they stand for.
func foundByHealthcheck() map[int]string {
	return map[int]string{
		protocol.ExitIB:       "IBDown",
		protocol.ExitGPU:      "GpuDown",
		protocol.ExitGPFS:     "GpfsDown",
		protocol.ExitCPU:      "CpuUnhealthy",
		protocol.ExitMemory:   "MemoryUnhealthy",
		protocol.ExitDisk:     "DiskUnhealthy",
		protocol.ExitNetwork:  "NetworkLinkDown",
		protocol.ExitRowRemap: "GpuRowRemappingFailure",
		protocol.ExitSRAM:     "GpuAggSramUncorrectable",
		protocol.ExitGPUCheck: "GpuCheckFailed",
		protocol.ExitNVLink:   "GpuNvlinkError",
	}
}

// reopenedError ends a run whose ticket goes on with the condition that a healthcheck has found.
type reopenedError struct{ condition string }

func (e *reopenedError) Error() string { return "the healthcheck found " + e.condition }

// foundBy returns the condition that a failed healthcheck has found, if Aegis may repair it.
func (e *journaled) foundBy(failure *StepError) (prom.AegisNodeStatus, bool) {
	condition := foundByHealthcheck()[failure.Code]
	if condition == "" || failure.Hardware == "" {
		return prom.AegisNodeStatus{}, false
	}
	status := e.services.Orders.Last().Apply(e.services.catalogue.Status(e.node, condition, "", 0))
	if status.Condition == e.status.Condition {
		return prom.AegisNodeStatus{}, false
	}
	_, known := e.services.table.Lookup(status.SOP)
	// A note would close itself: no alert reports what only a healthcheck has found.
	return status, status.Policy.Mode.Acts() && known && !onlyNotifies(e.services.table, status.SOP)
}

// Reopen goes on with the condition that a healthcheck has found, under that condition's own policy and on the same ticket. What
// keeps work off the node is kept. A finding that Aegis may not act on is the failure that it was.
func (b *ApiBridge) Reopen(ctx context.Context, failure *StepError) error {
	return b.executor.reopen(ctx, failure)
}

func (e *journaled) reopen(ctx context.Context, failure *StepError) error {
	found, may := e.foundBy(failure)
	if !may {
		return failure
	}
	err := e.journal.update(ctx, func(t *ticket.Ticket, r ticket.Record, _ *ticket.Change) error {
		if r.Node.Spec.Unschedulable && !policy.OwnCordon(r.Node) && !policy.Lent(r.Node, t.Cordon) {
			// The repair would wait for the cordon of a person, who would not learn what was found.
			return failure
		}
		t.Past, t.Attended = pastOf(t), attended(t)
		t.Condition, t.Device, t.SOP, t.Origin, t.Source = found.Condition, "", found.SOP, originHealthcheck, ""
		// The reason is what makes the node suspect after a restart. The message may have gone with the length of the ticket.
		t.Reason = cmp.Or(failure.Message, failure.Hardware+" is broken")
		t.XID, t.Recovery, t.ApprovedBy, t.Hold = 0, "", "", ""
		t.BootID = r.Node.Status.NodeInfo.BootID
		return nil
	})
	switch {
	case errors.Is(err, failure):
		return failure
	case err != nil:
		return fmt.Errorf("go on with %s: %w", found.Condition, err)
	}
	e.event(corev1.EventTypeWarning, "AegisFound", "%s: the healthcheck found %s: %s", e.status.Condition, found.Condition, failure.Message)
	return &reopenedError{found.Condition}
}
