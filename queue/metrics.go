package queue

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"aegis.io/aegis/rules/prom"
)

// result says what an observation was to the queue.
type result string

// The results of an observation.
const (
	resultOpened    result = "opened"    // The condition is new.
	resultJoined    result = "joined"    // One more alert feeds the condition.
	resultHeartbeat result = "heartbeat" // The alert feeds the condition already.
	resultContested result = "contested" // The alert resolved before and fires again with an old start.
	resultResolved  result = "resolved"  // The alert no longer feeds the condition.
	resultStray     result = "stray"     // The alert resolved without having fired here.
	resultOutdated  result = "outdated"  // The alert resolved while it was being read.
	resultDropped   result = "dropped"   // There is no room for it.
	resultInvalid   result = "invalid"   // It names no node or no condition.
)

// results lists the closed set.
func results() []result {
	return []result{
		resultOpened, resultJoined, resultHeartbeat, resultContested, resultResolved, resultStray, resultOutdated,
		resultDropped, resultInvalid,
	}
}

// metrics are the counters of the queue.
type metrics struct {
	observations map[result]prometheus.Counter
	dropped      map[bound]prometheus.Counter
}

// newMetrics registers the counters, and the gauges that are read from the queue at scrape time.
func newMetrics(reg prometheus.Registerer, q *Queue, known func(string) bool) *metrics {
	observations := promauto.With(reg).NewCounterVec(prometheus.CounterOpts{
		Name: "aegis_queue_observations_total",
		Help: "Observations merged into the queue, by result.",
	}, []string{"result"})
	dropped := promauto.With(reg).NewCounterVec(prometheus.CounterOpts{
		Name: "aegis_queue_dropped_total",
		Help: "Conditions and alerts that the queue has dropped because it was full, the least urgent ones, by the limit. The next pass " +
			"over the sources brings them back if there is room by then.",
	}, []string{"limit"})
	m := &metrics{observations: make(map[result]prometheus.Counter), dropped: make(map[bound]prometheus.Counter)}
	for _, b := range boundsReached() {
		m.dropped[b] = dropped.WithLabelValues(string(b))
	}
	for _, r := range results() {
		m.observations[r] = observations.WithLabelValues(string(r))
	}
	if reg != nil {
		reg.MustRegister(newCollector(q, known))
	}
	return m
}

// otherCondition counts the nodes that have a condition which the catalogue does not know. The names of those come
// with alerts, so there is no limit to them.
const otherCondition = "other"

// collector counts nodes when it is asked, so the numbers cannot drift.
type collector struct {
	queue *Queue
	known func(string) bool

	gauge, nodes, bands, states *prometheus.Desc
}

var _ prometheus.Collector = (*collector)(nil)

// newCollector returns the collector of a queue.
func newCollector(q *Queue, known func(string) bool) *collector {
	return &collector{
		queue: q,
		known: known,
		gauge: prometheus.NewDesc("aegis_condition_gauge",
			"Nodes on which the condition holds. The same as aegis_condition_nodes, under its old name.", []string{"condition"}, nil),
		nodes: prometheus.NewDesc("aegis_condition_nodes",
			"Nodes on which the condition holds.", []string{"condition"}, nil),
		bands: prometheus.NewDesc("aegis_band_nodes",
			"Nodes on which something holds, by the band of the most urgent of it.", []string{"band"}, nil),
		states: prometheus.NewDesc("aegis_queue_nodes",
			"Nodes in the queue: ready for a worker, in_flight at one, waiting for a time, or idle until something changes.",
			[]string{"state"}, nil),
	}
}

// Describe sends the descriptions.
func (c *collector) Describe(descs chan<- *prometheus.Desc) {
	descs <- c.gauge
	descs <- c.nodes
	descs <- c.bands
	descs <- c.states
}

// Collect sends the numbers of this moment.
func (c *collector) Collect(samples chan<- prometheus.Metric) {
	conditions, bands, states := c.count() // Not under the lock: the receiver may be slow.
	for name, count := range conditions {
		samples <- prometheus.MustNewConstMetric(c.gauge, prometheus.GaugeValue, count, name)
		samples <- prometheus.MustNewConstMetric(c.nodes, prometheus.GaugeValue, count, name)
	}
	for band, count := range bands {
		samples <- prometheus.MustNewConstMetric(c.bands, prometheus.GaugeValue, count, string(band))
	}
	for state, count := range states {
		samples <- prometheus.MustNewConstMetric(c.states, prometheus.GaugeValue, count, state)
	}
}

