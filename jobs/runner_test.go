package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"aegis.io/aegis/jobs/protocol"

	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
)

const healing = "healing"

// newRunner returns a Runner over an API server that holds the objects.
func newRunner(t *testing.T, objects ...runtime.Object) (*Runner, *fake.Clientset) {
	t.Helper()
	client := fake.NewClientset(objects...)
	return NewRunner(RunnerOptions{Client: client, Namespace: healing, Templates: loadEmbedded(t)}), client
}

// rendered returns the Job for the request as the Runner makes it, with a UID.
func rendered(t *testing.T, change func(*batchv1.Job)) *batchv1.Job {
	t.Helper()
	job, err := loadEmbedded(t).Render(reboot(), RenderOptions{Namespace: healing})
	require.NoError(t, err)
	job.UID = "uid-1"
	if change != nil {
		change(job)
	}
	return job
}

func conditions(list ...batchv1.JobConditionType) func(*batchv1.Job) {
	return func(job *batchv1.Job) {
		for _, c := range list {
			job.Status.Conditions = append(job.Status.Conditions, batchv1.JobCondition{Type: c, Status: corev1.ConditionTrue})
		}
	}
}

// podOf returns the pod of a Job, in whose op container the operation has the state.
func podOf(job *batchv1.Job, name string, state corev1.ContainerState) *corev1.Pod {
	labels := map[string]string{batchv1.JobNameLabel: job.Name}
	maps.Copy(labels, job.Spec.Template.Labels)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: healing, Labels: labels,
			OwnerReferences: []metav1.OwnerReference{{Kind: "Job", Name: job.Name, UID: job.UID, Controller: new(true)}},
		},
		Spec:   *job.Spec.Template.Spec.DeepCopy(),
		Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: containerName, State: state}}},
	}
}

func ended(code int32, reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason, Message: message}}
}

func encode(t *testing.T, r protocol.Report) string {
	t.Helper()
	text, err := json.Marshal(r)
	require.NoError(t, err)
	return string(text)
}

func finish(t *testing.T, client *fake.Clientset, kind batchv1.JobConditionType) {
	t.Helper()
	jobs := client.BatchV1().Jobs(healing)
	job, err := jobs.Get(t.Context(), reboot().Name(), metav1.GetOptions{})
	require.NoError(t, err)
	conditions(kind)(job)
	_, err = jobs.UpdateStatus(t.Context(), job, metav1.UpdateOptions{})
	require.NoError(t, err)
}

// soon returns a context that ends a Run that would never end by itself.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Hour)
	t.Cleanup(cancel)
	return ctx
}

// failing makes the first n calls fail, and counts all of them.
func failing(client *fake.Clientset, verb, resource string, n int, err error) *int {
	calls := new(int)
	client.PrependReactor(verb, resource, func(k8stesting.Action) (bool, runtime.Object, error) {
		*calls++
		return *calls <= n, nil, err
	})
	return calls
}

// ignored goes on following whatever the Job is like.
func ignored(Result) error { return nil }

func TestNewRunnerDefaults(t *testing.T) {
	t.Parallel()
	r := NewRunner(RunnerOptions{PollInterval: -time.Second})
	require.Equal(t, DefaultNamespace, r.options.Namespace)
	require.Equal(t, defaultPollInterval, r.interval)
	require.NotNil(t, r.logger)
}

func TestEnsureCreatesOnce(t *testing.T) {
	t.Parallel()
	r, client := newRunner(t)
	name, created, err := r.Ensure(t.Context(), reboot())
	require.NoError(t, err)
	require.True(t, created)
	require.Equal(t, reboot().Name(), name)

	again := reboot()
	again.Args = []string{"--boot-id", "another"}
	name, created, err = r.Ensure(t.Context(), again)
	require.NoError(t, err)
	require.False(t, created)
	require.Equal(t, reboot().Name(), name)

	list, err := client.BatchV1().Jobs(healing).List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	require.Len(t, list.Items, 1)
	require.Equal(t, []string{"reboot", "--boot-id", "b1"}, list.Items[0].Spec.Template.Spec.Containers[0].Args)
}

