package rules

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"k8s.io/utils/clock"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/strict"
)

// The limits of the labels of an alert.
const (
	maxLabels     = 128
	maxLabelName  = 256
	maxLabelValue = 4 << 10
	// maxFingerprint is more than the 16 bytes that Alertmanager needs.
	maxFingerprint = 64
)

// Labels that say where an alert comes from.
const (
	labelNode           = "node"
	labelInstance       = "instance"
	labelKubernetesNode = "kubernetes_node"
	labelExportedNode   = "exported_node"
)

// labelID names the device of a finding whose source and condition say nothing else.
const labelID = "id"

// exporterOfOthers is an exporter whose own address says nothing about the node at fault.
const exporterOfOthers = "kube-state-metrics"

// The reasons why an alert is dropped.
const (
	DropNoAlertname   = "no_alertname"
	DropNotACondition = "not_a_condition"
	DropNoNode        = "no_node"
	DropUnknownNode   = "unknown_node"
	DropAmbiguousNode = "ambiguous_node"
	DropOtherCluster  = "other_cluster"
	DropLabelTooLong  = "label_too_long"
	DropInvalid       = "invalid"
)

// DropReasons returns the closed set of reasons.
func DropReasons() []string {
	return []string{
		DropNoAlertname, DropNotACondition, DropNoNode, DropUnknownNode, DropAmbiguousNode, DropOtherCluster,
		DropLabelTooLong, DropInvalid,
	}
}

// Drop is the reason why an alert becomes no observation.
type Drop struct {
	// Reason is one of DropReasons.
	Reason string
	// Detail says more, for people. It is short, also when the alert is not.
	Detail string
}

// Error returns the reason and the detail.
func (d *Drop) Error() string {
	if d.Detail == "" {
		return d.Reason
	}
	return d.Reason + ": " + d.Detail
}

func newDrop(reason, format string, args ...any) *Drop {
	return &Drop{Reason: reason, Detail: fmt.Sprintf(format, args...)}
}

// ClassifierOptions says what a Classifier works with.
type ClassifierOptions struct {
	// Store holds the catalogue.
	Store *Store
	// Nodes are the nodes that exist.
	Nodes *NodeIndex
	// NodeLabels are the labels that may name the node when the label node does not, in order. Nil stands for
	// DefaultNodeLabels.
	NodeLabels []string
	// Cluster says which alerts are of this cluster. Without a name every alert is accepted, and whoever acts on them has to find out
	// whether they are of several.
	Cluster prom.Cluster
	// Logger is told of each alias that is used, once. Nil discards.
	Logger *slog.Logger
	// Clock tells whether an alert has ended. Nil means the wall clock.
	Clock clock.PassiveClock
}

// Classifier turns alerts into observations.
type Classifier struct {
	store      *Store
	nodes      *NodeIndex
	nodeLabels []string
	cluster    prom.Cluster
	logger     *slog.Logger
	clock      clock.PassiveClock
	// warned holds the aliases that were warned of.
	warned sync.Map
}

// DefaultNodeLabels returns the labels that may name the node when the label node does not, in order.
func DefaultNodeLabels() []string {
	return []string{"Hostname", "hostname", labelKubernetesNode, "nodename", labelExportedNode, labelInstance}
}

// NewClassifier returns a Classifier.
func NewClassifier(o ClassifierOptions) *Classifier {
	labels := o.NodeLabels
	if labels == nil {
		labels = DefaultNodeLabels()
	}
	return &Classifier{
		store:      o.Store,
		nodes:      o.Nodes,
		nodeLabels: labels,
		cluster:    o.Cluster,
		logger:     cmp.Or(o.Logger, slog.New(slog.DiscardHandler)).With("component", "rules"),
		clock:      cmp.Or[clock.PassiveClock](o.Clock, clock.RealClock{}),
	}
}

// warnOfAlias tells once of each alias that alerts use. The aliases are those of the catalogue, so that nobody can make it tell
// more than that.
func (r *Classifier) warnOfAlias(e *entry, labels map[string]string) {
	for _, label := range []string{labelCondition, labelAlertname} {
		alias := labels[label]
		if !slices.Contains(e.Aliases, alias) {
			continue
		}
		if _, told := r.warned.LoadOrStore(alias, true); !told {
			r.logger.Warn("alerts use another name of a condition", "alias", alias, "condition", e.Name, "alertname", labels[labelAlertname])
		}
		return
	}
}

