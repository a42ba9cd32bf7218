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
		for limit, count := range map[policy.Limit][2]int{
			policy.LimitBudget: {u.pool.Allowed(u.size), u.out}, policy.LimitDestructive: {max(1, u.pool.MaxDestructive), u.busy},
		} {
			ch <- prometheus.MustNewConstMetric(c.places, prometheus.GaugeValue, float64(count[0]), u.pool.Name, string(limit))
			ch <- prometheus.MustNewConstMetric(c.taken, prometheus.GaugeValue, float64(count[1]), u.pool.Name, string(limit))
		}
	}
}

// use says how many nodes a pool has, how many of them are out of service, and on how many a destructive step runs.
type use struct {
	pool            policy.Pool
	size, out, busy int
}

// uses returns the use of each pool that has nodes, by its name.
func (l *limits) uses() (map[string]*use, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	nodes, err := l.nodes.List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("nodes not listed: %w", err)
	}
	settings, uses := l.settings(), make(map[string]*use)
	for _, node := range nodes {
		node = l.latest(node)
		pool := settings.PoolOf(node)
		u := uses[pool.Name]
		if u == nil {
			u = &use{pool: pool}
			uses[pool.Name] = u
		}
		u.size++
		if l.outOfService(node) {
			u.out++
		}
		_, ours := l.inFlight[node.Name]
		if _, runs := l.runningDestructive(node); ours || runs {
			u.busy++
		}
	}
	return uses, nil
}
