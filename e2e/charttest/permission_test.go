package charttest

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
)

// The chart renders who permits repairs, and names no Alertmanager where none is asked.
func TestPermissionIsRendered(t *testing.T) {
	t.Parallel()
	const urls = "http://alertmanager-operated.monitoring.svc:9093"
	tests := map[string]struct {
		values          string
		wanted, missing []string
	}{
		"by default":            {"", []string{urls}, []string{"permission:", "whenAlertmanagerIsAway:"}},
		"by a value":            {"permission: prometheus", []string{"permission: prometheus"}, []string{urls, "alertmanagers:"}},
		"by more configuration": {"config: {permission: prometheus}", []string{"permission: prometheus"}, []string{urls, "alertmanagers:"}},
		"isolate":               {"whenAlertmanagerIsAway: isolate", []string{urls, "whenAlertmanagerIsAway: isolate"}, []string{"permission:"}},
		"an older release":      {"permission: null\nwhenAlertmanagerIsAway: null", []string{urls}, []string{"permission:", "whenAlertmanagerIsAway:"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := ""
			for _, m := range all[corev1.ConfigMap](t, rendered(t, "aegis", tt.values), "ConfigMap") {
				text += m.Data["aegis.yaml"]
			}
			require.NotEmpty(t, text)
			for _, part := range tt.wanted {
				require.Contains(t, text, part)
			}
			for _, part := range tt.missing {
				require.NotContains(t, text, part)
			}
		})
	}
}
