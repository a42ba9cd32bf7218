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

const (
	// missedBefore is how long before a status began an exporter may have been there last, and yet have been lost with it. It is more than
	// the clocks of two servers differ.
	missedBefore = 10 * time.Minute
	// neededFor is how long it is remembered what has shown a status that nobody asks for. A ticket may be held for days.
	neededFor = 7 * 24 * time.Hour
	// kindTarget is the kind of evidence that any target of the node is, and kindJob that of the targets of a job.
	kindTarget, kindJob = "", "targets of job "
)

// sight is when a kind of evidence of a node was there last.
type sight struct {
	at time.Time
	// down is true when the targets of the node are there, and none is up.
	down bool
	// told is true when a Prometheus that answered in this pass says so, and not only the memory.
	told bool
	// by are those that say in this pass that it is there, or down.
	by []string
}

// showing is when a kind of evidence that has shown a status was there last, and by which Prometheis. There are none once one of them has told
// that it is not there any more.
type showing struct {
	at time.Time
	by []string
}

// sights are what is known of one node, by the kind of evidence.
type sights map[string]sight

// eyes remembers which exporters have seen which nodes. It belongs to the passes, which never overlap.
type eyes struct {
	nodes map[string]sights
	// began is when each status that is needed began, and shown by what it is shown: what was there since, and is missed while it is not,
	// for as long as the status is needed.
	began map[prom.Key]time.Time
	shown map[prom.Key]map[string]showing
	// asked is how far back the servers were asked last, and reach how far they can be: one that cannot answer is asked for less.
	asked, reach time.Duration
	// wanted returns the kinds of evidence of a condition. None stands for any.
	wanted func(condition string) []string
	// names returns what a node is called.
	names  func(node string) []string
	maxAge time.Duration
	// gone reports whether there is no such node any more: nothing is wrong there, although nobody is left to say so.
	gone func(node string) bool
}

