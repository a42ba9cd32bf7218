package peermem_test

import (
	"testing"

	"aegis.io/aegis/sop/sitetest"
)

type story = sitetest.Story

const (
	happy      = sitetest.Happy
	failing    = sitetest.Failing
	escalation = sitetest.Escalation
	isolate    = sitetest.Isolate
)

var row = sitetest.Row

// What is done about the conditions of nvidia-peermem.
func TestProcedures(t *testing.T) {
	sitetest.Run(t, "peermem", []sitetest.Incident{
		row("PeerMemModuleNotReady", happy, story{FixedBy: "ConfigPeerMem"}, "remedy, verify", "resolved"),
		row("PeerMemModuleNotReady", failing, story{Fails: "ConfigPeerMem", FixedBy: "ConfigPeerMem", At: 2}, "remedy failed, remedy, verify", "resolved"),
		row("PeerMemModuleNotReady", escalation, story{}, "remedy, verify failed, remedy, verify failed, "+isolate+"handover", "handed over to gpu"),
		row("PeerMemModuleNotConfig", happy, story{FixedBy: "ConfigPeerMem"}, "remedy, verify", "resolved"),
		row("PeerMemModuleNotConfig", failing, story{Fails: "ConfigPeerMem", FixedBy: "ConfigPeerMem", At: 2}, "remedy failed, remedy, verify", "resolved"),
		row("PeerMemModuleNotConfig", escalation, story{}, "remedy, verify failed, remedy, verify failed, "+isolate+"handover", "handed over to gpu"),
	})
}
