package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"aegis.io/aegis/queue/source"
	"aegis.io/aegis/rules"
	"aegis.io/aegis/rules/prom"
)

const (
	// defaultForget is how long a series that is not seen keeps what it said.
	defaultForget = 2 * time.Minute
	// inspectTimeout bounds the questions to one source, so that a slow one does not hold up the answers of the others.
	inspectTimeout = 5 * time.Second
	// unseenFor is how long a fault whose series is gone, and which nobody asks for, is remembered.
	unseenFor = 7 * 24 * time.Hour
	// sourcePrefix begins the fingerprint of a finding. No alert has such a one.
	sourcePrefix = "source:"
)

// The labels of a finding that its sample does not have.
const (
	labelAlertname = "alertname"
	labelCondition = "condition"
	labelNode      = "node"
	labelSource    = "source"
	labelName      = "__name__"
)

// SampleSource answers a query. An error means that nothing is known.
type SampleSource interface {
	Read(ctx context.Context) (source.Answer, error)
}

// Inspection is a named source: a query, and what its samples mean.
type Inspection struct {
	// Name is what people call it.
	Name string
	// Query is what is asked, for people.
	Query string
	// Source answers the query.
	Source SampleSource
	// Condition is what the samples are about. Empty leaves that to the label ConditionLabel.
	Condition, ConditionLabel string
	// NodeLabel and DeviceLabel name the node and the device. Empty stands for the labels that name them on alerts.
	NodeLabel, DeviceLabel string
	// Threshold says which values are a fault.
	Threshold Threshold
	// Forget is how long a series that is not seen keeps what it said, and how long a node must be alive before what it does not report
	// is taken for absent. 0 means 2 minutes.
	Forget time.Duration
	// Cluster is this one, which findings name whose sample names none. Without a name they name none.
	Cluster prom.Cluster
}

func (i Inspection) validate() error {
	switch {
	case i.Name == "" || i.Source == nil:
		return errors.New("a source needs a name and a query")
	case (i.Condition == "") == (i.ConditionLabel == ""):
		return fmt.Errorf("source %s needs either a condition or a label that names it", i.Name)
	}
	return nil
}

// track is what a source has said of one status.
type track struct {
	state
	// seenAt is when there was a fresh sample last.
	seenAt time.Time
	// found says that there has been a fault, so that only this source says when it is over.
	found bool
	// observation is the last finding.
	observation prom.Observation
}

// inspector keeps what one source says. It belongs to the passes, which never overlap.
type inspector struct {
	Inspection
	classifier Classifier
	// gone reports whether there is no such node any more.
	gone   func(node string) bool
	tracks map[prom.Key]*track
	// alive says since when each node shows signs of life without a break. Nil when nothing tells.
	alive map[string]time.Time
	// answeredAt is when the source gave an answer last.
	answeredAt time.Time
}

func newInspector(i Inspection, o ResyncOptions) *inspector {
	i.Forget = cmp.Or(i.Forget, defaultForget)
	gone := o.Gone
	if gone == nil {
		gone = func(string) bool { return false }
	}
	return &inspector{Inspection: i, classifier: o.Classifier, gone: gone, tracks: make(map[prom.Key]*track)}
}

// judgement is what a source says of a status that it has found.
type judgement struct {
	source   string
	evidence prom.Evidence
	// why says why the evidence is not firing.
	why         string
	observation prom.Observation
}

// inspection is the result of one pass over one source. It does not change afterwards.
type inspection struct {
	err     error
	judged  map[prom.Key]judgement
	results map[sampleResult]int
}

// inspect takes an answer, or the lack of one.
func (i *inspector) inspect(answer source.Answer, err error, now time.Time) inspection {
	result := inspection{err: err, judged: make(map[prom.Key]judgement), results: make(map[sampleResult]int)}
	if err != nil {
		i.judge(result, func(*track, prom.Key) (prom.Evidence, string) {
			return prom.EvidenceUnknown, fmt.Sprintf("source %s gives no answer: %v", i.Name, err)
		})
		return result
	}
	seen := i.take(answer.Samples, result.results, now)
	i.listen(answer.Alive, now)
	i.judge(result, func(t *track, key prom.Key) (prom.Evidence, string) { return i.evidence(t, key, seen[key], now) })
	i.forget(now)
	return result
}

// judge fills in what the source says of each status that it has found. On a node that is gone nothing is wrong, although nobody is left
// to say so.
func (i *inspector) judge(result inspection, evidence func(*track, prom.Key) (prom.Evidence, string)) {
	for key, t := range i.tracks {
		if !t.found {
			continue
		}
		e, why := evidence(t, key)
		if i.gone(key.Node) {
			t.state = state{evidence: prom.EvidenceAbsent}
			e, why = prom.EvidenceAbsent, "the node has been deleted"
		}
		result.judged[key] = judgement{source: i.Name, evidence: e, why: why, observation: t.observation}
	}
}

