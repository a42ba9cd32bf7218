//go:build !race

package sop_test

// simSchedules is how many schedules a normal run of the tests simulates. make sim runs more.
const simSchedules = 40
