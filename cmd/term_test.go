package cmd

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"

	"aegis.io/aegis/queue"
	"aegis.io/aegis/rules"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// ticketed is a node, with the ticket of a finding from its second version on.
func ticketed(version string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", ResourceVersion: version}}
	if version != "1" {
		n.Annotations = map[string]string{ticket.Annotation: "id: 20261129t080400-cgt7he\ncondition: HighLoad\nsop: node/load\norigin: resync\n" +
			"source: temperatures\nsupervisor: aegis\nstatus: created\ncreatedAt: 2026-11-29T08:04:00Z\nbootID: boot\n"}
	}
	return n
}

// A new leader whose cache is behind knows all the same which source has found what the last leader opened a ticket for.
func TestSourcesOfTicketsAreRememberedFromACacheThatIsNotBehind(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	behind, live := fake.NewClientset(ticketed("1")), fake.NewClientset(ticketed("2"))
	q := queue.New(queue.Options{})
	nodes := newNodeCache(informers.NewSharedInformerFactory(behind, 0), q, func() policy.Settings { return policy.Settings{} })
	nodes.factory.Start(ctx.Done())
	require.True(t, cache.WaitForCacheSync(ctx.Done(), nodes.synced))
	live.PrependReactor("list", "nodes", func(clienttesting.Action) (bool, runtime.Object, error) {
		_, err := behind.CoreV1().Nodes().Update(ctx, ticketed("2"), metav1.UpdateOptions{}) // Now the watch catches up.
		return false, nil, err
	})
	classifier := rules.NewClassifier(rules.ClassifierOptions{Store: rules.NewStore(nil), Nodes: nodes.index})
	resync, err := queue.NewResync(queue.ResyncOptions{Queue: q, Classifier: classifier, Gone: nodes.gone})
	require.NoError(t, err)
	a := &app{nodes: nodes, resync: resync, clients: clients{calls: live}, config: &liveConfig{rules: rules.NewStore(&rules.Catalogue{})}, logger: slog.New(slog.DiscardHandler)}
	require.NoError(t, a.rememberSources(ctx))
	require.False(t, nodes.gone("n1"))
	require.True(t, nodes.gone("n2"))

	ended := make(chan error, 1)
	go func() { ended <- resync.Run(ctx) }()
	require.Eventually(t, resync.Synced, 10*time.Second, 5*time.Millisecond)
	last := resync.Last(prom.Key{Node: "n1", Condition: "HighLoad"})
	require.Contains(t, last.Reason, "source temperatures, which found it, is not configured")
	cancel()
	require.NoError(t, <-ended)
}
