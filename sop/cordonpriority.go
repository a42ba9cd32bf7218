package sop

import (
	"context"
	"sync"
	"time"

	"k8s.io/utils/clock"
)

// cordonPriorityWait bounds how long a write gives way, so that an API server that is slow for all starves nobody.
const cordonPriorityWait = 2 * time.Second

// cordonPriority lets writes that isolate nodes go before all others. When hundreds of nodes fall ill at once, keeping new work off
// the last of them matters more than the next step on the first.
type cordonPriority struct {
	clock   clock.Clock
	mu      sync.Mutex
	pending int
	// none is closed while nothing is pending.
	none chan struct{}
}

func newCordonPriority(c clock.Clock) *cordonPriority {
	p := &cordonPriority{clock: c, none: make(chan struct{})}
	close(p.none)
	return p
}

// enter announces an isolation; the returned function says that it is done, and may be called more than once.
func (p *cordonPriority) enter() (done func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pending++; p.pending == 1 {
		p.none = make(chan struct{})
	}
	return sync.OnceFunc(p.leave)
}

func (p *cordonPriority) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pending--; p.pending == 0 {
		close(p.none)
	}
}

// giveWay waits until no isolation is pending, for a while at most.
func (p *cordonPriority) giveWay(ctx context.Context) {
	p.mu.Lock()
	none := p.none
	p.mu.Unlock()
	timer := p.clock.NewTimer(cordonPriorityWait)
	defer timer.Stop()
	select {
	case <-none:
	case <-timer.C():
	case <-ctx.Done():
	}
}
