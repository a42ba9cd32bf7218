package sop

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/sop/soptest"
	"aegis.io/aegis/ticket"
)

// A permission is as old as when it was given. What people have ordered while the pods could not be listed holds the Job that is ordered
// after that.
func TestPermissionOfAnHourAgoOrdersNoJob(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.raise("Reboot")
		// The process dies after it has journaled the boot, and before it orders it.
		ctx, die := context.WithCancelCause(t.Context())
		before := w.client.Before
		var refuseJobs, refusePods atomic.Bool
		refuseJobs.Store(true)
		w.client.Before = func(call soptest.Call) error {
			switch {
			case refuseJobs.Load() && call.Resource == "jobs" && call.Verb == soptest.VerbCreate && slices.Contains(w.journaled(), "reboot Running"):
				die(ErrLeaseLost)
				return ErrLeaseLost
			case refusePods.Load() && call.Resource == "pods" && call.Verb == soptest.VerbList:
				return apierrors.NewTimeoutError("the list of all pods takes too long", 0)
			}
			return before(call)
		}
		gone := w.process(ctx)
		require.ErrorIs(t, <-gone, ErrLeaseLost)
		refuseJobs.Store(false)
		refusePods.Store(true)
		require.Zero(t, w.jobs.count(protocol.ActionReboot))
		w.queue.Enqueue(nodeA)
		stop := w.start()
		defer stop()
		time.Sleep(10 * time.Minute)
		w.paused(true)
		time.Sleep(50 * time.Minute)
		require.Zero(t, w.jobs.count(protocol.ActionReboot))
		refusePods.Store(false)
		time.Sleep(10 * time.Minute)
		require.Zero(t, w.jobs.count(protocol.ActionReboot), "everything has been paused for an hour")
	})
}

// A list of the pods that takes long is as much time as any other: nothing is evicted under a pause that came meanwhile.
func TestPodsListedForLongAreNotEvictedUnderAPause(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy(), testPod("train", func(*corev1.Pod) {}))
		before := w.client.Before
		var listed atomic.Bool
		w.client.Before = func(call soptest.Call) error {
			if call.Resource == "pods" && call.Verb == soptest.VerbList && slices.Contains(w.journaled(), "drain Running") && listed.CompareAndSwap(false, true) {
				w.paused(true)
				time.Sleep(5 * time.Minute)
			}
			return before(call)
		}
		w.raise("Reboot")
		stop := w.start()
		defer stop()
		w.await("the drain runs", running(ticket.Drain))
		time.Sleep(20 * time.Minute)
		require.True(t, listed.Load())
		require.Contains(t, w.pods(), "train", "everything is paused")
	})
}
