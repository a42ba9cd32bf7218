package node_test

import (
	"strconv"
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

// What is done about the conditions of the node as a whole.
func TestProcedures(t *testing.T) {
	sitetest.Run(t, "node", []sitetest.Incident{
		row("NodeNotReady", happy, story{After: sitetest.Soon}, "wait", "resolved"),
		row("NodeNotReady", failing, story{After: 40 * time.Minute}, "wait failed, cordon, wait, diagnose, healthcheck, uncordon", "resolved"),
		row("NodeNotReady", escalation, story{}, "wait failed, cordon, wait failed, handover", "handed over to host"),
		row("NodeInhibitAll", happy, story{After: sitetest.Soon}, "healthcheck, uncordon", "resolved"),
		row("NodeInhibitAll", failing, story{Broken: 2, FixedBy: "reboot"}, "healthcheck failed, "+isolate+"drain, reboot, "+fit, "resolved"),
		row("NodeInhibitAll", escalation, story{Broken: 2}, "healthcheck failed, "+isolate+"drain, reboot, verify, healthcheck failed, reboot, verify, healthcheck failed, shutdown, handover", "handed over to gpu, powered off"),
		row("NodeCordon", happy, story{FixedBy: "healthcheck"}, "healthcheck, uncordon", "resolved"),
		row("NodeCordon", failing, story{Broken: 2, FixedBy: "reboot"}, "healthcheck failed, "+isolate+"drain, reboot, "+fit, "resolved"),
		row("NodeCordon", escalation, story{Broken: 2}, "healthcheck failed, "+isolate+"drain, reboot, verify, healthcheck failed, reboot, verify, healthcheck failed, shutdown, handover", "handed over to gpu, powered off"),
		row("NodeFrequentDown", happy, story{FixedBy: "reboot"}, isolate+"drain, reboot, "+fit, "resolved"),
		row("NodeFrequentDown", failing, story{Fails: "reboot"}, isolate+"drain, reboot failed, handover", "handed over to host"),
		row("NodeFrequentDown", escalation, story{}, isolate+"drain, reboot, verify failed, handover", "handed over to host"),
		row("KubeletFailedCreatePodContainer", happy, story{FixedBy: "RestartKubelet"}, isolate+"remedy, "+fit, "resolved"),
		row("KubeletFailedCreatePodContainer", failing, story{Fails: "RestartKubelet", FixedBy: "RestartKubelet", At: 2}, isolate+"remedy failed, remedy, "+fit, "resolved"),
		row("KubeletFailedCreatePodContainer", escalation, story{}, isolate+"remedy, verify failed, remedy, verify failed, drain, reboot, verify failed, handover", "handed over to k8s"),
		row("NodeHasTerminatingPod", happy, story{After: 2 * time.Hour}, isolate+fit, "resolved"),
		row("NodeHasTerminatingPod", failing, story{After: 2 * time.Hour, Fails: "diagnose"}, "cordon, diagnose failed, "+fit, "resolved"),
		row("NodeHasTerminatingPod", escalation, story{}, isolate+"verify failed, handover", "handed over to k8s"),
		row("NodeHasRestarted", happy, story{After: sitetest.Soon}, "", "noted"),
		row("NodeHasRestarted", failing, story{}, "", "noted"),
		row("NodeHasRestarted", escalation, story{Again: 25 * time.Hour}, "", "noted, noted"),
	})
}

// Turns that their incidents may take besides.
func TestTurns(t *testing.T) {
	sitetest.RunCases(t, []sitetest.Case{
		turn("no healthcheck for a node that was cordoned", "NodeCordon", story{Lost: "healthcheck"}, "healthcheck canceled, healthcheck canceled, handover", "handed over to host"),
		turn("a machine whose power is off", "NodeNotReady", story{PoweredOff: 5 * time.Minute}, "wait failed, cordon, wait canceled, taint, wait failed, handover", "handed over to host"),
		turn("a machine whose power comes back", "NodeNotReady", story{PoweredOff: 5 * time.Minute, After: 40 * time.Minute}, "wait failed, cordon, wait canceled, taint, wait, untaint, diagnose, healthcheck, uncordon", "resolved"),
	})
}

// What a healthcheck finds on a node that is to return is repaired as the condition that its exit code stands for.
func TestWhatTheHealthcheckFindsIsRepaired(t *testing.T) {
	t.Parallel()
	const found = "healthcheck failed, " + isolate
	tests := []struct {
		code       int
		fixedBy    string
		steps, end string
	}{
		{1, "", found + "drain, handover", "handed over to network"},
		{2, "reboot", found + "drain, reboot, " + fit, "resolved"},
		{3, "StartGpfs", found + "repair, " + fit, "resolved"},
		{4, "", found + "drain, shutdown, handover", "handed over to host, powered off"},
		{5, "", found + "drain, shutdown, handover", "handed over to host, powered off"},
		{6, "", found + "drain, handover", "handed over to storage"},
		{7, "", "healthcheck failed, handover", "handed over to network"},
		{21, "", found + "drain, shutdown, handover", "handed over to gpu, powered off"},
		{22, "", found + "drain, shutdown, handover", "handed over to gpu, powered off"},
		{23, "ResetGPU", found + "draingpu, reset, " + fit, "resolved"},
		{24, "ResetGPU", found + "draingpu, reset, " + fit, "resolved"},
		{99, "", "healthcheck failed, handover", "handed over to gpu"},
	}
	catalogue := sitetest.Catalogue(t, "")
	for _, tt := range tests {
		i := row("NodeCordon", "", story{Broken: tt.code, FixedBy: tt.fixedBy}, tt.steps, tt.end)
		t.Run(strconv.Itoa(tt.code), func(t *testing.T) { i.Check(t, catalogue) })
	}
}
