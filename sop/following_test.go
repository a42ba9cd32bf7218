package sop

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/ticket"
)

const jobsNamespace = "healing"

// jobController stands for the Job controller of a cluster, and for what others do to Jobs. The real runner talks to its API server.
type jobController struct {
	w      *world
	client *fake.Clientset
	// admit changes a Job as an admission webhook does. Nil changes nothing.
	admit func(job *batchv1.Job)
	// work is done once the Job of the action is there. Without, the Job is run as a good controller runs it.
	work map[string]func(job *batchv1.Job)
	// made are the names of the Jobs, in their order.
	mu   sync.Mutex
	made []string
}

// names returns those of the Jobs that were made, in their order.
func (c *jobController) names() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.made)
}

// withController has the world run its Jobs by the real runner.
func (w *world) withController() *jobController {
	w.t.Helper()
	templates, err := jobs.LoadTemplates("")
	require.NoError(w.t, err)
	c := &jobController{w: w, client: fake.NewClientset(), work: make(map[string]func(*batchv1.Job))}
	c.client.PrependReactor("create", "jobs", func(a k8stesting.Action) (bool, runtime.Object, error) {
		create, ok := a.(k8stesting.CreateAction)
		require.True(w.t, ok)
		job, ok := create.GetObject().(*batchv1.Job)
		require.True(w.t, ok)
		c.mu.Lock()
		c.made = append(c.made, job.Name)
		job.UID = types.UID(fmt.Sprint("job-", len(c.made)))
		c.mu.Unlock()
		if c.admit != nil {
			c.admit(job)
		}
		work := c.work[job.Labels["aegis.io/action"]]
		if work == nil {
			work = c.run
		}
		if job.Spec.Suspend == nil {
			copied := job.DeepCopy()
			time.AfterFunc(5*time.Second, func() { work(copied) })
		}
		return false, nil, nil
	})
	w.runner = jobs.NewRunner(jobs.RunnerOptions{Client: c.client, Namespace: jobsNamespace, Templates: templates})
	return c
}

// run ends the Job well after a minute.
func (c *jobController) run(job *batchv1.Job) {
	time.AfterFunc(time.Minute, func() { c.end(job, batchv1.JobComplete, 0) })
	if job.Labels["aegis.io/action"] == protocol.ActionReboot {
		time.AfterFunc(bootTime, func() {
			c.w.boot(nodeA)
			c.w.source.gone()
		})
	}
}

// end ends the Job, whose operation has ended with the exit code.
func (c *jobController) end(job *batchv1.Job, how batchv1.JobConditionType, code int32) {
	c.addPod(job, corev1.PodSucceeded, corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Message: `{"result":"passed"}`}})
	c.conclude(job, how)
}

// addPod adds the pod of a Job.
func (c *jobController) addPod(job *batchv1.Job, phase corev1.PodPhase, op corev1.ContainerState) {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: job.Name + "-x", Namespace: jobsNamespace, Labels: maps.Clone(job.Spec.Template.Labels),
			OwnerReferences: []metav1.OwnerReference{{Kind: "Job", Name: job.Name, UID: job.UID, Controller: new(true)}},
		},
		Spec:   *job.Spec.Template.Spec.DeepCopy(),
		Status: corev1.PodStatus{Phase: phase, ContainerStatuses: []corev1.ContainerStatus{{Name: "op", State: op}}},
	}
	pod.Labels[batchv1.JobNameLabel] = job.Name
	if _, err := c.client.CoreV1().Pods(jobsNamespace).Create(context.Background(), pod, metav1.CreateOptions{}); err != nil {
		c.w.t.Error(err)
	}
}

// conclude ends a Job of whose pod nobody hears.
func (c *jobController) conclude(job *batchv1.Job, how batchv1.JobConditionType) {
	job.Status.Conditions = append(job.Status.Conditions, batchv1.JobCondition{Type: how, Status: corev1.ConditionTrue})
	ctx := context.Background()
	if _, err := c.client.BatchV1().Jobs(jobsNamespace).UpdateStatus(ctx, job, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		c.w.t.Error(err)
	}
}

// unfinished returns the names of the Jobs that may still take effect.
func (c *jobController) unfinished() (names []string) {
	list, err := c.client.BatchV1().Jobs(jobsNamespace).List(context.Background(), metav1.ListOptions{})
	require.NoError(c.w.t, err)
	for i := range list.Items {
		if len(list.Items[i].Status.Conditions) == 0 {
			names = append(names, list.Items[i].Name)
		}
	}
	return names
}

