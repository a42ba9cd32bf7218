package sop

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	k8stesting "k8s.io/client-go/testing"

	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/soptest"
	"aegis.io/aegis/ticket"
)

// wait is what a step of an action waits for, in a world in which that never comes.
type wait struct {
	action ticket.Action
	// world makes it one. Nil is one that needs nothing.
	world func(w *world)
	// step begins the wait.
	step func(b *ApiBridge, ctx context.Context) error
	// within is the permitted time after which a team has the node, and team which. Without a team the step is one write, and goes on.
	within time.Duration
	team   string
}

// suspendAll has every Job suspended for ever.
func suspendAll(w *world) {
	w.withController().admit = func(job *batchv1.Job) { job.Spec.Suspend = new(true) }
}

func cordonAnd(step func(b *ApiBridge, ctx context.Context) error) func(ctx context.Context, b *ApiBridge) error {
	return func(ctx context.Context, b *ApiBridge) error {
		if err := b.Cordon(ctx); err != nil {
			return err
		}
		return step(b, ctx)
	}
}

// waits lists what every action waits for.
func waits() []wait {
	p := testPolicy()
	job := func(d time.Duration) time.Duration { return d + jobGrace }
	return []wait{
		{action: ticket.Cordon, step: func(*ApiBridge, context.Context) error { return nil }},
		{ticket.Drain, busy, (*ApiBridge).Drain, p.DrainDeadline, teamKubernetes},
		{ticket.DrainGPU, busyGPU, (*ApiBridge).DrainGPU, p.DrainDeadline, teamKubernetes},
		{ticket.WaitIdle, busy, (*ApiBridge).WaitIdle, p.DrainDeadline, "gpu"},
		{ticket.Reboot, suspendAll, (*ApiBridge).Reboot, p.RebootDeadline, "gpu"},
		{ticket.Shutdown, suspendAll, (*ApiBridge).Shutdown, p.RebootDeadline, "gpu"},
		{ticket.Reset, suspendAll, (*ApiBridge).ResetGPU, job(p.RemedyDeadline), "gpu"},
		{ticket.Healthcheck, suspendAll, (*ApiBridge).Healthcheck, job(p.HealthcheckDeadline), teamHost},
		{ticket.Repair, suspendAll, func(b *ApiBridge, ctx context.Context) error { return b.Repair(ctx, "MountGpfs") }, job(p.RemedyDeadline), "gpu"},
		{ticket.Remedy, suspendAll, func(b *ApiBridge, ctx context.Context) error { return b.Remedy(ctx, "RestartKubelet") }, job(p.RemedyDeadline), "gpu"},
		// A diagnosis that cannot be made stops nothing. The procedure goes on without.
		{ticket.Diagnose, suspendAll, func(b *ApiBridge, ctx context.Context) error {
			if err := b.Diagnose(ctx); err != nil {
				return err
			}
			return b.HandOver(ctx, "gpu", "the end")
		}, job(p.RemedyDeadline), "gpu"},
		{ticket.RestartPod, func(w *world) {
			stays := testPod("stays", func(p *corev1.Pod) { p.Labels, p.Finalizers = map[string]string{"app": "plugin"}, []string{"x/y"} })
			w.cluster.Do(func() { w.cluster.AddPod(stays) })
		}, func(b *ApiBridge, ctx context.Context) error { return b.RestartPod(ctx, "app=plugin", "") }, p.RemedyDeadline, teamKubernetes},
		{ticket.Verify, nil, (*ApiBridge).Verify, p.VerifyWithin, "gpu"},
		{ticket.Uncordon, nil, func(b *ApiBridge, ctx context.Context) error {
			if err := b.Healthcheck(ctx); err != nil {
				return err
			}
			return b.Uncordon(ctx)
		}, jobTime + p.VerifyWithin, "gpu"},
		{ticket.Taint, nil, (*ApiBridge).TaintOutOfService, 2 * DefaultTiming().LeaseStale, "gpu"},
		{ticket.Untaint, nil, (*ApiBridge).UntaintOutOfService, 0, ""},
		{ticket.Wait, silent(0), func(b *ApiBridge, ctx context.Context) error { return b.WaitReady(ctx, p.HandOverAfter, false) }, p.HandOverAfter, "gpu"},
		{ticket.HandOver, nil, func(b *ApiBridge, ctx context.Context) error { return b.HandOver(ctx, "gpu", "the end") }, 0, "gpu"},
		{ticket.Resolve, nil, (*ApiBridge).Resolve, 0, ""},
	}
}

