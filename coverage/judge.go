package coverage

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"aegis.io/aegis/queue/source"
	"aegis.io/aegis/rules"
	"aegis.io/aegis/rules/prom"
)

// Report says of each condition where it would be seen.
type Report struct {
	// Servers are those that were asked.
	Servers []string `json:"servers"`
	// Nodes is how many nodes there are, by what NodesFrom says.
	Nodes     int    `json:"nodes"`
	NodesFrom string `json:"nodesFrom"`
	// Notes say what limits the answer.
	Notes      []string    `json:"notes,omitempty"`
	Conditions []Condition `json:"conditions"`
}

// Condition says where a condition would be seen.
type Condition struct {
	Name string    `json:"condition"`
	Type string    `json:"type"`
	Mode prom.Mode `json:"mode"`
	// Nodes is how many nodes may have it, and Seen on how many of them it would be seen.
	Nodes int `json:"nodes"`
	Seen  int `json:"seen"`
	// Sources are what shows that a node is seen.
	Sources []Source `json:"sources,omitempty"`
	// Blind says where it would not be seen. Without says that the cluster does not have it, so that nobody looked.
	Blind   []Blind `json:"blind,omitempty"`
	Without bool    `json:"without,omitempty"`
}

// Source is an exporter with the number of the nodes that it sees.
type Source struct {
	Name string `json:"source"`
	Seen int    `json:"seen"`
}

// Blind are nodes on which a condition would not be seen. No nodes means that it is seen nowhere.
type Blind struct {
	Nodes []string `json:"nodes,omitempty"`
	Why   []Why    `json:"why"`
}

// Why is one reason, and what to set to mend it.
type Why struct {
	// Source is the exporter that it is about. Empty means that it is about the rule or the server.
	Source string `json:"source,omitempty"`
	Reason string `json:"reason"`
	Set    string `json:"set"`
	// server is the one that it is about where there are several, and since how long an exporter has been gone.
	server string
	since  span
}

// IsBlind reports whether the condition would not be seen somewhere.
func (c Condition) IsBlind() bool { return len(c.Blind) > 0 }

// BlindIn returns how many conditions in the mode would not be seen somewhere.
func (r Report) BlindIn(mode prom.Mode) int {
	var n int
	for _, c := range r.Conditions {
		if c.Mode == mode && c.IsBlind() {
			n++
		}
	}
	return n
}

func (a *asker) judge() Report {
	slices.Sort(a.nodes)
	r := Report{Nodes: len(a.nodes), NodesFrom: a.nodesFrom}
	for _, s := range a.servers {
		r.Servers = append(r.Servers, s.url)
		if s.problem != "" {
			a.notes = append(a.notes, a.prefix(s)+s.problem)
		}
	}
	for _, c := range a.o.Catalogue.Conditions() {
		r.Conditions = append(r.Conditions, a.condition(c))
	}
	a.noteHardware()
	r.Notes = a.notes
	return r
}

// prefix names the server where there are several.
func (a *asker) prefix(s *server) string {
	if len(a.servers) < 2 {
		return ""
	}
	return s.url + ": "
}

// noteHardware says what no node is known to have, so that each is expected to.
func (a *asker) noteHardware() {
	for _, kind := range slices.Sorted(maps.Keys(signs())) {
		types := slices.DeleteFunc(typesOf(kind), func(name string) bool { return slices.Contains(a.o.Without, name) })
		if len(a.hardware[kind]) == 0 && len(a.nodes) > 0 && len(types) > 0 {
			a.notes = append(a.notes, fmt.Sprintf("No node is known to have %s, so each is taken to have it. Where none has, set -without %s.", kind, strings.Join(types, ",")))
		}
	}
}

// nodesOf returns the nodes that may have a condition of the type.
func (a *asker) nodesOf(kind string) []string {
	have := a.hardware[hardwareOf(kind)]
	if len(have) == 0 {
		return a.nodes
	}
	return slices.DeleteFunc(slices.Clone(a.nodes), func(node string) bool { return !have[node] })
}

func (a *asker) condition(c rules.Condition) Condition {
	nodes := a.nodesOf(c.Type)
	result := Condition{Name: c.Name, Type: c.Type, Mode: c.Policy.Mode, Nodes: len(nodes)}
	if slices.Contains(a.o.Without, c.Type) || slices.Contains(a.o.Without, c.Name) {
		result.Without = true
		return result
	}
	result.Sources = a.sources(c, nodes)
	found := a.found(c)
	var blind groups
	for _, node := range nodes {
		why := a.why(c, node, found)
		if len(why) == 0 {
			result.Seen++
			continue
		}
		blind.add(node, why)
	}
	if result.Blind = blind.sorted(); len(nodes) == 0 {
		result.Blind = []Blind{{Why: []Why{a.noNodes()}}}
	}
	return result
}

// noNodes explains why no node is known.
func (a *asker) noNodes() Why {
	if a.o.Nodes != nil {
		return Why{Reason: "the API server of the kubeconfig lists no node", Set: "Name the kubeconfig of the cluster that Prometheus watches."}
	}
	return Why{Reason: "no node is known: neither kube_node_info nor any evidence has a label node", Set: mendNodes}
}

