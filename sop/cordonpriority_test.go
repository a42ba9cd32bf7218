package sop

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/utils/clock"

	"github.com/stretchr/testify/require"
)

func TestCordonPriority(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newCordonPriority(clock.RealClock{})
		waited := func(ctx context.Context) time.Duration {
			began := time.Now()
			p.giveWay(ctx)
			return time.Since(began)
		}
		require.Zero(t, waited(t.Context()), "nothing is pending")

		first, second := p.enter(), p.enter()
		time.AfterFunc(time.Second, first)
		time.AfterFunc(1500*time.Millisecond, second)
		require.Equal(t, 1500*time.Millisecond, waited(t.Context()), "until the last isolation is done")
		first()
		require.Zero(t, waited(t.Context()), "done twice is done once")

		stuck := p.enter()
		require.Equal(t, cordonPriorityWait, waited(t.Context()), "a stuck isolation holds nobody for long")
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		require.Zero(t, waited(ended))
		stuck()
		require.Zero(t, waited(t.Context()))
	})
}