// busyGPU puts a pod with a GPU on the node that no eviction ends.
func busyGPU(w *world) {
	held := testPod("trainer", func(p *corev1.Pod) {
		p.Labels["held"] = "keep-one"
		p.Spec.Containers = []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"nvidia.com/gpu": *gpus(1)}}}}
	})
	w.cluster.Do(func() { w.cluster.AddPod(held) })
}

// Every step of every action ends although what it waits for never comes, and then a named team has the node. A pause in the middle,
// however long, neither ends it nor takes any of its time, and the ticket says why it stands still.
func TestEveryWaitHasAnEndAReasonAndATeam(t *testing.T) {
	t.Parallel()
	var walked []ticket.Action
	for _, wt := range waits() {
		walked = append(walked, wt.action)
		for _, paused := range []bool{false, true} {
			t.Run(string(wt.action)+map[bool]string{true: " paused"}[paused], func(t *testing.T) {
				inBubble(t, func(t *testing.T) { wt.walk(t, paused, false) })
			})
		}
	}
	require.Equal(t, ticket.Actions(), slices.Clone(walked), "every action is walked")
}

// flaws lists waits for answers that never come, or come now and then.
func flaws() map[string]wait {
	p := testPolicy()
	refuses := func(verb soptest.Verb, resource string) func(w *world) {
		return func(w *world) {
			before := w.client.Before
			w.client.Before = func(call soptest.Call) error {
				if call.Verb == verb && call.Resource == resource {
					return apierrors.NewForbidden(schema.GroupResource{Resource: resource}, "", errors.New("no such right"))
				}
				return before(call)
			}
		}
	}
	return map[string]wait{
		"a verification by a source that answers every other minute": {
			action: ticket.Verify, world: (*world).flaps, step: (*ApiBridge).Verify, within: 2 * (p.VerifyWithin + moreRows), team: "gpu",
		},
		"a boot of a node whose pods cannot be listed": {
			action: ticket.Drain, world: refuses(soptest.VerbList, "pods"), step: (*ApiBridge).Reboot, within: p.DrainDeadline, team: teamKubernetes,
		},
		"a restart of a pod that cannot be listed": {
			action: ticket.RestartPod, world: refuses(soptest.VerbList, "pods"), within: p.RemedyDeadline, team: teamKubernetes,
			step: func(b *ApiBridge, ctx context.Context) error { return b.RestartPod(ctx, "app=plugin", "") },
		},
		"a Job whose pods cannot be read": {
			action: ticket.Healthcheck, step: (*ApiBridge).Healthcheck, within: p.HealthcheckDeadline + jobGrace, team: teamHost,
			world: func(w *world) {
				c := w.withController()
				c.work[protocol.ActionHealthcheck] = neverRun
				c.client.PrependReactor("list", "pods", func(k8stesting.Action) (bool, runtime.Object, error) {
					return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "", errors.New("no such right"))
				})
			},
		},
		"a Job that can neither be read nor deleted": {
			action: ticket.Healthcheck, step: (*ApiBridge).Healthcheck, within: p.HealthcheckDeadline + jobGrace + stopsWithin, team: teamHost,
			world: func(w *world) {
				c := w.withController()
				c.work[protocol.ActionHealthcheck] = neverRun
				c.client.PrependReactor("list", "pods", func(k8stesting.Action) (bool, runtime.Object, error) {
					return true, nil, apierrors.NewInternalError(errors.New("etcdserver: request timed out"))
				})
			},
		},
	}
}

