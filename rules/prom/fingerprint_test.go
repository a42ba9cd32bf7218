package prom

import (
	"testing"

	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"
)

func TestFingerprint(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		labels map[string]string
		want   string // As an Alertmanager printed it. Empty when only its library says.
	}{
		"no labels":         {labels: nil, want: "cbf29ce484222325"},
		"one label":         {labels: map[string]string{"alertname": "Watchdog"}, want: "003b0a0f7d3fa569"},
		"order is no input": {labels: map[string]string{"node": "n1", "alertname": "GpuHung"}},
		"an empty value":    {labels: map[string]string{"alertname": "GpuHung", "gpu": ""}},
		"beyond ASCII":      {labels: map[string]string{"alertname": "Üben", "ключ": "值"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			set := make(model.LabelSet, len(tt.labels))
			for label, value := range tt.labels {
				set[model.LabelName(label)] = model.LabelValue(value)
			}
			require.Equal(t, set.Fingerprint().String(), Fingerprint(tt.labels), "as Alertmanager computes it, from a set")
			if tt.want != "" {
				require.Equal(t, tt.want, Fingerprint(tt.labels))
			}
		})
	}
}
