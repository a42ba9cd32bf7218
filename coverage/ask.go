// Package coverage says of each condition on which nodes a live Prometheus would see it, and where it would not, why.
package coverage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"aegis.io/aegis/queue/source"
	"aegis.io/aegis/rules"
	"aegis.io/aegis/rules/prom"
)

const (
	// maxRows bounds what one query may answer. Beyond that, it asks for fewer sources or metrics at once.
	maxRows = 50_000
	// partsAtOnce is how many selectors one query counts.
	partsAtOnce = 40
	labelNode   = "node"
	labelJob    = "job"
	// fieldPrefix is of series that dcgm-exporter has of each GPU all the time if they are in its list of counters, faults or not: the counts
	// of a window are 0 then. Only the totals are born with the first fault; beside them the rules read the counts.
	fieldPrefix = "DCGM_"
	evidence    = "aegis:evidence"
	// late is how much longer than two intervals a rule may not have been evaluated.
	late = 30 * time.Second
)

// Options say what is asked, and about what.
type Options struct {
	Servers   []*source.Prometheus
	Cluster   prom.Cluster
	Catalogue *rules.Catalogue
	// Nodes are those of the API server. Nil means those that Prometheus tells of.
	Nodes []Node
	// Findings are what the sources of the configuration find.
	Findings []Finding
	// NodeLabels are the labels that may name the node when the label node does not. Nil stands for rules.DefaultNodeLabels.
	NodeLabels []string
	// Without are types and conditions that the cluster does not have.
	Without []string
}

// Node is a node of the cluster.
type Node struct {
	rules.NodeInfo
	// GPUs says that it has GPUs.
	GPUs bool
}

// Finding is a query of the configuration that finds a condition, with the nodes that it tells of.
type Finding struct {
	Name, Condition string
	// Labels are those of its series.
	Labels []map[string]string
	// Problem is why it gives no answer. Empty means that it does.
	Problem string
}

// server is what one Prometheus has told.
type server struct {
	url     string
	canary  string
	maxAge  time.Duration
	now     time.Time
	problem string // Why its answers prove nothing.
	noRules string // Why it does not expose its rules.
	alerts  map[string][]source.LoadedRule
	// records are the rules that record evidence by source, and parsed their queries and those of the alerts.
	records map[string][]source.LoadedRule
	other   map[string][]source.LoadedRule
	// seen is when a source saw a node last, strange what it calls nodes that there are not.
	seen    map[string]map[string]time.Duration
	strange map[string][]string
	// fields are the nodes that have a field of GPUs, by its name or the pattern of that, and steady those that have the series of a query.
	fields, steady map[string]map[string]bool
	counts         map[string]count
	// What is worked out once: parsed queries, how many nodes a source sees, and why it sees none of the others.
	parsed map[string]*source.Expression
	reach  map[string]int
	absent map[string]Why
	lacks  map[string][]string
	fit    map[string][]source.LoadedRule
	kinds  map[string][]string // By the exporter.
	// assumed is a series that is taken to be there, to find out whether it is all that is lacking.
	assumed string
}

// count says how many series a selector has, and of which jobs.
type count struct {
	any, withoutNode, renamed float64
	jobs                      []string
}

// asker collects what is told.
type asker struct {
	o     Options
	index *rules.NodeIndex
	// classifier says which node labels name.
	classifier *rules.Classifier
	nodes      []string
	known      map[string]bool
	nodesFrom  string
	hardware   map[string]map[string]bool
	servers    []*server
	// byClause groups by what names a node in the rules of the chart, and byLabels by every label that may name one.
	byClause, byLabels string
	nodeLabels         []string
	notes              []string
}