// flaps has the source answer every other minute that the condition is gone, once the node is cordoned.
func (w *world) flaps() {
	var answers []prom.Evidence
	for range 12 * 60 {
		answers = append(answers, prom.EvidenceAbsent, prom.EvidenceUnknown)
	}
	time.AfterFunc(30*time.Second, func() { w.answer(answers) })
}

// What is asked and never answered ends as what is waited for and never comes, and the ticket says why the step stands still.
func TestEveryQuestionHasAnEndAReasonAndATeam(t *testing.T) {
	t.Parallel()
	for name, wt := range flaws() {
		for _, paused := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", paused"}[paused], func(t *testing.T) {
				inBubble(t, func(t *testing.T) { wt.walk(t, paused, true) })
			})
		}
	}
}

// requireTold requires that the ticket says in the middle of the wait what the step waits for.
func (wt wait) requireTold(t *testing.T, w *world) {
	t.Helper()
	time.Sleep(wt.within/2 + time.Minute)
	require.NotEmpty(t, w.record().Ticket.Hold)
	require.True(t, w.verdict("Stuck").Holds() || wt.byItself(), w.verdict("Stuck"))
}

func (wt wait) walk(t *testing.T, paused, told bool) {
	w := newWorld(t, testPolicy())
	w.table["test/stuck"] = func() SOP { return NewProcedure(cordonAnd(wt.step)) }
	if wt.world != nil {
		wt.world(w)
	}
	w.raise("Stuck")
	if wt.action == ticket.Uncordon {
		time.AfterFunc(30*time.Second, func() { w.raise("Ready") })
		w.inhibits = map[string]string{"Stuck": "Ready"}
	}
	stop := w.start()
	defer stop()
	w.await("the ticket", func(r ticket.Record) bool { return r.Ticket != nil || resolved(r) })
	began, held := time.Now(), time.Duration(0)
	if stands := wt.within > 3*time.Minute; paused && stands {
		time.Sleep(2 * time.Minute)
		w.paused(true)
		held = 5 * time.Hour
		time.Sleep(held / 2)
		if r := w.record(); r.Ticket != nil && r.Ticket.Owned() && !wt.byItself() {
			require.Contains(t, r.Ticket.Hold, "paused: ")
		}
		time.Sleep(held / 2)
		w.paused(false)
		if wt.byItself() {
			held = 0
		}
	}
	if wt.team == "" {
		return
	}
	if told && !paused {
		wt.requireTold(t, w)
	}
	w.await("team "+wt.team, handedTo(wt.team))
	if !paused || !wt.byItself() {
		require.InDelta(t, wt.within, time.Since(began)-held, float64(2*time.Minute), w.record().Ticket.Reason)
	}
}

// A person's cordon may stay for ever. A step that waits for what it has done ends all the same.
func TestNoStepWaitsForTheEndOfAPersonsCordon(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		w.table["test/stuck"] = func() SOP {
			return NewProcedure(func(ctx context.Context, b *ApiBridge) error { return b.RestartPod(ctx, "app=plugin", "") })
		}
		stays := testPod("stays", func(p *corev1.Pod) { p.Labels, p.Finalizers = map[string]string{"app": "plugin"}, []string{"x/y"} })
		w.cluster.Do(func() { w.cluster.AddPod(stays) })
		w.raise("Stuck")
		stop := w.start()
		defer stop()
		w.await("the pod is being restarted", running(ticket.RestartPod))
		time.Sleep(time.Minute)
		w.cluster.Do(func() { w.cluster.Cordon(nodeA) })
		w.await("given up", handedTo(teamKubernetes))
	})
}

// byItself reports whether what the step has ordered goes on by itself, so that its time goes on during a pause.
func (wt wait) byItself() bool {
	switch wt.action {
	case ticket.Reboot, ticket.Shutdown, ticket.Reset, ticket.Healthcheck, ticket.Repair, ticket.Remedy, ticket.Diagnose:
		return true
	}
	return false
}
