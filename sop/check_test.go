package sop

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// A request is for the machine on which it was decided, not for another one that has its name by now.
func TestCheckOfAnotherMachineIsNotBegun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, prom.Policy{Mode: prom.ModeAuto})
		d := w.dispatcher()
		for _, found := range []bool{false, true} {
			_, _, err := d.openCheck(t.Context(), checkRequest{status: d.checkStatus(nodeA, prom.OriginCheck), uid: "another", found: found})
			require.ErrorIs(t, err, ticket.ErrRecreated)
			require.Nil(t, w.record().Ticket)
		}
	})
}

// A taint that waits for a check does not swallow the request of a person that has come since the visit began.
func TestIntakeLeavesTheRequestOfAPersonAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, prom.Policy{Mode: prom.ModeAuto})
		w.setSettings(func(s *policy.Settings) { s.IntakeTaints = []policy.IntakeTaint{{Key: "site/new"}} })
		w.edit(func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{{Key: "site/new", Effect: corev1.TaintEffectNoSchedule}}
			n.Annotations = map[string]string{policy.CheckAnnotation: policy.CheckRequested}
		})
		d := w.dispatcher()
		_, _, err := d.openCheck(t.Context(), checkRequest{status: d.checkStatus(nodeA, prom.OriginIntake), uid: w.node().UID, found: true})
		require.ErrorIs(t, err, errNothingToDo)
		require.Equal(t, policy.CheckRequested, w.node().Annotations[policy.CheckAnnotation])
	})
}
