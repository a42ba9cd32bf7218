package cmd

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/procedures"
)

func TestPermissionIsValidated(t *testing.T) {
	t.Parallel()
	const prometheus, alertmanagers = "prometheus: {url: http://p:9090}\n", "alertmanagers: [{url: http://a:9093}]\n"
	tests := map[string]struct{ text, want string }{
		"neither":                     {"", ""},
		"Alertmanager":                {prometheus + alertmanagers + "permission: alertmanager", ""},
		"Prometheus":                  {prometheus + "permission: prometheus", ""},
		"somebody":                    {"permission: promtheus", `permission "promtheus" is unknown, did you mean "prometheus"?`},
		"Prometheus and Alertmanager": {prometheus + alertmanagers + "permission: prometheus", "alertmanagers are not asked with permission: prometheus"},
		"a Prometheus that is not":    {"permission: prometheus", "permission is prometheus, and prometheus.url is missing"},
		"isolate":                     {prometheus + alertmanagers + "whenAlertmanagerIsAway: isolate\nalertmanagerAwayAfter: 1m", ""},
		"another choice":              {"whenAlertmanagerIsAway: drain", `whenAlertmanagerIsAway "drain" is unknown, known are hold, isolate`},
		"too soon":                    {"alertmanagerAwayAfter: 59s", "alertmanagerAwayAfter 59s is too short: must be at least 1m0s"},
		"isolate with Prometheus":     {prometheus + "permission: prometheus\nwhenAlertmanagerIsAway: isolate", "whenAlertmanagerIsAway needs permission: alertmanager"},
		"isolate without replicas":    {prometheus + "whenAlertmanagerIsAway: isolate", "whenAlertmanagerIsAway is isolate, and no alertmanagers are named"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := decodeConfig("aegis.yaml", []byte(tt.text))
			if tt.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, tt.want)
		})
	}
}

func TestCheckSaysThatNothingWillBeRepaired(t *testing.T) {
	t.Parallel()
	const (
		prometheus = "prometheus: {url: http://p:9090}\n"
		nobody     = "no alertmanagers are named, so that nothing permits a repair: name them, or set permission: prometheus"
	)
	tests := map[string]struct{ text, conditions, want string }{
		"mode observe":            {prometheus, "", ""},
		"mode auto":               {prometheus + "mode: auto", "", nobody},
		"a preset":                {prometheus + "preset: unattended", "", nobody},
		"mode approve":            {prometheus + "mode: approve", "", nobody},
		"the mode of a condition": {prometheus, "conditions: [{name: GpuHung, policy: {mode: auto}}]", "although the mode of GpuHung is approve or auto: " + nobody},
		"no Prometheus":           {"mode: auto\nalertmanagers: [{url: http://a:9093}]", "", "prometheus.url is missing"},
		"Prometheus permits":      {prometheus + "mode: auto\npermission: prometheus", "", ""},
		"Alertmanager permits":    {prometheus + "mode: auto\nalertmanagers: [{url: http://a:9093}]", "", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			file := filepath.Join(dir, "aegis.yaml")
			if tt.conditions != "" {
				require.NoError(t, os.WriteFile(filepath.Join(dir, "site.yaml"), []byte(tt.conditions), 0o600))
				tt.text += "\nconditions: [site.yaml]"
			}
			require.NoError(t, os.WriteFile(file, []byte(tt.text), 0o600))
			err := check([]string{file}, io.Discard, procedures.Table())
			if tt.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, file+": nothing will be repaired, although the mode of ")
			require.ErrorContains(t, err, tt.want)
		})
	}
}

func TestNewsHasPrometheusAsked(t *testing.T) {
	t.Parallel()
	asked := 0
	news{func() { asked++ }}.Observe(prom.Observation{})
	require.Equal(t, 1, asked)
}
