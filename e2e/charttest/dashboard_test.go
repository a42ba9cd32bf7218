package charttest

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
)

// dashboards returns the ConfigMaps that the sidecar of Grafana takes.
func dashboards(t *testing.T, values string) []corev1.ConfigMap {
	t.Helper()
	var found []corev1.ConfigMap
	for _, m := range all[corev1.ConfigMap](t, rendered(t, "heal", noRules+values), "ConfigMap") {
		if m.Labels["grafana_dashboard"] == "1" {
			found = append(found, m)
		}
	}
	return found
}

func TestDashboardIsShipped(t *testing.T) {
	t.Parallel()
	require.Empty(t, dashboards(t, ""))
	found := dashboards(t, "dashboard: {enabled: true}")
	require.Len(t, found, 1)
	require.Equal(t, "heal", found[0].Namespace)
	text, err := os.ReadFile(chart + "/dashboards/aegis.json")
	require.NoError(t, err)
	require.Equal(t, strings.TrimSpace(string(text)), strings.TrimSpace(found[0].Data["aegis.json"]), "Helm takes nothing in it for its own")

	moved := dashboards(t, "dashboard: {enabled: true, namespace: grafana, labels: {team: gpu}, annotations: {grafana_folder: Operations}}")
	require.Equal(t, "grafana", moved[0].Namespace)
	require.Equal(t, "gpu", moved[0].Labels["team"])
	require.Equal(t, "Operations", moved[0].Annotations["grafana_folder"])
}
