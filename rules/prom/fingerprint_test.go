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
		want   string
	}{
		"no labels":         {labels: nil, want: "cbf29ce484222325"},
		"one label":         {labels: map[string]string{"alertname": "Watchdog"}, want: "003b0a0f7d3fa569"},
		"order is no input": {labels: map[string]string{"node": "n1", "alertname": "GpuHung"}, want: ""},
		"an empty value":    {labels: map[string]string{"alertname": "GpuHung", "gpu": ""}, want: ""},
		"beyond ASCII":      {labels: map[string]string{"alertname": "Üben", "ключ": "值"}, want: ""},
		"a moved separator": {labels: map[string]string{"a": "bc"}, want: ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, upstreamFingerprint(tt.labels), Fingerprint(tt.labels))
			if tt.want != "" {
				require.Equal(t, tt.want, Fingerprint(tt.labels))
			}
		})
	}
}

func TestFingerprintTellsLabelsApart(t *testing.T) {
	t.Parallel()
	sets := []map[string]string{
		{"a": "bc"}, {"ab": "c"}, {"a": "b", "c": ""}, {"a": "b"}, {"a": "b", "c": "d"}, {"a": "d", "c": "b"}, {},
	}
	seen := make(map[string]map[string]string)
	for _, labels := range sets {
		fingerprint := Fingerprint(labels)
		require.Len(t, fingerprint, 16)
		require.NotContains(t, seen, fingerprint, "%v and %v", labels, seen[fingerprint])
		seen[fingerprint] = labels
	}
}

// FuzzFingerprint holds the hash to the one of Prometheus, which Alertmanager uses.
func FuzzFingerprint(f *testing.F) {
	f.Add("alertname", "GpuHung", "node", "n1")
	f.Add("", "", "", "")
	f.Add("a\xff", "b", "a", "\xffb")
	f.Fuzz(func(t *testing.T, name1, value1, name2, value2 string) {
		labels := map[string]string{name1: value1, name2: value2}
		require.Equal(t, upstreamFingerprint(labels), Fingerprint(labels))
	})
}

func upstreamFingerprint(labels map[string]string) string {
	set := make(model.LabelSet, len(labels))
	for name, value := range labels {
		set[model.LabelName(name)] = model.LabelValue(value)
	}
	return set.Fingerprint().String()
}
