package election

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
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

// denied are Leases that no server tells of.
type denied struct {
	coordinationclient.LeasesGetter
	coordinationclient.LeaseInterface
}

func (d denied) Leases(string) coordinationclient.LeaseInterface { return d }

func (denied) Get(context.Context, string, metav1.GetOptions) (*coordinationv1.Lease, error) {
	return nil, errors.New("the API server is away")
}

// The elector of client-go logs where everything else does, in the same form.
func TestElectorLogsThroughTheLogger(t *testing.T) {
	t.Parallel()
	var own bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		c := New(Options{
			Client: denied{}, Namespace: "monitoring", Name: "aegis", Identity: "me",
			LeaseDuration: 15 * time.Second, RenewDeadline: 10 * time.Second, RetryPeriod: 2 * time.Second,
			Work:   func(context.Context, context.CancelCauseFunc) error { return nil },
			Logger: slog.New(slog.NewTextHandler(&own, nil)),
		})
		require.NoError(t, c.Run(ctx))
	})
	require.Contains(t, own.String(), `level=ERROR msg="Error retrieving lease lock" component=election identity=me`)
	require.Contains(t, own.String(), "the API server is away")
}
