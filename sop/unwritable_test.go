package sop

import (
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/sop/soptest"
	"aegis.io/aegis/ticket"
)

// refusals are why an API server takes no write to a node.
func refusals() map[string]error {
	node := schema.GroupResource{Resource: "nodes"}
	return map[string]error{
		"annotations full": apierrors.NewInvalid(schema.GroupKind{Kind: "Node"}, nodeA, field.ErrorList{
			field.TooLong(field.NewPath("metadata", "annotations"), "", 256<<10),
		}),
		"a webhook that refuses": apierrors.NewForbidden(node, nodeA, errors.New("admission webhook denied the request")),
		"a webhook that is gone": apierrors.NewInternalError(errors.New("failed calling webhook")),
	}
}

// A node to which nothing can be written, for whatever reason, is told of, with the words of the API server: somebody has to know that it is
// sick and in service, or that its repair stands still. Once it takes writes again, the repair goes on.
func TestNodeThatTakesNoWriteIsTold(t *testing.T) {
	t.Parallel()
	for name, refusal := range refusals() {
		for when, begun := range map[string]bool{"at first": false, "in the middle": true} {
			inNamedBubble(t, name+" "+when, func(t *testing.T) { tellsOfRefusedWrites(t, refusal, begun) })
		}
	}
}

func tellsOfRefusedWrites(t *testing.T, refusal error, begun bool) {
	t.Helper()
	w := newWorld(t, testPolicy())
	var refuse atomic.Bool
	refuse.Store(!begun)
	before := w.client.Before
	w.client.Before = func(call soptest.Call) error {
		if refuse.Load() && call.Resource == "nodes" && call.Verb == soptest.VerbPatch {
			return refusal
		}
		return before(call)
	}
	w.jobs.effect = func(r jobs.Request) {
		if r.Action == protocol.ActionReboot {
			w.source.gone()
		}
	}
	w.raise("Reboot")
	stop := w.start()
	defer stop()
	reg := prometheus.NewRegistry()
	reg.MustRegister(NewHoldCollector(w.d))
	if begun {
		w.await("the boot runs", running(ticket.Reboot))
		refuse.Store(true)
	}
	time.Sleep(5*time.Hour + 50*time.Minute)
	var told []string
	for len(w.events.Events) > 0 {
		if event := <-w.events.Events; strings.Contains(event, "Warning AegisVerdict") {
			told = append(told, event)
		}
	}
	require.Equal(t, begun, w.node().Spec.Unschedulable)
	require.Len(t, told, 1, "told once")
	require.Contains(t, told[0], strings.TrimPrefix(refusal.Error(), "Node "))
	require.Equal(t, policy.VerdictError, w.verdict("Reboot"))
	require.Equal(t, map[string]int{"error": 5}, w.held(reg))

	refuse.Store(false)
	w.await("resolved", resolved)
	require.Empty(t, w.held(reg))
	require.False(t, slices.Contains(w.journaled(), "cordon Failed"))
}

// What was decided before an outage of the API server is decided anew after it: the alert may have ended meanwhile.
func TestWhatWasDecidedBeforeAnOutageIsDecidedAnew(t *testing.T) {
	for _, condition := range []string{"Reboot", "Ready"} {
		for name, ends := range map[string]bool{"the alert ends": true, "the alert goes on": false} {
			inNamedBubble(t, condition+", "+name, func(t *testing.T) {
				w := newWorld(t, testPolicy())
				if condition == "Ready" {
					w.edit(func(n *corev1.Node) { setReady(n, corev1.ConditionUnknown) })
				}
				stop := w.start()
				synctest.Wait()
				w.cluster.Do(func() { w.cluster.SetOutage(true) })
				w.raise(condition)
				time.Sleep(10 * time.Minute)
				if ends {
					w.source.gone()
					w.withdraw(prom.Key{Node: nodeA, Condition: condition})
				}
				w.cluster.Do(func() { w.cluster.SetOutage(false) })
				time.Sleep(30 * time.Second)
				r := w.record()
				require.Equal(t, ends, r.Ticket == nil && len(r.History.Incidents) == 0, "ticket %v", r.Ticket)
				stop()
			})
		}
	}
}
