package soptest

import (
	"context"
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/protocol"
)

// Job is one Job on a node.
type Job struct {
	// Request is what was ordered.
	Request jobs.Request
	// Begun is true once its operation has been started on the node.
	Begun bool
	// Ended is false while it runs, Result how it ended.
	Ended  bool
	Result jobs.Result

	cluster *Cluster
	// made is the Job as the product's runner has made it, nil for one of the fake Runner, and pod the name of its pod.
	made *batchv1.Job
	pod  string
	// suspended Jobs do not begin, expired ones were ended by their deadline, and adrift ones go on although they were called failed.
	suspended, expired, adrift bool
	endedAt                    time.Time
	// limited is true once its deadline runs.
	limited bool
	// machine is the one that its pod runs on.
	machine types.UID
}

// Placed reports whether there was ever a pod for the Job.
func (j *Job) Placed() bool { return j.made == nil || j.pod != "" }

// Outcome is how an operation ends.
type Outcome struct {
	// Code is the exit code, 0 if it ends well.
	Code int32
	// Hardware is what a failed one found broken, Recovery what the driver of a GPU asks for, Message what it says.
	Hardware, Recovery, Message string
	// Refused is what forbids one that was not begun.
	Refused string
	// Refusals are what stands against it.
	Refusals []string
	// Unneeded operations found nothing to do.
	Unneeded bool
	// Stuck operations never end by themselves.
	Stuck bool
}

// Operation names what a Job does: a remedy or a repair by its own name, all others by their action.
func Operation(r jobs.Request) string {
	if (r.Action == protocol.ActionRemedy || r.Action == protocol.ActionRepair) && len(r.Args) > 0 {
		return r.Args[0]
	}
	return r.Action
}

// end is how the Job ended by itself, expire how it was ended.
func (j *Job) end(o Outcome) {
	if j.Ended {
		return // It was called failed already.
	}
	j.Ended, j.endedAt = true, time.Now()
	name := j.Request.Name()
	if o.Code == 0 {
		j.Result = jobs.Result{
			Job: name, Phase: jobs.PhaseSucceeded, Message: o.Message,
			Report: &protocol.Report{Result: protocol.ResultPassed, Recovery: o.Recovery, Unneeded: o.Unneeded},
		}
		return
	}
	j.Result = jobs.Result{
		Job: name, Phase: jobs.PhaseFailed, ExitCode: o.Code, Message: o.Message,
		Report: &protocol.Report{Result: protocol.ResultFailed, Hardware: o.Hardware, Refusals: o.Refusals, ExitCode: int(o.Code)},
	}
	if o.Refused != "" {
		j.Result.Report.Refusals, j.Result.Message = []string{o.Refused}, "refused: "+o.Refused
	}
}

func (j *Job) expire(why string) {
	if !j.Ended {
		j.Ended, j.endedAt = true, time.Now()
		j.Result = jobs.Result{Job: j.Request.Name(), Phase: jobs.PhaseFailed, ExitCode: -1, Message: why}
	}
}

// begin lets the Job run on its node, which takes a kubelet that works, and a Job controller that makes its pod.
func (c *Cluster) begin(job *Job) {
	r := job.Request
	node := c.Nodes[r.Node]
	switch waits := job.suspended || c.On(JobControllerDown) && job.made != nil; {
	case job.Ended:
		return
	case waits || node == nil || !Ready(node):
		job.suspended = job.suspended && c.On(JobsSuspended)
		c.Later(20*time.Second, func() { c.begin(job) })
		return
	}
	job.machine, job.Begun = node.UID, true
	c.startPod(job)
	c.expireAfter(job)
	switch {
	case !isPower(r):
		c.Later(c.span("take "+r.Node, c.options.Pace.JobRun), func() { c.finish(job) })
	case c.givenUp(job):
		job.adrift = true
		c.dropPod(job)
		job.expire("the pod was lost")
		c.Later(c.Between("adrift "+r.Node, time.Second, 3*time.Minute), func() { c.power(job) })
	default:
		c.power(job)
	}
}

func isPower(r jobs.Request) bool {
	return r.Action == protocol.ActionReboot || r.Action == protocol.ActionShutdown
}

// expireAfter ends the Job at its deadline, which counts from when it is not suspended any more.
func (c *Cluster) expireAfter(job *Job) {
	if job.Request.Deadline == 0 || job.limited {
		return
	}
	job.limited = true
	c.Later(job.Request.Deadline, func() { c.overdue(job) })
}

