package sop

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/labels"

	"aegis.io/aegis/sop/policy"
)

// LimitCollector shows how far the limits of the pools are used whenever it is scraped.
type LimitCollector struct {
	dispatcher    *Dispatcher
	places, taken *prometheus.Desc
}

// NewLimitCollector returns a collector of the limits that the dispatcher keeps.
func NewLimitCollector(d *Dispatcher) *LimitCollector {
	names := []string{"pool", "limit"}
	return &LimitCollector{
		dispatcher: d,
		places: prometheus.NewDesc("aegis_limit_places",
			"Places of a limit of a pool: nodes that may be out of service (budget), and destructive steps that may run (destructive).", names, nil),
		taken: prometheus.NewDesc("aegis_limit_taken",
			"Places of a limit that are taken. People and faults take places of the budget as well, so it may be more than there are.", names, nil),
	}
}

// Describe sends the descriptions of the metrics.
func (c *LimitCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.places
	ch <- c.taken
}

// Collect counts the places of all pools that have nodes.
func (c *LimitCollector) Collect(ch chan<- prometheus.Metric) {
	uses, err := c.dispatcher.services.limits.uses()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(c.taken, err)
		return
	}
	for _, u := range uses {
		for _, limit := range policy.Limits() {
			ch <- prometheus.MustNewConstMetric(c.places, prometheus.GaugeValue, float64(u.allowed(limit)), u.pool.Name, string(limit))
			ch <- prometheus.MustNewConstMetric(c.taken, prometheus.GaugeValue, float64(len(u.taken[limit])), u.pool.Name, string(limit))
		}
	}
}

// use says how many nodes a pool has, and which of them have a place in a limit.
type use struct {
	pool  policy.Pool
	size  int
	taken map[policy.Limit][]string
}

// allowed returns how many places the limit has.
func (u *use) allowed(limit policy.Limit) int {
	if limit == policy.LimitBudget {
		return u.pool.Allowed(u.size)
	}
	return max(1, u.pool.MaxDestructive)
}

// uses returns the use of each pool that has nodes, by its name.
func (l *limits) uses() (map[string]*use, error) {
	nodes, err := l.nodes.List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("nodes not listed: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	settings, uses := l.settings(), make(map[string]*use)
	for _, node := range nodes {
		node = l.latest(node)
		pool := settings.PoolOf(node)
		u := uses[pool.Name]
		if u == nil {
			u = &use{pool: pool, taken: make(map[policy.Limit][]string)}
			uses[pool.Name] = u
		}
		u.size++
		if l.outOfService(node) {
			u.taken[policy.LimitBudget] = append(u.taken[policy.LimitBudget], node.Name)
		}
		_, ours := l.inFlight[node.Name]
		if _, runs := l.runningDestructive(node); ours || runs {
			u.taken[policy.LimitDestructive] = append(u.taken[policy.LimitDestructive], node.Name)
		}
	}
	return uses, nil
}
