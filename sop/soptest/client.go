package soptest

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// Verb is what a call does.
type Verb string

// The verbs of the calls. VerbObserve is a question to the sources.
const (
	VerbGet     Verb = "get"
	VerbList    Verb = "list"
	VerbCreate  Verb = "create"
	VerbUpdate  Verb = "update"
	VerbPatch   Verb = "patch"
	VerbDelete  Verb = "delete"
	VerbEvict   Verb = "evict"
	VerbObserve Verb = "observe"
)

// Call is one call of a client.
type Call struct {
	Verb Verb
	// Resource is what it is about, such as nodes.
	Resource string
	// Name is that of the node that it concerns, or else of the object.
	Name string
	// Patch is the kind of a patch.
	Patch types.PatchType
}

// Errors of calls that fail on their way.
var (
	// ErrDead is the error of a process that has died.
	ErrDead = errors.New("the process is dead")
	// ErrLost is the error of a call whose answer was lost.
	ErrLost = errors.New("connection reset by peer")
	// ErrOutage is the error of a call that nobody answers.
	ErrOutage = errors.New("connection refused")
)

// Client is the cluster as one process reaches it: a Kubernetes client with the calls that the product makes, and what the process
// gets of sources and Jobs. A call that the product does not make panics. Its fields are guarded by the cluster's lock.
type Client struct {
	kubernetes.Interface
	// ID counts the clients of a cluster from 1.
	ID int
	// Dead clients reach the API server no more.
	Dead bool
	// Writes counts the calls that change something.
	Writes int
	// CrashAt is the number of the write at which the process dies, 0 for none, Landed whether the API server still takes that one.
	CrashAt int
	Landed  bool
	// Died is called when it dies at a write.
	Died func()
	// Before is called before a call takes effect, without the lock. Its error keeps the call from taking effect.
	Before func(call Call) error

	cluster *Cluster
	cache   *Cache
	// thaw is closed when a process that is frozen goes on; nil while it is not.
	thaw   chan struct{}
	meters map[string]*meter
	calls  []Call
	// failed is when a call about a node was last not answered.
	failed map[string]time.Time
}

// NewClient returns a client of one more process.
func (c *Cluster) NewClient() *Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Join()
}

// Join is NewClient for who holds the lock.
func (c *Cluster) Join() *Client {
	c.held()
	client := &Client{ID: len(c.Clients) + 1, cluster: c, meters: make(map[string]*meter), failed: make(map[string]time.Time)}
	c.Clients = append(c.Clients, client)
	return client
}

// Cluster returns the cluster that the client reaches.
func (c *Client) Cluster() *Cluster { return c.cluster }

// Calls returns the calls that took effect, in their order.
func (c *Client) Calls() []Call {
	c.cluster.mu.Lock()
	defer c.cluster.mu.Unlock()
	return slices.Clone(c.calls)
}

// Die ends the process at once, in the middle of whatever it does.
func (c *Client) Die() {
	c.Dead = true
	c.Thaw()
	if c.Died != nil {
		c.Died()
	}
}

// Idle returns for how much of the time since then the process had no call about the node under way, nor one about the Lease of
// the election, and was not frozen: what happens during a call, it cannot know before the answer.
func (c *Client) Idle(node string, since time.Time) time.Duration {
	return time.Since(since) - c.meter(node).spent(since) - c.meter(c.cluster.options.Election).spent(since) - c.meter(frozen).spent(since)
}

// Told returns for how much of the time since then the process could have known what a list of alerts had told it, which it believes once
// all sources have answered.
func (c *Client) Told(node string, since time.Time) time.Duration {
	return c.Idle(node, since) - c.meter(listing).spent(since)
}

// Failed returns when a call about the node was last not answered, zero if each was.
func (c *Client) Failed(node string) time.Time { return c.failed[node] }

// call makes one call to the API server, and notes one that is not answered. apply learns when it was sent.
func (c *Client) call(ctx context.Context, call Call, apply func(sent time.Time) error) error {
	err := c.send(ctx, call, apply)
	if errors.Is(err, ErrLost) || errors.Is(err, ErrOutage) || apierrors.IsInternalError(err) {
		c.cluster.Do(func() { c.failed[call.Name] = time.Now() })
	}
	return err
}

