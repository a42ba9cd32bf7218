package sop_test

import (
	"context"
	"flag"
	"fmt"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// soak simulates schedules of ever new seeds.
type soak struct {
	mu    sync.Mutex
	began time.Time
	// next is the seed of the next schedule, done how many have ended, hours how much virtual time they took.
	first, next uint64
	done        int
	virtual     time.Duration
	failed      []uint64
}

// simulateOn simulates schedules of ever new seeds, on all cores, until the first interrupt. What fails is told at once and again in the
// end.
func simulateOn(t *testing.T) {
	t.Helper()
	ctx, stop := signal.NotifyContext(t.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	s := &soak{began: time.Now(), first: soakFirst(time.Now())}
	s.next = s.first
	go s.report(ctx)
	// The group ends when all of its workers have.
	t.Run("soak", func(t *testing.T) {
		for i := range runtime.GOMAXPROCS(0) {
			t.Run(fmt.Sprint("worker ", i), func(t *testing.T) {
				t.Parallel()
				for ctx.Err() == nil {
					s.one(t)
				}
			})
		}
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Println(s.summary())
	if len(s.failed) > 0 {
		t.Fail()
	}
}

// soakFirst returns the seed to begin with: the one that was asked for, or else one that no earlier soak had.
func soakFirst(now time.Time) uint64 {
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "sim.first" })
	if asked {
		return *simFirst
	}
	return uint64(now.Unix()) * 1000
}

// one simulates the next schedule.
func (s *soak) one(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	seed := s.next
	s.next++
	s.mu.Unlock()
	violations, _, lasted := simulated(t, seed, false)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done++
	s.virtual += lasted
	if len(violations) > 0 {
		s.failed = append(s.failed, seed)
		fmt.Printf("seed %d failed:\n%s\n", seed, strings.Join(violations, "\n"))
	}
}

// report tells once a minute how far it is.
func (s *soak) report(ctx context.Context) {
	for tick := time.NewTicker(time.Minute); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C:
			s.mu.Lock()
			fmt.Println(s.summary())
			s.mu.Unlock()
		}
	}
}

func (s *soak) summary() string {
	text := fmt.Sprintf("%s: %d schedules from seed %d on, %.0f virtual hours, %d failed",
		time.Since(s.began).Truncate(time.Second), s.done, s.first, s.virtual.Hours(), len(s.failed))
	for _, seed := range s.failed {
		text += fmt.Sprintf("\n  go test ./sop -run 'TestSimulation$' -v -sim.seed=%d", seed)
	}
	return text
}
