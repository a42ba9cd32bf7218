package sop

import "github.com/prometheus/client_golang/prometheus"

// LimitCollector shows how far the limits of the pools and of the cluster are used whenever it is scraped.
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

// Collect counts the places.
func (c *LimitCollector) Collect(ch chan<- prometheus.Metric) {
	for _, s := range c.dispatcher.services.limits.states() {
		ch <- prometheus.MustNewConstMetric(c.places, prometheus.GaugeValue, float64(s.Allowed), s.Pool, string(s.Limit))
		ch <- prometheus.MustNewConstMetric(c.taken, prometheus.GaugeValue, float64(len(s.Taken)), s.Pool, string(s.Limit))
	}
}
