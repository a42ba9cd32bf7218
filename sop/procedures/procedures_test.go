package procedures_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/sop/sitetest"
	"aegis.io/aegis/ticket"
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

// An operator may have a code noted until it has come so often.
func TestProcedureOfACodeWithAThreshold(t *testing.T) {
	catalogue := sitetest.Catalogue(t, "xids:\n- {code: 48, threshold: {count: 3, within: 24h}}\n")
	sitetest.At(t, func(t *testing.T) {
		const condition = "Xid48GPUMemoryDBE"
		w := sitetest.New(t, catalogue, condition, story{FixedBy: "ResetGPU"})
		defer w.Start()()
		for n := range 3 {
			w.Fault = w.Raise(condition, "", 48)
			w.Await("dealt with", func(r ticket.Record) bool { return len(r.History.Incidents) > n && r.Ticket == nil })
			w.End(w.Fault)
			time.Sleep(2 * time.Hour)
		}
		require.Equal(t, "noted, noted, resolved", w.Outcome())
		require.Equal(t, isolate+"draingpu, reset, "+fit, w.Steps())
	})
}

// An alert that tells of an event goes on firing after the event was dealt with.
func TestProceduresThatRunOncePerAlert(t *testing.T) {
	t.Parallel()
	catalogue := sitetest.Catalogue(t, "")
	for _, condition := range []string{"KernelPanic", "NodeInhibitAll"} {
		t.Run(condition, func(t *testing.T) {
			sitetest.At(t, func(t *testing.T) {
				w := sitetest.New(t, catalogue, condition, story{})
				defer w.Start()()
				key := w.Raise(condition, "", 0)
				w.Await("resolved", w.Over)
				time.Sleep(2 * time.Hour)
				require.Equal(t, "resolved", w.Outcome())
				require.Equal(t, policy.VerdictTolerated, w.Verdict(condition).Name)

				w.End(key)
				time.Sleep(time.Hour)
				w.Raise(condition, "", 0)
				w.Await("dealt with again", func(r ticket.Record) bool { return len(r.History.Incidents) == 2 && w.Over(r) })
				// A second panic within a day is one too many.
				require.Equal(t, map[string]string{"KernelPanic": "resolved, handed over to host", "NodeInhibitAll": "resolved, resolved"}[condition], w.Outcome())
			})
		})
	}
}

// What another condition explains waits, and nothing is written about it.
func TestProcedureOfAnInhibitedConditionWaits(t *testing.T) {
	catalogue := sitetest.Catalogue(t, "conditions:\n- {name: GpuDown, policy: {mode: observe}}\n")
	sitetest.At(t, func(t *testing.T) {
		w := sitetest.New(t, catalogue, "GpuCheckFailed", story{FixedBy: "ResetGPU"})
		defer w.Start()()
		lost := w.Raise("GpuDown", "", 0)
		w.Fault = w.Raise("GpuCheckFailed", "", 0)
		time.Sleep(2 * time.Hour)
		require.Equal(t, policy.Verdict{Name: policy.VerdictTolerated, Reason: "GpuDown explains it"}, w.Verdict("GpuCheckFailed"))
		require.Equal(t, policy.VerdictObserve, w.Verdict("GpuDown").Name)
		require.True(t, w.Untouched())

		w.End(lost)
		w.Await("resolved", w.Over)
		require.Equal(t, isolate+"draingpu, reset, "+fit, w.Steps())
		require.Equal(t, "resolved", w.Outcome())
	})
}

// A boot of Aegis explains that the node has just started.
func TestProcedureOfANodeThatAegisBooted(t *testing.T) {
	catalogue := sitetest.Catalogue(t, "")
	sitetest.At(t, func(t *testing.T) {
		booted := sitetest.Past("GpuHung", "", 0, 1)
		booted[0].Opened, booted[0].Closed = time.Now().Add(-time.Hour), time.Now().Add(-10*time.Minute)
		booted[0].Destructive = []ticket.Destructive{{Action: ticket.Reboot, At: time.Now().Add(-20 * time.Minute)}}
		w := sitetest.New(t, catalogue, "NodeHasRestarted", story{History: booted})
		defer w.Start()()
		w.Raise("NodeHasRestarted", "", 0)
		time.Sleep(30 * time.Minute)
		verdict := w.Verdict("NodeHasRestarted")
		require.Equal(t, policy.VerdictTolerated, verdict.Name)
		require.Contains(t, verdict.Reason, "Aegis booted the node at ")
		require.True(t, w.Untouched())
	})
}

