package sop

import (
	"context"
	"fmt"
	"time"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/ticket"
)

// The exit codes of operations that say nothing about the hardware.
const (
	exitUsage   = 64
	exitUnknown = 70
	exitSkipped = 75
)

// resetAttempts sets the Jobs of resets apart from those of other remedies, which run through the same operation.
const resetAttempts = 1000

// Healthcheck runs the healthcheck Job. It fails when hardware is found broken, and is inconclusive when the check could
// not be made: that says nothing about the node, good or bad.
func (b *ApiBridge) Healthcheck(ctx context.Context) error {
	profile := b.services.profile(b.node)
	err := b.do(ctx, step{action: ticket.Healthcheck, detail: "profile " + profile, act: func(ctx context.Context, c call) (outcome, error) {
		req := b.request(jobs.ActionHealthcheck, c.n, b.status.Policy.HealthcheckDeadline,
			"--profile", profile, "--boot-id", b.currentBoot(ctx))
		return b.runJob(ctx, req)
	}})
	b.checked = err == nil
	return err
}

// currentBoot returns the boot that a healthcheck is to find: the node's own word, else the ticket's.
func (b *ApiBridge) currentBoot(ctx context.Context) string {
	node, err := b.liveNode(ctx)
	if err != nil {
		return b.journal.bootID()
	}
	return node.Status.NodeInfo.BootID
}

// Diagnose collects what people will want to see. It never stops a procedure: a diagnosis that could not be made is noted.
func (b *ApiBridge) Diagnose(ctx context.Context) error {
	err := b.do(ctx, step{action: ticket.Diagnose, act: func(ctx context.Context, c call) (outcome, error) {
		return b.runJob(ctx, b.request(jobs.ActionDiagnose, c.n, b.status.Policy.RemedyDeadline))
	}})
	if failure, ok := stepFailure(err); ok {
		b.logger.WarnContext(ctx, "diagnosis not made", "err", failure)
		return nil
	}
	return err
}

// Remedy runs a remedy on the node, such as RestartKubelet. The arguments are those of the operation.
func (b *ApiBridge) Remedy(ctx context.Context, name string, args ...string) error {
	return b.do(ctx, step{action: ticket.Remedy, detail: name, gated: true, act: func(ctx context.Context, c call) (outcome, error) {
		return b.runJob(ctx, b.request(jobs.ActionRemedy, c.n, b.status.Policy.RemedyDeadline, append([]string{name}, args...)...))
	}})
}

// Repair runs a repair that the site has installed on its nodes.
func (b *ApiBridge) Repair(ctx context.Context, name string) error {
	return b.do(ctx, step{action: ticket.Repair, detail: name, gated: true, act: func(ctx context.Context, c call) (outcome, error) {
		return b.runJob(ctx, b.request(jobs.ActionRepair, c.n, b.status.Policy.RemedyDeadline, name))
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
	return b.do(ctx, step{action: ticket.Reset, detail: detail, gated: true, act: func(ctx context.Context, c call) (outcome, error) {
		return b.runJob(ctx, b.request(jobs.ActionRemedy, resetAttempts+c.n, b.status.Policy.RemedyDeadline, args...))
	}})
}

func (b *ApiBridge) request(action string, attempt int, deadline time.Duration, args ...string) jobs.Request {
	return jobs.Request{
		Action:   action,
		Node:     b.node,
		Incident: b.journal.incident.id,
		Attempt:  attempt,
		Args:     args,
		Deadline: deadline,
	}
}

// runJob runs the Job of the request, or follows the one that is there, and judges how it ended.
func (b *ApiBridge) runJob(ctx context.Context, req jobs.Request) (outcome, error) {
	result, err := b.services.Jobs.Run(ctx, req)
	switch {
	case ctx.Err() != nil:
		return outcome{}, context.Cause(ctx)
	case err != nil:
		return outcome{}, inconclusive("could not be run: %v", err)
	}
	return judgeJob(result)
}

// judgeJob tells apart what an operation found from that it could not find out.
func judgeJob(r jobs.Result) (outcome, error) {
	switch {
	case r.Phase == jobs.PhaseSucceeded:
		return outcome{message: r.Message}, nil
	case r.Phase == jobs.PhaseMissing:
		return outcome{}, inconclusive("Job %s is gone, its outcome is unknown", r.Job)
	case r.ExitCode < 0, r.ExitCode == exitUsage, r.ExitCode == exitUnknown, r.ExitCode == exitSkipped, r.Report == nil:
		return outcome{}, inconclusive("Job %s: %s", r.Job, r.Message)
	}
	return outcome{}, failed("%s", hardwareMessage(r))
}

// hardwareMessage names the hardware of a failed operation before what it says.
func hardwareMessage(r jobs.Result) string {
	if r.Report.Hardware == "" {
		return fmt.Sprintf("exit code %d: %s", r.ExitCode, r.Message)
	}
	return fmt.Sprintf("%s%s%d): %s", r.Report.Hardware, hardwareMark, r.ExitCode, r.Message)
}

// hardwareMark follows the name of the hardware in the message of a failed operation.
const hardwareMark = " (exit code "
