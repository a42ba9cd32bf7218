package sop

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/sop/soptest"
	"aegis.io/aegis/ticket"
)

// orderStore returns a store of the orders on a Lease with the annotations, which the holder holds.
func orderStore(identity, holder string, annotations map[string]string) (*OrderStore, *soptest.Client) {
	cluster := soptest.New(soptest.Options{Election: ticket.Self})
	cluster.Do(func() {
		cluster.Elect(holder)
		for key, text := range annotations {
			cluster.EditLease(key, text)
		}
	})
	client := cluster.NewClient()
	return NewOrderStore(OrderStoreOptions{
		Client: client.CoordinationV1(), Namespace: "monitoring", Name: ticket.Self, Identity: func() string { return identity },
	}), client
}

// withoutLease takes the Lease away.
func withoutLease(client *soptest.Client) {
	client.Cluster().Do(func() { client.Cluster().Lease = nil })
}

// verbs are those of the calls that the client makes meanwhile.
func verbs(client *soptest.Client, meanwhile func()) (verbs []soptest.Verb) {
	before := len(client.Calls())
	meanwhile()
	for _, call := range client.Calls()[before:] {
		verbs = append(verbs, call.Verb)
	}
	return verbs
}

func TestOrdersAreReadFromTheLease(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	tests := []struct {
		name        string
		annotations map[string]string
		want        policy.Orders
		err         string
	}{
		{"none", nil, policy.Orders{}, ""},
		{"other annotations", map[string]string{"a": "b"}, policy.Orders{}, ""},
		{
			"paused by the API",
			map[string]string{PausedAnnotation: `{"by":"alice","reason":"move","at":"2026-11-23T12:00:00Z"}`},
			policy.Orders{Pause: &policy.Order{By: "alice", Reason: "move", At: at}},
			"",
		},
		{"paused with kubectl", map[string]string{PausedAnnotation: "moving the racks"}, policy.Orders{Pause: &policy.Order{Reason: "moving the racks"}}, ""},
		{"a pause that is cut off is a pause", map[string]string{PausedAnnotation: `{"by":"ali`}, policy.Orders{Pause: &policy.Order{Reason: `{"by":"ali`}}, ""},
		{"a pause ended with kubectl", map[string]string{PausedAnnotation: "false"}, policy.Orders{}, ""},
		{
			"modes",
			map[string]string{ModesAnnotation: `{"GpuHung":{"mode":"observe","by":"bob"}}`},
			policy.Orders{Modes: map[string]policy.ModeOrder{"GpuHung": {Mode: prom.ModeObserve, Order: policy.Order{By: "bob"}}}},
			"",
		},
		{
			"an unknown mode",
			map[string]string{ModesAnnotation: `{"GpuHung":{"mode":"never"}}`},
			policy.Orders{},
			`orders on the Lease: annotation aegis.io/modes: GpuHung has the mode "never": use off, observe, approve or auto`,
		},
		{"broken modes", map[string]string{ModesAnnotation: `GpuHung=off`}, policy.Orders{}, "annotation aegis.io/modes: invalid character"},
		{
			"storms",
			map[string]string{StormsAnnotation: `[{"condition":"GpuHung","pool":"a100","since":"2026-11-23T12:00:00Z","nodes":50,"limit":20}]`},
			policy.Orders{Storms: []policy.Storm{{Condition: "GpuHung", Pool: "a100", Since: at, Nodes: 50, Limit: 20}}},
			"",
		},
		{"broken storms", map[string]string{StormsAnnotation: `{}`}, policy.Orders{}, "annotation aegis.io/storms: json"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			store, client := orderStore("me", "me", tt.annotations)
			got, err := store.Read(t.Context())
			require.NoError(t, err)
			if tt.err != "" {
				require.Contains(t, got.Pause.Reason, tt.err, "what cannot be read might be a pause")
				calls := verbs(client, func() {
					require.ErrorIs(t, store.Update(t.Context(), func(*policy.Orders) error { return nil }), ErrOrders)
				})
				require.Equal(t, []soptest.Verb{soptest.VerbGet}, calls, "what cannot be read is not written over")
				return
			}
			require.Equal(t, tt.want, got)
			require.Equal(t, tt.want, store.Last())
		})
	}
}

