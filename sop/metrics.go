package sop

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// The values of the label status of aegis_sop_total.
const (
	sopStarted     = "started"
	sopSucceeded   = "succeeded"
	sopHandedOver  = "handed_over"
	sopInterrupted = "interrupted"
	sopRefused     = "refused"
	sopTakenOver   = "taken_over"
	sopPreempted   = "preempted"
	sopError       = "error"
)

// Metrics counts what procedures do.
type Metrics struct {
	sops     *prometheus.CounterVec
	steps    *prometheus.CounterVec
	verdicts *prometheus.CounterVec
	selfheal prometheus.Histogram
	repairs  repairMetrics
	action   actionMetrics
	waits    *prometheus.HistogramVec
}

// NewMetrics registers the metrics of procedures.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	factory := promauto.With(reg)
	m := &Metrics{
		sops: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "aegis_sop_total",
			Help: "Procedures that ran, by how they ended. A run that is interrupted, for example by a restart, starts again.",
		}, []string{"status"}),
		steps: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "aegis_steps_total",
			Help: "Steps that ended, by action and status. The same as aegis_step_total, under its old name.",
		}, []string{"action", "status"}),
		verdicts: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "aegis_verdicts_total",
			Help: "Verdicts on conditions, counted when the verdict on a condition of a node changes.",
		}, []string{"verdict"}),
		selfheal: factory.NewHistogram(durations("aegis_selfheal_seconds", "Time from opening a ticket to resolving it without people.")),
		repairs:  newRepairMetrics(factory),
		action:   newActionMetrics(factory),
		waits: factory.NewHistogramVec(durations("aegis_limit_wait_seconds",
			"Time from when a node first needed a place in a limit of its pool until it had it, by limit: budget or destructive."), []string{"limit"}),
	}
	for _, limit := range policy.Limits() {
		m.waits.WithLabelValues(string(limit))
	}
	for _, status := range []string{
		sopStarted, sopSucceeded, sopHandedOver, sopInterrupted, sopRefused, sopTakenOver, sopPreempted, sopError,
	} {
		m.sops.WithLabelValues(status)
	}
	for _, name := range policy.VerdictNames() {
		m.verdicts.WithLabelValues(string(name))
	}
	return m
}

func (m *Metrics) sop(status string)               { m.sops.WithLabelValues(status).Inc() }
func (m *Metrics) verdict(name policy.VerdictName) { m.verdicts.WithLabelValues(string(name)).Inc() }
func (m *Metrics) healed(took time.Duration)       { m.selfheal.Observe(took.Seconds()) }
func (m *Metrics) waited(limit policy.Limit, took time.Duration) {
	m.waits.WithLabelValues(string(limit)).Observe(took.Seconds())
}

// durations describes a histogram of what takes from a second to hours. Where Prometheus scrapes native histograms it gets one.
func durations(name, help string) prometheus.HistogramOpts {
	return prometheus.HistogramOpts{
		Name:                            name,
		Help:                            help,
		Buckets:                         []float64{1, 5, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 21600},
		NativeHistogramBucketFactor:     1.1,
		NativeHistogramMaxBucketNumber:  100,
		NativeHistogramMinResetDuration: time.Hour,
	}
}

// TicketCollector counts nodes and open tickets from the nodes themselves whenever it is scraped, so that the numbers are right after
// a restart and on every replica.
type TicketCollector struct {
	census                      *census
	catalogue                   Catalogue
	fleet, open, total, waiting *prometheus.Desc
}

// NewTicketCollector returns a collector over the nodes that the dispatcher has counted, whose catalogue knows the teams of the conditions.
func NewTicketCollector(d *Dispatcher) *TicketCollector {
	return &TicketCollector{
		census: d.services.census, catalogue: d.services.catalogue,
		fleet: prometheus.NewDesc("aegis_nodes", "Nodes of the cluster.", nil, nil),
		open: prometheus.NewDesc("aegis_tickets_open",
			"Nodes with an open ticket, by who owns it: aegis, or people.", []string{"supervisor"}, nil),
		total: prometheus.NewDesc("aegis_ticket_open_total",
			"Nodes with an open ticket. A gauge in spite of its name, do not apply rate() to it; see aegis_tickets_open.", nil, nil),
		waiting: prometheus.NewDesc("aegis_tickets_waiting",
			"Nodes whose open ticket is with people, by team. The team other stands for a person, and for a ticket that cannot be read.",
			[]string{"team"}, nil),
	}
}

// Describe sends the descriptions of the metrics.
func (c *TicketCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{c.fleet, c.open, c.total, c.waiting} {
		ch <- desc
	}
}