// Classify says what an alert reports. The error is a *Drop.
func (r *Classifier) Classify(a prom.Alert) (prom.Observation, error) {
	status, drop := r.status(a)
	if drop != nil {
		return prom.Observation{}, drop
	}
	now := r.clock.Now()
	status.PciBdf = pciOf(a.Labels)
	status.Msg = message(a.Annotations)
	status.Value = strict.Clean(a.Annotations["value"], maxValueRunes)
	status.FirstSeen, status.LastSeen = a.StartsAt, now
	status.Origin = prom.OriginAlert
	return prom.Observation{
		Fingerprint: fingerprint(a),
		Status:      status,
		Firing:      firing(a, now),
		StartsAt:    a.StartsAt,
		Labels:      a.Labels,
	}, nil
}

// status returns the status that the alert names: the condition first, because most alerts that are not ours are told
// by it.
func (r *Classifier) status(a prom.Alert) (prom.AegisNodeStatus, *Drop) {
	labels := a.Labels
	if drop := checkLabels(labels); drop != nil {
		return prom.AegisNodeStatus{}, drop
	}
	status, drop := r.condition(a)
	if drop != nil {
		return prom.AegisNodeStatus{}, drop
	}
	if r.cluster.Other(labels) {
		return prom.AegisNodeStatus{}, newDrop(DropOtherCluster, "the alert is of cluster %s", strict.Quote(r.cluster.Of(labels)))
	}
	status.Node, drop = r.node(a)
	if drop != nil {
		return prom.AegisNodeStatus{}, drop
	}
	return status, nil
}

// checkLabels refuses labels that no exporter has.
func checkLabels(labels map[string]string) *Drop {
	if len(labels) > maxLabels {
		return newDrop(DropInvalid, "%d labels, at most %d are read", len(labels), maxLabels)
	}
	for name, value := range labels {
		switch {
		case len(name) > maxLabelName:
			return newDrop(DropLabelTooLong, "the name of a label has %d bytes", len(name))
		case len(value) > maxLabelValue:
			return newDrop(DropLabelTooLong, "label %s has %d bytes", strict.Quote(name), len(value))
		case name == "" || !utf8.ValidString(name) || !utf8.ValidString(value):
			return newDrop(DropInvalid, "label %s is not valid UTF-8, or has no name", strict.Quote(name))
		}
	}
	if labels[labelAlertname] == "" {
		return newDrop(DropNoAlertname, "")
	}
	return nil
}

// condition returns the status of the condition that the alert belongs to, without its node.
func (r *Classifier) condition(a prom.Alert) (prom.AegisNodeStatus, *Drop) {
	catalogue, labels := r.store.Current(), a.Labels
	if a.Subject != nil {
		return catalogue.subject(*a.Subject, labels)
	}
	if e := catalogue.match(labels); e != nil {
		r.warnOfAlias(e, labels)
		device, drop := e.device(labels)
		return catalogue.withXID(e.status("", device), xidOf(labels)), drop
	}
	name := labels[labelCondition]
	if name == "" {
		return prom.AegisNodeStatus{}, newDrop(DropNotACondition, "alert %s", strict.Quote(labels[labelAlertname]))
	}
	if err := checkName(name); err != nil {
		return prom.AegisNodeStatus{}, newDrop(DropInvalid, "condition %s: %v", strict.Quote(name), err)
	}
	// As an unknown condition it would be taken for the one whose match has just refused it.
	if e := catalogue.lookup(name); e != nil {
		return prom.AegisNodeStatus{}, newDrop(DropNotACondition, "the match of condition %s excludes the alert", e.Name)
	}
	return unknownStatus("", name, ""), nil
}

// subject returns the status of the condition that a configuration names, whatever the match of the condition says of alerts.
func (c *Catalogue) subject(s prom.Subject, labels map[string]string) (prom.AegisNodeStatus, *Drop) {
	if err := checkName(s.Condition); err != nil {
		return prom.AegisNodeStatus{}, newDrop(DropInvalid, "condition %s: %v", strict.Quote(s.Condition), err)
	}
	e := c.lookup(s.Condition)
	if e == nil {
		return unknownStatus("", s.Condition, ""), nil
	}
	known := e.Condition
	if s.DeviceLabel != "" {
		known.IDLabel = s.DeviceLabel
	}
	device, drop := known.device(labels)
	if device == "" && drop == nil && s.DeviceLabel == "" {
		known.IDLabel = labelID
		device, drop = known.device(labels)
	}
	return c.withXID(e.status("", device), xidOf(labels)), drop
}