func newEyes(o ResyncOptions) *eyes {
	e := &eyes{wanted: o.Evidence, names: o.Names, maxAge: cmp.Or(o.MaxAge, defaultMaxAge), gone: o.Gone}
	e.reset()
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

// reset forgets everything. The next leader may be another one.
func (e *eyes) reset() {
	e.nodes, e.began, e.shown = make(map[string]sights), make(map[prom.Key]time.Time), make(map[prom.Key]map[string]showing)
	e.asked, e.reach = 0, 0
}

// begins notes when a status began, by what is known of that. The earliest time counts.
func (e *eyes) begins(key prom.Key, at time.Time) {
	if known, ok := e.began[key]; !ok || !at.IsZero() && at.Before(known) {
		e.began[key] = at
	}
}

// request returns what has to be asked at that time to answer for the keys. Of those that are new, it is what was there since they began.
func (e *eyes) request(keys []prom.Key, now time.Time) source.EvidenceRequest {
	names, selectors := make(map[string]bool), make(map[string]bool)
	var memory time.Duration
	for _, key := range keys {
		for _, name := range e.names(key.Node) {
			names[name] = true
		}
		for _, kind := range e.wanted(key.Condition) {
			if prom.IsSelector(kind) {
				selectors[kind] = true
			}
		}
		if at := e.began[key]; e.shown[key] == nil && !at.IsZero() {
			memory = max(memory, now.Sub(at)+missedBefore)
		}
	}
	if e.asked = memory; e.reach > 0 {
		e.asked = min(memory, e.reach)
	}
	return source.EvidenceRequest{Names: slices.Sorted(maps.Keys(names)), Selectors: slices.Sorted(maps.Keys(selectors)), Memory: e.asked}
}

// look takes what the servers have told in a pass.
func (e *eyes) look(p *pass, classifier Classifier, keys []prom.Key) {
	needed := make(map[string]bool)
	for _, key := range keys {
		needed[key.Node] = true
	}
	maps.DeleteFunc(e.nodes, func(node string, _ sights) bool { return !needed[node] })
	if len(p.blind) > 0 && e.asked > source.EvidenceMemory {
		e.reach = max(e.asked/2, source.EvidenceMemory)
	}
	for _, known := range e.nodes {
		for kind, s := range known {
			if p.began.Sub(s.at) > source.EvidenceMemory {
				delete(known, kind)
				continue
			}
			s.told, s.down, s.by = false, false, nil
			known[kind] = s
		}
	}
	for server, sightings := range p.sightings {
		for _, seen := range sightings {
			if node, ok := nodeOf(classifier, seen.Labels); ok && needed[node] {
				e.see(node, seen, server, p.began)
			}
		}
	}
	p.sights = make(map[string]sights, len(e.nodes))
	for node, known := range e.nodes {
		p.sights[node] = maps.Clone(known) // Who is in by does not change any more.
	}
	p.eyes, p.shown = e, make(map[prom.Key]map[string]showing, len(keys))
	for _, key := range keys {
		e.show(key, p)
		p.shown[key] = maps.Clone(e.shown[key])
	}
}

// forget forgets what has shown a status.
func (e *eyes) forget(key prom.Key) {
	delete(e.shown, key)
	delete(e.began, key)
}

// show notes what has shown the status since it began. A status is not new any more once a server has told.
func (e *eyes) show(key prom.Key, p *pass) {
	shown := e.shown[key]
	if shown == nil {
		shown = make(map[string]showing)
	}
	began := e.began[key]
	if began.IsZero() {
		began = p.began
	}
	for kind, s := range e.nodes[key.Node] {
		if !s.down && s.at.After(began.Add(-missedBefore)) {
			shown[kind] = showing{at: later(shown[kind].at, s.at), by: shown[kind].by}
		}
	}
	for kind, known := range shown {
		known.by = p.showing(known.by, e.nodes[key.Node][kind])
		shown[kind] = known
	}
	if e.shown[key] != nil || p.seeing > 0 && len(p.blind) == 0 {
		e.shown[key] = shown
	}
}

// showing returns which servers have a kind of evidence: those that tell so, and those that had it and tell nothing. Where none has it any more,
// one that had it speaks for the others.
func (p *pass) showing(had []string, s sight) []string {
	silent := func(server string) bool { _, told := p.sightings[server]; return !told }
	if len(s.by) == 0 && slices.ContainsFunc(had, func(server string) bool { return !silent(server) }) {
		return nil
	}
	by := slices.Clone(s.by)
	for _, server := range had {
		if silent(server) {
			by = append(by, server)
		}
	}
	slices.Sort(by)
	return slices.Compact(by)
}

// see takes one sighting of a server. Of several of one kind the newest counts.
func (e *eyes) see(node string, seen source.Sighting, server string, now time.Time) {
	known := e.nodes[node]
	if known == nil {
		known = make(sights)
		e.nodes[node] = known
	}
	at, kinds := now.Add(-max(0, seen.Age)), []string{seen.Source}
	if seen.Job != "" {
		kinds = []string{kindTarget, kindJob + seen.Job}
	}
	for _, kind := range kinds {
		s := known[kind]
		s.by = append(s.by, server)
		switch {
		case !seen.Down:
			s.at, s.told, s.down = later(s.at, at), true, false
		case kind == kindTarget:
			continue
		default:
			s.down = !s.told
		}
		known[kind] = s
	}
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
		return p.seesAnyhow(key, known)
	}
	var fresh time.Time
	var lost []string
	for _, kind := range wanted {
		s, ok := known[kind]
		shown := later(p.shown[key][kind].at, s.at)
		switch {
		case ok && p.fresh(s):
			if fresh.IsZero() || s.at.Before(fresh) {
				fresh = s.at
			}
		case !shown.IsZero():
			lost = append(lost, lostSince(kind, shown))
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

func lostSince(kind string, at time.Time) string {
	return fmt.Sprintf("%s, which saw it at %s", kind, at.UTC().Format(time.RFC3339))
}

// seesAnyhow takes any exporter of the node, for conditions of which nobody has said which one shows them. Each that was there since the
// condition began may be the one that does. A target that its server has no more belongs to a pod that is gone, and is none; of one whose
// server gives no answer nobody knows that.
func (p *pass) seesAnyhow(key prom.Key, known sights) (time.Time, string) {
	var last time.Time
	for _, s := range known {
		if p.fresh(s) {
			last = later(last, s.at)
		}
	}
	var lost []string
	for kind, shown := range p.shown[key] {
		target := kind == kindTarget || strings.HasPrefix(kind, kindJob)
		switch s := known[kind]; {
		case p.fresh(s), prom.IsSelector(kind):
		case !target, s.down:
			lost = append(lost, lostSince(kind, shown.at))
		case len(s.by) == 0 && len(shown.by) > 0 && kind != kindTarget:
			lost = append(lost, fmt.Sprintf("%s for %s, which gives no answer", lostSince(kind, shown.at), strings.Join(shown.by, " and ")))
		}
	}
	slices.Sort(lost)
	switch {
	case len(lost) > 0:
		return time.Time{}, fmt.Sprintf("the node %s has no fresh series of %s", key.Node, strings.Join(lost, " and of "))
	case last.IsZero():
		return last, fmt.Sprintf("the node %s has no fresh series of any exporter", key.Node)
	}
	return last, ""
}

func (p *pass) fresh(s sight) bool { return s.told && p.began.Sub(s.at) <= p.eyes.maxAge }