func TestOrdersAreWrittenOnTheLease(t *testing.T) {
	t.Parallel()
	store, client := orderStore("me", "me", map[string]string{"site": "x"})
	conflicts := 0
	client.Before = func(call soptest.Call) error {
		if call.Verb != soptest.VerbPatch || conflicts == 2 {
			return nil
		}
		conflicts++
		return apierrors.NewConflict(coordinationv1.Resource("leases"), ticket.Self, errors.New("renewed"))
	}
	require.NoError(t, store.Update(t.Context(), func(o *policy.Orders) error {
		o.Pause = &policy.Order{By: "alice", Reason: "move"}
		return nil
	}))
	written, err := client.CoordinationV1().Leases("monitoring").Get(t.Context(), ticket.Self, metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, map[string]string{"site": "x", PausedAnnotation: `{"by":"alice","reason":"move"}`}, written.Annotations)
	require.Equal(t, "me", *written.Spec.HolderIdentity)

	require.NoError(t, store.Update(t.Context(), func(o *policy.Orders) error {
		o.Pause = nil
		return nil
	}))
	require.Nil(t, store.Last().Pause)
	calls := verbs(client, func() { require.NoError(t, store.Update(t.Context(), func(*policy.Orders) error { return nil })) })
	require.Equal(t, []soptest.Verb{soptest.VerbGet}, calls, "nothing to write")
}

func TestOrdersNeedTheLease(t *testing.T) {
	t.Parallel()
	store, _ := orderStore("me", "another", nil)
	_, err := store.Read(t.Context())
	require.ErrorIs(t, err, ErrLeaseLost)
	require.ErrorIs(t, store.Update(t.Context(), func(*policy.Orders) error { return nil }), ErrLeaseLost)

	none, client := orderStore("me", "me", nil)
	withoutLease(client)
	_, err = none.Read(t.Context())
	require.ErrorIs(t, err, ErrOrders)

	alone, client := orderStore("", "", nil)
	withoutLease(client)
	_, err = alone.Read(t.Context())
	require.NoError(t, err, "without an election the Lease is made for the orders")
	_, err = client.CoordinationV1().Leases("monitoring").Get(t.Context(), ticket.Self, metav1.GetOptions{})
	require.NoError(t, err)
}

// An order reaches a procedure in the middle of it, and its end lets the procedure go on.
func TestOrdersReachARunningProcedure(t *testing.T) {
	t.Parallel()
	pause := policy.Order{By: "alice", Reason: "moving racks"}
	tests := []struct {
		name      string
		give, end func(ctx context.Context, w *world) error
		hold      string
	}{
		{
			"pause",
			func(ctx context.Context, w *world) error { return w.d.Pause(ctx, pause) },
			func(ctx context.Context, w *world) error { return w.d.Resume(ctx, "alice") },
			"paused: everything is paused by alice: moving racks",
		},
		{
			"pause with kubectl",
			func(_ context.Context, w *world) error { return w.annotateLease(PausedAnnotation, "racks") },
			func(_ context.Context, w *world) error { return w.annotateLease(PausedAnnotation, "") },
			"paused: everything is paused: racks",
		},
		{
			"orders that cannot be read",
			func(_ context.Context, w *world) error { return w.annotateLease(ModesAnnotation, "observe") },
			func(_ context.Context, w *world) error { return w.annotateLease(ModesAnnotation, "") },
			"paused: everything is paused: orders on the Lease: annotation aegis.io/modes",
		},
		{
			"mode observe",
			func(ctx context.Context, w *world) error { return w.d.SetMode(ctx, "Reboot", prom.ModeObserve, pause) },
			func(ctx context.Context, w *world) error { return w.d.ResetMode(ctx, "Reboot", "alice") },
			"observe: its mode is now observe",
		},
		{
			"mode off",
			func(ctx context.Context, w *world) error { return w.d.SetMode(ctx, "Reboot", prom.ModeOff, pause) },
			func(ctx context.Context, w *world) error { return w.d.SetMode(ctx, "Reboot", prom.ModeAuto, pause) },
			"ignored: its mode is now off",
		},
		{
			"mode approve",
			func(ctx context.Context, w *world) error { return w.d.SetMode(ctx, "Reboot", prom.ModeApprove, pause) },
			func(ctx context.Context, w *world) error {
				_, err := w.d.Approve(ctx, policy.NodeOrder{Node: nodeA, Condition: "Reboot", By: "alice"})
				return err
			},
			"awaiting_approval: mode approve: waits for a person to approve the repair",
		},
		{
			"maintenance window",
			func(_ context.Context, w *world) error {
				return w.setWindow("00:00", "00:01")
			},
			func(_ context.Context, w *world) error { return w.setWindow("00:00", "24:00") },
			"paused: outside the maintenance windows of pool test, the next one opens at",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := newWorld(t, testPolicy())
				// The bubble begins at midnight.
				time.Sleep(time.Hour)
				w.jobs.effect = func(r jobs.Request) {
					switch r.Action {
					case protocol.ActionDiagnose:
						if err := tt.give(t.Context(), w); err != nil {
							t.Error(err)
						}
					case protocol.ActionReboot:
						w.source.gone()
					}
				}
				w.raise("Reboot")
				stop := w.start()
				w.await("held", func(r ticket.Record) bool { return r.Ticket != nil && r.Ticket.Hold != "" })
				require.Contains(t, w.record().Ticket.Hold, tt.hold)
				time.Sleep(time.Hour)
				require.Zero(t, w.jobs.count(protocol.ActionReboot))
				require.NoError(t, tt.end(t.Context(), w))
				w.await("resolved", resolved)
				require.Equal(t, 1, w.jobs.count(protocol.ActionReboot))
				stop()
			})
		})
	}
}

