package jobs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"

	"aegis.io/aegis/jobs/protocol"
)

var (
	// ErrNotOurs says that the name of the Job is taken by one that was made for another request.
	ErrNotOurs = errors.New("job was not made for this request")
	// ErrInvalid says that no Job can be made for the request.
	ErrInvalid = errors.New("no job can be made")
	// ErrTerminating says that an unfinished Job of the name is being deleted. Asking again later helps.
	ErrTerminating = errors.New("job is being deleted")
)

const (
	// DefaultNamespace holds the Jobs where nothing else is said.
	DefaultNamespace    = "monitoring"
	defaultPollInterval = 2 * time.Second
	// maxRetryDelay bounds how late an answer is seen once the API server is back.
	maxRetryDelay = 30 * time.Second
	// callTimeout ends a call on a connection that went dead.
	callTimeout  = 30 * time.Second
	fieldManager = "aegis"
	// unknownExitCode stands for an exit code that nobody has seen.
	unknownExitCode = -1
)

// Phase is how far a Job has come.
type Phase string

// The phases of a Job.
const (
	PhaseActive    Phase = "Active"
	PhaseSucceeded Phase = "Succeeded"
	PhaseFailed    Phase = "Failed"
	// PhaseMissing says that there is no such Job; what became of its operation is unknown.
	PhaseMissing Phase = "Missing"
)

// Result is what is known of a Job.
type Result struct {
	// Job is the name of the Job.
	Job string
	// Phase is how far it has come.
	Phase Phase
	// ExitCode is the exit status of the operation, -1 while it is unknown.
	ExitCode int32
	// Report is what the operation reported. Nil when it left none.
	Report *protocol.Report
	// Message is one line for people: the outcome, or what an active Job waits for.
	Message string
	// UID tells the Job from another one of its name. Empty while there is none.
	UID types.UID
	// Begun is true once the operation may have been started on the node.
	Begun bool
	// NotAfter is when whoever ordered the Job has given it up. Zero where that is not known.
	NotAfter time.Time
}

// Conclusive reports whether a finished operation says something about the node. One that left no report, or could not find out,
// says nothing, good or bad.
func (r Result) Conclusive() bool {
	return r.Report != nil && protocol.Conclusive(int(r.ExitCode))
}

// RunnerOptions holds what a Runner needs.
type RunnerOptions struct {
	// Client talks to the API server.
	Client kubernetes.Interface
	// Namespace holds the Jobs. The default is monitoring.
	Namespace string
	// Templates holds the manifests that Jobs are made from.
	Templates *Templates
	// Image is the image that runs the operations.
	Image string
	// ServiceAccount is the service account of the pods.
	ServiceAccount string
	// PollInterval is how often Follow looks at its Job. The default is 2s.
	PollInterval time.Duration
	// Logger takes what is done. The default discards it.
	Logger *slog.Logger
}

// Runner makes Jobs and follows them. It is safe for concurrent use, and keeps no state of its own.
type Runner struct {
	client    kubernetes.Interface
	templates *Templates
	options   RenderOptions
	interval  time.Duration
	logger    *slog.Logger
}

// NewRunner returns a Runner.
func NewRunner(o RunnerOptions) *Runner {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.PollInterval <= 0 {
		o.PollInterval = defaultPollInterval
	}
	return &Runner{
		client:    o.Client,
		templates: o.Templates,
		options: RenderOptions{
			Namespace:      cmp.Or(o.Namespace, DefaultNamespace),
			Image:          o.Image,
			ServiceAccount: o.ServiceAccount,
		},
		interval: o.PollInterval,
		logger:   o.Logger.With("component", "jobs"),
	}
}

