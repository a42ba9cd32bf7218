package gpu

import (
	"context"
	"errors"
	"fmt"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/playbook"
)

// XID is for an error that the driver reports by number. What is done follows the class of the number; what the driver itself asks
// for, with XID 154, goes before that.
func XID(ctx context.Context, b *sop.ApiBridge) error {
	class := b.Status().XID.Class
	undecoded := class == prom.XIDDecode && b.Policy().Workload == prom.WorkloadKeep
	switch {
	case class == prom.XIDWatch:
		return playbook.Note(ctx, b)
	case class == prom.XIDCheck, undecoded:
		return playbook.Examine(ctx, b)
	}
	if err := playbook.Isolate(ctx, b); err != nil {
		return err
	}
	switch wanted(class, b.Recovery()) {
	case prom.XIDIgnore:
		return playbook.ReturnToService(ctx, b)
	case prom.XIDReset:
		b.Clear(prom.WorkloadDrainGPU)
		return playbook.Reset(ctx, b)
	case prom.XIDResetIdle:
		b.Clear(prom.WorkloadWaitIdle)
		// The alert of an event ends long before the jobs do, and the GPU needs its reset all the same.
		b.Suspect(fmt.Sprintf("XID %d has not been followed by a reset", b.Status().XID.Code))
		return playbook.Reset(ctx, b)
	case prom.XIDReboot:
		b.Clear(prom.WorkloadDrain)
		return playbook.Climb(ctx, b)
	}
	return leaveRunning(ctx, b)
}

// leaveRunning takes the work off the GPUs and leaves the rest to people, who find the node as it is: nothing says that it is broken,
// and what needs no GPU goes on.
func leaveRunning(ctx context.Context, b *sop.ApiBridge) error {
	err := b.DrainGPU(ctx)
	switch {
	case errors.Is(err, sop.ErrWithdrawn):
		return playbook.ReturnToService(ctx, b)
	case err != nil:
		return err
	}
	why := fmt.Sprintf("needs people: XID %d, and no repair is known for what the driver asks for", b.Status().XID.Code)
	return b.HandOver(ctx, b.Policy().Team, b.Status().Condition+": "+why)
}

// wanted returns what is done about an XID of the class when the driver asks for the recovery. A reset that can wait until the node
// is idle still can: the driver says what the GPU needs, and not when.
func wanted(class, recovery prom.XIDClass) prom.XIDClass {
	switch {
	case recovery == prom.XIDReset && class == prom.XIDResetIdle:
		return prom.XIDResetIdle
	case recovery != "":
		return recovery
	case class == prom.XIDDecode, class == "":
		// Its alert does not tell which number it is, or nobody reads its registers.
		return prom.XIDReset
	}
	return class
}
