package ticket

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"k8s.io/utils/clock"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
)

// Errors of the store.
var (
	// ErrConflict is returned when somebody else kept changing the same things in between.
	ErrConflict = errors.New("node is being changed by somebody else")
	// ErrNodeGone is returned when the node does not exist.
	ErrNodeGone = errors.New("node is gone")
	// ErrRecreated is returned when another node has the name now.
	ErrRecreated = errors.New("node was deleted and created again")
)

const (
	fieldManager = "aegis"
	maxConflicts = 5
	maxPause     = 30 * time.Second
)

// StoreOptions are the dependencies of a Store.
type StoreOptions struct {
	Client corev1client.NodesGetter
	Logger *slog.Logger // Nil discards.
	Clock  clock.Clock  // Waits between tries. Nil means the wall clock.
}

// Store reads and writes the records of nodes. It may be used concurrently.
type Store struct {
	client corev1client.NodesGetter
	logger *slog.Logger
	clock  clock.Clock
	reader *Reader
}

// NewStore returns a store that writes through the client.
func NewStore(o StoreOptions) *Store {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Store{
		client: o.Client, logger: o.Logger.With("component", "ticket"),
		clock: cmp.Or[clock.Clock](o.Clock, clock.RealClock{}), reader: NewReader(),
	}
}

// Named returns the store with the names of conditions that tickets and histories are read with.
func (s *Store) Named(names Names) *Store {
	named := *s
	named.reader = s.reader.Named(names)
	return &named
}

// Read returns the record of a node that is at hand, such as one from a cache.
func (s *Store) Read(n *corev1.Node) Record { return s.reader.Node(n) }

// Ticket returns the ticket of a node that is at hand, nil if there is none, and why it cannot be read.
func (s *Store) Ticket(n *corev1.Node) (*Ticket, error) { return s.reader.Ticket(n) }

// Parsed returns how many tickets and histories the store has parsed so far.
func (s *Store) Parsed() (tickets, histories uint64) { return s.reader.Parsed() }

// Get reads the record of a node from the API server, once.
func (s *Store) Get(ctx context.Context, node string) (Record, error) {
	n, err := s.client.Nodes().Get(ctx, node, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return Record{}, fmt.Errorf("get node %q: %w", node, ErrNodeGone)
	case err != nil:
		return Record{}, fmt.Errorf("get node %q: %w", node, err)
	}
	return s.Read(n), nil
}

// Update lets mutate decide on a change and writes it as one JSON patch, under the condition that nobody changed the
// ticket, or anything else that the change touches, since it was read. It returns the record after the write.
//
// The first record comes from base, which may be cached; nil asks the API server. Whatever goes wrong with a base, also
// an error of mutate and a change that the base shows as done already, is looked at again in a fresh record, so that
// a stale cache never has the last word. A change that conflicts with somebody else's is decided again on a fresh record,
// at most 5 times. Errors that may pass are retried until ctx ends; if a write's answer was lost, the fresh record tells
// whether the write had landed, and then it is not repeated and mutate is not called again.
//
// An empty change writes nothing. The errors are ErrConflict, ErrNodeGone, ErrRecreated, mutate's own as it is, and those
// of the API server.
func (s *Store) Update(ctx context.Context, node string, base *corev1.Node, mutate func(r Record, c *Change) error) (Record, error) {
	return s.UpdateTelling(ctx, node, base, func(error) {}, mutate)
}

// untakenFor is for how long an update may fail before its caller is told.
const untakenFor = time.Minute

// UpdateTelling is Update for a caller who is told why the API server does not take the change, once that takes long: it is tried on.
func (s *Store) UpdateTelling(
	ctx context.Context, node string, base *corev1.Node, untaken func(why error), mutate func(r Record, c *Change) error,
) (Record, error) {
	u := &update{
		untaken: untaken,
		nodes:   s.client.Nodes(),
		reader:  s.reader,
		clock:   s.clock,
		logger:  s.logger.With("node", node),
		name:    node,
		mutate:  mutate,
		backoff: wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 16, Cap: 5 * time.Second},
	}
	r, err := u.run(ctx, base)
	var own *mutateError
	switch {
	case errors.As(err, &own):
		return Record{}, own.err
	case err != nil:
		return Record{}, fmt.Errorf("update node %q: %w", node, err)
	}
	return r, nil
}

// update is one call of Update.
type update struct {
	nodes   corev1client.NodeInterface
	reader  *Reader
	clock   clock.Clock
	logger  *slog.Logger
	name    string
	mutate  func(r Record, c *Change) error
	untaken func(why error)
	backoff wait.Backoff

	since     time.Time // Of the first error that may pass.
	uid       types.UID // Of the first node that was seen.
	unknown   []*write  // Those that may have landed.
	rejected  *write    // The last one that the API server called invalid.
	conflicts int
}

// mutateError marks an error of the caller's function.
type mutateError struct{ err error }

func (e *mutateError) Error() string { return e.err.Error() }

