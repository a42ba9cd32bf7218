// Package picture draws what the panels of the dashboard show, without Grafana.
package picture

import (
	"cmp"
	"context"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"io"
	"slices"
	"time"

	"github.com/fogleman/gg"
	"github.com/golang/freetype/truetype"
	"golang.org/x/image/font/gofont/gobold"
	"golang.org/x/image/font/gofont/goregular"

	"aegis.io/aegis/e2e/dashboard"
	"aegis.io/aegis/e2e/monitoring"
)

// Source answers queries, as Prometheus does.
type Source interface {
	Query(ctx context.Context, expr string) ([]monitoring.Sample, error)
	QueryRange(ctx context.Context, expr string, from, to time.Time, step time.Duration) ([]monitoring.Series, error)
}

// Options say what is drawn.
type Options struct {
	// Source answers the queries.
	Source Source
	// From and To bound the time.
	From, To time.Time
	// Settings are the values of the variables. The range is that of the times.
	Settings dashboard.Settings
}

const (
	// column and line are the grid of the dashboard in pixels.
	column, line = 60, 27
	gap          = 6
	pad          = 10
	small        = 12.5
	points       = 240
)

// canvas is the picture while it is drawn.
type canvas struct {
	*gg.Context
	plain, bold *truetype.Font
	o           Options
}

// box is a place on the canvas.
type box struct{ x, y, w, h float64 }

// Write draws the dashboard as a PNG.
func Write(ctx context.Context, w io.Writer, o Options) error {
	o.Settings.Range = fmt.Sprintf("%ds", int(o.To.Sub(o.From).Seconds()))
	c, err := newCanvas(o)
	if err != nil {
		return err
	}
	y := c.title()
	for _, row := range dashboard.Rows() {
		c.heading(row.Title, y)
		y += line
		if y, err = c.row(ctx, row, y); err != nil {
			return err
		}
	}
	return png.Encode(w, flat(c.Image()))
}

func newCanvas(o Options) (*canvas, error) {
	plain, err := truetype.Parse(goregular.TTF)
	if err != nil {
		return nil, fmt.Errorf("read font: %w", err)
	}
	bold, err := truetype.Parse(gobold.TTF)
	if err != nil {
		return nil, fmt.Errorf("read font: %w", err)
	}
	height := line
	for _, row := range dashboard.Rows() {
		height += line * (1 + int(row.Height)*linesOf(row))
	}
	c := &canvas{gg.NewContext(24*column, height+gap), plain, bold, o}
	c.SetColor(background)
	c.Clear()
	return c, nil
}

// linesOf returns how many lines of panels the row has.
func linesOf(row dashboard.Row) int {
	width := 0
	for _, p := range row.Panels {
		width += int(p.Width)
	}
	return max(1, width/24)
}

// title says what is shown, and returns where the first row begins.
func (c *canvas) title() float64 {
	c.font(c.bold, 17)
	c.SetColor(text)
	c.DrawStringAnchored("Aegis", pad, line/2+2, 0, .5)
	c.font(c.plain, small)
	c.SetColor(faint)
	c.DrawStringAnchored(c.o.From.UTC().Format("2006-01-02 15:04")+" to "+c.o.To.UTC().Format("15:04")+" UTC", 24*column-pad, line/2+2, 1, .5)
	return line
}

func (c *canvas) heading(title string, y float64) {
	c.font(c.bold, 14)
	c.SetColor(text)
	c.DrawStringAnchored(title, pad, y+line/2, 0, .5)
}

// row draws the panels from left to right and returns where the next row begins.
func (c *canvas) row(ctx context.Context, row dashboard.Row, y float64) (float64, error) {
	x, height := 0.0, float64(row.Height)*line
	for _, p := range row.Panels {
		width := float64(p.Width) * column
		if err := c.panel(ctx, p, box{x + gap/2, y + gap/2, width - gap, height - gap}); err != nil {
			return 0, fmt.Errorf("panel %s: %w", p.Title, err)
		}
		if x += width; x >= 24*column {
			x, y = 0, y+height
		}
	}
	return y, nil
}

func (c *canvas) panel(ctx context.Context, p dashboard.Panel, b box) error {
	c.SetColor(surface)
	c.DrawRoundedRectangle(b.x, b.y, b.w, b.h, 3)
	c.Fill()
	c.font(c.bold, small)
	c.SetColor(text)
	c.DrawString(c.fit(p.Title, b.w-2*pad), b.x+pad, b.y+18)
	inner := box{b.x + pad, b.y + 28, b.w - 2*pad, b.h - 28 - pad}
	switch p.Kind {
	case dashboard.Stat:
		return c.stat(ctx, p, inner)
	case dashboard.Bars:
		return c.bars(ctx, p, inner)
	case dashboard.Table:
		return c.table(ctx, p, inner)
	}
	return c.series(ctx, p, inner)
}

