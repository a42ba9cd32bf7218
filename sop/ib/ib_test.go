package ib_test

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

var row = sitetest.Row

// What is done about the conditions of InfiniBand.
func TestProcedures(t *testing.T) {
	sitetest.Run(t, "ib", []sitetest.Incident{
		row("IBLost", happy, story{After: sitetest.Soon}, isolate+"drain canceled, "+fit, "resolved"),
		row("IBLost", failing, story{Busy: true, Held: true}, isolate+"drain failed, handover", "handed over to k8s"),
		row("IBLost", escalation, story{}, isolate+"drain, handover", "handed over to network"),
		row("IBModuleLost", happy, story{After: sitetest.Soon}, isolate+"drain canceled, "+fit, "resolved"),
		row("IBModuleLost", failing, story{Busy: true, Held: true}, isolate+"drain failed, handover", "handed over to k8s"),
		row("IBModuleLost", escalation, story{}, isolate+"drain, handover", "handed over to network"),
		row("IBDown", happy, story{After: sitetest.Soon}, isolate+"drain canceled, "+fit, "resolved"),
		row("IBDown", failing, story{Busy: true, Held: true}, isolate+"drain failed, handover", "handed over to k8s"),
		row("IBDown", escalation, story{}, isolate+"drain, handover", "handed over to network"),
		row("IBLinkAbnormal", happy, story{After: sitetest.Soon}, isolate+"drain canceled, "+fit, "resolved"),
		row("IBLinkAbnormal", failing, story{Busy: true, Held: true}, isolate+"drain failed, handover", "handed over to k8s"),
		row("IBLinkAbnormal", escalation, story{}, isolate+"drain, handover", "handed over to network"),
		row("IBNetDriverFailedLoad", happy, story{FixedBy: "ReloadIBDriver"}, isolate+"drain, remedy, "+fit, "resolved"),
		row("IBNetDriverFailedLoad", failing, story{Fails: "ReloadIBDriver"}, isolate+"drain, remedy failed, handover", "handed over to network"),
		row("IBNetDriverFailedLoad", escalation, story{}, isolate+"drain, remedy, verify failed, handover", "handed over to network"),
		row("IBPCIeMRRNotAlign", happy, story{After: sitetest.Soon}, isolate+fit, "resolved"),
		row("IBPCIeMRRNotAlign", failing, story{Fails: "diagnose"}, "cordon, diagnose failed, handover", "handed over to network"),
		row("IBPCIeMRRNotAlign", escalation, story{}, isolate+"handover", "handed over to network"),
		row("IBProtocolAbnormal", happy, story{After: sitetest.Soon}, isolate+fit, "resolved"),
		row("IBProtocolAbnormal", failing, story{Fails: "diagnose"}, "cordon, diagnose failed, handover", "handed over to network"),
		row("IBProtocolAbnormal", escalation, story{}, isolate+"handover", "handed over to network"),
		row("IBPortSpeedAbnormal", happy, story{After: sitetest.Soon}, isolate+"waitidle, "+fit, "resolved"),
		row("IBPortSpeedAbnormal", failing, story{Busy: true}, isolate+"waitidle failed, handover", "handed over to network"),
		row("IBPortSpeedAbnormal", escalation, story{}, isolate+"waitidle, handover", "handed over to network"),
		row("IBLinkFrequentDown", happy, story{After: sitetest.Soon}, isolate+"waitidle, "+fit, "resolved"),
		row("IBLinkFrequentDown", failing, story{Busy: true}, isolate+"waitidle failed, handover", "handed over to network"),
		row("IBLinkFrequentDown", escalation, story{}, isolate+"waitidle, handover", "handed over to network"),
		row("IBPCIeSpeedAbnormal", happy, story{FixedBy: "reboot"}, isolate+"waitidle, reboot, "+fit, "resolved"),
		row("IBPCIeSpeedAbnormal", failing, story{Busy: true}, isolate+"waitidle failed, handover", "handed over to network"),
		row("IBPCIeSpeedAbnormal", escalation, story{}, isolate+"waitidle, reboot, verify failed, handover", "handed over to network"),
		row("IBPCIeWidthAbnormal", happy, story{FixedBy: "reboot"}, isolate+"waitidle, reboot, "+fit, "resolved"),
		row("IBPCIeWidthAbnormal", failing, story{Busy: true}, isolate+"waitidle failed, handover", "handed over to network"),
		row("IBPCIeWidthAbnormal", escalation, story{}, isolate+"waitidle, reboot, verify failed, handover", "handed over to network"),
		row("IBRegisterFailed", happy, story{FixedBy: "restartpod"}, "restartpod, verify", "resolved"),
		row("IBRegisterFailed", failing, story{FixedBy: "restartpod", At: 2}, "restartpod, verify failed, restartpod, verify", "resolved"),
		row("IBRegisterFailed", escalation, story{}, "restartpod, verify failed, restartpod, verify failed, "+isolate+"drain, reboot, verify failed, handover", "handed over to network"),
		row("IBReceivedError", happy, story{After: sitetest.Soon}, "", "noted"),
		row("IBReceivedError", failing, story{}, "", "noted"),
		row("IBReceivedError", escalation, story{Again: 25 * time.Hour}, "", "noted, noted"),
		row("IBTransmittedError", happy, story{After: sitetest.Soon}, "", "noted"),
		row("IBTransmittedError", failing, story{}, "", "noted"),
		row("IBTransmittedError", escalation, story{Again: 25 * time.Hour}, "", "noted, noted"),
		row("IBSymbolError", happy, story{After: sitetest.Soon}, "", "noted"),
		row("IBSymbolError", failing, story{}, "", "noted"),
		row("IBSymbolError", escalation, story{Again: 25 * time.Hour}, "", "noted, noted"),
	})
}
