package cmd

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"k8s.io/utils/clock"

	"aegis.io/aegis/election"
)

// errStalled ends the term of a leader that does not decide on what is due.
var errStalled = errors.New("no decision for too long")

// duty knows whether the leader does what it is there for: to decide on the nodes that are due.
type duty struct {
	clock clock.WithTicker
	// most is how long a node may be due until somebody else is to lead.
	most time.Duration
	// oldest returns since when the node has been due that nobody decides on for longest, busy since when the dispatcher has not asked
	// for one.
	oldest, busy func() (since time.Time, found bool)

	// began is when the term began, nil while this replica does not lead. decides is true once its decisions have begun.
	began   atomic.Pointer[time.Time]
	decides atomic.Bool
	// lost and failed count the terms that have ended. Nil counts none.
	lost, failed prometheus.Counter
}

// register registers the metrics.
func (d *duty) register(reg prometheus.Registerer) {
	factory := promauto.With(reg)
	factory.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "aegis_queue_oldest_due_seconds",
		Help: "For how long the oldest decision of the leader has been due: on a node that nobody has taken from the queue, in a visit that " +
			"does not end, or since the term began. 0 on a replica that does not lead.",
	}, func() float64 { return d.overdue().Seconds() })
	ended := factory.NewCounterVec(prometheus.CounterOpts{
		Name: "aegis_terms_ended_total",
		Help: "Terms as leader that ended while the process went on: lost, because the Lease was, or failed, because the leader could not go on.",
	}, []string{"reason"})
	d.lost, d.failed = ended.WithLabelValues("lost"), ended.WithLabelValues("failed")
}

// ended counts a term.
func (d *duty) ended(why error) {
	switch {
	case d.lost == nil:
	case errors.Is(why, election.ErrLost):
		d.lost.Inc()
	default:
		d.failed.Inc()
	}
}

// begin notes that a term begins; the returned function that it has ended.
func (d *duty) begin() (end func()) {
	d.decides.Store(false)
	d.began.Store(new(d.clock.Now()))
	return func() { d.began.Store(nil) }
}

// overdue returns for how long a decision has been due. What was due before the term counts from its beginning on, as does the time until
// it decides at all.
func (d *duty) overdue() time.Duration {
	began := d.began.Load()
	if began == nil {
		return 0
	}
	now := d.clock.Now()
	since := now
	if !d.decides.Load() {
		since = *began
	}
	for _, ask := range []func() (time.Time, bool){d.oldest, d.busy} {
		if at, found := ask(); found && at.Before(since) {
			since = at
		}
	}
	if since.Before(*began) {
		since = *began
	}
	return max(0, now.Sub(since))
}

// neglected says what is wrong when the leader has not decided for too long, empty otherwise.
func (d *duty) neglected() string {
	if age := d.overdue(); age > d.most {
		return fmt.Sprintf("a decision has been due for %s, and at most %s are allowed", age.Round(time.Second), d.most)
	}
	return ""
}

// watch looks on until the leader has not decided for too long. No answer is as bad: then a lock is never given back.
func (d *duty) watch(ctx context.Context) error {
	every := min(max(d.most/10, time.Second), 10*time.Second)
	ticker := d.clock.NewTicker(every)
	defer ticker.Stop()
	answers := make(chan string)
	asked, open := d.clock.Now(), false
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case text := <-answers:
			if open = false; text != "" {
				return fmt.Errorf("%w: %s", errStalled, text)
			}
		case <-ticker.C():
			if open && d.clock.Since(asked) > d.most {
				return fmt.Errorf("%w: the queue has not answered for %s", errStalled, d.clock.Since(asked).Round(time.Second))
			}
			if open {
				continue
			}
			asked, open = d.clock.Now(), true
			go func() {
				text := d.neglected()
				select {
				case answers <- text:
				case <-ctx.Done():
				}
			}()
		}
	}
}