// run goes around until the change is made. Only its first round may use a node that is not fresh.
func (u *update) run(ctx context.Context, base *corev1.Node) (Record, error) {
	if base != nil {
		u.uid = base.UID
		if r, done, err := u.round(ctx, base, false); done || err != nil {
			return r, err
		}
	}
	for {
		fresh, err := u.read(ctx)
		if err != nil {
			return Record{}, err
		}
		if u.landed(fresh) {
			return u.reader.Node(fresh), nil
		}
		if r, done, err := u.round(ctx, fresh, true); done || err != nil {
			return r, err
		}
	}
}

// round decides on one state of the node and writes. Not done and no error asks for a fresh state.
func (u *update) round(ctx context.Context, n *corev1.Node, fresh bool) (r Record, done bool, err error) {
	if ctx.Err() != nil {
		return Record{}, false, u.ended(ctx, nil)
	}
	r = u.reader.Node(n)
	w, err := u.decide(r)
	switch {
	case err != nil && !fresh:
		return Record{}, false, nil
	case err != nil:
		return Record{}, false, err
	case w == nil:
		return r, true, nil
	case w.idle():
		return r, fresh, nil
	}
	written, err := u.patch(ctx, w)
	if err == nil {
		return u.reader.Node(written), true, nil
	}
	return Record{}, false, u.judge(ctx, w, err)
}

// decide returns the write of the change that mutate asks for, nil if it asks for none.
func (u *update) decide(r Record) (*write, error) {
	var c Change
	if err := u.mutate(r, &c); err != nil {
		return nil, &mutateError{err}
	}
	if c.empty() {
		return nil, nil
	}
	return newWrite(r, &c, u.clock.Now())
}

func (u *update) patch(ctx context.Context, w *write) (*corev1.Node, error) {
	return u.nodes.Patch(ctx, u.name, types.JSONPatchType, w.body, metav1.PatchOptions{FieldManager: fieldManager})
}

// judge says what a failed write means. Nil asks for another round on a fresh state.
func (u *update) judge(ctx context.Context, w *write, err error) error {
	switch {
	case apierrors.IsNotFound(err):
		return ErrNodeGone
	case apierrors.IsInvalid(err) || apierrors.IsConflict(err):
		return u.conflict(w, err)
	case transient(err):
		u.unknown = append(u.unknown, w)
		return u.pause(ctx, err)
	}
	return err
}

// conflict counts a refused write. The API server gives the same answer to a failed precondition and to a content that
// it does not accept; the second of two refusals under preconditions that a fresh state met is the latter.
func (u *update) conflict(w *write, err error) error {
	if apierrors.IsInvalid(err) {
		if w.sameTests(u.rejected) {
			return err
		}
		u.rejected = w
	}
	if u.conflicts++; u.conflicts > maxConflicts {
		return fmt.Errorf("%w, %d times: %w", ErrConflict, u.conflicts, err)
	}
	// The client itself repeats a write that the API server told it to repeat, so this may be the refusal of a second
	// one. A ticket worded like this one then is this one.
	if w.texts {
		u.unknown = append(u.unknown, w)
	}
	return nil
}

// read returns a fresh state of the same node.
func (u *update) read(ctx context.Context) (*corev1.Node, error) {
	for {
		n, err := u.nodes.Get(ctx, u.name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return nil, ErrNodeGone
		case err != nil && !transient(err):
			return nil, err
		case err != nil:
			if err := u.pause(ctx, err); err != nil {
				return nil, err
			}
			continue
		}
		if u.uid == "" {
			u.uid = n.UID
		}
		if n.UID != u.uid {
			return nil, fmt.Errorf("%w: uid is %q, was %q", ErrRecreated, n.UID, u.uid)
		}
		return n, nil
	}
}

// landed reports whether the node is as an earlier write wanted it whose answer nobody saw.
func (u *update) landed(n *corev1.Node) bool {
	for _, w := range u.unknown {
		if w.holds(n) {
			return true
		}
	}
	return false
}

// pause waits before the next try after an error that may pass.
func (u *update) pause(ctx context.Context, cause error) error {
	if ctx.Err() != nil {
		return u.ended(ctx, cause)
	}
	if u.since.IsZero() {
		u.since = u.clock.Now()
	}
	if u.clock.Since(u.since) >= untakenFor {
		u.untaken(cause)
	}
	delay := u.backoff.Step()
	if seconds, ok := apierrors.SuggestsClientDelay(cause); ok {
		delay = max(delay, min(time.Duration(seconds)*time.Second, maxPause))
	}
	u.logger.Warn("no answer from the API server, trying again", "after", delay, "err", cause)
	timer := u.clock.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return u.ended(ctx, cause)
	case <-timer.C():
		return nil
	}
}

// ended returns why ctx ended, what kept the update from its end before, and whether it may have been made.
func (u *update) ended(ctx context.Context, last error) error {
	err := ctx.Err()
	if cause := context.Cause(ctx); !errors.Is(cause, err) {
		err = fmt.Errorf("%w: %w", err, cause)
	}
	if len(u.unknown) > 0 {
		err = fmt.Errorf("%w; the change may have been written", err)
	}
	if last != nil && !errors.Is(last, ctx.Err()) {
		err = fmt.Errorf("%w; last error: %w", err, last)
	}
	return err
}

// transient reports whether err may pass: too many requests, a failing server, or no answer at all.
func transient(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return true
	}
	code := status.Status().Code
	return code == http.StatusTooManyRequests || code >= http.StatusInternalServerError ||
		apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err)
}
