package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/clock"

	"aegis.io/aegis/queue/source"
	"aegis.io/aegis/rules/prom"
)

const (
	defaultInterval = 30 * time.Second
	defaultTimeout  = 15 * time.Second
	defaultMaxAge   = 2 * time.Minute
	// maxRest bounds the rest after a pass, so that an answer is late by no more than that.
	maxRest = 200 * time.Millisecond
	// absentPasses is how many passes in a row must miss a condition before it is withdrawn.
	absentPasses = 2
)

// AlertSource is a Prometheus or an Alertmanager replica. An error means that nothing is known.
type AlertSource interface {
	Alerts(ctx context.Context) ([]prom.Alert, error)
}

// SilenceSource tells the active silences of an Alertmanager replica. An error means that nothing is known.
type SilenceSource interface {
	Silences(ctx context.Context) ([]source.Silence, error)
}

// OwnSilences are the silences of Aegis' own. They name the one that matches, and nothing when there is none. They must not call resync.
type OwnSilences interface {
	Silenced(labels map[string]string) string
	// SilencedUnseen is for an alert of which no labels are known.
	SilencedUnseen(alert prom.Unseen) string
}

// Classifier turns an alert into what it says of a status. An error means that it says nothing of any.
type Classifier interface {
	Classify(a prom.Alert) (prom.Observation, error)
}

// ResyncOptions configure a Resync.
type ResyncOptions struct {
	// Queue is kept true to the sources.
	Queue *Queue
	// Prometheus says whether a condition exists. Without it that is unknown. It must be an EvidenceSource too.
	// A RuleSource besides tells whether the rules of its alerts are evaluated.
	Prometheus AlertSource
	// Prometheis are more of them, by their URL, which must not hold credentials. Each sees some of the nodes, or all.
	Prometheis map[string]AlertSource
	// MaxAge is the age from which a sample of a node proves nothing. 0 means 2 minutes.
	MaxAge time.Duration
	// Evidence returns what shows that a node is seen, for the condition. None, and nil, stand for anything that is known of the node.
	Evidence func(condition string) []string
	// Names returns what a node is called in labels. Nil means by its name alone.
	Names func(node string) []string
	// Permission says who permits to act on what fires at Prometheus. Empty means PermitAlertmanager.
	Permission Permitter
	// Alertmanagers say whether a condition may be acted on: every replica, by its URL, which must not hold
	// credentials, because it is logged. Each must be a SilenceSource too. Without any that is unknown.
	Alertmanagers map[string]AlertSource
	// Away says what is done once no replica has answered for AwayAfter. Empty means AwayHold, and 0 means 5 minutes.
	Away      AwayChoice
	AwayAfter time.Duration
	// Silences are those of Aegis' own. Nil means that there are none.
	Silences OwnSilences
	// Sources are queries that find conditions by themselves, each with a name of its own.
	Sources []Inspection
	// Gone reports whether the cluster has no such node any more. What sources have found on it is over. Nil means that all are there.
	Gone func(node string) bool
	// Classifier says which condition an alert means.
	Classifier Classifier
	// Cluster is this one. As long as it has no name, nothing is permitted once alerts of several clusters are seen.
	Cluster prom.Cluster
	// Canaries are the names of the alerts that fire at each Prometheus all the time.
	Canaries []string
	// Interval is the time between passes. 0 means 30 seconds.
	Interval time.Duration
	// Timeout bounds a pass. 0 means 15 seconds.
	Timeout time.Duration
	// Registerer takes the metrics. Nil means none.
	Registerer prometheus.Registerer
	// Logger hears when a source stops to answer and when it answers again. Nil discards.
	Logger *slog.Logger
	// Clock tells the time, and when a pass is due. Nil means the wall clock.
	Clock clock.WithTicker
}

