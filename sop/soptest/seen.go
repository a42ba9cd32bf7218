package soptest

import (
	"time"

	"aegis.io/aegis/rules/prom"
)

// PrometheusEmpty is while Prometheus has restarted without its data: it answers, and knows of no node.
const PrometheusEmpty = "Prometheus empty"

// UnseenOf returns the state of the cluster in which the exporters of the node are lost.
func UnseenOf(node string) string { return "exporters of " + node + " lost" }

// ElsewhereOf returns the state in which the alerts of the node come from a Prometheus that nobody asks. The one that is asked sees the node.
func ElsewhereOf(node string) string { return "alerts of " + node + " elsewhere" }

// Sees reports whether Prometheus has samples of the node.
func (c *Cluster) Sees(node string) bool {
	return c.Nodes[node] != nil && !c.On(PrometheusEmpty) && !c.On(UnseenOf(node))
}

// Overlooks reports whether Prometheus lacks alerts of a node that has not been deleted.
func (c *Cluster) Overlooks() bool {
	for node := range c.Nodes {
		if !c.evaluates(node) {
			return true
		}
	}
	return len(c.stops) > 0
}

// evaluates reports whether the Prometheus that is asked has the alerts of the node.
func (c *Cluster) evaluates(node string) bool { return c.Sees(node) && !c.On(ElsewhereOf(node)) }

// lists returns since when Alertmanager lists the alert. It forgets what no Prometheus sends any more.
func (c *Cluster) lists(key prom.Key, f *Fault) time.Time {
	for _, state := range []string{PrometheusEmpty, UnseenOf(key.Node)} {
		if c.On(state) && time.Since(c.Began(state)) >= f.pace.Listed {
			return time.Time{}
		}
	}
	if s := c.stops[key.Condition]; s != nil {
		return s.lists(key, f)
	}
	return f.Listed()
}
