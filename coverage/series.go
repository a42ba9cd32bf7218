package coverage

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"aegis.io/aegis/queue/source"
)

// readByAlerts returns the selectors of the alerts, and of what is recorded for them.
func (s *server) readByAlerts() []source.Selector {
	var all []source.Selector
	for _, name := range slices.Sorted(maps.Keys(s.alerts)) {
		for _, r := range append(slices.Clone(s.alerts[name]), s.recordedFor(s.alerts[name])...) {
			all = append(all, s.selectorsOf(r)...)
		}
	}
	return all
}

// askFields asks which nodes have the fields of GPUs that the alerts read.
func (a *asker) askFields(ctx context.Context, p *source.Prometheus, s *server) error {
	var parts []part
	for _, selector := range s.readByAlerts() {
		if name := selector.Metric(); strings.HasPrefix(name, fieldPrefix) && s.fields[name] == nil {
			s.fields[name] = make(map[string]bool)
			parts = append(parts, part{selector: name, text: selector.AnyLabels()})
		}
	}
	err := ask(ctx, p, parts, a.atOnce(), "group by (Hostname, hostname, "+a.byClause+")", func(part part, sample source.Sample) {
		if node := a.fieldOf(sample); node != "" {
			s.fields[part.selector][node] = true
		}
	})
	if err != nil {
		return fmt.Errorf("ask for the fields of GPUs: %w", err)
	}
	return nil
}

// atOnce returns how many parts with a row for each node one query may have.
func (a *asker) atOnce() int { return max(1, min(partsAtOnce, maxRows/max(1, len(a.nodes)))) }

// fieldOf returns the node of a field. Its name is where the rules of the chart look for it.
func (a *asker) fieldOf(sample source.Sample) string {
	if a.o.Cluster.Other(sample.Labels) {
		return ""
	}
	for _, label := range []string{"hostname", "Hostname", labelNode} {
		if sample.Labels[label] == "" {
			continue
		}
		node, err := a.index.Lookup(sample.Labels[label])
		if err != nil {
			return ""
		}
		return node
	}
	return ""
}

// everyNode stands for all nodes where a recorded series is of none.
const everyNode = ""

// recordedName reports whether the query is of series with the name of recorded ones, which have a colon in it. A pattern is no name.
func recordedName(name string) bool {
	name, _, _ = strings.Cut(name, "{")
	return strings.Contains(name, ":")
}

// isSteady returns a query for series that are there all the time, faults or not, and reports whether the selector is of such ones: of
// collectors that are on, and of what others have recorded. A unit is there with all of its states, but of processes only the states that
// some are in.
func (s *server) isSteady(selector source.Selector) (query string, is bool) {
	name := selector.Metric()
	switch {
	case strings.HasPrefix(name, "node_systemd_unit_state"), recordedName(selector.AnyLabels()) && len(s.other[name]) == 0:
		return selector.String(), true
	case strings.HasPrefix(name, "node_processes_"), strings.HasPrefix(name, "node_pressure_"), strings.HasPrefix(name, "node_edac_"),
		strings.HasPrefix(name, "node_memory_"):
		return selector.AnyLabels(), true
	}
	return "", false
}

// askSteady asks which nodes have the series of collectors, and those that none of the rules of the server records.
func (a *asker) askSteady(ctx context.Context, p *source.Prometheus, s *server) error {
	var collected, recorded []part
	for _, selector := range s.readByAlerts() {
		text, is := s.isSteady(selector)
		if !is || s.steady[text] != nil {
			continue
		}
		s.steady[text] = make(map[string]bool)
		if recordedName(text) {
			recorded = append(recorded, part{selector: text, text: text})
		} else {
			collected = append(collected, part{selector: text, text: text})
		}
	}
	take := func(part part, sample source.Sample) {
		node, name := a.resolve(sample.Labels)
		everywhere := name == "" && recordedName(part.text)
		if (node != "" || everywhere) && !a.o.Cluster.Other(sample.Labels) {
			s.steady[part.selector][node] = true
		}
	}
	if err := ask(ctx, p, collected, a.atOnce(), "group by ("+a.byClause+")", take); err != nil {
		return fmt.Errorf("ask for the series of collectors: %w", err)
	}
	if err := ask(ctx, p, recorded, a.atOnce(), "group by ("+a.byLabels+")", take); err != nil {
		return fmt.Errorf("ask for recorded series: %w", err)
	}
	return nil
}

