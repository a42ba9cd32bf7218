package sop

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/sop/soptest"
)

// markable raises a condition of GPUs that nothing repairs, so that only the marks are written.
func (w *world) markable(condition, device string, mode prom.DeviceMode, change func(*prom.AegisNodeStatus)) prom.Observation {
	s := w.Status(nodeA, condition, device, 0)
	s.Type, s.DeviceMode, s.AffectsLoad, s.SOP = "gpu", mode, true, ""
	if change != nil {
		change(&s)
	}
	o := prom.Observation{Fingerprint: condition + device, Status: s, Firing: true, StartsAt: time.Now()}
	w.queue.Observe(o)
	return o
}

func markWrites(w *world) int {
	n := 0
	for _, call := range w.client.Calls() {
		if call.Verb == soptest.VerbPatch && call.Resource == "nodes" {
			n++
		}
	}
	return n
}

// The marks follow the conditions, and are written only when they change.
func TestMarks(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.edit(func(n *corev1.Node) {
			n.Annotations, n.Labels = map[string]string{"mine": "1"}, map[string]string{"mine": "1"}
		})
		stop := w.start()
		defer stop()
		third := w.markable("Xid", "3", prom.DeviceIndex, nil)
		first := w.markable("Xid", "0", prom.DeviceIndex, nil)
		w.markable("Quiet", "mlx5_0", prom.DeviceID, func(s *prom.AegisNodeStatus) { s.Type, s.AffectsLoad = "ib", false })
		time.Sleep(time.Minute)
		n := w.node()
		require.JSONEq(t, `{"gpu": ["0", "3"], "ib": ["mlx5_0"]}`, n.Annotations[DeviceErrorsAnnotation])
		require.Equal(t, "true", n.Labels[LoadAffectedLabel])
		writes := markWrites(w)
		time.Sleep(time.Hour)
		require.Equal(t, writes, markWrites(w), "nothing has changed")

		w.markable("Hung", "", prom.DeviceAll, nil)
		time.Sleep(time.Minute)
		require.JSONEq(t, `{"gpu": "all", "ib": ["mlx5_0"]}`, w.node().Annotations[DeviceErrorsAnnotation])

		// A mark stays while the sources are silent, and goes with its condition.
		w.source.set(prom.Finding{Evidence: prom.EvidenceUnknown})
		w.withdraw(prom.Key{Node: nodeA, Condition: "Hung"})
		w.withdraw(first.Status.Key())
		time.Sleep(time.Minute)
		require.JSONEq(t, `{"gpu": ["3"], "ib": ["mlx5_0"]}`, w.node().Annotations[DeviceErrorsAnnotation])
		w.withdraw(third.Status.Key())
		w.withdraw(prom.Key{Node: nodeA, Condition: "Quiet", ID: "mlx5_0"})
		time.Sleep(time.Minute)
		n = w.node()
		require.NotContains(t, n.Annotations, DeviceErrorsAnnotation)
		require.NotContains(t, n.Labels, LoadAffectedLabel)
		require.Equal(t, "1", n.Annotations["mine"])
		require.Equal(t, "1", n.Labels["mine"])
	})
}

// What nobody may act on marks no node either.
func TestNotMarked(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(w *world, s *prom.AegisNodeStatus){
		"observed":    func(_ *world, s *prom.AegisNodeStatus) { s.Policy.Mode = prom.ModeObserve },
		"off":         func(_ *world, s *prom.AegisNodeStatus) { s.Policy.Mode = prom.ModeOff },
		"must ignore": func(_ *world, s *prom.AegisNodeStatus) { s.Priority = 1000 },
		"silenced": func(w *world, _ *prom.AegisNodeStatus) {
			w.source.set(prom.Finding{Evidence: prom.EvidenceFiring, Permission: prom.PermissionSilenced})
		},
		"unconfirmed": func(w *world, _ *prom.AegisNodeStatus) {
			w.source.set(prom.Finding{Evidence: prom.EvidenceAbsent, Permission: prom.PermissionUnlisted})
		},
		"excluded": func(w *world, _ *prom.AegisNodeStatus) {
			w.edit(func(n *corev1.Node) { n.Labels = map[string]string{policy.DisableLabel: "true"} })
		},
		"control plane": func(w *world, _ *prom.AegisNodeStatus) {
			w.edit(func(n *corev1.Node) { n.Labels = map[string]string{"node-role.kubernetes.io/control-plane": ""} })
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := newWorld(t, testPolicy())
				w.markable("Xid", "3", prom.DeviceIndex, func(s *prom.AegisNodeStatus) { change(w, s) })
				stop := w.start()
				time.Sleep(5 * time.Minute)
				stop()
				require.NotContains(t, w.node().Annotations, DeviceErrorsAnnotation)
				require.NotContains(t, w.node().Labels, LoadAffectedLabel)
			})
		})
	}
}

// A rule that fires on every node marks none of them, also when its alerts come late and one after the other.
func TestStormMarksNothing(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy(), testNode(nodeA, nodeUID), testNode("gpu-0002", "uid-2"), testNode("gpu-0003", "uid-3"))
		w.setSettings(func(s *policy.Settings) {
			s.Pools[0].StormNodes, s.Pools[0].StormWindow, s.Pools[0].StormRelease = 2, 10*time.Minute, 5*time.Minute
		})
		stop := w.start()
		for _, name := range []string{nodeA, "gpu-0002", "gpu-0003"} {
			s := w.Status(name, "Reboot", "3", 0)
			s.Type, s.DeviceMode, s.AffectsLoad, s.SOP = "gpu", prom.DeviceIndex, true, ""
			w.queue.Observe(prom.Observation{Fingerprint: name, Status: s, Firing: true, StartsAt: time.Now().Add(-time.Minute)})
			time.Sleep(11 * time.Second)
		}
		time.Sleep(5 * time.Minute)
		require.NotEmpty(t, w.d.storms.holds("Reboot", "test"))
		stop()
		require.Zero(t, markWrites(w))
	})
}

func TestDevicesOfMask(t *testing.T) {
	t.Parallel()
	for mask, want := range map[string][]string{"10100000": {"0", "2"}, "1": {"0"}, "0": {"all"}, "x": {"all"}, "": {"all"}} {
		require.Equal(t, want, devicesOfMask(mask), mask)
	}
}
