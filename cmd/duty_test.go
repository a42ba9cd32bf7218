package cmd

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/utils/clock"
)

// dutyOf returns a duty that allows a minute, over a queue and a dispatcher of which nothing is due.
func dutyOf() *duty {
	none := func() (time.Time, bool) { return time.Time{}, false }
	return &duty{clock: clock.RealClock{}, most: time.Minute, oldest: none, busy: none}
}

// What is due counts from when it was due, but not from before the term: nobody has decided then.
func TestDutyCountsWhatIsDueInTheTerm(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, start := dutyOf(), time.Now()
		d.oldest = func() (time.Time, bool) { return start, true }
		time.Sleep(time.Hour)
		require.Zero(t, d.overdue(), "it does not lead")

		end := d.begin()
		d.decides.Store(true)
		require.Zero(t, d.overdue())
		time.Sleep(10 * time.Second)
		require.Equal(t, 10*time.Second, d.overdue())
		d.oldest = func() (time.Time, bool) { return time.Now().Add(-3 * time.Second), true }
		require.Equal(t, 3*time.Second, d.overdue())
		d.busy = func() (time.Time, bool) { return time.Now().Add(-7 * time.Second), true }
		require.Equal(t, 7*time.Second, d.overdue(), "a visit that does not end counts without anything else that is due")
		end()
		require.Zero(t, d.overdue())

		defer d.begin()()
		d.oldest, d.busy = dutyOf().oldest, dutyOf().busy
		time.Sleep(time.Minute)
		require.Empty(t, d.neglected())
		time.Sleep(time.Second)
		require.Equal(t, "a decision has been due for 1m1s, and at most 1m0s are allowed", d.neglected(), "it has not begun to decide")
		d.decides.Store(true)
		require.Empty(t, d.neglected())
	})
}

// A queue whose lock is never given back cannot say that anything is due.
func TestDutyTakesNoAnswerForNeglect(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, locked, began := dutyOf(), make(chan struct{}), time.Now()
		d.oldest = func() (time.Time, bool) { <-locked; return time.Time{}, false }
		defer d.begin()()
		d.decides.Store(true)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		err := d.watch(ctx)
		require.ErrorIs(t, err, errStalled)
		require.ErrorContains(t, err, "the queue has not answered for 1m6s")
		require.Equal(t, 72*time.Second, time.Since(began))
		close(locked)
	})
}
