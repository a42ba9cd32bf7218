package baseboard_test

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

// What is done about the conditions of the baseboard.
func TestProcedures(t *testing.T) {
	sitetest.Run(t, "baseboard", []sitetest.Incident{
		row("BaseBoardCriticalIssue", happy, story{Device: "fan", After: sitetest.Soon}, isolate+"drain canceled, "+fit, "resolved"),
		row("BaseBoardCriticalIssue", failing, story{Device: "fan", Busy: true, Held: true}, isolate+"drain failed, handover", "handed over to k8s"),
		row("BaseBoardCriticalIssue", escalation, story{Device: "fan"}, isolate+"drain, shutdown, handover", "handed over to host, powered off"),
	})
}

// Turns that their incidents may take besides.
func TestTurns(t *testing.T) {
	sitetest.RunCases(t, []sitetest.Case{
		turn("one power supply of two", "BaseBoardCriticalIssue", story{Device: "power"}, "handover", "handed over to host"),
		turn("the current of a power supply", "BaseBoardCriticalIssue", story{Device: "current", After: time.Hour}, "handover", "withdrawn"),
		turn("a sensor without a name", "BaseBoardCriticalIssue", story{Device: "sysHealth"}, isolate+"drain, shutdown, handover", "handed over to host, powered off"),
	})
}