func TestEnsureResumes(t *testing.T) {
	t.Parallel()
	deleted := func(job *batchv1.Job) {
		job.DeletionTimestamp = new(metav1.Now())
		job.Finalizers = []string{"foregroundDeletion"}
	}
	for _, tc := range []struct {
		name   string
		change func(*batchv1.Job)
		want   error
	}{
		{"active", nil, nil},
		{"finished", conditions(batchv1.JobComplete), nil},
		{"failed", conditions(batchv1.JobFailed), nil},
		{"finished and being deleted", func(j *batchv1.Job) { conditions(batchv1.JobFailed)(j); deleted(j) }, nil},
		{"being deleted", deleted, ErrTerminating},
		{"other action", func(j *batchv1.Job) { j.Labels[labelAction] = protocol.ActionShutdown }, ErrNotOurs},
		{"other node", func(j *batchv1.Job) { j.Labels[labelNode] = "n2" }, ErrNotOurs},
		{"other incident", func(j *batchv1.Job) { delete(j.Labels, labelIncident) }, ErrNotOurs},
		{"other attempt", func(j *batchv1.Job) { j.Labels[labelAttempt] = "7" }, ErrNotOurs},
		{"no labels", func(j *batchv1.Job) { j.Labels = nil }, ErrNotOurs},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r, _ := newRunner(t, rendered(t, tc.change))
			name, created, err := r.Ensure(t.Context(), reboot())
			require.ErrorIs(t, err, tc.want)
			require.False(t, created)
			require.Equal(t, reboot().Name(), name)
		})
	}
}

func TestEnsureErrors(t *testing.T) {
	t.Parallel()
	r, client := newRunner(t)
	_, _, err := r.Ensure(t.Context(), Request{Action: "explode"})
	require.ErrorContains(t, err, "unknown action")
	require.Empty(t, client.Actions())

	down := errors.New("connection refused")
	failing(client, "create", "jobs", 1, down)
	_, created, err := r.Ensure(t.Context(), reboot())
	require.ErrorIs(t, err, down)
	require.False(t, created)

	// Deleted between the two calls.
	exists := apierrors.NewAlreadyExists(batchv1.Resource("jobs"), "x")
	failing(client, "create", "jobs", 1, exists)
	_, _, err = r.Ensure(t.Context(), reboot())
	require.ErrorIs(t, err, ErrTerminating)

	failing(client, "create", "jobs", 1, exists)
	failing(client, "get", "jobs", 1, down)
	_, _, err = r.Ensure(t.Context(), reboot())
	require.ErrorIs(t, err, down)
}

func TestStatusOfMissingJob(t *testing.T) {
	t.Parallel()
	r, _ := newRunner(t)
	res, err := r.Status(t.Context(), "gone")
	require.NoError(t, err)
	require.Equal(t, Result{Job: "gone", Phase: PhaseMissing, ExitCode: -1, Message: "the Job is gone, its outcome is unknown"}, res)
}

func TestStatusErrors(t *testing.T) {
	t.Parallel()
	down := errors.New("connection refused")
	for _, resource := range []string{"jobs", "pods"} {
		r, client := newRunner(t, rendered(t, conditions(batchv1.JobComplete)))
		verb := map[string]string{"jobs": "get", "pods": "list"}[resource]
		failing(client, verb, resource, 1, down)
		res, err := r.Status(t.Context(), reboot().Name())
		require.ErrorIs(t, err, down)
		require.Empty(t, res.Phase, "an error is no outcome")
		require.EqualValues(t, -1, res.ExitCode)
	}
}

func TestStatusReadsTheNewestPodOfTheJob(t *testing.T) {
	t.Parallel()
	job := rendered(t, conditions(batchv1.JobFailed))
	old := podOf(job, "z-old", ended(1, "Error", ""))
	newest := podOf(job, "a-new", ended(23, "Error", ""))
	newest.CreationTimestamp = metav1.NewTime(time.Unix(100, 0))
	foreign := podOf(job, "other", ended(6, "Error", ""))
	foreign.CreationTimestamp = metav1.NewTime(time.Unix(200, 0))
	foreign.OwnerReferences[0].UID = types.UID("uid-of-the-job-before")
	r, _ := newRunner(t, job, old, newest, foreign)
	res, err := r.Status(t.Context(), job.Name)
	require.NoError(t, err)
	require.EqualValues(t, 23, res.ExitCode)
}

// A pod that has the label of the Job and is not its own reports nothing.
func TestReportOfAnotherPod(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(p *corev1.Pod){
		"nobody controls it":  func(p *corev1.Pod) { p.OwnerReferences = nil },
		"another controller":  func(p *corev1.Pod) { p.OwnerReferences[0].UID = "another" },
		"an owner, no more":   func(p *corev1.Pod) { p.OwnerReferences[0].Controller = nil },
		"on another node":     func(p *corev1.Pod) { p.Spec.NodeName = "another" },
		"of another action":   func(p *corev1.Pod) { p.Labels[labelAction] = protocol.ActionHealthcheck },
		"of another incident": func(p *corev1.Pod) { p.Labels[labelIncident] = "another" },
		"for another boot":    func(p *corev1.Pod) { p.Spec.Containers[0].Args = []string{"reboot", "--boot-id", "another"} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			job := rendered(t, nil)
			pod := podOf(job, "p", ended(0, "Completed", encode(t, protocol.Report{Result: protocol.ResultPassed})))
			r, _ := newRunner(t, job, pod)
			res, err := r.Status(t.Context(), job.Name)
			require.NoError(t, err)
			require.NotNil(t, res.Report, "its own pod reports")
			change(pod)
			r, _ = newRunner(t, job, pod)
			res, err = r.Status(t.Context(), job.Name)
			require.NoError(t, err)
			require.Nil(t, res.Report)
			require.EqualValues(t, -1, res.ExitCode)
		})
	}
}

