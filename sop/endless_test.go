package sop

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	k8stesting "k8s.io/client-go/testing"

	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/sop/soptest"
	"aegis.io/aegis/ticket"
)

// Sources that answer now and then put no end to a verification off for ever.
func TestVerificationEndsAlthoughTheSourcesFlap(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.raise("Reboot")
		stop := w.start()
		defer stop()
		var answers []prom.Evidence
		for range 3 * 60 { // A minute each; the condition has to be gone for two without a break.
			answers = append(answers, prom.EvidenceAbsent, prom.EvidenceUnknown)
		}
		w.await("the verification runs", running(ticket.Verify))
		w.answer(answers)
		longest, began := time.Duration(0), time.Now()
		for last := time.Now(); time.Since(began) < 5*time.Hour && w.record().Ticket != nil && w.record().Ticket.Owned(); time.Sleep(10 * time.Second) {
			if w.record().Ticket.Hold == "" {
				last = time.Now()
			}
			longest = max(longest, time.Since(last))
		}
		r := w.record()
		require.True(t, r.Ticket == nil || !r.Ticket.Owned(),
			"after 5 hours, of which verifyWithin allows 10 minutes, the node is cordoned and nobody's; the longest hold that is told is %s", longest)
	})
}

// A list of pods that the API server refuses to give ends the step, or is told: it does not keep the pool's slot for ever without a word.
func TestPodsThatCannotBeListedKeepNoSlotWithoutAWord(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy(), testNode(nodeA, nodeUID), testNode("gpu-0002", "uid-2"))
		w.setSettings(func(s *policy.Settings) { s.Pools[0].MaxDestructive = 1 })
		refuse := false
		before := w.client.Before
		w.client.Before = func(call soptest.Call) error {
			if refuse && call.Resource == "pods" && call.Verb == soptest.VerbList {
				return errors.New("etcdserver: request timed out")
			}
			return before(call)
		}
		w.raise("Reboot")
		w.dieAfter("drain Succeeded")
		refuse = true
		w.queue.Enqueue(nodeA)
		stop := w.start()
		defer stop()
		time.Sleep(5 * time.Minute)
		r := w.record()
		_, slots := w.d.Held()
		require.Contains(t, r.Ticket.Hold, "unverifiable: list pods of node gpu-0001: etcdserver: request timed out")
		require.Empty(t, slots)
		time.Sleep(5 * time.Hour)
		r = w.record()
		require.Equal(t, teamKubernetes, r.Ticket.Supervisor, "after 5 hours: %v", steps(r))
		require.Zero(t, w.jobs.count(protocol.ActionReboot))
	})
}

// Whatever a step asks the API server before it begins has an end as well.
func TestQuestionsBeforeAStepHaveAnEnd(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		refused soptest.Call
		step    func(b *ApiBridge, ctx context.Context) error
		resumes bool
	}{
		"the pod to restart": {
			soptest.Call{Verb: soptest.VerbList, Resource: "pods"},
			func(b *ApiBridge, ctx context.Context) error { return b.RestartPod(ctx, "app=plugin", "") }, false,
		},
		"the workload before a boot":     {soptest.Call{Verb: soptest.VerbList, Resource: "pods"}, (*ApiBridge).Reboot, false},
		"the Job of a step that goes on": {soptest.Call{Verb: soptest.VerbGet, Resource: "jobs"}, (*ApiBridge).Healthcheck, true},
	} {
		inNamedBubble(t, name, func(t *testing.T) {
			w := newWorld(t, testPolicy())
			refuse := !tt.resumes
			before := w.client.Before
			w.client.Before = func(call soptest.Call) error {
				if refuse && call.Resource == tt.refused.Resource && call.Verb == tt.refused.Verb {
					return apierrors.NewForbidden(schema.GroupResource{Resource: call.Resource}, "", errors.New("no such right"))
				}
				return before(call)
			}
			w.table["test/stuck"] = func() SOP { return NewProcedure(cordonAnd(tt.step)) }
			w.raise("Stuck")
			if tt.resumes {
				w.run("the step runs", running(ticket.Healthcheck))
				refuse = true
			}
			stop := w.start()
			defer stop()
			time.Sleep(5 * time.Hour)
			r := w.record()
			require.False(t, r.Ticket.Owned(), "after 5 hours: %v", steps(r))
		})
	}
}

// A Job that cannot be read is followed no longer than one that does not end.
func TestJobThatCannotBeReadIsFollowedToAnEnd(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		c := w.withController()
		w.table["test/stuck"] = func() SOP { return NewProcedure(cordonAnd((*ApiBridge).Healthcheck)) }
		c.work[protocol.ActionHealthcheck] = neverRun
		c.client.PrependReactor("list", "pods", func(k8stesting.Action) (bool, runtime.Object, error) {
			return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "", errors.New("the Role has lost a rule"))
		})
		w.raise("Stuck")
		stop := w.start()
		defer stop()
		time.Sleep(48 * time.Hour)
		r := w.record()
		require.False(t, r.Ticket.Owned(), "after two days: %v", steps(r))
	})
}

// Leaders that lose the Lease again and again put no end to a step off for ever: what each of them has seen of it adds up.
func TestDeadlineComesAlthoughLeadersChangeOften(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.jobs.stuck = true
		w.raise("Reboot")
		led := time.Duration(0)
		for range 60 {
			ctx, die := context.WithCancelCause(t.Context())
			gone := w.process(ctx)
			time.Sleep(4 * time.Minute)
			led += 4 * time.Minute
			die(ErrLeaseLost)
			require.Error(t, <-gone)
			w.queue.Enqueue(nodeA)
			if r := w.record(); r.Ticket != nil && !r.Ticket.Owned() {
				return
			}
		}
		t.Fatalf("after %s under some leader, the reboot, which may take 30 minutes, is %v", led, w.stepOf(ticket.Reboot))
	})
}
