package policy

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/ticket"
)

// A fault of the same device that comes back after repairs that went well is one of the hardware.
func TestSuspectedHardware(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	repair := func(device string, xid int, ago time.Duration) ticket.Incident {
		return ticket.Incident{
			Condition: "Xid", Device: device, XID: xid, Opened: now.Add(-ago), Closed: now.Add(-ago), Outcome: ticket.Resolved, Isolated: true,
			Destructive: []ticket.Destructive{{Action: ticket.Reset, At: now.Add(-ago)}},
		}
	}
	s := Situation{Now: now, Node: &corev1.Node{}, Status: prom.AegisNodeStatus{Condition: "Xid", ID: "3", XID: prom.XID{Code: 48, Class: prom.XIDReset}}}
	s.Status.Policy.MaxRepairs, s.Status.Policy.RepairWindow = 2, 72*time.Hour
	for name, tt := range map[string]struct {
		incidents []ticket.Incident
		suspected bool
	}{
		"once":                {[]ticket.Incident{repair("3", 48, time.Hour)}, false},
		"twice":               {[]ticket.Incident{repair("3", 48, 50*time.Hour), repair("3", 48, time.Hour)}, true},
		"long ago":            {[]ticket.Incident{repair("3", 48, 80*time.Hour), repair("3", 48, time.Hour)}, false},
		"another GPU":         {[]ticket.Incident{repair("4", 48, 50*time.Hour), repair("3", 48, time.Hour)}, false},
		"another code":        {[]ticket.Incident{repair("3", 119, 50*time.Hour), repair("3", 48, time.Hour)}, false},
		"people had looked":   {[]ticket.Incident{repair("3", 48, 50*time.Hour), {Isolated: true, Outcome: "handed_over", Closed: now.Add(-40 * time.Hour)}, repair("3", 48, time.Hour)}, false},
		"noted is no repair":  {[]ticket.Incident{{Condition: "Xid", Device: "3", XID: 48, Outcome: ticket.Noted, Closed: now.Add(-time.Hour)}, repair("3", 48, time.Hour)}, false},
		"of an earlier Aegis": {[]ticket.Incident{repair("3", 0, 50*time.Hour), repair("3", 48, time.Hour)}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := s
			s.Record.History = &ticket.History{Incidents: tt.incidents}
			require.Equal(t, tt.suspected, suspect(s) != "")
		})
	}
}

// GPUs that throw the same error in turns are all to be acted on: none makes the node forget another.
func TestEventsOfEachDeviceReachTheirThreshold(t *testing.T) {
	t.Parallel()
	const devices = 8
	status := func(device int) prom.AegisNodeStatus {
		return prom.AegisNodeStatus{
			Condition: "GpuXid", ID: fmt.Sprint(device), Policy: prom.Policy{Threshold: prom.Threshold{Count: 5, Within: 24 * time.Hour}},
		}
	}
	h, now := &ticket.History{}, time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for event := range 5 * devices {
		now = now.Add(30 * time.Minute)
		s := status(event % devices)
		if nth, rare := Seldom(now, h, s); !rare {
			require.Equal(t, 5, nth)
			require.Equal(t, 4*devices, event, "the first device is the first to have five events")
			return
		}
		h.Add(ticket.Incident{ID: fmt.Sprint(event), Condition: s.Condition, Device: s.ID, Opened: now, Closed: now, Outcome: ticket.Noted})
		text, err := h.Encode()
		require.NoError(t, err)
		h, err = ticket.ParseHistory(text)
		require.NoError(t, err)
	}
	t.Fatal("five events on each of eight GPUs within 20 hours, and five on one are to be acted on")
}