// Resync reads the sources of truth, in passes that never overlap, and corrects the queue.
type Resync struct {
	queue      *Queue
	classifier Classifier
	sources    []namedSource
	inspectors []*inspector
	interval   time.Duration
	timeout    time.Duration
	clock      clock.WithTicker
	logger     *slog.Logger
	metrics    *resyncMetrics
	findings   *sourceMetrics
	labels     *labelMemory
	eyes       *eyes
	clusters   *clusters
	evaluated  *evaluations
	terms      terms
	silences   OwnSilences

	running sync.Mutex // Held by Run.
	synced  atomic.Bool
	trigger chan struct{}

	mu     sync.Mutex
	health []prom.SourceHealth // Of the sources, in the order of the options.
	next   *pass               // The pass that has not begun yet. Those who wait for it share it.
	last   *pass               // The one that ended last. Nil before the first.
	// heardAt is when a replica of Alertmanager answered last, or else when Run began, and heard the pass in which it did. Without
	// one, awaySince is heardAt.
	heardAt, awaySince time.Time
	heard              *pass

	// These belong to Run.
	silent  map[string]bool  // The sources that did not answer last time, by name.
	doubted bool             // Whether alerts may be of another cluster.
	misses  map[prom.Key]int // In how many passes in a row a condition of the queue was absent.
	// neededAt is when somebody has needed a status last, or it had an alert.
	neededAt map[prom.Key]time.Time
	// orphans are the statuses of tickets whose source is not configured any more, by its name.
	orphans map[prom.Key]string
}

// NewResync returns a Resync that does nothing until Run.
func NewResync(o ResyncOptions) (*Resync, error) {
	if o.Queue == nil || o.Classifier == nil {
		return nil, errors.New("resync needs a queue and a classifier")
	}
	if o.Interval < 0 || o.Timeout < 0 {
		return nil, fmt.Errorf("resync: negative interval %s or timeout %s", o.Interval, o.Timeout)
	}
	sources, err := sourcesOf(o)
	if err != nil {
		return nil, err
	}
	inspectors, names, err := inspectorsOf(o)
	if err != nil {
		return nil, err
	}
	terms, err := termsOf(o)
	if err != nil {
		return nil, err
	}
	r := &Resync{
		queue:      o.Queue,
		classifier: o.Classifier,
		sources:    sources,
		inspectors: inspectors,
		interval:   cmp.Or(o.Interval, defaultInterval),
		timeout:    cmp.Or(o.Timeout, defaultTimeout),
		clock:      cmp.Or[clock.WithTicker](o.Clock, clock.RealClock{}),
		logger:     cmp.Or(o.Logger, slog.New(slog.DiscardHandler)).With("component", "resync"),
		findings:   newSourceMetrics(o.Registerer, names),
		labels:     newLabelMemory(),
		eyes:       newEyes(o),
		clusters:   newClusters(o),
		evaluated:  newEvaluations(o),
		terms:      terms,
		silences:   o.Silences,
		trigger:    make(chan struct{}, 1),
		next:       newPass(terms),
		silent:     make(map[string]bool),
		neededAt:   make(map[prom.Key]time.Time),
	}
	for _, i := range inspectors {
		r.health = append(r.health, prom.SourceHealth{
			Name: i.Name, Query: i.Query, Condition: i.Condition, ConditionLabel: i.ConditionLabel,
		})
	}
	r.metrics = newResyncMetrics(o.Registerer, r)
	return r, nil
}

// sourcesOf lists the sources in a fixed order.
func sourcesOf(o ResyncOptions) ([]namedSource, error) {
	var sources []namedSource
	prometheis := make(map[string]AlertSource, len(o.Prometheis)+1)
	maps.Copy(prometheis, o.Prometheis)
	if o.Prometheus != nil {
		prometheis[string(sourcePrometheus)] = o.Prometheus
	}
	for _, name := range slices.Sorted(maps.Keys(prometheis)) {
		evidence, ok := prometheis[name].(EvidenceSource)
		if !ok {
			return nil, fmt.Errorf("resync: prometheus %s does not tell which nodes it sees", name)
		}
		prometheus := namedSource{name: name, kind: sourcePrometheus, alerts: prometheis[name], evidence: evidence}
		if rules, ok := prometheis[name].(RuleSource); ok {
			prometheus.rules = rules
		}
		sources = append(sources, prometheus)
	}
	for _, address := range slices.Sorted(maps.Keys(o.Alertmanagers)) {
		alerts := o.Alertmanagers[address]
		silences, ok := alerts.(SilenceSource)
		if !ok {
			return nil, fmt.Errorf("resync: alertmanager %s does not tell its silences", address)
		}
		sources = append(sources, namedSource{name: address, kind: sourceAlertmanager, alerts: alerts, silences: silences})
	}
	return sources, nil
}

// inspectorsOf returns the inspectors and their names, in the order of the options.
func inspectorsOf(o ResyncOptions) (inspectors []*inspector, names []string, err error) {
	for _, i := range o.Sources {
		if err := i.validate(); err != nil {
			return nil, nil, fmt.Errorf("resync: %w", err)
		}
		if slices.Contains(names, i.Name) {
			return nil, nil, fmt.Errorf("resync: two sources have the name %s", i.Name)
		}
		inspectors, names = append(inspectors, newInspector(i, o)), append(names, i.Name)
	}
	return inspectors, names, nil
}

