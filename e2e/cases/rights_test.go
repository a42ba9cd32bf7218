package cases

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"aegis.io/aegis/e2e/aegis"
	"aegis.io/aegis/e2e/charttest/rights"
	"aegis.io/aegis/e2e/cluster"
	"aegis.io/aegis/e2e/nodesim"
)

const pausedAnnotation = "aegis.io/paused"

// wholeRun reports whether every case was asked for.
func wholeRun() bool {
	for _, name := range []string{"test.run", "test.skip", "test.list"} {
		if f := flag.Lookup(name); f != nil && f.Value.String() != "" {
			return false
		}
	}
	return true
}

// unusedRights fails for each right that no case has made use of: a right that is not needed can only be abused.
func unusedRights() int {
	manifests, err := rights.Read(filepath.Join(shared.Bin, "..", "charts", "aegis", "rbac"))
	if err != nil {
		return fail(err)
	}
	events, err := shared.Cluster.Audit()
	if err != nil {
		return fail(err)
	}
	unused := rights.Unused(manifests.Grants(), uses(events))
	for _, g := range unused {
		fmt.Fprintf(os.Stderr, "granted, and used by no case: %s\n", g)
	}
	return min(len(unused), 1)
}

// uses returns what the service account of Aegis has asked for and was permitted.
func uses(events []cluster.AuditEvent) []rights.Use {
	var all []rights.Use
	for _, e := range events {
		if e.User == cluster.AegisUser && e.Code != http.StatusForbidden {
			all = append(all, useOf(e))
		}
	}
	return all
}

func useOf(e cluster.AuditEvent) rights.Use {
	u := rights.Use{APIGroup: e.APIGroup, Resource: e.Resource, Verb: e.Verb, Namespace: e.Namespace, Name: e.Name}
	if e.Subresource != "" {
		u.Resource += "/" + e.Subresource
	}
	return u
}

// call asks the API of Aegis, with JSON if there is any, and returns the answer.
func call(t *testing.T, method, path, body string) (code int, answer map[string]any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, shared.Aegis[0].URL+path, strings.NewReader(body))
	require.NoError(t, err)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&answer))
	require.NoError(t, resp.Body.Close())
	return resp.StatusCode, answer
}

func lease(t *testing.T) *coordinationv1.Lease {
	t.Helper()
	object, err := shared.Cluster.Client().CoordinationV1().Leases("monitoring").Get(t.Context(), "aegis", metav1.GetOptions{})
	require.NoError(t, err)
	return object
}

// A pause is written on the Lease of the election, so that it outlives the leader that took the order. It holds every node,
// so the case runs alone, before the parallel ones.
func TestPauseIsKeptOnTheLease(t *testing.T) {
	// Whatever fails here must not hold the other cases.
	defer resume(t)
	code, answer := call(t, http.MethodPost, "/api/v1/pause", `{"reason": "the switch of rack 4 is replaced"}`)
	require.Equal(t, http.StatusOK, code, answer)
	require.Equal(t, true, answer["paused"], answer)
	require.Contains(t, lease(t).Annotations[pausedAnnotation], "the switch of rack 4 is replaced")
	require.NoError(t, shared.Aegis[0].Restart(t.Context()))
	require.Contains(t, lease(t).Annotations, pausedAnnotation, "the next term keeps the order")
	resume(t)
}

func resume(t *testing.T) {
	t.Helper()
	if _, paused := lease(t).Annotations[pausedAnnotation]; !paused {
		return
	}
	code, answer := call(t, http.MethodDelete, "/api/v1/pause", "")
	require.Equal(t, http.StatusOK, code, answer)
	require.Equal(t, false, answer["paused"], answer)
	require.NotContains(t, lease(t).Annotations, pausedAnnotation)
}

// Where the API server cannot stream a list, or refuses to, the nodes are listed and then watched. A second replica, which
// stands by, is made to do that.
func TestNodesAreListedWhereTheyCannotBeStreamed(t *testing.T) {
	t.Setenv("KUBE_FEATURE_WatchListClient", "false")
	standby, err := aegis.New(aegis.Options{BinDir: shared.Bin, Dir: t.TempDir(), Kubeconfig: shared.Cluster.KubeconfigAegis})
	require.NoError(t, err)
	require.NoError(t, standby.Configure(aegis.Fast(shared.Monitoring.PrometheusURL, shared.Monitoring.AlertmanagerURLs)))
	began := time.Now()
	require.NoError(t, standby.Launch())
	defer func() { require.NoError(t, standby.Stop()) }()
	require.Eventually(t, func() bool {
		events, err := shared.Cluster.Audit()
		require.NoError(t, err)
		for _, e := range events {
			if e.User == cluster.AegisUser && e.Resource == "nodes" && e.Verb == "list" && e.Code == http.StatusOK && e.At.After(began) {
				return true
			}
		}
		return false
	}, within, tick)
}

// A verdict that comes back is counted on the Event that tells it. Nothing is done to the node in all that time.
func TestRepeatedVerdictIsOneEvent(t *testing.T) {
	t.Parallel()
	n := nodeOf(t, poolPeople, 4)
	n.edit(func(object *corev1.Node) { object.Spec.Unschedulable = true })
	n.inject(nodesim.GPUHung)
	for range 2 {
		n.edit(func(object *corev1.Node) { object.Labels["aegis.io/disable"] = "true" })
		n.eventuallyVerdict("GpuHung", "excluded")
		n.edit(func(object *corev1.Node) { delete(object.Labels, "aegis.io/disable") })
		n.eventuallyVerdict("GpuHung", "human_cordoned")
	}
	require.Eventually(t, func() bool { return n.told("GpuHung: excluded") == 2 }, within, tick)
	require.Empty(t, n.state().Ops)
}

// told returns how often the one Event whose message begins like that was told of the node.
func (n node) told(message string) int32 {
	n.t.Helper()
	list, err := n.env.Cluster.Client().CoreV1().Events(metav1.NamespaceDefault).List(n.t.Context(), metav1.ListOptions{
		FieldSelector: fields.Set{"involvedObject.kind": "Node", "involvedObject.name": n.name}.String(),
	})
	require.NoError(n.t, err)
	list.Items = slices.DeleteFunc(list.Items, func(e corev1.Event) bool { return !strings.HasPrefix(e.Message, message) })
	require.LessOrEqual(n.t, len(list.Items), 1)
	if len(list.Items) == 0 {
		return 0
	}
	return list.Items[0].Count
}
