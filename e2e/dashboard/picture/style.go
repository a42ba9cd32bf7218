package picture

import (
	"cmp"
	"fmt"
	"image/color"
	"math"
	"strings"
	"time"

	"aegis.io/aegis/e2e/dashboard"
)

// colored is a color that can be tinted.
type colored color.RGBA

// RGBA makes it a color.
func (c colored) RGBA() (r, g, b, a uint32) { return color.RGBA(c).RGBA() }

// tint returns the color of the area below a line.
func (c colored) tint(strong bool) color.Color {
	part := 0.1
	if strong {
		part = 0.45
	}
	mix := func(over, under uint8) uint8 { return uint8(float64(over)*part + float64(under)*(1-part)) }
	return colored{mix(c.R, surface.R), mix(c.G, surface.G), mix(c.B, surface.B), 255}
}

var (
	background = colored{0x11, 0x12, 0x17, 255} //nolint:gochecknoglobals // A constant.
	surface    = colored{0x1b, 0x1e, 0x24, 255} //nolint:gochecknoglobals // A constant.
	grid       = colored{0x2c, 0x30, 0x38, 255} //nolint:gochecknoglobals // A constant.
	text       = colored{0xd8, 0xd9, 0xda, 255} //nolint:gochecknoglobals // A constant.
	faint      = colored{0x9a, 0x9d, 0xa5, 255} //nolint:gochecknoglobals // A constant.
)

// named returns the color of a name.
func named(name string) colored {
	switch name {
	case "green":
		return colored{0x6f, 0xbf, 0x73, 255}
	case "orange":
		return colored{0xf2, 0x99, 0x3a, 255}
	case "red":
		return colored{0xe8, 0x5c, 0x6a, 255}
	case "yellow":
		return colored{0xe8, 0xcf, 0x5a, 255}
	case "purple":
		return colored{0xb0, 0x86, 0xd8, 255}
	case "gray":
		return colored{0x8c, 0x90, 0x98, 255}
	}
	return colored{0x5c, 0x9c, 0xe6, 255}
}

// palette returns the color of the i-th series, which may have one of its own.
func palette(i int, own string) colored {
	order := []string{"blue", "green", "orange", "purple", "yellow", "red", "gray"}
	return named(cmp.Or(own, order[i%len(order)]))
}

// judged returns the color of a value by the thresholds of the panel.
func judged(p dashboard.Panel, value float64) colored {
	switch {
	case p.Good == 0 && p.Bad == 0:
		return named("blue")
	case p.Good >= p.Bad && value >= p.Good, p.Good < p.Bad && value < p.Good:
		return named("green")
	case p.Good >= p.Bad && value < p.Bad, p.Good < p.Bad && value >= p.Bad:
		return named("red")
	}
	return named("orange")
}

// format writes a value with its unit.
func format(unit string, value float64) string {
	switch unit {
	case "percentunit":
		return fmt.Sprintf("%.0f%%", value*100)
	case "s":
		return duration(value)
	case "ops":
		return decimal(value) + "/s"
	}
	return number(value)
}

// decimal writes a value with up to two digits after the point.
func decimal(value float64) string {
	text := fmt.Sprintf("%.2f", value)
	return strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
}

// number writes a count, which an extrapolation may have made a little uneven.
func number(value float64) string {
	if value >= 10 || math.Abs(value-math.Round(value)) < .12 {
		return fmt.Sprintf("%.0f", value)
	}
	return decimal(value)
}

// one writes a value with a digit after the point, if it has any.
func one(value float64) string { return strings.TrimSuffix(fmt.Sprintf("%.1f", value), ".0") }

func duration(seconds float64) string {
	switch {
	case math.IsNaN(seconds):
		return ""
	case seconds >= 5400:
		return one(seconds/3600) + " h"
	case seconds >= 90:
		return one(seconds/60) + " min"
	case seconds > 0 && seconds < 1:
		return fmt.Sprintf("%.0f ms", seconds*1000)
	}
	return one(seconds) + " s"
}

// niceStep returns a round distance of the lines of a grid. Things that are counted have none in between.
func niceStep(rough float64, unit string) float64 {
	if rough <= 0 {
		return 1
	}
	if unit == "s" {
		for _, s := range []float64{60, 120, 300, 600, 1800, 3600, 7200, 14400, 28800, 86400} {
			if rough > 30 && rough <= s {
				return s
			}
		}
	}
	power := math.Pow(10, math.Floor(math.Log10(rough)))
	step := 10 * power
	for _, m := range []float64{1, 2, 5} {
		if rough <= m*power {
			step = m * power
			break
		}
	}
	if unit == "short" {
		return max(1, step)
	}
	return step
}

// niceTime returns a round distance of times.
func niceTime(rough time.Duration) time.Duration {
	for _, d := range []time.Duration{time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour, 3 * time.Hour} {
		if rough <= d {
			return d
		}
	}
	return 6 * time.Hour
}
