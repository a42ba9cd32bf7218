package policy

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

func TestBudgetIsTheSmallerBoundButNeverZero(t *testing.T) {
	t.Parallel()
	tests := []struct{ size, percent, nodes, want int }{
		{100, 10, 0, 10}, {100, 10, 3, 3}, {100, 1, 30, 1}, {5, 10, 0, 1}, {5, 0, 0, 1}, {1, 100, 0, 1}, {19, 10, 0, 1}, {20, 10, 0, 2},
	}
	for _, tt := range tests {
		pool := Pool{MaxPercent: tt.percent, MaxNodes: tt.nodes}
		require.Equal(t, tt.want, pool.Allowed(tt.size), "%+v", tt)
	}
}

func TestPoolOfTakesTheFirstThatSelects(t *testing.T) {
	t.Parallel()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"gpu": "h100"}}}
	h100, err := labels.Parse("gpu=h100")
	require.NoError(t, err)
	s := Settings{Pools: []Pool{{Name: "h100", Selector: h100}, {Name: "all", Selector: labels.Everything()}}}
	require.Equal(t, "h100", s.PoolOf(node).Name)
	node.Labels = nil
	require.Equal(t, "all", s.PoolOf(node).Name)
	require.Equal(t, "default", Settings{}.PoolOf(node).Name)
}

func TestStormLimit(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ size, percent, nodes, want int }{
		{200, 20, 0, 40}, {200, 20, 5, 5}, {200, 0, 5, 5}, {200, 100, 0, 0}, {200, 0, 0, 0}, {200, 100, 7, 7}, {5, 20, 0, 3}, {5, 20, 1, 1},
	} {
		require.Equal(t, tt.want, Pool{StormPercent: tt.percent, StormNodes: tt.nodes}.StormLimit(tt.size), "%+v", tt)
	}
}
