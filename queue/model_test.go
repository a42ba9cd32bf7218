package queue

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/rules/prom"
)

// model is the queue as one would write it without a thought for speed: everything is found by looking at everything.
type model struct {
	base  map[prom.Key]prom.AegisNodeStatus // What was reported last, and who was first.
	feeds map[string]modelFeed
	ended map[string]time.Time // The latest start of an alert's episode that has ended.
	nodes map[string]modelNode
}

type modelFeed struct {
	key       prom.Key
	starts    []time.Time
	contested bool
}

type modelNode struct {
	due, inFlight, changed bool
	at                     time.Time // When it is due again. Zero when it is not.
}

func newModel() *model {
	return &model{
		base:  make(map[prom.Key]prom.AegisNodeStatus),
		feeds: make(map[string]modelFeed),
		ended: make(map[string]time.Time),
		nodes: make(map[string]modelNode),
	}
}

// view computes a status from its feeds.
func (m *model) view(key prom.Key) prom.AegisNodeStatus {
	s := m.base[key]
	s.Node, s.Condition, s.ID, s.FirstSeen, s.Alerts, s.Contested = key.Node, key.Condition, key.ID, time.Time{}, nil, true
	for _, fingerprint := range slices.Sorted(maps.Keys(m.feeds)) {
		f := m.feeds[fingerprint]
		if f.key != key {
			continue
		}
		s.Alerts = append(s.Alerts, fingerprint)
		s.Contested = s.Contested && f.contested
		if first := slices.MinFunc(f.starts, time.Time.Compare); s.FirstSeen.IsZero() || first.Before(s.FirstSeen) {
			s.FirstSeen = first
		}
	}
	return s
}

// views returns all statuses without what a heartbeat refreshes, as text.
func (m *model) views() map[prom.Key]string {
	views := make(map[prom.Key]string)
	for key := range m.base {
		s := m.view(key)
		s.LastSeen, s.Msg, s.Value = time.Time{}, "", ""
		views[key] = fmt.Sprintf("%+v", s)
	}
	return views
}

// statuses returns the conditions of a node, the most urgent first.
func (m *model) statuses(node string) []prom.AegisNodeStatus {
	list := []prom.AegisNodeStatus{}
	for key := range m.base {
		if key.Node == node {
			list = append(list, m.view(key))
		}
	}
	slices.SortFunc(list, compareStatuses)
	return list
}

// do applies an operation and makes due the nodes whose statuses it has changed.
func (m *model) do(operation func()) {
	before := m.views()
	operation()
	for key := range m.base {
		if m.view(key).Alerts == nil {
			delete(m.base, key)
		}
	}
	after := m.views()
	for key, text := range after {
		if before[key] != text {
			m.touch(key.Node)
		}
	}
	for key := range before {
		if _, ok := after[key]; !ok {
			m.touch(key.Node)
		}
	}
}

func (m *model) touch(node string) {
	n := m.nodes[node]
	if n.inFlight {
		n.changed = true
	} else {
		n.due, n.at = true, time.Time{}
	}
	m.nodes[node] = n
}

func (m *model) observe(o prom.Observation) {
	m.do(func() {
		if !o.Firing {
			m.end(o.Fingerprint, o.StartsAt)
			return
		}
		f, open := m.feeds[o.Fingerprint]
		if !open {
			old, ended := m.ended[o.Fingerprint]
			f.contested = ended && !o.StartsAt.After(old)
		}
		f.key = o.Status.Key()
		f.starts = append(slices.Clone(f.starts), o.StartsAt)
		m.feeds[o.Fingerprint] = f
		s, known := m.base[f.key]
		if !known {
			s = o.Status
		}
		s.LastSeen, s.Msg, s.Priority = time.Now(), o.Status.Msg, o.Status.Priority
		m.base[f.key] = s
	})
}

func (m *model) end(fingerprint string, startsAt time.Time) {
	for _, start := range append(m.feeds[fingerprint].starts, startsAt) {
		m.ended[fingerprint] = later(m.ended[fingerprint], start)
	}
	delete(m.feeds, fingerprint)
}

func (m *model) confirm(key prom.Key, fingerprint string) {
	m.do(func() {
		if f, ok := m.feeds[fingerprint]; ok && f.key == key {
			f.contested = false
			m.feeds[fingerprint] = f
		}
	})
}

func (m *model) withdraw(key prom.Key) {
	m.do(func() {
		for fingerprint, f := range m.feeds {
			if f.key == key {
				m.end(fingerprint, time.Time{})
			}
		}
	})
}

func (m *model) reprioritise(priority func(prom.AegisNodeStatus) prom.AegisNodeStatus) {
	m.do(func() {
		for key, s := range m.base {
			m.base[key] = priority(s)
		}
	})
}

// next returns the most urgent node that is due, and takes it.
func (m *model) next() string {
	best := ""
	for name, n := range m.nodes {
		if !n.at.IsZero() && !n.at.After(time.Now()) {
			n.due, n.at = true, time.Time{}
			m.nodes[name] = n
		}
		if n.due && (best == "" || compareItems(m.item(name), m.item(best)) < 0) {
			best = name
		}
	}
	if best != "" {
		m.nodes[best] = modelNode{inFlight: true}
	}
	return best
}

func (m *model) item(name string) item { return item{Node: name, Statuses: m.statuses(name)} }

func (m *model) done(name string, after time.Duration) {
	n := m.nodes[name]
	if !n.inFlight {
		return
	}
	n = modelNode{due: n.changed}
	if !n.due && after > 0 {
		n.at = time.Now().Add(after)
	}
	m.nodes[name] = n
}

