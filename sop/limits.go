package sop

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/utils/clock"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"

	"aegis.io/aegis/ticket"

	"aegis.io/aegis/sop/policy"
)

// reservationGrace is how long a reservation outlives its procedure while the cache does not show yet what was done.
const reservationGrace = time.Minute

// limits bounds how many nodes of a pool are out of service, and how many destructive steps run in it. What others have
// taken out of service counts as well. The nodes and their tickets are the memory, so a restart forgets nothing; the
// reservations here only bridge the time until the cache shows a write. It is safe for concurrent use.
type limits struct {
	clock    clock.PassiveClock
	nodes    corelisters.NodeLister
	tickets  *ticket.Store
	settings func() policy.Settings
	// latest returns a node as it was last written here, if the cache does not show that yet.
	latest func(*corev1.Node) *corev1.Node

	mu sync.Mutex
	// reserved are the nodes that running procedures take out of service.
	reserved map[string]reservation
	// inFlight are the nodes on which this process runs a destructive step.
	inFlight map[string]ticket.Action
}

// reservation is the place of one node in the budget.
type reservation struct {
	// released is when the procedure ended. Zero while it runs.
	released time.Time
	// cordoned is how the procedure left the node.
	cordoned bool
}

// newLimits returns limits over the nodes of the services, each as latest has it.
func newLimits(s Services, latest func(*corev1.Node) *corev1.Node) *limits {
	return &limits{
		clock:    s.Clock,
		nodes:    s.Nodes,
		tickets:  s.Tickets,
		settings: s.Settings,
		latest:   latest,
		reserved: make(map[string]reservation),
		inFlight: make(map[string]ticket.Action),
	}
}

// reserve takes the node into the budget of its pool. The reason says why there is no room; empty means that there is. The
// node's own reservation, if it has one already, makes no room: others may have filled the budget since.
func (l *limits) reserve(name string) (reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before, held := l.reserved[name]
	delete(l.reserved, name)
	if reason := l.room(name); reason != "" {
		if held {
			l.reserved[name] = before
		}
		return reason
	}
	l.reserved[name] = reservation{}
	return ""
}

// vacancy says why the node could not be taken out of service now; empty means that it could.
func (l *limits) vacancy(name string) (reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.room(name)
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
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, held := l.reserved[name]; held {
		l.reserved[name] = reservation{released: l.clock.Now(), cordoned: cordoned}
	}
}

func (l *limits) room(name string) string {
	node, err := l.nodes.Get(name)
	if err != nil {
		return fmt.Sprintf("the pool of the node is unknown: %v", err)
	}
	node = l.latest(node)
	if l.outOfService(node) {
		return ""
	}
	pool := l.settings().PoolOf(node)
	size, out, err := l.census(pool)
	if err != nil {
		return err.Error()
	}
	if limit := pool.Allowed(size); len(out) >= limit {
		return fmt.Sprintf("%d of %d nodes of pool %s are out of service, %d allowed: %s",
			len(out), size, pool.Name, limit, someOf(out))
	}
	return ""
}

// census counts the nodes of the pool and names those that are out of service.
func (l *limits) census(pool policy.Pool) (size int, out []string, err error) {
	nodes, err := l.nodes.List(labels.Everything())
	if err != nil {
		return 0, nil, fmt.Errorf("the nodes of pool %s are unknown: %w", pool.Name, err)
	}
	settings := l.settings()
	for _, node := range nodes {
		if settings.PoolOf(node).Name != pool.Name {
			continue
		}
		size++
		if l.outOfService(l.latest(node)) {
			out = append(out, node.Name)
		}
	}
	slices.Sort(out)
	return size, out, nil
}

func (l *limits) outOfService(node *corev1.Node) bool {
	return node.Spec.Unschedulable || !policy.IsReady(node) || l.holds(node)
}

// holds reports whether the node is reserved, and forgets a reservation that the cache has caught up with.
func (l *limits) holds(node *corev1.Node) bool {
	r, found := l.reserved[node.Name]
	if !found {
		return false
	}
	if r.released.IsZero() {
		return true
	}
	if node.Spec.Unschedulable == r.cordoned || l.clock.Since(r.released) > reservationGrace {
		delete(l.reserved, node.Name)
		return false
	}
	return r.cordoned
}

// begin takes a slot for a destructive step, and returns how to give it back, or why there is none. Other actions need none.
func (l *limits) begin(node *corev1.Node, action ticket.Action) (release func(), reason string) {
	if !action.Destructive() {
		return func() {}, ""
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	pool := l.settings().PoolOf(node)
	busy, err := l.destructive(pool, node)
	if err != nil {
		return func() {}, err.Error()
	}
	if limit := max(1, pool.MaxDestructive); len(busy) >= limit {
		return func() {}, fmt.Sprintf("%d of %d destructive steps are running in pool %s: %s",
			len(busy), limit, pool.Name, someOf(busy))
	}
	l.inFlight[node.Name] = action
	return func() { l.end(node.Name) }, ""
}

// resume takes the slot of a step that an earlier run began: it is in flight, whether there is room or not.
func (l *limits) resume(name string, action ticket.Action) (release func()) {
	if !action.Destructive() {
		return func() {}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inFlight[name] = action
	return func() { l.end(name) }
}

func (l *limits) end(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.inFlight, name)
}

// destructive names the other nodes of the pool on which a destructive step runs, by this process or by one before it. Of two
// steps in the journals that both wait for their order, as two leaders may leave them behind, the one that began earlier goes first.
func (l *limits) destructive(pool policy.Pool, node *corev1.Node) ([]string, error) {
	nodes, err := l.nodes.List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("the nodes of pool %s are unknown: %w", pool.Name, err)
	}
	settings := l.settings()
	own, waits := l.runningDestructive(node)
	var busy []string
	for _, other := range nodes {
		if other.Name == node.Name || settings.PoolOf(other).Name != pool.Name {
			continue
		}
		_, ours := l.inFlight[other.Name]
		step, runs := l.runningDestructive(l.latest(other))
		behind := waits && runs && cmp.Or(own.At.Compare(step.At), cmp.Compare(node.Name, other.Name)) < 0
		if (ours || runs) && !behind {
			busy = append(busy, other.Name)
		}
	}
	slices.Sort(busy)
	return busy, nil
}

// runningDestructive returns the destructive step that the ticket of the node shows as Running under Aegis, if there is one.
func (l *limits) runningDestructive(node *corev1.Node) (ticket.Step, bool) {
	t, err := l.tickets.Ticket(node)
	if err != nil || t == nil || !t.Open() || !t.Owned() {
		return ticket.Step{}, false
	}
	running := t.Running()
	i := slices.IndexFunc(running, func(s ticket.Step) bool { return s.Action.Destructive() })
	if i < 0 {
		return ticket.Step{}, false
	}
	return running[i], true
}

func someOf(names []string) string {
	if len(names) <= namedPods {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:namedPods], ", "), len(names)-namedPods)
}