// Run makes a pass at once, then at every interval and whenever one is asked for, until the context ends. It returns
// an error only when it runs already.
func (r *Resync) Run(ctx context.Context) error {
	if !r.running.TryLock() {
		return errors.New("resync runs already")
	}
	defer r.running.Unlock()
	// The next term must not take the passes of this one for its own.
	defer r.synced.Store(false)
	r.forget()
	defer r.forget()
	defer func() {
		r.orphans, r.neededAt = nil, make(map[prom.Key]time.Time)
		r.eyes.reset()
		r.evaluated.reset()
	}()
	defer r.tellClusters("")
	r.misses = nil // Time has passed: what was absent then is no row with what is absent now.
	ticker := r.clock.NewTicker(r.interval)
	defer ticker.Stop()
	for ctx.Err() == nil {
		began := r.clock.Now()
		r.pass(ctx)
		r.rest(ctx, min(r.clock.Since(began), maxRest))
		select {
		case <-ctx.Done():
		case <-ticker.C():
		case <-r.trigger:
		}
	}
	r.begin().abort(errors.New("resync has stopped"))
	return nil
}

// rest leaves the sources as much time as a pass took them, when many ask for the next one: those share it.
func (r *Resync) rest(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := r.clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C():
	}
}

// Synced reports whether a first pass has ended since Run began, whatever it found.
func (r *Resync) Synced() bool { return r.synced.Load() }

// Trigger asks for a pass soon. Several calls before it begins are one.
func (r *Resync) Trigger() {
	select {
	case r.trigger <- struct{}{}:
	default: // One is asked for already.
	}
}

// Observe returns what a pass finds about the status that begins after the call. Whoever calls before it begins
// shares it. Without an answer before the context ends, nothing is known.
func (r *Resync) Observe(ctx context.Context, key prom.Key) prom.Finding {
	r.labels.need(key, r.clock.Now())
	p := r.await()
	select {
	case <-p.done:
		return r.finding(p, key)
	case <-ctx.Done():
		return r.unknown(key, r.clock.Now(), fmt.Sprintf("no pass of resync ended in time: %v", context.Cause(ctx)))
	}
}

// Remember says that the source has found the status, as a ticket of an earlier process does. It is called before Run. Of what a source
// that is not configured any more has found, nothing is known before an alert or another source reports it.
func (r *Resync) Remember(key prom.Key, name string) {
	for _, i := range r.inspectors {
		if i.Name == name {
			i.remember(key, r.clock.Now())
			return
		}
	}
	if r.orphans == nil {
		r.orphans = make(map[prom.Key]string)
	}
	r.orphans[key] = name
}

// Began says when a status began that a ticket of an earlier process is about. It is called before Run. Exporters that were there since are
// missed while they are not, and alerts that grew old since.
func (r *Resync) Began(key prom.Key, at time.Time) {
	r.eyes.begins(key, at)
	r.evaluated.began[key] = at
}

// adopt lets those who report the status of an orphan say when it is over.
func (r *Resync) adopt(p *pass) {
	maps.DeleteFunc(r.orphans, func(key prom.Key, _ string) bool { return p.hasAlert(key) || len(p.judged[key]) > 0 })
	p.orphans = maps.Clone(r.orphans)
}

// Last returns what the last pass found about the status. Its time says how old that is.
func (r *Resync) Last(key prom.Key) prom.Finding {
	r.mu.Lock()
	p := r.last
	r.mu.Unlock()
	if p == nil {
		return r.unknown(key, time.Time{}, "no pass of resync has ended")
	}
	return r.finding(p, key)
}

// finding returns what the pass found about the status.
func (r *Resync) finding(p *pass, key prom.Key) prom.Finding {
	labels, alerted := r.labels.of(key, p)
	return r.hushed(key, labels, r.attributed(key, p.clusters, p.finding(key, labels, alerted)))
}

// unknown returns what is known of the status without a pass.
func (r *Resync) unknown(key prom.Key, at time.Time, reason string) prom.Finding {
	labels, _ := r.labels.of(key, newPass(r.terms))
	var clusters clusterView
	r.mu.Lock()
	if r.last != nil {
		clusters = r.last.clusters
	}
	r.mu.Unlock()
	return r.hushed(key, labels, r.attributed(key, clusters, unknownFinding(at, reason)))
}

