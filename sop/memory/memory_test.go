package memory_test

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

// What is done about the conditions of memory.
func TestProcedures(t *testing.T) {
	sitetest.Run(t, "memory", []sitetest.Incident{
		row("KubeletMemoryPressure", happy, story{FixedBy: "DropCache"}, "remedy, verify", "resolved"),
		row("KubeletMemoryPressure", failing, story{Fails: "DropCache", After: 30 * time.Minute}, "remedy failed, cordon, verify, uncordon", "resolved"),
		row("KubeletMemoryPressure", escalation, story{}, "remedy, verify failed, cordon, verify failed, handover", "handed over to k8s"),
		row("MemoryPressure", happy, story{After: 30 * time.Minute}, "cordon, verify, uncordon", "resolved"),
		row("MemoryPressure", failing, story{After: 30 * time.Minute, Busy: true, Full: true}, "verify", "resolved"),
		row("MemoryPressure", escalation, story{}, "cordon, verify failed, handover", "handed over to k8s"),
		row("MemoryUnhealthy", happy, story{After: sitetest.Soon}, isolate+"drain canceled, "+fit, "resolved"),
		row("MemoryUnhealthy", failing, story{Busy: true, Held: true}, isolate+"drain failed, handover", "handed over to k8s"),
		row("MemoryUnhealthy", escalation, story{}, isolate+"drain, shutdown, handover", "handed over to host, powered off"),
	})
}

// Turns that their incidents may take besides.
func TestTurns(t *testing.T) {
	sitetest.RunCases(t, []sitetest.Case{
		turn("a machine that does not power off", "MemoryUnhealthy", story{Lost: "shutdown"}, isolate+"drain, shutdown failed, handover", "handed over to host, power state unknown"),
	})
}