// Node returns the node that the labels name, as those of an alert do. The error is a *Drop.
func (r *Classifier) Node(labels map[string]string) (string, error) {
	name, drop := r.node(prom.Alert{Labels: labels})
	if drop != nil {
		return "", drop
	}
	return name, nil
}

// node returns the node that the alert names.
func (r *Classifier) node(a prom.Alert) (string, *Drop) {
	labels := a.Labels
	if a.Subject != nil && a.Subject.NodeLabel != "" {
		if value := labels[a.Subject.NodeLabel]; value != "" {
			return r.lookup(a.Subject.NodeLabel, value)
		}
		return "", newDrop(DropNoNode, "label %s is empty", strict.Quote(a.Subject.NodeLabel))
	}
	if value := labels[labelNode]; value != "" {
		return r.scraped(labels, value)
	}
	var last *Drop
	ofOthers := fromExporterOfOthers(labels)
	for _, label := range r.nodeLabels {
		value := labels[label]
		if value == "" || ofOthers && (label == labelInstance || label == labelKubernetesNode) {
			continue
		}
		if label == labelInstance && last != nil {
			continue
		}
		name, drop := r.lookup(label, value)
		if drop == nil || drop.Reason != DropUnknownNode {
			return name, drop
		}
		last = drop
	}
	if last == nil {
		last = newDrop(DropNoNode, "no label names the node of alert %s", strict.Quote(labels[labelAlertname]))
	}
	return "", last
}

// scraped tells the node that a metric is about from the one that its exporter runs on. Where a scrape does not honor the labels of its
// target, Prometheus keeps the node of the metric as exported_node, and node is the exporter's own.
func (r *Classifier) scraped(labels map[string]string, node string) (string, *Drop) {
	exported := labels[labelExportedNode]
	if exported == "" || exported == node {
		return r.lookup(labelNode, node)
	}
	about, drop := r.lookup(labelExportedNode, exported)
	if fromExporterOfOthers(labels) {
		return about, drop
	}
	if drop != nil && drop.Reason == DropUnknownNode {
		return r.lookup(labelNode, node)
	}
	own, ownDrop := r.lookup(labelNode, node)
	switch {
	case drop != nil:
		return "", drop
	case ownDrop != nil || own == about:
		return own, ownDrop
	}
	return "", newDrop(DropAmbiguousNode, "label %s is %s and label %s is %s: set honorLabels on the scrape, or drop one by relabeling",
		labelNode, strict.Quote(node), labelExportedNode, strict.Quote(exported))
}

func (r *Classifier) lookup(label, value string) (string, *Drop) {
	name, err := r.nodes.Lookup(value)
	switch {
	case errors.Is(err, ErrAmbiguousNode):
		return "", newDrop(DropAmbiguousNode, "label %s: %v", label, err)
	case err != nil:
		return "", newDrop(DropUnknownNode, "label %s: %v", label, err)
	}
	return name, nil
}

// fromExporterOfOthers reports whether the alert is made of metrics of kube-state-metrics, by any label that tells.
func fromExporterOfOthers(labels map[string]string) bool {
	for _, label := range []string{"job", "container", "service", "pod", "app", "app_kubernetes_io_name"} {
		if strings.Contains(strings.ToLower(labels[label]), exporterOfOthers) {
			return true
		}
	}
	return strings.HasPrefix(labels["__name__"], "kube_")
}

// fingerprint returns the alert's own fingerprint, or computes it when it has none that could be one.
func fingerprint(a prom.Alert) string {
	if a.Fingerprint == "" || len(a.Fingerprint) > maxFingerprint || !printable(a.Fingerprint) {
		return prom.Fingerprint(a.Labels)
	}
	return a.Fingerprint
}

// firing reports whether the alert says that its condition holds. An end in the past outweighs the state.
func firing(a prom.Alert, now time.Time) bool {
	if !a.EndsAt.IsZero() && !a.EndsAt.After(now) {
		return false
	}
	switch a.State {
	case prom.StatePending, prom.StateFiring, prom.StateActive, prom.StateSuppressed:
		return true
	default:
		return false
	}
}