// size counts the nodes that have conditions, are due, in flight, or wait for a time.
func (m *model) size() int {
	count := 0
	for name, n := range m.nodes {
		if n.due || n.inFlight || !n.at.IsZero() || len(m.statuses(name)) > 0 {
			count++
		}
	}
	return count
}

// driver makes random operations on a small world, so that they meet often.
type driver struct {
	*rand.Rand
	queue *Queue
	model *model
	epoch time.Time
}

func (d *driver) node() string { return fmt.Sprint("n", d.IntN(3)) }

func (d *driver) key() prom.Key {
	return prom.Key{Node: d.node(), Condition: string(rune('A' + d.IntN(3))), ID: []string{"", "1"}[d.IntN(2)]}
}

func (d *driver) fingerprint() string { return fmt.Sprint("f", d.IntN(6)) }

// now is later than all that was done so far, as if a pass of resync began.
func (d *driver) now() time.Time { return time.Now().Add(time.Nanosecond) }

func (d *driver) status() prom.AegisNodeStatus {
	key := d.key()
	return prom.AegisNodeStatus{
		Node: key.Node, Condition: key.Condition, ID: key.ID,
		Priority: []int{0, 1, 5, 50, 500, 2000}[d.IntN(6)],
		Msg:      fmt.Sprint("m", d.IntN(100)),
		Origin:   []prom.Origin{prom.OriginAlert, prom.OriginResync}[d.IntN(2)],
	}
}

func (d *driver) observation() prom.Observation {
	return prom.Observation{
		Fingerprint: d.fingerprint(),
		Status:      d.status(),
		Firing:      d.IntN(3) > 0,
		StartsAt:    d.epoch.Add(time.Duration(d.IntN(8)) * time.Minute),
	}
}

// step makes one operation on the queue and on the model, and names it.
func (d *driver) step(t *testing.T) string {
	t.Helper()
	switch d.IntN(14) {
	default:
		o := d.observation()
		d.queue.Observe(o)
		d.model.observe(o)
		return fmt.Sprintf("observe %+v", o)
	case 0, 1:
		key, fingerprint := d.key(), d.fingerprint()
		d.queue.confirm(key, d.now(), fingerprint)
		d.model.confirm(key, fingerprint)
		return fmt.Sprintf("confirm %v %v", key, fingerprint)
	case 2:
		key := d.key()
		d.queue.withdraw(key, d.now())
		d.model.withdraw(key)
		return fmt.Sprintf("withdraw %v", key)
	case 3:
		node := d.node()
		d.queue.Enqueue(node)
		d.model.touch(node)
		return "touch " + node
	case 4:
		shift := d.IntN(3)
		classify := func(s prom.AegisNodeStatus) prom.AegisNodeStatus {
			s.Priority = (s.Priority*(shift+1) + len(s.Condition) + int(s.Condition[0])) % 1200
			return s
		}
		d.queue.Reprioritise(classify)
		d.model.reprioritise(classify)
		return fmt.Sprint("reprioritise ", shift)
	case 5, 6, 7:
		want := d.model.next()
		item := take(t, d.queue)
		require.Equal(t, want, item.Node, "next")
		if want != "" {
			require.Equal(t, d.model.statuses(want), item.Statuses, "next")
		}
		return "next " + want
	case 8, 9:
		node, after := d.node(), time.Duration(d.IntN(4)-1)*time.Minute
		d.queue.Done(node, after)
		d.model.done(node, after)
		return fmt.Sprintf("done %s %s", node, after)
	case 10:
		time.Sleep(time.Duration(d.IntN(90)) * time.Second)
		return "sleep"
	}
}

// check compares all that can be seen.
func (d *driver) check(t *testing.T, trace string) {
	t.Helper()
	items := d.queue.Snapshot()
	require.Len(t, items, d.model.size(), trace)
	require.True(t, slices.IsSortedFunc(items, compareItems), trace)
	for i := range 3 {
		node := fmt.Sprint("n", i)
		got := d.queue.Statuses(node)
		if got == nil {
			got = []prom.AegisNodeStatus{}
		}
		for i := range got {
			if len(got[i].Alerts) == 0 {
				got[i].Alerts = nil
			}
		}
		require.Equal(t, d.model.statuses(node), got, trace)
	}
	for fingerprint, key := range d.queue.fed {
		require.Equal(t, d.model.feeds[fingerprint].key, key, trace)
	}
	require.Len(t, d.queue.fed, len(d.model.feeds), trace)
	conditions := 0
	for _, item := range items {
		for _, s := range item.Statuses {
			c, found := d.queue.urgency.Get(s.Key())
			require.True(t, found, trace)
			require.Equal(t, s.FirstSeen, c.status.FirstSeen, trace)
			conditions++
		}
	}
	require.Equal(t, conditions, d.queue.urgency.Len(), trace)
}

func TestQueueAgainstTheModel(t *testing.T) {
	t.Parallel()
	const seeds, steps = 40, 150
	for seed := range uint64(seeds) {
		synctest.Test(t, func(t *testing.T) {
			d := &driver{
				Rand:  rand.New(rand.NewPCG(seed, 1)),
				queue: New(Options{}),
				model: newModel(),
				epoch: time.Now(),
			}
			for i := range steps {
				last := d.step(t)
				d.check(t, fmt.Sprintf("seed %d, step %d: %s", seed, i, last))
			}
		})
	}
}