// ensured makes or resumes the Job, and follows it.
func ensured(ctx context.Context, r *Runner) (Result, error) {
	name, _, err := r.Ensure(ctx, reboot())
	if err != nil {
		return Result{}, err
	}
	return r.Follow(ctx, name, ignored)
}

func TestFollow(t *testing.T) {
	for _, kind := range []batchv1.JobConditionType{batchv1.JobComplete, batchv1.JobFailed} {
		r, client := newRunner(t)
		synctest.Test(t, func(t *testing.T) {
			started := time.Now()
			time.AfterFunc(11*time.Minute, func() { finish(t, client, kind) })
			res, err := ensured(soon(t), r)
			require.NoError(t, err)
			require.Equal(t, kind == batchv1.JobComplete, res.Phase == PhaseSucceeded)
			require.Equal(t, kind == batchv1.JobFailed, res.Phase == PhaseFailed)
			require.InDelta(t, 11*time.Minute, time.Since(started), float64(2*defaultPollInterval))
		})
	}
}

func TestFollowResumesAFinishedJob(t *testing.T) {
	job := rendered(t, conditions(batchv1.JobFailed))
	report := protocol.Report{Action: protocol.ActionReboot, Result: protocol.ResultFailed, ExitCode: 70, Detail: "the host is still up"}
	r, client := newRunner(t, job, podOf(job, "p", ended(70, "Error", encode(t, report))))
	synctest.Test(t, func(t *testing.T) {
		started := time.Now()
		res, err := ensured(soon(t), r)
		require.NoError(t, err)
		require.Zero(t, time.Since(started))
		require.Equal(t, Result{Job: job.Name, Phase: PhaseFailed, ExitCode: 70, Report: &report, Message: "the host is still up", UID: job.UID, Begun: true}, res)
	})
	for _, a := range client.Actions() {
		require.NotContains(t, []string{"update", "patch", "delete"}, a.GetVerb())
	}
}

func TestFollowEndsWhenTheJobIsGone(t *testing.T) {
	r, client := newRunner(t)
	synctest.Test(t, func(t *testing.T) {
		time.AfterFunc(time.Minute, func() {
			require.NoError(t, client.BatchV1().Jobs(healing).Delete(t.Context(), reboot().Name(), metav1.DeleteOptions{}))
		})
		creates := failing(client, "create", "jobs", 0, nil)
		res, err := ensured(soon(t), r)
		require.NoError(t, err)
		require.Equal(t, PhaseMissing, res.Phase)
		require.Equal(t, 1, *creates, "what was made once is not made again")
	})
}

func TestFollowRetriesWhatMayPass(t *testing.T) {
	resource := schema.GroupResource{Group: "batch", Resource: "jobs"}
	for _, tc := range []struct {
		name           string
		verb, resource string
		err            error
	}{
		{"get refused for the moment", "get", "jobs", apierrors.NewTooManyRequests("slow down", 1)},
		{"get times out", "get", "jobs", apierrors.NewServerTimeout(resource, "get", 1)},
		{"get without connection", "get", "jobs", errors.New("connection refused")},
		{"get fails", "get", "jobs", apierrors.NewInternalError(errors.New("etcd"))},
		{"get is forbidden for a while", "get", "jobs", apierrors.NewForbidden(resource, "x", errors.New("RBAC"))},
		{"pods cannot be listed", "list", "pods", errors.New("connection reset")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, client := newRunner(t)
			synctest.Test(t, func(t *testing.T) {
				calls := failing(client, tc.verb, tc.resource, 8, tc.err)
				time.AfterFunc(time.Hour, func() { finish(t, client, batchv1.JobComplete) })
				started := time.Now()
				res, err := ensured(soon(t), r)
				require.NoError(t, err)
				require.Equal(t, PhaseSucceeded, res.Phase)
				require.Greater(t, *calls, 8)
				require.LessOrEqual(t, time.Since(started), time.Hour+2*maxRetryDelay)
			})
		})
	}
}