// sources counts the nodes that each source of the condition sees.
func (a *asker) sources(c rules.Condition, nodes []string) []Source {
	var all []Source
	for _, kind := range evidenceOf(c) {
		var n int
		for _, node := range nodes {
			if slices.ContainsFunc(a.servers, func(s *server) bool { return s.problem == "" && s.sees(kind, node) }) {
				n++
			}
		}
		all = append(all, Source{Name: kind, Seen: n})
	}
	for _, f := range a.o.Findings {
		if f.Condition == c.Name {
			all = append(all, Source{Name: "query " + f.Name, Seen: len(a.named(f))})
		}
	}
	return all
}

// sees reports whether the server has fresh evidence of the node. A condition without evidence takes any.
func (s *server) sees(kind, node string) bool {
	if age, ok := s.seen[kind][node]; ok && age <= s.maxAge {
		return true
	}
	return kind == anyTarget && s.seesAny(node, func(kind string) bool { return kind != anyTarget && !prom.IsSelector(kind) })
}

// seesAny reports whether the server has fresh evidence of the node of a kind that is wanted.
func (s *server) seesAny(node string, wanted func(kind string) bool) bool {
	for kind, nodes := range s.seen {
		if age, ok := nodes[node]; ok && age <= s.maxAge && wanted(kind) {
			return true
		}
	}
	return false
}

// found returns the nodes on which a query of the configuration would find the condition.
func (a *asker) found(c rules.Condition) map[string]bool {
	nodes := make(map[string]bool)
	for _, f := range a.o.Findings {
		if f.Condition == c.Name {
			maps.Copy(nodes, a.named(f))
		}
	}
	return nodes
}

func (a *asker) named(f Finding) map[string]bool {
	nodes := make(map[string]bool)
	for _, labels := range f.Labels {
		if node, _ := a.resolve(labels); node != "" {
			nodes[node] = true
		}
	}
	return nodes
}

// why says why the condition would not be seen on the node. Nothing means that it would: one server that would see it is enough.
func (a *asker) why(c rules.Condition, node string, found map[string]bool) []Why {
	if found[node] {
		return nil
	}
	var all []Why
	for _, s := range a.servers {
		why := s.why(a, c, node)
		if len(why) == 0 {
			return nil
		}
		for _, w := range why {
			w.server = a.prefix(s)
			all = append(all, w)
		}
	}
	for _, f := range a.o.Findings {
		if f.Condition == c.Name {
			all = append(all, Why{Source: "query " + f.Name, Reason: cmp.Or(f.Problem, "the query has no series of this node"), Set: mendSource})
		}
	}
	return all
}

// why says why this server would not see the condition on the node.
func (s *server) why(a *asker, c rules.Condition, node string) []Why {
	if s.problem != "" {
		return []Why{{Reason: s.problem, Set: mendCanary(s.canary)}}
	}
	if w := s.rule(c); w != nil {
		return []Why{*w}
	}
	seen := false
	for _, kind := range evidenceOf(c) {
		seen = seen || s.sees(kind, node)
	}
	if seen {
		return s.missing(c, node)
	}
	// Where the site has one of the exporters, those that it does not have at all are no matter.
	var all, had []Why
	for _, kind := range s.byReach(c, a.nodes) {
		all = append(all, s.unseen(kind, node))
		if s.has(kind) {
			had = append(had, all[len(all)-1])
		}
	}
	if len(had) > 0 {
		return had
	}
	return all
}

// has reports whether the server has, or had lately, series of the source, whatever they say of their node.
func (s *server) has(kind string) bool {
	return len(s.seen[kind]) > 0 || len(s.strange[kind]) > 0 || s.total(s.recordsOf(kind)) > 0
}

// byReach returns the evidence of the condition, what sees the most nodes first.
func (s *server) byReach(c rules.Condition, nodes []string) []string {
	kinds := slices.Clone(evidenceOf(c))
	for _, kind := range kinds {
		if _, known := s.reach[kind]; !known {
			s.reach[kind] = s.fresh(kind, nodes)
		}
	}
	slices.SortStableFunc(kinds, func(x, y string) int { return cmp.Compare(s.reach[y], s.reach[x]) })
	return kinds
}

// rule says what is wrong with the alerting rule of the condition.
func (s *server) rule(c rules.Condition) *Why {
	if s.noRules != "" {
		return nil
	}
	if len(s.alerts[c.Name]) == 0 {
		return &Why{Reason: "no alerting rule of this condition is loaded", Set: mendRules}
	}
	var last *Why
	for _, r := range s.alerts[c.Name] {
		reason, set := s.sick(r)
		if reason == "" {
			return nil
		}
		last = &Why{Reason: reason, Set: set}
	}
	return last
}