// overdue ends the Job, once there is somebody who can.
func (c *Cluster) overdue(job *Job) {
	switch {
	case job.Ended:
	case job.made != nil && c.On(JobControllerDown):
		c.Later(20*time.Second, func() { c.overdue(job) })
	default:
		c.dropPod(job)
		job.expired = true
		job.expire("DeadlineExceeded")
	}
}

// decided ends the Job as Operate has it, if it does.
func (c *Cluster) decided(job *Job) (o Outcome, decided bool) {
	if c.Operate == nil {
		return Outcome{}, false
	}
	o, decided = c.Operate(job)
	if decided && !o.Stuck && o.Code != 0 {
		job.end(o)
	}
	return o, decided
}

// power boots the node or powers it off, unless it is on another boot than it should be.
func (c *Cluster) power(job *Job) {
	r := job.Request
	node := c.Nodes[r.Node]
	if node == nil || node.UID != job.machine {
		return
	}
	luck := c.Chance("power " + r.Node)
	o, decided := c.decided(job)
	switch boot := node.Status.NodeInfo.BootID; {
	case job.Ended && !job.adrift || decided && o.Stuck:
		return
	case !slices.Contains(r.Args, boot):
		job.end(Outcome{Code: 1, Message: "the node is on boot " + boot})
		c.endPod(job)
		return
	case luck < c.Weather.BadPower/2:
		job.end(Outcome{Code: 1, Message: "the kernel refused"})
		c.endPod(job)
		return
	case luck < c.Weather.BadPower:
		c.Logf("world: %s does not react", r.Node)
		return
	}
	if c.options.Pace.PowerDown == 0 {
		c.Silent(r.Node)
	} else {
		c.Later(c.options.Pace.PowerDown, func() { c.Silent(r.Node) })
	}
	if r.Action == protocol.ActionReboot {
		c.Later(c.span("boot "+r.Node, c.options.Pace.Boot), func() { c.boot(job) })
	}
}

// boot brings the machine up again, if it is there.
func (c *Cluster) boot(job *Job) {
	if node := c.Nodes[job.Request.Node]; node == nil || node.UID != job.machine {
		return
	}
	c.Fix(job.Request.Node, protocol.ActionReboot)
	c.Edit(job.Request.Node, func(n *corev1.Node) {
		n.Status.NodeInfo.BootID = BootAfter(n)
		SetReady(n, true)
	})
	c.Logf("world: %s has booted", job.Request.Node)
	c.dropPod(job)
	job.expire("the pod was lost")
	c.ended(job)
}

// finish ends a Job that leaves the node up.
func (c *Cluster) finish(job *Job) {
	r := job.Request
	if job.Ended {
		return
	}
	luck := c.Chance("finish " + r.Node)
	o, decided := c.decided(job)
	switch {
	case decided && o.Stuck:
		return
	case decided && job.Ended:
	case decided:
		job.end(o)
	case luck < c.Weather.BadChecks/3:
		job.end(Outcome{Code: protocol.ExitUnknown, Message: "the tool crashed"})
	case luck < c.Weather.BadChecks:
		job.end(Outcome{Code: 2, Hardware: "gpu", Message: "it is broken"})
	case r.Action == protocol.ActionHealthcheck && c.Sick(r.Node):
		job.end(Outcome{Code: 2, Hardware: "gpu", Message: "it is sick"})
	default:
		if r.Action == protocol.ActionRemedy || r.Action == protocol.ActionRepair {
			c.Fix(r.Node, Operation(r))
		}
		job.end(Outcome{})
	}
	c.ended(job)
	c.Logf("world: Job %s on %s %s %s", r.Action, r.Node, job.Result.Phase, job.Result.Message)
}

func (c *Cluster) ended(job *Job) {
	c.endPod(job)
	c.misfortunes(job)
	if c.Observer.JobEnded != nil {
		c.Observer.JobEnded(job)
	}
}

// RunJob puts a Job into the cluster, as one that a process has made before the test.
func (c *Cluster) RunJob(request jobs.Request) { c.makeJob(request, nil) }

