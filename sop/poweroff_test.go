package sop

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A node whose clock is behind is not taken for powered off by what was seen before it ran.
func TestProofOfPowerOffDoesNotRestOnTheClockOfTheNode(t *testing.T) {
	t.Parallel()
	for _, who := range []string{"API server", "node controller"} {
		inNamedBubble(t, "as the "+who+" tells", func(t *testing.T) {
			var managed []metav1.ManagedFieldsEntry
			if who == "API server" {
				managed = []metav1.ManagedFieldsEntry{{
					Manager: "kubelet", Operation: metav1.ManagedFieldsOperationUpdate, Time: &metav1.Time{Time: time.Now().Add(-10 * time.Minute)},
				}}
			}
			node := testNode(nodeA, nodeUID)
			setReady(node, corev1.ConditionUnknown)
			// The BMC saw it off three hours ago. It was powered on again and ran until ten minutes ago, when its network failed. Its
			// clock, which its battery does not keep, is a day behind.
			node.Annotations = map[string]string{PowerStateAnnotation: "off@" + time.Now().Add(-3*time.Hour).UTC().Format(time.RFC3339)}
			if who == "node controller" {
				node.Status.Conditions[0].LastTransitionTime = metav1.NewTime(time.Now().Add(-9 * time.Minute))
			}
			w := newWorld(t, testPolicy(), node, &coordinationv1.Lease{
				ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: nodeA, ManagedFields: managed},
				Spec:       coordinationv1.LeaseSpec{RenewTime: &metav1.MicroTime{Time: time.Now().Add(-24*time.Hour - 10*time.Minute)}},
			})
			w.raise("Ready")
			stop := w.start()
			defer stop()
			time.Sleep(3 * time.Hour)
			require.NotContains(t, w.node().Spec.Taints, *outOfServiceTaint(), "volumes are taken from a machine that may be running")
		})
	}
}
