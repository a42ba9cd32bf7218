package queue

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/rules/prom"
)

// observed is one value and what the series says after it.
type observed struct {
	after time.Duration
	value float64
	want  prom.Evidence
}

func TestThreshold(t *testing.T) {
	t.Parallel()
	const (
		absent, pending = prom.EvidenceAbsent, prom.EvidencePending
		firing, unknown = prom.EvidenceFiring, prom.EvidenceUnknown
	)
	hot := Threshold{Above: new(90.0), Clear: new(80.0), For: time.Minute}
	tests := map[string]struct {
		threshold Threshold
		values    []observed
	}{
		"holds for long enough":             {hot, []observed{{0, 70, absent}, {30, 91, pending}, {59, 92, pending}, {1, 91, firing}}},
		"the bounds themselves":             {hot, []observed{{0, 90, unknown}, {1, 80, absent}, {1, 90, absent}, {1, 90.1, pending}}},
		"flaps around the bound":            {hot, []observed{{0, 70, absent}, {1, 91, pending}, {30, 89, absent}, {30, 91, pending}, {30, 89, absent}}},
		"flaps once it fires":               {hot, []observed{{0, 91, pending}, {60, 91, firing}, {30, 89, firing}, {30, 91, firing}, {30, 81, firing}, {1, 80, absent}}},
		"falls ill again":                   {hot, []observed{{0, 91, pending}, {60, 91, firing}, {1, 79, absent}, {1, 91, pending}, {59, 91, pending}, {1, 91, firing}}},
		"between after a restart":           {hot, []observed{{0, 85, unknown}, {60, 85, unknown}, {1, 80, absent}, {1, 85, absent}}},
		"pending after a restart, then not": {hot, []observed{{0, 91, pending}, {30, 85, unknown}, {1, 91, pending}, {60, 91, firing}}},
		"no wait":                           {Threshold{Above: new(90.0)}, []observed{{0, 91, firing}, {1, 90, absent}, {1, 91, firing}}},
		"below":                             {Threshold{Below: new(10.0), Clear: new(20.0)}, []observed{{0, 15, unknown}, {1, 9, firing}, {1, 10, firing}, {1, 19, firing}, {1, 20, absent}, {1, 10, absent}}},
		"below, one bound":                  {Threshold{Below: new(10.0)}, []observed{{0, 10, absent}, {1, 9, firing}, {1, 10, absent}}},
		"below zero":                        {Threshold{Below: new(-5.0), Clear: new(0.0)}, []observed{{0, -6, firing}, {1, -1, firing}, {1, 0, absent}}},
		"not 0":                             {Threshold{For: time.Second}, []observed{{0, 0, absent}, {1, -1, pending}, {1, 3, firing}, {1, 0, absent}}},
		"any value":                         {Threshold{Present: true}, []observed{{0, 0, firing}, {1, 7, firing}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			now := time.Unix(0, 0)
			var s state
			for i, o := range test.values {
				now = now.Add(o.after * time.Second)
				s = test.threshold.next(s, o.value, now)
				require.Equal(t, o.want, s.evidence, "value %d", i)
				require.Equal(t, o.want == firing || o.want == pending, !s.since.IsZero(), "value %d", i)
			}
		})
	}
}

func TestWorse(t *testing.T) {
	t.Parallel()
	above, below := Threshold{Above: new(1.0)}, Threshold{Below: new(1.0)}
	require.True(t, above.worse(3, 2))
	require.False(t, above.worse(2, 3))
	require.True(t, below.worse(2, 3))
	require.False(t, below.worse(3, 2))
	require.True(t, Threshold{}.worse(-1, 0))
	require.False(t, Threshold{}.worse(0, -1))
	require.False(t, Threshold{}.worse(2, 1))
}

// oracle judges a series by all its values, as one would by looking at its graph.
func oracle(t Threshold, values []float64, times []time.Time) prom.Evidence {
	fault, healthy := sides(t)
	last := len(values) - 1
	if fires(fault, healthy, t.For, values, times) {
		return prom.EvidenceFiring
	}
	if fault(values[last]) {
		return prom.EvidencePending
	}
	if slices.ContainsFunc(values, healthy) {
		return prom.EvidenceAbsent
	}
	return prom.EvidenceUnknown
}

// sides returns what tells a fault, and what tells that it is over.
func sides(t Threshold) (fault, healthy func(float64) bool) {
	if t.Above != nil {
		return func(v float64) bool { return v > *t.Above }, func(v float64) bool { return v <= *t.Clear }
	}
	return func(v float64) bool { return v < *t.Below }, func(v float64) bool { return v >= *t.Clear }
}

// fires reports whether there has been a run of faults that is long enough, and no good value after it.
func fires(fault, healthy func(float64) bool, wait time.Duration, values []float64, times []time.Time) bool {
	for i := len(values) - 1; i >= 0 && !healthy(values[i]); i-- {
		for j := i; j >= 0 && fault(values[j]); j-- {
			if times[i].Sub(times[j]) >= wait {
				return true
			}
		}
	}
	return false
}

// randomThreshold returns a threshold among values from 0 to 9.
func randomThreshold(r *rand.Rand) Threshold {
	bound, gap := float64(2+r.IntN(6)), float64(r.IntN(3))
	hold := time.Duration(r.IntN(4)) * time.Second
	if r.IntN(2) == 0 {
		return Threshold{Above: &bound, Clear: new(bound - gap), For: hold}
	}
	return Threshold{Below: &bound, Clear: new(bound + gap), For: hold}
}

func TestThresholdAgreesWithTheGraph(t *testing.T) {
	t.Parallel()
	seen := make(map[prom.Evidence]int)
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 14))
		threshold := randomThreshold(r)
		var s state
		var values []float64
		var times []time.Time
		now := time.Unix(0, 0)
		for range 25 {
			now = now.Add(time.Duration(r.IntN(3)) * time.Second)
			values, times = append(values, float64(r.IntN(10))), append(times, now)
			s = threshold.next(s, values[len(values)-1], now)
			want := oracle(threshold, values, times)
			require.Equal(t, want, s.evidence, "seed %d: %+v, values %v", seed, threshold, values)
			seen[want]++
		}
	}
	require.Len(t, seen, 4, "each kind of evidence must have occurred: %v", seen)
}

func TestThresholdInWords(t *testing.T) {
	t.Parallel()
	for want, threshold := range map[string]Threshold{
		"above 90": {Above: new(90.0)}, "below 0.5": {Below: new(0.5)}, "there": {Present: true}, "not 0": {},
	} {
		require.Equal(t, want, threshold.String())
	}
}
