package queue

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"aegis.io/aegis/queue/source"
	"aegis.io/aegis/rules/prom"
)

// EvidenceSource tells which nodes a Prometheus sees. An error means that nothing is known.
type EvidenceSource interface {
	Evidence(ctx context.Context, r source.EvidenceRequest) ([]source.Sighting, error)
}

// sight is when a kind of evidence of a node was there last.
type sight struct {
	at time.Time
	// told is true when a Prometheus that answered in this pass says so, and not only the memory.
	told bool
}

// sights are what is known of one node, by the kind of evidence.
type sights map[string]sight

// eyes remembers which exporters have seen which nodes. It belongs to the passes, which never overlap.
type eyes struct {
	nodes map[string]sights
	// wanted returns the kinds of evidence of a condition. None stands for any.
	wanted func(condition string) []string
	// names returns what a node is called.
	names  func(node string) []string
	maxAge time.Duration
	// gone reports whether there is no such node any more: nothing is wrong there, although nobody is left to say so.
	gone func(node string) bool
}

func newEyes(o ResyncOptions) *eyes {
	e := &eyes{nodes: make(map[string]sights), wanted: o.Evidence, names: o.Names, maxAge: cmp.Or(o.MaxAge, defaultMaxAge), gone: o.Gone}
	if e.gone == nil {
		e.gone = func(string) bool { return false }
	}
	if e.wanted == nil {
		e.wanted = func(string) []string { return nil }
	}
	if e.names == nil {
		e.names = func(node string) []string { return []string{node} }
	}
	return e
}

// request returns what has to be asked to answer for the keys.
func (e *eyes) request(keys []prom.Key) source.EvidenceRequest {
	names, selectors := make(map[string]bool), make(map[string]bool)
	for _, key := range keys {
		for _, name := range e.names(key.Node) {
			names[name] = true
		}
		for _, kind := range e.wanted(key.Condition) {
			if prom.IsSelector(kind) {
				selectors[kind] = true
			}
		}
	}
	return source.EvidenceRequest{Names: slices.Sorted(maps.Keys(names)), Selectors: slices.Sorted(maps.Keys(selectors))}
}

// look takes what the servers have told in a pass.
func (e *eyes) look(p *pass, classifier Classifier, keys []prom.Key) {
	needed := make(map[string]bool)
	for _, key := range keys {
		needed[key.Node] = true
	}
	maps.DeleteFunc(e.nodes, func(node string, _ sights) bool { return !needed[node] })
	for _, known := range e.nodes {
		for kind, s := range known {
			if p.began.Sub(s.at) > source.EvidenceMemory {
				delete(known, kind)
				continue
			}
			s.told = false
			known[kind] = s
		}
	}
	for _, seen := range p.sightings {
		if node, ok := nodeOf(classifier, seen.Labels); ok && needed[node] {
			e.see(node, seen, p.began)
		}
	}
	p.sights = make(map[string]sights, len(e.nodes))
	for node, known := range e.nodes {
		p.sights[node] = maps.Clone(known)
	}
	p.eyes = e
}

// see takes one sighting. Of several of one kind the newest counts.
func (e *eyes) see(node string, seen source.Sighting, now time.Time) {
	known := e.nodes[node]
	if known == nil {
		known = make(sights)
		e.nodes[node] = known
	}
	s := known[seen.Source]
	known[seen.Source] = sight{at: later(s.at, now.Add(-max(0, seen.Age))), told: true}
}

// nodeOf returns the node that the labels name.
func nodeOf(classifier Classifier, labels map[string]string) (string, bool) {
	named := maps.Clone(labels)
	if named == nil {
		return "", false
	}
	named[labelAlertname] = "Evidence"
	o, err := classifier.Classify(prom.Alert{Labels: named, State: prom.StateFiring, Subject: &prom.Subject{Condition: "Evidence"}})
	return o.Status.Node, err == nil
}

// sees returns when the exporters that show the condition had a sample of the node last, and if they do not see it now, why not.
func (p *pass) sees(key prom.Key) (time.Time, string) {
	if p.eyes == nil {
		return time.Time{}, "nobody was asked whether the node is seen"
	}
	if p.isGone(key.Node) {
		return p.began, ""
	}
	known, wanted := p.sights[key.Node], p.eyes.wanted(key.Condition)
	if len(wanted) == 0 {
		return p.seesAnyhow(key.Node, known)
	}
	var fresh time.Time
	var lost []string
	for _, kind := range wanted {
		s, ok := known[kind]
		switch {
		case ok && p.fresh(s):
			if fresh.IsZero() || s.at.Before(fresh) {
				fresh = s.at
			}
		case ok:
			lost = append(lost, fmt.Sprintf("%s, which saw it at %s", kind, s.at.UTC().Format(time.RFC3339)))
		}
	}
	switch {
	case len(lost) > 0:
		return time.Time{}, fmt.Sprintf("the node %s has no fresh series of %s", key.Node, strings.Join(lost, " and of "))
	case fresh.IsZero():
		return time.Time{}, fmt.Sprintf("the node %s has no fresh series of %s", key.Node, strings.Join(wanted, " or "))
	}
	return fresh, ""
}

// isGone reports whether there is no such node any more.
func (p *pass) isGone(node string) bool { return p.eyes != nil && p.eyes.gone(node) }

// seesAnyhow takes any exporter of the node, for conditions of which nobody has said which one shows them.
func (p *pass) seesAnyhow(node string, known sights) (time.Time, string) {
	var last time.Time
	for _, s := range known {
		if p.fresh(s) {
			last = later(last, s.at)
		}
	}
	if last.IsZero() {
		return last, fmt.Sprintf("the node %s has no fresh series of any exporter", node)
	}
	return last, ""
}

func (p *pass) fresh(s sight) bool { return s.told && p.began.Sub(s.at) <= p.eyes.maxAge }