// sighting is what was seen of one status: the worst of its samples, or why none counts.
type sighting struct {
	value       float64
	observation prom.Observation
	// missing says why no sample counts. Empty when one does.
	missing sampleResult
}

// take brings the states up to date with the samples, and returns what was seen.
func (i *inspector) take(samples []source.Sample, results map[sampleResult]int, now time.Time) map[prom.Key]sighting {
	seen := make(map[prom.Key]sighting, len(samples))
	for _, sample := range samples {
		o, err := i.classifier.Classify(i.alert(sample))
		if err != nil {
			results[dropped(err)]++
			continue
		}
		i.see(seen, sighting{value: sample.Value, observation: o, missing: defect(sample)}, results)
	}
	for key, s := range seen {
		if s.missing != "" {
			continue
		}
		t := i.track(key, now)
		t.state = i.Threshold.next(t.state, s.value, now)
		t.seenAt = now
		t.found = t.found || !t.since.IsZero()
		t.observation = i.finding(s, t.since)
		results[resultOf(t.evidence)]++
	}
	return seen
}

// see keeps the worst of several samples of one status. One that does not count yields to one that does.
func (i *inspector) see(seen map[prom.Key]sighting, s sighting, results map[sampleResult]int) {
	key := s.observation.Status.Key()
	known, again := seen[key]
	if s.missing != "" {
		results[s.missing]++
	}
	if again && s.missing == "" && known.missing == "" {
		results[sampleDuplicate]++
	}
	if !again || known.missing != "" || s.missing == "" && i.Threshold.worse(s.value, known.value) {
		seen[key] = s
	}
}

// defect says why a sample does not count.
func defect(s source.Sample) sampleResult {
	switch {
	case s.Stale:
		return sampleStale
	case !s.Usable():
		return sampleNotANumber
	default:
		return ""
	}
}

// dropped returns why a sample is about no status.
func dropped(err error) sampleResult {
	var drop *rules.Drop
	if errors.As(err, &drop) {
		return sampleResult(drop.Reason)
	}
	return rules.DropInvalid
}

// track returns what is known of the status. A series that was not seen for long begins anew.
func (i *inspector) track(key prom.Key, now time.Time) *track {
	t := i.tracks[key]
	if t == nil {
		t = &track{}
		i.tracks[key] = t
	}
	if now.Sub(t.seenAt) > i.Forget {
		t.state = state{}
	}
	return t
}

// alert turns a sample into an alert that says what the source is configured to.
func (i *inspector) alert(s source.Sample) prom.Alert {
	labels := maps.Clone(s.Labels)
	if labels == nil {
		labels = make(map[string]string)
	}
	condition := cmp.Or(i.Condition, labels[i.ConditionLabel])
	labels[labelAlertname] = cmp.Or(condition, i.Name)
	value := cmp.Or(labels["value"], strconv.FormatFloat(s.Value, 'g', -1, 64))
	return prom.Alert{
		Labels:      labels,
		Annotations: map[string]string{"description": cmp.Or(labels["msg"], fmt.Sprintf("source %s: the value %s is %s", i.Name, value, i.Threshold)), "value": value},
		State:       prom.StateFiring,
		Subject:     &prom.Subject{Condition: condition, NodeLabel: i.NodeLabel, DeviceLabel: i.DeviceLabel},
	}
}

// alerts returns what the answer has as alerts: the canaries and the samples.
func (i *inspector) alerts(a source.Answer) []prom.Alert {
	all := slices.Clone(a.Canaries)
	for _, sample := range a.Samples {
		all = append(all, i.alert(sample))
	}
	return all
}

// finding completes an observation: with the labels that silences match, and an identity that lasts while labels such as the message
// change.
func (i *inspector) finding(s sighting, since time.Time) prom.Observation {
	o := s.observation
	key := o.Status.Key()
	o.Labels = maps.Clone(o.Labels)
	delete(o.Labels, labelName)
	o.Labels[labelAlertname], o.Labels[labelCondition], o.Labels[labelNode], o.Labels[labelSource] = key.Condition, key.Condition, key.Node, i.Name
	if i.Cluster.Name != "" && i.Cluster.Of(o.Labels) == "" {
		o.Labels[i.Cluster.LabelName()] = i.Cluster.Name
	}
	o.Fingerprint = sourcePrefix + prom.Fingerprint(map[string]string{
		labelSource: i.Name, labelNode: key.Node, labelCondition: key.Condition, "id": key.ID,
	})
	o.StartsAt, o.Status.FirstSeen = since, since
	o.Status.Origin, o.Status.Source = prom.OriginResync, i.Name
	return o
}