// suspends has a queueing controller suspend the Jobs of the action.
func (c *jobController) suspends(action string) {
	c.admit = func(job *batchv1.Job) {
		if job.Labels["aegis.io/action"] == action {
			job.Spec.Suspend = new(true)
		}
	}
}

func neverRun(*batchv1.Job) {}

// Every Job that is followed comes to an end, whatever its controller, its queue and people do to it: the node reaches a team by
// then, and nothing is left that may take effect later.
func TestEveryFollowedJobEnds(t *testing.T) {
	t.Parallel()
	p := testPolicy()
	for _, tt := range []struct {
		name, condition string
		harm            func(c *jobController)
		// team takes the node over, within so long. Nothing means that it is repaired.
		team   string
		within time.Duration
		hold   string
	}{
		{
			"suspended healthcheck", "Reboot", func(c *jobController) { c.suspends(protocol.ActionHealthcheck) },
			teamHost, 2*(p.HealthcheckDeadline+jobGrace) + 20*time.Minute, "job: Suspended",
		},
		{
			"suspended reset and reboot", "Reset", func(c *jobController) {
				c.admit = func(job *batchv1.Job) {
					if a := job.Labels["aegis.io/action"]; a == protocol.ActionRemedy || a == protocol.ActionReboot {
						job.Spec.Suspend = new(true)
					}
				}
			},
			"gpu", p.RemedyDeadline + jobGrace + p.RebootDeadline + 10*time.Minute, "job: Suspended",
		},
		{
			"suspended reboot", "Reboot", func(c *jobController) { c.suspends(protocol.ActionReboot) },
			"gpu", p.RebootDeadline + 10*time.Minute, "job: Suspended",
		},
		{
			"suspended diagnosis", "Reboot", func(c *jobController) { c.suspends(protocol.ActionDiagnose) },
			"", 0, "job: Suspended",
		},
		{
			"controller away", "Reboot", func(c *jobController) { c.work[protocol.ActionHealthcheck] = neverRun },
			teamHost, 2*(p.HealthcheckDeadline+jobGrace) + 20*time.Minute, "job: no pod yet",
		},
		{
			"collected in the middle", "Reboot", func(c *jobController) { c.work[protocol.ActionHealthcheck] = c.forget },
			teamHost, 30 * time.Minute, "",
		},
		{
			"replaced", "Reboot", func(c *jobController) { c.work[protocol.ActionHealthcheck] = c.replace },
			teamHost, 30 * time.Minute, "",
		},
		{
			"a condition that lies", "Reboot", func(c *jobController) {
				c.work[protocol.ActionHealthcheck] = func(job *batchv1.Job) { c.end(job, batchv1.JobComplete, 2) }
			},
			teamHost, 30 * time.Minute, "",
		},
		{
			"two conditions", "Reboot", func(c *jobController) {
				c.work[protocol.ActionHealthcheck] = func(job *batchv1.Job) {
					job.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobComplete, Status: corev1.ConditionTrue}}
					c.end(job, batchv1.JobFailed, 70)
				}
			},
			teamHost, 30 * time.Minute, "",
		},
		{
			"deletion forbidden", "Reboot", func(c *jobController) {
				c.suspends(protocol.ActionHealthcheck)
				c.client.PrependReactor("delete", "jobs", func(k8stesting.Action) (bool, runtime.Object, error) {
					return true, nil, apierrors.NewForbidden(schema.GroupResource{Group: "batch", Resource: "jobs"}, "x", nil)
				})
			},
			teamHost, 2*(p.HealthcheckDeadline+jobGrace) + 20*time.Minute, "job: Suspended",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := newWorld(t, p)
				c := w.withController()
				tt.harm(c)
				w.raise(tt.condition)
				stop := w.start()
				defer stop()
				began, held := time.Now(), false
				over := func(r ticket.Record) bool {
					held = held || r.Ticket != nil && tt.hold != "" && len(r.Ticket.Hold) >= len(tt.hold) && r.Ticket.Hold[:len(tt.hold)] == tt.hold
					return tt.team == "" && resolved(r) || tt.team != "" && handedTo(tt.team)(r)
				}
				w.await("the end", over)
				if tt.team != "" {
					require.LessOrEqual(t, time.Since(began), tt.within)
				}
				require.Equal(t, tt.hold != "", held, "the ticket says what the Job waits for")
				if tt.name != "deletion forbidden" {
					require.Empty(t, c.unfinished(), "nothing may take effect later")
				}
				_, inFlight := w.d.Held()
				require.Empty(t, inFlight)
			})
		})
	}
}

