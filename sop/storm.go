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
	"aegis.io/aegis/ticket"
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
	return sortedStorms(append(storms, arising(now, storms, fronts)...))
}

func sortedStorms(storms []policy.Storm) []policy.Storm {
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

// stormEvery is the least time between two looks at all conditions, as long as nobody configures what is a storm. Webhooks may bring hundreds of
// alerts in a second.
const stormEvery = time.Second

// sameStormLimits reports whether the same is a storm by both settings.
func sameStormLimits(a, b policy.Settings) bool {
	limits := func(p policy.Pool) [4]int64 {
		return [4]int64{int64(p.StormPercent), int64(p.StormNodes), int64(p.StormWindow), int64(p.StormRelease)}
	}
	return samePools(a.Pools, b.Pools) && limits(a.Cluster) == limits(b.Cluster) &&
		slices.EqualFunc(a.Pools, b.Pools, func(a, b policy.Pool) bool { return limits(a) == limits(b) })
}

// stormWatch knows the storms that go on. It keeps count of where conditions hold, and looks again only at nodes on which something has
// changed. It is safe for concurrent use.
type stormWatch struct {
	clock    clock.PassiveClock
	census   *census
	orders   func() policy.Orders
	names    ticket.Names
	statuses func(node string) []prom.AegisNodeStatus

	// stirred are the nodes to look at again.
	stirring sync.Mutex
	stirred  map[string]bool

	// looking is held by the one who looks. It guards what follows.
	looking sync.Mutex
	looked  time.Time
	// sick is what holds on the nodes on which something does, spread when each condition began in a pool, by node. Modes and settings are
	// those of the last look.
	sick     map[string]sickness
	spread   map[frontOf]map[string]time.Time
	modes    map[string]policy.ModeOrder
	settings policy.Settings
	// grown are the conditions that have come over a node since the last look.
	grown map[string]bool

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

func newStormWatch(s Services, names ticket.Names, c *census) *stormWatch {
	w := &stormWatch{clock: s.Clock, census: c, orders: s.Orders.Last, names: names, statuses: s.statuses}
	w.clear()
	c.changed = w.stir
	return w
}

func (w *stormWatch) clear() {
	w.sick, w.spread, w.grown = make(map[string]sickness), make(map[frontOf]map[string]time.Time), make(map[string]bool)
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

// look looks for storms. Where nothing has changed it does so from time to time; a condition that has come over a node is found to be a storm
// before anything is decided on that node.
func (w *stormWatch) look() {
	settings := w.census.catchUp()
	w.looking.Lock()
	defer w.looking.Unlock()
	now, orders := w.clock.Now(), w.orders()
	w.weighAll(orders.Modes)
	if now.Sub(w.looked) >= stormEvery || !sameStormLimits(settings, w.settings) {
		w.looked, w.settings = now, settings
		w.goOn(now, orders.Storms, settings)
	} else if len(w.grown) > 0 {
		w.add(now, settings)
	}
	clear(w.grown)
}

// goOn finds out which storms there are, given those that are written down.
func (w *stormWatch) goOn(now time.Time, written []policy.Storm, settings policy.Settings) {
	fronts := w.fronts(settings, func(frontOf) bool { return true })
	w.mu.Lock()
	defer w.mu.Unlock()
	w.active = w.forecast.next(now, joined(w.renamed(), written), fronts, settings)
}

// add adds the storms that have arisen where a condition has come over a node. One that goes on already costs nothing.
func (w *stormWatch) add(now time.Time, settings policy.Settings) {
	active := w.current()
	fronts := w.fronts(settings, func(of frontOf) bool {
		return w.grown[of.condition] && !slices.ContainsFunc(active, func(s policy.Storm) bool { return s.Is(of.condition, of.pool) })
	})
	if storms := arising(now, active, fronts); len(storms) > 0 {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.active = sortedStorms(append(w.renamed(), storms...))
	}
}

// weighAll looks at the nodes on which something has changed. The mode of a condition may have changed on every one.
func (w *stormWatch) weighAll(modes map[string]policy.ModeOrder) {
	nodes := w.stirredNodes()
	if !maps.Equal(modes, w.modes) {
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
	before, now := w.sick[node], w.sicknessOf(node)
	for condition := range before.onsets {
		of := frontOf{condition, before.pool}
		if delete(w.spread[of], node); len(w.spread[of]) == 0 {
			delete(w.spread, of)
		}
	}
	if delete(w.sick, node); now.onsets == nil {
		return
	}
	w.sick[node] = now
	for condition, onset := range now.onsets {
		of := frontOf{condition, now.pool}
		if w.spread[of] == nil {
			w.spread[of] = make(map[string]time.Time)
		}
		w.spread[of][node] = onset
		if before.pool != now.pool || !before.onsets[condition].Equal(onset) {
			w.grown[condition] = true
		}
	}
}

// sicknessOf returns what holds on the node, without onsets if nothing does.
func (w *stormWatch) sicknessOf(node string) sickness {
	e, statuses := w.census.of(node), w.statuses(node)
	if e == nil || len(statuses) == 0 {
		return sickness{}
	}
	now := sickness{pool: e.pool, onsets: make(map[string]time.Time)}
	if e.inCareOfPeople() {
		return now
	}
	for _, s := range statuses {
		if _, counted := now.onsets[s.Condition]; !counted && canStorm(s) {
			now.onsets[s.Condition] = s.FirstSeen
		}
	}
	return now
}

// fronts sums up where conditions hold that Aegis would act on, as far as that is wanted. One that holds in several pools is a front of the
// cluster as well.
func (w *stormWatch) fronts(settings policy.Settings, wanted func(frontOf) bool) []front {
	var list []front
	pools, everywhere := make(map[string]int), make(map[string][]time.Time)
	for of, began := range w.spread {
		here, all := wanted(of), wanted(frontOf{of.condition, policy.ClusterName})
		if !here && !all {
			continue
		}
		onsets := slices.Collect(maps.Values(began))
		if here {
			list = append(list, w.front(of, settings, onsets))
		}
		if all {
			pools[of.condition]++
			everywhere[of.condition] = append(everywhere[of.condition], onsets...)
		}
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
	return slices.Clone(w.renamed())
}

// renamed gives the storms that go on the names that the catalogue has for their conditions now, and returns them. The caller holds mu.
func (w *stormWatch) renamed() []policy.Storm {
	w.active = namedStorms(w.active, w.names)
	return w.active
}

// release lets the repairs go on in spite of a storm.
func (w *stormWatch) release(condition, pool string, o policy.Order) {
	w.mu.Lock()
	defer w.mu.Unlock()
	storms := w.renamed()
	for i := range storms {
		if storms[i].Is(condition, pool) {
			storms[i].Released = &o
		}
	}
}

// holds says why a storm holds the condition, which a run may still call by an earlier name, in the pool. Empty means that none does. Of a
// storm of the pool and one of the cluster, that of the pool decides: who releases it means these nodes.
func (w *stormWatch) holds(condition, pool string) string {
	condition, _ = w.names(condition, "")
	w.mu.Lock()
	defer w.mu.Unlock()
	storms := w.renamed()
	for _, where := range []string{pool, policy.ClusterName} {
		for _, s := range storms {
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
