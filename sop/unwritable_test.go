package sop

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"aegis.io/aegis/sop/soptest"
)

// A node to which nothing can be written, for whatever reason, is told of: somebody has to know that it is sick and in service.
func TestNodeThatTakesNoWriteIsTold(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		before := w.client.Before
		w.client.Before = func(call soptest.Call) error {
			if call.Resource == "nodes" && call.Verb == soptest.VerbPatch {
				// What the API server says of a node whose annotations have 256 KiB already. An admission webhook refuses with 403, and ends the same.
				return apierrors.NewInvalid(schema.GroupKind{Kind: "Node"}, nodeA, field.ErrorList{
					field.TooLong(field.NewPath("metadata", "annotations"), "", 256<<10),
				})
			}
			return before(call)
		}
		w.raise("Reboot")
		stop := w.start()
		time.Sleep(5 * time.Hour)
		stop()
		var told []string
		for len(w.events.Events) > 0 {
			told = append(told, <-w.events.Events)
		}
		require.False(t, w.node().Spec.Unschedulable)
		require.True(t, slices.ContainsFunc(told, func(e string) bool { return strings.Contains(e, "Warning") }),
			"5 hours in service with an emergency, verdict %q, Events: %v", w.verdict("Reboot"), told)
	})
}
