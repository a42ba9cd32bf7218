package sop

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

func TestVerification(t *testing.T) {
	t.Parallel()
	const (
		f = prom.EvidenceFiring
		a = prom.EvidenceAbsent
		u = prom.EvidenceUnknown
		p = prom.EvidencePending
	)
	tests := []struct {
		name string
		// answers hold for a minute each, the last one for good; clear takes three minutes, the whole ten.
		answers []prom.Evidence
		// status is how the step ends, after so many minutes. Running is that it has not ended after an hour.
		status ticket.StepStatus
		after  int
	}{
		{"gone at once", []prom.Evidence{a}, ticket.Succeeded, 3},
		{"unknown restarts the clock", []prom.Evidence{a, a, u, a}, ticket.Succeeded, 6},
		{"pending is not gone", []prom.Evidence{a, a, p, a}, ticket.Succeeded, 6},
		{"never gone", []prom.Evidence{f}, ticket.Failed, 10},
		{"unknown does not count", []prom.Evidence{f, f, u}, ticket.Running, 60},
		{"unknown for a while does not count", []prom.Evidence{f, f, u, u, u, u, u, u, u, u, u, u, f}, ticket.Failed, 20},
		{"gone late is given its time", []prom.Evidence{f, f, f, f, f, f, f, f, f, a}, ticket.Succeeded, 12},
		{"an answer that is none does not end it", []prom.Evidence{f, f, f, f, f, f, f, f, f, a, a, u, a}, ticket.Succeeded, 15},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				step := testPolicy()
				step.ClearFor, step.VerifyWithin = 3*time.Minute, 10*time.Minute
				w := newWorld(t, step)
				w.table["test/look"] = func() SOP {
					return NewProcedure(func(ctx context.Context, b *ApiBridge) error {
						if err := b.Cordon(ctx); err != nil {
							return err
						}
						w.answer(tt.answers)
						err := b.Verify(ctx)
						if failure := (*StepError)(nil); err != nil && !errors.As(err, &failure) {
							return err
						}
						return b.HandOver(ctx, "gpu", "the end")
					})
				}
				w.raise("Look")
				stop := w.start()
				defer stop()
				w.await("the verification runs", running(ticket.Verify))
				began := time.Now()
				for w.stepOf(ticket.Verify).Status == ticket.Running && time.Since(began) < time.Hour {
					time.Sleep(time.Second)
				}
				require.Equal(t, tt.status, w.stepOf(ticket.Verify).Status)
				require.InDelta(t, tt.after, time.Since(began).Minutes(), 0.2)
				if tt.status == ticket.Running {
					require.Contains(t, w.record().Ticket.Hold, string(policy.VerdictUnverifiable))
				}
			})
		})
	}
}

// answer has the sources say one after the other of the answers, each for a minute and the last one for good.
func (w *world) answer(answers []prom.Evidence) {
	for i, answer := range answers {
		time.AfterFunc(time.Duration(i)*time.Minute, func() {
			w.source.set(prom.Finding{Evidence: answer, Permission: prom.PermissionGranted})
		})
	}
}