func (w *world) annotateLease(key, text string) error {
	w.cluster.Do(func() { w.cluster.EditLease(key, text) })
	return nil
}

// elect makes another process the leader.
func (w *world) elect(identity string) { w.cluster.Do(func() { w.cluster.Elect(identity) }) }

func (w *world) setWindow(from, to string) error {
	window, err := policy.ParseWindow(nil, from, to, "")
	w.setSettings(func(s *policy.Settings) { s.Pools[0].Windows = []policy.Window{window} })
	return err
}

// A pause holds what has not begun, is told on the node, and outlives the process.
func TestPauseOutlivesTheProcess(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		stop := w.start()
		time.Sleep(time.Second)
		require.NoError(t, w.d.Pause(t.Context(), policy.Order{By: "alice", Reason: "racks"}))
		stop()
		w.raise("Reboot")
		stop = w.start()
		w.await("paused", func(ticket.Record) bool { return w.verdict("Reboot") == policy.VerdictPaused })
		time.Sleep(time.Hour)
		require.Nil(t, w.record().Ticket)
		require.NoError(t, w.d.Resume(t.Context(), "alice"))
		began := time.Now()
		w.await("begun", func(r ticket.Record) bool { return r.Ticket != nil })
		require.Less(t, time.Since(began), 3*time.Second, "the end of a pause is not waited for")
		stop()
	})
}

// A leader that was frozen while another one took the Lease begins nothing when it wakes, not even a cordon, and ends its work.
func TestFrozenLeaderEnds(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.identity = "old"
		w.elect("old")
		ended := w.process(t.Context())
		time.Sleep(time.Minute)
		w.elect("new")
		require.ErrorIs(t, <-ended, ErrLeaseLost)

		store, _ := orderStore("old", "new", nil)
		require.ErrorIs(t, store.Confirm(t.Context(), time.Minute), ErrLeaseLost, "never read")
		mine, client := orderStore("old", "old", nil)
		confirm := func() { require.NoError(t, mine.Confirm(t.Context(), time.Minute)) }
		confirm()
		require.Empty(t, verbs(client, confirm), "read a moment ago")
		time.Sleep(time.Minute)
		require.Len(t, verbs(client, confirm), 1)
	})
}

// A leader that lost the Lease without knowing it begins nothing destructive.
func TestLostLeaseFences(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.identity = "old"
		w.elect("old")
		w.jobs.effect = func(r jobs.Request) {
			if r.Action == protocol.ActionDiagnose {
				w.elect("new")
			}
		}
		w.raise("Reboot")
		ended := w.process(t.Context())
		w.await("diagnosed", func(ticket.Record) bool { return w.jobs.count(protocol.ActionDiagnose) == 1 })
		time.Sleep(time.Hour)
		require.Zero(t, w.jobs.count(protocol.ActionReboot))
		require.Empty(t, w.record().Ticket.Count(ticket.Drain))
		require.ErrorIs(t, <-ended, ErrLeaseLost)
	})
}

