package sop

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
)

// front is one condition in one pool, or in the cluster.
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

// stormWatch knows the storms that go on. It keeps count of where conditions hold, and looks again only at nodes on which something has
// changed. It is safe for concurrent use.
type stormWatch struct {
	clock    clock.PassiveClock
	census   *census
	orders   func() policy.Orders
	statuses func(node string) []prom.AegisNodeStatus

	// stirred are the nodes to look at again.
	stirring sync.Mutex
	stirred  map[string]bool

	// looking is held by the one who looks. It guards what follows.
	looking sync.Mutex
	looked  time.Time
	// sick is what holds on the nodes on which something does, spread when each condition began in a pool, by node. Modes are those
	// that were ordered when the nodes were looked at.
	sick   map[string]sickness
	spread map[frontOf]map[string]time.Time
	modes  map[string]policy.ModeOrder

	mu       sync.Mutex
	forecast forecast
	active   []policy.Storm
}

// frontOf is a condition in a pool.
type frontOf struct{ condition, pool string }

// sickness is what holds on a node that counts for storms: since when, by condition.
type sickness struct {
	pool   string
	onsets map[string]time.Time
}

func newStormWatch(s Services, c *census) *stormWatch {
	w := &stormWatch{clock: s.Clock, census: c, orders: s.Orders.Last, statuses: s.statuses}
	w.clear()
	c.changed = w.stir
	return w
}

func (w *stormWatch) clear() {
	w.sick, w.spread = make(map[string]sickness), make(map[frontOf]map[string]time.Time)
	w.stirred = make(map[string]bool)
}

// stir has a node looked at again.
func (w *stormWatch) stir(node string) {
	w.stirring.Lock()
	defer w.stirring.Unlock()
	w.stirred[node] = true
}

// stirredNodes returns the nodes to look at again, once each.
func (w *stormWatch) stirredNodes() map[string]bool {
	w.stirring.Lock()
	defer w.stirring.Unlock()
	nodes := w.stirred
	w.stirred = make(map[string]bool)
	return nodes
}

// learn begins a term: all nodes are looked at.
func (w *stormWatch) learn() {
	w.looking.Lock()
	defer w.looking.Unlock()
	w.stirring.Lock()
	w.clear()
	w.stirring.Unlock()
	for _, e := range w.census.all() {
		w.stir(e.node.Name)
	}
}

// look looks for storms, given those that are written down.
func (w *stormWatch) look(written []policy.Storm) {
	w.looking.Lock()
	defer w.looking.Unlock()
	now := w.clock.Now()
	if now.Sub(w.looked) < stormEvery {
		return
	}
	w.looked = now
	settings := w.census.catchUp()
	w.weighAll()
	fronts := w.fronts(settings)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.active = w.forecast.next(now, joined(w.active, written), fronts, settings)
}

// weighAll looks at the nodes on which something has changed. The mode of a condition may have changed on every one.
func (w *stormWatch) weighAll() {
	nodes := w.stirredNodes()
	if modes := w.orders().Modes; !maps.Equal(modes, w.modes) {
		w.modes = modes
		for name := range w.sick {
			nodes[name] = true
		}
	}
	for name := range nodes {
		w.weigh(name)
	}
}

// weigh counts what holds on the node. Nodes that people look after do not count: they may be waiting for spare parts since long ago.
func (w *stormWatch) weigh(node string) {
	before := w.sick[node]
	for condition := range before.onsets {
		of := frontOf{condition, before.pool}
		if delete(w.spread[of], node); len(w.spread[of]) == 0 {
			delete(w.spread, of)
		}
	}
	e, statuses := w.census.of(node), w.statuses(node)
	if e == nil || len(statuses) == 0 {
		delete(w.sick, node)
		return
	}
	now := sickness{pool: e.pool, onsets: make(map[string]time.Time)}
	w.sick[node] = now
	if e.inCareOfPeople() {
		return
	}
	for _, s := range statuses {
		if _, counted := now.onsets[s.Condition]; counted || !canStorm(s) {
			continue
		}
		now.onsets[s.Condition] = s.FirstSeen
		of := frontOf{s.Condition, e.pool}
		if w.spread[of] == nil {
			w.spread[of] = make(map[string]time.Time)
		}
		w.spread[of][node] = s.FirstSeen
	}
}

// fronts sums up where conditions hold that Aegis would act on. One that holds in several pools is a front of the cluster as well.
func (w *stormWatch) fronts(settings policy.Settings) []front {
	var list []front
	pools, everywhere := make(map[string]int), make(map[string][]time.Time)
	for of, began := range w.spread {
		onsets := slices.Collect(maps.Values(began))
		list = append(list, w.front(of, settings, onsets))
		pools[of.condition]++
		everywhere[of.condition] = append(everywhere[of.condition], onsets...)
	}
	for condition, onsets := range everywhere {
		if pools[condition] > 1 && settings.Cluster.Name != "" {
			list = append(list, w.front(frontOf{condition, policy.ClusterName}, settings, onsets))
		}
	}
	slices.SortFunc(list, func(a, b front) int {
		return cmp.Or(cmp.Compare(a.condition, b.condition), cmp.Compare(a.pool.Name, b.pool.Name))
	})
	return list
}

func (w *stormWatch) front(of frontOf, settings policy.Settings, onsets []time.Time) front {
	return front{condition: of.condition, pool: settings.PoolNamed(of.pool), size: w.census.size(of.pool), onsets: onsets}
}

// forget drops what is known: a new term learns from the Lease what goes on.
func (w *stormWatch) forget() {
	w.looking.Lock()
	defer w.looking.Unlock()
	w.looked = time.Time{}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.active, w.forecast = nil, forecast{}
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

// holds says why a storm holds the condition in the pool. Empty means that none does. Of a storm of the pool and one of the cluster, that of
// the pool decides: who releases it means these nodes.
func (w *stormWatch) holds(condition, pool string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, where := range []string{pool, policy.ClusterName} {
		for _, s := range w.active {
			switch {
			case !s.Is(condition, where):
			case s.Released == nil:
				return s.Why()
			default:
				return ""
			}
		}
	}
	return ""
}
