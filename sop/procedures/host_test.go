package procedures_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/sop/procedures"
	"aegis.io/aegis/sop/sitetest"
	"aegis.io/aegis/sop/soptest"
	"aegis.io/aegis/ticket"
)

const lustre = "LustreUnmounted"

// siteCondition is the file of a site with a condition of its own, whose policy names what is to be done.
func siteCondition(procedure, policy string) string {
	return fmt.Sprintf("conditions:\n- {name: %s, type: storage, priority: 20, device: id, sop: %s, policy: {mode: auto, team: storage, %s}}\n",
		lustre, procedure, policy)
}

// A site names its own remedy or repair, or a built-in one that no other procedure has, in the policy of a condition.
func TestRemediationThatAPolicyNames(t *testing.T) {
	t.Parallel()
	const (
		inPlace  = "host/remediate-in-place"
		isolated = "host/remediate"
	)
	played := make(map[string]bool)
	for name, tt := range map[string]struct {
		procedure, policy string
		story             story
		steps, end        string
	}{
		"in place": {inPlace, "remedy: RemountLustre", story{FixedBy: "RemountLustre"}, "remedy, verify", "resolved"},
		"in place, at the second try": {
			inPlace, "remedy: RemountLustre", story{Fails: "RemountLustre", FixedBy: "RemountLustre", At: 2}, "remedy failed, remedy, verify", "resolved",
		},
		"in place, nothing helps": {
			inPlace, "repair: RemountLustre", story{}, "repair, verify failed, repair, verify failed, " + isolate + "handover", "handed over to storage",
		},
		"in place, the host does not have it": {
			inPlace, "remedy: RemountLustre", story{Absent: "RemountLustre"}, "remedy failed, handover", "handed over to storage",
		},
		"isolated": {isolated, "remedy: RemountLustre", story{FixedBy: "RemountLustre"}, isolate + "remedy, " + fit, "resolved"},
		"isolated, on an empty node": {
			isolated, "repair: RemountLustre, workload: drain", story{FixedBy: "RemountLustre"}, isolate + "drain, repair, " + fit, "resolved",
		},
		"isolated, a boot helps": {
			isolated, "remedy: RemountLustre, maxReboots: 1",
			story{Fails: "RemountLustre", FixedBy: "reboot"},
			isolate + "remedy failed, remedy failed, drain, reboot, " + fit, "resolved",
		},
		"isolated, nothing helps": {
			isolated, "remedy: RemountLustre", story{}, isolate + "remedy, verify failed, remedy, verify failed, handover", "handed over to storage",
		},
		"isolated, the host does not have it": {
			isolated, "remedy: RemountLustre, maxReboots: 1", story{Absent: "RemountLustre"}, isolate + "remedy failed, handover", "handed over to storage",
		},
		"a repair that the host does not have": {
			isolated, "repair: RemountLustre", story{Absent: "RemountLustre"}, isolate + "repair failed, handover", "handed over to storage",
		},
		"a remedy that is built in": {
			isolated, "remedy: BreakDeadlock", story{FixedBy: "BreakDeadlock"}, isolate + "remedy, " + fit, "resolved",
		},
		"nothing is named": {isolated, "workload: drain", story{}, "handover", "handed over to storage"},
	} {
		played[tt.procedure] = true
		t.Run(name, func(t *testing.T) {
			catalogue := sitetest.Catalogue(t, siteCondition(tt.procedure, tt.policy))
			tt.story.Device = "/lustre"
			sitetest.Row(lustre, name, tt.story, tt.steps, tt.end).Check(t, catalogue)
		})
	}
	for _, name := range procedures.Table().Names() {
		require.Equal(t, sop.RemediationOf(procedures.Table(), name) != sop.RemediatesNothing, played[name], name)
	}
}

// The ticket says what was run, on what, and why a host refused it.
func TestRemediationOnTheTicket(t *testing.T) {
	catalogue := sitetest.Catalogue(t, siteCondition("host/remediate", "remedy: RemountLustre, maxReboots: 1"))
	sitetest.At(t, func(t *testing.T) {
		w := sitetest.New(t, catalogue, lustre, story{Absent: "RemountLustre", Device: "/lustre"})
		plan, err := w.Plan(lustre)
		require.NoError(t, err)
		require.Contains(t, plan, "remedy (RemountLustre)")
		var arguments []string
		operate := w.Cluster.Operate
		w.Cluster.Operate = func(job *soptest.Job) (soptest.Outcome, bool) {
			if job.Request.Action == protocol.ActionRemedy {
				arguments = job.Request.Args
			}
			return operate(job)
		}
		defer w.Start()()
		w.Raise(lustre, "/lustre", 0)
		w.Await("handed over", w.Over)
		require.Equal(t, []string{protocol.ActionDiagnose, "RemountLustre"}, w.Ordered())
		w.Cluster.Do(func() { require.Equal(t, []string{"RemountLustre", "--device", "/lustre"}, arguments) })
		found := w.Record().Ticket
		step, known := found.Outcome(ticket.Remedy, 1)
		require.True(t, known)
		require.Equal(t, ticket.Failed, step.Status)
		require.True(t, step.Refused)
		require.Equal(t, "RemountLustre: refused: RemountLustre is not on this host", step.Message)
		require.Contains(t, found.Reason, "RemountLustre is not on this host")
		require.Equal(t, "storage", found.Supervisor)
		require.Equal(t, policy.VerdictHumanOwned, w.Verdict(lustre).Name)
	})
}