// attributed doubts a finding whose alerts may be of another cluster.
func (r *Resync) attributed(key prom.Key, clusters clusterView, f prom.Finding) prom.Finding {
	doubt := clusters.doubt(r.queue.clustersOf(key), f.Evidence == prom.EvidenceUnknown)
	if doubt == "" {
		return f
	}
	return prom.Finding{Evidence: prom.EvidenceUnknown, Permission: prom.PermissionAmbiguous, Reason: doubt, At: f.At}
}

// await asks for the next pass and returns it.
func (r *Resync) await() *pass {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Trigger()
	return r.next
}

// begin takes the next pass, which from now on nobody can join. Those who asked for a pass get this one.
func (r *Resync) begin() *pass {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.next
	r.next = newPass(r.terms)
	select {
	case <-r.trigger:
	default:
	}
	p.began = r.clock.Now()
	p.clusters = r.clusters.seen() // What was known before holds for a pass that does not get to its end.
	return p
}

// pass makes one pass.
func (r *Resync) pass(ctx context.Context) {
	p := r.begin()
	needed := r.needed()
	readings, answers := r.read(ctx, r.questions(needed, p.began))
	if ctx.Err() != nil {
		p.abort(fmt.Errorf("the pass was interrupted: %w", context.Cause(ctx)))
		return
	}
	for _, reading := range readings {
		r.report(reading)
		p.add(reading, r.classifier)
		if reading.err == nil {
			r.clusters.hear(reading.source.name, reading.source.kind, reading.alerts, r.classifier)
		}
	}
	r.eyes.look(p, r.classifier, needed)
	r.evaluated.look(p, r.classifier)
	r.keep(p, needed)
	r.inspect(p, answers)
	p.clusters = r.clusters.seen()
	r.tellClusters(p.clusters.doubt(nil, false))
	r.adopt(p)
	r.hear(p)
	r.enter(p)
	r.enterFindings(p)
	queued := r.queue.items()
	r.labels.update(p, queued, r.clock.Now())
	r.withdraw(p, queued)
	r.metrics.duration.Observe(r.clock.Since(p.began).Seconds())
	if p.complete() {
		r.metrics.succeeded(r.clock.Now())
	}
	r.synced.Store(true)
	r.mu.Lock()
	r.last = p
	r.mu.Unlock()
	close(p.done)
}

// needed returns the statuses that somebody may want to know the end of: those in the queue, and those that were asked for lately.
func (r *Resync) needed() []prom.Key {
	keys := r.labels.keys()
	for _, item := range r.queue.items() {
		for _, s := range item.Statuses {
			keys = append(keys, s.Key())
			r.eyes.begins(s.Key(), s.FirstSeen)
		}
	}
	return keys
}

// keep forgets what is remembered of statuses that nobody has needed for long.
func (r *Resync) keep(p *pass, needed []prom.Key) {
	for _, key := range needed {
		r.neededAt[key] = p.began
	}
	for _, t := range p.told {
		for key := range t.alerts {
			r.neededAt[key] = p.began
		}
	}
	for key, at := range r.neededAt {
		if p.began.Sub(at) > neededFor {
			delete(r.neededAt, key)
			r.eyes.forget(key)
			r.evaluated.forget(key)
		}
	}
}

// questions returns what has to be asked besides alerts.
func (r *Resync) questions(needed []prom.Key, now time.Time) questions {
	q := questions{evidence: r.eyes.request(needed, now), rules: make(map[string][]string), past: make(map[string]agedRequest)}
	for _, s := range r.sources {
		if s.rules != nil {
			q.rules[s.name] = r.evaluated.names(s.name)
			q.past[s.name] = r.evaluated.past(s.name, r.eyes.names, now)
		}
	}
	return q
}

// read asks all sources at once.
func (r *Resync) read(ctx context.Context, wanted questions) ([]reading, []sampled) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	readings := make([]reading, len(r.sources))
	answers := make([]sampled, len(r.inspectors))
	var group sync.WaitGroup
	for i, s := range r.sources {
		group.Go(func() { readings[i] = s.read(ctx, wanted) })
	}
	for i, s := range r.inspectors {
		group.Go(func() { answers[i] = s.read(ctx) })
	}
	group.Wait()
	return readings, answers
}

// sampled is what a source has answered.
type sampled struct {
	source.Answer
	err error
}

