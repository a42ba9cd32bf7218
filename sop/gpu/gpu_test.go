package gpu_test

import (
	"testing"
	"time"

	"aegis.io/aegis/sop/sitetest"
)

type story = sitetest.Story

const (
	happy      = sitetest.Happy
	failing    = sitetest.Failing
	escalation = sitetest.Escalation
	isolate    = sitetest.Isolate
	fit        = sitetest.Fit
)

var (
	row  = sitetest.Row
	turn = sitetest.Turn
)

// What is done about the conditions of GPUs, and of the errors that their driver reports by number.
func TestProcedures(t *testing.T) {
	sitetest.Run(t, "gpu", []sitetest.Incident{
		row("GpuHung", happy, story{FixedBy: "reboot"}, isolate+"drain, reboot, "+fit, "resolved"),
		row("GpuHung", failing, story{FixedBy: "reboot", At: 2}, isolate+"drain, reboot, verify failed, reboot, "+fit, "resolved"),
		row("GpuHung", escalation, story{}, isolate+"drain, reboot, verify failed, reboot, verify failed, shutdown, handover", "handed over to gpu, powered off"),
		row("GpuDown", happy, story{FixedBy: "reboot"}, isolate+"drain, reboot, "+fit, "resolved"),
		row("GpuDown", failing, story{FixedBy: "reboot", At: 2}, isolate+"drain, reboot, verify failed, reboot, "+fit, "resolved"),
		row("GpuDown", escalation, story{}, isolate+"drain, reboot, verify failed, reboot, verify failed, shutdown, handover", "handed over to gpu, powered off"),
		row("GpuCheckFailed", happy, story{FixedBy: "ResetGPU"}, isolate+"draingpu, reset, "+fit, "resolved"),
		row("GpuCheckFailed", failing, story{Fails: "ResetGPU", FixedBy: "reboot"}, isolate+"draingpu, reset failed, drain, reboot, "+fit, "resolved"),
		row("GpuCheckFailed", escalation, story{}, isolate+"draingpu, reset, verify failed, drain, reboot, verify failed, reboot, verify failed, shutdown, handover", "handed over to gpu, powered off"),
		row("GpuNvlinkInactive", happy, story{FixedBy: "ResetGPU"}, isolate+"draingpu, reset, "+fit, "resolved"),
		row("GpuNvlinkInactive", failing, story{Fails: "ResetGPU", FixedBy: "reboot"}, isolate+"draingpu, reset failed, drain, reboot, "+fit, "resolved"),
		row("GpuNvlinkInactive", escalation, story{}, isolate+"draingpu, reset, verify failed, drain, reboot, verify failed, reboot, verify failed, shutdown, handover", "handed over to gpu, powered off"),
		row("GpuNvlinkError", happy, story{FixedBy: "ResetGPU"}, isolate+"draingpu, reset, "+fit, "resolved"),
		row("GpuNvlinkError", failing, story{Fails: "ResetGPU", FixedBy: "reboot"}, isolate+"draingpu, reset failed, drain, reboot, "+fit, "resolved"),
		row("GpuNvlinkError", escalation, story{}, isolate+"draingpu, reset, verify failed, drain, reboot, verify failed, reboot, verify failed, shutdown, handover", "handed over to gpu, powered off"),
		row("GpuErrResetRequired", happy, story{FixedBy: "ResetGPU"}, isolate+"draingpu, reset, "+fit, "resolved"),
		row("GpuErrResetRequired", failing, story{Fails: "ResetGPU", FixedBy: "reboot"}, isolate+"draingpu, reset failed, drain, reboot, "+fit, "resolved"),
		row("GpuErrResetRequired", escalation, story{}, isolate+"draingpu, reset, verify failed, drain, reboot, verify failed, handover", "handed over to gpu"),
		row("GpuVolSramUncorrectable", happy, story{FixedBy: "ResetGPU"}, isolate+"draingpu, reset, "+fit, "resolved"),
		row("GpuVolSramUncorrectable", failing, story{Fails: "ResetGPU", FixedBy: "reboot"}, isolate+"draingpu, reset failed, drain, reboot, "+fit, "resolved"),
		row("GpuVolSramUncorrectable", escalation, story{}, isolate+"draingpu, reset, verify failed, drain, reboot, verify failed, handover", "handed over to gpu"),
		row("GpuRowRemappingPending", happy, story{FixedBy: "ResetGPU"}, isolate+"waitidle, draingpu, reset, "+fit, "resolved"),
		row("GpuRowRemappingPending", failing, story{Fails: "ResetGPU", FixedBy: "reboot"}, isolate+"waitidle, draingpu, reset failed, drain, reboot, "+fit, "resolved"),
		row("GpuRowRemappingPending", escalation, story{}, isolate+"waitidle, draingpu, reset, verify failed, drain, reboot, verify failed, handover", "handed over to gpu"),
		row("GpuVolDramUncorrectable", happy, story{FixedBy: "ResetGPU"}, isolate+"waitidle, draingpu, reset, "+fit, "resolved"),
		row("GpuVolDramUncorrectable", failing, story{Fails: "ResetGPU", FixedBy: "reboot"}, isolate+"waitidle, draingpu, reset failed, drain, reboot, "+fit, "resolved"),
		row("GpuVolDramUncorrectable", escalation, story{}, isolate+"waitidle, draingpu, reset, verify failed, drain, reboot, verify failed, handover", "handed over to gpu"),
		row("GpuRowRemappingFailure", happy, story{After: sitetest.Soon}, isolate+"drain canceled, "+fit, "resolved"),
		row("GpuRowRemappingFailure", failing, story{Busy: true, Held: true}, isolate+"drain failed, handover", "handed over to k8s"),
		row("GpuRowRemappingFailure", escalation, story{}, isolate+"drain, shutdown, handover", "handed over to gpu, powered off"),
		row("GpuAggSramUncorrectable", happy, story{After: sitetest.Soon}, isolate+"drain canceled, "+fit, "resolved"),
		row("GpuAggSramUncorrectable", failing, story{Busy: true, Held: true}, isolate+"drain failed, handover", "handed over to k8s"),
		row("GpuAggSramUncorrectable", escalation, story{}, isolate+"drain, shutdown, handover", "handed over to gpu, powered off"),
		row("GpuTooManyPageRetired", happy, story{After: sitetest.Soon}, isolate+"drain canceled, "+fit, "resolved"),
		row("GpuTooManyPageRetired", failing, story{Busy: true, Held: true}, isolate+"drain failed, handover", "handed over to k8s"),
		row("GpuTooManyPageRetired", escalation, story{}, isolate+"drain, handover", "handed over to gpu"),
		row("NvidiaFabricManagerNotActive", happy, story{FixedBy: "RestartFabricManager"}, isolate+"draingpu, remedy, "+fit, "resolved"),
		row("NvidiaFabricManagerNotActive", failing, story{Fails: "RestartFabricManager", FixedBy: "RestartFabricManager", At: 2}, isolate+"draingpu, remedy failed, remedy, "+fit, "resolved"),
		row("NvidiaFabricManagerNotActive", escalation, story{}, isolate+"draingpu, remedy, verify failed, remedy, verify failed, drain, reboot, verify failed, handover", "handed over to gpu"),
		row("GpuPersistenceModeNotEnabled", happy, story{FixedBy: "EnableGpuPersistence"}, "remedy, verify", "resolved"),
		row("GpuPersistenceModeNotEnabled", failing, story{Fails: "EnableGpuPersistence", FixedBy: "EnableGpuPersistence", At: 2}, "remedy failed, remedy, verify", "resolved"),
		row("GpuPersistenceModeNotEnabled", escalation, story{}, "remedy, verify failed, remedy, verify failed, "+isolate+"handover", "handed over to gpu"),
		row("GpuSmClkSlowDown", happy, story{FixedBy: "reboot"}, isolate+"waitidle, reboot, "+fit, "resolved"),
		row("GpuSmClkSlowDown", failing, story{Busy: true}, isolate+"waitidle failed, handover", "handed over to gpu"),
		row("GpuSmClkSlowDown", escalation, story{}, isolate+"waitidle, reboot, verify failed, handover", "handed over to gpu"),
		row("GpuPcieLinkDegraded", happy, story{FixedBy: "reboot"}, isolate+"waitidle, reboot, "+fit, "resolved"),
		row("GpuPcieLinkDegraded", failing, story{Busy: true}, isolate+"waitidle failed, handover", "handed over to gpu"),
		row("GpuPcieLinkDegraded", escalation, story{}, isolate+"waitidle, reboot, verify failed, shutdown, handover", "handed over to gpu, powered off"),
		row("GpuP2PNotSupported", happy, story{FixedBy: "reboot"}, isolate+"waitidle, reboot, "+fit, "resolved"),
		row("GpuP2PNotSupported", failing, story{Busy: true}, isolate+"waitidle failed, handover", "handed over to gpu"),
		row("GpuP2PNotSupported", escalation, story{}, isolate+"waitidle, reboot, verify failed, handover", "handed over to gpu"),
		row("GpuHWSlowdown", happy, story{After: sitetest.Soon}, isolate+fit, "resolved"),
		row("GpuHWSlowdown", failing, story{Fails: "diagnose"}, "cordon, diagnose failed, handover", "handed over to gpu"),
		row("GpuHWSlowdown", escalation, story{}, isolate+"handover", "handed over to gpu"),
		row("GpuIbgdaNotEnabled", happy, story{After: sitetest.Soon}, isolate+fit, "resolved"),
		row("GpuIbgdaNotEnabled", failing, story{Fails: "diagnose"}, "cordon, diagnose failed, handover", "handed over to gpu"),
		row("GpuIbgdaNotEnabled", escalation, story{}, isolate+"handover", "handed over to gpu"),
		row("GpuRegisterFailed", happy, story{FixedBy: "restartpod"}, "restartpod, verify", "resolved"),
		row("GpuRegisterFailed", failing, story{FixedBy: "restartpod", At: 2}, "restartpod, verify failed, restartpod, verify", "resolved"),
		row("GpuRegisterFailed", escalation, story{}, "restartpod, verify failed, restartpod, verify failed, "+isolate+"drain, reboot, verify failed, handover", "handed over to gpu"),
		row("GpuMetricsHang", happy, story{FixedBy: "restartpod"}, "restartpod, verify", "resolved"),
		row("GpuMetricsHang", failing, story{Bare: true}, "restartpod failed, handover", "handed over to k8s"),
		row("GpuMetricsHang", escalation, story{}, "restartpod, verify failed, handover", "handed over to k8s"),
		row("HighGpuTemp", happy, story{After: sitetest.Soon}, "", "noted"),
		row("HighGpuTemp", failing, story{}, "", "noted"),
		row("HighGpuTemp", escalation, story{Again: 25 * time.Hour}, "", "noted, noted"),
		row("HighGpuMemoryTemp", happy, story{After: sitetest.Soon}, "", "noted"),
		row("HighGpuMemoryTemp", failing, story{}, "", "noted"),
		row("HighGpuMemoryTemp", escalation, story{Again: 25 * time.Hour}, "", "noted, noted"),
		row("GpuVolDramCorrectable", happy, story{After: sitetest.Soon}, "", "noted"),
		row("GpuVolDramCorrectable", failing, story{}, "", "noted"),
		row("GpuVolDramCorrectable", escalation, story{Again: 25 * time.Hour}, "", "noted, noted"),
		row("Xid79GPULost", happy, story{FixedBy: "reboot"}, isolate+"drain, reboot, "+fit, "resolved"),
		row("Xid79GPULost", failing, story{Fails: "reboot"}, isolate+"drain, reboot failed, handover", "handed over to gpu"),
		row("Xid79GPULost", escalation, story{}, isolate+"drain, reboot, verify failed, shutdown, handover", "handed over to gpu, powered off"),
		row("Xid74NVLinkError", happy, story{FixedBy: "ResetGPU"}, isolate+"draingpu, reset, "+fit, "resolved"),
		row("Xid74NVLinkError", failing, story{Fails: "ResetGPU", FixedBy: "reboot"}, isolate+"draingpu, reset failed, drain, reboot, "+fit, "resolved"),
		row("Xid74NVLinkError", escalation, story{}, isolate+"draingpu, reset, verify failed, drain, reboot, verify failed, shutdown, handover", "handed over to gpu, powered off"),
		row("XIDHWSystemErr", happy, story{FixedBy: "ResetGPU"}, isolate+"draingpu, reset, "+fit, "resolved"),
		row("XIDHWSystemErr", failing, story{Fails: "ResetGPU", FixedBy: "reboot"}, isolate+"draingpu, reset failed, drain, reboot, "+fit, "resolved"),
		row("XIDHWSystemErr", escalation, story{}, isolate+"draingpu, reset, verify failed, drain, reboot, verify failed, shutdown, handover", "handed over to gpu, powered off"),
		row("Xid95UncontainedECCError", happy, story{FixedBy: "ResetGPU"}, isolate+"draingpu, reset, "+fit, "resolved"),
		row("Xid95UncontainedECCError", failing, story{Fails: "ResetGPU", FixedBy: "reboot"}, isolate+"draingpu, reset failed, drain, reboot, "+fit, "resolved"),
		row("Xid95UncontainedECCError", escalation, story{}, isolate+"draingpu, reset, verify failed, drain, reboot, verify failed, shutdown, handover", "handed over to gpu, powered off"),
		row("XIDECCMemoryErr", happy, story{FixedBy: "ResetGPU"}, isolate+"draingpu, reset, "+fit, "resolved"),
		row("XIDECCMemoryErr", failing, story{Fails: "ResetGPU", FixedBy: "reboot"}, isolate+"draingpu, reset failed, drain, reboot, "+fit, "resolved"),
		row("XIDECCMemoryErr", escalation, story{}, isolate+"draingpu, reset, verify failed, drain, reboot, verify failed, shutdown, handover", "handed over to gpu, powered off"),
		row("Xid48GPUMemoryDBE", happy, story{FixedBy: "ResetGPU"}, isolate+"draingpu, reset, "+fit, "resolved"),
		row("Xid48GPUMemoryDBE", failing, story{Fails: "ResetGPU", FixedBy: "reboot"}, isolate+"draingpu, reset failed, drain, reboot, "+fit, "resolved"),
		row("Xid48GPUMemoryDBE", escalation, story{}, isolate+"draingpu, reset, verify failed, drain, reboot, verify failed, handover", "handed over to gpu"),
		row("GpuXidResetRequired", happy, story{XID: 119, FixedBy: "ResetGPU"}, isolate+"draingpu, reset, "+fit, "resolved"),
		row("GpuXidResetRequired", failing, story{XID: 119, Fails: "ResetGPU", FixedBy: "reboot"}, isolate+"draingpu, reset failed, drain, reboot, "+fit, "resolved"),
		row("GpuXidResetRequired", escalation, story{XID: 119}, isolate+"draingpu, reset, verify failed, drain, reboot, verify failed, handover", "handed over to gpu"),
		row("Xid63ECCRowremapperPending", happy, story{FixedBy: "ResetGPU"}, isolate+"waitidle, draingpu, reset, "+fit, "resolved"),
		row("Xid63ECCRowremapperPending", failing, story{Fails: "ResetGPU", FixedBy: "reboot"}, isolate+"waitidle, draingpu, reset failed, drain, reboot, "+fit, "resolved"),
		row("Xid63ECCRowremapperPending", escalation, story{}, isolate+"waitidle, draingpu, reset, verify failed, drain, reboot, verify failed, handover", "handed over to gpu"),
		row("Xid94ContainedECCError", happy, story{FixedBy: "ResetGPU"}, isolate+"waitidle, draingpu, reset, "+fit, "resolved"),
		row("Xid94ContainedECCError", failing, story{Fails: "ResetGPU", FixedBy: "reboot"}, isolate+"waitidle, draingpu, reset failed, drain, reboot, "+fit, "resolved"),
		row("Xid94ContainedECCError", escalation, story{}, isolate+"waitidle, draingpu, reset, verify failed, drain, reboot, verify failed, handover", "handed over to gpu"),
		row("Xid64ECCRowremapperFailure", happy, story{FixedBy: "ResetGPU"}, isolate+"draingpu, reset, "+fit, "resolved"),
		row("Xid64ECCRowremapperFailure", failing, story{Fails: "ResetGPU"}, isolate+"draingpu, reset failed, drain, shutdown, handover", "handed over to gpu, powered off"),
		row("Xid64ECCRowremapperFailure", escalation, story{}, isolate+"draingpu, reset, verify failed, drain, shutdown, handover", "handed over to gpu, powered off"),
		row("GpuXidRebootRequired", happy, story{XID: 167, FixedBy: "reboot"}, isolate+"drain, reboot, "+fit, "resolved"),
		row("GpuXidRebootRequired", failing, story{XID: 167, Fails: "reboot"}, isolate+"drain, reboot failed, handover", "handed over to gpu"),
		row("GpuXidRebootRequired", escalation, story{XID: 167}, isolate+"drain, reboot, verify failed, shutdown, handover", "handed over to gpu, powered off"),
		row("GpuXidRecoveryAction", happy, story{Asks: "GPU Reset Required", FixedBy: "ResetGPU"}, isolate+"draingpu, reset, "+fit, "resolved"),
		row("GpuXidRecoveryAction", failing, story{Asks: "GPU Reset Required", Fails: "ResetGPU", FixedBy: "reboot"}, isolate+"draingpu, reset failed, drain, reboot, "+fit, "resolved"),
		row("GpuXidRecoveryAction", escalation, story{}, isolate+"draingpu, handover", "handed over to gpu"),
		row("Xid92HighSingleBitECCErrorRate", happy, story{After: sitetest.Soon}, "", "noted"),
		row("Xid92HighSingleBitECCErrorRate", failing, story{}, "", "noted"),
		row("Xid92HighSingleBitECCErrorRate", escalation, story{Again: 25 * time.Hour}, "", "noted, noted"),
		row("XIDUnclassifiedErr", happy, story{XID: 54, After: 30 * time.Minute}, "diagnose, healthcheck, handover", "withdrawn"),
		row("XIDUnclassifiedErr", failing, story{XID: 54}, "diagnose, healthcheck, handover", "handed over to gpu"),
		row("XIDUnclassifiedErr", escalation, story{XID: 54, Broken: 23}, "diagnose, healthcheck failed, cordon, handover", "handed over to gpu"),
	})
}