// forget deletes the Job, as its time to live does.
func (c *jobController) forget(job *batchv1.Job) {
	err := c.client.Tracker().Delete(batchv1.SchemeGroupVersion.WithResource("jobs"), jobsNamespace, job.Name)
	require.NoError(c.w.t, err)
}

// replace puts another Job in the place of the one that is there, and ends it well.
func (c *jobController) replace(job *batchv1.Job) {
	time.AfterFunc(time.Minute, func() {
		c.forget(job)
		job.UID = "another"
		require.NoError(c.w.t, c.client.Tracker().Add(job))
		c.end(job, batchv1.JobComplete, 0)
	})
}

// A person who takes the node over gets it without a Job that boots it later. One that is under way is left to end.
func TestTakeoverTakesTheJobBackThatHasNotBegun(t *testing.T) {
	t.Parallel()
	for _, begun := range []bool{false, true} {
		t.Run(fmt.Sprint("begun ", begun), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := newWorld(t, testPolicy())
				c := w.withController()
				c.work[protocol.ActionReboot] = func(job *batchv1.Job) {
					if begun {
						job.Status.Failed = 1
						_, err := c.client.BatchV1().Jobs(jobsNamespace).UpdateStatus(context.Background(), job, metav1.UpdateOptions{})
						require.NoError(w.t, err)
					}
				}
				w.raise("Reboot")
				stop := w.start()
				defer stop()
				w.await("the reboot is ordered", func(ticket.Record) bool { return len(c.unfinished()) == 1 && running(ticket.Reboot)(w.record()) })
				time.Sleep(time.Minute)
				w.edit(func(n *corev1.Node) {
					taken := ticket.ReadNode(n).Ticket
					taken.Supervisor = "alice"
					text, err := taken.Encode()
					require.NoError(w.t, err)
					n.Annotations[ticket.Annotation] = text
				})
				time.Sleep(time.Minute)
				require.Equal(t, begun, len(c.unfinished()) == 1)
			})
		})
	}
}

// What is ordered says until when it may be begun: no deletion is needed to keep it from a node that is no longer Aegis'.
func TestOrdersHaveAnEnd(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testPolicy())
		c := w.withController()
		w.raise("Reboot")
		stop := w.start()
		defer stop()
		w.await("resolved", resolved)
		for _, name := range c.names() {
			job, err := c.client.BatchV1().Jobs(jobsNamespace).Get(t.Context(), name, metav1.GetOptions{})
			require.NoError(t, err)
			var notAfter time.Time
			for _, e := range job.Spec.Template.Spec.Containers[0].Env {
				if e.Name == protocol.NotAfterVariable {
					notAfter, err = time.Parse(time.RFC3339, e.Value)
					require.NoError(t, err)
				}
			}
			deadline := time.Duration(*job.Spec.ActiveDeadlineSeconds) * time.Second
			require.WithinRange(t, notAfter, time.Now().Add(deadline-time.Hour), time.Now().Add(deadline+jobGrace))
		}
	})
}

// A node that only seemed to be powered off, and was cut off, is not powered off later, in the hands of people.
func TestShutdownTakesNoEffectAfterTheHandOver(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := testPolicy()
		p.Shutdown, p.MaxReboots = true, 0
		w := newWorld(t, p, testNode(nodeA, nodeUID), &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: nodeA},
			Spec:       coordinationv1.LeaseSpec{RenewTime: &metav1.MicroTime{Time: time.Now()}},
		})
		c := w.withController()
		// Its network fails as the Job is made: the kubelet hears of no pod, and its Lease is renewed no more.
		c.work[protocol.ActionShutdown] = func(*batchv1.Job) {
			w.edit(func(n *corev1.Node) { setReady(n, corev1.ConditionUnknown) })
		}
		w.raise("Reboot")
		stop := w.start()
		defer stop()
		w.await("handed over", handedTo("gpu"))
		require.Empty(t, c.unfinished(), "as soon as its network is back, the node is powered off: %s", w.record().Ticket.Reason)
		require.Contains(t, w.record().Ticket.Reason, "power state unknown")
	})
}