// recordedFor returns the rules that record what the rules read, and what those read.
func (s *server) recordedFor(read []source.LoadedRule) []source.LoadedRule {
	var all []source.LoadedRule
	done := make(map[string]bool)
	for range maxDepth {
		var next []source.LoadedRule
		for _, r := range read {
			for _, selector := range s.selectorsOf(r) {
				if name := selector.Metric(); !done[name] {
					done[name], next = true, append(next, s.other[name]...)
				}
			}
		}
		all, read = append(all, next...), next
	}
	return all
}

// expression returns the query of a rule, nil where it extends PromQL: the server evaluates it, and here it is not understood.
func (s *server) expression(r source.LoadedRule) *source.Expression {
	e, known := s.parsed[r.Query]
	if !known {
		if parsed, err := source.ParseExpression(r.Query); err == nil {
			e = &parsed
		}
		s.parsed[r.Query] = e
	}
	return e
}

func (s *server) selectorsOf(r source.LoadedRule) []source.Selector {
	e := s.expression(r)
	if e == nil {
		return nil
	}
	return e.Selectors()
}

// askCounts counts the series of the exporters that do not see each node: whether there are any, and how they name their node.
func (a *asker) askCounts(ctx context.Context, p *source.Prometheus, s *server) error {
	if err := ask(ctx, p, a.parts(s), partsAtOnce, "count by (job)", s.count); err != nil {
		return fmt.Errorf("count series: %w", err)
	}
	return nil
}

// part is a query for one selector.
type part struct {
	selector, kind, text string
}

// labelPart says in an answer which part it is of.
const labelPart = "aegis_part"

// ask asks for many parts in few queries, each aggregated, and takes what each yields.
func ask(ctx context.Context, p *source.Prometheus, parts []part, atOnce int, aggregated string, take func(part, source.Sample)) error {
	for chunk := range slices.Chunk(parts, atOnce) {
		queries := make([]string, len(chunk))
		for i, part := range chunk {
			queries[i] = fmt.Sprintf(`label_replace(%s (%s), %q, "%d", "", "")`, aggregated, part.text, labelPart, i)
		}
		samples, err := p.Vector(ctx, strings.Join(queries, " or "))
		if err != nil {
			return err
		}
		for _, sample := range samples {
			if i, err := strconv.Atoi(sample.Labels[labelPart]); err == nil && i >= 0 && i < len(chunk) {
				take(chunk[i], sample)
			}
		}
	}
	return nil
}

const (
	kindAny, kindWithoutNode, kindRenamed = "any", "without node", "renamed"
)

// parts returns what to count.
func (a *asker) parts(s *server) []part {
	var all []part
	asked := make(map[string]bool)
	for _, kind := range slices.Sorted(maps.Keys(s.records)) {
		if len(a.nodes) > 0 && s.fresh(kind, a.nodes) == len(a.nodes) {
			continue
		}
		for _, r := range s.records[kind] {
			for _, selector := range s.selectorsOf(r) {
				text := selector.String()
				if asked[text] {
					continue
				}
				asked[text] = true
				all = append(all, part{text, kindAny, text})
				if selector.Metric() != "up" {
					all = append(all, part{text, kindWithoutNode, selector.WithoutNode(nodeLabels(selector)...)})
				}
				if selector.HonorsLabels() {
					all = append(all, part{text, kindRenamed, selector.Renamed()})
				}
			}
		}
	}
	return all
}

// nodeLabels returns the labels that name the node of a series besides node.
func nodeLabels(s source.Selector) []string {
	if strings.HasPrefix(s.Metric(), fieldPrefix) {
		return []string{"Hostname", "hostname"}
	}
	return nil
}

func (s *server) count(p part, sample source.Sample) {
	c := s.counts[p.selector]
	switch p.kind {
	case kindAny:
		c.any += sample.Value
	case kindWithoutNode:
		c.withoutNode += sample.Value
	case kindRenamed:
		c.renamed += sample.Value
	}
	if job := sample.Labels[labelJob]; job != "" && p.kind != kindAny && !slices.Contains(c.jobs, job) {
		c.jobs = append(c.jobs, job)
	}
	s.counts[p.selector] = c
}

// fresh returns how many of the nodes the source sees.
func (s *server) fresh(kind string, nodes []string) int {
	var n int
	for _, node := range nodes {
		if s.sees(kind, node) {
			n++
		}
	}
	return n
}