// Turns that their incidents may take besides.
func TestTurns(t *testing.T) {
	sitetest.RunCases(t, []sitetest.Case{
		turn("hardware is suspected after two repairs", "Xid48GPUMemoryDBE", story{XID: 48, History: sitetest.Past("Xid48GPUMemoryDBE", "3", 48, 2)}, isolate+"handover", "handed over to gpu"),
		turn("two repairs of another GPU suspect nothing", "Xid48GPUMemoryDBE", story{XID: 48, FixedBy: "ResetGPU", History: sitetest.Past("Xid48GPUMemoryDBE", "4", 48, 2)}, isolate+"draingpu, reset, "+fit, "resolved"),
		turn("a code that nobody knows", "XIDUnclassifiedErr", story{XID: 999}, "diagnose, healthcheck, handover", "handed over to gpu"),
		turn("a code that is only watched", "XIDUnclassifiedErr", story{XID: 93}, "", "noted"),
		turn("no code at all", "GpuXidResetRequired", story{Asks: "GPU Reset Required", FixedBy: "ResetGPU"}, isolate+"draingpu, reset, "+fit, "resolved"),
		turn("jobs that outlive the alert of an XID", "Xid94ContainedECCError", story{FixedBy: "ResetGPU", Silent: sitetest.AlertTime}, isolate+"waitidle, draingpu, reset, "+fit, "resolved"),
		turn("a reset that fails after the alert of an XID has ended", "Xid94ContainedECCError", story{Silent: sitetest.AlertTime, FixedBy: "reboot", Fails: "ResetGPU"}, isolate+"waitidle, draingpu, reset failed, drain, reboot, "+fit, "resolved"),
		turn("jobs that never end before a reset", "Xid63ECCRowremapperPending", story{FixedBy: "ResetGPU", Busy: true}, isolate+"waitidle failed, draingpu, reset, "+fit, "resolved"),
		turn("an alert that ends during the drain proves nothing", "GpuHung", story{Silent: sitetest.Soon, FixedBy: "reboot"}, isolate+"drain canceled, verify, healthcheck failed, drain, reboot, "+fit, "resolved"),
		turn("a machine that does not boot", "GpuHung", story{Lost: "reboot"}, isolate+"drain, reboot failed, handover", "handed over to gpu"),
		turn("a healthcheck that cannot be made", "GpuHung", story{FixedBy: "reboot", Lost: "healthcheck"}, isolate+"drain, reboot, verify, healthcheck canceled, healthcheck canceled, handover", "handed over to host"),
		turn("no pod of the device plugin", "GpuRegisterFailed", story{Bare: true}, "restartpod failed, handover", "handed over to k8s"),
	})
}

