package prom

import "cmp"

// LabelCluster is the label that names the cluster of an alert, unless the configuration says another one.
const LabelCluster = "cluster"

// Cluster says which alerts are those of this cluster. Prometheus adds its external labels only to what it sends away: alerts at
// Alertmanager, in a global Thanos or Mimir have them, the ALERTS of the Prometheus itself do not. An alert without the label says nothing.
type Cluster struct {
	// Label is the label that names the cluster. Empty means LabelCluster.
	Label string
	// Name is what alerts of this cluster have there. Empty means that nobody has said it.
	Name string
}

// LabelName returns the label that names the cluster.
func (c Cluster) LabelName() string { return cmp.Or(c.Label, LabelCluster) }

// Of returns the cluster that the labels name, empty if they name none.
func (c Cluster) Of(labels map[string]string) string { return labels[c.LabelName()] }

// Other reports whether the labels name another cluster than this one.
func (c Cluster) Other(labels map[string]string) bool {
	of := c.Of(labels)
	return of != "" && c.Name != "" && of != c.Name
}
