package election

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// The pause after a failure grows, has a bound, and begins anew after a term that went well. A lost Lease is no failure.
func TestPausesGrowWithFailures(t *testing.T) {
	t.Parallel()
	p := pauses{retry: 2 * time.Second}
	failed := errors.New("failed")
	var got []time.Duration
	for range 7 {
		got = append(got, p.after(failed, time.Second))
	}
	second := time.Second
	require.Equal(t, []time.Duration{6 * second, 12 * second, 24 * second, 48 * second, 96 * second, 120 * second, 120 * second}, got)
	require.Equal(t, 2*second, p.after(ErrLost, second))
	require.Equal(t, 120*second, p.after(failed, goodTerm-1))
	require.Equal(t, 6*second, p.after(failed, goodTerm))
}

// candidate works without an election, and counts its terms.
func candidate(t *testing.T, work func(ctx context.Context, end context.CancelCauseFunc) error) *Candidate {
	t.Helper()
	return New(Options{Work: work, RetryPeriod: 2 * time.Second, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
}

// A process without an election works in terms as well.
func TestWorkThatFailsIsDoneAgain(t *testing.T) {
	t.Parallel()
	ends := map[string]func(ctx context.Context, end context.CancelCauseFunc) error{
		"it returns": func(context.Context, context.CancelCauseFunc) error { return nil },
		"it fails":   func(context.Context, context.CancelCauseFunc) error { return errors.New("no room") },
		"it panics":  func(context.Context, context.CancelCauseFunc) error { panic("no room") },
		"a part ends": func(ctx context.Context, end context.CancelCauseFunc) error {
			end(errors.New("no room"))
			<-ctx.Done()
			return nil
		},
	}
	for name, work := range ends {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				terms, began := 0, time.Now()
				c := candidate(t, func(ctx context.Context, end context.CancelCauseFunc) error {
					if terms++; terms < 3 {
						return work(ctx, end)
					}
					require.Equal(t, 18*time.Second, time.Since(began))
					cancel()
					<-ctx.Done()
					return nil
				})
				require.NoError(t, c.Run(ctx))
				require.Equal(t, 3, terms)
			})
		})
	}
}

// Work that does not end with its term ends the process.
func TestWorkThatDoesNotEndIsAnError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		wake := make(chan struct{})
		began := time.Now()
		c := candidate(t, func(_ context.Context, end context.CancelCauseFunc) error {
			end(errors.New("a lock is never given back"))
			<-wake
			return nil
		})
		err := c.Run(t.Context())
		require.ErrorIs(t, err, ErrStuck)
		require.ErrorContains(t, err, "a lock is never given back")
		require.Equal(t, stopWithin, time.Since(began))
		close(wake)
	})
}
