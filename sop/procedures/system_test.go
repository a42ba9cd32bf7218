package procedures_test

import (
	"testing"
	"time"

	"aegis.io/aegis/sop/sitetest"
)

// What is done about the conditions of the kernel.
func TestSystemProcedures(t *testing.T) {
	sitetest.Run(t, "system", []sitetest.Incident{
		row("KernelPanic", happy, story{After: time.Hour}, isolate+"healthcheck, uncordon", "resolved"),
		row("KernelPanic", failing, story{Broken: 2, FixedBy: "reboot"}, isolate+"healthcheck failed, diagnose, drain, reboot, "+fit, "resolved"),
		row("KernelPanic", escalation, story{Broken: 5}, isolate+"healthcheck failed, diagnose, drain, shutdown, handover", "handed over to host, powered off"),
		row("HighLoad", happy, story{After: sitetest.Soon}, "", "noted"),
		row("HighLoad", failing, story{}, "", "noted"),
		row("HighLoad", escalation, story{Again: 25 * time.Hour}, "", "noted, noted"),
	})
}

// Turns that their incidents may take besides.
func TestSystemTurns(t *testing.T) {
	sitetest.RunCases(t, []sitetest.Case{
		turn("a second panic within a day", "KernelPanic", story{History: sitetest.Past("KernelPanic", "", 0, 1)}, isolate+"handover", "handed over to host"),
	})
}
