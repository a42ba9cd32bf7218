package playbook_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/sop/playbook"
	"aegis.io/aegis/sop/sitetest"
	"aegis.io/aegis/ticket"
)

func TestRebootLadder(t *testing.T) {
	ladder := playbook.RebootLadder
	run(t, []turn{
		{"the boot helps", ladder, "", story{FixedBy: "reboot"}, isolate + "drain, reboot, " + fit, "resolved"},
		{
			"the second boot helps, and drains nothing anew", ladder, "",
			story{FixedBy: "reboot", At: 2},
			isolate + "drain, reboot, verify failed, reboot, " + fit, "resolved",
		},
		{
			"nothing helps", ladder, "",
			story{},
			isolate + "drain, reboot, verify failed, reboot, verify failed, handover", "handed over to fabric",
		},
		{
			"a healthcheck outweighs a silent alert", ladder, "",
			story{FixedBy: "reboot", At: 2, Silent: 8 * time.Minute, Broken: sick},
			isolate + "drain, reboot, verify, healthcheck failed, reboot, " + fit, "resolved",
		},
		{"the fault goes before the drain", ladder, "", story{After: sitetest.Soon}, isolate + "drain canceled, " + fit, "resolved"},
		{"the drain is blocked", ladder, "", story{Busy: true, Held: true}, isolate + "drain failed, handover", "handed over to k8s"},
		{"the boot does not happen", ladder, "", story{Lost: "reboot"}, isolate + "drain, reboot failed, handover", "handed over to fabric"},
		{
			"the healthcheck cannot be made", ladder, "",
			story{FixedBy: "reboot", Lost: "healthcheck"},
			isolate + "drain, reboot, verify, healthcheck canceled, healthcheck canceled, handover", "handed over to host",
		},
		{"no boot is allowed", ladder, "maxReboots: 0", story{}, isolate + "handover", "handed over to fabric"},
		{
			"people get the node powered off", ladder, "maxReboots: 0, shutdown: true",
			story{},
			isolate + "drain, shutdown, handover", "handed over to fabric, powered off",
		},
	})
}

func TestResetLadder(t *testing.T) {
	ladder := playbook.ResetLadder
	run(t, []turn{
		{"the reset helps", ladder, "", story{FixedBy: "ResetGPU"}, isolate + "draingpu, reset, " + fit, "resolved"},
		{
			"the boot helps, of an empty node", ladder, "workload: drainGPU",
			story{FixedBy: "reboot"},
			isolate + "draingpu, reset, verify failed, drain, reboot, " + fit, "resolved",
		},
		{
			"the reset fails", ladder, "",
			story{Fails: "ResetGPU", FixedBy: "reboot"},
			isolate + "draingpu, reset failed, drain, reboot, " + fit, "resolved",
		},
		{
			"nobody knows whether the reset was done", ladder, "",
			story{Lost: "ResetGPU", FixedBy: "reboot"},
			isolate + "draingpu, reset failed, drain, reboot, " + fit, "resolved",
		},
		{
			"workload may end by itself", ladder, "workload: waitIdle",
			story{FixedBy: "ResetGPU"},
			isolate + "waitidle, draingpu, reset, " + fit, "resolved",
		},
		{
			"workload that does not end is evicted from the GPUs", ladder, "workload: waitIdle",
			story{FixedBy: "ResetGPU", Busy: true},
			isolate + "waitidle failed, draingpu, reset, " + fit, "resolved",
		},
	})
}

// A ladder goes on from the rung on which the process that climbed it has died.
func TestLadderIsResumed(t *testing.T) {
	for _, action := range []ticket.Action{ticket.DrainGPU, ticket.Reset, ticket.Verify, ticket.Reboot} {
		t.Run(string(action), func(t *testing.T) {
			sitetest.At(t, func(t *testing.T) {
				s := site(t, turn{play: playbook.ResetLadder, story: story{FixedBy: protocol.ActionReboot}})
				stop := s.Start()
				s.Fault = s.Raise(condition, "", 0)
				s.Await("the step has begun", func(r ticket.Record) bool { return r.Ticket != nil && r.Ticket.Count(action) == 1 })
				stop()
				defer s.Start()()
				s.Await("the incident has ended", s.Over)
				require.Equal(t, isolate+"draingpu, reset, verify failed, drain, reboot, "+fit, s.Steps())
				require.Equal(t, "resolved", s.Outcome())
			})
		})
	}
}