// Ask asks the servers and judges the answers. An error means that one of them gave no answer.
func Ask(ctx context.Context, o Options) (Report, error) {
	a := newAsker(o)
	for _, p := range o.Servers {
		s, err := a.connect(ctx, p)
		if err != nil {
			return Report{}, err
		}
		a.servers = append(a.servers, s)
	}
	for _, step := range []func(context.Context, *source.Prometheus, *server) error{a.askNodes, a.askEvidence, a.askHardware, a.askFields, a.askSteady, a.askCounts} {
		for i, p := range o.Servers {
			if err := step(ctx, p, a.servers[i]); err != nil {
				return Report{}, fmt.Errorf("%s: %w", p.URL(), err)
			}
		}
		if a.nodesFrom == "" {
			a.settleNodes()
		}
	}
	return a.judge(), nil
}

func newAsker(o Options) *asker {
	names := o.NodeLabels
	if names == nil {
		names = rules.DefaultNodeLabels()
	}
	a := &asker{
		o: o, index: rules.NewNodeIndex(), known: make(map[string]bool), hardware: make(map[string]map[string]bool),
		byClause: labelNode + ", " + o.Cluster.LabelName(), nodeLabels: append([]string{labelNode}, names...),
	}
	a.classifier = rules.NewClassifier(rules.ClassifierOptions{Nodes: a.index, NodeLabels: o.NodeLabels, Cluster: o.Cluster})
	a.byLabels = strings.Join(append(slices.Clone(a.nodeLabels), o.Cluster.LabelName()), ", ")
	return a
}

// resolve returns the node that the labels name, as those of an alert do, empty if there is none of that name, and the name. Empty means that
// no label names one.
func (a *asker) resolve(labels map[string]string) (node, name string) {
	node, err := a.classifier.Node(labels)
	if err == nil {
		return node, node
	}
	for _, label := range a.nodeLabels {
		if name = labels[label]; name != "" {
			return "", name
		}
	}
	return "", ""
}

// connect asks for the canary and the rules of a server.
func (a *asker) connect(ctx context.Context, p *source.Prometheus) (*server, error) {
	s := &server{
		url: p.URL(), canary: p.CanaryName(), maxAge: p.MaxAge(), alerts: make(map[string][]source.LoadedRule), records: make(map[string][]source.LoadedRule),
		other: make(map[string][]source.LoadedRule), seen: make(map[string]map[string]time.Duration), strange: make(map[string][]string),
		counts: make(map[string]count), fields: make(map[string]map[string]bool), steady: make(map[string]map[string]bool),
		parsed: make(map[string]*source.Expression), reach: make(map[string]int), absent: make(map[string]Why), lacks: make(map[string][]string),
		fit: make(map[string][]source.LoadedRule), kinds: make(map[string][]string),
	}
	var err error
	if s.now, s.problem, err = p.Canary(ctx); err != nil {
		return nil, err
	}
	loaded, err := p.LoadedRules(ctx)
	switch {
	case errors.Is(err, source.ErrNoRules):
		s.noRules = err.Error()
		a.notes = append(a.notes, fmt.Sprintf("%s does not expose its rules, so missing and failing rules cannot be detected: %v", s.url, err))
	case err != nil:
		return nil, err
	}
	for _, r := range loaded {
		s.keep(r, a.o.Catalogue)
	}
	return s, nil
}

// keep files a rule under what it is for.
func (s *server) keep(r source.LoadedRule, catalogue *rules.Catalogue) {
	switch {
	case r.Records && r.Name == evidence:
		name := r.Labels["source"]
		s.records[name] = append(s.records[name], r)
	case r.Records:
		s.other[r.Name] = append(s.other[r.Name], r)
	default:
		labels := maps.Clone(r.Labels)
		if labels == nil {
			labels = make(map[string]string)
		}
		labels["alertname"] = r.Name
		// What a template makes of a label, and what the series have, only the alert knows.
		maps.DeleteFunc(labels, func(_, value string) bool { return strings.Contains(value, "{{") })
		for _, c := range catalogue.MayMatch(labels) {
			s.alerts[c.Name] = append(s.alerts[c.Name], r)
		}
	}
}