// listen notes which nodes show signs of life. Of several samples of a node all must.
func (i *inspector) listen(samples []source.Sample, now time.Time) {
	if now.Sub(i.answeredAt) > i.Forget {
		i.alive = nil // What happened in between nobody knows.
	}
	i.answeredAt = now
	if samples == nil {
		return
	}
	alive := make(map[string]bool)
	for _, s := range samples {
		a := i.alert(s)
		// Of what is alive only the node matters.
		a.Subject.Condition = cmp.Or(i.Condition, "Alive")
		a.Labels[labelAlertname] = a.Subject.Condition
		o, err := i.classifier.Classify(a)
		if err != nil {
			continue
		}
		before, again := alive[o.Status.Node]
		alive[o.Status.Node] = (before || !again) && !s.Stale && s.Usable() && s.Value != 0
	}
	since := make(map[string]time.Time, len(alive))
	for node, is := range alive {
		if is {
			since[node] = cmp.Or(i.alive[node], now)
		}
	}
	i.alive = since
}

// evidence says what the source now says of a status that it has found.
func (i *inspector) evidence(t *track, key prom.Key, s sighting, now time.Time) (prom.Evidence, string) {
	switch {
	case s.observation.Status.Node != "" && s.missing == "":
		return t.says(i.Inspection, s.value)
	case s.missing != "":
		return prom.EvidenceUnknown, fmt.Sprintf("source %s has only %s", i.Name, s.missing.words())
	}
	if t.evidence == prom.EvidencePending {
		t.state = state{evidence: t.before} // It did not hold for long enough.
	}
	since, alive := i.alive[key.Node]
	switch {
	case i.alive == nil:
		return prom.EvidenceUnknown, fmt.Sprintf("source %s has no series for it, and no query that tells whether the exporter of the node is alive", i.Name)
	case !alive:
		return prom.EvidenceUnknown, fmt.Sprintf("source %s has no series for it, and the exporter of the node is not alive", i.Name)
	case now.Sub(since) < i.Forget:
		return prom.EvidenceUnknown, fmt.Sprintf("source %s has no series for it, and the exporter of the node has been alive for %s only",
			i.Name, now.Sub(since).Round(time.Second))
	}
	t.state, t.seenAt = state{evidence: prom.EvidenceAbsent}, now
	return prom.EvidenceAbsent, fmt.Sprintf("source %s has no series for it, and the exporter of the node is alive", i.Name)
}

// says returns what a series that was seen says.
func (t *track) says(i Inspection, value float64) (prom.Evidence, string) {
	switch t.evidence {
	case prom.EvidenceFiring:
		return t.evidence, ""
	case prom.EvidencePending:
		return t.evidence, fmt.Sprintf("source %s: the value %g has not held for %s yet", i.Name, value, i.Threshold.For)
	case prom.EvidenceAbsent:
		return t.evidence, fmt.Sprintf("source %s: the value %g is healthy", i.Name, value)
	default:
		return prom.EvidenceUnknown, fmt.Sprintf("source %s: the value %g lies between the bounds, and what it was before is not known", i.Name, value)
	}
}

// forget drops what has no meaning any more.
func (i *inspector) forget(now time.Time) {
	for key, t := range i.tracks {
		if !t.found && now.Sub(t.seenAt) > i.Forget {
			delete(i.tracks, key)
		}
	}
}

// remember notes that the source has found the status before, as a ticket says after a restart.
func (i *inspector) remember(key prom.Key, now time.Time) {
	if i.tracks[key] == nil {
		i.tracks[key] = &track{seenAt: now}
	}
	i.tracks[key].found = true
}

// release forgets the faults that nobody needs, once they are over or have not been seen for long.
func (i *inspector) release(needed func(prom.Key) bool, now time.Time) {
	for key, t := range i.tracks {
		if t.found && (t.evidence == prom.EvidenceAbsent || now.Sub(t.seenAt) > unseenFor) && !needed(key) {
			t.found = false
		}
	}
}

// isFinding reports whether the fingerprint is one of a finding.
func isFinding(fingerprint string) bool { return strings.HasPrefix(fingerprint, sourcePrefix) }

// combine joins what several say of one status: that it fires, then that nothing is known, then that it is pending.
func combine(all []judgement) (prom.Evidence, string) {
	for _, evidence := range []prom.Evidence{prom.EvidenceFiring, prom.EvidenceUnknown, prom.EvidencePending, prom.EvidenceAbsent} {
		var why []string
		found := false
		for _, j := range all {
			if j.evidence == evidence {
				found = true
				why = append(why, j.why)
			}
		}
		if found {
			return evidence, strings.Join(slices.DeleteFunc(why, func(s string) bool { return s == "" }), "; ")
		}
	}
	return prom.EvidenceAbsent, ""
}