// sick says why a rule does not do its work.
func (s *server) sick(r source.LoadedRule) (reason, set string) {
	switch {
	case r.Failure != "":
		return fmt.Sprintf("%s fails: %s", called(r), r.Failure), "Mend the rule, or the series that it reads: the page of rules of Prometheus shows its error."
	case r.Evaluated.IsZero():
		return called(r) + " has not been evaluated yet", "Wait for an interval of its group, and look again."
	case !s.now.IsZero() && s.now.Sub(r.Evaluated) > max(2*r.Interval+late, s.maxAge):
		return fmt.Sprintf("%s was last evaluated at %s", called(r), r.Evaluated.UTC().Format(time.RFC3339)),
			"Find out why Prometheus skips this group: prometheus_rule_group_iterations_missed_total, and the load of the server."
	}
	return "", ""
}

// called names a rule for people.
func called(r source.LoadedRule) string {
	if r.Records {
		return fmt.Sprintf("the rule that records %s in group %s", r.Name, r.Group)
	}
	return "the rule of alert " + r.Name
}

// fitOf returns the alerting rules of the condition that are evaluated and do not fail.
func (s *server) fitOf(condition string) []source.LoadedRule {
	fit, known := s.fit[condition]
	if !known {
		fit = slices.DeleteFunc(slices.Clone(s.alerts[condition]), func(r source.LoadedRule) bool { reason, _ := s.sick(r); return reason != "" })
		s.fit[condition] = fit
	}
	return fit
}

// unseen says why a source does not see the node.
func (s *server) unseen(kind, node string) Why {
	if age, ok := s.seen[kind][node]; ok {
		return s.gone(kind, age)
	}
	why, known := s.absent[kind]
	if !known {
		why.Source = kind
		why.Reason, why.Set = s.unheard(kind)
		s.absent[kind] = why
	}
	return why
}

// gone is of an exporter that had the node, and has it no more.
func (s *server) gone(kind string, age time.Duration) Why {
	why := Why{Source: kind, Set: mendGone, since: span{age, age}}
	if age > s.maxAge {
		why.Reason = fmt.Sprintf(", older than prometheus.maxAge (%s)", inWords(s.maxAge))
	}
	return why
}

// unheard says why a source has told nothing of a node within the last hour.
func (s *server) unheard(kind string) (reason, set string) {
	_, exporter := splitKind(kind)
	if prom.IsSelector(kind) {
		return "no fresh series of this node", mendLabel("")
	}
	records := s.recordsOf(kind)
	switch {
	case s.noRules != "":
		return "no series of aegis:evidence of this node", mendExporter(exporter)
	case len(records) == 0:
		return "no rule that records aegis:evidence of it is loaded", mendRules
	}
	for _, r := range records {
		if reason, set := s.sick(r); reason != "" {
			return reason, set
		}
	}
	reason, set = s.misnamed(kind, records)
	read := s.readBy(records)
	switch {
	case s.reach[kind] > 0 && reason != "":
		// The exporter names other nodes well, so that these series may be of machines outside of the cluster.
		return fmt.Sprintf("no series of %s of this node (%s: perhaps of other machines)", read, reason), mendExporter(exporter)
	case reason != "":
		return reason, set
	case len(s.seen[kind]) == 0 && s.total(records) == 0:
		return "no series of " + read, mendExporter(exporter)
	}
	return "no series of " + read + " of this node", mendExporter(exporter)
}

// misnamed says how the series of a source fail to name their node.
func (s *server) misnamed(kind string, records []source.LoadedRule) (reason, set string) {
	_, exporter := splitKind(kind)
	for _, r := range records {
		for _, selector := range s.selectorsOf(r) {
			c := s.counts[selector.String()]
			slices.Sort(c.jobs)
			of := fmt.Sprintf("%s (job %s)", selector.Metric(), cmp.Or(strings.Join(c.jobs, ", "), "unknown"))
			switch {
			case c.renamed > 0:
				return fmt.Sprintf("%.0f series of %s have the label exported_node: the scrape does not honor labels", c.renamed, of), mendHonor
			case c.withoutNode > 0:
				return fmt.Sprintf("%.0f series of %s have no label node", c.withoutNode, of), mendLabel(exporter)
			}
		}
	}
	if names := s.strange[kind]; len(names) > 0 {
		return fmt.Sprintf("its label node does not match any node (for example %q)", slices.Min(names)), mendLabel(exporter)
	}
	return "", ""
}

// recordsOf returns the rules that record the evidence. Those of a site have one rule for all of their conditions.
func (s *server) recordsOf(kind string) []source.LoadedRule {
	if records := s.records[kind]; len(records) > 0 {
		return records
	}
	group, exporter := splitKind(kind)
	return slices.DeleteFunc(slices.Clone(s.records[""]), func(r source.LoadedRule) bool { return !strings.Contains(r.Query, group+"/"+exporter+"/") })
}

func (s *server) total(records []source.LoadedRule) float64 {
	var n float64
	for _, r := range records {
		for _, selector := range s.selectorsOf(r) {
			n += s.counts[selector.String()].any
		}
	}
	return n
}

// readBy returns what the rules read, for people.
func (s *server) readBy(records []source.LoadedRule) string {
	var texts []string
	for _, r := range records {
		for _, selector := range s.selectorsOf(r) {
			if text := selector.String(); !slices.Contains(texts, text) {
				texts = append(texts, text)
			}
		}
	}
	return strings.Join(texts, " or ")
}