// askNodes takes the nodes of the API server, or those that kube-state-metrics knows.
func (a *asker) askNodes(ctx context.Context, p *source.Prometheus, _ *server) error {
	if a.o.Nodes != nil {
		return nil
	}
	samples, err := p.Vector(ctx, fmt.Sprintf(`group by (%s, internal_ip) (kube_node_info{node!="",exported_node=""})`, a.byClause))
	if err != nil {
		return fmt.Errorf("ask for nodes: %w", err)
	}
	for _, sample := range samples {
		if a.o.Cluster.Other(sample.Labels) {
			continue
		}
		a.add(rules.NodeInfo{Name: sample.Labels[labelNode], Addresses: []string{sample.Labels["internal_ip"]}})
	}
	return nil
}

func (a *asker) add(n rules.NodeInfo) {
	a.index.Set(n)
	if !a.known[n.Name] {
		a.known[n.Name], a.nodes = true, append(a.nodes, n.Name)
	}
}

// settleNodes says where the nodes come from. Without kube_node_info they are those that exporters see, so that one that none sees goes
// unnoticed.
func (a *asker) settleNodes() {
	for _, n := range a.o.Nodes {
		a.add(n.NodeInfo)
		if n.GPUs {
			a.has(hardwareGPU, n.Name)
		}
	}
	switch {
	case a.o.Nodes != nil:
		a.nodesFrom = "the API server"
	case len(a.nodes) > 0:
		a.nodesFrom = "kube_node_info"
	default:
		a.nodesFrom = evidence
		a.notes = append(a.notes, "Prometheus has no kube_node_info with the label node: the nodes are those that node_exporter, kube-state-metrics or the kubelet see, and one that none of them sees goes unnoticed. Scrape kube-state-metrics with honorLabels, or name a -kubeconfig.")
	}
}

// askEvidence asks when each source saw each node, for as many sources at once as an answer may have rows.
func (a *asker) askEvidence(ctx context.Context, p *source.Prometheus, s *server) error {
	kinds := a.kinds(s)
	plain := slices.DeleteFunc(slices.Clone(kinds), prom.IsSelector)
	var recorded []source.Sighting
	for chunk := range slices.Chunk(plain, max(1, maxRows/max(1, len(a.nodes)))) {
		seen, err := p.Recorded(ctx, chunk)
		if err != nil {
			return fmt.Errorf("ask for evidence: %w", err)
		}
		recorded = append(recorded, seen...)
	}
	a.discover(s, recorded)
	for _, one := range recorded {
		a.sees(s, one.Source, one)
	}
	for _, selector := range kinds {
		if !prom.IsSelector(selector) {
			continue
		}
		seen, err := p.Selected(ctx, selector)
		if err != nil {
			return fmt.Errorf("ask for the evidence %s: %w", selector, err)
		}
		for _, one := range seen {
			a.sees(s, selector, one)
		}
	}
	return nil
}

// discover takes the nodes from the evidence where nothing lists them. Only exporters count that are named by the relabelling of their
// scrape, or tell of nodes: others may be called by their pod.
func (a *asker) discover(s *server, recorded []source.Sighting) {
	if a.nodesFrom != evidence {
		return
	}
	for _, one := range recorded {
		_, exporter := splitKind(one.Source)
		named := slices.Contains([]string{"node_exporter", "kube-state-metrics", "kubelet"}, exporter)
		if name := one.Labels[labelNode]; named && name != "" && one.Age <= s.maxAge && !a.o.Cluster.Other(one.Labels) {
			a.add(rules.NodeInfo{Name: name})
		}
	}
}

