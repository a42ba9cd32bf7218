package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"aegis.io/aegis/queue/source"
	"aegis.io/aegis/rules/prom"
)

// sourceKind is what a source is asked for.
type sourceKind string

// The kinds of sources.
const (
	sourcePrometheus   sourceKind = "prometheus"   // Asked whether a condition exists.
	sourceAlertmanager sourceKind = "alertmanager" // Asked whether it may be acted on.
)

// namedSource is a source of alerts with a name for people.
type namedSource struct {
	name     string
	kind     sourceKind
	alerts   AlertSource
	silences SilenceSource  // Nil for Prometheus.
	evidence EvidenceSource // Nil for Alertmanager.
	rules    RuleSource     // Nil for Alertmanager, and for a Prometheus that tells of none.
}

// questions are what sources are asked besides their alerts.
type questions struct {
	evidence source.EvidenceRequest
	rules    map[string][]string // The names of the rules that each Prometheus is asked about.
	past     map[string]agedRequest
}

// reading is the answer of a source.
type reading struct {
	source   namedSource
	alerts   []prom.Alert
	silences []source.Silence
	err      error

	sightings []source.Sighting
	blind     error // Why there are no sightings.

	rules  []source.Rule
	listed bool // Whether it tells of rules.

	aged []prom.Alert
	// past says that it was asked for what grew old before this process led, forgotten why it does not tell.
	past      bool
	forgotten error
	// asked says that it was asked about rules or what grew old, untold why it does not tell.
	asked  bool
	untold error
}

// read asks the source. Half an answer is none, but a Prometheus that does not tell which nodes it sees still tells what fires.
func (s namedSource) read(ctx context.Context, wanted questions) (r reading) {
	r.source = s
	defer panicked(&r.err)
	if names := wanted.rules[s.name]; s.rules != nil && len(names) > 0 {
		// Before the alerts: those of an evaluation that ends in between are in the answer.
		rules, err := s.rules.Rules(ctx, names)
		r.rules, r.listed = rules, err == nil
		r.asked, r.untold = true, err
	}
	r.alerts, r.err = s.alerts.Alerts(ctx)
	if r.err == nil && s.evidence != nil && len(wanted.evidence.Names) > 0 {
		r.sightings, r.blind = s.evidence.Evidence(ctx, wanted.evidence)
	}
	if past := wanted.past[s.name]; r.err == nil && s.rules != nil && len(past.nodes) > 0 {
		// After the evidence, for which a question that takes too long must leave time.
		r.aged, r.forgotten = s.rules.Aged(ctx, past.nodes, past.within)
		r.past, r.asked, r.untold = true, true, errors.Join(r.untold, r.forgotten)
	}
	if r.err == nil && s.silences != nil {
		// After the alerts: a silence that begins in between is not applied to them.
		r.silences, r.err = s.silences.Silences(ctx)
	}
	return r
}

// panicked makes a panic over an answer the error of that source. It would end the process, and the next one.
func panicked(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("reading the answer panicked: %v", p)
	}
}

// pass is what one pass found. It is complete once done is closed, and does not change afterwards.
type pass struct {
	done    chan struct{}
	began   time.Time
	terms   terms
	aborted error // Why it found nothing.

	prometheis, seeing int // How many are asked, and how many answered.
	prometheusErrs     []error
	evidence           map[prom.Key]prom.Evidence
	firing             map[prom.Key][]prom.Observation // What fires at Prometheus.
	holds              map[prom.Key]time.Time          // Since when it holds, by the clock of Aegis.

	sightings map[string][]source.Sighting // By the name of the Prometheus that told them. One that has none told as well.
	blind     []error
	eyes      *eyes // Nil before the sightings have been taken.
	sights    map[string]sights
	shown     map[prom.Key]map[string]showing // Of each kind of evidence that has shown a status.

	told map[string]*told    // By the name of the Prometheus.
	aged map[prom.Key]string // Why an alert that is not there may not have ended.

	replicas, answered int
	replicaErrs        []error
	listed             map[prom.Key]*listing
	fingerprints       map[string]struct{} // Of all alerts that the sources have, whatever they mean.
	silences           []source.Silence    // Of all replicas.

	// These are set when no replica answered: since when none has, the pass in which one answered last, nil if there is none, and
	// whether what fires may be isolated.
	silentSince time.Time
	heard       *pass
	isolates    bool

	labels map[prom.Key]alertLabels // Of the alerts that the sources have.

	clusters clusterView // Of which clusters the alerts are.

	judged  map[prom.Key][]judgement // What the sources say of the statuses that they have found.
	orphans map[prom.Key]string      // The statuses whose source is not configured any more, by its name.
}

