package sop

import (
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/ticket"
)

// repairMetrics are what procedures are improved by: how repairs end, and how long they and their parts take.
type repairMetrics struct {
	total, firstTime, unattended, falseAlarms *prometheus.CounterVec
	seconds, isolation, outage                *prometheus.HistogramVec
}

func newRepairMetrics(factory promauto.Factory) repairMetrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return factory.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, append([]string{"condition", "sop"}, labels...))
	}
	m := repairMetrics{
		total: counter("aegis_repairs_total",
			"Repairs that ended: resolved, handed_over, notified (people were told, the node stays in service), noted, canceled, or checked.", "outcome"),
		firstTime: counter("aegis_repairs_first_time_total",
			"Resolved repairs that tried at most one thing on the node, for a condition that no earlier repair had resolved there within attemptWindow."),
		unattended: counter("aegis_repairs_unattended_total",
			"Resolved repairs in which no person acted: no request, no approval, no takeover, no edit of the ticket."),
		falseAlarms: counter("aegis_repairs_false_alarm_total",
			"Resolved repairs whose condition was not found on the machine: nothing was changed on it, and it was found in order, not down."),
		seconds: factory.NewHistogramVec(durations("aegis_repair_seconds",
			"Time from opening a ticket to the end of its repair, by how that ended."), []string{"condition", "outcome"}),
		isolation: factory.NewHistogramVec(durations("aegis_isolate_seconds",
			"Time from the start of the alert of a fault to the cordon of its node."), []string{"band"}),
		outage: factory.NewHistogramVec(durations("aegis_return_seconds",
			"Time from the cordon of a node to its return to service by the same repair."), []string{"band"}),
	}
	for _, band := range bands() {
		m.isolation.WithLabelValues(string(band))
		m.outage.WithLabelValues(string(band))
	}
	return m
}

// repairOutcomes lists the values of the label outcome of a repair.
func repairOutcomes() []string {
	return []string{repairResolved, repairHandedOver, repairNotified, repairNoted, repairCanceled, repairChecked}
}

// expect makes the series of a repair, so that its end is an increase.
func (m *Metrics) expect(condition, sop string) {
	for _, outcome := range repairOutcomes() {
		m.repairs.total.WithLabelValues(condition, sop, outcome)
	}
	for _, counter := range []*prometheus.CounterVec{m.repairs.firstTime, m.repairs.unattended, m.repairs.falseAlarms} {
		counter.WithLabelValues(condition, sop)
	}
	for _, outcome := range []string{repairResolved, repairHandedOver} {
		m.repairs.seconds.WithLabelValues(condition, outcome)
	}
}

func (m *Metrics) repaired(t tally) {
	m.expect(t.condition, t.sop)
	m.repairs.total.WithLabelValues(t.condition, t.sop, t.outcome).Inc()
	m.repairs.seconds.WithLabelValues(t.condition, t.outcome).Observe(t.took.Seconds())
	if t.firstTime {
		m.repairs.firstTime.WithLabelValues(t.condition, t.sop).Inc()
	}
	if t.unattended {
		m.repairs.unattended.WithLabelValues(t.condition, t.sop).Inc()
	}
	if t.falseAlarm {
		m.repairs.falseAlarms.WithLabelValues(t.condition, t.sop).Inc()
	}
}

func (m *Metrics) isolated(band prom.Band, took time.Duration) {
	m.repairs.isolation.WithLabelValues(string(band)).Observe(max(0, took).Seconds())
}

func (m *Metrics) returned(band prom.Band, took time.Duration) {
	m.repairs.outage.WithLabelValues(string(band)).Observe(max(0, took).Seconds())
}

// actionMetrics count the steps by what they do.
type actionMetrics struct {
	total   *prometheus.CounterVec
	seconds *prometheus.HistogramVec
}

func newActionMetrics(factory promauto.Factory) actionMetrics {
	m := actionMetrics{
		total: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "aegis_step_total",
			Help: "Steps that ended: succeeded, failed, or canceled, which is not carried out or not to its end.",
		}, []string{"action", "outcome"}),
		seconds: factory.NewHistogramVec(durations("aegis_step_seconds",
			"Time from the beginning of a step to its end, in whichever processes. The wait for permission is not in it."), []string{"action", "outcome"}),
	}
	for _, action := range append(ticket.Actions(), noteStep) {
		for _, status := range []ticket.StepStatus{ticket.Succeeded, ticket.Failed, ticket.Canceled} {
			m.total.WithLabelValues(string(action), outcomeLabel(status))
		}
		// The first step of an action is an increase as well.
		m.seconds.WithLabelValues(string(action), outcomeLabel(ticket.Succeeded))
	}
	return m
}

// outcomeLabel returns the status of a step as a label.
func outcomeLabel(s ticket.StepStatus) string { return strings.ToLower(string(s)) }

// step counts a step that has ended after that time.
func (m *Metrics) step(action ticket.Action, s ticket.StepStatus, took time.Duration) {
	name := string(action)
	if action != noteStep && !slices.Contains(ticket.Actions(), action) {
		name = otherLabel
	}
	m.steps.WithLabelValues(name, string(s)).Inc()
	m.action.total.WithLabelValues(name, outcomeLabel(s)).Inc()
	m.action.seconds.WithLabelValues(name, outcomeLabel(s)).Observe(max(0, took).Seconds())
}