// A permission is not good for ever: a step whose journal entry took minutes to be written asks again before it acts.
func TestPermissionAges(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		// Cordon is one write, diagnose and drain are two each: the sixth one journals the reboot.
		var outage time.Time
		w.onWrite = func(n int) error {
			if n == 6 {
				outage = time.Now()
				w.source.set(prom.Finding{Evidence: prom.EvidenceFiring, Permission: prom.PermissionSilenced})
			}
			if n >= 6 && time.Since(outage) < 10*time.Minute {
				return apierrors.NewInternalError(errors.New("etcdserver: no leader"))
			}
			return nil
		}
		w.raise("Reboot")
		stop := w.start()
		w.await("held", func(ticket.Record) bool { return w.verdict("Reboot") == policy.VerdictSilenced })
		time.Sleep(time.Hour)
		require.Zero(t, w.jobs.count(protocol.ActionReboot))
		require.Equal(t, 1, w.record().Ticket.Count(ticket.Reboot))
		stop()
	})
}

// The same goes for the write that is the act itself.
func TestPermissionOfATaintAges(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		node := testNode(nodeA, nodeUID)
		setReady(node, corev1.ConditionUnknown)
		node.Annotations = map[string]string{PowerStateAnnotation: "off@" + time.Now().UTC().Format(time.RFC3339)}
		w := newWorld(t, testPolicy(), node, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: nodeA},
			Spec:       coordinationv1.LeaseSpec{RenewTime: &metav1.MicroTime{Time: time.Now().Add(-time.Minute)}},
		})
		var outage time.Time
		w.onWrite = func(int) error {
			if !slices.Contains(w.journaled(), "taint Running") {
				return nil
			}
			if outage.IsZero() {
				outage = time.Now()
				w.source.set(prom.Finding{Evidence: prom.EvidenceFiring, Permission: prom.PermissionSilenced})
			}
			if time.Since(outage) < 10*time.Minute {
				return apierrors.NewInternalError(errors.New("etcdserver: no leader"))
			}
			return nil
		}
		w.raise("Ready")
		stop := w.start()
		defer stop()
		w.await("held", func(ticket.Record) bool { return w.verdict("Ready") == policy.VerdictSilenced })
		time.Sleep(time.Hour)
		require.Equal(t, 1, w.record().Ticket.Count(ticket.Taint))
		require.Empty(t, w.node().Spec.Taints)
		w.source.set(prom.Finding{Evidence: prom.EvidenceFiring, Permission: prom.PermissionGranted})
		w.await("tainted", func(r ticket.Record) bool { return slices.Contains(r.Node.Spec.Taints, *outOfServiceTaint()) })
	})
}

// The mode that people have ordered is the one that decisions are made by.
func TestModeOrderIsSeenByDecisions(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := testPolicy()
		p.Mode = prom.ModeObserve
		w := newWorld(t, p)
		w.raise("Reboot")
		stop := w.start()
		w.await("observed", func(ticket.Record) bool { return w.verdict("Reboot") == policy.VerdictObserve })
		time.Sleep(time.Minute)
		require.NoError(t, w.d.SetMode(t.Context(), "Reboot", prom.ModeAuto, policy.Order{By: "alice"}))
		w.await("cordoned", func(r ticket.Record) bool { return r.Node.Spec.Unschedulable })
		stop()
	})
}

// Anybody who may edit the Lease can write these texts. What is read is written back as the same orders.
func FuzzOrders(f *testing.F) {
	f.Add("moving", `{"GpuHung":{"mode":"observe","by":"bob"}}`, `[{"condition":"GpuHung","pool":"a","nodes":5,"limit":2}]`)
	f.Add(`{"by":"alice"}`, "", "")
	f.Add("null", "null", "null")
	f.Fuzz(func(t *testing.T, paused, modes, storms string) {
		if !utf8.ValidString(paused) {
			return // The API server takes no such text.
		}
		annotations := map[string]string{PausedAnnotation: paused, ModesAnnotation: modes, StormsAnnotation: storms}
		orders, err := parseOrders(annotations)
		if err != nil {
			require.ErrorIs(t, err, ErrOrders)
			return
		}
		require.Equal(t, paused != "" && paused != "false", orders.Pause != nil, "a pause is never overlooked")
		texts, err := orderTexts(orders)
		if err != nil {
			return // A time that JSON cannot hold.
		}
		again, err := parseOrders(texts)
		require.NoError(t, err)
		rewritten, err := orderTexts(again)
		require.NoError(t, err)
		require.Equal(t, texts, rewritten)
	})
}
