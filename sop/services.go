package sop

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"

	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// Source answers whether a condition still holds and may be acted on.
type Source interface {
	// Observe asks now: the answer is never older than the question.
	Observe(ctx context.Context, key prom.Key) prom.Finding
	// Last returns the last answer, which may be of any age.
	Last(key prom.Key) prom.Finding
}

// JobRunner runs privileged operations on nodes.
type JobRunner interface {
	Ensure(ctx context.Context, r jobs.Request) (name string, created bool, err error)
	Status(ctx context.Context, name string) (jobs.Result, error)
	// Follow calls look at each look at a Job that is unfinished, or cannot be read. Its error ends Follow.
	Follow(ctx context.Context, name string, look func(jobs.Result) error) (jobs.Result, error)
	// Stop deletes an unfinished Job.
	Stop(ctx context.Context, name string) error
	// Withdraw deletes a Job whose operation has not been started.
	Withdraw(ctx context.Context, name string) (withdrawn bool, err error)
}

// Conditions lists the conditions that hold on a node now, the most urgent first.
type Conditions interface {
	Statuses(node string) []prom.AegisNodeStatus
}

// Timing holds the intervals of the steps.
type Timing struct {
	// Poll is how often a running step looks whether it is done.
	Poll time.Duration
	// Hold is how often a procedure that waits for a permission asks again.
	Hold time.Duration
	// LeaseStale is the age from which the Lease of a node no longer shows that its kubelet lives.
	LeaseStale time.Duration
}

// DefaultTiming returns the intervals for a cluster of real machines.
func DefaultTiming() Timing {
	return Timing{Poll: 2 * time.Second, Hold: 10 * time.Second, LeaseStale: time.Minute}
}

// Services is what the steps work with. All fields but the logger and the clock are needed.
type Services struct {
	Kube    kubernetes.Interface
	Nodes   corelisters.NodeLister
	Tickets *ticket.Store
	Jobs    JobRunner
	// JobsNamespace is where the pods of the operations run. Empty is that of the runner's default.
	JobsNamespace string
	Source        Source
	Conditions    Conditions
	Recorder      record.EventRecorder
	Orders        *OrderStore
	Verdicts      *VerdictCache
	Settings      func() policy.Settings
	Timing        Timing
	Metrics       *Metrics
	// Logger takes what is done. Nil discards.
	Logger *slog.Logger
	// Clock tells the time and waits. Nil means the wall clock.
	Clock clock.WithTicker
}

// environment is what the procedures of one dispatcher work with: what its caller gave, and what it made of that.
type environment struct {
	Services
	catalogue Catalogue
	table     Procedures
	isolation *cordonPriority
	census    *census
	// wrote is told of each node as a write of its ticket has left it.
	wrote  func(*corev1.Node)
	storms *stormWatch
	limits *limits
}

// jobsNamespace returns where the pods of the operations run.
func (s Services) jobsNamespace() string { return cmp.Or(s.JobsNamespace, jobs.DefaultNamespace) }

// profile returns the healthcheck profile of the node.
func (s Services) profile(node string) string {
	object, err := s.Nodes.Get(node)
	if err != nil {
		return policy.DefaultPool().Profile
	}
	return s.Settings().PoolOf(object).Profile
}

// statuses returns what holds on the node, the most urgent first, each with the mode that people have ordered.
func (s Services) statuses(node string) []prom.AegisNodeStatus {
	return s.Orders.Last().ApplyAll(s.Conditions.Statuses(node))
}
