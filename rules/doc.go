// Package rules holds the catalogue of conditions and turns alerts into statuses of nodes.
//
// # Catalogue
//
// A Catalogue is loaded from YAML: the embedded files of the folder catalogue, and the files of a site, which override
// them field by field. Loading is strict, because a misspelt limit must not become the default limit, and it reports
// every mistake of every file at once. A Catalogue is immutable; a Store swaps it atomically.
//
// # Matching
//
// An alert belongs to the condition whose match it satisfies. When there are several, the one with the lowest priority
// number wins, then the one whose name sorts first. Conditions are found by a hash of one label that their match
// compares for equality, `condition` or `alertname` before others. Only a match without any such label is tried on
// every alert.
//
// # Nodes
//
// A wrong node is worse than no node, so a Classifier names one only when it is certain:
//
//   - The label `node` decides alone when it is not empty, right or wrong.
//   - Otherwise the configured labels are tried in order. A value that names no node lets the next label try; one
//     that fits several nodes ends the search.
//   - The label `instance` is the address of what was scraped, so it is used only when no label before it has a value.
//   - It is not used at all for an alert from kube-state-metrics, and neither is `kubernetes_node`: both say where the
//     exporter runs, and the fault is elsewhere.
//
// The value is compared with the names, host names and addresses of the nodes that exist, with and without a port.
//
// # Hostile input
//
// Labels and annotations are written by whoever can reach Alertmanager. Their size is limited, names of conditions and
// devices are checked, texts lose their control characters, and nothing is interpreted as a pattern or a query.
package rules