// makeJob stores a Job, and has it run.
func (c *Cluster) makeJob(request jobs.Request, made *batchv1.Job) *Job {
	c.held()
	job := &Job{Request: request, cluster: c}
	c.Jobs[request.Name()] = job
	if made != nil {
		c.version++
		job.made = made.DeepCopy()
		job.made.UID = types.UID(fmt.Sprint("uid-", made.Name, "-", c.version))
		job.made.CreationTimestamp = metav1.NewTime(time.Now().Truncate(time.Second))
		job.suspended = c.On(JobsSuspended)
	}
	if !job.suspended {
		c.expireAfter(job)
	}
	c.Later(c.span("begin "+request.Node, c.options.Pace.JobStart), func() { c.begin(job) })
	return job
}

// Runner makes Jobs as the product's runner does: by their name, at most once each.
type Runner struct{ client *Client }

// Jobs returns the runner of the client.
func (c *Client) Jobs() Runner { return Runner{c} }

// Ensure creates the Job or resumes it.
func (r Runner) Ensure(ctx context.Context, request jobs.Request) (name string, created bool, err error) {
	name, c := request.Name(), r.client.cluster
	err = r.client.call(ctx, Call{Verb: VerbCreate, Resource: "jobs", Name: request.Node}, func(time.Time) error {
		if _, found := c.Jobs[name]; found {
			return nil
		}
		c.Logf("p%d Job %s of ticket %s, attempt %d on %s %v", r.client.ID, request.Action, request.Incident, request.Attempt, request.Node, request.Args)
		if c.Observer.JobOrdered != nil {
			c.Observer.JobOrdered(r.client, request)
		}
		created = true
		c.RunJob(request)
		return nil
	})
	return name, created, err
}

// Status reads the Job.
func (r Runner) Status(ctx context.Context, name string) (result jobs.Result, err error) {
	about := name
	r.client.cluster.Do(func() {
		if job := r.client.cluster.Jobs[name]; job != nil {
			// The name has chance in it, which would make no run like another.
			about = "Jobs on " + job.Request.Node
		}
	})
	err = r.client.call(ctx, Call{Verb: VerbGet, Resource: "jobs", Name: about}, func(time.Time) error {
		job, found := r.client.cluster.Jobs[name]
		switch {
		case !found:
			result = jobs.Result{Job: name, Phase: jobs.PhaseMissing, ExitCode: -1}
		case !job.Ended:
			result = jobs.Result{Job: name, Phase: jobs.PhaseActive, ExitCode: -1, Begun: job.Begun}
		default:
			result = job.Result
		}
		if found {
			result.NotAfter = job.Request.NotAfter
		}
		return nil
	})
	return result, err
}

// Follow waits for the end of the Job.
func (r Runner) Follow(ctx context.Context, name string, look func(jobs.Result) error) (jobs.Result, error) {
	last := jobs.Result{Job: name, ExitCode: -1}
	for {
		result, err := r.Status(ctx, name)
		switch {
		case err == nil && result.Phase != jobs.PhaseActive:
			return result, nil
		case err == nil:
			last = result
		case ctx.Err() != nil:
			return last, ctx.Err()
		default:
			result = last
			result.Message = "the Job cannot be read: " + err.Error()
		}
		if err := look(result); err != nil {
			return result, err
		}
		if err := sleep(ctx, 5*time.Second); err != nil {
			return jobs.Result{}, err
		}
	}
}

// Stop deletes an unfinished Job.
func (r Runner) Stop(ctx context.Context, name string) error {
	_, err := r.remove(ctx, name, func(*Job) bool { return true })
	return err
}

// Withdraw deletes a Job that has not begun.
func (r Runner) Withdraw(ctx context.Context, name string) (withdrawn bool, err error) {
	return r.remove(ctx, name, func(j *Job) bool { return !j.Begun })
}

func (r Runner) remove(ctx context.Context, name string, may func(*Job) bool) (removed bool, err error) {
	c := r.client.cluster
	about := name
	c.Do(func() {
		if job := c.Jobs[name]; job != nil {
			about = "Jobs on " + job.Request.Node
		}
	})
	err = r.client.call(ctx, Call{Verb: VerbDelete, Resource: "jobs", Name: about}, func(time.Time) error {
		job := c.Jobs[name]
		if removed = job != nil && !job.Ended && may(job); removed {
			c.Logf("p%d deletes Job %s on %s", r.client.ID, job.Request.Action, job.Request.Node)
			c.ForgetJob(name)
		}
		return nil
	})
	return removed, err
}
