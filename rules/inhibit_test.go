package rules

import (
	"math/rand/v2"
	"slices"
	"strconv"
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
		"the driver is built":      {at("GpuRegisterFailed", "", 0), []prom.AegisNodeStatus{at("NodeHasRestarted", "", 59*time.Minute)}, "NodeHasRestarted explains it"},
		"the driver is not there":  {at("GpuRegisterFailed", "", 0), []prom.AegisNodeStatus{at("NodeHasRestarted", "", time.Hour)}, ""},
		"too long ago":             {at("GpfsNotMounted", "", 0), []prom.AegisNodeStatus{at("NodeHasRestarted", "", 15*time.Minute)}, ""},
		"a sum by its part":        {at("BaseBoardCriticalIssue", "sysHealth", 0), []prom.AegisNodeStatus{at("BaseBoardCriticalIssue", "fan", 0)}, "BaseBoardCriticalIssue (fan) explains it"},
		"a part by the sum":        {at("BaseBoardCriticalIssue", "fan", 0), []prom.AegisNodeStatus{at("BaseBoardCriticalIssue", "sysHealth", 0)}, ""},
		"a whole domain":           {at("GpuDown", "", 0), []prom.AegisNodeStatus{at("Whole", "", 0)}, "Whole explains it"},
		"not itself":               {at("Whole", "", 0), []prom.AegisNodeStatus{at("Whole", "", 0)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tt.want, c.InhibitedBy(now, append(tt.others, tt.status))(tt.status))
		})
	}
}

// What is found for all conditions of a node at once is what a look at each of the others finds.
func TestInhibitedByAllAtOnce(t *testing.T) {
	t.Parallel()
	c := load(t, `conditions:
- {name: Domain, type: gpu, inhibits: [{types: [gpu], sameDevice: true}, {types: [nic], within: 10m}]}
- {name: Named, type: gpu, inhibits: [{conditions: [Victim], sameDevice: true, within: 20m}]}
- {name: Devices, type: nic, inhibits: [{conditions: [Devices, Victim], devices: ["0", "1"]}]}
- {name: Victim, type: gpu}
- {name: Link, type: nic}
`)
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	random := rand.New(rand.NewPCG(1, 2))
	names, devices := []string{"Domain", "Named", "Devices", "Victim", "Link", "NeverHeard"}, []string{"", "0", "1", "2"}
	for range 2000 {
		var statuses []prom.AegisNodeStatus
		for range random.IntN(7) {
			s := c.Status("n1", names[random.IntN(len(names))], "")
			s.ID, s.FirstSeen = devices[random.IntN(len(devices))], now.Add(-time.Duration(random.IntN(30))*time.Minute)
			if random.IntN(8) == 0 {
				s.Policy.Mode = prom.ModeOff
			}
			statuses = append(statuses, s)
		}
		inhibitedBy := c.InhibitedBy(now, statuses)
		for i, s := range statuses {
			require.Equal(t, lookedAtEach(c, now, s, slices.Concat(statuses[:i], statuses[i+1:])), inhibitedBy(s), "%v of %v", s, statuses)
		}
	}
}

// lookedAtEach holds the status against each of the others.
func lookedAtEach(c *Catalogue, now time.Time, s prom.AegisNodeStatus, others []prom.AegisNodeStatus) string {
	for _, cause := range others {
		e := c.lookup(cause.Condition)
		if e == nil || cause.Policy.Mode == prom.ModeOff {
			continue
		}
		for _, i := range e.Inhibits {
			if over := i.Within > 0 && !now.Before(cause.FirstSeen.Add(i.Within)); !over && explains(i, cause, s) {
				return describeCause(cause)
			}
		}
	}
	return ""
}

func explains(i Inhibition, cause, s prom.AegisNodeStatus) bool {
	named := slices.Contains(i.Conditions, s.Condition) || slices.Contains(i.Types, s.Type) && s.Condition != cause.Condition
	elsewhere := i.SameDevice && cause.ID != "" && s.ID != "" && cause.ID != s.ID
	otherDevice := len(i.Devices) > 0 && (!slices.Contains(i.Devices, s.ID) || slices.Contains(i.Devices, cause.ID))
	return named && !elsewhere && !otherDevice
}

// However many conditions a node has, each is held against as many inhibitions as there are.
func TestInhibitionsAreNoMoreThanTheirRules(t *testing.T) {
	t.Parallel()
	c := load(t, "conditions: [{name: Cause, type: gpu, inhibits: [{conditions: [Victim], sameDevice: true}, {types: [gpu]}]}, {name: Victim, type: nic}]")
	var statuses []prom.AegisNodeStatus
	for i := range 5000 {
		s := c.Status("n1", "Cause", "")
		s.ID = strconv.Itoa(i)
		statuses = append(statuses, s)
	}
	require.Len(t, c.explanations(time.Now(), statuses), 2)
}

func BenchmarkInhibitedByOfACrowd(b *testing.B) {
	c := load(b, "conditions: [{name: Cause, type: gpu, inhibits: [{conditions: [Victim], sameDevice: true}]}, {name: Victim, type: nic}]")
	var statuses []prom.AegisNodeStatus
	for i := range 5000 {
		s := c.Status("n1", []string{"Cause", "Victim"}[i%2], "")
		s.ID = strconv.Itoa(i)
		statuses = append(statuses, s)
	}
	for b.Loop() {
		inhibitedBy := c.InhibitedBy(time.Now(), statuses)
		for _, s := range statuses {
			inhibitedBy(s)
		}
	}
}