// read asks the source.
func (i *inspector) read(ctx context.Context) (s sampled) {
	defer panicked(&s.err)
	ctx, cancel := context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	answer, err := i.Source.Read(ctx)
	return sampled{answer, err}
}

// inspect takes the answers of the sources. One that fails does not touch the others.
func (r *Resync) inspect(p *pass, answers []sampled) {
	for n, i := range r.inspectors {
		result := i.inspect(answers[n].Answer, answers[n].err, p.began)
		r.tell("source "+i.Name, result.err)
		if result.err == nil {
			r.clusters.hear("source "+i.Name, sourcePrometheus, i.alerts(answers[n].Answer), r.classifier)
		}
		r.findings.inspected(i.Name, result, p.began)
		r.noteHealth(n, result, p.began)
		p.addInspection(result)
		i.release(r.labels.needs, p.began)
	}
}

// noteHealth keeps how the n-th source did.
func (r *Resync) noteHealth(n int, result inspection, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := &r.health[n]
	h.AskedAt = at
	if result.err != nil {
		h.Error = result.err.Error()
		return
	}
	h.Error, h.LastSuccess = "", at
	h.Samples = make(map[string]int, len(result.results))
	for name, count := range result.results {
		h.Samples[string(name)] = count
	}
}

// Sources returns how each source did in the last pass.
func (r *Resync) Sources() []prom.SourceHealth {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.health) // The counts are replaced, never changed.
}

// enterFindings puts into the queue what the sources find.
func (r *Resync) enterFindings(p *pass) {
	var entering []prom.Observation
	for _, all := range p.judged {
		for _, j := range all {
			if j.evidence == prom.EvidenceFiring {
				entering = append(entering, j.observation)
			}
		}
	}
	slices.SortFunc(entering, func(a, b prom.Observation) int { return cmp.Compare(a.Fingerprint, b.Fingerprint) })
	r.queue.merge(p.began, entering)
}

// report counts the reading, and logs what has changed.
func (r *Resync) report(read reading) {
	r.metrics.reads[read.source.kind][read.err == nil].Inc()
	r.tell(read.source.name, read.err)
	if read.asked && read.err == nil {
		r.tell("rules of "+read.source.name, read.untold)
	}
}

// tell logs when a source has begun or ceased to answer.
func (r *Resync) tell(name string, err error) {
	wasSilent := r.silent[name]
	r.silent[name] = err != nil
	switch {
	case err != nil && !wasSilent:
		r.logger.Warn("source gives no answer", "source", name, "err", err)
	case err == nil && wasSilent:
		r.logger.Info("source answers again", "source", name)
	}
}

// tellClusters tells when alerts of several clusters begin or cease to be seen.
func (r *Resync) tellClusters(doubt string) {
	was := r.doubted
	r.doubted = doubt != ""
	switch {
	case doubt != "" && !was:
		r.metrics.ambiguous.Set(1)
		r.logger.Warn("alerts may be of another cluster, nothing is done for any", "err", doubt)
	case doubt == "" && was:
		r.metrics.ambiguous.Set(0)
		r.logger.Info("alerts are of one cluster again")
	}
}

// enter puts what was found into the queue, and settles what was contested.
func (r *Resync) enter(p *pass) {
	entering := p.entering(r.queue.has)
	// One order for all runs, and the earliest start of an alert first.
	slices.SortFunc(entering, func(a, b prom.Observation) int {
		return cmp.Or(cmp.Compare(a.Fingerprint, b.Fingerprint), a.StartsAt.Compare(b.StartsAt))
	})
	r.queue.merge(p.began, entering)
	for _, o := range entering {
		r.queue.confirm(o.Status.Key(), p.began, identity(o))
	}
}

// withdraw removes the conditions that no source has had for some passes in a row. A pass that is not complete proves
// no absence, and interrupts the row. So does one that may have seen the nodes of another cluster.
func (r *Resync) withdraw(p *pass, queued []item) {
	misses := make(map[prom.Key]int)
	if r.doubted {
		queued = nil
	}
	for _, item := range p.absent(queued) {
		key := item.Key()
		misses[key] = r.misses[key] + 1
		if misses[key] < absentPasses {
			continue
		}
		delete(misses, key)
		if r.queue.withdraw(key, p.began) {
			r.logger.Debug("condition withdrawn: no source has it", "node", key.Node, "condition", key.Condition, "device", key.ID)
		}
	}
	r.misses = misses
}