// listing is what the replicas of Alertmanager say of one status.
type listing struct {
	active       bool
	suppressed   bool
	suppressedBy []string
	firing       []prom.Observation
}

// newPass returns a pass that has not begun.
func newPass(t terms) *pass {
	return &pass{
		done:         make(chan struct{}),
		terms:        t,
		evidence:     make(map[prom.Key]prom.Evidence),
		firing:       make(map[prom.Key][]prom.Observation),
		holds:        make(map[prom.Key]time.Time),
		listed:       make(map[prom.Key]*listing),
		fingerprints: make(map[string]struct{}),
		labels:       make(map[prom.Key]alertLabels),
		judged:       make(map[prom.Key][]judgement),
		told:         make(map[string]*told),
		sightings:    make(map[string][]source.Sighting),
	}
}

// abort ends a pass that found nothing.
func (p *pass) abort(reason error) {
	p.aborted = reason
	close(p.done)
}

// known reports whether there is evidence and permission to go by.
func (p *pass) known() bool {
	return p.seeing > 0 && (p.answered > 0 || p.terms.by == PermitPrometheus)
}

// complete reports whether every source answered, so that what is missing is absent.
func (p *pass) complete() bool { return p.known() && p.answered == p.replicas }

// add takes the answer of a source.
func (p *pass) add(r reading, classifier Classifier) {
	switch r.source.kind {
	case sourcePrometheus:
		p.prometheis++
		if r.err != nil {
			p.prometheusErrs = append(p.prometheusErrs, r.err)
			return
		}
		p.seeing++
		p.tells(r)
		p.addEvidence(r.source.name, r.alerts, classifier)
		if r.blind != nil {
			p.blind = append(p.blind, r.blind)
			return
		}
		p.sightings[r.source.name] = r.sightings
	case sourceAlertmanager:
		p.replicas++
		if r.err != nil {
			p.replicaErrs = append(p.replicaErrs, r.err)
			return
		}
		p.answered++
		p.addListed(r.alerts, classifier)
		p.silences = append(p.silences, r.silences...)
	}
}

// addEvidence keeps the strongest evidence of each status: that it fires, then that nothing is known, then that it is pending.
func (p *pass) addEvidence(server string, alerts []prom.Alert, classifier Classifier) {
	for _, a := range alerts {
		p.fingerprints[a.Fingerprint] = struct{}{}
		o, err := classifier.Classify(a)
		if err != nil {
			continue // An alert that is no condition of a node, such as the canary. The classifier counts them.
		}
		key := o.Status.Key()
		p.note(server, key, a)
		p.addLabels(o, false)
		switch known := p.evidence[key]; {
		case a.State == prom.StateFiring:
			p.evidence[key] = prom.EvidenceFiring
			p.firing[key] = append(p.firing[key], atPrometheus(o))
			p.hold(key, p.beganAt(a))
		case known == prom.EvidenceFiring:
		case a.State == prom.StateStale:
			p.evidence[key] = prom.EvidenceUnknown
		case known == "":
			p.evidence[key] = prom.EvidencePending
		}
	}
}

