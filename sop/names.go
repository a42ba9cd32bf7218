package sop

import (
	"context"
	"errors"
	"slices"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// A condition has one name, that of the catalogue, and may have others: those that people know it by, and those that it had before it was
// renamed. Whatever was written with one of these is read with the name of today, here and nowhere else.

// namesOf returns the names of the catalogue in use.
func namesOf(c Catalogue) ticket.Names {
	return func(condition, device string) (canonicalCondition, canonicalDevice string) {
		s := c.Status("", condition, device, 0)
		return s.Condition, s.ID
	}
}

// renamed has whatever reads names of conditions read those of the catalogue.
func (s Services) renamed(c Catalogue) Services {
	names := namesOf(c)
	s.Source = namedSource{s.Source, names}
	// Who only plans steps has neither.
	if s.Tickets != nil {
		s.Tickets = s.Tickets.Named(names)
	}
	if s.Orders != nil {
		s.Orders.nameBy(names, func(condition string) prom.Mode { return c.Status("", condition, "", 0).Policy.Mode })
	}
	return s
}

// namedSource is asked for a condition by its name of today.
type namedSource struct {
	Source
	names ticket.Names
}

func (s namedSource) key(k prom.Key) prom.Key {
	k.Condition, k.ID = s.names(k.Condition, k.ID)
	return k
}

// Observe asks now.
func (s namedSource) Observe(ctx context.Context, k prom.Key) prom.Finding {
	return s.Source.Observe(ctx, s.key(k))
}

// Last returns the last answer.
func (s namedSource) Last(k prom.Key) prom.Finding { return s.Source.Last(s.key(k)) }

// nameBy has the orders name conditions as the catalogue does, and know their modes.
func (s *OrderStore) nameBy(names ticket.Names, configured func(condition string) prom.Mode) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names, s.configured = names, configured
}

// named returns the orders with the names of the catalogue. Of two modes for one condition, that by its own name counts, else the lower
// one.
func (s *OrderStore) named(o policy.Orders) policy.Orders {
	s.mu.Lock()
	names := s.names
	s.mu.Unlock()
	if names == nil {
		return o
	}
	modes := o.Modes
	if modes != nil {
		o.Modes = make(map[string]policy.ModeOrder, len(modes))
	}
	for written, order := range modes {
		name, _ := names(written, "")
		_, own := modes[name]
		if other, taken := o.Modes[name]; written == name || !own && (!taken || order.Mode.Lower(other.Mode)) {
			o.Modes[name] = order
		}
	}
	o.Storms = namedStorms(o.Storms, names)
	return o
}

// namedStorms returns the storms with the names of the catalogue, each once. Of several that become one, it is released if all of them are.
func namedStorms(storms []policy.Storm, names ticket.Names) []policy.Storm {
	name := func(s policy.Storm) string {
		condition, _ := names(s.Condition, "")
		return condition
	}
	if !slices.ContainsFunc(storms, func(s policy.Storm) bool { return name(s) != s.Condition }) {
		return storms
	}
	var named []policy.Storm
	for _, s := range storms {
		s.Condition = name(s)
		i := slices.IndexFunc(named, func(other policy.Storm) bool { return other.Is(s.Condition, s.Pool) })
		switch {
		case i < 0:
			named = append(named, s)
		case s.Released == nil:
			named[i].Released = nil
		}
	}
	return named
}

// errRenamed ends a run whose condition has another name by now. The next one goes on with it.
var errRenamed = errors.New("the catalogue calls the condition by another name")

// renamedSince reports whether the catalogue calls the condition of the run by another name than when it began.
func (d *Dispatcher) renamedSince(s *scene) bool {
	now := d.catalogue.Status(s.node, s.journal.incident.condition, s.journal.incident.device, 0)
	return now.Condition != s.journal.incident.condition || now.ID != s.journal.incident.device
}
