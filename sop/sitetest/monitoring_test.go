package sitetest_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/queue"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/sop/sitetest"
	"aegis.io/aegis/ticket"
)

const hungGPU = "GpuHung"

// cordoned reports whether Aegis has begun to isolate the node.
func cordoned(r ticket.Record) bool { return r.Node.Spec.Unschedulable }

// raise begins a fault that the story ends.
func raise(w *sitetest.Site) {
	key := w.Raise(hungGPU, "", 0)
	w.Cluster.Do(func() { w.Fault = key })
}

func TestPrometheusPermits(t *testing.T) {
	sitetest.At(t, func(t *testing.T) {
		w := sitetest.New(t, sitetest.Catalogue(t, ""), hungGPU, sitetest.Story{FixedBy: "reboot"})
		w.Watch(sitetest.Monitoring{Permission: queue.PermitPrometheus})
		steps, end := w.Play(hungGPU)
		require.Equal(t, sitetest.Isolate+"drain, reboot, "+sitetest.Fit, steps)
		require.Equal(t, "resolved", end)
	})
}

func TestWithoutAlertmanagerNothingIsPermitted(t *testing.T) {
	sitetest.At(t, func(t *testing.T) {
		w := sitetest.New(t, sitetest.Catalogue(t, ""), hungGPU, sitetest.Story{FixedBy: "reboot"})
		w.Watch(sitetest.Monitoring{})
		stop := w.Start()
		w.Raise(hungGPU, "", 0)
		time.Sleep(time.Hour)
		require.True(t, w.Untouched())
		stop()
	})
}

func TestAlertmanagerIsAway(t *testing.T) {
	isolate := sitetest.Monitoring{Alertmanager: true, Away: queue.AwayIsolate}
	tests := map[string]struct {
		monitoring sitetest.Monitoring
		isolated   bool
	}{
		"hold":    {sitetest.Monitoring{Alertmanager: true}, false},
		"isolate": {isolate, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			sitetest.At(t, func(t *testing.T) {
				w := sitetest.New(t, sitetest.Catalogue(t, ""), hungGPU, sitetest.Story{FixedBy: "reboot"})
				w.Watch(tt.monitoring)
				began := time.Now()
				stop := w.Start()
				w.SetAlertmanager(false)
				raise(w)
				if tt.isolated {
					w.Await("isolated", cordoned)
					require.GreaterOrEqual(t, time.Since(began), queue.DefaultAwayAfter, "a short absence is none")
				}
				time.Sleep(time.Hour)
				require.Equal(t, tt.isolated, cordoned(w.Record()))
				require.Zero(t, w.Evicted())
				require.NotContains(t, w.Ordered(), "reboot")
				if tt.isolated {
					verdict := w.Verdict(hungGPU)
					require.Equal(t, policy.VerdictUnverifiable, verdict.Name)
					require.Contains(t, verdict.Reason, "the node may be isolated and nothing more until Alertmanager answers: no Alertmanager has answered since 2000-01-01T00:00:00Z")
				}
				w.SetAlertmanager(true)
				w.Await("resolved", w.Over)
				require.Equal(t, "resolved", w.Outcome())
				stop()
			})
		})
	}
}

// What Prometheus stops to report while Alertmanager is away is isolated no more, and what is isolated waits for Alertmanager.
func TestNothingIsIsolatedOnWhatHasEnded(t *testing.T) {
	sitetest.At(t, func(t *testing.T) {
		w := sitetest.New(t, sitetest.Catalogue(t, ""), hungGPU, sitetest.Story{})
		w.Watch(sitetest.Monitoring{Alertmanager: true, Away: queue.AwayIsolate})
		stop := w.Start()
		w.SetAlertmanager(false)
		key := w.Raise(hungGPU, "", 0)
		time.Sleep(queue.DefaultAwayAfter - time.Minute)
		w.End(key)
		time.Sleep(time.Hour)
		require.True(t, w.Untouched())
		stop()
	})
}

