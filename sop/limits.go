package sop

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/utils/clock"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/ticket"

	"aegis.io/aegis/sop/policy"
)

// reservationGrace is how long a reservation outlives its procedure while the cache does not show yet what was done.
const reservationGrace = time.Minute

// limits bounds how many nodes of a pool and of the cluster are out of service, and how many destructive steps run in them. What others have
// taken out of service counts as well. The nodes and their tickets are the memory, so a restart forgets nothing; the
// reservations here only bridge the time until the cache shows a write. Where there is no place, nodes wait in a list, the most
// urgent first. It is safe for concurrent use.
type limits struct {
	clock   clock.PassiveClock
	census  *census
	metrics *Metrics
	hold    time.Duration
	// changed wakes who tends the waiting lists.
	changed chan struct{}

	mu sync.Mutex
	// reserved are the nodes that running procedures take out of service.
	reserved map[string]reservation
	// inFlight are the nodes on which this process runs a destructive step.
	inFlight map[string]ticket.Action
	waiting  *waitingLists
	// unheard are the nodes that may wait since before this term, and have not said so yet. They keep their places free until then, or
	// until the time settled.
	unheard map[limitOf]map[string]bool
	settled time.Time
}

// reservation is the place of one node in the budget.
type reservation struct {
	// released is when the procedure ended. Zero while it runs.
	released time.Time
	// cordoned is how the procedure left the node.
	cordoned bool
}

// newLimits returns limits over the nodes of the census. A node that waits for its turn is visited when it comes.
func newLimits(s Services, c *census, visit func(node string)) *limits {
	l := &limits{
		clock:    s.Clock,
		census:   c,
		metrics:  s.Metrics,
		hold:     s.Timing.Hold,
		changed:  make(chan struct{}, 1),
		reserved: make(map[string]reservation),
		inFlight: make(map[string]ticket.Action),
	}
	l.waiting = newWaitingLists(l.hold, visit, l.wake)
	return l
}

// manner is how a node asks for a place.
type manner int

const (
	looks   manner = iota // It wants to know only.
	comes                 // It is about to take the place, and keeps it from others for a while.
	takes                 // It takes the place.
	stays                 // It has the place already.
	inPlace               // It takes the place, or its step waits until it can.
)

// reserve takes the node into the budget of its pool. The reason says why there is no room; empty means that there is. The
// node's own reservation, if it has one already, makes no room: others may have filled the budget since.
func (l *limits) reserve(c policy.Claim) (reason string) {
	settings := l.census.catchUp()
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.offer(policy.LimitBudget, settings)
	before, held := l.reserved[c.Node]
	delete(l.reserved, c.Node)
	how := takes
	if held && before.released.IsZero() {
		how = stays
	}
	if reason := l.room(c, how, settings); reason != "" {
		if held {
			l.reserved[c.Node] = before
		}
		return reason
	}
	l.reserved[c.Node] = reservation{}
	return ""
}

// vacancy says why the node could not be taken out of service now; empty means that it could. A node that would be, if only it could,
// waits for that from now on.
func (l *limits) vacancy(c policy.Claim, would bool) (reason string) {
	settings := l.census.catchUp()
	l.mu.Lock()
	defer l.mu.Unlock()
	if would {
		defer l.offer(policy.LimitBudget, settings)
		return l.room(c, comes, settings)
	}
	return l.room(c, looks, settings)
}

// held returns the nodes whose place in the budget is reserved by a procedure that runs, and those on which a destructive step of
// this process is in flight, each sorted.
func (l *limits) held() (reserved, inFlight []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, r := range l.reserved {
		if r.released.IsZero() {
			reserved = append(reserved, name)
		}
	}
	slices.Sort(reserved)
	return reserved, slices.Sorted(maps.Keys(l.inFlight))
}

// release ends the reservation of a node whose procedure ended and left it cordoned, or not.
func (l *limits) release(name string, cordoned bool) {
	settings := l.census.catchUp()
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, held := l.reserved[name]; held {
		l.reserved[name] = reservation{released: l.clock.Now(), cordoned: cordoned}
		l.offer(policy.LimitBudget, settings)
	}
}

func (l *limits) room(c policy.Claim, how manner, settings policy.Settings) (reason string) {
	e := l.census.of(c.Node)
	if e == nil {
		return "the pool of the node is unknown: no node " + c.Node + " is in the cache"
	}
	if e.out() || l.holds(c.Node, e) {
		l.waiting.leave(policy.LimitBudget, c.Node)
		l.heard(policy.LimitBudget, c.Node)
		return ""
	}
	return l.turn(limitOf{policy.LimitBudget, e.pool}, c, how, e.held, settings)
}

// holds reports whether the node is reserved, and forgets a reservation that the cache has caught up with.
func (l *limits) holds(node string, e *entry) bool {
	r, found := l.reserved[node]
	if !found {
		return false
	}
	if r.released.IsZero() {
		return true
	}
	if e.node.Spec.Unschedulable == r.cordoned || l.clock.Since(r.released) > reservationGrace {
		delete(l.reserved, node)
		return false
	}
	return r.cordoned
}

// begin takes a slot for a destructive step, and returns how to give it back, or why there is none. Other actions need none.
func (l *limits) begin(node *corev1.Node, action ticket.Action, c policy.Claim, how manner) (release func(), reason string) {
	if !action.Destructive() {
		return func() {}, ""
	}
	settings, own := l.census.catchUp(), l.census.read(node)
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.offer(policy.LimitDestructive, settings)
	if _, has := l.inFlight[node.Name]; has {
		how = stays
	}
	if reason := l.turn(limitOf{policy.LimitDestructive, settings.PoolOf(node).Name}, c, how, own, settings); reason != "" {
		return func() {}, reason
	}
	l.inFlight[node.Name] = action
	return func() { l.end(node.Name) }, ""
}

// resume takes the slot of a step that an earlier run began: it is in flight, whether there is room or not.
func (l *limits) resume(name string, action ticket.Action) (release func()) {
	if !action.Destructive() {
		return func() {}
	}
	settings := l.census.catchUp()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inFlight[name] = action
	l.waiting.leave(policy.LimitDestructive, name)
	l.heard(policy.LimitDestructive, name)
	l.offer(policy.LimitDestructive, settings)
	return func() { l.end(name) }
}

func (l *limits) end(name string) {
	settings := l.census.catchUp()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.inFlight, name)
	l.offer(policy.LimitDestructive, settings)
}

// someOf names the nodes that have the places, after a colon.
func someOf(names []string) string {
	switch {
	case len(names) == 0:
		return ""
	case len(names) <= namedPods:
		return ": " + strings.Join(names, ", ")
	}
	return fmt.Sprintf(": %s and %d more", strings.Join(names[:namedPods], ", "), len(names)-namedPods)
}
