package sop

import (
	"context"
	"sync"
	"time"

	"k8s.io/utils/clock"
)

// precedenceWait bounds how long a write gives way, so that an API server that is slow for all starves nobody.
const precedenceWait = 2 * time.Second

// precedence lets writes that isolate nodes go before all others. When hundreds of nodes fall ill at once, keeping new work off
// the last of them matters more than the next step on the first.
type precedence struct {
	clock   clock.Clock
	mu      sync.Mutex
	pending int
	// none is closed while nothing is pending.
	none chan struct{}
}

func newPrecedence(c clock.Clock) *precedence {
	p := &precedence{clock: c, none: make(chan struct{})}
	close(p.none)
	return p
}

// enter announces an isolation; the returned function says that it is done, and may be called more than once.
func (p *precedence) enter() (done func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pending++; p.pending == 1 {
		p.none = make(chan struct{})
	}
	return sync.OnceFunc(p.leave)
}

func (p *precedence) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pending--; p.pending == 0 {
		close(p.none)
	}
}

// giveWay waits until no isolation is pending, for a while at most.
func (p *precedence) giveWay(ctx context.Context) {
	p.mu.Lock()
	none := p.none
	p.mu.Unlock()
	timer := p.clock.NewTimer(precedenceWait)
	defer timer.Stop()
	select {
	case <-none:
	case <-timer.C():
	case <-ctx.Done():
	}
}
