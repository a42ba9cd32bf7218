// Package election has one of several processes lead, in terms: a process stands for leader, works while it leads, and resigns when its
// work ends for whatever reason. Nobody holds the Lease without working.
package election

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/utils/clock"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

var (
	// ErrLost is the cause of the context of work that ends because another process may lead.
	ErrLost = errors.New("the Lease is lost")
	// ErrStuck says that work did not end when its term did. The process has to end: it can neither lead again nor know what that work
	// may still do.
	ErrStuck = errors.New("the work of the leader does not end")
)

// stopWithin bounds how long the work of a term that is over may take to end.
const stopWithin = 20 * time.Second

// Options say for what a process stands, and what it does when it leads.
type Options struct {
	// Client reads and writes the Lease. Nil means that there is no election: the process leads at once.
	Client coordinationclient.LeasesGetter
	// Namespace and Name are those of the Lease, Identity is who this process is.
	Namespace, Name, Identity string
	// The times are those of client-go.
	LeaseDuration, RenewDeadline, RetryPeriod time.Duration
	// Work is what the leader does. Its context ends with the term, which it may end itself by calling end. When it returns, for whatever
	// reason, the process resigns.
	Work func(ctx context.Context, end context.CancelCauseFunc) error
	// Saw hears of the Lease as it was read or written, also while this process stands by. Nil means that nobody does.
	Saw func(lease *coordinationv1.Lease)
	// Ended hears why a term has ended of which another one follows. Nil means that nobody does.
	Ended func(why error)
	// Logger hears of each term. Nil discards.
	Logger *slog.Logger
	// Clock measures terms and the time between them. Nil means the wall clock. The election itself reads the wall clock.
	Clock clock.WithTicker
}

// Candidate stands for leader.
type Candidate struct {
	options Options
	logger  *slog.Logger
	clock   clock.WithTicker
	pauses  pauses
}

// New returns a candidate that does not stand yet.
func New(o Options) *Candidate {
	return &Candidate{
		options: o,
		logger:  cmp.Or(o.Logger, slog.New(slog.DiscardHandler)).With("component", "election", "identity", o.Identity),
		clock:   cmp.Or[clock.WithTicker](o.Clock, clock.RealClock{}),
		pauses:  pauses{retry: o.RetryPeriod},
	}
}

// Run stands for leader again and again until the context ends. A term that is over ends the work, not the process: an API server that is
// away for minutes must not turn into a crash loop. Only work that does not end is an error.
func (c *Candidate) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		began := c.clock.Now()
		why, err := c.stand(ctx)
		if err != nil || ctx.Err() != nil {
			return err
		}
		pause := c.pauses.after(why, c.clock.Since(began))
		if c.options.Ended != nil {
			c.options.Ended(why)
		}
		c.logger.WarnContext(ctx, "no longer leading, standing again later", "after", pause, "err", why)
		timer := c.clock.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-timer.C():
		}
		timer.Stop()
	}
	return nil
}

// stand waits for the Lease and leads for one term, and returns why that is over. When the context ends, a leader gives the Lease up only
// after its work has ended, so that the next one does not begin while it writes.
func (c *Candidate) stand(ctx context.Context) (why, err error) {
	work, end := context.WithCancelCause(ctx)
	defer end(nil)
	// The elector logs through the context. Without a logger there it writes lines of its own form to standard error.
	election, resign := context.WithCancel(logr.NewContextWithSlogLogger(context.WithoutCancel(ctx), c.logger))
	defer resign()
	t := &term{work: c.options.Work, ctx: work, end: end, resign: resign, saw: c.options.Saw, logger: c.logger, ended: make(chan struct{})}
	defer context.AfterFunc(ctx, t.close)()
	lead, err := c.leader(t)
	if err != nil {
		return nil, fmt.Errorf("leader election: %w", err)
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		lead(election)
		t.close()
		<-t.ended
	}()
	select {
	case <-over:
		return t.why, nil
	case <-c.expired(ctx, t):
		// The Lease is not given up, and runs out: this process has that long to end, before another one begins.
		t.abandon()
		return nil, fmt.Errorf("%w within %s: %w", ErrStuck, stopWithin, context.Cause(work))
	}
}

// leader returns what leads for the term, until it is to resign or has lost the Lease.
func (c *Candidate) leader(t *term) (lead func(context.Context), err error) {
	if c.options.Client == nil {
		return func(context.Context) { t.run() }, nil
	}
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: c.options.Namespace, Name: c.options.Name},
			Client:     guarded{c.options.Client, t, c.options.Identity},
			LockConfig: resourcelock.ResourceLockConfig{Identity: c.options.Identity},
		},
		LeaseDuration:   c.options.LeaseDuration,
		RenewDeadline:   c.options.RenewDeadline,
		RetryPeriod:     c.options.RetryPeriod,
		ReleaseOnCancel: true,
		Name:            c.options.Name,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) { t.run() },
			OnStoppedLeading: func() { t.end(ErrLost) },
		},
	})
	if err != nil {
		return nil, err
	}
	return elector.Run, nil
}

// expired returns what is closed when the work of the term has not ended in time. A process that is stopping has its own bound.
func (c *Candidate) expired(ctx context.Context, t *term) <-chan struct{} {
	expired := make(chan struct{})
	go func() {
		select {
		case <-t.ended:
			return
		case <-t.ctx.Done():
		}
		timer := c.clock.NewTimer(stopWithin)
		defer timer.Stop()
		select {
		case <-t.ended:
		case <-ctx.Done():
		case <-timer.C():
			close(expired)
		}
	}()
	return expired
}

// pauses tell how long a process waits between two terms.
type pauses struct {
	retry  time.Duration
	failed int // Terms in a row that ended by a fault of their own.
}

const (
	// pauseFactor times the retry period is the first pause: by then every other replica has tried to get the Lease, since client-go
	// waits up to 2.2 periods between two tries.
	pauseFactor = 3
	// longestPause bounds the pause of a process that fails again and again, and that may be the only one.
	longestPause = 2 * time.Minute
	// goodTerm is how long a term lasts after which an earlier failure says nothing about the next one.
	goodTerm = 10 * time.Minute
)

// after returns how long to wait after a term that ended so. Whoever has lost the Lease need not make room for others.
func (p *pauses) after(why error, lasted time.Duration) time.Duration {
	if errors.Is(why, ErrLost) {
		return p.retry
	}
	if lasted >= goodTerm {
		p.failed = 0
	}
	pause := pauseFactor * p.retry
	for range p.failed {
		pause = min(2*pause, longestPause)
	}
	p.failed++
	return pause
}
