package rules

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/rules/prom"
)

func TestInhibitedBy(t *testing.T) {
	t.Parallel()
	c := load(t, "conditions: [{name: Whole, type: gpu, inhibits: [{types: [gpu]}]}]")
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	at := func(condition, device string, ago time.Duration) prom.AegisNodeStatus {
		s := c.Status("n1", condition, device)
		s.FirstSeen = now.Add(-ago)
		return s
	}
	off := at("GpuDown", "", 0)
	off.Policy.Mode = prom.ModeOff
	for name, tt := range map[string]struct {
		status prom.AegisNodeStatus
		others []prom.AegisNodeStatus
		want   string
	}{
		"nothing else":             {status: at("GpuCheckFailed", "3", 0)},
		"a cause":                  {at("GpuCheckFailed", "3", 0), []prom.AegisNodeStatus{at("GpuDown", "", 0)}, "GpuDown explains it"},
		"the cause itself":         {at("GpuDown", "", 0), []prom.AegisNodeStatus{at("GpuCheckFailed", "3", 0)}, ""},
		"a cause that is off":      {at("GpuCheckFailed", "3", 0), []prom.AegisNodeStatus{off}, ""},
		"an unknown cause":         {at("GpuCheckFailed", "3", 0), []prom.AegisNodeStatus{at("NeverHeard", "", 0)}, ""},
		"on the same device":       {at("XIDECCMemoryErr", "3", 0), []prom.AegisNodeStatus{at("Xid48GPUMemoryDBE", "3", 0)}, "Xid48GPUMemoryDBE (3) explains it"},
		"on another device":        {at("XIDECCMemoryErr", "3", 0), []prom.AegisNodeStatus{at("Xid48GPUMemoryDBE", "4", 0)}, ""},
		"on a device nobody named": {at("XIDECCMemoryErr", "", 0), []prom.AegisNodeStatus{at("Xid48GPUMemoryDBE", "4", 0)}, "Xid48GPUMemoryDBE (4) explains it"},
		"a short while ago":        {at("GpfsNotMounted", "", 0), []prom.AegisNodeStatus{at("NodeHasRestarted", "", 14*time.Minute)}, "NodeHasRestarted explains it"},
		"too long ago":             {at("GpfsNotMounted", "", 0), []prom.AegisNodeStatus{at("NodeHasRestarted", "", 15*time.Minute)}, ""},
		"a sum by its part":        {at("BaseBoardCriticalIssue", "sysHealth", 0), []prom.AegisNodeStatus{at("BaseBoardCriticalIssue", "fan", 0)}, "BaseBoardCriticalIssue (fan) explains it"},
		"a part by the sum":        {at("BaseBoardCriticalIssue", "fan", 0), []prom.AegisNodeStatus{at("BaseBoardCriticalIssue", "sysHealth", 0)}, ""},
		"a whole domain":           {at("GpuDown", "", 0), []prom.AegisNodeStatus{at("Whole", "", 0)}, "Whole explains it"},
		"not itself":               {at("Whole", "", 0), []prom.AegisNodeStatus{at("Whole", "", 0)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tt.want, c.InhibitedBy(now, tt.status, tt.others))
		})
	}
}
