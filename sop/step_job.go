package sop

import (
	"context"
	"fmt"
	"time"

	"aegis.io/aegis/jobs"
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
		req := b.request(jobs.ActionHealthcheck, c.n, b.status.Policy.HealthcheckDeadline,
			"--profile", profile, "--boot-id", b.currentBoot(ctx), "--since", b.journal.ticketCreated().UTC().Format(time.RFC3339))
		return b.runJob(ctx, c, "", req)
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
	args := []string{"--condition", b.status.Condition}
	if b.status.ID != "" && b.status.DeviceMode == prom.DeviceIndex {
		args = append(args, "--device", b.status.ID)
	}
	err := b.do(ctx, step{action: ticket.Diagnose, act: func(ctx context.Context, c call) (outcome, error) {
		o, err := b.runJob(ctx, c, "", b.request(jobs.ActionDiagnose, c.n, b.status.Policy.RemedyDeadline, args...))
		if err == nil {
			o.update = func(t *ticket.Ticket) { t.Recovery = o.findings.Recovery }
		}
		return o, err
	}})
	if failure, ok := AsStepError(err); ok {
		b.logger.WarnContext(ctx, "diagnosis not made", "err", failure)
		return nil
	}
	return err
}

// Remedy runs a remedy on the node, such as RestartKubelet. The arguments are those of the operation.
func (b *ApiBridge) Remedy(ctx context.Context, name string, args ...string) error {
	return b.do(ctx, step{action: ticket.Remedy, detail: name, gated: true, act: func(ctx context.Context, c call) (outcome, error) {
		return b.runJob(ctx, c, ticket.Remedy, b.request(jobs.ActionRemedy, c.n, b.status.Policy.RemedyDeadline, append([]string{name}, args...)...))
	}})
}

// Repair runs a repair, such as MountGpfs, or one that the site has installed on its nodes. The arguments are those of the operation.
func (b *ApiBridge) Repair(ctx context.Context, name string, args ...string) error {
	return b.do(ctx, step{action: ticket.Repair, detail: name, gated: true, act: func(ctx context.Context, c call) (outcome, error) {
		return b.runJob(ctx, c, ticket.Repair, b.request(jobs.ActionRepair, c.n, b.status.Policy.RemedyDeadline, append([]string{name}, args...)...))
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
		return b.runJob(ctx, c, ticket.Reset, b.request(jobs.ActionRemedy, resetAttempts+c.n, b.status.Policy.RemedyDeadline, args...))
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

// runJob runs the Job of the request, or follows the one that is there, and judges how it ended. A gated one names its action.
func (b *ApiBridge) runJob(ctx context.Context, c call, gated ticket.Action, req jobs.Request) (outcome, error) {
	err := b.order(ctx, c, gated, req, func(context.Context) (bool, error) { return false, nil })
	if err != nil {
		return outcome{}, err
	}
	result, err := b.services.Jobs.Follow(ctx, req.Name())
	switch {
	case ctx.Err() != nil:
		return outcome{}, context.Cause(ctx)
	case err != nil:
		return outcome{}, inconclusive("could not be followed: %v", err)
	}
	return judgeJob(result)
}

// order makes sure that the Job of a step exists. Who takes a step over, or does not know what became of an order, finds the Job,
// or finds that nothing is left to order, or asks for permission again: the one that was given may be old by now.
func (b *ApiBridge) order(ctx context.Context, c call, gated ticket.Action, req jobs.Request, settled func(context.Context) (bool, error)) error {
	permitted := !c.adopted || gated == ""
	var last error
	var refused time.Time
	deadline := time.Now().Add(req.Deadline)
	return b.poll(ctx, func(ctx context.Context) (bool, error) {
		if !permitted {
			if done, err := b.ordered(ctx, req, settled); done || err != nil {
				return done, err
			}
			if last != nil && time.Now().After(deadline) {
				return false, inconclusive("could not be ordered: %v", last)
			}
			// The slot is that of the step, which gives it back at its end.
			if _, err := b.gate.admit(ctx, gated); err != nil {
				return false, err
			}
		}
		permitted = gated == ""
		_, _, err := b.services.Jobs.Ensure(ctx, req)
		switch {
		case err == nil:
			return true, nil
		case ctx.Err() != nil:
			return false, context.Cause(ctx)
		case !jobs.Permanent(err):
			refused = time.Time{}
		case refused.IsZero():
			refused = time.Now()
		case time.Since(refused) > refusedFor:
			return false, inconclusive("could not be ordered: %v", err)
		}
		last = err
		b.logger.WarnContext(ctx, "job not made, trying again", "err", err)
		return false, nil
	})
}

// refusedFor is how long the API server has to refuse a Job for good. One that has just started forbids what it will allow.
const refusedFor = time.Minute

// ordered reports whether the Job exists, or nothing is left to order. It does not return before the API server has answered.
func (b *ApiBridge) ordered(ctx context.Context, req jobs.Request, settled func(context.Context) (bool, error)) (bool, error) {
	done := false
	err := b.poll(ctx, func(ctx context.Context) (bool, error) {
		result, err := b.services.Jobs.Status(ctx, req.Name())
		if err != nil {
			b.logger.WarnContext(ctx, "job not read, trying again", "err", err)
			return false, nil
		}
		if done = result.Phase != jobs.PhaseMissing; done {
			return true, nil
		}
		done, err = settled(ctx)
		return true, err
	})
	return done, err
}

// judgeJob tells apart what an operation found from that it could not find out.
func judgeJob(r jobs.Result) (outcome, error) {
	switch {
	case r.Phase == jobs.PhaseSucceeded:
		return outcome{message: r.Message, findings: findings(r)}, nil
	case r.Phase == jobs.PhaseMissing:
		return outcome{}, inconclusive("Job %s is gone, its outcome is unknown", r.Job)
	case !r.Conclusive():
		return outcome{}, inconclusive("Job %s: %s", r.Job, r.Message)
	}
	return outcome{}, foundBadly(r)
}

// foundBadly is the failure of a step whose operation was carried out and ended badly.
func foundBadly(r jobs.Result) error {
	message := fmt.Sprintf("exit code %d: %s", r.ExitCode, r.Message)
	if r.Report.Hardware != "" {
		message = fmt.Sprintf("%s (exit code %d): %s", r.Report.Hardware, r.ExitCode, r.Message)
	}
	return &StepError{Status: ticket.Failed, Findings: findings(r), Message: message}
}

// findings returns what the operation of the Job reports.
func findings(r jobs.Result) ticket.Findings {
	if r.Report == nil {
		return ticket.Findings{}
	}
	return ticket.Findings{
		Code:     int(r.ExitCode),
		Hardware: r.Report.Hardware,
		Recovery: r.Report.Recovery,
		Refused:  len(r.Report.Refusals) > 0,
	}
}
