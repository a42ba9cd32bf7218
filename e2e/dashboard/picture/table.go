package picture

import (
	"cmp"
	"context"
	"maps"
	"math"
	"slices"
	"strings"

	"aegis.io/aegis/e2e/dashboard"
)

// grid of a table: a row for each set of labels.
type rows struct {
	labels []string
	cells  map[string]map[int]float64
	names  map[string]map[string]string
}

// ask fills the table, one column for each query.
func (c *canvas) ask(ctx context.Context, p dashboard.Panel) (rows, error) {
	t := rows{cells: map[string]map[int]float64{}, names: map[string]map[string]string{}}
	for i, q := range p.Queries {
		samples, err := c.o.Source.Query(ctx, q.In(c.o.Settings))
		if err != nil {
			return t, err
		}
		for _, s := range samples {
			key := keyOf(s.Labels)
			if t.cells[key] == nil {
				t.cells[key], t.names[key] = map[int]float64{}, s.Labels
			}
			t.cells[key][i] = s.Value
			t.labels = slices.Sorted(maps.Keys(s.Labels))
		}
	}
	return t, nil
}

func keyOf(labels map[string]string) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		b.WriteString(labels[name] + "\x00")
	}
	return b.String()
}

// table draws the rows, those with the most in the first column first.
func (c *canvas) table(ctx context.Context, p dashboard.Panel, b box) error {
	t, err := c.ask(ctx, p)
	if err != nil {
		return err
	}
	if len(t.cells) == 0 {
		c.nothing(b)
		return nil
	}
	keys := slices.SortedFunc(maps.Keys(t.cells), func(x, y string) int {
		return cmp.Or(cmp.Compare(math.Round(t.cells[y][0]), math.Round(t.cells[x][0])), cmp.Compare(x, y))
	})
	step := min(21, b.h/float64(len(keys)+1))
	c.font(c.plain, min(small, step*.68))
	names, width := c.columns(t, p, b)
	c.SetColor(faint)
	for i, label := range t.labels {
		c.DrawString(label, b.x+names[i], b.y+step*.7)
	}
	number := func(i int) float64 { return b.x + b.w - width*float64(len(p.Queries)-1-i) }
	for i, q := range p.Queries {
		c.DrawStringAnchored(q.Legend, number(i), b.y+step*.7, 1, 0)
	}
	for row, key := range keys {
		y := b.y + float64(row+1)*step
		c.rule(b.x, y, b.x+b.w, y)
		c.SetColor(text)
		for i, label := range t.labels {
			c.DrawString(t.names[key][label], b.x+names[i], y+step*.7)
		}
		for i, q := range p.Queries {
			if value, known := t.cells[key][i]; known {
				c.DrawStringAnchored(format(cmp.Or(q.Unit, p.Unit), value), number(i), y+step*.7, 1, 0)
			}
		}
	}
	return nil
}

// columns returns where the columns of labels begin, and the width of one of numbers.
func (c *canvas) columns(t rows, p dashboard.Panel, b box) (names []float64, width float64) {
	x := 0.0
	for _, label := range t.labels {
		names = append(names, x)
		widest := 0.0
		for _, labels := range t.names {
			w, _ := c.MeasureString(labels[label])
			widest = max(widest, w)
		}
		x += widest + 16
	}
	return names, (b.w - x) / float64(len(p.Queries))
}
