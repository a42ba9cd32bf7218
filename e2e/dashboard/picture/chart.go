package picture

import (
	"cmp"
	"context"
	"math"
	"slices"
	"strings"
	"time"

	"aegis.io/aegis/e2e/dashboard"
	"aegis.io/aegis/e2e/monitoring"
)

// curve is a series with its name and color.
type curve struct {
	name, color string
	points      []monitoring.Point
}

// curves asks for the series of a panel, by name.
func (c *canvas) curves(ctx context.Context, p dashboard.Panel) ([]curve, error) {
	var all []curve
	step := c.o.To.Sub(c.o.From) / points
	for _, q := range p.Queries {
		series, err := c.o.Source.QueryRange(ctx, q.In(c.o.Settings), c.o.From, c.o.To, step)
		if err != nil {
			return nil, err
		}
		for _, s := range series {
			name := strings.TrimSpace(q.Name(s.Labels))
			all = append(all, curve{name, q.Color(name), s.Points})
		}
	}
	slices.SortFunc(all, func(x, y curve) int { return cmp.Compare(x.name, y.name) })
	return all, nil
}

// frame maps times and values to places.
type frame struct {
	box
	from, to time.Time
	most     float64
}

func (f frame) at(p monitoring.Point) (x, y float64) {
	return f.x + f.w*p.At.Sub(f.from).Seconds()/f.to.Sub(f.from).Seconds(), f.y + f.h*(1-p.Value/f.most)
}

// series draws lines over time, or areas that add up.
func (c *canvas) series(ctx context.Context, p dashboard.Panel, b box) error {
	all, err := c.curves(ctx, p)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		c.nothing(b)
		return nil
	}
	stacked := p.Kind == dashboard.Stack
	if stacked {
		stack(all)
	}
	b.h -= c.legend(all, b)
	f := c.axes(p, all, b)
	// The uppermost area is drawn first, so that those below it cover it.
	for i := len(all) - 1; i >= 0; i-- {
		c.curve(f, all[i], palette(i, all[i].color), stacked)
	}
	return nil
}

// stack adds to each curve those before it.
func stack(all []curve) {
	below := make(map[int64]float64)
	for _, s := range all {
		for i := range s.points {
			at := s.points[i].At.UnixMilli()
			s.points[i].Value += below[at]
			below[at] = s.points[i].Value
		}
	}
}

// curve draws one line, with what is below it tinted. It breaks where there is no number.
func (c *canvas) curve(f frame, s curve, color colored, filled bool) {
	for _, run := range runs(s.points, 3*f.to.Sub(f.from)/points) {
		first, _ := f.at(run[0])
		last := first
		trace := func() {
			for _, p := range run {
				x, y := f.at(p)
				c.LineTo(x, y)
				last = x
			}
		}
		trace()
		c.LineTo(last, f.y+f.h)
		c.LineTo(first, f.y+f.h)
		c.ClosePath()
		c.SetColor(color.tint(filled))
		c.Fill()
		trace()
		c.SetColor(color)
		c.SetLineWidth(1.6)
		c.Stroke()
	}
}

// runs returns the stretches of numbers without a gap.
func runs(points []monitoring.Point, gap time.Duration) [][]monitoring.Point {
	var all [][]monitoring.Point
	for _, p := range points {
		if math.IsNaN(p.Value) || math.IsInf(p.Value, 0) {
			continue
		}
		if n := len(all); n == 0 || p.At.Sub(all[n-1][len(all[n-1])-1].At) > gap {
			all = append(all, nil)
		}
		all[len(all)-1] = append(all[len(all)-1], p)
	}
	return all
}

// axes draws the grid with its labels and returns the frame within it.
func (c *canvas) axes(p dashboard.Panel, all []curve, b box) frame {
	most := 0.0
	for _, s := range all {
		for _, point := range s.points {
			if !math.IsNaN(point.Value) && !math.IsInf(point.Value, 0) {
				most = max(most, point.Value)
			}
		}
	}
	step := niceStep(most/4, p.Unit)
	most = max(step, math.Ceil(most*1.02/step)*step)
	c.font(c.plain, 11)
	left := 0.0
	for v := 0.0; v <= most; v += step {
		w, _ := c.MeasureString(format(p.Unit, v))
		left = max(left, w+6)
	}
	f := frame{box{b.x + left, b.y + 4, b.w - left - 4, b.h - 22}, c.o.From, c.o.To, most}
	for v := 0.0; v <= most*1.001; v += step {
		_, y := f.at(monitoring.Point{At: f.from, Value: v})
		c.rule(f.x, y, f.x+f.w, y)
		c.DrawStringAnchored(format(p.Unit, v), f.x-6, y, 1, .4)
	}
	tick := niceTime(f.to.Sub(f.from) / 5)
	for at := f.from.Truncate(tick).Add(tick); at.Before(f.to); at = at.Add(tick) {
		x, _ := f.at(monitoring.Point{At: at})
		c.rule(x, f.y, x, f.y+f.h)
		c.DrawStringAnchored(at.UTC().Format("15:04"), x, f.y+f.h+10, .5, .5)
	}
	return f
}

// rule draws a line of the grid and leaves the color of its label.
func (c *canvas) rule(x1, y1, x2, y2 float64) {
	c.SetColor(grid)
	c.SetLineWidth(1)
	c.DrawLine(x1, y1, x2, y2)
	c.Stroke()
	c.SetColor(faint)
}

const legendLine = 16

// legend draws the names at the bottom, on two lines at most, and returns the height that it takes.
func (c *canvas) legend(all []curve, b box) float64 {
	c.font(c.plain, 11)
	type entry struct {
		i, line int
		x       float64
	}
	var entries []entry
	x, lines := 0.0, 0
	for i, s := range all {
		w, _ := c.MeasureString(s.name)
		if x > 0 && x+w+20 > b.w {
			x, lines = 0, lines+1
		}
		if lines > 1 {
			lines = 1
			break
		}
		entries = append(entries, entry{i, lines, x})
		x += w + 26
	}
	height := float64(lines+1) * legendLine
	for _, e := range entries {
		y := b.y + b.h - height + float64(e.line)*legendLine + legendLine/2 + 4
		c.SetColor(palette(e.i, all[e.i].color))
		c.DrawRectangle(b.x+e.x, y-2, 12, 3)
		c.Fill()
		c.SetColor(text)
		c.DrawStringAnchored(all[e.i].name, b.x+e.x+16, y, 0, .4)
	}
	return height
}
