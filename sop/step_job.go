package sop

import (
	"context"
	"time"

	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/ticket"
)

// resetAttempts sets the Jobs of resets apart from those of other remedies, which run through the same operation.
const resetAttempts = 1000

// Healthcheck runs the healthcheck Job. It fails when hardware is found broken, and is inconclusive when the check could
// not be made: that says nothing about the node, good or bad.
func (b *ApiBridge) Healthcheck(ctx context.Context) error {
	profile := b.services.profile(b.node)
	err := b.do(ctx, step{action: ticket.Healthcheck, detail: "profile " + profile, act: func(ctx context.Context, c call) (outcome, error) {
		req := b.operations.request(protocol.ActionHealthcheck, c.n, b.status.Policy.HealthcheckDeadline,
			"--profile", profile, "--boot-id", b.operations.currentBoot(ctx), "--since", b.journal.ticketCreated().UTC().Format(time.RFC3339))
		return b.operations.runJob(ctx, c, "", req)
	}})
	b.checked = err == nil
	return err
}

// Diagnose collects what people will want to see. It never stops a procedure: a diagnosis that could not be made is noted.
func (b *ApiBridge) Diagnose(ctx context.Context) error {
	args := []string{"--condition", b.status.Condition}
	if b.status.ID != "" && b.status.DeviceMode == prom.DeviceIndex {
		args = append(args, "--device", b.status.ID)
	}
	err := b.do(ctx, step{action: ticket.Diagnose, act: func(ctx context.Context, c call) (outcome, error) {
		o, err := b.operations.runJob(ctx, c, "", b.operations.request(protocol.ActionDiagnose, c.n, b.status.Policy.RemedyDeadline, args...))
		if err == nil {
			o.update = func(t *ticket.Ticket) { t.SetRecovery(o.findings.Recovery) }
		}
		return o, err
	}})
	if failure, ok := AsStepError(err); ok {
		b.logger.WarnContext(ctx, "diagnosis failed", "err", failure)
		return nil
	}
	return err
}

// Remedy runs a remedy on the node, such as RestartKubelet. The arguments are those of the operation. What the procedure has cleared off the
// node before is gone when it begins.
func (b *ApiBridge) Remedy(ctx context.Context, name string, args ...string) error {
	return b.onEmptied(ctx, step{action: ticket.Remedy, detail: name, gated: true, gone: b.cleared.gone, act: func(ctx context.Context, c call) (outcome, error) {
		request := b.operations.request(protocol.ActionRemedy, c.n, b.status.Policy.RemedyDeadline, append([]string{name}, args...)...)
		return saysWhat(name)(b.operations.runJob(ctx, c, ticket.Remedy, request))
	}})
}

// saysWhat puts the name of the operation before what it says, since the ticket has no other place for it.
func saysWhat(name string) func(o outcome, err error) (outcome, error) {
	return func(o outcome, err error) (outcome, error) {
		failure, isStep := AsStepError(err)
		switch {
		case isStep:
			failure.Message = name + ": " + failure.Message
		case o.message == "":
			o.message = name
		default:
			o.message = name + ": " + o.message
		}
		return o, err
	}
}

// Repair runs a repair, such as MountGpfs, or one that the site has installed on its nodes. The arguments are those of the operation.
func (b *ApiBridge) Repair(ctx context.Context, name string, args ...string) error {
	return b.onEmptied(ctx, step{action: ticket.Repair, detail: name, gated: true, gone: b.cleared.gone, act: func(ctx context.Context, c call) (outcome, error) {
		request := b.operations.request(protocol.ActionRepair, c.n, b.status.Policy.RemedyDeadline, append([]string{name}, args...)...)
		return saysWhat(name)(b.operations.runJob(ctx, c, ticket.Repair, request))
	}})
}

// ResetGPU resets the GPU that the condition names, or all of the node when it names none.
func (b *ApiBridge) ResetGPU(ctx context.Context) error {
	args := []string{"ResetGPU"}
	detail := "all GPUs"
	if b.status.ID != "" && b.status.DeviceMode == prom.DeviceIndex {
		args = append(args, "--device", b.status.ID)
		detail = "GPU " + b.status.ID
	}
	return b.destroy(ctx, step{action: ticket.Reset, detail: detail, gated: true, act: func(ctx context.Context, c call) (outcome, error) {
		return b.operations.runJob(ctx, c, ticket.Reset, b.operations.request(protocol.ActionRemedy, resetAttempts+c.n, b.status.Policy.RemedyDeadline, args...))
	}})
}