// atPrometheus returns the observation as it enters the queue. Prometheus tells no annotations.
func atPrometheus(o prom.Observation) prom.Observation {
	o.Status.Origin = prom.OriginResync
	o.Status.Msg = cmp.Or(o.Status.Msg, "its alert fires at Prometheus")
	return o
}

// addListed joins what a replica lists to what the others do.
func (p *pass) addListed(alerts []prom.Alert, classifier Classifier) {
	for _, a := range alerts {
		p.fingerprints[a.Fingerprint] = struct{}{}
		// What has ended by its own clock Alertmanager does not list. By the clock of Aegis all may seem to have.
		a.EndsAt = time.Time{}
		o, err := classifier.Classify(a)
		if err != nil {
			continue
		}
		p.addLabels(o, true)
		l, ok := p.listed[o.Status.Key()]
		if !ok {
			l = &listing{}
			p.listed[o.Status.Key()] = l
		}
		l.add(a, o)
	}
}

// addLabels keeps the labels of an alert, which are final if Alertmanager tells them.
func (p *pass) addLabels(o prom.Observation, final bool) {
	if len(o.Labels) == 0 {
		return
	}
	one := alertLabels{final: final, sets: map[string]map[string]string{identity(o): o.Labels}}
	p.labels[o.Status.Key()] = p.labels[o.Status.Key()].joined(one)
}

// add takes one alert. What Alertmanager lists has not ended, by its state.
func (l *listing) add(a prom.Alert, o prom.Observation) {
	if a.State == prom.StateSuppressed || len(a.SuppressedBy) > 0 {
		l.suppressed = true
		l.suppressedBy = append(l.suppressedBy, a.SuppressedBy...)
	}
	l.active = l.active || a.State == prom.StateActive
	o.Status.Origin = prom.OriginResync
	l.firing = append(l.firing, o)
}

// addInspection takes what a source says. Its labels join those of the alerts.
func (p *pass) addInspection(i inspection) {
	for key, j := range i.judged {
		p.judged[key] = append(p.judged[key], j)
		if j.observation.Fingerprint != "" && j.evidence != prom.EvidenceAbsent {
			p.labels[key] = p.labels[key].with(j.observation)
		}
	}
}

// hasAlert reports whether an alert of the status is known to Prometheus or Alertmanager.
func (p *pass) hasAlert(key prom.Key) bool { return p.evidence[key] != "" || p.listed[key] != nil }

// found reports whether a source has the status and does not say that it is over.
func (p *pass) found(key prom.Key) bool {
	return slices.ContainsFunc(p.judged[key], func(j judgement) bool { return j.evidence != prom.EvidenceAbsent })
}

// firesAtSource reports whether a source says that it has the status now. One that only waits or knows nothing permits no alert.
func (p *pass) firesAtSource(key prom.Key) bool {
	return slices.ContainsFunc(p.judged[key], func(j judgement) bool { return j.evidence == prom.EvidenceFiring })
}

// has reports whether a source has the status. An alert that feeds it counts even if the classifier does not know it
// any more, as after a Node has lost a name: that proves no absence.
func (p *pass) has(s prom.AegisNodeStatus) bool {
	if p.hasAlert(s.Key()) || p.found(s.Key()) {
		return true
	}
	return slices.ContainsFunc(s.Alerts, func(fingerprint string) bool {
		_, ok := p.fingerprints[fingerprint]
		return ok
	})
}

// absent returns the statuses that were in the queue before the pass and that no source has.
func (p *pass) absent(queued []item) []prom.AegisNodeStatus {
	var absent []prom.AegisNodeStatus
	for _, item := range queued {
		for _, s := range item.Statuses {
			if s.LastSeen.Before(p.began) && !p.has(s) && (p.judgedAlone(s) || p.complete() && p.over(s.Key())) {
				absent = append(absent, s)
			}
		}
	}
	return absent
}

