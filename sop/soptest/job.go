package soptest

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/protocol"
)

// Job is one Job on a node.
type Job struct {
	// Request is what was ordered.
	Request jobs.Request
	// Ended is false while it runs, Result how it ended.
	Ended  bool
	Result jobs.Result
}

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
	j.Ended = true
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
		j.Ended = true
		j.Result = jobs.Result{Job: j.Request.Name(), Phase: jobs.PhaseFailed, ExitCode: -1, Message: why}
	}
}

// begin lets the Job run on its node, which takes a kubelet that works.
func (c *Cluster) begin(job *Job) {
	r := job.Request
	switch node := c.Nodes[r.Node]; {
	case job.Ended:
	case node == nil || !Ready(node):
		c.Later(20*time.Second, func() { c.begin(job) })
	case r.Action == protocol.ActionReboot, r.Action == protocol.ActionShutdown:
		c.power(job)
	default:
		c.Later(c.span("take "+r.Node, c.options.Pace.JobRun), func() { c.finish(job) })
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
	luck := c.Chance("power " + r.Node)
	o, decided := c.decided(job)
	switch boot := c.Nodes[r.Node].Status.NodeInfo.BootID; {
	case job.Ended || decided && o.Stuck:
		return
	case !slices.Contains(r.Args, boot):
		job.end(Outcome{Code: 1, Message: "the node is on boot " + boot})
		return
	case luck < c.Weather.BadPower/2:
		job.end(Outcome{Code: 1, Message: "the kernel refused"})
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

// boot brings the node up again, if it is there.
func (c *Cluster) boot(job *Job) {
	if job.Ended {
		return
	}
	c.Fix(job.Request.Node, protocol.ActionReboot)
	c.Edit(job.Request.Node, func(n *corev1.Node) {
		n.Status.NodeInfo.BootID = BootAfter(n)
		SetReady(n, true)
	})
	c.Logf("world: %s has booted", job.Request.Node)
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
	if c.Observer.JobEnded != nil {
		c.Observer.JobEnded(job)
	}
}

// RunJob puts a Job into the cluster, as one that a process has made before the test.
func (c *Cluster) RunJob(request jobs.Request) {
	c.held()
	job := &Job{Request: request}
	c.Jobs[request.Name()] = job
	c.Later(c.span("begin "+request.Node, c.options.Pace.JobStart), func() { c.begin(job) })
	if request.Deadline > 0 {
		c.Later(request.Deadline, func() { job.expire("DeadlineExceeded") })
	}
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
			result = jobs.Result{Job: name, Phase: jobs.PhaseActive, ExitCode: -1}
		default:
			result = job.Result
		}
		return nil
	})
	return result, err
}

// Follow waits for the end of the Job.
func (r Runner) Follow(ctx context.Context, name string) (jobs.Result, error) {
	for {
		result, err := r.Status(ctx, name)
		if err == nil && result.Phase != jobs.PhaseActive {
			return result, nil
		}
		if err := sleep(ctx, 5*time.Second); err != nil {
			return jobs.Result{}, err
		}
	}
}