// Ensure creates the Job for the request, or resumes the one that an earlier call has created, and returns its name. The
// error wraps ErrNotOurs or ErrTerminating when the name is taken.
func (r *Runner) Ensure(ctx context.Context, req Request) (name string, created bool, err error) {
	job, err := r.templates.Render(req, r.options)
	if err != nil {
		return "", false, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	created, err = r.ensure(ctx, job)
	return job.Name, created, err
}

func (r *Runner) ensure(ctx context.Context, want *batchv1.Job) (created bool, err error) {
	client := r.client.BatchV1().Jobs(r.options.Namespace)
	logger := r.logger.With("job", want.Name, "node", want.Annotations[annotationNode], "ticket", want.Labels[labelIncident])
	_, err = client.Create(ctx, want, metav1.CreateOptions{FieldManager: fieldManager})
	if err == nil {
		logger.InfoContext(ctx, "job created")
		return true, nil
	}
	if !apierrors.IsAlreadyExists(err) {
		return false, fmt.Errorf("create job %q: %w", want.Name, err)
	}
	have, err := client.Get(ctx, want.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, fmt.Errorf("resume job %q: %w", want.Name, ErrTerminating)
	}
	if err != nil {
		return false, fmt.Errorf("resume job %q: %w", want.Name, err)
	}
	if err := resumable(have, want); err != nil {
		return false, fmt.Errorf("resume job %q: %w", want.Name, err)
	}
	logger.InfoContext(ctx, "job resumed")
	return false, nil
}

// resumable says whether the Job in the cluster stands for the wanted one.
func resumable(have, want *batchv1.Job) error {
	for _, key := range []string{labelAction, labelNode, labelIncident, labelAttempt} {
		if have.Labels[key] != want.Labels[key] {
			return fmt.Errorf("%w: label %s is %q, not %q", ErrNotOurs, key, have.Labels[key], want.Labels[key])
		}
	}
	// A finished Job has an outcome, which must be taken rather than the operation be repeated.
	if phase, _ := phaseOf(have); phase == PhaseActive && have.DeletionTimestamp != nil {
		return ErrTerminating
	}
	return nil
}

// Status reads what is known of the Job. A Job that does not exist is no error but PhaseMissing.
func (r *Runner) Status(ctx context.Context, name string) (Result, error) {
	res := Result{Job: name, ExitCode: unknownExitCode}
	job, err := r.client.BatchV1().Jobs(r.options.Namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		res.Phase, res.Message = PhaseMissing, "the Job is gone, its outcome is unknown"
		return res, nil
	}
	if err != nil {
		return res, fmt.Errorf("get job %q: %w", name, err)
	}
	return res, r.inspect(ctx, &res, job)
}

// inspect fills in what the Job and its pod say.
func (r *Runner) inspect(ctx context.Context, res *Result, job *batchv1.Job) error {
	pod, err := r.newestPod(ctx, job)
	if err != nil {
		return fmt.Errorf("list pods of job %q: %w", job.Name, err)
	}
	res.inspect(job, pod)
	return nil
}

// Stop deletes the Job with its pods, so that nothing of it takes effect any more. A Job that is gone or has finished is left as it is.
func (r *Runner) Stop(ctx context.Context, name string) error {
	_, err := r.remove(ctx, name, func(Result) bool { return true })
	return err
}

// Withdraw deletes the Job if its operation has not been started on the node, and reports whether it did. What is under way is not
// interrupted: that could leave the node in the middle of it.
func (r *Runner) Withdraw(ctx context.Context, name string) (withdrawn bool, err error) {
	return r.remove(ctx, name, func(res Result) bool { return !res.Begun })
}

// remove deletes the Job if it is unfinished and may go. One that changes in between, as the Job controller makes its pod, is looked at again.
func (r *Runner) remove(ctx context.Context, name string, may func(Result) bool) (removed bool, err error) {
	err = retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		removed, err = r.removeAsSeen(ctx, name, may)
		return err
	})
	return removed, err
}

// removeAsSeen deletes the Job, as it was looked at, if it is unfinished and may go.
func (r *Runner) removeAsSeen(ctx context.Context, name string, may func(Result) bool) (removed bool, err error) {
	client := r.client.BatchV1().Jobs(r.options.Namespace)
	job, err := client.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("get job %q: %w", name, err)
	}
	res := Result{Job: name, ExitCode: unknownExitCode}
	if err := r.inspect(ctx, &res, job); err != nil {
		return false, err
	}
	if res.Phase != PhaseActive || !may(res) {
		return false, nil
	}
	err = client.Delete(ctx, name, metav1.DeleteOptions{
		// Without it the pods of the Job would stay and go on.
		PropagationPolicy: new(metav1.DeletePropagationBackground),
		Preconditions:     &metav1.Preconditions{UID: &job.UID, ResourceVersion: &job.ResourceVersion},
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return false, fmt.Errorf("delete job %q: %w", name, err)
	}
	r.logger.InfoContext(ctx, "job deleted", "job", name, "reason", res.Message)
	return true, nil
}

