package gpfs_test

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

// What is done about the conditions of GPFS. Pods that use a dead file system hang, so it is repaired under them.
func TestProcedures(t *testing.T) {
	sitetest.Run(t, "gpfs", []sitetest.Incident{
		row("GpfsDown", happy, story{FixedBy: "StartGpfs"}, isolate+"repair, "+fit, "resolved"),
		row("GpfsDown", failing, story{Fails: "StartGpfs", FixedBy: "StartGpfs", At: 2}, isolate+"repair failed, repair, "+fit, "resolved"),
		row("GpfsDown", escalation, story{}, isolate+"repair, verify failed, repair, verify failed, handover", "handed over to storage"),
		row("GpfsNotStarted", happy, story{FixedBy: "StartGpfs"}, isolate+"repair, "+fit, "resolved"),
		row("GpfsNotStarted", failing, story{Fails: "StartGpfs", FixedBy: "StartGpfs", At: 2}, isolate+"repair failed, repair, "+fit, "resolved"),
		row("GpfsNotStarted", escalation, story{}, isolate+"repair, verify failed, repair, verify failed, handover", "handed over to storage"),
		row("GpfsInactive", happy, story{FixedBy: "StartGpfs"}, isolate+"repair, "+fit, "resolved"),
		row("GpfsInactive", failing, story{Fails: "StartGpfs"}, isolate+"repair failed, handover", "handed over to storage"),
		row("GpfsInactive", escalation, story{}, isolate+"repair, verify failed, handover", "handed over to storage"),
		row("GpfsMountLost", happy, story{FixedBy: "MountGpfs"}, isolate+"repair, "+fit, "resolved"),
		row("GpfsMountLost", failing, story{Fails: "MountGpfs", FixedBy: "MountGpfs", At: 2}, isolate+"repair failed, repair, "+fit, "resolved"),
		row("GpfsMountLost", escalation, story{}, isolate+"repair, verify failed, repair, verify failed, drain, reboot, verify failed, handover", "handed over to storage"),
		row("GpfsNotMounted", happy, story{FixedBy: "MountGpfs"}, isolate+"repair, "+fit, "resolved"),
		row("GpfsNotMounted", failing, story{Fails: "MountGpfs", FixedBy: "MountGpfs", At: 2}, isolate+"repair failed, repair, "+fit, "resolved"),
		row("GpfsNotMounted", escalation, story{}, isolate+"repair, verify failed, repair, verify failed, drain, reboot, verify failed, handover", "handed over to storage"),
		row("GpfsThreadDeadlock", happy, story{After: sitetest.Soon}, "", "noted"),
		row("GpfsThreadDeadlock", failing, story{}, "", "noted"),
		row("GpfsThreadDeadlock", escalation, story{Again: 25 * time.Hour}, "", "noted, noted"),
		row("GpfsTestFailed", happy, story{After: 2 * time.Hour}, isolate+fit, "resolved"),
		row("GpfsTestFailed", failing, story{After: 2 * time.Hour, Fails: "diagnose"}, "cordon, diagnose failed, "+fit, "resolved"),
		row("GpfsTestFailed", escalation, story{}, isolate+"verify failed, handover", "handed over to storage"),
		row("GpfsIBNotConfig", happy, story{After: sitetest.Soon}, isolate+fit, "resolved"),
		row("GpfsIBNotConfig", failing, story{Fails: "diagnose"}, "cordon, diagnose failed, handover", "handed over to storage"),
		row("GpfsIBNotConfig", escalation, story{}, isolate+"handover", "handed over to storage"),
		row("GpfsRdmaError", happy, story{After: sitetest.Soon}, isolate+fit, "resolved"),
		row("GpfsRdmaError", failing, story{Fails: "diagnose"}, "cordon, diagnose failed, handover", "handed over to storage"),
		row("GpfsRdmaError", escalation, story{}, isolate+"handover", "handed over to storage"),
		row("GpfsNodeNotHealthy", happy, story{After: sitetest.Soon}, isolate+fit, "resolved"),
		row("GpfsNodeNotHealthy", failing, story{Fails: "diagnose"}, "cordon, diagnose failed, handover", "handed over to storage"),
		row("GpfsNodeNotHealthy", escalation, story{}, isolate+"handover", "handed over to storage"),
		row("GpfsNotInCluster", happy, story{After: sitetest.Soon}, isolate+fit, "resolved"),
		row("GpfsNotInCluster", failing, story{Fails: "diagnose"}, "cordon, diagnose failed, handover", "handed over to storage"),
		row("GpfsNotInCluster", escalation, story{}, isolate+"handover", "handed over to storage"),
		row("GpfsNotInstalled", happy, story{After: sitetest.Soon}, isolate+fit, "resolved"),
		row("GpfsNotInstalled", failing, story{Fails: "diagnose"}, "cordon, diagnose failed, handover", "handed over to storage"),
		row("GpfsNotInstalled", escalation, story{}, isolate+"handover", "handed over to storage"),
	})
}