// What the driver asks for with XID 154 goes before the class of the code. Nothing is repaired on a text that nobody knows.
func TestWhatTheDriverAsksForComesFirst(t *testing.T) {
	t.Parallel()
	const (
		nothing = "None"
		toReset = "GPU Reset Required"
		drained = "Drain and Reset"
		toBoot  = "Node Reboot Required"
		peers   = "Drain P2P"
		unknown = "Replace The Board"
	)
	const (
		gpuReset = isolate + "draingpu, reset, " + fit
		idle     = isolate + "waitidle, draingpu, reset, " + fit
		boot     = isolate + "drain, reboot, " + fit
		people   = isolate + "draingpu, handover"
	)
	tests := []struct {
		condition string
		xid       int
		asks      string
		fixedBy   string
		steps     string
	}{
		{"Xid48GPUMemoryDBE", 48, "", "ResetGPU", gpuReset},
		{"Xid48GPUMemoryDBE", 48, nothing, "healthcheck", isolate + fit},
		{"Xid48GPUMemoryDBE", 48, toReset, "ResetGPU", gpuReset},
		{"Xid48GPUMemoryDBE", 48, drained, "ResetGPU", gpuReset},
		{"Xid48GPUMemoryDBE", 48, toBoot, "reboot", boot},
		{"Xid48GPUMemoryDBE", 48, peers, "", people},
		{"Xid48GPUMemoryDBE", 48, unknown, "", people},
		// The driver says what the GPU needs, not when: a reset that may wait until the node is idle still may.
		{"Xid94ContainedECCError", 94, "", "ResetGPU", idle},
		{"Xid94ContainedECCError", 94, nothing, "healthcheck", isolate + fit},
		{"Xid94ContainedECCError", 94, toReset, "ResetGPU", idle},
		{"Xid94ContainedECCError", 94, drained, "ResetGPU", idle},
		{"Xid94ContainedECCError", 94, toBoot, "reboot", boot},
		{"Xid94ContainedECCError", 94, peers, "", people},
		{"Xid94ContainedECCError", 94, unknown, "", people},
		{"Xid74NVLinkError", 74, nothing, "healthcheck", isolate + fit},
		{"Xid74NVLinkError", 74, toBoot, "reboot", boot},
		{"Xid74NVLinkError", 74, peers, "", people},
		{"GpuXidRebootRequired", 151, "", "reboot", boot},
		{"GpuXidRebootRequired", 151, nothing, "healthcheck", isolate + fit},
		{"GpuXidRebootRequired", 151, toReset, "ResetGPU", gpuReset},
		{"GpuXidRecoveryAction", 154, nothing, "healthcheck", isolate + fit},
		{"GpuXidRecoveryAction", 154, drained, "ResetGPU", gpuReset},
		{"GpuXidRecoveryAction", 154, toBoot, "reboot", boot},
		{"GpuXidRecoveryAction", 154, peers, "", people},
		{"GpuXidRecoveryAction", 154, unknown, "", people},
	}
	catalogue := sitetest.Catalogue(t, "")
	for _, tt := range tests {
		end := map[bool]string{true: "handed over to gpu", false: "resolved"}[tt.fixedBy == ""]
		s := story{XID: tt.xid, Asks: tt.asks, FixedBy: tt.fixedBy}
		if tt.fixedBy == "healthcheck" {
			// Nothing is repaired. The alert of an event ends by itself.
			s.FixedBy, s.After = "", sitetest.AlertTime
		}
		i := row(tt.condition, "", s, tt.steps, end)
		t.Run(tt.condition+"/"+tt.asks, func(t *testing.T) { i.Check(t, catalogue) })
	}
}