// Whoever follows a Job that cannot be read is asked whether to go on, with what was seen of it last.
func TestFollowAsksAboutAJobThatCannotBeRead(t *testing.T) {
	r, client := newRunner(t)
	enough := errors.New("enough")
	synctest.Test(t, func(t *testing.T) {
		name, _, err := r.Ensure(t.Context(), reboot())
		require.NoError(t, err)
		var seen []Result
		var forbidden atomic.Bool
		client.PrependReactor("get", "jobs", func(k8stesting.Action) (bool, runtime.Object, error) {
			return forbidden.Load(), nil, apierrors.NewForbidden(schema.GroupResource{Resource: "jobs"}, name, errors.New("RBAC"))
		})
		time.AfterFunc(time.Minute, func() { forbidden.Store(true) })
		res, err := r.Follow(t.Context(), name, func(res Result) error {
			if seen = append(seen, res); strings.Contains(res.Message, "cannot be read") {
				return enough
			}
			return nil
		})
		require.ErrorIs(t, err, enough)
		require.Equal(t, PhaseActive, res.Phase)
		last := seen[len(seen)-1]
		require.Equal(t, PhaseActive, last.Phase)
		require.Equal(t, `the Job cannot be read: get job "`+name+`": jobs "`+name+`" is forbidden: RBAC`, last.Message)
	})
}

func TestFollowBacksOffFromItsFirstError(t *testing.T) {
	r, client := newRunner(t)
	synctest.Test(t, func(t *testing.T) {
		started := time.Now()
		var delays []time.Duration
		client.PrependReactor("get", "jobs", func(k8stesting.Action) (bool, runtime.Object, error) {
			delays = append(delays, time.Since(started))
			return len(delays) <= 6, nil, errors.New("connection refused")
		})
		time.AfterFunc(time.Hour, func() { finish(t, client, batchv1.JobComplete) })
		_, err := ensured(soon(t), r)
		require.NoError(t, err)
		require.Greater(t, len(delays), 6)
		require.GreaterOrEqual(t, delays[6], 30*time.Second, "an API server that is down is not asked without a pause: %v", delays)
	})
}

func TestPermanentErrors(t *testing.T) {
	resource := schema.GroupResource{Group: "batch", Resource: "jobs"}
	for _, tc := range []struct {
		name string
		err  error
	}{
		{"forbidden", apierrors.NewForbidden(resource, "x", errors.New("RBAC"))},
		{"no namespace", apierrors.NewNotFound(corev1.Resource("namespaces"), healing)},
		{"invalid", apierrors.NewInvalid(schema.GroupKind{Kind: "Job"}, "x", nil)},
		{"bad request", apierrors.NewBadRequest("what")},
		{"too large", apierrors.NewRequestEntityTooLargeError("much")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, client := newRunner(t)
			synctest.Test(t, func(t *testing.T) {
				calls := failing(client, "create", "jobs", 99, tc.err)
				_, _, err := r.Ensure(soon(t), reboot())
				require.ErrorIs(t, err, tc.err)
				require.True(t, Permanent(err))
				require.Equal(t, 1, *calls)
			})
		})
	}
}

func TestFollowEndsWithItsContext(t *testing.T) {
	r, client := newRunner(t)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		res, err := ensured(ctx, r)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, PhaseActive, res.Phase)
		require.Equal(t, "no pod yet", res.Message)
		_, err = client.BatchV1().Jobs(healing).Get(t.Context(), reboot().Name(), metav1.GetOptions{})
		require.NoError(t, err, "the Job stays for whoever comes next")
	})
}

func TestFollowTellsTheLastErrorWithThatOfItsContext(t *testing.T) {
	r, client := newRunner(t)
	synctest.Test(t, func(t *testing.T) {
		down := errors.New("connection refused")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		calls := 0
		client.PrependReactor("get", "jobs", func(k8stesting.Action) (bool, runtime.Object, error) {
			if calls++; calls == 3 {
				cancel()
			}
			return true, nil, down
		})
		_, err := ensured(ctx, r)
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, err, down)
	})
}

func TestFollowDoesNothingAfterItsContext(t *testing.T) {
	t.Parallel()
	r, client := newRunner(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := r.Follow(ctx, reboot().Name(), ignored)
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, client.Actions())
}

