package cluster_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"aegis.io/aegis/e2e/build"
	"aegis.io/aegis/e2e/cluster"
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	_, err := build.Run(context.Background(), build.Options{
		Out:  os.Stderr,
		Only: []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok"},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func start(t *testing.T) *cluster.Cluster {
	t.Helper()
	c, err := cluster.Start(t.Context(), cluster.Options{BinDir: "../../bin", Dir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Stop()) })
	return c
}

func TestClusterServesAndEnforcesRights(t *testing.T) {
	t.Parallel()
	c := start(t)
	require.NoError(t, c.GrantAegis(t.Context()))
	require.NoError(t, c.AddNodes(t.Context(), []cluster.Node{
		{Name: "gpu-1", GPUs: 8, Pool: "train", Annotations: map[string]string{"aegis.io/ticket-history": "[]"}}, {Name: "cpu-1"},
	}))

	config, err := clientcmd.BuildConfigFromFlags("", c.KubeconfigAegis)
	require.NoError(t, err)
	aegis, err := kubernetes.NewForConfig(config)
	require.NoError(t, err)
	node, err := aegis.CoreV1().Nodes().Get(t.Context(), "gpu-1", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, "train", node.Labels[cluster.PoolLabel])
	require.Equal(t, "[]", node.Annotations["aegis.io/ticket-history"])
	gpus := node.Status.Capacity[cluster.GPUResource]
	require.EqualValues(t, 8, gpus.Value())

	err = aegis.CoreV1().Nodes().Delete(t.Context(), "gpu-1", metav1.DeleteOptions{})
	require.True(t, apierrors.IsForbidden(err), "delete of a node by aegis: %v", err)
	_, err = aegis.CoreV1().Secrets("monitoring").List(t.Context(), metav1.ListOptions{})
	require.True(t, apierrors.IsForbidden(err), "secrets listed by aegis: %v", err)

	events, err := c.Audit()
	require.NoError(t, err)
	var denied int
	for _, e := range events {
		if e.User == cluster.AegisUser && e.Verb == "delete" && e.Name == "gpu-1" && e.Code == 403 {
			denied++
		}
	}
	require.Equal(t, 1, denied)
}

func TestAPIServerComesBackWithItsData(t *testing.T) {
	t.Parallel()
	c := start(t)
	require.NoError(t, c.AddNodes(t.Context(), []cluster.Node{{Name: "n"}}))
	require.NoError(t, c.KillAPIServer())
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := c.Client().CoreV1().Nodes().Get(ctx, "n", metav1.GetOptions{})
	require.Error(t, err)
	require.NoError(t, c.StartAPIServer(t.Context()))
	_, err = c.Client().CoreV1().Nodes().Get(t.Context(), "n", metav1.GetOptions{})
	require.NoError(t, err)
}
