package sop

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/queue"
	"aegis.io/aegis/queue/source"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// slowSource is a Prometheus or an Alertmanager that takes its time and has alerts of some devices.
type slowSource struct {
	takes  time.Duration
	alerts map[string]prom.AlertState
	asked  *atomic.Int64
}

func (s slowSource) Alerts(context.Context) (alerts []prom.Alert, err error) {
	s.asked.Add(1)
	time.Sleep(s.takes)
	for device, state := range s.alerts {
		alerts = append(alerts, prom.Alert{
			Labels: map[string]string{"node": nodeA, "device": device}, State: state, Fingerprint: deviceAlert(device), StartsAt: time.Now(),
		})
	}
	return alerts, nil
}

func (s slowSource) Silences(context.Context) ([]source.Silence, error) { return nil, nil }

func (s slowSource) Evidence(_ context.Context, r source.EvidenceRequest) (seen []source.Sighting, err error) {
	for _, name := range r.Names {
		seen = append(seen, source.Sighting{Labels: map[string]string{"node": name}})
	}
	return seen, nil
}

func deviceAlert(device string) string { return nodeA + "/" + device }

// deviceClassifier takes every alert for a reset of the device that it names.
type deviceClassifier struct{ *world }

func (c deviceClassifier) Classify(a prom.Alert) (prom.Observation, error) {
	return prom.Observation{
		Fingerprint: a.Fingerprint, Status: c.Status(a.Labels["node"], "Reset", a.Labels["device"], 0), Firing: true, StartsAt: a.StartsAt, Labels: a.Labels,
	}, nil
}

// devices are how many the tests have on node A, and answer is how long a source takes.
const (
	devices = 50
	answer  = 5 * time.Second
)

// ask has the world asked by a real resync, of whose devices only the named ones fire. The others are pending. The returned counter says
// how many passes there have been.
func (w *world) ask(fires ...string) (passes *atomic.Int64) {
	passes = new(atomic.Int64)
	known, listed := make(map[string]prom.AlertState), make(map[string]prom.AlertState)
	for i := range devices {
		known[deviceName(i)] = prom.StatePending
	}
	for _, device := range fires {
		known[device], listed[device] = prom.StateFiring, prom.StateActive
	}
	resync, err := queue.NewResync(queue.ResyncOptions{
		Queue: w.queue, Prometheus: slowSource{answer, known, passes}, Classifier: deviceClassifier{w}, Interval: time.Hour,
		Alertmanagers: map[string]queue.AlertSource{"am": slowSource{answer, listed, new(atomic.Int64)}},
	})
	require.NoError(w.t, err)
	w.asks = resync
	ctx, cancel := context.WithCancel(w.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- resync.Run(ctx) }()
	w.stopAsking = func() {
		cancel()
		require.NoError(w.t, <-ended)
	}
	for !resync.Synced() {
		time.Sleep(time.Second)
	}
	time.Sleep(2 * recentFinding)
	return passes
}

func deviceName(i int) string { return fmt.Sprintf("%02d", i) }

// raiseDevices reports a reset of all devices.
func (w *world) raiseDevices() {
	for i := range devices {
		w.queue.Observe(prom.Observation{
			Fingerprint: deviceAlert(deviceName(i)), Status: w.Status(nodeA, "Reset", deviceName(i), 0), Firing: true, StartsAt: time.Now(),
		})
	}
}

// What waits for a confirmation on a node shares one: the devices whose alerts do not fire are not asked for one after the other.
func TestUnconfirmedDevicesShareAConfirmation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		passes := w.ask()
		defer w.stopAsking()
		asked := passes.Load()
		w.raiseDevices()
		stop := w.start()
		defer stop()
		began := time.Now()
		w.await("a verdict on each", func(ticket.Record) bool {
			unconfirmed := 0
			for _, d := range w.verdicts.Node(nodeA) {
				if d.Verdict.Name == policy.VerdictUnconfirmed {
					unconfirmed++
				}
			}
			return unconfirmed == devices
		})
		require.LessOrEqual(t, passes.Load()-asked, int64(2))
		require.LessOrEqual(t, time.Since(began), 2*answer+2*time.Second)
	})
}

// The last of many devices is repaired as soon as the others are refused.
func TestTheConfirmedDeviceOfManyIsRepaired(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.raiseDevices()
		w.ask(deviceName(devices - 1))
		defer w.stopAsking()
		stop := w.start()
		defer stop()
		began := time.Now()
		w.await("the cordon", func(r ticket.Record) bool { return r.Ticket != nil && r.Node.Spec.Unschedulable })
		require.Equal(t, deviceName(devices-1), w.record().Ticket.Device)
		require.LessOrEqual(t, time.Since(began), 2*answer+2*time.Second)
	})
}

// An answer from before the visit confirms nothing, however short ago it was given.
func TestAnOlderAnswerConfirmsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		passes := w.ask(deviceName(0))
		defer w.stopAsking()
		w.raiseDevices()
		asked := passes.Load()
		stop := w.start()
		defer stop()
		w.await("the cordon", func(r ticket.Record) bool { return r.Ticket != nil && r.Node.Spec.Unschedulable })
		require.Greater(t, passes.Load(), asked)
	})
}

// An alert that may be of another cluster cordons nothing, however fresh its webhook is. Elsewhere that is enough while the sources are silent.
func TestAnAlertOfWhoKnowsWhichClusterCordonsNothing(t *testing.T) {
	t.Parallel()
	for permission, cordons := range map[prom.Permission]bool{prom.PermissionAmbiguous: false, prom.PermissionUnknown: true} {
		t.Run(string(permission), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, testPolicy())
				w.source.set(prom.Finding{Evidence: prom.EvidenceUnknown, Permission: permission, Reason: "set cluster"})
				stop := w.start()
				defer stop()
				w.raise("Reboot")
				time.Sleep(time.Minute)
				require.Equal(t, cordons, w.node().Spec.Unschedulable)
				if !cordons {
					require.Equal(t, policy.VerdictAmbiguous, w.verdict("Reboot"))
				}
			})
		})
	}
}
