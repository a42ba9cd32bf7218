package ticket

// Names returns how the catalogue calls a condition and its device, given by any of the names that it knows: people and earlier versions
// write tickets, and a condition may have been renamed since. Nil leaves names as they are.
type Names func(condition, device string) (canonicalCondition, canonicalDevice string)

// Named returns the reader with the names that it reads with. It shares what was parsed.
func (r *Reader) Named(names Names) *Reader {
	named := *r
	named.names = names
	return &named
}

// Record gives the record the names of the catalogue.
func (n Names) Record(r Record) Record {
	r.Ticket, r.History = n.ticket(r.Ticket), n.history(r.History)
	return r
}

// ticket gives the ticket the names of the catalogue.
func (n Names) ticket(t *Ticket) *Ticket {
	if n != nil && t != nil && t.Condition != "" {
		t.Condition, t.Device = n(t.Condition, t.Device)
	}
	return t
}

// history gives the incidents the names of the catalogue.
func (n Names) history(h *History) *History {
	if n == nil {
		return h
	}
	for i := range h.Incidents {
		h.Incidents[i].Condition, h.Incidents[i].Device = n(h.Incidents[i].Condition, h.Incidents[i].Device)
	}
	return h
}
