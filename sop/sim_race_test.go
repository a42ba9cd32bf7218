//go:build race

package sop_test

// simSchedules is how many schedules a run with the race detector simulates, under which each takes ten times as long. What the
// detector can find does not depend on the seed as much as on the code that runs. make sim runs these and all others without it.
const simSchedules = 12