func (r *Runner) newestPod(ctx context.Context, job *batchv1.Job) (*corev1.Pod, error) {
	selector := labels.SelectorFromSet(labels.Set{batchv1.JobNameLabel: job.Name})
	list, err := r.client.CoreV1().Pods(r.options.Namespace).List(ctx, metav1.ListOptions{LabelSelector: selector.String()})
	if err != nil {
		return nil, err
	}
	// A deleted Job of the same name may have left a pod behind, and anybody may have given a pod the label.
	pods := slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return !isPodOf(job, &p) })
	if len(pods) == 0 {
		return nil, nil
	}
	newest := slices.MaxFunc(pods, func(a, b corev1.Pod) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	return &newest, nil
}

// isPodOf reports whether the pod is the one that the Job controls, for the same operation on the same node and the same boot of it.
func isPodOf(job *batchv1.Job, pod *corev1.Pod) bool {
	owner := metav1.GetControllerOfNoCopy(pod)
	if owner == nil || owner.UID != job.UID || pod.Spec.NodeName != job.Spec.Template.Spec.NodeName {
		return false
	}
	for _, key := range []string{labelAction, labelNode, labelIncident, labelAttempt} {
		if pod.Labels[key] != job.Spec.Template.Labels[key] {
			return false
		}
	}
	return bootOf(&pod.Spec) == bootOf(&job.Spec.Template.Spec)
}

// bootOf returns the boot that the operation of the pod is for, empty for any.
func bootOf(pod *corev1.PodSpec) string {
	for _, c := range pod.Containers {
		if i := slices.Index(c.Args, "--boot-id"); c.Name == containerName && i >= 0 && i+1 < len(c.Args) {
			return c.Args[i+1]
		}
	}
	return ""
}

// Follow waits until the Job has finished or is gone. Errors of the API server are retried. When ctx ends, the error wraps that
// of ctx and the last one of the API server; the result is then the last that was seen. A Job may never finish: one that is
// suspended has no deadline. So look is called at each look at an unfinished one, and with what was seen last of one that cannot be read, and
// its error ends Follow.
func (r *Runner) Follow(ctx context.Context, name string, look func(Result) error) (Result, error) {
	f := follower{
		runner: r,
		look:   look,
		logger: r.logger.With("job", name),
		result: Result{Job: name, ExitCode: unknownExitCode},
	}
	f.rest()
	err := ctx.Err()
	// The loop below would call step once even so.
	if err == nil {
		err = wait.DelayFunc(f.delay).Until(ctx, true, true, f.step)
	}
	switch {
	case err == nil, f.enough != nil:
		return f.result, f.enough
	case f.last != nil:
		return f.result, fmt.Errorf("follow job %q: %w, last error: %w", name, ctx.Err(), f.last)
	default:
		return f.result, fmt.Errorf("follow job %q: %w", name, err)
	}
}

// follower is one Follow.
type follower struct {
	runner *Runner
	logger *slog.Logger
	result Result
	// look is called while the Job is unfinished, enough is the error with which it ended that.
	look   func(Result) error
	enough error
	// last is the error of the last step, nil when it went well.
	last    error
	backoff wait.Backoff
}

// step looks at the Job and says whether it has finished.
func (f *follower) step(ctx context.Context) (bool, error) {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	res, err := f.runner.Status(call, f.result.Job)
	switch {
	case err == nil:
		f.last = nil
	case ctx.Err() != nil:
		// Not the API server's fault; what it said before is worth more.
		return false, ctx.Err()
	default:
		f.last = err
		f.logger.WarnContext(ctx, "job not reached, trying again", "err", err)
		unread := f.result
		unread.Message = fmt.Sprintf("the Job cannot be read: %v", err)
		f.enough = f.look(unread)
		return false, f.enough
	}
	if res.Phase == PhaseActive && res.Message != f.result.Message {
		f.logger.InfoContext(ctx, "job waiting", "reason", res.Message)
	}
	f.result = res
	if res.Phase != PhaseActive {
		return true, nil
	}
	f.enough = f.look(res)
	return false, f.enough
}

// delay is the time until the next step: longer from error to error.
func (f *follower) delay() time.Duration {
	if f.last == nil {
		f.rest()
		return f.runner.interval
	}
	return f.backoff.Step()
}

// rest makes the next error wait no longer than a look that went well.
func (f *follower) rest() {
	f.backoff = wait.Backoff{Duration: f.runner.interval, Factor: 2, Jitter: 0.1, Steps: 10, Cap: maxRetryDelay}
}

// Permanent reports whether making the same Job will fail again, until a person changes something.
func Permanent(err error) bool {
	return errors.Is(err, ErrNotOurs) || errors.Is(err, ErrInvalid) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) ||
		apierrors.IsForbidden(err) || apierrors.IsNotFound(err) || apierrors.IsRequestEntityTooLargeError(err)
}
