package soptest

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	batchclient "k8s.io/client-go/kubernetes/typed/batch/v1"

	"aegis.io/aegis/jobs"
)

// What the API server and the Job controller do for the product's own runner.

// The states of what carries Jobs out.
const (
	// JobControllerDown is while no Job begins, and no end of one is noted.
	JobControllerDown = "Job controller down"
	// JobsSuspended is while a queueing controller suspends the Jobs that are made, until the state ends. Their deadlines do not run.
	JobsSuspended = "Jobs suspended"
)

// opContainer is the container of the pods of Jobs that carries the operation out.
const opContainer = "op"

// BatchV1 reaches Jobs.
func (c *Client) BatchV1() batchclient.BatchV1Interface { return batch{c: c} }

type batch struct {
	batchclient.BatchV1Interface
	c *Client
}

func (b batch) Jobs(namespace string) batchclient.JobInterface {
	return batchJobs{c: b.c, namespace: namespace}
}

type batchJobs struct {
	batchclient.JobInterface
	c         *Client
	namespace string
}

// aboutJobs names the calls about the Jobs on a node. Their own names have chance in them, which would make no run like another.
func aboutJobs(node string) string { return "Jobs on " + node }

// Create makes a Job, unless there is one of its name.
func (b batchJobs) Create(ctx context.Context, job *batchv1.Job, _ metav1.CreateOptions) (made *batchv1.Job, err error) {
	request := requestOf(job)
	err = b.c.call(ctx, Call{Verb: VerbCreate, Resource: "jobs", Name: request.Node}, func(time.Time) error {
		c := b.c.cluster
		if c.Jobs[job.Name] != nil {
			return apierrors.NewAlreadyExists(batchv1.Resource("jobs"), job.Name)
		}
		c.Logf("p%d Job %s of ticket %s, attempt %d on %s %v", b.c.ID, request.Action, request.Incident, request.Attempt, request.Node, request.Args)
		if c.Observer.JobOrdered != nil {
			c.Observer.JobOrdered(b.c, request)
		}
		made = c.makeJob(request, job).object()
		return nil
	})
	return made, err
}

// Get reads a Job, as the Job controller has it.
func (b batchJobs) Get(ctx context.Context, name string, _ metav1.GetOptions) (job *batchv1.Job, err error) {
	c := b.c.cluster
	err = b.c.call(ctx, Call{Verb: VerbGet, Resource: "jobs", Name: c.aboutJob(name)}, func(time.Time) error {
		known := c.Jobs[name]
		if known == nil {
			return apierrors.NewNotFound(batchv1.Resource("jobs"), name)
		}
		job = known.object()
		return nil
	})
	return job, err
}

// List returns the Jobs that the options select by their labels.
func (b batchJobs) List(ctx context.Context, o metav1.ListOptions) (list *batchv1.JobList, err error) {
	selector, err := labels.Parse(o.LabelSelector)
	if err != nil {
		return nil, err
	}
	c := b.c.cluster
	err = b.c.call(ctx, Call{Verb: VerbList, Resource: "jobs"}, func(time.Time) error {
		list = &batchv1.JobList{}
		for _, name := range slices.Sorted(maps.Keys(c.Jobs)) {
			if job := c.Jobs[name].object(); selector.Matches(labels.Set(job.Labels)) {
				list.Items = append(list.Items, *job)
			}
		}
		return nil
	})
	return list, err
}

// Delete takes a Job away, with its pod. What its operation has done by then is done.
func (b batchJobs) Delete(ctx context.Context, name string, _ metav1.DeleteOptions) error {
	c := b.c.cluster
	return b.c.call(ctx, Call{Verb: VerbDelete, Resource: "jobs", Name: c.aboutJob(name)}, func(time.Time) error {
		if c.Jobs[name] == nil {
			return apierrors.NewNotFound(batchv1.Resource("jobs"), name)
		}
		c.ForgetJob(name)
		return nil
	})
}

// aboutJob names the calls about a Job.
func (c *Cluster) aboutJob(name string) (about string) {
	about = name
	c.Do(func() {
		if job := c.Jobs[name]; job != nil {
			about = aboutJobs(job.Request.Node)
		}
	})
	return about
}

// ForgetJob takes a Job and its pod away, as the end of its time to live does, or a person.
func (c *Cluster) ForgetJob(name string) {
	c.held()
	job := c.Jobs[name]
	if job == nil {
		return
	}
	c.Logf("world: Job %s on %s is forgotten", job.Request.Action, job.Request.Node)
	c.dropPod(job)
	job.expire("it was deleted")
	if c.Observer.JobForgotten != nil {
		c.Observer.JobForgotten(job)
	}
	delete(c.Jobs, name)
}

