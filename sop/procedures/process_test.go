package procedures_test

import (
	"testing"

	"aegis.io/aegis/sop/sitetest"
)

// What is done about the conditions of processes.
func TestProcessProcedures(t *testing.T) {
	sitetest.Run(t, "process", []sitetest.Incident{
		row("HighDProcessesCount", happy, story{FixedBy: "reboot"}, isolate+"waitidle, reboot, "+fit, "resolved"),
		row("HighDProcessesCount", failing, story{Busy: true}, isolate+"waitidle failed, handover", "handed over to host"),
		row("HighDProcessesCount", escalation, story{}, isolate+"waitidle, reboot, verify failed, handover", "handed over to host"),
		row("HighZombieProcessesCount", happy, story{FixedBy: "reboot"}, isolate+"waitidle, reboot, "+fit, "resolved"),
		row("HighZombieProcessesCount", failing, story{Busy: true}, isolate+"waitidle failed, handover", "handed over to host"),
		row("HighZombieProcessesCount", escalation, story{}, isolate+"waitidle, reboot, verify failed, handover", "handed over to host"),
	})
}
