package election

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/types"
)

// errEnded is why a term is over whose work returned without a reason.
var errEnded = errors.New("the work of the leader has ended by itself")

// term is one time of standing for leader and leading.
type term struct {
	work   func(ctx context.Context, end context.CancelCauseFunc) error
	ctx    context.Context //nolint:containedctx // It is what the term is.
	end    context.CancelCauseFunc
	resign func()
	saw    func(lease *coordinationv1.Lease)
	logger *slog.Logger

	// ended is closed when no work runs, and none will begin. Then why is set.
	ended chan struct{}
	why   error

	mu     sync.Mutex
	begun  bool
	closed bool
	// lease is the UID of the Lease that is held. Lost is true once it is held no more.
	lease types.UID
	leads bool
	lost  error
}

// run does the work, and has the process resign when it has ended.
func (t *term) run() {
	if !t.begin() {
		return
	}
	t.logger.InfoContext(t.ctx, "leading")
	err := t.guarded()
	// What ended the work first is why.
	t.end(err)
	t.why = context.Cause(t.ctx)
	close(t.ended)
	t.resign()
}

func (t *term) begin() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.begun || t.closed {
		return false
	}
	t.begun = true
	return true
}

// guarded does the work. One that panics has ended as well.
func (t *term) guarded() (err error) {
	defer func() {
		if p := recover(); p != nil {
			t.logger.ErrorContext(t.ctx, "leader panicked", "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	if err := t.work(t.ctx, t.end); err != nil {
		return err
	}
	return errEnded
}

// close makes sure that no work begins any more. Work that has begun goes on.
func (t *term) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.begun || t.closed {
		return
	}
	t.closed = true
	t.end(ErrLost)
	t.why = context.Cause(t.ctx)
	close(t.ended)
	t.resign()
}

// abandon has the Lease run out.
func (t *term) abandon() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.loses("this process does not renew it any more") //nolint:errcheck // It is not asked for why.
}

// loses notes that the Lease is not held any more, and ends the term. The first reason stays.
func (t *term) loses(reason string) error {
	if t.lost == nil {
		t.lost = fmt.Errorf("%w: %s", ErrLost, reason)
		t.end(t.lost)
		t.resign()
	}
	return t.lost
}
