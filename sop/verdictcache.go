package sop

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
)

// VerdictCache keeps the last verdict on every condition of every node, so that "why has this node not been healed" has an answer
// at any time. It is safe for concurrent use.
type VerdictCache struct {
	mu      sync.Mutex
	nodes   map[string]map[prom.Key]policy.Decision
	held    map[prom.Key]time.Time // Since when a repair has been held, by whatever verdicts.
	metrics *Metrics
	clock   clock.PassiveClock
}

// NewVerdictCache returns an empty cache that counts verdicts in the metrics and dates them by the clock.
func NewVerdictCache(m *Metrics, c clock.PassiveClock) *VerdictCache {
	return &VerdictCache{nodes: make(map[string]map[prom.Key]policy.Decision), held: make(map[prom.Key]time.Time), metrics: m, clock: c}
}

// Set records the verdict on a condition, and reports whether its name is another one than before.
func (b *VerdictCache) Set(key prom.Key, v policy.Verdict) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	decisions := b.nodes[key.Node]
	if decisions == nil {
		decisions = make(map[prom.Key]policy.Decision)
		b.nodes[key.Node] = decisions
	}
	last, known := decisions[key]
	if known && last.Verdict.Name == policy.VerdictError && runs(v) {
		// Whether it goes better this time is not known yet.
		return false
	}
	changed := !known || last.Verdict.Name != v.Name
	since := last.Since
	if changed {
		since = b.clock.Now()
		b.metrics.verdict(v.Name)
	}
	if _, held := b.held[key]; !v.Name.Holds() {
		delete(b.held, key)
	} else if !held {
		b.held[key] = b.clock.Now()
	}
	decisions[key] = policy.Decision{Condition: key.Condition, ID: key.ID, Verdict: v, Since: since}
	return changed
}

// Succeeded takes note that something could be done on the node: what an error has stopped there goes on.
func (b *VerdictCache) Succeeded(node string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for key, d := range b.nodes[node] {
		if d.Verdict.Name != policy.VerdictError {
			continue
		}
		d.Verdict, d.Since = policy.Verdict{Name: policy.VerdictExecute, Reason: "it goes on after an error"}, b.clock.Now()
		b.nodes[node][key] = d
		b.metrics.verdict(policy.VerdictExecute)
		delete(b.held, key)
	}
}

// Has reports whether there is a verdict on the condition.
func (b *VerdictCache) Has(key prom.Key) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, known := b.nodes[key.Node][key]
	return known
}

// Keep drops the verdicts of the node on all conditions but these.
func (b *VerdictCache) Keep(node string, keys []prom.Key) {
	b.mu.Lock()
	defer b.mu.Unlock()
	kept := make(map[prom.Key]bool, len(keys))
	for _, key := range keys {
		kept[key] = true
	}
	for key := range b.nodes[node] {
		if !kept[key] {
			delete(b.nodes[node], key)
			delete(b.held, key)
		}
	}
	if len(b.nodes[node]) == 0 {
		delete(b.nodes, node)
	}
}

// oldestHolds returns for how long what is held longest has been held, by the verdict that holds it now.
func (b *VerdictCache) oldestHolds() map[policy.VerdictName]time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	oldest := make(map[policy.VerdictName]time.Duration)
	for key, since := range b.held {
		name := b.nodes[key.Node][key].Verdict.Name
		oldest[name] = max(oldest[name], b.clock.Since(since))
	}
	return oldest
}

// Node returns the verdicts of a node, sorted by condition and device.
func (b *VerdictCache) Node(node string) []policy.Decision {
	b.mu.Lock()
	defer b.mu.Unlock()
	decisions := make([]policy.Decision, 0, len(b.nodes[node]))
	for _, d := range b.nodes[node] {
		decisions = append(decisions, d)
	}
	slices.SortFunc(decisions, func(x, y policy.Decision) int {
		return cmp.Or(cmp.Compare(x.Condition, y.Condition), cmp.Compare(x.ID, y.ID))
	})
	return decisions
}
