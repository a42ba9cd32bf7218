package coverage

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"aegis.io/aegis/queue/source"
	"aegis.io/aegis/rules"
	"aegis.io/aegis/rules/prom"
)

// gaps collects why an alert cannot fire for a node: the names of series that are not there, and the recording rules that do not work.
type gaps struct {
	names []string
	sick  []Why
}

func (g *gaps) lack(name string) bool {
	g.names = append(g.names, name)
	return false
}

// missing says which series that the alert cannot do without nobody has of the node, although an exporter sees it.
func (s *server) missing(c rules.Condition, node string) []Why {
	if s.noRules != "" {
		return nil
	}
	var g gaps
	if s.mayFire(c, node, &g) {
		return nil
	}
	if kind := s.leaving(c, node, g.names); kind != "" {
		return []Why{s.gone(kind, s.seen[kind][node])}
	}
	if len(g.sick) > 0 {
		return g.sick
	}
	if len(g.names) == 0 {
		return []Why{{Reason: "the alert cannot fire: what it reads is not there, or its exporter does not see the node", Set: mendRead}}
	}
	names, between := s.needed(c, node, g.names)
	// Series of an exporter that does not see the node are no matter where those of one that does are lacking.
	if near := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !s.exported(c, node, name) }); len(near) > 0 {
		names = near
	}
	return []Why{{
		Source: exporterOf(names[0]), Set: mendSeries(names[0]),
		Reason: "the node has no series of " + strings.Join(names, between) + ", without which the alert cannot fire",
	}}
}

// mayFire reports whether an alert of the condition could fire for the node, and adds what it lacks for that. A rule that does not work
// fires nothing.
func (s *server) mayFire(c rules.Condition, node string, g *gaps) bool {
	return slices.ContainsFunc(s.fitOf(c.Name), func(r source.LoadedRule) bool { return s.yields(c, node, r, g, 0) })
}

// yields reports whether a rule could yield something for the node.
func (s *server) yields(c rules.Condition, node string, r source.LoadedRule, g *gaps, depth int) bool {
	e := s.expression(r)
	return e == nil || e.Possible(func(selector source.Selector) bool { return s.exists(c, node, selector, g, depth) })
}

// needed returns what is lacking: each of which alone is enough, or else all, and what to put between them.
func (s *server) needed(c rules.Condition, node string, lacking []string) (names []string, between string) {
	slices.Sort(lacking)
	lacking = slices.Compact(lacking)
	key := fmt.Sprint(c.Name, lacking)
	enough, known := s.lacks[key]
	if !known {
		for _, name := range lacking {
			s.assumed = name
			if s.mayFire(c, node, new(gaps)) {
				enough = append(enough, name)
			}
		}
		s.assumed, s.lacks[key] = "", enough
	}
	if len(enough) == 0 {
		return lacking, ", "
	}
	return enough, " or "
}

// leaving returns the evidence of an exporter of GPUs that went a moment ago: it is fresh yet, and the node has no field at all.
func (s *server) leaving(c rules.Condition, node string, lacking []string) string {
	if len(lacking) == 0 || !strings.HasPrefix(lacking[0], fieldPrefix) {
		return ""
	}
	for _, nodes := range s.fields {
		if nodes[node] {
			return ""
		}
	}
	for _, kind := range evidenceOf(c) {
		if _, exporter := splitKind(kind); exporter == exporterOf(lacking[0]) && s.sees(kind, node) {
			return kind
		}
	}
	return ""
}

// maxDepth bounds how many recording rules are followed.
const maxDepth = 4

// exists reports whether the node may have series of the selector. Only of some is it known that a healthy node has them.
func (s *server) exists(c rules.Condition, node string, selector source.Selector, g *gaps, depth int) bool {
	name := selector.Metric()
	if strings.HasPrefix(name, fieldPrefix) {
		return s.fields[name][node] || name == s.assumed || g.lack(name)
	}
	if recorded := s.other[name]; len(recorded) > 0 && depth < maxDepth {
		return slices.ContainsFunc(recorded, func(r source.LoadedRule) bool {
			if reason, set := s.sick(r); reason != "" {
				g.fails(Why{Reason: reason, Set: set})
				return false
			}
			return s.yields(c, node, r, g, depth+1)
		})
	}
	if query, is := s.isSteady(selector); is {
		return s.steady[query][node] || s.steady[query][everyNode] || query == s.assumed || g.lack(query)
	}
	return s.exported(c, node, name) || name == s.assumed || g.lack(name)
}

// fails notes a recording rule that does not work.
func (g *gaps) fails(why Why) {
	if !slices.Contains(g.sick, why) {
		g.sick = append(g.sick, why)
	}
}

// exported reports whether the exporter of the series sees the node, or a selector of the evidence does. It need not be one of the evidence.
// Of an exporter that nobody knows, or that no evidence is recorded of, nothing is known.
func (s *server) exported(c rules.Condition, node, metric string) bool {
	exporter := exporterOf(metric)
	if exporter == "" {
		return true
	}
	var kinds []string
	var named bool
	for _, kind := range c.Evidence {
		_, of := splitKind(kind)
		if prom.IsSelector(kind) {
			kinds = append(kinds, kind)
		} else if of == exporter {
			kinds, named = append(kinds, kind), true
		}
	}
	if !named {
		recorded := s.kindsOf(exporter)
		if len(recorded) == 0 {
			return true
		}
		kinds = append(kinds, recorded...)
	}
	return slices.ContainsFunc(kinds, func(kind string) bool { return s.sees(kind, node) })
}

// kindsOf returns the evidence of the exporter that the server records, or has.
func (s *server) kindsOf(exporter string) []string {
	kinds, known := s.kinds[exporter]
	if known {
		return kinds
	}
	for _, kind := range slices.Concat(slices.Collect(maps.Keys(s.records)), slices.Collect(maps.Keys(s.seen))) {
		if _, of := splitKind(kind); of == exporter && !prom.IsSelector(kind) && !slices.Contains(kinds, kind) {
			kinds = append(kinds, kind)
		}
	}
	s.kinds[exporter] = kinds
	return kinds
}
