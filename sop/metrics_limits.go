package sop

import (
	"github.com/prometheus/client_golang/prometheus"

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
	_, uses := c.dispatcher.services.limits.uses()
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

// uses returns the use of each pool that has nodes, by its name, and the settings.
func (l *limits) uses() (policy.Settings, map[string]*use) {
	settings := l.census.catchUp()
	l.mu.Lock()
	defer l.mu.Unlock()
	uses := make(map[string]*use)
	for _, name := range l.census.inhabited() {
		size, out := l.outOfService(name)
		uses[name] = &use{pool: settings.PoolNamed(name), size: size, taken: map[policy.Limit][]string{
			policy.LimitBudget: out, policy.LimitDestructive: l.destroying(name),
		}}
	}
	return settings, uses
}
