package cases

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"aegis.io/aegis/e2e/nodesim"
	"aegis.io/aegis/ticket"
)

// kubectl patches the node as that program does.
func (n node) kubectl(patch, manager string) {
	n.t.Helper()
	_, err := n.env.Cluster.Client().CoreV1().Nodes().Patch(n.t.Context(), n.name, types.StrategicMergePatchType, []byte(patch),
		metav1.PatchOptions{FieldManager: manager})
	require.NoError(n.t, err)
}

func (n node) cordon() { n.kubectl(`{"spec": {"unschedulable": true}}`, "kubectl-cordon") }

func (n node) requestCheck() {
	n.kubectl(`{"metadata": {"annotations": {"aegis.io/check": "requested", "aegis.io/check-by": "alice"}}}`, "kubectl-annotate")
}

// A person who is done with a node has it checked and returned within seconds.
func TestCheckedNodeReturns(t *testing.T) {
	t.Parallel()
	n := nodeOf(t, poolChecked, 0)
	n.cordon()
	n.requestCheck()
	began := time.Now()
	n.eventually("returned", func(r ticket.Record) bool { return !r.Node.Spec.Unschedulable })
	t.Logf("from the request to the return: %s", time.Since(began).Round(100*time.Millisecond))
	n.eventually("closed", func(r ticket.Record) bool { return r.Ticket == nil && len(r.History.Incidents) > 0 })
	r := n.record()
	require.Equal(t, "passed", r.History.Incidents[0].Outcome)
	require.Equal(t, "alice (as told by kubectl-annotate)", r.History.Incidents[0].By)
	require.NotContains(t, r.Node.Annotations, "aegis.io/check")
	require.Len(t, n.ops("healthcheck"), 1)
}

// What is broken stays cordoned until it is repaired; what is not repaired has a ticket.
func TestCheckedNodeThatIsBrokenGetsATicket(t *testing.T) {
	t.Parallel()
	n := nodeOf(t, poolChecked, 1)
	n.inject(nodesim.HealthcheckGPU)
	n.cordon()
	code, answer := post(t, "/api/v1/nodes/"+n.name+"/check", map[string]string{"reason": "the card is replaced"})
	require.Equal(t, http.StatusAccepted, code, answer)
	found := n.handedOver("gpu")
	require.Equal(t, "loopback", found.RequestedBy)
	require.Contains(t, steps(found), "healthcheck Failed")
	require.True(t, n.get().Spec.Unschedulable)
}

// The cordon of a person who has asked for nothing stays, and what may not be meant as a request is none.
func TestCordonWithoutARequestStays(t *testing.T) {
	t.Parallel()
	n := nodeOf(t, poolChecked, 2)
	n.cordon()
	n.eventuallyVerdict("NodeCordon", "human_cordoned")
	n.kubectl(`{"metadata": {"annotations": {"aegis.io/check": "yes"}}}`, "kubectl-annotate")
	n.eventuallyVerdict("NodeCordon", "unconfirmed")
	require.True(t, n.get().Spec.Unschedulable)
	require.Empty(t, n.ops("healthcheck"))
}