// requestOf returns what the Job was made for.
func requestOf(job *batchv1.Job) jobs.Request {
	attempt, err := strconv.Atoi(job.Labels["aegis.io/attempt"])
	if err != nil {
		panic("soptest: Job without the number of its attempt: " + job.Name)
	}
	r := jobs.Request{
		Action: job.Labels["aegis.io/action"], Node: job.Annotations["aegis.io/node"], Incident: job.Labels["aegis.io/incident"],
		Attempt: attempt, Args: job.Spec.Template.Spec.Containers[0].Args[1:],
	}
	if s := job.Spec.ActiveDeadlineSeconds; s != nil {
		r.Deadline = time.Duration(*s) * time.Second
	}
	return r
}

// object returns the Job as the API server has it.
func (j *Job) object() *batchv1.Job {
	object := j.made.DeepCopy()
	object.Spec.Suspend = new(j.suspended)
	if j.suspended {
		object.Status.Conditions = append(object.Status.Conditions, batchv1.JobCondition{
			Type: batchv1.JobSuspended, Status: corev1.ConditionTrue, Reason: "JobSuspended", Message: "Job suspended",
		})
	}
	if !j.noted() {
		return object
	}
	end := batchv1.JobCondition{Type: batchv1.JobComplete, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(j.endedAt)}
	if j.Result.Phase != jobs.PhaseSucceeded {
		end.Type, end.Reason, end.Message = batchv1.JobFailed, batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit"
	}
	if j.expired {
		end.Reason, end.Message = batchv1.JobReasonDeadlineExceeded, j.Result.Message
	}
	object.Status.Conditions = append(object.Status.Conditions, end)
	return object
}

// noted reports whether the Job controller has noted the end of the Job.
func (j *Job) noted() bool {
	c := j.cluster
	return j.Ended && (!c.On(JobControllerDown) || j.endedAt.Before(c.Began(JobControllerDown)))
}

// startPod has the pod of the Job run.
func (c *Cluster) startPod(job *Job) {
	if job.made == nil || job.pod != "" {
		return
	}
	c.version++
	job.pod = job.made.Name + "-" + strconv.Itoa(c.version)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: job.pod, Namespace: job.made.Namespace, UID: types.UID(job.pod), Labels: maps.Clone(job.made.Spec.Template.Labels),
			CreationTimestamp: metav1.NewTime(time.Now().Truncate(time.Second)),
			OwnerReferences:   []metav1.OwnerReference{*metav1.NewControllerRef(job.made, batchv1.SchemeGroupVersion.WithKind("Job"))},
		},
		Spec: job.made.Spec.Template.Spec, Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
	pod.Labels[batchv1.JobNameLabel] = job.made.Name
	c.AddPod(pod)
}

// endPod notes on the pod of the Job how its operation has ended, and what it reports.
func (c *Cluster) endPod(job *Job) {
	if job.pod == "" || c.Pods[podKey(job.made.Namespace, job.pod)] == nil {
		return
	}
	pod := c.Pods[podKey(job.made.Namespace, job.pod)].DeepCopy()
	ended := &corev1.ContainerStateTerminated{ExitCode: job.Result.ExitCode, Reason: "Completed"}
	pod.Status.Phase = corev1.PodSucceeded
	if job.Result.Phase != jobs.PhaseSucceeded {
		pod.Status.Phase, ended.Reason = corev1.PodFailed, "Error"
	}
	if report := job.Result.Report; report != nil {
		said := *report
		said.Detail = job.Result.Message
		text, err := json.Marshal(said)
		if err != nil {
			panic("soptest: report: " + err.Error())
		}
		ended.Message = string(text)
	}
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: opContainer, State: corev1.ContainerState{Terminated: ended}}}
	c.AddPod(pod)
}

// dropPod takes the pod of the Job away.
func (c *Cluster) dropPod(job *Job) {
	if job.pod != "" {
		c.DeletePod(job.made.Namespace, job.pod)
	}
}

// misfortunes are what may befall a Job that has ended: its pod is collected before anybody has read it, or it is forgotten itself.
func (c *Cluster) misfortunes(job *Job) {
	if job.made == nil {
		return
	}
	if c.Chance("pod collected "+job.Request.Node) < c.Weather.PodsCollected {
		c.Logf("world: the pod of Job %s on %s is collected", job.Request.Action, job.Request.Node)
		c.dropPod(job)
	}
	if c.Chance("forgotten "+job.Request.Node) < c.Weather.JobsForgotten {
		name := job.made.Name
		c.Later(c.Between("forgotten late "+job.Request.Node, 0, 10*time.Minute), func() {
			if c.Jobs[name] == job {
				c.ForgetJob(name)
			}
		})
	}
}

// givenUp reports whether the Job controller calls the Job failed while its operation goes on, as it does when a node is cut off.
func (c *Cluster) givenUp(job *Job) bool {
	lies := job.made != nil && c.Chance("given up "+job.Request.Node) < c.Weather.JobsGivenUp
	if lies {
		c.Logf("world: Job %s on %s is given up, and goes on", job.Request.Action, job.Request.Node)
	}
	return lies
}
