package cmd

import (
	"context"
	"fmt"
	"os"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"aegis.io/aegis/sop"
)

// lead stands for leader again and again until the context ends. A lost lease ends the work, not the process: an API
// server that is away for minutes must not turn into a crash loop.
func (a *app) lead(ctx context.Context) error {
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("leader election: %w", err)
	}
	a.identity = host + "_" + string(uuid.NewUUID())
	for ctx.Err() == nil {
		if err := a.elect(ctx); err != nil {
			return fmt.Errorf("leader election: %w", err)
		}
	}
	return nil
}

// elect waits for the lease and leads for one term. When the context ends, a leader gives the lease up only after its
// procedures have stopped, so that the next one does not begin while they write.
func (a *app) elect(ctx context.Context) error {
	election, resign := context.WithCancel(context.WithoutCancel(ctx))
	defer resign()
	term, end := context.WithCancelCause(ctx)
	defer end(nil)
	// termLock is held during the term; over says that none begins any more.
	var termLock sync.Mutex
	over := false
	release := context.AfterFunc(ctx, func() {
		termLock.Lock()
		defer termLock.Unlock()
		over = true
		resign()
	})
	defer release()

	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: a.cfg.LeaderElection.Namespace, Name: a.cfg.LeaderElection.Name},
			Client:     a.clients.election.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: a.identity},
		},
		LeaseDuration:   a.cfg.LeaderElection.LeaseDuration,
		RenewDeadline:   a.cfg.LeaderElection.RenewDeadline,
		RetryPeriod:     a.cfg.LeaderElection.RetryPeriod,
		ReleaseOnCancel: true,
		Name:            a.cfg.LeaderElection.Name,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) {
				termLock.Lock()
				defer termLock.Unlock()
				if !over {
					a.logger.InfoContext(term, "leading", "identity", a.identity)
					a.term(term)
				}
			},
			OnStoppedLeading: func() { end(sop.ErrLeaseLost) },
		},
	})
	if err != nil {
		return err
	}
	elector.Run(election)
	termLock.Lock()
	defer termLock.Unlock()
	over = true
	return nil
}