func (c *canvas) stat(ctx context.Context, p dashboard.Panel, b box) error {
	samples, err := c.o.Source.Query(ctx, p.Queries[0].In(c.o.Settings))
	if err != nil {
		return err
	}
	if len(samples) == 0 {
		c.nothing(b)
		return nil
	}
	value := samples[0].Value
	shown, named := p.Names[fmt.Sprint(value)]
	if !named {
		shown = format(p.Unit, value)
	}
	c.font(c.plain, 30)
	c.SetColor(judged(p, value))
	c.DrawStringAnchored(shown, b.x+b.w/2, b.y+b.h/2-4, .5, .5)
	return nil
}

// bars draws one bar for each series, the largest first.
func (c *canvas) bars(ctx context.Context, p dashboard.Panel, b box) error {
	q := p.Queries[0]
	samples, err := c.o.Source.Query(ctx, q.In(c.o.Settings))
	if err != nil {
		return err
	}
	if len(samples) == 0 {
		c.nothing(b)
		return nil
	}
	slices.SortFunc(samples, func(x, y monitoring.Sample) int {
		return cmp.Or(cmp.Compare(y.Value, x.Value), cmp.Compare(q.Name(x.Labels), q.Name(y.Labels)))
	})
	most := samples[0].Value
	if p.Unit == "percentunit" {
		most = 1
	}
	step := min(24, b.h/float64(len(samples)))
	c.font(c.plain, min(small, step*.72))
	label := 0.0
	for _, s := range samples {
		w, _ := c.MeasureString(q.Name(s.Labels))
		label = max(label, min(w, b.w*.4))
	}
	for i, s := range samples {
		y := b.y + float64(i)*step
		c.SetColor(text)
		c.DrawStringAnchored(c.fit(q.Name(s.Labels), label), b.x+label, y+step/2, 1, .4)
		room := b.w - label - 66
		c.SetColor(grid)
		c.DrawRectangle(b.x+label+8, y+2, room, step-4)
		c.Fill()
		c.SetColor(judged(p, s.Value))
		c.DrawRectangle(b.x+label+8, y+2, room*s.Value/max(most, 1e-9), step-4)
		c.Fill()
		c.DrawStringAnchored(format(p.Unit, s.Value), b.x+b.w, y+step/2, 1, .4)
	}
	return nil
}

func (c *canvas) nothing(b box) {
	c.font(c.plain, small)
	c.SetColor(faint)
	c.DrawStringAnchored("No data", b.x+b.w/2, b.y+b.h/2, .5, .5)
}

func (c *canvas) font(f *truetype.Font, size float64) {
	c.SetFontFace(truetype.NewFace(f, &truetype.Options{Size: size}))
}

// fit shortens text to a width.
func (c *canvas) fit(s string, width float64) string {
	for w, _ := c.MeasureString(s); w > width && len(s) > 1; w, _ = c.MeasureString(s) {
		s = s[:len(s)-1]
	}
	return s
}

// flat reduces the picture to the colors that it has most of, which makes the file small.
func flat(full image.Image) image.Image {
	counts := make(map[color.RGBA]int)
	b := full.Bounds()
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			r, g, bl, _ := full.At(x, y).RGBA()
			counts[color.RGBA{uint8(r>>8) & 0xf8, uint8(g>>8) & 0xf8, uint8(bl>>8) & 0xf8, 255}]++ //nolint:gosec // Eight bits are left.
		}
	}
	colors := make([]color.RGBA, 0, len(counts))
	for c := range counts {
		colors = append(colors, c)
	}
	slices.SortFunc(colors, func(x, y color.RGBA) int {
		if d := counts[y] - counts[x]; d != 0 {
			return d
		}
		return (int(x.R)<<16 | int(x.G)<<8 | int(x.B)) - (int(y.R)<<16 | int(y.G)<<8 | int(y.B))
	})
	palette := make(color.Palette, 0, 256)
	for _, c := range colors[:min(len(colors), 256)] {
		palette = append(palette, c)
	}
	small := image.NewPaletted(b, palette)
	draw.Draw(small, b, full, b.Min, draw.Src)
	return small
}
