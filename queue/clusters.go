package queue

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"aegis.io/aegis/rules"
	"aegis.io/aegis/rules/prom"
)

// maxClustersNamed is how many clusters a sentence names.
const maxClustersNamed = 4

// membership is which clusters the alerts of one answer are of.
type membership struct {
	names map[string]bool
	// named and unnamed say that there are canaries with the label of the cluster, and without.
	named, unnamed bool
}

// clusters tells whether the alerts may be of several clusters, as long as nobody has said which one this is. Nodes of two clusters often
// have the same names. It belongs to the passes, which never overlap: each source counts with its last answer, also while it is silent.
type clusters struct {
	label    prom.Cluster
	unknown  bool // Nobody has said which one this is.
	canaries map[string]bool
	sources  map[string]membership
}

func newClusters(o ResyncOptions) *clusters {
	c := &clusters{label: o.Cluster, unknown: o.Cluster.Name == "", canaries: make(map[string]bool), sources: make(map[string]membership)}
	for _, name := range o.Canaries {
		c.canaries[name] = name != ""
	}
	return c
}

// hear takes the clusters of an answer: of its canaries, of which each Prometheus sends one, and of the alerts that name a condition, on
// whatever node. Other alerts do not count, because some exporters call something else a cluster.
func (c *clusters) hear(source string, kind sourceKind, alerts []prom.Alert, classifier Classifier) {
	if !c.unknown {
		return
	}
	t := membership{names: make(map[string]bool)}
	for _, a := range alerts {
		of, canary := c.label.Of(a.Labels), c.canaries[a.Labels[labelAlertname]]
		if canary && kind == sourcePrometheus {
			t.named, t.unnamed = t.named || of != "", t.unnamed || of == ""
		}
		if of == "" || t.names[of] || !canary && !namesCondition(classifier, a) {
			continue
		}
		t.names[of] = true
	}
	c.sources[source] = t
}

// namesCondition reports whether the alert is about a condition, also on a node that does not exist here.
func namesCondition(classifier Classifier, a prom.Alert) bool {
	_, err := classifier.Classify(a)
	if drop, ok := errors.AsType[*rules.Drop](err); ok {
		return slices.Contains([]string{rules.DropNoNode, rules.DropUnknownNode, rules.DropAmbiguousNode}, drop.Reason)
	}
	return err == nil
}

// seen sums up what the sources have told of clusters.
func (c *clusters) seen() clusterView {
	v := clusterView{label: c.label.LabelName(), unknown: c.unknown}
	names := make(map[string]bool)
	for _, source := range slices.Sorted(maps.Keys(c.sources)) {
		t := c.sources[source]
		maps.Copy(names, t.names)
		if t.named && t.unnamed && v.mixed == "" {
			v.mixed = source
		}
	}
	v.names = slices.Sorted(maps.Keys(names))
	return v
}

// clusterView is what a pass knows of clusters. It does not change.
type clusterView struct {
	label   string
	unknown bool
	names   []string
	// mixed is a source that has canaries with the label, and without.
	mixed string
}

// doubt says why alerts may be of another cluster than this one, given the clusters that the alerts of a status name, and whether the
// sources are silent about it. Empty means that they are not.
func (v clusterView) doubt(own []string, silent bool) string {
	if !v.unknown {
		return ""
	}
	names := slices.Concat(v.names, own)
	slices.Sort(names)
	names = slices.Compact(names)
	switch {
	case len(names) > 1:
		return fmt.Sprintf("alerts have several values of the label %s, %s: set cluster in aegis.yaml to the value of this cluster", v.label, quoted(names))
	case v.mixed != "":
		return fmt.Sprintf("%s has canary alerts with the label %s and without it, so it sees several clusters: "+
			"give each Prometheus an external label %[2]s, and set cluster in aegis.yaml to the value of this cluster", v.mixed, v.label)
	case silent && len(own) > len(v.names): // Nothing but a webhook, after a restart.
		return fmt.Sprintf("the alert has the value %s of the label %s, which no source has told of: "+
			"set cluster in aegis.yaml to the value of this cluster", quoted(own), v.label)
	}
	return ""
}

// quoted lists names.
func quoted(names []string) string {
	var shown []string
	for _, name := range names[:min(len(names), maxClustersNamed)] {
		shown = append(shown, fmt.Sprintf("%.64q", name))
	}
	if more := len(names) - len(shown); more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(shown, ", "), more)
	}
	return strings.Join(shown, " and ")
}
