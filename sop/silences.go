package sop

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/prometheus/alertmanager/pkg/labels"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// What people silence at Aegis itself.

// Silence keeps Aegis from acting on what the matchers match until the end. It returns the silence as it is written on the Lease. The
// error wraps policy.ErrRefused if there are too many.
func (d *Dispatcher) Silence(ctx context.Context, s policy.Silence) (policy.Silence, error) {
	now := d.services.Clock.Now()
	s.ID, s.StartsAt, s.EndsAt = ticket.NewID(now), now.UTC().Truncate(time.Second), s.EndsAt.UTC().Truncate(time.Second)
	order := policy.Order{By: s.CreatedBy, Reason: s.Comment}
	return s, d.order(ctx, "silence "+s.ID, order, func(orders *policy.Orders) error {
		active := slices.DeleteFunc(slices.Clone(orders.Silences), func(other policy.Silence) bool { return !other.Active(now) })
		if len(active) >= policy.MaxSilences {
			return fmt.Errorf("%w: %d silences are active, at most %d may be: delete one", policy.ErrRefused, len(active), policy.MaxSilences)
		}
		if !fit(append(active, s)) {
			return fmt.Errorf("%w: the silences take more than %d bytes together: delete one", policy.ErrRefused, policy.MaxSilenceBytes)
		}
		orders.Silences = append(orders.Silences, s)
		if !fit(orders.Silences) {
			// Those that have ended are only there to be shown.
			orders.Silences = append(active, s)
		}
		return nil
	})
}

// fit reports whether the silences are small enough to be written.
func fit(all []policy.Silence) bool {
	text, err := json.Marshal(all)
	return err == nil && len(text) <= policy.MaxSilenceBytes
}

// EndSilence ends a silence before its time. The error wraps policy.ErrNoSilence if there is none, and policy.ErrRefused if it has ended.
func (d *Dispatcher) EndSilence(ctx context.Context, id, by string) (ended policy.Silence, err error) {
	now := d.services.Clock.Now().UTC().Truncate(time.Second)
	err = d.order(ctx, "end of silence "+id, policy.Order{By: by}, func(orders *policy.Orders) error {
		i := slices.IndexFunc(orders.Silences, func(s policy.Silence) bool { return s.ID == id })
		switch {
		case i < 0:
			return fmt.Errorf("%w: %.80q", policy.ErrNoSilence, id)
		case !orders.Silences[i].Active(now):
			return fmt.Errorf("%w: silence %.80q has ended", policy.ErrRefused, id)
		}
		orders.Silences[i].EndsAt, orders.Silences[i].EndedBy = now, by
		ended = orders.Silences[i]
		return nil
	})
	return ended, err
}

// parsedSilence is a silence that can be matched.
type parsedSilence struct {
	policy.Silence
	matchers labels.Matchers
}

// parseSilences prepares the silences that were read. They are known to be in order.
func parseSilences(all []policy.Silence) []parsedSilence {
	parsed := make([]parsedSilence, 0, len(all))
	for _, s := range all {
		if matchers, err := s.Parse(); err == nil {
			parsed = append(parsed, parsedSilence{s, matchers})
		}
	}
	return parsed
}

// Silenced names the active silence that matches an alert with the labels, as the orders were last read. It is empty when there is
// none. A label that is absent is empty.
func (s *OrderStore) Silenced(alert map[string]string) string {
	return s.silencedWhere(func(matchers labels.Matchers) bool {
		return !slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return !m.Matches(alert[m.Name]) })
	})
}

// SilencedUnseen is Silenced for an alert of which no labels are known.
func (s *OrderStore) SilencedUnseen(alert prom.Unseen) string {
	return s.silencedWhere(func(matchers labels.Matchers) bool { return alert.Matches(matchers) })
}

func (s *OrderStore) silencedWhere(matches func(labels.Matchers) bool) string {
	s.mu.Lock()
	silences := s.silences
	s.mu.Unlock()
	now := s.clock.Now()
	for _, silence := range silences {
		if silence.Active(now) && matches(silence.matchers) {
			return silence.String()
		}
	}
	return ""
}