// count returns the number of nodes by condition, by band and by state.
func (c *collector) count() (conditions map[string]float64, bands map[prom.Band]float64, states map[string]float64) {
	conditions = map[string]float64{otherCondition: 0}
	bands = map[prom.Band]float64{
		prom.BandNotReady: 0, prom.BandEmergency: 0, prom.BandCordon: 0, prom.BandCanIgnore: 0, prom.BandMustIgnore: 0,
	}
	labels := make(map[string]string) // Asks once for each name.
	c.queue.mu.Lock()
	defer c.queue.mu.Unlock()
	for _, n := range c.queue.nodes {
		for label := range c.labelsOf(n, labels) {
			conditions[label]++
		}
		if held := n.list(); len(held) > 0 {
			bands[bandOf(held)]++
		}
	}
	ready, waiting := c.queue.ready.Len(), c.queue.waiting.Len()
	inFlight := 0
	for _, n := range c.queue.nodes {
		if n.inFlight {
			inFlight++
		}
	}
	return conditions, bands, map[string]float64{
		"ready":     float64(ready),
		"waiting":   float64(waiting),
		"in_flight": float64(inFlight),
		"idle":      float64(len(c.queue.nodes) - ready - waiting - inFlight),
	}
}

// bandOf returns the most urgent band of the conditions.
func bandOf(held []*condition) prom.Band {
	most := prom.BandMustIgnore
	for _, c := range held {
		if band := prom.BandOf(c.status.Priority); band.Urgency() < most.Urgency() {
			most = band
		}
	}
	return most
}

// labelsOf returns the distinct labels of the node's conditions.
func (c *collector) labelsOf(n *node, labels map[string]string) map[string]struct{} {
	held := make(map[string]struct{}, n.conditions.Len())
	for _, condition := range n.list() {
		name := condition.status.Condition
		label, asked := labels[name]
		if !asked {
			label = strings.ToValidUTF8(name, "_") // A metric refuses anything else.
			if c.known != nil && !c.known(name) {
				label = otherCondition
			}
			labels[name] = label
		}
		held[label] = struct{}{}
	}
	return held
}

// resyncMetrics are the metrics of resync.
type resyncMetrics struct {
	reads       map[sourceKind]map[bool]prometheus.Counter // By whether the source answered.
	lastSuccess prometheus.Gauge
	duration    prometheus.Histogram
	ambiguous   prometheus.Gauge
}

// newResyncMetrics registers the metrics of resync.
func newResyncMetrics(reg prometheus.Registerer, r *Resync) *resyncMetrics {
	factory := promauto.With(reg)
	factory.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "aegis_alertmanager_away_seconds",
		Help: "For how long no replica of Alertmanager has answered, as far as this process knows. 0 while one does.",
	}, func() float64 { return r.away().Seconds() })
	reads := factory.NewCounterVec(prometheus.CounterOpts{
		Name: "aegis_resync_total",
		Help: "Reads of a source by resync. A result of unknown means that the source gave no reliable answer.",
	}, []string{"source", "result"})
	m := &resyncMetrics{
		reads: make(map[sourceKind]map[bool]prometheus.Counter),
		lastSuccess: factory.NewGauge(prometheus.GaugeOpts{
			Name: "aegis_resync_last_success_timestamp_seconds",
			Help: "When the last pass in which every source answered ended.",
		}),
		ambiguous: factory.NewGauge(prometheus.GaugeOpts{
			Name: "aegis_cluster_ambiguous",
			Help: "Whether alerts of several clusters are seen and aegis.yaml does not name this one, so that nothing is done for any (1).",
		}),
		duration: factory.NewHistogram(prometheus.HistogramOpts{
			Name:    "aegis_resync_duration_seconds",
			Help:    "How long a pass of resync took.",
			Buckets: []float64{.01, .03, .1, .3, 1, 3, 10, 30},
		}),
	}
	for _, kind := range []sourceKind{sourcePrometheus, sourceAlertmanager} {
		m.reads[kind] = map[bool]prometheus.Counter{
			true:  reads.WithLabelValues(string(kind), "ok"),
			false: reads.WithLabelValues(string(kind), "unknown"),
		}
	}
	return m
}

// succeeded notes a pass in which every source answered.
func (m *resyncMetrics) succeeded(at time.Time) {
	m.lastSuccess.Set(float64(at.UnixNano()) / float64(time.Second))
}
