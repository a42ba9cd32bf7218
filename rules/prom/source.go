package prom

import "time"

// SourceHealth is what is known of a source that inspects nodes.
type SourceHealth struct {
	// Name is the source's, and Query what it asks.
	Name, Query string
	// Condition is what it finds. Empty when a label of each sample, ConditionLabel, names it.
	Condition, ConditionLabel string
	// AskedAt is when it was asked last. Zero before the first time.
	AskedAt time.Time
	// Error says why the last answer is none. Empty when it is one.
	Error string
	// LastSuccess is when it gave a reliable answer last. Zero when it never has.
	LastSuccess time.Time
	// Samples counts the samples of the last reliable answer by what they were to the source.
	Samples map[string]int
}
