package gpu

import (
	"context"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop"
)

// XID is for an error that the driver reports by number. What is done follows the class of the number; what the driver itself asks
// for, with XID 154, goes before that.
func XID() sop.SOP { return sop.NewProcedure(xid) }

func xid(ctx context.Context, b *sop.ApiBridge) error {
	class := b.Status().XID.Class
	undecoded := class == prom.XIDDecode && b.Policy().Workload == prom.WorkloadKeep
	switch {
	case class == prom.XIDWatch:
		return sop.Note(ctx, b)
	case class == prom.XIDCheck, undecoded:
		return sop.Examine(ctx, b)
	}
	if err := sop.Isolate(ctx, b); err != nil {
		return err
	}
	switch wanted(class, b.Recovery()) {
	case prom.XIDIgnore:
		return sop.ReturnToService(ctx, b)
	case prom.XIDReset:
		b.Clear(prom.WorkloadDrainGPU)
		return sop.Reset(ctx, b)
	case prom.XIDResetIdle:
		b.Clear(prom.WorkloadWaitIdle)
		return sop.Reset(ctx, b)
	case prom.XIDReboot:
		b.Clear(prom.WorkloadDrain)
		return sop.Climb(ctx, b)
	}
	b.Clear(prom.WorkloadDrainGPU)
	return sop.LeaveToPeople(ctx, b)
}

// wanted returns what is done about an XID of the class when the driver asks for the recovery. A reset that can wait until the node
// is idle still can: the driver says what the GPU needs, and not when.
func wanted(class, recovery prom.XIDClass) prom.XIDClass {
	switch {
	case recovery == prom.XIDReset && class == prom.XIDResetIdle:
		return prom.XIDResetIdle
	case recovery != "":
		return recovery
	case class == prom.XIDDecode:
		return prom.XIDReset
	}
	return class
}
