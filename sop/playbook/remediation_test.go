package playbook_test

import (
	"context"
	"testing"
	"time"

	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/playbook"
	"aegis.io/aegis/sop/sitetest"
)

// isolated and inPlace apply a remediation, and go on with what is next if it does not help.
func isolated(r playbook.Remediation, next playbook.Steps) playbook.Steps {
	return func(ctx context.Context, b *sop.ApiBridge) error { return r.Isolated(ctx, b, next) }
}

func inPlace(r playbook.Remediation, next playbook.Steps) playbook.Steps {
	return func(ctx context.Context, b *sop.ApiBridge) error { return r.InPlace(ctx, b, next) }
}

func TestIsolatedRemediation(t *testing.T) {
	play := isolated(playbook.Remediation{Name: "RestartKubelet"}, playbook.Climb)
	run(t, []turn{
		{"it helps", play, "", story{FixedBy: "RestartKubelet"}, isolate + "remedy, " + fit, "resolved"},
		{"it helps at the second try", play, "", story{FixedBy: "RestartKubelet", At: 2}, isolate + "remedy, verify failed, remedy, " + fit, "resolved"},
		{
			"it helps in vain, and the boot does", play, "",
			story{FixedBy: "reboot"},
			isolate + "remedy, verify failed, remedy, verify failed, drain, reboot, " + fit, "resolved",
		},
		{"it fails twice", play, "", story{Fails: "RestartKubelet", FixedBy: "reboot"}, isolate + "remedy failed, remedy failed, drain, reboot, " + fit, "resolved"},
		{"the fault goes by itself", play, "", story{After: sitetest.Soon}, isolate + "remedy canceled, " + fit, "resolved"},
		{
			"it takes the pods off the GPUs", isolated(playbook.Remediation{Name: "RestartFabricManager", GPUs: true}, playbook.ClimbEmpty), "",
			story{FixedBy: "RestartFabricManager"},
			isolate + "draingpu, remedy, " + fit, "resolved",
		},
	})
}

func TestRemediationInPlace(t *testing.T) {
	play := inPlace(playbook.Remediation{Name: "EnableGpuPersistence"}, playbook.IsolateAndHandOver)
	run(t, []turn{
		{"it helps, and the node stays in service", play, "workload: keep", story{FixedBy: "EnableGpuPersistence"}, "remedy, verify", "resolved"},
		{
			"it does not help", play, "workload: keep",
			story{},
			"remedy, verify failed, remedy, verify failed, cordon, diagnose, handover", "handed over to fabric",
		},
	})
}

func TestRelievePressure(t *testing.T) {
	relief := func(ctx context.Context, b *sop.ApiBridge) error {
		return playbook.RelievePressure(ctx, b, playbook.Remediation{Name: "DropCache"})
	}
	run(t, []turn{
		{"it passes", playbook.AwaitRelief, "", story{After: 30 * time.Minute}, "cordon, verify, uncordon", "resolved"},
		{"it stays", playbook.AwaitRelief, "", story{}, "cordon, verify failed, handover", "handed over to fabric"},
		{"what is tried helps", relief, "", story{FixedBy: "DropCache"}, "cordon, remedy, verify, uncordon", "resolved"},
		{"what is tried fails, and it passes", relief, "", story{Fails: "DropCache", After: 30 * time.Minute}, "cordon, remedy failed, verify, uncordon", "resolved"},
	})
}

func TestHandOver(t *testing.T) {
	run(t, []turn{
		{"people are told", playbook.Notify, "", story{}, "handover", "handed over to fabric"},
		{"people are told if it lasts", playbook.NotifyIfLasting, "", story{}, "verify failed, handover", "handed over to fabric"},
		{"what passes is told to nobody", playbook.NotifyIfLasting, "", story{After: 10 * time.Minute}, "verify", "resolved"},
		{"the node is isolated", playbook.IsolateAndHandOver, "", story{}, isolate + "drain, handover", "handed over to fabric"},
		{"the node is isolated with its workload", playbook.IsolateAndHandOver, "workload: keep", story{}, isolate + "handover", "handed over to fabric"},
		{"what is found broken has people", playbook.Examine, "workload: keep", story{Broken: sick}, "diagnose, healthcheck failed, cordon, handover", "handed over to fabric"},
		{"what is found fit stays in service", playbook.Examine, "workload: keep", story{}, "diagnose, healthcheck, handover", "handed over to fabric"},
		{"it is fit again", playbook.ExamineThenReturn, "workload: keep", story{After: sitetest.Soon}, isolate + "healthcheck, uncordon", "resolved"},
		{"it has its time to go", playbook.IsolateAndWait, "", story{After: 20 * time.Minute}, isolate + "verify, healthcheck, uncordon", "resolved"},
		{"what is broken has the team of that hardware", playbook.ExamineThenReturn, "workload: keep", story{Broken: protocol.ExitGPFS}, isolate + "healthcheck failed, handover", "handed over to storage"},
		{"it lasts, and the node is emptied", playbook.WaitThenEvacuate, "", story{}, isolate + "verify failed, drain, handover", "handed over to fabric"},
	})
}
