package source

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"aegis.io/aegis/rules/prom"
)

const (
	// metricEvidence is what rules record of each exporter and node: the time of the newest sample that the exporter had of the node.
	metricEvidence = "aegis:evidence"
	// labelSource names the exporter in it.
	labelSource = "source"
	// EvidenceMemory is how long an exporter that has gone silent is asked for.
	EvidenceMemory = time.Hour
	// nodesAtOnce is how many nodes one query names.
	nodesAtOnce = 200
)

// EvidenceRequest says of which nodes evidence is wanted.
type EvidenceRequest struct {
	// Names are the names of the nodes, in every form that a label may have.
	Names []string
	// Selectors select series that prove by themselves that their node is seen.
	Selectors []string
}

// Sighting says when a Prometheus had a sample of a node last.
type Sighting struct {
	// Labels name the node.
	Labels map[string]string
	// Source is the exporter, or the selector that was asked for. Empty stands for a target that was up.
	Source string
	// Age is how old the newest sample is, on the clock of the server.
	Age time.Duration
}

// Evidence returns what the server has seen of the nodes within the last hour. An error means that nothing is known.
func (p *Prometheus) Evidence(ctx context.Context, r EvidenceRequest) ([]Sighting, error) {
	var all []Sighting
	for chunk := range slices.Chunk(r.Names, nodesAtOnce) {
		seen, err := p.sightings(ctx, evidenceQuery(p.cluster, chunk), func(labels map[string]string) string { return labels[labelSource] })
		if err != nil {
			return nil, fmt.Errorf("ask which nodes are seen: %w", err)
		}
		all = append(all, seen...)
	}
	for _, selector := range r.Selectors {
		seen, err := p.sightings(ctx, "timestamp("+selector+")", func(map[string]string) string { return selector })
		if err != nil {
			return nil, fmt.Errorf("ask which nodes are seen by %s: %w", quote(selector), err)
		}
		all = append(all, seen...)
	}
	return all, nil
}

// evidenceQuery asks for recorded evidence of the nodes, and for their targets that are up. A port may follow a name.
func evidenceQuery(cluster prom.Cluster, names []string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = regexp.QuoteMeta(name)
	}
	on := "node=~" + strconv.Quote("(?i:"+strings.Join(quoted, "|")+")(:[0-9]+)?")
	return fmt.Sprintf("last_over_time(%[1]s{%[2]s}[%[3]s]) or max by (node, %[4]s) (timestamp(up{%[2]s}) and up{%[2]s} == 1)",
		metricEvidence, on, strconv.Itoa(int(EvidenceMemory.Minutes()))+"m", cluster.LabelName())
}

// sightings evaluates a query whose values are times.
func (p *Prometheus) sightings(ctx context.Context, query string, sourceOf func(map[string]string) string) ([]Sighting, error) {
	elements, err := p.elements(ctx, query)
	if err != nil {
		return nil, err
	}
	seen := make([]Sighting, 0, len(elements))
	for _, e := range elements {
		evaluatedAt, at, err := e.times()
		if err != nil {
			continue // What has no time is no sign of anything.
		}
		seen = append(seen, Sighting{Labels: e.Metric, Source: sourceOf(e.Metric), Age: p.age(sample{at: at, evaluatedAt: evaluatedAt})})
	}
	return seen, nil
}
