package soptest_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/soptest"
)

const node = "gpu-0001"

func newCluster(o soptest.Options) *soptest.Cluster {
	c := soptest.New(o)
	c.Do(func() { c.AddNode(soptest.NewNode(node)) })
	return c
}

func TestTheLockHasToBeHeld(t *testing.T) {
	t.Parallel()
	c := newCluster(soptest.Options{})
	require.Panics(t, func() { c.Cordon(node) })
	c.Do(func() { require.True(t, c.Cordon(node)) })
}

func TestPatchTestsWhatItWasMadeFor(t *testing.T) {
	t.Parallel()
	c := newCluster(soptest.Options{})
	nodes := c.NewClient().CoreV1().Nodes()
	patch := func(text string) error {
		_, err := nodes.Patch(t.Context(), node, types.JSONPatchType, []byte(text), metav1.PatchOptions{})
		return err
	}
	require.True(t, apierrors.IsInvalid(patch(`[{"op": "test", "path": "/metadata/uid", "value": "another"}]`)))
	require.NoError(t, patch(`[{"op": "test", "path": "/metadata/uid", "value": "uid-gpu-0001"}, {"op": "add", "path": "/spec/unschedulable", "value": true}]`))
	got, err := nodes.Get(t.Context(), node, metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, soptest.ManagerAegis, got.ManagedFields[0].Manager, "the API server notes who cordoned the node")
	_, err = nodes.Get(t.Context(), "another", metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err))
}

// The API server keeps one entry for all fields of a manager, with the time of its last write.
func TestFieldsOfOneManagerHaveOneTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(soptest.Options{})
		cordon := func(n *corev1.Node) { n.Spec.Unschedulable = true }
		note := func(n *corev1.Node) { n.Annotations = map[string]string{"x": time.Now().String()} }
		managers := func() (found []string) {
			for _, e := range c.Nodes[node].ManagedFields {
				found = append(found, fmt.Sprint(e.Manager, " ", time.Since(e.Time.Time), " ", string(e.FieldsV1.GetRawBytes())))
			}
			return found
		}
		const both = `{"f:metadata":{"f:annotations":{"f:x":{}}},"f:spec":{"f:unschedulable":{}}}`
		c.Do(func() { c.EditAs(node, "tool", cordon) })
		time.Sleep(time.Hour)
		c.Do(func() { c.EditAs(node, "tool", note); require.Equal(t, []string{"tool 0s " + both}, managers()) })
		time.Sleep(time.Hour)
		c.Do(func() {
			c.EditAs(node, "another", note)
			require.Equal(t, []string{`tool 1h0m0s {"f:metadata":{},"f:spec":{"f:unschedulable":{}}}`, `another 0s {"f:metadata":{"f:annotations":{"f:x":{}}}}`}, managers())
			c.Uncordon(node)
			require.Len(t, managers(), 1)
		})
	})
}

func TestEvictionGivesWayToABudget(t *testing.T) {
	t.Parallel()
	c := newCluster(soptest.Options{})
	c.Do(func() {
		c.AddPod(soptest.NewPod("train", "worker", node, 8))
		c.HoldPod("train", "worker", true)
	})
	client := c.NewClient()
	evict := func() error {
		return client.PolicyV1().Evictions("train").Evict(t.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "worker"}})
	}
	require.True(t, apierrors.IsTooManyRequests(evict()))
	c.Do(func() { c.HoldPod("train", "worker", false) })
	require.NoError(t, evict())
	require.True(t, apierrors.IsNotFound(evict()))
}

func TestALostAnswerIsOfAWriteThatTookEffect(t *testing.T) {
	t.Parallel()
	c := newCluster(soptest.Options{})
	c.Do(func() { c.Weather.Losing = 1 })
	client := c.NewClient()
	body := []byte(`{"metadata": {"labels": {"a": "b"}}}`)
	_, err := client.CoreV1().Nodes().Patch(t.Context(), node, types.MergePatchType, body, metav1.PatchOptions{})
	require.ErrorIs(t, err, soptest.ErrLost)
	c.Do(func() { require.Equal(t, "b", c.Nodes[node].Labels["a"]) })
}

