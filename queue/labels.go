package queue

import (
	"maps"
	"slices"
	"sync"
	"time"

	"aegis.io/aegis/queue/source"
	"aegis.io/aegis/rules/prom"
)

// labelMemoryFor is how long labels are remembered that nobody needs.
const labelMemoryFor = time.Hour

// alertLabels are the labels of the alerts of one status, and of what sources find of it.
type alertLabels struct {
	sets map[string]map[string]string // Of the alerts, by fingerprint.
	// final is true of Alertmanager's labels of alerts. Prometheus' lack the external ones, by which one may silence too.
	final    bool
	findings map[string]map[string]string // By fingerprint.
}

// joined returns the labels together with others that were read at the same time. Final ones displace the rest.
func (l alertLabels) joined(other alertLabels) alertLabels {
	if l.final != other.final || l.sets == nil {
		return l.updated(other)
	}
	maps.Copy(l.sets, other.sets)
	return l
}

// with returns the labels together with those of a finding. They say nothing of the labels of alerts.
func (l alertLabels) with(o prom.Observation) alertLabels {
	findings := make(map[string]map[string]string, len(l.findings)+1)
	maps.Copy(findings, l.findings)
	findings[identity(o)] = o.Labels
	l.findings = findings
	return l
}

// updated returns what is known once newer labels have been read. Final ones of alerts stay until there are newer final ones. A source tells
// those of its findings in every pass, also when it gives no answer.
func (l alertLabels) updated(newer alertLabels) alertLabels {
	if len(newer.sets) > 0 && (newer.final || !l.final) {
		l.sets, l.final = newer.sets, newer.final
	}
	l.findings = newer.findings
	return l
}

// matched reports whether the silence matches one of the alerts.
func (l alertLabels) matched(key prom.Key, s source.Silence) bool {
	if l.unseen() {
		return prom.Unseen{Node: key.Node, Condition: key.Condition}.Matches(s.Matchers)
	}
	return slices.ContainsFunc(l.all(), s.Matches)
}

// unseen reports whether no labels are known, as of a status that nobody has seen since a restart.
func (l alertLabels) unseen() bool { return len(l.sets)+len(l.findings) == 0 }

// all returns the labels of each alert and finding.
func (l alertLabels) all() []map[string]string {
	all := make([]map[string]string, 0, len(l.sets)+len(l.findings))
	for _, sets := range []map[string]map[string]string{l.sets, l.findings} {
		for _, fingerprint := range slices.Sorted(maps.Keys(sets)) {
			all = append(all, sets[fingerprint])
		}
	}
	return all
}

// labelMemory remembers the labels of statuses while no source has their alerts: of those in the queue, and of those
// that were asked for lately.
type labelMemory struct {
	mu    sync.Mutex
	known map[prom.Key]remembered
}

// remembered is what is known of one status.
type remembered struct {
	labels   alertLabels
	neededAt time.Time
	// alerted says that there have been alerts of it, and not only findings of sources.
	alerted bool
}

func newLabelMemory() *labelMemory { return &labelMemory{known: make(map[prom.Key]remembered)} }

// need notes that somebody asks for the status.
func (m *labelMemory) need(key prom.Key, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.touch(key, now)
}

// touch keeps the status from being forgotten. The caller holds the lock.
func (m *labelMemory) touch(key prom.Key, now time.Time) {
	r := m.known[key]
	r.neededAt = now
	m.known[key] = r
}

// alerted notes that there is an alert of the status. The caller holds the lock.
func (m *labelMemory) alerted(key prom.Key) {
	r := m.known[key]
	r.alerted = true
	m.known[key] = r
}

// needs reports whether the status is in the queue, or was asked for lately.
func (m *labelMemory) needs(key prom.Key) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.known[key]
	return ok
}

// keys returns the statuses that are remembered.
func (m *labelMemory) keys() []prom.Key {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Keys(m.known))
}

// of returns the labels of the status, given those that a pass has read, and whether there have been alerts of it.
func (m *labelMemory) of(key prom.Key, p *pass) (labels alertLabels, alerted bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.known[key]
	return r.labels.updated(p.labels[key]), r.alerted || p.hasAlert(key)
}

// update takes what a pass has read of the statuses in the queue and of the others that are remembered, and forgets
// those that nobody has needed for long.
func (m *labelMemory) update(p *pass, queued []item, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, item := range queued {
		for _, s := range item.Statuses {
			m.touch(s.Key(), now)
			if slices.ContainsFunc(s.Alerts, func(f string) bool { return !isFinding(f) }) {
				m.alerted(s.Key())
			}
		}
	}
	for key, r := range m.known {
		if now.Sub(r.neededAt) >= labelMemoryFor {
			delete(m.known, key)
			continue
		}
		r.labels = r.labels.updated(p.labels[key])
		r.alerted = r.alerted || p.hasAlert(key)
		m.known[key] = r
	}
}