// A Job that waits for something can be taken back; one whose operation may be under way only be stopped.
func TestWithdrawAndStop(t *testing.T) {
	t.Parallel()
	suspended := func(job *batchv1.Job) { job.Spec.Suspend = new(true) }
	waiting := corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff"}}
	working := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	for _, tc := range []struct {
		name               string
		change             func(*batchv1.Job)
		state              *corev1.ContainerState
		withdrawn, stopped bool
		message            string
		begun              bool
	}{
		{"suspended", suspended, nil, true, true, "Suspended", false},
		{"no pod", nil, nil, true, true, "no pod yet", false},
		{"no image", nil, &waiting, true, true, "ImagePullBackOff", false},
		{"at work", nil, &working, false, true, "", true},
		{"finished", conditions(batchv1.JobComplete), nil, false, false, "no pod yet", false},
		{"finished while suspended", func(job *batchv1.Job) {
			suspended(job)
			conditions(batchv1.JobFailed)(job)
		}, nil, false, false, "no pod yet", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			for _, withdraw := range []bool{true, false} {
				job := rendered(t, tc.change)
				job.ResourceVersion = "7"
				objects := []runtime.Object{job}
				if tc.state != nil {
					pod := podOf(job, "p", *tc.state)
					pod.Status.Phase = corev1.PodPending
					objects = append(objects, pod)
				}
				r, client := newRunner(t, objects...)
				res, err := r.Status(t.Context(), job.Name)
				require.NoError(t, err)
				require.Equal(t, tc.message, res.Message)
				require.Equal(t, tc.begun, res.Begun)
				require.Equal(t, job.UID, res.UID)
				want := tc.stopped
				if withdraw {
					want = tc.withdrawn
					gone, err := r.Withdraw(t.Context(), job.Name)
					require.NoError(t, err)
					require.Equal(t, want, gone)
				} else {
					require.NoError(t, r.Stop(t.Context(), job.Name))
				}
				requireDeleted(t, client, job, want)
			}
		})
	}
}

// requireDeleted tells whether the Job was deleted, with its pods, and only as it was looked at.
func requireDeleted(t *testing.T, client *fake.Clientset, job *batchv1.Job, want bool) {
	t.Helper()
	var deleted []metav1.DeleteOptions
	for _, a := range client.Actions() {
		if d, is := a.(k8stesting.DeleteActionImpl); is {
			deleted = append(deleted, d.DeleteOptions)
		}
	}
	if !want {
		require.Empty(t, deleted)
		return
	}
	require.Equal(t, []metav1.DeleteOptions{{
		PropagationPolicy: new(metav1.DeletePropagationBackground),
		Preconditions:     &metav1.Preconditions{UID: &job.UID, ResourceVersion: &job.ResourceVersion},
	}}, deleted)
}

func TestStopOfAJobThatIsGone(t *testing.T) {
	t.Parallel()
	r, _ := newRunner(t)
	require.NoError(t, r.Stop(t.Context(), reboot().Name()))
}

// Whoever looks at the Job of a step ends Follow: a Job that is suspended never ends by itself.
func TestFollowEndsWhenItsCallerHasSeenEnough(t *testing.T) {
	enough := errors.New("enough")
	synctest.Test(t, func(t *testing.T) {
		r, _ := newRunner(t, rendered(t, func(job *batchv1.Job) { job.Spec.Suspend = new(true) }))
		began := time.Now()
		res, err := r.Follow(t.Context(), reboot().Name(), func(res Result) error {
			if time.Since(began) < time.Hour {
				return nil
			}
			return enough
		})
		require.Equal(t, enough, err)
		require.Equal(t, "Suspended", res.Message)
		require.InDelta(t, time.Hour, time.Since(began), float64(time.Minute))
	})
}

func TestRenderTellsTheHostHowLongItMayBegin(t *testing.T) {
	t.Parallel()
	request := reboot()
	request.NotAfter = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	job, err := loadEmbedded(t).Render(request, RenderOptions{Namespace: healing})
	require.NoError(t, err)
	require.Contains(t, job.Spec.Template.Spec.Containers[0].Env, corev1.EnvVar{Name: protocol.NotAfterVariable, Value: "2026-11-23T12:00:00Z"})
}

// The Job controller may change the Job between the look and the deletion.
func TestWithdrawLooksAgainAfterAConflict(t *testing.T) {
	t.Parallel()
	job := rendered(t, nil)
	r, client := newRunner(t, job)
	conflicts := 0
	client.PrependReactor("delete", "jobs", func(k8stesting.Action) (bool, runtime.Object, error) {
		conflicts++
		return conflicts < 3, nil, apierrors.NewConflict(batchv1.Resource("jobs"), job.Name, errors.New("the object has been modified"))
	})
	withdrawn, err := r.Withdraw(t.Context(), job.Name)
	require.NoError(t, err)
	require.True(t, withdrawn)
}