// kinds returns all evidence that conditions name, and what the rules of the server record.
func (a *asker) kinds(s *server) []string {
	all := make(map[string]bool)
	for kind := range s.records {
		if kind != "" {
			all[kind] = true
		}
	}
	for _, c := range a.o.Catalogue.Conditions() {
		for _, kind := range evidenceOf(c) {
			all[kind] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// anyTarget stands for the evidence of a condition that names none.
const anyTarget = `up{node!=""}`

func evidenceOf(c rules.Condition) []string {
	if len(c.Evidence) == 0 {
		return []string{anyTarget}
	}
	return c.Evidence
}

// sees notes a sighting.
func (a *asker) sees(s *server, kind string, one source.Sighting) {
	if a.o.Cluster.Other(one.Labels) {
		return
	}
	node, name := a.resolve(one.Labels)
	if node == "" {
		if one.Age <= s.maxAge && !slices.Contains(s.strange[kind], name) {
			s.strange[kind] = append(s.strange[kind], name)
		}
		return
	}
	known := s.seen[kind]
	if known == nil {
		known = make(map[string]time.Duration)
		s.seen[kind] = known
	}
	if age, ok := known[node]; !ok || one.Age < age {
		known[node] = one.Age
	}
}

// The kinds of hardware that not every node has.
const (
	hardwareGPU  = "GPUs"
	hardwareIB   = "InfiniBand"
	hardwareRoCE = "RoCE"
	hardwareGPFS = "GPFS"
)

// hardwareOf returns the hardware that conditions of a type are about, empty where every node has it.
func hardwareOf(name string) string {
	for _, kind := range []string{hardwareGPU, hardwareIB, hardwareRoCE, hardwareGPFS} {
		if slices.Contains(typesOf(kind), name) {
			return kind
		}
	}
	return ""
}

// typesOf returns the types of conditions that are about hardware.
func typesOf(kind string) []string {
	return map[string][]string{hardwareGPU: {"gpu", "peermem"}, hardwareIB: {"ib"}, hardwareRoCE: {"roce"}, hardwareGPFS: {"gpfs"}}[kind]
}

// signs are series of nodes that have hardware. They are asked for as of now, a day and a week ago: what has lost its exporter has them no more.
func signs() map[string][]string {
	return map[string][]string{
		hardwareGPU: {
			`kube_node_status_capacity{resource=~"nvidia_com_(gpu|mig).*|amd_com_gpu",node!="",exported_node=""}`,
			`aegis:expected_devices{kind=~"gpu|nvidia_com_gpu"}`, `aegis:evidence{source=~"gpu(-xid)?/(dcgm-exporter|gpud)"}`,
		},
		hardwareIB:   {`aegis:expected_devices{kind=~"hca|rdma"}`, `aegis:evidence{source=~"ib/(node_exporter|gpud)"}`},
		hardwareRoCE: {`aegis:roce_device`},
		hardwareGPFS: {`aegis:evidence{source="gpfs/gpfs_exporter"}`, `node_systemd_unit_state{name="gpfs.service",node!="",exported_node=""}`},
	}
}

// askHardware asks which nodes have hardware that others have not.
func (a *asker) askHardware(ctx context.Context, p *source.Prometheus, _ *server) error {
	for _, kind := range slices.Sorted(maps.Keys(signs())) {
		var parts []string
		for _, sign := range signs()[kind] {
			for _, moved := range []string{"", " offset 1d", " offset 1w"} {
				parts = append(parts, fmt.Sprintf("group by (%s) (%s%s > 0)", a.byClause, sign, moved))
			}
		}
		samples, err := p.Vector(ctx, strings.Join(parts, " or "))
		if err != nil {
			return fmt.Errorf("ask which nodes have %s: %w", kind, err)
		}
		for _, sample := range samples {
			if node, err := a.index.Lookup(sample.Labels[labelNode]); err == nil && !a.o.Cluster.Other(sample.Labels) {
				a.has(kind, node)
			}
		}
	}
	return nil
}

func (a *asker) has(kind, node string) {
	if a.hardware[kind] == nil {
		a.hardware[kind] = make(map[string]bool)
	}
	a.hardware[kind][node] = true
}
