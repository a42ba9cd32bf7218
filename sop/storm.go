package sop

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"k8s.io/utils/clock"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// front is one condition in one pool.
type front struct {
	condition string
	pool      policy.Pool
	// size is the number of nodes in the pool, onsets are when the condition began on those on which it holds.
	size   int
	onsets []time.Time
}

// surge returns on how many nodes the condition began within one window at most.
func (f front) surge() int {
	slices.SortFunc(f.onsets, time.Time.Compare)
	most, first := 0, 0
	for last, onset := range f.onsets {
		for onset.Sub(f.onsets[first]) > f.pool.StormWindow {
			first++
		}
		most = max(most, last-first+1)
	}
	return most
}

// fronts sums up where conditions hold that Aegis would act on. Nodes that people look after do not count: they may be waiting
// for spare parts since long ago.
func (w *stormWatch) fronts(nodes []*corev1.Node, settings policy.Settings) []front {
	sizes := make(map[string]int)
	found := make(map[[2]string]*front)
	for _, node := range nodes {
		pool := settings.PoolOf(node)
		sizes[pool.Name]++
		statuses := w.statuses(node.Name)
		if len(statuses) == 0 || w.peopleLookAfter(node) {
			continue
		}
		seen := make(map[string]bool)
		for _, s := range statuses {
			if seen[s.Condition] || !canStorm(s) {
				continue
			}
			seen[s.Condition] = true
			key := [2]string{s.Condition, pool.Name}
			if found[key] == nil {
				found[key] = &front{condition: s.Condition, pool: pool}
			}
			found[key].onsets = append(found[key].onsets, s.FirstSeen)
		}
	}
	var list []front
	for _, f := range found {
		f.size = sizes[f.pool.Name]
		list = append(list, *f)
	}
	slices.SortFunc(list, func(a, b front) int {
		return cmp.Or(cmp.Compare(a.condition, b.condition), cmp.Compare(a.pool.Name, b.pool.Name))
	})
	return list
}

func (w *stormWatch) peopleLookAfter(node *corev1.Node) bool {
	t, broken := w.tickets.Ticket(node)
	return policy.Excluded(node) || policy.OwnedByPeople(policy.Situation{Record: ticket.Record{Ticket: t, Broken: broken}}) != ""
}

// canStorm leaves out what is not acted on, and the return of nodes to service, which nothing holds.
func canStorm(s prom.AegisNodeStatus) bool {
	band := prom.BandOf(s.Priority)
	return s.Policy.Mode.Acts() && band != prom.BandCordon && band != prom.BandMustIgnore
}

// forecast finds out how storms go on. Its zero value knows of none.
type forecast struct {
	// calm is since when a storm has abated.
	calm map[[2]string]time.Time
}

// next returns the storms that go on, given those that went on before.
func (c *forecast) next(now time.Time, before []policy.Storm, fronts []front, settings policy.Settings) []policy.Storm {
	calm := make(map[[2]string]time.Time)
	var storms []policy.Storm
	for _, s := range before {
		i := slices.IndexFunc(fronts, func(f front) bool { return s.Is(f.condition, f.pool.Name) })
		if i >= 0 && len(fronts[i].onsets) > s.Limit/2 {
			storms = append(storms, s)
			continue
		}
		key := [2]string{s.Condition, s.Pool}
		calm[key] = now
		if since, abated := c.calm[key]; abated {
			calm[key] = since
		}
		if now.Sub(calm[key]) < settings.PoolNamed(s.Pool).StormRelease {
			storms = append(storms, s)
		}
	}
	c.calm = calm
	storms = append(storms, arising(now, storms, fronts)...)
	slices.SortFunc(storms, func(a, b policy.Storm) int {
		return cmp.Or(cmp.Compare(a.Condition, b.Condition), cmp.Compare(a.Pool, b.Pool))
	})
	return storms
}

// arising returns the storms among the fronts that are not known yet.
func arising(now time.Time, known []policy.Storm, fronts []front) []policy.Storm {
	var storms []policy.Storm
	for _, f := range fronts {
		limit := f.pool.StormLimit(f.size)
		nodes := f.surge()
		if limit == 0 || nodes <= limit || slices.ContainsFunc(known, func(s policy.Storm) bool { return s.Is(f.condition, f.pool.Name) }) {
			continue
		}
		storms = append(storms, policy.Storm{
			Condition: f.condition, Pool: f.pool.Name, Since: now.UTC().Truncate(time.Second), Nodes: nodes, Limit: limit,
		})
	}
	return storms
}

// joined returns the storms of both lists. Of one that is in both, what people have said of it counts.
func joined(ours, written []policy.Storm) []policy.Storm {
	all := slices.Clone(ours)
	for _, w := range written {
		i := slices.IndexFunc(all, func(s policy.Storm) bool { return s.Is(w.Condition, w.Pool) })
		if i < 0 {
			all = append(all, w)
			continue
		}
		all[i].Released = cmp.Or(all[i].Released, w.Released)
	}
	return all
}

// stormEvery is the least time between two looks for storms. Webhooks may bring hundreds of alerts in a second.
const stormEvery = time.Second

// stormWatch knows the storms that go on. It is safe for concurrent use.
type stormWatch struct {
	clock    clock.PassiveClock
	nodes    corelisters.NodeLister
	tickets  *ticket.Store
	settings func() policy.Settings
	statuses func(node string) []prom.AegisNodeStatus

	mu       sync.Mutex
	forecast forecast
	active   []policy.Storm
	looked   time.Time
}

// look looks for storms, given those that are written down.
func (w *stormWatch) look(written []policy.Storm) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.clock.Now()
	if now.Sub(w.looked) < stormEvery {
		return
	}
	nodes, err := w.nodes.List(labels.Everything())
	if err != nil {
		return
	}
	w.looked = now
	settings := w.settings()
	w.active = w.forecast.next(now, joined(w.active, written), w.fronts(nodes, settings), settings)
}

// forget drops what is known: a new term learns from the Lease what goes on.
func (w *stormWatch) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.active, w.forecast, w.looked = nil, forecast{}, time.Time{}
}

// current returns the storms that go on.
func (w *stormWatch) current() []policy.Storm {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.active)
}

// release lets the repairs go on in spite of a storm.
func (w *stormWatch) release(condition, pool string, o policy.Order) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.active {
		if w.active[i].Is(condition, pool) {
			w.active[i].Released = &o
		}
	}
}

// holds says why a storm holds the condition in the pool. Empty means that none does.
func (w *stormWatch) holds(condition, pool string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.active {
		if s.Is(condition, pool) && s.Released == nil {
			return s.Why()
		}
	}
	return ""
}
