package queue

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"aegis.io/aegis/rules/prom"
)

// Permitter says who permits Aegis to act on what fires at Prometheus.
type Permitter string

// The permitters.
const (
	PermitAlertmanager Permitter = "alertmanager" // What fires is acted on once Alertmanager lists it as active.
	PermitPrometheus   Permitter = "prometheus"   // What fires is acted on. Alertmanager is not asked.
)

// Permitters returns all of them.
func Permitters() []Permitter { return []Permitter{PermitAlertmanager, PermitPrometheus} }

// AwayChoice says what is done while no replica of Alertmanager answers.
type AwayChoice string

// The choices.
const (
	AwayHold    AwayChoice = "hold"    // Nothing that needs permission begins.
	AwayIsolate AwayChoice = "isolate" // A node on which something fires is taken out of service, and nothing more.
)

// AwayChoices returns all of them.
func AwayChoices() []AwayChoice { return []AwayChoice{AwayHold, AwayIsolate} }

// LeastAwayAfter is the least time after which Alertmanager counts as away: a restart of it is no reason to isolate nodes.
const LeastAwayAfter = time.Minute

// DefaultAwayAfter is how long no replica has to be silent before Alertmanager counts as away.
const DefaultAwayAfter = 5 * time.Minute

// terms are what permission rests on.
type terms struct {
	by        Permitter
	away      AwayChoice
	awayAfter time.Duration
}

// termsOf returns the terms with their defaults.
func termsOf(o ResyncOptions) (terms, error) {
	t := terms{
		by: cmp.Or(o.Permission, PermitAlertmanager), away: cmp.Or(o.Away, AwayHold), awayAfter: cmp.Or(o.AwayAfter, DefaultAwayAfter),
	}
	switch {
	case !slices.Contains(Permitters(), t.by):
		return t, fmt.Errorf("resync: unknown permitter %q", t.by)
	case !slices.Contains(AwayChoices(), t.away):
		return t, fmt.Errorf("resync: unknown choice %q for a silent Alertmanager", t.away)
	case t.awayAfter < LeastAwayAfter:
		return t, fmt.Errorf("resync: Alertmanager must be silent for at least %s, not %s", LeastAwayAfter, t.awayAfter)
	case t.by == PermitPrometheus && len(o.Alertmanagers) > 0:
		return t, errors.New("resync: where Prometheus permits, no Alertmanager is asked")
	}
	return t, nil
}

// hear notes whether a replica of Alertmanager has answered, and if not, since when none has. While none has answered since Run began,
// nobody knows what is silenced, and nothing is isolated.
func (r *Resync) hear(p *pass) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.answered > 0 || p.replicas == 0 {
		r.heardAt, r.heard, r.awaySince = p.began, p, time.Time{}
		return
	}
	r.awaySince = r.heardAt
	p.silentSince, p.heard = r.heardAt, r.heard
	p.isolates = p.terms.away == AwayIsolate && r.heard != nil && p.began.Sub(r.heardAt) >= p.terms.awayAfter
}

// forget begins to count anew for how long Alertmanager has been silent: nobody has listened until now.
func (r *Resync) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.heardAt, r.heard, r.awaySince = r.clock.Now(), nil, time.Time{}
}

// away returns for how long no replica of Alertmanager has answered, zero while one does.
func (r *Resync) away() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.awaySince.IsZero() {
		return 0
	}
	return r.clock.Since(r.awaySince)
}

// entering returns what the pass puts into the queue: what fires at Prometheus, as far as it may be acted on or may be told why not.
// Where Alertmanager lists it, suppressed or not, its own alerts enter, so that a later webhook is about the same ones.
func (p *pass) entering(queued func(prom.Key) bool) []prom.Observation {
	if p.seeing == 0 {
		return nil
	}
	var entering []prom.Observation
	for key, firing := range p.firing {
		switch {
		case p.terms.by == PermitPrometheus, p.isolates && !queued(key):
			entering = append(entering, firing...)
		case p.answered > 0 && p.listed[key] != nil:
			entering = append(entering, p.listed[key].firing...)
		}
	}
	return entering
}

// permissionAway returns what may be done while no replica answers. What the last one that answered suppressed stays so.
func (p *pass) permissionAway(key prom.Key, labels alertLabels) (prom.Permission, string) {
	if !p.isolates {
		return prom.PermissionUnknown, fmt.Sprintf("permission unknown: no Alertmanager answers: %v", p.replicaErrs[0])
	}
	if permission, why := p.heard.permissionOf(key, labels); permission == prom.PermissionSilenced {
		return permission, why + ", when Alertmanager answered last"
	}
	return prom.PermissionIsolate, fmt.Sprintf("no Alertmanager has answered since %s: %v",
		p.silentSince.UTC().Format(time.RFC3339), p.replicaErrs[0])
}

// hushed applies the silences of Aegis' own to a finding. They hold whatever the sources say.
func (r *Resync) hushed(key prom.Key, labels alertLabels, f prom.Finding) prom.Finding {
	if silence := r.silencedBy(key, labels); silence != "" {
		f.Permission, f.Reason = prom.PermissionSilenced, silence
	}
	return f
}

// silencedBy names the silence of Aegis' own that matches the status.
func (r *Resync) silencedBy(key prom.Key, labels alertLabels) string {
	if r.silences == nil {
		return ""
	}
	if labels.unseen() {
		return r.silences.SilencedUnseen(prom.Unseen{Node: key.Node, Condition: key.Condition})
	}
	for _, set := range labels.all() {
		if silence := r.silences.Silenced(set); silence != "" {
			return silence
		}
	}
	return ""
}
