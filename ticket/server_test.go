package ticket

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"

	"aegis.io/aegis/sop/soptest"
)

// fault is what goes wrong with one request. Its zero value is nothing.
type fault = soptest.Mishap

// apiServer serves one Node as kube-apiserver does.
type apiServer struct {
	*soptest.Server
	cluster *soptest.Cluster
}

const servedNode = "dev1"

func newAPIServer(t *testing.T, n *corev1.Node) (*apiServer, *Store) {
	t.Helper()
	cluster := soptest.New(soptest.Options{})
	cluster.Do(func() { cluster.AddNode(n.DeepCopy()) })
	s := &apiServer{cluster.Serve(t), cluster}
	client, err := corev1client.NewForConfig(s.Config())
	require.NoError(t, err)
	return s, NewStore(StoreOptions{Client: client})
}

// touch is what every write, also a kubelet's heartbeat, does to a node.
func touch(n *corev1.Node) { n.ResourceVersion += "1" }

// state returns the node as it is now.
func (s *apiServer) state() (n *corev1.Node) {
	s.cluster.Do(func() { n = s.cluster.Nodes[servedNode].DeepCopy() })
	return n
}

// change lets somebody else change the node.
func (s *apiServer) change(f func(n *corev1.Node)) {
	s.cluster.Do(func() {
		s.cluster.Amend(servedNode, func(n *corev1.Node) {
			f(n)
			touch(n)
		})
	})
}

// remove takes the node away.
func (s *apiServer) remove() { s.cluster.Do(func() { s.cluster.DeleteNode(servedNode) }) }
