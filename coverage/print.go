package coverage

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"aegis.io/aegis/rules/prom"
)

// maxNamed is how many nodes a line names.
const maxNamed = 3

// Print writes the report for people: what each condition is seen by, then what is blind, why, and how to fix it.
func (r Report) Print(w io.Writer) error {
	p := &printer{w: w}
	p.line("%d nodes (%s), asked %s", r.Nodes, r.NodesFrom, strings.Join(r.Servers, ", "))
	for _, note := range r.Notes {
		p.line("note: %s", note)
	}
	p.line("")
	p.table(r)
	for _, mode := range modes(r) {
		p.blind(r, mode)
	}
	p.line("")
	for _, mode := range modes(r) {
		total := len(slices.DeleteFunc(slices.Clone(r.Conditions), func(c Condition) bool { return c.Mode != mode }))
		p.line("mode %s: %d of %d conditions are blind on at least one node", mode, r.BlindIn(mode), total)
	}
	return p.err
}

// modes returns the modes of the conditions, those that act first.
func modes(r Report) []prom.Mode {
	var all []prom.Mode
	for _, mode := range []prom.Mode{prom.ModeAuto, prom.ModeApprove, prom.ModeObserve, prom.ModeOff} {
		if slices.ContainsFunc(r.Conditions, func(c Condition) bool { return c.Mode == mode }) {
			all = append(all, mode)
		}
	}
	return all
}

type printer struct {
	w   io.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

func (p *printer) table(r Report) {
	t := tabwriter.NewWriter(p.w, 0, 0, 2, ' ', 0)
	rows := &printer{w: t, err: p.err}
	rows.line("MODE\tCONDITION\tSEEN\tSOURCES")
	for _, mode := range modes(r) {
		for _, c := range r.Conditions {
			if c.Mode != mode {
				continue
			}
			seen := fmt.Sprintf("%d/%d", c.Seen, c.Nodes)
			if c.Without {
				seen = "-"
			}
			var sources []string
			for _, s := range c.Sources {
				sources = append(sources, fmt.Sprintf("%s %d", s.Name, s.Seen))
			}
			rows.line("%s\t%s\t%s\t%s", mode, c.Name, seen, strings.Join(sources, ", "))
		}
	}
	if p.err = rows.err; p.err == nil {
		p.err = t.Flush()
	}
}

// blind lists what is blind in the mode. Conditions with the same cause are told together.
func (p *printer) blind(r Report, mode prom.Mode) {
	causes := make(map[string][]string)
	var order []string
	for _, c := range r.Conditions {
		if c.Mode != mode {
			continue
		}
		for _, b := range c.Blind {
			text := describe(b)
			if causes[text] == nil {
				order = append(order, text)
			}
			causes[text] = append(causes[text], c.Name)
		}
	}
	if len(order) > 0 {
		p.line("\nblind, mode %s:", mode)
	}
	for _, text := range order {
		p.line("%s\n%s", strings.Join(causes[text], ", "), text)
	}
}

// describe says where a condition is blind, why, and what to set.
func describe(b Blind) string {
	var text strings.Builder
	switch n := len(b.Nodes); {
	case n == 0:
		text.WriteString("  everywhere")
	case n > maxNamed:
		fmt.Fprintf(&text, "  on %d nodes: %s, ...", n, strings.Join(b.Nodes[:maxNamed], ", "))
	default:
		fmt.Fprintf(&text, "  on %s", strings.Join(b.Nodes, ", "))
	}
	for _, w := range b.Why {
		source := ""
		if w.Source != "" {
			source = w.Source + ": "
		}
		fmt.Fprintf(&text, "\n    %s%s\n      fix: %s", source, w.Reason, w.Set)
	}
	return text.String()
}
