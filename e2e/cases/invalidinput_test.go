package cases

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/ticket"
)

// Invalid input gets an answer that says what is wrong, the good part of a bad notification is taken, and the process goes on.
func TestRubbishIsAnsweredAndLosesNothing(t *testing.T) {
	t.Parallel()
	alerts := shared.Aegis[0].Webhook()
	tests := []struct {
		name, body string
		code       int
	}{
		{"empty", "", http.StatusBadRequest},
		{"truncated", `{"version":"4","alerts":[{"status":"firing"`, http.StatusBadRequest},
		{"no JSON", "<xml/>", http.StatusBadRequest},
		{"other version", `{"version":"3","alerts":[]}`, http.StatusBadRequest},
		{"no alerts", `{"version":"4"}`, http.StatusBadRequest},
		{"deeply nested", `{"version":"4","alerts":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + "}", http.StatusBadRequest},
		{"huge", `{"version":"4","alerts":[],"x":"` + strings.Repeat("x", 17<<20) + `"}`, http.StatusRequestEntityTooLarge},
		{"node that does not exist", notification(`"node":"nowhere"`), http.StatusOK},
		{"no node", notification(`"x":"y"`), http.StatusOK},
		{"a megabyte of label", notification(`"node":"` + strings.Repeat("n", 1<<20) + `"`), http.StatusOK},
		{"shell, YAML and PromQL", notification(`"node":"$(reboot)\n- a: *b\n","gpu":"0\"} or vector(1) #"`), http.StatusOK},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			resp, err := http.Post(alerts, "application/json", strings.NewReader(tt.body))
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, tt.code, resp.StatusCode)
		})
	}
	resp, err := http.Get(alerts)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusMethodNotAllowed, resp.StatusCode)

	// An alert that nobody else reports is not believed: it costs nothing, not even a cordon.
	n := nodeOf(t, poolRequested, 1)
	resp, err = http.Post(alerts, "application/json", strings.NewReader(notification(fmt.Sprintf(`"node":%q`, n.name))))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	// The condition is withdrawn within a second or two, and its verdict with it; the Event stays.
	require.Eventually(t, func() bool { return n.told("GpuHung: unconfirmed") > 0 }, within, tick)
	n.untouched(3*time.Second, func(now *corev1.Node) bool {
		return !now.Spec.Unschedulable && now.Annotations[ticket.Annotation] == ""
	})
	require.True(t, shared.Aegis[0].Running())
}

// notification is a firing GpuHung with these labels.
func notification(labels string) string {
	return fmt.Sprintf(`{"version":"4","status":"firing","alerts":[{"status":"firing","labels":{"alertname":"GpuHung","condition":"GpuHung",%s},`+
		`"annotations":{},"startsAt":%q,"endsAt":"0001-01-01T00:00:00Z"}]}`, labels, time.Now().Format(time.RFC3339))
}