// Collect counts the tickets. A ticket that cannot be read is people's.
func (c *TicketCollector) Collect(ch chan<- prometheus.Metric) {
	c.census.catchUp()
	nodes := c.census.all()
	var ours, theirs float64
	waiting := map[string]float64{otherLabel: 0}
	for _, team := range teams() {
		waiting[team] = 0
	}
	for _, node := range nodes {
		switch t := node.held.ticket; {
		case node.held.broken == nil && t == nil:
		case node.held.broken == nil && t.Owned():
			ours++
		default:
			theirs++
			waiting[c.team(t, waiting)]++
		}
	}
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	gauge(c.fleet, float64(len(nodes)))
	gauge(c.open, ours, "aegis")
	gauge(c.open, theirs, "people")
	gauge(c.total, ours+theirs)
	for team, count := range waiting {
		gauge(c.waiting, count, team)
	}
}

// team returns the team that has the ticket, if it is one of those that the catalogue and the steps know.
func (c *TicketCollector) team(t *ticket.Ticket, known map[string]float64) string {
	if t == nil {
		return otherLabel
	}
	if _, fixed := known[t.Supervisor]; fixed || t.Supervisor == c.catalogue.Status("", t.Condition, "", 0).Policy.Team {
		return t.Supervisor
	}
	return otherLabel
}

// StormCollector shows the storms that go on whenever it is scraped.
type StormCollector struct {
	dispatcher *Dispatcher
	active     *prometheus.Desc
}

// NewStormCollector returns a collector of the storms that the dispatcher has found.
func NewStormCollector(d *Dispatcher) *StormCollector {
	return &StormCollector{
		dispatcher: d,
		active: prometheus.NewDesc("aegis_storm_active",
			"1 for each condition and pool with a storm, which holds the repair; 0 once a person has released it.",
			[]string{"condition", "pool"}, nil),
	}
}

// Describe sends the description of the metric.
func (c *StormCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.active }

// Collect sends the storms.
func (c *StormCollector) Collect(ch chan<- prometheus.Metric) {
	for _, s := range c.dispatcher.Storms() {
		value := 1.0
		if s.Released != nil {
			value = 0
		}
		ch <- prometheus.MustNewConstMetric(c.active, prometheus.GaugeValue, value, s.Condition, s.Pool)
	}
}

// WaitingCollector counts the nodes that wait for a place in a limit whenever it is scraped.
type WaitingCollector struct {
	dispatcher *Dispatcher
	waiting    *prometheus.Desc
}

// NewWaitingCollector returns a collector of the waiting lists of the dispatcher.
func NewWaitingCollector(d *Dispatcher) *WaitingCollector {
	return &WaitingCollector{
		dispatcher: d,
		waiting: prometheus.NewDesc("aegis_waiting_nodes",
			"Nodes that wait for a place in a limit of their pool, by limit: budget or destructive.", []string{"pool", "limit"}, nil),
	}
}

// Describe sends the description of the metric.
func (c *WaitingCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.waiting }

// Collect counts who waits in the pools that are configured, in the default one, and in all of them.
func (c *WaitingCollector) Collect(ch chan<- prometheus.Metric) {
	limits := c.dispatcher.services.limits
	names := append(limits.bounded(limits.census.settings()), policy.DefaultName)
	slices.Sort(names)
	for _, pool := range slices.Compact(names) {
		for _, limit := range policy.Limits() {
			waiting := float64(len(limits.claims(limit, pool)))
			ch <- prometheus.MustNewConstMetric(c.waiting, prometheus.GaugeValue, waiting, pool, string(limit))
		}
	}
}

// HoldCollector shows for how long Aegis has been held whenever it is scraped.
type HoldCollector struct {
	verdicts *VerdictCache
	oldest   *prometheus.Desc
}

// NewHoldCollector returns a collector of the holds among the verdicts of the dispatcher.
func NewHoldCollector(d *Dispatcher) *HoldCollector {
	return &HoldCollector{
		verdicts: d.services.Verdicts,
		oldest: prometheus.NewDesc("aegis_oldest_hold_seconds",
			"For how long the repair that has waited longest has been held, by the verdict that holds it now; 0 if none is held.", []string{"verdict"}, nil),
	}
}

// Describe sends the description of the metric.
func (c *HoldCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.oldest }

// Collect sends the age of the oldest hold of each verdict that has no end of its own.
func (c *HoldCollector) Collect(ch chan<- prometheus.Metric) {
	oldest := c.verdicts.oldestHolds()
	for _, name := range policy.VerdictNames() {
		if name.Holds() {
			ch <- prometheus.MustNewConstMetric(c.oldest, prometheus.GaugeValue, oldest[name].Seconds(), string(name))
		}
	}
}