// An Alertmanager that dies in the middle of a repair stops it before its next disruptive step, whatever is configured.
func TestAlertmanagerDiesInTheMiddle(t *testing.T) {
	for _, choice := range queue.AwayChoices() {
		t.Run(string(choice), func(t *testing.T) {
			sitetest.At(t, func(t *testing.T) {
				w := sitetest.New(t, sitetest.Catalogue(t, ""), hungGPU, sitetest.Story{FixedBy: "reboot"})
				w.Watch(sitetest.Monitoring{Alertmanager: true, Away: choice})
				stop := w.Start()
				raise(w)
				for !cordoned(w.Record()) {
					time.Sleep(sitetest.JobTime / 10) // The drain comes after the Job of the diagnosis.
				}
				w.SetAlertmanager(false)
				time.Sleep(2 * time.Hour)
				require.Zero(t, w.Evicted())
				require.NotContains(t, w.Ordered(), "reboot")
				require.Equal(t, policy.VerdictUnverifiable, w.Verdict(hungGPU).Name)
				w.SetAlertmanager(true)
				w.Await("resolved", w.Over)
				require.Equal(t, "resolved", w.Outcome())
				stop()
			})
		})
	}
}

// A silence of Aegis' own holds a repair back until it ends, whoever permits it.
func TestASilenceHolds(t *testing.T) {
	quiet := func(t *testing.T, w *sitetest.Site, d time.Duration) policy.Silence {
		t.Helper()
		s, err := w.Dispatcher.Silence(t.Context(), policy.Silence{
			Matchers: []string{`node=~"gpu-.*"`, `alertname="GpuHung"`}, EndsAt: time.Now().Add(d), CreatedBy: "alice", Comment: "riser swap",
		})
		require.NoError(t, err)
		return s
	}
	tests := map[string]sitetest.Monitoring{
		"Prometheus permits":   {Permission: queue.PermitPrometheus},
		"Alertmanager permits": {Alertmanager: true},
	}
	for name, monitoring := range tests {
		site := func(t *testing.T) (w *sitetest.Site, stop func()) {
			t.Helper()
			w = sitetest.New(t, sitetest.Catalogue(t, ""), hungGPU, sitetest.Story{FixedBy: "reboot"})
			w.Watch(monitoring)
			return w, w.Start()
		}
		t.Run(name+", it ends", func(t *testing.T) {
			sitetest.At(t, func(t *testing.T) {
				w, stop := site(t)
				s := quiet(t, w, 2*time.Hour)
				raise(w)
				time.Sleep(119 * time.Minute)
				require.True(t, w.Untouched())
				require.Equal(t, policy.Verdict{
					Name:   policy.VerdictSilenced,
					Reason: "the alert is silenced: silence " + s.ID + " of Aegis by alice until " + s.EndsAt.Format(time.RFC3339) + ": riser swap",
				}, w.Verdict(hungGPU))
				w.Await("resolved", w.Over)
				require.Equal(t, "resolved", w.Outcome())
				stop()
			})
		})
		t.Run(name+", it comes in the middle and is deleted", func(t *testing.T) {
			sitetest.At(t, func(t *testing.T) {
				w, stop := site(t)
				raise(w)
				for !cordoned(w.Record()) {
					time.Sleep(sitetest.JobTime / 10)
				}
				s := quiet(t, w, 24*time.Hour)
				time.Sleep(2 * time.Hour)
				require.Zero(t, w.Evicted())
				require.NotContains(t, w.Ordered(), "reboot")
				require.Equal(t, policy.VerdictSilenced, w.Verdict(hungGPU).Name)
				_, err := w.Dispatcher.EndSilence(t.Context(), s.ID, "bob")
				require.NoError(t, err)
				w.Await("resolved", w.Over)
				require.Equal(t, "resolved", w.Outcome())
				stop()
			})
		})
	}
}
