package nodesim

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// exposition collects samples and writes them as Prometheus' text format, those of one name together.
type exposition struct {
	// names is in the order of the first samples.
	names    []string
	families map[string]*family
}

type family struct {
	kind    string
	samples []string
}

func newExposition() *exposition { return &exposition{families: map[string]*family{}} }

// gauge adds a sample; pairs are label names and values in turn.
func (e *exposition) gauge(name string, value float64, pairs ...string) {
	e.add("gauge", name, value, pairs)
}

// counter adds a sample of a counter.
func (e *exposition) counter(name string, value float64, pairs ...string) {
	e.add("counter", name, value, pairs)
}

func (e *exposition) add(kind, name string, value float64, pairs []string) {
	f, ok := e.families[name]
	if !ok {
		f = &family{kind: kind}
		e.families[name] = f
		e.names = append(e.names, name)
	}
	var labels []string
	for pair := range slices.Chunk(pairs, 2) {
		labels = append(labels, pair[0]+"="+strconv.Quote(pair[1]))
	}
	f.samples = append(f.samples, fmt.Sprintf("%s{%s} %s", name, strings.Join(labels, ","), strconv.FormatFloat(value, 'g', -1, 64)))
}

func (e *exposition) writeTo(w io.Writer) error {
	for _, name := range e.names {
		f := e.families[name]
		if _, err := fmt.Fprintf(w, "# TYPE %s %s\n%s\n", name, f.kind, strings.Join(f.samples, "\n")); err != nil {
			return err
		}
	}
	return nil
}

// one is the value of a gauge that says yes or no.
func one(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
