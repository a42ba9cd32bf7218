package source

import (
	"context"
	"fmt"
	"math"
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
	labelJob    = "job"
	// labelDown marks targets of the nodes that are down.
	labelDown = "aegis_down"
	// EvidenceMemory is how long an exporter that has gone silent is asked for at least.
	EvidenceMemory = time.Hour
	// maxEvidenceMemory is how long one is asked for at most.
	maxEvidenceMemory = 7 * 24 * time.Hour
	// nodesAtOnce is how many nodes one query names.
	nodesAtOnce = 200
)

// EvidenceRequest says of which nodes evidence is wanted.
type EvidenceRequest struct {
	// Names are the names of the nodes, in every form that a label may have.
	Names []string
	// Selectors select series that prove by themselves that their node is seen.
	Selectors []string
	// Memory is for how long exporters that have gone silent are asked for. Less than an hour stands for an hour.
	Memory time.Duration
}

// Sighting says when a Prometheus had a sample of a node last.
type Sighting struct {
	// Labels name the node.
	Labels map[string]string
	// Source is the exporter, or the selector that was asked for. Empty stands for a target of Prometheus.
	Source string
	// Job is that of the target. All targets of the job on the node are down where Down is set.
	Job  string
	Down bool
	// Age is how old the newest sample is, on the clock of the server.
	Age time.Duration
}

// Evidence returns what the server has seen of the nodes within the time that is asked for. An error means that nothing is known.
func (p *Prometheus) Evidence(ctx context.Context, r EvidenceRequest) ([]Sighting, error) {
	var all []Sighting
	for chunk := range slices.Chunk(r.Names, nodesAtOnce) {
		label := func(labels map[string]string) string { return labels[labelSource] }
		seen, err := p.sightings(ctx, evidenceQuery(p.cluster, chunk, r.Memory), label)
		if err != nil {
			return nil, fmt.Errorf("ask which nodes are seen: %w", err)
		}
		all = append(all, seen...)
	}
	for _, selector := range r.Selectors {
		seen, err := p.sightings(ctx, selectorQuery(selector), func(map[string]string) string { return selector })
		if err != nil {
			return nil, fmt.Errorf("ask which nodes are seen by %s: %w", quote(selector), err)
		}
		all = append(all, seen...)
	}
	return all, nil
}

// evidenceQuery asks for recorded evidence of the nodes, and for their targets, by job. A port may follow a name.
func evidenceQuery(cluster prom.Cluster, names []string, memory time.Duration) string {
	on := onNodes(names)
	within := min(max(memory, EvidenceMemory), maxEvidenceMemory)
	const targets = "max by (node, %[3]s, job) (timestamp(up{%[1]s}) and up{%[1]s} == %[2]d)"
	up, down := fmt.Sprintf(targets, on, 1, cluster.LabelName()), fmt.Sprintf(targets, on, 0, cluster.LabelName())
	return fmt.Sprintf("last_over_time(%s{%s}[%dm]) or %s or label_replace(%s unless %s, %q, \"true\", \"\", \"\")",
		metricEvidence, on, int(math.Ceil(within.Minutes())), up, down, up, labelDown)
}

// onNodes is the matcher of the label that names one of the nodes.
func onNodes(names []string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = regexp.QuoteMeta(name)
	}
	return "node=~" + strconv.Quote("(?i:"+strings.Join(quoted, "|")+")(:[0-9]+)?")
}

// selectorQuery asks when the series of a selector were sampled. A target that is down has a sample of up as well.
func selectorQuery(selector string) string {
	query := "timestamp(" + selector + ")"
	if e, err := ParseExpression(selector); err == nil && e.selects("up") {
		query += " and " + selector + " == 1"
	}
	return query
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
		s := Sighting{Labels: e.Metric, Source: sourceOf(e.Metric), Age: p.age(sample{at: at, evaluatedAt: evaluatedAt})}
		if s.Source == "" {
			s.Job, s.Down = e.Metric[labelJob], e.Metric[labelDown] != ""
		}
		seen = append(seen, s)
	}
	return seen, nil
}
