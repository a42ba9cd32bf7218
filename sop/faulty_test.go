package sop

import (
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/ticket"
)

// What makes Aegis panic on one node keeps it from none of the others, and is tried again.
func TestAPanicConcernsItsNodeAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, testPolicy(), testNode(nodeA, nodeUID), testNode("gpu-0002", "uid-2"))
		tries := 0
		// A visit asks the procedure whether it only notifies.
		w.table["test/poison"] = func() SOP { tries++; panic("index out of range") }
		w.raise("Poison")
		stop := w.start()
		time.Sleep(time.Minute)
		w.raiseOn("gpu-0002", "Isolate")
		w.await("the other node is isolated", func(ticket.Record) bool { return w.nodeNamed("gpu-0002").Spec.Unschedulable })
		require.Greater(t, tries, 3, "it is tried again")
		stop()
		faults := 0
		for len(w.events.Events) > 0 {
			if e := <-w.events.Events; strings.Contains(e, "AegisFault Aegis has a fault, and decides nothing on this node: index out of range") {
				faults++
			}
		}
		require.Equal(t, tries, faults)
	})
}

// A run that panics outside of its procedure gives its node back all the same.
func TestARunThatPanicsGivesItsNodeBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		d := w.dispatcher()
		w.queue.Enqueue(nodeA)
		node, _, err := w.queue.Next(t.Context())
		require.NoError(t, err)
		d.spawn(t.Context(), node, func() time.Duration { panic("index out of range") })
		again, _, err := w.queue.Next(t.Context())
		require.NoError(t, err)
		require.Equal(t, nodeA, again)
	})
}

// A part that ends takes the others with it: nobody decides without following the orders.
func TestAPartThatEndsEndsTheDispatcher(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		var broken atomic.Bool
		identify := func() string {
			if broken.Load() {
				panic("no name")
			}
			return ""
		}
		d := w.dispatcher()
		d.services.Orders = NewOrderStore(OrderStoreOptions{
			Client: w.client.CoordinationV1(), Namespace: "monitoring", Name: ticket.Self, Identity: identify,
		})
		ended := make(chan error, 1)
		go func() { ended <- d.Run(t.Context()) }()
		time.Sleep(time.Minute)
		_, busy := d.Busy()
		require.False(t, busy, "it waits for a node")
		broken.Store(true)
		err := <-ended
		require.ErrorIs(t, err, ErrStopping)
		require.ErrorContains(t, err, "its part orders panicked: no name")
	})
}