func TestACacheLagsAndABrokenOneStandsStill(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(soptest.Options{})
		var cache *soptest.Cache
		c.Do(func() { c.Weather.Lag = time.Minute; cache = c.Join().NewCache(nil) })
		shows := func() bool {
			n, err := cache.Get(node)
			require.NoError(t, err)
			return n.Spec.Unschedulable
		}
		c.Do(func() { c.Cordon(node) })
		require.False(t, shows())
		time.Sleep(time.Minute)
		require.True(t, shows())

		c.Do(func() { cache.Break(); c.Uncordon(node) })
		time.Sleep(time.Hour)
		require.True(t, shows())
		c.Do(cache.Mend)
		require.False(t, shows())
	})
}

func TestAJobThatIsOrderedTwiceIsOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(soptest.Options{Pace: soptest.Pace{Boot: soptest.Exactly(time.Minute)}})
		key := prom.Key{Node: node, Condition: "GpuHung"}
		c.Do(func() { c.Hold(key, true); c.Faults[key].Remedies = map[string]int{protocol.ActionReboot: 1} })
		runner := c.NewClient().Jobs()
		reboot := jobs.Request{Action: protocol.ActionReboot, Node: node, Incident: "t1", Attempt: 1, Args: []string{"--boot-id", "boot-0"}, Deadline: time.Hour}
		_, created, err := runner.Ensure(t.Context(), reboot)
		require.NoError(t, err)
		require.True(t, created)
		_, created, err = runner.Ensure(t.Context(), reboot)
		require.NoError(t, err)
		require.False(t, created)
		require.Equal(t, prom.EvidenceFiring, c.Answers().Last(key).Evidence)
		time.Sleep(2 * time.Minute)
		c.Do(func() {
			require.Equal(t, "boot-0+", c.Nodes[node].Status.NodeInfo.BootID)
			require.True(t, soptest.Ready(c.Nodes[node]))
		})
		require.Equal(t, prom.EvidenceAbsent, c.Answers().Last(key).Evidence)
	})
}

func TestChanceRepeatsItself(t *testing.T) {
	t.Parallel()
	draw := func(kinds string) map[string]float64 {
		c := soptest.New(soptest.Options{Seed: 7})
		drawn := make(map[string]float64)
		for kind := range strings.SplitSeq(kinds, " ") {
			c.Do(func() { drawn[kind] = c.Chance(kind) })
		}
		return drawn
	}
	require.Equal(t, draw("a b c"), draw("c a b"), "the order of different kinds does not matter")
}

func TestAMomentComesRightAfterItsCall(t *testing.T) {
	t.Parallel()
	c := newCluster(soptest.Options{})
	client := c.NewClient()
	c.Do(func() { c.AfterCall(node, soptest.VerbGet, 2, func() { c.Cordon(node) }) })
	get := func() *corev1.Node {
		n, err := client.CoreV1().Nodes().Get(context.Background(), node, metav1.GetOptions{})
		require.NoError(t, err)
		return n
	}
	get()
	require.False(t, get().Spec.Unschedulable, "the answer was given before")
	require.True(t, get().Spec.Unschedulable)
}

func TestPeopleEditTheTicket(t *testing.T) {
	t.Parallel()
	c := newCluster(soptest.Options{})
	c.Do(func() {
		require.False(t, c.Supervise(node, "alice"), "there is no ticket")
		c.Edit(node, func(n *corev1.Node) {
			n.Annotations = map[string]string{soptest.TicketAnnotation: "id: t1\nsupervisor: aegis\nstatus: resolving\n"}
		})
		require.True(t, c.Supervise(node, "alice"))
		require.Equal(t, "id: t1\nsupervisor: alice\nstatus: resolving\n", c.Nodes[node].Annotations[soptest.TicketAnnotation])
		require.True(t, c.RemoveTicket(node))
		require.NotContains(t, c.Nodes[node].Annotations, soptest.TicketAnnotation)
	})
}