// judgedAlone reports whether only sources have found the status, so that it is theirs alone to say that it is over.
func (p *pass) judgedAlone(s prom.AegisNodeStatus) bool {
	return len(p.judged[s.Key()]) > 0 && !slices.ContainsFunc(s.Alerts, func(f string) bool { return !isFinding(f) })
}

// finding returns what the pass found about a status whose alerts have the labels. Alerted says that there have been alerts of it.
func (p *pass) finding(key prom.Key, labels alertLabels, alerted bool) prom.Finding {
	if p.aborted != nil {
		return unknownFinding(p.began, p.aborted.Error())
	}
	evidence, whyEvidence, seen := p.evidenceOf(key, alerted)
	permission, whyPermission := p.permissionOf(key, labels)
	reasons := slices.DeleteFunc([]string{whyEvidence, whyPermission}, func(s string) bool { return s == "" })
	return prom.Finding{
		Evidence: evidence, Permission: permission, Unlisted: p.unlisted(key), Reason: strings.Join(reasons, "; "), At: p.began,
		Since: p.since(key), Seen: seen,
	}
}

// since returns since when the expression of an alert of the status has held, or the value of a source has been a fault, without a
// break. It is zero when neither tells.
func (p *pass) since(key prom.Key) time.Time {
	first := p.holds[key]
	for _, j := range p.judged[key] {
		if j.evidence == prom.EvidenceFiring {
			first = earlier(first, j.observation.StartsAt)
		}
	}
	return first
}

// hold notes since when a status holds. The earliest time counts, and zero is none.
func (p *pass) hold(key prom.Key, at time.Time) { p.holds[key] = earlier(p.holds[key], at) }

// beganAt returns when the alert began by the clock of Aegis, of which that of its server may be minutes apart.
func (p *pass) beganAt(a prom.Alert) time.Time {
	if age, ok := a.ActiveFor(); ok {
		return p.began.Add(-age)
	}
	return a.StartsAt
}

// earlier returns the earlier of two times. Zero is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// unlisted reports whether the replicas that answered know nothing of the status. Where none is asked, none knows anything.
func (p *pass) unlisted(key prom.Key) bool {
	if p.terms.by == PermitPrometheus {
		return true
	}
	l := p.listed[key]
	return p.answered > 0 && (l == nil || !l.active && !l.suppressed)
}

// evidenceOf returns what is said of a status by those who have found it, why it is not firing, and if it is absent, when its node was seen.
func (p *pass) evidenceOf(key prom.Key, alerted bool) (prom.Evidence, string, time.Time) {
	judged, seen := slices.Clone(p.judged[key]), p.began
	if name, ok := p.orphans[key]; ok {
		judged = append(judged, judgement{evidence: prom.EvidenceUnknown, why: fmt.Sprintf(
			"source %s, which found it, is not configured: configure it again, or cancel the ticket", name)})
	}
	if len(judged) == 0 || alerted {
		evidence, why, at := p.evidenceOfAlerts(key)
		judged, seen = append(judged, judgement{evidence: evidence, why: why}), at
	}
	evidence, why := combine(judged)
	if evidence != prom.EvidenceAbsent {
		return evidence, why, time.Time{}
	}
	if who := p.stillListed(key); who != "" {
		return prom.EvidenceUnknown, who, time.Time{}
	}
	return evidence, why, seen
}

