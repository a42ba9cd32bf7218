package disk_test

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

// What is done about the conditions of disks.
func TestProcedures(t *testing.T) {
	sitetest.Run(t, "disk", []sitetest.Incident{
		row("DiskPressure", happy, story{FixedBy: "PruneImages"}, "cordon, remedy, verify, uncordon", "resolved"),
		row("DiskPressure", failing, story{Fails: "PruneImages", After: 3 * time.Hour}, "cordon, remedy failed, verify, uncordon", "resolved"),
		row("DiskPressure", escalation, story{}, "cordon, remedy, verify failed, handover", "handed over to k8s"),
		row("DiskUnhealthy", happy, story{After: sitetest.Soon}, isolate+"drain canceled, "+fit, "resolved"),
		row("DiskUnhealthy", failing, story{Busy: true, Held: true}, isolate+"drain failed, handover", "handed over to k8s"),
		row("DiskUnhealthy", escalation, story{}, isolate+"drain, handover", "handed over to storage"),
	})
}
