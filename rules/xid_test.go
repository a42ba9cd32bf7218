package rules

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/rules/prom"
)

func TestXIDsOfTheDriver(t *testing.T) {
	t.Parallel()
	c := load(t)
	for code := 1; code <= 173; code++ {
		x, known := c.xids[code]
		require.True(t, known, "XID %d", code)
		require.NotEmpty(t, x.Name, "XID %d", code)
		require.Equal(t, code, x.Code)
		acted := !x.Class.Harmless() && code != 45 && x.DetailOf == 0
		require.Equal(t, acted, x.Condition != "", "XID %s of class %s", x, x.Class)
	}
	require.Equal(t, prom.XID{Code: 9000, Class: prom.XIDCheck}, c.XID(9000), "nothing destructive is done about a number without a meaning")
	require.Zero(t, c.XID(0))
	require.Len(t, c.XIDs(), len(c.xids))
}

func TestXIDOfAStatus(t *testing.T) {
	t.Parallel()
	c := load(t, "xids: [{code: 63, class: reboot}, {code: 48, threshold: {count: 3, within: 24h}}, {code: 31, class: reset, condition: XIDECCMemoryErr}]")
	require.Equal(t, prom.XID{Code: 48, Class: prom.XIDReset}, c.Status("n1", "Xid48GPUMemoryDBE", "0").XID, "the only one of its condition")
	require.Equal(t, prom.Threshold{Count: 3, Within: 24 * time.Hour}, c.Status("n1", "Xid48GPUMemoryDBE", "0").Policy.Threshold)
	require.Equal(t, prom.XID{Code: 63, Class: prom.XIDReboot}, c.Status("n1", "Xid63ECCRowremapperPending", "0").XID, "the operator's class")
	require.Equal(t, prom.XID{Class: prom.XIDReset}, c.Status("n1", "GpuXidResetRequired", "0").XID, "one of several of a class, and nobody said which")
	require.Equal(t, prom.XID{Class: prom.XIDReboot}, c.Status("n1", "GpuXidRebootRequired", "0").XID)
	require.Equal(t, prom.XID{Class: prom.XIDCheck}, c.Status("n1", "XIDUnclassifiedErr", "0").XID, "nothing destructive is done about what may be anything")
	require.Equal(t, prom.XID{Code: 119, Class: prom.XIDReset}, c.StatusOfXID("n1", "GpuXidResetRequired", "0", 119).XID)
	require.Equal(t, prom.XID{Code: 31, Class: prom.XIDReset}, c.StatusOfXID("n1", "XIDECCMemoryErr", "0", 31).XID)
	require.Zero(t, c.StatusOfXID("n1", "GpuDown", "", 79).XID, "no XID belongs to the condition")
}

func TestXIDOfAnAlert(t *testing.T) {
	t.Parallel()
	r := newTestClassifier(t)
	for label, want := range map[string]prom.XID{
		"119": {Code: 119, Class: prom.XIDReset}, "": {Class: prom.XIDReset}, "x": {Class: prom.XIDReset}, "-1": {Class: prom.XIDReset},
		"99999999999999999999": {Class: prom.XIDReset}, "9000": {Code: 9000, Class: prom.XIDCheck},
	} {
		got, err := r.Classify(alert("alertname", "GpuXidResetRequired", "condition", "GpuXidResetRequired", "node", "dgx-01", "gpu", "3", "xid", label))
		require.NoError(t, err)
		require.Equal(t, want, got.Status.XID, label)
	}
}

func TestStrongerXID(t *testing.T) {
	t.Parallel()
	reset, reboot, watch := prom.XID{Code: 48, Class: prom.XIDReset}, prom.XID{Code: 79, Class: prom.XIDReboot}, prom.XID{Code: 92, Class: prom.XIDWatch}
	other := prom.XID{Code: 46, Class: prom.XIDReset}
	for _, tt := range [][3]prom.XID{{reset, reboot, reboot}, {reboot, reset, reboot}, {watch, reset, reset}, {reset, {}, reset}, {{}, watch, watch}, {reset, other, other}, {other, reset, other}} {
		require.Equal(t, tt[2], tt[0].Stronger(tt[1]), "%v and %v", tt[0], tt[1])
	}
}

// An alias maps to the right name, and whoever uses it is told once.
func TestAliasIsWarnedOfOnce(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	r := newTestClassifier(t)
	r.logger = slog.New(slog.NewTextHandler(&log, nil))
	for range 3 {
		got, err := r.Classify(alert("alertname", "Old", "condition", "IBTrasmittedError", "node", "dgx-01", "device", "mlx5_0"))
		require.NoError(t, err)
		require.Equal(t, "IBTransmittedError", got.Status.Condition)
	}
	require.Equal(t, 1, strings.Count(log.String(), "alias=IBTrasmittedError"), log.String())
	_, err := r.Classify(alert("alertname", "GpuHung", "condition", "GpuHung", "node", "dgx-01"))
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(log.String(), "level=WARN"), log.String())
}
