package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"aegis.io/aegis/e2e/aegis"
	"aegis.io/aegis/e2e/faultproxy"
)

// badAPI is what the proxy does to the calls of Aegis: 5 % fail, half of these after they were carried out.
func badAPI() faultproxy.Rates {
	return faultproxy.Rates{Refused: 0.025, Dropped: 0.025, Delayed: 0.03, Cut: 0.7}
}

// rage lets things go wrong for that time.
func (w *world) rage(misfortune time.Duration) {
	w.t.Helper()
	w.proxy.Misbehave(badAPI())
	w.eventLog.started = time.Now()
	ctx, cancel := context.WithTimeout(w.t.Context(), misfortune)
	defer cancel()
	var acting sync.WaitGroup
	acting.Go(w.newActor(ctx, w.random(1)).act)
	err := w.calamities(ctx)
	w.eventLog.ended = time.Now()
	acting.Wait()
	require.NoError(w.t, err)
}

// calamity takes a part of the cluster away and brings it back.
type calamity struct {
	name string
	// away is how long the part is gone at least and at most.
	least, most time.Duration
	begin, end  func(ctx context.Context) error
}

// calamities lets one calamity follow the other until the context ends. A part that cannot be brought back ends the test.
func (w *world) calamities(ctx context.Context) error {
	random := w.random(2)
	between := func(least, most time.Duration) time.Duration {
		return least + time.Duration(random.Int64N(int64(most-least)))
	}
	for pause(ctx, between(2*time.Second, 8*time.Second)) == nil {
		all := w.allCalamities(random.IntN(2))
		c := all[random.IntN(len(all))]
		if err := c.begin(ctx); err != nil {
			w.eventLog.note(c.name, err)
			continue
		}
		// The rest of the misfortune may be shorter.
		_ = pause(ctx, between(c.least, c.most)) //nolint:errcheck // Either way the part comes back now.
		back, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		err := c.end(back)
		cancel()
		w.eventLog.note(c.name, err)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return nil
}

// allCalamities returns what can happen; which is the replica of Alertmanager.
func (w *world) allCalamities(which int) []calamity {
	leader := -1
	ofLeader := func(do func(i int) error) func(context.Context) error {
		return func(ctx context.Context) error {
			if leader = w.leader(ctx); leader < 0 {
				return errNobody
			}
			return do(leader)
		}
	}
	nothing := func(context.Context) error { return nil }
	again := func(context.Context) error { return w.guard.launch(leader) }
	m := w.env.Monitoring
	return []calamity{
		{
			"leader killed", time.Second, 10 * time.Second,
			ofLeader(func(i int) error { return w.guard.kill(i, (*aegis.Aegis).Kill9) }), again,
		},
		{
			"leader upgraded", time.Second, 5 * time.Second,
			ofLeader(func(i int) error { return w.guard.kill(i, (*aegis.Aegis).Stop) }), again,
		},
		{
			"leader frozen for longer than its lease", 7 * time.Second, 14 * time.Second,
			ofLeader(func(i int) error { return w.env.Aegis[i].Signal(syscall.SIGSTOP) }),
			func(context.Context) error { return w.env.Aegis[leader].Signal(syscall.SIGCONT) },
		},
		{
			"API server killed", time.Second, 10 * time.Second,
			func(context.Context) error { return w.env.Cluster.KillAPIServer() }, w.startAPIServer,
		},
		{
			"Prometheus killed", 3 * time.Second, 15 * time.Second,
			w.blinding(m.KillPrometheus), w.seeing(m.StartPrometheus),
		},
		{
			"one Alertmanager killed", 2 * time.Second, 10 * time.Second,
			func(context.Context) error { return w.killAlertmanager(which) },
			func(ctx context.Context) error { return m.StartAlertmanager(ctx, which) },
		},
		{
			"both Alertmanagers killed", 3 * time.Second, 12 * time.Second,
			w.blinding(func() error {
				return errors.Join(w.killAlertmanager(0), w.killAlertmanager(1))
			}),
			w.seeing(func(ctx context.Context) error {
				return errors.Join(m.StartAlertmanager(ctx, 0), m.StartAlertmanager(ctx, 1))
			}),
		},
		{
			"Lease cleared", 5 * time.Second, 20 * time.Second,
			func(ctx context.Context) error { return w.clearLease(ctx) }, nothing,
		},
		{
			"Lease deleted", 5 * time.Second, 20 * time.Second,
			func(ctx context.Context) error {
				return w.client.CoordinationV1().Leases(leaseNamespace).Delete(ctx, leaseName, metav1.DeleteOptions{})
			}, nothing,
		},
		{
			"Job controller away", 20 * time.Second, 90 * time.Second,
			func(context.Context) error { return w.env.Cluster.PauseController() },
			func(context.Context) error { return w.env.Cluster.ResumeController() },
		},
		{
			"Prometheus empty", 3 * time.Second, 15 * time.Second,
			w.blinding(m.KillPrometheus), w.seeing(func(ctx context.Context) error {
				return errors.Join(m.EmptyPrometheus(), m.StartPrometheus(ctx))
			}),
		},
		{
			"catalogue reloaded", 3 * time.Second, 15 * time.Second,
			func(context.Context) error { return w.reload(strings.Replace(policies, "grace: 4s", "grace: 6s", 1)) },
			func(context.Context) error { return w.reload(policies) },
		},
		{
			"API server very bad", 3 * time.Second, 8 * time.Second,
			func(context.Context) error {
				w.proxy.Misbehave(faultproxy.Rates{Refused: 0.3, Dropped: 0.3, Delayed: 0.1, Cut: 1})
				return nil
			},
			func(context.Context) error { w.proxy.Misbehave(badAPI()); return nil },
		},
	}
}

const leaseNamespace, leaseName = "monitoring", "aegis"

// clearLease takes the holder out of the Lease of Aegis, as a person does who wants another replica to lead.
func (w *world) clearLease(ctx context.Context) error {
	_, err := w.client.CoordinationV1().Leases(leaseNamespace).Patch(ctx, leaseName, types.MergePatchType,
		[]byte(`{"spec":{"holderIdentity":""}}`), metav1.PatchOptions{})
	return err
}

// reload has the replicas that run read a catalogue that was changed.
func (w *world) reload(overlay string) error {
	var err error
	for _, a := range w.env.Aegis {
		err = errors.Join(err, os.WriteFile(a.ConditionsFile, []byte(overlay), 0o600))
		if a.Running() {
			err = errors.Join(err, a.Signal(syscall.SIGHUP))
		}
	}
	return err
}

// startAPIServer brings it back. Until it is ready, and a little longer, it denies what it has no cached rule for.
func (w *world) startAPIServer(ctx context.Context) error {
	w.eventLog.begin(startTimes)
	err := w.env.Cluster.StartAPIServer(ctx)
	w.eventLog.end(startTimes)
	return err
}

func (w *world) killAlertmanager(i int) error {
	err := w.env.Monitoring.KillAlertmanager(i)
	w.eventLog.forgetSilences(i)
	return err
}

// blinding takes a source away.
func (w *world) blinding(kill func() error) func(context.Context) error {
	return func(context.Context) error {
		err := kill()
		w.eventLog.begin(blindTimes)
		return err
	}
}

func (w *world) seeing(start func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		w.eventLog.end(blindTimes)
		return start(ctx)
	}
}

// leader returns which replica leads, -1 when none says so.
func (w *world) leader(ctx context.Context) int {
	for i, a := range w.env.Aegis {
		probe, cancel := context.WithTimeout(ctx, probeTimeout)
		value, err := a.Value(probe, "aegis_leader", nil)
		cancel()
		if err == nil && value == 1 {
			return i
		}
	}
	return -1
}

// calm ends all misfortune but the faults of the machines.
func (w *world) calm() {
	w.t.Helper()
	w.proxy.Misbehave(faultproxy.Rates{})
	for i := range w.env.Aegis {
		require.NoError(w.t, w.guard.launch(i))
	}
}