// A cable that somebody is to look at keeps no GPU from being repaired.
func TestProcedureTakesThePlaceOfANote(t *testing.T) {
	catalogue := sitetest.Catalogue(t, "")
	sitetest.At(t, func(t *testing.T) {
		w := sitetest.New(t, catalogue, "GpuHung", story{FixedBy: "reboot"})
		defer w.Start()()
		w.Raise("NetworkLinkDown", "eth0", 0)
		w.Await("told", w.Over)
		require.Equal(t, "handed over to network", w.Outcome())
		w.Fault = w.Raise("GpuHung", "", 0)
		// The cable is still there after the repair, and people are told of it again.
		w.Await("told again", func(r ticket.Record) bool { return len(r.History.Incidents) > 2 && w.Over(r) })
		require.Equal(t, "superseded, resolved, handed over to network", w.Outcome())
		require.Equal(t, []string{protocol.ActionDiagnose, protocol.ActionReboot, protocol.ActionHealthcheck}, w.Ordered())
		require.False(t, w.Record().Node.Spec.Unschedulable)
	})
}

// A node that people look at because of its healthcheck is theirs, although the incident itself has not cordoned it.
func TestProcedureLeavesADoubtfulNodeToPeople(t *testing.T) {
	catalogue := sitetest.Catalogue(t, "")
	sitetest.At(t, func(t *testing.T) {
		w := sitetest.New(t, catalogue, "NodeCordon", story{Lost: "healthcheck"})
		defer w.Start()()
		w.Raise("NodeCordon", "", 0)
		w.Await("handed over", w.Over)
		w.Raise("GpuHung", "", 0)
		time.Sleep(2 * time.Hour)
		require.Equal(t, policy.VerdictHumanOwned, w.Verdict("GpuHung").Name)
		require.Equal(t, "handed over to host", w.Outcome())
	})
}

// A node is powered off only when nothing runs on it, whatever an operator wants to be powered off.
func TestProcedureEmptiesWhatItPowersOff(t *testing.T) {
	catalogue := sitetest.Catalogue(t, "conditions:\n- {name: GpuHWSlowdown, policy: {shutdown: true}}\n")
	sitetest.At(t, func(t *testing.T) {
		steps, end := sitetest.New(t, catalogue, "GpuHWSlowdown", story{}).Play("GpuHWSlowdown")
		require.Equal(t, isolate+"drain, shutdown, handover", steps)
		require.Equal(t, "handed over to gpu, powered off", end)
	})
}

// A node that people give back is returned by the procedure of cordoned nodes, once it has proven that it is fit.
func TestProcedureOfANodeThatPeopleGiveBack(t *testing.T) {
	catalogue := sitetest.Catalogue(t, "")
	sitetest.At(t, func(t *testing.T) {
		w := sitetest.New(t, catalogue, "IBDown", story{})
		defer w.Start()()
		key := w.Raise("IBDown", "", 0)
		w.Await("handed over", w.Over)
		w.End(key)
		w.Cluster.Do(func() { w.Cluster.Supervise(sitetest.Node, ticket.Self) })
		w.Await("released", func(r ticket.Record) bool { return r.Ticket == nil })
		w.Raise("NodeCordon", "", 0)
		w.Await("returned", func(r ticket.Record) bool { return len(r.History.Incidents) == 2 && r.Ticket == nil })
		require.Equal(t, "healthcheck, uncordon", w.Steps())
		require.Equal(t, "released, resolved", w.Outcome())
		require.False(t, w.Record().Node.Spec.Unschedulable)
	})
}

// A cordon of a person is theirs.
func TestProcedureLeavesANodeThatAPersonCordoned(t *testing.T) {
	t.Parallel()
	catalogue := sitetest.Catalogue(t, "")
	for _, condition := range []string{"NodeCordon", "GpuHung"} {
		t.Run(condition, func(t *testing.T) {
			sitetest.At(t, func(t *testing.T) {
				w := sitetest.New(t, catalogue, "GpuHung", story{})
				w.Cluster.Do(func() { w.Cluster.Cordon(sitetest.Node) })
				defer w.Start()()
				w.Raise(condition, "", 0)
				time.Sleep(time.Hour)
				require.Equal(t, policy.VerdictHumanCordoned, w.Verdict(condition).Name)
				require.True(t, w.Untouched())
			})
		})
	}
}