// send makes a call, with all that can happen to it on its way.
func (c *Client) send(ctx context.Context, call Call, apply func(sent time.Time) error) error {
	w := c.cluster
	w.mu.Lock()
	meter := c.meter(call.Name)
	meter.enter()
	kind, sent := string(call.Verb)+" "+call.Name, time.Now()
	delay := w.span(kind, w.options.Pace.Call)
	if w.Chance("slow "+kind) < w.Weather.Slow {
		delay += w.Between("slow by "+kind, time.Second, 8*time.Second)
	}
	refused, lost := w.Chance("fail "+kind) < w.Weather.Failing, w.Chance("lose "+kind) < w.Weather.Losing
	w.mu.Unlock()
	c.awake()
	defer c.awake() // An answer is not seen before.
	ended := c.travel(ctx, delay)
	if ended == nil && c.Before != nil {
		ended = c.Before(call)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	defer meter.leave()
	switch {
	case c.Dead:
		return ErrDead
	case w.Weather.Outage:
		return ErrOutage
	case ended != nil && !lost:
		return ended
	case refused:
		return apierrors.NewInternalError(errors.New("etcdserver: leader changed"))
	}
	if c.dies(call) && !c.Landed {
		return ErrDead
	}
	err := apply(sent)
	c.calls = append(c.calls, call)
	c.Happened(call)
	if ended != nil || lost || c.Dead {
		w.Logf("p%d %s: answer lost", c.ID, kind)
		return cmp.Or(ended, ErrLost)
	}
	return err
}

// Freeze stops the process for a while in the middle of whatever it does, as SIGSTOP does: it sends nothing, sees no answer, and its cache
// stands still.
func (c *Client) Freeze(lasts time.Duration) {
	c.cluster.held()
	if c.thaw != nil || c.Dead {
		return
	}
	c.cluster.Logf("p%d is frozen for %s", c.ID, lasts)
	thaw := make(chan struct{})
	c.thaw = thaw
	c.meter(frozen).enter()
	if c.cache != nil {
		c.cache.Break()
	}
	c.cluster.Later(lasts, func() { c.Thaw() })
}

// Thaw lets a frozen process go on.
func (c *Client) Thaw() {
	if c.thaw == nil {
		return
	}
	c.cluster.Logf("p%d goes on", c.ID)
	close(c.thaw)
	c.thaw = nil
	c.meter(frozen).leave()
	if c.cache != nil {
		c.cache.Mend()
	}
}

// Frozen reports whether the process is stopped.
func (c *Client) Frozen() bool { return c.thaw != nil }

// awake waits until the process is not frozen. Nothing that it waits for itself, such as a context, wakes it.
func (c *Client) awake() {
	c.cluster.mu.Lock()
	thaw := c.thaw
	c.cluster.mu.Unlock()
	if thaw != nil {
		<-thaw
	}
}

// travel lets the time of a call pass.
func (c *Client) travel(ctx context.Context, delay time.Duration) error {
	if delay == 0 {
		return ctx.Err()
	}
	return sleep(ctx, delay)
}

// Happened lets happen what waits for the call: after it was answered, and before the process can do anything about it.
func (c *Client) Happened(call Call) {
	if c.cluster.Observer.Called != nil {
		c.cluster.Observer.Called(c)
	}
	c.cluster.called(call)
}

// dies lets the process die at the write at which it is to.
func (c *Client) dies(call Call) bool {
	if call.Verb == VerbGet || call.Verb == VerbList {
		return false
	}
	if c.Writes++; c.Writes != c.CrashAt {
		return false
	}
	c.cluster.Logf("p%d dies at write %d, %s %s, landed %t", c.ID, c.Writes, call.Verb, call.Name, c.Landed)
	c.Die()
	return true
}

// Measure counts the time until the returned function is called as that of a call about the node. Both take the lock.
func (c *Client) Measure(node string) (answered func()) {
	c.cluster.mu.Lock()
	defer c.cluster.mu.Unlock()
	meter := c.meter(node)
	meter.enter()
	return func() { c.cluster.Do(meter.leave) }
}

const (
	// frozen is what the meter of a process that is stopped is called.
	frozen = "frozen"
	// listing is what the meter of the lists of alerts is called.
	listing = "listing"
)

// meter returns that of the calls about the node.
func (c *Client) meter(node string) *meter {
	if c.meters[node] == nil {
		c.meters[node] = &meter{}
	}
	return c.meters[node]
}

// meter adds up the time that the calls of a process about a node take.
type meter struct {
	open  int
	since time.Time
	spans []stretch
}

type stretch struct{ from, to time.Time }

func (m *meter) enter() {
	if m.open++; m.open == 1 {
		m.since = time.Now()
	}
}

func (m *meter) leave() {
	if m.open--; m.open == 0 {
		m.spans = append(m.spans, stretch{m.since, time.Now()})
	}
}

// spent returns how much of the time since then calls were under way.
func (m *meter) spent(since time.Time) time.Duration {
	total := time.Duration(0)
	if m.open > 0 {
		total = time.Since(latest(m.since, since))
	}
	for _, span := range slices.Backward(m.spans) {
		if !span.to.After(since) {
			break
		}
		total += span.to.Sub(latest(span.from, since))
	}
	return total
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// sleep waits and returns the cause when the context ends first.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