// evidenceOfAlerts returns what the alerts of Prometheus say of a status, why none fires, and if none is there, when its node was seen. An alert
// that is not there is absent only if its exporters see the node: that nobody looks proves nothing.
func (p *pass) evidenceOfAlerts(key prom.Key) (prom.Evidence, string, time.Time) {
	switch p.evidence[key] {
	case prom.EvidenceFiring:
		return prom.EvidenceFiring, "", time.Time{}
	case prom.EvidenceUnknown:
		return prom.EvidenceUnknown, "evidence unknown: Prometheus has only an old sample of the alert", time.Time{}
	case prom.EvidencePending:
		return prom.EvidencePending, "the alert is pending, it does not fire yet", time.Time{}
	}
	if p.seeing == 0 {
		return prom.EvidenceUnknown, "evidence unknown: " + p.whyNotSeeing(), time.Time{}
	}
	if why := p.aged[key]; why != "" && !p.isGone(key.Node) {
		return prom.EvidenceUnknown, "evidence unknown: Prometheus has no such alert, but " + why, time.Time{}
	}
	seen, why := p.sees(key)
	if why != "" && len(p.blind) > 0 {
		why += ": " + errors.Join(p.blind...).Error()
	}
	if why != "" {
		return prom.EvidenceUnknown, "evidence unknown: Prometheus has no such alert, but " + why, time.Time{}
	}
	return prom.EvidenceAbsent, "Prometheus has no such alert", seen
}

// whyNotSeeing says why no Prometheus answers.
func (p *pass) whyNotSeeing() string {
	if p.prometheis == 0 {
		return "no Prometheus is configured"
	}
	return errors.Join(p.prometheusErrs...).Error()
}

// over reports whether the alerts of the status prove that it has ended.
func (p *pass) over(key prom.Key) bool {
	evidence, _, _ := p.evidenceOfAlerts(key)
	return evidence == prom.EvidenceAbsent && p.stillListed(key) == ""
}

// stillListed says why the status may exist although no Prometheus that was asked has it: another one, which nobody asks, may report it. A
// silence hides an alert, and does not end it.
func (p *pass) stillListed(key prom.Key) string {
	switch l := p.listed[key]; {
	case p.terms.by == PermitPrometheus, p.replicas == 0:
		return ""
	case l != nil: // By its own clock: it lists no alert that has ended.
		return "evidence unknown: no Prometheus that is asked has the alert, but an Alertmanager still lists it"
	case p.answered == 0:
		return "evidence unknown: no Alertmanager tells whether it still lists the alert"
	}
	return ""
}

// permissionOf returns what Alertmanager says about acting on a status, and why it is not granted. A silence counts also
// when no replica lists the alert, or has not applied it yet: it is the word of a person.
func (p *pass) permissionOf(key prom.Key, labels alertLabels) (prom.Permission, string) {
	if p.terms.by == PermitPrometheus {
		return prom.PermissionGranted, ""
	}
	l := p.listed[key]
	silence := p.silenceOf(key, labels)
	switch {
	case p.replicas == 0:
		return prom.PermissionUnknown, "permission unknown: no Alertmanager is configured"
	case p.answered == 0:
		return p.permissionAway(key, labels)
	case l != nil && l.suppressed:
		return prom.PermissionSilenced, l.suppressors()
	case silence != "":
		return prom.PermissionSilenced, silence
	case l != nil && l.active, p.firesAtSource(key): // Alertmanager never lists what a source finds. It can only silence it.
		return prom.PermissionGranted, ""
	default:
		return prom.PermissionUnlisted, fmt.Sprintf("%d of %d replicas of Alertmanager answer, and none has it active", p.answered, p.replicas)
	}
}

// silenceOf names a silence that matches an alert of the status. It is empty when there is none.
func (p *pass) silenceOf(key prom.Key, labels alertLabels) string {
	for _, s := range p.silences {
		if labels.matched(key, s) {
			return s.String()
		}
	}
	return ""
}

// suppressors says what suppresses the status.
func (l *listing) suppressors() string {
	if len(l.suppressedBy) == 0 {
		return "suppressed at Alertmanager"
	}
	names := slices.Compact(slices.Sorted(slices.Values(l.suppressedBy)))
	return "suppressed at Alertmanager by " + strings.Join(names, ", ")
}

// unknownFinding is what one knows without a pass.
func unknownFinding(at time.Time, reason string) prom.Finding {
	return prom.Finding{Evidence: prom.EvidenceUnknown, Permission: prom.PermissionUnknown, Reason: reason, At: at}
}
