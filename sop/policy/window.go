package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Window is a span of time that comes again each week, in the local time of a place.
type Window struct {
	// Days are those on which it opens. None means every day.
	Days []time.Weekday
	// From and To are when it opens and closes, in minutes after midnight. A window that closes before it opens, or at the
	// same minute, closes on the next day.
	From, To int
	// Location is where the clock hangs.
	Location *time.Location
}

// span returns the window that opens on the local day that is that many days after the one of the instant.
func (w Window) span(now time.Time, days int) (from, to time.Time, opens bool) {
	local := now.In(w.Location)
	at := func(day, minutes int) time.Time {
		// time.Date takes an hour that a change of the clock leaves out for the one after it.
		return time.Date(local.Year(), local.Month(), local.Day()+day, 0, minutes, 0, 0, w.Location)
	}
	closing := days
	if w.To <= w.From {
		closing++
	}
	from, to = at(days, w.From), at(closing, w.To)
	weekday := at(days, 12*60).Weekday()
	return from, to, len(w.Days) == 0 || slices.Contains(w.Days, weekday)
}

// open reports whether the window is open.
func (w Window) open(now time.Time) bool {
	for _, day := range []int{-1, 0} {
		if from, to, opens := w.span(now, day); opens && !now.Before(from) && now.Before(to) {
			return true
		}
	}
	return false
}

// next returns when the window opens next.
func (w Window) next(now time.Time) time.Time {
	for day := range 8 {
		if from, _, opens := w.span(now, day); opens && from.After(now) {
			return from
		}
	}
	return time.Time{}
}

// OutsideWindows says why nothing disruptive may begin on nodes of the pool now. Empty means that it may.
func (p Pool) OutsideWindows(now time.Time) string {
	if len(p.Windows) == 0 || slices.ContainsFunc(p.Windows, func(w Window) bool { return w.open(now) }) {
		return ""
	}
	var first time.Time
	for _, w := range p.Windows {
		if next := w.next(now); first.IsZero() || next.Before(first) {
			first = next
		}
	}
	return fmt.Sprintf("outside the maintenance windows of pool %s, the next one opens at %s", p.Name, first.Format("Mon 2006-01-02 15:04 MST"))
}

// ParseWindow reads a window: days such as "Mon" or "Saturday", times such as "22:00", and the name of a time zone such as
// "Europe/Berlin"; an empty name means UTC.
func ParseWindow(days []string, from, to, zone string) (Window, error) {
	w := Window{}
	var err error
	// LoadLocation would take "Local", which is another one on each machine.
	if w.Location, err = time.LoadLocation(zone); err != nil || zone == "Local" {
		return Window{}, fmt.Errorf("timeZone %q is unknown: use a name such as Europe/Berlin", zone)
	}
	if w.From, err = parseMinute("from", from); err != nil {
		return Window{}, err
	}
	if w.To, err = parseMinute("to", to); err != nil {
		return Window{}, err
	}
	for _, name := range days {
		day, err := parseDay(name)
		if err != nil {
			return Window{}, err
		}
		w.Days = append(w.Days, day)
	}
	return w, nil
}

// parseMinute reads a time of day. 24:00 is the end of the day.
func parseMinute(field, text string) (int, error) {
	hours, minutes, found := strings.Cut(text, ":")
	h, errH := strconv.Atoi(hours)
	m, errM := strconv.Atoi(minutes)
	if !found || len(hours) != 2 || len(minutes) != 2 || errH != nil || errM != nil || h < 0 || m < 0 || m > 59 || h*60+m > 24*60 {
		return 0, fmt.Errorf("%s %q is not a time of day: use one such as 22:00", field, text)
	}
	return h*60 + m, nil
}

func parseDay(text string) (time.Weekday, error) {
	for day := time.Sunday; day <= time.Saturday; day++ {
		if strings.EqualFold(text, day.String()) || strings.EqualFold(text, day.String()[:3]) {
			return day, nil
		}
	}
	return 0, fmt.Errorf("day %q is unknown: use Mon, Tue, Wed, Thu, Fri, Sat or Sun", text)
}
