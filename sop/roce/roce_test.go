package roce_test

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

// What is done about the conditions of RoCE.
func TestProcedures(t *testing.T) {
	sitetest.Run(t, "roce", []sitetest.Incident{
		row("RoceDeviceBroken", happy, story{After: sitetest.Soon}, isolate+"drain canceled, "+fit, "resolved"),
		row("RoceDeviceBroken", failing, story{Busy: true, Held: true}, isolate+"drain failed, handover", "handed over to k8s"),
		row("RoceDeviceBroken", escalation, story{}, isolate+"drain, handover", "handed over to network"),
		row("RoceHostOffline", happy, story{After: 30 * time.Minute}, isolate+fit, "resolved"),
		row("RoceHostOffline", failing, story{Busy: true, Held: true}, isolate+"verify failed, drain failed, handover", "handed over to k8s"),
		row("RoceHostOffline", escalation, story{}, isolate+"verify failed, drain, handover", "handed over to network"),
		row("RoceHostGatewayNotMatch", happy, story{After: sitetest.Soon}, isolate+fit, "resolved"),
		row("RoceHostGatewayNotMatch", failing, story{Fails: "diagnose"}, "cordon, diagnose failed, handover", "handed over to network"),
		row("RoceHostGatewayNotMatch", escalation, story{}, isolate+"handover", "handed over to network"),
		row("RoceHostRouteMiss", happy, story{After: sitetest.Soon}, isolate+fit, "resolved"),
		row("RoceHostRouteMiss", failing, story{Fails: "diagnose"}, "cordon, diagnose failed, handover", "handed over to network"),
		row("RoceHostRouteMiss", escalation, story{}, isolate+"handover", "handed over to network"),
		row("RocePodOffline", happy, story{After: sitetest.Soon}, isolate+fit, "resolved"),
		row("RocePodOffline", failing, story{Fails: "diagnose"}, "cordon, diagnose failed, handover", "handed over to network"),
		row("RocePodOffline", escalation, story{}, isolate+"handover", "handed over to network"),
		row("RocePodGatewayNotMatch", happy, story{After: sitetest.Soon}, isolate+fit, "resolved"),
		row("RocePodGatewayNotMatch", failing, story{Fails: "diagnose"}, "cordon, diagnose failed, handover", "handed over to network"),
		row("RocePodGatewayNotMatch", escalation, story{}, isolate+"handover", "handed over to network"),
		row("RoceVfDeviceMiss", happy, story{After: sitetest.Soon}, isolate+fit, "resolved"),
		row("RoceVfDeviceMiss", failing, story{Fails: "diagnose"}, "cordon, diagnose failed, handover", "handed over to network"),
		row("RoceVfDeviceMiss", escalation, story{}, isolate+"handover", "handed over to network"),
		row("RoceSriovInitError", happy, story{After: sitetest.Soon}, isolate+fit, "resolved"),
		row("RoceSriovInitError", failing, story{Fails: "diagnose"}, "cordon, diagnose failed, handover", "handed over to network"),
		row("RoceSriovInitError", escalation, story{}, isolate+"handover", "handed over to network"),
		row("RoceNodeLabelMiss", happy, story{After: 30 * time.Minute}, "verify", "resolved"),
		row("RoceNodeLabelMiss", failing, story{}, "verify failed, handover", "handed over to k8s"),
		row("RoceNodeLabelMiss", escalation, story{Again: time.Hour}, "verify failed, handover", "withdrawn, handed over to k8s"),
		row("RoceNodeUnitLabelMiss", happy, story{After: 30 * time.Minute}, "verify", "resolved"),
		row("RoceNodeUnitLabelMiss", failing, story{}, "verify failed, handover", "handed over to k8s"),
		row("RoceNodeUnitLabelMiss", escalation, story{Again: time.Hour}, "verify failed, handover", "withdrawn, handed over to k8s"),
		row("RoceNodePfNamesLabelMiss", happy, story{After: 30 * time.Minute}, "verify", "resolved"),
		row("RoceNodePfNamesLabelMiss", failing, story{}, "verify failed, handover", "handed over to k8s"),
		row("RoceNodePfNamesLabelMiss", escalation, story{Again: time.Hour}, "verify failed, handover", "withdrawn, handed over to k8s"),
		row("RoceNodeResourceLabelMiss", happy, story{After: 30 * time.Minute}, "verify", "resolved"),
		row("RoceNodeResourceLabelMiss", failing, story{}, "verify failed, handover", "handed over to k8s"),
		row("RoceNodeResourceLabelMiss", escalation, story{Again: time.Hour}, "verify failed, handover", "withdrawn, handed over to k8s"),
		row("RoceNodeNetworkLabelMiss", happy, story{After: 30 * time.Minute}, "verify", "resolved"),
		row("RoceNodeNetworkLabelMiss", failing, story{}, "verify failed, handover", "handed over to k8s"),
		row("RoceNodeNetworkLabelMiss", escalation, story{Again: time.Hour}, "verify failed, handover", "withdrawn, handed over to k8s"),
		row("RoceNodeResourceMiss", happy, story{FixedBy: "restartpod"}, "restartpod, verify", "resolved"),
		row("RoceNodeResourceMiss", failing, story{FixedBy: "restartpod", At: 2}, "restartpod, verify failed, restartpod, verify", "resolved"),
		row("RoceNodeResourceMiss", escalation, story{}, "restartpod, verify failed, restartpod, verify failed, "+isolate+"drain, reboot, verify failed, handover", "handed over to network"),
		row("RoceRegisterFailed", happy, story{FixedBy: "restartpod"}, "restartpod, verify", "resolved"),
		row("RoceRegisterFailed", failing, story{FixedBy: "restartpod", At: 2}, "restartpod, verify failed, restartpod, verify", "resolved"),
		row("RoceRegisterFailed", escalation, story{}, "restartpod, verify failed, restartpod, verify failed, "+isolate+"drain, reboot, verify failed, handover", "handed over to network"),
	})
}
