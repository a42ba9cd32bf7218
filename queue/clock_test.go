package queue

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	clocktesting "k8s.io/utils/clock/testing"
)

// In these tests the wall stands still, so whoever reads it sees no time pass.

func TestQueueGoesByItsClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hands := clocktesting.NewFakeClock(time.Unix(1000, 0))
		q := New(Options{Clock: hands})
		q.Enqueue("n1")
		q.Enqueue("n2")
		for range 2 {
			require.NotEmpty(t, take(t, q).Node)
		}
		q.Done("n1", time.Hour)
		q.Done("n2", time.Minute)
		hands.Step(time.Minute)
		synctest.Wait()
		require.Equal(t, "n2", take(t, q).Node)
		require.Empty(t, take(t, q).Node)
		hands.Step(58 * time.Minute)
		synctest.Wait()
		require.Empty(t, take(t, q).Node)
		hands.Step(time.Minute)
		synctest.Wait()
		require.Equal(t, "n1", take(t, q).Node)

		o := firing("1", "n1", "A")
		o.StartsAt = time.Time{}
		q.Observe(o)
		s := only(t, q, "n1")
		require.Equal(t, hands.Now(), s.FirstSeen)
		require.Equal(t, hands.Now(), s.LastSeen)
		require.False(t, q.withdraw(s.Key(), hands.Now()))
		hands.Step(time.Second)
		require.True(t, q.withdraw(s.Key(), hands.Now()))
	})
}

func TestResyncGoesByItsClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		hands := clocktesting.NewFakeClock(time.Unix(1000, 0))
		w.resync.clock = hands
		w.run(t)
		require.Equal(t, 1, w.am0.asked())
		require.Equal(t, hands.Now(), w.resync.Last(keyA).At)
		hands.Step(defaultInterval - time.Second)
		synctest.Wait()
		require.Equal(t, 1, w.am0.asked())
		hands.Step(time.Second)
		synctest.Wait()
		require.Equal(t, 2, w.am0.asked())
		require.Equal(t, hands.Now(), w.resync.Last(keyA).At)
	})
}
