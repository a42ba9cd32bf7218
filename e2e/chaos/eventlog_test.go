package chaos

import (
	"slices"
	"sync"
	"time"
)

// period is a time in which something was so. A zero end says that it still is.
type period struct{ from, to time.Time }

// since returns when the period began, provided that it holds at that time.
func (p period) since(at time.Time) (time.Time, bool) {
	return p.from, !at.Before(p.from) && (p.to.IsZero() || at.Before(p.to))
}

// eventLog holds what was done to the cluster, as far as the audit log does not say it.
type eventLog struct {
	mu sync.Mutex
	// started and ended are when misfortune began and ended.
	started, ended time.Time
	// counts is how often each thing was done, failed how often it could not be.
	counts, failed map[string]int
	// silenced are the silences by node. paused and blind are the times in which everything was paused, and in which there was
	// no Prometheus or no Alertmanager.
	silenced      map[string][]*silence
	paused, blind []period
	// starts are the times in which the API server came back and was not ready.
	starts []period
	// boots counts the boots of each machine that Aegis did not order.
	boots map[string]int
}

func newEventLog() *eventLog {
	return &eventLog{
		started: time.Now(), counts: make(map[string]int), failed: make(map[string]int),
		silenced: make(map[string][]*silence), boots: make(map[string]int),
	}
}

func (d *eventLog) note(what string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		d.failed[what]++
		return
	}
	d.counts[what]++
}

func (d *eventLog) booted(node string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.boots[node]++
}

// begin opens a period in the list that the function returns, and end closes the last one.
func (d *eventLog) begin(list func(*eventLog) *[]period) {
	d.mu.Lock()
	defer d.mu.Unlock()
	periods := list(d)
	*periods = append(*periods, period{from: time.Now()})
}

func (d *eventLog) end(list func(*eventLog) *[]period) {
	d.mu.Lock()
	defer d.mu.Unlock()
	periods := *list(d)
	if n := len(periods); n > 0 && periods[n-1].to.IsZero() {
		periods[n-1].to = time.Now()
	}
}

// open reports whether the last period has not ended.
func (d *eventLog) open(list func(*eventLog) *[]period) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	periods := *list(d)
	return len(periods) > 0 && periods[len(periods)-1].to.IsZero()
}

func pausedTimes(d *eventLog) *[]period { return &d.paused }

func startTimes(d *eventLog) *[]period { return &d.starts }

func blindTimes(d *eventLog) *[]period { return &d.blind }

// silence is one of a node. known says which replicas of Alertmanager know it.
type silence struct {
	period
	known [alertmanagers]bool
}

// silence notes the silence of a node; the returned function notes its end.
func (d *eventLog) silence(node string) (end func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := &silence{period: period{from: time.Now()}, known: [alertmanagers]bool{true, true}}
	d.silenced[node] = append(d.silenced[node], s)
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		s.over()
	}
}

func (s *silence) over() {
	if s.to.IsZero() {
		s.to = time.Now()
	}
}

// forgetSilences says that a replica of Alertmanager was killed, before it had written down what it knew.
func (d *eventLog) forgetSilences(replica int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, silences := range d.silenced {
		for _, s := range silences {
			if s.known[replica] = false; s.known == [alertmanagers]bool{} {
				s.over()
			}
		}
	}
}

// silences returns the times in which the node was silenced.
func (d *eventLog) silences(node string) []period {
	d.mu.Lock()
	defer d.mu.Unlock()
	var periods []period
	for _, s := range d.silenced[node] {
		periods = append(periods, s.period)
	}
	return periods
}

// covers returns since when one of the periods has held at that time.
func covers(periods []period, at time.Time) (time.Time, bool) {
	i := slices.IndexFunc(periods, func(p period) bool { _, holds := p.since(at); return holds })
	if i < 0 {
		return time.Time{}, false
	}
	return periods[i].from, true
}
