package procedures_test

import (
	"testing"
	"time"

	"aegis.io/aegis/sop/sitetest"
)

// What is done about the conditions of processors.
func TestCPUProcedures(t *testing.T) {
	sitetest.Run(t, "cpu", []sitetest.Incident{
		row("CPUPressure", happy, story{After: 30 * time.Minute}, "cordon, verify, uncordon", "resolved"),
		row("CPUPressure", failing, story{After: 30 * time.Minute, Busy: true, Full: true}, "verify", "resolved"),
		row("CPUPressure", escalation, story{}, "cordon, verify failed, handover", "handed over to k8s"),
		row("CpuUnhealthy", happy, story{After: sitetest.Soon}, isolate+"drain canceled, "+fit, "resolved"),
		row("CpuUnhealthy", failing, story{Busy: true, Held: true}, isolate+"drain failed, handover", "handed over to k8s"),
		row("CpuUnhealthy", escalation, story{}, isolate+"drain, shutdown, handover", "handed over to host, powered off"),
	})
}
